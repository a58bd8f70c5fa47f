//! An inverted index. Bytes in, hits out; no files, no JSON, no threads.
//!
//! ```text
//! schema, term, norm, stats      what fields are, how values sort, how lengths are kept, what BM25 needs to know
//! analysis, document             text to tokens, a document to sorted terms
//! memory, segment, part          documents inverted: in memory, in a file, and both read the same way
//! postings, columns, deletes     what a part consists of
//! merge, live, jobs              parts into one; the parts of a collection over time; work done outside the lock
//! query, search                  what is asked, and how it is answered
//! ```
#![forbid(unsafe_code)]

mod analysis;
mod blobs;
mod coding;
mod columns;
mod deletes;
mod digest;
mod document;
mod error;
mod inspect;
mod interner;
mod jobs;
mod live;
mod memory;
mod merge;
mod norm;
mod part;
mod postings;
pub mod query;
mod schema;
mod search;
mod segment;
mod stats;
mod term;
mod view;

pub use analysis::analyze;
pub use deletes::Deletes;
pub use document::{Analyzed, NewDocument, Value};
pub use error::{AnalyzeError, Error};
pub use inspect::inspect;
pub use jobs::{FlushJob, MergeJob, Product};
pub use live::Index;
pub use memory::Run;
pub use query::Query;
pub use query::date::parse_date;
pub use query::parser::{SyntaxError, parse};
pub use schema::{Analyzer, Field, FieldId, Kind, Schema, SchemaError};
pub use search::bm25::Bm25;
pub use search::{Hit, Request, Response};
pub use segment::SegmentSummary;
pub use segment::reader::Segment;
pub use stats::{FieldStats, Stats};
pub use term::{sortable_f64, sortable_i64};
pub use view::{Shape, View};
