//! Documents: importing, durable puts by writers and in batches, reads, searches, and searches right after a write.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lumen::{Condition, Database, Mapping, Options, Prepared, SearchRequest, Write};
use lumen_benches::{Random, prose, word};

const DOCUMENTS: u64 = 20_000;

fn put(n: u64, source: String) -> Write {
    let (collection, source) = ("c".into(), source.into_bytes());
    Write::Put { collection, id: format!("{n:010}"), source, condition: Condition::Always }
}

fn source(random: &mut Random) -> String {
    format!(r#"{{"body":"{}","n":{}}}"#, prose(random, 150), random.below(1000))
}

fn open(dir: &std::path::Path) -> Database {
    let db = Database::open(dir, Options::default()).expect("open");
    let mapping = br#"{"fields":{"body":{"type":"text"},"n":{"type":"i64"}}}"#;
    let mapping = Mapping::from_json(mapping).expect("good");
    db.write(Write::CreateCollection { name: "c".into(), mapping }).expect("create");
    db
}

fn import(db: &Database, documents: u64, random: &mut Random) -> u64 {
    let mut bytes = 0;
    let mut batch = Vec::new();
    for n in 0..documents {
        let source = source(random);
        bytes += source.len() as u64;
        batch.push(db.prepare(put(n, source)).expect("good"));
        if batch.len() == 700 || n + 1 == documents {
            db.propose_blocking(Prepared::batch(std::mem::take(&mut batch))).expect("write");
        }
    }
    bytes
}

fn indexing(c: &mut Criterion) {
    let mut group = c.benchmark_group("indexing");
    let bytes = (0..5_000).fold((Random::new(5), 0), |(mut r, n), _| {
        let len = source(&mut r).len();
        (r, n + len as u64)
    });
    group.sample_size(10).throughput(Throughput::Bytes(bytes.1));
    group.bench_function("5,000 documents of 150 words, one thread, synced batches, flushed", |b| {
        b.iter_custom(|n| {
            let mut spent = Duration::ZERO;
            for _ in 0..n {
                let dir = tempfile::tempdir().expect("folder");
                let db = open(dir.path());
                let begin = Instant::now();
                import(&db, 5_000, &mut Random::new(5));
                db.flush().expect("flush");
                spent += begin.elapsed();
                db.close().expect("close");
            }
            spent
        });
    });
    group.finish();
}

fn durable_puts(c: &mut Criterion) {
    let mut group = c.benchmark_group("durable put, searchable, 1 KB document");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    for writers in [1u64, 16, 64] {
        let dir = tempfile::tempdir().expect("folder");
        let db = open(dir.path());
        let next = AtomicU64::new(0);
        group.bench_function(format!("{writers} writers"), |b| {
            b.iter_custom(|total| {
                let end = next.load(Ordering::Relaxed) + total;
                let begin = Instant::now();
                std::thread::scope(|scope| {
                    for writer in 0..writers {
                        let (db, next) = (&db, &next);
                        scope.spawn(move || {
                            let mut random = Random::new(writer + 1);
                            loop {
                                let n = next.fetch_add(1, Ordering::Relaxed);
                                if n >= end {
                                    return;
                                }
                                db.write(put(n, source(&mut random))).expect("write");
                            }
                        });
                    }
                });
                next.store(end, Ordering::Relaxed);
                begin.elapsed()
            });
        });
        db.close().expect("close");
    }
    group.finish();
}

fn batches(c: &mut Criterion) {
    const SIZE: u64 = 100;
    let mut group = c.benchmark_group("durable batch, searchable");
    group.throughput(Throughput::Elements(SIZE)).sample_size(10);
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    let dir = tempfile::tempdir().expect("folder");
    let db = open(dir.path());
    let (mut random, mut next) = (Random::new(3), 0);
    group.bench_function("100 documents of 1 KB", |b| {
        b.iter_batched(
            || {
                next += SIZE;
                Write::Batch((next - SIZE..next).map(|n| put(n, source(&mut random))).collect())
            },
            |batch| db.write(batch).expect("write").seq,
            BatchSize::SmallInput,
        );
    });
    group.finish();
    db.close().expect("close");
}

fn reads(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("folder");
    let db = open(dir.path());
    import(&db, DOCUMENTS, &mut Random::new(9));
    db.flush().expect("flush");
    let mut group = c.benchmark_group("20,000 documents of 1 KB");
    group.sample_size(20).throughput(Throughput::Elements(1));
    group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    let mut random = Random::new(4);
    group.bench_function("get by id", |b| {
        b.iter(|| {
            let id = format!("{:010}", random.below(DOCUMENTS));
            db.snapshot().get("c", &id).expect("get").expect("there").source.len()
        });
    });
    let mut next = DOCUMENTS;
    group.bench_function("put one and find it by its own word", |b| {
        b.iter(|| {
            next += 1;
            let source = format!(r#"{{"body":"{} unique{next}","n":1}}"#, prose(&mut random, 150));
            db.write(put(next, source)).expect("write");
            let query = format!("unique{next}");
            let request =
                SearchRequest { collection: "c", query: &query, offset: 0, limit: 10, cancelled: None };
            assert_eq!(db.snapshot().search(&request).expect("search").total, 1);
        });
    });
    group.finish();
    db.close().expect("close");
}

fn queries(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("folder");
    let db = open(dir.path());
    import(&db, DOCUMENTS, &mut Random::new(9));
    db.merge("c").expect("merge");
    let mut group = c.benchmark_group("query, top 10 and exact total, 20,000 documents");
    group.sample_size(20).throughput(Throughput::Elements(1));
    group.measurement_time(Duration::from_secs(1)).warm_up_time(Duration::from_millis(300));
    let snapshot = db.snapshot();
    let (common, middle, rare) = (word(3), word(200), word(9_000));
    for (name, query) in [
        ("term, common", common.clone()),
        ("term, rare", rare.clone()),
        ("and", format!("+{common} +{middle}")),
        ("or", format!("{common} {middle} {rare}")),
        ("phrase", format!("\"{common} {}\"", word(5))),
        ("range", "n:[100 TO 200]".to_owned()),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let request =
                    SearchRequest { collection: "c", query: &query, offset: 0, limit: 10, cancelled: None };
                snapshot.search(&request).expect("search").total
            });
        });
    }
    group.finish();
    db.close().expect("close");
}

criterion_group!(benches, indexing, durable_puts, batches, reads, queries);
criterion_main!(benches);
