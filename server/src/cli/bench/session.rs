//! One command from its first connection to its last answer: the keys are loaded if that is wanted, then run by run.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::distribution::Distribution;
use super::driver::{Drive, Driven, Length, drive};
use super::grpc::{self, Grpc};
use super::host;
use super::http::{self, Http};
use super::options::Run;
use super::progress::Progress;
use super::result::RunResult;
use super::target::Target;
use super::values::Shape;
use super::verify::Verifier;
use super::workload::{KeySpace, Kind, Mix, Plan};
use crate::cli::client::Client;
use crate::cli::io_failure;
use crate::error::{Failure, Kind as FailureKind};

/// Connections that are being opened at once.
const OPENING_MAX: usize = 64;
/// Clients that load the keys: enough to fill the server's groups of writes.
const LOAD_CLIENTS: usize = 64;

/// How clients reach the server.
pub(super) enum Connector {
    /// Over HTTP/1.1, a connection each.
    Http(Arc<http::Place>),
    /// Over gRPC.
    Grpc {
        /// Where.
        url: String,
        /// Connections that they share; one each without.
        channels: Option<usize>,
        /// What they have in common.
        place: Arc<grpc::Place>,
    },
}

/// `host:port` of a URL.
pub(super) fn authority(url: &str) -> Result<String, Failure> {
    // It refuses what is none.
    Client::new(url)?;
    let rest = url.trim_start_matches("http://");
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok(if has_port { authority.to_string() } else { format!("{authority}:80") })
}

impl Connector {
    /// So many clients, all connected.
    async fn clients(&self, count: usize) -> Result<Vec<Target>, Failure> {
        match self {
            Connector::Http(place) => {
                let open = |_| async {
                    let unreachable = |fault: super::target::Fault| {
                        let message = format!("no answer from http://{}: {}", place.authority, fault.what);
                        Failure::new(FailureKind::Unavailable, message)
                    };
                    let mut client = Http::new(place).map_err(unreachable)?;
                    client.connect().await.map_err(unreachable)?;
                    Ok(Target::Http(Box::new(client)))
                };
                stream::iter(0..count).map(open).buffer_unordered(OPENING_MAX).try_collect().await
            }
            Connector::Grpc { url, channels, place } => {
                let channel_count = channels.unwrap_or(count).clamp(1, count);
                let open = |_| grpc::connect(url);
                let opened = stream::iter(0..channel_count).map(open).buffer_unordered(OPENING_MAX);
                let channels: Vec<_> = opened.try_collect().await?;
                let client = |n: usize| Grpc::new(place, channels[n % channels.len()].clone());
                Ok((0..count).map(|n| Target::Grpc(Box::new(client(n)))).collect())
            }
        }
    }
}

/// What is to be measured.
pub(super) struct Job<'a> {
    /// Where.
    pub(super) connector: Connector,
    /// What keys and values look like.
    pub(super) shape: Shape,
    /// What is done.
    pub(super) mix: Mix,
    /// To which keys.
    pub(super) distribution: Distribution,
    /// Rows of a scan.
    pub(super) scan_rows_max: u32,
    /// The keys.
    pub(super) keys: Arc<KeySpace>,
    /// How many there are at the beginning.
    pub(super) key_count: u64,
    /// Whether they are put first.
    pub(super) has_load: bool,
    /// Whether answers are looked at.
    pub(super) is_verified: bool,
    /// How it is driven.
    pub(super) run: &'a Run,
}

/// What was measured.
#[derive(Default)]
pub(super) struct Measured {
    /// The load.
    pub(super) load: Option<RunResult>,
    /// The runs.
    pub(super) runs: Vec<RunResult>,
    /// Whether it was ended before its time.
    pub(super) is_interrupted: bool,
    /// Why there is no more: the server was not there any more when another run was to begin.
    pub(super) failure: Option<Failure>,
}

impl Measured {
    /// Takes in how a run went; whether there can be another one. Fails if there was none before that could be told of.
    pub(super) fn take(&mut self, result: Result<RunResult, Failure>) -> Result<bool, Failure> {
        match result {
            Ok(run) => {
                self.is_interrupted = run.driven.is_interrupted;
                self.runs.push(run);
            }
            Err(failure) if self.all().next().is_none() => return Err(failure),
            Err(failure) => self.failure = Some(failure),
        }
        Ok(!self.is_interrupted && self.failure.is_none())
    }

    /// The load and the runs.
    pub(super) fn all(&self) -> impl Iterator<Item = &RunResult> {
        self.load.iter().chain(&self.runs)
    }
}

/// Ctrl-C, as often as it comes.
pub(super) struct Interrupts(Signal);

impl Interrupts {
    /// From now on.
    pub(super) fn new() -> Result<Interrupts, Failure> {
        let signal = signal(SignalKind::interrupt());
        signal.map(Interrupts).map_err(|error| io_failure("waiting for Ctrl-C", &error))
    }
}

/// One run: connects, drives, and says how far it is.
pub(super) async fn run_once(
    name: &str,
    connector: &Connector,
    clients: usize,
    how: Drive,
    interrupts: &mut Interrupts,
) -> Result<RunResult, Failure> {
    let rate = how.pace.map(|(rate, _)| rate);
    let targets = connector.clients(clients).await?;
    let mut progress = Progress::new(name, how.length, how.warm_up);
    let before = host::processor_time();
    let began = tokio::time::Instant::now();
    let interrupt = async {
        if interrupts.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    };
    let driven: Driven = drive(targets, how, interrupt, |sofar| progress.moved(&sofar)).await;
    let spent = before.zip(host::processor_time()).map(|(before, after)| after.saturating_sub(before));
    let cores = spent.map(|spent| spent.as_secs_f64() / began.elapsed().as_secs_f64().max(1e-3));
    progress.finish();
    Ok(RunResult { name: name.to_string(), clients, rate, cores, driven })
}

/// Loads if that is wanted, then runs with each number of clients.
pub(super) async fn measure(job: &Job<'_>) -> Result<Measured, Failure> {
    let mut interrupts = Interrupts::new()?;
    let mut measured = Measured::default();
    let verifier =
        job.is_verified.then(|| Arc::new(Verifier::new(job.shape, job.key_count, job.mix.has(Kind::Delete))));
    let plan = |mix: Mix, distribution, run| {
        let scan_rows_max = job.scan_rows_max;
        Arc::new(Plan { mix, distribution, scan_rows_max, seed: job.run.seed, run })
    };
    let drive = |plan, length, warm_up, pace| Drive {
        length,
        warm_up,
        pace,
        timeout: job.run.timeout,
        plan,
        keys: job.keys.clone(),
        verifier: verifier.clone(),
    };
    if job.has_load {
        let plan = plan(Mix::only(Kind::Put), Distribution::Sequential, 0);
        let how = drive(plan, Length::Operations(job.key_count), Duration::ZERO, None);
        let clients = LOAD_CLIENTS.min(usize::try_from(job.key_count).unwrap_or(LOAD_CLIENTS));
        let loaded = run_once("load", &job.connector, clients, how, &mut interrupts).await?;
        measured.is_interrupted = loaded.driven.is_interrupted;
        let is_whole = loaded.failed() == 0;
        measured.load = Some(loaded);
        job.keys.rewind();
        if !is_whole && !job.run.allow_errors {
            say!("not all keys could be loaded: nothing is measured (--allow-errors goes on)");
            return Ok(measured);
        }
    }
    if measured.is_interrupted {
        return Ok(measured);
    }
    for (run, clients) in (1..).zip(&job.run.clients) {
        let plan = plan(job.mix.clone(), job.distribution, run);
        let pace = job.run.rate.map(|rate| (rate, job.run.arrivals));
        let how = drive(plan, job.run.length(), job.run.warm_up, pace);
        let clients = *clients as usize;
        let result = run_once("run", &job.connector, clients, how, &mut interrupts).await;
        if !measured.take(result)? {
            break;
        }
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_has_a_port() {
        assert_eq!(authority("http://one:7700/").unwrap(), "one:7700");
        assert_eq!(authority("http://one").unwrap(), "one:80");
        assert_eq!(authority("http://[::1]:7700").unwrap(), "[::1]:7700");
        assert!(authority("https://one").is_err() && authority("one:7700").is_err());
    }
}
