//! Block trailers and the footer; the picture is in [`table`](crate::table).

use std::borrow::Cow;

use crate::coding::{Decoder, put_varint, u32_at, u64_at};

/// Size of the footer.
pub(crate) const FOOTER_BYTES: usize = 64;
/// Size of a block's trailer.
pub(crate) const TRAILER_BYTES: usize = 12;
const MAGIC: u64 = u64::from_le_bytes(*b"LMNSST01");
const FORMAT: u32 = 1;
/// A block longer than this when unpacked is damage: one value (128 MiB) and its key fit.
const RAW_BYTES_MAX: usize = 160 << 20;

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BlockKind {
    Data = 1,
    Partition = 2,
    Index = 3,
    Properties = 4,
    Blob = 5,
}

/// How a block is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Codec {
    Raw = 0,
    Lz4 = 1,
    Zstd = 2,
}

/// Where a block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle {
    pub offset: u64,
    /// With the trailer.
    pub len: usize,
}

impl Handle {
    /// The value of an index entry: `varint offset ‖ varint length`.
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        put_varint(out, self.offset);
        put_varint(out, self.len as u64);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Handle> {
        let mut decoder = Decoder::new(bytes);
        Some(Handle { offset: decoder.varint()?, len: decoder.length()? })
    }

    /// Where the block ends, if that is at most `limit`.
    pub(crate) fn end(self, limit: u64) -> Option<u64> {
        self.offset.checked_add(self.len as u64).filter(|&end| end <= limit)
    }
}

fn context(uid: u64, offset: u64) -> u32 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&uid.to_le_bytes());
    bytes[8..].copy_from_slice(&offset.to_le_bytes());
    crc32fast::hash(&bytes)
}

/// Packs a block for its place. A packed form is kept only if it saves an eighth (as RocksDB decides).
pub(crate) fn seal(raw: &[u8], kind: BlockKind, codec: Codec, uid: u64, offset: u64) -> Vec<u8> {
    let packed = match codec {
        Codec::Raw => None,
        Codec::Lz4 => Some(lz4_flex::block::compress(raw)),
        Codec::Zstd => zstd::bulk::compress(raw, 1).ok(),
    };
    let (mut out, codec) = match packed {
        Some(packed) if packed.len() + raw.len() / 8 <= raw.len() => (packed, codec),
        _ => (raw.to_vec(), Codec::Raw),
    };
    out.extend_from_slice(&[codec as u8, kind as u8, 0, 0]);
    out.extend_from_slice(&(raw.len() as u32).to_le_bytes());
    let check = crc32fast::hash(&out) ^ context(uid, offset);
    out.extend_from_slice(&check.to_le_bytes());
    out
}

/// Checks and unpacks a block read from `offset`.
pub(crate) fn open(
    bytes: &[u8],
    kind: BlockKind,
    uid: u64,
    offset: u64,
) -> Result<Vec<u8>, Cow<'static, str>> {
    let checked = bytes.len().checked_sub(4).ok_or("the block is too short")?;
    let payload = checked.checked_sub(TRAILER_BYTES - 4).ok_or("the block is too short")?;
    let (expected, found) =
        (u32_at(bytes, checked), crc32fast::hash(&bytes[..checked]) ^ context(uid, offset));
    if expected != found {
        return Err(format!("block checksum is {found:08x}, expected {expected:08x}").into());
    }
    if bytes[payload + 1] != kind as u8 {
        return Err(format!("block of kind {} where {} was expected", bytes[payload + 1], kind as u8).into());
    }
    let raw_len = u32_at(bytes, payload + 4) as usize;
    if raw_len > RAW_BYTES_MAX {
        return Err(format!("block claims {raw_len} bytes").into());
    }
    let raw = match bytes[payload] {
        0 => bytes[..payload].to_vec(),
        1 => lz4_flex::block::decompress(&bytes[..payload], raw_len).map_err(|error| error.to_string())?,
        2 => zstd::bulk::decompress(&bytes[..payload], raw_len).map_err(|error| error.to_string())?,
        other => return Err(format!("unknown codec {other}").into()),
    };
    if raw.len() != raw_len {
        return Err(format!("block unpacks to {} bytes, expected {raw_len}", raw.len()).into());
    }
    Ok(raw)
}

/// How a block as read says that it is packed, for people.
pub(crate) fn codec_name(bytes: &[u8]) -> &'static str {
    match bytes.len().checked_sub(TRAILER_BYTES).map(|codec| bytes[codec]) {
        Some(0) => "raw",
        Some(1) => "lz4",
        Some(2) => "zstd",
        _ => "unknown codec",
    }
}

/// The end of a table file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    pub uid: u64,
    pub index: Handle,
    pub properties: Handle,
}

impl Footer {
    pub(crate) fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[0..8].copy_from_slice(&self.uid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.index.offset.to_le_bytes());
        bytes[16..20].copy_from_slice(&(self.index.len as u32).to_le_bytes());
        bytes[20..24].copy_from_slice(&(self.properties.len as u32).to_le_bytes());
        bytes[24..32].copy_from_slice(&self.properties.offset.to_le_bytes());
        bytes[44..48].copy_from_slice(&FORMAT.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..52]);
        bytes[52..56].copy_from_slice(&crc.to_le_bytes());
        bytes[56..64].copy_from_slice(&MAGIC.to_le_bytes());
        bytes
    }

    /// `file_len` bounds the handles.
    pub(crate) fn decode(bytes: &[u8; FOOTER_BYTES], file_len: u64) -> Result<Footer, &'static str> {
        if u64_at(bytes, 56) != MAGIC {
            return Err("the magic number of a table is missing");
        }
        if crc32fast::hash(&bytes[..52]) != u32_at(bytes, 52) {
            return Err("the checksum of the footer does not match");
        }
        if u32_at(bytes, 44) != FORMAT {
            return Err("the table is of a format this version does not know");
        }
        let handle = |offset: usize, len: usize| {
            let handle = Handle { offset: u64_at(bytes, offset), len: u32_at(bytes, len) as usize };
            handle.end(file_len - FOOTER_BYTES as u64).map(|_| handle)
        };
        match (handle(8, 16), handle(24, 20)) {
            (Some(index), Some(properties)) => Ok(Footer { uid: u64_at(bytes, 0), index, properties }),
            _ => Err("a block lies outside the file"),
        }
    }
}
