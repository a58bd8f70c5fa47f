//! What openraft asks of a log; `docs/protocol` of openraft has the contract of each call.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use lumen_engine::error::Error as EngineError;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::{LogState, OptionalSend};

use super::store::LogStore;
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// Bytes of entries that are sent or applied at once, at most; one entry may be more.
const READ_BYTES_MAX: usize = 2 << 20;

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.vote())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let mut entries = self.read(start, end, READ_BYTES_MAX)?;
        // Whoever asks for what is gone would take the rest for it, and send it on. Of nothing, openraft makes a heartbeat.
        if entries.first().is_some_and(|first| first.log_id.index != start) {
            entries.clear();
        }
        Ok(entries)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let (last_purged_log_id, last_log_id) = self.ends();
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        // So begins an election; one that was won is saved again, and says so.
        if !vote.committed && Some(vote.leader_id.node_id) == self.node() {
            self.meters().elections.begin(vote.leader_id.term);
        }
        let durable = LogStore::save_vote(self, vote)?;
        durable.await.map_err(|_| io::Error::other(EngineError::Closed))?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.set_committed(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.committed())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.append_entries(entries, callback)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.truncate(last)
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.purge_upto(upto)
    }
}
