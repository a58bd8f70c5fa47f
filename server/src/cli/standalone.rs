//! `lumen standalone`: serve one node until a signal, or until its log fails.

use std::io::IsTerminal;
use std::net::SocketAddr;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

use crate::config::NodeConfig;
use crate::error::exit;
use crate::serve::{self, Running, Stopped};

/// `lumen standalone`
#[derive(Args)]
pub(crate) struct Standalone {
    #[command(flatten)]
    node: NodeConfig,
}

impl Standalone {
    /// Serves until it is told to stop.
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        start_logging("info");
        let mut signals = Signals::new()?;
        let running = tokio::select! {
            running = serve::start(&self.node) => running?,
            () = signals.next() => return Ok(exit::INTERRUPTED),
        };
        greet(running.address, running.grpc_address, &self.node);
        until_stopped(running, signals).await
    }
}

/// SIGTERM, SIGINT, and the end of a parent that is to be outlived by nobody.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    parent: Option<JoinHandle<()>>,
}

impl Signals {
    /// From here on the signals no longer end the process by themselves.
    pub(crate) fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            parent: None,
        })
    }

    /// The end of stdin is a signal too: whoever holds its other end has gone.
    pub(crate) fn with_parent(mut self) -> Signals {
        let end = || drop(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
        self.parent = Some(tokio::task::spawn_blocking(end));
        self
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        let parent = async {
            match self.parent.as_mut() {
                Some(parent) => drop(parent.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = parent => self.parent = None,
        }
    }
}

/// Serves until a signal; then drains, flushes and closes, unless a second signal says that there is no time for it.
pub(crate) async fn until_stopped(mut running: Running, mut signals: Signals) -> anyhow::Result<u8> {
    let stopped = tokio::select! {
        stopped = running.failed() => stopped?,
        () = signals.next() => {
            tracing::info!("stopping: finishing the requests under way, then flushing");
            tokio::select! {
                stopped = running.stop() => stopped?,
                () = signals.next() => {
                    tracing::warn!("a second signal: stopping at once; the log is replayed at the next start");
                    return Ok(exit::INTERRUPTED);
                }
            }
        }
    };
    match stopped {
        Stopped::Cleanly => {
            tracing::info!("stopped");
            Ok(0)
        }
        Stopped::LogFailed => Ok(exit::SYNC_FAILED),
    }
}

pub(crate) fn greet(address: SocketAddr, grpc: Option<SocketAddr>, config: &NodeConfig) {
    let url = format!("http://{address}");
    say!("Lumen {} serves {url} (data in {})", env!("CARGO_PKG_VERSION"), config.data_dir.display());
    grpc.into_iter().for_each(|grpc| say!("  gRPC: {grpc}, and at the same port as HTTP"));
    if !address.ip().is_loopback() {
        say!("  note: there is no authentication yet; everybody who reaches {address} can read and write");
    }
    if std::io::stderr().is_terminal() {
        say!(
            "  try:  curl -X PUT {url}/collections/books -d '{{\"fields\":{{\"title\":{{\"type\":\"text\"}}}}}}'"
        );
        say!("        curl -X POST {url}/collections/books/documents -d '{{\"title\":\"The Hobbit\"}}'");
        say!("        curl '{url}/collections/books/documents/search?q=hobbit'");
    } else {
        say!("  try:  curl {url}/collections");
    }
    say!("  stop: Ctrl-C");
    tracing::info!(%address, data_dir = %config.data_dir.display(), "serving");
}

/// Log events to stderr: text on a terminal, JSON otherwise; `LUMEN_LOG` sets levels as `debug` or `lumen=debug`.
pub(crate) fn start_logging(level: &str) {
    // What openraft calls information is for who looks for faults in it.
    let quieter = || EnvFilter::new(format!("{level},openraft=error"));
    let filter = EnvFilter::try_from_env("LUMEN_LOG").unwrap_or_else(|_| quieter());
    let is_terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would complain of a closed stderr on stderr, and panic.
        .log_internal_errors(false);
    // An error means that logging is set up already, which is as good.
    let _ = if is_terminal { builder.try_init() } else { builder.json().flatten_event(true).try_init() };
}
