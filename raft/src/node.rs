//! One member of the cluster: takes writes and reads, talks with the others, and keeps its database in step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use lumen::{Ack, Database, NodeRequest, Prepared, Request};
use lumen_engine::log::LogStats;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::raft::linearizable_read::Linearizer;
use openraft::{ChangeMembers, Config, ReadPolicy, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::log_store::{LogSetup, LogStore};
use crate::message;
use crate::network::{Answers, Lane, Network, Transport, TransportError};
use crate::propose::{Coalescer, write_error};
use crate::snapshot::{Home, SnapshotData};
use crate::state_machine::StateMachine;
use crate::transfer::{self, Staging};
use crate::types::{LogId, Member, TypeConfig};

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// The only group there is so far; records and messages carry its number.
const GROUP: u32 = 0;
/// How long a request waits before it asks again who leads.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// Requests to a node whose answers have not come, at most, in one stream.
const STREAM_REQUESTS_MAX: usize = 64;

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
    /// Its number, which is never used for another node.
    pub id: u64,
    /// The folder of the database; the log is in `raft` under it.
    pub dir: PathBuf,
    /// The database.
    pub database: lumen::Options,
    /// When leaders are missed.
    pub timing: Timing,
    /// Bytes of entries kept in memory, for followers and for apply. Default 64 MiB.
    pub tail_bytes: usize,
    /// Which life of this node it is: larger than in any life before.
    pub boot: u64,
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
    /// Why it stopped, if it did.
    pub failure: Option<String>,
}

struct Inner {
    options: NodeOptions,
    home: Home,
    db: Database,
    log: LogStore,
    raft: Raft,
    network: Network,
    coalescer: Coalescer,
    /// Until then it votes for nobody: it may have promised a lease in its former life.
    guarded_until: Instant,
    /// Requests of this life that have no answer yet, and the next number.
    requests: Mutex<(BTreeSet<u64>, u64)>,
    /// What is being received: digest, manifest, where.
    receiving: tokio::sync::Mutex<Option<(u64, Bytes, Staging)>>,
}

/// A node. Clones are the same node.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

impl Node {
    /// Opens the node's files and joins in. A folder without a log is a node that waits to be told of a cluster.
    ///
    /// To be called on a tokio runtime, on which the node's tasks then run.
    pub async fn open(options: NodeOptions, transport: Arc<dyn Transport>) -> Result<Node> {
        let home = Home { vfs: options.database.vfs.clone(), dir: options.dir.clone() };
        let db = Database::open_replica(&options.dir, options.database.clone())?;
        let setup = LogSetup {
            vfs: home.vfs.clone(),
            segment_bytes: options.database.segment_bytes,
            tail_bytes: options.tail_bytes,
            uuid: db.id(),
            threaded: options.database.threads > 0,
            random: options.database.random,
        };
        let log = LogStore::open(&options.dir.join("raft"), setup)?;
        let machine = StateMachine::new(db.clone(), home.clone())?;
        replay(&log, &machine)?;
        let config = config(&options.timing)?;
        let network = Network { transport, group: GROUP };
        let raft = Raft::new(options.id, config.into(), network.clone(), log.clone(), machine).await;
        let raft = raft.map_err(|fatal| Error::Stopped { reason: fatal.to_string() })?;
        let coalescer = Coalescer::start(raft.clone(), options.database.clock);
        // Nobody else could have heard a promise of a node that votes alone.
        let alone = raft.voter_ids().all(|id| id == options.id);
        let guard = Duration::from_millis(if alone { 0 } else { options.timing.election_ms_max });
        let inner = Inner {
            guarded_until: Instant::now() + guard,
            requests: Mutex::new((BTreeSet::new(), 1)),
            receiving: tokio::sync::Mutex::new(None),
            home,
            db,
            log,
            raft: raft.clone(),
            network,
            coalescer,
            options,
        };
        tokio::spawn(async move {
            tokio::time::sleep(guard).await;
            raft.runtime_config().elect(true);
        });
        Ok(Node { inner: Arc::new(inner) })
    }

    /// The database, to read from. What is in it may be behind the cluster: see [`Node::read_barrier`].
    pub fn snapshot(&self) -> lumen::Snapshot {
        self.inner.db.snapshot()
    }

    /// Checks a write and prepares it to be proposed.
    pub fn prepare(&self, write: lumen::Write) -> Result<Prepared> {
        Ok(self.inner.db.prepare(write)?)
    }

    /// Has a write committed and applied, wherever the leader is, through elections if need be, within `patience`. With a
    /// `key`, a write that was done before under that key is not done again.
    ///
    /// Errors: [`Error::NoLeader`] when nothing was handed to a log; [`Error::Unknown`] when the time ran out after that;
    /// [`Error::Busy`].
    pub async fn write(&self, prepared: Prepared, key: Option<[u8; 16]>, patience: Duration) -> Result<Ack> {
        let until = Instant::now() + patience;
        let (request, number) = match key {
            Some(key) => (Request::Key(key), None),
            None => {
                let (request, number) = self.begin_request();
                (request, Some(number))
            }
        };
        let result = self.write_until(request, prepared.into_payload().into(), until).await;
        if let Some(number) = number {
            self.inner.requests.lock().0.remove(&number);
        }
        result
    }

    fn begin_request(&self) -> (Request, u64) {
        let mut requests = self.inner.requests.lock();
        let number = requests.1;
        requests.1 += 1;
        requests.0.insert(number);
        let below = requests.0.first().copied().unwrap_or(number);
        let options = &self.inner.options;
        (Request::Node(NodeRequest { node: options.id, boot: options.boot, number, below }), number)
    }

    async fn write_until(&self, request: Request, write: Bytes, until: Instant) -> Result<Ack> {
        let mut unknown = None;
        loop {
            let tried = tokio::time::timeout_at(until, self.try_write(request, write.clone())).await;
            let reason = match tried {
                Ok(Ok(ack)) => return Ok(ack),
                // These are for another try. After the second, whether the first took effect is known to nobody; but it has
                // the same request, and is answered for it.
                Ok(Err(Error::NotLeader { leader })) => {
                    format!("node {} sent it on to {leader:?}", self.inner.options.id)
                }
                Ok(Err(Error::NoLeader { reason })) => reason,
                Ok(Err(Error::Unknown { reason })) => {
                    unknown = Some(reason.clone());
                    reason
                }
                Ok(Err(other)) => return Err(other),
                Err(_) => {
                    let reason = unknown.unwrap_or_else(|| "there was no answer in time".into());
                    return Err(Error::Unknown { reason });
                }
            };
            if Instant::now() + ASK_AGAIN >= until {
                return Err(match unknown {
                    Some(reason) => Error::Unknown { reason },
                    None => Error::NoLeader { reason },
                });
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Hands a write to whoever leads.
    async fn try_write(&self, request: Request, write: Bytes) -> Result<Ack> {
        let (leader, member) = self.leader().ok_or_else(no_leader)?;
        if leader == self.inner.options.id {
            return self.write_here(request, write).await;
        }
        let message = message::write(GROUP, &request, &write);
        let transport = &self.inner.network.transport;
        match transport.call(leader, &member, Lane::Control, message).await {
            Ok(answer) => message::read_written(&answer).unwrap_or_else(|| Err(malformed(leader))),
            // It may have been taken before the connection broke.
            Err(error) => Err(Error::Unknown { reason: format!("node {leader} {error}") }),
        }
    }

    async fn write_here(&self, request: Request, write: Bytes) -> Result<Ack> {
        self.inner.db.admits()?;
        self.inner.coalescer.write(request, write).await
    }

    /// Who leads, as far as is known here, and how it is reached.
    pub fn leader(&self) -> Option<(u64, Member)> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader?;
        let member = metrics.membership_config.get_node(&leader)?.clone();
        Some((leader, member))
    }

    /// Waits until what is read here is at least as new as everything that was acknowledged anywhere before the call.
    pub async fn read_barrier(&self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            let reason = match tokio::time::timeout_at(until, self.try_barrier()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(Error::NotLeader { .. } | Error::NoLeader { .. } | Error::Unknown { .. })) => {
                    "no leader answers"
                }
                Ok(Err(other)) => return Err(other),
                Err(_) => "no leader answered in time",
            };
            if Instant::now() + ASK_AGAIN >= until {
                return Err(Error::NoLeader { reason: reason.into() });
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn try_barrier(&self) -> Result<()> {
        let (leader, member) = self.leader().ok_or_else(no_leader)?;
        let id = if leader == self.inner.options.id {
            self.read_index().await?
        } else {
            let call =
                self.inner.network.transport.call(leader, &member, Lane::Control, message::read_index(GROUP));
            let answer = call.await.map_err(|error| Error::NoLeader { reason: error.to_string() })?;
            message::read_indexed(&answer).unwrap_or_else(|| Err(malformed(leader)))?
        };
        let read = openraft::raft::linearizable_read::ReadLogId::from_log_id(id);
        let ready = Linearizer::new(leader, read, None).await_ready(&self.inner.raft).await;
        ready.map(drop).map_err(|fatal| Error::Stopped { reason: fatal.to_string() })
    }

    /// At which entry a read that begins now may be served; asked of the leader.
    async fn read_index(&self) -> Result<LogId> {
        match self.inner.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(*linearizer.read_log_id().log_id()),
            Err(RaftError::Fatal(fatal)) => Err(Error::Stopped { reason: fatal.to_string() }),
            Err(error) => Err(Error::NoLeader { reason: error.to_string() }),
        }
    }

    /// Answers a request of another node.
    pub async fn answer(&self, bytes: Bytes) -> std::result::Result<Bytes, TransportError> {
        let refused = |reason: String| TransportError::Refused(reason);
        if let Some(request) = transfer::read(GROUP, &bytes) {
            return self.receive(request).await.map_err(|error| refused(error.to_string()));
        }
        let request = message::read(GROUP, &bytes).ok_or_else(|| refused("a malformed request".into()))?;
        let raft = &self.inner.raft;
        let fatal = |error: String| TransportError::Unreachable(error);
        Ok(match request {
            message::Request::Append(request) => {
                let (prev, last) = (request.prev_log_id, request.entries.last().map(|entry| entry.log_id));
                let response =
                    raft.append_entries(request).await.map_err(|error| fatal(error.to_string()))?;
                message::appended(&response.into_stream_result(prev, last.or(prev)))
            }
            message::Request::Vote(request) => {
                self.guard()?;
                message::voted(&raft.vote(request).await.map_err(|error| fatal(error.to_string()))?)
            }
            message::Request::PreVote(request) => {
                self.guard()?;
                message::voted(&raft.pre_vote(request).await.map_err(|error| fatal(error.to_string()))?)
            }
            message::Request::Transfer(request) => {
                let taken = raft.handle_transfer_leader(request).await;
                message::transferred(&taken.map_err(|error| fatal(error.to_string()))?)
            }
            message::Request::Write { request, write } => {
                message::written(&self.write_here(request, write).await)
            }
            message::Request::Read => message::indexed(&self.read_index().await),
        })
    }

    /// Answers a stream of entries from a leader, in order.
    pub fn answer_stream(&self, requests: BoxStream<'static, Bytes>) -> Answers {
        let appends = requests.map(|bytes| match message::read(GROUP, &bytes) {
            Some(message::Request::Append(request)) => Some(request),
            _ => None,
        });
        // What cannot be read ends the stream: the leader begins a new one.
        let appends = appends.take_while(|request| std::future::ready(request.is_some()));
        let appends = appends.filter_map(std::future::ready);
        let answers = self.inner.raft.stream_append(appends);
        let encode = |answer: std::result::Result<_, openraft::errors::Fatal<TypeConfig>>| {
            answer
                .map(|result| message::appended(&result))
                .map_err(|fatal| TransportError::Unreachable(fatal.to_string()))
        };
        answers.map(encode).boxed()
    }

    /// Requests to another node that are worth having under way in one stream.
    pub const fn stream_requests_max() -> usize {
        STREAM_REQUESTS_MAX
    }

    fn guard(&self) -> std::result::Result<(), TransportError> {
        if Instant::now() < self.inner.guarded_until {
            return Err(TransportError::Unreachable(
                "it started a moment ago and votes for nobody yet".into(),
            ));
        }
        Ok(())
    }

    async fn receive(&self, request: transfer::Request) -> Result<Bytes> {
        let inner = &self.inner;
        let mut receiving = inner.receiving.lock().await;
        match request {
            transfer::Request::Offer { manifest } => {
                let staging = Staging::open(inner.home.vfs.clone(), &inner.home.dir, &manifest)?;
                let wanted = staging.wanted(&inner.db, &manifest)?;
                *receiving = Some((transfer::digest(&manifest), manifest, staging));
                Ok(transfer::wanted_answer(&wanted))
            }
            transfer::Request::Piece { digest, name, offset, bytes } => {
                let staging = receiving.as_ref().filter(|(known, ..)| *known == digest);
                let (_, _, staging) = staging.ok_or_else(not_offered)?;
                staging.put(&name, offset, &bytes)?;
                Ok(Bytes::from_static(&[0]))
            }
            transfer::Request::Install { vote, digest } => {
                let offered = receiving.take_if(|(known, ..)| *known == digest);
                let (_, manifest, staging) = offered.ok_or_else(not_offered)?;
                let data = SnapshotData::Staged { manifest: manifest.to_vec(), staging };
                let place = data.place()?;
                let meta = openraft::alias::SnapshotMetaOf::<TypeConfig> {
                    last_log_id: place.applied,
                    last_membership: place.membership,
                };
                let snapshot =
                    openraft::alias::SnapshotOf::<TypeConfig, SnapshotData> { meta, snapshot: data };
                // One at a time: the lock is held until it is installed.
                let installed = inner.raft.install_full_snapshot(vote, snapshot).await;
                let response = installed.map_err(|fatal| Error::Stopped { reason: fatal.to_string() })?;
                let mut out = Vec::new();
                crate::codec::put_vote(&mut out, &response.vote);
                Ok(out.into())
            }
        }
    }

    /// Forms a cluster of these members; this node must be one of them, and none may have been in a cluster before.
    pub async fn initialize(&self, members: BTreeMap<u64, Member>) -> Result<()> {
        match self.inner.raft.initialize(members).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Err(Error::AlreadyInitialized),
            Err(RaftError::APIError(error)) => Err(Error::Membership { reason: error.to_string() }),
            Err(RaftError::Fatal(fatal)) => Err(Error::Stopped { reason: fatal.to_string() }),
        }
    }

    /// Has a node follow without voting. Only of the leader.
    pub async fn add_learner(&self, id: u64, member: Member) -> Result<()> {
        self.inner.raft.add_learner(id, member, false).await.map(drop).map_err(write_error)
    }

    /// Has these nodes vote, and no others; those that no longer do are members no more unless `retain`. Only of the leader.
    pub async fn set_voters(&self, voters: BTreeSet<u64>, retain: bool) -> Result<()> {
        let change = ChangeMembers::ReplaceAllVoters(voters);
        self.inner.raft.change_membership(change, retain).await.map(drop).map_err(write_error)
    }

    /// Has another node lead. Only of the leader; returns at once.
    pub async fn transfer_leader(&self, to: u64) -> Result<()> {
        let asked = self.inner.raft.trigger().transfer_leader(to).await;
        asked.map_err(|fatal| Error::Stopped { reason: fatal.to_string() })
    }

    /// Flushes the database, and lets the log go of what is in its files then, but for the last `keep` entries.
    pub async fn purge(&self, keep: u64) -> Result<()> {
        let db = self.inner.db.clone();
        let flushed = tokio::task::spawn_blocking(move || db.flush()).await;
        flushed.map_err(|error| Error::Stopped { reason: error.to_string() })??;
        let stopped =
            |fatal: openraft::errors::Fatal<TypeConfig>| Error::Stopped { reason: fatal.to_string() };
        self.inner.raft.trigger().snapshot().await.map_err(stopped)?;
        let place = crate::state_machine::Place::decode(&self.inner.db.durable_position()?)?;
        if let Some(upto) = place.applied.and_then(|applied| applied.index.checked_sub(keep)) {
            self.inner.raft.trigger().purge_log(upto).await.map_err(stopped)?;
        }
        Ok(())
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
            failure: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// Stops taking part, flushes and closes the files.
    pub async fn close(&self) -> Result<()> {
        // A core that has failed has nothing to add to what is known of it.
        let _ = self.inner.raft.shutdown().await;
        let (db, log) = (self.inner.db.clone(), self.inner.log.clone());
        let closed = tokio::task::spawn_blocking(move || {
            db.close()?;
            log.close()
        });
        closed.await.map_err(|error| Error::Stopped { reason: error.to_string() })?
    }
}

fn no_leader() -> Error {
    Error::NoLeader { reason: "none is known here".into() }
}

fn not_offered() -> Error {
    Error::Io { reason: "a piece of a snapshot that was not offered".into() }
}

fn malformed(node: u64) -> Error {
    Error::Unknown { reason: format!("node {node} gave a malformed answer") }
}

/// Applies what is committed and not in the database's files, in large groups (openraft would in groups of 64).
fn replay(log: &LogStore, machine: &StateMachine) -> Result<()> {
    let Some(committed) = log.committed() else { return Ok(()) };
    let mut next = machine.place().applied.map_or(0, |applied| applied.index + 1);
    let (first, _) = log.entries();
    if next < first && next <= committed.index {
        let reason = format!("it begins at entry {first}, but the tables end before entry {next}");
        return Err(Error::Corrupt { file: "the replicated log".into(), offset: 0, reason });
    }
    while next <= committed.index {
        let entries = log.read(next, committed.index + 1, 1 << 20);
        let entries = entries.map_err(|error| Error::Io { reason: error.to_string() })?;
        let Some(last) = entries.last() else { break };
        next = last.log_id.index + 1;
        machine.apply_all(&entries)?;
    }
    Ok(())
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
