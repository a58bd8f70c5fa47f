//! What every strategy answers, and the job that comes of it.

use std::sync::Arc;

use crate::blob::BlobMeta;
use crate::compaction::fifo::Fifo;
use crate::compaction::lazy::LazyLeveled;
use crate::compaction::leveled::Leveled;
use crate::compaction::tiered::Tiered;
use crate::options::{Compaction, Options};
use crate::range_delete::{RangeDeletes, WAITING};
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
    /// Points into a blob file that is mostly unused.
    Blobs,
    /// A part of it cannot be read.
    Damage,
    /// Nobody writes, and reads would meet fewer runs.
    Rest,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Reason; 9] = [
        Reason::Count,
        Reason::Size,
        Reason::Space,
        Reason::Deletes,
        Reason::RangeDelete,
        Reason::Expired,
        Reason::Blobs,
        Reason::Damage,
        Reason::Rest,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Reason::Count => "count",
            Reason::Size => "size",
            Reason::Space => "space",
            Reason::Deletes => "deletes",
            Reason::RangeDelete => "range-delete",
            Reason::Expired => "expired",
            Reason::Blobs => "blobs",
            Reason::Damage => "damage",
            Reason::Rest => "rest",
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

    /// Whether what goes down is at least a tenth of what it meets there, which is what a level is of the next: so work at
    /// rest costs no more for each byte than work that has to be.
    fn is_worth_it(&self) -> bool {
        let bytes = |input: &Input| input.tables.iter().map(|table| table.meta.len).sum::<u64>();
        let met = self.inputs.iter().filter(|input| Some(input.slot) == self.target).map(bytes).sum::<u64>();
        let all = self.inputs.iter().map(bytes).sum::<u64>();
        (all - met).saturating_mul(10) >= met
    }

    /// Bytes that it may write before anything is freed.
    fn room(&self) -> u64 {
        let rewrites = self.target.is_some() && !self.is_move();
        if rewrites { self.tables().map(|table| table.meta.len).sum() } else { 0 }
    }

    /// What nobody else may touch meanwhile.
    pub(crate) fn claim(&self, id: u64) -> Claim {
        let slots = || self.inputs.iter().map(|input| input.slot).chain(self.target);
        Claim {
            id,
            first: slots().min().unwrap_or(0),
            last: slots().max().unwrap_or(0),
            smallest: self.tables().map(|table| table.meta.smallest.clone()).min().unwrap_or_default(),
            largest: self.tables().map(|table| table.meta.largest.clone()).max().unwrap_or_default(),
        }
    }
}

/// A stretch of keys over some slots, in which a job is at work.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub id: u64,
    first: usize,
    last: usize,
    smallest: Vec<u8>,
    largest: Vec<u8>,
}

impl Claim {
    /// Jobs may run side by side when their keys or their slots lie apart: then neither sees what the other changes, and
    /// nothing new comes to lie under something old.
    fn meets(&self, other: &Claim) -> bool {
        self.first <= other.last
            && other.first <= self.last
            && self.smallest <= other.largest
            && other.smallest <= self.largest
    }
}

/// What limits the choice of a job.
pub(crate) struct Limits<'a> {
    /// What is under way.
    pub claims: &'a [Claim],
    /// Bytes that may be written.
    pub room: u64,
}

impl Limits<'_> {
    /// Whether a job may be done beside the others.
    pub(crate) fn allow(&self, job: &Job) -> bool {
        let claim = job.claim(0);
        job.room() <= self.room && !self.claims.iter().any(|other| other.meets(&claim))
    }
}

/// How much of a slot a job takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Granularity {
    /// All of every slot from the first to the last that the trigger named.
    Runs,
    /// One table.
    Table,
    /// Of slot 0, tables that overlap one another, and no others.
    Column,
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
    /// When: nothing while the tree is in shape; the most urgent first. `now` is in milliseconds since 1970.
    fn triggers(&self, version: &Version, now: u64) -> Vec<Cause>;

    /// Where to: the slot that the output goes to; `None` drops it.
    fn layout(&self, version: &Version, cause: &Cause) -> Option<usize>;

    /// How much.
    fn granularity(&self, cause: &Cause) -> Granularity;

    /// Which table of `slot`, if one is enough, the best first: by default the one that overlaps least with the target for
    /// its size (RocksDB's kMinOverlappingRatio), deletes making it smaller than it is.
    fn movement(&self, version: &Version, slot: usize, target: Option<usize>) -> Vec<Arc<Table>> {
        let ratio = |table: &Arc<Table>| {
            let reached = |target| version.overlapping(target, &table.meta.smallest, &table.meta.largest);
            let bytes: u64 = target.map_or(Vec::new(), reached).iter().map(|lower| lower.meta.len).sum();
            // A table of deletes alone counts double: they free what they reach.
            let deletes = u128::from(table.meta.len) * u128::from(table.meta.deletes);
            let weight = u128::from(table.meta.len) + deletes / u128::from(table.meta.entries.max(1));
            u128::from(bytes) * 1024 / weight.max(1)
        };
        let mut tables = version.slots[slot].clone();
        tables.sort_by_cached_key(|table| (ratio(table), table.meta.number));
        tables
    }

    /// Tables of slot 0 over one key at which writers wait; `None`: never.
    fn stop_at(&self) -> Option<usize>;

    /// Bytes that have to be written before the tree is in shape, about.
    fn debt(&self, _version: &Version) -> u64 {
        0
    }

    /// Whether tables may be rewritten when nothing has to be done.
    fn keeps_up(&self) -> bool {
        true
    }

    /// What may be merged when nobody writes and nothing has to be done, so that reads meet fewer runs.
    fn at_rest(&self, _version: &Version) -> Option<Cause> {
        None
    }

    /// Whether time alone may be a cause.
    fn is_timed(&self) -> bool {
        false
    }

    /// Whether flushes cut their output, so that a part of slot 0 can be compacted by itself.
    fn splits_flushes(&self) -> bool {
        false
    }

    /// The next job that may be done beside those under way.
    fn pick(&self, version: &Version, now: u64, limits: &Limits<'_>) -> Option<Job> {
        let causes = self.triggers(version, now);
        if causes.is_empty() && self.keeps_up() {
            return upkeep(version, now, limits);
        }
        causes.iter().find_map(|cause| self.jobs(version, cause).into_iter().find(|job| limits.allow(job)))
    }

    /// The next job of those that may be done while nobody writes: nothing that is small beside what it would be merged with.
    fn pick_at_rest(&self, version: &Version, limits: &Limits<'_>) -> Option<Job> {
        let jobs = self.jobs(version, &self.at_rest(version)?);
        jobs.into_iter().find(|job| job.is_worth_it() && limits.allow(job))
    }

    /// What can be done about a cause, the best first.
    fn jobs(&self, version: &Version, cause: &Cause) -> Vec<Job> {
        let target = self.layout(version, cause);
        let candidates: Vec<Vec<Input>> = match self.granularity(cause) {
            Granularity::Table => {
                let tables = self.movement(version, cause.first, target).into_iter();
                tables.map(|table| vec![Input { slot: cause.first, tables: vec![table] }]).collect()
            }
            Granularity::Column => {
                let columns = version.columns().into_iter();
                columns.map(|tables| vec![Input { slot: 0, tables }]).collect()
            }
            Granularity::Runs => vec![whole_runs(version, cause)],
        };
        let jobs = candidates.into_iter();
        jobs.map(|inputs| completed(version, Job { reason: cause.reason, inputs, target })).collect()
    }
}

fn whole_runs(version: &Version, cause: &Cause) -> Vec<Input> {
    let mut inputs = Vec::new();
    for slot in cause.first..=cause.last {
        let (skip, take) = if slot == 0 { (cause.skip, cause.take) } else { (0, usize::MAX) };
        let tables: Vec<_> = version.slots[slot].iter().skip(skip).take(take).cloned().collect();
        if !tables.is_empty() {
            inputs.push(Input { slot, tables });
        }
    }
    inputs
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

/// What is worth doing when nothing has to be done: tables that a range delete covers in part, or that are mostly deletes
/// or expired, are rewritten together with what they reach in the next slot that holds anything; tables that point into a
/// blob file that is mostly unused, alone. What readers below the floor could still see has to stay, so it is no reason.
fn upkeep(version: &Version, now: u64, limits: &Limits<'_>) -> Option<Job> {
    let is_old = |table: &Arc<Table>| table.meta.max_seq() <= version.floor;
    let under_range = |table: &Arc<Table>| {
        // One that is not in force yet would have the same table rewritten for ever.
        let mut ranges = version.range_deletes.list().iter().filter(|range| range.floor != WAITING);
        ranges.any(|range| RangeDeletes::touches(range, &table.meta))
    };
    let expired = |table: &Arc<Table>| if table.meta.expiry_max <= now { table.meta.expiring } else { 0 };
    let of_expired = |table: &Arc<Table>| expired(table) * 2 >= table.meta.entries && is_old(table);
    let of_deletes =
        |table: &Arc<Table>| (table.meta.deletes + expired(table)) * 2 >= table.meta.entries && is_old(table);
    let collect = blobs_to_collect(version);
    let of_blobs = |table: &Arc<Table>| table.meta.blobs.iter().any(|(file, _)| collect.contains(file));
    let find = |reason: Reason, from: usize, wanted: &dyn Fn(&Arc<Table>) -> bool| {
        let mut slots = version.slots.iter().enumerate().skip(from);
        slots.find_map(|(slot, tables)| {
            let jobs = tables.iter().filter(|table| wanted(table));
            let mut jobs = jobs.map(|table| upkeep_of(version, reason, slot, table));
            jobs.find(|job| limits.allow(job))
        })
    };
    // Those of slot 0 that are mostly deletes go soon enough, and with company.
    find(Reason::RangeDelete, 0, &under_range)
        .or_else(|| find(Reason::Deletes, 1, &of_deletes))
        .or_else(|| find(Reason::Expired, 0, &of_expired))
        .or_else(|| find(Reason::Blobs, 0, &of_blobs))
}

/// The job that rewrites `table` for this reason.
fn upkeep_of(version: &Version, reason: Reason, slot: usize, table: &Arc<Table>) -> Job {
    if slot == 0 && reason != Reason::Blobs {
        // Slot 0 overlaps itself: all of it goes to the first slot below that holds anything, or to the last.
        let target = (1..SLOTS).find(|&slot| !version.slots[slot].is_empty()).unwrap_or(SLOTS - 1);
        let inputs = vec![Input { slot, tables: version.slots[0].clone() }];
        return completed(version, Job { reason, inputs, target: Some(target) });
    }
    let below = (slot + 1..SLOTS)
        .find(|&below| !version.overlapping(below, &table.meta.smallest, &table.meta.largest).is_empty());
    // Deletes go down to what they delete; if there is nothing, they go, and so does in place what a range delete covers.
    let target = if reason == Reason::Deletes { below.unwrap_or(slot) } else { slot };
    let inputs = vec![Input { slot, tables: vec![table.clone()] }];
    completed(version, Job { reason, inputs, target: Some(target) })
}

/// Percent of a blob file that may be unused before its values are written anew.
const BLOB_GARBAGE_PERCENT: u64 = 50;

/// Blob files of which too much is unused, by uid.
pub(crate) fn blobs_to_collect(version: &Version) -> Vec<u64> {
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
