//! Table file in, entries out.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use crate::coding::Decoder;
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::key::{Entry, Op, Seq};
use crate::slice::Found;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::table::block::{BadBlock, Block, BlockCursor};
use crate::table::builder::split_partition;
use crate::table::cache::{BlockCache, Cached, Partition};
use crate::table::cursor::TableCursor;
use crate::table::filter::{self, Filter};
use crate::table::footer::{self, BlockKind, FOOTER_BYTES, Footer, Handle};
use crate::table::properties::{Census, Properties, TableMeta, Times};
use crate::vfs::{File, Mode, Vfs};

/// The parts of a table that are read once and kept.
pub(super) struct Opened {
    pub(super) file: Arc<dyn File>,
    pub(super) top: Arc<Block>,
    /// Where blocks end and the top index begins.
    pub(super) blocks_end: u64,
    /// Where the partitions lie.
    pub(super) handles: Vec<Handle>,
    /// Partitions that this table holds itself, in the order of the top index; empty unless it is pinned.
    pinned: Vec<OnceLock<Arc<Partition>>>,
}

/// How far a read may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// To the disk, if need be.
    Disk,
    /// To memory alone; more is [`Error::NotInMemory`].
    Memory,
}

/// A live table at its place in the tree. Its file is opened at first use.
pub(crate) struct Table {
    pub(crate) meta: TableMeta,
    pub(super) life: Arc<Life>,
    cache: Arc<BlockCache>,
    opening: Mutex<()>,
    opened: OnceLock<Opened>,
    /// Whether its partitions are kept, once read, as long as it lives.
    pin: AtomicBool,
}

impl Drop for Table {
    fn drop(&mut self) {
        self.cache.pin(-(self.pinned_bytes() as i64));
        if self.life.obsolete.load(Ordering::Acquire) {
            self.uncache();
        }
    }
}

/// A table's file, removed with the last reader of any of its places once it is obsolete.
pub(super) struct Life {
    pub(super) path: PathBuf,
    vfs: Arc<dyn Vfs>,
    obsolete: AtomicBool,
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            // Nobody reads it any more and the manifest does not name it; should this fail, the next opening removes it.
            let _ = self.vfs.remove(&self.path);
        }
    }
}

/// A partition, held by the table or by who reads it.
pub(super) enum Held<'a> {
    Pinned(&'a Partition),
    Loaded(Arc<Partition>),
}

impl std::ops::Deref for Held<'_> {
    type Target = Partition;

    fn deref(&self) -> &Partition {
        match self {
            Held::Pinned(partition) => partition,
            Held::Loaded(partition) => partition,
        }
    }
}

fn bytes_of(partition: &Arc<Partition>) -> usize {
    Cached::Partition(partition.clone()).size()
}

impl Table {
    pub(crate) fn new(meta: TableMeta, path: PathBuf, vfs: Arc<dyn Vfs>, cache: Arc<BlockCache>) -> Table {
        Table::alive(meta, Arc::new(Life { path, vfs, obsolete: AtomicBool::new(false) }), cache)
    }

    fn alive(meta: TableMeta, life: Arc<Life>, cache: Arc<BlockCache>) -> Table {
        let pin = AtomicBool::new(false);
        Table { meta, life, cache, opening: Mutex::new(()), opened: OnceLock::new(), pin }
    }

    /// The same table for another place in the tree, where it may keep more or less in memory.
    pub(crate) fn moved(&self) -> Table {
        Table::alive(self.meta.clone(), self.life.clone(), self.cache.clone())
    }

    /// Has the file removed when the last reader lets go.
    pub(crate) fn make_obsolete(&self) {
        self.life.obsolete.store(true, Ordering::Release);
    }

    /// Takes out of the cache what nobody will read again, as far as the partitions that are in memory tell; the rest ages out.
    fn uncache(&self) {
        let Some(opened) = self.opened.get() else { return };
        for (number, handle) in opened.handles.iter().enumerate() {
            let pinned = opened.pinned.get(number).and_then(OnceLock::get).cloned();
            let cached = || self.cache.remove(self.meta.number, handle.offset);
            let partition = match pinned.or_else(|| cached()?.into_partition()) {
                Some(partition) => partition,
                None => continue,
            };
            let mut cursor = BlockCursor::new(partition.index.clone());
            let mut moved = cursor.seek_first();
            while let (Ok(()), Some(entry)) = (moved, cursor.entry()) {
                if let Some(block) = Handle::decode(entry.value) {
                    self.cache.remove(self.meta.number, block.offset);
                }
                moved = cursor.next();
            }
        }
    }

    /// Keeps partitions that are read from now on. Only before the table is opened: afterwards there is no place for them.
    pub(crate) fn pin(&self) {
        self.pin.store(true, Ordering::Relaxed);
    }

    /// Whether a key range touches this table.
    pub(crate) fn overlaps(&self, smallest: &[u8], largest: &[u8]) -> bool {
        self.meta.smallest.as_slice() <= largest && smallest <= self.meta.largest.as_slice()
    }

    /// Whether all of it has expired at `now`, in milliseconds since 1970.
    pub(crate) fn has_expired(&self, now: u64) -> bool {
        self.meta.expiring == self.meta.entries && self.meta.expiry_max <= now
    }

    pub(crate) fn name(&self) -> String {
        self.life.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    pub(super) fn corrupt(&self, offset: u64, reason: impl Into<String>) -> Error {
        Error::corrupt(self.name(), offset, reason)
    }

    pub(super) fn opened(&self, reach: Reach) -> Result<&Opened> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        if reach == Reach::Memory {
            return Err(Error::NotInMemory);
        }
        let _one_at_a_time = self.opening.lock();
        if self.opened.get().is_none() {
            let opened = self.open()?;
            let _ = self.opened.set(opened); // nobody else can have set it
        }
        Ok(self.opened.get().expect("just set"))
    }

    fn open(&self) -> Result<Opened> {
        let file = self.life.vfs.open(&self.life.path, Mode::Read).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => self.corrupt(0, "the file is missing, but the manifest names it"),
            _ => Error::io("open", &self.life.path, e),
        })?;
        let len = file.len().map_err(|e| Error::io("measure", &self.life.path, e))?;
        if len != self.meta.len || len < FOOTER_BYTES as u64 {
            return Err(
                self.corrupt(len, format!("the file has {len} bytes, the manifest says {}", self.meta.len))
            );
        }
        let mut bytes = [0; FOOTER_BYTES];
        let at = len - FOOTER_BYTES as u64;
        file.read_at(&mut bytes, at).map_err(|e| Error::io("read", &self.life.path, e))?;
        let footer = Footer::decode(&bytes, len).map_err(|reason| self.corrupt(at, reason))?;
        if footer.uid != self.meta.uid {
            return Err(self.corrupt(at, "the file is another table than the manifest names"));
        }
        let top = self.read_raw(&*file, footer.index, BlockKind::Index)?;
        let top = Block::new(top).ok_or_else(|| self.corrupt(footer.index.offset, "malformed top index"))?;
        let properties = self.read_raw(&*file, footer.properties, BlockKind::Properties)?;
        let stated = Properties::decode(&mut Decoder::new(&properties))
            .ok_or_else(|| self.corrupt(footer.properties.offset, "malformed properties"))?;
        if let Some(difference) = stated.difference(&self.meta.stated) {
            let reason = format!("the properties are not those of the manifest: {difference}");
            return Err(self.corrupt(footer.properties.offset, reason));
        }
        let (top, blocks_end) = (Arc::new(top), footer.index.offset);
        let (mut handles, mut cursor) = (Vec::new(), BlockCursor::new(top.clone()));
        let mut moved = cursor.seek_first();
        while let (Ok(()), Some(entry)) = (moved, cursor.entry()) {
            handles.push(self.handle(blocks_end, entry.value, blocks_end)?);
            moved = cursor.next();
        }
        moved.map_err(|_| self.corrupt(blocks_end, "malformed top index"))?;
        let partitions = if self.pin.load(Ordering::Relaxed) { handles.len() } else { 0 };
        let pinned = (0..partitions).map(|_| OnceLock::new()).collect();
        Ok(Opened { file, top, blocks_end, handles, pinned })
    }

    pub(super) fn unpack(&self, bytes: &[u8], handle: Handle, kind: BlockKind) -> Result<Vec<u8>> {
        footer::open(bytes, kind, self.meta.uid, handle.offset)
            .map_err(|reason| self.corrupt(handle.offset, reason))
    }

    fn read_raw(&self, file: &dyn File, handle: Handle, kind: BlockKind) -> Result<Vec<u8>> {
        let mut bytes = vec![0; handle.len];
        file.read_at(&mut bytes, handle.offset).map_err(|e| Error::io("read", &self.life.path, e))?;
        self.unpack(&bytes, handle, kind)
    }

    /// Where an index at `at` points to, which is before `blocks_end`.
    pub(super) fn handle(&self, blocks_end: u64, value: &[u8], at: u64) -> Result<Handle> {
        let handle = Handle::decode(value).ok_or_else(|| self.corrupt(at, "malformed index entry"))?;
        match handle.end(blocks_end) {
            Some(_) => Ok(handle),
            None => Err(self.corrupt(at, "the index points outside the file")),
        }
    }

    fn load_block(&self, raw: Vec<u8>, handle: Handle) -> Result<Arc<Block>> {
        Block::new(raw).map(Arc::new).ok_or_else(|| self.corrupt(handle.offset, "malformed block"))
    }

    fn load_partition(&self, raw: &[u8], handle: Handle) -> Result<Arc<Partition>> {
        let parts = || {
            let (filter, index) = split_partition(raw)?;
            Some(Partition { filter: Filter::new(filter)?, index: Arc::new(Block::new(index.to_vec())?) })
        };
        parts().map(Arc::new).ok_or_else(|| self.corrupt(handle.offset, "malformed partition"))
    }

    /// The partition with this number.
    pub(super) fn partition<'a>(
        &self,
        opened: &'a Opened,
        number: usize,
        reach: Reach,
        keep: bool,
    ) -> Result<Held<'a>> {
        self.counted_partition(opened, number, reach, keep, &|| {})
    }

    /// As `partition`; calls `reads` when it reads the file.
    fn counted_partition<'a>(
        &self,
        opened: &'a Opened,
        number: usize,
        reach: Reach,
        keep: bool,
        reads: &dyn Fn(),
    ) -> Result<Held<'a>> {
        let Some(&handle) = opened.handles.get(number) else {
            return Err(self.corrupt(opened.blocks_end, "malformed top index"));
        };
        let pinned = opened.pinned.get(number).filter(|slot| slot.get().is_some() || self.cache.may_pin());
        if let Some(partition) = pinned.and_then(OnceLock::get) {
            return Ok(Held::Pinned(partition));
        }
        let load = || {
            reads();
            let raw = self.read_raw(&*opened.file, handle, BlockKind::Partition)?;
            self.load_partition(&raw, handle)
        };
        match pinned {
            Some(_) if reach == Reach::Memory => Err(Error::NotInMemory),
            Some(pinned) => {
                let loaded = load()?;
                if pinned.set(loaded.clone()).is_ok() {
                    self.cache.pin(bytes_of(&loaded) as i64);
                }
                Ok(Held::Loaded(loaded))
            }
            None => match self.cached(handle, reach, keep, || load().map(Cached::Partition))? {
                Cached::Partition(partition) => Ok(Held::Loaded(partition)),
                Cached::Data(_) => Err(self.corrupt(handle.offset, "a block where a partition should be")),
            },
        }
    }

    fn cached(
        &self,
        handle: Handle,
        reach: Reach,
        keep: bool,
        load: impl FnOnce() -> Result<Cached>,
    ) -> Result<Cached> {
        if keep && reach == Reach::Disk {
            return self.cache.get_or_load(self.meta.number, handle.offset, load);
        }
        match self.cache.peek(self.meta.number, handle.offset, reach == Reach::Memory) {
            Some(found) => Ok(found),
            None if reach == Reach::Memory => Err(Error::NotInMemory),
            None => load(),
        }
    }

    pub(super) fn data(
        &self,
        handle: Handle,
        reach: Reach,
        keep: bool,
        read: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<Block>> {
        let load = || Ok(Cached::Data(self.load_block(read()?, handle)?));
        match self.cached(handle, reach, keep, load)? {
            Cached::Data(block) => Ok(block),
            Cached::Partition(_) => Err(self.corrupt(handle.offset, "a partition where a block should be")),
        }
    }

    /// The newest version of `key` with a seq of at most `at`. `hash` is the filter hash of the key.
    pub(crate) fn get(&self, key: &[u8], hash: u64, at: Seq, reach: Reach) -> Result<Option<Found>> {
        if self.meta.min_seq() > at
            || key < self.meta.smallest.as_slice()
            || key > self.meta.largest.as_slice()
        {
            return Ok(None);
        }
        let opened = self.opened(reach)?;
        let bad = |at: u64| move |_: BadBlock| self.corrupt(at, "malformed index");
        let number = opened.top.number_from(key).map_err(bad(opened.blocks_end))?;
        let Some(&at_partition) = opened.handles.get(number) else { return Ok(None) };
        let reads = || self.cache.get_reads.add(1);
        let partition = self.counted_partition(opened, number, reach, true, &reads)?;
        if !partition.filter.may_contain(hash) {
            self.cache.filter_stopped.add(1);
            return Ok(None);
        }
        let found = partition.index.at_or_after(key).map_err(bad(at_partition.offset))?;
        let Some((_, value)) = found else { return Ok(None) };
        let handle = self.handle(opened.blocks_end, value, at_partition.offset)?;
        let block = self.data(handle, reach, true, || {
            reads();
            self.read_raw(&*opened.file, handle, BlockKind::Data)
        })?;
        match block.find(key).map_err(|_| self.corrupt(handle.offset, "malformed block"))? {
            Some((seq, ..)) if self.meta.seq_of(seq) > at => match reach {
                Reach::Memory => Err(Error::NotInMemory), // it may lie in the next block
                Reach::Disk => self.get_older(key, at),
            },
            Some((seq, op, value)) => Ok(Some(Found::in_block(self.meta.seq_of(seq), op, &block, value))),
            None => {
                self.cache.filter_false.add(1);
                Ok(None)
            }
        }
    }

    /// As `get`, when the newest version is too new.
    fn get_older(&self, key: &[u8], at: Seq) -> Result<Option<Found>> {
        let mut cursor = TableCursor::new(self, true);
        cursor.seek(key)?;
        while let Some(entry) = cursor.entry().filter(|entry| entry.key == key) {
            if entry.seq <= at {
                return Ok(Some(Found::owned(entry.seq, entry.op, entry.value.to_vec())));
            }
            cursor.next()?;
        }
        Ok(None)
    }

    /// Walks the table. `keep` says whether blocks read on the way go into the cache.
    pub(crate) fn cursor(self: &Arc<Table>, keep: bool) -> TableCursor<Arc<Table>> {
        TableCursor::new(self.clone(), keep)
    }

    /// Bytes of partitions that this table holds itself.
    pub(crate) fn pinned_bytes(&self) -> usize {
        self.opened
            .get()
            .map_or(0, |opened| opened.pinned.iter().filter_map(OnceLock::get).map(bytes_of).sum())
    }

    /// Gives `each` all entries that can be read, in order, and answers the keys of which some cannot: from the first
    /// (included) to the last (excluded), with the reason. Errors of the disk, and of `each`, end it.
    pub(crate) fn salvage(&self, each: &mut dyn FnMut(Entry<'_>) -> Result<()>) -> Result<Vec<Damage>> {
        let mut damage = Vec::new();
        let (start, end) = (self.meta.smallest.clone(), after(&self.meta.largest));
        let Some(opened) = or_damage(self.opened(Reach::Disk), &start, &end, &mut damage)? else {
            return Ok(damage);
        };
        let mut from = start;
        let mut top = BlockCursor::new(opened.top.clone());
        let mut moved = top.seek_first();
        while let (Ok(()), Some(entry)) = (moved, top.entry()) {
            let to = after(entry.key);
            let handle = opened.handles[top.index()];
            let partition = self.partition(opened, top.index(), Reach::Disk, false);
            if let Some(partition) = or_damage(partition, &from, &to, &mut damage)? {
                let mut index = BlockCursor::new(partition.index.clone());
                let mut moved = index.seek_first();
                let mut from = from.clone();
                while let (Ok(()), Some(entry)) = (moved, index.entry()) {
                    let to = after(entry.key);
                    let entries = self.salvage_block(opened, entry.value, handle.offset, &from, &to);
                    for (key, seq, op, value) in
                        or_damage(entries, &from, &to, &mut damage)?.unwrap_or_default()
                    {
                        each(Entry { key: &key, seq: self.meta.seq_of(seq), op, value: &value })?;
                    }
                    from = to;
                    moved = index.next();
                }
                let whole = moved.map_err(|_| self.corrupt(handle.offset, "malformed index"));
                or_damage(whole, &from, &to, &mut damage)?;
            }
            from = to;
            moved = top.next();
        }
        let whole = moved.map_err(|_| self.corrupt(opened.blocks_end, "malformed top index"));
        or_damage(whole, &from, &end, &mut damage)?;
        Ok(damage)
    }

    /// All entries of a block whose keys lie from `from` to before `to`, or none.
    fn salvage_block(
        &self,
        opened: &Opened,
        value: &[u8],
        at: u64,
        from: &[u8],
        to: &[u8],
    ) -> Result<Vec<(Vec<u8>, Seq, Op, Vec<u8>)>> {
        let handle = self.handle(opened.blocks_end, value, at)?;
        let raw = self.read_raw(&*opened.file, handle, BlockKind::Data)?;
        let mut cursor = BlockCursor::new(self.load_block(raw, handle)?);
        let mut entries: Vec<(Vec<u8>, Seq, Op, Vec<u8>)> = Vec::new();
        let mut moved = cursor.seek_first();
        while let (Ok(()), Some(entry)) = (moved, cursor.entry()) {
            let ascends = entries
                .last()
                .is_none_or(|(key, seq, ..)| crate::key::compare(key, *seq, entry.key, entry.seq).is_lt());
            // Versions of one key may be parted by the border between two blocks.
            let is_parted = from.split_last().is_some_and(|(_, before)| before == entry.key);
            if !ascends || (entry.key < from && !is_parted) || entry.key >= to {
                return Err(self.corrupt(handle.offset, "keys do not ascend"));
            }
            entries.push((entry.key.to_vec(), entry.seq, entry.op, entry.value.to_vec()));
            moved = cursor.next();
        }
        moved.map_err(|_| self.corrupt(handle.offset, "malformed block"))?;
        Ok(entries)
    }

    /// Reads all of the file, whatever is in memory of it, and checks it: every block, the order of entries, that index and
    /// filter lead to each of them, and all that the table and the manifest say of them. `each` checks an entry's value.
    pub(crate) fn verify(&self, each: &mut dyn FnMut(&Entry<'_>) -> Result<()>) -> Result<()> {
        /// What the walk has just read is looked up again from memory.
        const CACHE_BYTES: u64 = 1 << 20;
        let cache = Arc::new(BlockCache::new(CACHE_BYTES, 4096));
        Table::alive(self.meta.clone(), self.life.clone(), cache).recount(each)
    }

    /// Walks all entries, looks each key up, and compares what they are with what is said of them.
    pub(super) fn recount(&self, each: &mut dyn FnMut(&Entry<'_>) -> Result<()>) -> Result<()> {
        let Properties { uid, oldest_ms, written_ms, .. } = self.meta.stated;
        let mut census = Census::new(uid, Times { oldest_ms, written_ms });
        let mut cursor = TableCursor::new(self, true);
        cursor.seek_first()?;
        let (mut last, mut last_seq, mut block) = (Vec::new(), 0, None);
        let mut astray = None; // where a key lies that a look-up does not find
        while let Some(entry) = cursor.entry() {
            let offset = cursor.data_offset;
            let is_first = block.is_none();
            if !is_first && crate::key::compare(&last, last_seq, entry.key, entry.seq).is_ge() {
                return Err(self.corrupt(offset, "keys do not ascend"));
            }
            if block.replace(offset).is_some_and(|before| before != offset) {
                census.end_block();
            }
            each(&entry)?;
            let is_shadowed = !is_first && last == entry.key;
            if !is_shadowed {
                let found = self.get(entry.key, filter::hash(entry.key), Seq::MAX, Reach::Disk)?;
                if found.is_none_or(|found| found.seq != entry.seq) {
                    astray.get_or_insert(offset);
                }
            }
            let seq = entry.seq - self.meta.seq_base;
            census.add(&Entry { seq, ..entry }, is_shadowed);
            last.clear();
            last.extend_from_slice(entry.key);
            last_seq = entry.seq;
            cursor.next()?;
        }
        census.end_block();
        match census.take(&last).difference(&self.meta.stated) {
            Some(difference) => {
                Err(self.corrupt(0, format!("its entries and its properties differ: {difference}")))
            }
            None => match astray {
                Some(offset) => Err(self.corrupt(offset, "index and filter do not lead to a key")),
                None => Ok(()),
            },
        }
    }
}

/// Keys from the first to before the second, of which some cannot be read.
pub(crate) type Damage = (Vec<u8>, Vec<u8>, Error);

/// The smallest key that is greater.
fn after(key: &[u8]) -> Vec<u8> {
    let mut after = key.to_vec();
    after.push(0);
    after
}

/// What could be read; damage is noted, other errors go on.
fn or_damage<T>(result: Result<T>, from: &[u8], to: &[u8], damage: &mut Vec<Damage>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error @ Error::Corrupt { .. }) => {
            damage.push((from.to_vec(), to.to_vec(), error));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
