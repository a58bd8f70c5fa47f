//! What is known of a table without reading its entries: what it says of itself, and what the manifest adds.

use crate::coding::{Decoder, put_slice, put_varint};
use crate::key::{Entry, Op, Seq};

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
    /// The seq of an entry whose block says `stored`. One that no honest table has is the largest there is, which
    /// [`Table::verify`](super::reader::Table::verify) names.
    pub(crate) fn seq_of(&self, stored: Seq) -> Seq {
        self.seq_base.saturating_add(stored)
    }

    /// The oldest that its entries may be.
    pub(crate) fn min_seq(&self) -> Seq {
        self.seq_of(self.stated.min_seq)
    }

    /// The newest that its entries may be.
    pub(crate) fn max_seq(&self) -> Seq {
        self.seq_of(self.stated.max_seq)
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
    /// Those that are numbers, in the order of the format.
    fn numbers(&self) -> [(&'static str, u64); 12] {
        [
            ("uid", self.uid),
            ("entries", self.entries),
            ("deletes", self.deletes),
            ("close deletes", self.close_deletes),
            ("shadowed entries", self.shadowed),
            ("expiring entries", self.expiring),
            ("last expiry", self.expiry_max),
            ("raw bytes", self.raw_bytes),
            ("smallest seq", self.min_seq),
            ("largest seq", self.max_seq),
            ("oldest time", self.oldest_ms),
            ("newest time", self.written_ms),
        ]
    }

    /// In what these differ from others, in words.
    pub(crate) fn difference(&self, others: &Properties) -> Option<String> {
        let numbers = self.numbers().into_iter().zip(others.numbers());
        let mut differing = numbers.filter(|((_, a), (_, b))| a != b);
        let number = differing.next().map(|((name, a), (_, b))| format!("{name}: {a}, not {b}"));
        let of = |name: &str, differs: bool| differs.then(|| name.to_string());
        number
            .or_else(|| of("the smallest key", self.smallest != others.smallest))
            .or_else(|| of("the largest key", self.largest != others.largest))
            .or_else(|| of("what its entries point to in blob files", self.blobs != others.blobs))
    }

    /// Bytes of the values in blob files.
    pub(crate) fn blob_bytes(&self) -> u64 {
        self.blobs.iter().map(|(_, bytes)| bytes).sum()
    }

    /// `uid ‖ entries ‖ deletes ‖ close_deletes ‖ shadowed ‖ expiring ‖ expiry_max ‖ raw_bytes ‖ min_seq ‖ max_seq ‖ oldest_ms ‖
    /// written_ms` as varints, then the slices `smallest ‖ largest`, then the number of blob files and for each its uid and
    /// bytes, as varints.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.numbers().iter().for_each(|(_, number)| put_varint(out, *number));
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

/// Counts the entries of a table, in order and block by block: when it is written, and again when it is verified.
pub(super) struct Census {
    counted: Properties,
    /// Entries and deletes up to the end of the last block.
    before_block: (u64, u64),
}

impl Census {
    pub(super) fn new(uid: u64, times: Times) -> Census {
        let Times { oldest_ms, written_ms } = times;
        let counted = Properties { uid, oldest_ms, written_ms, min_seq: Seq::MAX, ..Properties::default() };
        Census { counted, before_block: (0, 0) }
    }

    /// Takes in an entry; `is_shadowed` says whether it comes after a newer one of its key.
    pub(super) fn add(&mut self, entry: &Entry<'_>, is_shadowed: bool) {
        let counted = &mut self.counted;
        if counted.entries == 0 {
            counted.smallest = entry.key.to_vec();
        }
        counted.entries += 1;
        counted.deletes += u64::from(entry.op == Op::Delete);
        counted.shadowed += u64::from(is_shadowed);
        if let Some(expiry) = entry.expiry() {
            counted.expiring += 1;
            counted.expiry_max = counted.expiry_max.max(expiry);
        }
        counted.raw_bytes += (entry.key.len() + entry.value.len()) as u64;
        counted.min_seq = counted.min_seq.min(entry.seq);
        counted.max_seq = counted.max_seq.max(entry.seq);
        if let Some(Ok(handle)) = entry.blob_handle() {
            match counted.blobs.binary_search_by_key(&handle.file, |(file, _)| *file) {
                Ok(at) => counted.blobs[at].1 = counted.blobs[at].1.saturating_add(handle.len as u64),
                Err(at) => counted.blobs.insert(at, (handle.file, handle.len as u64)),
            }
        }
    }

    /// Where a block ends.
    pub(super) fn end_block(&mut self) {
        let counted = &mut self.counted;
        let (entries, deletes) =
            (counted.entries - self.before_block.0, counted.deletes - self.before_block.1);
        if deletes * 2 >= entries {
            counted.close_deletes += deletes;
        }
        self.before_block = (counted.entries, counted.deletes);
    }

    /// What was counted, after the last block; `largest` is the last key.
    pub(super) fn take(&mut self, largest: &[u8]) -> Properties {
        Properties { largest: largest.to_vec(), ..std::mem::take(&mut self.counted) }
    }
}
