//! Keeping the tree in shape: which tables to merge, and merging them.
//!
//! ```text
//! slot 0        tables of flushes, newest first; they overlap
//! slot 1 … 15   one sorted run each, of tables that do not overlap; a deeper slot is older
//! ```
//!
//! All strategies see this one shape, so any of them goes on with the tree that another one left. [`leveled`] uses slots as
//! levels of growing size, [`tiered`] and [`lazy`] as places for sorted runs, [`fifo`] slot 0 alone. A strategy answers four
//! questions (Sarkar et al., "Constructing and Analyzing the LSM Compaction Design Space", VLDB 2021): when, where to, how
//! much, which.

pub(crate) mod fifo;
pub(crate) mod job;
pub(crate) mod lazy;
pub(crate) mod leveled;
pub(crate) mod picker;
pub(crate) mod plan;
pub(crate) mod progress;
#[cfg(test)]
mod tests;
pub(crate) mod tiered;
pub(crate) mod upkeep;
