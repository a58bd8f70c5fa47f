//! The engine alone: its log, its memtable, its tables, and durable writes through all of it.

use std::hint::black_box;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use lumen_benches::{Random, key, value};
use lumen_engine::log::{Kind, Log, LogOptions};
use lumen_engine::vfs::disk::Disk;
use lumen_engine::{Batch, Durability, Engine, Options};

const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 400;
const ROW_BYTES: u64 = 16 + VALUE_BYTES as u64;

fn put(engine: &Engine, n: u64, value: &[u8], durability: Durability) {
    let mut batch = Batch::new();
    batch.put(&key(n), value);
    engine.write(&batch, durability).expect("write");
}

/// Time for `total` calls of `one` by `writers` threads.
fn by_writers(writers: u64, total: u64, one: impl Fn(u64) + Sync) -> Duration {
    let next = AtomicU64::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..writers {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= total {
                        return;
                    }
                    one(n);
                }
            });
        }
    });
    begin.elapsed()
}

fn open_log(dir: &Path) -> Log {
    let options = LogOptions {
        dir: dir.to_path_buf(),
        extension: "wal",
        segment_bytes: 64 << 20,
        first_segment_bytes: 64 << 20,
        kinds: &[Kind::Entry],
        from_seq: 0,
        uuid: None,
        random: lumen_engine::options::system_random,
    };
    Log::open(Arc::new(Disk), options, None, 1, &mut |_, _, _| Ok(())).expect("open").0
}

fn log(c: &mut Criterion) {
    let mut group = c.benchmark_group("log, append and sync 256 B");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    for writers in [1, 16, 64] {
        let dir = tempfile::tempdir().expect("folder");
        let log = open_log(dir.path());
        let bytes = value(&mut Random::new(1), 256);
        group.bench_function(format!("{writers} writers"), |b| {
            b.iter_custom(|total| {
                by_writers(writers, total, |_| {
                    // All at one seq: the log asks only that it does not run backwards.
                    let end = log.append(1, Kind::Entry, &[&bytes]).expect("append");
                    log.sync(end).expect("sync");
                })
            });
        });
    }
    group.finish();
}

fn durable(c: &mut Criterion) {
    let mut group = c.benchmark_group("durable write, 256 B");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    for writers in [1, 16, 64] {
        let dir = tempfile::tempdir().expect("folder");
        let engine = Engine::open(dir.path(), Options::default()).expect("open");
        let bytes = value(&mut Random::new(1), 256);
        group.bench_function(format!("{writers} writers"), |b| {
            b.iter_custom(|total| by_writers(writers, total, |n| put(&engine, n, &bytes, Durability::Sync)));
        });
        engine.close().expect("close");
    }
    group.finish();
}

/// How often rows are overwritten that an older snapshot still reads.
const OVERWRITES: u64 = 10_000;

/// A store whose rows are all in the memtable; it has no log, so that only the memtable is measured.
fn filled(dir: &Path) -> Engine {
    let options = Options { log: false, memtable_bytes: 1 << 30, ..Options::default() };
    let engine = Engine::open(dir, options).expect("open");
    let mut random = Random::new(7);
    for n in 0..KEYS {
        let mut batch = Batch::new();
        batch.put(&key(n), &value(&mut random, VALUE_BYTES));
        engine.apply(n + 1, &batch).expect("apply");
    }
    engine.publish(KEYS);
    engine
}

fn memtable(c: &mut Criterion) {
    let mut group = c.benchmark_group("memtable of 100,000 rows of 416 B");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    let dir = tempfile::tempdir().expect("folder");
    let engine = filled(dir.path());
    let mut random = Random::new(3);
    group.bench_function("get, there", |b| {
        b.iter(|| engine.get(&key(random.below(KEYS))).expect("get").expect("there").len());
    });
    group.bench_function("get, missing", |b| {
        b.iter(|| engine.get(&key(u64::MAX / 2 + random.below(KEYS))).expect("get").is_none());
    });
    group.bench_function("get, there, while another thread gets the same", |b| {
        let done = AtomicBool::new(false);
        let engine = &engine;
        let get = move |random: &mut Random| {
            engine.get(&key(random.below(100))).expect("get").expect("there").len()
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random::new(5);
                while !done.load(Ordering::Relaxed) {
                    black_box(get(&mut random));
                }
            });
            b.iter(|| get(&mut random));
            done.store(true, Ordering::Relaxed);
        });
    });
    group.throughput(Throughput::Elements(KEYS));
    group.bench_function("scan, whole", |b| {
        b.iter(|| {
            let mut rows = 0;
            let scanned = engine.scan(Bound::Unbounded, Bound::Unbounded, |_, _| {
                rows += 1;
                true
            });
            scanned.expect("scan");
            rows
        });
    });
    group.throughput(Throughput::Elements(1));
    let bytes = value(&mut random, VALUE_BYTES);
    let mut seq = KEYS;
    let held = filled(&dir.path().join("held"));
    let snapshot = held.snapshot();
    for n in 0..10 * OVERWRITES {
        let mut batch = Batch::new();
        batch.put(&key(n % 10), &bytes[..100]);
        held.apply(KEYS + 1 + n, &batch).expect("apply");
    }
    held.publish(KEYS + 10 * OVERWRITES);
    let (start, end) = (key(0), key(9));
    group.bench_function("seek and a row of a snapshot, overwritten 10,000 times since", |b| {
        b.iter(|| {
            let mut scan = snapshot.scan(Bound::Included(&start[..]), Bound::Included(&end[..]));
            assert!(scan.next_row().expect("scan"));
        });
    });
    group.bench_function("the same backward", |b| {
        b.iter(|| {
            let mut scan = snapshot.scan(Bound::Included(&start[..]), Bound::Included(&start[..]));
            assert!(scan.prev_row().expect("scan"));
        });
    });
    group.bench_function("insert, at random", |b| {
        b.iter(|| {
            seq += 1;
            let mut batch = Batch::new();
            batch.put(&key(random.below(KEYS)), &bytes);
            engine.apply(seq, &batch).expect("apply");
        });
    });
    group.bench_function("insert, in order", |b| {
        b.iter(|| {
            seq += 1;
            let mut batch = Batch::new();
            batch.put(&seq.to_be_bytes(), &bytes);
            engine.apply(seq, &batch).expect("apply");
        });
    });
    group.finish();
}

fn tables(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("folder");
    let flush = |engine: &Engine| {
        engine.freeze(KEYS, None).expect("freeze");
        engine.flush().expect("flush");
    };
    let mut group = c.benchmark_group("table of 100,000 rows of 416 B");
    group.sample_size(10).measurement_time(Duration::from_secs(5)).warm_up_time(Duration::from_secs(1));
    group.throughput(Throughput::Bytes(KEYS * ROW_BYTES));
    group.bench_function("build, by a flush", |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let dir = tempfile::tempdir().expect("folder");
                let engine = filled(dir.path());
                let begin = Instant::now();
                flush(&engine);
                spent += begin.elapsed();
            }
            spent
        });
    });
    let engine = filled(dir.path());
    flush(&engine);
    let mut random = Random::new(3);
    group.bench_function("scan, whole", |b| {
        b.iter(|| {
            let mut bytes = 0;
            let scanned = engine.scan(Bound::Unbounded, Bound::Unbounded, |key, value| {
                bytes += key.len() + value.len();
                true
            });
            scanned.expect("scan");
            bytes
        });
    });
    group.throughput(Throughput::Elements(1)).sample_size(20).measurement_time(Duration::from_secs(2));
    group.bench_function("get, there", |b| {
        b.iter(|| engine.get(&key(random.below(KEYS))).expect("get").expect("there").len());
    });
    let mut missing = |group: &mut BenchmarkGroup<'_, WallTime>, name: &str| {
        let before = engine.stats();
        group.bench_function(name, |b| {
            b.iter(|| engine.get(&key(u64::MAX / 2 + random.below(KEYS))).expect("get").is_none());
        });
        let after = engine.stats();
        let (passed, stopped) =
            (after.filter_false - before.filter_false, after.filter_stopped - before.filter_stopped);
        let rate = 100.0 * passed as f64 / (passed + stopped).max(1) as f64;
        println!("{name}: the filter let {rate:.3} % pass");
    };
    missing(&mut group, "get, missing, Bloom filter of level 0 (14 bits a key)");
    // A few rows over it, or the table would only move.
    for n in 0..100 {
        let mut batch = Batch::new();
        batch.put(&key(n), b"once more");
        engine.apply(KEYS + 1 + n, &batch).expect("apply");
    }
    engine.publish(KEYS + 100);
    engine.freeze(KEYS + 100, None).expect("freeze");
    engine.rest().expect("rest");
    assert_eq!(engine.stats().levels[0].tables, 0, "level 0 has gone down");
    missing(&mut group, "get, missing, binary fuse filter of the oldest run (9 bits a key)");
    group.bench_function("seek and 10 rows", |b| {
        b.iter(|| {
            let snapshot = engine.snapshot();
            let mut scan = snapshot.scan(Bound::Included(&key(random.below(KEYS))), Bound::Unbounded);
            let mut bytes = 0;
            while bytes < 10 * ROW_BYTES as usize && scan.next_row().expect("scan") {
                bytes += scan.key().len() + scan.value().len();
            }
            bytes
        });
    });
    group.finish();
}

/// A large batch becomes a memtable by itself, sorted once, unless the memtable has room for two of it.
fn large_batch(c: &mut Criterion) {
    let mut group = c.benchmark_group("a batch of 100,000 rows of 416 B");
    group.throughput(Throughput::Elements(KEYS)).sample_size(10);
    group.measurement_time(Duration::from_secs(5)).warm_up_time(Duration::from_secs(1));
    let (mut random, mut batch) = (Random::new(7), Batch::new());
    (0..KEYS).for_each(|n| batch.put(&key(n), &value(&mut random, VALUE_BYTES)));
    for (name, memtable_bytes) in [("a memtable of its own", 64 << 20), ("into the list", 256 << 20)] {
        group.bench_function(name, |b| {
            b.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    let dir = tempfile::tempdir().expect("folder");
                    let engine = Engine::open(dir.path(), Options { memtable_bytes, ..Options::default() });
                    let engine = engine.expect("open");
                    let begin = Instant::now();
                    engine.write(&batch, Durability::Buffered).expect("write");
                    spent += begin.elapsed();
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, log, durable, memtable, large_batch, tables);
criterion_main!(benches);
