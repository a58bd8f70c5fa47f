//! What can be said on the command line of `lumen bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::distribution::Distribution;
use super::driver::Length;
use super::pace::Arrivals;
use super::values::Shape;
use super::workload::{Kind, Mix};
use crate::cli::client::Server;
use crate::config::{parse_duration, parse_size, parse_span};
use crate::error::{Failure, Kind as FailureKind};

/// Where gRPC is unless it is said.
pub(super) const GRPC: &str = "http://127.0.0.1:50051";

#[derive(Subcommand)]
pub(super) enum Action {
    /// Key-values, over HTTP/1.1 or gRPC
    Kv(Box<Kv>),
    /// Documents, put and got by id, in a collection that is made for it
    Docs(Box<Docs>),
    /// Searches in a collection that is there
    Search(Box<Search>),
}

#[derive(Args)]
pub(super) struct Kv {
    /// Over gRPC, and where
    #[arg(long, num_args = 0..=1, default_missing_value = GRPC, value_name = "URL")]
    pub(super) grpc: Option<String>,
    /// Connections that the clients of gRPC share [default: one a client]
    #[arg(long, value_name = "N")]
    pub(super) channels: Option<usize>,
    /// The space that the keys are in; what is put stays there
    #[arg(long, default_value = "bench", value_name = "NAME")]
    pub(super) space: String,
    /// What LumenKV's bench client does: over gRPC, one client that puts and gets in order, then 100 of them
    #[arg(long, conflicts_with_all = ["duration", "clients", "mix", "distribution", "load", "rate", "keys"])]
    pub(super) seed_profile: bool,
    #[command(flatten)]
    pub(super) keys: Keys,
    #[command(flatten)]
    pub(super) run: Run,
    #[command(flatten)]
    pub(super) server: Server,
}

#[derive(Args)]
pub(super) struct Docs {
    /// The collection; it is dropped afterwards if it was made for this
    #[arg(long, default_value = "bench", value_name = "NAME")]
    pub(super) collection: String,
    /// The collection stays
    #[arg(long)]
    pub(super) keep: bool,
    #[command(flatten)]
    pub(super) keys: Keys,
    #[command(flatten)]
    pub(super) run: Run,
    #[command(flatten)]
    pub(super) server: Server,
}

#[derive(Args)]
pub(super) struct Search {
    /// Where to search
    #[arg(long, value_name = "NAME")]
    pub(super) collection: String,
    /// Queries, one a line
    #[arg(long, value_name = "FILE", required_unless_present = "query")]
    pub(super) queries: Option<PathBuf>,
    /// A query; may be said several times
    #[arg(long, value_name = "QUERY")]
    pub(super) query: Vec<String>,
    /// Hits of an answer
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub(super) limit: u64,
    #[command(flatten)]
    pub(super) run: Run,
    #[command(flatten)]
    pub(super) server: Server,
}

/// Keys and values, and what is done to them.
#[derive(Args)]
pub(super) struct Keys {
    /// How many keys there are
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub(super) keys: u64,
    /// Bytes of a key
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(2..=8192), value_name = "BYTES")]
    pub(super) key_size: u16,
    /// Bytes of a value; of a document, about
    #[arg(long, default_value = "128", value_parser = parse_size, value_name = "SIZE")]
    pub(super) value_size: u64,
    /// Which keys [default: what a mix of YCSB's says, otherwise uniform]
    #[arg(long, value_enum, value_name = "NAME")]
    pub(super) distribution: Option<Distribution>,
    /// What is done: one of YCSB's core workloads a to f, or as put=50,get=50 (put, get, delete, scan, rmw, insert)
    #[arg(long, default_value = "put=100", value_parser = Mix::parse, value_name = "MIX")]
    pub(super) mix: Mix,
    /// Rows of a scan, at most; as many as not of each number
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
    pub(super) scan_length: u32,
    /// Put every key first, so that all that is read is there
    #[arg(long)]
    pub(super) load: bool,
    /// Look at what is read: the value of that key, and none older than what was acknowledged before
    #[arg(long)]
    pub(super) verify: bool,
}

/// How it is driven, and what becomes of the numbers.
#[derive(Args)]
pub(super) struct Run {
    /// How many clients; of several numbers, one run after the other
    #[arg(long, value_delimiter = ',', default_value = "1,16,100", value_name = "N,N,…")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) clients: Vec<u32>,
    /// How long each run measures
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    pub(super) duration: Duration,
    /// So many operations a run, however long that takes
    #[arg(long, conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub(super) operations: Option<u64>,
    /// How long each run goes before it measures
    #[arg(long, default_value = "2s", value_parser = parse_pause, value_name = "TIME")]
    pub(super) warm_up: Duration,
    /// Open loop: operations a second, all clients together; latency counts from when one was due
    #[arg(long, value_parser = parse_rate, value_name = "N")]
    pub(super) rate: Option<f64>,
    /// How the operations of --rate come
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson, value_name = "NAME")]
    pub(super) arrivals: Arrivals,
    /// An operation without an answer in this time has failed
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "TIME")]
    pub(super) timeout: Duration,
    /// The same seed, the same keys and values
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(super) seed: u64,
    /// Write everything as JSON; - is stdout, and the table goes to stderr then
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Hold it against an earlier --json
    #[arg(long, value_name = "FILE")]
    pub(super) compare: Option<PathBuf>,
    /// What is worse by more than this is marked
    #[arg(long, default_value = "10%", value_parser = parse_percent, value_name = "PERCENT")]
    pub(super) worse: f64,
    /// Exit code 4 if anything is worse
    #[arg(long, requires = "compare")]
    pub(super) fail_if_worse: bool,
    /// Exit code 0 in spite of errors; not of wrong answers
    #[arg(long)]
    pub(super) allow_errors: bool,
}

impl Keys {
    /// What keys and values look like; refused if there are more keys than their size tells apart.
    pub(super) fn shape(&self, is_document: bool) -> Result<Shape, Failure> {
        let value_size = usize::try_from(self.value_size).unwrap_or(usize::MAX);
        let shape = Shape { key_size: usize::from(self.key_size), value_size, is_document };
        if self.keys > shape.keys_max() {
            let message = format!("keys of {} bytes are {} at most", self.key_size, shape.keys_max());
            return Err(Failure::new(FailureKind::InvalidParameter, message).with("hint", "say --key-size"));
        }
        if is_document && self.mix.has(Kind::Scan) {
            let message = "documents have no scan; lumen bench search searches them";
            return Err(Failure::new(FailureKind::InvalidParameter, message));
        }
        Ok(shape)
    }

    /// Which keys.
    pub(super) fn distribution(&self) -> Distribution {
        self.distribution.or(self.mix.distribution).unwrap_or(Distribution::Uniform)
    }

    /// As members of the settings in JSON.
    pub(super) fn describe(&self, settings: &mut Map<String, Value>) {
        settings.insert("keys".into(), self.keys.into());
        settings.insert("key_size".into(), self.key_size.into());
        settings.insert("value_size".into(), self.value_size.into());
        settings.insert("distribution".into(), self.distribution().name().into());
        settings.insert("mix".into(), self.mix.text().into());
        settings.insert("scan_length".into(), self.scan_length.into());
        settings.insert("load".into(), self.load.into());
        settings.insert("verify".into(), self.verify.into());
    }
}

impl Run {
    /// How long a run is.
    pub(super) fn length(&self) -> Length {
        self.operations.map_or(Length::Time(self.duration), Length::Operations)
    }

    /// As members of the settings in JSON.
    pub(super) fn describe(&self, settings: &mut Map<String, Value>) {
        match self.length() {
            Length::Time(time) => settings.insert("duration_s".into(), json!(time.as_secs_f64())),
            Length::Operations(count) => settings.insert("operations".into(), count.into()),
        };
        settings.insert("warm_up_s".into(), json!(self.warm_up.as_secs_f64()));
        if let Some(rate) = self.rate {
            settings.insert("rate".into(), json!(rate));
            settings.insert("arrivals".into(), self.arrivals.name().into());
        }
        settings.insert("timeout_s".into(), json!(self.timeout.as_secs_f64()));
        settings.insert("seed".into(), self.seed.into());
    }
}

/// Reads a time that may be none: `0s`.
fn parse_pause(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { parse_span(text).map(Duration::from_millis) }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e9).contains(&rate) => Ok(rate),
        _ => Err(format!("{text:?} is no number of operations a second")),
    }
}

fn parse_percent(text: &str) -> Result<f64, String> {
    match text.strip_suffix('%').unwrap_or(text).trim().parse() {
        Ok(percent) if (0.0..=1000.0).contains(&percent) => Ok(percent),
        _ => Err(format!("{text:?} is no number of percent, as 10%")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        action: Action,
    }

    fn kv(words: &str) -> Result<Kv, clap::Error> {
        match Line::try_parse_from(["bench", "kv"].into_iter().chain(words.split_whitespace()))?.action {
            Action::Kv(kv) => Ok(*kv),
            _ => panic!("not kv"),
        }
    }

    #[test]
    fn command_lines_are_read() {
        let plain = kv("").expect("reads");
        assert_eq!((plain.run.clients, plain.grpc), (vec![1, 16, 100], None));
        assert_eq!(plain.keys.mix, Mix::parse("put=100").unwrap());
        assert_eq!(plain.keys.distribution(), Distribution::Uniform);
        let told = "--grpc --clients 2,3 --operations 5 --warm-up 0s --mix b --rate 100.5 --worse 5%";
        let told = kv(told).expect("reads");
        assert_eq!((told.grpc.as_deref(), &told.run.clients[..]), (Some(GRPC), &[2, 3][..]));
        assert_eq!((told.run.length(), told.run.warm_up), (Length::Operations(5), Duration::ZERO));
        assert_eq!((told.run.rate, told.run.worse), (Some(100.5), 5.0));
        assert_eq!(told.keys.distribution(), Distribution::Zipfian);
        let elsewhere = kv("--grpc http://other:1 --distribution latest").expect("reads");
        assert_eq!(elsewhere.grpc.as_deref(), Some("http://other:1"));
        assert!(kv("--seed-profile").expect("reads").seed_profile);
    }

    #[test]
    fn command_lines_that_make_no_sense_are_refused() {
        for bad in [
            "--clients 0",
            "--clients x",
            "--operations 0",
            "--operations 5 --duration 1s",
            "--rate 0",
            "--rate nan",
            "--mix g",
            "--worse much",
            "--fail-if-worse",
            "--seed-profile --mix a",
            "--keys 0",
            "--key-size 1",
            "--distribution odd",
        ] {
            assert!(kv(bad).is_err(), "{bad}");
        }
        assert!(kv("--keys 11 --key-size 2").expect("reads").keys.shape(false).is_err());
        assert!(kv("--mix e").expect("reads").keys.shape(true).is_err());
        assert!(Line::try_parse_from(["bench", "search", "--collection", "c"]).is_err());
    }
}
