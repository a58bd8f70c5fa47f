//! What the engine counts.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::compaction::plan::Reason;
use crate::log::LogStats;

/// A counter that many threads raise on every read: each on a line of its own, so that they do not take it from each other.
#[derive(Default)]
pub(crate) struct Striped([Line; STRIPES]);

const STRIPES: usize = 16;

#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

static NEXT_STRIPE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: usize = NEXT_STRIPE.fetch_add(1, Relaxed) % STRIPES;
}

impl Striped {
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        // A thread that is ending has lost its stripe.
        let stripe = STRIPE.try_with(|stripe| *stripe).unwrap_or(0);
        self.0[stripe].0.fetch_add(count, Relaxed);
    }

    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().map(|line| line.0.load(Relaxed)).sum()
    }
}

/// Counters that the parts of the engine raise.
#[derive(Default)]
pub(crate) struct Counters {
    pub flushes: AtomicU64,
    pub flushed_bytes: AtomicU64,
    pub compactions: AtomicU64,
    pub compacted_bytes: AtomicU64,
    pub compaction_read_bytes: AtomicU64,
    by_reason: [AtomicU64; Reason::ALL.len()],
    stalls: [(AtomicU64, AtomicU64); Stall::ALL.len()],
    /// Bytes of the batches that were written to the store.
    pub user_bytes: Striped,
    pub gets: Striped,
}

/// What writers wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stall {
    /// Frozen memory that is not flushed yet.
    Memory,
    /// Tables over one another in level 0.
    Level0,
    /// Compaction that is due.
    Debt,
    /// The disk, before the log could go on: a new segment, or memory that is frozen while somebody waits for a sync.
    Log,
    /// The pace of compactions, before there would be need to wait for them.
    Pace,
}

impl Stall {
    const ALL: [Stall; 5] = [Stall::Memory, Stall::Level0, Stall::Debt, Stall::Log, Stall::Pace];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Stall::Memory => "flushing memory",
            Stall::Level0 => "compacting level 0",
            Stall::Debt => "compacting",
            Stall::Log => "syncing the log",
            Stall::Pace => "keeping pace with compactions",
        }
    }
}

/// How often and how long writers waited for one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StallStats {
    /// What they waited for.
    pub reason: &'static str,
    /// How often.
    pub count: u64,
    /// How long altogether.
    pub took: Duration,
}

impl Counters {
    pub(crate) fn compacted(&self, reason: Reason, read: u64, written: u64) {
        self.compactions.fetch_add(1, Relaxed);
        self.compaction_read_bytes.fetch_add(read, Relaxed);
        self.compacted_bytes.fetch_add(written, Relaxed);
        self.by_reason[reason as usize].fetch_add(1, Relaxed);
    }

    /// Rises with every write and every look-up by key.
    pub(crate) fn asked(&self) -> u64 {
        self.user_bytes.sum().wrapping_add(self.gets.sum())
    }

    pub(crate) fn stalled(&self, stall: Stall, took: Duration) {
        let (count, micros) = &self.stalls[stall as usize];
        count.fetch_add(1, Relaxed);
        micros.fetch_add(took.as_micros() as u64, Relaxed);
    }

    /// `log` is what the log itself has counted.
    pub(crate) fn stalls(&self, log: LogStats) -> Vec<StallStats> {
        let stats = |stall: &Stall| {
            let (count, micros) = &self.stalls[*stall as usize];
            let (count, took) = (count.load(Relaxed), Duration::from_micros(micros.load(Relaxed)));
            let (more, longer) = match stall {
                Stall::Log => (log.rotations, log.rotating),
                _ => (0, Duration::ZERO),
            };
            StallStats { reason: stall.name(), count: count + more, took: took + longer }
        };
        Stall::ALL.iter().map(stats).collect()
    }

    pub(crate) fn reasons(&self) -> Vec<(&'static str, u64)> {
        let count = |reason: &Reason| (reason.name(), self.by_reason[*reason as usize].load(Relaxed));
        Reason::ALL.iter().map(count).collect()
    }
}

/// One level of the tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LevelStats {
    /// Tables in it.
    pub tables: u64,
    /// Their bytes on disk.
    pub bytes: u64,
}

/// Gauges of now and counters since the opening.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Readers see everything up to here.
    pub visible_seq: u64,
    /// Everything up to here is in tables and attachments.
    pub durable_seq: u64,
    /// Bytes in the active memtable, estimated.
    pub memtable_bytes: u64,
    /// Frozen memtables that wait to be flushed.
    pub frozen_memtables: u64,
    /// Level by level, from 0.
    pub levels: Vec<LevelStats>,
    /// Bytes of attachments.
    pub attachment_bytes: u64,
    /// Flushes done.
    pub flushes: u64,
    /// Bytes that flushes wrote to tables.
    pub flushed_bytes: u64,
    /// Compactions done.
    pub compactions: u64,
    /// Bytes that compactions wrote.
    pub compacted_bytes: u64,
    /// Bytes of the tables that they read.
    pub compaction_read_bytes: u64,
    /// Why compactions were done, and how many.
    pub compactions_by_reason: Vec<(&'static str, u64)>,
    /// Times a writer had to wait for flushes, compactions or the log's disk.
    pub stalls: u64,
    /// The same by what was waited for.
    pub stalls_by_reason: Vec<StallStats>,
    /// Whether writes are refused for want of room on the disk.
    pub disk_full: bool,
    /// Bytes of compaction that are due, about.
    pub debt_bytes: u64,
    /// Tables over one another in level 0, at most.
    pub level0_depth: u64,
    /// Bytes of the batches that were written to the store: keys, values, and a few bytes around each.
    pub user_bytes: u64,
    /// Bytes of blob files, and of those the bytes that tables still point to.
    pub blob_bytes: u64,
    /// See `blob_bytes`.
    pub blob_bytes_used: u64,
    /// Ranges of keys that damage has made unreadable.
    pub quarantines: u64,
    /// Bytes of tables and blob files that hold what lives, estimated: tables count that lie over no older one, and
    /// values that tables point to (as RocksDB's `estimate-live-data-size`). Less than that lives where those are old
    /// versions, more where newer tables hold new keys.
    pub live_bytes: u64,
    /// Look-ups by key.
    pub gets: u64,
    /// Blocks of tables that they read from files.
    pub get_reads: u64,
    /// Look-ups in a table that its filter stopped, the key not being there.
    pub filter_stopped: u64,
    /// Look-ups in a table that its filter let pass although the key was not there.
    pub filter_false: u64,
    /// What is kept for reads of the past begins here.
    pub floor_seq: u64,
    /// For how long the oldest files and memory that only snapshots still use have been of no other use: who holds a
    /// snapshot that long keeps the disk from being freed.
    pub oldest_snapshot: Option<Duration>,
    /// Reads of blocks that the cache held.
    pub cache_hits: u64,
    /// Reads of blocks that it did not hold.
    pub cache_misses: u64,
    /// Bytes in the block cache.
    pub cache_bytes: u64,
    /// Bytes of filters and indexes held beside the cache, within its budget.
    pub pinned_bytes: u64,
    /// Counters of the engine's own log, if it has one.
    pub log: Option<crate::log::LogStats>,
}

impl Stats {
    /// Bytes written to tables, blob files and the log for each byte that was written to the store.
    pub fn write_amplification(&self) -> f64 {
        let log = self.log.map_or(0, |log| log.bytes);
        (self.flushed_bytes + self.compacted_bytes + log) as f64 / self.user_bytes.max(1) as f64
    }

    /// Bytes of all tables and blob files for each of [`live_bytes`](Stats::live_bytes): at most so many, for new keys that
    /// lie over older tables are taken for old ones.
    pub fn space_amplification(&self) -> f64 {
        let tables: u64 = self.levels.iter().map(|level| level.bytes).sum();
        (tables + self.blob_bytes) as f64 / self.live_bytes.max(1) as f64
    }

    /// Blocks read from files for each look-up by key.
    pub fn read_amplification(&self) -> f64 {
        self.get_reads as f64 / self.gets.max(1) as f64
    }

    /// Of the look-ups in tables that do not hold the key, the part that the filter let pass: all, where there are no filters.
    pub fn filter_false_rate(&self) -> f64 {
        self.filter_false as f64 / (self.filter_false + self.filter_stopped).max(1) as f64
    }
}
