//! What is done to each store. Every function here runs in a process of its own, on an empty folder.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::data::{Random, Values, Zipf, key, key_of};
use crate::stores::{self, Setup, Store};

/// One figure.
pub(crate) struct Figure {
    pub(crate) line: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
}

/// The groups of work, each a process.
pub(crate) const GROUPS: [&str; 8] = ["seq", "fill100", "fill4k", "main", "sync", "delete", "ycsb", "reopen"];

/// How the second half of `reopen` is called: the first leaves its files as a kill does.
pub(crate) const AFTER_KILL: &str = "after-kill";

pub(crate) const BIG_CACHE: Setup = Setup { cache_bytes: 1 << 30 };

/// Runs one group.
pub(crate) fn run(group: &str, store: &str, dir: &Path, scale: f64) -> Vec<Figure> {
    let n = |count: u64| ((count as f64 * scale) as u64).max(1000);
    let mut figures = Vec::new();
    match group {
        "seq" => fill(&*stores::open(store, dir, BIG_CACHE), n(2_000_000), 100, true, &mut figures),
        "fill100" => fill(&*stores::open(store, dir, BIG_CACHE), n(2_000_000), 100, false, &mut figures),
        // By itself, to set one build beside another; the contest has it in "main".
        "fill400" => fill(&*stores::open(store, dir, BIG_CACHE), n(1_000_000), 400, false, &mut figures),
        "fill4k" => fill(&*stores::open(store, dir, BIG_CACHE), n(200_000), 4096, false, &mut figures),
        "main" => main_group(store, dir, n(1_000_000), &mut figures),
        "sync" => sync(&*stores::open(store, dir, BIG_CACHE), &mut figures),
        "delete" => delete(&*stores::open(store, dir, BIG_CACHE), n(1_000_000), &mut figures),
        "ycsb" => ycsb(&*stores::open(store, dir, BIG_CACHE), n(500_000), &mut figures),
        "reopen" => {
            let open = stores::open(store, dir, BIG_CACHE);
            load(&*open, n(500_000), 100, false);
            // As kill -9: nothing is flushed, no destructor runs.
            std::process::exit(0);
        }
        AFTER_KILL => {
            let started = Instant::now();
            let open = stores::open(store, dir, BIG_CACHE);
            let took = started.elapsed();
            let mut kept = 0u64;
            open.scan(b"", usize::MAX, &mut |_, _| kept += 1);
            push(&mut figures, "reopen after kill", took.as_secs_f64() * 1e3, "ms");
            push(&mut figures, "kept of unsynced writes", 100.0 * kept as f64 / n(500_000) as f64, "%");
        }
        other => panic!("no group is called {other}"),
    }
    figures
}

fn push(figures: &mut Vec<Figure>, line: impl Into<String>, value: f64, unit: &'static str) {
    figures.push(Figure { line: line.into(), value, unit });
}

fn per_second(count: u64, started: Instant) -> f64 {
    count as f64 / started.elapsed().as_secs_f64()
}

/// Leaves a store alone until it has nothing more to do, and has written next to nothing for a second and a half (sled never
/// quite ends): what it does only when nobody writes is done then as well.
fn rest(store: &dyn Store) {
    const NEXT_TO_NOTHING: u64 = 4 << 20;
    store.settle();
    let mut before = written_bytes();
    loop {
        std::thread::sleep(Duration::from_millis(1500));
        store.settle();
        let now = written_bytes();
        if now - before < NEXT_TO_NOTHING {
            return;
        }
        before = now;
    }
}

/// Writes `count` keys once each.
fn load(store: &dyn Store, count: u64, value_bytes: usize, in_order: bool) {
    let mut values = Values::new(value_bytes);
    for n in 0..count {
        let key = if in_order { key_of(n) } else { key(n) };
        store.write((&key, Some(values.next())), false);
    }
}

fn fill(store: &dyn Store, count: u64, value_bytes: usize, in_order: bool, figures: &mut Vec<Figure>) {
    let started = Instant::now();
    load(store, count, value_bytes, in_order);
    let order = if in_order { "in order" } else { "at random" };
    push(figures, format!("fill {order}, {value_bytes} B"), per_second(count, started), "ops/s");
}

/// Fill, overwrite, and all kinds of reads of the same million.
fn main_group(name: &str, dir: &Path, count: u64, figures: &mut Vec<Figure>) {
    const VALUE_BYTES: usize = 400;
    let user_bytes = (count * (16 + VALUE_BYTES as u64)) as f64;
    let store = stores::open(name, dir, BIG_CACHE);
    fill(&*store, count, VALUE_BYTES, false, figures);
    rest(&*store);
    push(figures, "bytes written a byte, fill", written_bytes() as f64 / user_bytes, "x");
    push(figures, "bytes on disk a byte", disk_bytes(dir) as f64 / user_bytes, "x");

    // Once through, so that what fits is in the caches.
    let mut rows = 0u64;
    let mut bytes = 0usize;
    store.scan(b"", usize::MAX, &mut |key, value| bytes += key.len() + value.len());
    let started = Instant::now();
    store.scan(b"", usize::MAX, &mut |key, value| {
        rows += 1;
        bytes += key.len() + value.len();
    });
    assert_eq!(rows, count, "{name} has lost rows");
    push(figures, "full scan", per_second(rows, started), "rows/s");
    reads(&*store, count, "warm", figures);
    let reads = count / 2;
    let mut random = Random::new(3);
    let started = Instant::now();
    for _ in 0..reads {
        assert!(!store.get(&key(count + random.below(count)), &mut |_| {}), "{name} found what is not there");
    }
    push(figures, "read missing", per_second(reads, started), "ops/s");
    let started = Instant::now();
    let seeks = count / 8;
    for _ in 0..seeks {
        store.scan(&key(random.below(count)), 10, &mut |key, value| bytes += key.len() + value.len());
    }
    push(figures, "seek and 10 rows", per_second(seeks, started), "ops/s");
    assert!(bytes > 0);

    // One reads at random while another overwrites as fast as it can.
    let (stop, wrote) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut random, mut values) = (Random::new(4), Values::new(VALUE_BYTES));
            while !stop.load(Relaxed) {
                store.write((&key(random.below(count)), Some(values.next())), false);
                wrote.fetch_add(1, Relaxed);
            }
        });
        let (mut random, started, mut done) = (Random::new(5), Instant::now(), 0u64);
        while started.elapsed() < Duration::from_secs(5) {
            for _ in 0..100 {
                assert!(store.get(&key(random.below(count)), &mut |_| {}), "{name} has lost a key");
            }
            done += 100;
        }
        push(figures, "reads while another writes", per_second(done, started), "ops/s");
        push(figures, "writes while another reads", per_second(wrote.load(Relaxed), started), "ops/s");
        stop.store(true, Relaxed);
    });
    rest(&*store);
    let before = written_bytes();
    let (mut random, mut values) = (Random::new(6), Values::new(VALUE_BYTES));
    let started = Instant::now();
    for _ in 0..count {
        store.write((&key(random.below(count)), Some(values.next())), false);
    }
    push(figures, "overwrite, 400 B", per_second(count, started), "ops/s");
    rest(&*store);
    push(figures, "bytes written a byte, overwrite", (written_bytes() - before) as f64 / user_bytes, "x");
    push(figures, "bytes on disk a byte, overwritten", disk_bytes(dir) as f64 / user_bytes, "x");
    push(figures, "peak memory", peak_memory_bytes() as f64 / f64::from(1 << 20), "MiB");
    drop(store);

    let small = Setup { cache_bytes: (user_bytes / 10.0) as u64 };
    let store = stores::open(name, dir, small);
    reads_only(&*store, count, "cache a tenth", figures);
}

fn reads(store: &dyn Store, count: u64, how: &str, figures: &mut Vec<Figure>) {
    for n in 0..count.min(100_000) {
        store.get(&key(n), &mut |_| {});
    }
    reads_only(store, count, how, figures);
}

fn reads_only(store: &dyn Store, count: u64, how: &str, figures: &mut Vec<Figure>) {
    let (mut random, mut bytes) = (Random::new(2), 0);
    let started = Instant::now();
    for _ in 0..count / 2 {
        assert!(store.get(&key(random.below(count)), &mut |value| bytes += value.len()), "a key is lost");
    }
    assert!(bytes > 0);
    push(figures, format!("read at random, {how}"), per_second(count / 2, started), "ops/s");
}

/// Synced writes of many at once.
fn sync(store: &dyn Store, figures: &mut Vec<Figure>) {
    for writers in [1u64, 16, 64] {
        let (done, started) = (AtomicU64::new(0), Instant::now());
        std::thread::scope(|scope| {
            for writer in 0..writers {
                let done = &done;
                scope.spawn(move || {
                    let (mut random, mut values) = (Random::new(writer + 1), Values::new(100));
                    while started.elapsed() < Duration::from_secs(3) {
                        store.write((&key(random.next()), Some(values.next())), true);
                        done.fetch_add(1, Relaxed);
                    }
                });
            }
        });
        push(
            figures,
            format!("synced writes, {writers} at once"),
            per_second(done.load(Relaxed), started),
            "ops/s",
        );
    }
}

/// Nine of ten keys go, then all that is left is walked.
fn delete(store: &dyn Store, count: u64, figures: &mut Vec<Figure>) {
    load(store, count, 100, false);
    rest(store);
    let started = Instant::now();
    for n in (0..count).filter(|n| n % 10 != 0) {
        store.write((&key(n), None), false);
    }
    push(figures, "delete nine of ten", per_second(count - count / 10, started), "ops/s");
    let (started, mut rows) = (Instant::now(), 0);
    store.scan(b"", usize::MAX, &mut |_, _| rows += 1);
    assert_eq!(rows, count.div_ceil(10), "a scan after deletes");
    push(figures, "scan what deletes left", started.elapsed().as_secs_f64() * 1e3, "ms");
}

/// YCSB's core workloads with two clients: 1 KiB records, zipfian keys (D: newest first).
fn ycsb(store: &dyn Store, records: u64, figures: &mut Vec<Figure>) {
    const VALUE_BYTES: usize = 1000;
    load(store, records, VALUE_BYTES, false);
    rest(store);
    let zipf = Zipf::new(records);
    let newest = AtomicU64::new(records);
    // Percent of reads, updates, inserts, scans, read-modify-writes.
    let mixes: HashMap<char, [u64; 5]> = HashMap::from([
        ('A', [50, 50, 0, 0, 0]),
        ('B', [95, 5, 0, 0, 0]),
        ('C', [100, 0, 0, 0, 0]),
        ('D', [95, 0, 5, 0, 0]),
        ('E', [0, 0, 5, 95, 0]),
        ('F', [50, 0, 0, 0, 50]),
    ]);
    for name in ['A', 'B', 'C', 'D', 'E', 'F'] {
        let mix = mixes[&name];
        let operations = if name == 'E' { records / 5 } else { records * 2 };
        let started = Instant::now();
        std::thread::scope(|scope| {
            for client in 0..2u64 {
                let (zipf, newest) = (&zipf, &newest);
                scope.spawn(move || {
                    let (mut random, mut values) = (Random::new(client + 11), Values::new(VALUE_BYTES));
                    for _ in 0..operations / 2 {
                        let rank = zipf.rank(&mut random);
                        let last = newest.load(Relaxed);
                        // The hot ones are strewn over all keys; for D they are the newest.
                        let chosen = if name == 'D' {
                            last - 1 - rank.min(last - 1)
                        } else {
                            rank * 2_654_435_761 % records
                        };
                        let (chosen, mut dice, mut which) = (key(chosen), random.below(100), 0);
                        while dice >= mix[which] {
                            dice -= mix[which];
                            which += 1;
                        }
                        match which {
                            0 => drop(store.get(&chosen, &mut |_| {})),
                            1 => store.write((&chosen, Some(values.next())), false),
                            2 => {
                                store.write((&key(newest.fetch_add(1, Relaxed)), Some(values.next())), false)
                            }
                            3 => drop(store.scan(&chosen, 1 + random.below(100) as usize, &mut |_, _| {})),
                            _ => {
                                store.get(&chosen, &mut |_| {});
                                store.write((&chosen, Some(values.next())), false);
                            }
                        }
                    }
                });
            }
        });
        push(figures, format!("YCSB {name}"), per_second(operations, started), "ops/s");
    }
}

/// Bytes that this process has caused to be written to disk.
fn written_bytes() -> u64 {
    field("/proc/self/io", "write_bytes:")
}

fn peak_memory_bytes() -> u64 {
    field("/proc/self/status", "VmHWM:") * 1024
}

fn field(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).expect("procfs");
    let line = text.lines().find(|line| line.starts_with(name)).expect("a known field");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// Bytes that the files of a folder take on disk (blocks, not lengths).
pub(crate) fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).expect("a folder").flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0, // gone meanwhile
    };
    entries.map(size).sum()
}
