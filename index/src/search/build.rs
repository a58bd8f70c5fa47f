//! From a query to the nodes of one part.

use crate::error::Error;
use crate::part::{ColumnRef, Part};
use crate::query::Query;
use crate::schema::{FieldId, Kind, Schema};
use crate::search::boolean::BoolNode;
use crate::search::node::{Docs, Node};
use crate::search::phrase::{Member, Phrase};
use crate::search::term::{Scoring, TermNode};
use crate::search::weights::Weights;
use crate::term;
use crate::view::View;
use std::ops::Bound;

/// Terms between two questions whether to stop.
const CANCEL_TERMS: u32 = 256;

/// A column and the first and last value wanted of it.
type ColumnRange<'v> = (ColumnRef<'v>, (u64, u64));

pub(crate) struct Builder<'v> {
    pub(crate) schema: &'v Schema,
    pub(crate) weights: &'v Weights,
    pub(crate) part: &'v Part,
    /// Number of the part in the view.
    pub(crate) number: usize,
    pub(crate) cancelled: &'v dyn Fn() -> bool,
}

impl<'v> Builder<'v> {
    pub(crate) fn of(
        view: &'v View,
        weights: &'v Weights,
        number: usize,
        cancelled: &'v dyn Fn() -> bool,
    ) -> Self {
        Builder { schema: &view.schema, weights, part: &view.slices[number].part, number, cancelled }
    }

    /// The nodes of a query; its depth was checked when its terms were looked up.
    pub(crate) fn node(&self, query: &Query, boost: f32) -> Result<Node<'v>, Error> {
        match query {
            Query::All => Ok(Node::docs(Docs::Every(self.part.docs()), boost)),
            Query::Nothing => Ok(Node::Empty),
            Query::Term { field, term } => self.term(*field, term, boost),
            Query::Phrase { field, terms, slop } => self.phrase(*field, terms, *slop, boost),
            Query::Prefix { field, prefix } => {
                let upper = match term::after_prefix(prefix) {
                    Some(after) => Bound::Excluded(after),
                    None => Bound::Unbounded,
                };
                self.range(*field, &Bound::Included(prefix.clone()), &upper, boost)
            }
            Query::Range { field, lower, upper } => self.range(*field, lower, upper, boost),
            Query::Exists { field } => self.exists(*field, boost),
            Query::AnyOf { field, terms } => self.any_of(*field, terms, boost),
            Query::Boost(query, factor) => self.node(query, boost * factor),
            Query::Bool { must, should, must_not } => {
                let all = |queries: &[Query], boost| -> Result<Vec<Node<'v>>, Error> {
                    queries.iter().map(|query| self.node(query, boost)).collect()
                };
                let (mut must, should, must_not) =
                    (all(must, boost)?, all(should, boost)?, all(must_not, 1.0)?);
                if must.is_empty() && should.is_empty() {
                    must.push(Node::docs(Docs::Every(self.part.docs()), boost));
                }
                if must.iter().any(|node| matches!(node, Node::Empty)) {
                    return Ok(Node::Empty);
                }
                Ok(Node::Bool(Box::new(BoolNode::new(must, should, must_not))))
            }
        }
    }

    fn scoring(&self, field: FieldId, idf: f64, boost: f32) -> Scoring {
        match (self.schema.norm_slot(field), self.weights.table(field)) {
            (Some(slot), Some(table)) => {
                Scoring::Bm25 { weight: (idf * f64::from(boost)) as f32, table, slot }
            }
            _ => Scoring::Constant(boost),
        }
    }

    fn term(&self, field: FieldId, term: &[u8], boost: f32) -> Result<Node<'v>, Error> {
        let Some(about) = self.schema.field(field) else { return Ok(Node::Empty) };
        if !about.indexed {
            let bound = Bound::Included(term.to_vec());
            return self.range(field, &bound, &bound, boost);
        }
        let Some(known) = self.weights.known(field, term) else { return Ok(Node::Empty) };
        let Some(term) = &known.terms[self.number] else { return Ok(Node::Empty) };
        let scoring = self.scoring(field, known.idf, boost);
        Ok(Node::Term(Box::new(TermNode::new(self.part, *term, scoring)?)))
    }

    fn phrase(
        &self,
        field: FieldId,
        terms: &[(u32, Vec<u8>)],
        slop: u32,
        boost: f32,
    ) -> Result<Node<'v>, Error> {
        match terms {
            [] => return Ok(Node::Empty),
            [(_, only)] => return self.term(field, only, boost),
            _ if !self.schema.has_positions(field) => return Ok(Node::Empty),
            _ => {}
        }
        let mut members = Vec::with_capacity(terms.len());
        let mut idf = 0.0;
        for (offset, term) in terms {
            let Some(known) = self.weights.known(field, term) else { return Ok(Node::Empty) };
            let Some(place) = &known.terms[self.number] else { return Ok(Node::Empty) };
            idf += known.idf;
            let first = terms.iter().position(|(_, other)| other == term).unwrap_or(0);
            members.push(Member {
                cursor: self.part.cursor(place)?,
                offset: *offset,
                term: first,
                df: place.df(),
            });
        }
        Ok(Node::Phrase(Box::new(Phrase::new(self.part, members, slop, self.scoring(field, idf, boost)))))
    }

    fn exists(&self, field: FieldId, score: f32) -> Result<Node<'v>, Error> {
        let Some(about) = self.schema.field(field) else { return Ok(Node::Empty) };
        if let Some(slot) = self.schema.norm_slot(field) {
            return Ok(Node::docs(Docs::Length { part: self.part, slot }, score));
        }
        match self.part.column(field).filter(|_| about.fast) {
            Some(column) => Ok(Node::docs(Docs::Column { column, range: (0, u64::MAX) }, score)),
            None => self.range(field, &Bound::Unbounded, &Bound::Unbounded, score),
        }
    }

    fn any_of(&self, field: FieldId, terms: &[Vec<u8>], score: f32) -> Result<Node<'v>, Error> {
        let Some(about) = self.schema.field(field) else { return Ok(Node::Empty) };
        let mut set = Set::new(self.part);
        for term in terms {
            if (self.cancelled)() {
                return Err(Error::Cancelled);
            }
            if about.indexed {
                if let Some(term) = self.part.term(&term::key(field, term))? {
                    set.add(self.part.cursor(&term)?)?;
                }
            } else {
                let bound = Bound::Included(term.clone());
                if let Some((column, range)) = self.column_range(field, &bound, &bound)? {
                    for base in (0..self.part.docs()).step_by(crate::columns::ZONE as usize) {
                        column.between(base, range, &mut |doc, _| set.insert(doc))?;
                    }
                }
            }
        }
        Ok(set.node(score))
    }

    fn range(
        &self,
        field: FieldId,
        lower: &Bound<Vec<u8>>,
        upper: &Bound<Vec<u8>>,
        score: f32,
    ) -> Result<Node<'v>, Error> {
        let Some(about) = self.schema.field(field) else { return Ok(Node::Empty) };
        if about.fast {
            return Ok(match self.column_range(field, lower, upper)? {
                Some((column, range)) => Node::docs(Docs::Column { column, range }, score),
                None => Node::Empty,
            });
        }
        if !about.indexed {
            return Ok(Node::Empty);
        }
        // As keys: from `start` on, below `end`.
        let start = match lower {
            Bound::Unbounded => term::key(field, &[]),
            Bound::Included(term) => term::key(field, term),
            Bound::Excluded(term) => successor(term::key(field, term)),
        };
        let end = match upper {
            Bound::Unbounded => term::after_prefix(&term::key(field, &[])),
            Bound::Included(term) => Some(successor(term::key(field, term))),
            Bound::Excluded(term) => Some(term::key(field, term)),
        };
        let mut set = Set::new(self.part);
        let mut terms = self.part.terms(&start)?;
        let mut count = 0_u32;
        while terms.next()? && end.as_ref().is_none_or(|end| terms.key() < &end[..]) {
            if count.is_multiple_of(CANCEL_TERMS) && (self.cancelled)() {
                return Err(Error::Cancelled);
            }
            count = count.wrapping_add(1);
            set.add(self.part.cursor(&terms.term()?)?)?;
        }
        Ok(set.node(score))
    }

    /// The column values between two bounds, both included; `None` when there can be none.
    fn column_range(
        &self,
        field: FieldId,
        lower: &Bound<Vec<u8>>,
        upper: &Bound<Vec<u8>>,
    ) -> Result<Option<ColumnRange<'v>>, Error> {
        let fast = self.schema.field(field).filter(|about| about.fast);
        let Some((about, column)) = fast.zip(self.part.column(field)) else { return Ok(None) };
        // The first value not below a term, as an ordinal or a number; u128 so that "past the last" has a place.
        let first = |term: &[u8]| -> Result<u128, Error> {
            if about.kind == Kind::Keyword {
                return column.lower_bound(term).map(u128::from);
            }
            let mut number = [0; 8];
            let count = term.len().min(8);
            number[..count].copy_from_slice(&term[..count]);
            Ok(u128::from(u64::from_be_bytes(number)) + u128::from(term.len() > 8))
        };
        let low = match lower {
            Bound::Unbounded => 0,
            Bound::Included(term) => first(term)?,
            Bound::Excluded(term) => first(&successor(term.clone()))?,
        };
        let end = match upper {
            Bound::Unbounded => 1 << 64,
            Bound::Included(term) => first(&successor(term.clone()))?,
            Bound::Excluded(term) => first(term)?,
        };
        let range = (low < end).then(|| (low as u64, (end - 1) as u64));
        Ok(range.map(|range| (column, range)))
    }
}

/// The smallest key above this one.
fn successor(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// Documents collected before the search.
struct Set {
    bits: Vec<u64>,
}

impl Set {
    fn new(part: &Part) -> Set {
        Set { bits: vec![0; (part.docs() as usize).div_ceil(64)] }
    }

    fn insert(&mut self, doc: u32) {
        self.bits[doc as usize / 64] |= 1 << (doc % 64);
    }

    fn add(&mut self, mut cursor: crate::part::Cursor<'_>) -> Result<(), Error> {
        loop {
            cursor.docs()?.iter().for_each(|&doc| self.insert(doc));
            if !cursor.next()? {
                return Ok(());
            }
        }
    }

    fn node<'a>(self, score: f32) -> Node<'a> {
        if self.bits.iter().all(|&bits| bits == 0) {
            Node::Empty
        } else {
            Node::docs(Docs::Set(self.bits), score)
        }
    }
}
