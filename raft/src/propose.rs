//! Packing what many clients write at once into few entries: an entry costs the same whether it holds one write or two hundred.
//!
//! Writes queue; a task takes what is there, encodes it as one entry, and hands it to raft, with a few entries under way at
//! a time, so that a lone writer never waits for company and a crowd shares. Answers go back by their place in the entry.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lumen::{Ack, Request};
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::error::{Error, Result};
use crate::node::Raft;
use crate::types::{Proposed, spawn};

/// Writes in one entry, at most.
const WRITES_MAX: usize = 256;
/// Bytes of writes in one entry from which on it takes no more.
const BYTES_MAX: usize = 256 << 10;
/// Entries under way at a time.
const ENTRIES_MAX: usize = 4;
/// Bytes of writes that may be queued or under way; beyond, a write is told to come back.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// What a write counts beside its bytes.
const HEAD_BYTES: usize = 64;

/// How long another change of members takes, about.
const CHANGE_AGAIN: Duration = Duration::from_millis(100);

struct Waiting {
    request: Request,
    write: Bytes,
    done: oneshot::Sender<Result<Ack>>,
}

/// Where writes are handed in.
#[derive(Clone)]
pub(crate) struct Coalescer {
    queue: mpsc::UnboundedSender<Waiting>,
    bytes: Arc<AtomicUsize>,
}

impl Coalescer {
    /// Starts the task that packs; it ends when the last handle is dropped.
    pub(crate) fn start(raft: Raft, clock: fn() -> u64) -> Coalescer {
        let (queue, waiting) = mpsc::unbounded_channel();
        let bytes = Arc::new(AtomicUsize::new(0));
        spawn(pack(raft, clock, waiting, bytes.clone()));
        Coalescer { queue, bytes }
    }

    /// Hands a write in, and waits until it is committed and applied here.
    pub(crate) async fn write(&self, request: Request, write: Bytes) -> Result<Ack> {
        let bytes = write.len() + HEAD_BYTES;
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) > QUEUE_BYTES_MAX {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Error::Busy { retry_after: Duration::from_secs(1) });
        }
        let (done, answer) = oneshot::channel();
        let stopped = || Error::Stopped { reason: "the node is shutting down".into() };
        self.queue.send(Waiting { request, write, done }).map_err(|_| stopped())?;
        // Once it is handed over, nobody knows.
        answer.await.map_err(|_| Error::Unknown { reason: "the node stopped meanwhile".into() })?
    }
}

async fn pack(
    raft: Raft,
    clock: fn() -> u64,
    mut queue: mpsc::UnboundedReceiver<Waiting>,
    bytes: Arc<AtomicUsize>,
) {
    let room = Arc::new(Semaphore::new(ENTRIES_MAX));
    while let Some(first) = queue.recv().await {
        // While others are under way, more gathers.
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let mut len = first.write.len() + HEAD_BYTES;
        let mut group = vec![first];
        while group.len() < WRITES_MAX && len < BYTES_MAX {
            let Ok(next) = queue.try_recv() else { break };
            len += next.write.len() + HEAD_BYTES;
            group.push(next);
        }
        let writes: Vec<(Request, &[u8])> = group.iter().map(|one| (one.request, &one.write[..])).collect();
        let entry = Proposed(Bytes::from(lumen::entry::encode(clock(), &writes)));
        let dones: Vec<_> = group.into_iter().map(|one| one.done).collect();
        let (raft, bytes) = (raft.clone(), bytes.clone());
        spawn(async move {
            let written = raft.client_write(entry).await;
            bytes.fetch_sub(len, Ordering::Relaxed);
            drop(permit);
            // Who asked may have gone.
            match written {
                Ok(response) => {
                    let acks = response.data.0.into_iter();
                    dones.into_iter().zip(acks).for_each(|(done, ack)| drop(done.send(Ok(ack))));
                }
                Err(error) => {
                    let error = write_error(error);
                    dones.into_iter().for_each(|done| drop(done.send(Err(error.clone()))));
                }
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
