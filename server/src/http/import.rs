//! `POST …/import`: a stream of documents, one JSON object a line.
//!
//! ```text
//! socket ─► LineCutter ─► batch of ~1 MiB ─► prepare (blocking threads, in parallel)
//!                                              └─► propose, in the order of the file ─► outcome of each line
//! ```
//!
//! At most [`BATCHES_IN_FLIGHT`] batches are in memory; while all are under way nothing is read, so the client feels
//! the pace of the disk. Each batch is one log entry. A line that cannot be stored is rejected alone; the rest goes on.
//! When the database itself cannot go on (busy for long, disk full), reading stops: the last line of the answer then
//! has an `error` beside the `summary`, and `stopped_at_line` says from where to send again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header;
use hyper::body::Body;
use lumen::{Ack, Condition, Error, Outcome, Prepared};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::api;
use crate::error::{Failure, Kind};
use crate::http::documents::{DOCUMENT_BYTES_MAX, blocking};
use crate::http::json::{check_depth, split_id};
use crate::http::lines::{Batch, LineCutter};
use crate::http::reply::{Reply, at_seq, failure as failure_reply, with_type};
use crate::http::request::{Call, next_data};
use crate::node::Node;

/// Bytes of one import, at most; larger files come in several requests.
const IMPORT_BYTES_MAX: u64 = 100 << 20;

/// Batches between socket and log.
const BATCHES_IN_FLIGHT: usize = 4;

/// A batch waits this long for a database that says it is busy.
const BUSY_TIME_MAX: Duration = Duration::from_secs(60);

/// Text about rejected lines that is kept for the answer; further ones are only counted.
const REJECTS_BYTES_MAX: usize = 32 << 20;

/// A client that has made us wait this long has to have sent [`BYTES_PER_SECOND_MIN`] on average.
const WAIT_FREE: Duration = Duration::from_secs(60);

/// See [`WAIT_FREE`].
const BYTES_PER_SECOND_MIN: u64 = 1024;

/// What all batches of one import share.
struct Job {
    node: Arc<Node>,
    collection: String,
    id_field: String,
    /// The mapping does not name the id field, so it cannot stay in the document.
    take_out: bool,
}

/// What became of one batch.
#[derive(Default)]
struct BatchResult {
    received: u64,
    created: u64,
    updated: u64,
    seq: u64,
    /// The answer's lines, in order.
    rejects: Vec<Vec<u8>>,
    /// Why nothing of this batch and nothing after it was stored, and its first line.
    stopped: Option<(Failure, u64)>,
}

/// What became of all of them.
#[derive(Default)]
struct Totals {
    received: u64,
    created: u64,
    updated: u64,
    rejected: u64,
    unlisted: u64,
    seq: u64,
    rejects: Vec<u8>,
    stopped: Option<(Failure, u64)>,
}

/// `POST …/import?id_field=`
pub(crate) async fn import(mut call: Call) -> Result<Reply, Failure> {
    let started = Instant::now();
    let id_field = call.query.get("id_field").unwrap_or("id").to_string();
    let mapping = call.node.db.snapshot().mapping(&call.collection)?;
    if call.body.as_ref().is_some_and(|body| body.size_hint().lower() > IMPORT_BYTES_MAX) {
        return Err(
            Failure::too_large("the import", IMPORT_BYTES_MAX).with("hint", "send it in several requests")
        );
    }
    let job = Arc::new(Job {
        node: call.node.clone(),
        collection: call.collection.clone(),
        take_out: !mapping.fields().any(|(name, _)| name == id_field),
        id_field,
    });
    let mut totals = Totals::default();
    let mut pipeline = Pipeline::new(job);
    let mut cutter = LineCutter::new(DOCUMENT_BYTES_MAX);
    if let Err(failure) = feed(&mut call, &mut cutter, &mut pipeline, &mut totals).await {
        pipeline.drain(&mut totals).await;
        totals.stopped.get_or_insert((failure, cutter.next_line()));
    } else {
        if totals.stopped.is_none()
            && let Some(batch) = cutter.finish()
        {
            pipeline.add(batch, &mut totals).await;
        }
        pipeline.drain(&mut totals).await;
    }
    Ok(answer(totals, &call.node, started.elapsed()))
}

/// Reads the body to its end, or until a batch could not be stored.
async fn feed(
    call: &mut Call,
    cutter: &mut LineCutter,
    pipeline: &mut Pipeline,
    totals: &mut Totals,
) -> Result<(), Failure> {
    let pause = call.node.limits.request_timeout;
    let (mut bytes, mut waited) = (0u64, Duration::ZERO);
    loop {
        let asked = Instant::now();
        let Some(body) = call.body.as_mut() else { return Ok(()) };
        let Some(data) = next_data(body, pause).await? else { return Ok(()) };
        waited += asked.elapsed();
        bytes += data.len() as u64;
        if bytes > IMPORT_BYTES_MAX {
            return Err(Failure::too_large("the import", IMPORT_BYTES_MAX));
        }
        if waited > WAIT_FREE && bytes < waited.as_secs() * BYTES_PER_SECOND_MIN {
            return Err(Failure::new(Kind::Timeout, "the body came too slowly"));
        }
        if let Some(batch) = cutter.push(data) {
            pipeline.add(batch, totals).await;
            if totals.stopped.is_some() {
                return Ok(());
            }
        }
    }
}

/// Batches under way, oldest first.
struct Pipeline {
    job: Arc<Job>,
    running: VecDeque<JoinHandle<BatchResult>>,
    /// Says `true` once the newest batch is in the log's queue, so that the next may follow.
    turn: oneshot::Receiver<bool>,
}

impl Pipeline {
    fn new(job: Arc<Job>) -> Pipeline {
        let (first, turn) = oneshot::channel();
        // The receiver is held by the pipeline, so this arrives.
        let _ = first.send(true);
        Pipeline { job, running: VecDeque::new(), turn }
    }

    /// Starts a batch; waits for the oldest when too many are under way.
    async fn add(&mut self, batch: Batch, totals: &mut Totals) {
        if self.running.len() >= BATCHES_IN_FLIGHT {
            self.collect(totals).await;
        }
        let (done, next) = oneshot::channel();
        let turn = std::mem::replace(&mut self.turn, next);
        self.running.push_back(tokio::spawn(run(self.job.clone(), batch, turn, done)));
    }

    async fn drain(&mut self, totals: &mut Totals) {
        while !self.running.is_empty() {
            self.collect(totals).await;
        }
    }

    async fn collect(&mut self, totals: &mut Totals) {
        let Some(oldest) = self.running.pop_front() else { return };
        match oldest.await {
            Ok(result) => totals.add(result),
            Err(error) => {
                let failure = Failure::new(Kind::Internal, format!("a batch broke off: {error}"));
                totals.stopped.get_or_insert((failure, 0));
            }
        }
    }
}

impl Totals {
    fn add(&mut self, result: BatchResult) {
        self.received += result.received;
        self.created += result.created;
        self.updated += result.updated;
        self.seq = self.seq.max(result.seq);
        for line in result.rejects {
            self.rejected += 1;
            if self.rejects.len() + line.len() <= REJECTS_BYTES_MAX {
                self.rejects.extend_from_slice(&line);
            } else {
                self.unlisted += 1;
            }
        }
        if let Some(stopped) = result.stopped {
            self.stopped.get_or_insert(stopped);
        }
    }
}

/// One batch, from its lines to their outcomes.
async fn run(
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
        let (sender, mut receiver) = oneshot::channel::<Result<Ack, Error>>();
        let db = job.node.db.clone();
        let proposed = blocking(move || {
            db.propose(Prepared::batch(parts), move |result| {
                let _ = sender.send(result);
            });
            Ok(())
        });
        if let Err(failure) = proposed.await {
            let _ = done.send(false);
            return stop(failure, first_line);
        }
        match receiver.try_recv() {
            // Turned away at the door: keep the turn, so that no later line overtakes, and knock again.
            Ok(Err(Error::Busy { retry_after })) if Instant::now() + retry_after < deadline => {
                tokio::time::sleep(retry_after).await;
                prepared = prepare(&job, first_line, &text).await;
            }
            Ok(Err(error)) => {
                let _ = done.send(false);
                return stop(fail(&job, error), first_line);
            }
            Ok(Ok(ack)) => {
                let _ = done.send(true);
                return lines.result(Some(ack));
            }
            Err(_) => {
                let _ = done.send(true);
                return match receiver.await {
                    Ok(Ok(ack)) => lines.result(Some(ack)),
                    Ok(Err(error)) => stop(fail(&job, error), first_line),
                    Err(_) => stop(Failure::new(Kind::Unknown, "the log dropped the batch"), first_line),
                };
            }
        }
    }
}

fn stop(failure: Failure, first_line: u64) -> BatchResult {
    BatchResult { stopped: Some((failure, first_line)), ..Default::default() }
}

fn fail(job: &Job, error: Error) -> Failure {
    let failure = api::write_failure(error);
    if failure.kind == Kind::Unknown {
        job.node.fail(&failure.message);
    }
    failure
}

/// The lines of a batch, those that can be stored apart from those that cannot.
struct Lines {
    received: u64,
    parts: Vec<Prepared>,
    /// Number and id of each part.
    names: Vec<(u64, String)>,
    rejects: Vec<(u64, Vec<u8>)>,
}

impl Lines {
    /// Joins what was refused here with what the log refused.
    fn result(mut self, ack: Option<Ack>) -> BatchResult {
        let mut result = BatchResult { received: self.received, ..Default::default() };
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
        let mut lines = Lines { received: 0, parts: Vec::new(), names: Vec::new(), rejects: Vec::new() };
        for (line, number) in
            text.strip_suffix(b"\n").unwrap_or(&text).split(|b| *b == b'\n').zip(first_line..)
        {
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
    if line.len() > DOCUMENT_BYTES_MAX {
        return Err((None, Failure::too_large("the line", DOCUMENT_BYTES_MAX as u64)));
    }
    let text = std::str::from_utf8(line).map_err(|error| {
        let message = format!("the line is not UTF-8 from byte {} on", error.valid_up_to());
        (None, Failure::new(Kind::Validation, message))
    })?;
    check_depth(line).map_err(|failure| (None, without_line(failure)))?;
    let (id, source) = split_id(text, &job.id_field, job.take_out).map_err(|failure| (None, failure))?;
    let id = id.unwrap_or_else(api::new_id);
    let put = |id: &str| -> Result<Prepared, Failure> {
        api::check_id(id)?;
        api::prepare_put(&job.node.db, job.collection.clone(), id.to_string(), source, Condition::Always)
    };
    match put(&id) {
        Ok(part) => Ok((id, part)),
        Err(failure) => {
            // The column is that of the line as it was sent, not of what is left after the id was cut out.
            let column =
                serde_json::from_str::<serde::de::IgnoredAny>(text).err().map(|error| error.column());
            Err((Some(id), column.map_or(failure.clone(), |column| failure.with("column", column))))
        }
    }
}

/// A position inside one line says its column only: the line's number is the file's, and stands outside.
fn without_line(mut failure: Failure) -> Failure {
    failure.details.remove("line");
    failure
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

fn answer(totals: Totals, node: &Node, took: Duration) -> Reply {
    let accepted = totals.created + totals.updated;
    let mut summary = json!({
        "received": totals.received,
        "created": totals.created,
        "updated": totals.updated,
        "rejected": totals.rejected,
        "took_ms": took.as_millis() as u64,
        "seq": totals.seq,
    });
    if totals.unlisted > 0 {
        summary["unlisted"] = totals.unlisted.into();
    }
    let mut last = json!({});
    let mut body = totals.rejects;
    let mut status = match (accepted, totals.rejected) {
        (_, 0) => 200,
        (0, _) => 422,
        _ => 207,
    };
    let mut retry_after = None;
    if let Some((failure, line)) = &totals.stopped {
        status = failure.kind.status();
        summary["stopped_at_line"] = (*line).into();
        last["error"] = failure.to_json(None);
        retry_after = failure_reply(failure, "").headers().get(header::RETRY_AFTER).cloned();
    }
    last["summary"] = summary;
    body.extend_from_slice(last.to_string().as_bytes());
    body.push(b'\n');
    let mut reply = with_type(status, "application/x-ndjson", Bytes::from(body));
    if let Some(value) = retry_after {
        reply.headers_mut().insert(header::RETRY_AFTER, value);
    }
    let seq = if totals.seq > 0 { totals.seq } else { node.db.snapshot().seq() };
    at_seq(reply, seq)
}
