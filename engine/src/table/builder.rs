//! Entries in, table file out.

use std::path::Path;
use std::sync::Arc;

use crate::coding::u32_at;
use crate::error::{Error, Result};
use crate::key::{Entry, Op};
use crate::log::sync_failed;
use crate::table::block::BlockBuilder;
use crate::table::filter::{self, FilterKind};
use crate::table::footer::{BlockKind, Codec, Footer, Handle, seal};
use crate::table::properties::{Census, TableMeta, Times};
use crate::vfs::{File, Mode, Vfs};

/// How a table is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TableOptions {
    pub block_bytes: usize,
    pub filter: FilterKind,
    pub codec: Codec,
    pub times: Times,
}

/// Unwritten bytes at which the builder writes them out: one large write instead of many small ones.
const WRITE_BYTES: usize = 1 << 20;
/// Bytes of index or filter at which a partition ends: small enough to be read for one key, large enough that the top index
/// has few entries.
const PARTITION_INDEX_BYTES: usize = 4 << 10;
const PARTITION_FILTER_BYTES: usize = 8 << 10;

/// Writes one table.
pub(crate) struct TableBuilder {
    file: Arc<dyn File>,
    path: std::path::PathBuf,
    number: u64,
    options: TableOptions,
    uid: u64,
    census: Census,
    block: BlockBuilder,
    /// The index of the partition that is being written.
    index: BlockBuilder,
    top: BlockBuilder,
    /// The last key of a finished block and its handle, until the next key tells how short the separator may be.
    pending: Option<(Vec<u8>, Handle)>,
    /// Of the keys of the partition that is being written.
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
        Ok(TableBuilder {
            file,
            path: path.to_path_buf(),
            number,
            options,
            uid,
            census: Census::new(uid, options.times),
            block: BlockBuilder::data(),
            index: BlockBuilder::index(),
            top: BlockBuilder::index(),
            pending: None,
            hashes: Vec::new(),
            buffer: Vec::with_capacity(WRITE_BYTES + (64 << 10)),
            written: 0,
        })
    }

    /// Adds an entry; keys ascend, and of one key the seqs descend.
    pub(crate) fn add(&mut self, entry: Entry<'_>) -> Result<()> {
        let mut is_shadowed = false;
        if let Some((last, handle)) = self.pending.take() {
            is_shadowed = last == entry.key;
            self.add_to_index(&separator(&last, entry.key), handle)?;
        } else if !self.block.is_empty() {
            is_shadowed = self.block.last_key() == entry.key;
        }
        self.census.add(&entry, is_shadowed);
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
        let largest = match &self.pending {
            Some((last, _)) if self.block.is_empty() => last.clone(),
            _ => self.block.last_key().to_vec(),
        };
        if !self.block.is_empty() {
            self.finish_block()?;
        }
        if let Some((last, handle)) = self.pending.take() {
            self.add_to_index(&last, handle)?;
        }
        self.finish_partition()?;
        let top = self.top.finish();
        let index = self.put_block(&top, BlockKind::Index, Codec::Raw)?;
        let stated = self.census.take(&largest);
        assert!(stated.entries > 0, "an empty table is never written");
        let mut properties = Vec::new();
        stated.encode(&mut properties);
        let properties = self.put_block(&properties, BlockKind::Properties, Codec::Raw)?;
        let footer = Footer { uid: self.uid, index, properties };
        self.buffer.extend_from_slice(&footer.encode());
        self.write_out()?;
        self.file.sync().map_err(|e| sync_failed(&self.path, &e.0))?;
        Ok(TableMeta { number: self.number, seq_base: 0, len: self.written, stated })
    }

    fn finish_block(&mut self) -> Result<()> {
        self.census.end_block();
        let last = self.block.last_key().to_vec();
        let raw = self.block.finish();
        let handle = self.put_block(&raw, BlockKind::Data, self.options.codec)?;
        self.pending = Some((last, handle));
        Ok(())
    }

    /// Adds a finished block to the index, and ends the partition when it is large enough.
    fn add_to_index(&mut self, separator: &[u8], handle: Handle) -> Result<()> {
        let mut value = Vec::with_capacity(12);
        handle.encode(&mut value);
        self.index.add(Entry { key: separator, seq: 0, op: Op::Put, value: &value });
        let filter_bytes = self.hashes.len() * self.options.filter.bits() / 8;
        if self.index.size() >= PARTITION_INDEX_BYTES || filter_bytes >= PARTITION_FILTER_BYTES {
            self.finish_partition()?;
        }
        Ok(())
    }

    fn finish_partition(&mut self) -> Result<()> {
        if self.index.is_empty() {
            return Ok(());
        }
        let separator = self.index.last_key().to_vec();
        let mut partition = filter::build(&mut self.hashes, self.options.filter);
        self.hashes.clear();
        let filter_len = partition.len() as u32;
        partition.extend_from_slice(&self.index.finish());
        partition.extend_from_slice(&filter_len.to_le_bytes());
        let handle = self.put_block(&partition, BlockKind::Partition, Codec::Raw)?;
        let mut value = Vec::with_capacity(12);
        handle.encode(&mut value);
        self.top.add(Entry { key: &separator, seq: 0, op: Op::Put, value: &value });
        Ok(())
    }

    fn put_block(&mut self, raw: &[u8], kind: BlockKind, codec: Codec) -> Result<Handle> {
        let offset = self.written + self.buffer.len() as u64;
        let bytes = seal(raw, kind, codec, self.uid, offset);
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

/// Filter and index of a partition.
pub(crate) fn split_partition(raw: &[u8]) -> Option<(&[u8], &[u8])> {
    let tail = raw.len().checked_sub(4)?;
    raw[..tail].split_at_checked(u32_at(raw, tail) as usize)
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
