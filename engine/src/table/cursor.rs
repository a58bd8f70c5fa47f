//! Walking one table, both ways.

use std::sync::Arc;

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::key::Entry;
use crate::table::ahead::Ahead;
use crate::table::block::{BadBlock, Block, BlockCursor};
use crate::table::footer::BlockKind;
use crate::table::reader::{Reach, Table};

/// Walks a table, held as `T`.
pub(crate) struct TableCursor<T> {
    table: T,
    /// Number of the partition that it is in; as many as there are when it is in none.
    partition: usize,
    /// The index of that partition, and the number of the entry that it is in.
    index: Option<Arc<Block>>,
    number: usize,
    data: Option<BlockCursor>,
    pub(super) data_offset: u64,
    keep: bool,
    ahead: Ahead,
}

/// A place to go to.
#[derive(Clone, Copy)]
enum Place<'a> {
    First,
    Last,
    /// The first entry of at least this key.
    At(&'a [u8]),
    /// The last entry below this key.
    Before(&'a [u8]),
}

fn go(cursor: &mut BlockCursor, place: Place<'_>) -> std::result::Result<(), BadBlock> {
    match place {
        Place::First => cursor.seek_first(),
        Place::Last => cursor.seek_last(),
        Place::At(key) => cursor.seek(key),
        Place::Before(key) => cursor.seek_before(key),
    }
}

/// In an index the entry wanted is the first whose separator is at least the key; past all of them, the last for who looks
/// backward.
fn find(index: &Block, place: Place<'_>) -> std::result::Result<usize, BadBlock> {
    let last = index.entries().saturating_sub(1);
    match place {
        Place::First => Ok(0),
        Place::Last => Ok(last),
        Place::At(key) => index.number_from(key),
        Place::Before(key) => Ok(index.number_from(key)?.min(last)),
    }
}

impl<T: std::ops::Deref<Target = Table>> TableCursor<T> {
    pub(super) fn new(table: T, keep: bool) -> TableCursor<T> {
        TableCursor {
            table,
            partition: usize::MAX,
            index: None,
            number: 0,
            data: None,
            data_offset: 0,
            keep,
            ahead: Ahead::new(keep),
        }
    }

    fn place(&mut self, place: Place<'_>) -> Result<()> {
        (self.index, self.data) = (None, None);
        let opened = self.table.opened(Reach::Disk)?;
        let found = find(&opened.top, place);
        self.partition = found.map_err(|_| self.table.corrupt(opened.blocks_end, "malformed top index"))?;
        self.enter_partition(place)
    }

    /// Goes to a place in its partition, or beside it.
    fn enter_partition(&mut self, place: Place<'_>) -> Result<()> {
        (self.index, self.data) = (None, None);
        let opened = self.table.opened(Reach::Disk)?;
        let Some(handle) = opened.handles.get(self.partition) else { return Ok(()) };
        let index = self.table.partition(opened, self.partition, Reach::Disk, self.keep)?.index.clone();
        let found = find(&index, place);
        self.number = found.map_err(|_| self.table.corrupt(handle.offset, "malformed index"))?;
        self.index = Some(index);
        self.enter_block(place)
    }

    /// Goes to a place in the block that its index entry names, or beside it.
    fn enter_block(&mut self, place: Place<'_>) -> Result<()> {
        self.data = None;
        let opened = self.table.opened(Reach::Disk)?;
        let index_offset = opened.handles.get(self.partition).map_or(0, |handle| handle.offset);
        let Some(index) = self.index.as_ref().filter(|index| self.number < index.entries()) else {
            return Ok(());
        };
        let value = index.value_of(self.number);
        let value = value.map_err(|_| self.table.corrupt(index_offset, "malformed index"))?;
        let handle = self.table.handle(opened.blocks_end, value, index_offset)?;
        let (table, ahead) = (&*self.table, &mut self.ahead);
        let read = || {
            let bytes = ahead.read(&*opened.file, handle, opened.blocks_end);
            let bytes = bytes.map_err(|e| Error::io("read", &table.life.path, e))?;
            table.unpack(bytes, handle, BlockKind::Data)
        };
        let mut data = BlockCursor::new(table.data(handle, Reach::Disk, self.keep, read)?);
        self.data_offset = handle.offset;
        go(&mut data, place).map_err(|_| self.table.corrupt(handle.offset, "malformed block"))?;
        let stands = data.entry().is_some();
        self.data = Some(data);
        match place {
            _ if stands => Ok(()),
            // A separator may lie beyond the last key of its block, and before the first of the next.
            Place::At(_) => self.next_block(),
            Place::Before(_) => self.prev_block(),
            Place::First | Place::Last => Ok(()),
        }
    }

    fn next_block(&mut self) -> Result<()> {
        self.number += 1;
        if self.index.as_ref().is_some_and(|index| self.number < index.entries()) {
            return self.enter_block(Place::First);
        }
        self.partition = self.partition.saturating_add(1);
        self.enter_partition(Place::First)
    }

    fn prev_block(&mut self) -> Result<()> {
        if let Some(before) = self.number.checked_sub(1).filter(|_| self.index.is_some()) {
            self.number = before;
            return self.enter_block(Place::Last);
        }
        self.partition = self.partition.checked_sub(1).unwrap_or(usize::MAX);
        self.enter_partition(Place::Last)
    }

    fn step(&mut self, step: Step) -> Result<bool> {
        let Some(data) = &mut self.data else { return Ok(true) };
        let moved = step(data);
        let stands = data.entry().is_some();
        moved.map_err(|_| self.table.corrupt(self.data_offset, "malformed block"))?;
        Ok(stands)
    }
}

type Step = fn(&mut BlockCursor) -> std::result::Result<(), BadBlock>;

impl<T: std::ops::Deref<Target = Table>> Cursor for TableCursor<T> {
    fn seek_first(&mut self) -> Result<()> {
        self.place(Place::First)
    }

    fn seek_last(&mut self) -> Result<()> {
        self.place(Place::Last)
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.place(Place::At(key))
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.place(Place::Before(key))
    }

    fn next(&mut self) -> Result<()> {
        if self.step(BlockCursor::next)? { Ok(()) } else { self.next_block() }
    }

    fn prev(&mut self) -> Result<()> {
        if self.step(BlockCursor::prev)? { Ok(()) } else { self.prev_block() }
    }

    fn entry(&self) -> Option<Entry<'_>> {
        let entry = self.data.as_ref()?.entry()?;
        Some(Entry { seq: self.table.meta.seq_of(entry.seq), ..entry })
    }

    fn out_of_order(&self) -> Error {
        self.table.corrupt(self.data_offset, "keys do not ascend")
    }
}
