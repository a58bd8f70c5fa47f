//! Versions of a key: the user's key, the sequence number that wrote it, and what the write was.
//!
//! Entries are ordered by key ascending, then by sequence number descending, so that walking forward meets the newest
//! version of a key first. A (key, seq) pair exists once: batches resolve their duplicates when they are sealed.

use std::cmp::Ordering;

/// A sequence number: the index of the log entry that made a batch. 0 is before everything.
pub type Seq = u64;

/// What a version says about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// The key has this value.
    Put = 0,
    /// The key is gone.
    Delete = 1,
}

impl Op {
    /// The operation with this number.
    pub fn from_u8(value: u8) -> Option<Op> {
        match value {
            0 => Some(Op::Put),
            1 => Some(Op::Delete),
            _ => None,
        }
    }
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
    /// The value; empty for a delete.
    pub value: &'a [u8],
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
