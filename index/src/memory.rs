//! A run: some documents, inverted, immutable, in memory. Plain sorted arrays; searched as a segment is.

use crate::blobs::Blobs;
use crate::coding::prefix;
use crate::columns::Column;
use crate::document::{ColumnValue, NewDocument};
use crate::error::Error;
use crate::interner::Interner;
use crate::merge::Sink;
use crate::norm;
use crate::schema::{FieldId, Kind, Schema};
use std::sync::Arc;

/// A run of more documents does not keep them.
const SOURCES_MAX: usize = 64;

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
    /// Of a small run, what it was made of: a few of them are merged by inverting their documents again, which is three
    /// times as fast as merging their terms.
    sources: Vec<NewDocument>,
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
        let mut run = RunBuilder::new(documents, columns);
        run.invert(group);
        if group.len() <= SOURCES_MAX {
            run.run.sources = group.to_vec();
        }
        run.finish()
    }

    /// The documents it was made of, when it is small and all there is to merge.
    pub(crate) fn sources(&self) -> Option<&[NewDocument]> {
        (!self.sources.is_empty()).then_some(&self.sources)
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
            sources: Vec::new(),
            memory_bytes: 0,
        };
        RunBuilder { run }
    }

    /// Makes room for the postings of these runs.
    pub(crate) fn reserve<'r>(&mut self, runs: impl Iterator<Item = &'r Run> + Clone) {
        let sum = |of: fn(&Run) -> usize| runs.clone().map(of).sum::<usize>();
        self.run.docs.reserve_exact(sum(|run| run.docs.len()));
        self.run.tfs.reserve_exact(sum(|run| run.tfs.len()));
        self.run.positions.reserve_exact(sum(|run| run.positions.len()));
    }

    /// Numbers the distinct terms, sorts those, and lays each posting where its term has room for it. So a posting costs
    /// one look into a table, and only distinct terms are compared.
    fn invert(&mut self, group: &[NewDocument]) {
        let count: usize = group.iter().map(|new| new.document.keys().len()).sum();
        let mut terms = Interner::with_capacity(count.min(2048), count.min(2048) * 8);
        let mut ids = Vec::with_capacity(count);
        // Postings and positions of each term.
        let mut sizes: Vec<(u32, u32)> = Vec::new();
        for new in group {
            let document = &new.document;
            for (term, (key, &hash)) in document.keys().iter().zip(document.hashes()).enumerate() {
                let id = terms.number(hash, key);
                if id == sizes.len() {
                    sizes.push((0, 0));
                }
                sizes[id].0 += 1;
                sizes[id].1 += document.positions(term).len() as u32;
                ids.push(id as u32);
            }
        }
        let mut order: Vec<(u128, u32)> =
            terms.keys.iter().enumerate().map(|(id, key)| (prefix(key), id as u32)).collect();
        order.sort_unstable_by(|a, b| {
            a.0.cmp(&b.0).then_with(|| terms.keys.get(a.1 as usize).cmp(terms.keys.get(b.1 as usize)))
        });
        let run = &mut self.run;
        run.terms = Blobs::with_capacity(order.len(), terms.keys.size_bytes());
        let (mut posts, mut positions) = (0, 0);
        for &(_, id) in &order {
            run.terms.push(terms.keys.get(id as usize));
            // From here on: where the term's next posting and its next positions go.
            let (own_posts, own_positions) = std::mem::replace(&mut sizes[id as usize], (posts, positions));
            posts += own_posts;
            positions += own_positions;
            run.post_ends.push(posts);
            run.position_ends.push(positions);
        }
        run.docs.resize(posts as usize, 0);
        run.tfs.resize(posts as usize, 0);
        run.positions.resize(positions as usize, 0);
        let mut ids = ids.iter();
        for (doc, new) in group.iter().enumerate() {
            for (term, &id) in (0..new.document.keys().len()).zip(&mut ids) {
                let (post, position) = &mut sizes[id as usize];
                run.docs[*post as usize] = doc as u32;
                run.tfs[*post as usize] = new.document.tf(term);
                *post += 1;
                let own = new.document.positions(term);
                run.positions[*position as usize..*position as usize + own.len()].copy_from_slice(own);
                *position += own.len() as u32;
            }
        }
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
            + run.columns.iter().map(|column| column.memory_bytes() + size_of::<Column>()).sum::<usize>()
            + run.sources.iter().map(|new| new.document.memory_bytes()).sum::<usize>();
        self.run
    }
}

impl Sink for RunBuilder {
    fn term(&mut self, key: &[u8]) -> Result<(), Error> {
        self.run.terms.push(key);
        Ok(())
    }

    #[inline]
    fn postings(&mut self, base: u32, docs: &[u32], tfs: &[u32], positions: &[u32]) -> Result<(), Error> {
        let run = &mut self.run;
        // Most terms are in one document of a run, once: not worth a call of memcpy.
        if let ([doc], [tf]) = (docs, tfs) {
            run.docs.push(base + doc);
            run.tfs.push(*tf);
        } else {
            run.docs.extend(docs.iter().map(|doc| base + doc));
            run.tfs.extend_from_slice(tfs);
        }
        match positions {
            [position] => run.positions.push(*position),
            _ => run.positions.extend_from_slice(positions),
        }
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
