//! Which documents of a part are gone: a bitmap that is copied on write.
//!
//! The bits lie in chunks of 4 KiB behind `Arc`s. Cloning takes one reference, so every view is cut exactly at its
//! moment; setting a bit copies at most one chunk (about a microsecond), and nothing at all when no view holds it. This
//! replaces a base bitmap with a list of recent deletes beside it: there is no list to search and none to fold in.
//!
//! ```text
//! │ version: u8 = 1 │ docs: varint │ deleted: varint │ chunk* │ crc32: u32 │
//! chunk := │ kind: u8 │ 0 empty · 1 sparse: count: varint, gaps: varint* · 2 dense: 4096 bytes │
//! ```

use crate::coding::{Decoded, Reader, put_varint};
use crate::error::Error;
use std::sync::Arc;

const VERSION: u8 = 1;
const CHUNK_WORDS: usize = 512;
const CHUNK_BITS: usize = CHUNK_WORDS * 64;
/// Above this many bits in a chunk the 4 KiB are smaller than gaps of at least two bytes.
const SPARSE_MAX: u32 = 2000;

type Chunk = [u64; CHUNK_WORDS];

/// The deleted documents of one part.
#[derive(Debug, Clone, Default)]
pub struct Deletes {
    chunks: Arc<Vec<Option<Arc<Chunk>>>>,
    count: u64,
}

impl PartialEq for Deletes {
    fn eq(&self, other: &Deletes) -> bool {
        self.count == other.count && self.iter().eq(other.iter())
    }
}

impl Deletes {
    /// Nothing deleted yet.
    pub fn new() -> Deletes {
        Deletes::default()
    }

    /// How many documents are deleted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Is nothing deleted?
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Is this document deleted?
    #[inline]
    pub fn contains(&self, ord: u32) -> bool {
        let (chunk, bit) = (ord as usize / CHUNK_BITS, ord as usize % CHUNK_BITS);
        match self.chunks.get(chunk) {
            Some(Some(words)) => words[bit / 64] >> (bit % 64) & 1 == 1,
            _ => false,
        }
    }

    /// Deletes a document; false when it was deleted already.
    pub fn insert(&mut self, ord: u32) -> bool {
        if self.contains(ord) {
            return false;
        }
        let (chunk, bit) = (ord as usize / CHUNK_BITS, ord as usize % CHUNK_BITS);
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks.len() <= chunk {
            chunks.resize(chunk + 1, None);
        }
        let words = chunks[chunk].get_or_insert_with(|| Arc::new([0; CHUNK_WORDS]));
        Arc::make_mut(words)[bit / 64] |= 1 << (bit % 64);
        self.count += 1;
        true
    }

    /// The deleted documents, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.chunks.iter().enumerate().filter_map(|(at, chunk)| Some((at, chunk.as_ref()?))).flat_map(
            |(at, words)| {
                words.iter().enumerate().flat_map(move |(word, &bits)| {
                    Bits(bits).map(move |bit| (at * CHUNK_BITS + word * 64) as u32 + bit)
                })
            },
        )
    }

    /// The 64 words of the 4096 documents from `base` (a multiple of 4096); `None` when none of them is deleted.
    pub(crate) fn window(&self, base: u32) -> Option<&[u64; 64]> {
        let (chunk, bit) = (base as usize / CHUNK_BITS, base as usize % CHUNK_BITS);
        let words = self.chunks.get(chunk)?.as_ref()?;
        words[bit / 64..bit / 64 + 64].try_into().ok()
    }

    /// As bytes, checksummed.
    pub fn encode(&self, docs: u32) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, u64::from(docs));
        put_varint(&mut out, self.count);
        for chunk in self.chunks.iter() {
            let count: u32 = chunk.iter().flat_map(|words| words.iter()).map(|word| word.count_ones()).sum();
            match chunk {
                Some(words) if count > SPARSE_MAX => {
                    out.push(2);
                    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
                }
                Some(words) if count > 0 => {
                    out.push(1);
                    put_varint(&mut out, u64::from(count));
                    let mut next = 0;
                    for (at, &word) in words.iter().enumerate() {
                        for bit in Bits(word) {
                            let ord = at as u32 * 64 + bit;
                            put_varint(&mut out, u64::from(ord - next));
                            next = ord + 1;
                        }
                    }
                }
                _ => out.push(0),
            }
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// What [`Deletes::encode`] wrote for a part of `docs` documents; `name` says in errors where the bytes came from.
    pub fn decode(name: &str, bytes: &[u8], docs: u32) -> Result<Deletes, Error> {
        read(bytes, docs).map_err(|reason| Error::Corrupt { file: name.to_owned(), offset: 0, reason })
    }
}

fn read(bytes: &[u8], docs: u32) -> Decoded<Deletes> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or("deletes too short")?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err("deletes: wrong checksum");
    }
    let mut reader = Reader::new(body);
    if reader.u8()? != VERSION {
        return Err("deletes of an unknown version");
    }
    if reader.varint()? != u64::from(docs) {
        return Err("deletes of another segment");
    }
    let expected = reader.varint()?;
    let mut deletes = Deletes::new();
    let mut base = 0_u64;
    while !reader.is_empty() {
        if base >= u64::from(docs) {
            return Err("deletes past the last document");
        }
        match reader.u8()? {
            0 => {}
            1 => {
                let mut next = base;
                for _ in 0..reader.varint()? {
                    let ord = next.checked_add(reader.varint()?).ok_or("deletes: number too large")?;
                    if ord >= u64::from(docs) || ord >= base + CHUNK_BITS as u64 {
                        return Err("deletes past the last document");
                    }
                    deletes.insert(ord as u32);
                    next = ord + 1;
                }
            }
            2 => {
                for at in 0..CHUNK_WORDS {
                    for bit in Bits(reader.u64()?) {
                        let ord = base + at as u64 * 64 + u64::from(bit);
                        if ord >= u64::from(docs) {
                            return Err("deletes past the last document");
                        }
                        deletes.insert(ord as u32);
                    }
                }
            }
            _ => return Err("deletes: unknown chunk"),
        }
        base += CHUNK_BITS as u64;
    }
    if deletes.count == expected { Ok(deletes) } else { Err("deletes: wrong count") }
}

/// The set bits of a word, lowest first.
pub(crate) struct Bits(pub(crate) u64);

impl Iterator for Bits {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn deletes_come_back(ords in prop::collection::btree_set(0_u32..100_000, 0..300), dense in 0_u32..3) {
            let mut deletes = Deletes::new();
            let mut all = ords.clone();
            all.extend((0..dense * 3000).map(|ord| ord * 2));
            for &ord in &all {
                prop_assert!(deletes.insert(ord));
                prop_assert!(!deletes.insert(ord));
            }
            let back = Deletes::decode("d", &deletes.encode(100_000), 100_000).unwrap();
            prop_assert_eq!(back.iter().collect::<Vec<_>>(), all.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(back.count(), deletes.count());
        }
    }

    #[test]
    fn a_clone_does_not_see_later_deletes() {
        let mut deletes = Deletes::new();
        deletes.insert(5);
        let before = deletes.clone();
        deletes.insert(6);
        assert!(!before.contains(6) && deletes.contains(6) && before.count() == 1);
    }

    #[test]
    fn flipped_bits_and_other_segments_are_refused() {
        let mut deletes = Deletes::new();
        for ord in [1, 70, 40_000] {
            deletes.insert(ord);
        }
        let bytes = deletes.encode(50_000);
        assert!(Deletes::decode("d", &bytes, 50_001).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(Deletes::decode("d", &damaged, 50_000), Err(Error::Corrupt { .. })),
                "bit {bit}"
            );
        }
    }
}
