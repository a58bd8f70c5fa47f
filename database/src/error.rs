//! Rejections, which every replica repeats, and errors, which only this machine met.

use std::path::PathBuf;
use std::time::Duration;

use lumen_engine::Error as EngineError;
use lumen_index::Error as IndexError;

/// A refusal that follows from the write and the state alone: the same on every replica and in every replay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// There is no collection of this name.
    #[error("there is no collection {name:?}")]
    CollectionNotFound {
        /// The name asked for.
        name: String,
    },
    /// The collection exists with another mapping.
    #[error("collection {name:?} exists with another mapping: {reason}")]
    SchemaConflict {
        /// The collection.
        name: String,
        /// The first difference.
        reason: String,
    },
    /// The mapping makes no sense.
    #[error("bad mapping: {reason}")]
    Mapping {
        /// What is wrong.
        reason: String,
        /// In which field.
        field: Option<String>,
    },
    /// The document does not fit its mapping.
    #[error("{reason}")]
    Validation {
        /// What is wrong.
        reason: String,
        /// In which field.
        field: Option<String>,
    },
    /// The document is not of the version that the write asked for.
    #[error("document {id:?} {}", version_text(*current))]
    VersionConflict {
        /// The document.
        id: String,
        /// Its version; `None` when it does not exist.
        current: Option<u64>,
    },
    /// The key-value is not of the version that the write asked for.
    #[error("key {} {}", lumen_engine::inspect::printable(key), version_text(*current))]
    KeyConflict {
        /// Its key.
        key: Vec<u8>,
        /// Its version; `None` when it does not exist.
        current: Option<u64>,
    },
    /// There is no lease of this number, or none any more.
    #[error("there is no lease {lease}; it may have expired")]
    LeaseNotFound {
        /// Its number.
        lease: u64,
    },
    /// There is a lease of this number.
    #[error("lease {lease} is there already")]
    LeaseExists {
        /// Its number.
        lease: u64,
    },
    /// One of a transaction's operations is refused, and so is all of it.
    #[error("operation {operation}: {rejection}")]
    InTransaction {
        /// Its place in the list that was chosen, from 0.
        operation: u64,
        /// Why.
        rejection: Box<Rejection>,
    },
    /// A name or id that cannot be.
    #[error("{reason}")]
    InvalidName {
        /// What is wrong with it.
        reason: String,
    },
    /// Something is over its limit.
    #[error("{what} is {size} bytes, over the limit of {limit}")]
    TooLarge {
        /// What.
        what: String,
        /// The limit in bytes.
        limit: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// The request's name stands for another request, made within the last day.
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
    /// The request is one of those that whoever made it has an answer to, or does not wait for any more.
    #[error("nobody waits for this request any more")]
    Past,
}

fn version_text(current: Option<u64>) -> String {
    current.map_or("does not exist".into(), |version| format!("is at version {version}"))
}

impl Rejection {
    /// The stable type, for machines.
    pub fn kind(&self) -> &'static str {
        match self {
            Rejection::CollectionNotFound { .. } => "collection_not_found",
            Rejection::SchemaConflict { .. } => "schema_conflict",
            Rejection::Mapping { .. } => "mapping",
            Rejection::Validation { .. } => "validation",
            Rejection::VersionConflict { .. } | Rejection::KeyConflict { .. } => "version_conflict",
            Rejection::LeaseNotFound { .. } => "lease_not_found",
            Rejection::LeaseExists { .. } => "lease_exists",
            Rejection::InvalidName { .. } => "invalid_name",
            Rejection::TooLarge { .. } => "too_large",
            Rejection::KeyReused => "idempotency_mismatch",
            Rejection::Past => "request_past",
            Rejection::InTransaction { rejection, .. } => rejection.kind(),
        }
    }

    /// The field that the rejection is about.
    pub fn field(&self) -> Option<&str> {
        match self {
            Rejection::Mapping { field, .. } | Rejection::Validation { field, .. } => field.as_deref(),
            Rejection::InTransaction { rejection, .. } => rejection.field(),
            _ => None,
        }
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request was refused.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The query text cannot be read.
    #[error("bad query at column {column}: {reason}")]
    QuerySyntax {
        /// What is wrong.
        reason: String,
        /// Byte offset in the query.
        position: usize,
        /// Character, from 1.
        column: usize,
    },
    /// Memory or disk is behind.
    #[error("the database is behind with its work; retry after {retry_after:?}")]
    Busy {
        /// How long to wait.
        retry_after: Duration,
    },
    /// A write or sync failed: the write may or may not be there. Nothing is acknowledged until the database is reopened.
    #[error("it is not known whether the write survived: {reason}")]
    Unknown {
        /// What failed.
        reason: String,
    },
    /// The disk is full.
    #[error("the disk is full: {reason}")]
    DiskFull {
        /// What failed.
        reason: String,
    },
    /// Bytes on disk are not what was written.
    #[error("{file} is damaged at offset {offset}: {reason}")]
    Corrupt {
        /// The file.
        file: String,
        /// Bytes from its start.
        offset: u64,
        /// What was expected and found.
        reason: String,
    },
    /// The log does not hold the changes that were asked for any more.
    #[error(
        "changes are kept from sequence number {oldest} on: what came before has to be read as it is now"
    )]
    Compacted {
        /// The smallest sequence number after which all changes are there.
        oldest: u64,
    },
    /// There is no such write yet.
    #[error("sequence number {seq} is still to come: the last one is {last}")]
    NotYet {
        /// What was asked for.
        seq: u64,
        /// What there is.
        last: u64,
    },
    /// The caller said stop.
    #[error("cancelled")]
    Cancelled,
    /// The database was closed.
    #[error("the database is closed")]
    Closed,
    /// The operating system refused a file operation.
    #[error("{reason}")]
    Io {
        /// What failed.
        reason: String,
    },
    /// The database follows a log kept elsewhere, and takes writes from there only.
    #[error("this database is a replica: its writes come from its log")]
    Replica,
    /// Another process has the folder.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

impl Error {
    /// An [`Error::Corrupt`].
    pub(crate) fn corrupt(file: impl Into<String>, offset: u64, reason: impl Into<String>) -> Error {
        Error::Corrupt { file: file.into(), offset, reason: reason.into() }
    }
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Error {
        match error {
            EngineError::Corrupt { file, offset, reason } => Error::Corrupt { file, offset, reason },
            EngineError::Busy { retry_after, .. } => Error::Busy { retry_after },
            EngineError::Closed => Error::Closed,
            EngineError::InUse { path } => Error::InUse { path },
            error @ EngineError::SyncFailed { .. } => Error::Unknown { reason: error.to_string() },
            error if error.is_disk_full() => Error::DiskFull { reason: error.to_string() },
            error => Error::Io { reason: error.to_string() },
        }
    }
}

impl From<IndexError> for Error {
    fn from(error: IndexError) -> Error {
        match error {
            IndexError::Corrupt { file, offset, reason } => {
                Error::Corrupt { file, offset, reason: reason.to_string() }
            }
            IndexError::Cancelled => Error::Cancelled,
            other => Error::Io { reason: other.to_string() },
        }
    }
}

/// Shorthand for results of the database.
pub type Result<T> = std::result::Result<T, Error>;
