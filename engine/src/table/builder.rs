//! Entries in, table file out.

use std::path::Path;
use std::sync::Arc;

use crate::coding::{Decoder, put_slice, put_varint, u32_at};
use crate::error::{Error, Result};
use crate::key::{Entry, Op, Seq};
use crate::log::sync_failed;
use crate::table::block::BlockBuilder;
use crate::table::filter::{self, FilterKind};
use crate::table::footer::{BlockKind, Codec, Footer, Handle, seal};
use crate::vfs::{File, Mode, Vfs};

/// What the manifest keeps about a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableMeta {
    /// The file's number.
    pub number: u64,
    /// Added to the seq of every entry: a table that was built elsewhere gets its place in time when it is taken in.
    pub seq_base: Seq,
    /// Bytes of the file.
    pub len: u64,
    /// What the file itself says.
    pub stated: Properties,
}

/// What a table says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    /// Random; ties the blocks to this file.
    pub uid: u64,
    /// Entries, deletes among them.
    pub entries: u64,
    /// Deletes.
    pub deletes: u64,
    /// Of those, the ones in blocks of which they are at least half.
    pub close_deletes: u64,
    /// Entries after a newer one of the same key.
    pub shadowed: u64,
    /// Entries that expire.
    pub expiring: u64,
    /// When the last of them expires, in milliseconds since 1970.
    pub expiry_max: u64,
    /// Bytes of keys and values as written, before prefixes and compression.
    pub raw_bytes: u64,
    /// Smallest seq, without the base.
    pub min_seq: Seq,
    /// Largest seq, without the base.
    pub max_seq: Seq,
    /// When the oldest entry was flushed, in milliseconds since 1970.
    pub oldest_ms: u64,
    /// When the newest entry was.
    pub written_ms: u64,
    /// Smallest key.
    pub smallest: Vec<u8>,
    /// Largest key.
    pub largest: Vec<u8>,
    /// Blob files that its entries point into: uid, and bytes of what they point to; ascending.
    pub blobs: Vec<(u64, u64)>,
}

impl std::ops::Deref for TableMeta {
    type Target = Properties;

    fn deref(&self) -> &Properties {
        &self.stated
    }
}

impl TableMeta {
    /// The oldest that its entries may be.
    pub(crate) fn min_seq(&self) -> Seq {
        self.seq_base + self.stated.min_seq
    }

    /// The newest that its entries may be.
    pub(crate) fn max_seq(&self) -> Seq {
        self.seq_base + self.stated.max_seq
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.number);
        put_varint(out, self.seq_base);
        put_varint(out, self.len);
        self.stated.encode(out);
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Option<TableMeta> {
        let meta = TableMeta {
            number: decoder.varint()?,
            seq_base: decoder.varint()?,
            len: decoder.varint()?,
            stated: Properties::decode(decoder)?,
        };
        meta.seq_base.checked_add(meta.stated.max_seq)?;
        Some(meta)
    }
}

impl Properties {
    /// Bytes of the values in blob files.
    pub(crate) fn blob_bytes(&self) -> u64 {
        self.blobs.iter().map(|(_, bytes)| bytes).sum()
    }

    /// `uid ‖ entries ‖ deletes ‖ close_deletes ‖ shadowed ‖ expiring ‖ expiry_max ‖ raw_bytes ‖ min_seq ‖ max_seq ‖ oldest_ms ‖
    /// written_ms` as varints, then the slices `smallest ‖ largest`, then the number of blob files and for each its uid and
    /// bytes, as varints.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for value in [
            self.uid,
            self.entries,
            self.deletes,
            self.close_deletes,
            self.shadowed,
            self.expiring,
            self.expiry_max,
            self.raw_bytes,
            self.min_seq,
            self.max_seq,
            self.oldest_ms,
            self.written_ms,
        ] {
            put_varint(out, value);
        }
        put_slice(out, &self.smallest);
        put_slice(out, &self.largest);
        put_varint(out, self.blobs.len() as u64);
        for (file, bytes) in &self.blobs {
            put_varint(out, *file);
            put_varint(out, *bytes);
        }
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Option<Properties> {
        let mut properties = Properties {
            uid: decoder.varint()?,
            entries: decoder.varint()?,
            deletes: decoder.varint()?,
            close_deletes: decoder.varint()?,
            shadowed: decoder.varint()?,
            expiring: decoder.varint()?,
            expiry_max: decoder.varint()?,
            raw_bytes: decoder.varint()?,
            min_seq: decoder.varint()?,
            max_seq: decoder.varint()?,
            oldest_ms: decoder.varint()?,
            written_ms: decoder.varint()?,
            smallest: decoder.slice()?.to_vec(),
            largest: decoder.slice()?.to_vec(),
            blobs: Vec::new(),
        };
        for _ in 0..decoder.varint()? {
            properties.blobs.push((decoder.varint()?, decoder.varint()?));
        }
        Some(properties)
    }
}

/// How a table is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TableOptions {
    pub block_bytes: usize,
    pub filter: FilterKind,
    pub codec: Codec,
    pub times: Times,
}

/// When the oldest and the newest of a table's entries were flushed, in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub oldest_ms: u64,
    pub written_ms: u64,
}

impl Times {
    /// Of what is flushed now.
    pub(crate) fn of_flush(now: u64) -> Times {
        Times { oldest_ms: now, written_ms: now }
    }

    /// Of what these tables hold.
    pub(crate) fn of<'a>(tables: impl Iterator<Item = &'a TableMeta>) -> Times {
        let start = Times { oldest_ms: u64::MAX, written_ms: 0 };
        tables.fold(start, |times, meta| Times {
            oldest_ms: times.oldest_ms.min(meta.oldest_ms),
            written_ms: times.written_ms.max(meta.written_ms),
        })
    }
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
    stated: Properties,
    block: BlockBuilder,
    /// The index of the partition that is being written.
    index: BlockBuilder,
    top: BlockBuilder,
    /// The last key of a finished block and its handle, until the next key tells how short the separator may be.
    pending: Option<(Vec<u8>, Handle)>,
    /// Entries and deletes of the block that is being written.
    in_block: (u64, u64),
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
        let stated = Properties {
            uid,
            min_seq: Seq::MAX,
            oldest_ms: options.times.oldest_ms,
            written_ms: options.times.written_ms,
            ..Properties::default()
        };
        Ok(TableBuilder {
            file,
            path: path.to_path_buf(),
            number,
            options,
            stated,
            block: BlockBuilder::data(),
            index: BlockBuilder::index(),
            top: BlockBuilder::index(),
            pending: None,
            in_block: (0, 0),
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
        let is_delete = u64::from(entry.op == Op::Delete);
        self.in_block = (self.in_block.0 + 1, self.in_block.1 + is_delete);
        let stated = &mut self.stated;
        stated.shadowed += u64::from(is_shadowed);
        if stated.entries == 0 {
            stated.smallest = entry.key.to_vec();
        }
        stated.entries += 1;
        stated.deletes += is_delete;
        if let Some(expiry) = entry.expiry() {
            stated.expiring += 1;
            stated.expiry_max = stated.expiry_max.max(expiry);
        }
        stated.raw_bytes += (entry.key.len() + entry.value.len()) as u64;
        stated.min_seq = stated.min_seq.min(entry.seq);
        stated.max_seq = stated.max_seq.max(entry.seq);
        self.hashes.push(filter::hash(entry.key));
        self.block.add(entry);
        if self.block.size() >= self.options.block_bytes {
            self.finish_block()?;
        }
        Ok(())
    }

    /// Notes that an entry points to `bytes` bytes of a blob file.
    pub(crate) fn points_into(&mut self, file: u64, bytes: u64) {
        let blobs = &mut self.stated.blobs;
        match blobs.binary_search_by_key(&file, |(file, _)| *file) {
            Ok(at) => blobs[at].1 += bytes,
            Err(at) => blobs.insert(at, (file, bytes)),
        }
    }

    /// Bytes so far.
    pub(crate) fn size(&self) -> u64 {
        self.written + self.buffer.len() as u64 + self.block.size() as u64
    }

    /// Writes the rest, syncs, and says what the manifest should know. At least one entry was added.
    pub(crate) fn finish(mut self) -> Result<TableMeta> {
        assert!(self.stated.entries > 0, "an empty table is never written");
        self.stated.largest = if self.block.is_empty() {
            self.pending.as_ref().expect("a block").0.clone()
        } else {
            self.block.last_key().to_vec()
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
        let mut properties = Vec::new();
        self.stated.encode(&mut properties);
        let properties = self.put_block(&properties, BlockKind::Properties, Codec::Raw)?;
        let footer = Footer { uid: self.stated.uid, index, properties };
        self.buffer.extend_from_slice(&footer.encode());
        self.write_out()?;
        self.file.sync().map_err(|e| sync_failed(&self.path, &e.0))?;
        Ok(TableMeta { number: self.number, seq_base: 0, len: self.written, stated: self.stated })
    }

    fn finish_block(&mut self) -> Result<()> {
        let (entries, deletes) = std::mem::take(&mut self.in_block);
        if deletes * 2 >= entries {
            self.stated.close_deletes += deletes;
        }
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
        let bytes = seal(raw, kind, codec, self.stated.uid, offset);
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
