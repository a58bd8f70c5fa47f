//! What every strategy answers, and the job that comes of it.

use std::sync::Arc;

use crate::compaction::fifo::Fifo;
use crate::compaction::lazy::LazyLeveled;
use crate::compaction::leveled::Leveled;
use crate::compaction::plan::{Input, Job, Limits, Reason};
use crate::compaction::tiered::Tiered;
use crate::compaction::upkeep::upkeep;
use crate::options::{Compaction, Options};
use crate::table::reader::Table;
use crate::version::{SLOTS, Version};

/// The most runs that tiers may have: each has to find a slot, and some are left.
const RUNS_MAX: usize = SLOTS - 4;

/// Of so many jobs one is for upkeep, if there is any to do, although others are due: a tree that is always behind gets to
/// it as well.
const UPKEEP_EVERY: u64 = 4;

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

    /// Whether tables stay in the order in which they came: then none is rewritten, and none put below level 0.
    fn keeps_order(&self) -> bool {
        false
    }

    /// What may be merged when nobody writes and nothing has to be done, so that reads meet fewer runs.
    fn at_rest(&self, _version: &Version) -> Option<Cause> {
        None
    }

    /// Whether time alone may be a cause.
    fn is_timed(&self) -> bool {
        false
    }

    /// Keys at which flushes cut their output into at most `parts`, if not where they do already.
    fn splits(&self, _version: &Version, _parts: usize) -> Option<Vec<Vec<u8>>> {
        None
    }

    /// Whether merges cut their output at the same keys.
    fn merges_split(&self) -> bool {
        false
    }

    /// The next job that may be done beside those under way.
    fn pick(&self, version: &Version, now: u64, limits: &Limits<'_>) -> Option<Job> {
        let upkeep = || if self.keeps_order() { None } else { upkeep(version, now, limits) };
        let causes = self.triggers(version, now);
        let due = || {
            let mut jobs = causes.iter().flat_map(|cause| self.jobs(version, cause));
            jobs.find(|job| limits.allow(job))
        };
        if limits.turn.is_multiple_of(UPKEEP_EVERY) { upkeep().or_else(due) } else { due().or_else(upkeep) }
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
                Job::columns(&version.slots[0]).into_iter().map(|column| vec![column]).collect()
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
pub(crate) fn completed(version: &Version, mut job: Job) -> Job {
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

/// Where writers wait: not before as many runs lie over one another as have something merged, or they would wait for ever.
pub(crate) fn stop_after(options: &Options, runs: usize) -> usize {
    options.level0_stop.max(runs)
}

/// The strategy that the options ask for.
pub(crate) fn from_options(options: &Options) -> Arc<dyn Picker> {
    match options.compaction {
        Compaction::Leveled => Arc::new(Leveled::new(options)),
        Compaction::Tiered { runs, size_ratio_percent, space_percent } => {
            let runs = runs.clamp(2, RUNS_MAX);
            Arc::new(Tiered { runs, size_ratio_percent, space_percent, stop: stop_after(options, runs) })
        }
        Compaction::LazyLeveled { runs } => {
            let runs = runs.clamp(2, RUNS_MAX);
            // Runs that are not alike are merged when the slots run out, and not before.
            Arc::new(LazyLeveled { runs, stop: stop_after(options, RUNS_MAX) })
        }
        Compaction::Fifo { bytes_max, age_max } => Arc::new(Fifo { bytes_max, age_max }),
    }
}
