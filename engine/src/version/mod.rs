//! A version: which tables make up each slot, and which attachments there are, at one moment. Immutable; a change makes
//! a new one.

pub(crate) mod edit;
pub(crate) mod manifest;

use std::sync::Arc;

use crate::attachment::AttachmentMap;
use crate::cursor::Cursor;
use crate::error::Result;
use crate::key::{Entry, Seq};
use crate::options::Options;
use crate::range_delete::RangeDeletes;
use crate::slice::Slice;
use crate::table::filter;
use crate::table::reader::{Table, TableCursor};

/// How many slots there are.
pub(crate) const SLOTS: usize = 16;

/// A store is large when its oldest run has so many times the bytes of the first level.
const COLD_FROM: u64 = 100;

/// Tables by slot. In slot 0 they overlap, newest first; each other slot is one sorted run, and a deeper one is older.
#[derive(Clone, Default)]
pub(crate) struct Version {
    pub slots: [Vec<Arc<Table>>; SLOTS],
    pub attachments: AttachmentMap,
    pub range_deletes: RangeDeletes,
    /// Everything up to here is in the tables and attachments.
    pub durable_seq: Seq,
    /// The attachment owner's state at `durable_seq`.
    pub state: Arc<Vec<u8>>,
}

impl Version {
    /// The newest version of `key` with a seq of at most `at`.
    pub(crate) fn get(&self, key: &[u8], at: Seq) -> Result<Option<(Seq, Option<Slice>)>> {
        let hash = filter::hash(key);
        for table in &self.slots[0] {
            if let Some(found) = table.get(key, hash, at)? {
                return Ok(Some(found));
            }
        }
        for run in &self.slots[1..] {
            let index = run.partition_point(|table| table.meta.largest.as_slice() < key);
            if let Some(table) = run.get(index) {
                if let Some(found) = table.get(key, hash, at)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// Cursors that together walk all tables.
    pub(crate) fn cursors<'a>(&self, out: &mut Vec<Box<dyn Cursor + 'a>>) {
        for table in &self.slots[0] {
            out.push(Box::new(table.cursor(true)));
        }
        for run in self.slots[1..].iter().filter(|run| !run.is_empty()) {
            out.push(Box::new(RunCursor::new(run.clone(), true)));
        }
    }

    /// Tables of `slot` that touch a key range. Not for slot 0, whose tables are in no order of keys.
    pub(crate) fn overlapping(&self, slot: usize, smallest: &[u8], largest: &[u8]) -> Vec<Arc<Table>> {
        let tables = &self.slots[slot];
        let from = tables.partition_point(|table| table.meta.largest.as_slice() < smallest);
        let to = tables.partition_point(|table| table.meta.smallest.as_slice() <= largest);
        tables[from..to.max(from)].to_vec()
    }

    /// Bytes of a slot.
    pub(crate) fn slot_bytes(&self, slot: usize) -> u64 {
        self.slots[slot].iter().map(|table| table.meta.len).sum()
    }

    /// Whether what is written to `slot` is packed for room, not for speed: the oldest run of a large store, in which most
    /// of the data are and the fewest reads end.
    pub(crate) fn is_cold(&self, slot: usize, options: &Options) -> bool {
        let oldest = (slot + 1..SLOTS).all(|deeper| self.slots[deeper].is_empty());
        slot > 0 && oldest && self.slot_bytes(slot) >= options.level_bytes.saturating_mul(COLD_FROM)
    }
}

/// Walks the tables of one sorted, disjoint run as one.
pub(crate) struct RunCursor {
    tables: Vec<Arc<Table>>,
    /// Which table the cursor is in; `tables.len()` for none.
    at: usize,
    cursor: Option<TableCursor>,
    keep: bool,
}

impl RunCursor {
    pub(crate) fn new(tables: Vec<Arc<Table>>, keep: bool) -> RunCursor {
        RunCursor { at: tables.len(), tables, cursor: None, keep }
    }

    fn enter(&mut self, at: usize, place: impl FnOnce(&mut TableCursor) -> Result<()>) -> Result<()> {
        self.at = at;
        self.cursor = None;
        if let Some(table) = self.tables.get(at) {
            let mut cursor = table.cursor(self.keep);
            place(&mut cursor)?;
            self.cursor = Some(cursor);
        }
        Ok(())
    }

    fn stands(&self) -> bool {
        self.entry().is_some()
    }
}

impl Cursor for RunCursor {
    fn seek_first(&mut self) -> Result<()> {
        self.enter(0, TableCursor::seek_first)
    }

    fn seek_last(&mut self) -> Result<()> {
        match self.tables.len().checked_sub(1) {
            Some(last) => self.enter(last, TableCursor::seek_last),
            None => Ok(()),
        }
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        let at = self.tables.partition_point(|table| table.meta.largest.as_slice() < key);
        self.enter(at, |cursor| cursor.seek(key))
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        match self.tables.partition_point(|table| table.meta.smallest.as_slice() < key).checked_sub(1) {
            Some(at) => self.enter(at, |cursor| cursor.seek_before(key)),
            None => self.enter(self.tables.len(), |_| Ok(())),
        }
    }

    fn next(&mut self) -> Result<()> {
        if let Some(cursor) = &mut self.cursor {
            cursor.next()?;
            if !self.stands() {
                self.enter(self.at + 1, TableCursor::seek_first)?;
            }
        }
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        if let Some(cursor) = &mut self.cursor {
            cursor.prev()?;
            if !self.stands() {
                match self.at.checked_sub(1) {
                    Some(before) => self.enter(before, TableCursor::seek_last)?,
                    None => self.cursor = None,
                }
            }
        }
        Ok(())
    }

    fn entry(&self) -> Option<Entry<'_>> {
        self.cursor.as_ref()?.entry()
    }
}
