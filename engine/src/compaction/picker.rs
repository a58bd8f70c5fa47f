//! What every strategy answers, and the job that comes of it.

use std::sync::Arc;

use crate::compaction::fifo::Fifo;
use crate::compaction::lazy::LazyLeveled;
use crate::compaction::leveled::Leveled;
use crate::compaction::tiered::Tiered;
use crate::options::{Compaction, Options};
use crate::range_delete::RangeDeletes;
use crate::table::reader::Table;
use crate::version::{SLOTS, Version};

/// Tables of one slot that go into a job.
pub(crate) struct Input {
    pub slot: usize,
    pub tables: Vec<Arc<Table>>,
}

/// A compaction to do.
pub(crate) struct Job {
    /// Why, for statistics and people.
    pub reason: Reason,
    /// Newest first. Each table of slot 0 is a run of its own.
    pub inputs: Vec<Input>,
    /// Where the output goes; `None` drops the inputs.
    pub target: Option<usize>,
}

/// What made a job necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Too many tables or runs.
    Count,
    /// A slot is over its size.
    Size,
    /// Old versions and deletes take too much room.
    Space,
    /// A table is mostly deletes.
    Deletes,
    /// A range delete covers a part of a table.
    RangeDelete,
    /// Too old, or too much, to be kept.
    Expired,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Reason; 6] =
        [Reason::Count, Reason::Size, Reason::Space, Reason::Deletes, Reason::RangeDelete, Reason::Expired];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Reason::Count => "count",
            Reason::Size => "size",
            Reason::Space => "space",
            Reason::Deletes => "deletes",
            Reason::RangeDelete => "range-delete",
            Reason::Expired => "expired",
        }
    }
}

impl Job {
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.inputs.iter().flat_map(|input| &input.tables)
    }

    /// Whether the one table may simply change its slot.
    pub(crate) fn is_move(&self) -> bool {
        self.tables().count() == 1 && self.target.is_some_and(|target| target != self.inputs[0].slot)
    }
}

/// How much of a slot a job takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Granularity {
    /// All of every slot from the first to the last that the trigger named.
    Runs,
    /// One table.
    Table,
}

/// The slots that a trigger names, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cause {
    pub reason: Reason,
    /// The newest slot concerned.
    pub first: usize,
    /// The oldest.
    pub last: usize,
    /// Of slot 0, so many of the newest tables are left alone.
    pub skip: usize,
    /// Of slot 0, so many tables after those are taken.
    pub take: usize,
}

impl Cause {
    /// One slot, all of it.
    pub(crate) fn slot(reason: Reason, slot: usize) -> Cause {
        Cause { reason, first: slot, last: slot, skip: 0, take: usize::MAX }
    }
}

/// A compaction strategy, as answers to four questions about a version.
pub(crate) trait Picker: Send + Sync {
    /// When: `None` while the tree is in shape. `now` is in milliseconds since 1970.
    fn trigger(&self, version: &Version, now: u64) -> Option<Cause>;

    /// Where to: the slot that the output goes to; `None` drops it.
    fn layout(&self, version: &Version, cause: &Cause) -> Option<usize>;

    /// How much.
    fn granularity(&self, cause: &Cause) -> Granularity;

    /// Which table of `slot`, if one is enough: by default the one that overlaps least with the target for its size
    /// (RocksDB's kMinOverlappingRatio), deletes making it smaller than it is.
    fn movement(&self, version: &Version, slot: usize, target: Option<usize>) -> Option<Arc<Table>> {
        let ratio = |table: &Arc<Table>| {
            let reached = |target| version.overlapping(target, &table.meta.smallest, &table.meta.largest);
            let bytes: u64 = target.map_or(Vec::new(), reached).iter().map(|lower| lower.meta.len).sum();
            // A table of deletes alone counts double: they free what they reach.
            let deletes = u128::from(table.meta.len) * u128::from(table.meta.deletes);
            let weight = u128::from(table.meta.len) + deletes / u128::from(table.meta.entries.max(1));
            u128::from(bytes) * 1024 / weight.max(1)
        };
        version.slots[slot].iter().min_by_key(|table| (ratio(table), table.meta.number)).cloned()
    }

    /// Tables in slot 0 at which writers wait; `None`: never.
    fn stop_at(&self) -> Option<usize>;

    /// Whether tables may be rewritten when nothing has to be done.
    fn keeps_up(&self) -> bool {
        true
    }

    /// The next job.
    fn pick(&self, version: &Version, now: u64) -> Option<Job> {
        let Some(cause) = self.trigger(version, now) else {
            return if self.keeps_up() { upkeep(version) } else { None };
        };
        let target = self.layout(version, &cause);
        let mut inputs = Vec::new();
        match self.granularity(&cause) {
            Granularity::Table => {
                let table = self.movement(version, cause.first, target)?;
                inputs.push(Input { slot: cause.first, tables: vec![table] });
            }
            Granularity::Runs => {
                for slot in cause.first..=cause.last {
                    let (skip, take) = if slot == 0 { (cause.skip, cause.take) } else { (0, usize::MAX) };
                    let tables: Vec<_> = version.slots[slot].iter().skip(skip).take(take).cloned().collect();
                    if !tables.is_empty() {
                        inputs.push(Input { slot, tables });
                    }
                }
            }
        }
        Some(completed(version, Job { reason: cause.reason, inputs, target }))
    }
}

/// Adds the tables of the target that the inputs overlap.
fn completed(version: &Version, mut job: Job) -> Job {
    let Some(target) = job.target.filter(|&target| target > 0) else { return job };
    if job.inputs.iter().any(|input| input.slot == target) {
        return job;
    }
    let smallest = job.tables().map(|table| &table.meta.smallest).min().cloned().unwrap_or_default();
    let largest = job.tables().map(|table| &table.meta.largest).max().cloned().unwrap_or_default();
    let tables = version.overlapping(target, &smallest, &largest);
    if !tables.is_empty() {
        job.inputs.push(Input { slot: target, tables });
    }
    job
}

/// What is worth doing when nothing has to be done: tables that a range delete covers in part, or that are mostly deletes,
/// are rewritten together with what they reach in the next slot that holds anything.
fn upkeep(version: &Version) -> Option<Job> {
    let under_range = |table: &&Arc<Table>| {
        version.range_deletes.list().iter().any(|range| RangeDeletes::touches(range, &table.meta))
    };
    let of_deletes = |table: &&Arc<Table>| table.meta.deletes * 2 >= table.meta.entries;
    let find = |from: usize, wanted: &dyn Fn(&&Arc<Table>) -> bool| {
        let mut slots = version.slots.iter().enumerate().skip(from);
        slots.find_map(|(slot, tables)| tables.iter().find(wanted).map(|table| (slot, table.clone())))
    };
    let (reason, (slot, table)) = match find(0, &under_range) {
        Some(found) => (Reason::RangeDelete, found),
        // Those of slot 0 go soon enough, and with company.
        None => (Reason::Deletes, find(1, &of_deletes)?),
    };
    if slot == 0 {
        // Slot 0 overlaps itself: all of it goes to the first slot below that holds anything, or to the last.
        let target = (1..SLOTS).find(|&slot| !version.slots[slot].is_empty()).unwrap_or(SLOTS - 1);
        let inputs = vec![Input { slot, tables: version.slots[0].clone() }];
        return Some(completed(version, Job { reason, inputs, target: Some(target) }));
    }
    let below = (slot + 1..SLOTS)
        .find(|&below| !version.overlapping(below, &table.meta.smallest, &table.meta.largest).is_empty());
    // What a range delete covers goes in place; so do deletes under which there is nothing any more.
    let target = if reason == Reason::RangeDelete { slot } else { below.unwrap_or(slot) };
    Some(completed(
        version,
        Job { reason, inputs: vec![Input { slot, tables: vec![table] }], target: Some(target) },
    ))
}

/// The strategy that the options ask for.
pub(crate) fn from_options(options: &Options) -> Arc<dyn Picker> {
    match options.compaction {
        Compaction::Leveled => Arc::new(Leveled::new(options)),
        Compaction::Tiered { runs, size_ratio_percent, space_percent } => Arc::new(Tiered {
            runs: runs.max(2),
            size_ratio_percent,
            space_percent,
            stop: options.level0_stop,
        }),
        Compaction::LazyLeveled { runs } => {
            Arc::new(LazyLeveled { runs: runs.max(2), stop: options.level0_stop })
        }
        Compaction::Fifo { bytes_max, age_max } => Arc::new(Fifo { bytes_max, age_max }),
    }
}
