//! What the engine counts.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::compaction::picker::Reason;

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
    pub stalls: AtomicU64,
}

impl Counters {
    pub(crate) fn compacted(&self, reason: Reason, read: u64, written: u64) {
        self.compactions.fetch_add(1, Relaxed);
        self.compaction_read_bytes.fetch_add(read, Relaxed);
        self.compacted_bytes.fetch_add(written, Relaxed);
        self.by_reason[reason as usize].fetch_add(1, Relaxed);
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
    /// Times a writer had to wait for flushes or compactions.
    pub stalls: u64,
    /// Reads of blocks that the cache held.
    pub cache_hits: u64,
    /// Reads of blocks that it did not hold.
    pub cache_misses: u64,
    /// Bytes in the block cache.
    pub cache_bytes: u64,
    /// Bytes of filters and indexes held beside the cache.
    pub pinned_bytes: u64,
    /// Counters of the engine's own log, if it has one.
    pub log: Option<crate::log::LogStats>,
}
