//! The replicated log, kept in segments of `engine::log`.
//!
//! ```text
//! record:  │ 1 │ group: u32 │ committed: u64 │ entry │       `committed`: one more than the last index known to be; a hint
//!          │ 2 │ group: u32 │ vote │
//!          │ 3 │ group: u32 │ maybe a log id │               what comes after it in the log is void
//!          │ 4 │ group: u32 │ log id │                       what comes up to it in the log is gone
//!          │ 5 │ group: u32 │ boot: u64 │                    the node lives, for the so-and-so-many-th time
//!          │ 6 │ group: u32 │ seq: u64 │                     the log begins on a database that holds as many writes
//!          │ 7 │ group: u32 │ id: u64 │                      the number of the node whose log it is
//! ```
//!
//! Votes, entries and the rest are records of one sequence, in the order of the calls, so that no crash shows them in
//! another one (openraft, docs/protocol/io_ordering.md). Records are numbered by the log itself.
//!
//! `entries` knows where each entry is, `replay` reads all records when the log is opened, `store` appends, syncs and reads,
//! and `storage` is what openraft calls.

mod entries;
mod replay;
mod storage;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use store::{LogSetup, LogStore};

pub(crate) const ENTRY: u8 = 1;
pub(crate) const VOTE: u8 = 2;
pub(crate) const TRUNCATE: u8 = 3;
pub(crate) const PURGE: u8 = 4;
pub(crate) const BOOT: u8 = 5;
pub(crate) const BASE: u8 = 6;
pub(crate) const NODE: u8 = 7;

/// What every record begins with: its kind and its group.
const HEAD_BYTES: usize = 5;
/// What an entry has between that and its own bytes.
const COMMITTED_BYTES: usize = 8;
