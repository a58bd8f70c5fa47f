//! Transactions: what is compared, and which writes that decides, as one log entry of which all takes effect or nothing.

use lumen_engine::inspect::printable;

use crate::catalog::{check_id, check_name, check_space};
use crate::error::Rejection;
use crate::keys::KeyWrite;
use crate::write::{Condition, Write};

/// Writes of which all take effect, or none: those of one of two lists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    /// What is compared; all of it has to hold.
    pub when: Vec<Compare>,
    /// Done in order if it does. Puts, deletes and reads of documents and key-values, without conditions of their own.
    pub then: Vec<Write>,
    /// Done otherwise.
    pub otherwise: Vec<Write>,
}

/// A comparison with what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// Of what.
    pub target: Target,
    /// How it has to be.
    pub test: Test,
}

/// A document or a key-value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A key-value.
    Key {
        /// Where.
        space: String,
        /// Which.
        key: Vec<u8>,
    },
    /// A document.
    Document {
        /// The collection.
        collection: String,
        /// Its id.
        id: String,
    },
}

/// How something has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// Not there.
    Absent,
    /// There.
    Present,
    /// There, of this version.
    Version(u64),
    /// Of no later version than this, or not there.
    VersionAtMost(u64),
    /// There, with this value; a document byte for byte.
    Value(Vec<u8>),
}

/// What a transaction read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The sequence number that wrote it.
    pub version: u64,
    /// The value, or the document's JSON.
    pub value: Vec<u8>,
    /// When a key-value expires, in milliseconds since 1970, if it does by itself.
    pub expires: Option<u64>,
    /// The lease that keeps a key-value, if one does.
    pub lease: Option<u64>,
}

impl Target {
    /// In words, for people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Target::Key { space, key } => format!("get key {space}/{}", printable(key)),
            Target::Document { collection, id } => format!("get {collection}/{id}"),
        }
    }
}

impl Compare {
    /// Checks what can be checked without what is there.
    pub(crate) fn check(&self) -> Result<(), Rejection> {
        match &self.target {
            Target::Key { space, .. } => check_space(space),
            Target::Document { collection, id } => check_name(collection).and_then(|()| check_id(id)),
        }
    }
}

impl Transaction {
    /// Whether a transaction may hold such a write: one of which is known beforehand whether it is refused.
    pub(crate) fn takes(write: &Write) -> Result<(), Rejection> {
        let no = |reason: &str| Err(Rejection::Validation { reason: reason.into(), field: None });
        match write {
            Write::Put { condition, .. }
            | Write::Delete { condition, .. }
            | Write::Keys(KeyWrite::Put { condition, .. } | KeyWrite::Delete { condition, .. }) => {
                match condition {
                    Condition::Always => Ok(()),
                    _ => no("the conditions of a transaction stand in its comparisons"),
                }
            }
            Write::Keys(KeyWrite::DeleteRange { .. }) | Write::Read(_) => Ok(()),
            Write::Keys(_) => no("a transaction holds no changes of leases"),
            Write::CreateCollection { .. } | Write::DropCollection { .. } => {
                no("a transaction makes and drops no collections")
            }
            Write::Batch(_) | Write::Transaction(_) => no("a transaction holds single writes and reads"),
        }
    }
}

impl Rejection {
    /// The refusal of a transaction for the operation at `place`.
    pub(crate) fn in_transaction(place: usize, rejection: Rejection) -> Rejection {
        Rejection::InTransaction { operation: place as u64, rejection: Box::new(rejection) }
    }
}
