//! Opens a segment and hands out its bytes, each chunk verified before its first use.

use crate::coding::{Decoded, Reader};
use crate::error::Error;
use crate::postings::cursor::ByteSource;
use crate::schema::{Analyzer, Field, FieldId, Kind, Schema};
use crate::segment::columns::{ColumnSections, ZONE_BYTES};
use crate::segment::dictionary::{self, Dictionary};
use crate::segment::{
    CHUNK_BYTES, COL, HEADER_BYTES, KDICT, KEYS, MAGIC, MAGIC_END, NORM, POST, Section, TRAILER_BYTES, UID,
    VERSION, ZONES, chunk_crc,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A segment file, opened. Cheap to keep: nothing is decoded until it is asked for.
pub struct Segment {
    name: String,
    file: Arc<dyn AsRef<[u8]> + Send + Sync>,
    /// Bytes under chunk checksums: all in front of the footer.
    body_len: u64,
    crcs: Vec<u32>,
    /// A bit per chunk: verified.
    verified: Vec<AtomicU64>,
    docs: u32,
    pub(crate) min_uid: u64,
    pub(crate) max_uid: u64,
    pub(crate) schema: Schema,
    pub(crate) post: Section,
    pub(crate) dictionary: Dictionary,
    norms: Vec<Section>,
    uids: Section,
    keys: Section,
    /// One per field.
    pub(crate) columns: Vec<Option<ColumnSections>>,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("name", &self.name).field("docs", &self.docs).finish_non_exhaustive()
    }
}

struct Footer {
    docs: u32,
    uids: (u64, u64),
    terms: u64,
    fields: Vec<Field>,
    sections: Vec<(u8, u16, Section)>,
    crcs: Vec<u32>,
}

impl Segment {
    /// Opens the bytes of a segment; `name` says in errors which file it was.
    pub fn open(name: String, bytes: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Result<Segment, Error> {
        let all = (*bytes).as_ref();
        let corrupt = |offset: u64, reason| Error::Corrupt { file: name.clone(), offset, reason };
        let (header, trailer) = match (all.get(..HEADER_BYTES), all.split_last_chunk::<TRAILER_BYTES>()) {
            (Some(header), Some((_, trailer))) if all.len() >= HEADER_BYTES + TRAILER_BYTES => {
                (header, trailer)
            }
            _ => return Err(corrupt(0, "file too short")),
        };
        if header[..4] != MAGIC || crc32fast::hash(&header[..8]).to_le_bytes() != header[8..12] {
            return Err(corrupt(0, "header damaged"));
        }
        let found = u16::from_le_bytes([header[4], header[5]]);
        if found != VERSION {
            return Err(Error::Version { file: name, found, expected: VERSION });
        }
        let trailer_at = all.len() - TRAILER_BYTES;
        let mut reader = Reader::new(trailer);
        let mut numbers =
            || -> Decoded<(u64, u64, u32)> { Ok((reader.u64()?, reader.u64()?, reader.u32()?)) };
        let (body_len, len, crc) = numbers().map_err(|reason| corrupt(trailer_at as u64, reason))?;
        if trailer[20..] != MAGIC_END || body_len.checked_add(len) != Some(trailer_at as u64) {
            return Err(corrupt(trailer_at as u64, "trailer damaged"));
        }
        let at = body_len as usize;
        if crc32fast::hash(&all[at..trailer_at + 16]) != crc {
            return Err(corrupt(body_len, "footer: wrong checksum"));
        }
        let footer = read_footer(&all[at..trailer_at]).map_err(|reason| corrupt(body_len, reason))?;
        let segment = assemble(name.clone(), bytes.clone(), body_len, footer)
            .ok_or_else(|| corrupt(body_len, "sections do not fit"))?;
        // Deletes must always find their document, so what they read is verified now.
        segment.read(segment.uids, 0, segment.uids.len as usize)?;
        if segment.uid(0)? != segment.min_uid || segment.uid(segment.docs - 1)? != segment.max_uid {
            return Err(corrupt(segment.uids.offset, "uids do not fit the footer"));
        }
        Ok(segment)
    }

    /// The name given at opening.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Documents, deleted ones included.
    pub fn docs(&self) -> u32 {
        self.docs
    }

    /// Size of the file.
    pub fn size_bytes(&self) -> u64 {
        (*self.file).as_ref().len() as u64
    }

    pub(crate) fn file(&self) -> Arc<dyn AsRef<[u8]> + Send + Sync> {
        self.file.clone()
    }

    pub(crate) fn chunk_count(&self) -> usize {
        self.crcs.len()
    }

    pub(crate) fn corrupt(&self, offset: u64, reason: &'static str) -> Error {
        Error::Corrupt { file: self.name.clone(), offset, reason }
    }

    /// Bytes of a section, verified.
    #[inline]
    pub(crate) fn read(&self, section: Section, at: u64, len: usize) -> Result<&[u8], Error> {
        match at.checked_add(len as u64) {
            Some(end) if end <= section.len => {}
            _ => return Err(self.corrupt(section.offset, "read past the end of a section")),
        }
        if len == 0 {
            return Ok(&[]);
        }
        // Sections lie inside the body: checked when the file was opened.
        let start = (section.offset + at) as usize;
        for chunk in start / CHUNK_BYTES..=(start + len - 1) / CHUNK_BYTES {
            if self.verified[chunk / 64].load(Ordering::Relaxed) >> (chunk % 64) & 1 == 0 {
                self.verify_chunk(chunk)?;
            }
        }
        Ok(&(*self.file).as_ref()[start..start + len])
    }

    #[cold]
    pub(crate) fn verify_chunk(&self, chunk: usize) -> Result<(), Error> {
        let start = chunk * CHUNK_BYTES;
        let end = (start + CHUNK_BYTES).min(self.body_len as usize);
        let bytes = &(*self.file).as_ref()[start..end];
        if chunk_crc(chunk as u64, bytes) != self.crcs[chunk] {
            return Err(self.corrupt(start as u64, "chunk: wrong checksum"));
        }
        self.verified[chunk / 64].fetch_or(1 << (chunk % 64), Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn uid(&self, doc: u32) -> Result<u64, Error> {
        let bytes = self.read(self.uids, u64::from(doc) * 8, 8)?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    pub(crate) fn key(&self, doc: u32) -> Result<&[u8], Error> {
        let end_of = |doc: u32| {
            let bytes = self.read(self.keys, u64::from(doc) * 4, 4)?;
            Ok::<_, Error>(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        let start = if doc == 0 { 0 } else { end_of(doc - 1)? };
        let len = end_of(doc)?.checked_sub(start);
        let len = len.ok_or_else(|| self.corrupt(self.keys.offset, "keys out of order"))?;
        self.read(self.keys, u64::from(self.docs) * 4 + u64::from(start), len as usize)
    }

    pub(crate) fn norms(&self, slot: usize, start: u32, len: u32) -> Result<&[u8], Error> {
        self.read(self.norms[slot], u64::from(start), len as usize)
    }

    pub(crate) fn column(&self, field: FieldId) -> Option<&ColumnSections> {
        self.columns.get(usize::from(field.0))?.as_ref()
    }
}

impl ByteSource for Segment {
    #[inline]
    fn bytes(&self, at: u64, len: usize) -> Result<&[u8], Error> {
        self.read(self.post, at, len)
    }

    fn corrupt(&self, at: u64, reason: &'static str) -> Error {
        Segment::corrupt(self, self.post.offset + at, reason)
    }
}

fn read_footer(bytes: &[u8]) -> Decoded<Footer> {
    let mut reader = Reader::new(bytes);
    let docs = reader.u32()?;
    let uids = (reader.u64()?, reader.u64()?);
    let terms = reader.u64()?;
    let mut fields = Vec::new();
    for _ in 0..reader.varint()? {
        let len = reader.varint_usize()?;
        let name = std::str::from_utf8(reader.bytes(len)?).map_err(|_| "field name is not UTF-8")?.to_owned();
        let kind = match reader.u8()? {
            0 => Kind::Text(Analyzer::Standard),
            1 => Kind::Text(Analyzer::Simple),
            2 => Kind::Keyword,
            3 => Kind::I64,
            4 => Kind::F64,
            5 => Kind::Date,
            6 => Kind::Bool,
            _ => return Err("unknown kind of field"),
        };
        let flags = reader.u8()?;
        fields.push(Field { name, kind, indexed: flags & 1 == 1, fast: flags & 2 == 2 });
    }
    let mut sections = Vec::new();
    for _ in 0..reader.varint()? {
        let (id, field) = (reader.u8()?, reader.u16()?);
        sections.push((id, field, Section { offset: reader.u64()?, len: reader.u64()? }));
    }
    let mut crcs = Vec::new();
    for _ in 0..reader.varint()? {
        crcs.push(reader.u32()?);
    }
    if reader.is_empty() {
        Ok(Footer { docs, uids, terms, fields, sections, crcs })
    } else {
        Err("footer: bytes left over")
    }
}

fn assemble(
    name: String,
    file: Arc<dyn AsRef<[u8]> + Send + Sync>,
    body_len: u64,
    footer: Footer,
) -> Option<Segment> {
    let schema = Schema::new(footer.fields).ok()?;
    let inside =
        |section: &Section| section.offset.checked_add(section.len).is_some_and(|end| end <= body_len);
    let sections = footer.sections;
    let of = |id: u8, field: u16| {
        let found = sections.iter().find(|section| (section.0, section.1) == (id, field));
        found.map(|section| section.2).filter(inside)
    };
    let docs = u64::from(footer.docs);
    let norms: Option<Vec<Section>> = (0..schema.norm_count()).map(|slot| of(NORM, slot as u16)).collect();
    let norms = norms.filter(|norms| norms.iter().all(|section| section.len == docs))?;
    let mut columns = vec![None; schema.fields().len()];
    for field in schema.fast_fields() {
        let zones = of(ZONES, field.0)?;
        if zones.len != docs.div_ceil(u64::from(crate::columns::ZONE)) * ZONE_BYTES as u64 {
            return None;
        }
        columns[usize::from(field.0)] =
            Some(ColumnSections { values: of(COL, field.0)?, zones, words: of(KDICT, field.0) });
    }
    let (uids, keys) = (of(UID, 0)?, of(KEYS, 0)?);
    let fits = docs > 0
        && uids.len == docs * 8
        && keys.len >= docs * 4
        && footer.crcs.len() as u64 == body_len.div_ceil(CHUNK_BYTES as u64);
    let verified = (0..footer.crcs.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
    fits.then_some(())?;
    Some(Segment {
        name,
        file,
        body_len,
        crcs: footer.crcs,
        verified,
        docs: footer.docs,
        min_uid: footer.uids.0,
        max_uid: footer.uids.1,
        post: of(POST, 0)?,
        dictionary: dictionary::of_sections(&|id| of(id, 0), footer.terms)?,
        norms,
        uids,
        keys,
        columns,
        schema,
    })
}
