//! What openraft must know of us. No type of openraft is named outside this crate.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use lumen::{Ack, Prepared};
use openraft::alias;
use parking_lot::Mutex;

use crate::error::{Error, Result};

/// The only group there is so far; records and messages carry its number.
pub(crate) const GROUP: u32 = 0;

openraft::declare_raft_types!(
    /// Our types in openraft's traits.
    pub(crate) TypeConfig:
        D = Proposed,
        R = Applied,
        NodeId = u64,
        Node = Member,
        AsyncRuntime = Runtime,
);

/// What our tasks and openraft's run on; in a simulation, chance follows from a seed.
#[cfg(not(lumen_sim))]
pub(crate) type Runtime = openraft::impls::TokioRuntime;
#[cfg(lumen_sim)]
pub(crate) type Runtime = openraft_rt::deterministic_rng::DeterministicRng<openraft_rt_tokio::TokioRuntime>;

/// Starts a task.
pub(crate) fn spawn<F>(task: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    <Runtime as openraft::AsyncRuntime>::spawn(task)
}

/// Runs what waits for the disk on another thread, where it holds up nobody; here, if the node is to have no threads.
pub(crate) async fn blocking<T: Send + 'static>(
    threaded: bool,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if !threaded {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::Stopped { reason: error.to_string() })?
}

pub(crate) type LogId = alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = alias::VoteOf<TypeConfig>;
pub(crate) type Entry = alias::EntryOf<TypeConfig>;
pub(crate) type LeaderId = alias::CommittedLeaderIdOf<TypeConfig>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Member>;

/// How a member of the cluster is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// Where other nodes reach it, as `host:port`.
    pub raft_addr: String,
    /// Where clients reach it, as an http URL without a path; empty when it is not known.
    pub api_url: String,
    /// Tells the cluster from every other: the same in all its members, and given when it is formed.
    pub cluster: [u8; 16],
    /// Tells the node's data folder from every other; zeros when it is not known.
    pub store: [u8; 16],
    /// It has joined, and is to vote once it has caught up.
    pub joining: bool,
}

/// The payload of an entry: writes of clients, encoded by `lumen::entry`. Clones share the bytes.
#[derive(Clone)]
pub(crate) struct Proposed(pub Bytes, Option<Arc<Mutex<Kept>>>);

/// Writes as they were prepared on this node, so that they need not be read back when they are applied; none of those that
/// came from other nodes.
pub(crate) type Kept = Vec<Option<Prepared>>;

impl Proposed {
    /// Of writes that are known by their bytes alone.
    pub(crate) fn of(bytes: Bytes) -> Proposed {
        Proposed(bytes, None)
    }

    /// Of writes that were prepared here, in the order in which they stand in the bytes.
    pub(crate) fn prepared(bytes: Bytes, kept: Kept) -> Proposed {
        Proposed(bytes, kept.iter().any(Option::is_some).then(|| Arc::new(Mutex::new(kept))))
    }

    /// What was kept of them, once.
    pub(crate) fn take_kept(&self) -> Kept {
        self.1.as_ref().map(|kept| std::mem::take(&mut *kept.lock())).unwrap_or_default()
    }
}

impl PartialEq for Proposed {
    fn eq(&self, other: &Proposed) -> bool {
        self.0 == other.0
    }
}

impl Eq for Proposed {}

impl fmt::Debug for Proposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Proposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the writes of an entry did, in order; empty for an entry without writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Applied(pub Vec<Ack>);
