//! Collections of JSON documents with search, embedded: a [`Write`] goes in, a [`Snapshot`] comes out.
//!
//! An acknowledged write is on disk *and* searchable; a get and a search of one snapshot agree; damage is an error that
//! names file and offset, never fewer documents.
//!
//! ```
//! use lumen::{Condition, Database, Mapping, Options, SearchRequest, Write};
//!
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path();
//! let db = Database::open(dir, Options::default())?;
//! let mapping = Mapping::from_json(br#"{"fields":{"title":{"type":"text"},"year":{"type":"i64"}}}"#)?;
//! db.write(Write::CreateCollection { name: "books".into(), mapping })?;
//! db.write(Write::Put {
//!     collection: "books".into(),
//!     id: "walden".into(),
//!     source: br#"{"title":"Walden, or Life in the Woods","year":1854}"#.to_vec(),
//!     condition: Condition::Always,
//! })?;
//! let request =
//!     SearchRequest { collection: "books", query: "woods year:[1800 TO 1900]", offset: 0, limit: 10, cancelled: None };
//! let found = db.snapshot().search(&request)?;
//! assert_eq!((found.total, found.hits[0].id.as_str()), (1, "walden"));
//! db.close()?;
//! # Ok::<(), lumen::Error>(())
//! ```
//!
//! # The map, in reading order
//!
//! [`write`](mod@write) is what goes in, [`mapping`] and `fields` check documents, [`keys`] and [`transaction`] are what goes in
//! for key-values and for several things at once, `codec` and [`entry`] are how a log carries it, `journal` makes it durable in
//! groups, `sessions` knows which requests were answered before, `apply` turns it into engine records (drawn in `layout`) and
//! index changes, `store` publishes both as one moment, [`snapshot`] reads it, [`changes`] follows it, `expiry` takes away what has
//! expired, `indexing` keeps the indexes on disk in step with the tables. [`database`](mod@database) is the handle, `open`
//! brings it up, `replica` lets it follow a log that is kept elsewhere. [`check`](mod@check) and [`inspect`](mod@inspect) look at
//! files.
#![forbid(unsafe_code)]

pub mod changes;
pub mod check;
pub mod database;
pub mod entry;
pub mod error;
pub mod inspect;
pub mod journal;
pub mod keys;
pub mod mapping;
pub mod snapshot;
pub mod transaction;
pub mod write;

mod apply;
mod catalog;
mod codec;
mod expiry;
mod fields;
mod indexing;
mod layout;
mod open;
mod replica;
mod sessions;
mod store;

pub use lumen_engine::key::prefix_end;
pub use lumen_engine::stats::Stats as EngineStats;
pub use lumen_index::Analyzer;

pub use crate::changes::{Change, Changed, Changes, EntryCursor, EntryLog, NextEntry, Scope};
pub use crate::database::{CollectionStats, Database, Options, Stats};
pub use crate::entry::{NodeRequest, Proposal, Request};
pub use crate::error::{Error, Rejection};
pub use crate::journal::JournalStats;
pub use crate::keys::{Due, DueWhat, KeyOutcome, KeyWrite, Previous, Until};
pub use crate::mapping::{FieldMapping, FieldType, Mapping};
pub use crate::snapshot::{
    Document, Hit, KeyRange, KeyRow, KeyValue, LeaseState, SearchRequest, SearchResults, Snapshot,
};
pub use crate::transaction::{Compare, Found, Target, Test, Transaction};
pub use crate::write::{Ack, Condition, Outcome, Prepared, Write};
