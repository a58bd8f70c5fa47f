//! What a node does by itself: letting go of the log that nobody needs, and, if it leads, letting those vote that have caught
//! up and finishing changes that a former leader began.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;

use crate::error::Result;
use crate::membership::last_voters;
use crate::node::{Inner, Node};
use crate::propose::write_error;
use crate::state_machine::Place;
use crate::types::Member;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A node has caught up when it is this many entries behind at most.
const CAUGHT_UP_ENTRIES: u64 = 1000;
/// How often in a row something must be so before it is acted on.
const LOOKS: u32 = 3;
/// How much more log is kept than usual for a follower that answers and is behind.
const LOG_FACTOR_MAX: u64 = 8;

/// What was seen before.
#[derive(Default)]
struct Seen {
    /// A change of members is under way that nobody finishes.
    unfinished: u32,
    /// The node that may vote next, and how often it could.
    candidate: (u64, u32),
}

/// Looks after a node until it is closed.
pub(crate) async fn run(node: Weak<Inner>) {
    let mut seen = Seen::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(inner) = node.upgrade() else { return };
        let node = Node { inner };
        // What fails is tried again at the next look; what failed for good is in the status.
        if let Err(error) = node.let_go().await {
            tracing::debug!(%error, "the log keeps what it has");
        }
        if let Err(error) = node.lead(&mut seen).await {
            tracing::warn!(%error, "the membership stays as it is for now");
        }
    }
}

impl Node {
    /// Lets go of the log that is in the database's files, but for what followers may still want.
    async fn let_go(&self) -> Result<()> {
        let inner = &self.inner;
        let keep = inner.options.keep_log_bytes;
        let Some(mut upto) = inner.log.beyond(keep) else { return Ok(()) };
        // Who is behind gets by log what would otherwise be a transfer of files; and who is getting files, of which nothing is
        // acknowledged before all of them are there, goes on by log from where they end.
        let status = self.status();
        let behind = status.replicated.iter().filter(|(id, _)| **id != status.id);
        let last_needed = behind.map(|(_, at)| at.unwrap_or(0)).min();
        if let Some(needed) = last_needed.filter(|needed| *needed < upto) {
            let most = inner.log.beyond(keep.saturating_mul(LOG_FACTOR_MAX)).unwrap_or(0);
            upto = needed.max(most);
        }
        let durable = Place::decode(&inner.db.durable_position()?)?.applied;
        let upto = upto.min(durable.map_or(0, |id| id.index));
        if Some(upto) > status.purged_index && upto > 0 {
            self.let_go_upto(upto).await?;
        }
        Ok(())
    }

    async fn lead(&self, seen: &mut Seen) -> Result<()> {
        let (membership, is_leader) = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.membership_config.membership().clone(), metrics.current_leader == Some(metrics.id))
        };
        if !is_leader {
            *seen = Seen::default();
            return Ok(());
        }
        if membership.get_joint_config().len() > 1 {
            seen.unfinished += 1;
            if seen.unfinished >= LOOKS {
                let voters = last_voters(&membership);
                tracing::info!(?voters, "finishing a change of members that was begun");
                let change = ChangeMembers::ReplaceAllVoters(voters);
                // Whether those that vote no more were to leave is not known: they stay as learners.
                self.inner.raft.change_membership(change, true).await.map_err(write_error)?;
            }
            return Ok(());
        }
        seen.unfinished = 0;
        let status = self.status();
        let last = status.last_log_index.unwrap_or(0);
        let has_caught_up = |id: &u64| {
            let at = status.replicated.get(id).copied().flatten();
            at.is_some_and(|at| at + CAUGHT_UP_ENTRIES >= last)
        };
        let candidate = status.members.iter().find(|(id, member)| member.joining && has_caught_up(id));
        let Some((id, member)) = candidate else {
            seen.candidate = (0, 0);
            return Ok(());
        };
        let looks = if seen.candidate.0 == *id { seen.candidate.1 + 1 } else { 1 };
        seen.candidate = (*id, looks);
        let mut voters: BTreeSet<u64> = status.voters.iter().copied().collect();
        voters.insert(*id);
        if looks < LOOKS || voters.iter().filter(|id| status.live.contains(id)).count() <= voters.len() / 2 {
            return Ok(());
        }
        tracing::info!(node = id, "it has caught up, and votes from now on");
        let member = Member { joining: false, ..member.clone() };
        let change = ChangeMembers::Batch(vec![
            ChangeMembers::AddVoterIds(BTreeSet::from([*id])),
            ChangeMembers::SetNodes([(*id, member)].into()),
        ]);
        self.inner.raft.change_membership(change, true).await.map(drop).map_err(write_error)
    }
}
