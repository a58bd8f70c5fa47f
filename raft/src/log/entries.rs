//! Where the entries of the log are: in which record each one is, and the newest ones themselves.

use std::collections::VecDeque;
use std::ops::Range;

use crate::codec;
use crate::types::Entry;

/// Entries of consecutive indexes in records of consecutive numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The index of the first.
    pub first: u64,
    /// How many there are.
    pub count: u64,
    /// The number of the first one's record.
    pub record: u64,
}

impl Run {
    /// Their indexes.
    pub(super) fn indexes(&self) -> Range<u64> {
        self.first..self.first + self.count
    }
}

/// All entries of a log. Those in the tail are in runs too.
#[derive(Default)]
pub(super) struct Entries {
    /// Ascending, without gaps between them.
    runs: Vec<Run>,
    /// The newest entries.
    tail: VecDeque<Entry>,
    tail_bytes: usize,
}

impl Entries {
    /// Notes the next entry, which is in `record`.
    pub(super) fn push(&mut self, entry: Entry, record: u64) {
        let index = entry.log_id.index;
        match self.runs.last_mut() {
            Some(run) if run.indexes().end == index && run.record + run.count == record => run.count += 1,
            _ => self.runs.push(Run { first: index, count: 1, record }),
        }
        self.tail_bytes += codec::entry_len(&entry);
        self.tail.push_back(entry);
    }

    /// Leaves those before `end`.
    pub(super) fn truncate(&mut self, end: u64) {
        self.runs.retain(|run| run.first < end);
        if let Some(run) = self.runs.last_mut() {
            run.count = run.count.min(end - run.first);
        }
        while self.tail.back().is_some_and(|entry| entry.log_id.index >= end) {
            self.tail_bytes -= self.tail.pop_back().map_or(0, |entry| codec::entry_len(&entry));
        }
    }

    /// Leaves those after `upto`.
    pub(super) fn purge(&mut self, upto: u64) {
        self.runs.retain(|run| run.indexes().end > upto + 1);
        if let Some(run) = self.runs.first_mut() {
            let gone = (upto + 1).saturating_sub(run.first);
            *run = Run { first: run.first + gone, count: run.count - gone, record: run.record + gone };
        }
        while self.tail.front().is_some_and(|entry| entry.log_id.index <= upto) {
            self.pop_oldest();
        }
    }

    /// Lets the oldest of the tail go until it has at most `bytes_max`, but none after `upto`.
    pub(super) fn trim(&mut self, bytes_max: usize, upto: Option<u64>) {
        while self.tail_bytes > bytes_max
            && self.tail.front().is_some_and(|entry| Some(entry.log_id.index) <= upto)
        {
            self.pop_oldest();
        }
    }

    fn pop_oldest(&mut self) {
        self.tail_bytes -= self.tail.pop_front().map_or(0, |entry| codec::entry_len(&entry));
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The first one there is, with its record.
    pub(super) fn first(&self) -> Option<Run> {
        self.runs.first().copied()
    }

    /// The run that an entry is in.
    pub(super) fn run_of(&self, index: u64) -> Option<Run> {
        let at = self.runs.partition_point(|run| run.indexes().end <= index);
        self.runs.get(at).filter(|run| run.indexes().contains(&index)).copied()
    }

    /// The last entry that is in a record before `record`.
    pub(super) fn before(&self, record: u64) -> Option<u64> {
        let at = self.runs.partition_point(|run| run.record < record);
        let run = self.runs.get(at.checked_sub(1)?)?;
        Some(run.first + run.count.min(record - run.record) - 1)
    }

    /// The index of the oldest entry in the tail; the largest number there is when it is empty.
    pub(super) fn tail_first(&self) -> u64 {
        self.tail.front().map_or(u64::MAX, |entry| entry.log_id.index)
    }

    /// The entries of the tail from `index` on.
    pub(super) fn tail_from(&self, index: u64) -> impl Iterator<Item = &Entry> {
        let skipped = index.saturating_sub(self.tail_first()) as usize;
        self.tail.range(skipped.min(self.tail.len())..)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use openraft::EntryPayload;

    use super::*;
    use crate::types::{LeaderId, LogId, Proposed};

    fn entry(index: u64) -> Entry {
        let log_id = LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index };
        Entry { log_id, payload: EntryPayload::Normal(Proposed::of(Bytes::from_static(&[7; 75]))) } // 100 bytes in all
    }

    /// Entries 0 to 9 in records 1 to 10, and 10 to 19 in records 21 to 30.
    fn twenty() -> Entries {
        let mut entries = Entries::default();
        (0..10).for_each(|index| entries.push(entry(index), 1 + index));
        (10..20).for_each(|index| entries.push(entry(index), 11 + index));
        entries
    }

    fn tail(entries: &Entries) -> Vec<u64> {
        entries.tail_from(0).map(|entry| entry.log_id.index).collect()
    }

    #[test]
    fn an_entry_is_found_in_its_record() {
        let entries = twenty();
        assert_eq!(entries.run_of(9), Some(Run { first: 0, count: 10, record: 1 }));
        assert_eq!(entries.run_of(10), Some(Run { first: 10, count: 10, record: 21 }));
        assert_eq!(entries.run_of(20), None);
        let before = [(1, None), (2, Some(0)), (11, Some(9)), (21, Some(9)), (22, Some(10)), (99, Some(19))];
        before.into_iter().for_each(|(record, index)| assert_eq!(entries.before(record), index));
    }

    #[test]
    fn what_is_cut_off_is_in_neither_runs_nor_tail() {
        for end in 0..=20 {
            let mut entries = twenty();
            entries.truncate(end);
            assert_eq!(tail(&entries), (0..end).collect::<Vec<_>>());
            assert_eq!((0..20).filter(|index| entries.run_of(*index).is_some()).count() as u64, end);
        }
        for upto in 0..20 {
            let mut entries = twenty();
            entries.purge(upto);
            assert_eq!(tail(&entries), (upto + 1..20).collect::<Vec<_>>());
            let record = if upto + 1 < 10 { 2 + upto } else { 12 + upto };
            let first = Run { first: upto + 1, count: 0, record };
            let found = entries.first().map(|run| Run { count: 0, ..run });
            assert_eq!(found, (upto < 19).then_some(first));
        }
    }

    #[test]
    fn only_what_is_durable_leaves_the_tail() {
        let mut entries = twenty();
        entries.trim(500, None);
        assert_eq!(entries.tail_first(), 0);
        entries.trim(500, Some(3));
        assert_eq!(entries.tail_first(), 4);
        entries.trim(500, Some(19));
        assert_eq!(entries.tail_first(), 15);
        assert_eq!(entries.run_of(2).map(|run| run.first), Some(0), "the records stay");
    }
}
