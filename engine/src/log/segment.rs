//! The encoding of segment headers and records; the picture is in [`log`](crate::log).

use crate::coding::{u32_at, u64_at};

/// Size of a segment's header.
pub const HEADER_BYTES: usize = 64;
/// Size of a record's header, without the kind byte.
pub const RECORD_HEADER_BYTES: usize = 24;
/// The longest record: 256 MiB. A longer length in a file is damage, and nothing is allocated for it.
pub const MAX_RECORD_BYTES: usize = 256 << 20;

const MAGIC: u64 = u64::from_le_bytes(*b"LMNLOG01");
const FORMAT: u32 = 1;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A batch of the engine's own write path.
    Batch = 1,
    /// An entry of a database's journal.
    Entry = 2,
    /// A record of a replicated log.
    Raft = 3,
    /// Written at an orderly close: nothing follows.
    Seal = 7,
    /// Carries nothing but `synced`: vouches for the records before it.
    Vouch = 8,
    /// One change of the manifest.
    Edit = 16,
    /// The whole state of the manifest.
    Snapshot = 17,
}

impl Kind {
    /// The kind with this number.
    pub fn from_u8(value: u8) -> Option<Kind> {
        Some(match value {
            1 => Kind::Batch,
            2 => Kind::Entry,
            3 => Kind::Raft,
            7 => Kind::Seal,
            8 => Kind::Vouch,
            16 => Kind::Edit,
            17 => Kind::Snapshot,
            _ => return None,
        })
    }
}

/// A segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub tag: u32,
    pub number: u64,
    pub first_seq: u64,
    pub uuid: [u8; 16],
    pub previous_len: u64,
    pub previous_crc: u32,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.tag.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_seq.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.uuid);
        bytes[48..56].copy_from_slice(&self.previous_len.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.previous_crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Header, &'static str> {
        if bytes.len() < HEADER_BYTES {
            return Err("the file is shorter than a segment header");
        }
        if u64_at(bytes, 0) != MAGIC {
            return Err("the magic number of a log segment is missing");
        }
        if crc32fast::hash(&bytes[..60]) != u32_at(bytes, 60) {
            return Err("the checksum of the segment header does not match");
        }
        if u32_at(bytes, 8) != FORMAT {
            return Err("the segment is of a format this version does not know");
        }
        Ok(Header {
            tag: u32_at(bytes, 12),
            number: u64_at(bytes, 16),
            first_seq: u64_at(bytes, 24),
            uuid: bytes[32..48].try_into().expect("sixteen bytes"),
            previous_len: u64_at(bytes, 48),
            previous_crc: u32_at(bytes, 56),
        })
    }
}

/// One record as read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub crc: u32,
    pub seq: u64,
    /// Bytes of this segment known durable when the record was encoded.
    pub synced: u64,
    pub kind: u8,
    pub payload: &'a [u8],
    /// Where the next record starts, from the start of the segment.
    pub end: usize,
}

/// Bytes that a record with this payload takes in the file.
pub(super) fn record_len(payload: usize) -> usize {
    (RECORD_HEADER_BYTES + 1 + payload).next_multiple_of(8)
}

/// Appends a record; `payload` is given in parts, so that callers need not join them first.
pub(super) fn encode_record(
    out: &mut Vec<u8>,
    tag: u32,
    synced: u64,
    seq: u64,
    kind: Kind,
    payload: &[&[u8]],
) -> u32 {
    let start = out.len();
    let len = 1 + payload.iter().map(|part| part.len()).sum::<usize>();
    debug_assert_eq!(synced % 8, 0);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(&((synced / 8) as u32).to_le_bytes());
    out.extend_from_slice(&seq.to_le_bytes());
    out.push(kind as u8);
    for part in payload {
        out.extend_from_slice(part);
    }
    let crc = crc32fast::hash(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + record_len(len - 1), 0);
    crc
}

/// The record at `at`, if a valid one of this segment is there.
pub(super) fn decode_record(segment: &[u8], at: usize, tag: u32) -> Option<Record<'_>> {
    let header = segment.get(at..at + RECORD_HEADER_BYTES)?;
    if u32_at(header, 8) != tag {
        return None;
    }
    let len = u32_at(header, 4) as usize;
    if len == 0 || len > MAX_RECORD_BYTES || len > segment.len() - at - RECORD_HEADER_BYTES {
        return None;
    }
    let body_end = at + RECORD_HEADER_BYTES + len;
    let crc = u32_at(header, 0);
    if crc32fast::hash(&segment[at + 4..body_end]) != crc {
        return None;
    }
    Some(Record {
        crc,
        seq: u64_at(header, 16),
        synced: u64::from(u32_at(header, 12)) * 8,
        kind: segment[at + RECORD_HEADER_BYTES],
        payload: &segment[at + RECORD_HEADER_BYTES + 1..body_end],
        end: at + record_len(len - 1),
    })
}
