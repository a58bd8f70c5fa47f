//! The index at one moment, immutable.

use crate::deletes::Deletes;
use crate::digest;
use crate::document::ColumnValue;
use crate::error::Error;
use crate::memory::has_words;
use crate::part::Part;
use crate::schema::{FieldId, Schema};
use crate::search::searcher;
use crate::search::{Request, Response};
use crate::stats::Stats;
use std::sync::Arc;

/// A part and what is deleted of it.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) part: Part,
    pub(crate) deletes: Deletes,
}

/// The index at one moment. Later changes do not touch it.
#[derive(Debug)]
pub struct View {
    pub(crate) schema: Arc<Schema>,
    pub(crate) slices: Vec<Slice>,
    pub(crate) stats: Stats,
}

/// What a view consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Parts in files.
    pub segments: usize,
    /// Parts in memory.
    pub runs: usize,
    /// Live documents.
    pub documents: u64,
    /// Bytes of the runs.
    pub memory_bytes: u64,
    /// Bytes of the files.
    pub segment_bytes: u64,
}

impl View {
    /// Answers a query.
    pub fn search(&self, request: &Request<'_>) -> Result<Response, Error> {
        searcher::search(self, request)
    }

    /// Statistics over the live documents.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What the view consists of.
    pub fn shape(&self) -> Shape {
        let mut shape =
            Shape { segments: 0, runs: 0, documents: self.stats.docs, memory_bytes: 0, segment_bytes: 0 };
        for slice in &self.slices {
            match slice.part {
                Part::Run(_) => {
                    shape.runs += 1;
                    shape.memory_bytes += slice.part.size_bytes();
                }
                Part::Segment(_) => {
                    shape.segments += 1;
                    shape.segment_bytes += slice.part.size_bytes();
                }
            }
        }
        shape
    }

    /// Calls `f(uid, key, live)` for every document still stored, in order of uid.
    pub fn for_each(&self, f: &mut dyn FnMut(u64, &[u8], bool)) -> Result<(), Error> {
        for Slice { part, deletes } in &self.slices {
            for doc in 0..part.docs() {
                f(part.uid(doc)?, part.key(doc)?, !deletes.contains(doc));
            }
        }
        Ok(())
    }

    /// The sum of the live documents' digests, read back from postings, lengths and columns.
    pub fn digest(&self) -> Result<u128, Error> {
        let mut sum = 0_u128;
        for slice in &self.slices {
            sum = sum.wrapping_add(self.slice_digest(slice)?);
        }
        Ok(sum)
    }

    fn slice_digest(&self, Slice { part, deletes }: &Slice) -> Result<u128, Error> {
        let mut sum = 0_u128;
        let mut terms = part.terms(&[])?;
        while terms.next()? {
            let mut cursor = part.cursor(&terms.term()?)?;
            loop {
                let positions = cursor.block_positions()?.to_vec();
                let (docs, tfs) = cursor.both()?;
                let mut read = 0;
                for (&doc, &tf) in docs.iter().zip(tfs) {
                    let end = if positions.is_empty() { 0 } else { read + tf as usize };
                    let own = &positions[read..end];
                    read = end;
                    if !deletes.contains(doc) {
                        sum = sum.wrapping_add(digest::posting(part.uid(doc)?, terms.key(), tf, own));
                    }
                }
                if !cursor.next()? {
                    break;
                }
            }
        }
        for at in 0..self.schema.fields().len() {
            let field = FieldId(at as u16);
            if let Some(slot) = self.schema.norm_slot(field) {
                for (doc, &code) in part.norms(slot, 0, part.docs())?.iter().enumerate() {
                    if code > 0 && !deletes.contains(doc as u32) {
                        sum = sum.wrapping_add(digest::length(part.uid(doc as u32)?, field, code));
                    }
                }
            }
        }
        for field in self.schema.fast_fields() {
            let Some(column) = part.column(field) else { continue };
            let mut values = Vec::new();
            column.for_each(part.docs(), &mut |doc, value| values.push((doc, value)))?;
            for (doc, value) in values.into_iter().filter(|&(doc, _)| !deletes.contains(doc)) {
                let value = if has_words(&self.schema, field) {
                    ColumnValue::Word(column.word(value.min(u64::from(u32::MAX)) as u32)?)
                } else {
                    ColumnValue::Number(value)
                };
                sum = sum.wrapping_add(digest::value(part.uid(doc)?, field, value));
            }
        }
        Ok(sum)
    }
}
