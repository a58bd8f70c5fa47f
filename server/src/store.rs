//! The database that the faces write to and read from: this node's own, or the cluster's.

use std::sync::Arc;
use std::time::Duration;

use lumen::{Ack, Changes, Database, Error, Prepared, Request, Scope, Snapshot, Stats, Write};
use lumen_raft::{Consistency, Node};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::error::{Failure, Kind};

/// The database.
#[derive(Clone)]
pub(crate) enum Store {
    /// Of this node alone.
    Alone(Alone),
    /// Of all nodes.
    Cluster(Node),
}

/// A database with a journal of its own, and who hands out its answers.
#[derive(Clone)]
pub(crate) struct Alone {
    pub(crate) db: Database,
    answers: Arc<Answers>,
}

type Answer = Result<Ack, Error>;

/// Answers on their way from the journal's thread to those who wait for them.
///
/// The thread that has committed a group of writes wakes one task, and that wakes the others: from a thread that is none of
/// the runtime's each would be a lock and perhaps a system call, while the next group waits.
#[derive(Default)]
struct Answers {
    ready: Mutex<Vec<(oneshot::Sender<Answer>, Answer)>>,
    bell: Notify,
}

impl Answers {
    fn add(&self, sender: oneshot::Sender<Answer>, answer: Answer) {
        let is_first = {
            let mut ready = self.ready.lock();
            ready.push((sender, answer));
            ready.len() == 1
        };
        if is_first {
            self.bell.notify_one();
        }
    }

    /// Hands out what is there, again and again; ends with the runtime.
    async fn hand_out(answers: Arc<Answers>) {
        loop {
            answers.bell.notified().await;
            let ready = std::mem::take(&mut *answers.ready.lock());
            for (sender, answer) in ready {
                // The caller may have gone away; the write is done all the same.
                let _ = sender.send(answer);
            }
        }
    }
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
    /// A database of this node alone; inside a runtime.
    pub(crate) fn alone(db: Database) -> Store {
        let answers = Arc::new(Answers::default());
        tokio::spawn(Answers::hand_out(answers.clone()));
        Store::Alone(Alone { db, answers })
    }

    /// What is here now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        match self {
            Store::Alone(alone) => alone.db.snapshot(),
            Store::Cluster(node) => node.snapshot(),
        }
    }

    /// A moment that is new enough.
    pub(crate) async fn read(&self, reading: &Reading) -> Result<Snapshot, Failure> {
        let Reading { consistency, min_seq, patience } = *reading;
        let snapshot = match self {
            Store::Alone(alone) => alone.db.snapshot(),
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
            Store::Alone(alone) => Ok(alone.db.changes(since, scope)?),
            Store::Cluster(node) => Ok(node.changes(since, scope)?),
        }
    }

    /// Checks, parses and analyses a write in the caller's thread. In a cluster it may be refused for what this node does not
    /// know yet, see [`Store::catch_up`].
    pub(crate) fn prepare(&self, write: Write) -> Result<Prepared, Failure> {
        match self {
            Store::Alone(alone) => Ok(alone.db.prepare(write)?),
            Store::Cluster(node) => Ok(node.prepare(write)?),
        }
    }

    /// Whether a refusal may be for what this node does not know yet.
    pub(crate) fn may_catch_up(&self) -> bool {
        matches!(self, Store::Cluster(_))
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
        let alone = match self {
            Store::Alone(alone) => alone,
            Store::Cluster(node) => return Ok(node.write(prepared, asked.key, asked.patience).await?),
        };
        decided(propose(alone, prepared, asked.key).await)
    }

    /// Writes what later writes must not overtake, on a thread that may block.
    pub(crate) async fn write_in_turn(&self, prepared: Prepared, patience: Duration) -> InTurn {
        let alone = match self {
            Store::Alone(alone) => alone.clone(),
            Store::Cluster(node) => {
                let written = node.write(prepared, None, patience).await;
                return InTurn::Decided(written.map_err(Failure::from));
            }
        };
        let proposed = tokio::task::spawn_blocking(move || propose(&alone, prepared, None)).await;
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
            Store::Alone(alone) => alone.db.stats(),
            Store::Cluster(node) => node.stats(),
        }
    }
}

fn propose(alone: &Alone, prepared: Prepared, key: Option<[u8; 16]>) -> oneshot::Receiver<Answer> {
    let (sender, receiver) = oneshot::channel();
    let request = key.map_or(Request::None, Request::Key);
    let (answers, proposer) = (alone.answers.clone(), std::thread::current().id());
    alone.db.propose(request, prepared, move |answer| {
        // A lone write is answered while it is proposed: nobody waits for it yet.
        if std::thread::current().id() == proposer {
            let _ = sender.send(answer); // or the caller has gone away
        } else {
            answers.add(sender, answer);
        }
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
