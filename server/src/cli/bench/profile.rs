//! What the bench client of LumenKV does, an older key-value server whose clients Lumen speaks to: over gRPC, values of 128
//! bytes, first puts and gets in order by one client, then by a hundred.
//!
//! Its published figures are printed beside as they were published. They are of another machine, and its writes were
//! flushed to the system, not synced to the disk: they say what its users saw, not which of the two is faster. (16,399
//! answers a second to 100 clients who each wait for theirs are 6.1 ms an answer on average, so its 520 us are not the
//! p99 of clients that wait.)

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use super::distribution::Distribution;
use super::driver::{Drive, Length};
use super::options::Run;
use super::session::{Connector, Interrupts, Measured, run_once};
use super::table::{grouped, latency, notes, table};
use super::values::Shape;
use super::workload::{KINDS, KeySpace, Kind, Mix, Plan};
use crate::error::Failure;

/// Phases: clients, what they do, and how many times, unless `--operations` says.
const PHASES: [(usize, Kind, u64); 4] =
    [(1, Kind::Put, 10_000), (1, Kind::Get, 10_000), (100, Kind::Put, 100_000), (100, Kind::Get, 100_000)];

/// What was published of it, by clients.
const QUOTED: [(usize, &str); 2] = [(1, "2,597 ops/s"), (100, "16,399 ops/s, p99 520 µs")];

/// Measures phase by phase.
pub(super) async fn measure(connector: &Connector, shape: Shape, run: &Run) -> Result<Measured, Failure> {
    let mut interrupts = Interrupts::new()?;
    let mut measured = Measured::default();
    for (number, (clients, kind, operations)) in (1..).zip(PHASES) {
        let operations = run.operations.unwrap_or(operations);
        let plan = Plan {
            mix: Mix::only(kind),
            distribution: Distribution::Sequential,
            scan_rows_max: 1,
            seed: run.seed,
            run: number,
        };
        let how = Drive {
            length: Length::Operations(operations),
            // What it counts is everything from its first operation on.
            warm_up: Duration::ZERO,
            pace: None,
            timeout: run.timeout,
            plan: Arc::new(plan),
            // Gets go through the keys that the puts before them went through.
            keys: Arc::new(KeySpace::new(operations.min(shape.keys_max()))),
            verifier: None,
        };
        let name = format!("{}s in order", kind.name());
        let result = run_once(&name, connector, clients, how, &mut interrupts).await;
        if !measured.take(result)? {
            break;
        }
    }
    Ok(measured)
}

/// Prints it, with the published figures beside.
pub(super) fn print(out: &mut dyn Write, measured: &Measured) -> std::io::Result<()> {
    let header = ["", "clients", "ops/s", "average", "p50", "p99", "LumenKV, quoted"].map(String::from);
    let mut table = table(header.into(), 1);
    for run in &measured.runs {
        let quoted = QUOTED.iter().find(|(clients, _)| *clients == run.clients).map_or("", |(_, text)| *text);
        for latencies in KINDS.iter().filter_map(|kind| run.driven.records.kind(*kind)) {
            table.add_row([
                run.name.clone(),
                grouped(run.clients as u64),
                grouped(run.per_second(latencies.in_time).round() as u64),
                latency(latencies.histogram.mean() / 1000.0),
                latency(latencies.quantile_us(0.5)),
                latency(latencies.quantile_us(0.99)),
                quoted.to_string(),
            ]);
        }
    }
    writeln!(out, "{table}")?;
    writeln!(
        out,
        "  quoted: as LumenKV published them, of another machine, its writes flushed and not synced"
    )?;
    measured.runs.iter().try_for_each(|run| notes(out, run))
}
