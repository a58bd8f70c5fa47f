//! Our engine beside RocksDB, fjall, redb, sled and LMDB: the same work, one after the other, in one run.
//!
//! ```text
//! lumen-compare [--scale 0.2] [--rounds 5] [--stores lumen,rocksdb] [--groups main,sync] [--dir FOLDER]
//! lumen-compare stall ...        see the module stall
//! ```
//!
//! Each group of work runs in a process of its own, so that peaks of memory and bytes written are each store's own. With
//! rounds, all stores do it by turns so many times, and the figures are the medians: a machine that others use too is now
//! fast and now slow, by half and more. The ratio is ours to the best of the others (LMDB stands apart: it is the limit for reads that fit in memory); 1.00 or
//! more is good for us, also where less is better.

mod data;
mod stall;
mod stores;
mod work;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

/// The program lumen's allocator, here for all who allocate in Rust.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, group, store, dir, scale] = arguments.as_slice()
        && first == "--child"
    {
        let scale = scale.parse().expect("a scale");
        for figure in work::run(group, store, Path::new(dir), scale) {
            println!("{}\t{}\t{}", figure.line, figure.value, figure.unit);
        }
        return ExitCode::SUCCESS;
    }
    match arguments.first().map(String::as_str) {
        Some("stall") => return stall::main(&arguments[1..]),
        Some("--stall-child") => return stall::child(&arguments[1..]),
        _ => {}
    }
    let mut options = BTreeMap::from([
        ("--scale", "1".to_string()),
        ("--rounds", "1".to_string()),
        ("--stores", stores::NAMES.join(",")),
        ("--groups", work::GROUPS.join(",")),
        ("--dir", std::env::temp_dir().display().to_string()),
    ]);
    if !read_options(&arguments, &mut options) {
        eprintln!("usage: lumen-compare [--scale 0.2] [--rounds 5] [--stores a,b] [--groups a,b] [--dir FOLDER]");
        eprintln!("       {}", stall::USAGE);
        return ExitCode::from(2);
    }
    let stores: Vec<&str> = options["--stores"].split(',').collect();
    let mut table = Table { stores: stores.clone(), lines: Vec::new() };
    let Ok(rounds @ 1..) = options["--rounds"].parse::<usize>() else {
        eprintln!("--rounds is a number from 1 on");
        return ExitCode::from(2);
    };
    for group in options["--groups"].split(',') {
        for (round, store) in (1..=rounds).flat_map(|round| stores.iter().map(move |store| (round, store))) {
            eprintln!("{group}: {store}, round {round} of {rounds}");
            let dir = folder_in(Path::new(&options["--dir"]));
            let mut figures = child(group, store, dir.path(), &options["--scale"]);
            if group == "reopen" {
                figures = child(work::AFTER_KILL, store, dir.path(), &options["--scale"]);
            }
            for (line, value, unit) in figures {
                table.add(store, line, value, unit);
            }
        }
    }
    table.print();
    ExitCode::SUCCESS
}

/// Reads pairs of names and values over the defaults; `false` when there is one that is not known.
fn read_options(arguments: &[String], options: &mut BTreeMap<&str, String>) -> bool {
    arguments.chunks(2).all(|pair| match (options.get_mut(pair[0].as_str()), pair.get(1)) {
        (Some(option), Some(value)) => {
            value.clone_into(option);
            true
        }
        _ => false,
    })
}

/// A new folder in one that is made if it is not there.
fn folder_in(parent: &Path) -> tempfile::TempDir {
    let made = std::fs::create_dir_all(parent).and_then(|()| tempfile::tempdir_in(parent));
    made.expect("a folder for the contest")
}

/// Runs a group in a process of its own; its figures are what it prints.
fn child(group: &str, store: &str, dir: &Path, scale: &str) -> Vec<(String, f64, String)> {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .args(["--child", group, store])
        .arg(dir)
        .arg(scale)
        .stderr(std::process::Stdio::inherit())
        .output()
        .expect("a child");
    assert!(output.status.success(), "{store} failed in {group}");
    let text = String::from_utf8(output.stdout).expect("text");
    let parse = |line: &str| {
        let mut parts = line.split('\t');
        let mut part = || parts.next().expect("three parts").to_string();
        (part(), part().parse().expect("a number"), part())
    };
    text.lines().map(parse).collect()
}

/// All figures, by line.
struct Table<'a> {
    stores: Vec<&'a str>,
    lines: Vec<(String, String, BTreeMap<String, Vec<f64>>)>,
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

impl Table<'_> {
    fn add(&mut self, store: &str, line: String, value: f64, unit: String) {
        match self.lines.iter_mut().find(|(known, ..)| *known == line) {
            Some((_, _, values)) => values.entry(store.into()).or_default().push(value),
            None => self.lines.push((line, unit, BTreeMap::from([(store.into(), vec![value])]))),
        }
    }

    fn print(&self) {
        print!("| {:<34} |", "");
        self.stores.iter().for_each(|store| print!(" {store:>9} |"));
        println!(" {:>6} | {:>6} |", "ratio", "/lmdb");
        println!("|{}|", ["-"].repeat(self.stores.len() + 3).join("|"));
        let (mut ratios, mut ahead, mut far) = (0, 0, 0);
        for (line, unit, values) in &self.lines {
            let values: BTreeMap<&str, f64> =
                values.iter().map(|(store, values)| (store.as_str(), median(values))).collect();
            print!("| {:<34} |", format!("{line}, {unit}"));
            for store in &self.stores {
                match values.get(*store) {
                    Some(value) if *value >= 100.0 => print!(" {:>9} |", thousands(*value)),
                    Some(value) => print!(" {value:>9.2} |"),
                    None => print!(" {:>9} |", ""),
                }
            }
            let higher_is_better = unit.ends_with("/s") || unit == "%";
            let ratio = |other: f64| {
                let ours = values.get("lumen").copied().unwrap_or(f64::NAN);
                if higher_is_better { ours / other } else { other / ours }
            };
            let others = values.iter().filter(|(name, _)| !["lumen", "lmdb"].contains(name));
            let worst = others.map(|(_, &value)| ratio(value)).fold(f64::INFINITY, f64::min);
            if worst.is_finite() {
                ratios += 1;
                ahead += usize::from(worst >= 1.0);
                far += usize::from(worst >= 1.2);
            }
            let show = |ratio: f64| if ratio.is_finite() { format!("{ratio:.2}") } else { String::new() };
            let lmdb = values.get("lmdb").map_or(f64::NAN, |&value| ratio(value));
            println!(" {:>6} | {:>6} |", show(worst), show(lmdb));
        }
        println!("\nahead of all but LMDB on {ahead} of {ratios} lines, by 1.2 times the best on {far}");
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
