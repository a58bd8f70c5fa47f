//! `lumen kv`: keys and values from the command line. Values are raw bytes on stdin and stdout.

mod transfer;
mod watch;

use std::io::{BufWriter, IsTerminal, Read, Write};
use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use percent_encoding::percent_encode;

use super::client::{Answer, Client, ENCODED, Server, encode};
use super::printable;
use crate::error::{Failure, Kind};

/// How often `incr` tries when others count at the same time.
const ATTEMPTS_MAX: usize = 1000;
/// Rows of a page of a scan.
const PAGE_ROWS: u64 = 1000;

/// `lumen kv`
#[derive(Args)]
pub(crate) struct Kv {
    #[command(subcommand)]
    action: Action,
    /// The space that the keys are in
    #[arg(long, env = "LUMEN_SPACE", default_value = "default", global = true, value_name = "NAME")]
    space: String,
    #[command(flatten)]
    server: Server,
}

#[derive(Subcommand)]
enum Action {
    /// Put a value; without one, what comes on stdin
    Put {
        /// Where
        key: String,
        /// The value
        value: Option<String>,
        /// How long it is kept, as 30s, 5m, 12h or 90d
        #[arg(long, value_name = "TIME")]
        ttl: Option<String>,
        /// The lease that keeps it
        #[arg(long, value_name = "N", conflicts_with = "ttl")]
        lease: Option<u64>,
    },
    /// Print a value as it is
    Get {
        /// Which
        key: String,
    },
    /// Delete a key, or with --prefix all that begin with it
    Del {
        /// Which
        key: String,
        /// All that begin with KEY
        #[arg(long)]
        prefix: bool,
    },
    /// List keys and values in order
    Scan {
        /// What the keys begin with
        #[arg(default_value = "")]
        prefix: String,
        /// The keys alone
        #[arg(long)]
        keys_only: bool,
        /// From the last to the first
        #[arg(long)]
        reverse: bool,
        /// So many at most
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Put a value if the key is at this version, as put and scan tell it; 0: if it is not there
    Cas {
        /// Where
        key: String,
        /// The version
        version: u64,
        /// The value; without one, what comes on stdin
        value: Option<String>,
    },
    /// Add to a number and print it; what is not there is 0
    Incr {
        /// Where
        key: String,
        /// What is added
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
    },
    /// Print what happens to keys, until Ctrl-C: a line for each change, JSON in a pipe
    Watch {
        /// What the keys begin with
        #[arg(default_value = "")]
        prefix: String,
        /// Begin after this sequence number, as lines tell it; otherwise with what comes
        #[arg(long, value_name = "SEQ")]
        since: Option<u64>,
        /// Stop when all that has happened is told
        #[arg(long)]
        until_now: bool,
    },
    /// Put what a file holds, one {"key":…,"value":…} a line, as `export` writes it; - reads stdin
    Import {
        /// The file
        file: PathBuf,
    },
    /// Write all keys and values, as of one moment, one JSON object a line
    Export {
        /// What the keys begin with
        #[arg(default_value = "")]
        prefix: String,
        /// Where to; otherwise to stdout
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Do a transaction, as POST /tx takes it, from a file or, with -, stdin; exit code 4 if `when` does not hold
    Txn {
        /// The file
        file: PathBuf,
    },
}

impl Kv {
    /// Does it; exit code 3 when a key is not there, 4 when a condition does not hold.
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        let keys = Keys { client: Client::new(&self.server.url)?, space: self.space };
        match self.action {
            Action::Put { key, value, ttl, lease } => {
                let ttl = ttl.map(|ttl| ("lumen-ttl", ttl));
                let headers: Vec<_> =
                    ttl.into_iter().chain(lease.map(|n| ("lumen-lease", n.to_string()))).collect();
                keys.put(&key, bytes_of(value)?, &headers).await?;
            }
            Action::Get { key } => {
                let answer = keys.client.expect(Method::GET, &keys.path(&key), Bytes::new()).await?;
                let mut out = std::io::stdout().lock();
                out.write_all(&answer.body)?;
                if std::io::stdout().is_terminal() {
                    writeln!(out)?;
                }
            }
            Action::Del { key, prefix: false } => {
                keys.client.expect(Method::DELETE, &keys.path(&key), Bytes::new()).await?;
            }
            Action::Del { key, prefix: true } => {
                let path = format!("/kv/{}/keys?prefix={}", encode(&keys.space), encode(&key));
                let answer = keys.client.expect(Method::DELETE, &path, Bytes::new()).await?;
                say!("{} deleted", answer.json()?["deleted"]);
            }
            Action::Scan { prefix, keys_only, reverse, limit } => {
                keys.scan(&prefix, keys_only, reverse, limit.unwrap_or(u64::MAX)).await?;
            }
            Action::Cas { key, version, value } => {
                let condition = condition(version);
                let answer = keys.put(&key, bytes_of(value)?, &[condition]).await?;
                print_line(&answer.json()?["version"].to_string())?;
            }
            Action::Incr { key, by } => print_line(&keys.increment(&key, by).await?.to_string())?,
            Action::Watch { prefix, since, until_now } => {
                return watch::watch(&keys, &prefix, since, until_now).await;
            }
            Action::Import { file } => return transfer::import(&keys, &file).await,
            Action::Export { prefix, output } => {
                return transfer::export(&keys, &prefix, output.as_deref()).await;
            }
            Action::Txn { file } => {
                let body = transfer::read_all(&file)?;
                let answer = keys.client.expect(Method::POST, "/tx", body.into()).await?.json()?;
                print_line(&answer.to_string())?;
                if answer["succeeded"] == false {
                    return Ok(Kind::PreconditionFailed.exit_code());
                }
            }
        }
        Ok(0)
    }
}

/// The keys of one space of a server.
struct Keys {
    client: Client,
    space: String,
}

impl Keys {
    fn path(&self, key: &str) -> String {
        format!("/kv/{}/keys/{}", encode(&self.space), percent_encode(key.as_bytes(), ENCODED))
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        headers: &[(&'static str, String)],
    ) -> Result<Answer, Failure> {
        self.client.expect_with(Method::PUT, &self.path(key), headers, value).await
    }

    /// Counts, on the condition that nobody else has meanwhile.
    async fn increment(&self, key: &str, by: i64) -> Result<i64, Failure> {
        let path = self.path(key);
        for _ in 0..ATTEMPTS_MAX {
            let (before, version) = match self.client.expect(Method::GET, &path, Bytes::new()).await {
                Ok(answer) => {
                    let text = String::from_utf8_lossy(&answer.body).into_owned();
                    let number = text.trim().parse::<i64>().map_err(|_| {
                        let message =
                            format!("the value of {key:?} is no whole number: {:?}", printable(&text));
                        Failure::new(Kind::Validation, message)
                    })?;
                    (number, answer.version.unwrap_or(0))
                }
                Err(failure) if failure.kind == Kind::KeyNotFound => (0, 0),
                Err(failure) => return Err(failure),
            };
            let Some(after) = before.checked_add(by) else {
                return Err(Failure::new(
                    Kind::Validation,
                    format!("{before} + {by} is no number of 64 bits"),
                ));
            };
            match self.put(key, Bytes::from(after.to_string()), &[condition(version)]).await {
                Ok(_) => return Ok(after),
                Err(failure) if failure.kind == Kind::PreconditionFailed => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::new(Kind::Overloaded, format!("others changed {key:?} {ATTEMPTS_MAX} times meanwhile")))
    }

    async fn scan(&self, prefix: &str, keys_only: bool, reverse: bool, limit: u64) -> anyhow::Result<()> {
        let mut out = BufWriter::new(std::io::stdout().lock());
        let is_terminal = std::io::stdout().is_terminal();
        let (mut left, mut cursor) = (limit, String::new());
        while left > 0 {
            let path = format!(
                "/kv/{}/scan?prefix={}&limit={}&keys_only={keys_only}&reverse={reverse}{cursor}",
                encode(&self.space),
                encode(prefix),
                left.min(PAGE_ROWS)
            );
            let page = self.client.expect(Method::GET, &path, Bytes::new()).await?.json()?;
            for pair in page["pairs"].as_array().into_iter().flatten() {
                left -= 1;
                if !is_terminal {
                    writeln!(out, "{pair}")?;
                    continue;
                }
                let text = |name: &str| {
                    let other =
                        || format!("base64:{}", pair[format!("{name}_base64")].as_str().unwrap_or_default());
                    pair[name].as_str().map_or_else(other, printable)
                };
                match keys_only {
                    true => writeln!(out, "{}", text("key"))?,
                    false => writeln!(out, "{}\t{}", text("key"), text("value"))?,
                }
            }
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        Ok(out.flush()?)
    }
}

/// The header that asks for a version; 0 is none.
fn condition(version: u64) -> (&'static str, String) {
    match version {
        0 => ("if-none-match", "*".into()),
        version => ("if-match", format!("\"{version}\"")),
    }
}

fn bytes_of(value: Option<String>) -> anyhow::Result<Bytes> {
    if let Some(value) = value {
        return Ok(value.into());
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// Prints a line. An error is no panic: who reads may have gone.
pub(super) fn print_line(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}
