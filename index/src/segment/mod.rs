//! A segment: many documents, inverted, immutable, in one file.
//!
//! ```text
//! file     │ header │ POST │ DICT │ TERMS │ PLACES │ NORM │ UID │ KEYS │ COL_f ZONE_f KDICT_f … │ footer │ trailer │
//! header   │ "LIX1" │ version: u16 │ flags: u16 = 0 │ crc32 of these 8 bytes: u32 │
//! footer   │ docs: u32 │ min_uid: u64 │ max_uid: u64 │ terms: u64 │
//!          │ fields: varint │ (name_len: varint, name, kind: u8, indexed | fast << 1: u8) per field │
//!          │ sections: varint │ (id: u8, field: u16, offset: u64, len: u64) per section │
//!          │ chunks: varint │ crc32: u32 per chunk of 64 KiB from the file's start to the footer's │
//! trailer  │ footer_offset: u64 │ footer_len: u64 │ crc32 of footer and the 16 bytes before: u32 │ "1XIL" │
//! ```
//! A chunk's checksum covers its number too, so that chunks cannot change places. Header, footer and UID are verified
//! when the file is opened, DICT when a term is first looked up, every other chunk when it is first touched: opening does not read the file, and no damaged
//! byte is ever served.
//!
//! ```text
//! POST     posting lists, each followed by its positions (`postings/mod.rs`): one pass can write them to a stream
//! DICT, TERMS, PLACES  the transducer from term to number, and each one's df and place (`dictionary.rs`)
//! NORM     one byte per document for each normed field       · UID     u64 per document, ascending
//! KEYS     end: u32 per document, then the bytes             · COL_f, ZONE_f, KDICT_f  columns (`columns.rs`)
//! ```

pub(crate) mod builder;
pub(crate) mod columns;
pub(crate) mod dictionary;
pub(crate) mod reader;
mod verify;

/// First bytes of a file.
pub(crate) const MAGIC: [u8; 4] = *b"LIX1";
/// Last bytes of a file.
pub(crate) const MAGIC_END: [u8; 4] = *b"1XIL";
/// The version written and read.
pub(crate) const VERSION: u16 = 1;
pub(crate) const HEADER_BYTES: usize = 12;
pub(crate) const TRAILER_BYTES: usize = 24;
/// Bytes under one checksum.
pub(crate) const CHUNK_BYTES: usize = 1 << 16;

pub(crate) const POST: u8 = 1;
pub(crate) const DICT: u8 = 2;
pub(crate) const TERMS: u8 = 3;
pub(crate) const NORM: u8 = 4;
pub(crate) const UID: u8 = 5;
pub(crate) const KEYS: u8 = 6;
pub(crate) const COL: u8 = 7;
pub(crate) const ZONES: u8 = 8;
pub(crate) const KDICT: u8 = 9;
pub(crate) const PLACES: u8 = 10;

/// Where a section stands in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// What a written segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Documents.
    pub docs: u32,
    /// The smallest uid.
    pub min_uid: u64,
    /// The largest uid.
    pub max_uid: u64,
    /// Distinct terms, over all fields.
    pub terms: u64,
    /// Size of the file.
    pub bytes: u64,
}

/// The checksum of chunk `number`.
pub(crate) fn chunk_crc(number: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}
