//! Following what happens: the replicated log as the feed of changes, which any node reads from its own.

use std::collections::VecDeque;

use lumen::{Changes, EntryCursor, EntryLog, NextEntry, Scope};
use openraft::EntryPayload;

use crate::error::Result;
use crate::log::LogStore;
use crate::node::Node;

/// Bytes of entries that are read at once.
const READ_BYTES: usize = 2 << 20;

impl Node {
    /// Everything that happened after `since` as far as this node knows, of what is in scope; without `since`, what happens from
    /// now on. What it tells is the same on every node; how far back each can begin is not.
    ///
    /// Errors: [`lumen::Error::Compacted`], [`lumen::Error::NotYet`] (in [`Error::Database`](crate::Error::Database)).
    pub fn changes(&self, since: Option<u64>, scope: Scope) -> Result<Changes> {
        Ok(self.inner.db.changes_in(&self.inner.log, since, scope)?)
    }
}

struct LogCursor {
    log: LogStore,
    next: u64,
    /// Read and not yet given.
    ahead: VecDeque<(u64, Vec<u8>)>,
}

impl EntryLog for LogStore {
    fn first(&self) -> u64 {
        self.entries().0
    }

    fn cursor(&self, index: u64) -> lumen::error::Result<Option<Box<dyn EntryCursor>>> {
        if index < self.first() {
            return Ok(None);
        }
        Ok(Some(Box::new(LogCursor { log: self.clone(), next: index, ahead: VecDeque::new() })))
    }
}

impl EntryCursor for LogCursor {
    fn next(&mut self, end: u64) -> lumen::error::Result<NextEntry> {
        loop {
            if let Some((index, payload)) = self.ahead.pop_front() {
                return Ok(NextEntry::Entry(index, payload));
            }
            if self.next >= end {
                return Ok(NextEntry::End);
            }
            let read = self.log.read(self.next, end, READ_BYTES);
            // What is let go of meanwhile may not be readable any more, or be left out.
            if self.next < self.log.first() {
                return Ok(NextEntry::Gone);
            }
            let read = read.map_err(|error| lumen::Error::Io { reason: error.to_string() })?;
            let Some(last) = read.last() else { return Ok(NextEntry::Gone) };
            self.next = last.log_id.index + 1;
            self.ahead.extend(read.into_iter().filter_map(|entry| match entry.payload {
                EntryPayload::Normal(proposed) => Some((entry.log_id.index, proposed.0.to_vec())),
                _ => None,
            }));
        }
    }
}
