//! Appending: writers copy their record into the group and go on; one sync releases everybody it covers.
//!
//! There is no delay, and no thread that commits wait for (one may sync ahead of writes that wait for nothing). Whoever
//! waits first while no sync is under way becomes the leader: it takes all that was appended, writes it with one call,
//! syncs, and wakes the others; meanwhile the next group gathers, and may be written, but not synced. After a failed write
//! or sync the log is poisoned: nobody is acknowledged any more (design D10).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::log::reader::{self, Recovery, Visit, segment_name};
use crate::log::segment::{self, HEADER_BYTES, Header, Kind, MAX_RECORD_BYTES};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::vfs::{File, Mode, Vfs};

/// A place in the log: everything before it was appended earlier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Segment number.
    pub segment: u64,
    /// Bytes from the start of the segment.
    pub offset: u64,
}

/// How a log is laid out.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The folder.
    pub dir: PathBuf,
    /// What segment files end in, without the dot.
    pub extension: &'static str,
    /// Size of a segment in bytes, once there were smaller ones; a longer record gets a segment of its own.
    pub segment_bytes: u64,
    /// Size of the first segment after opening: filled with zeros on the spot, so small enough not to delay the start. Each
    /// further one is four times as large as the one before it, so that a small store has a small log.
    pub first_segment_bytes: u64,
    /// The kinds of records that it holds beside seals and vouching ones; any other is damage.
    pub kinds: &'static [Kind],
    /// Records before this seq are not asked for: segments of nothing else are not read at the opening.
    pub from_seq: u64,
    /// Whose log this is: a segment of another store is damage. `None` reads any (and writes zeros).
    pub uuid: Option<[u8; 16]>,
    /// Where the randomness of segment tags comes from.
    pub random: fn() -> u64,
}

/// Counters since the log was opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogStats {
    /// Syncs done.
    pub syncs: u64,
    /// Records appended.
    pub records: u64,
    /// Bytes written, records with their headers.
    pub bytes: u64,
    /// Segments begun, appenders waiting meanwhile.
    pub rotations: u64,
    /// For how long they did, all in all.
    pub rotating: Duration,
}

/// The buffered bytes at which an appender writes them out itself, sync or no sync.
const WRITE_OUT_BYTES: usize = 4 << 20;
/// Written bytes that are not synced from which on somebody should see to it.
const SYNC_AHEAD_BYTES: u64 = 8 << 20;
/// The same where a segment is nearly full: its last bytes are synced while writers wait for the next one.
const SYNC_AHEAD_OF_END_BYTES: u64 = 1 << 20;
/// A log that is waited for so often in a segment gets its next one filled with zeros, or one that was written before: its
/// syncs have no new blocks to note. For others that would only take room and double what is written.
const SYNCED_OFTEN: u64 = 32;

pub(super) struct State {
    pub(super) file: Arc<dyn File>,
    pub(super) number: u64,
    pub(super) tag: u32,
    pub(super) capacity: u64,
    /// Appended and not yet written; starts at `written` in the file.
    pub(super) buffer: Vec<u8>,
    /// A second buffer, so that a group can gather while the other is written.
    pub(super) empty: Vec<u8>,
    pub(super) written: u64,
    pub(super) end: u64,
    pub(super) durable: Position,
    pub(super) last_crc: u32,
    pub(super) last_seq: u64,
    /// Whether nothing was appended since the last vouching record.
    pub(super) vouched: bool,
    /// Whether somebody writes to the file.
    pub(super) writing: bool,
    /// Whether somebody syncs it.
    pub(super) syncing: bool,
    /// How often somebody has waited for a sync of the segment, and of the one before it.
    pub(super) waits: u64,
    pub(super) waits_before: u64,
    pub(super) poison: Option<Error>,
    /// Number and first seq of every segment, ascending; the last is being written.
    pub(super) segments: Vec<(u64, u64)>,
    /// Files ready to become segments: name and length.
    pub(super) spares: Vec<(String, u64)>,
    pub(super) next_spare: u64,
    /// Whether it takes no more, being sealed or about to be.
    pub(super) sealed: bool,
    /// Whether the next segment is to be a small one.
    pub(super) rests: bool,
}

/// A log open for appending. All methods may be called from any thread.
pub struct Log {
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) options: LogOptions,
    pub(super) state: Mutex<State>,
    /// Held by who lets go of segments, or two would let go of the same.
    pub(super) purging: Mutex<()>,
    /// Rung when a write has ended.
    pub(super) written: Condvar,
    /// Rung when a sync has ended.
    pub(super) synced: Condvar,
    /// Whether so much is unsynced that somebody should sync ahead.
    sync_due: AtomicBool,
    syncs: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    rotations: AtomicU64,
    rotating_micros: AtomicU64,
}

impl Log {
    /// Reads what is there through `visit` (in order, with seq, kind and payload), then makes it ready for appending: the
    /// part of the last segment that nothing proves durable is written again into a new segment and synced, because the
    /// page cache may show bytes that the disk does not have (design, reliability.md B4).
    ///
    /// `floor` is a position known to be durable from elsewhere; `next_seq` is the first seq of a log without records.
    pub fn open(
        vfs: Arc<dyn Vfs>,
        options: LogOptions,
        floor: Option<Position>,
        next_seq: u64,
        visit: &mut Visit<'_>,
    ) -> Result<(Log, Recovery)> {
        let scan = reader::scan(&*vfs, &options, floor, visit)?;
        for name in &scan.leftovers {
            let path = options.dir.join(name);
            vfs.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        let number = scan.segments.last().map_or(1, |&(last, _)| last + 1);
        let after_last = scan.recovery.last_seq.map_or(next_seq, |seq| (seq + 1).max(next_seq));
        let first_seq = scan.unproven.first().map_or(after_last, |(seq, _, _)| *seq);
        let tag = (options.random)() as u32;
        let header = Header {
            tag,
            number,
            first_seq,
            uuid: options.uuid.unwrap_or_default(),
            previous_len: scan.proven,
            previous_crc: scan.proven_crc,
        };
        let mut bytes = header.encode().to_vec();
        let mut last_crc = 0;
        let is_proven = scan.unproven.is_empty();
        for (seq, kind, payload) in &scan.unproven {
            last_crc = segment::encode_record(&mut bytes, tag, 0, *seq, *kind, &[payload]);
        }
        let end = bytes.len() as u64;
        let capacity = options.first_segment_bytes.max(end + HEADER_BYTES as u64);
        let (temporary, path) = (
            options.dir.join(format!("{number:010}.{}-new", options.extension)),
            options.dir.join(segment_name(number, options.extension)),
        );
        let file = vfs.open(&temporary, Mode::Create).map_err(|e| Error::io("create", &temporary, e))?;
        file.write_at(&bytes, 0).map_err(|e| Error::io("write", &temporary, e))?;
        file.fill(end, capacity).map_err(|e| Error::io("fill", &temporary, e))?;
        file.sync().map_err(|e| sync_failed(&temporary, &e.0))?;
        vfs.rename(&temporary, &path).map_err(|e| Error::io("rename", &temporary, e))?;
        vfs.sync_dir(&options.dir).map_err(|e| sync_failed(&options.dir, &e.0))?;
        let mut segments = scan.segments;
        segments.push((number, first_seq));
        let state = State {
            file,
            number,
            tag,
            capacity,
            buffer: Vec::new(),
            empty: Vec::new(),
            written: end,
            end,
            durable: Position { segment: number, offset: end },
            last_crc,
            last_seq: scan.recovery.last_seq.unwrap_or(0),
            // Of what was written anew nothing says yet that it was durable.
            vouched: is_proven,
            writing: false,
            syncing: false,
            waits: 0,
            waits_before: 0,
            poison: None,
            segments,
            spares: Vec::new(),
            next_spare: 0,
            sealed: false,
            rests: false,
        };
        let log = Log {
            vfs,
            options,
            state: Mutex::new(state),
            purging: Mutex::new(()),
            written: Condvar::new(),
            synced: Condvar::new(),
            sync_due: AtomicBool::new(false),
            syncs: AtomicU64::new(0),
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            rotations: AtomicU64::new(0),
            rotating_micros: AtomicU64::new(0),
        };
        Ok((log, scan.recovery))
    }

    /// Copies a record into the group and answers where it ends; durable once [`Log::sync`] up to there has returned.
    /// `seq` must not run backwards; vouching and sealing records get that of the record before them. Errors when the log is
    /// poisoned or closed, or the record is over 256 MiB.
    pub fn append(&self, seq: u64, kind: Kind, payload: &[&[u8]]) -> Result<Position> {
        let size: usize = payload.iter().map(|part| part.len()).sum();
        if size + 1 > MAX_RECORD_BYTES {
            return Err(Error::TooLarge {
                what: "a log record",
                size: size as u64,
                limit: MAX_RECORD_BYTES as u64 - 1,
            });
        }
        let need = segment::record_len(size) as u64;
        let mut state = self.state.lock();
        state.takes(kind)?;
        let repeats = matches!(kind, Kind::Vouch | Kind::Seal);
        // A segment that holds no record yet takes any record, growing if it must. Another writer may have begun the next one
        // meanwhile, and filled it.
        while state.end + need > state.capacity && state.end > HEADER_BYTES as u64 {
            // A vouching record repeats the seq of the record before it, which stays behind in the full segment.
            let first_seq = if repeats { state.last_seq + 1 } else { seq };
            let begun = Instant::now();
            state = self.rotate(state, first_seq, need)?;
            self.rotations.fetch_add(1, Ordering::Relaxed);
            self.rotating_micros.fetch_add(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
        if state.end + need > state.capacity {
            // Here a full disk can still be told from a failed write, after which nothing is known.
            let (path, capacity) = (self.path(state.number), state.end + need);
            state.file.allocate(capacity).map_err(|e| Error::io("allocate", &path, e))?;
            state.capacity = capacity;
        } else if state.buffer.len() >= WRITE_OUT_BYTES && !state.writing {
            state = self.write_buffer(state, false);
        }
        state.takes(kind)?; // it may have been sealed meanwhile
        // What that seq is, is known only now: others may have appended since the caller looked.
        let seq = if repeats { state.last_seq } else { seq };
        assert!(seq >= state.last_seq, "seq {seq} is appended after {}", state.last_seq);
        let synced = if state.durable.segment == state.number { state.durable.offset } else { 0 };
        let tag = state.tag;
        state.last_crc = segment::encode_record(&mut state.buffer, tag, synced, seq, kind, payload);
        state.last_seq = seq;
        // Not if somebody has appended since the sync that it tells of.
        state.vouched = kind == Kind::Vouch && synced == state.end;
        state.end += need;
        self.records.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(need, Ordering::Relaxed);
        Ok(Position { segment: state.number, offset: state.end })
    }

    /// Returns once everything before `upto` is durable. One sync serves all who wait for it.
    pub fn sync(&self, upto: Position) -> Result<()> {
        let mut state = self.state.lock();
        if state.durable < upto {
            state.waits += 1;
        }
        loop {
            if state.durable >= upto {
                return Ok(());
            }
            state.check()?;
            if state.syncing {
                self.synced.wait(&mut state);
            } else {
                state = self.sync_all(state);
            }
        }
    }

    /// Makes durable what is unsynced, if that is much. For a background thread: nobody then waits long for a sync that
    /// has to be.
    pub fn sync_ahead(&self) -> Result<()> {
        let end = self.end();
        self.sync_due.store(false, Ordering::Relaxed);
        self.sync(end)
    }

    /// Whether [`Log::sync_ahead`] has something to do.
    pub fn wants_sync(&self) -> bool {
        self.sync_due.load(Ordering::Relaxed)
    }

    /// Returns once the operating system has everything before `upto`; the disk need not have it. True for one caller when
    /// so much is unsynced that [`Log::sync_ahead`] should be called.
    pub fn write_out(&self, upto: Position) -> Result<bool> {
        let mut state = self.state.lock();
        loop {
            // First: nobody is acknowledged after a failure, whoever's it was.
            state.check()?;
            if (Position { segment: state.number, offset: state.written }) >= upto {
                let unsynced = state.written - state.durable.offset;
                let left = state.capacity.saturating_sub(state.written);
                let much = if left > SYNC_AHEAD_BYTES { SYNC_AHEAD_BYTES } else { SYNC_AHEAD_OF_END_BYTES };
                return Ok(unsynced >= much && !self.sync_due.swap(true, Ordering::Relaxed));
            }
            if state.writing {
                // Who writes took what there was when he began, and no more.
                self.written.wait(&mut state);
            } else {
                state = self.write_buffer(state, false);
            }
        }
    }

    /// Where the durable part ends.
    pub fn durable(&self) -> Position {
        self.state.lock().durable
    }

    /// Where the appended part ends.
    pub fn end(&self) -> Position {
        let state = self.state.lock();
        Position { segment: state.number, offset: state.end }
    }

    /// Whether [`Log::vouch`] would write anything.
    pub fn wants_vouch(&self) -> bool {
        let state = self.state.lock();
        !(state.vouched || state.syncing || state.sealed)
    }

    /// If the last sync is not yet vouched for by a later record, appends and syncs an empty one, so that damage to the
    /// last group can be told from a torn tail. Meant for idle moments.
    pub fn vouch(&self) -> Result<()> {
        if !self.wants_vouch() {
            return Ok(());
        }
        let all = self.end();
        self.sync(all)?;
        match self.append(0, Kind::Vouch, &[]) {
            Err(Error::Closed) => Ok(()), // the seal vouches
            end => self.sync(end?),
        }
    }

    /// Says that the log ends here, in order. Later appends answer [`Error::Closed`].
    pub fn seal(&self) -> Result<()> {
        // From here on nothing else is appended; who waits for a sync still gets it.
        if std::mem::replace(&mut self.state.lock().sealed, true) {
            return Ok(());
        }
        let sealed = || {
            let all = self.end();
            self.sync(all)?; // so that the seal vouches for everything before it
            let end = self.append(0, Kind::Seal, &[])?;
            self.sync(end)
        };
        sealed().inspect_err(|_| self.state.lock().sealed = false)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.options.dir
    }

    pub(super) fn extension(&self) -> &'static str {
        self.options.extension
    }

    pub(super) fn vfs(&self) -> &dyn Vfs {
        &*self.vfs
    }

    /// Counters since the log was opened.
    pub fn stats(&self) -> LogStats {
        LogStats {
            syncs: self.syncs.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            rotations: self.rotations.load(Ordering::Relaxed),
            rotating: Duration::from_micros(self.rotating_micros.load(Ordering::Relaxed)),
        }
    }

    /// Writes all that was appended, with the lock released meanwhile. The caller has seen `writing` unset. Nothing once a
    /// write has failed: what that was to write is gone, and must not count as written. `syncs` says that a sync follows.
    fn write_buffer<'a>(&'a self, mut state: MutexGuard<'a, State>, syncs: bool) -> MutexGuard<'a, State> {
        debug_assert!(!state.writing);
        if state.poison.is_some() {
            return state;
        }
        state.writing = true;
        let calls = syncs || state.is_synced_often();
        let empty = std::mem::take(&mut state.empty);
        let mut bytes = std::mem::replace(&mut state.buffer, empty);
        let (file, number, from, end) = (state.file.clone(), state.number, state.written, state.end);
        drop(state);
        let written = match bytes.len() {
            0 => Ok(()),
            _ if calls => file.write_at(&bytes, from),
            _ => file.write_next_at(&bytes, from),
        };
        let mut state = self.state.lock();
        state.writing = false;
        bytes.clear();
        if bytes.capacity() <= WRITE_OUT_BYTES {
            state.empty = bytes;
        }
        match written {
            Ok(()) => state.written = end,
            // What a failed write left in the file is unknown: as final as a failed sync, even if the disk was full.
            Err(error) => state.poison = Some(sync_failed(&self.path(number), &error)),
        }
        self.written.notify_all();
        state
    }

    /// Writes and syncs all that was appended, with the lock released meanwhile. The caller has seen `syncing` unset.
    pub(super) fn sync_all<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        debug_assert!(!state.syncing);
        state.syncing = true;
        while state.writing {
            self.written.wait(&mut state);
        }
        state = self.write_buffer(state, true);
        if state.poison.is_none() {
            let (file, number, end) = (state.file.clone(), state.number, state.written);
            drop(state);
            self.syncs.fetch_add(1, Ordering::Relaxed);
            let synced = file.sync();
            state = self.state.lock();
            match synced {
                Ok(()) => state.durable = Position { segment: number, offset: end },
                Err(error) => state.poison = Some(sync_failed(&self.path(number), &error.0)),
            }
        }
        state.syncing = false;
        self.synced.notify_all();
        state
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.options.dir.join(segment_name(number, self.options.extension))
    }
}

impl State {
    pub(super) fn check(&self) -> Result<()> {
        match &self.poison {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Whether what is written is mostly waited for.
    pub(super) fn is_synced_often(&self) -> bool {
        self.waits.max(self.waits_before) >= SYNCED_OFTEN
    }

    fn takes(&self, kind: Kind) -> Result<()> {
        if self.sealed && kind != Kind::Seal { Err(Error::Closed) } else { self.check() }
    }
}

/// The final error of a failed sync.
pub(crate) fn sync_failed(path: &Path, error: &std::io::Error) -> Error {
    let file = path
        .file_name()
        .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    Error::SyncFailed { file, reason: error.to_string() }
}
