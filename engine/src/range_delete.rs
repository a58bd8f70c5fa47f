//! Range deletes: everything in `[start, end)` that was written before a sequence number is gone.
//!
//! They are few (dropping a collection makes one), so they live in the memtable and then in the version, not in tables:
//! a read asks one short sorted list, a table that lies wholly under one is dropped without being read, and a range
//! delete itself is dropped once no older table overlaps it.

use crate::key::Seq;
use crate::table::builder::TableMeta;

/// One range delete.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RangeDelete {
    /// First key that is deleted.
    pub(crate) start: Vec<u8>,
    /// First key after the range.
    pub(crate) end: Vec<u8>,
    /// Versions with a smaller seq are deleted.
    pub(crate) seq: Seq,
    /// Only tables with a smaller number may hold what it deletes: later ones were written with it in force.
    pub(crate) floor: u64,
}

/// Range deletes, ready to be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeDeletes {
    list: Vec<RangeDelete>,
}

impl RangeDeletes {
    /// From any order.
    pub(crate) fn new(mut list: Vec<RangeDelete>) -> RangeDeletes {
        list.sort();
        RangeDeletes { list }
    }

    /// Sorted by start.
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
        !self.list.is_empty() && self.covers_slow(key, seq, at)
    }

    fn covers_slow(&self, key: &[u8], seq: Seq, at: Seq) -> bool {
        self.list
            .iter()
            .take_while(|range| range.start.as_slice() <= key)
            .any(|range| seq < range.seq && range.seq <= at && key < range.end.as_slice())
    }

    /// Whether a table may hold versions that `range` deletes.
    pub(crate) fn touches(range: &RangeDelete, table: &TableMeta) -> bool {
        table.number < range.floor
            && table.min_seq < range.seq
            && table.smallest < range.end
            && range.start <= table.largest
    }

    /// Whether every version in `[smallest, largest]` up to seq `max_seq` is deleted by one of them.
    pub(crate) fn cover_table(&self, smallest: &[u8], largest: &[u8], max_seq: Seq) -> bool {
        self.list.iter().any(|range| {
            max_seq < range.seq && range.start.as_slice() <= smallest && largest < range.end.as_slice()
        })
    }
}
