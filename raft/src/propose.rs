//! Packing what many clients write at once: into few entries of the log where this node leads, into few messages to the
//! leader elsewhere. An entry, and a message, costs about the same whether it holds one write or two hundred.
//!
//! Writes queue; a task takes what is there and hands it on as one group, with a few groups under way at a time, so that a
//! lone writer never waits for company and a crowd shares. Answers go back by their place in the group.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lumen::{Ack, Prepared, Request};
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::leader::Leader;
use crate::message;
use crate::metrics::Meters;
use crate::node::Raft;
use crate::types::{GROUP, Kept, Proposed, spawn};

/// Writes in one group, at most.
const WRITES_MAX: usize = 256;
/// Bytes of writes in one group from which on it takes no more.
const BYTES_MAX: usize = 256 << 10;
/// Groups under way at a time.
const GROUPS_MAX: usize = 4;
/// Bytes of writes that may be queued or under way; beyond, a write is told to come back.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// What a write counts beside its bytes.
const HEAD_BYTES: usize = 64;
/// How much more memory a write takes that is kept as it was prepared, about: its text, and the words that were found in it.
const KEPT_FACTOR: usize = 4;

/// How long another change of members takes, about.
const CHANGE_AGAIN: Duration = Duration::from_millis(100);

/// Writes with the names under which they are done once.
pub(crate) type Writes = Vec<(Request, Bytes)>;

/// What became of each write of a group; or of all of them. The time is when the first of them was handed in.
type Handed = BoxFuture<'static, Result<Vec<Result<Ack>>>>;

struct Waiting {
    request: Request,
    write: Bytes,
    prepared: Option<Prepared>,
    /// What it counts of the bytes that may be under way.
    cost: usize,
    since: Instant,
    done: oneshot::Sender<Result<Ack>>,
}

/// Where writes are handed in.
#[derive(Clone)]
pub(crate) struct Coalescer {
    queue: mpsc::UnboundedSender<Waiting>,
    bytes: Arc<AtomicUsize>,
}

impl Coalescer {
    /// Packs into entries of this node's log, and answers when they are committed and applied here.
    pub(crate) fn to_log(raft: Raft, clock: fn() -> u64, meters: Arc<Meters>) -> Coalescer {
        Coalescer::start(move |writes, kept, since| {
            // Before anything is waited for: the times of entries are in the entries' order.
            let parts: Vec<(Request, &[u8])> =
                writes.iter().map(|(request, it)| (*request, &it[..])).collect();
            let bytes = Bytes::from(lumen::entry::encode(clock(), &parts));
            let entry = Proposed::prepared(bytes, kept);
            let (raft, meters, count) = (raft.clone(), meters.clone(), writes.len() as u64);
            Box::pin(async move {
                let written = raft.client_write(entry).await.map_err(write_error).inspect_err(|error| {
                    let counter = match error {
                        Error::NotLeader { .. } => &meters.writes_not_led,
                        _ => &meters.writes_unknown,
                    };
                    counter.add(count);
                })?;
                meters.propose.add_since(since);
                meters.writes_applied.add(count);
                Ok(written.data.0.into_iter().map(Ok).collect())
            })
        })
    }

    /// Packs into messages to the node that leads.
    pub(crate) fn to_leader(leader: Leader) -> Coalescer {
        Coalescer::start(move |writes, _, _| {
            let leader = leader.clone();
            Box::pin(async move {
                let count = writes.len();
                let read = |answer: &Bytes| message::read_written(answer).filter(|acks| acks.len() == count);
                // This node may lead by now: then the writes are handed to it when they are tried again.
                let here = async { Err(Error::NoLeader { reason: "this node took over just now".into() }) };
                let request = || message::write(GROUP, &writes);
                let forwards = &leader.meters.forwarded_writes;
                let acks = leader.have_done(forwards, request, |answer| read(answer).map(Ok), here);
                Ok(acks.await?.into_iter().map(not_stopped).collect())
            })
        })
    }

    /// Starts the task that packs; it ends when the last handle is dropped.
    fn start(hand_on: impl Fn(Writes, Kept, Instant) -> Handed + Send + 'static) -> Coalescer {
        let (queue, waiting) = mpsc::unbounded_channel();
        let bytes = Arc::new(AtomicUsize::new(0));
        spawn(pack(hand_on, waiting, bytes.clone()));
        Coalescer { queue, bytes }
    }

    /// Hands a write in, and waits until it is done.
    pub(crate) async fn write(
        &self,
        request: Request,
        write: Bytes,
        prepared: Option<Prepared>,
    ) -> Result<Ack> {
        let cost = write.len() * if prepared.is_some() { KEPT_FACTOR } else { 1 } + HEAD_BYTES;
        if self.bytes.fetch_add(cost, Ordering::Relaxed) > QUEUE_BYTES_MAX {
            self.bytes.fetch_sub(cost, Ordering::Relaxed);
            return Err(Error::Busy { retry_after: Duration::from_secs(1) });
        }
        let (done, answer) = oneshot::channel();
        let stopped = || Error::Stopped { reason: "the node is shutting down".into() };
        let since = Instant::now();
        self.queue.send(Waiting { request, write, prepared, cost, since, done }).map_err(|_| stopped())?;
        // Once it is handed over, nobody knows.
        answer.await.map_err(|_| Error::Unknown { reason: "the node stopped meanwhile".into() })?
    }
}

async fn pack(
    hand_on: impl Fn(Writes, Kept, Instant) -> Handed,
    mut queue: mpsc::UnboundedReceiver<Waiting>,
    bytes: Arc<AtomicUsize>,
) {
    let room = Arc::new(Semaphore::new(GROUPS_MAX));
    while let Some(first) = queue.recv().await {
        // While others are under way, more gathers.
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let since = first.since;
        let (mut len, mut cost) = (first.write.len() + HEAD_BYTES, first.cost);
        let mut group = vec![first];
        while group.len() < WRITES_MAX && len < BYTES_MAX {
            let Ok(next) = queue.try_recv() else { break };
            len += next.write.len() + HEAD_BYTES;
            cost += next.cost;
            group.push(next);
        }
        let (mut writes, mut kept, mut dones) = (Writes::new(), Kept::new(), Vec::new());
        for one in group {
            writes.push((one.request, one.write));
            kept.push(one.prepared);
            dones.push(one.done);
        }
        let handed = hand_on(writes, kept, since);
        let bytes = bytes.clone();
        spawn(async move {
            let written = handed.await;
            bytes.fetch_sub(cost, Ordering::Relaxed);
            drop(permit);
            // Who asked may have gone.
            match written {
                Ok(acks) => dones.into_iter().zip(acks).for_each(|(done, ack)| drop(done.send(ack))),
                Err(error) => dones.into_iter().for_each(|done| drop(done.send(Err(error.clone())))),
            }
        });
    }
}

/// What a failed write means to whoever asked for it.
pub(crate) fn write_error(
    error: RaftError<crate::types::TypeConfig, ClientWriteError<crate::types::TypeConfig>>,
) -> Error {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            Error::NotLeader { leader: forward.leader_id }
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
            Error::Unknown { reason: "another node became the leader meanwhile".into() }
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(
            _,
        ))) => Error::Busy { retry_after: CHANGE_AGAIN },
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            Error::Membership { reason: error.to_string() }
        }
        RaftError::APIError(ClientWriteError::PreconditionFailed(error)) => {
            Error::Membership { reason: error.to_string() }
        }
        // What it was doing may be with the others already.
        RaftError::Fatal(fatal) => Error::Unknown { reason: fatal.to_string() },
    }
}

/// A leader that is going took nothing: the next one will.
fn not_stopped(ack: Result<Ack>) -> Result<Ack> {
    ack.map_err(|error| match error {
        Error::Stopped { reason } => Error::NoLeader { reason: format!("the leader: {reason}") },
        other => other,
    })
}
