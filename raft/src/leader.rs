//! Who leads, and having something done there: here if this node leads, otherwise by asking the node that does, and asking
//! again as long as there is time when another one takes over.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::metrics::{Counter, Meters};
use crate::network::{Lane, Network, TransportError};
use crate::node::Raft;
use crate::types::Member;

/// How long news of a leader is waited for before asking again all the same.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// What is known of the leader.
#[derive(Clone)]
pub(crate) struct Leader {
    pub raft: Raft,
    pub network: Network,
    /// This node.
    pub id: u64,
    pub meters: Arc<Meters>,
}

impl Leader {
    /// Who leads, as far as is known here, and how it is reached.
    pub(crate) fn now(&self) -> Option<(u64, Member)> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader?;
        let member = metrics.membership_config.get_node(&leader)?.clone();
        Some((leader, member))
    }

    /// The number of the node that leads, as far as is known here.
    pub(crate) fn number(&self) -> Option<u64> {
        self.raft.server_metrics().borrow_watched().current_leader
    }

    /// A member, if there is one of this number.
    pub(crate) fn member(&self, id: u64) -> Option<Member> {
        let metrics = self.raft.server_metrics();
        metrics.borrow_watched().membership_config.get_node(&id).cloned()
    }

    /// Returns when `leader` does not lead any more, as far as is known here; never if the node stops.
    async fn is_replaced(&self, leader: u64) {
        // Those of the server: what else is measured changes with every entry.
        let mut metrics = self.raft.server_metrics();
        while metrics.borrow_watched().current_leader == Some(leader) {
            if metrics.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Has `here` done if this node leads; otherwise asks the leader by `request`, until another one leads, and notes
    /// that in `forwards`.
    pub(crate) async fn have_done<T>(
        &self,
        forwards: &Counter,
        request: impl FnOnce() -> Bytes,
        read: impl FnOnce(&Bytes) -> Option<Result<T>>,
        here: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let (leader, member) =
            self.now().ok_or_else(|| Error::NoLeader { reason: "none is known here".into() })?;
        if leader == self.id {
            return here.await;
        }
        forwards.add(1);
        // Whatever goes wrong from here on: it may have been done before.
        let unknown = |reason: String| Error::Unknown { reason: format!("node {leader} {reason}") };
        tokio::select! {
            answer = self.network.transport.call(leader, &member, Lane::Control, request()) => match answer {
                Ok(answer) => match read(&answer) {
                    // It is going, and took nothing: the next leader will.
                    Some(Err(Error::Stopped { reason })) => Err(Error::NoLeader { reason: format!("node {leader}: {reason}") }),
                    Some(done) => done,
                    None => Err(unknown("gave a malformed answer".into())),
                },
                Err(error @ TransportError::Unreachable(_)) => Err(Error::NoLeader { reason: format!("node {leader} {error}") }),
                Err(error) => Err(unknown(error.to_string())),
            },
            () = self.is_replaced(leader) => Err(unknown("does not lead any more".into())),
        }
    }

    /// Tries until it is done or refused, or the time is up.
    ///
    /// Errors: [`Error::NoLeader`] when it was certainly not done; [`Error::Unknown`] when it may have been.
    pub(crate) async fn insist<T, F>(&self, until: Instant, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut unknown: Option<Error> = None;
        loop {
            // What changes from here on is news; a receiver begins with what changed before.
            let mut metrics = self.raft.server_metrics();
            let _ = metrics.changed().now_or_never();
            let reason = match tokio::time::timeout_at(until, attempt()).await {
                Ok(Err(Error::NotLeader { leader })) => match leader {
                    Some(leader) => format!("it is with node {leader}, which was not reached in time"),
                    None => "there was none in time".into(),
                },
                Ok(Err(Error::NoLeader { reason })) => reason,
                Ok(Err(error @ Error::Unknown { .. })) => {
                    unknown = Some(error);
                    String::new()
                }
                // The first time it may have been taken: then it is not certain that nothing was written.
                Ok(Err(Error::Busy { retry_after })) if unknown.is_some() => {
                    let again = (Instant::now() + retry_after).min(until);
                    tokio::time::sleep_until(again).await;
                    String::new()
                }
                // Nor is it certain whatever comes after that, as long as it is not done.
                Ok(Err(_)) if unknown.is_some() => String::new(),
                Ok(result) => return result,
                Err(_) => {
                    let late = || Error::Unknown { reason: "there was no answer in time".into() };
                    return Err(unknown.unwrap_or_else(late));
                }
            };
            if Instant::now() + ASK_AGAIN >= until {
                return Err(unknown.unwrap_or(Error::NoLeader { reason }));
            }
            // After a while it is asked again in any case; a node that has stopped hears nothing any more.
            if let Ok(Err(_)) = tokio::time::timeout(ASK_AGAIN, metrics.changed()).await {
                let stopped = || Error::Stopped { reason: "the node has ended meanwhile".into() };
                return Err(unknown.unwrap_or_else(stopped));
            }
        }
    }
}
