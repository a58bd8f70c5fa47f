//! Stretches of keys that are known to hold no row, so that walks do not step over the same deletes again and again.
//!
//! Where much was deleted, an LSM tree is slow: the deletes lie in memory and in tables until a compaction reaches them, and
//! every look at the head of a queue steps over all of them. Here a walk that stepped over many notes the stretch, and the
//! next one jumps over it, for as long as nobody has put a key into it.
//!
//! A stretch becomes known in two walks, since between the moment that a walk reads at and its end keys may have been put
//! that it did not see:
//!
//! ```text
//! a walk notes it         from here on, every put of a key in it removes it; `since`: the last batch that may have missed that
//! a walk at ≥ since       found no row in it either, and nothing was put since: known to have no rows at that moment
//! walks at ≥ that moment  jump to its end
//! ```
//!
//! Deletes never make a row visible, nor does time that goes on, so only puts matter. A file set or tables that are taken in
//! from elsewhere bring rows without putting them: the view that shows them begins with no gaps. Whoever writes looks at one
//! atomic while there are none.

use crate::batch::Operation;
use crate::key::Seq;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use crate::view::Moment;

/// The most that are remembered; beyond it, the one that was unused for the longest time goes.
const GAPS_MAX: usize = 16;

/// What is known of rows that are not there, beside a view and those that follow it.
pub(crate) struct Gaps {
    /// The last batch of which keys are put, or will be.
    begun: AtomicU64,
    /// How many gaps there are; writers go past the lock while it is 0.
    count: AtomicUsize,
    /// Whether anything that expires was ever beside these gaps.
    expires: AtomicBool,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    /// By key; no two overlap.
    gaps: Vec<Gap>,
    /// Counts uses.
    clock: u64,
}

struct Gap {
    start: Vec<u8>,
    /// Exclusive.
    end: Vec<u8>,
    /// Batches after it have not put anything here.
    since: Seq,
    /// When there was no row, and so at all later moments; `None` before a walk at `since` or later has seen it.
    empty_at: Option<Moment>,
    used: u64,
}

impl List {
    /// The number of the first gap that ends after `key`.
    fn first_after(&self, key: &[u8]) -> usize {
        self.gaps.partition_point(|gap| gap.end.as_slice() <= key)
    }

    /// The number of the gap that `key` lies in.
    fn over(&self, key: &[u8]) -> Option<usize> {
        let number = self.first_after(key);
        self.gaps.get(number).is_some_and(|gap| gap.start.as_slice() <= key).then_some(number)
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

impl Gaps {
    /// None, beside a view with batches up to `seq`.
    pub(crate) fn new(seq: Seq) -> Gaps {
        Gaps {
            begun: AtomicU64::new(seq),
            count: AtomicUsize::new(0),
            expires: AtomicBool::new(false),
            list: Mutex::default(),
        }
    }

    /// Whether readers of a view beside these gaps have to know the time, given whether anything in it expires: also when
    /// something did, for a gap is where that has gone, and older snapshots see it still.
    pub(crate) fn are_timed(&self, expires: bool) -> bool {
        self.expires.fetch_or(expires, SeqCst) || expires
    }

    /// Before a batch becomes visible: what it puts is in no gap any more.
    pub(crate) fn put(&self, seq: Seq, operations: &[Operation<'_>]) {
        // In this order, and the other way round in `note`: either this sees the gap, or the gap's `since` is no less than `seq`.
        self.begun.store(seq, SeqCst);
        if self.count.load(SeqCst) == 0 {
            return;
        }
        let mut list = self.list.lock();
        for operation in operations {
            if let Operation::Put(key, _) | Operation::PutUntil(key, ..) = operation
                && let Some(number) = list.over(key)
            {
                list.gaps.remove(number);
            }
        }
        self.count.store(list.gaps.len(), SeqCst);
    }

    /// The stretch around `key` without a row at the moment `at`, if that is known: start, and end (exclusive).
    pub(crate) fn around(&self, key: &[u8], at: Moment) -> Option<(Vec<u8>, Vec<u8>)> {
        if self.count.load(SeqCst) == 0 {
            return None;
        }
        let mut list = self.list.lock();
        let (number, used) = (list.over(key)?, list.tick());
        let gap = &mut list.gaps[number];
        gap.empty_at.filter(|empty| empty.is_no_later(at))?;
        gap.used = used;
        Some((gap.start.clone(), gap.end.clone()))
    }

    /// A walk at the moment `at` has met no row from `start` to `end` (exclusive).
    pub(crate) fn note(&self, start: &[u8], end: &[u8], at: Moment) {
        if at.seq == Seq::MAX || start >= end {
            return; // who applies reads what is not visible yet
        }
        let mut list = self.list.lock();
        self.count.store(list.gaps.len() + 1, SeqCst);
        let (since, used) = (self.begun.load(SeqCst), list.tick());
        let new = |start: &[u8], end: &[u8]| Gap {
            start: start.into(),
            end: end.into(),
            since,
            empty_at: None,
            used,
        };
        let mut number = list.first_after(start);
        let mut noted = start.to_vec(); // up to here
        while list.gaps.get(number).is_some_and(|gap| gap.start.as_slice() < end) {
            if noted < list.gaps[number].start {
                let before = new(&noted, &list.gaps[number].start);
                list.gaps.insert(number, before);
                number += 1;
            }
            let gap = &mut list.gaps[number];
            noted.clone_from(&gap.end);
            gap.confirm(start, end, at);
            gap.used = used;
            number += 1;
        }
        if noted.as_slice() < end {
            list.gaps.insert(number, new(&noted, end));
        }
        // Neighbours become one.
        list.gaps.dedup_by(|next, gap| {
            let (Some(one), Some(other)) = (gap.empty_at, next.empty_at) else { return false };
            let are_one = gap.end == next.start;
            if are_one {
                gap.end = std::mem::take(&mut next.end);
                gap.since = gap.since.max(next.since);
                gap.empty_at = Some(Moment { seq: one.seq.max(other.seq), now: one.now.max(other.now) });
            }
            are_one
        });
        while list.gaps.len() > GAPS_MAX {
            let oldest = (0..list.gaps.len()).min_by_key(|&number| list.gaps[number].used);
            list.gaps.remove(oldest.expect("there are some"));
        }
        self.count.store(list.gaps.len(), SeqCst);
    }
}

impl Gap {
    /// A walk at `at` has met no row from `start` to `end`, which overlap this.
    fn confirm(&mut self, start: &[u8], end: &[u8], at: Moment) {
        if at.seq < self.since {
            return;
        }
        match self.empty_at {
            // What the walk did not see of it is given up.
            None => {
                self.start = self.start.as_slice().max(start).to_vec();
                self.end = self.end.as_slice().min(end).to_vec();
            }
            Some(empty) if empty.is_no_later(at) => return,
            // Known from a later moment on, now from an earlier one; unless that holds for a part only.
            Some(_) if start > self.start.as_slice() || end < self.end.as_slice() => return,
            Some(_) => {}
        }
        self.empty_at = Some(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: Seq) -> Moment {
        Moment { seq, now: 0 }
    }

    fn put(gaps: &Gaps, seq: Seq, key: &[u8]) {
        gaps.put(seq, &[Operation::Put(key, b"")]);
    }

    fn around(gaps: &Gaps, key: &[u8], seq: Seq) -> Option<(String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        gaps.around(key, at(seq)).map(|(start, end)| (text(start), text(end)))
    }

    fn some(start: &str, end: &str) -> Option<(String, String)> {
        Some((start.to_string(), end.to_string()))
    }

    #[test]
    fn two_walks_make_a_stretch_known_until_something_is_put_there() {
        let gaps = Gaps::new(10);
        gaps.note(b"b", b"d", at(10));
        assert_eq!(around(&gaps, b"c", 10), None, "a batch may have been under way");
        gaps.note(b"a", b"d", at(10));
        assert_eq!(around(&gaps, b"c", 10), some("b", "d"));
        assert_eq!(around(&gaps, b"c", 9), None, "there may have been rows before");
        assert_eq!(around(&gaps, b"d", 10), None, "the end is not in it");
        put(&gaps, 11, b"d");
        gaps.put(12, &[Operation::Delete(b"c"), Operation::DeleteRange(b"a", b"z")]);
        assert_eq!(around(&gaps, b"b", 12), some("b", "d"));
        put(&gaps, 13, b"bb");
        assert_eq!(around(&gaps, b"c", 13), None);
    }

    #[test]
    fn a_walk_that_may_have_missed_a_put_makes_nothing_known() {
        let gaps = Gaps::new(10);
        put(&gaps, 11, b"x");
        gaps.note(b"b", b"d", at(10)); // read before batch 11, which may have put a key into it
        gaps.note(b"b", b"d", at(10));
        assert_eq!(around(&gaps, b"c", 11), None);
        gaps.note(b"b", b"d", at(11));
        assert_eq!(around(&gaps, b"c", 11), some("b", "d"));
        assert_eq!(around(&gaps, b"c", 10), None);
    }

    #[test]
    fn the_stretch_of_a_queue_grows_at_its_end() {
        let gaps = Gaps::new(10);
        gaps.note(b"b", b"d", at(10));
        gaps.note(b"b", b"f", at(10));
        gaps.note(b"d", b"g", at(10));
        assert_eq!(around(&gaps, b"b", 10), some("b", "f"));
        // Only what a second walk has seen is known.
        assert_eq!(around(&gaps, b"f", 10), None);
        gaps.note(b"f", b"fff", at(10));
        assert_eq!(around(&gaps, b"ff", 10), some("b", "fff"));
        assert_eq!(around(&gaps, b"fff", 10), None);
    }

    #[test]
    fn what_expired_is_a_gap_for_those_who_read_later() {
        let gaps = Gaps::new(10);
        let at = |seq, now| Moment { seq, now };
        gaps.note(b"b", b"d", at(10, 50));
        gaps.note(b"b", b"d", at(10, 50));
        assert!(gaps.around(b"c", at(10, 49)).is_none(), "a clock that went back");
        assert!(gaps.around(b"c", at(10, 50)).is_some());
        gaps.note(b"b", b"c", at(11, 40));
        assert!(gaps.around(b"b", at(12, 45)).is_none(), "seen in part only");
        gaps.note(b"a", b"e", at(11, 40));
        assert!(gaps.around(b"b", at(11, 40)).is_some());
    }

    #[test]
    fn few_are_remembered_and_the_idle_ones_go() {
        let gaps = Gaps::new(10);
        let keys: Vec<[u8; 2]> = (0..60).map(|n| [n, 0]).collect();
        for (n, pair) in keys.chunks(2).enumerate() {
            gaps.note(&pair[0], &pair[1], at(10));
            gaps.note(&pair[0], &pair[1], at(10));
            assert!(gaps.around(&keys[0], at(10)).is_some(), "used all the time, after {n}");
        }
        let known = |key: &&[u8; 2]| gaps.around(*key, at(10)).is_some();
        assert_eq!(keys.iter().step_by(2).filter(known).count(), GAPS_MAX);
        assert!(known(&&keys[58]));
        assert_eq!(gaps.count.load(SeqCst), GAPS_MAX);
    }
}
