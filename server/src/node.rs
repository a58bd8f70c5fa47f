//! What a running node is made of; the HTTP face and `serve.rs` stand on it side by side.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, Semaphore, watch};

use crate::config::Limits;
use crate::metrics::Metrics;
use crate::peer::client::Peers;
use crate::store::Store;

/// Searches that run at once, for each core: more would only make each slower.
const SEARCHES_PER_CORE: usize = 4;

/// What a node of a cluster has beside its database.
pub(crate) struct ClusterFace {
    /// The node as the others see it.
    pub(crate) raft: lumen_raft::Node,
    /// The connections to them.
    pub(crate) peers: Arc<Peers>,
    /// Addresses of nodes that were given at the start, by number.
    pub(crate) known: BTreeMap<u64, String>,
    /// The cluster's name.
    pub(crate) name: String,
    /// Whether a write that comes here is sent back with the address of the leader.
    pub(crate) redirects: bool,
    /// Told true when no other node is answered any more.
    pub(crate) closing: watch::Sender<bool>,
    /// How many entries it may be behind and still be called ready.
    pub(crate) lag_max: u64,
}

/// One database, what is counted about it, and how it is told to stop.
pub(crate) struct Node {
    /// The documents.
    pub(crate) store: Store,
    /// What a node of a cluster has beside.
    pub(crate) cluster: Option<ClusterFace>,
    /// The counters.
    pub(crate) metrics: Metrics,
    /// Sizes and times to keep to.
    pub(crate) limits: Limits,
    /// Room for searches; the others wait for theirs.
    pub(crate) searches: Semaphore,
    /// Told true when the node stops.
    draining: watch::Sender<bool>,
    recovered: AtomicBool,
    fatal: OnceLock<String>,
    fatal_bell: Notify,
    boot: u32,
    requests: AtomicU64,
}

impl Node {
    /// A node over an open database.
    pub(crate) fn new(store: Store, limits: Limits, cluster: Option<ClusterFace>) -> Node {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        // Tells the requests of one run from those of the next in the logs.
        let boot = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u32);
        Node {
            // Alone, the journal is replayed before anybody is answered.
            recovered: AtomicBool::new(cluster.is_none()),
            metrics: Metrics::new(store.clone()),
            store,
            limits,
            cluster,
            searches: Semaphore::new(cores * SEARCHES_PER_CORE),
            draining: watch::Sender::new(false),
            fatal: OnceLock::new(),
            fatal_bell: Notify::new(),
            boot,
            requests: AtomicU64::new(0),
        }
    }

    /// A name for a request that brings none.
    pub(crate) fn next_request_id(&self) -> String {
        format!("{:08x}-{:x}", self.boot, self.requests.fetch_add(1, Ordering::Relaxed))
    }

    /// Says that the log cannot be trusted any more: the process has to end.
    pub(crate) fn fail(&self, reason: &str) {
        if self.fatal.set(reason.to_string()).is_ok() {
            tracing::error!(reason, "the log failed; stopping");
            self.fatal_bell.notify_one();
        }
    }

    /// Waits until [`Node::fail`] was called, and gives its reason.
    pub(crate) async fn failed(&self) -> String {
        loop {
            if let Some(reason) = self.fatal.get() {
                return reason.clone();
            }
            self.fatal_bell.notified().await;
        }
    }

    /// From now on `/readyz` says no.
    pub(crate) fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Waits until the node stops: for what would go on for ever.
    pub(crate) async fn drains(&self) {
        // The sender lives as long as this does.
        let _ = self.draining.subscribe().wait_for(|drains| *drains).await;
    }

    /// Notes that everything is applied that was committed before the start.
    pub(crate) fn recovered(&self) {
        self.recovered.store(true, Ordering::Relaxed);
    }

    /// Whether everything is applied that was committed before the start.
    pub(crate) fn has_recovered(&self) -> bool {
        self.recovered.load(Ordering::Relaxed)
    }

    /// Whether it takes requests: neither stopping nor failed.
    pub(crate) fn is_ready(&self) -> bool {
        !*self.draining.borrow() && self.fatal.get().is_none()
    }
}
