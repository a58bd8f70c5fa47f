//! The replicated log, kept in segments of `engine::log`.
//!
//! ```text
//! record:  │ 1 │ group: u32 │ committed: u64 │ entry │       `committed`: one more than the last index known to be; a hint
//!          │ 2 │ group: u32 │ vote │
//!          │ 3 │ group: u32 │ maybe a log id │               what comes after it in the log is void
//!          │ 4 │ group: u32 │ log id │                       what comes up to it in the log is gone
//! ```
//!
//! Votes, entries and the rest are records of one sequence, in the order of the calls, so that no crash shows them in
//! another one (openraft, docs/protocol/io_ordering.md). Records are numbered by the log itself; [`Run`]s say which record
//! holds which entry.
//!
//! `append` copies and returns; a thread of its own syncs what has gathered and then tells openraft. Until then, and as long
//! as there is room, entries are also in the tail in memory, from which they are replicated and applied; older ones are read
//! from the files.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lumen_engine::coding::Decoder;
use lumen_engine::error::Error as EngineError;
use lumen_engine::log::{Cursor, Kind, Log, LogOptions, LogStats, Position};
use lumen_engine::vfs::Vfs;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::{LogState, OptionalSend};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::codec;
use crate::error::{Error, Result};
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// File ending of the log's segments.
pub(crate) const LOG_EXTENSION: &str = "raft";

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const TRUNCATE: u8 = 3;
const PURGE: u8 = 4;

/// Bytes of entries that are sent or applied at once, at most; one entry may be more.
const READ_BYTES_MAX: usize = 2 << 20;
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
    /// Whose log it is: a segment of another store is damage.
    pub uuid: [u8; 16],
    /// Whether a thread syncs; otherwise each call does, for tests that must repeat.
    pub threaded: bool,
    /// Where randomness comes from.
    pub random: fn() -> u64,
}

/// Entries of consecutive indexes in records of consecutive numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    count: u64,
    record: u64,
}

enum Done {
    Appended(IOFlushed<TypeConfig>),
    Voted(oneshot::Sender<io::Result<()>>),
    Purged(u64),
}

struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    next_record: u64,
    /// Where the entries are, ascending, without gaps between them.
    runs: Vec<Run>,
    /// The newest entries.
    tail: VecDeque<Entry>,
    tail_bytes: usize,
    /// Entries up to here are durable: only they may leave the tail.
    durable: Option<u64>,
    /// Who is to be told when the log is durable so far, and up to which index it is then.
    waiting: VecDeque<(Position, Option<u64>, Done)>,
    closed: bool,
}

struct Shared {
    log: Log,
    group: u32,
    setup: LogSetup,
    state: Mutex<State>,
    bell: Condvar,
    cursors: Mutex<Vec<(u64, Cursor)>>,
}

/// The log. Clones are the same log.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

/// What is built while the records are read.
#[derive(Default)]
struct Replay {
    vote: Option<Vote>,
    committed: u64,
    purged: Option<LogId>,
    last: Option<LogId>,
    runs: Vec<Run>,
    tail: VecDeque<Entry>,
    tail_bytes: usize,
}

impl Replay {
    fn record(
        &mut self,
        number: u64,
        group: u32,
        payload: &[u8],
        tail_max: usize,
    ) -> std::result::Result<(), String> {
        let mut decoder = Decoder::new(payload);
        let mut head = || Some((decoder.u8()?, decoder.u32()?));
        let (kind, of) = head().ok_or("a record without a head")?;
        if of != group {
            return Err(format!("a record of group {of}"));
        }
        match kind {
            ENTRY => {
                let committed = decoder.u64().ok_or("an entry without a head")?;
                let entry = codec::read_entry(&Bytes::copy_from_slice(&payload[decoder.position()..]))
                    .ok_or("a malformed entry")?;
                let index = entry.log_id.index;
                if self.last.is_some_and(|last| index != last.index + 1) {
                    return Err(format!(
                        "entry {index} follows entry {}",
                        self.last.map_or(0, |last| last.index)
                    ));
                }
                self.committed = self.committed.max(committed);
                push_run(&mut self.runs, index, number);
                self.last = Some(entry.log_id);
                self.tail_bytes += codec::entry_len(&entry);
                self.tail.push_back(entry);
                while self.tail_bytes > tail_max && self.tail.len() > 1 {
                    let Some(oldest) = self.tail.pop_front() else { break };
                    self.tail_bytes -= codec::entry_len(&oldest);
                }
                return Ok(());
            }
            VOTE => self.vote = Some(codec::read_vote(&mut decoder).ok_or("a malformed vote")?),
            TRUNCATE => {
                let last = codec::read_maybe(&mut decoder).ok_or("a malformed truncation")?;
                truncate_runs(&mut self.runs, last.map_or(0, |last| last.index + 1));
                truncate_tail(&mut self.tail, &mut self.tail_bytes, last.map_or(0, |last| last.index + 1));
                self.last = last;
            }
            PURGE => {
                let upto = codec::read_log_id(&mut decoder).ok_or("a malformed purge")?;
                self.purged = self.purged.max(Some(upto));
                purge_runs(&mut self.runs, upto.index);
                purge_tail(&mut self.tail, &mut self.tail_bytes, upto.index);
                self.last = self.last.filter(|last| last.index > upto.index).or(Some(upto));
            }
            other => return Err(format!("a record of unknown kind {other}")),
        }
        decoder.is_empty().then_some(()).ok_or_else(|| "bytes after the end of a record".into())
    }
}

fn push_run(runs: &mut Vec<Run>, index: u64, record: u64) {
    match runs.last_mut() {
        Some(run) if run.first + run.count == index && run.record + run.count == record => run.count += 1,
        _ => runs.push(Run { first: index, count: 1, record }),
    }
}

/// Leaves the entries before `end`.
fn truncate_runs(runs: &mut Vec<Run>, end: u64) {
    runs.retain(|run| run.first < end);
    if let Some(run) = runs.last_mut() {
        run.count = run.count.min(end - run.first);
    }
}

/// Leaves the entries after `upto`.
fn purge_runs(runs: &mut Vec<Run>, upto: u64) {
    runs.retain(|run| run.first + run.count > upto + 1);
    if let Some(run) = runs.first_mut() {
        let gone = (upto + 1).saturating_sub(run.first);
        *run = Run { first: run.first + gone, count: run.count - gone, record: run.record + gone };
    }
}

fn truncate_tail(tail: &mut VecDeque<Entry>, bytes: &mut usize, end: u64) {
    while tail.back().is_some_and(|entry| entry.log_id.index >= end) {
        *bytes -= tail.pop_back().map_or(0, |entry| codec::entry_len(&entry));
    }
}

fn purge_tail(tail: &mut VecDeque<Entry>, bytes: &mut usize, upto: u64) {
    while tail.front().is_some_and(|entry| entry.log_id.index <= upto) {
        *bytes -= tail.pop_front().map_or(0, |entry| codec::entry_len(&entry));
    }
}

fn io_error(error: EngineError) -> io::Error {
    io::Error::other(error)
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
            uuid: Some(setup.uuid),
            random: setup.random,
        };
        let group = 0;
        let mut replay = Replay::default();
        let mut last_record = 0;
        let (log, _) = Log::open(setup.vfs.clone(), options, None, 1, &mut |number, _, payload| {
            let bad = |reason: String| EngineError::corrupt("the replicated log", number, reason);
            last_record = number;
            replay.record(number, group, payload, setup.tail_bytes).map_err(bad)
        })?;
        let Replay { vote, committed, purged, last, runs, tail, tail_bytes } = replay;
        let first = runs.first().map(|run| run.first);
        if first.is_some_and(|first| first != purged.map_or(0, |purged| purged.index + 1)) {
            let reason = format!("it begins at entry {}", first.unwrap_or(0));
            return Err(Error::Corrupt { file: "the replicated log".into(), offset: 0, reason });
        }
        let mut state = State {
            vote,
            committed: None,
            purged,
            last,
            next_record: last_record + 1,
            runs,
            tail,
            tail_bytes,
            durable: last.map(|last| last.index),
            waiting: VecDeque::new(),
            closed: false,
        };
        let threaded = setup.threaded;
        let shared = Shared {
            log,
            group,
            setup,
            state: Mutex::new(State { closed: true, ..empty_state() }),
            bell: Condvar::new(),
            cursors: Mutex::new(Vec::new()),
        };
        // The hint is an index; its log id is that of the entry.
        if committed > 0 {
            let index = (committed - 1).min(state.last.map_or(0, |last| last.index));
            state.committed = match state.purged {
                Some(purged) if purged.index >= index => Some(purged),
                _ => shared.read(&state, index, index + 1, 0)?.first().map(|entry| entry.log_id),
            };
        }
        *shared.state.lock() = state;
        let store = LogStore { shared: Arc::new(shared) };
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
        let first = state.purged.map_or(0, |purged| purged.index + 1);
        (first, state.last.map_or(0, |last| last.index + 1))
    }

    /// The vote that was saved last.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.shared.state.lock().vote
    }

    /// The last entry known to be committed.
    pub(crate) fn committed(&self) -> Option<LogId> {
        self.shared.state.lock().committed
    }

    /// Entries from `start` to before `end`, as many as fit into `bytes_max`, at least one if there is one.
    pub(crate) fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let state = self.shared.state.lock();
        self.shared.read(&state, start, end, bytes_max).map_err(io_error)
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

fn empty_state() -> State {
    State {
        vote: None,
        committed: None,
        purged: None,
        last: None,
        next_record: 1,
        runs: Vec::new(),
        tail: VecDeque::new(),
        tail_bytes: 0,
        durable: None,
        waiting: VecDeque::new(),
        closed: false,
    }
}

impl Shared {
    /// Appends a record; the lock that is held makes the order of records that of the calls.
    fn append(&self, state: &mut State, parts: &[&[u8]]) -> io::Result<(u64, Position)> {
        if state.closed {
            return Err(io_error(EngineError::Closed));
        }
        let number = state.next_record;
        let position = self.log.append(number, Kind::Raft, parts).map_err(io_error)?;
        state.next_record += 1;
        Ok((number, position))
    }

    fn head(&self, kind: u8) -> [u8; 5] {
        let mut head = [kind, 0, 0, 0, 0];
        head[1..].copy_from_slice(&self.group.to_le_bytes());
        head
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
        let Some(upto) = self.state.lock().waiting.back().map(|(position, ..)| *position) else {
            return false;
        };
        let synced = self.log.sync(upto);
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
            state.trim(self.setup.tail_bytes);
        }
        for one in done {
            let result = || synced.clone().map_err(io_error);
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

    /// Entries from `start` to before `end`: from the tail, or from the files.
    fn read(
        &self,
        state: &State,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> lumen_engine::error::Result<Vec<Entry>> {
        let first = state.runs.first().map_or(u64::MAX, |run| run.first);
        let (start, end) = (start.max(first), end.min(state.last.map_or(0, |last| last.index + 1)));
        let mut entries = Vec::new();
        let mut bytes = 0;
        let tail_first = state.tail.front().map_or(u64::MAX, |entry| entry.log_id.index);
        let mut index = start;
        while index < end && index < tail_first && (bytes < bytes_max || entries.is_empty()) {
            let Some(run) = state.runs.iter().find(|run| (run.first..run.first + run.count).contains(&index))
            else {
                let reason = format!("entry {index} is in no record");
                return Err(EngineError::corrupt("the replicated log", 0, reason));
            };
            let stop = end.min(tail_first).min(run.first + run.count);
            self.read_run(run, index..stop, bytes_max, &mut bytes, &mut entries)?;
            index = entries.last().map_or(index, |entry| entry.log_id.index + 1);
        }
        if index >= tail_first {
            for entry in state.tail.range((index - tail_first) as usize..) {
                if entry.log_id.index >= end || (bytes >= bytes_max && !entries.is_empty()) {
                    break;
                }
                bytes += codec::entry_len(entry);
                entries.push(entry.clone());
            }
        }
        Ok(entries)
    }

    fn read_run(
        &self,
        run: &Run,
        indexes: std::ops::Range<u64>,
        bytes_max: usize,
        bytes: &mut usize,
        entries: &mut Vec<Entry>,
    ) -> lumen_engine::error::Result<()> {
        let record = run.record + (indexes.start - run.first);
        let gone = || EngineError::corrupt("the replicated log", 0, format!("record {record} is missing"));
        let mut cursors = self.cursors.lock();
        let known = cursors.iter().position(|(next, _)| *next == record);
        let mut cursor = match known {
            Some(at) => cursors.remove(at).1,
            None => self.log.cursor(record)?.ok_or_else(gone)?,
        };
        let mut next = record;
        for index in indexes {
            if *bytes >= bytes_max && !entries.is_empty() {
                break;
            }
            let found = loop {
                let found = cursor.next(&self.log)?.ok_or_else(gone)?;
                if found.kind == Kind::Raft {
                    break found;
                }
            };
            let head = 5 + 8;
            let payload = Bytes::from(found.payload);
            let entry = (payload.len() > head && payload[0] == ENTRY && found.seq == next)
                .then(|| codec::read_entry(&payload.slice(head..)))
                .flatten()
                .filter(|entry| entry.log_id.index == index);
            let entry = entry.ok_or_else(|| {
                EngineError::corrupt("the replicated log", 0, format!("record {next} is not entry {index}"))
            })?;
            next += 1;
            *bytes += codec::entry_len(&entry);
            entries.push(entry);
        }
        cursors.insert(0, (next, cursor));
        cursors.truncate(CURSORS_MAX);
        Ok(())
    }
}

impl State {
    /// Lets the oldest entries of the tail go that are durable, if it is too large.
    fn trim(&mut self, bytes_max: usize) {
        while self.tail_bytes > bytes_max {
            let is_durable = |entry: &Entry| Some(entry.log_id.index) <= self.durable;
            if !self.tail.front().is_some_and(is_durable) {
                return;
            }
            self.tail_bytes -= self.tail.pop_front().map_or(0, |entry| codec::entry_len(&entry));
        }
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> std::result::Result<Vec<Entry>, io::Error> {
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

    async fn read_vote(&mut self) -> std::result::Result<Option<Vote>, io::Error> {
        Ok(self.vote())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> std::result::Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> std::result::Result<LogState<TypeConfig>, io::Error> {
        let state = self.shared.state.lock();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> std::result::Result<(), io::Error> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.shared.state.lock();
            let mut record = self.shared.head(VOTE).to_vec();
            codec::put_vote(&mut record, vote);
            let (_, position) = self.shared.append(&mut state, &[&record])?;
            state.vote = Some(*vote);
            self.shared.when_durable(&mut state, position, Done::Voted(sender));
        }
        self.shared.work_inline();
        receiver.await.map_err(|_| io_error(EngineError::Closed))?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> std::result::Result<(), io::Error> {
        self.shared.state.lock().committed = committed; // written with the next entry
        Ok(())
    }

    async fn read_committed(&mut self) -> std::result::Result<Option<LogId>, io::Error> {
        Ok(self.committed())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> std::result::Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        {
            let mut state = self.shared.state.lock();
            let head = self.shared.head(ENTRY);
            let mut end = Position::default();
            for entry in entries {
                let index = entry.log_id.index;
                let before = state.last.map_or(0, |last| last.index + 1);
                assert!(
                    state.last.is_none() || index == before,
                    "entry {index} is appended where entry {before} is next"
                );
                let committed = state.committed.map_or(0, |committed| committed.index + 1).to_le_bytes();
                let parts = [&head[..], &committed, &codec::entry_head(&entry), codec::entry_body(&entry)];
                let (record, position) = self.shared.append(&mut state, &parts)?;
                push_run(&mut state.runs, index, record);
                state.last = Some(entry.log_id);
                state.tail_bytes += codec::entry_len(&entry);
                state.tail.push_back(entry);
                end = position;
            }
            self.shared.when_durable(&mut state, end, Done::Appended(callback));
        }
        self.shared.work_inline();
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> std::result::Result<(), io::Error> {
        let mut state = self.shared.state.lock();
        if state.last.map(|now| now.index) <= last.map(|last| last.index) {
            return Ok(()); // there is nothing after it
        }
        let mut record = self.shared.head(TRUNCATE).to_vec();
        codec::put_maybe(&mut record, last.as_ref());
        self.shared.append(&mut state, &[&record])?;
        let end = last.map_or(0, |last| last.index + 1);
        let State { runs, tail, tail_bytes, .. } = &mut *state;
        truncate_runs(runs, end);
        truncate_tail(tail, tail_bytes, end);
        state.last = last;
        state.durable = state.durable.min(last.map(|last| last.index));
        // Who reads on from a record that is void now would read what replaces it as something else.
        self.shared.cursors.lock().clear();
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> std::result::Result<(), io::Error> {
        {
            let mut state = self.shared.state.lock();
            // The vote once more, since the segment that holds it may go.
            let mut kept = state.next_record;
            if let Some(vote) = state.vote {
                let mut record = self.shared.head(VOTE).to_vec();
                codec::put_vote(&mut record, &vote);
                self.shared.append(&mut state, &[&record])?;
            }
            let mut record = self.shared.head(PURGE).to_vec();
            codec::put_log_id(&mut record, &upto);
            let (_, position) = self.shared.append(&mut state, &[&record])?;
            let State { runs, tail, tail_bytes, .. } = &mut *state;
            purge_runs(runs, upto.index);
            purge_tail(tail, tail_bytes, upto.index);
            state.purged = state.purged.max(Some(upto));
            if state.last.is_none_or(|last| last.index <= upto.index) {
                (state.last, state.durable) = (Some(upto), Some(upto.index));
            }
            kept = kept.min(state.runs.first().map_or(kept, |run| run.record));
            self.shared.when_durable(&mut state, position, Done::Purged(kept - 1));
        }
        self.shared.work_inline();
        Ok(())
    }
}
