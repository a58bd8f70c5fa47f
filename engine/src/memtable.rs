//! The newest entries, sorted in memory: a concurrent skip list (crossbeam-skiplist).
//!
//! crossbeam-skiplist 0.1.3 leaks a node that is replaced by an equal key. Entries are therefore unique by (key, seq):
//! batches drop their duplicates, and each batch has a seq of its own.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use crossbeam_skiplist::SkipMap;
use crossbeam_skiplist::map::Entry as Node;
use parking_lot::RwLock;

use crate::batch::Operation;
use crate::cursor::Cursor;
use crate::error::Result;
use crate::key::{self, Entry, Op, Seq};
use crate::range_delete::{RangeDelete, RangeDeletes, WAITING};
use crate::slice::Found;

/// Estimated bytes that the list itself takes for an entry: node, tower, box.
const ENTRY_OVERHEAD_BYTES: usize = 112;

/// A version as it lies in its node: the first bytes of the key are beside the tower, so that most comparisons on the way
/// down touch one cache line and no other allocation. Key and value are one allocation.
struct Version {
    head: u128,
    seq: Seq,
    /// Key, then value as stored.
    bytes: Box<[u8]>,
    key_len: u32,
    op: Op,
}

impl Version {
    fn new(seq: Seq, op: Op, key: &[u8], prefix: &[u8], value: &[u8]) -> Version {
        let mut bytes = Vec::with_capacity(key.len() + prefix.len() + value.len());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(prefix);
        bytes.extend_from_slice(value);
        Version { head: head(key), seq, bytes: bytes.into(), key_len: key.len() as u32, op }
    }

    fn key(&self) -> &[u8] {
        &self.bytes[..self.key_len as usize]
    }

    fn value(&self) -> &[u8] {
        &self.bytes[self.key_len as usize..]
    }
}

/// The first 16 bytes of a key, as a number that sorts like them; a shorter key is filled up with zeros.
fn head(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let len = key.len().min(16);
    bytes[..len].copy_from_slice(&key[..len]);
    u128::from_be_bytes(bytes)
}

/// A place in the order, owned or borrowed, so that look-ups allocate nothing.
trait Place {
    fn head(&self) -> u128;
    fn rest(&self) -> (&[u8], Seq);
}

impl Place for Version {
    #[inline]
    fn head(&self) -> u128 {
        self.head
    }

    #[inline]
    fn rest(&self) -> (&[u8], Seq) {
        (self.key(), self.seq)
    }
}

/// A place that is looked for.
struct Wanted<'a> {
    head: u128,
    key: &'a [u8],
    seq: Seq,
}

impl<'a> Wanted<'a> {
    fn new(key: &'a [u8], seq: Seq) -> Wanted<'a> {
        Wanted { head: head(key), key, seq }
    }
}

impl Place for Wanted<'_> {
    fn head(&self) -> u128 {
        self.head
    }

    fn rest(&self) -> (&[u8], Seq) {
        (self.key, self.seq)
    }
}

#[inline]
fn order<A: Place + ?Sized, B: Place + ?Sized>(a: &A, b: &B) -> Ordering {
    // Equal heads say nothing of keys that are longer, or shorter and filled up.
    a.head().cmp(&b.head()).then_with(|| {
        let (a, b) = (a.rest(), b.rest());
        key::compare(a.0, a.1, b.0, b.1)
    })
}

impl PartialEq for dyn Place + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for dyn Place + '_ {}

impl PartialOrd for dyn Place + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Place + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self, other)
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self, other)
    }
}

impl<'a> Borrow<dyn Place + 'a> for Version {
    fn borrow(&self) -> &(dyn Place + 'a) {
        self
    }
}

/// The newest entries. Inserted into by one writer at a time, read by anybody.
pub(crate) struct Memtable {
    map: SkipMap<Version, ()>,
    ranges: RwLock<RangeDeletes>,
    has_ranges: AtomicBool,
    /// Whether any entry expires.
    expires: AtomicBool,
    bytes: AtomicUsize,
    entries: AtomicU64,
}

impl Memtable {
    pub(crate) fn new() -> Memtable {
        Memtable {
            map: SkipMap::new(),
            ranges: RwLock::default(),
            has_ranges: AtomicBool::new(false),
            expires: AtomicBool::new(false),
            bytes: AtomicUsize::new(0),
            entries: AtomicU64::new(0),
        }
    }

    /// Inserts the operations of one batch; keys in it are unique.
    pub(crate) fn insert(&self, seq: Seq, operations: &[Operation<'_>]) {
        let mut bytes = 0;
        for operation in operations {
            let version = match *operation {
                Operation::Put(key, value) => Version::new(seq, Op::Put, key, &[], value),
                Operation::PutUntil(key, value, expiry) => {
                    self.expires.store(true, Relaxed);
                    Version::new(seq, Op::PutUntil, key, &expiry.to_le_bytes(), value)
                }
                Operation::Delete(key) => Version::new(seq, Op::Delete, key, &[], &[]),
                Operation::DeleteRange(start, end) => {
                    bytes += start.len() + end.len() + ENTRY_OVERHEAD_BYTES;
                    self.ranges.write().push(RangeDelete {
                        start: start.into(),
                        end: end.into(),
                        seq,
                        floor: WAITING,
                    });
                    self.has_ranges.store(true, Relaxed);
                    continue;
                }
            };
            bytes += version.bytes.len() + ENTRY_OVERHEAD_BYTES;
            self.map.insert(version, ());
        }
        self.bytes.fetch_add(bytes, Relaxed);
        self.entries.fetch_add(operations.len() as u64, Relaxed);
    }

    /// The newest version of `key` with a seq of at most `at`.
    pub(crate) fn get(&self, key: &[u8], at: Seq) -> Option<Found> {
        let from: &dyn Place = &Wanted::new(key, at);
        let node = self.map.lower_bound(Bound::Included(from))?;
        let version = node.key();
        (version.key() == key).then(|| Found::owned(version.seq, version.op, version.value().to_vec()))
    }

    pub(crate) fn range_deletes(&self) -> RangeDeletes {
        self.ranges.read().clone()
    }

    /// Whether any entry expires.
    pub(crate) fn expires(&self) -> bool {
        self.expires.load(Relaxed)
    }

    /// The seq of the newest range delete over `key` that a reader at `at` sees.
    #[inline]
    pub(crate) fn range_deleted(&self, key: &[u8], at: Seq) -> Option<Seq> {
        if self.has_ranges.load(Relaxed) { self.ranges.read().newest_over(key, at) } else { None }
    }

    /// Bytes it takes, estimated.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.load(Relaxed) == 0
    }

    pub(crate) fn cursor(&self) -> MemtableCursor<'_> {
        MemtableCursor { map: &self.map, node: None }
    }
}

/// Walks a memtable. Entries inserted meanwhile may or may not be met; the reader filters by seq.
pub(crate) struct MemtableCursor<'a> {
    map: &'a SkipMap<Version, ()>,
    node: Option<Node<'a, Version, ()>>,
}

impl Cursor for MemtableCursor<'_> {
    fn seek_first(&mut self) -> Result<()> {
        self.node = self.map.front();
        Ok(())
    }

    fn seek_last(&mut self) -> Result<()> {
        self.node = self.map.back();
        Ok(())
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        let from: &dyn Place = &Wanted::new(key, Seq::MAX);
        self.node = self.map.lower_bound(Bound::Included(from));
        Ok(())
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        let to: &dyn Place = &Wanted::new(key, Seq::MAX);
        // (key, MAX) sorts before every version of key, and no version has that seq.
        self.node = self.map.upper_bound(Bound::Excluded(to));
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.node = self.node.as_ref().and_then(Node::next);
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        self.node = self.node.as_ref().and_then(Node::prev);
        Ok(())
    }

    fn entry(&self) -> Option<Entry<'_>> {
        let version = self.node.as_ref()?.key();
        Some(Entry { key: version.key(), seq: version.seq, op: version.op, value: version.value() })
    }
}
