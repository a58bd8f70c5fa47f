//! What was measured, as a table for people.

use std::io::Write;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::record::Latencies;
use super::result::{QUANTILES, RunResult};
use super::session::Measured;
use super::workload::{KINDS, Kind};
use crate::cli::printable;

/// A table whose first columns are words and whose others are numbers.
pub(super) fn table(header: Vec<String>, words: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    let columns = header.len();
    table.set_header(header);
    for column in words..columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Prints it.
pub(super) fn print(out: &mut dyn Write, measured: &Measured) -> std::io::Result<()> {
    let mut header: Vec<String> = ["", "clients", "ops", "ops/s", "mean"].map(String::from).into();
    header.extend(QUANTILES.map(|(_, name, _)| name.to_string()));
    header.push("max".into());
    let mut table = table(header, 1);
    for run in measured.all() {
        let records = &run.driven.records;
        let label = |kind: &str| if run.name == "run" { kind.to_string() } else { run.name.clone() };
        let kinds: Vec<_> = KINDS.iter().filter_map(|kind| Some((kind, records.kind(*kind)?))).collect();
        for (kind, latencies) in &kinds {
            table.add_row(row(run, label(kind.name()), latencies));
        }
        match kinds.len() {
            0 => drop(table.add_row([label("nothing"), run.clients.to_string()])),
            1 => {}
            _ => drop(table.add_row(row(run, "all".into(), &records.all()))),
        }
    }
    writeln!(out, "{table}")?;
    measured.all().try_for_each(|run| notes(out, run))
}

fn row(run: &RunResult, label: String, latencies: &Latencies) -> Vec<String> {
    let mut row = vec![
        label,
        grouped(run.clients as u64),
        grouped(latencies.histogram.len()),
        grouped(run.per_second(latencies.in_time).round() as u64),
        latency(latencies.histogram.mean() / 1000.0),
    ];
    row.extend(QUANTILES.map(|(_, _, quantile)| latency(latencies.quantile_us(quantile))));
    row.push(latency(latencies.quantile_us(1.0)));
    row
}

/// What no column has room for: whatever did not go as it should.
pub(super) fn notes(out: &mut dyn Write, run: &RunResult) -> std::io::Result<()> {
    let (driven, records) = (&run.driven, &run.driven.records);
    let mut notes = Vec::new();
    for (error, count) in &records.errors {
        notes.push(format!("failed {} × {}", grouped(*count), printable(error)));
    }
    if records.wrong > 0 {
        notes.push(format!("WRONG ANSWERS: {}", grouped(records.wrong)));
    }
    for kind in KINDS {
        let missing = records.kind(kind).map_or(0, |latencies| latencies.missing);
        if missing > 0 {
            let what = if kind == Kind::Search { "no hit" } else { "nothing there" };
            notes.push(format!("{}: {} found {what}", kind.name(), grouped(missing)));
        }
    }
    if let Some(rate) = run.rate {
        notes.push(match driven.unsent {
            0 => format!("open loop at {rate} operations a second: all that was due was sent"),
            unsent => format!(
                "open loop at {rate} operations a second: {} were due and not sent by the end; no latency above \
                 has them",
                grouped(unsent)
            ),
        });
    }
    if let Some(late) = &records.late {
        let [p50, p99] = [0.5, 0.99].map(|quantile| latency(late.quantile_us(quantile)));
        notes.push(format!(
            "of each latency, this long until it was sent: p50 {p50}, p99 {p99} (the generator's own time, and for a \
             client to be free)"
        ));
    }
    if driven.given_up > 0 {
        notes.push(format!("given up when it was interrupted: {}", grouped(driven.given_up)));
    }
    if records.reopened > 0 {
        notes.push(format!("connections closed while idle, opened again: {}", grouped(records.reopened)));
    }
    if let Some(cores) = run.cores {
        notes.push(format!("the load generator kept {cores:.1} processors busy"));
    }
    if driven.is_interrupted {
        notes.push("interrupted".into());
    }
    let name = if run.name == "run" { String::new() } else { format!("{}, ", run.name) };
    let plural = if run.clients == 1 { "" } else { "s" };
    notes.iter().try_for_each(|note| writeln!(out, "  {name}{} client{plural}: {note}", run.clients))
}

/// Microseconds with three digits and a unit.
pub(super) fn latency(us: f64) -> String {
    let digits = |number: f64| match number {
        number if number >= 99.95 => 0,
        number if number >= 9.995 => 1,
        _ => 2,
    };
    let (number, unit) = match us {
        us if us < 999.5 => (us, "µs"),
        us if us < 999_500.0 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    format!("{number:.*} {unit}", digits(number))
}

/// A number with commas: `12,345`.
pub(super) fn grouped(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_three_digits_and_a_unit() {
        let shown = [0.1, 9.994, 52.34, 999.4, 999.6, 1234.0, 45_600.0, 999_499.0, 999_501.0, 12_000_000.0];
        let expected = [
            "0.10 µs", "9.99 µs", "52.3 µs", "999 µs", "1.00 ms", "1.23 ms", "45.6 ms", "999 ms", "1.00 s",
            "12.0 s",
        ];
        assert_eq!(shown.map(latency), expected);
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
