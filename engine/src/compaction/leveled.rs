//! Leveled compaction: each level is one sorted run, ten times as large as the one above.
//!
//! Sizes are counted from the bottom (RocksDB's level_compaction_dynamic_level_bytes): the last slot holds what it holds,
//! each one above a tenth of it, and the first of at most twice `level_bytes` is the base, where slot 0 goes. So nine
//! tenths of the data are in the last level at any time, and old versions take a ninth at most.

use crate::compaction::picker::{Cause, Granularity, Picker, stop_after};
use crate::compaction::plan::Reason;
use crate::options::Options;
use crate::version::{SLOTS, Version};

/// How much larger each level is.
const MULTIPLIER: u64 = 10;

pub(crate) struct Leveled {
    level0_tables: usize,
    /// Bytes of so many full memtables.
    level0_bytes: u64,
    level_bytes: u64,
    stop: usize,
}

/// The base and the size that each slot may have.
struct Shape {
    base: usize,
    bytes_max: [u64; SLOTS],
}

impl Leveled {
    pub(crate) fn new(options: &Options) -> Leveled {
        Leveled {
            level0_tables: options.level0_tables.max(1),
            level0_bytes: options.level0_tables.max(1) as u64 * options.memtable_bytes as u64,
            level_bytes: options.level_bytes.max(1),
            stop: stop_after(options, options.level0_tables.max(1)),
        }
    }

    fn shape(&self, version: &Version) -> Shape {
        let largest = (1..SLOTS).map(|slot| version.slot_bytes(slot)).max().unwrap_or(0);
        let mut bytes_max = [0; SLOTS];
        let (mut base, mut bytes) = (SLOTS - 1, largest.max(self.level_bytes));
        bytes_max[base] = bytes;
        // A base much smaller than what level 0 brings at once would only pass it on.
        while bytes > 2 * self.level_bytes && base > 1 {
            base -= 1;
            bytes /= MULTIPLIER;
            bytes_max[base] = bytes;
        }
        // What lies above the base came from another strategy, or from larger days: it is on its way down.
        let first = (1..SLOTS).find(|&slot| !version.slots[slot].is_empty()).unwrap_or(base);
        Shape { base: base.min(first), bytes_max }
    }
}

impl Picker for Leveled {
    fn triggers(&self, version: &Version, _now: u64) -> Vec<Cause> {
        let shape = self.shape(version);
        let fill = |slot: usize| version.slot_bytes(slot) as f64 / shape.bytes_max[slot].max(1) as f64;
        // Slot 0 counts by how many tables a read meets, and by bytes, for those that come in order meet no other.
        let depth = version.depth as f64 / self.level0_tables as f64;
        let level0 = depth.max(version.slot_bytes(0) as f64 / self.level0_bytes.max(1) as f64);
        // A level's need counts less while the next one is over its size too (Pebble divides so): pressure goes down. Not that
        // of slot 0, which with one thread would wait until the base is in shape again, and writers with it.
        let mut due = Vec::new();
        if level0 >= 1.0 {
            due.push((level0, Cause::slot(Reason::Count, 0)));
        }
        for slot in 1..SLOTS - 1 {
            let score = fill(slot);
            if !version.slots[slot].is_empty() && score > 1.0 {
                due.push((score / fill(slot + 1).max(1.0), Cause::slot(Reason::Size, slot)));
            }
        }
        due.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        due.into_iter().map(|(_, cause)| cause).collect()
    }

    fn layout(&self, version: &Version, cause: &Cause) -> Option<usize> {
        Some(if cause.first == 0 { self.shape(version).base } else { cause.first + 1 })
    }

    fn granularity(&self, cause: &Cause) -> Granularity {
        if cause.first == 0 { Granularity::Column } else { Granularity::Table }
    }

    fn at_rest(&self, version: &Version) -> Option<Cause> {
        (!version.slots[0].is_empty()).then(|| Cause::slot(Reason::Rest, 0))
    }

    fn stop_at(&self) -> Option<usize> {
        Some(self.stop)
    }

    /// Chosen anew when slot 0 is empty, and when there are to be more of them: under a steady load it never is.
    fn splits(&self, version: &Version, parts: usize) -> Option<Vec<Vec<u8>>> {
        let first = (1..SLOTS).find(|&slot| !version.slots[slot].is_empty());
        let splits = first.map_or(Vec::new(), |slot| version.quantiles(slot, parts));
        (splits.len() > version.splits.len() || version.slots[0].is_empty()).then_some(splits)
    }

    fn debt(&self, version: &Version) -> u64 {
        let shape = self.shape(version);
        // What is over its size goes down by a level, merged with about as much again for each tenth.
        let over = (1..SLOTS - 1).map(|slot| version.slot_bytes(slot).saturating_sub(shape.bytes_max[slot]));
        let level0 = version.slot_bytes(0).saturating_sub(self.level0_bytes);
        over.sum::<u64>().saturating_mul(MULTIPLIER).saturating_add(level0.saturating_mul(2))
    }
}
