//! A part of the index: a run in memory or a segment in a file, read the same way.

use crate::coding::BLOCK;
use crate::columns::{Column, ZONE};
use crate::error::Error;
use crate::memory::{List, Run};
use crate::postings::Facts;
use crate::postings::cursor::{ListBytes, ListCursor, read_single};
use crate::schema::{FieldId, Schema};
use crate::segment::columns::ColumnSections;
use crate::segment::dictionary::Terms as SegmentTerms;
use crate::segment::reader::Segment;
use std::sync::Arc;

/// A run or a segment.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    Run(Arc<Run>),
    Segment(Arc<Segment>),
}

/// Where a term's postings are in a part.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Term {
    Run { term: usize, df: u32 },
    Segment(ListBytes),
}

impl Term {
    pub(crate) fn df(&self) -> u32 {
        match self {
            Term::Run { df, .. } => *df,
            Term::Segment(list) => list.df,
        }
    }
}

impl Part {
    pub(crate) fn docs(&self) -> u32 {
        match self {
            Part::Run(run) => run.docs(),
            Part::Segment(segment) => segment.docs(),
        }
    }

    pub(crate) fn uid(&self, doc: u32) -> Result<u64, Error> {
        match self {
            Part::Run(run) => Ok(run.documents.uids[doc as usize]),
            Part::Segment(segment) => segment.uid(doc),
        }
    }

    pub(crate) fn key(&self, doc: u32) -> Result<&[u8], Error> {
        match self {
            Part::Run(run) => Ok(run.documents.keys.get(doc as usize)),
            Part::Segment(segment) => segment.key(doc),
        }
    }

    /// The smallest and the largest uid.
    pub(crate) fn uid_range(&self) -> (u64, u64) {
        match self {
            Part::Run(run) => {
                let uids = &run.documents.uids;
                (uids.first().copied().unwrap_or(u64::MAX), uids.last().copied().unwrap_or(0))
            }
            Part::Segment(segment) => (segment.min_uid, segment.max_uid),
        }
    }

    /// The document of this uid.
    pub(crate) fn find(&self, uid: u64) -> Result<Option<u32>, Error> {
        let (mut low, mut high) = (0, self.docs());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.uid(middle)?.cmp(&uid) {
                std::cmp::Ordering::Equal => return Ok(Some(middle)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// Length codes of a field's documents `start..start + len`.
    pub(crate) fn norms(&self, slot: usize, start: u32, len: u32) -> Result<&[u8], Error> {
        match self {
            Part::Run(run) => Ok(&run.documents.norms[slot][start as usize..(start + len) as usize]),
            Part::Segment(segment) => segment.norms(slot, start, len),
        }
    }

    pub(crate) fn term(&self, key: &[u8]) -> Result<Option<Term>, Error> {
        match self {
            Part::Run(run) => Ok(run.find(key).map(|term| Term::Run { term, df: run.df(term) })),
            Part::Segment(segment) => Ok(segment.dictionary.find(segment, key)?.map(Term::Segment)),
        }
    }

    /// All terms from `key` on.
    pub(crate) fn terms(&self, key: &[u8]) -> Result<Terms<'_>, Error> {
        match self {
            Part::Run(run) => Ok(Terms::Run { run, next: run.terms.lower_bound(key) }),
            Part::Segment(segment) => Ok(Terms::Segment(Box::new(segment.dictionary.from(segment, key)?))),
        }
    }

    pub(crate) fn cursor<'a>(&'a self, term: &Term) -> Result<Cursor<'a>, Error> {
        match (self, term) {
            (Part::Run(run), Term::Run { term, .. }) => Ok(Cursor::Run(RunCursor::new(run.list(*term)))),
            (Part::Segment(segment), Term::Segment(list)) => Cursor::of_list(segment, *list),
            _ => unreachable!("a term is looked up in the part it is read from"),
        }
    }

    pub(crate) fn column(&self, field: FieldId) -> Option<ColumnRef<'_>> {
        match self {
            Part::Run(run) => run.columns.get(usize::from(field.0)).map(ColumnRef::Run),
            Part::Segment(segment) => segment.column(field).map(|column| ColumnRef::Segment(segment, column)),
        }
    }

    pub(crate) fn fits(&self, schema: &Schema) -> bool {
        match self {
            Part::Run(_) => true,
            Part::Segment(segment) => segment.schema == *schema,
        }
    }

    /// Memory of a run, file size of a segment.
    pub(crate) fn size_bytes(&self) -> u64 {
        match self {
            Part::Run(run) => run.memory_bytes() as u64,
            Part::Segment(segment) => segment.size_bytes(),
        }
    }
}

/// Walks a part's terms in order.
pub(crate) enum Terms<'a> {
    Run { run: &'a Run, next: usize },
    Segment(Box<SegmentTerms<'a>>),
}

impl Terms<'_> {
    /// To the next term; false at the end.
    pub(crate) fn next(&mut self) -> Result<bool, Error> {
        match self {
            Terms::Run { run, next } => {
                *next += 1;
                Ok(*next <= run.terms.len())
            }
            Terms::Segment(terms) => terms.next(),
        }
    }

    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        match self {
            Terms::Run { run, next } => run.terms.get(*next - 1),
            Terms::Segment(terms) => terms.key(),
        }
    }

    pub(crate) fn term(&mut self) -> Result<Term, Error> {
        match self {
            Terms::Run { run, next } => Ok(Term::Run { term: *next - 1, df: run.df(*next - 1) }),
            Terms::Segment(terms) => terms.place().map(Term::Segment),
        }
    }
}

/// Postings in memory, in blocks that are slices.
pub(crate) struct RunCursor<'a> {
    list: List<'a>,
    at: usize,
    /// Where the block's positions begin; known up to `summed` postings.
    position_at: usize,
    summed: usize,
    /// A segment's inline posting has nobody to borrow from.
    inline: Option<(u32, u32, Vec<u32>)>,
}

impl<'a> RunCursor<'a> {
    fn new(list: List<'a>) -> RunCursor<'a> {
        RunCursor { list, at: 0, position_at: 0, summed: 0, inline: None }
    }

    fn end(&self) -> usize {
        (self.at + BLOCK).min(self.list.docs.len())
    }

    fn positions_from(&mut self) -> usize {
        let skipped = &self.list.tfs[self.summed..self.at];
        self.position_at += skipped.iter().map(|&tf| tf as usize).sum::<usize>();
        self.summed = self.at;
        self.position_at
    }
}

/// Walks one posting list forward in blocks of up to 128; always on a block.
pub(crate) enum Cursor<'a> {
    Run(RunCursor<'a>),
    Segment(Box<ListCursor<'a, Segment>>),
}

impl<'a> Cursor<'a> {
    pub(crate) fn of_list(segment: &'a Segment, list: ListBytes) -> Result<Cursor<'a>, Error> {
        if list.df > 1 {
            return Ok(Cursor::Segment(Box::new(ListCursor::open(segment, list, segment.docs())?)));
        }
        let single = read_single(segment, list, segment.docs())?;
        let mut cursor = RunCursor::new(List { docs: &[], tfs: &[], positions: &[] });
        cursor.inline = Some(single);
        Ok(Cursor::Run(cursor))
    }

    /// To the next block; false at the end.
    pub(crate) fn next(&mut self) -> Result<bool, Error> {
        match self {
            Cursor::Run(run) => {
                if run.inline.is_some() || run.end() >= run.list.docs.len() {
                    return Ok(false);
                }
                run.at = run.end();
                Ok(true)
            }
            Cursor::Segment(list) => list.next(),
        }
    }

    /// To the first block, from here on, whose last document is not below `target`; false when there is none.
    #[inline]
    pub(crate) fn seek(&mut self, target: u32) -> Result<bool, Error> {
        match self {
            Cursor::Run(run) => {
                if let Some((doc, _, _)) = run.inline {
                    return Ok(doc >= target);
                }
                let docs = run.list.docs;
                if docs[run.end() - 1] >= target {
                    return Ok(true);
                }
                if docs[docs.len() - 1] < target {
                    return Ok(false);
                }
                let (mut low, mut step) = (run.end(), BLOCK);
                while low + step < docs.len() && docs[low + step] < target {
                    low += step;
                    step *= 2;
                }
                let high = (low + step + 1).min(docs.len());
                run.at = low + docs[low..high].partition_point(|&doc| doc < target);
                Ok(true)
            }
            Cursor::Segment(list) => list.seek(target),
        }
    }

    #[inline]
    pub(crate) fn docs(&mut self) -> Result<&[u32], Error> {
        match self {
            Cursor::Run(RunCursor { inline: Some((doc, _, _)), .. }) => Ok(std::slice::from_ref(doc)),
            Cursor::Run(run) => Ok(&run.list.docs[run.at..run.end()]),
            Cursor::Segment(list) => list.docs(),
        }
    }

    /// Documents and frequencies of the block.
    #[inline]
    pub(crate) fn both(&mut self) -> Result<(&[u32], &[u32]), Error> {
        match self {
            Cursor::Run(RunCursor { inline: Some((doc, tf, _)), .. }) => {
                Ok((std::slice::from_ref(doc), std::slice::from_ref(tf)))
            }
            Cursor::Run(run) => {
                let range = run.at..run.end();
                Ok((&run.list.docs[range.clone()], &run.list.tfs[range]))
            }
            Cursor::Segment(list) => list.both(),
        }
    }

    /// The positions of the block's document `index`.
    pub(crate) fn positions(&mut self, index: usize) -> Result<&[u32], Error> {
        match self {
            Cursor::Run(RunCursor { inline: Some((_, _, positions)), .. }) => Ok(positions),
            Cursor::Run(run) => {
                let before: usize = run.list.tfs[run.at..run.at + index].iter().map(|&tf| tf as usize).sum();
                let start = run.positions_from() + before;
                Ok(&run.list.positions[start..start + run.list.tfs[run.at + index] as usize])
            }
            Cursor::Segment(list) => list.positions(index),
        }
    }

    /// All positions of the block, document after document; empty when the field has none.
    pub(crate) fn block_positions(&mut self) -> Result<&[u32], Error> {
        match self {
            Cursor::Run(RunCursor { inline: Some((_, _, positions)), .. }) => Ok(positions),
            Cursor::Run(run) => {
                if run.list.positions.is_empty() {
                    return Ok(&[]);
                }
                let start = run.positions_from();
                let tfs = &run.list.tfs[run.at..run.end()];
                Ok(&run.list.positions[start..start + tfs.iter().map(|&tf| tf as usize).sum::<usize>()])
            }
            Cursor::Segment(list) => list.block_positions(),
        }
    }

    /// The last document of the block.
    #[inline]
    pub(crate) fn last(&self) -> u32 {
        match self {
            Cursor::Run(RunCursor { inline: Some((doc, _, _)), .. }) => *doc,
            Cursor::Run(run) => run.list.docs[run.end() - 1],
            Cursor::Segment(list) => list.last(),
        }
    }

    /// The largest `f` of the blocks that may have documents `from..=to`; 0 when there are none. Moves to `from`.
    pub(crate) fn bound(
        &mut self,
        from: u32,
        to: u32,
        f: &dyn Fn(Option<Facts>) -> f32,
    ) -> Result<f32, Error> {
        if !self.seek(from)? {
            return Ok(0.0);
        }
        match self {
            Cursor::Run(RunCursor { inline: Some((doc, _, _)), .. }) if *doc > to => Ok(0.0),
            Cursor::Run(run) if run.inline.is_none() && run.list.docs[run.at] > to => Ok(0.0),
            Cursor::Run(_) => Ok(f(None)),
            Cursor::Segment(list) => list.bound(to, f),
        }
    }

    /// What bounds the block's scores, when it is known.
    pub(crate) fn facts(&self) -> Option<Facts> {
        match self {
            Cursor::Run(_) => None,
            Cursor::Segment(list) => list.facts(),
        }
    }
}

/// A field's column in a part.
#[derive(Clone, Copy)]
pub(crate) enum ColumnRef<'a> {
    Run(&'a Column),
    Segment(&'a Segment, &'a ColumnSections),
}

impl<'a> ColumnRef<'a> {
    /// Calls `f(document, value)` for the values between `low` and `high` of documents `base..base + 4096`.
    pub(crate) fn between(
        &self,
        base: u32,
        (low, high): (u64, u64),
        f: &mut dyn FnMut(u32, u64),
    ) -> Result<(), Error> {
        match self {
            ColumnRef::Run(column) => {
                let (docs, values) = column.zone(base);
                for (&doc, &value) in
                    docs.iter().zip(values).filter(|(_, value)| (low..=high).contains(*value))
                {
                    f(doc, value);
                }
                Ok(())
            }
            ColumnRef::Segment(segment, column) => {
                let zone = column.zone(segment, base)?;
                if zone.count == 0 || zone.min > high || zone.max < low {
                    return Ok(());
                }
                column.for_each(segment, base, zone, &mut |doc, value| {
                    if low <= value && value <= high {
                        f(doc, value);
                    }
                })
            }
        }
    }

    /// Calls `f(document, value)` for all values.
    pub(crate) fn for_each(&self, docs: u32, f: &mut dyn FnMut(u32, u64)) -> Result<(), Error> {
        (0..docs).step_by(ZONE as usize).try_for_each(|base| self.between(base, (0, u64::MAX), f))
    }

    pub(crate) fn word_count(&self) -> Result<u32, Error> {
        match self {
            ColumnRef::Run(column) => Ok(column.words.len() as u32),
            ColumnRef::Segment(segment, column) => column.word_count(segment),
        }
    }

    pub(crate) fn word(&self, ordinal: u32) -> Result<&'a [u8], Error> {
        match self {
            ColumnRef::Run(column) => Ok(column.words.get(ordinal as usize)),
            ColumnRef::Segment(segment, column) => column.word(segment, ordinal),
        }
    }

    /// The first word that is not below `key`.
    pub(crate) fn lower_bound(&self, key: &[u8]) -> Result<u32, Error> {
        let (mut low, mut high) = (0, self.word_count()?);
        while low < high {
            let middle = (low + high) / 2;
            if self.word(middle)? < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}
