//! The engine alone: durable writes by writers, buffered writes into the memtable, table build, point reads, scans.

use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lumen_benches::{Random, key, value};
use lumen_engine::{Batch, Durability, Engine, Options};

const KEYS: u64 = 200_000;
const VALUE_BYTES: usize = 400;

fn put(engine: &Engine, n: u64, value: &[u8], durability: Durability) {
    let mut batch = Batch::new();
    batch.put(&key(n), value);
    engine.write(&batch, durability).expect("write");
}

/// Time for `total` durable writes by `writers` threads.
fn durable(engine: &Engine, writers: u64, total: u64) -> Duration {
    let next = AtomicU64::new(0);
    let bytes = value(&mut Random::new(1), 256);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..writers {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= total {
                        return;
                    }
                    put(engine, n, &bytes, Durability::Sync);
                }
            });
        }
    });
    begin.elapsed()
}

fn log(c: &mut Criterion) {
    let mut group = c.benchmark_group("durable write, 256 B");
    group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(5));
    for writers in [1, 16, 64] {
        let dir = tempfile::tempdir().expect("folder");
        let engine = Engine::open(dir.path(), Options::default()).expect("open");
        group.bench_function(format!("{writers} writers"), |b| {
            b.iter_custom(|n| durable(&engine, writers, n))
        });
        engine.close().expect("close");
    }
    group.finish();
}

fn filled(dir: &std::path::Path) -> Engine {
    let engine = Engine::open(dir, Options::default()).expect("open");
    let mut random = Random::new(7);
    for first in (0..KEYS).step_by(100) {
        let mut batch = Batch::new();
        for n in first..first + 100 {
            batch.put(&key(n), &value(&mut random, VALUE_BYTES));
        }
        engine.write(&batch, Durability::Buffered).expect("write");
    }
    engine
}

fn memtable_and_tables(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    let dir = tempfile::tempdir().expect("folder");
    let engine = filled(dir.path());
    let mut random = Random::new(3);
    let bytes = value(&mut random, VALUE_BYTES);
    group.bench_function("memtable: buffered put, 400 B", |b| {
        b.iter(|| put(&engine, KEYS + random.below(KEYS), &bytes, Durability::Buffered));
    });
    engine.settle().expect("settle");
    group.bench_function("point read, random, warm", |b| {
        b.iter(|| engine.get(&key(random.below(KEYS))).expect("get").expect("there").len());
    });
    group.bench_function("point read, missing", |b| {
        b.iter(|| engine.get(&key(u64::MAX / 2 + random.below(KEYS))).expect("get").is_none());
    });
    group.bench_function("seek and 10 rows", |b| {
        b.iter(|| {
            let snapshot = engine.snapshot();
            let mut scan = snapshot.scan(Bound::Included(&key(random.below(KEYS))), Bound::Unbounded);
            let mut bytes = 0;
            for _ in 0..10 {
                if !scan.next_row().expect("scan") {
                    break;
                }
                bytes += scan.value().len();
            }
            bytes
        });
    });
    group.finish();
    let mut group = c.benchmark_group("engine, whole store");
    group.sample_size(10).throughput(Throughput::Elements(KEYS));
    group.bench_function("full scan", |b| {
        b.iter(|| {
            let mut rows = 0u64;
            engine
                .scan(Bound::Unbounded, Bound::Unbounded, |_, _| {
                    rows += 1;
                    true
                })
                .expect("scan");
            rows
        });
    });
    group.bench_function("table build: flush of 200,000 × 400 B", |b| {
        b.iter_custom(|n| {
            let mut spent = Duration::ZERO;
            for _ in 0..n {
                let dir = tempfile::tempdir().expect("folder");
                let engine =
                    Engine::open(dir.path(), Options { memtable_bytes: 1 << 30, ..Options::default() });
                let engine = engine.expect("open");
                let mut random = Random::new(7);
                for n in 0..KEYS {
                    put(&engine, n, &value(&mut random, VALUE_BYTES), Durability::Buffered);
                }
                let begin = Instant::now();
                engine.flush().expect("flush");
                spent += begin.elapsed();
            }
            spent
        });
    });
    group.finish();
}

criterion_group!(benches, log, memtable_and_tables);
criterion_main!(benches);
