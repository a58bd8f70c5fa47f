//! The versions of a memtable by the hash of their key, newest first: what a look-up needs of it, without the way down the
//! list.
//!
//! ```text
//! slots      one for some keys: the number of the newest version whose key has this hash, 0 for none
//! versions   in the order in which they came, each with the number of the one before it in its slot
//! ```
//!
//! One writer at a time adds; readers take no lock and write to nothing. (RocksDB's hash-linklist memtable has such chains,
//! in place of the list.)

use std::sync::{Arc, OnceLock};

use crate::key::{Op, Seq};
use crate::slice::Found;
use crate::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

/// Versions in a page, which is made when it is needed; in one that is alone, no more than there will be.
const PAGE: usize = 1 << 12;
/// Versions of one slot that are looked at before the list is asked instead: a key that was written over and over, for a reader
/// of long ago.
const STEPS_MAX: usize = 16;

/// A version, as far as a look-up is concerned.
pub(crate) struct Indexed {
    pub seq: Seq,
    pub op: Op,
    pub key_len: u32,
    /// Key, then value as stored; shared with the list.
    pub bytes: Arc<[u8]>,
    /// The number of the version before it in its slot, from 1.
    older: u32,
}

/// See the module.
pub(crate) struct HashIndex {
    slots: Box<[AtomicU32]>,
    pages: Box<[OnceLock<Page>]>,
    /// How many there are.
    count: AtomicU32,
    /// From 1: this one and later ones are not here.
    end: u32,
}

type Page = Box<[OnceLock<Indexed>]>;

/// What is known of a key.
pub(crate) enum Look {
    /// Its newest version up to the moment.
    Found(Found),
    /// It has none.
    Missing,
    /// The list knows.
    Unknown,
}

impl HashIndex {
    /// Room for `entries` versions; those beyond are not found here.
    pub(crate) fn new(entries: usize) -> HashIndex {
        let pages = entries.div_ceil(PAGE).clamp(1, u32::MAX as usize / PAGE);
        let slots = (entries / 2).next_power_of_two().clamp(16, 1 << 26);
        let places = if pages == 1 { entries.clamp(16, PAGE) } else { pages * PAGE };
        HashIndex {
            slots: (0..slots).map(|_| AtomicU32::new(0)).collect(),
            pages: (0..pages).map(|_| OnceLock::new()).collect(),
            count: AtomicU32::new(0),
            end: places as u32,
        }
    }

    fn slot(&self, hash: u64) -> &AtomicU32 {
        &self.slots[(hash >> 32) as usize & (self.slots.len() - 1)]
    }

    fn at(&self, number: u32) -> Option<&Indexed> {
        let number = number.checked_sub(1)? as usize;
        self.pages.get(number / PAGE)?.get()?[number % PAGE].get()
    }

    /// Adds a version newer than all others of its key; called by one at a time.
    pub(crate) fn add(&self, hash: u64, seq: Seq, op: Op, key_len: u32, bytes: Arc<[u8]>) {
        let number = self.count.load(Relaxed) + 1;
        self.count.store(number.min(self.end), Release);
        if number >= self.end {
            return; // and so no look-up ends here any more
        }
        let place = number as usize - 1;
        let len = PAGE.min(self.end as usize);
        let page = self.pages[place / PAGE].get_or_init(|| (0..len).map(|_| OnceLock::new()).collect());
        let slot = self.slot(hash);
        let older = slot.load(Relaxed);
        let is_free = page[place % PAGE].set(Indexed { seq, op, key_len, bytes, older }).is_ok();
        assert!(is_free, "each number is given once");
        slot.store(number, Release);
    }

    /// The newest version of `key` with a seq of at most `at`.
    pub(crate) fn get(&self, key: &[u8], hash: u64, at: Seq) -> Look {
        if self.count.load(Acquire) >= self.end {
            return Look::Unknown;
        }
        let mut number = self.slot(hash).load(Acquire);
        for _ in 0..STEPS_MAX {
            let Some(version) = self.at(number) else { return Look::Missing };
            let (found, value) = version.bytes.split_at(version.key_len as usize);
            if version.seq <= at && found == key {
                return Look::Found(Found::owned(version.seq, version.op, value.to_vec()));
            }
            number = version.older;
        }
        Look::Unknown
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{HashIndex, Look, PAGE, STEPS_MAX};
    use crate::key::Op;

    fn add(index: &HashIndex, hash: u64, seq: u64, key: &str, value: &str) {
        let bytes: Arc<[u8]> = [key, value].concat().into_bytes().into();
        index.add(hash, seq, Op::Put, key.len() as u32, bytes);
    }

    fn look(index: &HashIndex, hash: u64, key: &str, at: u64) -> String {
        match index.get(key.as_bytes(), hash, at) {
            Look::Found(found) => String::from_utf8(found.into_value().into_vec()).expect("text"),
            Look::Missing => "missing".into(),
            Look::Unknown => "unknown".into(),
        }
    }

    #[test]
    fn keys_of_one_hash_are_told_apart_and_each_moment_has_its_version() {
        let index = HashIndex::new(100);
        for (seq, key, value) in [(1, "a", "1"), (2, "ab", "2"), (3, "a", "3"), (5, "b", "5"), (7, "a", "7")]
        {
            add(&index, 99, seq, key, value);
        }
        for (key, at, expected) in [
            ("a", 0, "missing"),
            ("a", 1, "1"),
            ("a", 2, "1"),
            ("a", 6, "3"),
            ("a", 9, "7"),
            ("ab", 1, "missing"),
            ("ab", 2, "2"),
            ("b", 9, "5"),
            ("", 9, "missing"),
            ("abc", 9, "missing"),
        ] {
            assert_eq!(look(&index, 99, key, at), expected, "{key} at {at}");
        }
        assert_eq!(look(&index, 98 << 32, "a", 9), "missing");
    }

    #[test]
    fn what_it_cannot_tell_it_leaves_to_the_list() {
        let index = HashIndex::new(100);
        (0..=STEPS_MAX as u64).for_each(|seq| add(&index, 7, seq + 1, "k", &seq.to_string()));
        assert_eq!(look(&index, 7, "k", 1), "unknown", "too many newer ones");
        assert_eq!(look(&index, 7, "k", u64::MAX), STEPS_MAX.to_string());
        // Full: from then on nothing is known, not even of what came before.
        (0..PAGE as u64).for_each(|n| add(&index, n << 32, 100 + n, &format!("f{n}"), "x"));
        assert_eq!(look(&index, 7, "k", u64::MAX), "unknown");
        assert_eq!(look(&index, 1 << 40, "never", u64::MAX), "unknown");
    }
}
