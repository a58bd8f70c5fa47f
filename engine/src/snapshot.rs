//! A moment that stays readable while it is held.
//!
//! A snapshot holds the memtables and tables of its moment, so nothing it can see is ever taken away: files that later
//! compactions replace are removed when the last snapshot that holds them goes. The price is disk space while it lives.

use std::ops::Bound;
use std::sync::Arc;

use crate::error::Result;
use crate::key::Seq;
use crate::scan::Scan;
use crate::slice::Slice;
use crate::state::{Shared, View};

/// The data as of one sequence number. Cheap to make and to clone.
#[derive(Clone)]
pub struct Snapshot {
    view: Arc<View>,
    seq: Seq,
}

impl Snapshot {
    /// Everything visible now. The view is taken first: whatever it holds frozen was visible before it was frozen, so
    /// the sequence number read afterwards can only be newer.
    pub(crate) fn new(shared: &Shared) -> Snapshot {
        let view = shared.view.load_full();
        let seq = shared.visible.load(std::sync::atomic::Ordering::Acquire);
        Snapshot { view, seq }
    }

    /// Everything applied, published or not; for the one thread that applies.
    pub(crate) fn latest(shared: &Shared) -> Snapshot {
        Snapshot { view: shared.view.load_full(), seq: Seq::MAX }
    }

    /// The same files, read at `seq`; nothing newer than `seq` may be frozen in them.
    pub(crate) fn at(self, seq: Seq) -> Snapshot {
        Snapshot { seq, ..self }
    }

    /// The sequence number: batches up to here are seen, later ones are not.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Slice>> {
        Ok(self.view.get(key, self.seq)?.map(|(_, value)| value))
    }

    /// The value of `key` with the sequence number that wrote it.
    pub fn get_versioned(&self, key: &[u8]) -> Result<Option<(Seq, Slice)>> {
        self.view.get(key, self.seq)
    }

    /// Walks the keys from `start` to `end`, both ways.
    pub fn scan(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Scan<'_> {
        Scan::new(&self.view, self.seq, start, end)
    }
}
