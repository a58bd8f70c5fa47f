//! Walking keys at a moment: versions, deletes and range deletes resolved.

use std::cmp::Ordering;
use std::ops::Bound;

use crate::cursor::Cursor;
use crate::error::Result;
use crate::key::{Entry, Seq};
use crate::merge::MergeCursor;
use crate::view::{Moment, View};

/// A walk over visible keys. It lends key and value; a new scan stands before the first row, so that `next_row`
/// gives the first and `prev_row` the last.
pub struct Scan<'a> {
    merged: MergeCursor<'a>,
    view: &'a View,
    at: Moment,
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
    place: Place,
    /// The row when walking backward, where the cursor already stands before it. Forward, the value if it is a blob.
    key: Vec<u8>,
    value: Vec<u8>,
    seq: Seq,
    /// Whether any range delete may lie over a row.
    has_ranges: bool,
    /// Keys without a row that were met since the last row.
    passed: usize,
    /// The last key of which a version was met that is too new, and how many in a row.
    too_new: Vec<u8>,
    too_new_count: usize,
    /// Where those begin that may be worth remembering, in the direction of the walk; forward inclusive, backward exclusive.
    passed_from: Vec<u8>,
}

/// Versions of one key that are stepped over before the rest of them is jumped over.
const STEPS_MAX: usize = 8;

/// After so many keys without a row a walk asks whether a gap is known there, and again whenever it met [`PASSED_AGAIN`]
/// more. Where orders of threads or operations are tried, there are few keys.
const PASSED_FIRST: usize = if FEW_KEYS { 1 } else { 8 };

/// A stretch of fewer keys is not worth remembering.
const PASSED_AGAIN: usize = if FEW_KEYS { 3 } else { 64 };

const FEW_KEYS: bool = cfg!(any(lumen_shuttle, feature = "fuzzing"));

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first row and after the last at once: nothing was asked yet.
    Fresh,
    /// On a row, with the cursor on it.
    Forward,
    /// On a row held in `key` and `value`, with the cursor before all its versions.
    Backward,
    /// Walked off an end.
    Done,
}

fn owned(bound: Bound<&[u8]>) -> Bound<Vec<u8>> {
    bound.map(<[u8]>::to_vec)
}

impl<'a> Scan<'a> {
    pub(crate) fn new(view: &'a View, at: Moment, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Scan<'a> {
        let mut cursors: Vec<Box<dyn Cursor + 'a>> = Vec::new();
        // Whatever comes into an empty one from now on is newer than this walk.
        for memtable in view.memtables().filter(|memtable| !memtable.is_empty()) {
            cursors.push(Box::new(memtable.cursor()));
        }
        view.version.cursors(&mut cursors);
        Scan {
            merged: MergeCursor::new(cursors),
            view,
            at,
            start: owned(start),
            end: owned(end),
            place: Place::Fresh,
            key: Vec::new(),
            value: Vec::new(),
            seq: 0,
            has_ranges: view.has_range_deletes(),
            passed: 0,
            too_new: Vec::new(),
            too_new_count: 0,
            passed_from: Vec::new(),
        }
    }

    /// The key of the row it stands on. Call only after `next_row`, `prev_row` or `seek` answered true.
    pub fn key(&self) -> &[u8] {
        match self.place {
            Place::Forward => self.merged.entry().map_or(&[], |entry| entry.key),
            _ => &self.key,
        }
    }

    /// The value of the row it stands on.
    pub fn value(&self) -> &[u8] {
        match (self.place, self.merged.entry()) {
            (Place::Forward, Some(entry)) if !entry.op.is_blob() => &entry.value[entry.op.prefix_bytes()..],
            _ => &self.value,
        }
    }

    /// The sequence number that wrote the row.
    pub fn seq(&self) -> Seq {
        match self.place {
            Place::Forward => self.merged.entry().map_or(0, |entry| entry.seq),
            _ => self.seq,
        }
    }

    fn within_end(&self, key: &[u8]) -> bool {
        match &self.end {
            Bound::Unbounded => true,
            Bound::Included(end) => key <= end.as_slice(),
            Bound::Excluded(end) => key < end.as_slice(),
        }
    }

    fn within_start(&self, key: &[u8]) -> bool {
        match &self.start {
            Bound::Unbounded => true,
            Bound::Included(start) => key >= start.as_slice(),
            Bound::Excluded(start) => key > start.as_slice(),
        }
    }

    /// To the first row with a key of at least `key` (and inside the bounds). Answers whether there is one.
    pub fn seek(&mut self, key: &[u8]) -> Result<bool> {
        let found = self.go_to(key)?;
        self.answer(Some(key), None, found, true)
    }

    /// Whether keys that were passed cannot be answered for: an error. From a key, or the row before, to the row found.
    fn answer(&self, from: Option<&[u8]>, before: Option<&[u8]>, found: bool, forward: bool) -> Result<bool> {
        if self.view.version.quarantines.is_empty() {
            return Ok(found);
        }
        fn border(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
            bound.as_ref().map(Vec::as_slice)
        }
        let left = before.map(Bound::Excluded).or(from.map(Bound::Included));
        let (start, end) = (border(&self.start), border(&self.end));
        let here = if found { Some(Bound::Included(self.key())) } else { None };
        let (from, to) = match forward {
            true => (left.unwrap_or(start), here.unwrap_or(end)),
            false => (here.unwrap_or(start), left.unwrap_or(end)),
        };
        self.view.answer_between(from, to, self.at.seq).map(|()| found)
    }

    fn go_to(&mut self, key: &[u8]) -> Result<bool> {
        match &self.start {
            Bound::Included(start) | Bound::Excluded(start) if start.as_slice() > key => {
                self.merged.seek(start)?
            }
            _ => self.merged.seek(key)?,
        }
        self.settle_forward(false)
    }

    /// To the next row. Answers whether there is one.
    pub fn next_row(&mut self) -> Result<bool> {
        if self.view.version.quarantines.is_empty() || self.place == Place::Done {
            return self.step_forward();
        }
        let before = (self.place != Place::Fresh).then(|| self.key().to_vec());
        let found = self.step_forward()?;
        self.answer(None, before.as_deref(), found, true)
    }

    fn step_forward(&mut self) -> Result<bool> {
        match self.place {
            Place::Done => Ok(false),
            Place::Fresh => {
                match &self.start {
                    Bound::Unbounded => self.merged.seek_first()?,
                    Bound::Included(start) | Bound::Excluded(start) => self.merged.seek(start)?,
                }
                self.settle_forward(false)
            }
            Place::Forward => {
                self.key.clear();
                self.key.extend_from_slice(self.merged.entry().map_or(&[], |entry| entry.key));
                self.merged.next()?;
                self.settle_forward(true)
            }
            Place::Backward => {
                self.merged.seek(&self.key)?;
                self.settle_forward(true)
            }
        }
    }

    /// Walks on to the newest visible version of a key; if `hiding`, of another one than `self.key`, which from then on is
    /// the last key whose newer version has decided that it is not a row.
    fn settle_forward(&mut self, mut hiding: bool) -> Result<bool> {
        let (mut steps, mut jumped, mut has_too_new) = (0, false, false);
        (self.passed, self.too_new_count) = (0, 0);
        while let Some(entry) = self.merged.entry() {
            if !self.within_end(entry.key) {
                break;
            }
            let order = if hiding { entry.key.cmp(&self.key) } else { Ordering::Greater };
            if order == Ordering::Less || (jumped && order == Ordering::Equal) {
                return Err(self.merged.out_of_order());
            }
            // Who jumps from what is too new must not come before it: it could go in circles.
            if has_too_new && entry.key < self.too_new.as_slice() {
                return Err(self.merged.out_of_order());
            }
            let is_hidden = order == Ordering::Equal;
            if entry.seq > self.at.seq && !is_hidden {
                has_too_new = true;
                if self.too_new_count == 0 || self.too_new != entry.key {
                    self.too_new.clear();
                    self.too_new.extend_from_slice(entry.key);
                    self.too_new_count = 0;
                }
                self.too_new_count += 1;
                match self.too_new_count.cmp(&STEPS_MAX) {
                    Ordering::Less => self.merged.next()?,
                    Ordering::Equal => self.merged.seek_version(&self.too_new, self.at.seq)?,
                    Ordering::Greater => return Err(self.merged.out_of_order()),
                }
                continue;
            }
            self.too_new_count = 0;
            // What comes after a key inside the bounds has passed the first.
            if !is_hidden && (hiding || self.within_start(entry.key)) {
                if self.is_row(&entry) {
                    self.place = Place::Forward;
                    if self.passed >= PASSED_AGAIN {
                        self.view.gaps.note(&self.passed_from, entry.key, self.at);
                    }
                    if entry.op.is_blob() {
                        self.value =
                            self.view.blob(entry.value.get(entry.op.prefix_bytes()..).unwrap_or_default())?;
                    }
                    return Ok(true);
                }
                self.key.clear();
                self.key.extend_from_slice(entry.key);
                (hiding, steps, jumped) = (true, 0, false);
                if let Some((_, end)) = self.pass(true) {
                    self.merged.seek(&end)?;
                    self.passed_from = end;
                    jumped = true;
                    continue;
                }
            }
            steps += 1;
            if is_hidden && steps > STEPS_MAX {
                // A key that was written over and over: on to the first that is greater.
                self.key.push(0);
                self.merged.seek(&self.key)?;
                self.key.pop();
                (steps, jumped) = (0, true);
            } else {
                self.merged.next()?;
            }
        }
        if self.passed >= PASSED_AGAIN {
            self.key.push(0); // the smallest key that is greater
            self.view.gaps.note(&self.passed_from, &self.key, self.at);
        }
        self.place = Place::Done;
        Ok(false)
    }

    /// Counts `self.key`, which is no row. Now and then it answers a gap to jump over, from which the count begins anew.
    fn pass(&mut self, forward: bool) -> Option<(Vec<u8>, Vec<u8>)> {
        self.passed += 1;
        if self.passed % PASSED_AGAIN != PASSED_FIRST {
            return None;
        }
        if self.passed == PASSED_FIRST {
            self.passed_from.clone_from(&self.key);
            if !forward {
                self.passed_from.push(0);
            }
        }
        let gap = self.view.gaps.around(&self.key, self.at)?;
        self.passed = PASSED_FIRST;
        Some(gap)
    }

    fn is_row(&self, entry: &Entry<'_>) -> bool {
        entry.is_live(self.at.now)
            && !(self.has_ranges && self.view.is_range_deleted(entry.key, entry.seq, self.at.seq))
    }

    /// To the row before. Answers whether there is one.
    pub fn prev_row(&mut self) -> Result<bool> {
        if self.view.version.quarantines.is_empty() || self.place == Place::Done {
            return self.step_backward();
        }
        let before = (self.place != Place::Fresh).then(|| self.key().to_vec());
        let found = self.step_backward()?;
        self.answer(None, before.as_deref(), found, false)
    }

    fn step_backward(&mut self) -> Result<bool> {
        // Whether all that comes lies before `self.key`.
        let mut is_before = self.place != Place::Fresh;
        match self.place {
            Place::Done => return Ok(false),
            Place::Fresh => match &self.end {
                Bound::Unbounded => self.merged.seek_last()?,
                Bound::Excluded(end) => self.merged.seek_before(end)?,
                Bound::Included(end) => {
                    let mut after = end.clone();
                    after.push(0); // the smallest key that is greater
                    self.merged.seek_before(&after)?;
                }
            },
            Place::Forward => {
                self.key.clear();
                self.key.extend_from_slice(self.merged.entry().map_or(&[], |entry| entry.key));
                self.merged.seek_before(&self.key)?;
            }
            Place::Backward => {}
        }
        // Backward, the versions of a key come oldest first; the last one that is visible decides.
        self.passed = 0;
        while let Some(entry) = self.merged.entry() {
            if !self.within_start(entry.key) {
                break;
            }
            if is_before && entry.key >= self.key.as_slice() {
                return Err(self.merged.out_of_order());
            }
            is_before = true;
            self.key.clear();
            self.key.extend_from_slice(entry.key);
            let (mut is_row, mut is_blob, mut steps) = (false, false, 0);
            while let Some(entry) = self.merged.entry().filter(|entry| entry.key == self.key) {
                if entry.seq <= self.at.seq {
                    is_row = self.is_row(&entry);
                    is_blob = entry.op.is_blob();
                    self.seq = entry.seq;
                    self.value.clear();
                    self.value
                        .extend_from_slice(entry.value.get(entry.op.prefix_bytes()..).unwrap_or_default());
                }
                steps += 1;
                match steps.cmp(&STEPS_MAX) {
                    // A key that was written over and over: to the version that decides, and from there past the others.
                    Ordering::Equal => {
                        self.merged.seek_version(&self.key, self.at.seq)?;
                        if self.merged.entry().is_none_or(|entry| entry.key != self.key) {
                            self.merged.seek_before(&self.key)?;
                        }
                    }
                    Ordering::Greater if steps > STEPS_MAX + 1 => return Err(self.merged.out_of_order()),
                    Ordering::Greater => self.merged.seek_before(&self.key)?,
                    Ordering::Less => self.merged.prev()?,
                }
            }
            if is_row {
                if is_blob {
                    self.value = self.view.blob(&self.value)?;
                }
                if self.passed >= PASSED_AGAIN {
                    let mut after = self.key.clone();
                    after.push(0);
                    self.view.gaps.note(&after, &self.passed_from, self.at);
                }
                self.place = Place::Backward;
                return Ok(true);
            }
            if let Some((start, _)) = self.pass(false) {
                self.merged.seek_before(&start)?;
                self.passed_from = start;
            }
        }
        if self.passed >= PASSED_AGAIN {
            self.view.gaps.note(&self.key, &self.passed_from, self.at);
        }
        self.place = Place::Done;
        Ok(false)
    }
}
