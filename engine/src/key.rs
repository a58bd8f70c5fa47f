//! Versions of a key: the user's key, the sequence number that wrote it, and what the write was.
//!
//! Entries are ordered by key ascending, then by sequence number descending, so that walking forward meets the newest
//! version of a key first. A (key, seq) pair exists once: batches resolve their duplicates when they are sealed.

use std::cmp::Ordering;

use crate::blob::BlobHandle;
use crate::error::Result;

/// A sequence number: the index of the log entry that made a batch. 0 is before everything.
pub type Seq = u64;

/// What a version says about its key, and how its value is stored.
///
/// ```text
/// Put        value                          PutUntil   expiry: u64 ‖ value
/// Blob       handle of the value            BlobUntil  expiry: u64 ‖ handle
/// Delete     nothing
/// ```
///
/// An expiry is in milliseconds since 1970; from then on the version counts as a delete. Handles are drawn in `blob.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// The key has this value.
    Put = 0,
    /// The key is gone.
    Delete = 1,
    /// The key has this value for a time.
    PutUntil = 2,
    /// The key has a value that lies in a blob file.
    Blob = 3,
    /// The key has a value in a blob file for a time.
    BlobUntil = 4,
}

/// Bytes in front of a stored value that expires.
pub(crate) const EXPIRY_BYTES: usize = 8;

impl Op {
    /// The operation with this number.
    pub fn from_u8(value: u8) -> Option<Op> {
        match value {
            0 => Some(Op::Put),
            1 => Some(Op::Delete),
            2 => Some(Op::PutUntil),
            3 => Some(Op::Blob),
            4 => Some(Op::BlobUntil),
            _ => None,
        }
    }

    /// Whether an expiry stands in front of the stored value.
    #[inline]
    pub fn expires(self) -> bool {
        matches!(self, Op::PutUntil | Op::BlobUntil)
    }

    /// Whether the stored value is a handle.
    #[inline]
    pub fn is_blob(self) -> bool {
        matches!(self, Op::Blob | Op::BlobUntil)
    }

    /// How many bytes stand in front of the value or handle.
    #[inline]
    pub(crate) fn prefix_bytes(self) -> usize {
        if self.expires() { EXPIRY_BYTES } else { 0 }
    }
}

/// The first 16 bytes of a key, as a number that sorts like them; a shorter key is filled up with zeros. Equal heads say nothing
/// of keys that are longer, or shorter and filled up.
#[inline]
pub(crate) fn head(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let len = key.len().min(16);
    bytes[..len].copy_from_slice(&key[..len]);
    u128::from_be_bytes(bytes)
}

/// One version of one key, borrowed from wherever it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The user's key.
    pub key: &'a [u8],
    /// The sequence number of the batch that wrote it.
    pub seq: Seq,
    /// What was written.
    pub op: Op,
    /// The value as stored: see [`Op`].
    pub value: &'a [u8],
}

impl Entry<'_> {
    /// When the version expires, in milliseconds since 1970. Too short a value has expired.
    #[inline]
    pub(crate) fn expiry(&self) -> Option<u64> {
        let bytes = self.op.expires().then(|| self.value.get(..EXPIRY_BYTES))?;
        Some(bytes.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes"))))
    }

    /// Where the value lies, if that is elsewhere.
    pub(crate) fn blob_handle(&self) -> Option<Result<BlobHandle>> {
        let bytes =
            self.op.is_blob().then(|| self.value.get(self.op.prefix_bytes()..).unwrap_or_default())?;
        Some(BlobHandle::decode(bytes))
    }

    /// Whether a reader at `now` (milliseconds since 1970) finds a value.
    #[inline]
    pub(crate) fn is_live(&self, now: u64) -> bool {
        self.op != Op::Delete && self.expiry().is_none_or(|expiry| now < expiry)
    }
}

/// The order of versions: key ascending, then seq descending.
#[inline]
pub fn compare(a_key: &[u8], a_seq: Seq, b_key: &[u8], b_seq: Seq) -> Ordering {
    a_key.cmp(b_key).then(b_seq.cmp(&a_seq))
}

/// The first key after all keys that start with `prefix`; `None` when there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
