//! What can go wrong in a replicated database, told apart by what the caller can do.

use std::time::Duration;

use lumen::Rejection;

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request was refused, certainly.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// There is no leader that could take it, and none came in time. Nothing was written.
    #[error("the cluster has no leader: {reason}")]
    NoLeader {
        /// What is known.
        reason: String,
    },
    /// Another node leads.
    #[error("node {} leads", leader.map_or_else(|| "unknown".into(), |id| id.to_string()))]
    NotLeader {
        /// Which, if it is known.
        leader: Option<u64>,
    },
    /// More is under way than is good. Nothing was written.
    #[error("the cluster is behind with its work; retry after {retry_after:?}")]
    Busy {
        /// How long to wait.
        retry_after: Duration,
    },
    /// The time ran out after the write was handed to the log: it may or may not take effect.
    #[error("it is not known whether the write takes effect: {reason}")]
    Unknown {
        /// What is known.
        reason: String,
    },
    /// This node is too far behind for what was asked of it.
    #[error("this node is behind: it has {has}, asked for was {wanted}")]
    Behind {
        /// Sequence number that was asked for.
        wanted: u64,
        /// Sequence number that is here.
        has: u64,
    },
    /// The cluster was formed before.
    #[error("the cluster is initialized already")]
    AlreadyInitialized,
    /// The folder belongs to another node.
    #[error("the data folder is that of node {id}, not of node {wanted}")]
    OtherNode {
        /// Which was to be started.
        wanted: u64,
        /// Whose it is.
        id: u64,
    },
    /// The membership cannot be changed so, or not now.
    #[error("{reason}")]
    Membership {
        /// Why.
        reason: String,
    },
    /// There is no room on the disk of the node that leads. Nothing was written.
    #[error("{reason}")]
    DiskFull {
        /// What is known.
        reason: String,
    },
    /// Bytes on disk are not what was written.
    #[error("{file} is damaged at {offset}: {reason}")]
    Corrupt {
        /// The file.
        file: String,
        /// Bytes from its start, or the record's number.
        offset: u64,
        /// What was expected and found.
        reason: String,
    },
    /// The operating system refused something.
    #[error("{reason}")]
    Io {
        /// What failed.
        reason: String,
    },
    /// The database under it cannot answer.
    #[error(transparent)]
    Database(lumen::Error),
    /// The node failed for good, or is shutting down.
    #[error("the node has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

impl From<lumen::Error> for Error {
    fn from(error: lumen::Error) -> Error {
        match error {
            lumen::Error::Rejected(rejection) => Error::Rejected(rejection),
            lumen::Error::Busy { retry_after } => Error::Busy { retry_after },
            lumen::Error::Corrupt { file, offset, reason } => Error::Corrupt { file, offset, reason },
            lumen::Error::DiskFull { reason } => Error::DiskFull { reason },
            lumen::Error::Closed => Error::Stopped { reason: "the database is closed".into() },
            other => Error::Database(other),
        }
    }
}

impl From<lumen_engine::Error> for Error {
    fn from(error: lumen_engine::Error) -> Error {
        Error::from(lumen::Error::from(error))
    }
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
