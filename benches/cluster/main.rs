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

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

/// What was said after the name of the work, as pairs of names and values.
pub(crate) struct Options(BTreeMap<&'static str, String>);

impl Options {
    /// A value that is a list.
    fn list(&self, name: &str) -> Vec<String> {
        self.0[name].split(',').map(str::to_owned).collect()
    }

    fn number(&self, name: &str) -> u64 {
        self.0[name].parse().unwrap_or_else(|_| panic!("{name} is a number, not {}", self.0[name]))
    }

    /// A folder in the one that was named, gone at the end.
    fn folder(&self) -> tempfile::TempDir {
        let parent = Path::new(&self.0["--dir"]);
        let made = std::fs::create_dir_all(parent).and_then(|()| tempfile::tempdir_in(parent));
        made.unwrap_or_else(|error| panic!("{}: {error}", parent.display()))
    }
}

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
    let mut options = Options(defaults.iter().map(|(name, value)| (*name, (*value).to_owned())).collect());
    options.0.entry("--dir").or_insert_with(|| std::env::temp_dir().display().to_string());
    for pair in pairs.chunks(2) {
        match (options.0.get_mut(pair[0].as_str()), pair.get(1)) {
            (Some(option), Some(value)) => value.clone_into(option),
            _ => return usage(),
        }
    }
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
