//! Nodes of a cluster as processes: begun, killed, begun again, and what they take.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lumen_benches::processor_time;

use crate::client::{Client, leader_of};

/// Longer than a cluster takes to form, or a node to catch up.
const PATIENCE: Duration = Duration::from_secs(300);

/// Whose cluster, and how soon it misses its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    Lumen,
    /// With `--profile lan-fast`.
    LumenFast,
    /// The program that `LUMEN_OTHER` names: another build, or a script that sets something and runs ours.
    LumenOther,
    /// As it is set up by default: a sign of life every 100 ms, an election after 1 to 2 s without.
    Etcd,
    /// 50 ms, and 250 to 500 ms: not less than five signs of life, as it demands.
    EtcdFast,
}

impl System {
    pub(crate) fn by_name(name: &str) -> System {
        match name {
            "lumen" => System::Lumen,
            "lumen-fast" => System::LumenFast,
            "lumen-other" => System::LumenOther,
            "etcd" => System::Etcd,
            "etcd-fast" => System::EtcdFast,
            other => panic!("there is lumen, lumen-fast, lumen-other, etcd and etcd-fast, but no {other}"),
        }
    }

    pub(crate) fn is_lumen(self) -> bool {
        !matches!(self, System::Etcd | System::EtcdFast)
    }
}

struct Node {
    process: Option<Child>,
    folder: PathBuf,
    /// Where clients are served, and the other nodes.
    public: SocketAddr,
    private: SocketAddr,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Node {
    fn new(folder: PathBuf) -> Node {
        let address = || {
            TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
        };
        Node { process: None, folder, public: address(), private: address() }
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The nodes, counted from 0.
pub(crate) struct Cluster {
    pub(crate) system: System,
    folder: PathBuf,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts three nodes, and waits until they are one cluster.
    pub(crate) async fn start(system: System, folder: &Path) -> Cluster {
        fs::create_dir_all(folder).expect("a folder");
        let nodes = (1..=3).map(|id| Node::new(folder.join(id.to_string()))).collect();
        let mut cluster = Cluster { system, folder: folder.to_owned(), nodes };
        for index in 0..3 {
            cluster.spawn(index);
            if system.is_lumen() {
                cluster.wait_for_voters(0, index + 1).await;
            }
        }
        cluster.leader().await;
        cluster
    }

    /// Adds a node, which begins to follow.
    pub(crate) fn add(&mut self) -> usize {
        let index = self.nodes.len();
        self.nodes.push(Node::new(self.folder.join((index + 1).to_string())));
        self.spawn(index);
        index
    }

    /// Starts a node's process.
    pub(crate) fn spawn(&mut self, index: usize) {
        let (id, node) = (index + 1, &self.nodes[index]);
        let mut command = match self.system.is_lumen() {
            true => self.lumen(id, node),
            false => self.etcd(id, node),
        };
        let program = command.get_program().to_owned();
        let log = self.folder.join(format!("{id}.log"));
        let log = fs::File::options().create(true).append(true).open(log).expect("a file for the log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = command.spawn();
        self.nodes[index].process =
            Some(process.unwrap_or_else(|error| panic!("{}: {error}", program.display())));
    }

    fn lumen(&self, id: usize, node: &Node) -> Command {
        let program = match self.system {
            System::LumenOther => {
                std::env::var_os("LUMEN_OTHER").expect("LUMEN_OTHER names a program").into()
            }
            _ => std::env::current_exe().expect("a path").with_file_name("lumen"),
        };
        let mut command = Command::new(program);
        command.arg("cluster").arg("--data-dir").arg(&node.folder).args(["--id", &id.to_string()]);
        command.args(["--bind", &node.public.to_string(), "--raft-addr", &node.private.to_string()]);
        match id {
            1 => command.arg("--init"),
            _ => command.args(["--join", &self.nodes[0].private.to_string()]),
        };
        if self.system == System::LumenFast {
            command.args(["--profile", "lan-fast"]);
        }
        command
    }

    fn etcd(&self, id: usize, node: &Node) -> Command {
        let url = |address: SocketAddr| format!("http://{address}");
        let peers: Vec<String> =
            (1..).zip(&self.nodes).map(|(id, node)| format!("n{id}={}", url(node.private))).collect();
        let (public, private) = (url(node.public), url(node.private));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(&node.folder).args(["--name", &format!("n{id}")]);
        command.args(["--listen-client-urls", &public, "--advertise-client-urls", &public]);
        command.args(["--listen-peer-urls", &private, "--initial-advertise-peer-urls", &private]);
        command.args(["--initial-cluster", &peers.join(","), "--initial-cluster-state", "new"]);
        command.args(["--log-level", "error", "--quota-backend-bytes", "8589934592"]);
        if self.system == System::EtcdFast {
            command.args(["--heartbeat-interval", "50", "--election-timeout", "250"]);
        }
        command
    }

    /// Ends a node as a power switch would, as far as a process can be ended so.
    pub(crate) fn kill(&mut self, index: usize) {
        self.nodes[index].kill();
    }

    /// Where a node serves clients.
    pub(crate) fn address(&self, index: usize) -> SocketAddr {
        self.nodes[index].public
    }

    /// A connection to a node, which may be starting.
    pub(crate) async fn connect(&self, index: usize) -> Client {
        let late = Instant::now() + PATIENCE;
        loop {
            match Client::open(self.system, self.address(index)).await {
                Ok(client) => return client,
                Err(error) if Instant::now() > late => panic!("node {}: {error}", index + 1),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Who leads, as the nodes that run agree.
    pub(crate) async fn leader(&self) -> usize {
        let late = Instant::now() + PATIENCE;
        'again: loop {
            assert!(Instant::now() < late, "nobody leads");
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut leader = None;
            for node in self.nodes.iter().filter(|node| node.process.is_some()) {
                let Some((id, led_by)) = leader_of(self.system, node.public).await else { continue 'again };
                if id == led_by {
                    leader = self.nodes.iter().position(|other| other.public == node.public);
                }
            }
            if let Some(leader) = leader {
                return leader;
            }
        }
    }

    /// Any node that runs and does not lead.
    pub(crate) async fn follower(&self) -> usize {
        let leader = self.leader().await;
        let runs = |index: &usize| *index != leader && self.nodes[*index].process.is_some();
        (0..self.nodes.len()).find(runs).expect("three nodes")
    }

    /// Waits until so many nodes vote, as a node of Lumen sees it.
    pub(crate) async fn wait_for_voters(&self, asked: usize, voters: usize) {
        let late = Instant::now() + PATIENCE;
        loop {
            let mut client = self.connect(asked).await;
            let status = client.ask("/cluster/metrics").await;
            if status.is_some_and(|status| status["voters"].as_array().map(Vec::len) == Some(voters)) {
                return;
            }
            assert!(Instant::now() < late, "{voters} nodes should vote");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Bytes in memory, open files and threads of a node's process.
    pub(crate) fn takes(&self, index: usize) -> Option<Takes> {
        let id = self.nodes[index].process.as_ref()?.id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let files = fs::read_dir(format!("/proc/{id}/fd")).ok()?.count() as u64;
        Some(Takes { resident: field("RssAnon:")? << 10, files, threads: field("Threads:")? })
    }

    /// Processor time that the nodes' processes have taken.
    pub(crate) fn cpu(&self) -> Duration {
        let processes = self.nodes.iter().filter_map(|node| node.process.as_ref());
        processes.map(|process| processor_time(&process.id().to_string())).sum()
    }

    /// Bytes in the folder of a node.
    pub(crate) fn disk(&self, index: usize) -> u64 {
        size(&self.nodes[index].folder)
    }

    /// What the nodes have said on stderr that holds one of these words.
    pub(crate) fn complaints(&self, words: &[&str]) -> Vec<String> {
        let text = |id| fs::read_to_string(self.folder.join(format!("{id}.log"))).unwrap_or_default();
        let all: Vec<String> = (1..=self.nodes.len()).map(text).collect();
        let lines = all.iter().flat_map(|text| text.lines());
        lines.filter(|line| words.iter().any(|word| line.contains(word))).map(str::to_owned).collect()
    }
}

/// What a process has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Takes {
    /// Bytes of memory that are its own.
    pub(crate) resident: u64,
    pub(crate) files: u64,
    pub(crate) threads: u64,
}

/// Bytes of all files in a folder; those that vanish meanwhile count nothing.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_dir() => size(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}
