//! One member of the cluster: takes writes and reads, talks with the others, and keeps its database in step.
//!
//! What it does is in `write`, `read`, `membership`, `answer` and `upkeep`; here is how it begins and ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lumen::Database;
use lumen_engine::log::LogStats;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::{Config, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::answer::Receiving;
use crate::error::{Error, Result};
use crate::expiry;
use crate::inspect::FOLDER;
use crate::leader::Leader;
use crate::log::{LogSetup, LogStore};
use crate::membership::{Change, live};
use crate::message;
use crate::metrics::Meters;
use crate::network::{Network, Transport, TransportError};
use crate::propose::Coalescer;
use crate::read::{Barrier, Progress};
use crate::snapshot::Home;
use crate::state_machine::{Place, StateMachine};
use crate::types::{GROUP, LogId, Member, TypeConfig, blocking, spawn};
use crate::upkeep;
use crate::write::Requests;

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// How long the core may take to note a snapshot, which is there already.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(10);

/// Between two attempts to join.
const JOIN_AGAIN: Duration = Duration::from_millis(500);

/// How soon a leader that is gone is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Milliseconds between signs of life of the leader.
    pub heartbeat_ms: u64,
    /// Milliseconds of silence, at least, before another node stands for election: after `election_ms_max` and a random
    /// time between the two.
    pub election_ms_min: u64,
    /// The same, at most.
    pub election_ms_max: u64,
}

impl Default for Timing {
    /// Another leader after 1.5 to 2 seconds.
    fn default() -> Timing {
        Timing { heartbeat_ms: 150, election_ms_min: 500, election_ms_max: 1000 }
    }
}

impl Timing {
    /// For nodes in one room: another leader after about half a second.
    pub const LAN_FAST: Timing = Timing { heartbeat_ms: 60, election_ms_min: 120, election_ms_max: 250 };
}

/// How a node is set up.
#[derive(Clone)]
pub struct NodeOptions {
    /// Its number, which is never used for another node; or the one it has, or is given when it joins.
    pub id: Option<u64>,
    /// The number it takes if it has none, and joins nobody.
    pub first_id: Option<u64>,
    /// How it is reached.
    pub member: Member,
    /// Addresses of members: a node without a number joins by one of them.
    pub join: Vec<String>,
    /// The folder of the database; the log is in `raft` under it.
    pub dir: PathBuf,
    /// The database.
    pub database: lumen::Options,
    /// When leaders are missed.
    pub timing: Timing,
    /// Bytes of entries kept in memory, for followers and for apply. Default 64 MiB.
    pub tail_bytes: usize,
    /// Bytes of log that are kept, at least, when everything is in the database's files: a follower that was away for a
    /// while then catches up by log. Default 256 MiB.
    pub keep_log_bytes: u64,
}

/// What tells a node from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its number in the cluster; 0 before it has one.
    pub id: u64,
    /// Its data folder.
    pub store: [u8; 16],
    /// Its cluster, if it is in one.
    pub cluster: Option<[u8; 16]>,
}

/// What a node knows of itself and the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its number.
    pub id: u64,
    /// The term it is in.
    pub term: u64,
    /// `leader`, `follower`, `learner` or `candidate`.
    pub state: String,
    /// Who leads, as far as is known here.
    pub leader: Option<u64>,
    /// The last entry of its log.
    pub last_log_index: Option<u64>,
    /// The last entry known to be committed.
    pub committed_index: Option<u64>,
    /// The last entry that is applied.
    pub applied_index: Option<u64>,
    /// The last entry that the log has let go.
    pub purged_index: Option<u64>,
    /// Who votes.
    pub voters: Vec<u64>,
    /// All members.
    pub members: BTreeMap<u64, Member>,
    /// How far the log of each node is that this one replicates to; empty unless it leads.
    pub replicated: BTreeMap<u64, Option<u64>>,
    /// The nodes that have answered this one lately, itself included; of the leader.
    pub live: BTreeSet<u64>,
    /// Why it stopped, if it did.
    pub failure: Option<String>,
}

pub(crate) struct Inner {
    pub id: u64,
    pub options: NodeOptions,
    pub home: Home,
    pub db: Database,
    pub log: LogStore,
    pub raft: Raft,
    pub machine: StateMachine,
    pub leader: Leader,
    /// To this node's log, and to the leader's.
    pub coalescer: Coalescer,
    pub forwarder: Coalescer,
    pub barrier: Barrier,
    pub progress: watch::Receiver<Progress>,
    pub meters: Arc<Meters>,
    /// Until then it votes for nobody: it may have promised a lease in its former life.
    pub guarded_until: Instant,
    pub requests: Mutex<Requests>,
    /// The snapshot that is being received.
    pub receiving: Arc<tokio::sync::Mutex<Option<Receiving>>>,
    /// Held while members are changed here.
    pub changing: tokio::sync::Mutex<()>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Inner {
    /// Ends the tasks that are the node's own.
    pub(crate) fn kill(&self) {
        self.tasks.lock().drain(..).for_each(|task| task.abort());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A node. Clones are the same node.
#[derive(Clone)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

impl Node {
    /// Opens the node's files and joins in. A folder without a log is a node that waits to be told of a cluster; one whose
    /// database kept its own log until now keeps what it holds, and becomes the first node of a new cluster.
    ///
    /// To be called on a tokio runtime, on which the node's tasks then run.
    pub async fn open(options: NodeOptions, transport: Arc<dyn Transport>) -> Result<Node> {
        let home = Home::of(&options.dir, &options.database);
        let db = Database::open_replica(&options.dir, options.database.clone())?;
        let setup = LogSetup::of(&db, &options.database, options.tail_bytes);
        let log = LogStore::open(&options.dir.join(FOLDER), setup)?;
        let store = db.id();
        transport.introduce(Arc::new(move || Identity { id: 0, store, cluster: None }));
        let id = match (options.id, log.node()) {
            (Some(wanted), Some(id)) if wanted != id => return Err(Error::OtherNode { wanted, id }),
            (_, Some(id)) => id,
            (given, None) => {
                let id = match given.or(options.first_id) {
                    Some(id) if options.join.is_empty() => id,
                    _ if log.has_base() => return Err(holds_data()),
                    _ => join(&options, given, store, &*transport).await?,
                };
                log.set_node(id)?;
                id
            }
        };
        let machine = StateMachine::new(db.clone(), home.clone(), log.meters().clone())?;
        replay(&log, &machine, log.committed().map_or(0, |committed| committed.index + 1))?;
        let config = config(&options.timing)?;
        let network = Network::new(transport.clone(), GROUP, home.threaded);
        let timing = options.timing;
        let raft = Raft::new(id, config.into(), network.clone(), log.clone(), machine.clone()).await;
        let raft = raft.map_err(stopped)?;
        let meters = log.meters().clone();
        let leader = Leader { raft: raft.clone(), network, id, meters: meters.clone() };
        // Nobody else could have heard a promise of a node that votes alone. The core itself is asked: what it shows of itself is
        // empty until it has begun.
        let voters = raft
            .with_raft_state(|state| state.membership_state.effective().voter_ids().collect::<Vec<u64>>())
            .await
            .map_err(stopped)?;
        let alone = voters.iter().all(|voter| *voter == id);
        let guard = Duration::from_millis(if alone { 0 } else { timing.election_ms_max });
        let inner = Arc::new(Inner {
            guarded_until: Instant::now() + guard,
            requests: Mutex::new(Requests::new(id, log.boot())),
            receiving: Arc::default(),
            changing: tokio::sync::Mutex::default(),
            coalescer: Coalescer::to_log(raft.clone(), options.database.clock, meters.clone()),
            forwarder: Coalescer::to_leader(leader.clone()),
            barrier: Barrier::start(leader.clone(), Duration::from_millis(timing.election_ms_max)),
            progress: machine.progress(),
            meters,
            tasks: Mutex::default(),
            id,
            home,
            db,
            log,
            raft: raft.clone(),
            machine,
            leader,
            options,
        });
        let weak = Arc::downgrade(&inner);
        transport.introduce(Arc::new(move || {
            let cluster = weak.upgrade().and_then(|inner| Node { inner }.cluster());
            Identity { id, store, cluster }
        }));
        let elections = spawn(async move {
            tokio::time::sleep(guard).await;
            raft.runtime_config().elect(true);
        });
        let upkeep = spawn(upkeep::run(Arc::downgrade(&inner)));
        let expiry = spawn(expiry::run(Arc::downgrade(&inner)));
        let tasks = [elections.abort_handle(), upkeep.abort_handle(), expiry.abort_handle()];
        inner.tasks.lock().extend(tasks);
        Ok(Node { inner })
    }

    /// The database, to read from. What is in it may be behind the cluster: see [`Node::read`].
    pub fn snapshot(&self) -> lumen::Snapshot {
        self.inner.db.snapshot()
    }

    /// How this node is reached, as it was set up.
    pub fn member(&self) -> Member {
        Member { store: self.inner.db.id(), ..self.inner.options.member.clone() }
    }

    /// Counters of the database.
    pub fn stats(&self) -> lumen::Stats {
        self.inner.db.stats()
    }

    /// Who leads, as far as is known here, and how it is reached.
    pub fn leader(&self) -> Option<(u64, Member)> {
        self.inner.leader.now()
    }

    /// Flushes the database, and lets the log go of what is in its files then, but for the last `keep` entries.
    pub async fn purge(&self, keep: u64) -> Result<()> {
        let db = self.inner.db.clone();
        self.blocking(move || Ok(db.flush()?)).await?;
        let place = Place::decode(&self.inner.db.durable_position()?)?;
        match place.applied.and_then(|applied| applied.index.checked_sub(keep)) {
            Some(upto) => self.let_go_upto(upto).await,
            None => Ok(()),
        }
    }

    /// Lets the log go of what comes up to an entry, which must be in the database's files.
    pub(crate) async fn let_go_upto(&self, upto: u64) -> Result<()> {
        let raft = &self.inner.raft;
        // The core lets nothing go that it does not know to be in a snapshot.
        raft.trigger().snapshot().await.map_err(stopped)?;
        let is_known =
            |metrics: &openraft::RaftMetrics<TypeConfig>| metrics.snapshot.is_some_and(|id| id.index >= upto);
        let wait = raft.wait(Some(SNAPSHOT_PATIENCE));
        let waited = wait.metrics(is_known, "the snapshot is known").await;
        waited.map_err(|error| Error::Stopped { reason: error.to_string() })?;
        raft.trigger().purge_log(upto).await.map_err(stopped)
    }

    /// Runs what waits for the disk where that holds up nobody.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        blocking(self.inner.home.threaded, work).await
    }

    /// Counters of the log.
    pub fn log_stats(&self) -> LogStats {
        self.inner.log.stats()
    }

    /// What it knows.
    pub fn status(&self) -> Status {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: &Option<LogId>| id.map(|id| id.index);
        let membership = metrics.membership_config.membership();
        let replicated = metrics.replication.iter().flatten().map(|(id, at)| (*id, index(at)));
        Status {
            id: metrics.id,
            term: metrics.current_term,
            state: format!("{:?}", metrics.state).to_lowercase(),
            leader: metrics.current_leader,
            last_log_index: metrics.last_log_index,
            committed_index: index(&metrics.local_committed),
            applied_index: index(&metrics.last_applied),
            purged_index: index(&metrics.purged),
            voters: membership.voter_ids().collect(),
            members: membership.nodes().map(|(id, member)| (*id, member.clone())).collect(),
            replicated: replicated.collect(),
            live: live(&metrics, self.recent()),
            failure: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// Returns when the node has stopped by itself, and says why: it must be closed then and opened anew.
    pub async fn stopped(&self) -> String {
        // Those of the server: what else is measured changes with every entry. They end with the core.
        let mut metrics = self.inner.raft.server_metrics();
        while metrics.changed().await.is_ok() {}
        self.status().failure.unwrap_or_else(|| "its core has ended".into())
    }

    /// Waits until everything is applied that was known to be committed when it started, so that nobody reads what is older
    /// than what it showed in its former life. False when that takes longer than `patience`.
    pub async fn recovered(&self, patience: Duration) -> bool {
        self.inner.raft.wait_for_recovery(Some(patience)).await.is_ok()
    }

    /// Stops taking part, flushes and closes the files.
    pub async fn close(&self) -> Result<()> {
        self.inner.kill();
        // A core that has failed has nothing to add to what is known of it.
        let _ = self.inner.raft.shutdown().await;
        let (db, log) = (self.inner.db.clone(), self.inner.log.clone());
        self.blocking(move || {
            db.close()?;
            log.close()
        })
        .await
    }
}

/// Whoever follows others has what they have, and nothing else.
pub(crate) fn holds_data() -> Error {
    let reason = "this node holds data of its own, which would be lost: the others can join it instead";
    Error::Membership { reason: reason.into() }
}

/// What an error of openraft's core means: it has stopped.
pub(crate) fn stopped(fatal: Fatal<TypeConfig>) -> Error {
    Error::Stopped { reason: fatal.to_string() }
}

/// Joins a cluster by one of its members, and asks until one answers; what is answered is the number of this node.
async fn join(
    options: &NodeOptions,
    id: Option<u64>,
    store: [u8; 16],
    transport: &dyn Transport,
) -> Result<u64> {
    let request =
        message::change(GROUP, &Change::Join { id, member: Member { store, ..options.member.clone() } });
    if options.join.is_empty() {
        return Err(Error::Membership {
            reason: "this node has no number, and no address to join a cluster by".into(),
        });
    }
    loop {
        for address in &options.join {
            let answer = match transport.call_address(address, request.clone()).await {
                Ok(answer) => message::read_changed(&answer),
                Err(TransportError::Refused(reason)) => {
                    return Err(Error::Membership { reason: format!("{address} refused: {reason}") });
                }
                Err(error) => Some(Err(Error::NoLeader { reason: error.to_string() })),
            };
            match answer {
                Some(Ok(id)) => return Ok(id),
                Some(Err(error @ Error::Membership { .. })) => return Err(error),
                Some(Err(error)) => tracing::info!(address, %error, "cannot join yet"),
                None => tracing::warn!(address, "it gave a malformed answer"),
            }
        }
        tokio::time::sleep(JOIN_AGAIN).await;
    }
}

/// Applies what comes before entry `end` and is not in the database's files, in large groups (openraft would in groups of 64).
pub(crate) fn replay(log: &LogStore, machine: &StateMachine, end: u64) -> Result<()> {
    let next = machine.place().applied.map_or(0, |applied| applied.index + 1);
    let (first, _) = log.entries();
    if next < first && next < end {
        let reason = format!("it begins at entry {first}, but the tables end before entry {next}");
        return Err(Error::Corrupt { file: "the replicated log".into(), offset: 0, reason });
    }
    log.walk(next, end, &mut |entries| machine.apply_all(&entries).map(drop))
}

fn config(timing: &Timing) -> Result<Config> {
    let config = Config {
        cluster_name: "lumen".into(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_ms_min,
        election_timeout_max: timing.election_ms_max,
        enable_pre_vote: Some(true),
        // Until the guard is over, see `Node::open`.
        enable_elect: false,
        // Neither the state machine nor the commit is durable at every moment.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        quorum_loss_probe_interval: Some(2 * timing.election_ms_max),
        max_payload_entries: 1024,
        // Snapshots and purges follow the flushes of the database.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        purge_batch_size: 1,
        install_snapshot_timeout: 600_000,
        replication_lag_threshold: 1000,
        ..Config::default()
    };
    config.validate().map_err(|error| Error::Io { reason: format!("the timing makes no sense: {error}") })
}
