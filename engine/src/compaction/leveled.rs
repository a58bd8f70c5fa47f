//! Leveled compaction: each level is one sorted run, ten times as large as the one above.
//!
//! Sizes are counted from the bottom (RocksDB's level_compaction_dynamic_level_bytes): the last slot holds what it holds,
//! each one above a tenth of it, and the first of at most twice `level_bytes` is the base, where slot 0 goes. So nine
//! tenths of the data are in the last level at any time, and old versions take a ninth at most.

use crate::compaction::picker::{Cause, Granularity, Picker, Reason};
use crate::options::Options;
use crate::version::{SLOTS, Version};

/// How much larger each level is.
const MULTIPLIER: u64 = 10;

pub(crate) struct Leveled {
    level0_tables: usize,
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
            level_bytes: options.level_bytes.max(1),
            stop: options.level0_stop,
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
    fn trigger(&self, version: &Version, _now: u64) -> Option<Cause> {
        let shape = self.shape(version);
        let fill = |slot: usize| version.slot_bytes(slot) as f64 / shape.bytes_max[slot].max(1) as f64;
        let level0 = version.slots[0].len() as f64 / self.level0_tables as f64;
        // A level's need counts less while the next one is over its size too (Pebble divides so): pressure goes down.
        let mut best = (level0 >= 1.0).then_some((level0 / fill(shape.base).max(1.0), 0));
        for slot in 1..SLOTS - 1 {
            let score = fill(slot);
            if !version.slots[slot].is_empty() && score > 1.0 {
                let pressed = score / fill(slot + 1).max(1.0);
                if best.is_none_or(|(top, _)| pressed > top) {
                    best = Some((pressed, slot));
                }
            }
        }
        let (_, slot) = best?;
        Some(Cause::slot(if slot == 0 { Reason::Count } else { Reason::Size }, slot))
    }

    fn layout(&self, version: &Version, cause: &Cause) -> Option<usize> {
        Some(if cause.first == 0 { self.shape(version).base } else { cause.first + 1 })
    }

    fn granularity(&self, cause: &Cause) -> Granularity {
        if cause.first == 0 { Granularity::Runs } else { Granularity::Table }
    }

    fn stop_at(&self) -> Option<usize> {
        Some(self.stop)
    }
}
