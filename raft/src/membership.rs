//! Who is in the cluster: forming it, joining it, leaving it, and handing leadership over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lumen_engine::options::random_id;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::{ChangeMembers, Instant as _};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::message;
use crate::network::TransportError;
use crate::node::{Node, holds_data, stopped};
use crate::propose::write_error;
use crate::types::{GROUP, Member, Membership, TypeConfig};

type Metrics = openraft::RaftMetrics<TypeConfig>;

/// How often a node is asked to lead before it is said not to.
const TRANSFER_ATTEMPTS: u32 = 5;

/// A change of who is in the cluster, or who leads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A node follows without voting.
    Learner {
        /// Its number.
        id: u64,
        /// How it is reached.
        member: Member,
    },
    /// These vote, and no others.
    Voters {
        /// Who.
        voters: BTreeSet<u64>,
        /// Whether those that no longer do stay as learners.
        retain: bool,
    },
    /// A node gets a number, follows, and votes once it has caught up.
    Join {
        /// The number it has already, if it has one.
        id: Option<u64>,
        /// How it is reached.
        member: Member,
    },
    /// A node leaves.
    Remove {
        /// Which.
        id: u64,
    },
    /// Another node leads.
    Transfer {
        /// Which; or whoever is furthest of those that vote.
        to: Option<u64>,
    },
}

impl Node {
    /// Forms a cluster of these members; this node must be one of them, and none may have been in a cluster before. A node
    /// that holds data forms it alone, and others join.
    pub async fn initialize(&self, mut members: BTreeMap<u64, Member>) -> Result<()> {
        let inner = &self.inner;
        if inner.log.has_base() && members.len() > 1 {
            let reason = "a node that holds data forms a cluster alone; the others join it then";
            return Err(Error::Membership { reason: reason.into() });
        }
        let cluster = random_id(inner.options.database.random);
        members.values_mut().for_each(|member| member.cluster = cluster);
        if let Some(me) = members.get_mut(&inner.id) {
            me.store = inner.db.id();
        }
        match inner.raft.initialize(members).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Err(Error::AlreadyInitialized),
            Err(RaftError::APIError(error)) => Err(Error::Membership { reason: error.to_string() }),
            Err(RaftError::Fatal(fatal)) => Err(stopped(fatal)),
        }
    }

    /// Joins the cluster that a node at this address is a member of, within `patience`. Only of a node that is in none.
    pub async fn join(&self, address: &str, patience: Duration) -> Result<()> {
        if self.cluster().is_some() {
            return Err(Error::AlreadyInitialized);
        }
        if self.inner.log.has_base() {
            return Err(holds_data());
        }
        let member = Member { store: self.inner.db.id(), ..self.inner.options.member.clone() };
        let request = message::change(GROUP, &Change::Join { id: Some(self.inner.id), member });
        let asked = tokio::time::timeout(
            patience,
            self.inner.leader.network.transport.call_address(address, request),
        );
        let late = |_| TransportError::Broken(format!("within {patience:?}"));
        let answer = asked.await.map_err(late).and_then(|answer| answer);
        let answer = answer.map_err(|error| Error::Membership { reason: format!("{address} {error}") })?;
        let malformed = || Error::Membership { reason: format!("{address} gave a malformed answer") };
        message::read_changed(&answer).ok_or_else(malformed)?.map(drop)
    }

    /// Has another node lead, if this one does and another can, so that nobody misses it when it stops.
    pub async fn hand_over(&self) {
        if self.inner.leader.now().is_some_and(|(leader, _)| leader == self.inner.id) {
            if let Err(error) = self.transfer_leader(None).await {
                tracing::info!(%error, "leadership was not handed over");
            }
        }
    }

    /// Makes a change, wherever the leader is, within `patience`; answers the number of the node that has joined, or 0.
    ///
    /// Errors: [`Error::Membership`] when it cannot be made, or would leave fewer voters that answer than are needed.
    pub async fn change(&self, change: Change, patience: Duration) -> Result<u64> {
        let until = Instant::now() + patience;
        let leader = &self.inner.leader;
        let first = leader.now().map(|(id, _)| id);
        let attempt = || async {
            // That another node leads is all that was asked for: it may be told by nobody but that node.
            let now = leader.now().map(|(id, _)| id);
            match &change {
                Change::Transfer { to: None } if first.is_some() && now.is_some() && now != first => {
                    return Ok(0);
                }
                Change::Transfer { to: Some(to) } if now == Some(*to) => return Ok(0),
                _ => {}
            }
            let done = leader.have_done(
                &leader.meters.forwarded_changes,
                || message::change(GROUP, &change),
                message::read_changed,
                self.change_here(change.clone()),
            );
            match done.await {
                // It is tried again as if there were no leader: until another change is through, there is none for this one.
                Err(Error::Busy { .. }) => {
                    Err(Error::NoLeader { reason: "it is busy with another change of members".into() })
                }
                done => done,
            }
        };
        leader.insist(until, attempt).await
    }

    /// Makes a change, if this node leads.
    pub(crate) async fn change_here(&self, change: Change) -> Result<u64> {
        // One at a time, or two nodes that join could be given the same number.
        let _alone = self.inner.changing.lock().await;
        // Only who leads knows who answers.
        let leader = self.inner.leader.now().map(|(id, _)| id);
        if leader != Some(self.inner.id) {
            return Err(Error::NotLeader { leader });
        }
        match change {
            Change::Learner { id, member } => {
                self.check_unused(id, &member)?;
                self.add_or_move(id, member).await?;
            }
            Change::Join { id: Some(id), member } => {
                self.check_unused(id, &member)?;
                self.add_or_move(id, Member { joining: true, ..member }).await?;
                return Ok(id);
            }
            Change::Join { id: None, member } => {
                let members = self.status().members;
                // It asks again: it got its number the last time.
                if let Some((id, _)) = members.iter().find(|(_, known)| known.store == member.store) {
                    return Ok(*id);
                }
                let used = self.inner.machine.place().used;
                let id = used.last().copied().max(members.keys().last().copied()).unwrap_or(0) + 1;
                self.add(id, Member { joining: true, ..member }).await?;
                return Ok(id);
            }
            Change::Voters { voters, retain } => {
                self.check_quorum(&voters).await?;
                let change = ChangeMembers::ReplaceAllVoters(voters);
                self.inner.raft.change_membership(change, retain).await.map_err(write_error)?;
            }
            Change::Remove { id } => self.remove(id).await?,
            Change::Transfer { to } => self.transfer_leader(to).await?,
        }
        Ok(0)
    }

    /// Adds a member; of one that there is, notes where it is reached now.
    async fn add_or_move(&self, id: u64, member: Member) -> Result<()> {
        let Some(known) = self.status().members.remove(&id) else { return self.add(id, member).await };
        if (&known.raft_addr, &known.api_url) == (&member.raft_addr, &member.api_url) {
            return Ok(());
        }
        let store = if known.store == [0; 16] { member.store } else { known.store };
        let moved = Member { raft_addr: member.raft_addr, api_url: member.api_url, store, ..known };
        let change = ChangeMembers::SetNodes([(id, moved)].into());
        self.inner.raft.change_membership(change, true).await.map(drop).map_err(write_error)
    }

    async fn add(&self, id: u64, member: Member) -> Result<()> {
        if self.inner.log.has_base() {
            // What the database held before there was a log goes to others by files only.
            self.purge(0).await?;
            let gone = |metrics: &Metrics| metrics.purged.is_some();
            let wait = self.inner.raft.wait(Some(Duration::from_secs(60)));
            wait.metrics(gone, "the log begins later")
                .await
                .map_err(|error| Error::Membership { reason: error.to_string() })?;
        }
        let cluster = self.cluster().unwrap_or_default();
        let member = Member { cluster, ..member };
        self.inner.raft.add_learner(id, member, false).await.map(drop).map_err(write_error)
    }

    /// Numbers are not given twice: a node of the same number that comes back without its files has forgotten its votes.
    fn check_unused(&self, id: u64, member: &Member) -> Result<()> {
        let refuse = |reason: String| Err(Error::Membership { reason });
        let known = self.status().members;
        match known.get(&id) {
            Some(known)
                if known.store != member.store && known.store != [0; 16] && member.store != [0; 16] =>
            {
                refuse(format!(
                    "node {id} is a member with another data folder; remove it, and add a node of another number"
                ))
            }
            None if self.inner.machine.place().used.contains(&id) => {
                refuse(format!("there was a node {id} before; a number is not used again"))
            }
            _ => Ok(()),
        }
    }

    async fn remove(&self, id: u64) -> Result<()> {
        let status = self.status();
        if !status.members.contains_key(&id) {
            return Ok(()); // it is gone already
        }
        let mut voters: BTreeSet<u64> = status.voters.iter().copied().collect();
        let change = if voters.remove(&id) {
            if voters.is_empty() {
                return Err(Error::Membership { reason: format!("node {id} is the only one that votes") });
            }
            self.check_quorum(&voters).await?;
            if id == self.inner.id {
                // The next leader does it.
                self.transfer_leader(None).await?;
                return Err(Error::NotLeader { leader: self.status().leader });
            }
            ChangeMembers::RemoveVoters(BTreeSet::from([id]))
        } else {
            ChangeMembers::RemoveNodes(BTreeSet::from([id]))
        };
        self.inner.raft.change_membership(change, false).await.map(drop).map_err(write_error)
    }

    /// Whether more than half of these answer: with fewer, nothing could be written or changed any more. Who has just begun to
    /// lead may not have heard of them yet, so it waits for a while.
    async fn check_quorum(&self, voters: &BTreeSet<u64>) -> Result<()> {
        let recent = self.recent();
        let answer = |metrics: &Metrics| {
            let live = live(metrics, recent);
            voters.iter().filter(|id| live.contains(id)).count() > voters.len() / 2
        };
        if self.inner.raft.wait(Some(recent)).metrics(answer, "a quorum answers").await.is_ok() {
            return Ok(());
        }
        let live = self.status().live;
        let silent: Vec<u64> = voters.iter().filter(|id| !live.contains(id)).copied().collect();
        let reason = format!("of the {} nodes that would vote, {silent:?} do not answer", voters.len());
        Err(Error::Membership { reason })
    }

    /// For how long a node that has answered is taken to be there.
    pub(crate) fn recent(&self) -> Duration {
        Duration::from_millis(2 * self.inner.options.timing.election_ms_max)
    }

    /// Has another node lead, and waits until it does. Only of the leader.
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<()> {
        let me = self.inner.id;
        if to == Some(me) {
            return Ok(());
        }
        // Who has just begun to lead has heard of nobody yet.
        let recent = self.recent();
        let answers = |metrics: &Metrics| {
            let (live, voters) = (live(metrics, recent), metrics.membership_config.membership().voter_ids());
            to.map_or_else(
                || voters.into_iter().any(|id| id != me && live.contains(&id)),
                |to| live.contains(&to),
            )
        };
        // If nobody does, that is told below.
        let _ = self.inner.raft.wait(Some(recent)).metrics(answers, "it answers").await;
        let status = self.status();
        let others = status.voters.iter().filter(|id| **id != me);
        let furthest = others
            .filter(|id| status.live.contains(id))
            .max_by_key(|id| status.replicated.get(id).copied().flatten());
        let Some(to) = to.or(furthest.copied()) else {
            return Err(Error::Membership { reason: "no other node that votes answers".into() });
        };
        if !status.voters.contains(&to) {
            return Err(Error::Membership { reason: format!("node {to} does not vote") });
        }
        if !status.live.contains(&to) {
            return Err(Error::Membership { reason: format!("node {to} does not answer") });
        }
        // Who is not quite as far as this node declines, and is a moment later.
        let patience = Duration::from_millis(self.inner.options.timing.election_ms_max);
        for _ in 0..TRANSFER_ATTEMPTS {
            self.inner.raft.trigger().transfer_leader(to).await.map_err(stopped)?;
            let leads = move |metrics: &Metrics| metrics.current_leader.is_some_and(|id| id != me);
            let waited = self.inner.raft.wait(Some(patience)).metrics(leads, "another node leads").await;
            if waited.is_ok() {
                return Ok(());
            }
        }
        let waited = patience * TRANSFER_ATTEMPTS;
        Err(Error::Membership { reason: format!("node {to} has not taken over in {waited:?}") })
    }

    /// What tells the cluster from every other; `None` before it is formed.
    pub fn cluster(&self) -> Option<[u8; 16]> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().nodes().next().map(|(_, member)| member.cluster)
    }
}

/// This node, and those that have answered it in the `recent` past; of the leader.
pub(crate) fn live(metrics: &Metrics, recent: Duration) -> BTreeSet<u64> {
    let heard = metrics.heartbeat.iter().flatten();
    let heard = heard.filter(|(_, at)| at.is_some_and(|at| at.elapsed() <= recent)).map(|(id, _)| *id);
    heard.chain([metrics.id]).collect()
}

/// The voters that a membership ends up with when a change that is under way is done.
pub(crate) fn last_voters(membership: &Membership) -> BTreeSet<u64> {
    membership.get_joint_config().last().cloned().unwrap_or_default()
}
