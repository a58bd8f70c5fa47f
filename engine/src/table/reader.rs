//! Table file in, entries out.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::coding::Decoder;
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::key::{Entry, Op, Seq};
use crate::slice::Slice;
use crate::table::block::{BadBlock, Block, BlockCursor};
use crate::table::builder::TableMeta;
use crate::table::cache::BlockCache;
use crate::table::filter::Filter;
use crate::table::footer::{self, BlockKind, FOOTER_BYTES, Footer, Handle};
use crate::vfs::{File, Mode, Vfs};

/// The parts of a table that are read once and kept.
struct Opened {
    file: Arc<dyn File>,
    filter: Filter,
    index: Arc<Block>,
}

/// A live table. Its file is opened at first use, and removed with the last reader once the table is obsolete.
pub(crate) struct Table {
    pub(crate) meta: TableMeta,
    path: PathBuf,
    vfs: Arc<dyn Vfs>,
    cache: Arc<BlockCache>,
    opened: Mutex<Option<Arc<Opened>>>,
    ready: arc_swap::ArcSwapOption<Opened>,
    obsolete: AtomicBool,
}

impl Drop for Table {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            // Nobody reads it any more and the manifest does not name it; should this fail, the next opening removes it.
            let _ = self.vfs.remove(&self.path);
        }
    }
}

impl Table {
    pub(crate) fn new(meta: TableMeta, path: PathBuf, vfs: Arc<dyn Vfs>, cache: Arc<BlockCache>) -> Table {
        Table {
            meta,
            path,
            vfs,
            cache,
            opened: Mutex::new(None),
            ready: arc_swap::ArcSwapOption::empty(),
            obsolete: AtomicBool::new(false),
        }
    }

    /// Has the file removed when the last reader lets go.
    pub(crate) fn make_obsolete(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    /// Whether a key range touches this table.
    pub(crate) fn overlaps(&self, smallest: &[u8], largest: &[u8]) -> bool {
        self.meta.smallest.as_slice() <= largest && smallest <= self.meta.largest.as_slice()
    }

    pub(crate) fn name(&self) -> String {
        self.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    fn corrupt(&self, offset: u64, reason: impl Into<String>) -> Error {
        Error::corrupt(self.name(), offset, reason)
    }

    fn opened(&self) -> Result<arc_swap::Guard<Option<Arc<Opened>>>> {
        let ready = self.ready.load();
        if ready.is_some() {
            return Ok(ready);
        }
        let mut opened = self.opened.lock();
        if opened.is_none() {
            let fresh = Arc::new(self.open()?);
            *opened = Some(fresh.clone());
            self.ready.store(Some(fresh));
        }
        Ok(self.ready.load())
    }

    fn open(&self) -> Result<Opened> {
        let file = self.vfs.open(&self.path, Mode::Read).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => self.corrupt(0, "the file is missing, but the manifest names it"),
            _ => Error::io("open", &self.path, e),
        })?;
        let len = file.len().map_err(|e| Error::io("measure", &self.path, e))?;
        if len != self.meta.len || len < FOOTER_BYTES as u64 {
            return Err(
                self.corrupt(len, format!("the file has {len} bytes, the manifest says {}", self.meta.len))
            );
        }
        let mut bytes = [0; FOOTER_BYTES];
        let at = len - FOOTER_BYTES as u64;
        file.read_at(&mut bytes, at).map_err(|e| Error::io("read", &self.path, e))?;
        let footer = Footer::decode(&bytes, len).map_err(|reason| self.corrupt(at, reason))?;
        if footer.uid != self.meta.uid {
            return Err(self.corrupt(at, "the file is another table than the manifest names"));
        }
        let filter = self.read_raw(&*file, footer.filter, BlockKind::Filter)?;
        let filter =
            Filter::new(filter).ok_or_else(|| self.corrupt(footer.filter.offset, "malformed filter"))?;
        let index = self.read_raw(&*file, footer.index, BlockKind::Index)?;
        let index = Block::new(index).ok_or_else(|| self.corrupt(footer.index.offset, "malformed index"))?;
        let properties = self.read_raw(&*file, footer.properties, BlockKind::Properties)?;
        let mut stated = TableMeta::decode(&mut Decoder::new(&properties))
            .ok_or_else(|| self.corrupt(footer.properties.offset, "malformed properties"))?;
        stated.len = self.meta.len;
        if stated != self.meta {
            return Err(
                self.corrupt(footer.properties.offset, "the properties are not those of the manifest")
            );
        }
        Ok(Opened { file, filter, index: Arc::new(index) })
    }

    fn read_raw(&self, file: &dyn File, handle: Handle, kind: BlockKind) -> Result<Vec<u8>> {
        let mut bytes = vec![0; handle.len];
        file.read_at(&mut bytes, handle.offset).map_err(|e| Error::io("read", &self.path, e))?;
        footer::open(&bytes, kind, self.meta.uid, handle.offset)
            .map_err(|reason| self.corrupt(handle.offset, reason))
    }

    fn block(&self, opened: &Opened, handle: Handle, keep: bool) -> Result<Arc<Block>> {
        if let Some(block) = self.cache.get(self.meta.number, handle.offset) {
            return Ok(block);
        }
        let end = handle.offset.checked_add(handle.len as u64);
        if end.is_none_or(|end| end > self.meta.len) {
            return Err(self.corrupt(handle.offset, "the index points outside the file"));
        }
        let raw = self.read_raw(&*opened.file, handle, BlockKind::Data)?;
        let block = Block::new(raw).ok_or_else(|| self.corrupt(handle.offset, "malformed block"))?;
        let block = Arc::new(block);
        if keep {
            self.cache.insert(self.meta.number, handle.offset, block.clone());
        }
        Ok(block)
    }

    fn handle(&self, index: &BlockCursor) -> Result<Option<Handle>> {
        let Some(entry) = index.entry() else { return Ok(None) };
        let mut decoder = Decoder::new(entry.value);
        match (decoder.varint(), decoder.length()) {
            (Some(offset), Some(len)) => Ok(Some(Handle { offset, len })),
            _ => Err(self.corrupt(0, "malformed index entry")),
        }
    }

    /// The version of `key`, if its seq is at most `at`. `hash` is the filter hash of the key.
    pub(crate) fn get(&self, key: &[u8], hash: u64, at: Seq) -> Result<Option<(Seq, Option<Slice>)>> {
        if self.meta.min_seq > at || key < self.meta.smallest.as_slice() || key > self.meta.largest.as_slice()
        {
            return Ok(None);
        }
        let opened = self.opened()?;
        let opened = opened.as_ref().expect("just opened");
        if !opened.filter.may_contain(hash) {
            return Ok(None);
        }
        let bad = |_: BadBlock| self.corrupt(0, "malformed index");
        let mut index = BlockCursor::new(opened.index.clone());
        index.seek(key).map_err(bad)?;
        let Some(handle) = self.handle(&index)? else { return Ok(None) };
        let mut cursor = BlockCursor::new(self.block(opened, handle, true)?);
        cursor.seek(key).map_err(|_| self.corrupt(handle.offset, "malformed block"))?;
        let Some(entry) = cursor.entry().filter(|entry| entry.key == key && entry.seq <= at) else {
            return Ok(None);
        };
        let value =
            (entry.op == Op::Put).then(|| Slice::in_block(cursor.block().clone(), cursor.value_range()));
        Ok(Some((entry.seq, value)))
    }

    /// Walks the table. `keep` says whether blocks read on the way go into the cache.
    pub(crate) fn cursor(self: &Arc<Table>, keep: bool) -> TableCursor {
        TableCursor { table: self.clone(), index: None, data: None, data_offset: 0, keep }
    }

    /// Bytes of filter and index held in memory.
    pub(crate) fn pinned_bytes(&self) -> usize {
        self.ready.load().as_ref().map_or(0, |opened| opened.filter.size() + opened.index.size())
    }

    /// Reads every block and checks it: order, bounds and counts against the manifest.
    pub(crate) fn verify(self: &Arc<Table>) -> Result<()> {
        let mut cursor = self.cursor(false);
        cursor.seek_first()?;
        let (mut entries, mut deletes, mut previous) = (0, 0, None::<Vec<u8>>);
        while let Some(entry) = cursor.entry() {
            if previous.as_deref().is_some_and(|previous| previous >= entry.key) {
                return Err(self.corrupt(cursor.data_offset, "keys do not ascend"));
            }
            if entry.key < self.meta.smallest.as_slice() || entry.key > self.meta.largest.as_slice() {
                return Err(self.corrupt(cursor.data_offset, "a key lies outside the table's bounds"));
            }
            entries += 1;
            deletes += u64::from(entry.op == Op::Delete);
            previous = Some(entry.key.to_vec());
            cursor.next()?;
        }
        if (entries, deletes) != (self.meta.entries, self.meta.deletes) {
            let expected = (self.meta.entries, self.meta.deletes);
            return Err(self.corrupt(
                0,
                format!("entries and deletes are {:?}, expected {expected:?}", (entries, deletes)),
            ));
        }
        Ok(())
    }
}

/// Walks a table; holds it alive.
pub(crate) struct TableCursor {
    table: Arc<Table>,
    index: Option<BlockCursor>,
    data: Option<BlockCursor>,
    data_offset: u64,
    keep: bool,
}

impl TableCursor {
    fn index(&mut self) -> Result<&mut BlockCursor> {
        if self.index.is_none() {
            let opened = self.table.opened()?;
            let opened = opened.as_ref().expect("just opened");
            self.index = Some(BlockCursor::new(opened.index.clone()));
        }
        Ok(self.index.as_mut().expect("just set"))
    }

    fn bad_index(&self) -> Error {
        self.table.corrupt(0, "malformed index")
    }

    fn bad_block(&self) -> Error {
        self.table.corrupt(self.data_offset, "malformed block")
    }

    /// Opens the data block that the index stands on; `false` when it stands nowhere.
    fn load(&mut self) -> Result<bool> {
        self.data = None;
        let handle = match &self.index {
            Some(index) => self.table.handle(index)?,
            None => None,
        };
        let Some(handle) = handle else { return Ok(false) };
        let opened = self.table.opened()?;
        let opened = opened.as_ref().expect("opened with the index");
        self.data_offset = handle.offset;
        self.data = Some(BlockCursor::new(self.table.block(opened, handle, self.keep)?));
        Ok(true)
    }

    fn on_index(
        &mut self,
        step: impl FnOnce(&mut BlockCursor) -> std::result::Result<(), BadBlock>,
    ) -> Result<()> {
        self.data = None;
        let moved = step(self.index()?);
        moved.map_err(|_| self.bad_index())
    }

    fn on_data(
        &mut self,
        step: impl FnOnce(&mut BlockCursor) -> std::result::Result<(), BadBlock>,
    ) -> Result<bool> {
        let Some(data) = &mut self.data else { return Ok(false) };
        let moved = step(data);
        let stands = data.entry().is_some();
        moved.map_err(|_| self.bad_block())?;
        Ok(stands)
    }
}

impl Cursor for TableCursor {
    fn seek_first(&mut self) -> Result<()> {
        self.on_index(BlockCursor::seek_first)?;
        if self.load()? {
            self.on_data(BlockCursor::seek_first)?;
        }
        Ok(())
    }

    fn seek_last(&mut self) -> Result<()> {
        self.on_index(BlockCursor::seek_last)?;
        if self.load()? {
            self.on_data(BlockCursor::seek_last)?;
        }
        Ok(())
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.on_index(|index| index.seek(key))?;
        if self.load()? && !self.on_data(|data| data.seek(key))? {
            // The separator may lie beyond the last key of its block.
            self.on_index(BlockCursor::next)?;
            if self.load()? {
                self.on_data(BlockCursor::seek_first)?;
            }
        }
        Ok(())
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.on_index(|index| index.seek(key))?;
        if self.index()?.entry().is_none() {
            return self.seek_last();
        }
        if self.load()? && !self.on_data(|data| data.seek_before(key))? {
            self.on_index(BlockCursor::prev)?;
            if self.load()? {
                self.on_data(BlockCursor::seek_last)?;
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        if !self.on_data(BlockCursor::next)? {
            self.on_index(BlockCursor::next)?;
            if self.load()? {
                self.on_data(BlockCursor::seek_first)?;
            }
        }
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        if !self.on_data(BlockCursor::prev)? {
            self.on_index(BlockCursor::prev)?;
            if self.load()? {
                self.on_data(BlockCursor::seek_last)?;
            }
        }
        Ok(())
    }

    fn entry(&self) -> Option<Entry<'_>> {
        self.data.as_ref()?.entry()
    }
}
