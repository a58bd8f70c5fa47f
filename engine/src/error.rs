//! What can go wrong in the engine, by what the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// An error of this machine and this moment; never an answer about the data.
///
/// Cloneable, because a failed background job or sync is told to everyone who writes afterwards.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "open", "read" …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Bytes on disk are not what was written. Nothing was changed; the rest of the data is untouched.
    #[error("{file} is damaged at offset {offset}: {reason}")]
    Corrupt {
        /// File name, relative to the data folder.
        file: String,
        /// Where the damage was met, in bytes from the start of the file.
        offset: u64,
        /// What was expected and what was found.
        reason: String,
    },
    /// A sync failed, now or earlier: what was written since may or may not be on disk. Only a reopen helps (D10).
    #[error("a sync of {file} failed ({reason}); writes since then may be lost until the store is reopened")]
    SyncFailed {
        /// The file whose sync failed.
        file: String,
        /// What the system said.
        reason: String,
    },
    /// Memory or disk is behind; waiting helps.
    #[error("the store is behind with {reason}; retry after {retry_after:?}")]
    Busy {
        /// What is behind.
        reason: &'static str,
        /// How long a caller should wait.
        retry_after: Duration,
    },
    /// The disk is full, or nearly. Reads go on; writes go on by themselves once there is room.
    #[error("the disk of {} is full: {free} bytes are free, of which {reserve} are kept; writes go on when there is room", dir.display())]
    DiskFull {
        /// The folder of the store.
        dir: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that are kept: `Options::disk_reserve_bytes`.
        reserve: u64,
    },
    /// A key, value or batch is over its limit.
    #[error("{what} is {size} bytes, over the limit of {limit}")]
    TooLarge {
        /// Which thing.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Rows that have to come in order do not.
    #[error("the key {key} comes after {after}, but keys must ascend")]
    OutOfOrder {
        /// The key, printable.
        key: String,
        /// The one before it.
        after: String,
    },
    /// A moment that cannot be read: too old, and overwritten since, or not yet there.
    #[error("the data as of seq {seq} cannot be read; the oldest that can is {oldest}, the newest {newest}")]
    OutOfReach {
        /// The moment asked for.
        seq: u64,
        /// The oldest there is.
        oldest: u64,
        /// The newest there is.
        newest: u64,
    },
    /// The answer is not in memory, and the caller did not want to wait for the disk.
    #[error("the answer is not in memory")]
    NotInMemory,
    /// Another process has the folder open.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// An [`Error::Io`] for `path`.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Io { action, path: path.to_path_buf(), source: Arc::new(source) }
    }

    /// An [`Error::Corrupt`] at `offset` of `file`.
    pub fn corrupt(file: impl Into<String>, offset: u64, reason: impl Into<String>) -> Error {
        Error::Corrupt { file: file.into(), offset, reason: reason.into() }
    }

    /// The name of the file that is damaged, or that the disk did not give.
    pub(crate) fn file_name(&self) -> Option<String> {
        match self {
            Error::Corrupt { file, .. } => Some(file.clone()),
            Error::Io { path, .. } if !self.is_disk_full() => {
                Some(path.file_name()?.to_string_lossy().into_owned())
            }
            _ => None,
        }
    }

    /// Whether the disk has no room left.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Error::DiskFull { .. } => true,
            Error::Io { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded),
            _ => false,
        }
    }
}

/// Shorthand for results of the engine.
pub type Result<T> = std::result::Result<T, Error>;
