//! Numbers distinct byte strings in the order they are first seen: open addressing, half full at most.

use crate::blobs::Blobs;

/// Distinct keys and a table from hash to number.
pub(crate) struct Interner {
    pub(crate) keys: Blobs,
    pub(crate) hashes: Vec<u32>,
    /// A key's number plus one, and its hash, so that a look elsewhere is only needed for equals; 0 is free.
    slots: Vec<(u32, u32)>,
}

impl Interner {
    /// For about `count` keys of `bytes` together; it grows as needed.
    pub(crate) fn with_capacity(count: usize, bytes: usize) -> Interner {
        Interner {
            keys: Blobs::with_capacity(count, bytes),
            hashes: Vec::with_capacity(count),
            slots: vec![(0, 0); (count * 2).next_power_of_two()],
        }
    }

    /// The number of a key, whose hash is `hash`; a new key gets the next one.
    #[inline]
    pub(crate) fn number(&mut self, hash: u32, key: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            let (number, other) = self.slots[slot];
            if number == 0 {
                return self.insert(hash, key, slot);
            }
            if other == hash && self.keys.get(number as usize - 1) == key {
                return number as usize - 1;
            }
            slot = (slot + 1) & mask;
        }
    }

    fn insert(&mut self, hash: u32, key: &[u8], slot: usize) -> usize {
        self.keys.push(key);
        self.hashes.push(hash);
        self.slots[slot] = (self.keys.len() as u32, hash);
        if self.keys.len() * 2 > self.slots.len() {
            let mask = self.slots.len() * 2 - 1;
            self.slots = vec![(0, 0); mask + 1];
            for (id, &hash) in self.hashes.iter().enumerate() {
                let mut slot = hash as usize & mask;
                while self.slots[slot].0 != 0 {
                    slot = (slot + 1) & mask;
                }
                self.slots[slot] = (id as u32 + 1, hash);
            }
        }
        self.keys.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_have_one_number_whatever_their_hashes_collide_with() {
        let mut interner = Interner::with_capacity(1, 1);
        for round in 0..2 {
            for key in 0..1000_u32 {
                let number = interner.number(key % 7, &key.to_le_bytes());
                assert_eq!(number, key as usize, "round {round}");
            }
        }
        assert_eq!(interner.keys.len(), 1000);
    }
}
