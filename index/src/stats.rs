//! Corpus statistics: exact, over live documents only, so that a score depends on nothing else.
//!
//! ```text
//! │ version: u8 = 1 │ docs: varint │ fields: varint │ (docs: varint, tokens: varint) per field │ crc32: u32 │
//! ```

use crate::coding::{Decoded, Reader, put_varint};
use crate::error::Error;
use crate::schema::FieldId;

const VERSION: u8 = 1;

/// What BM25 wants to know about one field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FieldStats {
    /// Documents with at least one token in the field.
    pub docs: u64,
    /// Tokens in the field, over all documents.
    pub tokens: u64,
}

/// What BM25 wants to know about a collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Live documents.
    pub docs: u64,
    /// One per field of the schema.
    pub fields: Vec<FieldStats>,
}

impl Stats {
    /// No document yet, in a schema of `fields` fields.
    pub fn new(fields: usize) -> Stats {
        Stats { docs: 0, fields: vec![FieldStats::default(); fields] }
    }

    pub(crate) fn add(&mut self, lengths: &[(FieldId, u32)]) {
        self.docs += 1;
        for &(field, length) in lengths {
            if let Some(stats) = self.fields.get_mut(usize::from(field.0)).filter(|_| length > 0) {
                stats.docs += 1;
                stats.tokens += u64::from(length);
            }
        }
    }

    pub(crate) fn remove(&mut self, lengths: &[(FieldId, u32)]) {
        self.docs = self.docs.saturating_sub(1);
        for &(field, length) in lengths {
            if let Some(stats) = self.fields.get_mut(usize::from(field.0)).filter(|_| length > 0) {
                stats.docs = stats.docs.saturating_sub(1);
                stats.tokens = stats.tokens.saturating_sub(u64::from(length));
            }
        }
    }

    /// As bytes, checksummed.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, self.docs);
        put_varint(&mut out, self.fields.len() as u64);
        for field in &self.fields {
            put_varint(&mut out, field.docs);
            put_varint(&mut out, field.tokens);
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// What [`Stats::encode`] wrote; `name` says in errors where the bytes came from.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Stats, Error> {
        read(bytes).map_err(|reason| Error::Corrupt { file: name.to_owned(), offset: 0, reason })
    }
}

fn read(bytes: &[u8]) -> Decoded<Stats> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or("statistics too short")?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err("statistics: wrong checksum");
    }
    let mut reader = Reader::new(body);
    if reader.u8()? != VERSION {
        return Err("statistics of an unknown version");
    }
    let docs = reader.varint()?;
    let count = reader.varint_usize()?;
    if count > usize::from(u16::MAX) {
        return Err("statistics of too many fields");
    }
    let mut fields = Vec::with_capacity(count);
    for _ in 0..count {
        fields.push(FieldStats { docs: reader.varint()?, tokens: reader.varint()? });
    }
    if reader.is_empty() { Ok(Stats { docs, fields }) } else { Err("statistics: bytes left over") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_come_back_and_flipped_bits_do_not() {
        let fields = vec![FieldStats { docs: 3, tokens: 1000 }, FieldStats::default()];
        let stats = Stats { docs: 70_000, fields };
        let bytes = stats.encode();
        assert_eq!(Stats::decode("s", &bytes).unwrap(), stats);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Stats::decode("s", &damaged), Err(Error::Corrupt { .. })), "bit {bit}");
        }
    }
}
