//! Sends one chunk of an import until it is answered: waits when the server is busy, goes on where it stopped.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use tokio::sync::watch;

use super::chunks::Chunk;
use super::client::{Answer, Client, failure_from};
use crate::error::{Failure, Kind};

/// A server that is busy for longer than this is given up.
const BUSY_TIME_MAX: Duration = Duration::from_secs(600);

/// What came of a chunk.
#[derive(Default)]
pub(crate) struct Sent {
    /// Where in the file the chunk ends.
    pub(crate) end: u64,
    /// Documents that were not there before.
    pub(crate) created: u64,
    /// Documents that were.
    pub(crate) updated: u64,
    /// Sequence number of the last of them.
    pub(crate) seq: u64,
    /// Rejected lines as JSON, their numbers those of the file.
    pub(crate) rejects: Vec<String>,
    /// Rejected lines that the server counted but did not list.
    pub(crate) unlisted: u64,
    /// The last line that was answered.
    pub(crate) through_line: u64,
    /// Why the rest of the chunk was not stored.
    pub(crate) failure: Option<Failure>,
}

impl Sent {
    /// Nothing came of it.
    pub(crate) fn broken(failure: Failure) -> Sent {
        Sent { failure: Some(failure), ..Sent::default() }
    }
}

/// Sends a chunk. When `stop` turns true it does not start over any more, but still takes the answer under way.
pub(crate) async fn send(
    client: Client,
    path: String,
    chunk: Chunk,
    mut stop: watch::Receiver<bool>,
) -> Sent {
    let mut sent = Sent { end: chunk.end, through_line: chunk.first_line - 1, ..Sent::default() };
    let (mut text, mut first_line) = (chunk.text, chunk.first_line);
    let deadline = Instant::now() + BUSY_TIME_MAX;
    loop {
        let answer = match client.send(Method::POST, &path, text.clone()).await {
            Ok(answer) => answer,
            Err(failure) => {
                sent.failure = Some(failure);
                return sent;
            }
        };
        let stopped_at = sent.take(&answer, first_line);
        let Some((failure, line)) = stopped_at else {
            sent.through_line = chunk.first_line + chunk.lines - 1;
            return sent;
        };
        text = skip_lines(text, line - first_line);
        first_line = line;
        sent.through_line = line - 1;
        if failure.kind != Kind::Overloaded || Instant::now() > deadline {
            sent.failure = Some(failure);
            return sent;
        }
        let pause = answer.retry_after().unwrap_or(Duration::from_secs(1));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => {
                sent.failure = Some(failure);
                return sent;
            }
        }
    }
}

impl Sent {
    /// Adds what an answer says. If the server stopped inside the chunk: why, and before which line of the file.
    fn take(&mut self, answer: &Answer, first_line: u64) -> Option<(Failure, u64)> {
        let mut last = Value::Null;
        for text in answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Ok(mut value) = serde_json::from_slice::<Value>(text) else { continue };
            match value["line"].as_u64() {
                Some(line) => {
                    value["line"] = (first_line + line - 1).into();
                    self.rejects.push(value.to_string());
                }
                None => last = value,
            }
        }
        let summary = &last["summary"];
        let count = |name: &str| summary[name].as_u64().unwrap_or(0);
        self.created += count("created");
        self.updated += count("updated");
        self.unlisted += count("unlisted");
        self.seq = self.seq.max(count("seq"));
        if matches!(answer.status, 200 | 207 | 422) && summary.is_object() {
            return None;
        }
        let failure = match last.get("error") {
            Some(error) => failure_from(error),
            None => answer.failure(),
        };
        Some((failure, first_line + count("stopped_at_line").saturating_sub(1)))
    }
}

/// The text without its first lines.
fn skip_lines(text: Bytes, lines: u64) -> Bytes {
    match lines.checked_sub(1) {
        None => text,
        Some(nth) => match memchr::memchr_iter(b'\n', &text).nth(nth as usize) {
            Some(newline) => text.slice(newline + 1..),
            None => Bytes::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn answer(status: u16, body: &'static str) -> Answer {
        Answer { status, headers: HeaderMap::new(), body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn rejected_lines_get_the_files_numbers() {
        let mut sent = Sent::default();
        let body =
            "{\"line\":2,\"error\":{\"type\":\"validation\"}}\n{\"summary\":{\"created\":1,\"updated\":3}}\n";
        assert!(sent.take(&answer(207, body), 100).is_none());
        assert_eq!((sent.created, sent.updated, sent.rejects.len()), (1, 3, 1));
        assert!(sent.rejects[0].contains("\"line\":101"));
    }

    #[test]
    fn a_server_that_stopped_is_gone_on_with_from_its_line() {
        let mut sent = Sent::default();
        let body = "{\"error\":{\"type\":\"overloaded\",\"message\":\"busy\"},\"summary\":{\"created\":2,\"stopped_at_line\":3}}\n";
        let (failure, line) = sent.take(&answer(429, body), 100).unwrap();
        assert_eq!((failure.kind, line, sent.created), (Kind::Overloaded, 102, 2));
        assert_eq!(skip_lines(Bytes::from_static(b"a\nb\nc\n"), 2), "c\n");
        let body = "{\"error\":{\"type\":\"overloaded\",\"message\":\"busy\"}}";
        assert_eq!(sent.take(&answer(429, body), 100).unwrap().1, 100);
    }
}
