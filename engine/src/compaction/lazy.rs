//! Lazy leveling (Dayan and Idreos, "Dostoevsky", SIGMOD 2018): tiers everywhere but at the bottom, which is one run.
//!
//! Nine tenths of all entries are in the bottom, so a point read and a scan meet few runs and space is as with levels,
//! while entries are rewritten once a tier on their way there.

use crate::compaction::picker::{Cause, Granularity, Picker};
use crate::compaction::plan::Reason;
use crate::compaction::tiered::{TABLES_A_RUN, cause, debt, runs, slot_above_next, splits};
use crate::version::{SLOTS, Version};

const BOTTOM: usize = SLOTS - 1;

pub(crate) struct LazyLeveled {
    /// Runs of one size before they are merged; a tier is so many times the one before.
    pub runs: usize,
    pub stop: usize,
}

impl LazyLeveled {
    /// In which power of `runs` a size lies, with the smallest run as the unit.
    fn tier(&self, bytes: u64, unit: u64) -> u32 {
        // A merge of `runs` alike is a little smaller than their sum: rounded, not cut.
        (bytes.saturating_mul(3) / 2 / unit.max(1)).max(1).ilog(self.runs as u64)
    }

    fn trigger(&self, version: &Version) -> Option<Cause> {
        let all = runs(version);
        if version.slots[0].len() >= self.runs.saturating_mul(TABLES_A_RUN) {
            return Some(cause(Reason::Count, &all, 0, 1)); // as tiers do
        }
        let upper = all.iter().take_while(|run| run.slot < BOTTOM).count();
        let bottom = all.get(upper).map_or(0, |run| run.bytes);
        let above: u64 = all[..upper].iter().map(|run| run.bytes).sum();
        if upper >= self.runs && above.saturating_mul(self.runs as u64) > bottom {
            return Some(cause(Reason::Space, &all, 0, upper));
        }
        let unit = all[..upper].iter().map(|run| run.bytes).min().unwrap_or(1);
        let mut from = 0;
        while from < upper {
            let tier = self.tier(all[from].bytes, unit);
            let alike = all[from..upper].iter().take_while(|run| self.tier(run.bytes, unit) == tier).count();
            if alike >= self.runs {
                return Some(cause(Reason::Count, &all, from, from + alike));
            }
            from += alike;
        }
        // Whatever their sizes, all runs have to find a slot.
        (upper >= SLOTS - 4).then(|| cause(Reason::Count, &all, 0, upper))
    }
}

impl Picker for LazyLeveled {
    fn triggers(&self, version: &Version, _now: u64) -> Vec<Cause> {
        self.trigger(version).into_iter().collect()
    }

    fn layout(&self, version: &Version, cause: &Cause) -> Option<usize> {
        Some(match cause.reason {
            Reason::Space => BOTTOM,
            _ => slot_above_next(version, cause, BOTTOM - 1),
        })
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
