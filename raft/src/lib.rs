//! One replicated database, on openraft. Knows no wire: whoever uses it carries the bytes (see [`network::Transport`]).
//!
//! # The map, in reading order
//!
//! `types` is what openraft must know of us, `codec` how entries and votes are written, `log_store` where they are kept,
//! `state_machine` how committed ones reach the database, `message` and [`network`] how nodes talk, `snapshot` and `transfer` how
//! one that is far behind gets files instead of entries, `propose` packs writes into entries, and [`node`] is all of it
//! together. [`error`] is what can go wrong.
#![forbid(unsafe_code)]

pub mod error;
pub mod network;
pub mod node;

mod codec;
#[cfg(test)]
mod conformance;
mod log_store;
mod message;
mod propose;
mod snapshot;
mod state_machine;
mod transfer;
mod types;

pub use crate::error::Error;
pub use crate::node::{Node, NodeOptions, Status, Timing};
pub use crate::types::Member;
