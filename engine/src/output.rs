//! Entries in, tables and blob files out: what flushes and compactions do alike.
//!
//! [`Survivors`] says which versions go on; [`Output`] writes those that do.

use std::path::PathBuf;

use crate::blob::{BlobHandle, BlobMap, BlobMeta, BlobWriter};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::key::{Entry, Op, Seq};
use crate::range_delete::RangeDeletes;
use crate::state::Shared;
use crate::table::builder::{TableBuilder, TableOptions};
use crate::table::properties::TableMeta;

/// What becomes of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes on as it is.
    Keep,
    /// It has expired, but hides older versions.
    KeepAsDelete,
    /// No reader can see it.
    Drop,
}

/// Decides about versions that come in order, by who may still read: nobody below the floor.
pub(crate) struct Survivors<'a> {
    floor: Seq,
    /// Milliseconds since 1970; who expired by then has expired for all readers to come.
    now: u64,
    ranges: &'a RangeDeletes,
    key: Option<Vec<u8>>,
    /// Whether the version that a reader at the floor sees was met.
    decided: bool,
}

impl<'a> Survivors<'a> {
    pub(crate) fn new(floor: Seq, now: u64, ranges: &'a RangeDeletes) -> Survivors<'a> {
        Survivors { floor, now, ranges, key: None, decided: false }
    }

    /// Whether `key` may come after what was asked about before.
    pub(crate) fn follow(&self, key: &[u8]) -> bool {
        self.key.as_deref().is_none_or(|before| before <= key)
    }

    /// `is_bottom` says whether nothing older than what is asked about may hold a key; asked with keys ascending.
    pub(crate) fn fate(&mut self, entry: &Entry<'_>, is_bottom: &mut dyn FnMut(&[u8]) -> bool) -> Fate {
        if self.key.as_deref() != Some(entry.key) {
            let key = self.key.get_or_insert_default();
            key.clear();
            key.extend_from_slice(entry.key);
            self.decided = false;
        }
        let is_old = entry.seq <= self.floor;
        if is_old && std::mem::replace(&mut self.decided, true) {
            return Fate::Drop;
        }
        if is_old && self.ranges.covers(entry.key, entry.seq, self.floor) {
            return Fate::Drop; // and so will older ones be
        }
        match entry.is_live(self.now) {
            true => Fate::Keep,
            false if is_old && is_bottom(entry.key) => Fate::Drop,
            false if entry.op == Op::Delete => Fate::Keep,
            false => Fate::KeepAsDelete,
        }
    }
}

/// Bytes at which a blob file is full.
const BLOB_FILE_BYTES: u64 = 256 << 20;

/// How the tables are made, and which values move.
pub(crate) struct Plan<'a> {
    pub table: TableOptions,
    /// Blob files that handles may point into.
    pub blobs: &'a BlobMap,
    /// Those of them whose values are written anew.
    pub collect: Vec<u64>,
}

/// Writes tables and blob files. Whatever it has written goes when it is dropped before its end.
pub(crate) struct Output<'a> {
    shared: &'a Shared,
    plan: Plan<'a>,
    table: Option<TableBuilder>,
    blob: Option<BlobWriter>,
    tables: Vec<TableMeta>,
    blobs: Vec<BlobMeta>,
    written: Vec<PathBuf>,
    handle: Vec<u8>,
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        for path in &self.written {
            let _ = self.shared.options.vfs.remove(path); // or the next opening does
        }
    }
}

impl<'a> Output<'a> {
    pub(crate) fn new(shared: &'a Shared, plan: Plan<'a>) -> Output<'a> {
        Output {
            shared,
            plan,
            table: None,
            blob: None,
            tables: Vec::new(),
            blobs: Vec::new(),
            written: Vec::new(),
            handle: Vec::new(),
        }
    }

    /// Goes on after tables and blob files that stay, whatever becomes of this.
    pub(crate) fn follow(&mut self, tables: Vec<TableMeta>, blobs: Vec<BlobMeta>) {
        (self.tables, self.blobs) = (tables, blobs);
    }

    /// Ends what is being written, and answers all that was.
    pub(crate) fn so_far(&mut self) -> Result<(Vec<TableMeta>, Vec<BlobMeta>)> {
        self.cut()?;
        self.end_blob()?;
        Ok((self.tables.clone(), self.blobs.clone()))
    }

    /// What was written so far stays.
    pub(crate) fn keep(&mut self) {
        self.written.clear();
    }

    /// Bytes of the table that is being written.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.table.as_ref().map_or(0, TableBuilder::size)
    }

    /// Ends the table that is being written; the next entry begins another.
    pub(crate) fn cut(&mut self) -> Result<()> {
        if let Some(table) = self.table.take() {
            self.tables.push(table.finish()?);
        }
        Ok(())
    }

    /// Adds an entry; keys ascend, and of one key the seqs descend.
    pub(crate) fn add(&mut self, entry: Entry<'_>) -> Result<()> {
        let (expiry, value) =
            entry.value.split_at_checked(entry.op.prefix_bytes()).unwrap_or((entry.value, &[]));
        let handle = if entry.op.is_blob() {
            let handle = BlobHandle::decode(value)?;
            Some(if self.plan.collect.contains(&handle.file) { self.moved(handle)? } else { handle })
        } else if entry.op != Op::Delete && value.len() >= self.shared.options.blob_bytes {
            Some(self.put_blob(value)?)
        } else {
            None
        };
        let mut stored = entry;
        let mut bytes = std::mem::take(&mut self.handle);
        if let Some(handle) = handle {
            bytes.clear();
            bytes.extend_from_slice(expiry);
            handle.encode(&mut bytes);
            let op = if entry.op.expires() { Op::BlobUntil } else { Op::Blob };
            stored = Entry { op, value: &bytes, ..entry };
        }
        self.table()?.add(stored)?;
        self.handle = bytes;
        Ok(())
    }

    /// What was written: tables and blob files.
    pub(crate) fn finish(mut self) -> Result<(Vec<TableMeta>, Vec<BlobMeta>)> {
        let written = self.so_far()?;
        self.keep();
        Ok(written)
    }

    fn table(&mut self) -> Result<&mut TableBuilder> {
        if self.table.is_none() {
            let (number, options) = (self.shared.next_file(), &self.shared.options);
            let (path, uid) = (self.shared.table_path(number), self.shared.uid(number));
            self.written.push(path.clone());
            self.table = Some(TableBuilder::create(&*options.vfs, &path, number, uid, self.plan.table)?);
        }
        Ok(self.table.as_mut().expect("just set"))
    }

    /// Writes a value anew; one that cannot be read stays where it is, so that its damage is still named.
    fn moved(&mut self, handle: BlobHandle) -> Result<BlobHandle> {
        match read_blob(self.plan.blobs, handle) {
            Ok(value) => self.put_blob(&value),
            Err(error @ Error::Corrupt { .. }) => {
                self.shared.options.tell(&Event::Damaged(error));
                Ok(handle)
            }
            Err(error) => Err(error),
        }
    }

    fn put_blob(&mut self, value: &[u8]) -> Result<BlobHandle> {
        if self.blob.as_ref().is_some_and(|blob| blob.size() >= BLOB_FILE_BYTES) {
            self.end_blob()?;
        }
        if self.blob.is_none() {
            let (number, options) = (self.shared.next_file(), &self.shared.options);
            let (path, uid) = (self.shared.blob_path(number), self.shared.uid(number));
            self.written.push(path.clone());
            let codec = self.plan.table.codec;
            self.blob = Some(BlobWriter::create(&*options.vfs, &path, number, uid, codec)?);
        }
        self.blob.as_mut().expect("just set").add(value)
    }

    fn end_blob(&mut self) -> Result<()> {
        if let Some(blob) = self.blob.take() {
            self.blobs.push(blob.finish()?);
        }
        Ok(())
    }
}

/// The value that a handle points to.
pub(crate) fn read_blob(blobs: &BlobMap, handle: BlobHandle) -> Result<Vec<u8>> {
    let missing = || {
        let reason =
            format!("a value lies in the blob file {:016x}, which the manifest does not name", handle.file);
        Error::corrupt("a table", 0, reason)
    };
    blobs.get(&handle.file).ok_or_else(missing)?.read(handle)
}
