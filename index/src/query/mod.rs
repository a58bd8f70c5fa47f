//! What can be asked: the query tree, and the text it is parsed from.

pub mod date;
pub mod parser;
#[cfg(test)]
mod tests;

use crate::schema::FieldId;
use std::ops::Bound;

/// A query. Term bytes are in the sortable encoding of `term.rs`, for every kind of field.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// Every document, score 1.
    All,
    /// No document.
    Nothing,
    /// Documents with the term, by BM25; on fields without lengths score 1.
    Term {
        /// Where.
        field: FieldId,
        /// What.
        term: Vec<u8>,
    },
    /// Documents with the terms at these distances, up to `slop` moves apart.
    Phrase {
        /// Where.
        field: FieldId,
        /// Relative position and term.
        terms: Vec<(u32, Vec<u8>)>,
        /// How many positions the terms may be moved in all.
        slop: u32,
    },
    /// Documents with a term that starts so; constant score.
    Prefix {
        /// Where.
        field: FieldId,
        /// How the term starts.
        prefix: Vec<u8>,
    },
    /// Documents with a term between the bounds; constant score.
    Range {
        /// Where.
        field: FieldId,
        /// From.
        lower: Bound<Vec<u8>>,
        /// To.
        upper: Bound<Vec<u8>>,
    },
    /// Documents with any value in the field; constant score.
    Exists {
        /// Where.
        field: FieldId,
    },
    /// Documents with any of the terms; constant score.
    AnyOf {
        /// Where.
        field: FieldId,
        /// What.
        terms: Vec<Vec<u8>>,
    },
    /// The same documents, scores multiplied.
    Boost(Box<Query>, f32),
    /// All of `must`, none of `must_not`; `should` adds score, and at least one of them is needed when `must` is empty.
    /// With neither, all documents minus `must_not`.
    Bool {
        /// Needed and scored.
        must: Vec<Query>,
        /// Scored when there.
        should: Vec<Query>,
        /// Excluded.
        must_not: Vec<Query>,
    },
}
