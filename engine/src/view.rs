//! What readers read: memtables and version as one value, swapped whole, and the moment they read it at.

use std::ops::Bound;
use std::sync::Arc;

use crate::batch::Operation;
use crate::blob::BlobHandle;
use crate::compaction::picker::Picker;
use crate::error::{Error, Result};
use crate::gaps::Gaps;
use crate::key::Seq;
use crate::memtable::Memtable;
use crate::options::Options;
use crate::output;
use crate::quarantine::Quarantine;
use crate::slice::Slice;
use crate::stats::{Counters, Stall};
use crate::table::filter;
use crate::table::reader::Reach;
use crate::version::Version;

/// Everything a reader needs, immutable but for the active memtable, which only grows.
#[derive(Clone)]
pub(crate) struct View {
    pub active: Arc<Memtable>,
    /// Newest first.
    pub frozen: Vec<Arc<Memtable>>,
    pub version: Arc<Version>,
    /// Where there are no rows.
    pub gaps: Arc<Gaps>,
    counters: Arc<Counters>,
    /// Whether any entry outside the active memtable expires, or did.
    expires: bool,
    /// How far the store is from the point where writers wait (1.0 is there), and what is nearest to it.
    pub pressure: (f64, Stall),
}

impl View {
    pub(crate) fn new(
        active: Arc<Memtable>,
        frozen: Vec<Arc<Memtable>>,
        version: Arc<Version>,
        gaps: Arc<Gaps>,
        counters: Arc<Counters>,
    ) -> View {
        let expires = gaps.are_timed(version.expires() || frozen.iter().any(|memtable| memtable.expires()));
        View { active, frozen, version, gaps, counters, expires, pressure: (0.0, Stall::Memory) }
    }

    /// The same tables under other memory.
    pub(crate) fn with(&self, active: Arc<Memtable>, frozen: Vec<Arc<Memtable>>) -> View {
        View::new(active, frozen, self.version.clone(), self.gaps.clone(), self.counters.clone())
    }

    /// With its pressure, which every write asks for.
    pub(crate) fn measured(mut self, options: &Options, picker: &dyn Picker) -> View {
        let part = |is: usize, stop: usize| is as f64 / stop.max(1) as f64;
        let depth = self.version.depth;
        let debt = picker.debt(&self.version) as f64 / options.debt_stop_bytes.max(1) as f64;
        let all = [
            (part(self.frozen.len(), options.memtables_max), Stall::Memory),
            (picker.stop_at().map_or(0.0, |stop| part(depth, stop)), Stall::Level0),
            (debt, Stall::Debt),
        ];
        self.pressure = all.into_iter().max_by(|(a, _), (b, _)| a.total_cmp(b)).expect("three of them");
        self
    }

    /// Into the active memtable, by one writer at a time; keys are unique.
    pub(crate) fn insert(&self, seq: Seq, operations: &[Operation<'_>]) {
        self.gaps.put(seq, operations);
        self.active.insert(seq, operations);
    }

    /// The newest value of `key` that a reader sees, and the seq that wrote it.
    pub(crate) fn get(&self, key: &[u8], moment: Moment, reach: Reach) -> Result<Option<(Seq, Slice)>> {
        self.counters.gets.add(1);
        let mut memtables = self.memtables().filter(|memtable| !memtable.is_empty());
        let hash = filter::hash(key);
        let found = memtables.find_map(|memtable| memtable.get(key, hash, moment.seq));
        let found = match found {
            Some(found) => Some(found),
            None => self.version.get(key, hash, moment.seq, reach)?,
        };
        if !self.version.quarantines.is_empty() {
            self.answer_for(key, found.as_ref().map_or(0, |found| found.seq), moment.seq)?;
        }
        let Some(found) = found.filter(|found| found.is_live(moment.now)) else { return Ok(None) };
        if self.is_range_deleted(key, found.seq, moment.seq) {
            return Ok(None);
        }
        let (seq, is_blob, value) = (found.seq, found.op.is_blob(), found.into_value());
        if !is_blob {
            return Ok(Some((seq, value)));
        }
        if reach == Reach::Memory {
            return Err(Error::NotInMemory);
        }
        Ok(Some((seq, Slice::owned(self.blob(&value)?))))
    }

    /// An error if the newest known version of `key`, `seq`, may not be the newest there was.
    fn answer_for(&self, key: &[u8], seq: Seq, at: Seq) -> Result<()> {
        let over = |unknown: &&Quarantine| unknown.start.as_slice() <= key && key < unknown.end.as_slice();
        let mut unknown = self.version.quarantines.iter().filter(over);
        match unknown
            .find(|unknown| seq <= unknown.max_seq && !self.is_range_deleted(key, unknown.max_seq, at))
        {
            Some(unknown) => Err(unknown.error()),
            None => Ok(()),
        }
    }

    /// An error if a walk from `from` to `to` passes keys that cannot be answered for.
    pub(crate) fn answer_between(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, at: Seq) -> Result<()> {
        let begins_before_end = |unknown: &Quarantine| match to {
            Bound::Unbounded => true,
            Bound::Included(to) => unknown.start.as_slice() <= to,
            Bound::Excluded(to) => unknown.start.as_slice() < to,
        };
        let ends_after_start = |unknown: &Quarantine| match from {
            Bound::Unbounded => true,
            Bound::Included(from) | Bound::Excluded(from) => from < unknown.end.as_slice(),
        };
        let is_gone = |unknown: &Quarantine| {
            unknown.ends_by(&self.version.range_deletes, at)
                || self.memtables().any(|memtable| unknown.ends_by(&memtable.range_deletes(), at))
        };
        let mut met = self.version.quarantines.iter();
        match met.find(|unknown| begins_before_end(unknown) && ends_after_start(unknown) && !is_gone(unknown))
        {
            Some(unknown) => Err(unknown.error()),
            None => Ok(()),
        }
    }

    /// The value behind a handle.
    pub(crate) fn blob(&self, handle: &[u8]) -> Result<Vec<u8>> {
        output::read_blob(&self.version.blobs, BlobHandle::decode(handle)?)
    }

    pub(crate) fn is_range_deleted(&self, key: &[u8], seq: Seq, at: Seq) -> bool {
        self.version.range_deletes.covers(key, seq, at)
            || self
                .memtables()
                .any(|memtable| memtable.range_deleted(key, at).is_some_and(|newest| seq < newest))
    }

    /// Whether there is any range delete.
    pub(crate) fn has_range_deletes(&self) -> bool {
        !self.version.range_deletes.is_empty() || self.memtables().any(|memtable| memtable.has_ranges())
    }

    /// Whether any entry expires, so that a reader has to know the time.
    pub(crate) fn expires(&self) -> bool {
        self.expires || self.active.expires()
    }

    pub(crate) fn memtables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.active).chain(&self.frozen)
    }
}

/// When a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Versions up to here are seen.
    pub seq: Seq,
    /// What has expired by then is not; milliseconds since 1970.
    pub now: u64,
}

impl Moment {
    /// Whether whoever reads at `other` sees all that was written, and has expired, by now.
    pub(crate) fn is_no_later(self, other: Moment) -> bool {
        self.seq <= other.seq && self.now <= other.now
    }
}
