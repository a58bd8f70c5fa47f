//! `lumen cluster`: serve a node of a cluster, until a signal or until its log fails.

use clap::{Args, Subcommand};

use super::certificates::Certificates;
use super::dev;
use super::recover::Recover;
use super::standalone::{Signals, greet, start_logging, until_stopped};
use crate::config::{ClusterConfig, NodeConfig};
use crate::error::{Failure, Kind, exit};
use crate::serve;

/// `lumen cluster`
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Cluster {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    node: NodeConfig,
    #[command(flatten)]
    cluster: ClusterConfig,
    /// Start so many nodes on this machine, in a process each, as one cluster; Ctrl-C stops all
    #[arg(long, value_name = "NODES", value_parser = clap::value_parser!(u16).range(1..=9), conflicts_with_all = ["id", "join", "init"])]
    dev: Option<u16>,
    /// Stop when stdin ends: the process that started this one has gone
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// What else can be done with a node than to serve.
#[derive(Subcommand)]
enum Action {
    /// After more than half of the voters are lost for good: have a node that does not run go on alone
    Recover(Recover),
    /// Make what nodes show one another, for --peer-tls
    Certificates(Certificates),
}

impl Cluster {
    /// Serves until it is told to stop.
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        match self.action {
            Some(Action::Recover(recover)) => return recover.run(),
            Some(Action::Certificates(certificates)) => return certificates.run(),
            None => {}
        }
        start_logging("info");
        let mut signals = Signals::new()?;
        if let Some(nodes) = self.dev {
            return dev::run(nodes, &self.node, signals).await;
        }
        let ClusterConfig { id, init, join, .. } = &self.cluster;
        let is_known = self.node.data_dir.join(lumen_raft::inspect::FOLDER).exists();
        if id.is_none() && !init && join.is_empty() && !is_known {
            let message = "which node of which cluster? this folder is that of none yet";
            let hint =
                "--id 1 --init forms a cluster, --join HOST:7701 joins one, --dev 3 starts three nodes here";
            return Err(Failure::new(Kind::InvalidParameter, message).with("hint", hint).into());
        }
        if self.stop_with_stdin {
            signals = signals.with_parent();
        }
        let running = tokio::select! {
            running = serve::start_in_cluster(&self.node, &self.cluster) => running?,
            () = signals.next() => return Ok(exit::INTERRUPTED),
        };
        greet(running.address, running.grpc_address, &self.node);
        until_stopped(running, signals).await
    }
}
