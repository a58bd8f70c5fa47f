//! Clusters of real processes on this machine.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Server, free_port, lumen};

const PATIENCE: Duration = Duration::from_secs(60);

/// Nodes over folders and ports of their own.
pub(crate) struct Cluster {
    pub(crate) folder: TempDir,
    /// Of HTTP and of Raft.
    pub(crate) ports: BTreeMap<u64, (u16, u16)>,
    pub(crate) nodes: BTreeMap<u64, Server>,
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        let folder = tempfile::tempdir().expect("a folder");
        Cluster { folder, ports: BTreeMap::new(), nodes: BTreeMap::new() }
    }

    pub(crate) fn command(&mut self, id: u64, more: &[&str]) -> Command {
        let (http, raft) = *self.ports.entry(id).or_insert_with(|| (free_port(), free_port()));
        let mut command = lumen();
        command.arg("cluster").arg("--data-dir").arg(self.folder.path().join(format!("{id}")));
        command.args(["--bind", &format!("127.0.0.1:{http}"), "--raft-addr", &format!("127.0.0.1:{raft}")]);
        command.args(["--profile", "lan-fast"]).args(more);
        command
    }

    pub(crate) fn start(&mut self, id: u64, more: &[&str]) {
        let command = self.command(id, more);
        self.nodes.insert(id, Server::spawn(command));
    }

    /// Where other nodes reach one.
    pub(crate) fn address(&self, id: u64) -> String {
        format!("127.0.0.1:{}", self.ports[&id].1)
    }

    /// One that was formed of node 1, and that 2 and 3 have joined.
    pub(crate) fn of_three(more: &[&str]) -> Cluster {
        let mut cluster = Cluster::new();
        cluster.start(1, &[&["--id", "1", "--init"], more].concat());
        let first = cluster.address(1);
        for id in ["2", "3"] {
            let options = ["--id", id, "--join", &first];
            cluster.start(id.parse().expect("a number"), &[&options, more].concat());
        }
        for id in [1, 2, 3] {
            cluster.until(id, "all vote", |metrics| metrics["voters"] == json!([1, 2, 3]));
        }
        cluster
    }

    pub(crate) fn metrics(&self, id: u64) -> Value {
        self.nodes[&id].get("/cluster/metrics").json()
    }

    pub(crate) fn until(&self, id: u64, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let late = Instant::now() + PATIENCE;
        loop {
            let metrics = self.metrics(id);
            if is_so(&metrics) {
                return metrics;
            }
            assert!(Instant::now() < late, "{what}: {metrics}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn leader(&self) -> u64 {
        let (any, _) = self.nodes.first_key_value().expect("a node");
        let leads = |metrics: &Value| {
            metrics["current_leader"].as_u64().is_some_and(|id| self.nodes.contains_key(&id))
        };
        self.until(*any, "there is a leader", leads)["current_leader"].as_u64().expect("a number")
    }
}
