//! The log itself: appending, syncing, reading, and the thread.
//!
//! `append` copies and returns; a thread of its own syncs what has gathered and then tells openraft. Until then, and as long
//! as there is room, entries are also in the tail in memory, from which they are replicated and applied; older ones are read
//! from the files.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lumen::Database;
use lumen_engine::error::Error as EngineError;
use lumen_engine::log::{Cursor, Kind, Log, LogOptions, LogStats, Position};
use lumen_engine::vfs::Vfs;
use openraft::storage::IOFlushed;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::entries::Entries;
use super::replay::Replay;
use super::{BASE, BOOT, COMMITTED_BYTES, ENTRY, HEAD_BYTES, NODE, PURGE, TRUNCATE, VOTE};
use crate::codec;
use crate::error::{Error, Result};
use crate::metrics::Meters;
use crate::planted::{self, Bug};
use crate::types::{Entry, GROUP, LogId, TypeConfig, Vote};

/// File ending of the log's segments.
const LOG_EXTENSION: &str = "raft";

/// Idle time after which the last sync is vouched for, so that damage to it can be told from a torn tail.
const VOUCH_AFTER: Duration = Duration::from_millis(50);
/// Places in the files that are remembered: one for each follower that is far behind, and for apply.
const CURSORS_MAX: usize = 8;

/// How a log is set up.
#[derive(Clone)]
pub(crate) struct LogSetup {
    /// The file system.
    pub vfs: Arc<dyn Vfs>,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Bytes of entries kept in memory.
    pub tail_bytes: usize,
    /// Whose log it is: a segment of another store is damage. `None` reads any.
    pub uuid: Option<[u8; 16]>,
    /// Whether a thread syncs; otherwise each call does, for tests that must repeat.
    pub threaded: bool,
    /// Where randomness comes from.
    pub random: fn() -> u64,
    /// The time in milliseconds since 1970, so that each life of the node has a larger number, also if its files were lost.
    pub clock: fn() -> u64,
    /// How many writes the database holds already, for a log that begins.
    pub base: u64,
    /// What counts.
    pub meters: Arc<Meters>,
}

impl LogSetup {
    /// For the node that holds a database, which was opened with these options.
    pub(crate) fn of(db: &Database, options: &lumen::Options, tail_bytes: usize) -> LogSetup {
        LogSetup {
            vfs: options.vfs.clone(),
            segment_bytes: options.segment_bytes,
            tail_bytes,
            uuid: Some(db.id()),
            threaded: options.threads > 0,
            random: options.random,
            clock: options.clock,
            base: db.seq(),
            meters: Arc::default(),
        }
    }
}

enum Done {
    Appended(IOFlushed<TypeConfig>),
    Voted(oneshot::Sender<io::Result<()>>),
    Purged(u64),
}

/// Entries that no sync has begun for yet.
#[derive(Default)]
struct Unsynced {
    entries: u64,
    bytes: u64,
}

#[derive(Default)]
struct State {
    node: Option<u64>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    next_record: u64,
    entries: Entries,
    /// Entries up to here are durable: only they may leave the tail.
    durable: Option<u64>,
    unsynced: Unsynced,
    /// Who is to be told when the log is durable so far, and up to which index it is then.
    waiting: VecDeque<(Position, Option<u64>, Done)>,
    closed: bool,
}

struct Shared {
    log: Log,
    /// Which life of the node this is.
    boot: u64,
    /// How many writes the database held when the log began.
    base: u64,
    setup: LogSetup,
    state: Mutex<State>,
    bell: Condvar,
    /// Places in the files, with the number of the record that is next there. Numbers are never used again.
    cursors: Mutex<Vec<(u64, Cursor)>>,
}

/// The log. Clones are the same log.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

impl LogStore {
    /// Opens the log in a folder, creating it if it is not there.
    ///
    /// Errors: damage before the torn tail, named by file and offset; whatever the file system says.
    pub(crate) fn open(dir: &Path, setup: LogSetup) -> Result<LogStore> {
        setup
            .vfs
            .create_dir(dir)
            .map_err(|error| Error::Io { reason: format!("{}: {error}", dir.display()) })?;
        let options = LogOptions {
            dir: dir.to_path_buf(),
            extension: LOG_EXTENSION,
            segment_bytes: setup.segment_bytes,
            first_segment_bytes: (4 << 20).min(setup.segment_bytes),
            kinds: &[Kind::Raft],
            from_seq: 0,
            uuid: setup.uuid,
            random: setup.random,
        };
        let mut replay = Replay::default();
        let mut last_record = 0;
        let (log, _) = Log::open(setup.vfs.clone(), options, None, 1, &mut |number, _, payload| {
            let bad = |reason: String| EngineError::corrupt("the replicated log", number, reason);
            last_record = number;
            replay.record(number, GROUP, payload, setup.tail_bytes).map_err(bad)
        })?;
        let Replay { node, vote, committed, purged, boot, mut base, mut last, mut entries } = replay;
        if let Some(dropped) =
            last.filter(|last| planted::is(Bug::LastEntryDropped) && end_of(purged) < last.index)
        {
            entries.truncate(dropped.index);
            last = Some(LogId { index: dropped.index - 1, ..dropped });
        }
        if let Some(first) = entries.first().filter(|run| run.first != end_of(purged)) {
            let reason =
                format!("it begins at entry {}, after {} entries are gone", first.first, end_of(purged));
            return Err(Error::Corrupt { file: "the replicated log".into(), offset: 0, reason });
        }
        if entries.is_empty() && end_of(last) != end_of(purged) {
            let reason = format!("it is said to have {} entries, and has none", end_of(last));
            return Err(Error::Corrupt { file: "the replicated log".into(), offset: 0, reason });
        }
        let durable = last.map(|last| last.index);
        let boot = if planted::is(Bug::LivesNotToldApart) { 1 } else { (setup.clock)().max(boot + 1) };
        let mut next_record = last_record + 1;
        let mut begun = vec![(BOOT, boot)];
        if last_record == 0 && setup.base > 0 {
            base = setup.base;
            begun.push((BASE, base));
        }
        // Nothing is asked for in a life that might have to be lived again.
        for (kind, number) in begun {
            let position = log.append(next_record, Kind::Raft, &[&head(kind), &number.to_le_bytes()])?;
            log.sync(position)?;
            next_record += 1;
        }
        let state = State { node, vote, purged, last, next_record, entries, durable, ..State::default() };
        let threaded = setup.threaded;
        let shared = Shared {
            log,
            boot,
            base,
            setup,
            state: Mutex::new(state),
            bell: Condvar::new(),
            cursors: Mutex::default(),
        };
        let store = LogStore { shared: Arc::new(shared) };
        // The hint is an index; its log id is that of the entry.
        if let Some(index) = committed.min(end_of(last)).checked_sub(1) {
            let read = store.read(index, index + 1, 0).map_err(|e| Error::Io { reason: e.to_string() })?;
            let id = read.first().map(|entry| entry.log_id);
            let mut state = store.shared.state.lock();
            state.committed = id.max(state.purged);
        }
        if threaded {
            let shared = store.shared.clone();
            let thread = std::thread::Builder::new().name("lumen-raft-log".into());
            let spawned = thread.spawn(move || shared.run());
            spawned.map_err(|error| Error::Io { reason: format!("cannot start a thread: {error}") })?;
        }
        Ok(store)
    }

    /// Entries that are in the log, as (first, end) indexes.
    pub(crate) fn entries(&self) -> (u64, u64) {
        let state = self.shared.state.lock();
        (end_of(state.purged), end_of(state.last))
    }

    /// The last entry that is gone, and the last one there is (which may be the same).
    pub(crate) fn ends(&self) -> (Option<LogId>, Option<LogId>) {
        let state = self.shared.state.lock();
        (state.purged, state.last)
    }

    /// Which life of the node this is; larger than all before.
    pub(crate) fn boot(&self) -> u64 {
        self.shared.boot
    }

    /// The number of the node whose log it is, once it has one.
    pub(crate) fn node(&self) -> Option<u64> {
        self.shared.state.lock().node
    }

    /// Says whose log it is; durable when it returns.
    pub(crate) fn set_node(&self, id: u64) -> Result<()> {
        let mut state = self.shared.state.lock();
        let failed = |error: io::Error| Error::Io { reason: error.to_string() };
        let (_, position) =
            self.shared.append(&mut state, &[&head(NODE), &id.to_le_bytes()]).map_err(failed)?;
        state.node = Some(id);
        Ok(self.shared.log.sync(position)?)
    }

    /// Whether the database holds something that the log's entries, of which none are gone, do not.
    pub(crate) fn has_base(&self) -> bool {
        self.shared.base > 0 && self.shared.state.lock().purged.is_none()
    }

    /// The vote that was saved last.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.shared.state.lock().vote
    }

    /// The last entry known to be committed.
    pub(crate) fn committed(&self) -> Option<LogId> {
        self.shared.state.lock().committed
    }

    /// Notes what is committed; written with the next entry.
    pub(crate) fn set_committed(&self, committed: Option<LogId>) {
        let mut state = self.shared.state.lock();
        state.committed = if planted::is(Bug::CommittedTooFar) { state.last } else { committed };
    }

    /// Entries from `start` to before `end`, as many as fit into `bytes_max`, at least one if there is one.
    pub(crate) fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        self.shared.read(start, end, bytes_max).map_err(io::Error::other)
    }

    /// Gives `each` all entries from `start` to before `end`, in pieces of about a megabyte.
    pub(crate) fn walk(
        &self,
        start: u64,
        end: u64,
        each: &mut dyn FnMut(Vec<Entry>) -> Result<()>,
    ) -> Result<()> {
        let mut next = start;
        while next < end {
            let read =
                self.read(next, end, 1 << 20).map_err(|error| Error::Io { reason: error.to_string() })?;
            let Some(last) = read.last() else { break };
            next = last.log_id.index + 1;
            each(read)?;
        }
        Ok(())
    }

    /// Appends entries, which are readable from then on; `callback` is told when they are durable.
    pub(crate) fn append_entries(
        &self,
        entries: impl IntoIterator<Item = Entry>,
        callback: IOFlushed<TypeConfig>,
    ) -> io::Result<()> {
        let shared = &self.shared;
        {
            let mut state = shared.state.lock();
            let mut end = shared.log.end();
            for entry in entries {
                let (index, next) = (entry.log_id.index, end_of(state.last));
                assert!(
                    state.last.is_none() || index == next,
                    "entry {index} is appended where entry {next} is next"
                );
                let committed = end_of(state.committed).to_le_bytes();
                let parts =
                    [&head(ENTRY)[..], &committed, &codec::entry_head(&entry), codec::entry_body(&entry)];
                let (record, position) = shared.append(&mut state, &parts)?;
                state.last = Some(entry.log_id);
                state.unsynced.entries += 1;
                state.unsynced.bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>();
                state.entries.push(entry, record);
                end = position;
            }
            if planted::is(Bug::EntriesNotSynced) {
                callback.io_completed(Ok(()));
                return Ok(());
            }
            shared.when_durable(&mut state, end, Done::Appended(callback));
        }
        shared.work_inline();
        Ok(())
    }

    /// Saves a vote; what is answered is told when it is durable.
    pub(crate) fn save_vote(&self, vote: &Vote) -> io::Result<oneshot::Receiver<io::Result<()>>> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.shared.state.lock();
            let mut record = head(VOTE).to_vec();
            codec::put_vote(&mut record, vote);
            let (_, position) = self.shared.append(&mut state, &[&record])?;
            state.vote = Some(*vote);
            if planted::is(Bug::VoteNotSynced) {
                let _ = sender.send(Ok(()));
                return Ok(receiver);
            }
            self.shared.when_durable(&mut state, position, Done::Voted(sender));
        }
        self.shared.work_inline();
        Ok(receiver)
    }

    /// Voids what comes after `last`. A crash soon after may bring it back.
    pub(crate) fn truncate(&self, last: Option<LogId>) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        if state.last.map(|now| now.index) <= last.map(|last| last.index) {
            return Ok(()); // there is nothing after it
        }
        let mut record = head(TRUNCATE).to_vec();
        codec::put_maybe(&mut record, last.as_ref());
        if !planted::is(Bug::TruncationNotLogged) {
            self.shared.append(&mut state, &[&record])?;
        }
        if !planted::is(Bug::TruncationKeepsTail) {
            state.entries.truncate(end_of(last));
        }
        state.last = last;
        let index = last.map(|last| last.index);
        state.durable = state.durable.min(index);
        // A sync that is under way makes nothing durable that comes in the place of what is void.
        state.waiting.iter_mut().for_each(|(_, upto, _)| *upto = (*upto).min(index));
        Ok(())
    }

    /// Lets go of what comes up to `upto`; its files are removed once that is durable.
    pub(crate) fn purge_upto(&self, upto: LogId) -> io::Result<()> {
        let shared = &self.shared;
        {
            let mut state = shared.state.lock();
            // Vote, number and life once more, since the segments that hold them may go.
            let mut kept = state.next_record;
            if let Some(vote) = state.vote.filter(|_| !planted::is(Bug::VoteGoesWithSegment)) {
                let mut record = head(VOTE).to_vec();
                codec::put_vote(&mut record, &vote);
                shared.append(&mut state, &[&record])?;
            }
            if let Some(node) = state.node {
                shared.append(&mut state, &[&head(NODE), &node.to_le_bytes()])?;
            }
            shared.append(&mut state, &[&head(BOOT), &shared.boot.to_le_bytes()])?;
            let mut record = head(PURGE).to_vec();
            codec::put_log_id(&mut record, &upto);
            let (_, position) = shared.append(&mut state, &[&record])?;
            state.entries.purge(upto.index);
            state.purged = state.purged.max(Some(upto));
            if state.last.is_none_or(|last| last.index <= upto.index) {
                (state.last, state.durable) = (Some(upto), Some(upto.index));
            }
            kept = state.entries.first().map_or(kept, |run| kept.min(run.record));
            shared.when_durable(&mut state, position, Done::Purged(kept - 1));
        }
        shared.work_inline();
        Ok(())
    }

    /// The last entry that comes before the newest `bytes` of the log, whole segments only.
    pub(crate) fn beyond(&self, bytes: u64) -> Option<u64> {
        let segments = self.shared.log.segments();
        let kept = bytes.div_ceil(self.shared.setup.segment_bytes) as usize;
        let oldest_kept = segments.len().checked_sub(kept + 1)?;
        let (_, record) = *segments.get(oldest_kept)?;
        self.shared.state.lock().entries.before(record)
    }

    /// What counts.
    pub(crate) fn meters(&self) -> &Arc<Meters> {
        &self.shared.setup.meters
    }

    /// Counters.
    pub(crate) fn stats(&self) -> LogStats {
        self.shared.log.stats()
    }

    /// Takes no more, makes durable what is there, and ends the thread.
    pub(crate) fn close(&self) -> Result<()> {
        self.shared.state.lock().closed = true;
        self.shared.bell.notify_all();
        Ok(self.shared.log.seal()?)
    }
}

/// One more than the index of a log id: how many entries there are up to it.
fn end_of(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

/// What a record begins with.
fn head(kind: u8) -> [u8; HEAD_BYTES] {
    let mut head = [kind; HEAD_BYTES];
    head[1..].copy_from_slice(&GROUP.to_le_bytes());
    head
}

impl Shared {
    /// Appends a record; the lock that is held makes the order of records that of the calls.
    fn append(&self, state: &mut State, parts: &[&[u8]]) -> io::Result<(u64, Position)> {
        if state.closed {
            return Err(io::Error::other(EngineError::Closed));
        }
        let number = state.next_record;
        let position = self.log.append(number, Kind::Raft, parts).map_err(io::Error::other)?;
        state.next_record += 1;
        Ok((number, position))
    }

    /// Has `done` told when the log is durable up to `position`.
    fn when_durable(&self, state: &mut State, position: Position, done: Done) {
        let index = state.last.map(|last| last.index);
        state.waiting.push_back((position, index, done));
        if self.setup.threaded {
            self.bell.notify_all();
        }
    }

    /// Without a thread, what was asked for is done at once.
    fn work_inline(&self) {
        if !self.setup.threaded {
            self.sync_and_tell();
            if self.log.wants_spare() {
                let _ = self.log.prepare_spare(); // or the next segment is made when it is needed
            }
        }
    }

    /// Syncs what has gathered, and tells who waits for it. False when nobody does.
    fn sync_and_tell(&self) -> bool {
        let (upto, group) = {
            let mut state = self.state.lock();
            let Some(upto) = state.waiting.back().map(|(position, ..)| *position) else { return false };
            // A sync takes along what is appended while it begins: who waits for that is only told, and what he waited for
            // counts with the next group.
            let is_due = self.log.durable() < upto;
            (upto, is_due.then(|| std::mem::take(&mut state.unsynced)))
        };
        let begun = Instant::now();
        let synced = self.log.sync(upto);
        if let (Some(group), Ok(())) = (group, &synced) {
            self.setup.meters.sync.add_since(begun);
            // A vote has a sync to itself, as a rule.
            if group.entries > 0 {
                self.setup.meters.synced_entries.add(group.entries);
                self.setup.meters.synced_bytes.add(group.bytes);
            }
        }
        let mut done = Vec::new();
        {
            let mut state = self.state.lock();
            while state.waiting.front().is_some_and(|(position, ..)| *position <= upto) {
                let Some((_, index, one)) = state.waiting.pop_front() else { break };
                if synced.is_ok() {
                    state.durable = state.durable.max(index);
                }
                done.push(one);
            }
            // After a truncation, less is there than once was.
            state.durable = state.durable.min(state.last.map(|last| last.index));
            let durable = state.durable;
            state.entries.trim(self.setup.tail_bytes, durable);
        }
        for one in done {
            let result = || synced.clone().map_err(io::Error::other);
            match one {
                Done::Appended(callback) => callback.io_completed(result()),
                // Who asked may have gone.
                Done::Voted(sender) => drop(sender.send(result())),
                Done::Purged(record) => {
                    if synced.is_ok() {
                        let _ = self.log.purge(record); // or with the next purge
                    }
                }
            }
        }
        true
    }

    /// The thread.
    fn run(&self) {
        loop {
            if self.sync_and_tell() {
                continue;
            }
            if self.log.wants_spare() {
                let _ = self.log.prepare_spare();
            }
            let mut state = self.state.lock();
            if !state.waiting.is_empty() {
                continue;
            }
            if state.closed {
                return;
            }
            if self.bell.wait_for(&mut state, VOUCH_AFTER).timed_out() && state.waiting.is_empty() {
                drop(state);
                let _ = self.log.vouch(); // a failure is met again by the next sync, and told then
            }
        }
    }

    /// Entries from `start` to before `end`: from the files, which takes long and holds nobody up, and from the tail.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> lumen_engine::error::Result<Vec<Entry>> {
        let (mut in_files, mut in_tail) = (Vec::new(), Vec::new());
        {
            let state = self.state.lock();
            let first = state.entries.first().map_or(u64::MAX, |run| run.first);
            let (mut index, end) = (start.max(first), end.min(end_of(state.last)));
            let tail_first = state.entries.tail_first();
            while index < end.min(tail_first) {
                let run = state.entries.run_of(index).ok_or_else(|| {
                    EngineError::corrupt("the replicated log", 0, format!("entry {index} is in no record"))
                })?;
                let stop = end.min(tail_first).min(run.indexes().end);
                in_files.push((run.record + (index - run.first), index..stop));
                index = stop;
            }
            let mut bytes = 0;
            for entry in state.entries.tail_from(index).take_while(|entry| entry.log_id.index < end) {
                if bytes >= bytes_max && bytes > 0 {
                    break;
                }
                bytes += codec::entry_len(entry);
                in_tail.push(entry.clone());
            }
        }
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for (record, indexes) in in_files {
            let from = indexes.start;
            if let Err(error) = self.read_files(record, indexes, bytes_max, &mut bytes, &mut entries) {
                // Unless it was let go of meanwhile: then it is as if it had been before.
                if self.state.lock().entries.first().is_some_and(|run| run.first <= from) {
                    return Err(error);
                }
                return Ok(Vec::new());
            }
        }
        for entry in in_tail {
            if bytes >= bytes_max && bytes > 0 {
                break;
            }
            bytes += codec::entry_len(&entry);
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Appends entries that are in consecutive records, as long as `bytes` is less than `bytes_max`.
    fn read_files(
        &self,
        mut record: u64,
        indexes: Range<u64>,
        bytes_max: usize,
        bytes: &mut usize,
        entries: &mut Vec<Entry>,
    ) -> lumen_engine::error::Result<()> {
        if *bytes >= bytes_max && *bytes > 0 {
            return Ok(());
        }
        let gone = || EngineError::corrupt("the replicated log", 0, format!("record {record} is missing"));
        let known = {
            let mut cursors = self.cursors.lock();
            let at = cursors.iter().position(|(next, _)| *next == record);
            at.map(|at| cursors.remove(at).1)
        };
        let mut cursor = match known {
            Some(cursor) => cursor,
            None => self.log.cursor(record)?.ok_or_else(gone)?,
        };
        for index in indexes {
            if *bytes >= bytes_max && *bytes > 0 {
                break;
            }
            let entry = self.read_entry(&mut cursor, record)?.filter(|entry| entry.log_id.index == index);
            let entry = entry.ok_or_else(|| {
                EngineError::corrupt("the replicated log", 0, format!("record {record} is not entry {index}"))
            })?;
            record += 1;
            *bytes += codec::entry_len(&entry);
            entries.push(entry);
        }
        let mut cursors = self.cursors.lock();
        cursors.insert(0, (record, cursor));
        cursors.truncate(CURSORS_MAX);
        Ok(())
    }

    /// The next record of a cursor, if it is that of an entry and has this number.
    fn read_entry(&self, cursor: &mut Cursor, record: u64) -> lumen_engine::error::Result<Option<Entry>> {
        loop {
            let Some(found) = cursor.next(&self.log)? else { return Ok(None) };
            // Between ours are those by which the log is closed.
            if found.kind == Kind::Raft {
                let payload = Bytes::from(found.payload);
                let body = HEAD_BYTES + COMMITTED_BYTES;
                let is_it = found.seq == record && payload.len() > body && payload[0] == ENTRY;
                return Ok(is_it.then(|| codec::read_entry(&payload.slice(body..))).flatten());
            }
        }
    }
}
