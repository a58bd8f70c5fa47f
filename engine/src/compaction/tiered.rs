//! Tiered compaction (RocksDB calls it universal): sorted runs by age, merged when there are too many or they are alike.
//!
//! A run is a table of slot 0 or a whole deeper slot. Only runs that are neighbours in age are merged, and the output takes
//! the deepest free slot above the next older run, so that slots stay in the order of age.

use crate::compaction::picker::{Cause, Granularity, Picker, Reason};
use crate::version::{SLOTS, Version};

pub(crate) struct Tiered {
    /// Sorted runs at which something is merged.
    pub runs: usize,
    /// How much larger, in percent, the next run may be than all newer ones that are merged with it.
    pub size_ratio_percent: u64,
    /// What all other runs may be, in percent of the oldest.
    pub space_percent: u64,
    pub stop: usize,
}

/// One sorted run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub slot: usize,
    pub bytes: u64,
}

/// All runs, newest first.
pub(crate) fn runs(version: &Version) -> Vec<Run> {
    let tables = version.slots[0].iter().map(|table| Run { slot: 0, bytes: table.meta.len });
    let deeper = (1..SLOTS).filter(|&slot| !version.slots[slot].is_empty());
    tables.chain(deeper.map(|slot| Run { slot, bytes: version.slot_bytes(slot) })).collect()
}

/// The runs from the `from`-th to the `to`-th (excluded), as a cause.
pub(crate) fn cause(reason: Reason, runs: &[Run], from: usize, to: usize) -> Cause {
    let of_slot0 = runs[from..to].iter().filter(|run| run.slot == 0).count();
    let (first, last) = (runs[from].slot, runs[to - 1].slot);
    Cause { reason, first, last, skip: if first == 0 { from } else { 0 }, take: of_slot0 }
}

/// The deepest slot for a merge of `cause` that is still newer than the run after it: its own, or free. At most `deepest`.
pub(crate) fn slot_above_next(version: &Version, cause: &Cause, deepest: usize) -> usize {
    if cause.last == 0 && cause.skip.saturating_add(cause.take) < version.slots[0].len() {
        return 0; // older tables stay in slot 0 behind it
    }
    let next = (cause.last + 1..SLOTS).find(|&slot| !version.slots[slot].is_empty()).unwrap_or(SLOTS);
    (next - 1).min(deepest).max(cause.last)
}

impl Tiered {
    fn trigger(&self, version: &Version) -> Option<Cause> {
        let runs = runs(version);
        if runs.len() < self.runs {
            return None;
        }
        let oldest = runs[runs.len() - 1].bytes;
        let newer: u64 = runs[..runs.len() - 1].iter().map(|run| run.bytes).sum();
        if newer.saturating_mul(100) > oldest.saturating_mul(self.space_percent) {
            return Some(cause(Reason::Space, &runs, 0, runs.len()));
        }
        // The newest neighbours that are alike: the next is at most so much larger than those before it together.
        for from in 0..runs.len() - 1 {
            let (mut sum, mut to) = (runs[from].bytes, from + 1);
            while to < runs.len()
                && runs[to].bytes.saturating_mul(100) <= sum.saturating_mul(100 + self.size_ratio_percent)
            {
                sum += runs[to].bytes;
                to += 1;
            }
            if to - from >= 2 {
                return Some(cause(Reason::Size, &runs, from, to));
            }
        }
        // None are: the newest ones go, so many that one fewer than allowed is left.
        Some(cause(Reason::Count, &runs, 0, runs.len() - self.runs + 2))
    }
}

impl Picker for Tiered {
    fn triggers(&self, version: &Version, _now: u64) -> Vec<Cause> {
        self.trigger(version).into_iter().collect()
    }

    fn layout(&self, version: &Version, cause: &Cause) -> Option<usize> {
        Some(slot_above_next(version, cause, SLOTS - 1))
    }

    fn granularity(&self, _cause: &Cause) -> Granularity {
        Granularity::Runs
    }

    fn stop_at(&self) -> Option<usize> {
        Some(self.stop)
    }
}
