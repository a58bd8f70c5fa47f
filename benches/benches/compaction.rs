//! Compaction strategies on the same work: throughput, latencies, and what each costs in writing, reading and room.
//!
//! `cargo bench -p lumen-benches --bench compaction` measures by criterion, then prints one table and draws the figures into
//! `benches/compaction/`. The page `benches/compaction.md` says what to make of them.

use std::ops::Bound;
use std::path::{Path, PathBuf};
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

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Fill,
    Overwrite,
    TimeSeries,
    Deletes,
    ReadsAndWrites,
    Scans,
}

impl Work {
    const ALL: [Work; 6] =
        [Work::Fill, Work::Overwrite, Work::TimeSeries, Work::Deletes, Work::ReadsAndWrites, Work::Scans];

    fn name(self) -> &'static str {
        match self {
            Work::Fill => "fill at random",
            Work::Overwrite => "overwrite, zipf",
            Work::TimeSeries => "time series, old goes",
            Work::Deletes => "queue: put, delete, look",
            Work::ReadsAndWrites => "get and put by turns",
            Work::Scans => "scan 100, put one of 20",
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
        all.push(("fifo", Compaction::Fifo { bytes_max: ROWS * (ROW_BYTES + 8), age_max: None }));
    }
    all
}

/// A store at work, and what was seen of it.
struct Run {
    engine: Engine,
    dir: tempfile::TempDir,
    work: Work,
    compaction: Compaction,
    random: Random,
    value: Vec<u8>,
    /// Operations done.
    done: u64,
    /// Rows that were ever put, and the first that is still there (for a queue and a time series).
    next: u64,
    first: u64,
    user_bytes: u64,
    written_before: u64,
    blocks_before: u64,
    gets: u64,
    get_blocks: u64,
    writes: Histogram<u64>,
    reads: Histogram<u64>,
    peak_bytes: u64,
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
    blocks_per_get: f64,
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
            ..Options::default()
        };
        let engine = Engine::open(dir.path(), options).expect("open");
        // From a nanosecond to a minute.
        let histogram = || Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("good bounds");
        let mut run = Run {
            engine,
            dir,
            work,
            compaction,
            random: Random::new(5),
            value: vec![0; VALUE_BYTES],
            done: 0,
            next: 0,
            first: 0,
            user_bytes: 0,
            written_before: 0,
            blocks_before: 0,
            gets: 0,
            get_blocks: 0,
            writes: histogram(),
            reads: histogram(),
            peak_bytes: 0,
        };
        if work.is_filled() {
            (0..ROWS).for_each(|_| run.put_next());
            run.engine.settle().expect("settle");
            (run.user_bytes, run.peak_bytes) = (0, 0);
            (run.writes, run.reads) = (histogram(), histogram());
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

    /// Blocks asked for so far.
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

    fn write(&mut self, batch: &Batch) {
        let begin = Instant::now();
        self.engine.write(batch, Durability::Buffered).expect("write");
        self.writes.saturating_record(begin.elapsed().as_nanos() as u64);
    }

    fn put(&mut self, n: u64) {
        // Values that do not pack, so that room is what rows take.
        for chunk in self.value.chunks_mut(8) {
            chunk.copy_from_slice(&self.random.bits().to_le_bytes()[..chunk.len()]);
        }
        let mut batch = Batch::new();
        batch.put(&self.key(n), &self.value);
        self.user_bytes += ROW_BYTES;
        self.write(&batch);
    }

    fn put_next(&mut self) {
        self.put(self.next);
        self.next += 1;
    }

    fn get(&mut self, n: u64) {
        let key = self.key(n);
        let before = self.blocks();
        let begin = Instant::now();
        assert!(self.engine.get(&key).expect("get").is_some(), "row {n} is lost");
        self.reads.saturating_record(begin.elapsed().as_nanos() as u64);
        self.gets += 1;
        // The compaction thread bypasses the cache, so these are this read's own.
        self.get_blocks += self.blocks() - before;
    }

    fn scan(&mut self, from: u64, rows: usize) {
        let key = self.key(from);
        let begin = Instant::now();
        let snapshot = self.engine.snapshot();
        let mut scan = snapshot.scan(Bound::Included(&key), Bound::Unbounded);
        let mut count = 0;
        while count < rows && scan.next_row().expect("scan") {
            count += 1;
        }
        drop(scan);
        self.reads.saturating_record(begin.elapsed().as_nanos() as u64);
        assert!(count > 0 || self.work != Work::Deletes, "the queue is empty");
    }

    fn one(&mut self) {
        match self.work {
            Work::Fill => self.put_next(),
            Work::Overwrite => {
                let n = self.random.zipf(ROWS);
                self.put(n);
            }
            Work::TimeSeries => {
                self.put_next();
                // What is older than the newest ROWS goes: FIFO lets it go by itself, the others are told.
                if self.next - self.first >= ROWS + ROWS / 10 {
                    let end = self.next - ROWS;
                    let mut batch = Batch::new();
                    batch.delete_range(&self.key(self.first), &self.key(end));
                    self.first = end;
                    if !matches!(self.compaction, Compaction::Fifo { .. }) {
                        self.write(&batch);
                    }
                }
                if self.next.is_multiple_of(20) {
                    let recent = self.next - 1 - self.random.below(self.next.min(ROWS / 2));
                    self.get(recent);
                }
            }
            Work::Deletes => {
                self.put_next();
                let mut batch = Batch::new();
                batch.delete(&self.key(self.first));
                self.first += 1;
                self.user_bytes += 16;
                self.write(&batch);
                if self.first.is_multiple_of(100) {
                    self.scan(0, 10);
                }
            }
            Work::ReadsAndWrites => {
                let (a, b) = (self.random.below(ROWS), self.random.below(ROWS));
                if self.done.is_multiple_of(2) { self.put(a) } else { self.get(b) }
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

    fn row(mut self, strategy: &'static str, per_second: f64) -> Row {
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
            write_us: micros(&self.writes),
            read_us: micros(&self.reads),
            write_amplification: (self.written() - self.written_before) as f64
                / self.user_bytes.max(1) as f64,
            blocks_per_get: self.get_blocks as f64 / self.gets.max(1) as f64,
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
    for work in Work::ALL {
        let mut group = criterion.benchmark_group(work.name());
        group.throughput(Throughput::Elements(1)).sample_size(10);
        group.measurement_time(Duration::from_secs(4)).warm_up_time(Duration::from_secs(1));
        for (strategy, compaction) in strategies(work) {
            let mut run = None;
            let (mut operations, mut time) = (0, Duration::ZERO);
            group.bench_function(strategy, |bencher| {
                let run: &mut Run = run.get_or_insert_with(|| Run::new(work, compaction));
                bencher.iter_custom(|count| {
                    let begin = Instant::now();
                    (0..count).for_each(|_| run.one());
                    operations += count;
                    time += begin.elapsed();
                    begin.elapsed()
                });
            });
            // With a filter on the command line some are not run.
            if let Some(run) = run {
                rows.push(run.row(strategy, operations as f64 / time.as_secs_f64()));
            }
        }
        group.finish();
    }
    criterion.final_summary();
    print(&rows);
    // `cargo test` runs benches too, an operation each: that is nothing to draw.
    if std::env::args().any(|argument| argument == "--bench") && rows.len() > 12 {
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
        ("read-amplification", "blocks a get", |row| row.blocks_per_get),
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
        "| work | strategy | operations/s | write p50 · p99 · p99.9 µs | read p50 · p99 · p99.9 µs | written a byte | blocks a get | room a byte | peak MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let three = |us: [f64; 3]| match us {
        [0.0, ..] => "-".to_string(),
        [a, b, c] => format!("{a:.1} · {b:.1} · {c:.0}"),
    };
    for row in rows {
        let blocks = if row.blocks_per_get > 0.0 { format!("{:.2}", row.blocks_per_get) } else { "-".into() };
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
