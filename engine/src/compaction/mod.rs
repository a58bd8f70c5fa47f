//! Keeping the tree in shape: which tables to merge, and merging them.

pub(crate) mod job;
pub(crate) mod picker;
