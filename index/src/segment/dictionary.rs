//! The dictionary of a segment: all terms in order, in blocks of 32, with what is known about each.
//!
//! ```text
//! DICT     block*
//! block    │ list_base: varint │ entry × 1..=32 │
//! entry    │ shared: varint │ rest_len: varint │ rest │ df << 1 | inline: varint │ then
//!   inline │ doc: varint │ tf: varint │ position delta: varint × tf, when the field has positions │
//!   list   │ list_len: varint │ positions_len: varint │
//! BLOCKS   │ (key_end: u32, block_offset: u64) × blocks │ first keys │
//! ```
//! `shared` counts from the key before, 0 at a block's start. A list begins where the one before it ends, the first of a
//! block at `list_base`. Front-coded blocks rather than an automaton: they are written as a stream, verified chunk by
//! chunk as they are touched, and decoding them cannot panic; a lookup is a bisection and one scan of a block.

use crate::coding::{Decoded, Reader, put_varint};
use crate::error::Error;
use crate::postings::cursor::ListBytes;
use crate::schema::Schema;
use crate::segment::reader::Segment;
use crate::segment::{BLOCKS, DICT, Section};
use crate::term::field_of;

pub(crate) const TERMS_PER_BLOCK: usize = 32;
const ENTRY_BYTES: u64 = 12;
/// A longer key than any writer makes.
const KEY_MAX_BYTES: usize = 1 << 20;

/// Where a term's postings are.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    List(ListBytes),
    Inline { doc: u32, tf: u32, positions: Vec<u32> },
}

impl Place {
    pub(crate) fn df(&self) -> u32 {
        match self {
            Place::List(list) => list.df,
            Place::Inline { .. } => 1,
        }
    }
}

/// Writes DICT and BLOCKS.
#[derive(Default)]
pub(crate) struct DictionaryBuilder {
    pub(crate) dict: Vec<u8>,
    entries: Vec<u8>,
    first_keys: Vec<u8>,
    previous: Vec<u8>,
    pub(crate) count: u64,
}

impl DictionaryBuilder {
    fn key(&mut self, key: &[u8], list_at: u64) -> Result<(), Error> {
        let shared = if self.count.is_multiple_of(TERMS_PER_BLOCK as u64) {
            self.first_keys.extend_from_slice(key);
            let end = u32::try_from(self.first_keys.len())
                .map_err(|_| Error::TooLarge { what: "dictionary index" })?;
            self.entries.extend_from_slice(&end.to_le_bytes());
            self.entries.extend_from_slice(&(self.dict.len() as u64).to_le_bytes());
            put_varint(&mut self.dict, list_at);
            0
        } else {
            self.previous.iter().zip(key).take_while(|(a, b)| a == b).count()
        };
        put_varint(&mut self.dict, shared as u64);
        put_varint(&mut self.dict, (key.len() - shared) as u64);
        self.dict.extend_from_slice(&key[shared..]);
        self.previous.clear();
        self.previous.extend_from_slice(key);
        self.count += 1;
        Ok(())
    }

    /// A term of one document; `deltas` are its position deltas.
    pub(crate) fn inline(
        &mut self,
        key: &[u8],
        list_at: u64,
        (doc, tf, deltas): (u32, u32, &[u32]),
    ) -> Result<(), Error> {
        self.key(key, list_at)?;
        put_varint(&mut self.dict, 1 << 1 | 1);
        put_varint(&mut self.dict, u64::from(doc));
        put_varint(&mut self.dict, u64::from(tf));
        for &delta in deltas {
            put_varint(&mut self.dict, u64::from(delta));
        }
        Ok(())
    }

    /// A term with a list, which begins at `list_at`.
    pub(crate) fn list(
        &mut self,
        key: &[u8],
        list_at: u64,
        df: u32,
        len: u64,
        positions: u64,
    ) -> Result<(), Error> {
        self.key(key, list_at)?;
        put_varint(&mut self.dict, u64::from(df) << 1);
        put_varint(&mut self.dict, len);
        put_varint(&mut self.dict, positions);
        Ok(())
    }

    /// The BLOCKS section.
    pub(crate) fn blocks(mut self) -> Vec<u8> {
        self.entries.append(&mut self.first_keys);
        self.entries
    }
}

/// Reads a segment's dictionary.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dictionary {
    pub(crate) dict: Section,
    pub(crate) blocks: Section,
    pub(crate) terms: u64,
}

impl Dictionary {
    fn block_count(&self) -> u64 {
        self.terms.div_ceil(TERMS_PER_BLOCK as u64)
    }

    fn entry(&self, segment: &Segment, block: u64) -> Result<(u32, u64), Error> {
        let bytes = segment.read(self.blocks, block * ENTRY_BYTES, ENTRY_BYTES as usize)?;
        let (end, offset) = bytes.split_at(4);
        let number =
            |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
        Ok((number(end) as u32, number(offset)))
    }

    fn first_key<'a>(&self, segment: &'a Segment, block: u64) -> Result<&'a [u8], Error> {
        let start = if block == 0 { 0 } else { self.entry(segment, block - 1)?.0 };
        let end = self.entry(segment, block)?.0;
        if end < start {
            return Err(segment.corrupt(self.blocks.offset, "dictionary index out of order"));
        }
        let keys = self.block_count() * ENTRY_BYTES;
        segment.read(self.blocks, keys + u64::from(start), (end - start) as usize)
    }

    /// The block that may hold `key`: the last whose first key is not above it.
    fn block_of(&self, segment: &Segment, key: &[u8]) -> Result<u64, Error> {
        let (mut low, mut high) = (0, self.block_count());
        while low + 1 < high {
            let middle = (low + high) / 2;
            if self.first_key(segment, middle)? <= key {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    pub(crate) fn find(&self, segment: &Segment, key: &[u8]) -> Result<Option<Place>, Error> {
        let mut terms = Terms::at_block(segment, self.block_of(segment, key)?);
        for _ in 0..TERMS_PER_BLOCK {
            if !terms.next()? || terms.key() > key {
                return Ok(None);
            }
            if terms.key() == key {
                return terms.place().map(Some);
            }
        }
        Ok(None)
    }

    /// All terms from `key` on.
    pub(crate) fn from<'a>(&self, segment: &'a Segment, key: &[u8]) -> Result<Terms<'a>, Error> {
        let mut terms = Terms::at_block(segment, self.block_of(segment, key)?);
        while terms.next()? {
            if terms.key() >= key {
                terms.stay = true;
                break;
            }
        }
        Ok(terms)
    }
}

/// Walks the terms of a segment in order.
pub(crate) struct Terms<'a> {
    segment: &'a Segment,
    dictionary: Dictionary,
    /// Number of the term `next` goes to.
    number: u64,
    reader: Reader<'a>,
    block_at: u64,
    key: Vec<u8>,
    list_at: u64,
    parsed: Parsed,
    /// The term is already the one the next call of `next` shall go to.
    stay: bool,
}

#[derive(Clone, Copy, Default)]
struct Parsed {
    list: Option<ListBytes>,
    doc: u32,
    tf: u32,
    /// Where the inline position deltas begin, from the block's start.
    deltas: usize,
    positional: bool,
}

impl<'a> Terms<'a> {
    fn at_block(segment: &'a Segment, block: u64) -> Terms<'a> {
        Terms {
            segment,
            dictionary: segment.dictionary,
            number: block * TERMS_PER_BLOCK as u64,
            reader: Reader::new(&[]),
            block_at: 0,
            key: Vec::new(),
            list_at: 0,
            parsed: Parsed::default(),
            stay: false,
        }
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    fn corrupt(&self, reason: &'static str) -> Error {
        self.segment
            .corrupt(self.dictionary.dict.offset + self.block_at + self.reader.position() as u64, reason)
    }

    /// To the next term; false at the end.
    pub(crate) fn next(&mut self) -> Result<bool, Error> {
        if std::mem::take(&mut self.stay) {
            return Ok(true);
        }
        if self.number >= self.dictionary.terms {
            return Ok(false);
        }
        if self.number.is_multiple_of(TERMS_PER_BLOCK as u64) {
            let block = self.number / TERMS_PER_BLOCK as u64;
            let start = self.dictionary.entry(self.segment, block)?.1;
            let end = match block + 1 < self.dictionary.block_count() {
                true => self.dictionary.entry(self.segment, block + 1)?.1,
                false => self.dictionary.dict.len,
            };
            let len = end.checked_sub(start).and_then(|len| usize::try_from(len).ok());
            let len = len.ok_or_else(|| self.corrupt("dictionary block out of order"))?;
            self.reader = Reader::new(self.segment.read(self.dictionary.dict, start, len)?);
            self.block_at = start;
            self.key.clear();
            self.list_at = self.reader.varint().map_err(|reason| self.corrupt(reason))?;
        }
        self.parse().map_err(|reason| self.corrupt(reason))?;
        self.number += 1;
        Ok(true)
    }

    fn parse(&mut self) -> Decoded<()> {
        let shared = self.reader.varint_usize()?;
        let rest = self.reader.varint_usize()?;
        let rest = self.reader.bytes(rest)?;
        if shared > self.key.len() || shared + rest.len() > KEY_MAX_BYTES {
            return Err("dictionary key out of shape");
        }
        self.key.truncate(shared);
        self.key.extend_from_slice(rest);
        let field = field_of(&self.key).ok_or("dictionary key without field")?;
        let positional = self.segment.schema.has_positions(field);
        let df = self.reader.varint()?;
        let docs = self.segment.docs();
        if df & 1 == 1 {
            let (doc, tf) = (self.reader.varint_u32()?, self.reader.varint_u32()?);
            if df != 3 || doc >= docs {
                return Err("inline posting out of shape");
            }
            let deltas = self.reader.position();
            for _ in 0..if positional { tf } else { 0 } {
                self.reader.varint_u32()?;
            }
            self.parsed = Parsed { list: None, doc, tf, deltas, positional };
            return Ok(());
        }
        let (len, positions_len) = (self.reader.varint()?, self.reader.varint()?);
        let df = u32::try_from(df >> 1).map_err(|_| "df too large")?;
        let list = ListBytes { at: self.list_at, len, positions_len, df, positional };
        let total = len.checked_add(positions_len).and_then(|total| total.checked_add(self.list_at));
        self.list_at = total.filter(|&end| end <= self.segment.post.len).ok_or("list out of its section")?;
        self.parsed = Parsed { list: Some(list), positional, ..Parsed::default() };
        Ok(())
    }

    pub(crate) fn place(&self) -> Result<Place, Error> {
        if let Some(list) = self.parsed.list {
            return Ok(Place::List(list));
        }
        let Parsed { doc, tf, deltas, positional, .. } = self.parsed;
        let mut positions = Vec::new();
        if positional {
            let mut reader = self.reader.from(deltas);
            let mut position = 0_u32;
            for _ in 0..tf {
                position = position.wrapping_add(reader.varint_u32().map_err(|reason| self.corrupt(reason))?);
                positions.push(position);
            }
        }
        Ok(Place::Inline { doc, tf, positions })
    }
}

/// Are these the sections of a dictionary?
pub(crate) fn sections(find: &dyn Fn(u8) -> Option<Section>, terms: u64) -> Option<Dictionary> {
    let (dict, blocks) = (find(DICT)?, find(BLOCKS)?);
    let dictionary = Dictionary { dict, blocks, terms };
    let fits = dictionary.block_count().checked_mul(ENTRY_BYTES)? <= blocks.len;
    fits.then_some(dictionary)
}

/// Does a key belong to an indexed field?
pub(crate) fn belongs(schema: &Schema, key: &[u8]) -> bool {
    field_of(key).and_then(|field| schema.field(field)).is_some_and(|field| field.indexed)
}
