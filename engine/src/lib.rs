//! An ordered key-value store on an LSM tree. Bytes only.
//!
//! Writes go to a log and a sorted memory; full memories become sorted files; files are merged level by level. Readers
//! take a [`Snapshot`] and never wait. What was acknowledged survives a power cut; damage is an error that names file
//! and offset.
//!
//! ```
//! use lumen_engine::{Batch, Durability, Engine, Options};
//!
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path();
//! let engine = Engine::open(dir, Options::default())?;
//! let mut batch = Batch::new();
//! batch.put(b"planet/earth", b"blue");
//! batch.put(b"planet/mars", b"red");
//! engine.write(&batch, Durability::Sync)?;
//! assert_eq!(engine.get(b"planet/mars")?.as_deref(), Some(&b"red"[..]));
//! engine.close()?;
//! # Ok::<(), lumen_engine::Error>(())
//! ```
//!
//! # Should I use this crate?
//!
//! Use it for an embedded, ordered store whose files you want checked, whose writes you want to group-commit, and into
//! which you may hang files of your own that live and die with the same manifest ([`attachment`]). Beside batches, snapshots
//! and scans both ways it has range deletes, entries that expire, reads as of an older sequence number, four compaction
//! strategies, long values in files of their own, checkpoints, ingestion of sorted rows, sets of files to send and install
//! ([`file_set`]), scrubbing and quarantine of damage ([`quarantine`]), and it waits out a full disk.
//!
//! It has no transactions beyond the batch, no column families (use key prefixes), no custom order of keys, no merge
//! operators and no network; for documents and search use the crate `lumen` above it. It keeps a file open for each table
//! that was read, of [`Options::table_bytes`] each: a large store needs a limit of open files to match (`ulimit -n`).
//!
//! # The map, in reading order
//!
//! [`key`] and [`batch`] are what is written; [`log`] makes it durable; `memtable` holds the newest, which
//! `hash_index` finds; `table` is a file of sorted entries, `blob` one of long values; `version` says which files are live;
//! `state` holds all of it as one value; `commit`, [`snapshot`], [`scan`], `flush`, `compaction`, `background` and `recovery`
//! stand on that side by side, as do `checkpoint`, [`file_set`], [`ingest`] and [`quarantine`]; [`vfs`] is the disk beneath.
#![deny(unsafe_code)] // one file maps memory: vfs/mapping.rs

pub mod attachment;
pub mod batch;
pub mod coding;
pub mod engine;
pub mod error;
pub mod events;
pub mod file_set;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod ingest;
pub mod inspect;
pub mod key;
pub mod log;
pub mod options;
pub mod quarantine;
pub mod scan;
pub mod slice;
pub mod snapshot;
pub mod stats;
pub mod vfs;

mod admission;
mod background;
mod blob;
mod checkpoint;
mod commit;
mod compaction;
mod cursor;
mod flush;
mod gaps;
mod hash_index;
mod install;
mod memtable;
mod merge;
mod output;
mod range_delete;
mod recovery;
#[cfg(all(test, lumen_shuttle))]
mod shuttle;
mod state;
mod sync;
mod table;
mod throttle;
mod version;
mod view;

pub use crate::batch::Batch;
pub use crate::commit::Durability;
pub use crate::engine::Engine;
pub use crate::error::{Error, Result};
pub use crate::key::Seq;
pub use crate::options::{Compaction, Options};
pub use crate::snapshot::Snapshot;
