//! `lumen lease`: leases from the command line.

use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::client::{Client, Server};
use super::kv::print_line;

/// `lumen lease`
#[derive(Args)]
pub(crate) struct Lease {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    server: Server,
}

#[derive(Subcommand)]
enum Action {
    /// Make a lease and print its number
    Grant {
        /// How long it lasts without being kept alive, as 30s, 5m or 12h
        ttl: String,
        /// Its number, if it is to be a certain one
        #[arg(long, default_value_t = 0, value_name = "N")]
        lease: u64,
    },
    /// Have a lease last for its time again
    Keep {
        /// Which
        lease: u64,
        /// Again and again, until Ctrl-C
        #[arg(long)]
        follow: bool,
    },
    /// End a lease and delete all that it keeps
    Revoke {
        /// Which
        lease: u64,
    },
    /// Print how long a lease lasts
    Show {
        /// Which
        lease: u64,
    },
}

impl Lease {
    /// Does it; exit code 3 when there is no such lease.
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        let client = Client::new(&self.server.url)?;
        let path = |lease: u64| format!("/leases/{lease}");
        match self.action {
            Action::Grant { ttl, lease } => {
                let body = json!({ "ttl": ttl, "lease": lease }).to_string();
                let answer = client.expect(Method::POST, "/leases", body.into()).await?.json()?;
                print_line(&answer["lease"].to_string())?;
            }
            Action::Keep { lease, follow } => {
                let mut interrupt = signal(SignalKind::interrupt())?;
                loop {
                    let kept = client.expect(Method::PUT, &path(lease), Bytes::new()).await?.json()?;
                    if !follow {
                        print_line(&kept.to_string())?;
                        break;
                    }
                    // Two more may be lost before it ends.
                    let pause = Duration::from_millis(kept["ttl_ms"].as_u64().unwrap_or(0) / 3);
                    tokio::select! {
                        () = tokio::time::sleep(pause.max(Duration::from_millis(10))) => {}
                        _ = interrupt.recv() => break,
                    }
                }
            }
            Action::Revoke { lease } => {
                let answer = client.expect(Method::DELETE, &path(lease), Bytes::new()).await?.json()?;
                say!("{} deleted", answer["deleted"]);
            }
            Action::Show { lease } => {
                print_line(
                    &client.expect(Method::GET, &path(lease), Bytes::new()).await?.json()?.to_string(),
                )?;
            }
        }
        Ok(0)
    }
}
