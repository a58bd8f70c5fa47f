//! `lumen cluster --dev 3`: several nodes on this machine, each in a process of its own, as one cluster.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinSet;

use super::client::Client;
use super::standalone::Signals;
use crate::config::{Limits, NodeConfig};
use crate::error::{Failure, Kind, exit};

/// Between the ports of one node and the next.
const PORTS_APART: u16 = 10;
/// The cluster is there within this time, or something is wrong.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// A node that was told to stop gets this long.
const STOP_TIME_MAX: Duration = Duration::from_secs(40);

/// Where one of the nodes is.
struct Place {
    number: u16,
    bind: SocketAddr,
    raft: SocketAddr,
    folder: PathBuf,
}

/// Starts the nodes, says where they are, and waits for a signal.
pub(crate) async fn run(nodes: u16, config: &NodeConfig, mut signals: Signals) -> anyhow::Result<u8> {
    let places = places(nodes, config.bind, &config.data_dir)?;
    let mut children = Children::default();
    for place in &places {
        children.start(place, places[0].raft, &config.limits)?;
    }
    let started = tokio::select! {
        started = wait_for(&places) => Some(started),
        () = signals.next() => None,
        ended = children.first_end() => Some(Err(ended)),
    };
    match started {
        Some(Ok(())) => {}
        Some(Err(failure)) => {
            children.stop().await;
            return Err(failure.into());
        }
        None => {
            children.stop().await;
            return Ok(exit::INTERRUPTED);
        }
    }
    say!("Lumen {}: a cluster of {nodes} nodes", env!("CARGO_PKG_VERSION"));
    for place in &places {
        let Place { number, bind, folder, .. } = place;
        say!(
            "  node {number}: http://{bind} (data in {}, process {})",
            folder.display(),
            children.id(*number)
        );
    }
    say!("  try:  curl http://{}/cluster", places[0].bind);
    say!("  stop: Ctrl-C");
    loop {
        tokio::select! {
            () = signals.next() => break,
            // A node that is killed is what such a cluster is for: the others go on.
            ended = children.first_end() => {
                say!("{}", ended.message);
                if children.all_ended() {
                    return Ok(exit::REFUSED);
                }
            }
        }
    }
    say!("stopping all nodes");
    children.stop().await;
    Ok(0)
}

fn places(nodes: u16, bind: SocketAddr, folder: &Path) -> Result<Vec<Place>, Failure> {
    if bind.port() == 0 {
        let message = "several nodes have ports one after the other: --bind has to say the first";
        return Err(Failure::new(Kind::InvalidParameter, message));
    }
    let too_high = || {
        let message = format!("ports from {} on are too high for {nodes} nodes", bind.port());
        Failure::new(Kind::InvalidParameter, message)
    };
    let place = |number: u16| {
        let at = |more: u16| {
            let port = bind.port().checked_add((number - 1) * PORTS_APART + more)?;
            Some(SocketAddr::new(bind.ip(), port))
        };
        let folder = folder.join(format!("node-{number}"));
        Ok(Place { number, bind: at(0).ok_or_else(too_high)?, raft: at(1).ok_or_else(too_high)?, folder })
    };
    (1..=nodes).map(place).collect()
}

/// Waits until every node is ready, and all of them vote.
async fn wait_for(places: &[Place]) -> Result<(), Failure> {
    let until = Instant::now() + START_TIME_MAX;
    loop {
        let mut missing = None;
        for place in places {
            let client = Client::new(&format!("http://{}", place.bind))?;
            let voters = match client.expect(Method::GET, "/cluster/metrics", Bytes::new()).await {
                Ok(answer) => serde_json::from_slice::<Value>(&answer.body)
                    .ok()
                    .and_then(|metrics| Some(metrics["voters"].as_array()?.len()))
                    .unwrap_or(0),
                Err(_) => 0,
            };
            let is_ready = client.expect(Method::GET, "/readyz", Bytes::new()).await.is_ok();
            if voters < places.len() || !is_ready {
                missing = Some(place.number);
            }
        }
        let Some(number) = missing else { return Ok(()) };
        if Instant::now() >= until {
            let message = format!("node {number} is not part of the cluster after {START_TIME_MAX:?}");
            return Err(Failure::new(Kind::Unavailable, message));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The processes.
#[derive(Default)]
struct Children {
    running: Vec<(u16, Child)>,
    /// They stop when this is dropped.
    inputs: Vec<ChildStdin>,
    echoes: JoinSet<()>,
}

impl Children {
    fn start(&mut self, place: &Place, first: SocketAddr, limits: &Limits) -> anyhow::Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["cluster", "--stop-with-stdin", "--profile", "lan-fast"])
            .args(["--bind", &place.bind.to_string(), "--raft-addr", &place.raft.to_string()])
            .arg("--data-dir")
            .arg(&place.folder)
            .args(["--memory", &limits.memory.to_string(), "--cache", &limits.cache.to_string()])
            .args(["--blobs", &limits.blobs_text(), "--scrub", &limits.scrub.to_string()])
            .args([
                "--key-size",
                &limits.key_size.to_string(),
                "--value-size",
                &limits.value_size.to_string(),
            ])
            .args(["--connections", &limits.connections.to_string()])
            .args(["--request-timeout", &format!("{}ms", limits.request_timeout.as_millis())])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.args(["--id", &place.number.to_string()]);
        match place.number {
            1 => command.arg("--init"),
            _ => command.args(["--join", &first.to_string()]),
        };
        let mut child = command.spawn()?;
        if let Some(errors) = child.stderr.take() {
            let number = place.number;
            self.echoes.spawn(async move {
                let mut lines = BufReader::new(errors).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    say!("n{number} | {line}");
                }
            });
        }
        // Waiting for a child would drop it otherwise.
        self.inputs.extend(child.stdin.take());
        self.running.push((place.number, child));
        Ok(())
    }

    fn id(&self, number: u16) -> u32 {
        let found = self.running.iter().find(|(other, _)| *other == number);
        found.and_then(|(_, child)| child.id()).unwrap_or(0)
    }

    fn all_ended(&self) -> bool {
        self.running.is_empty()
    }

    /// Waits until one of them ends by itself.
    async fn first_end(&mut self) -> Failure {
        let ends = self.running.iter_mut().map(|(number, child)| {
            let number = *number;
            Box::pin(async move { (number, child.wait().await) })
        });
        let ((number, status), ..) = futures_util::future::select_all(ends).await;
        self.running.retain(|(other, _)| *other != number);
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        Failure::new(Kind::Unavailable, format!("node {number} has ended: {how}"))
    }

    /// Has all of them flush and close.
    async fn stop(&mut self) {
        self.inputs.clear();
        for (number, child) in &mut self.running {
            if tokio::time::timeout(STOP_TIME_MAX, child.wait()).await.is_err() {
                say!("node {number} does not stop, and is killed; its log is replayed at the next start");
                let _ = child.kill().await;
            }
        }
        self.running.clear();
        while self.echoes.join_next().await.is_some() {}
    }
}
