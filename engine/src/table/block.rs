//! A block of sorted entries.
//!
//! ```text
//! │ common prefix │ keys │ values │ restarts │ tail, 20 bytes │
//!
//! keys, each:     shared: varint │ unshared: varint │ op: u8 │ seq - base: varint │ value_len: varint │ unshared bytes
//! values:         one after the other
//! restarts, each: key_offset: u32 │ value_offset: u32 │ head: u32
//! tail:           entries: u32 │ restarts: u16 │ 0: u16 │ common_len: u16 │ interval: u8 │ 0: u8 │ base_seq: u64
//! ```
//!
//! All keys start with the common prefix, which is stored once; `shared` counts bytes after it. Every 16th entry (in an
//! index, every one) shares nothing (a restart), and its head is the first four bytes after the common prefix, big-endian: a search compares the
//! prefix once, then integers. Entries of one key follow one another, the newest first.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use crate::coding::{Decoder, put_varint, u32_at, u64_at};
use crate::key::{Entry, Op, Seq};

const TAIL_BYTES: usize = 20;
const RESTART_BYTES: usize = 12;
/// Entries from one restart to the next, in a data block.
const INTERVAL: usize = 16;

fn head(key: &[u8]) -> u32 {
    let mut bytes = [0; 4];
    let len = key.len().min(4);
    bytes[..len].copy_from_slice(&key[..len]);
    u32::from_be_bytes(bytes)
}

fn common_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// Collects entries and encodes them.
pub(crate) struct BlockBuilder {
    interval: usize,
    keys: Vec<u8>,
    values: Vec<u8>,
    entries: Vec<Pending>,
}

struct Pending {
    key: Range<usize>,
    value_len: usize,
    seq: Seq,
    op: Op,
}

impl BlockBuilder {
    /// For a data block, which is small.
    pub(crate) fn data() -> BlockBuilder {
        BlockBuilder { interval: INTERVAL, keys: Vec::new(), values: Vec::new(), entries: Vec::new() }
    }

    /// For an index, which is quick to search.
    pub(crate) fn index() -> BlockBuilder {
        BlockBuilder { interval: 1, ..BlockBuilder::data() }
    }

    /// Adds an entry; keys ascend, and of one key the seqs descend.
    pub(crate) fn add(&mut self, entry: Entry<'_>) {
        debug_assert!(self.entries.is_empty() || self.last_key() <= entry.key, "keys must ascend");
        let start = self.keys.len();
        self.keys.extend_from_slice(entry.key);
        self.values.extend_from_slice(entry.value);
        self.entries.push(Pending {
            key: start..self.keys.len(),
            value_len: entry.value.len(),
            seq: entry.seq,
            op: entry.op,
        });
    }

    /// Bytes of the block, about.
    pub(crate) fn size(&self) -> usize {
        self.keys.len() + self.values.len() + self.entries.len() * (6 + RESTART_BYTES / self.interval)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The key added last; the builder must not be empty.
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.keys[self.entries.last().expect("an entry").key.clone()]
    }

    /// The encoded block; the builder is empty afterwards.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let first = &self.keys[self.entries.first().map_or(0..0, |e| e.key.clone())];
        let last = &self.keys[self.entries.last().map_or(0..0, |e| e.key.clone())];
        let common = common_len(first, last).min(u16::MAX as usize);
        let base = self.entries.iter().map(|entry| entry.seq).min().unwrap_or(0);
        let mut out = Vec::with_capacity(self.size() + TAIL_BYTES + self.entries.len());
        out.extend_from_slice(&first[..common]);
        let mut restarts = Vec::new();
        let mut previous: &[u8] = &[];
        let mut value_at = 0;
        for (index, entry) in self.entries.iter().enumerate() {
            let key = &self.keys[entry.key.clone()][common..];
            let shared = if index % self.interval == 0 {
                restarts.push((out.len() as u32, value_at as u32, head(key)));
                0
            } else {
                common_len(previous, key)
            };
            put_varint(&mut out, shared as u64);
            put_varint(&mut out, (key.len() - shared) as u64);
            out.push(entry.op as u8);
            put_varint(&mut out, entry.seq - base);
            put_varint(&mut out, entry.value_len as u64);
            out.extend_from_slice(&key[shared..]);
            value_at += entry.value_len;
            previous = key;
        }
        let values_start = out.len() as u32;
        out.extend_from_slice(&self.values);
        for (key_offset, value_offset, head) in &restarts {
            out.extend_from_slice(&key_offset.to_le_bytes());
            out.extend_from_slice(&(values_start + value_offset).to_le_bytes());
            out.extend_from_slice(&head.to_le_bytes());
        }
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        out.extend_from_slice(&(restarts.len() as u16).to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&(common as u16).to_le_bytes());
        out.push(self.interval as u8);
        out.push(0);
        out.extend_from_slice(&base.to_le_bytes());
        self.keys.clear();
        self.values.clear();
        self.entries.clear();
        out
    }
}

/// A decoded block.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: Vec<u8>,
    interval: usize,
    entries: usize,
    restarts: usize,
    restarts_at: usize,
    common: usize,
    base: Seq,
}

impl Block {
    /// Checks the frame of the block; `None` when it makes no sense.
    pub(crate) fn new(bytes: Vec<u8>) -> Option<Block> {
        let tail = bytes.len().checked_sub(TAIL_BYTES)?;
        let entries = u32_at(&bytes, tail) as usize;
        let restarts = u16::from_le_bytes([bytes[tail + 4], bytes[tail + 5]]) as usize;
        let common = u16::from_le_bytes([bytes[tail + 8], bytes[tail + 9]]) as usize;
        let base = u64_at(&bytes, tail + 12);
        let restarts_at = tail.checked_sub(restarts * RESTART_BYTES)?;
        let interval = bytes[tail + 10] as usize;
        if interval == 0 || restarts != entries.div_ceil(interval) || common > restarts_at {
            return None;
        }
        let block = Block { bytes, interval, entries, restarts, restarts_at, common, base };
        let sound = (0..restarts).all(|r| {
            let (key, value, _) = block.restart(r);
            common <= key && key <= value && value <= restarts_at
        });
        sound.then_some(block)
    }

    /// How many entries it holds.
    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    /// Bytes it takes in memory.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + size_of::<Block>()
    }

    fn restart(&self, index: usize) -> (usize, usize, u32) {
        let at = self.restarts_at + index * RESTART_BYTES;
        (u32_at(&self.bytes, at) as usize, u32_at(&self.bytes, at + 4) as usize, u32_at(&self.bytes, at + 8))
    }

    fn common(&self) -> &[u8] {
        &self.bytes[..self.common]
    }

    /// The key of a restart after the common prefix.
    fn restart_key(&self, index: usize) -> Option<&[u8]> {
        let (at, _, _) = self.restart(index);
        let mut decoder = Decoder::new(&self.bytes[at..self.restarts_at]);
        let shared = decoder.varint()?;
        let unshared = decoder.length()?;
        decoder.u8()?;
        decoder.varint()?;
        decoder.varint()?;
        if shared != 0 { None } else { decoder.take(unshared) }
    }

    /// The first restart whose key is not less than `rest`, which is a key after the common prefix.
    fn restart_from(&self, rest: &[u8]) -> Result<usize, BadBlock> {
        let target = head(rest);
        // Restarts before `low` are less than the key, those from `high` on are not; between them heads tie.
        let (mut low, mut high) = (0, self.restarts);
        while low < high {
            let middle = (low + high) / 2;
            let (_, _, middle_head) = self.restart(middle);
            let less = match middle_head.cmp(&target) {
                Ordering::Less => true,
                Ordering::Greater => false,
                // Not `<=`: newer versions of the key may stand before a restart.
                Ordering::Equal => self.restart_key(middle).ok_or(BadBlock)? < rest,
            };
            if less {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The entry at `at`, its value beginning at `value_at`.
    fn decode(&self, at: usize, value_at: usize) -> Result<Decoded<'_>, BadBlock> {
        let bytes = self.bytes.get(at..self.restarts_at).ok_or(BadBlock)?;
        let mut decoder = Decoder::new(bytes);
        let mut read = || {
            let (shared, unshared) = (decoder.length()?, decoder.length()?);
            let op = Op::from_u8(decoder.u8()?)?;
            let seq = self.base.checked_add(decoder.varint()?)?;
            let value_end = value_at.checked_add(decoder.length()?)?;
            let suffix = decoder.take(unshared)?;
            let next = at + decoder.position();
            let value = value_at..value_end;
            (value_end <= self.restarts_at).then_some(Decoded { shared, suffix, op, seq, value, next })
        };
        read().ok_or(BadBlock)
    }

    /// In an index: the number and value of the first entry whose key is at least `key`.
    pub(crate) fn at_or_after(&self, key: &[u8]) -> Result<Option<(usize, &[u8])>, BadBlock> {
        let index = self.number_from(key)?;
        if index == self.entries { Ok(None) } else { Ok(Some((index, self.value_of(index)?))) }
    }

    /// In an index: the value of the entry with this number, which is less than [`Block::entries`].
    pub(crate) fn value_of(&self, number: usize) -> Result<&[u8], BadBlock> {
        if self.interval != 1 {
            return Err(BadBlock);
        }
        let (at, value_at, _) = self.restart(number);
        Ok(&self.bytes[self.decode(at, value_at)?.value])
    }

    /// In an index: the number of the first entry whose key is at least `key`; as many as there are when there is none.
    pub(crate) fn number_from(&self, key: &[u8]) -> Result<usize, BadBlock> {
        if self.interval != 1 {
            return Err(BadBlock);
        }
        let common = self.common();
        match key[..key.len().min(common.len())].cmp(common) {
            Ordering::Less => Ok(0),
            Ordering::Greater => Ok(self.entries),
            Ordering::Equal => self.restart_from(&key[common.len()..]),
        }
    }

    /// The newest version of `key`: its seq, what it says and where its value lies.
    pub(crate) fn find(&self, key: &[u8]) -> Result<Option<(Seq, Op, Range<usize>)>, BadBlock> {
        let Some(rest) = key.strip_prefix(self.common()) else { return Ok(None) };
        let restart = self.restart_from(rest)?.saturating_sub(1);
        let found = self.from(rest, restart)?.filter(|(_, prefix, entry)| {
            prefix.len() + entry.suffix.len() == rest.len() && rest[prefix.len()..] == *entry.suffix
        });
        Ok(found.map(|(.., entry)| (entry.seq, entry.op, entry.value)))
    }

    /// From a restart on, the first entry whose key after the common prefix is at least `rest`: its number, what its key shares
    /// with `rest` and what follows that.
    ///
    /// No key is put together on the way: how much `rest` has in common with the key before, which was less, tells what an
    /// entry that shares more or less of that one is.
    fn from<'a>(&'a self, rest: &'a [u8], restart: usize) -> Result<Option<Placed<'a>>, BadBlock> {
        if self.entries == 0 {
            return Ok(None);
        }
        let (mut at, mut value_at, _) = self.restart(restart);
        let mut matched = 0;
        for index in restart * self.interval..self.entries {
            let entry = self.decode(at, value_at)?;
            (at, value_at) = (entry.next, entry.value.end);
            if index % self.interval == 0 {
                matched = 0; // a restart shares nothing with the one before, whatever that was
            }
            if entry.shared > matched {
                continue; // it differs from the wanted key where the one before did
            }
            // Where it shares less than was equal, it is greater than the one before there, so than the wanted key.
            let less = entry.shared == matched && {
                let wanted = &rest[matched..];
                let more = common_len(entry.suffix, wanted);
                matched += more;
                match (entry.suffix.get(more), wanted.get(more)) {
                    (_, None) => false,
                    (None, Some(_)) => true,
                    (Some(found), Some(byte)) => found < byte,
                }
            };
            if !less {
                return Ok(Some((index, &rest[..entry.shared], entry)));
            }
        }
        Ok(None)
    }
}

/// An entry's number, the part of its key before its suffix and after the common prefix, and the entry.
type Placed<'a> = (usize, &'a [u8], Decoded<'a>);

/// An entry as it lies in a block.
struct Decoded<'a> {
    shared: usize,
    suffix: &'a [u8],
    op: Op,
    seq: Seq,
    value: Range<usize>,
    next: usize,
}

/// Damage inside a block whose checksum was right: reported by the table with its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadBlock;

/// Walks a block.
pub(crate) struct BlockCursor {
    block: Arc<Block>,
    /// The entry it stands on; `entries` when it stands nowhere.
    index: usize,
    key: Vec<u8>,
    seq: Seq,
    op: Op,
    value: Range<usize>,
    next_key: usize,
}

impl BlockCursor {
    pub(crate) fn new(block: Arc<Block>) -> BlockCursor {
        let index = block.entries;
        BlockCursor { block, index, key: Vec::new(), seq: 0, op: Op::Put, value: 0..0, next_key: 0 }
    }

    /// The number of the entry it stands on.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn entry(&self) -> Option<Entry<'_>> {
        (self.index < self.block.entries).then(|| Entry {
            key: &self.key,
            seq: self.seq,
            op: self.op,
            value: &self.block.bytes[self.value.clone()],
        })
    }

    fn decode_next(&mut self) -> Result<(), BadBlock> {
        let entry = self.block.decode(self.next_key, self.value.end)?;
        let keep = self.block.common.checked_add(entry.shared).filter(|&keep| keep <= self.key.len());
        let keep = keep.ok_or(BadBlock)?;
        self.key.truncate(keep);
        self.key.extend_from_slice(entry.suffix);
        (self.value, self.next_key, self.seq, self.op) = (entry.value, entry.next, entry.seq, entry.op);
        Ok(())
    }

    fn go_to_restart(&mut self, restart: usize) -> Result<(), BadBlock> {
        let (key, value, _) = self.block.restart(restart);
        self.key.clear();
        self.key.extend_from_slice(&self.block.bytes[..self.block.common]);
        self.next_key = key;
        self.value = value..value;
        self.index = restart * self.block.interval;
        self.decode_next()
    }

    fn nowhere(&mut self) {
        self.index = self.block.entries;
    }

    fn go_to_index(&mut self, index: usize) -> Result<(), BadBlock> {
        self.go_to_restart(index / self.block.interval)?;
        while self.index < index {
            self.index += 1;
            self.decode_next()?;
        }
        Ok(())
    }

    pub(crate) fn seek_first(&mut self) -> Result<(), BadBlock> {
        if self.block.entries == 0 { Ok(()) } else { self.go_to_restart(0) }
    }

    pub(crate) fn seek_last(&mut self) -> Result<(), BadBlock> {
        match self.block.entries {
            0 => Ok(()),
            entries => self.go_to_index(entries - 1),
        }
    }

    pub(crate) fn next(&mut self) -> Result<(), BadBlock> {
        if self.index + 1 >= self.block.entries {
            self.nowhere();
            return Ok(());
        }
        self.index += 1;
        if self.index.is_multiple_of(self.block.interval) {
            self.go_to_restart(self.index / self.block.interval)
        } else {
            self.decode_next()
        }
    }

    pub(crate) fn prev(&mut self) -> Result<(), BadBlock> {
        match self.index {
            0 => self.nowhere(),
            index => self.go_to_index(index - 1)?,
        }
        Ok(())
    }

    /// The first entry with a key of at least `key`.
    pub(crate) fn seek(&mut self, key: &[u8]) -> Result<(), BadBlock> {
        let block = self.block.clone();
        if block.entries == 0 {
            return Ok(());
        }
        let common = block.common();
        let prefix = &key[..key.len().min(common.len())];
        match prefix.cmp(common) {
            Ordering::Less => return self.go_to_restart(0),
            Ordering::Greater => {
                self.nowhere();
                return Ok(());
            }
            Ordering::Equal => {}
        }
        let rest = &key[common.len()..];
        let low = block.restart_from(rest)?;
        if block.interval == 1 && low < block.restarts {
            return self.go_to_restart(low);
        }
        let Some((index, prefix, entry)) = block.from(rest, low.saturating_sub(1))? else {
            self.nowhere();
            return Ok(());
        };
        self.key.clear();
        self.key.extend_from_slice(common);
        self.key.extend_from_slice(prefix);
        self.key.extend_from_slice(entry.suffix);
        self.index = index;
        (self.value, self.next_key, self.seq, self.op) = (entry.value, entry.next, entry.seq, entry.op);
        Ok(())
    }

    /// The last entry with a key less than `key`.
    pub(crate) fn seek_before(&mut self, key: &[u8]) -> Result<(), BadBlock> {
        self.seek(key)?;
        if self.index < self.block.entries { self.prev() } else { self.seek_last() }
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn build(map: &BTreeMap<Vec<u8>, (u64, Option<Vec<u8>>)>, interval: usize) -> Vec<u8> {
        let mut builder = BlockBuilder { interval, ..BlockBuilder::data() };
        for (key, (seq, value)) in map {
            let (op, value) = value.as_ref().map_or((Op::Delete, &[][..]), |value| (Op::Put, value));
            builder.add(Entry { key, seq: *seq, op, value });
        }
        builder.finish()
    }

    fn walk(cursor: &mut BlockCursor, forward: bool) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        while let Some(entry) = cursor.entry() {
            keys.push(entry.key.to_vec());
            if forward { cursor.next() } else { cursor.prev() }.expect("sound");
        }
        keys
    }

    proptest! {
        #[test]
        fn a_block_answers_like_a_sorted_map(
            map in proptest::collection::btree_map(
                proptest::collection::vec(97u8..100, 0..7),
                (1u64..1000, proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20))), 1..90),
            probes in proptest::collection::vec(proptest::collection::vec(96u8..101, 0..8), 20),
            interval in prop_oneof![Just(1), Just(3), Just(INTERVAL)],
        ) {
            let block = Arc::new(Block::new(build(&map, interval)).expect("sound"));
            let mut cursor = BlockCursor::new(block.clone());
            cursor.seek_first().expect("sound");
            prop_assert_eq!(walk(&mut cursor, true), map.keys().cloned().collect::<Vec<_>>());
            cursor.seek_last().expect("sound");
            prop_assert_eq!(walk(&mut cursor, false), map.keys().rev().cloned().collect::<Vec<_>>());
            for probe in probes.iter().chain(map.keys()) {
                cursor.seek(probe).expect("sound");
                let expected = map.range(probe.clone()..).next();
                prop_assert_eq!(cursor.entry().map(|e| e.key.to_vec()), expected.map(|(k, _)| k.clone()));
                if let (Some(entry), Some((_, (seq, value)))) = (cursor.entry(), expected) {
                    prop_assert_eq!(entry.seq, *seq);
                    prop_assert_eq!((entry.op == Op::Put).then(|| entry.value.to_vec()), value.clone());
                }
                let found = block.find(probe).expect("sound").map(|(seq, op, value)| {
                    (seq, (op == Op::Put).then(|| (*block).as_ref()[value].to_vec()))
                });
                prop_assert_eq!(&found, &map.get(probe).cloned());
                if interval == 1 {
                    let number = block.at_or_after(probe).expect("sound").map(|(number, _)| number);
                    let expected = map.range(..probe.clone()).count();
                    prop_assert_eq!(number, (expected < map.len()).then_some(expected));
                }
                cursor.seek_before(probe).expect("sound");
                let before = map.range(..probe.clone()).next_back().map(|(k, _)| k.clone());
                prop_assert_eq!(cursor.entry().map(|e| e.key.to_vec()), before);
            }
        }

        #[test]
        fn any_bytes_are_walked_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(block) = Block::new(bytes) {
                let mut cursor = BlockCursor::new(Arc::new(block));
                if cursor.seek_first().is_ok() {
                    while cursor.entry().is_some() && cursor.next().is_ok() {}
                }
                let _ = cursor.seek(b"abc");
            }
        }
    }
}
