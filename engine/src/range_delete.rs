//! Range deletes: everything in `[start, end)` that was written before a sequence number is gone.
//!
//! They are few (dropping a collection makes one), so they live in the memtable and then in the version, not in tables: a
//! table that lies wholly under one is dropped without being read, and a range delete itself is dropped once no older table
//! overlaps it. A read asks them cut into fragments, over each of which the same deletes lie (as RocksDB and Pebble do):
//! one search in a sorted map, however many there are.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

use crate::key::Seq;
use crate::table::properties::TableMeta;

/// One range delete.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RangeDelete {
    /// First key that is deleted.
    pub(crate) start: Vec<u8>,
    /// First key after the range.
    pub(crate) end: Vec<u8>,
    /// Versions with a smaller seq are deleted.
    pub(crate) seq: Seq,
    /// Only tables with a smaller number may hold what it deletes: later ones were written with it in force. [`WAITING`]:
    /// somebody may still read as of a moment before it, so tables are written as if it were not there.
    pub(crate) floor: u64,
}

/// The floor of a range delete that is not in force yet.
pub(crate) const WAITING: u64 = u64::MAX;

/// Range deletes, ready to be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeDeletes {
    list: Vec<RangeDelete>,
    /// From where on which deletes hold: their seqs, ascending. The last fragment is empty. Of those in force only the newest
    /// is here, which every reader sees.
    fragments: BTreeMap<Vec<u8>, Vec<Seq>>,
}

/// Memory that a border of fragments takes beside its key, estimated.
const BORDER_BYTES: usize = 64;

impl RangeDeletes {
    /// From any order.
    pub(crate) fn new(mut list: Vec<RangeDelete>) -> RangeDeletes {
        list.sort();
        let mut deletes = RangeDeletes { list: Vec::new(), fragments: BTreeMap::new() };
        let mut by_age: Vec<&RangeDelete> = list.iter().collect();
        by_age.sort_by_key(|range| (range.floor == WAITING, range.seq));
        by_age.into_iter().for_each(|range| _ = deletes.add_fragments(range));
        deletes.list = list;
        deletes
    }

    /// Adds one that is newer than all that are here. Answers the bytes that it takes, estimated: where many lie over one
    /// another, each takes some in all of their fragments.
    pub(crate) fn push(&mut self, range: RangeDelete) -> usize {
        let bytes = range.start.len() + range.end.len() + size_of::<RangeDelete>();
        let fragments = self.add_fragments(&range);
        self.list.push(range);
        bytes + fragments
    }

    /// Adds one that is not older than others that are in force, or that wait. Answers the bytes that it takes, estimated.
    fn add_fragments(&mut self, range: &RangeDelete) -> usize {
        if range.start >= range.end {
            return 0;
        }
        let mut bytes = 0;
        for border in [&range.start, &range.end] {
            if !self.fragments.contains_key(border) {
                let before = self.fragments.range(..border.clone()).next_back();
                let seqs = before.map_or(Vec::new(), |(_, seqs)| seqs.clone());
                bytes += border.len() + BORDER_BYTES + seqs.len() * size_of::<Seq>();
                self.fragments.insert(border.clone(), seqs);
            }
        }
        for (_, seqs) in self.fragments.range_mut(range.start.clone()..range.end.clone()) {
            if range.floor != WAITING {
                seqs.clear(); // all who read see this one, and it hides those
            }
            let at = seqs.partition_point(|&seq| seq < range.seq);
            if seqs.get(at) != Some(&range.seq) {
                seqs.insert(at, range.seq);
                bytes += size_of::<Seq>();
            }
        }
        bytes
    }

    /// Those in force that lie wholly under newer ones in force: these delete all that those do, for everybody.
    pub(crate) fn hidden(&self) -> Vec<RangeDelete> {
        let shown: HashSet<Seq> = self.fragments.values().flatten().copied().collect();
        let in_force = self.list.iter().filter(|range| range.floor != WAITING);
        in_force.filter(|range| !shown.contains(&range.seq)).cloned().collect()
    }

    /// All of them.
    pub(crate) fn list(&self) -> &[RangeDelete] {
        &self.list
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether the version `seq` of `key` is deleted for a reader at `at`.
    #[inline]
    pub(crate) fn covers(&self, key: &[u8], seq: Seq, at: Seq) -> bool {
        !self.list.is_empty() && self.newest_over(key, at).is_some_and(|newest| seq < newest)
    }

    /// The seq of the newest delete over `key` that a reader at `at` sees.
    pub(crate) fn newest_over(&self, key: &[u8], at: Seq) -> Option<Seq> {
        let (_, seqs) =
            self.fragments.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        seqs[..seqs.partition_point(|&seq| seq <= at)].last().copied()
    }

    /// Whether a table may hold versions that `range` deletes.
    pub(crate) fn touches(range: &RangeDelete, table: &TableMeta) -> bool {
        table.number < range.floor
            && table.min_seq() < range.seq
            && table.smallest < range.end
            && range.start <= table.largest
    }

    /// Whether every version in `[smallest, largest]` up to seq `max_seq` is deleted by one of them, for all who read at
    /// `floor` or later.
    pub(crate) fn cover_table(&self, smallest: &[u8], largest: &[u8], max_seq: Seq, floor: Seq) -> bool {
        self.cover_all(smallest, Bound::Included(largest), max_seq, floor)
    }

    /// As [`RangeDeletes::cover_table`], for a reader at `at`; several may do it together.
    pub(crate) fn cover_all(&self, start: &[u8], end: Bound<&[u8]>, max_seq: Seq, at: Seq) -> bool {
        let is_newer = |seqs: &Vec<Seq>| {
            seqs[..seqs.partition_point(|&seq| seq <= at)].last().is_some_and(|newest| max_seq < *newest)
        };
        let first = self.fragments.range::<[u8], _>((Bound::Unbounded, Bound::Included(start))).next_back();
        if !first.is_some_and(|(_, seqs)| is_newer(seqs)) {
            return false;
        }
        // An empty stretch has nothing to cover; a map does not take one.
        let is_more = match end {
            Bound::Included(end) | Bound::Excluded(end) => start < end,
            Bound::Unbounded => true,
        };
        let rest = is_more.then(|| self.fragments.range::<[u8], _>((Bound::Excluded(start), end)));
        rest.into_iter().flatten().all(|(_, seqs)| is_newer(seqs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fragments_answer_like_the_list(
            ranges in proptest::collection::vec((0u8..20, 0u8..20, 1u64..30), 0..20),
            probes in proptest::collection::vec((0u8..21, 0u64..31, 0u64..31), 40),
            floor in 0u64..31,
        ) {
            // What nobody reads behind is in force; all who read do so as of the floor or later.
            let list: Vec<RangeDelete> = ranges
                .iter()
                .map(|&(start, end, seq)| {
                    let in_force = if seq <= floor { 0 } else { WAITING };
                    RangeDelete { start: vec![start], end: vec![end], seq, floor: in_force }
                })
                .collect();
            let deletes = RangeDeletes::new(list.clone());
            let hidden = deletes.hidden();
            let kept = list.iter().filter(|range| !hidden.contains(range)).cloned().collect();
            let without_hidden = RangeDeletes::new(kept);
            for (key, seq, at) in probes {
                let at = at.max(floor);
                let covers = |r: &RangeDelete| seq < r.seq && r.seq <= at && r.start[0] <= key && key < r.end[0];
                let expected = list.iter().any(covers);
                prop_assert_eq!(deletes.covers(&[key], seq, at), expected);
                // Of a stretch, each key and what lies between two.
                let (first, last) = (key.min(7), key);
                let is_covered = |key: u8| deletes.covers(&[key], seq, at);
                let stretch = deletes.cover_all(&[first], Bound::Included(&[last]), seq, at);
                prop_assert_eq!(stretch, (first..=last).all(is_covered), "{}..={}", first, last);
                if first < last {
                    let stretch = deletes.cover_all(&[first], Bound::Excluded(&[last]), seq, at);
                    prop_assert_eq!(stretch, (first..last).all(is_covered), "{}..{}", first, last);
                }
                prop_assert_eq!(without_hidden.covers(&[key], seq, at), expected);
            }
        }
    }
}
