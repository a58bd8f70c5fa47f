//! Reading: how new what is read must be, and waiting until it is.
//!
//! A linearizable read asks the leader at which entry it may be served (ReadIndex; Ongaro, *Consensus*, 2014, 6.4), and the
//! leader asks the voters whether they still follow it. One question is under way at a time and stands for all reads that came
//! before it was sent; those that come later wait for the next one.
//!
//! The voters are asked by a message of our own, not by openraft's heartbeats (`get_read_linearizer`). openraft 0.10.0-alpha.37
//! takes the acknowledgement of entries for one of every request that was sent meanwhile and holds no entry beyond them
//! (`InflightAppendQueue::drain_acked`): a leader that is stopped, replaced, and goes on finds an acknowledgement of before in
//! its socket, sends word of the commit that follows from it, and with the next acknowledgement of before believes that a
//! majority has answered just now. One read in a million was stale by that (`server/tests/linearizable.rs`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::leader::Leader;
use crate::message;
use crate::network::Lane;
use crate::node::{Node, stopped};
use crate::planted::{self, Bug};
use crate::types::{GROUP, LogId, Vote, spawn};

/// How new what is read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// As new as everything that was acknowledged anywhere before the read began.
    Linearizable,
    /// At least as new as this sequence number, which an earlier answer told.
    Session(u64),
    /// At most this much behind.
    Bounded(Duration),
    /// Whatever this node has.
    Eventual,
}

/// Asks for all readers together.
#[derive(Clone)]
pub(crate) struct Barrier {
    queue: mpsc::UnboundedSender<oneshot::Sender<Result<LogId>>>,
    last: Arc<Mutex<Option<Round>>>,
}

/// A question that was answered.
#[derive(Debug, Clone, Copy)]
struct Round {
    sent: Instant,
    id: LogId,
}

impl Barrier {
    /// Starts the task that asks; it ends when the last handle is dropped. No question is waited for longer than `patience`.
    pub(crate) fn start(leader: Leader, patience: Duration) -> Barrier {
        let (queue, mut waiting) = mpsc::unbounded_channel::<oneshot::Sender<Result<LogId>>>();
        let last = Arc::new(Mutex::new(None));
        let (noted, meters) = (last.clone(), leader.meters.clone());
        spawn(async move {
            while let Some(first) = waiting.recv().await {
                let mut all = vec![first];
                while let Ok(next) = waiting.try_recv() {
                    all.push(next);
                }
                let sent = Instant::now();
                let late = |_| Err(Error::NoLeader { reason: "no leader answered in time".into() });
                let answer = tokio::time::timeout(patience, ask(&leader)).await.unwrap_or_else(late);
                if let Ok(id) = answer {
                    meters.read_index.add_since(sent);
                    meters.read_index_shared.add(all.len() as u64);
                    *noted.lock() = Some(Round { sent, id });
                }
                // Who asked may have gone.
                all.into_iter().for_each(|one| drop(one.send(answer.clone())));
            }
        });
        Barrier { queue, last }
    }

    /// At which entry a read that begins now may be served.
    async fn index(&self) -> Result<LogId> {
        let stopped = || Error::Stopped { reason: "the node is shutting down".into() };
        let (sender, answer) = oneshot::channel();
        self.queue.send(sender).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

async fn ask(leader: &Leader) -> Result<LogId> {
    let forwards = &leader.meters.forwarded_reads;
    let here = read_index(leader);
    let asked = leader.have_done(forwards, || message::read_index(GROUP), message::read_indexed, here);
    match asked.await {
        // A read has nothing that could have been done.
        Err(Error::Unknown { reason }) => Err(Error::NoLeader { reason }),
        other => other,
    }
}

/// At which entry a read that begins now may be served, if this node leads.
pub(crate) async fn read_index(leader: &Leader) -> Result<LogId> {
    if planted::is(Bug::ReadWithoutQuorum) {
        let applied = leader.raft.metrics().borrow_watched().last_applied;
        return applied.ok_or_else(|| Error::NoLeader { reason: "nothing is applied".into() });
    }
    let known = leader.raft.with_raft_state(|state| {
        let membership = state.membership_state.effective().membership().clone();
        (*state.vote_ref(), state.cluster_committed().copied(), membership)
    });
    let (vote, committed, membership) = known.await.map_err(stopped)?;
    let not_now = |reason: &str| Error::NoLeader { reason: format!("node {} {reason}", leader.id) };
    if !vote.committed || vote.leader_id.node_id != leader.id {
        return Err(not_now("does not lead"));
    }
    // Until an entry of its own is committed it does not know what else is.
    let is_own = |id: &LogId| (id.leader_id.term, id.leader_id.node_id) == (vote.leader_id.term, leader.id);
    let committed = committed.filter(is_own).ok_or_else(|| not_now("has just begun to lead"))?;
    let request = message::confirm(GROUP, &vote);
    let others = membership.voter_ids().filter(|id| *id != leader.id);
    let mut asked: FuturesUnordered<_> = others
        .filter_map(|id| {
            let member = membership.get_node(&id)?;
            let call = leader.network.transport.call(id, member, Lane::Control, request.clone());
            Some(async move {
                (id, call.await.is_ok_and(|answer| message::read_confirmed(&answer) == Some(true)))
            })
        })
        .collect();
    let mut confirmed = BTreeSet::from([leader.id]);
    let is_majority = |confirmed: &BTreeSet<u64>| {
        let of = |voters: &BTreeSet<u64>| voters.intersection(confirmed).count() > voters.len() / 2;
        membership.get_joint_config().iter().all(of)
    };
    while !is_majority(&confirmed) {
        match asked.next().await {
            Some((id, true)) => _ = confirmed.insert(id),
            Some((_, false)) => {}
            None => return Err(not_now("is not told by enough others that it still leads")),
        }
    }
    Ok(committed)
}

impl Node {
    /// Whether this node still follows the leader of a vote: as long as it does, it has promised nobody else to.
    pub(crate) async fn confirms(&self, vote: Vote) -> Result<bool> {
        let leader = (vote.leader_id.term, vote.leader_id.node_id);
        let confirms = self.inner.raft.with_raft_state(move |state| {
            let own = state.vote_ref();
            (own.leader_id.term, own.leader_id.node_id) == leader
        });
        confirms.await.map_err(stopped)
    }
}

impl Node {
    /// The database at a moment that is as new as asked for, waiting for it at most so long.
    ///
    /// Errors: [`Error::NoLeader`] when nobody could say what is new enough; [`Error::Behind`] when it is known, and not
    /// here in time.
    pub async fn read(&self, consistency: Consistency, patience: Duration) -> Result<lumen::Snapshot> {
        let until = Instant::now() + patience;
        match consistency {
            Consistency::Eventual => {}
            Consistency::Session(_) if planted::is(Bug::TokenIgnored) => {}
            Consistency::Session(seq) => self.wait_for(until, seq, |at| at.seq).await?,
            Consistency::Linearizable => self.barrier(until).await?,
            Consistency::Bounded(most) => {
                let last = *self.inner.barrier.last.lock();
                let applied = self.inner.progress.borrow().entries;
                let is_new_enough = |round: Round| round.sent.elapsed() <= most && applied > round.id.index;
                if !last.is_some_and(is_new_enough) {
                    self.barrier(until).await?;
                }
            }
        }
        Ok(self.snapshot())
    }

    /// Waits until what is read here is at least as new as everything that was acknowledged anywhere before the call.
    pub async fn read_barrier(&self, patience: Duration) -> Result<()> {
        self.barrier(Instant::now() + patience).await
    }

    async fn barrier(&self, until: Instant) -> Result<()> {
        let barrier = &self.inner.barrier;
        let id = match self.inner.leader.insist(until, || barrier.index()).await {
            Err(Error::Unknown { reason }) => return Err(Error::NoLeader { reason }),
            other => other?,
        };
        if planted::is(Bug::ReadBeforeApplied) {
            return Ok(());
        }
        match self.wait_for(until, id.index + 1, |at| at.entries).await {
            // What is missing is told in entries, of which who asks knows nothing.
            Err(Error::Behind { .. }) => Err(Error::Busy { retry_after: Duration::from_secs(1) }),
            reached => reached,
        }
    }

    /// Waits until so much is applied.
    async fn wait_for(&self, until: Instant, wanted: u64, of: impl Fn(&Progress) -> u64) -> Result<()> {
        let mut progress = self.inner.progress.clone();
        let reached = progress.wait_for(|at| of(at) >= wanted);
        match tokio::time::timeout_at(until, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::Stopped { reason: "the node is shutting down".into() }),
            Err(_) => Err(Error::Behind { wanted, has: of(&self.inner.progress.borrow()) }),
        }
    }
}

/// How far the database is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// How many entries of the log are applied.
    pub entries: u64,
    /// The sequence number that reads see.
    pub seq: u64,
}
