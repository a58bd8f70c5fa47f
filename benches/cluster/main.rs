//! Three nodes on this machine, each a process that syncs what it acknowledges: how fast, how steady, how soon there again
//! when the leader is killed; and etcd beside them.
//!
//! `benches/cluster/run` builds what is needed and says what can be asked. The clients share the machine's processors with
//! the nodes, so theirs is measured too.

mod client;
mod failover;
mod nodes;
mod snapshot;
mod soak;
mod throughput;

use std::process::ExitCode;

use lumen_benches::options::Options;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = || {
        eprintln!(
            "benches/cluster/run throughput|failover|snapshot|soak [--name value ...]; the script lists them"
        );
        ExitCode::from(2)
    };
    let Some((work, pairs)) = arguments.split_first() else { return usage() };
    let defaults: &[(&str, &str)] = match work.as_str() {
        "throughput" => throughput::OPTIONS,
        "failover" => failover::OPTIONS,
        "snapshot" => snapshot::OPTIONS,
        "soak" => soak::OPTIONS,
        _ => return usage(),
    };
    let Some(options) = Options::read(defaults, pairs) else { return usage() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let is_good = runtime.block_on(async {
        match work.as_str() {
            "throughput" => throughput::run(&options).await,
            "failover" => failover::run(&options).await,
            "snapshot" => snapshot::run(&options).await,
            _ => soak::run(&options).await,
        }
    });
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
