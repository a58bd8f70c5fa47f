//! Entries in, table file out.

use std::path::Path;
use std::sync::Arc;

use crate::coding::{Decoder, put_slice, put_varint};
use crate::error::{Error, Result};
use crate::key::{Entry, Op, Seq};
use crate::log::sync_failed;
use crate::table::block::BlockBuilder;
use crate::table::filter;
use crate::table::footer::{BlockKind, Codec, Footer, Handle, seal};
use crate::vfs::{File, Mode, Vfs};

/// What the manifest keeps about a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableMeta {
    /// The file's number.
    pub number: u64,
    /// Random; ties the blocks to this file.
    pub uid: u64,
    /// Bytes of the file.
    pub len: u64,
    /// Entries, deletes among them.
    pub entries: u64,
    /// Deletes.
    pub deletes: u64,
    /// Bytes of keys and values as written, before prefixes and compression.
    pub raw_bytes: u64,
    /// Smallest key.
    pub smallest: Vec<u8>,
    /// Largest key.
    pub largest: Vec<u8>,
    /// Smallest seq.
    pub min_seq: Seq,
    /// Largest seq.
    pub max_seq: Seq,
    /// When the newest entry was flushed, in milliseconds since 1970.
    pub written_ms: u64,
}

impl TableMeta {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for value in [
            self.number,
            self.uid,
            self.len,
            self.entries,
            self.deletes,
            self.raw_bytes,
            self.min_seq,
            self.max_seq,
            self.written_ms,
        ] {
            put_varint(out, value);
        }
        put_slice(out, &self.smallest);
        put_slice(out, &self.largest);
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Option<TableMeta> {
        Some(TableMeta {
            number: decoder.varint()?,
            uid: decoder.varint()?,
            len: decoder.varint()?,
            entries: decoder.varint()?,
            deletes: decoder.varint()?,
            raw_bytes: decoder.varint()?,
            min_seq: decoder.varint()?,
            max_seq: decoder.varint()?,
            written_ms: decoder.varint()?,
            smallest: decoder.slice()?.to_vec(),
            largest: decoder.slice()?.to_vec(),
        })
    }
}

/// How a table is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TableOptions {
    pub block_bytes: usize,
    pub filter_bits: usize,
    pub codec: Codec,
    pub written_ms: u64,
}

/// Unwritten bytes at which the builder writes them out: one large write instead of many small ones.
const WRITE_BYTES: usize = 1 << 20;

/// Writes one table.
pub(crate) struct TableBuilder {
    file: Arc<dyn File>,
    path: std::path::PathBuf,
    options: TableOptions,
    meta: TableMeta,
    block: BlockBuilder,
    index: BlockBuilder,
    /// The last key of a finished block and its handle, until the next key tells how short the separator may be.
    pending: Option<(Vec<u8>, Handle)>,
    hashes: Vec<u64>,
    buffer: Vec<u8>,
    written: u64,
}

impl TableBuilder {
    /// Creates the file; `uid` is random.
    pub(crate) fn create(
        vfs: &dyn Vfs,
        path: &Path,
        number: u64,
        uid: u64,
        options: TableOptions,
    ) -> Result<TableBuilder> {
        let file = vfs.open(path, Mode::Create).map_err(|e| Error::io("create", path, e))?;
        let meta = TableMeta {
            number,
            uid,
            len: 0,
            entries: 0,
            deletes: 0,
            raw_bytes: 0,
            smallest: Vec::new(),
            largest: Vec::new(),
            min_seq: Seq::MAX,
            max_seq: 0,
            written_ms: options.written_ms,
        };
        Ok(TableBuilder {
            file,
            path: path.to_path_buf(),
            options,
            meta,
            block: BlockBuilder::default(),
            index: BlockBuilder::default(),
            pending: None,
            hashes: Vec::new(),
            buffer: Vec::with_capacity(WRITE_BYTES + (64 << 10)),
            written: 0,
        })
    }

    /// Adds an entry; keys ascend strictly.
    pub(crate) fn add(&mut self, entry: Entry<'_>) -> Result<()> {
        if self.meta.entries == 0 {
            self.meta.smallest = entry.key.to_vec();
        }
        if let Some((last, handle)) = self.pending.take() {
            self.add_to_index(&separator(&last, entry.key), handle);
        }
        self.meta.entries += 1;
        self.meta.deletes += u64::from(entry.op == Op::Delete);
        self.meta.raw_bytes += (entry.key.len() + entry.value.len()) as u64;
        self.meta.min_seq = self.meta.min_seq.min(entry.seq);
        self.meta.max_seq = self.meta.max_seq.max(entry.seq);
        self.hashes.push(filter::hash(entry.key));
        self.block.add(entry);
        if self.block.size() >= self.options.block_bytes {
            self.finish_block()?;
        }
        Ok(())
    }

    /// Bytes so far.
    pub(crate) fn size(&self) -> u64 {
        self.written + self.buffer.len() as u64 + self.block.size() as u64
    }

    /// Writes the rest, syncs, and says what the manifest should know. At least one entry was added.
    pub(crate) fn finish(mut self) -> Result<TableMeta> {
        assert!(self.meta.entries > 0, "an empty table is never written");
        self.meta.largest = if self.block.is_empty() {
            self.pending.as_ref().expect("a block").0.clone()
        } else {
            self.block.last_key().to_vec()
        };
        if !self.block.is_empty() {
            self.finish_block()?;
        }
        if let Some((last, handle)) = self.pending.take() {
            self.add_to_index(&last, handle);
        }
        let filter = filter::build(&self.hashes, self.options.filter_bits);
        let filter = self.put_block(&filter, BlockKind::Filter, Codec::Raw)?;
        let index = self.index.finish();
        let index = self.put_block(&index, BlockKind::Index, Codec::Lz4)?;
        let mut properties = Vec::new();
        self.meta.encode(&mut properties);
        let properties = self.put_block(&properties, BlockKind::Properties, Codec::Raw)?;
        let footer = Footer { uid: self.meta.uid, index, filter, properties };
        self.buffer.extend_from_slice(&footer.encode());
        self.write_out()?;
        self.file.sync().map_err(|e| sync_failed(&self.path, &e.0))?;
        self.meta.len = self.written;
        Ok(self.meta)
    }

    fn finish_block(&mut self) -> Result<()> {
        let last = self.block.last_key().to_vec();
        let raw = self.block.finish();
        let handle = self.put_block(&raw, BlockKind::Data, self.options.codec)?;
        self.pending = Some((last, handle));
        Ok(())
    }

    fn add_to_index(&mut self, separator: &[u8], handle: Handle) {
        let mut value = Vec::with_capacity(12);
        put_varint(&mut value, handle.offset);
        put_varint(&mut value, handle.len as u64);
        self.index.add(Entry { key: separator, seq: 0, op: Op::Put, value: &value });
    }

    fn put_block(&mut self, raw: &[u8], kind: BlockKind, codec: Codec) -> Result<Handle> {
        let offset = self.written + self.buffer.len() as u64;
        let bytes = seal(raw, kind, codec, self.meta.uid, offset);
        self.buffer.extend_from_slice(&bytes);
        if self.buffer.len() >= WRITE_BYTES {
            self.write_out()?;
        }
        Ok(Handle { offset, len: bytes.len() })
    }

    fn write_out(&mut self) -> Result<()> {
        self.file.write_at(&self.buffer, self.written).map_err(|e| Error::io("write", &self.path, e))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// A short key that is at least `last` and less than `next`.
fn separator(last: &[u8], next: &[u8]) -> Vec<u8> {
    let common = last.iter().zip(next).take_while(|(a, b)| a == b).count();
    match (last.get(common), next.get(common)) {
        (Some(&a), Some(&b)) if a + 1 < b => {
            let mut short = last[..=common].to_vec();
            short[common] += 1;
            short
        }
        _ => last.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::separator;

    #[test]
    fn a_separator_lies_between_its_neighbours() {
        for (last, next) in [("abcdef", "abzz"), ("abc", "abcd"), ("a", "b"), ("a\u{7f}x", "b"), ("", "a")] {
            let between = separator(last.as_bytes(), next.as_bytes());
            assert!(last.as_bytes() <= &between[..] && &between[..] < next.as_bytes(), "{last} {next}");
        }
        assert_eq!(separator(b"abcdef", b"abzz"), b"abd");
    }
}
