//! The key-value face beside Redis, etcd, and a server that does nothing; and with more data than memory.
//!
//! ```text
//! compare.rs   rounds by turns     servers.rs  processes     load.rs   what clients do to them     report.rs  tables, goals
//! echo.rs      the ceiling         disk.rs     the floor
//! large.rs     ten million keys    cgroup.rs   in a gigabyte              watch.rs   one who follows them
//! ```
//!
//! `benches/kv/run` and `benches/kv/large` build what is needed and say what can be asked; README.md tells the method.

mod cgroup;
mod compare;
mod disk;
mod echo;
mod large;
mod load;
mod report;
mod servers;
mod watch;

use std::process::ExitCode;

use lumen_benches::options::Options;
use tokio::signal::unix::{SignalKind, signal};

/// As in the program `lumen`, of which the echo server is the ceiling.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a shell gives for Ctrl-C.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_quick =
        arguments.iter().position(|word| word == "--quick").map(|at| arguments.remove(at)).is_some();
    let usage = || {
        eprintln!("benches/kv/run and benches/kv/large list their options");
        ExitCode::from(2)
    };
    let Some((work, pairs)) = arguments.split_first() else { return usage() };
    let defaults: &[(&str, &str)] = match (work.as_str(), is_quick) {
        ("compare", false) => compare::OPTIONS,
        ("compare", true) => compare::QUICK,
        ("echo", false) => echo::OPTIONS,
        ("disk", false) => disk::OPTIONS,
        ("large", false) => large::OPTIONS,
        ("large", true) => large::QUICK,
        _ => return usage(),
    };
    let Some(options) = Options::read(defaults, pairs) else { return usage() };
    // As many threads as the program `lumen` has for one node.
    let threads = std::thread::available_parallelism().map_or(3, |cores| 3.max(cores.get() + 1));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut terminate = signal(SignalKind::terminate()).expect("a signal");
        let working = async {
            match work.as_str() {
                "compare" => compare::run(&options).await,
                "echo" => echo::run(&options).await,
                "disk" => disk::run(&options),
                _ => large::run(&options).await,
            }
        };
        // Whoever is dropped ends the processes and removes the folder that it has.
        tokio::select! {
            is_good = working => if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE },
            _ = tokio::signal::ctrl_c() => ExitCode::from(INTERRUPTED),
            _ = terminate.recv() => ExitCode::from(INTERRUPTED),
        }
    })
}
