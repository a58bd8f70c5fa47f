//! How steadily a store takes writes, in two phases (Luo & Carey, *On Performance Stability in LSM-based Storage Systems*,
//! VLDB 2019).
//!
//! ```text
//! lumen-compare stall [--seconds 600] [--stores lumen,rocksdb] [--dir FOLDER] [--keys 10000000] [--writers 2] [--rate N]
//! ```
//!
//! 1. **Which rate can it keep up?** Writers overwrite as fast as they are let, until memory, level 0 and the debt of
//!    compactions have come to their balance; the mean rate from then on is the sustainable one.
//! 2. **What does a writer feel at 95 % of it?** Writes come at a fixed rate, whether or not the store keeps up, and the
//!    time of each counts from the moment it was due. A closed loop cannot tell: its writers wait together with the store,
//!    and the writes that would have come meanwhile are in no percentile (coordinated omission).
//!
//! With `--rate` phase 2 asks every store for so many writes a second, to see them side by side.
//!
//! A rate without the second phase can be had by putting work off; percentiles without the first are those of an idle store.
//! Each store is tried in a process of its own. The times hold for a store that goes at its own rate: 95 % of a higher rate
//! is the harder test.

mod meter;
mod phases;
mod steady;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use signal_hook::consts::{SIGINT, SIGTERM};

pub(crate) const USAGE: &str =
    "lumen-compare stall [--seconds 600] [--stores a,b] [--dir FOLDER] [--keys 10000000] [--writers 2] [--rate N]";

/// The exit code of who was stopped, as shells have it for Ctrl-C.
const INTERRUPTED: u8 = 130;

/// What is done to each store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// How long phase 2 lasts.
    seconds: u64,
    /// Keys that are there, and are overwritten. 10 million of 416 bytes are 4.2 GB: 62 memtables and four times the cache.
    /// What is flushed meets every table below and the two levels under level 0 are full from the beginning, so that
    /// compaction never rests; and packed they are far from the 12.5 GiB from which our oldest level would be packed by
    /// zstd while the others stay with LZ4.
    keys: u64,
    /// Threads that write.
    writers: u64,
    /// Writes a second of phase 2; 0: 95 % of what phase 1 found.
    rate: u64,
}

/// What a child says of its store.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: BTreeMap<String, f64>,
    notes: Vec<String>,
}

impl Report {
    fn figure(&mut self, name: &str, value: f64) {
        self.figures.insert(name.into(), value);
    }

    fn note(&mut self, text: String) {
        self.notes.push(text);
    }
}

/// The figures of the table: name and unit, and whether more is better.
const COLUMNS: [(&str, bool); 9] = [
    ("sustainable, writes/s", true),
    ("p50, µs", false),
    ("p99, µs", false),
    ("p99.9, µs", false),
    ("p99.99, µs", false),
    ("max, µs", false),
    ("longest stall, ms", false),
    ("s under half the rate", false),
    ("on disk, MiB", false),
];

/// The subcommand. `arguments` are those after its name.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    let mut options = BTreeMap::from([
        ("--seconds", "600".to_string()),
        ("--stores", "lumen,rocksdb".to_string()),
        ("--dir", std::env::temp_dir().display().to_string()),
        ("--keys", "10000000".to_string()),
        ("--writers", "2".to_string()),
        ("--rate", "0".to_string()),
    ]);
    let number = |options: &BTreeMap<&str, String>, name| options[name].parse().ok().filter(|&n: &u64| n > 0);
    let plan = crate::read_options(arguments, &mut options).then(|| {
        Some(Plan {
            seconds: number(&options, "--seconds")?,
            keys: number(&options, "--keys")?,
            writers: number(&options, "--writers")?,
            rate: options["--rate"].parse().ok()?,
        })
    });
    let Some(Some(plan)) = plan else {
        eprintln!("usage: {USAGE}");
        return ExitCode::from(2);
    };
    let stopped = when_stopped();
    let (mut reports, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for store in options["--stores"].split(',') {
        match try_store(store, Path::new(&options["--dir"]), plan) {
            Some(report) => reports.push((store.to_string(), report)),
            None => {
                let was_stopped = stopped.load(Relaxed);
                eprintln!("{store} {}", if was_stopped { "was stopped" } else { "failed" });
                code = ExitCode::from(if was_stopped { INTERRUPTED } else { 1 });
                break;
            }
        }
    }
    // Also after a failure: what was found until then took its time.
    if !reports.is_empty() {
        print(&reports);
    }
    code
}

/// Becomes true with Ctrl-C. Parent and child both hear it: the child ends its work and closes the store, the parent waits
/// for that and removes the folder.
fn when_stopped() -> Arc<AtomicBool> {
    let stopped = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stopped.clone()).expect("a signal handler");
    }
    stopped
}

/// Runs the test of a store in a process of its own; `None` when it did not come to its end.
fn try_store(store: &str, folder: &Path, plan: Plan) -> Option<Report> {
    let dir = crate::folder_in(folder);
    let csv = std::path::absolute(folder.join(format!("stall-{store}.csv"))).expect("a path");
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--stall-child", store])
        .args([dir.path(), &csv])
        .args([plan.seconds, plan.keys, plan.writers, plan.rate].map(|number| number.to_string()))
        .stderr(Stdio::inherit())
        .output()
        .expect("a child");
    if !output.status.success() {
        return None;
    }
    let mut report = Report::default();
    for line in String::from_utf8(output.stdout).expect("text").lines() {
        match line.split_once('\t') {
            Some((name, value)) => report.figure(name, value.parse().expect("a number")),
            None => report.note(line.into()),
        }
    }
    report.note(format!("second by second: {}", csv.display()));
    Some(report)
}

/// The child's half of `try_store`.
pub(crate) fn child(arguments: &[String]) -> ExitCode {
    let [store, dir, csv, seconds, keys, writers, rate] = arguments else { panic!("seven arguments") };
    let number = |text: &String| text.parse().expect("a number");
    let plan =
        Plan { seconds: number(seconds), keys: number(keys), writers: number(writers), rate: number(rate) };
    // A writer that fails ends the child: the others would wait for its writes for ever.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        std::process::abort();
    }));
    let Some(report) = phases::run(store, Path::new(dir), plan, Path::new(csv), &when_stopped()) else {
        return ExitCode::from(INTERRUPTED);
    };
    report.figures.iter().for_each(|(name, value)| println!("{name}\t{value}"));
    report.notes.iter().for_each(|note| println!("{note}"));
    ExitCode::SUCCESS
}

/// A line for each store, a line of our ratio to each other one (1.00 or more is good for us), and what else is to be said.
fn print(reports: &[(String, Report)]) {
    print!("| {:<16} |", "");
    COLUMNS.iter().for_each(|(name, _)| print!(" {name:>10} |"));
    println!("\n|{}|", ["-"].repeat(COLUMNS.len() + 1).join("|"));
    let width = |name: &str| name.chars().count().max(10);
    for (store, report) in reports {
        print!("| {store:<16} |");
        for (name, _) in COLUMNS {
            print!(" {:>1$} |", crate::thousands(report.figures[name]), width(name));
        }
        println!();
    }
    let ours = reports.iter().find(|(store, _)| store == "lumen");
    for (other, theirs) in reports.iter().filter(|(store, _)| store != "lumen") {
        let Some((_, ours)) = ours else { continue };
        print!("| {:<16} |", format!("ratio to {other}"));
        for (name, higher_is_better) in COLUMNS {
            let (ours, theirs) = (ours.figures[name], theirs.figures[name]);
            let ratio = if higher_is_better { ours / theirs } else { theirs / ours };
            let shown = if ratio.is_finite() { format!("{ratio:.2}") } else { String::new() };
            print!(" {shown:>0$} |", width(name));
        }
        println!();
    }
    for (store, report) in reports {
        println!("\n{store}:");
        report.notes.iter().for_each(|note| println!("- {note}"));
    }
}
