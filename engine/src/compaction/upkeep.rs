//! What is worth doing to single tables although the tree is in shape.
//!
//! Tables that a range delete covers in part, that hold much of what no reader sees, or hold it for too long, are rewritten
//! together with what they reach in the next slot that holds anything; tables that point into a blob file that is mostly
//! unused, alone. What readers below the floor could still see has to stay, so it is no reason.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::blob::BlobMeta;
use crate::compaction::picker::completed;
use crate::compaction::plan::{Input, Job, Limits, Reason};
use crate::range_delete::{RangeDeletes, WAITING};
use crate::table::reader::Table;
use crate::version::{SLOTS, Version};

/// What makes a table worth rewriting, at `now` in milliseconds since 1970.
struct Signs<'a> {
    version: &'a Version,
    now: u64,
    /// Who was written before that is too old.
    written_min: u64,
    collect: &'a [u64],
    /// Of slot 0, once they were asked for.
    columns: OnceCell<Vec<Input>>,
}

impl Signs<'_> {
    fn expired(&self, table: &Table) -> u64 {
        if table.meta.expiry_max <= self.now { table.meta.expiring } else { 0 }
    }

    /// Entries that no reader to come sees, as far as the table tells.
    fn garbage(&self, table: &Table) -> u64 {
        table.meta.deletes + table.meta.shadowed + self.expired(table)
    }

    fn is_old(&self, table: &Table) -> bool {
        table.meta.max_seq() <= self.version.floor
    }

    fn is_under_range(&self, table: &Table) -> bool {
        // One that is not in force yet would have the same table rewritten for ever.
        let mut ranges = self.version.range_deletes.list().iter().filter(|range| range.floor != WAITING);
        ranges.any(|range| RangeDeletes::touches(range, &table.meta))
    }

    /// Half of it is garbage; or walks meet it at once, because a tenth is deletes that lie close together (Pebble's
    /// tombstone-dense blocks, RFC of 2024-07-01).
    fn is_mostly_garbage(&self, table: &Table) -> bool {
        let meta = &table.meta;
        (self.garbage(table) * 2 >= meta.entries || meta.close_deletes * 10 >= meta.entries)
            && self.is_old(table)
    }

    fn is_mostly_expired(&self, table: &Table) -> bool {
        self.expired(table) * 2 >= table.meta.entries && self.is_old(table)
    }

    /// Whether it can go without being read: all of it has expired, and nothing older would come to light.
    fn may_go(&self, slot: usize, table: &Arc<Table>) -> bool {
        table.has_expired(self.now)
            && self.is_old(table)
            && below(self.version, slot, table).is_none()
            && (slot > 0 || self.level0_around(table).is_none_or(|column| column.tables.len() == 1))
    }

    /// Whether it has been there too long and something would come of moving it on: older versions that it hides may lie
    /// below it, or garbage is in it (a bound for how long deletes persist, as in Sarkar et al., "Lethe", SIGMOD 2020).
    fn is_due_by_age(&self, slot: usize, table: &Table) -> bool {
        table.meta.oldest_ms < self.written_min
            && (below(self.version, slot, table).is_some()
                || (self.garbage(table) > 0 && self.is_old(table))
                || (slot == 0 && self.version.depth > 1))
    }

    fn points_into_garbage(&self, table: &Table) -> bool {
        table.meta.blobs.iter().any(|(file, _)| self.collect.contains(file))
    }

    /// The tables of slot 0 that lie over or under one of them, and it.
    fn level0_around(&self, table: &Arc<Table>) -> Option<Input> {
        let columns = self.columns.get_or_init(|| Job::columns(&self.version.slots[0]));
        let holds_it = |column: &&Input| column.tables.iter().any(|other| Arc::ptr_eq(other, table));
        columns.iter().find(holds_it).cloned()
    }

    /// The job that rewrites `table` for this reason.
    fn job_of(&self, reason: Reason, slot: usize, table: &Arc<Table>) -> Job {
        let version = self.version;
        if slot == 0 && reason != Reason::Blobs {
            // Slot 0 overlaps itself: what lies over or under the table goes with it to the first slot below that holds
            // anything, or to the last.
            let target = (1..SLOTS).find(|&slot| !version.slots[slot].is_empty()).unwrap_or(SLOTS - 1);
            let inputs = self.level0_around(table).into_iter().collect();
            return completed(version, Job { reason, inputs, target: Some(target) });
        }
        // Deletes go down to what they delete; if there is nothing, they go, and so does in place what a range delete covers.
        let goes_down = matches!(reason, Reason::Deletes | Reason::Age);
        let target = if goes_down { below(version, slot, table).unwrap_or(slot) } else { slot };
        let inputs = vec![Input { slot, tables: vec![table.clone()] }];
        completed(version, Job { reason, inputs, target: Some(target) })
    }
}

/// The most useful job of this kind that may be done now.
pub(crate) fn upkeep(version: &Version, now: u64, limits: &Limits<'_>) -> Option<Job> {
    let age_max = limits
        .options
        .garbage_age_max
        .map_or(u64::MAX, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    let signs = Signs {
        version,
        now,
        written_min: now.saturating_sub(age_max),
        collect: &limits.collect,
        columns: OnceCell::new(),
    };
    let find = |from: usize,
                wanted: &dyn Fn(usize, &Arc<Table>) -> bool,
                job: &dyn Fn(usize, &Arc<Table>) -> Job| {
        let mut slots = version.slots.iter().enumerate().skip(from);
        slots.find_map(|(slot, tables)| {
            let jobs = tables.iter().filter(|table| wanted(slot, table)).map(|table| job(slot, table));
            jobs.into_iter().find(|job| limits.allow(job))
        })
    };
    let rewrite = |reason: Reason, from: usize, wanted: &dyn Fn(usize, &Arc<Table>) -> bool| {
        find(from, wanted, &|slot, table| signs.job_of(reason, slot, table))
    };
    let drop_it = |slot: usize, table: &Arc<Table>| Job {
        reason: Reason::Expired,
        inputs: vec![Input { slot, tables: vec![table.clone()] }],
        target: None,
    };
    // First what costs nothing. Those of slot 0 that are mostly deletes go soon enough, and with company.
    find(0, &|slot, table| signs.may_go(slot, table), &drop_it)
        .or_else(|| rewrite(Reason::RangeDelete, 0, &|_, table| signs.is_under_range(table)))
        .or_else(|| rewrite(Reason::Deletes, 1, &|_, table| signs.is_mostly_garbage(table)))
        .or_else(|| rewrite(Reason::Expired, 0, &|_, table| signs.is_mostly_expired(table)))
        .or_else(|| rewrite(Reason::Blobs, 0, &|_, table| signs.points_into_garbage(table)))
        .or_else(|| rewrite(Reason::Age, 0, &|slot, table| signs.is_due_by_age(slot, table)))
}

/// The next slot that holds anything of the table's keys.
fn below(version: &Version, slot: usize, table: &Table) -> Option<usize> {
    let (smallest, largest) = (&table.meta.smallest, &table.meta.largest);
    (slot + 1..SLOTS).find(|&below| !version.overlapping(below, smallest, largest).is_empty())
}

/// Percent of a blob file that may be unused before its values are written anew.
const BLOB_GARBAGE_PERCENT: u64 = 50;

/// Blob files of which too much is unused, by uid.
pub(crate) fn blobs_to_collect(version: &Version) -> Vec<u64> {
    if version.blobs.is_empty() {
        return Vec::new(); // asked with every choice of a job, and most stores have none
    }
    let used = version.blob_bytes_used();
    let is_garbage = |meta: &BlobMeta| {
        let unused = meta.len.saturating_sub(used.get(&meta.uid).copied().unwrap_or(0));
        unused * 100 > meta.len * BLOB_GARBAGE_PERCENT
    };
    version
        .blobs
        .values()
        .filter(|blob| !blob.is_damaged())
        .map(|blob| blob.meta)
        .filter(is_garbage)
        .map(|meta| meta.uid)
        .collect()
}
