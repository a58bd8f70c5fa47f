//! Columns of a segment: the values of one field by document, in zones of 4096 documents.
//!
//! ```text
//! COL_f    block per zone: │ mode: u8 │ mode 1: document offset in the zone: u16 × count │ bit array of value - min │
//! ZONE_f   │ block_offset: u64 │ count: u32 │ min: u64 │ max: u64 │ per zone
//! KDICT_f  │ count: u32 │ end: u32 × count │ bytes │     keywords only: the distinct words, sorted; values are ordinals
//! ```
//! Mode 0: value i belongs to document i of the zone (every one has exactly one). Mode 1 names the document of each
//! value, so it holds gaps and arrays alike.

use crate::coding::{BitArray, Reader, put_bit_array};
use crate::columns::{Column, ZONE};
use crate::error::Error;
use crate::segment::Section;
use crate::segment::reader::Segment;

pub(crate) const ZONE_BYTES: usize = 28;

/// Encodes a column of a segment of `docs` documents: COL and ZONE.
pub(crate) fn encode(column: &Column, docs: u32) -> (Vec<u8>, Vec<u8>) {
    let (mut blocks, mut zones) = (Vec::new(), Vec::new());
    for base in (0..docs).step_by(ZONE as usize) {
        let (owners, values) = column.zone(base);
        let min = values.iter().copied().min().unwrap_or(0);
        let max = values.iter().copied().max().unwrap_or(0);
        zones.extend_from_slice(&(blocks.len() as u64).to_le_bytes());
        zones.extend_from_slice(&(values.len() as u32).to_le_bytes());
        zones.extend_from_slice(&min.to_le_bytes());
        zones.extend_from_slice(&max.to_le_bytes());
        let all = (docs - base).min(ZONE) as usize;
        let dense = owners.len() == all && owners.iter().enumerate().all(|(i, &doc)| doc == base + i as u32);
        blocks.push(u8::from(!dense));
        if !dense {
            for doc in owners {
                blocks.extend_from_slice(&((doc - base) as u16).to_le_bytes());
            }
        }
        put_bit_array(&mut blocks, values.iter().map(|value| value - min), max - min);
    }
    (blocks, zones)
}

/// Encodes the words of a keyword column: KDICT.
pub(crate) fn encode_words(column: &Column) -> Vec<u8> {
    let mut out = (column.words.len() as u32).to_le_bytes().to_vec();
    let mut end = 0_u32;
    for word in column.words.iter() {
        end += word.len() as u32;
        out.extend_from_slice(&end.to_le_bytes());
    }
    column.words.iter().for_each(|word| out.extend_from_slice(word));
    out
}

/// A column's place in a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ColumnSections {
    pub(crate) values: Section,
    pub(crate) zones: Section,
    pub(crate) words: Option<Section>,
}

/// What a zone's values are between.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Zone {
    pub(crate) offset: u64,
    pub(crate) count: u32,
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl ColumnSections {
    pub(crate) fn zone(&self, segment: &Segment, base: u32) -> Result<Zone, Error> {
        let at = u64::from(base / ZONE) * ZONE_BYTES as u64;
        let mut reader = Reader::new(segment.read(self.zones, at, ZONE_BYTES)?);
        let mut read = || {
            Ok(Zone { offset: reader.u64()?, count: reader.u32()?, min: reader.u64()?, max: reader.u64()? })
        };
        read().map_err(|reason| segment.corrupt(self.zones.offset + at, reason))
    }

    /// Calls `f(document, value)` for the values of the zone at `base`.
    pub(crate) fn for_each(
        &self,
        segment: &Segment,
        base: u32,
        zone: Zone,
        f: &mut dyn FnMut(u32, u64),
    ) -> Result<(), Error> {
        let next = if u64::from(base) + u64::from(ZONE) < u64::from(segment.docs()) {
            self.zone(segment, base + ZONE)?.offset
        } else {
            self.values.len
        };
        let corrupt = |reason| segment.corrupt(self.values.offset + zone.offset, reason);
        let len = next.checked_sub(zone.offset).and_then(|len| usize::try_from(len).ok());
        let bytes =
            segment.read(self.values, zone.offset, len.ok_or_else(|| corrupt("zones out of order"))?)?;
        let mut reader = Reader::new(bytes);
        let count = zone.count as usize;
        let mode = reader.u8().map_err(corrupt)?;
        let owners =
            if mode == 0 { &[][..] } else { reader.bytes(count.saturating_mul(2)).map_err(corrupt)? };
        let values = BitArray::read(&mut reader).map_err(corrupt)?;
        if mode > 1 || values.len() != count || (mode == 0 && count > ZONE as usize) {
            return Err(corrupt("column block out of shape"));
        }
        let limit = segment.docs();
        for i in 0..count {
            let offset = match owners.get(i * 2..i * 2 + 2) {
                Some(owner) => u32::from(u16::from_le_bytes([owner[0], owner[1]])),
                None => i as u32,
            };
            if offset >= ZONE || base + offset >= limit {
                return Err(corrupt("column value past the last document"));
            }
            f(base + offset, zone.min.wrapping_add(values.get(i)));
        }
        Ok(())
    }

    pub(crate) fn word_count(&self, segment: &Segment) -> Result<u32, Error> {
        let Some(words) = self.words else { return Ok(0) };
        let count = number(segment.read(words, 0, 4)?);
        match u64::from(count) * 4 + 4 <= words.len {
            true => Ok(count),
            false => Err(segment.corrupt(words.offset, "keywords out of their section")),
        }
    }

    pub(crate) fn word<'a>(&self, segment: &'a Segment, ordinal: u32) -> Result<&'a [u8], Error> {
        let Some(words) = self.words else { return Ok(&[]) };
        let count = self.word_count(segment)?;
        if ordinal >= count {
            return Err(segment.corrupt(words.offset, "keyword past the last"));
        }
        let end_of = |i: u32| segment.read(words, 4 + u64::from(i) * 4, 4).map(number);
        let start = if ordinal == 0 { 0 } else { end_of(ordinal - 1)? };
        let len = end_of(ordinal)?.checked_sub(start);
        let len = len.ok_or_else(|| segment.corrupt(words.offset, "keywords out of order"))?;
        segment.read(words, 4 + u64::from(count) * 4 + u64::from(start), len as usize)
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}
