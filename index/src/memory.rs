//! A run: some documents, inverted, immutable, in memory. Plain sorted arrays; searched as a segment is.

use crate::blobs::Blobs;
use crate::coding::prefix;
use crate::columns::Column;
use crate::document::{ColumnValue, NewDocument};
use crate::error::Error;
use crate::merge::Sink;
use crate::norm;
use crate::schema::{FieldId, Kind, Schema};
use std::sync::Arc;

/// What a part knows about each of its documents besides postings and columns.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    pub(crate) uids: Vec<u64>,
    pub(crate) keys: Blobs,
    /// Length codes: one array per normed field, one byte per document.
    pub(crate) norms: Vec<Vec<u8>>,
}

/// Some documents, inverted, in memory.
#[derive(Debug)]
pub struct Run {
    pub(crate) documents: Documents,
    pub(crate) terms: Blobs,
    /// Term i has the postings at `post_ends[i - 1]..post_ends[i]`, its positions alike.
    post_ends: Vec<u32>,
    position_ends: Vec<u32>,
    docs: Vec<u32>,
    tfs: Vec<u32>,
    positions: Vec<u32>,
    /// One per field of the schema; empty for fields without a column.
    pub(crate) columns: Vec<Column>,
    memory_bytes: usize,
}

/// A term's postings in a run.
#[derive(Clone, Copy)]
pub(crate) struct List<'a> {
    pub(crate) docs: &'a [u32],
    pub(crate) tfs: &'a [u32],
    pub(crate) positions: &'a [u32],
}

impl Run {
    /// Inverts documents, whose uids ascend.
    pub(crate) fn of_documents(schema: &Arc<Schema>, group: &[NewDocument]) -> Run {
        let mut documents =
            Documents { norms: vec![vec![0; group.len()]; schema.norm_count()], ..Documents::default() };
        let count: usize = group.iter().map(|new| new.document.keys().len()).sum();
        let mut columns: Vec<Column> = Vec::new();
        columns.resize_with(schema.fields().len(), Column::default);
        let mut words: Vec<Vec<(u32, &[u8])>> = vec![Vec::new(); columns.len()];
        for (doc, new) in group.iter().enumerate() {
            documents.uids.push(new.uid);
            documents.keys.push(&new.key);
            for &(field, length) in new.document.lengths() {
                if let Some(slot) = schema.norm_slot(field) {
                    documents.norms[slot][doc] = norm::encode(length);
                }
            }
            for (field, value) in new.document.column_values() {
                match value {
                    ColumnValue::Number(number) => {
                        let column = &mut columns[usize::from(field.0)];
                        column.docs.push(doc as u32);
                        column.values.push(number);
                    }
                    ColumnValue::Word(word) => words[usize::from(field.0)].push((doc as u32, word)),
                }
            }
        }
        for (column, words) in columns.iter_mut().zip(words).filter(|(_, words)| !words.is_empty()) {
            *column = Column::of_words(&words);
        }
        let mut builder = RunBuilder::new(documents, columns);
        builder.reserve(count);
        let failed = if let [only] = group { builder.single(only) } else { builder.many(group, count) };
        failed.expect("a run builder takes everything");
        builder.finish()
    }

    pub(crate) fn docs(&self) -> u32 {
        self.documents.uids.len() as u32
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    pub(crate) fn find(&self, key: &[u8]) -> Option<usize> {
        let at = self.terms.lower_bound(key);
        (at < self.terms.len() && self.terms.get(at) == key).then_some(at)
    }

    pub(crate) fn df(&self, term: usize) -> u32 {
        self.post_ends[term] - if term == 0 { 0 } else { self.post_ends[term - 1] }
    }

    #[inline]
    pub(crate) fn list(&self, term: usize) -> List<'_> {
        let (post, position) =
            if term == 0 { (0, 0) } else { (self.post_ends[term - 1], self.position_ends[term - 1]) };
        let posts = post as usize..self.post_ends[term] as usize;
        let positions = position as usize..self.position_ends[term] as usize;
        List { docs: &self.docs[posts.clone()], tfs: &self.tfs[posts], positions: &self.positions[positions] }
    }
}

/// Takes a run's contents in order.
pub(crate) struct RunBuilder {
    run: Run,
}

impl RunBuilder {
    pub(crate) fn new(documents: Documents, columns: Vec<Column>) -> RunBuilder {
        let run = Run {
            documents,
            terms: Blobs::default(),
            post_ends: Vec::new(),
            position_ends: Vec::new(),
            docs: Vec::new(),
            tfs: Vec::new(),
            positions: Vec::new(),
            columns,
            memory_bytes: 0,
        };
        RunBuilder { run }
    }

    fn reserve(&mut self, postings: usize) {
        self.run.docs.reserve(postings);
        self.run.tfs.reserve(postings);
    }

    fn single(&mut self, new: &NewDocument) -> Result<(), Error> {
        for (term, key) in new.document.keys().iter().enumerate() {
            self.term(key)?;
            self.postings(&[0], &[new.document.tf(term)], new.document.positions(term))?;
            self.end_term()?;
        }
        Ok(())
    }

    /// Sorts all terms of all documents at once. Each document's are sorted already, which a stable sort makes use of,
    /// and it keeps documents in order within a term.
    fn many(&mut self, group: &[NewDocument], count: usize) -> Result<(), Error> {
        let mut order: Vec<(u128, u8, u32, u32)> = Vec::with_capacity(count);
        for (doc, new) in group.iter().enumerate() {
            let keys = new.document.keys().iter().enumerate();
            order.extend(
                keys.map(|(term, key)| (prefix(key), key.len().min(17) as u8, doc as u32, term as u32)),
            );
        }
        let key =
            |entry: &(u128, u8, u32, u32)| group[entry.2 as usize].document.keys().get(entry.3 as usize);
        // Up to 16 bytes, the prefix and the length say everything, and the keys need not be fetched.
        order.sort_by(|a, b| {
            let short = (a.0, a.1).cmp(&(b.0, b.1));
            if short.is_eq() && a.1 > 16 { key(a).cmp(key(b)) } else { short }
        });
        for same in order.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1) && (a.1 <= 16 || key(a) == key(b))) {
            self.term(key(&same[0]))?;
            for &(_, _, doc, term) in same {
                let document = &group[doc as usize].document;
                let term = term as usize;
                self.postings(&[doc], &[document.tf(term)], document.positions(term))?;
            }
            self.end_term()?;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Run {
        let run = &mut self.run;
        run.memory_bytes = size_of::<Run>()
            + run.documents.uids.capacity() * 8
            + run.documents.keys.memory_bytes()
            + run.documents.norms.iter().map(|norms| norms.capacity() + 24).sum::<usize>()
            + run.terms.memory_bytes()
            + (run.post_ends.capacity() + run.position_ends.capacity()) * 4
            + (run.docs.capacity() + run.tfs.capacity() + run.positions.capacity()) * 4
            + run.columns.iter().map(|column| column.memory_bytes() + size_of::<Column>()).sum::<usize>();
        self.run
    }
}

impl Sink for RunBuilder {
    fn term(&mut self, key: &[u8]) -> Result<(), Error> {
        self.run.terms.push(key);
        Ok(())
    }

    #[inline]
    fn postings(&mut self, docs: &[u32], tfs: &[u32], positions: &[u32]) -> Result<(), Error> {
        self.run.docs.extend_from_slice(docs);
        self.run.tfs.extend_from_slice(tfs);
        self.run.positions.extend_from_slice(positions);
        Ok(())
    }

    fn end_term(&mut self) -> Result<(), Error> {
        self.run.post_ends.push(self.run.docs.len() as u32);
        self.run.position_ends.push(self.run.positions.len() as u32);
        Ok(())
    }
}

/// Is this a column of keywords?
pub(crate) fn has_words(schema: &Schema, field: FieldId) -> bool {
    schema.field(field).is_some_and(|field| field.kind == Kind::Keyword)
}
