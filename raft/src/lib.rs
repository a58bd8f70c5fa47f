//! One replicated database, on openraft. Knows no wire: whoever uses it carries the bytes (see [`network::Transport`]).
//!
//! # The map, in reading order
//!
//! `types` is what openraft must know of us, `codec` how entries and votes are written, `log` where they are kept,
//! `state_machine` how committed ones reach the database, `message` and [`network`] how nodes talk (`held` is a detail of it), `snapshot` and `transfer`
//! how one that is far behind gets files instead of entries. [`node`] is all of it together: `leader` has something done where
//! the leader is, `write` sends writes there, `propose` packs them into entries, [`read`] says how new what is read must be, `changes` follows what
//! happens, [`membership`] who is in the cluster, `answer` answers other nodes, `upkeep` and `expiry` are what a node does by itself. [`error`] is
//! what can go wrong, [`metrics`] what is counted, [`inspect`] looks at files.
#![forbid(unsafe_code)]

pub mod error;
pub mod inspect;
pub mod membership;
pub mod metrics;
pub mod network;
pub mod node;
pub mod read;
pub mod recover;

mod answer;
mod changes;
mod codec;
#[cfg(test)]
mod conformance;
mod expiry;
mod held;
mod leader;
mod log;
mod message;
mod planted;
mod propose;
#[cfg(all(test, lumen_sim))]
mod simulation;
mod snapshot;
mod state_machine;
mod transfer;
mod types;
mod upkeep;
mod write;

pub use crate::error::Error;
pub use crate::membership::Change;
pub use crate::metrics::Metrics;
pub use crate::node::{Identity, Node, NodeOptions, Status, Timing};
pub use crate::read::Consistency;
pub use crate::types::Member;
