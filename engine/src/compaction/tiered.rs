//! Tiered compaction (RocksDB calls it universal): sorted runs by age, merged when there are too many or they are alike.
//!
//! A run is some tables of slot 0 or a whole deeper slot. Only runs that are neighbours in age are merged, and the output
//! takes the deepest free slot above the next older run, so that slots stay in the order of age. All runs are cut at the same
//! keys, so a merge is done part by part ([`Job::parts`](crate::compaction::plan::Job::parts)).

use std::sync::Arc;

use crate::compaction::picker::{Cause, Granularity, Picker};
use crate::compaction::plan::Reason;
use crate::table::reader::Table;
use crate::version::{SLOTS, Version};

/// Tables of level 0 for each run that is allowed, from which on they go down although they may be one run.
pub(crate) const TABLES_A_RUN: usize = 16;

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
    pub tables: usize,
    pub bytes: u64,
}

impl Run {
    fn of(slot: usize, tables: &[Arc<Table>]) -> Run {
        Run { slot, tables: tables.len(), bytes: tables.iter().map(|table| table.meta.len).sum() }
    }
}

/// All runs, newest first. In slot 0 one goes on with older tables as long as they do not overlap it: what a flush was cut
/// into, and flushes of keys that came in order.
pub(crate) fn runs(version: &Version) -> Vec<Run> {
    let mut all = Vec::new();
    let level0 = &version.slots[0];
    let mut begin = 0;
    let mut by_key: Vec<&Arc<Table>> = Vec::new();
    for (at, table) in level0.iter().enumerate() {
        let place = by_key.partition_point(|other| other.meta.largest < table.meta.smallest);
        if by_key.get(place).is_some_and(|other| other.meta.smallest <= table.meta.largest) {
            all.push(Run::of(0, &level0[begin..at]));
            by_key.clear();
            by_key.push(table);
            begin = at;
        } else {
            by_key.insert(place, table);
        }
    }
    if begin < level0.len() {
        all.push(Run::of(0, &level0[begin..]));
    }
    let deeper = (1..SLOTS).filter(|&slot| !version.slots[slot].is_empty());
    all.extend(deeper.map(|slot| Run::of(slot, &version.slots[slot])));
    all
}

/// The runs from the `from`-th to the `to`-th (excluded), as a cause. Of level 0 none older stays behind: what is merged of it
/// leaves it, so that its tables stay in the order in which they were flushed.
pub(crate) fn cause(reason: Reason, runs: &[Run], from: usize, to: usize) -> Cause {
    let level0_end = runs.iter().take_while(|run| run.slot == 0).count();
    let to = if from < level0_end { to.max(level0_end) } else { to };
    // Where there is no slot for it, nothing newer may stay beside it: parts of one flush can have the same newest seq.
    let has_no_slot = to == level0_end && runs.get(to).is_some_and(|run| run.slot == 1);
    let from = if from < level0_end && has_no_slot { 0 } else { from };
    let level0 = |runs: &[Run]| runs.iter().filter(|run| run.slot == 0).map(|run| run.tables).sum();
    let (first, last) = (runs[from].slot, runs[to - 1].slot);
    Cause { reason, first, last, skip: level0(&runs[..from]), take: level0(&runs[from..to]) }
}

/// Bytes of the runs that level 0 has beyond `allowed`: those that should have been merged by now.
pub(crate) fn debt(version: &Version, allowed: usize) -> u64 {
    let runs = runs(version);
    let level0 = runs.iter().take_while(|run| run.slot == 0);
    let beyond = level0.clone().count().saturating_sub(allowed);
    level0.take(beyond).map(|run| run.bytes).sum()
}

/// Where the oldest run cuts into `parts`: chosen anew when there are to be more of them, when half of that run and more
/// has come to lie in one, and when it is the only one. What was cut elsewhere is merged in larger parts, once.
pub(crate) fn splits(version: &Version, parts: usize) -> Option<Vec<Vec<u8>>> {
    let slot = (1..SLOTS).rev().find(|&slot| !version.slots[slot].is_empty())?;
    let splits = version.quantiles(slot, parts);
    let oldest = &version.slots[slot];
    let mut bytes = vec![0; version.splits.len() + 1];
    for table in oldest {
        bytes[version.splits.partition_point(|split| *split <= table.meta.smallest)] += table.meta.len;
    }
    let is_lopsided = splits.len() > 2 && bytes.iter().any(|&part| part * 2 > version.slot_bytes(slot));
    let is_alone = version.depth == 0 && (1..slot).all(|newer| version.slots[newer].is_empty());
    (splits.len() > version.splits.len() || is_lopsided || is_alone).then_some(splits)
}

/// The deepest slot for a merge of `cause` that is still newer than the run after it: its own, or free. At most `deepest`.
pub(crate) fn slot_above_next(version: &Version, cause: &Cause, deepest: usize) -> usize {
    let next = (cause.last + 1..SLOTS).find(|&slot| !version.slots[slot].is_empty()).unwrap_or(SLOTS);
    (next - 1).min(deepest).max(cause.last)
}

impl Tiered {
    fn trigger(&self, version: &Version) -> Option<Cause> {
        let runs = runs(version);
        if version.slots[0].len() >= self.runs.saturating_mul(TABLES_A_RUN) {
            // Keys that come in order are one run of ever more tables; below they are looked through no more.
            return Some(cause(Reason::Count, &runs, 0, 1));
        }
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
                && runs[to].bytes.saturating_mul(100)
                    <= sum.saturating_mul(self.size_ratio_percent.saturating_add(100))
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

    fn splits(&self, version: &Version, parts: usize) -> Option<Vec<Vec<u8>>> {
        splits(version, parts)
    }

    fn debt(&self, version: &Version) -> u64 {
        debt(version, self.runs)
    }

    fn merges_split(&self) -> bool {
        true
    }
}
