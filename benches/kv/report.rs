//! What was measured as tables of Markdown, the goals beside it, and on what machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::compare::System;
use crate::disk::Syncs;
use crate::load::{Face, Figures, Op};
use crate::servers::{Kind, lumen};

/// A single put should take this much more than a sync and a round trip, at most.
const LATENCY_MAX: f64 = 1.15;
/// And cannot take less than that of it: the disk was slower when it was measured, as it is when others have the processors.
const LATENCY_MIN: f64 = 0.8;
/// So many synced puts a second, by clients.
const RATES: [(u64, f64); 2] = [(16, 38_000.0), (100, 32_000.0)];
/// Rates to the echo's, at least.
const PUTS_TO_ECHO: f64 = 0.7;
const GETS_TO_ECHO: f64 = 0.85;

/// LumenKV's figures as they were published, by clients.
const QUOTED: [(u64, &str, &str); 2] = [(1, "2,597", ""), (100, "16,399", "520")];

/// Which measurement, of one round.
type Key = (&'static str, Op, u64);

/// All that was measured, by round.
#[derive(Default)]
pub(crate) struct Measured {
    figures: BTreeMap<(&'static str, bool, u64), BTreeMap<u64, Figures>>,
    /// The disk's, right before a system's single puts, by its name and the round.
    pub(crate) syncs: BTreeMap<(&'static str, u64), Syncs>,
    /// What could not be measured, and why.
    pub(crate) faults: Vec<String>,
}

impl Measured {
    pub(crate) fn add(&mut self, system: System, op: Op, clients: u64, round: u64, figures: Figures) {
        let key = (system.name, op == Op::Put, clients);
        self.figures.entry(key).or_default().insert(round, figures);
    }

    /// Tells it at once, and again at the end.
    pub(crate) fn fault(&mut self, fault: String) {
        eprintln!("NOT MEASURED: {fault}");
        self.faults.push(fault);
    }

    fn rounds(&self, (name, op, clients): Key) -> Option<&BTreeMap<u64, Figures>> {
        self.figures.get(&(name, op == Op::Put, clients))
    }

    /// The middle of something over the rounds.
    fn middle(&self, key: Key, of: impl Fn(&Figures) -> f64) -> Option<f64> {
        median(self.rounds(key)?.values().map(of))
    }

    /// The middle of the rounds' ratios of two rates.
    fn ratio(&self, key: Key, to: Key) -> Option<f64> {
        let (ours, theirs) = (self.rounds(key)?, self.rounds(to)?);
        median(ours.iter().filter_map(|(round, figures)| {
            theirs.get(round).map(|their| figures.per_second / their.per_second)
        }))
    }
}

/// Whether something is held against the disk, which is measured right before it then: a disk of this kind is not the same from
/// one minute to the next.
pub(crate) fn wants_sync(system: System, op: Op, clients: u64) -> bool {
    system.kind == Kind::Lumen && op == Op::Put && clients == 1
}

/// The middle one.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

fn echo(face: Face) -> &'static str {
    if face == Face::Grpc { "echo-grpc" } else { "echo-http" }
}

/// Everything: tables, goals, machine.
pub(crate) fn text(
    measured: &Measured,
    systems: &[System],
    clients: &[u64],
    settings: &str,
    facts: &[(String, String)],
) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "# Key-values beside others\n\n{settings}. Medians of the rounds, in parentheses the lowest and highest.\n"
    );
    for op in [Op::Put, Op::Get] {
        table(&mut out, measured, op, systems, clients);
    }
    out.push_str(
        "Latencies in µs. *of echo* is the rate to that of the server that keeps nothing, over the same protocol, in the same \
         round; Redis, which has its own protocol and client (redis-benchmark), is held against HTTP. Lumen syncs all it \
         acknowledges, on a majority of the nodes where there are three, and has no switch that would leave it out: there is no \
         line of Lumen without sync. Gets are linearizable. LumenKV's lines are quoted, from another machine, and its puts were \
         flushed to the system and not synced.\n\n",
    );
    goals(&mut out, measured, clients);
    out.push_str("## The machine\n\n| | |\n|---|---|\n");
    for (name, value) in facts {
        let _ = writeln!(out, "| {name} | {value} |");
    }
    if !measured.faults.is_empty() {
        out.push_str("\n## Not measured\n\n");
        for fault in &measured.faults {
            let _ = writeln!(out, "- {}", fault.replace('\n', " · "));
        }
    }
    out
}

fn table(out: &mut String, measured: &Measured, op: Op, systems: &[System], clients: &[u64]) {
    let _ = writeln!(out, "## {}\n", if op == Op::Put { "Puts" } else { "Gets" });
    out.push_str(
        "| | clients | operations/s | p50 | p99 | p99.9 | of echo |\n|---|---|---|---|---|---|---|\n",
    );
    for system in systems {
        for &clients in clients {
            let key = (system.name, op, clients);
            let Some(rounds) = measured.rounds(key) else {
                let _ = writeln!(out, "| {} | {clients} | not measured | | | | |", system.label);
                continue;
            };
            let rates = || rounds.values().map(|figures| figures.per_second);
            let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), grouped);
            let ratio = match system.kind {
                Kind::Echo => Some(1.0),
                _ => measured.ratio(key, (echo(system.face), op, clients)),
            };
            let _ = writeln!(
                out,
                "| {} | {clients} | {} ({}–{}) | {} | {} | {} | {} |",
                system.label,
                number(median(rates())),
                number(rates().reduce(f64::min)),
                number(rates().reduce(f64::max)),
                number(measured.middle(key, |it| it.p50)),
                number(measured.middle(key, |it| it.p99)),
                number(measured.middle(key, |it| it.p999)),
                ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
            );
        }
    }
    if op == Op::Put {
        for (clients, rate, p99) in QUOTED {
            let _ = writeln!(out, "| LumenKV, quoted | {clients} | {rate} | | {p99} | | |");
        }
    }
    out.push('\n');
}

/// The middle of the rounds' ratios of a put's latency to that of a sync and an echo together.
fn to_sync_and_echo(measured: &Measured, ours: &'static str, echo: &'static str) -> Option<f64> {
    let (puts, echoes) = (measured.rounds((ours, Op::Put, 1))?, measured.rounds((echo, Op::Put, 1))?);
    median(puts.iter().filter_map(|(round, put)| {
        let (echo, sync) = (echoes.get(round)?, measured.syncs.get(&(ours, *round))?);
        Some(put.p50 / (sync.p50 + echo.p50))
    }))
}

fn goals(out: &mut String, measured: &Measured, clients: &[u64]) {
    let sync = median(measured.syncs.values().map(|syncs| syncs.p50));
    let sync_p99 = median(measured.syncs.values().map(|syncs| syncs.p99));
    let sync_p999 = median(measured.syncs.values().map(|syncs| syncs.p999));
    if let (Some(p50), Some(p99), Some(p999)) = (sync, sync_p99, sync_p999) {
        let _ = writeln!(
            out,
            "The disk: 200 bytes written behind the last and synced (fdatasync, in a file that is there and filled) take \
             {p50:.0} µs, p99 {p99:.0} µs, p99.9 {p999:.0} µs.\n"
        );
    }
    out.push_str("## Goals\n\n| | goal | found | |\n|---|---|---|---|\n");
    let mut line = |what: String, goal: String, found: Option<(String, &str)>| {
        let (found, word) = found.unwrap_or_else(|| ("–".to_owned(), "not measured"));
        let _ = writeln!(out, "| {what} | {goal} | {found} | {word} |");
    };
    let reached = |is_reached: bool| if is_reached { "reached" } else { "**not reached**" };
    let ratio = |found: f64, least: f64| (format!("{found:.2}"), reached(found >= least));
    let has = |count: u64| clients.contains(&count);
    for (face, name) in [(Face::Http, "HTTP"), (Face::Grpc, "gRPC")] {
        let ours = if face == Face::Http { "lumen-http" } else { "lumen-grpc" };
        if has(1) {
            let found = to_sync_and_echo(measured, ours, echo(face)).map(|found| {
                let word = match found < LATENCY_MIN {
                    true => "cannot be: measure again, on a quiet machine",
                    false => reached(found <= LATENCY_MAX),
                };
                (format!("{found:.2}"), word)
            });
            let what = format!("put, 1 client, {name}: p50 to a sync and an echo");
            line(what, format!("≤ {LATENCY_MAX}"), found);
        }
        for (count, rate) in RATES.into_iter().filter(|(count, _)| has(*count)) {
            let found = measured.middle((ours, Op::Put, count), |it| it.per_second);
            let what = format!("puts/s, {count} clients, {name}");
            let found = found.map(|found| (grouped(found), reached(found >= rate)));
            line(what, format!("≥ {}", grouped(rate)), found);
            let found = measured.ratio((ours, Op::Put, count), (echo(face), Op::Put, count));
            let what = format!("puts of echo, {count} clients, {name}");
            line(what, format!("≥ {PUTS_TO_ECHO}"), found.map(|found| ratio(found, PUTS_TO_ECHO)));
        }
        for &count in clients {
            let found = measured.ratio((ours, Op::Get, count), (echo(face), Op::Get, count));
            let plural = if count == 1 { "" } else { "s" };
            let what = format!("gets of echo, {count} client{plural}, {name}");
            line(what, format!("≥ {GETS_TO_ECHO}"), found.map(|found| ratio(found, GETS_TO_ECHO)));
        }
    }
    out.push('\n');
}

/// A number with commas, and with a digit behind the point if it is small.
fn grouped(number: f64) -> String {
    if number < 100.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The first line of what a program says, or nothing.
fn first_line(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    said.lines().next().unwrap_or("not known").trim().to_owned()
}

/// Device and file system of a folder, and whether that is none on a disk.
pub(crate) fn file_system(folder: &Path) -> (String, bool) {
    let folder = folder.display().to_string();
    let output = Command::new("df").args(["--output=source,fstype", &folder]).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let line = said.lines().nth(1).unwrap_or("not known").split_whitespace().collect::<Vec<_>>().join(", ");
    let is_in_memory = ["tmpfs", "ramfs"].iter().any(|name| line.ends_with(name));
    (line, is_in_memory)
}

/// How many processes want a processor, on average of 1, 5 and 15 minutes.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// What the figures are of.
pub(crate) fn facts(folder: &Path, where_it_lies: &str) -> Vec<(String, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map_or_else(|| "not known".into(), |(_, it)| it.trim().to_owned())
    };
    let device = where_it_lies.split(',').next().unwrap_or_default().trim_start_matches("/dev/").to_owned();
    let queue = |name: &str| read(&format!("/sys/block/{device}/queue/{name}")).trim().to_owned();
    let mut disk = where_it_lies.to_owned();
    if !queue("write_cache").is_empty() {
        let _ = write!(disk, "; cache: {}", queue("write_cache"));
    }
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let revision =
        first_line("git", &["-C", &manifest.display().to_string(), "describe", "--always", "--dirty"]);
    [
        ("date", first_line("date", &["-u", "+%F %H:%M UTC"])),
        ("processor", field(&read("/proc/cpuinfo"), "model name")),
        ("cores", cores.to_string()),
        ("memory", field(&read("/proc/meminfo"), "MemTotal")),
        ("kernel", first_line("uname", &["-sr"])),
        ("folder", folder.parent().unwrap_or(folder).display().to_string()),
        ("disk", disk),
        ("load of the machine at the end", load_average()),
        ("Lumen", format!("{}, {revision}", first_line(lumen(), &["--version"]))),
        ("Redis", first_line("redis-server", &["--version"])),
        ("client of Redis", first_line("redis-benchmark", &["--version"])),
        ("etcd", first_line("etcd", &["--version"])),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [7.25, 99.0, 100.0, 38_000.4, 1_234_567.0].map(grouped),
            ["7.2", "99.0", "100", "38,000", "1,234,567"]
        );
    }

    #[test]
    fn the_middle_is_one_of_them() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median(std::iter::empty()), None);
    }
}
