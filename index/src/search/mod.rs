//! Queries answered over a view.
//!
//! Each part is walked in windows of 4096 documents. A query becomes a tree of nodes per part (`node.rs`); a node fills a
//! window's bitmap, which is counted, and scores those of its documents that may still get among the best (block facts
//! tell, as in block-max indexes: Ding and Suel 2011). Scores are summed in the order of the clauses, and all that enters
//! them (live df, live statistics, tf, length code) belongs to the visible documents alone, so a score does not depend on
//! how documents are spread over parts.

use crate::query::Query;
use crate::search::bm25::Bm25;

pub(crate) mod bm25;
mod boolean;
mod build;
mod node;
mod phrase;
pub(crate) mod searcher;
mod term;
mod top_k;
mod weights;
mod window;

/// Documents per window.
pub(crate) const WINDOW: u32 = 4096;

/// A question to a view.
pub struct Request<'a> {
    /// What to look for.
    pub query: &'a Query,
    /// Hits to leave out at the front.
    pub offset: usize,
    /// Hits wanted.
    pub limit: usize,
    /// How to score.
    pub bm25: Bm25,
    /// Asked once per window; the answer true ends the search with `Error::Cancelled`.
    pub cancelled: &'a dyn Fn() -> bool,
}

/// A document found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// How well it fits.
    pub score: f32,
    /// Its number.
    pub uid: u64,
    /// The caller's name for it.
    pub key: Box<[u8]>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// Documents that match, exactly.
    pub total: u64,
    /// The best of them, by score descending, then key ascending.
    pub hits: Vec<Hit>,
}
