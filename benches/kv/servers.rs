//! The servers, as processes on this machine: begun, asked whether they are ready, left alone until they rest, and ended.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use lumen_benches::etcd::Etcd;
use lumen_benches::http::Connection;
use lumen_benches::processor_time;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than any of them takes to start.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// A server that is told to stop gets this long; Lumen flushes meanwhile.
const STOP_TIME_MAX: Duration = Duration::from_secs(60);
/// What a server has left to do after it was measured is waited for so long.
const REST_TIME_MAX: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Who takes less of a processor rests: heartbeats and the like.
const RESTS: f64 = 0.08;
/// Between the nodes of `lumen cluster --dev`.
const PORTS_APART: u16 = 10;
const NODES: u16 = 3;

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One node.
    Lumen,
    /// Three nodes, by `lumen cluster --dev 3`.
    Lumen3,
    /// Synced before it answers.
    RedisAlways,
    /// Synced when the system likes to.
    RedisNo,
    /// One node.
    Etcd,
    Echo,
}

/// A process, ended together with this. Its output goes to a file.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it.
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Process {
        let program = command.get_program().to_owned();
        // Settings of whoever runs this are not those of the measurement.
        std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"LUMEN_")).for_each(
            |(name, _)| {
                command.env_remove(name);
            },
        );
        let file = fs::File::create(&log).expect("a file for the log");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a file")).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Process { child, log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The last it said.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) fn stop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        let _ = Command::new("kill").args(["-TERM", &self.id().to_string()]).status();
        let late = Instant::now() + STOP_TIME_MAX;
        while self.ended().is_none() {
            if Instant::now() > late {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The program `lumen` that lies beside this one.
pub(crate) fn lumen() -> PathBuf {
    std::env::current_exe().expect("a path").with_file_name("lumen")
}

/// An address whose port is free, and so are the given ones after it.
pub(crate) fn free_address(more: &[u16]) -> SocketAddr {
    let bind = |port: u16| TcpListener::bind(("127.0.0.1", port));
    loop {
        let listener = bind(0).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let is_free = |more: &u16| address.port().checked_add(*more).is_some_and(|port| bind(port).is_ok());
        if more.iter().all(is_free) {
            return address;
        }
    }
}

/// One of them, which serves.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    process: Process,
    /// Where it was told to listen; of three nodes, the first.
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts it over a folder of its own, and waits until it serves.
    pub(crate) async fn start(kind: Kind, parent: &Path, value_size: u64) -> Result<Server, String> {
        let name = format!("{kind:?}").to_lowercase();
        let folder = parent.join(&name);
        fs::create_dir_all(&folder).expect("a folder");
        let address = match kind {
            Kind::Lumen3 => free_address(&[1, 10, 11, 20, 21]),
            _ => free_address(&[]),
        };
        let process =
            Process::start(command(kind, &folder, address, value_size), parent.join(format!("{name}.log")));
        let mut server = Server { kind, process, address };
        let late = Instant::now() + START_TIME_MAX;
        while !server.is_ready().await {
            if let Some(status) = server.process.ended() {
                return Err(format!("{name} has ended with {status}: {}", server.process.last_words()));
            }
            if Instant::now() > late {
                return Err(format!("{name} does not start: {}", server.process.last_words()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(server)
    }

    async fn is_ready(&self) -> bool {
        let ready = async {
            match self.kind {
                Kind::Lumen => is_ok(self.address, "/readyz").await,
                Kind::Lumen3 => {
                    for node in 0..NODES {
                        let node = node_address(self.address, node);
                        let voters = ask(node, "/cluster/metrics").await?["voters"].as_array()?.len();
                        if voters < usize::from(NODES) || is_ok(node, "/readyz").await.is_none() {
                            return None;
                        }
                    }
                    self.leader().await.map(drop)
                }
                Kind::RedisAlways | Kind::RedisNo => {
                    let mut stream = TcpStream::connect(self.address).await.ok()?;
                    stream.write_all(b"PING\r\n").await.ok()?;
                    let mut answer = [0; 7];
                    stream.read_exact(&mut answer).await.ok()?;
                    (&answer == b"+PONG\r\n").then_some(())
                }
                Kind::Etcd => Etcd::open(self.address).await.ok()?.leader().await.ok()?.map(drop),
                Kind::Echo => is_ok(self.address, "/").await,
            }
        };
        tokio::time::timeout(Duration::from_secs(5), ready).await.is_ok_and(|ready| ready.is_some())
    }

    /// Where it is to be asked: of a cluster, the leader.
    pub(crate) async fn place(&self) -> Result<SocketAddr, String> {
        match self.kind {
            Kind::Lumen3 => self.leader().await.ok_or_else(|| "the cluster has no leader".to_owned()),
            _ => Ok(self.address),
        }
    }

    /// The node that leads, as it says itself.
    async fn leader(&self) -> Option<SocketAddr> {
        for node in 0..NODES {
            let address = node_address(self.address, node);
            let metrics = ask(address, "/cluster/metrics").await?;
            if metrics["id"].is_u64() && metrics["id"] == metrics["current_leader"] {
                return Some(address);
            }
        }
        None
    }

    /// Why nothing can be measured any more, if that is so.
    pub(crate) fn fault(&mut self) -> Option<String> {
        let status = self.process.ended()?;
        Some(format!("{:?} has ended with {status}: {}", self.kind, self.process.last_words()))
    }

    /// Processor time that it has taken, its children's included.
    fn processor_time(&self) -> Duration {
        let id = self.process.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let own = id.to_string();
        children.split_whitespace().chain([own.as_str()]).map(processor_time).sum()
    }
}

/// Waits until none of them has anything more to do.
pub(crate) async fn rest(servers: &[Server]) {
    let late = Instant::now() + REST_TIME_MAX;
    let spent = || servers.iter().map(Server::processor_time).collect::<Vec<_>>();
    let mut before = spent();
    while Instant::now() < late {
        tokio::time::sleep(LOOK_EVERY).await;
        let after = spent();
        let most = before.iter().zip(&after).map(|(before, after)| after.saturating_sub(*before)).max();
        if most.unwrap_or_default() <= LOOK_EVERY.mul_f64(RESTS) {
            return;
        }
        before = after;
    }
}

fn command(kind: Kind, folder: &Path, address: SocketAddr, value_size: u64) -> Command {
    let (at, port) = (address.to_string(), address.port().to_string());
    let mut command = match kind {
        Kind::Lumen | Kind::Lumen3 => Command::new(lumen()),
        Kind::RedisAlways | Kind::RedisNo => Command::new("redis-server"),
        Kind::Etcd => Command::new("etcd"),
        Kind::Echo => Command::new(std::env::current_exe().expect("a path")),
    };
    let fsync = if kind == Kind::RedisAlways { "always" } else { "no" };
    match kind {
        // gRPC is at the main port as well; the other one is the same code.
        Kind::Lumen => {
            command.args(["standalone", "--bind", &at, "--grpc-bind", "off", "--data-dir"]).arg(folder)
        }
        Kind::Lumen3 => {
            command.args(["cluster", "--dev", &NODES.to_string(), "--bind", &at, "--data-dir"]).arg(folder)
        }
        Kind::RedisAlways | Kind::RedisNo => command
            .args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--daemonize", "no"])
            .args(["--appendonly", "yes", "--appendfsync", fsync, "--dir"])
            .arg(folder),
        Kind::Etcd => {
            let peers = free_address(&[]);
            let (url, peers) = (format!("http://{at}"), format!("http://{peers}"));
            command.args(["--name", "n1", "--listen-client-urls", &url, "--advertise-client-urls", &url]);
            command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
            command.args(["--initial-cluster", &format!("n1={peers}"), "--log-level", "error"]);
            command.args(["--quota-backend-bytes", "8589934592", "--data-dir"]).arg(folder)
        }
        Kind::Echo => command.args(["echo", "--bind", &at, "--value-size", &value_size.to_string()]),
    };
    command
}

fn node_address(first: SocketAddr, node: u16) -> SocketAddr {
    SocketAddr::new(first.ip(), first.port() + node * PORTS_APART)
}

/// The JSON that a GET is answered with.
pub(crate) async fn ask(address: SocketAddr, path: &str) -> Option<Value> {
    let mut connection = Connection::open(address).await.ok()?;
    let answer = connection.send("GET", path, "", b"").await.ok()?;
    serde_json::from_slice(answer.body).ok()
}

/// Something, if a GET is answered with 200.
pub(crate) async fn is_ok(address: SocketAddr, path: &str) -> Option<()> {
    let mut connection = Connection::open(address).await.ok()?;
    (connection.send("GET", path, "", b"").await.ok()?.status == 200).then_some(())
}
