//! A batch: writes that land together or not at all. Its encoding is also the payload of a log record.
//!
//! ```text
//! │ count: varint │ operation … │
//! operation:  │ 0: u8 │ key_len: varint │ key │ value_len: varint │ value │   put
//!             │ 1: u8 │ key_len: varint │ key │                             delete
//!             │ 2: u8 │ start_len: varint │ start │ end_len: varint │ end │ delete every key in [start, end)
//!             │ 3: u8 │ key_len: varint │ key │ value_len: varint │ value │ expiry: varint │ put until then
//! ```

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

use crate::coding::{Decoder, put_slice, put_varint};
use crate::error::{Error, Result};

/// The longest key: 64 KiB - 1.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;
/// The longest value: 128 MiB.
pub const VALUE_BYTES_MAX: usize = 128 << 20;

/// One write of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// The key gets this value.
    Put(&'a [u8], &'a [u8]),
    /// The key goes.
    Delete(&'a [u8]),
    /// Every key from the first (included) to the second (excluded) goes.
    DeleteRange(&'a [u8], &'a [u8]),
    /// The key gets this value until then, in milliseconds since 1970.
    PutUntil(&'a [u8], &'a [u8], u64),
}

impl<'a> Operation<'a> {
    /// The key, or the first of them.
    pub fn key(&self) -> &'a [u8] {
        match *self {
            Operation::Put(key, _)
            | Operation::Delete(key)
            | Operation::DeleteRange(key, _)
            | Operation::PutUntil(key, ..) => key,
        }
    }
}

/// Puts and deletes in the order they were asked for. A later one wins over an earlier one for the same key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    operations: Vec<u8>,
    count: u64,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Gives `key` a value.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.operations.push(0);
        put_slice(&mut self.operations, key);
        put_slice(&mut self.operations, value);
        self.count += 1;
    }

    /// Gives `key` a value until `expiry`, in milliseconds since 1970: from then on the key is gone, for everybody whose
    /// snapshot is not older (see [`Options::clock`](crate::Options::clock)).
    pub fn put_until(&mut self, key: &[u8], value: &[u8], expiry: u64) {
        self.operations.push(3);
        put_slice(&mut self.operations, key);
        put_slice(&mut self.operations, value);
        put_varint(&mut self.operations, expiry);
        self.count += 1;
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: &[u8]) {
        self.operations.push(1);
        put_slice(&mut self.operations, key);
        self.count += 1;
    }

    /// Removes every key in `[start, end)`.
    pub fn delete_range(&mut self, start: &[u8], end: &[u8]) {
        self.operations.push(2);
        put_slice(&mut self.operations, start);
        put_slice(&mut self.operations, end);
        self.count += 1;
    }

    /// How many operations it holds.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of its encoding, about.
    pub fn size(&self) -> usize {
        self.operations.len() + 4
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.with_parts(|parts| parts.iter().for_each(|part| out.extend_from_slice(part)));
    }

    /// The encoding, in parts that lie where they lie.
    pub(crate) fn with_parts<T>(&self, each: impl FnOnce(&[&[u8]]) -> T) -> T {
        if self.count < 0x80 {
            return each(&[&[self.count as u8], &self.operations]); // a varint of one byte
        }
        let mut count = Vec::with_capacity(10);
        put_varint(&mut count, self.count);
        each(&[&count, &self.operations])
    }

    /// The operations that take effect, each key once: the last write of a key wins, and a range delete takes away what
    /// the same batch wrote into the range before it. Order: range deletes first (they reach only older batches), those that
    /// overlap or touch united, then points. Errors name a key or value over its limit.
    pub fn effective(&self) -> Result<Vec<Operation<'_>>> {
        let mut decoder = Decoder::new(&self.operations);
        if self.count == 1 {
            let only = decode_operation(&mut decoder).expect("a batch encodes itself");
            check_lens(&only)?;
            return Ok(vec![only]);
        }
        let mut all = Vec::with_capacity(self.len());
        while !decoder.is_empty() {
            let operation = decode_operation(&mut decoder).expect("a batch encodes itself");
            check_lens(&operation)?;
            all.push(operation);
        }
        // From the last to the first: what was met then decides.
        let mut ranges: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
        let mut points = Vec::with_capacity(all.len());
        let mut met: HashSet<&[u8]> = HashSet::with_capacity(all.len());
        for operation in all.into_iter().rev() {
            match operation {
                Operation::DeleteRange(start, end) => unite(&mut ranges, start, end),
                Operation::Put(key, _) | Operation::Delete(key) | Operation::PutUntil(key, ..) => {
                    let before =
                        ranges.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
                    let is_gone = before.is_some_and(|(_, end)| key < *end);
                    if met.insert(key) && !is_gone {
                        points.push(operation);
                    }
                }
            }
        }
        points.extend(ranges.into_iter().rev().map(|(start, end)| Operation::DeleteRange(start, end)));
        points.reverse();
        Ok(points)
    }

    /// Reads an encoding; `None` when the bytes are not exactly one.
    pub fn decode(bytes: &[u8]) -> Option<Batch> {
        let mut decoder = Decoder::new(bytes);
        let count = decoder.varint()?;
        let start = decoder.position();
        for _ in 0..count {
            decode_operation(&mut decoder)?;
        }
        decoder.is_empty().then(|| Batch { operations: bytes[start..].to_vec(), count })
    }
}

/// Adds a range to others that neither overlap nor touch one another.
fn unite<'a>(ranges: &mut BTreeMap<&'a [u8], &'a [u8]>, mut start: &'a [u8], mut end: &'a [u8]) {
    if start >= end {
        return;
    }
    let reaches = |range: &(&&'a [u8], &&'a [u8])| *range.1 >= start;
    let before = ranges.range::<[u8], _>((Bound::Unbounded, Bound::Included(start))).next_back();
    if let Some((first, _)) = before.filter(reaches) {
        start = first;
    }
    let within = ranges.range::<[u8], _>((Bound::Included(start), Bound::Included(end)));
    let swallowed: Vec<&[u8]> = within.map(|(first, _)| *first).collect();
    for first in swallowed {
        end = ranges.remove(first).map_or(end, |last| end.max(last));
    }
    ranges.insert(start, end);
}

pub(crate) fn check_len(what: &'static str, size: usize, limit: usize) -> Result<()> {
    if size > limit {
        return Err(Error::TooLarge { what, size: size as u64, limit: limit as u64 });
    }
    Ok(())
}

fn check_lens(operation: &Operation<'_>) -> Result<()> {
    match *operation {
        Operation::DeleteRange(..) => Ok(()),
        Operation::Delete(key) => check_len("a key", key.len(), KEY_BYTES_MAX),
        Operation::Put(key, value) | Operation::PutUntil(key, value, _) => {
            check_len("a key", key.len(), KEY_BYTES_MAX)?;
            check_len("a value", value.len(), VALUE_BYTES_MAX)
        }
    }
}

fn decode_operation<'a>(decoder: &mut Decoder<'a>) -> Option<Operation<'a>> {
    Some(match decoder.u8()? {
        0 => Operation::Put(decoder.slice()?, decoder.slice()?),
        1 => Operation::Delete(decoder.slice()?),
        2 => Operation::DeleteRange(decoder.slice()?, decoder.slice()?),
        3 => Operation::PutUntil(decoder.slice()?, decoder.slice()?, decoder.varint()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_write_of_a_key_wins() {
        let mut batch = Batch::new();
        batch.put(b"a", b"1");
        batch.put(b"b", b"2");
        batch.delete(b"a");
        assert_eq!(batch.effective().expect("small"), [Operation::Put(b"b", b"2"), Operation::Delete(b"a")]);
    }

    #[test]
    fn a_range_delete_takes_what_the_batch_wrote_before_it() {
        let mut batch = Batch::new();
        batch.put(b"a", b"1");
        batch.put(b"c", b"1");
        batch.delete_range(b"a", b"b");
        batch.put(b"aa", b"2");
        let expected =
            [Operation::DeleteRange(b"a", b"b"), Operation::Put(b"c", b"1"), Operation::Put(b"aa", b"2")];
        assert_eq!(batch.effective().expect("small"), expected);
    }

    #[test]
    fn range_deletes_of_one_batch_are_united_however_many_there_are() {
        let mut batch = Batch::new();
        for n in 0..100_000u32 {
            batch.put(format!("log/{n:06}").as_bytes(), b"1");
            batch.delete_range(b"log/", format!("log/{n:06}").as_bytes());
        }
        batch.delete_range(b"x", b"y");
        batch.delete_range(b"y", b"z");
        batch.delete_range(b"b", b"a"); // nothing
        let last = Operation::Put(b"log/099999", b"1");
        let expected =
            [Operation::DeleteRange(b"log/", b"log/099999"), Operation::DeleteRange(b"x", b"z"), last];
        assert_eq!(batch.effective().expect("small"), expected);
    }

    proptest! {
        #[test]
        fn what_takes_effect_is_what_one_by_one_would_leave(
            operations in proptest::collection::vec((0u8..3, 0u8..12, 0u8..12), 0..30),
        ) {
            let mut batch = Batch::new();
            // What lies under it is there from before; what of it is gone, what is new.
            let mut expected: [Option<u8>; 12] = [Some(255); 12];
            for (number, &(kind, a, b)) in operations.iter().enumerate() {
                match kind {
                    0 => batch.put(&[a], &[number as u8]),
                    1 => batch.delete(&[a]),
                    _ => batch.delete_range(&[a], &[b]),
                }
                match kind {
                    0 => expected[usize::from(a)] = Some(number as u8),
                    1 => expected[usize::from(a)] = None,
                    _ => (a..b.max(a)).for_each(|key| expected[usize::from(key)] = None),
                }
            }
            let mut found: [Option<u8>; 12] = [Some(255); 12];
            for operation in batch.effective().expect("small") {
                match operation {
                    Operation::Put(key, value) => found[usize::from(key[0])] = Some(value[0]),
                    Operation::Delete(key) => found[usize::from(key[0])] = None,
                    Operation::DeleteRange(a, b) => (a[0]..b[0]).for_each(|key| found[usize::from(key)] = None),
                    Operation::PutUntil(..) => unreachable!("none was added"),
                }
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn an_encoding_comes_back_and_a_cut_one_does_not() {
        let mut batch = Batch::new();
        batch.put(b"key", b"value");
        batch.delete(b"gone");
        let mut bytes = Vec::new();
        batch.encode(&mut bytes);
        assert_eq!(Batch::decode(&bytes), Some(batch));
        for len in 0..bytes.len() {
            assert_eq!(Batch::decode(&bytes[..len]), None, "cut at {len}");
        }
        bytes.push(0);
        assert_eq!(Batch::decode(&bytes), None, "something behind it");
    }

    #[test]
    fn a_key_over_the_limit_is_named() {
        let mut batch = Batch::new();
        batch.put(&vec![b'k'; KEY_BYTES_MAX + 1], b"");
        assert!(matches!(batch.effective(), Err(Error::TooLarge { what: "a key", .. })));
    }
}
