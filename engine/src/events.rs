//! What an embedder may want to hear of: work done in the background, waiting writers, a full disk, damage.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;

/// Something that happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A memory was written to tables.
    Flushed {
        /// Bytes written.
        bytes: u64,
        /// How long it took.
        took: Duration,
    },
    /// Tables were merged, moved or dropped.
    Compacted {
        /// Why: a name of [`Stats::compactions_by_reason`](crate::stats::Stats::compactions_by_reason).
        reason: &'static str,
        /// Bytes read of the tables that went in.
        read: u64,
        /// Bytes written since it began, or went on in this opening.
        written: u64,
        /// How long it took.
        took: Duration,
    },
    /// A compaction goes on that an earlier opening began.
    Resumed {
        /// Why it was begun: as for [`Event::Compacted`].
        reason: &'static str,
        /// Bytes that it has written before.
        written: u64,
    },
    /// A writer had to wait for memory, level 0 or debt; short waits for pace and log are only counted.
    Stalled {
        /// For what: a name of [`Stats::stalls_by_reason`](crate::stats::Stats::stalls_by_reason).
        reason: &'static str,
        /// How long.
        took: Duration,
    },
    /// The disk is so full that writes are refused.
    DiskFull {
        /// Bytes that are free.
        free: u64,
    },
    /// There is room again, and writes go on.
    DiskFreed {
        /// Bytes that are free.
        free: u64,
    },
    /// Bytes on disk are not what was written.
    Damaged(
        /// Where and how.
        Error,
    ),
}

/// Who is told. Called on the thread on which it happens, so it should be quick, and it must not call the engine.
pub type Listener = Arc<dyn Fn(&Event) + Send + Sync>;
