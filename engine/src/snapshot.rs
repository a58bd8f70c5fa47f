//! A moment that stays readable while it is held.
//!
//! A snapshot holds the memtables and tables of its moment, so nothing it can see is ever taken away: files that later
//! compactions replace are removed when the last snapshot that holds them goes. The price is disk space while it lives.

use std::ops::Bound;
use std::sync::Arc;
use std::task::Poll;

use crate::error::{Error, Result};
use crate::key::Seq;
use crate::scan::Scan;
use crate::slice::Slice;
use crate::state::Shared;
use crate::sync::atomic::Ordering;
use crate::sync::hint;
use crate::table::reader::Reach;
use crate::view::{Moment, View};

/// The data as of one sequence number. Cheap to make and to clone.
#[derive(Clone)]
pub struct Snapshot {
    view: Arc<View>,
    moment: Moment,
}

impl Snapshot {
    /// Everything visible now.
    pub(crate) fn new(shared: &Shared) -> Snapshot {
        Snapshot::when(shared, || shared.visible.load(Ordering::Acquire))
    }

    /// Everything as of the moment that `seq` answers, which is one that was visible when it is asked. The view is taken
    /// first: whatever it holds frozen was visible before it was frozen, so the moment can only be newer; if so new that
    /// memory was frozen and written to meanwhile, there is a newer view.
    pub(crate) fn when(shared: &Shared, mut seq: impl FnMut() -> Seq) -> Snapshot {
        loop {
            let view = shared.view.load_full();
            if let Some(moment) = moment(shared, &view, seq()) {
                return Snapshot { view, moment };
            }
            hint::spin_loop();
        }
    }

    /// The value of `key`, as visible now. Without a snapshot: readers then write to nothing that they share.
    pub(crate) fn get_now(shared: &Shared, key: &[u8]) -> Result<Option<Slice>> {
        loop {
            let view = shared.view.load();
            if let Some(moment) = moment(shared, &view, shared.visible.load(Ordering::Acquire)) {
                return Ok(view.get(key, moment, Reach::Disk)?.map(|(_, value)| value));
            }
            hint::spin_loop();
        }
    }

    /// Everything applied, published or not; for the one thread that applies.
    pub(crate) fn latest(shared: &Shared) -> Snapshot {
        let moment = Moment { seq: Seq::MAX, now: shared.options.now_ms() };
        Snapshot { view: shared.view.load_full(), moment }
    }

    /// The same files, read at `seq`; nothing newer than `seq` may be frozen in them unless it was retained.
    pub(crate) fn at(self, seq: Seq) -> Snapshot {
        Snapshot { moment: Moment { seq, ..self.moment }, ..self }
    }

    /// As of `seq`, if that is within reach.
    pub(crate) fn of(self, seq: Seq) -> Result<Snapshot> {
        let (oldest, newest) = (self.view.version.floor, self.moment.seq);
        if seq < oldest || seq > newest {
            return Err(Error::OutOfReach { seq, oldest, newest });
        }
        Ok(self.at(seq))
    }

    /// The sequence number: batches up to here are seen, later ones are not.
    pub fn seq(&self) -> Seq {
        self.moment.seq
    }

    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Slice>> {
        Ok(self.get_versioned(key)?.map(|(_, value)| value))
    }

    /// The value of `key` with the sequence number that wrote it.
    pub fn get_versioned(&self, key: &[u8]) -> Result<Option<(Seq, Slice)>> {
        self.view.get(key, self.moment, Reach::Disk)
    }

    /// The value of `key` if memory has the answer; [`Poll::Pending`] if a read of the disk is needed to know.
    pub fn try_get(&self, key: &[u8]) -> Result<Poll<Option<Slice>>> {
        match self.view.get(key, self.moment, Reach::Memory) {
            Err(Error::NotInMemory) => Ok(Poll::Pending),
            found => Ok(Poll::Ready(found?.map(|(_, value)| value))),
        }
    }

    /// The values of many keys, in the order of `keys`. They are looked up in the order of the store, so that neighbours
    /// share what is read.
    pub fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Slice>>> {
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_unstable_by_key(|&index| keys[index]);
        let mut values = vec![None; keys.len()];
        for index in order {
            values[index] = self.get(keys[index])?;
        }
        Ok(values)
    }

    /// Walks the keys from `start` to `end`, both ways.
    pub fn scan(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Scan<'_> {
        Scan::new(&self.view, self.moment, start, end)
    }
}

/// The moment of `seq`, if `view` holds everything up to it.
fn moment(shared: &Shared, view: &View, seq: Seq) -> Option<Moment> {
    let now = if view.expires() { shared.options.now_ms() } else { 0 };
    (seq <= view.active.last()).then_some(Moment { seq, now })
}
