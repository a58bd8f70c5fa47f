//! Writes a segment to a stream in one pass: lists as they come, everything else behind them.

use crate::coding::put_varint;
use crate::columns::Column;
use crate::error::Error;
use crate::memory::{Documents, has_words};
use crate::merge::Sink;
use crate::postings::encoder::ListEncoder;
use crate::schema::{Analyzer, Kind, Schema};
use crate::segment::columns::{encode, encode_words};
use crate::segment::dictionary::{DictionaryBuilder, TermFacts};
use crate::segment::{
    CHUNK_BYTES, COL, DICT, HEADER_BYTES, KDICT, KEYS, MAGIC, MAGIC_END, NORM, PLACES, POST, Section,
    SegmentSummary, TERMS, UID, VERSION, ZONES, chunk_crc,
};
use crate::term::field_of;
use std::io;

/// Counts and checksums what passes through.
struct Output<'a> {
    out: &'a mut dyn io::Write,
    chunk: Vec<u8>,
    crcs: Vec<u32>,
    written: u64,
}

impl Output<'_> {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.written += bytes.len() as u64;
        while !bytes.is_empty() {
            let count = bytes.len().min(CHUNK_BYTES - self.chunk.len());
            self.chunk.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.chunk.len() == CHUNK_BYTES {
                self.end_chunk()?;
            }
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), Error> {
        if !self.chunk.is_empty() {
            self.crcs.push(chunk_crc(self.crcs.len() as u64, &self.chunk));
            self.out.write_all(&self.chunk)?;
            self.chunk.clear();
        }
        Ok(())
    }
}

/// Takes a segment's terms in order, then its columns.
pub(crate) struct SegmentBuilder<'a> {
    schema: &'a Schema,
    documents: Documents,
    output: Output<'a>,
    sections: Vec<(u8, u16, Section)>,
    /// Until it is written.
    dictionary: Option<DictionaryBuilder>,
    encoder: ListEncoder,
    buffer: Vec<u8>,
    key: Vec<u8>,
    slot: Option<usize>,
    list_at: u64,
}

impl<'a> SegmentBuilder<'a> {
    pub(crate) fn new(
        schema: &'a Schema,
        documents: Documents,
        out: &'a mut dyn io::Write,
    ) -> Result<SegmentBuilder<'a>, Error> {
        let mut output = Output { out, chunk: Vec::with_capacity(CHUNK_BYTES), crcs: Vec::new(), written: 0 };
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&[0; 2]);
        header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        output.write(&header)?;
        Ok(SegmentBuilder {
            schema,
            documents,
            output,
            sections: Vec::new(),
            dictionary: Some(DictionaryBuilder::new()),
            encoder: ListEncoder::default(),
            buffer: Vec::new(),
            key: Vec::new(),
            slot: None,
            list_at: 0,
        })
    }

    fn section(&mut self, id: u8, field: u16, bytes: &[u8]) -> Result<(), Error> {
        self.sections.push((id, field, Section { offset: self.output.written, len: bytes.len() as u64 }));
        self.output.write(bytes)
    }

    /// Writes the rest: `columns` has one per field.
    pub(crate) fn finish(mut self, columns: &[Column]) -> Result<SegmentSummary, Error> {
        let docs = self.documents.uids.len() as u32;
        let terms = self.dictionary.as_ref().map_or(0, |dictionary| dictionary.count);
        self.sections.push((POST, 0, Section { offset: HEADER_BYTES as u64, len: self.list_at }));
        let dictionary = self.dictionary.take().map_or_else(Default::default, DictionaryBuilder::finish);
        self.section(DICT, 0, &dictionary.dict)?;
        self.section(TERMS, 0, &dictionary.terms)?;
        self.section(PLACES, 0, &dictionary.places)?;
        for (slot, norms) in std::mem::take(&mut self.documents.norms).iter().enumerate() {
            self.section(NORM, slot as u16, norms)?;
        }
        let uids: Vec<u8> = self.documents.uids.iter().flat_map(|uid| uid.to_le_bytes()).collect();
        self.section(UID, 0, &uids)?;
        let mut keys = Vec::with_capacity(docs as usize * 4 + self.documents.keys.size_bytes());
        let mut end = 0_u32;
        for key in self.documents.keys.iter() {
            end += key.len() as u32;
            keys.extend_from_slice(&end.to_le_bytes());
        }
        self.documents.keys.iter().for_each(|key| keys.extend_from_slice(key));
        self.section(KEYS, 0, &keys)?;
        for field in self.schema.fast_fields() {
            let column = &columns[usize::from(field.0)];
            let (values, zones) = encode(column, docs);
            self.section(COL, field.0, &values)?;
            self.section(ZONES, field.0, &zones)?;
            if has_words(self.schema, field) {
                self.section(KDICT, field.0, &encode_words(column))?;
            }
        }
        self.output.end_chunk()?;
        let (min_uid, max_uid) = (self.documents.uids[0], self.documents.uids[docs as usize - 1]);
        let mut footer = docs.to_le_bytes().to_vec();
        for number in [min_uid, max_uid, terms] {
            footer.extend_from_slice(&number.to_le_bytes());
        }
        put_schema(&mut footer, self.schema);
        put_varint(&mut footer, self.sections.len() as u64);
        for (id, field, section) in &self.sections {
            footer.push(*id);
            footer.extend_from_slice(&field.to_le_bytes());
            footer.extend_from_slice(&section.offset.to_le_bytes());
            footer.extend_from_slice(&section.len.to_le_bytes());
        }
        put_varint(&mut footer, self.output.crcs.len() as u64);
        self.output.crcs.iter().for_each(|crc| footer.extend_from_slice(&crc.to_le_bytes()));
        let len = footer.len() as u64;
        footer.extend_from_slice(&self.output.written.to_le_bytes());
        footer.extend_from_slice(&len.to_le_bytes());
        footer.extend_from_slice(&crc32fast::hash(&footer).to_le_bytes());
        footer.extend_from_slice(&MAGIC_END);
        self.output.out.write_all(&footer)?;
        let bytes = self.output.written + footer.len() as u64;
        Ok(SegmentSummary { docs, min_uid, max_uid, terms, bytes })
    }
}

impl Sink for SegmentBuilder<'_> {
    fn term(&mut self, key: &[u8]) -> Result<(), Error> {
        self.key.clear();
        self.key.extend_from_slice(key);
        self.slot = field_of(key).and_then(|field| self.schema.norm_slot(field));
        Ok(())
    }

    fn postings(&mut self, base: u32, docs: &[u32], tfs: &[u32], mut positions: &[u32]) -> Result<(), Error> {
        let norms: &[u8] = self.slot.map_or(&[], |slot| &self.documents.norms[slot]);
        let norm = |doc: u32| norms.get(doc as usize).copied().unwrap_or(0);
        if positions.is_empty() {
            for (&doc, &tf) in docs.iter().zip(tfs) {
                self.encoder.push(base + doc, tf, &[], &norm);
            }
            return Ok(());
        }
        for (&doc, &tf) in docs.iter().zip(tfs) {
            let (own, rest) = positions.split_at(tf as usize);
            self.encoder.push(base + doc, tf, own, &norm);
            positions = rest;
        }
        Ok(())
    }

    fn end_term(&mut self) -> Result<(), Error> {
        self.buffer.clear();
        let df = self.encoder.df();
        let positions_len = if df == 1 {
            self.encoder.finish_single(&mut self.buffer);
            0
        } else {
            let norms: &[u8] = self.slot.map_or(&[], |slot| &self.documents.norms[slot]);
            let norm = |doc: u32| norms.get(doc as usize).copied().unwrap_or(0);
            self.encoder.finish(&norm, &mut self.buffer) as u64
        };
        let len = self.buffer.len() as u64;
        if len > u64::from(u32::MAX) {
            return Err(Error::TooLarge { what: "posting list" });
        }
        let dictionary = self.dictionary.as_mut().expect("terms come before the end");
        dictionary.add(&self.key, TermFacts { df, len, positions_len });
        self.output.write(&self.buffer)?;
        self.list_at += len;
        Ok(())
    }
}

fn put_schema(out: &mut Vec<u8>, schema: &Schema) {
    put_varint(out, schema.fields().len() as u64);
    for field in schema.fields() {
        put_varint(out, field.name.len() as u64);
        out.extend_from_slice(field.name.as_bytes());
        out.push(match field.kind {
            Kind::Text(Analyzer::Standard) => 0,
            Kind::Text(Analyzer::Simple) => 1,
            Kind::Keyword => 2,
            Kind::I64 => 3,
            Kind::F64 => 4,
            Kind::Date => 5,
            Kind::Bool => 6,
        });
        out.push(u8::from(field.indexed) | u8::from(field.fast) << 1);
    }
}
