//! A version: which tables make up each level, and which attachments there are, at one moment. Immutable; a change makes
//! a new one.

pub(crate) mod edit;
pub(crate) mod manifest;

use std::sync::Arc;

use crate::attachment::AttachmentMap;
use crate::cursor::Cursor;
use crate::error::Result;
use crate::key::{Entry, Seq};
use crate::range_delete::RangeDeletes;
use crate::slice::Slice;
use crate::table::filter;
use crate::table::reader::{Table, TableCursor};

/// How many levels there are.
pub(crate) const LEVELS: usize = 7;

/// Tables by level. In level 0 they overlap, newest first; in the others they are sorted and disjoint.
#[derive(Clone, Default)]
pub(crate) struct Version {
    pub levels: [Vec<Arc<Table>>; LEVELS],
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
        for table in &self.levels[0] {
            if let Some(found) = table.get(key, hash, at)? {
                return Ok(Some(found));
            }
        }
        for level in &self.levels[1..] {
            let index = level.partition_point(|table| table.meta.largest.as_slice() < key);
            if let Some(table) = level.get(index) {
                if let Some(found) = table.get(key, hash, at)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// Cursors that together walk all tables.
    pub(crate) fn cursors<'a>(&self, out: &mut Vec<Box<dyn Cursor + 'a>>) {
        for table in &self.levels[0] {
            out.push(Box::new(table.cursor(true)));
        }
        for level in self.levels[1..].iter().filter(|level| !level.is_empty()) {
            out.push(Box::new(LevelCursor::new(level.clone(), true)));
        }
    }

    /// Tables of `level` that touch a key range.
    pub(crate) fn overlapping(&self, level: usize, smallest: &[u8], largest: &[u8]) -> Vec<Arc<Table>> {
        self.levels[level].iter().filter(|table| table.overlaps(smallest, largest)).cloned().collect()
    }

    /// Bytes of a level.
    pub(crate) fn level_bytes(&self, level: usize) -> u64 {
        self.levels[level].iter().map(|table| table.meta.len).sum()
    }
}

/// Walks the tables of one sorted, disjoint level as one.
pub(crate) struct LevelCursor {
    tables: Vec<Arc<Table>>,
    /// Which table the cursor is in; `tables.len()` for none.
    at: usize,
    cursor: Option<TableCursor>,
    keep: bool,
}

impl LevelCursor {
    pub(crate) fn new(tables: Vec<Arc<Table>>, keep: bool) -> LevelCursor {
        LevelCursor { at: tables.len(), tables, cursor: None, keep }
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

impl Cursor for LevelCursor {
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
