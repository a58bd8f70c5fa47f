//! One batch of an import: from its lines to their outcomes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lumen::{Ack, Condition, Outcome, Prepared};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use crate::api::{self, blocking};
use crate::error::{Failure, Kind};
use crate::http::documents::DOCUMENT_BYTES_MAX;
use crate::http::json::{check_depth, split_id};
use crate::http::lines::Batch;
use crate::node::Node;
use crate::store::InTurn;

/// A batch waits this long for a database that says it is busy.
const BUSY_TIME_MAX: Duration = Duration::from_secs(60);

/// What all batches of one import share.
pub(crate) struct Job {
    /// Where to.
    pub(crate) node: Arc<Node>,
    /// Into which collection.
    pub(crate) collection: String,
    /// The field that holds each document's id.
    pub(crate) id_field: String,
    /// The mapping does not name the id field, so it cannot stay in the document.
    pub(crate) take_out: bool,
}

/// What became of one batch.
#[derive(Default)]
pub(crate) struct BatchResult {
    /// Lines that are not empty.
    pub(crate) received: u64,
    /// Documents that were not there before.
    pub(crate) created: u64,
    /// Documents that were.
    pub(crate) updated: u64,
    /// The log entry.
    pub(crate) seq: u64,
    /// Number of the batch's last line, if the batch was decided.
    pub(crate) through_line: u64,
    /// The answer's lines, in order.
    pub(crate) rejects: Vec<Vec<u8>>,
    /// Why nothing of this batch and nothing after it was stored, and its first line.
    pub(crate) stopped: Option<(Failure, u64)>,
}

/// Prepares a batch, waits for its `turn`, proposes it, and says by `done` whether the next may follow.
pub(crate) async fn run(
    job: Arc<Job>,
    batch: Batch,
    turn: oneshot::Receiver<bool>,
    done: oneshot::Sender<bool>,
) -> BatchResult {
    let (first_line, text) = match batch {
        Batch::Lines { first_line, text } => (first_line, text),
        Batch::TooLong { line } => {
            let go_on = turn.await.unwrap_or(false);
            let _ = done.send(go_on);
            let failure = Failure::too_large("the line", DOCUMENT_BYTES_MAX as u64);
            return match go_on {
                true => BatchResult {
                    received: 1,
                    through_line: line,
                    rejects: vec![reject(line, None, &failure)],
                    ..Default::default()
                },
                false => BatchResult::default(),
            };
        }
    };
    let mut prepared = prepare(&job, first_line, &text).await;
    if !turn.await.unwrap_or(false) {
        let _ = done.send(false);
        return BatchResult::default();
    }
    let deadline = Instant::now() + BUSY_TIME_MAX;
    loop {
        let (parts, lines) = match prepared {
            Ok(lines) if lines.parts.is_empty() => {
                let _ = done.send(true);
                return lines.result(None);
            }
            Ok(mut lines) => (std::mem::take(&mut lines.parts), lines),
            Err(failure) => {
                let _ = done.send(false);
                return stop(failure, first_line);
            }
        };
        // Taking part in a group may sync and apply a megabyte on the thread that proposes: not on one of the reactor's.
        let written = job.node.store.write_in_turn(Prepared::batch(parts), BUSY_TIME_MAX).await;
        let decision = match written {
            // Turned away at the door: keep the turn, so that no later line overtakes, and knock again.
            InTurn::Decided(Err(failure)) if failure.is_busy_until(deadline) => {
                tokio::time::sleep(failure.retry_after.unwrap_or_default()).await;
                prepared = prepare(&job, first_line, &text).await;
                continue;
            }
            InTurn::Decided(result) => {
                let _ = done.send(result.is_ok());
                result
            }
            InTurn::UnderWay(decision) => {
                let _ = done.send(true);
                let dropped = |_| Failure::new(Kind::Unknown, "the log dropped the batch");
                decision.await.map_err(dropped).and_then(|result| result)
            }
        };
        return match decision {
            Ok(ack) => lines.result(Some(ack)),
            Err(failure) => {
                if failure.kind == Kind::Unknown {
                    job.node.fail(&failure.message);
                }
                stop(failure, first_line)
            }
        };
    }
}

fn stop(failure: Failure, first_line: u64) -> BatchResult {
    BatchResult { stopped: Some((failure, first_line)), ..Default::default() }
}

/// The lines of a batch, those that can be stored apart from those that cannot.
struct Lines {
    received: u64,
    through_line: u64,
    parts: Vec<Prepared>,
    /// Number and id of each part.
    names: Vec<(u64, String)>,
    rejects: Vec<(u64, Vec<u8>)>,
}

impl Lines {
    /// Joins what was refused here with what the log refused.
    fn result(mut self, ack: Option<Ack>) -> BatchResult {
        let (received, through_line) = (self.received, self.through_line);
        let mut result = BatchResult { received, through_line, ..Default::default() };
        if let Some(ack) = ack {
            result.seq = ack.seq;
            let mut outcomes = match ack.outcome {
                Outcome::Batch(outcomes) => outcomes.into_iter(),
                other => vec![other].into_iter(),
            };
            for (line, id) in self.names {
                let failure = match outcomes.next() {
                    Some(Outcome::Created) => {
                        result.created += 1;
                        continue;
                    }
                    Some(Outcome::Updated) => {
                        result.updated += 1;
                        continue;
                    }
                    Some(Outcome::Rejected(rejection)) => Failure::from(rejection),
                    _ => Failure::new(Kind::Internal, "the log gave no outcome for this line"),
                };
                self.rejects.push((line, reject(line, Some(&id), &failure)));
            }
        }
        self.rejects.sort_by_key(|(line, _)| *line);
        result.rejects = self.rejects.into_iter().map(|(_, text)| text).collect();
        result
    }
}

/// Parses and analyses the lines, on a thread that may block.
async fn prepare(job: &Arc<Job>, first_line: u64, text: &Bytes) -> Result<Lines, Failure> {
    let (job, text) = (job.clone(), text.clone());
    blocking(move || {
        let (parts, names, rejects) = (Vec::new(), Vec::new(), Vec::new());
        let mut lines = Lines { received: 0, through_line: first_line, parts, names, rejects };
        for (line, number) in
            text.strip_suffix(b"\n").unwrap_or(&text).split(|b| *b == b'\n').zip(first_line..)
        {
            lines.through_line = number;
            if line.trim_ascii().is_empty() {
                continue;
            }
            lines.received += 1;
            match prepare_line(&job, line) {
                Ok((id, part)) => {
                    lines.parts.push(part);
                    lines.names.push((number, id));
                }
                Err((id, failure)) => lines.rejects.push((number, reject(number, id.as_deref(), &failure))),
            }
        }
        Ok(lines)
    })
    .await
}

fn prepare_line(job: &Job, line: &[u8]) -> Result<(String, Prepared), (Option<String>, Failure)> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // A file may begin with a byte order mark; where files were put together, one stands further down.
    let line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
    if line.len() > DOCUMENT_BYTES_MAX {
        return Err((None, Failure::too_large("the line", DOCUMENT_BYTES_MAX as u64)));
    }
    let text = std::str::from_utf8(line).map_err(|error| {
        let message = format!("the line is not UTF-8 from byte {} on", error.valid_up_to());
        (None, Failure::new(Kind::Validation, message))
    })?;
    check_depth(line).map_err(|failure| (None, without_line(failure)))?;
    let (id, source) = split_id(text, &job.id_field, job.take_out).map_err(|failure| (None, failure))?;
    let is_given = id.is_some();
    let id = id.unwrap_or_else(|| api::new_id(None));
    let put = |id: &str| -> Result<Prepared, Failure> {
        api::check_id(id)?;
        api::prepare_put(&job.node.store, job.collection.clone(), id.to_string(), source, Condition::Always)
    };
    match put(&id) {
        Ok(part) => Ok((id, part)),
        Err(failure) => Err((is_given.then_some(id), in_line(failure, text))),
    }
}

/// A position inside one line says its column only: the line's number is the file's, and stands outside.
fn without_line(mut failure: Failure) -> Failure {
    failure.details.remove("line");
    failure
}

/// The column is that of the line as it was sent; the parser's words name that of what is left after the id was cut out.
fn in_line(mut failure: Failure, text: &str) -> Failure {
    if let Some(at) = failure.message.rfind(" at line ")
        && failure.message.starts_with("the document is not ")
    {
        failure.message.truncate(at);
    }
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Err(error) => failure.with("column", error.column()),
        Ok(_) => failure,
    }
}

/// `{"line":17,"id":"x","error":{…}}`
fn reject(line: u64, id: Option<&str>, failure: &Failure) -> Vec<u8> {
    let mut object = Map::new();
    object.insert("line".into(), line.into());
    if let Some(id) = id {
        object.insert("id".into(), id.into());
    }
    object.insert("error".into(), failure.to_json(None));
    let mut text = Value::Object(object).to_string().into_bytes();
    text.push(b'\n');
    text
}
