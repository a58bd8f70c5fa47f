//! Several parts into one: the documents that are left, their columns, and all terms in order.

use crate::blobs::Blobs;
use crate::coding::prefix;
use crate::columns::Column;
use crate::deletes::Deletes;
use crate::error::Error;
use crate::memory::{Documents, Run, RunBuilder, has_words};
use crate::part::{Part, Terms};
use crate::schema::{FieldId, Schema};
use crate::segment::SegmentSummary;
use crate::segment::builder::SegmentBuilder;
use std::io;

/// Terms between two questions whether to stop.
const CANCEL_TERMS: u32 = 1024;

/// Takes terms in order and each one's postings in order.
pub(crate) trait Sink {
    fn term(&mut self, key: &[u8]) -> Result<(), Error>;
    /// The documents are `base` plus each of these.
    fn postings(&mut self, base: u32, docs: &[u32], tfs: &[u32], positions: &[u32]) -> Result<(), Error>;
    fn end_term(&mut self) -> Result<(), Error>;
}

/// A part and the documents of it that are left out.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    pub(crate) part: Part,
    pub(crate) without: Deletes,
}

/// New document numbers of an input.
struct Renumbered {
    base: u32,
    /// `None` when all documents stay. Dead documents have `u32::MAX`.
    map: Option<Vec<u32>>,
}

impl Renumbered {
    #[inline]
    fn get(&self, doc: u32) -> Option<u32> {
        match &self.map {
            None => Some(self.base + doc),
            Some(map) => Some(map[doc as usize]).filter(|&doc| doc != u32::MAX),
        }
    }
}

/// Merges into a run.
pub(crate) fn into_run(schema: &Schema, inputs: &[Input]) -> Result<Run, Error> {
    let (documents, numbers) = documents(schema, inputs)?;
    let columns = columns(schema, inputs, &numbers)?;
    let mut builder = RunBuilder::new(documents, columns);
    builder.reserve(inputs.iter().filter_map(|input| match &input.part {
        Part::Run(run) => Some(&**run),
        Part::Segment(_) => None,
    }));
    merge_terms(inputs, &numbers, &mut builder, &|| false)?;
    Ok(builder.finish())
}

/// Merges into a segment; `None` when no document is left.
pub(crate) fn into_segment(
    schema: &Schema,
    inputs: &[Input],
    out: &mut dyn io::Write,
    cancelled: &dyn Fn() -> bool,
) -> Result<Option<SegmentSummary>, Error> {
    let (documents, numbers) = documents(schema, inputs)?;
    if documents.uids.is_empty() {
        return Ok(None);
    }
    let mut builder = SegmentBuilder::new(schema, documents, out)?;
    merge_terms(inputs, &numbers, &mut builder, cancelled)?;
    if cancelled() {
        return Err(Error::Cancelled);
    }
    builder.finish(&columns(schema, inputs, &numbers)?).map(Some)
}

fn documents(schema: &Schema, inputs: &[Input]) -> Result<(Documents, Vec<Renumbered>), Error> {
    let total: u64 = inputs.iter().map(|input| u64::from(input.part.docs()) - input.without.count()).sum();
    if total >= u64::from(u32::MAX) {
        return Err(Error::TooLarge { what: "documents" });
    }
    let mut documents = Documents { norms: vec![Vec::new(); schema.norm_count()], ..Documents::default() };
    documents.uids.reserve(total as usize);
    documents.norms.iter_mut().for_each(|norms| norms.reserve(total as usize));
    let mut numbers = Vec::with_capacity(inputs.len());
    let mut key_bytes = 0_u64;
    for Input { part, without } in inputs {
        let base = documents.uids.len() as u32;
        let mut map = (!without.is_empty()).then(|| vec![u32::MAX; part.docs() as usize]);
        for doc in 0..part.docs() {
            if let Some(map) = &mut map {
                if without.contains(doc) {
                    continue;
                }
                map[doc as usize] = documents.uids.len() as u32;
            }
            let key = part.key(doc)?;
            key_bytes += key.len() as u64;
            if key_bytes > u64::from(u32::MAX) {
                return Err(Error::TooLarge { what: "keys" });
            }
            documents.uids.push(part.uid(doc)?);
            documents.keys.push(key);
        }
        for (slot, norms) in documents.norms.iter_mut().enumerate() {
            let codes = part.norms(slot, 0, part.docs())?;
            match &map {
                None => norms.extend_from_slice(codes),
                Some(map) => {
                    norms.extend(codes.iter().zip(map).filter(|(_, doc)| **doc != u32::MAX).map(|(c, _)| *c))
                }
            }
        }
        numbers.push(Renumbered { base, map });
    }
    Ok((documents, numbers))
}

fn columns(schema: &Schema, inputs: &[Input], numbers: &[Renumbered]) -> Result<Vec<Column>, Error> {
    let mut columns = Vec::new();
    columns.resize_with(schema.fields().len(), Column::default);
    for field in schema.fast_fields() {
        columns[usize::from(field.0)] = column(schema, field, inputs, numbers)?;
    }
    Ok(columns)
}

fn column(
    schema: &Schema,
    field: FieldId,
    inputs: &[Input],
    numbers: &[Renumbered],
) -> Result<Column, Error> {
    let mut out = Column::default();
    // Where each input's values begin, and which of its words are still in use.
    let mut starts = Vec::new();
    let mut used: Vec<Vec<u64>> = Vec::new();
    let words = has_words(schema, field);
    for (input, numbers) in inputs.iter().zip(numbers) {
        starts.push(out.values.len());
        let Some(column) = input.part.column(field) else { continue };
        column.for_each(input.part.docs(), &mut |doc, value| {
            if let Some(doc) = numbers.get(doc) {
                out.docs.push(doc);
                out.values.push(value);
            }
        })?;
        if words {
            let mut own = out.values[starts[starts.len() - 1]..].to_vec();
            own.sort_unstable();
            own.dedup();
            used.push(own);
        }
    }
    if !words {
        return Ok(out);
    }
    let mut all: Vec<&[u8]> = Vec::new();
    let mut own_words: Vec<Vec<&[u8]>> = Vec::new();
    for (input, used) in inputs.iter().zip(&used) {
        let mut own = Vec::with_capacity(used.len());
        for &ordinal in used {
            let column = input.part.column(field);
            own.push(
                column.map_or(Ok(&[][..]), |column| column.word(ordinal.min(u64::from(u32::MAX)) as u32))?,
            );
        }
        all.extend_from_slice(&own);
        own_words.push(own);
    }
    all.sort_unstable();
    all.dedup();
    if all.iter().map(|word| word.len() as u64).sum::<u64>() > u64::from(u32::MAX) {
        return Err(Error::TooLarge { what: "keywords" });
    }
    out.words = Blobs::with_capacity(all.len(), all.iter().map(|word| word.len()).sum());
    all.iter().for_each(|word| out.words.push(word));
    starts.push(out.values.len());
    for (i, (used, own)) in used.iter().zip(&own_words).enumerate() {
        let new: Vec<u64> = own.iter().map(|word| all.partition_point(|other| other < word) as u64).collect();
        for value in &mut out.values[starts[i]..starts[i + 1]] {
            *value = new[used.partition_point(|other| other < value)];
        }
    }
    Ok(out)
}

/// The terms of all inputs in order, by a heap of their term walks.
struct Heap<'a> {
    walks: Vec<Terms<'a>>,
    /// First bytes of the walk's term, and the walk. The smallest is in front.
    heap: Vec<(u128, usize)>,
}

impl Heap<'_> {
    fn less(&self, a: usize, b: usize) -> bool {
        let (a, b) = (self.heap[a], self.heap[b]);
        match a.0.cmp(&b.0) {
            std::cmp::Ordering::Equal => match self.walks[a.1].key().cmp(self.walks[b.1].key()) {
                std::cmp::Ordering::Equal => a.1 < b.1,
                order => order.is_lt(),
            },
            order => order.is_lt(),
        }
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let mut child = at * 2 + 1;
            if child >= self.heap.len() {
                return;
            }
            if child + 1 < self.heap.len() && self.less(child + 1, child) {
                child += 1;
            }
            if !self.less(child, at) {
                return;
            }
            self.heap.swap(child, at);
            at = child;
        }
    }

    /// Moves the front walk on.
    fn advance(&mut self) -> Result<(), Error> {
        let walk = self.heap[0].1;
        if self.walks[walk].next()? {
            self.heap[0].0 = prefix(self.walks[walk].key());
        } else {
            self.heap.swap_remove(0);
        }
        self.sift_down(0);
        Ok(())
    }
}

fn merge_terms(
    inputs: &[Input],
    numbers: &[Renumbered],
    sink: &mut dyn Sink,
    cancelled: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let mut heap = Heap { walks: Vec::new(), heap: Vec::new() };
    for input in inputs {
        let mut terms = input.part.terms(&[])?;
        if terms.next()? {
            heap.heap.push((prefix(terms.key()), heap.walks.len()));
        }
        heap.walks.push(terms);
    }
    for at in (0..heap.heap.len()).rev() {
        heap.sift_down(at);
    }
    let mut key = Vec::new();
    let mut copy = Copy::default();
    let mut count = 0_u32;
    while let Some(&(_, first)) = heap.heap.first() {
        count = count.wrapping_add(1);
        if count.is_multiple_of(CANCEL_TERMS) && cancelled() {
            return Err(Error::Cancelled);
        }
        key.clear();
        key.extend_from_slice(heap.walks[first].key());
        let mut term = TermSink { sink, key: &key, started: false };
        while let Some(&(_, walk)) = heap.heap.first() {
            if heap.walks[walk].key() != key {
                break;
            }
            copy.list(&inputs[walk].part, &mut heap.walks[walk], &numbers[walk], &mut term)?;
            heap.advance()?;
        }
        if term.started {
            sink.end_term()?;
        }
    }
    Ok(())
}

/// A term on its way to the sink: told of when its first posting is.
struct TermSink<'a> {
    sink: &'a mut dyn Sink,
    key: &'a [u8],
    started: bool,
}

impl TermSink<'_> {
    fn postings(&mut self, base: u32, docs: &[u32], tfs: &[u32], positions: &[u32]) -> Result<(), Error> {
        if !std::mem::replace(&mut self.started, true) {
            self.sink.term(self.key)?;
        }
        self.sink.postings(base, docs, tfs, positions)
    }
}

/// Copies posting lists, renumbered.
#[derive(Default)]
struct Copy {
    docs: Vec<u32>,
    tfs: Vec<u32>,
    positions: Vec<u32>,
}

impl Copy {
    fn list(
        &mut self,
        part: &Part,
        terms: &mut Terms<'_>,
        numbers: &Renumbered,
        out: &mut TermSink<'_>,
    ) -> Result<(), Error> {
        if let (Terms::Run { run, next }, None) = (&*terms, &numbers.map) {
            let list = run.list(*next - 1);
            return out.postings(numbers.base, list.docs, list.tfs, list.positions);
        }
        let term = terms.term()?;
        let mut cursor = part.cursor(&term)?;
        loop {
            self.positions.clear();
            self.positions.extend_from_slice(cursor.block_positions()?);
            let (docs, tfs) = cursor.both()?;
            self.docs.clear();
            self.tfs.clear();
            let (mut read, mut kept) = (0, 0);
            let positional = !self.positions.is_empty();
            for (&doc, &tf) in docs.iter().zip(tfs) {
                let own = read..read + if positional { tf as usize } else { 0 };
                read = own.end;
                if let Some(doc) = numbers.get(doc) {
                    self.docs.push(doc);
                    self.tfs.push(tf);
                    let len = own.len();
                    if own.start != kept {
                        self.positions.copy_within(own, kept);
                    }
                    kept += len;
                }
            }
            self.positions.truncate(kept);
            if !self.docs.is_empty() {
                out.postings(0, &self.docs, &self.tfs, &self.positions)?;
            }
            if !cursor.next()? {
                return Ok(());
            }
        }
    }
}
