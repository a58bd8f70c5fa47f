//! How far an import is: what was sent, what of it the server has decided, and where to go on after an interruption.
//!
//! No sockets here: chunks go in, pieces to send come out, lines of the answer go in.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::Value;

use super::chunks::Chunk;
use super::client::failure_from;
use crate::error::{Failure, Kind};

/// What was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Documents that were not there before.
    pub(crate) created: u64,
    /// Documents that were.
    pub(crate) updated: u64,
    /// Sequence number of the last of them.
    pub(crate) seq: u64,
}

impl Stored {
    fn read(counts: &Value) -> Stored {
        let count = |name: &str| counts[name].as_u64().unwrap_or(0);
        Stored { created: count("created"), updated: count("updated"), seq: count("seq") }
    }

    fn and(self, more: Stored) -> Stored {
        Stored {
            created: self.created + more.created,
            updated: self.updated + more.updated,
            seq: self.seq.max(more.seq),
        }
    }
}

/// What a line of the answer means.
#[derive(Debug)]
pub(crate) enum Heard {
    /// More is decided.
    Progress,
    /// A rejected line as JSON, with its number in the file.
    Rejected(String),
    /// The request is over; with why it stopped, unless it was done.
    End(Option<Failure>),
}

/// One import, over as many requests as it takes.
#[derive(Default)]
pub(crate) struct Transfer {
    /// What is not decided yet, in order; the first `sent` of them went out with the present request.
    chunks: VecDeque<Chunk>,
    sent: usize,
    /// The file's number of the line that the server calls 1.
    base_line: u64,
    /// Every line up to this one is decided: stored, or rejected.
    through_line: u64,
    /// Where in the file that is, by whole chunks.
    bytes: u64,
    /// By the requests before the present one.
    before: Stored,
    /// By the present one.
    now: Stored,
}

impl Transfer {
    /// Takes what is to be sent after all the rest.
    pub(crate) fn push(&mut self, chunk: Chunk) {
        self.chunks.push_back(chunk);
    }

    /// A new request begins, with the first line that is not decided.
    pub(crate) fn begin(&mut self) {
        self.before = self.stored();
        self.now = Stored::default();
        self.base_line = self.through_line + 1;
        self.sent = 0;
    }

    /// Whether there is something to send.
    pub(crate) fn has_unsent(&self) -> bool {
        self.sent < self.chunks.len()
    }

    /// The next piece of the present request.
    pub(crate) fn next_piece(&mut self) -> Bytes {
        let Some(chunk) = self.chunks.get(self.sent) else { return Bytes::new() };
        self.sent += 1;
        chunk.text_from(self.base_line)
    }

    /// Takes a line of the answer; `status` is that of the answer.
    pub(crate) fn hear(&mut self, line: &[u8], status: u16) -> Heard {
        let Ok(mut said) = serde_json::from_slice::<Value>(line) else {
            return Heard::End(Some(unreadable(status)));
        };
        if let Some(number) = said["line"].as_u64() {
            said["line"] = (self.base_line + number - 1).into();
            return Heard::Rejected(said.to_string());
        }
        if let Some(progress) = said.get("progress") {
            self.now = Stored::read(progress);
            self.decided(progress["through_line"].as_u64().unwrap_or(0));
            return Heard::Progress;
        }
        let summary = &said["summary"];
        if summary.is_object() {
            self.now = Stored::read(summary);
        }
        match said.get("error") {
            Some(error) => {
                self.decided(summary["stopped_at_line"].as_u64().unwrap_or(1).saturating_sub(1));
                Heard::End(Some(failure_from(error)))
            }
            None if summary.is_object() => {
                if let Some(last) = self.sent.checked_sub(1).and_then(|last| self.chunks.get(last)) {
                    self.decided(last.last_line() + 1 - self.base_line);
                }
                Heard::End(None)
            }
            None => Heard::End(Some(unreadable(status))),
        }
    }

    /// Lets go of what nobody will ask for again.
    fn decided(&mut self, through_line_of_request: u64) {
        self.through_line = self.through_line.max(self.base_line + through_line_of_request - 1);
        while self.sent > 0 && self.chunks.front().is_some_and(|c| c.last_line() <= self.through_line) {
            self.bytes = self.chunks.pop_front().map_or(self.bytes, |chunk| chunk.end);
            self.sent -= 1;
        }
    }

    /// Whether nothing is left to be decided.
    pub(crate) fn is_done(&self) -> bool {
        self.chunks.is_empty()
    }

    /// What was stored so far.
    pub(crate) fn stored(&self) -> Stored {
        self.before.and(self.now)
    }

    /// Every line up to this one is decided.
    pub(crate) fn through_line(&self) -> u64 {
        self.through_line
    }

    /// Bytes of the file that are decided.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn unreadable(status: u16) -> Failure {
    let message = format!("the server's answer, of status {status}, cannot be read");
    Failure::new(Kind::Internal, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines 1 to 9 of a file, three in each chunk.
    fn transfer() -> Transfer {
        let mut transfer = Transfer::default();
        for n in 0..3u64 {
            let text = format!("{}\n{}\n{}\n", n * 3 + 1, n * 3 + 2, n * 3 + 3);
            let (end, text) = (6 * (n + 1), Bytes::from(text));
            transfer.push(Chunk { first_line: n * 3 + 1, lines: 3, text, end, too_long: false });
        }
        transfer.begin();
        transfer
    }

    fn send_all(transfer: &mut Transfer) -> String {
        let mut sent = Vec::new();
        while transfer.has_unsent() {
            sent.extend_from_slice(&transfer.next_piece());
        }
        String::from_utf8(sent).unwrap()
    }

    #[test]
    fn a_busy_server_is_sent_what_it_did_not_decide() {
        let mut transfer = transfer();
        assert_eq!(send_all(&mut transfer), "1\n2\n3\n4\n5\n6\n7\n8\n9\n");
        let progress = br#"{"progress":{"through_line":4,"created":4,"updated":0,"seq":7}}"#;
        assert!(matches!(transfer.hear(progress, 200), Heard::Progress));
        assert_eq!((transfer.through_line(), transfer.bytes()), (4, 6), "bytes count by whole chunks");
        let busy = br#"{"error":{"type":"overloaded","message":"busy","retry_after_s":3},"summary":{"created":4,"seq":7,"stopped_at_line":5}}"#;
        let Heard::End(Some(failure)) = transfer.hear(busy, 200) else { panic!("it stopped") };
        assert_eq!((failure.kind, failure.retry_after_s()), (Kind::Overloaded, Some(3)));

        transfer.begin();
        assert_eq!(send_all(&mut transfer), "5\n6\n7\n8\n9\n");
        let Heard::Rejected(reject) = transfer.hear(br#"{"line":2,"error":{}}"#, 200) else { panic!() };
        assert!(
            reject.contains("\"line\":6"),
            "line 2 of the second request is line 6 of the file: {reject}"
        );
        let end = br#"{"summary":{"created":3,"updated":1,"seq":9}}"#;
        assert!(matches!(transfer.hear(end, 200), Heard::End(None)));
        assert_eq!(transfer.stored(), Stored { created: 7, updated: 1, seq: 9 });
        assert_eq!((transfer.through_line(), transfer.bytes(), transfer.is_done()), (9, 18, true));
    }

    #[test]
    fn a_refusal_at_the_door_decides_nothing() {
        let mut transfer = transfer();
        let first = transfer.next_piece();
        let busy = br#"{"error":{"type":"overloaded","message":"busy"}}"#;
        assert!(
            matches!(transfer.hear(busy, 429), Heard::End(Some(failure)) if failure.kind == Kind::Overloaded)
        );
        assert!(
            matches!(transfer.hear(b"<html>", 502), Heard::End(Some(failure)) if failure.kind == Kind::Internal)
        );
        transfer.begin();
        assert_eq!((transfer.through_line(), transfer.next_piece()), (0, first));
    }

    #[test]
    fn an_end_in_a_pause_decides_only_what_was_sent() {
        let mut transfer = transfer();
        transfer.next_piece();
        assert!(matches!(transfer.hear(br#"{"summary":{"created":3}}"#, 200), Heard::End(None)));
        assert_eq!((transfer.through_line(), transfer.is_done()), (3, false));
        transfer.begin();
        assert_eq!(send_all(&mut transfer), "4\n5\n6\n7\n8\n9\n");
    }
}
