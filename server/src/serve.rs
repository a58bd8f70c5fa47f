//! A node from its start to its end: opens the database, listens, and on a signal drains, flushes and closes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use lumen::{Database, Options};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use crate::config::NodeConfig;
use crate::error::Failure;
use crate::http;
use crate::node::Node;

/// Requests under way get this long to finish when the node stops.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);

/// After the log failed: long enough for the answers that say so to leave.
const FAILED_DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

/// After a failed `accept` (no file descriptors left, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Stopped, Failure>>,
}

/// Opens the data folder and starts to listen.
pub(crate) async fn start(config: &NodeConfig) -> anyhow::Result<Running> {
    // The port first: a port that is taken should not cost the recovery of a large folder.
    let listener = listen(config.bind).await?;
    let address = listener.local_addr()?;
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let options = Options {
        memory_bytes: config.limits.memory,
        cache_bytes: config.limits.cache,
        blob_bytes: config.limits.blobs,
        scrub_bytes_per_second: config.limits.scrub,
        // One for flushes, one for compactions and merges; a single one would let a long merge hold up a flush.
        threads: cores.max(2),
        ..Options::default()
    };
    let folder = config.data_dir.clone();
    let db = tokio::task::spawn_blocking(move || Database::open(&folder, options)).await?;
    let node = Arc::new(Node::new(db.map_err(Failure::from)?, config.limits.clone()));
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(run(node, listener, stopped));
    Ok(Running { address, stop, task })
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
    mut stop: oneshot::Receiver<()>,
) -> Result<Stopped, Failure> {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(node.limits.connections));
    let failed = loop {
        let accepted = async {
            // Without room nothing is accepted: the rest waits in the listener's queue.
            let place = room.clone().acquire_owned().await;
            (place, listener.accept().await)
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
    drop(listener);
    node.drain();
    let drain_time = if failed { FAILED_DRAIN_TIME_MAX } else { DRAIN_TIME_MAX };
    if tokio::time::timeout(drain_time, graceful.shutdown()).await.is_err() && !failed {
        tracing::warn!("some requests were still under way after {drain_time:?}; they are cut off");
    }
    if failed {
        return Ok(Stopped::LogFailed);
    }
    let db = node.db.clone();
    match tokio::task::spawn_blocking(move || db.close()).await {
        Ok(closed) => closed.map(|()| Stopped::Cleanly).map_err(Failure::from),
        Err(error) => Err(Failure::new(crate::error::Kind::Internal, format!("closing broke off: {error}"))),
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
        let node = Arc::new(Node::new(db, limits));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_stop, stopped) = oneshot::channel();
        assert!(node.is_ready());
        node.fail("fsync: input/output error");
        let result = run(node.clone(), listener, stopped).await;
        assert_eq!(result.unwrap(), Stopped::LogFailed);
        assert!(!node.is_ready());
    }
}
