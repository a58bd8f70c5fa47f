//! Compaction strategies on the same work: throughput, latencies, and what each costs in writing, reading and room.
//!
//! `cargo bench -p lumen-benches --bench compaction` does a fixed number of operations of each work under each strategy, which
//! the table and the figures tell of, so that they compare stores of one size; then criterion measures how fast the store goes
//! on. The table is printed at the end and the figures are drawn into `benches/compaction/`. The page `benches/compaction.md`
//! says what to make of them.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use hdrhistogram::Histogram;
use lumen_benches::draw::{Bars, draw_bars};
use lumen_benches::{Random, key};
use lumen_engine::{Batch, Compaction, Durability, Engine, Options};

/// Rows that are there before the work begins, and that a time series keeps.
const ROWS: u64 = 200_000;
const VALUE_BYTES: usize = 400;
const ROW_BYTES: u64 = 16 + VALUE_BYTES as u64;
/// Small, so that a store of 80 MB has the shape of one of gigabytes.
const MEMTABLE_BYTES: usize = 2 << 20;
/// Of so many writes, one is followed by a read.
const WRITES_A_READ: u64 = 20;

/// The stores' time in milliseconds: each row of a time series is one later, and is gone after [`ROWS`].
static NOW: AtomicU64 = AtomicU64::new(1_700_000_000_000);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Fill,
    Overwrite,
    TimeSeries,
    Deletes,
    ReadWhileWriting,
    Scans,
}

impl Work {
    const ALL: [Work; 6] =
        [Work::Fill, Work::Overwrite, Work::TimeSeries, Work::Deletes, Work::ReadWhileWriting, Work::Scans];

    fn name(self) -> &'static str {
        match self {
            Work::Fill => "fill at random",
            Work::Overwrite => "overwrite, zipf",
            Work::TimeSeries => "time series with TTL",
            Work::Deletes => "queue: put, delete, look",
            Work::ReadWhileWriting => "get while another puts",
            Work::Scans => "scan 100, put one of 20",
        }
    }

    /// Operations that the figures are of: the same under every strategy.
    fn operations(self) -> u64 {
        match self {
            Work::Fill | Work::Overwrite | Work::ReadWhileWriting => 3 * ROWS,
            Work::TimeSeries => 4 * ROWS,
            Work::Deletes => 2 * ROWS,
            Work::Scans => ROWS,
        }
    }

    /// Whether the store is filled before.
    fn is_filled(self) -> bool {
        !matches!(self, Work::Fill | Work::TimeSeries)
    }
}

fn strategies(work: Work) -> Vec<(&'static str, Compaction)> {
    let mut all = vec![
        ("leveled", Compaction::Leveled),
        ("tiered", Compaction::Tiered { runs: 8, size_ratio_percent: 1, space_percent: 200 }),
        ("lazy leveled", Compaction::LazyLeveled { runs: 4 }),
    ];
    if work == Work::TimeSeries {
        all.push((
            "fifo",
            Compaction::Fifo { bytes_max: u64::MAX, age_max: Some(Duration::from_millis(ROWS)) },
        ));
    }
    all
}

/// Who puts rows, and how long that took.
struct Writer {
    random: Random,
    value: Vec<u8>,
    user_bytes: u64,
    latencies: Histogram<u64>,
}

/// A store at work, and what was seen of it.
struct Run {
    engine: Arc<Engine>,
    dir: tempfile::TempDir,
    work: Work,
    compaction: Compaction,
    random: Random,
    writer: Writer,
    /// Operations done.
    done: u64,
    /// Rows that were ever put, and the first that is still there (for a queue and a time series).
    next: u64,
    first: u64,
    written_before: u64,
    reads: Histogram<u64>,
    blocks_before: u64,
    peak_bytes: u64,
}

/// Nanoseconds, from one to a minute.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("good bounds")
}

impl Writer {
    fn new(seed: u64) -> Writer {
        Writer {
            random: Random::new(seed),
            value: vec![0; VALUE_BYTES],
            user_bytes: 0,
            latencies: histogram(),
        }
    }

    fn write(&mut self, engine: &Engine, batch: &Batch) {
        let begin = Instant::now();
        engine.write(batch, Durability::Buffered).expect("write");
        self.latencies.saturating_record(begin.elapsed().as_nanos() as u64);
    }

    /// Puts a row, until a time if it is to expire.
    fn put(&mut self, engine: &Engine, key: &[u8], until: Option<u64>) {
        // Values that do not pack, so that room is what rows take.
        for chunk in self.value.chunks_mut(8) {
            chunk.copy_from_slice(&self.random.bits().to_le_bytes()[..chunk.len()]);
        }
        let mut batch = Batch::new();
        match until {
            Some(until) => batch.put_until(key, &self.value, until),
            None => batch.put(key, &self.value),
        }
        self.user_bytes += ROW_BYTES;
        self.write(engine, &batch);
    }
}

/// The figures of a run.
struct Row {
    work: &'static str,
    strategy: &'static str,
    per_second: f64,
    /// p50, p99, p99.9 in microseconds.
    write_us: [f64; 3],
    read_us: [f64; 3],
    write_amplification: f64,
    blocks_per_read: f64,
    space_amplification: f64,
    peak_mib: f64,
}

impl Run {
    fn new(work: Work, compaction: Compaction) -> Run {
        let dir = tempfile::tempdir().expect("a folder");
        let options = Options {
            compaction,
            memtable_bytes: MEMTABLE_BYTES,
            table_bytes: 2 << 20,
            level_bytes: 8 << 20,
            cache_bytes: 16 << 20,
            clock: || NOW.load(Ordering::Relaxed),
            ..Options::default()
        };
        let engine = Arc::new(Engine::open(dir.path(), options).expect("open"));
        let mut run = Run {
            engine,
            dir,
            work,
            compaction,
            random: Random::new(5),
            writer: Writer::new(6),
            done: 0,
            next: 0,
            first: 0,
            written_before: 0,
            reads: histogram(),
            blocks_before: 0,
            peak_bytes: 0,
        };
        if work.is_filled() {
            (0..ROWS).for_each(|_| run.put_next());
            run.engine.settle().expect("settle");
            run.writer = Writer::new(7);
            run.peak_bytes = 0;
        }
        run.written_before = run.written();
        run.blocks_before = run.blocks();
        run
    }

    /// Bytes of tables written so far.
    fn written(&self) -> u64 {
        let stats = self.engine.stats();
        stats.flushed_bytes + stats.compacted_bytes
    }

    /// Blocks that reads have asked for so far; flushes and compactions are not counted.
    fn blocks(&self) -> u64 {
        let stats = self.engine.stats();
        stats.cache_hits + stats.cache_misses
    }

    fn key(&self, n: u64) -> [u8; 16] {
        match self.work {
            // In the order of time.
            Work::TimeSeries | Work::Deletes => {
                let mut key = *b"row/............";
                key[8..].copy_from_slice(&n.to_be_bytes());
                key
            }
            _ => key(n),
        }
    }

    fn put(&mut self, n: u64) {
        self.writer.put(&self.engine, &self.key(n), None);
    }

    fn put_next(&mut self) {
        self.put(self.next);
        self.next += 1;
    }

    /// Notes how long a read took.
    fn read(&mut self, read: impl FnOnce(&Run)) {
        let begin = Instant::now();
        read(self);
        self.reads.saturating_record(begin.elapsed().as_nanos() as u64);
    }

    fn get(&mut self, n: u64) {
        let key = self.key(n);
        self.read(|run| assert!(run.engine.get(&key).expect("get").is_some(), "row {n} is lost"));
    }

    fn scan(&mut self, from: u64, rows: usize) {
        let key = self.key(from);
        self.read(|run| {
            let snapshot = run.engine.snapshot();
            let mut scan = snapshot.scan(Bound::Included(&key), Bound::Unbounded);
            let mut count = 0;
            while count < rows && scan.next_row().expect("scan") {
                count += 1;
            }
            assert!(count > 0 || run.work != Work::Deletes, "the queue is empty");
        });
    }

    fn one(&mut self) {
        match self.work {
            Work::Fill => {
                self.put_next();
                if self.done.is_multiple_of(WRITES_A_READ) {
                    let n = self.random.below(self.next);
                    self.get(n);
                }
            }
            Work::Overwrite => {
                let n = self.random.zipf(ROWS);
                self.put(n);
                if self.done.is_multiple_of(WRITES_A_READ) {
                    let n = self.random.below(ROWS);
                    self.get(n);
                }
            }
            Work::TimeSeries => {
                let until = NOW.fetch_add(1, Ordering::Relaxed) + ROWS;
                // FIFO lets whole tables go by their age; under the others a row knows when it goes.
                let until = (!matches!(self.compaction, Compaction::Fifo { .. })).then_some(until);
                self.writer.put(&self.engine, &self.key(self.next), until);
                self.next += 1;
                self.first = self.next.saturating_sub(ROWS);
                if self.done.is_multiple_of(WRITES_A_READ) {
                    let recent = self.next - 1 - self.random.below(self.next.min(ROWS / 2));
                    self.get(recent);
                }
            }
            Work::Deletes => {
                self.put_next();
                let mut batch = Batch::new();
                batch.delete(&self.key(self.first));
                self.first += 1;
                self.writer.user_bytes += 16;
                self.writer.write(&self.engine, &batch);
                if self.first.is_multiple_of(100) {
                    self.scan(0, 10);
                }
            }
            Work::ReadWhileWriting => {
                let n = self.random.below(ROWS);
                self.get(n);
            }
            Work::Scans => {
                let n = self.random.below(ROWS);
                if self.done.is_multiple_of(20) { self.put(n) } else { self.scan(n, 100) }
            }
        }
        self.done += 1;
        if self.done.is_multiple_of(5_000) {
            self.peak_bytes = self.peak_bytes.max(table_bytes(self.dir.path()));
        }
    }

    /// So many operations, and those that another thread does meanwhile; answers all of them.
    fn many(&mut self, count: u64) -> u64 {
        if self.work != Work::ReadWhileWriting {
            (0..count).for_each(|_| self.one());
            return count;
        }
        let mut writer = std::mem::replace(&mut self.writer, Writer::new(8));
        let (is_over, puts) = (AtomicBool::new(false), AtomicU64::new(0));
        let engine = self.engine.clone();
        std::thread::scope(|scope| {
            let put = || {
                while !is_over.load(Ordering::Relaxed) {
                    let n = writer.random.below(ROWS);
                    writer.put(&engine, &key(n), None);
                    puts.fetch_add(1, Ordering::Relaxed);
                }
            };
            scope.spawn(put);
            (0..count).for_each(|_| self.one());
            is_over.store(true, Ordering::Relaxed);
        });
        self.writer = writer;
        count + puts.into_inner()
    }

    /// Does the work, and answers the figures of it.
    fn row(&mut self, strategy: &'static str) -> Row {
        let begin = Instant::now();
        let operations = self.many(self.work.operations());
        let per_second = operations as f64 / begin.elapsed().as_secs_f64();
        self.engine.settle().expect("settle");
        let live_rows = match self.work {
            Work::Fill => self.next,
            Work::TimeSeries | Work::Deletes => self.next - self.first,
            _ => ROWS,
        };
        let bytes = table_bytes(self.dir.path());
        self.peak_bytes = self.peak_bytes.max(bytes);
        let micros = |histogram: &Histogram<u64>| {
            [0.5, 0.99, 0.999].map(|quantile| histogram.value_at_quantile(quantile) as f64 / 1e3)
        };
        Row {
            work: self.work.name(),
            strategy,
            per_second,
            write_us: micros(&self.writer.latencies),
            read_us: micros(&self.reads),
            write_amplification: (self.written() - self.written_before) as f64
                / self.writer.user_bytes.max(1) as f64,
            blocks_per_read: (self.blocks() - self.blocks_before) as f64 / self.reads.len().max(1) as f64,
            space_amplification: bytes as f64 / (live_rows * ROW_BYTES) as f64,
            peak_mib: self.peak_bytes as f64 / f64::from(1 << 20),
        }
    }
}

/// Bytes of the tables in a folder, those that are about to go too.
fn table_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("a folder").flatten();
    let tables = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "sst"));
    tables.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut rows = Vec::new();
    // `cargo test` runs benches too, an operation each: that is nothing to tell of.
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    for work in Work::ALL {
        let mut group = criterion.benchmark_group(work.name());
        group.throughput(Throughput::Elements(1)).sample_size(10);
        group.measurement_time(Duration::from_secs(4)).warm_up_time(Duration::from_secs(1));
        for (strategy, compaction) in strategies(work) {
            let mut run = None;
            // With a filter on the command line some are not run.
            group.bench_function(strategy, |bencher| {
                let run = run.get_or_insert_with(|| {
                    let mut run = Run::new(work, compaction);
                    if is_measured {
                        rows.push(run.row(strategy));
                    }
                    run
                });
                bencher.iter_custom(|count| {
                    let begin = Instant::now();
                    run.many(count);
                    begin.elapsed()
                });
            });
        }
        group.finish();
    }
    criterion.final_summary();
    print(&rows);
    if rows.len() > 12 {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("compaction");
        draw(&folder, &rows);
        println!("\nfigures are in {}", folder.display());
    }
}

/// A picture for each kind of figure.
fn draw(folder: &Path, rows: &[Row]) {
    let figures: [(&str, &str, fn(&Row) -> f64); 7] = [
        ("throughput", "operations a second", |row| row.per_second),
        ("write-latency", "write p99.9, µs", |row| row.write_us[2]),
        ("read-latency", "read p99, µs", |row| row.read_us[1]),
        ("write-amplification", "bytes written to tables a byte of the user", |row| row.write_amplification),
        ("read-amplification", "blocks a read", |row| row.blocks_per_read),
        ("space-amplification", "bytes of tables a byte that lives, at rest", |row| row.space_amplification),
        ("peak-disk", "MiB of tables at most", |row| row.peak_mib),
    ];
    let strategies = ["leveled", "tiered", "lazy leveled", "fifo"];
    for (name, title, figure) in figures {
        let value = |work: &Work, strategy: &&str| {
            rows.iter().find(|row| row.work == work.name() && row.strategy == *strategy).map_or(0.0, figure)
        };
        let values = |work: &Work| strategies.iter().map(|strategy| value(work, strategy)).collect();
        let bars = Bars {
            title: title.into(),
            series: strategies.map(String::from).to_vec(),
            groups: Work::ALL.iter().map(|work| (work.name().into(), values(work))).collect(),
        };
        draw_bars(&folder.join(format!("{name}.svg")), &bars).expect("a figure is drawn");
    }
}

fn print(rows: &[Row]) {
    println!();
    println!(
        "| work | strategy | operations/s | write p50 · p99 · p99.9 µs | read p50 · p99 · p99.9 µs | written a byte | blocks a read | room a byte | peak MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let three = |us: [f64; 3]| match us {
        [0.0, ..] => "-".to_string(),
        [a, b, c] => format!("{a:.1} · {b:.1} · {c:.0}"),
    };
    for row in rows {
        let blocks =
            if row.blocks_per_read > 0.0 { format!("{:.2}", row.blocks_per_read) } else { "-".into() };
        println!(
            "| {} | {} | {:.0} | {} | {} | {:.2} | {blocks} | {:.2} | {:.0} |",
            row.work,
            row.strategy,
            row.per_second,
            three(row.write_us),
            three(row.read_us),
            row.write_amplification,
            row.space_amplification,
            row.peak_mib
        );
    }
}
