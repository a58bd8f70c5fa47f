//! Values that are too long to be moved from table to table: each is written once, to a blob file, `<number>.blob`, and
//! tables hold handles.
//!
//! ```text
//! file:    │ magic "LMNBLB01" │ uid: u64 │ value … │
//! value:   │ length: u32 │ sealed as a block of a table, of that length │
//! handle:  │ uid of the file: u64 │ offset of the block: varint │ its length: varint │
//! ```
//!
//! The length in front is for who reads the file without a table: `inspect`.
//!
//! Handles name a file by its uid, so that tables and blob files may move to another store under other numbers.
//!
//! A table states how many bytes of which blob files it points to ([`Properties::blobs`]), so what of a file is still in use
//! is the sum over all tables of a version, and no count is kept anywhere that could go wrong. A file that nothing points to
//! leaves with the edit that removes its last table. One that is mostly unused is collected: tables that point to it are
//! rewritten, and the values that they still use go to a new file (as RocksDB's BlobDB and Pebble do, in compactions rather
//! than by a collector of its own as in WiscKey).
//!
//! [`Properties::blobs`]: crate::table::properties::Properties

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::coding::{Decoder, put_varint, u64_at};
use crate::error::{Error, Result};
use crate::log::sync_failed;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::table::footer::{self, BlockKind, Codec};
use crate::vfs::{File, Mode, Vfs};

const MAGIC: [u8; 8] = *b"LMNBLB01";
const HEADER_BYTES: usize = 16;
const LENGTH_BYTES: usize = 4;
/// Unwritten bytes at which the writer writes them out.
const WRITE_BYTES: usize = 1 << 20;

/// What the manifest keeps about a blob file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlobMeta {
    /// The file's number.
    pub number: u64,
    /// Random; ties the values to this file.
    pub uid: u64,
    /// Bytes of the file.
    pub len: u64,
}

impl BlobMeta {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for value in [self.number, self.uid, self.len] {
            put_varint(out, value);
        }
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Option<BlobMeta> {
        Some(BlobMeta { number: decoder.varint()?, uid: decoder.varint()?, len: decoder.varint()? })
    }
}

/// Where a value lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlobHandle {
    /// The uid of the file.
    pub file: u64,
    pub offset: u64,
    pub len: usize,
}

impl BlobHandle {
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.file.to_le_bytes());
        put_varint(out, self.offset);
        put_varint(out, self.len as u64);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<BlobHandle> {
        let mut decoder = Decoder::new(bytes);
        let mut read = || {
            let (file, offset, len) = (decoder.u64()?, decoder.varint()?, decoder.length()?);
            decoder.is_empty().then_some(BlobHandle { file, offset, len })
        };
        read().ok_or_else(|| Error::corrupt("a table", 0, "malformed handle of a value"))
    }
}

/// A live blob file; removed with its last reader once it is obsolete.
pub(crate) struct BlobFile {
    pub(crate) meta: BlobMeta,
    path: PathBuf,
    vfs: Arc<dyn Vfs>,
    file: OnceLock<Arc<dyn File>>,
    /// Whether a value in it could not be read: then it stays as it is, and is not collected.
    damaged: AtomicBool,
    obsolete: AtomicBool,
}

/// Live blob files by uid.
pub(crate) type BlobMap = BTreeMap<u64, Arc<BlobFile>>;

/// For who can meet no handle.
pub(crate) static NO_BLOBS: BlobMap = BlobMap::new();

impl Drop for BlobFile {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            let _ = self.vfs.remove(&self.path); // should this fail, the next opening removes it
        }
    }
}

/// What a blob file is called.
pub(crate) fn name(number: u64) -> String {
    format!("{number:010}.blob")
}

impl BlobFile {
    pub(crate) fn new(meta: BlobMeta, path: PathBuf, vfs: Arc<dyn Vfs>) -> BlobFile {
        let (damaged, obsolete) = (AtomicBool::new(false), AtomicBool::new(false));
        BlobFile { meta, path, vfs, file: OnceLock::new(), damaged, obsolete }
    }

    pub(crate) fn make_obsolete(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    fn corrupt(&self, offset: u64, reason: impl Into<String>) -> Error {
        self.damaged.store(true, Ordering::Relaxed);
        Error::corrupt(name(self.meta.number), offset, reason)
    }

    fn open(&self) -> Result<Arc<dyn File>> {
        if let Some(file) = self.file.get() {
            return Ok(file.clone());
        }
        let file = self.vfs.open(&self.path, Mode::Read).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => self.corrupt(0, "the file is missing, but the manifest names it"),
            _ => Error::io("open", &self.path, e),
        })?;
        let len = file.len().map_err(|e| Error::io("measure", &self.path, e))?;
        if len != self.meta.len {
            let reason = format!("the file has {len} bytes, the manifest says {}", self.meta.len);
            return Err(self.corrupt(len, reason));
        }
        let mut header = [0; HEADER_BYTES];
        file.read_at(&mut header, 0).map_err(|e| Error::io("read", &self.path, e))?;
        if header[..8] != MAGIC || u64_at(&header, 8) != self.meta.uid {
            return Err(self.corrupt(0, "the file is not the blob file that the manifest names"));
        }
        Ok(self.file.get_or_init(|| file).clone())
    }

    /// The value that `handle` points to.
    pub(crate) fn read(&self, handle: BlobHandle) -> Result<Vec<u8>> {
        let end = handle.offset.checked_add(handle.len as u64);
        if end.is_none_or(|end| end > self.meta.len) || handle.offset < (HEADER_BYTES + LENGTH_BYTES) as u64 {
            return Err(self.corrupt(handle.offset, "a handle points outside the file"));
        }
        let (from, mut bytes) = (handle.offset - LENGTH_BYTES as u64, vec![0; LENGTH_BYTES + handle.len]);
        self.open()?.read_at(&mut bytes, from).map_err(|e| Error::io("read", &self.path, e))?;
        let (length, bytes) = bytes.split_at(LENGTH_BYTES);
        if length != (handle.len as u32).to_le_bytes() {
            return Err(self.corrupt(from, format!("the length is not the {} that a table says", handle.len)));
        }
        footer::open(bytes, BlockKind::Blob, self.meta.uid, handle.offset)
            .map_err(|reason| self.corrupt(handle.offset, reason))
    }
}

/// Writes one blob file.
pub(crate) struct BlobWriter {
    file: Arc<dyn File>,
    path: PathBuf,
    meta: BlobMeta,
    codec: Codec,
    buffer: Vec<u8>,
}

impl BlobWriter {
    /// Creates the file; `uid` is random.
    pub(crate) fn create(
        vfs: &dyn Vfs,
        path: &Path,
        number: u64,
        uid: u64,
        codec: Codec,
    ) -> Result<BlobWriter> {
        let file = vfs.open(path, Mode::Create).map_err(|e| Error::io("create", path, e))?;
        let mut buffer = MAGIC.to_vec();
        buffer.extend_from_slice(&uid.to_le_bytes());
        let meta = BlobMeta { number, uid, len: 0 };
        Ok(BlobWriter { file, path: path.to_path_buf(), meta, codec, buffer })
    }

    /// Adds a value.
    pub(crate) fn add(&mut self, value: &[u8]) -> Result<BlobHandle> {
        let offset = self.size() + LENGTH_BYTES as u64;
        let bytes = footer::seal(value, BlockKind::Blob, self.codec, self.meta.uid, offset);
        self.buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(&bytes);
        if self.buffer.len() >= WRITE_BYTES {
            self.write_out()?;
        }
        Ok(BlobHandle { file: self.meta.uid, offset, len: bytes.len() })
    }

    /// Bytes so far.
    pub(crate) fn size(&self) -> u64 {
        self.meta.len + self.buffer.len() as u64
    }

    /// Writes the rest, syncs, and says what the manifest should know.
    pub(crate) fn finish(mut self) -> Result<BlobMeta> {
        self.write_out()?;
        self.file.sync().map_err(|e| sync_failed(&self.path, &e.0))?;
        Ok(self.meta)
    }

    fn write_out(&mut self) -> Result<()> {
        self.file.write_at(&self.buffer, self.meta.len).map_err(|e| Error::io("write", &self.path, e))?;
        self.meta.len += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// The values of a blob file in order: where each lies, how it is packed and what it is, or how it is damaged. `None` for
/// bytes that are no blob file.
pub(crate) fn read_all(
    bytes: &[u8],
) -> Option<(u64, Vec<(u64, &'static str, std::result::Result<Vec<u8>, String>)>)> {
    let header = bytes.get(..HEADER_BYTES).filter(|header| header[..8] == MAGIC)?;
    let (uid, mut at, mut values) = (u64_at(header, 8), HEADER_BYTES, Vec::new());
    while let Some(length) = bytes.get(at..at + LENGTH_BYTES) {
        let offset = at + LENGTH_BYTES;
        let len = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        let Some(sealed) = offset.checked_add(len).and_then(|end| bytes.get(offset..end)) else {
            values.push((offset as u64, "cut off", Err(format!("{len} bytes are said to follow"))));
            break;
        };
        let value =
            footer::open(sealed, BlockKind::Blob, uid, offset as u64).map_err(|reason| reason.into_owned());
        values.push((offset as u64, footer::codec_name(sealed), value));
        at = offset + len;
    }
    Some((uid, values))
}
