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
//!
//! The answer comes at the end, with a status that sums it up; or, with `progress=true`, at once and while the client
//! still sends: rejected lines and, after each batch, how far everything is decided. Such a stream has no limit of size,
//! and its client has to read while it sends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Body as HttpBody;
use lumen_raft::Consistency;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::body::Body;
use crate::error::{Failure, Kind};
use crate::http::batch::{self, BatchResult, Job};
use crate::http::documents::DOCUMENT_BYTES_MAX;
use crate::http::lines::{Batch, LineCutter};
use crate::http::reply::{Reply, at_seq, set, with_body, with_type};
use crate::http::request::{Call, invalid, next_data};

/// Bytes of an import that is answered at its end; larger files come in several requests, or with `progress=true`.
const IMPORT_BYTES_MAX: u64 = 100 << 20;

/// Batches between socket and log.
const BATCHES_IN_FLIGHT: usize = 4;

/// Text about rejected lines that is kept for an answer at the end; further ones are only counted.
const REJECTS_BYTES_MAX: usize = 32 << 20;

/// Pieces of a streamed answer that may wait for the client to read them; then the import waits for it too.
const PIECES_MAX: usize = 16;

/// A client that has made us wait this long has to have sent [`BYTES_PER_SECOND_MIN`] on average.
const WAIT_FREE: Duration = Duration::from_secs(60);

/// See [`WAIT_FREE`].
const BYTES_PER_SECOND_MIN: u64 = 1024;

const NDJSON: &str = "application/x-ndjson";

/// What became of all batches so far.
#[derive(Default)]
struct Totals {
    received: u64,
    created: u64,
    updated: u64,
    rejected: u64,
    unlisted: u64,
    seq: u64,
    through_line: u64,
    rejects: Vec<u8>,
    stopped: Option<(Failure, u64)>,
    /// Where a streamed answer goes.
    stream: Option<mpsc::Sender<Bytes>>,
}

/// `POST …/import?id_field=&progress=`
pub(crate) async fn import(mut call: Call) -> Result<Reply, Failure> {
    let started = Instant::now();
    let id_field = call.query.get("id_field").unwrap_or("id").to_string();
    let streams = match call.query.get("progress") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(invalid("progress", "is either true or false")),
    };
    if call.asked()?.key.is_some() {
        let message = "an import has no Idempotency-Key: give its documents ids, and send it again";
        return Err(Failure::new(Kind::InvalidParameter, message));
    }
    let (mapping, seq) = {
        // Not held any longer: an import may take hours, and a snapshot keeps the files it sees.
        let snapshot = call.read(Consistency::Linearizable).await?;
        (snapshot.mapping(&call.collection)?, snapshot.seq())
    };
    let size = call.body.as_ref().map_or(0, |body| body.size_hint().lower());
    if !streams && size > IMPORT_BYTES_MAX {
        let hint = "send it in several requests, or with progress=true and read the answer while sending";
        return Err(Failure::too_large("the import", IMPORT_BYTES_MAX).with("hint", hint));
    }
    let job = Arc::new(Job {
        node: call.node.clone(),
        collection: call.collection.clone(),
        take_out: !mapping.fields().any(|(name, _)| name == id_field),
        id_field,
    });
    if !streams {
        let totals = run(&mut call, job, Totals::default()).await;
        return Ok(totals.reply(seq, started.elapsed()));
    }
    let (sender, body) = Body::pieces(PIECES_MAX);
    tokio::spawn(async move {
        let mut totals = run(&mut call, job, Totals { stream: Some(sender), ..Totals::default() }).await;
        let last = totals.last_line(started.elapsed());
        totals.send(last).await;
    });
    Ok(at_seq(with_body(200, NDJSON, body), seq))
}

/// Stores what comes until the stream's end or the first trouble.
async fn run(call: &mut Call, job: Arc<Job>, mut totals: Totals) -> Totals {
    let mut pipeline = Pipeline::new(job);
    let mut cutter = LineCutter::new(DOCUMENT_BYTES_MAX);
    if let Err(failure) = feed(call, &mut cutter, &mut pipeline, &mut totals).await {
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
    totals
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
        if totals.stream.is_none() && bytes > IMPORT_BYTES_MAX {
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
        // What is decided already is told at once: whoever sends slowly learns it too.
        while self.running.len() >= BATCHES_IN_FLIGHT
            || self.running.front().is_some_and(|oldest| oldest.is_finished())
        {
            self.collect(totals).await;
        }
        let (done, next) = oneshot::channel();
        let turn = std::mem::replace(&mut self.turn, next);
        self.running.push_back(tokio::spawn(batch::run(self.job.clone(), batch, turn, done)));
    }

    async fn drain(&mut self, totals: &mut Totals) {
        while !self.running.is_empty() {
            self.collect(totals).await;
        }
    }

    async fn collect(&mut self, totals: &mut Totals) {
        let Some(oldest) = self.running.pop_front() else { return };
        match oldest.await {
            Ok(result) => totals.add(result).await,
            Err(error) => {
                let failure = Failure::new(Kind::Internal, format!("a batch broke off: {error}"));
                totals.stopped.get_or_insert((failure, totals.through_line + 1));
            }
        }
    }
}

impl Totals {
    /// Counts a batch; batches come in order, and after the one that stopped none was stored.
    async fn add(&mut self, result: BatchResult) {
        self.received += result.received;
        self.created += result.created;
        self.updated += result.updated;
        self.seq = self.seq.max(result.seq);
        self.through_line = self.through_line.max(result.through_line);
        for line in result.rejects {
            self.rejected += 1;
            if self.stream.is_some() || self.rejects.len() + line.len() <= REJECTS_BYTES_MAX {
                self.rejects.extend_from_slice(&line);
            } else {
                self.unlisted += 1;
            }
        }
        if let Some(stopped) = result.stopped {
            self.stopped.get_or_insert(stopped);
        }
        if self.stream.is_some() && self.stopped.is_none() {
            let progress = json!({ "progress": {
                "through_line": self.through_line,
                "created": self.created,
                "updated": self.updated,
                "rejected": self.rejected,
                "seq": self.seq,
            } });
            self.send(progress).await;
        }
    }

    /// Sends the rejected lines that are not sent yet, and one line more.
    async fn send(&mut self, line: Value) {
        let Some(stream) = &self.stream else { return };
        let mut text = std::mem::take(&mut self.rejects);
        text.extend_from_slice(line.to_string().as_bytes());
        text.push(b'\n');
        // A client that went away is met again where its body is read.
        let _ = stream.send(Bytes::from(text)).await;
    }

    /// `{"summary":{…}}`, with an `error` in front if it stopped.
    fn last_line(&self, took: Duration) -> Value {
        let mut summary = json!({
            "received": self.received,
            "created": self.created,
            "updated": self.updated,
            "rejected": self.rejected,
            "took_ms": took.as_millis() as u64,
            "seq": self.seq,
        });
        if self.unlisted > 0 {
            summary["unlisted"] = self.unlisted.into();
        }
        let mut last = json!({});
        if let Some((failure, line)) = &self.stopped {
            summary["stopped_at_line"] = (*line).into();
            last["error"] = failure.to_json(None);
        }
        last["summary"] = summary;
        last
    }

    /// The answer at the end.
    fn reply(self, seq_before: u64, took: Duration) -> Reply {
        let last = self.last_line(took);
        let mut body = self.rejects;
        body.extend_from_slice(last.to_string().as_bytes());
        body.push(b'\n');
        let status = match (&self.stopped, self.created + self.updated, self.rejected) {
            (Some((failure, _)), ..) => failure.kind.status(),
            (None, _, 0) => 200,
            (None, 0, _) => 422,
            (None, ..) => 207,
        };
        let mut reply = with_type(status, NDJSON, Bytes::from(body));
        if let Some(seconds) = self.stopped.and_then(|(failure, _)| failure.retry_after_s()) {
            set(&mut reply, "retry-after", &seconds.to_string());
        }
        at_seq(reply, if self.seq > 0 { self.seq } else { seq_before })
    }
}
