//! The command line: what can be said, who does it, and with which exit code it ends.
//!
//! Data goes to stdout, talk to stderr. Exit codes: 0 all well · 1 refused, or wrong data · 2 usage · 3 not found ·
//! 4 conflict (a server: its disk failed under a write) · 5 no server or no answer in time · 7 some lines rejected ·
//! 130 interrupted.

/// Says something on stderr, if somebody still reads it: `eprintln!` panics when nobody does.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod bench;
mod certificates;
mod chunks;
mod client;
mod cluster;
mod demo;
mod dev;
mod import;
mod infer;
mod kv;
mod lease;
mod members;
mod offline;
mod progress;
mod recover;
mod report;
mod search;
mod send;
mod standalone;
mod transfer;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Failure, Kind, exit};
use crate::serve::BindFailed;

const AFTER_HELP: &str = "Exit codes: 0 all well, 1 refused or wrong data, 2 usage, 3 not found, 4 conflict, \
5 no server or no answer in time, 7 some lines of an import rejected, 130 interrupted.";

/// A document database with full-text search
#[derive(Parser)]
#[command(name = "lumen", version, about, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve one node
    Standalone(standalone::Standalone),
    /// Serve a node of a cluster, or a whole cluster on this machine
    Cluster(Box<cluster::Cluster>),
    /// Show it: a server with sample documents, and three searches
    Demo(demo::Demo),
    /// Store a file of documents, one JSON object a line
    Import(import::Import),
    /// Search a collection: a table on a terminal, NDJSON in a pipe
    Search(search::Search),
    /// Put, get, list, count, watch and copy keys
    Kv(kv::Kv),
    /// Leases: what is put with one is kept as long as it is kept alive
    Lease(lease::Lease),
    /// Measure a server: key-values, documents, searches
    Bench(bench::Bench),
    /// Ask a server whether it serves
    Health(search::Health),
    /// Read every byte of a data folder that no server uses, and list all that is wrong
    Check(offline::Check),
    /// Print any Lumen file, or a data folder, as text
    Inspect(offline::Inspect),
}

/// Runs what the command line says.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Check(check) => check.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Standalone(standalone) => on_runtime(standalone.run()),
        Command::Cluster(cluster) => on_threads(2.max(cores()), cluster.run()),
        Command::Demo(demo) => on_runtime(demo.run()),
        Command::Import(import) => on_runtime(import.run()),
        Command::Search(search) => on_runtime(search.run()),
        Command::Kv(kv) => on_runtime(kv.run()),
        Command::Lease(lease) => on_runtime(lease.run()),
        // The clients of a load generator wait for the network alone: more threads than cores would only wake one another.
        Command::Bench(bench) => on_threads(cores(), bench.run()),
        Command::Health(health) => on_runtime(health.run()),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = exit_code(&error);
            if code != 0 {
                say!("lumen: {error:#}");
            }
            ExitCode::from(code)
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.kind.exit_code();
    }
    if error.downcast_ref::<BindFailed>().is_some() {
        return exit::UNAVAILABLE;
    }
    // A pipe that closes early (`lumen search … | head`) is no fault of anybody.
    let broken_pipe = error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe);
    if broken_pipe { 0 } else { exit::REFUSED }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Runs a command that waits for the network.
///
/// A write may sync on the thread that proposes it, so there has to be a thread more than cores, and never fewer than
/// three: while two wait for the disk the third still accepts, answers and joins their group. A node of a cluster has a
/// thread for its log instead, and more threads than cores would only wake one another.
fn on_runtime(command: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    on_threads(3.max(cores() + 1), command)
}

fn on_threads(threads: usize, command: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let result = runtime.block_on(command);
    // Whatever still runs on a blocking thread (a read of stdin, say) must not hold up the end.
    runtime.shutdown_background();
    result
}

/// An error of input and output as one of the table.
fn io_failure(what: &str, error: &std::io::Error) -> Failure {
    let kind =
        if error.kind() == std::io::ErrorKind::NotFound { Kind::RouteNotFound } else { Kind::BadRequest };
    Failure::new(kind, format!("{what}: {error}"))
}

/// Text for a terminal: control characters, which could move the cursor or worse, become spaces.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
