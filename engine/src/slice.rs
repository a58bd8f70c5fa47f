//! A value as a read hands it out: bytes of its own, or a part of a cached block.

use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::key::{Entry, Op, Seq};
use crate::table::block::Block;

/// A value under this size is copied, so that ten held bytes do not keep a whole block in memory.
const COPY_BYTES: usize = 64;

/// Bytes that were read. Dereferences to `[u8]`; cheap to keep, but a large one holds its block in memory.
#[derive(Clone)]
pub struct Slice(Repr);

#[derive(Clone)]
enum Repr {
    Owned(Vec<u8>),
    Block(Arc<Block>, Range<usize>),
}

impl From<Vec<u8>> for Slice {
    fn from(bytes: Vec<u8>) -> Slice {
        Slice(Repr::Owned(bytes))
    }
}

impl Slice {
    pub(crate) fn owned(bytes: Vec<u8>) -> Slice {
        Slice(Repr::Owned(bytes))
    }

    fn in_block(block: Arc<Block>, range: Range<usize>) -> Slice {
        if range.len() < COPY_BYTES {
            return Slice::owned((*block).as_ref()[range].to_vec());
        }
        Slice(Repr::Block(block, range))
    }

    /// Without the first `count` bytes, or as many as there are.
    fn without(self, count: usize) -> Slice {
        match self.0 {
            _ if count == 0 => self,
            Repr::Owned(mut bytes) => {
                bytes.drain(..count.min(bytes.len()));
                Slice::owned(bytes)
            }
            Repr::Block(block, range) => {
                Slice::in_block(block, range.end.min(range.start + count)..range.end)
            }
        }
    }

    /// The bytes as a vector; copies unless the slice has bytes of its own.
    pub fn into_vec(self) -> Vec<u8> {
        match self.0 {
            Repr::Owned(bytes) => bytes,
            Repr::Block(block, range) => (*block).as_ref()[range].to_vec(),
        }
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Owned(bytes) => bytes,
            Repr::Block(block, range) => &(**block).as_ref()[range.clone()],
        }
    }
}

impl std::fmt::Debug for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self))
    }
}

impl PartialEq<[u8]> for Slice {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

/// The version of a key that a look-up met, its value as stored.
pub(crate) struct Found {
    pub(crate) seq: Seq,
    pub(crate) op: Op,
    stored: Slice,
}

impl Found {
    pub(crate) fn owned(seq: Seq, op: Op, stored: Vec<u8>) -> Found {
        Found { seq, op, stored: Slice::owned(stored) }
    }

    pub(crate) fn in_block(seq: Seq, op: Op, block: &Arc<Block>, range: Range<usize>) -> Found {
        Found { seq, op, stored: Slice::in_block(block.clone(), range) }
    }

    /// Whether a reader at `now` finds a value.
    pub(crate) fn is_live(&self, now: u64) -> bool {
        Entry { key: &[], seq: self.seq, op: self.op, value: &self.stored }.is_live(now)
    }

    /// The value, or the handle of it.
    pub(crate) fn into_value(self) -> Slice {
        self.stored.without(self.op.prefix_bytes())
    }
}
