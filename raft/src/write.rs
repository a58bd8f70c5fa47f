//! Writing: a write goes to whoever leads, with a name by which it takes effect once however often it is sent.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use lumen::{Ack, NodeRequest, Prepared, Request};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::node::Node;
use crate::planted::{self, Bug};

/// The requests of one life of a node.
pub(crate) struct Requests {
    node: u64,
    boot: u64,
    next: u64,
    /// Those that have no answer yet.
    open: BTreeSet<u64>,
}

impl Requests {
    /// None yet.
    pub(crate) fn new(node: u64, boot: u64) -> Requests {
        Requests { node, boot, next: 1, open: BTreeSet::new() }
    }

    fn begin(&mut self) -> NodeRequest {
        let number = self.next;
        self.next += 1;
        self.open.insert(number);
        let below = self.open.first().copied().unwrap_or(number);
        NodeRequest { node: self.node, boot: self.boot, number, below }
    }
}

/// Ends a request, also when whoever waited for it has gone.
struct Open<'a> {
    node: &'a Node,
    number: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.node.inner.requests.lock().open.remove(&self.number);
    }
}

impl Node {
    /// Checks a write and prepares it to be proposed.
    pub fn prepare(&self, write: lumen::Write) -> Result<Prepared> {
        Ok(self.inner.db.prepare(write)?)
    }

    /// Has a write committed, and applied where the leader is, through elections if need be, within `patience`. With a
    /// `key`, a write that was done before under that key is not done again.
    ///
    /// Errors: [`NoLeader`](crate::Error::NoLeader) when nothing was handed to a log; [`Unknown`](crate::Error::Unknown)
    /// when the time ran out after that; [`Busy`](crate::Error::Busy) when too much is under way.
    pub async fn write(
        &self,
        mut prepared: Prepared,
        key: Option<[u8; 16]>,
        patience: Duration,
    ) -> Result<Ack> {
        let until = Instant::now() + patience;
        let write = Bytes::from(prepared.take_payload());
        let Some(key) = key else {
            let request = self.inner.requests.lock().begin();
            let _open = Open { node: self, number: request.number };
            return self.send(Request::Node(request), write, prepared, until).await;
        };
        self.send(Request::Key(key), write, prepared, until).await
    }

    async fn send(&self, request: Request, write: Bytes, prepared: Prepared, until: Instant) -> Result<Ack> {
        let leader = &self.inner.leader;
        // Of use to this node's log alone, and once: an attempt that fails may have taken it there.
        let mut prepared = Some(prepared);
        let attempt = || {
            let (write, prepared) = (write.clone(), prepared.take());
            let request = match request {
                _ if planted::is(Bug::WritesWithoutNames) => Request::None,
                Request::Node(_) if planted::is(Bug::AsksUnderAnotherName) => {
                    Request::Node(self.inner.requests.lock().begin())
                }
                request => request,
            };
            async move {
                match leader.number() {
                    Some(id) if id == leader.id => self.write_here(request, write, prepared).await,
                    Some(_) => self.inner.forwarder.write(request, write, None).await,
                    None => Err(Error::NoLeader { reason: "none is known here".into() }),
                }
            }
        };
        leader.insist(until, attempt).await
    }

    /// Hands a write to this node's log, if it leads.
    pub(crate) async fn write_here(
        &self,
        request: Request,
        write: Bytes,
        prepared: Option<Prepared>,
    ) -> Result<Ack> {
        let refused = || self.inner.meters.writes_refused.add(1);
        self.inner.db.admits().inspect_err(|_| refused())?;
        let done = self.inner.coalescer.write(request, write, prepared).await;
        if matches!(done, Err(Error::Busy { .. })) {
            refused();
        }
        done
    }
}
