//! The database that the faces write to and read from: this node's own, or the cluster's.

use std::time::Duration;

use lumen::{Ack, Changes, Database, Error, Prepared, Request, Scope, Snapshot, Stats, Write};
use lumen_raft::{Consistency, Node};
use tokio::sync::oneshot;

use crate::error::{Failure, Kind};

/// The database.
#[derive(Clone)]
pub(crate) enum Store {
    /// Of this node alone.
    Alone(Database),
    /// Of all nodes.
    Cluster(Node),
}

/// How a write is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// What the client calls it, so that it is done once however often it is sent.
    pub(crate) key: Option<[u8; 16]>,
    /// How long the client waits.
    pub(crate) patience: Duration,
}

/// How new what is read must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// By what it is measured.
    pub(crate) consistency: Consistency,
    /// A sequence number that an earlier answer told: not older than that, in any case.
    pub(crate) min_seq: u64,
    /// How long the client waits.
    pub(crate) patience: Duration,
}

/// What became of a write that others follow.
pub(crate) enum InTurn {
    /// It is decided.
    Decided(Result<Ack, Failure>),
    /// It is in the log, and will be decided.
    UnderWay(oneshot::Receiver<Result<Ack, Failure>>),
}

impl Store {
    /// What is here now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        match self {
            Store::Alone(db) => db.snapshot(),
            Store::Cluster(node) => node.snapshot(),
        }
    }

    /// A moment that is new enough.
    pub(crate) async fn read(&self, reading: &Reading) -> Result<Snapshot, Failure> {
        let Reading { consistency, min_seq, patience } = *reading;
        let snapshot = match self {
            Store::Alone(db) => db.snapshot(),
            Store::Cluster(node) => node.read(consistency, patience).await?,
        };
        match self {
            _ if snapshot.seq() >= min_seq => Ok(snapshot),
            Store::Alone(_) => Err(lumen_raft::Error::Behind { wanted: min_seq, has: snapshot.seq() }.into()),
            Store::Cluster(node) => Ok(node.read(Consistency::Session(min_seq), patience).await?),
        }
    }

    /// What happens after `since`, as far as it is known here; from now on without. It reads the disk.
    pub(crate) fn changes(&self, since: Option<u64>, scope: Scope) -> Result<Changes, Failure> {
        match self {
            Store::Alone(db) => Ok(db.changes(since, scope)?),
            Store::Cluster(node) => Ok(node.changes(since, scope)?),
        }
    }

    /// Checks, parses and analyses a write in the caller's thread. In a cluster it may be refused for what this node does not
    /// know yet, see [`Store::catch_up`].
    pub(crate) fn prepare(&self, write: Write) -> Result<Prepared, Failure> {
        match self {
            Store::Alone(db) => Ok(db.prepare(write)?),
            Store::Cluster(node) => Ok(node.prepare(write)?),
        }
    }

    /// After a refusal: waits until this node knows all that was acknowledged before, and it is worth to try again. False
    /// when nobody can tell: then the refusal stands.
    pub(crate) async fn catch_up(&self, patience: Duration) -> bool {
        match self {
            Store::Alone(_) => false,
            Store::Cluster(node) => node.read_barrier(patience).await.is_ok(),
        }
    }

    /// Writes, and waits until it is durable and searchable.
    ///
    /// Alone, it may sync and apply on this very thread: that is what keeps a lone small write free of thread hops.
    pub(crate) async fn write(&self, prepared: Prepared, asked: &Asked) -> Result<Ack, Failure> {
        let db = match self {
            Store::Alone(db) => db,
            Store::Cluster(node) => return Ok(node.write(prepared, asked.key, asked.patience).await?),
        };
        decided(propose(db, prepared, asked.key).await)
    }

    /// Writes what later writes must not overtake, on a thread that may block.
    pub(crate) async fn write_in_turn(&self, prepared: Prepared, patience: Duration) -> InTurn {
        let db = match self {
            Store::Alone(db) => db.clone(),
            Store::Cluster(node) => {
                let written = node.write(prepared, None, patience).await;
                return InTurn::Decided(written.map_err(Failure::from));
            }
        };
        let proposed = tokio::task::spawn_blocking(move || propose(&db, prepared, None)).await;
        let mut receiver = match proposed {
            Ok(receiver) => receiver,
            Err(error) => {
                let message = format!("the request's work broke off: {error}");
                return InTurn::Decided(Err(Failure::new(Kind::Internal, message)));
            }
        };
        match receiver.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => {
                let (sender, decision) = oneshot::channel();
                tokio::spawn(async move {
                    // The caller may have gone away.
                    let _ = sender.send(decided(receiver.await));
                });
                InTurn::UnderWay(decision)
            }
            Ok(result) => InTurn::Decided(decided(Ok(result))),
            Err(oneshot::error::TryRecvError::Closed) => {
                InTurn::Decided(Err(write_failure(Error::Unknown {
                    reason: "the log dropped the write".into(),
                })))
            }
        }
    }

    /// Gauges and counters.
    pub(crate) fn stats(&self) -> Stats {
        match self {
            Store::Alone(db) => db.stats(),
            Store::Cluster(node) => node.stats(),
        }
    }
}

fn propose(
    db: &Database,
    prepared: Prepared,
    key: Option<[u8; 16]>,
) -> oneshot::Receiver<Result<Ack, Error>> {
    let (sender, receiver) = oneshot::channel();
    let request = key.map_or(Request::None, Request::Key);
    db.propose(request, prepared, move |result| {
        // The caller may have gone away; the write is done all the same.
        let _ = sender.send(result);
    });
    receiver
}

fn decided(result: Result<Result<Ack, Error>, oneshot::error::RecvError>) -> Result<Ack, Failure> {
    let dropped = |_| Error::Unknown { reason: "the log dropped the write".into() };
    result.map_err(dropped).and_then(|result| result).map_err(write_failure)
}

/// An error of the log. Where the disk failed under a write, nobody knows what a restart will find: that is `unknown`.
fn write_failure(error: Error) -> Failure {
    match error {
        Error::Io { .. } => Failure::from(Error::Unknown { reason: error.to_string() }),
        other => Failure::from(other),
    }
}
