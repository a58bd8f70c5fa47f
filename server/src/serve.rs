//! A node from its start to its end: opens the database, listens, and on a signal drains, flushes and closes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use lumen::{Database, Options};
use lumen_raft::{Member, NodeOptions, Timing};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;

use crate::config::{ClusterConfig, Forwarding, GRPC_BIND, GrpcBind, Limits, NodeConfig, Profile};
use crate::error::{Failure, Kind};
use crate::http;
use crate::node::{ClusterFace, Node};
use crate::peer;
use crate::peer::client::Peers;
use crate::peer::tls::PeerTls;
use crate::store::Store;

/// Requests under way get this long to finish when the node stops.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);

/// After the log failed: long enough for the answers that say so to leave.
const FAILED_DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

/// After a failed `accept` (no file descriptors left, as a rule).
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bytes of the replicated log that are kept in memory, for followers and to be applied.
const TAIL_BYTES: usize = 64 << 20;

/// How often a start that waits for a leader looks whether it is still wanted.
const RECOVERY_LOOK: Duration = Duration::from_secs(5);

/// Why a node stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// As it was told; everything is on disk.
    Cleanly,
    /// The log failed: what was written last may or may not be there.
    LogFailed,
}

/// A node that listens.
pub(crate) struct Running {
    /// Where it listens; tells the port when 0 was asked for.
    pub(crate) address: SocketAddr,
    /// Where it listens for gRPC beside.
    pub(crate) grpc_address: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Stopped, Failure>>,
}

/// Lets this process have as many files open as the system allows it: the engine has one open for each table, and what is
/// allowed without asking is often 1,024, which is a store of some 30 GB.
pub(crate) fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some() && current != maximum {
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            tracing::warn!(%error, ?current, "the limit of open files stays as it is");
        }
    }
}

/// Opens the data folder and starts to listen.
pub(crate) async fn start(config: &NodeConfig) -> anyhow::Result<Running> {
    allow_many_files();
    // The port first: a port that is taken should not cost the recovery of a large folder.
    let listener = listen(config.bind).await?;
    let folder = config.data_dir.clone();
    if folder.join(lumen_raft::inspect::FOLDER).exists() {
        let message = format!("{} is the folder of a node of a cluster", folder.display());
        let failure = Failure::new(Kind::Membership, message);
        return Err(failure.with("hint", "lumen cluster --data-dir … starts it").into());
    }
    let grpc = match config.grpc_bind {
        Some(GrpcBind::Off) => None,
        Some(GrpcBind::At(address)) => Some(listen(address).await?),
        None => listen_for_grpc().await,
    };
    let options = options(&config.limits);
    let db = tokio::task::spawn_blocking(move || Database::open(&folder, options)).await?;
    let store = Store::alone(db.map_err(Failure::from)?);
    serve(Node::new(store, config.limits.clone(), None), listener, grpc)
}

/// Opens the data folder as that of a node of a cluster, joins in, and starts to listen to clients and other nodes.
pub(crate) async fn start_in_cluster(
    config: &NodeConfig,
    cluster: &ClusterConfig,
) -> anyhow::Result<Running> {
    allow_many_files();
    let listener = listen(config.bind).await?;
    let address = listener.local_addr()?;
    let grpc = match config.grpc_bind {
        Some(GrpcBind::At(address)) => Some(listen(address).await?),
        None | Some(GrpcBind::Off) => None,
    };
    let peers_at = match cluster.raft_bind {
        Some(address) => address,
        None => resolve(&cluster.raft_addr).await?,
    };
    let peer_listener = listen(peers_at).await?;
    let tls = cluster.peer_tls.as_deref().map(PeerTls::read).transpose()?;
    if tls.is_none() && !peers_at.ip().is_loopback() {
        tracing::warn!(
            "whoever reaches {peers_at} can take part in the cluster: --peer-tls asks for certificates"
        );
    }
    let member = Member {
        raft_addr: with_port(&cluster.raft_addr, peer_listener.local_addr()?.port()),
        api_url: cluster
            .advertise_url
            .clone()
            .unwrap_or_else(|| url_for_clients(address, &cluster.raft_addr)),
        ..Member::default()
    };
    let known = cluster.known()?;
    let (client_tls, acceptor) = tls.map(|tls| (tls.client, tls.acceptor)).unzip();
    let peers = Peers::new(cluster.cluster_name.clone(), member.api_url.clone(), client_tls);
    let options = NodeOptions {
        id: cluster.id,
        first_id: cluster.init.then_some(1),
        member: member.clone(),
        join: cluster.join.clone(),
        dir: config.data_dir.clone(),
        database: options(&config.limits),
        timing: match cluster.profile {
            Profile::Default => Timing::default(),
            Profile::LanFast => Timing::LAN_FAST,
        },
        tail_bytes: TAIL_BYTES,
        keep_log_bytes: config.limits.keep_log,
    };
    let raft = lumen_raft::Node::open(options, peers.clone()).await.map_err(Failure::from)?;
    let (closing, closed) = watch::channel(false);
    tokio::spawn(peer::server::run(peer_listener, acceptor, raft.clone(), peers.clone(), closed));
    if cluster.init && raft.cluster().is_none() {
        let members = [(raft.identity().id, raft.member())].into();
        match raft.initialize(members).await {
            // Started again, before it knew what is in its log.
            Ok(()) | Err(lumen_raft::Error::AlreadyInitialized) => {}
            Err(error) => return Err(Failure::from(error).into()),
        }
    }
    let face = ClusterFace {
        raft: raft.clone(),
        peers,
        known,
        name: cluster.cluster_name.clone(),
        redirects: cluster.forwarding == Forwarding::Redirect,
        lag_max: cluster.ready_lag,
        closing,
    };
    let running = serve(Node::new(Store::Cluster(raft), config.limits.clone(), Some(face)), listener, grpc)?;
    tracing::info!(member.raft_addr, member.api_url, "in touch with other nodes");
    Ok(running)
}

/// The port at which LumenKV's clients look; somebody else may have it.
async fn listen_for_grpc() -> Option<TcpListener> {
    let bound = TcpListener::bind(GRPC_BIND).await;
    bound
        .inspect_err(|error| {
            tracing::warn!(
                %error,
                "gRPC is at the main port alone: {GRPC_BIND} cannot be had; --grpc-bind sets another, or off"
            );
        })
        .ok()
}

fn serve(node: Node, listener: TcpListener, grpc: Option<TcpListener>) -> anyhow::Result<Running> {
    let address = listener.local_addr()?;
    let grpc_address = grpc.as_ref().map(TcpListener::local_addr).transpose()?;
    let node = Arc::new(node);
    if let Some(face) = &node.cluster {
        let (raft, watched) = (face.raft.clone(), Arc::downgrade(&node));
        tokio::spawn(async move {
            let reason = raft.stopped().await;
            // Not if it was told to.
            watched.upgrade().filter(|node| node.is_ready()).into_iter().for_each(|node| node.fail(&reason));
        });
        let (raft, recovering) = (face.raft.clone(), Arc::downgrade(&node));
        tokio::spawn(async move {
            while !raft.recovered(RECOVERY_LOOK).await {
                if recovering.strong_count() == 0 {
                    return;
                }
            }
            recovering.upgrade().into_iter().for_each(|node| node.recovered());
        });
    }
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(run(node, listener, grpc, stopped));
    Ok(Running { address, grpc_address, stop, task })
}

fn options(limits: &Limits) -> Options {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    Options {
        memory_bytes: limits.memory,
        cache_bytes: limits.cache,
        blob_bytes: limits.blobs,
        keep_log_bytes: limits.keep_log,
        scrub_bytes_per_second: limits.scrub,
        key_bytes_max: limits.key_size,
        value_bytes_max: limits.value_size,
        // One for flushes, one for compactions and merges; a single one would let a long merge hold up a flush.
        threads: cores.max(2),
        ..Options::default()
    }
}

/// Where `host:port` is; of several places, the first.
async fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let found = tokio::net::lookup_host(address).await.map(|mut all| all.next());
    match found {
        Ok(Some(found)) => Ok(found),
        Ok(None) => anyhow::bail!("{address} names no address"),
        Err(error) => anyhow::bail!("{address} cannot be found: {error}"),
    }
}

/// The address with the port that was taken, if any would do.
fn with_port(address: &str, port: u16) -> String {
    match address.rsplit_once(':') {
        Some((host, "0")) => format!("{host}:{port}"),
        _ => address.to_string(),
    }
}

/// Where clients reach a node that listens at `address`: if that is every address of the machine, at the name that the other
/// nodes have for it.
fn url_for_clients(address: SocketAddr, raft_addr: &str) -> String {
    match raft_addr.rsplit_once(':') {
        Some((host, _)) if address.ip().is_unspecified() => format!("http://{host}:{}", address.port()),
        _ => format!("http://{address}"),
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| BindFailed { address, error }.into())
}

/// The address cannot be had.
#[derive(Debug)]
pub(crate) struct BindFailed {
    /// Which.
    pub(crate) address: SocketAddr,
    /// Why.
    pub(crate) error: std::io::Error,
}

impl std::fmt::Display for BindFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.error)
    }
}

impl std::error::Error for BindFailed {}

impl Running {
    /// Stops taking requests, waits for those under way, flushes and closes.
    pub(crate) async fn stop(self) -> anyhow::Result<Stopped> {
        // Gone already if the log failed; the task then says so.
        let _ = self.stop.send(());
        Ok(self.task.await??)
    }

    /// Waits until the node stops by itself, which it does only when its log fails.
    pub(crate) async fn failed(&mut self) -> anyhow::Result<Stopped> {
        Ok((&mut self.task).await??)
    }
}

async fn run(
    node: Arc<Node>,
    listener: TcpListener,
    grpc: Option<TcpListener>,
    mut stop: oneshot::Receiver<()>,
) -> Result<Stopped, Failure> {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(node.limits.connections));
    let failed = loop {
        let accepted = async {
            // Without room nothing is accepted: the rest waits in the listener's queue.
            let place = room.clone().acquire_owned().await;
            let beside = async {
                match &grpc {
                    Some(grpc) => grpc.accept().await,
                    None => std::future::pending().await,
                }
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                accepted = beside => accepted,
            };
            (place, accepted)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            _ = &mut stop => break false,
            _ = node.failed() => break true,
        };
        match accepted {
            Ok((stream, _)) => {
                let (node, watcher) = (node.clone(), graceful.watcher());
                // Small answers must not wait for the client's acknowledgement of earlier ones.
                let _ = stream.set_nodelay(true);
                tokio::spawn(async move {
                    http::connection(node, stream, watcher).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    node.drain();
    if let Some(face) = node.cluster.as_ref().filter(|_| !failed) {
        // While requests still come: those that come meanwhile are sent on to the next leader.
        face.raft.hand_over().await;
    }
    drop((listener, grpc));
    let drain_time = if failed { FAILED_DRAIN_TIME_MAX } else { DRAIN_TIME_MAX };
    if tokio::time::timeout(drain_time, graceful.shutdown()).await.is_err() && !failed {
        tracing::warn!("some requests were still under way after {drain_time:?}; they are cut off");
    }
    if failed {
        return Ok(Stopped::LogFailed);
    }
    match node.store.clone() {
        Store::Alone(alone) => match tokio::task::spawn_blocking(move || alone.db.close()).await {
            Ok(closed) => closed.map(|()| Stopped::Cleanly).map_err(Failure::from),
            Err(error) => Err(Failure::new(Kind::Internal, format!("closing broke off: {error}"))),
        },
        Store::Cluster(raft) => {
            let closed = raft.close().await;
            node.cluster.iter().for_each(|face| _ = face.closing.send_replace(true));
            closed.map(|()| Stopped::Cleanly).map_err(Failure::from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_that_failed_stops_the_node_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let db = Database::open(folder.path().join("data"), Options::default()).unwrap();
        let limits = Limits::small(Duration::from_secs(1));
        let node = Arc::new(Node::new(Store::alone(db), limits, None));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_stop, stopped) = oneshot::channel();
        assert!(node.is_ready());
        node.fail("fsync: input/output error");
        let result = run(node.clone(), listener, None, stopped).await;
        assert_eq!(result.unwrap(), Stopped::LogFailed);
        assert!(!node.is_ready());
    }
}
