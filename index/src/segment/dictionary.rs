//! The dictionary of a segment: a finite state transducer from term to ordinal, and what is known about each ordinal.
//!
//! ```text
//! DICT     an `fst::Map`: key → number of the term, counted from 0 in order
//! TERMS    block of up to 64 terms *
//! block    │ postings_base: u64 │ df: bit array │ end of the postings, from the base: bit array │ positions_len: bit array │
//! PLACES   block_offset: u64 per block of TERMS
//! ```
//! A term's postings begin where those of the term before it end, the first of a block at the block's base; of them, the
//! last `positions_len` bytes are positions. Bit arrays are fetched from in place, so a lookup is one walk through the
//! transducer and five loads.
//!
//! The `fst` crate trusts its bytes: it panics where they make no sense. Checksums keep it from damaged ones (all of DICT
//! is verified before the first walk). Bytes that are wrong under a right checksum, as only a forger writes them, are
//! answered by catching the panic: addresses only ever descend, so that walks end, and no walk gives more terms than the
//! footer counts.

use crate::coding::{BitArray, Decoded, Reader, put_bit_array};
use crate::error::Error;
use crate::postings::cursor::ListBytes;
use crate::schema::Schema;
use crate::segment::reader::Segment;
use crate::segment::{DICT, PLACES, Section, TERMS};
use crate::term::field_of;
use fst::raw::{Builder, Fst, Stream};
use fst::{IntoStreamer, Streamer};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

/// Terms of a block.
const BLOCK_TERMS: usize = 64;
/// A longer key than any writer makes.
const KEY_MAX_BYTES: usize = 1 << 20;

/// What is known about a term of the segment being written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TermFacts {
    pub(crate) df: u32,
    /// Bytes of the postings, positions included.
    pub(crate) len: u64,
    /// Bytes of the positions.
    pub(crate) positions_len: u64,
}

/// Gathers DICT, TERMS and PLACES.
pub(crate) struct DictionaryBuilder {
    fst: Builder<Vec<u8>>,
    terms: Vec<u8>,
    places: Vec<u8>,
    block: Vec<TermFacts>,
    block_base: u64,
    /// Where the next term's postings begin.
    next: u64,
    pub(crate) count: u64,
}

/// The sections that a dictionary consists of.
#[derive(Default)]
pub(crate) struct DictionaryBytes {
    pub(crate) dict: Vec<u8>,
    pub(crate) terms: Vec<u8>,
    pub(crate) places: Vec<u8>,
}

impl DictionaryBuilder {
    pub(crate) fn new() -> DictionaryBuilder {
        DictionaryBuilder {
            fst: Builder::memory(),
            terms: Vec::new(),
            places: Vec::new(),
            block: Vec::with_capacity(BLOCK_TERMS),
            block_base: 0,
            next: 0,
            count: 0,
        }
    }

    /// Adds a term, above all before it, whose postings follow those of the one before it.
    pub(crate) fn add(&mut self, key: &[u8], facts: TermFacts) {
        self.fst.insert(key, self.count).expect("terms come in order, and memory takes all of them");
        self.count += 1;
        self.next += facts.len;
        self.block.push(facts);
        if self.block.len() == BLOCK_TERMS {
            self.end_block();
        }
    }

    fn end_block(&mut self) {
        self.places.extend_from_slice(&(self.terms.len() as u64).to_le_bytes());
        self.terms.extend_from_slice(&self.block_base.to_le_bytes());
        let mut end = 0;
        let ends = self.block.iter().map(|facts| {
            end += facts.len;
            end
        });
        let columns: [Vec<u64>; 3] = [
            self.block.iter().map(|facts| u64::from(facts.df)).collect(),
            ends.collect(),
            self.block.iter().map(|facts| facts.positions_len).collect(),
        ];
        for column in columns {
            let max = column.iter().copied().max().unwrap_or(0);
            put_bit_array(&mut self.terms, column.into_iter(), max);
        }
        self.block.clear();
        self.block_base = self.next;
    }

    pub(crate) fn finish(mut self) -> DictionaryBytes {
        if !self.block.is_empty() {
            self.end_block();
        }
        let dict = self.fst.into_inner().expect("memory takes all of it");
        DictionaryBytes { dict, terms: self.terms, places: self.places }
    }
}

/// The bytes of DICT, for the transducer.
struct DictBytes {
    file: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: std::ops::Range<usize>,
}

impl AsRef<[u8]> for DictBytes {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        &(*self.file).as_ref()[self.range.clone()]
    }
}

/// Reads a segment's dictionary.
pub(crate) struct Dictionary {
    pub(crate) dict: Section,
    terms: Section,
    places: Section,
    /// How many terms there are.
    pub(crate) count: u64,
    /// Opened when it is first asked for: that reads and verifies all of DICT.
    fst: OnceLock<Fst<DictBytes>>,
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dictionary").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Dictionary {
    fn fst<'a>(&'a self, segment: &'a Segment) -> Result<&'a Fst<DictBytes>, Error> {
        if let Some(fst) = self.fst.get() {
            return Ok(fst);
        }
        segment.read(self.dict, 0, self.dict.len as usize)?;
        let start = self.dict.offset as usize;
        let bytes = DictBytes { file: segment.file(), range: start..start + self.dict.len as usize };
        let fst = self.trusting(segment, || Fst::new(bytes))?;
        let fst = fst.ok().filter(|fst| fst.len() as u64 == self.count);
        let fst =
            fst.ok_or_else(|| segment.corrupt(self.dict.offset, "dictionary is no transducer of its terms"))?;
        Ok(self.fst.get_or_init(|| fst))
    }

    /// Runs what trusts the bytes of the transducer.
    fn trusting<T>(&self, segment: &Segment, walk: impl FnOnce() -> T) -> Result<T, Error> {
        // A walk changes nothing but its own state, which is given up with it.
        catch_unwind(AssertUnwindSafe(walk))
            .map_err(|_| segment.corrupt(self.dict.offset, "dictionary leads nowhere"))
    }

    /// Where the postings of a term are.
    pub(crate) fn find(&self, segment: &Segment, key: &[u8]) -> Result<Option<ListBytes>, Error> {
        let fst = self.fst(segment)?;
        let ordinal = self.trusting(segment, || fst.get(key))?;
        ordinal.map(|ordinal| self.block(segment, ordinal.value())?.place(segment, key)).transpose()
    }

    /// All terms from `key` on.
    pub(crate) fn from<'a>(&'a self, segment: &'a Segment, key: &[u8]) -> Result<Terms<'a>, Error> {
        let fst = self.fst(segment)?;
        let stream = self.trusting(segment, || fst.range().ge(key).into_stream())?;
        Ok(Terms { segment, dictionary: self, stream, key: Vec::new(), ordinal: None, block: None })
    }

    /// The block of a term.
    fn block<'a>(&self, segment: &'a Segment, ordinal: u64) -> Result<Block<'a>, Error> {
        let corrupt = |reason| segment.corrupt(self.terms.offset, reason);
        if ordinal >= self.count {
            return Err(segment.corrupt(self.dict.offset, "term number past the last"));
        }
        let number = ordinal / BLOCK_TERMS as u64;
        let place = |number: u64| -> Result<u64, Error> {
            let bytes = segment.read(self.places, number * 8, 8)?;
            Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
        };
        let start = place(number)?;
        let end = if (number + 1) * 8 < self.places.len { place(number + 1)? } else { self.terms.len };
        let len = end.checked_sub(start).and_then(|len| usize::try_from(len).ok());
        let bytes =
            segment.read(self.terms, start, len.ok_or_else(|| corrupt("blocks of terms out of order"))?)?;
        let mut reader = Reader::new(bytes);
        let mut read = || -> Decoded<Block<'a>> {
            let base = reader.u64()?;
            let df = BitArray::read(&mut reader)?;
            let (ends, positions) = (BitArray::read(&mut reader)?, BitArray::read(&mut reader)?);
            let count = (self.count - number * BLOCK_TERMS as u64).min(BLOCK_TERMS as u64) as usize;
            if [df.len(), ends.len(), positions.len()] != [count; 3] {
                return Err("block of terms out of shape");
            }
            Ok(Block { number, index: (ordinal % BLOCK_TERMS as u64) as usize, base, df, ends, positions })
        };
        read().map_err(corrupt)
    }
}

/// A block of TERMS, on one of its terms.
#[derive(Clone, Copy)]
struct Block<'a> {
    number: u64,
    index: usize,
    base: u64,
    df: BitArray<'a>,
    ends: BitArray<'a>,
    positions: BitArray<'a>,
}

impl Block<'_> {
    fn place(&self, segment: &Segment, key: &[u8]) -> Result<ListBytes, Error> {
        let start = if self.index == 0 { 0 } else { self.ends.get(self.index - 1) };
        let (end, positions_len) = (self.ends.get(self.index), self.positions.get(self.index));
        let place = || -> Option<ListBytes> {
            let len = end.checked_sub(start)?.checked_sub(positions_len)?;
            self.base.checked_add(end).filter(|&end| end <= segment.post.len)?;
            let df =
                u32::try_from(self.df.get(self.index)).ok().filter(|df| (1..=segment.docs()).contains(df))?;
            let positional = segment.schema.has_positions(field_of(key)?);
            Some(ListBytes { at: self.base + start, len, positions_len, df, positional })
        };
        place().ok_or_else(|| segment.corrupt(segment.dictionary.terms.offset, "term out of shape"))
    }
}

/// Walks the terms of a segment in order.
pub(crate) struct Terms<'a> {
    segment: &'a Segment,
    dictionary: &'a Dictionary,
    stream: Stream<'a>,
    key: Vec<u8>,
    /// Of the term the walk is on.
    ordinal: Option<u64>,
    block: Option<Block<'a>>,
}

impl Terms<'_> {
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// To the next term; false at the end.
    pub(crate) fn next(&mut self) -> Result<bool, Error> {
        let Terms { stream, key, .. } = self;
        let found = self.dictionary.trusting(self.segment, || {
            stream.next().map(|(found, ordinal)| {
                let fits = found.len() <= KEY_MAX_BYTES;
                key.clear();
                key.extend_from_slice(if fits { found } else { &[] });
                ordinal.value()
            })
        })?;
        let corrupt = |reason| self.segment.corrupt(self.dictionary.dict.offset, reason);
        let Some(ordinal) = found else {
            // Ended too early?
            return match self.ordinal.is_none_or(|last| last + 1 == self.dictionary.count) {
                true => Ok(false),
                false => Err(corrupt("dictionary ends before its last term")),
            };
        };
        if self.ordinal.is_some_and(|last| last + 1 != ordinal) || field_of(&self.key).is_none() {
            return Err(corrupt("terms out of order"));
        }
        self.ordinal = Some(ordinal);
        Ok(true)
    }

    /// Where the term's postings are.
    pub(crate) fn place(&mut self) -> Result<ListBytes, Error> {
        let ordinal = self.ordinal.unwrap_or(0);
        let index = (ordinal % BLOCK_TERMS as u64) as usize;
        let block = match self.block {
            Some(block) if block.number == ordinal / BLOCK_TERMS as u64 => Block { index, ..block },
            _ => self.dictionary.block(self.segment, ordinal)?,
        };
        self.block = Some(block);
        block.place(self.segment, &self.key)
    }
}

/// The dictionary of these sections, when they can be one.
pub(crate) fn of_sections(find: &dyn Fn(u8) -> Option<Section>, count: u64) -> Option<Dictionary> {
    let (dict, terms, places) = (find(DICT)?, find(TERMS)?, find(PLACES)?);
    (places.len == count.div_ceil(BLOCK_TERMS as u64).checked_mul(8)?).then_some(())?;
    Some(Dictionary { dict, terms, places, count, fst: OnceLock::new() })
}

/// Does a key belong to an indexed field?
pub(crate) fn belongs(schema: &Schema, key: &[u8]) -> bool {
    field_of(key).and_then(|field| schema.field(field)).is_some_and(|field| field.indexed)
}
