//! From one segment to the next: making it ready, beginning it, letting go of those that are not needed any more.

use crate::error::{Error, Result};
use crate::log::reader::segment_name;
use crate::log::segment::{HEADER_BYTES, Header};
use crate::log::writer::{Log, Position, State, sync_failed};
use crate::sync::MutexGuard;
use crate::vfs::Mode;

/// Purged files kept to become segments again.
const SPARES_MAX: usize = 1;
/// How much larger than the one before it a segment is, until they have their full size: with 2, a fill of 80 MB was 10 %
/// slower for the segments it began.
const GROWTH: u64 = 4;

impl Log {
    /// Number and first seq of every segment, ascending; the last is being written.
    pub fn segments(&self) -> Vec<(u64, u64)> {
        self.state.lock().segments.clone()
    }

    /// Bytes of a segment.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.options.segment_bytes
    }

    /// Lets go of segments whose records all have a seq of at most `seq`: recycled or removed, one by one, so that a power
    /// cut leaves no gap in the numbers.
    pub fn purge(&self, seq: u64) -> Result<()> {
        let _one_at_a_time = self.purging.lock();
        self.purge_alone(seq)
    }

    fn purge_alone(&self, seq: u64) -> Result<()> {
        loop {
            let (number, wants_spare, spare) = {
                let mut state = self.state.lock();
                if state.segments.len() < 2 || state.segments[1].1 > seq.saturating_add(1) {
                    return Ok(());
                }
                state.next_spare += 1;
                let spare = format!("{:010}.{}-spare", state.next_spare, self.options.extension);
                let wants_spare = !state.rests
                    && self.recycles()
                    && state.is_synced_often()
                    && state.spares.len() < SPARES_MAX;
                (state.segments[0].0, wants_spare, spare)
            };
            let path = self.options.dir.join(segment_name(number, self.options.extension));
            let len = if wants_spare {
                let file = self.vfs.open(&path, Mode::Read).map_err(|e| Error::io("open", &path, e))?;
                file.len().map_err(|e| Error::io("measure", &path, e))?
            } else {
                0
            };
            // The first segment after an opening is a small one.
            let spare = if len >= self.options.segment_bytes {
                let to = self.options.dir.join(&spare);
                self.vfs.rename(&path, &to).map_err(|e| Error::io("rename", &path, e))?;
                Some((spare, len))
            } else {
                self.vfs.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
                None
            };
            self.sync_dir()?;
            let mut state = self.state.lock();
            state.segments.remove(0);
            state.spares.extend(spare);
        }
    }

    /// [`Log::purge`], but of the oldest segments only as long as those behind them take at least `keep` bytes on disk.
    pub fn purge_keeping(&self, seq: u64, keep: u64) -> Result<()> {
        let _one_at_a_time = self.purging.lock();
        let (mut kept, mut oldest) = (0, u64::MAX);
        for (number, first) in self.segments().into_iter().rev() {
            if kept >= keep {
                break;
            }
            let path = self.options.dir.join(segment_name(number, self.options.extension));
            let file = self.vfs.open(&path, Mode::Read).map_err(|e| Error::io("open", &path, e))?;
            kept += file.len().map_err(|e| Error::io("measure", &path, e))?;
            oldest = first;
        }
        self.purge_alone(seq.min(oldest.saturating_sub(1)))
    }

    /// Whether [`Log::prepare_spare`] has something to do.
    pub fn wants_spare(&self) -> bool {
        let state = self.state.lock();
        state.poison.is_none() && !state.sealed && self.lacks_spare(&state)
    }

    /// Makes a file that can become the next segment, if [`Log::wants_spare`]. For a background thread: the write path then
    /// does not wait for it. It is filled with zeros if the log is synced often.
    pub fn prepare_spare(&self) -> Result<()> {
        let (name, len, fills) = {
            let mut state = self.state.lock();
            state.check()?;
            if !self.lacks_spare(&state) {
                return Ok(());
            }
            state.next_spare += 1;
            let name = format!("{:010}.{}-spare", state.next_spare, self.options.extension);
            (name, self.next_bytes(&state), state.is_synced_often())
        };
        let path = self.options.dir.join(&name);
        let file = self.vfs.open(&path, Mode::Create).map_err(|e| Error::io("create", &path, e))?;
        let made = if fills { file.fill(0, len) } else { file.allocate(len) };
        if let Err(error) = made {
            let _ = self.vfs.remove(&path); // or the next opening does
            return Err(Error::io("fill", &path, error));
        }
        file.sync().map_err(|e| sync_failed(&path, &e.0))?;
        {
            let mut state = self.state.lock();
            // Another segment may have begun meanwhile, after which the next is to be larger.
            if len >= self.next_bytes(&state) {
                state.spares.push((name, len));
                return Ok(());
            }
        }
        self.vfs.remove(&path).map_err(|e| Error::io("remove", &path, e))
    }

    /// Whether the present segment is so full that the next should be there, and it is not. Until then one that is purged may
    /// be had for nothing; and filling one takes longer than taking its room.
    fn lacks_spare(&self, state: &State) -> bool {
        let next = self.next_bytes(state);
        let enough = if state.is_synced_often() { state.capacity / 2 } else { state.capacity / 4 * 3 };
        state.end > enough && !state.spares.iter().any(|(_, len)| *len >= next)
    }

    /// Bytes of the segment after the present one.
    fn next_bytes(&self, state: &State) -> u64 {
        if state.rests {
            // One more than after an opening until segments have their size; who rests may not come back.
            return self.options.first_segment_bytes / GROWTH;
        }
        state.capacity.saturating_mul(GROWTH).min(self.options.segment_bytes)
    }

    fn recycles(&self) -> bool {
        self.options.segment_bytes > self.options.first_segment_bytes
    }

    /// Whether [`Log::rest`] has something to do.
    pub fn may_rest(&self, seq: u64) -> bool {
        self.may_rest_now(&self.state.lock(), seq)
    }

    /// Nobody writes, all is durable, and there is room to give back.
    fn may_rest_now(&self, state: &State, seq: u64) -> bool {
        let small = self.options.first_segment_bytes.max(HEADER_BYTES as u64);
        let is_quiet = !(state.writing || state.syncing || state.sealed) && state.poison.is_none();
        let is_durable = state.durable == (Position { segment: state.number, offset: state.end });
        let takes_room = state.capacity > small || !state.spares.is_empty();
        takes_room && is_quiet && is_durable && state.last_seq <= seq
    }

    /// When nobody writes: if all records have a seq of at most `seq`, and may go, the log becomes as small as after an opening.
    /// For a background thread.
    pub fn rest(&self, seq: u64) -> Result<()> {
        {
            // Under one lock: what is appended from here on belongs into the next segment, whose header says so.
            let mut state = self.state.lock();
            if !self.may_rest_now(&state, seq) {
                return Ok(());
            }
            while let Some((name, _)) = state.spares.pop() {
                let path = self.options.dir.join(name);
                self.vfs.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
            }
            let first_seq = state.last_seq + 1;
            state.rests = true;
            let begun = self.next_segment(&mut state, first_seq, 0);
            if let Err(error) = begun {
                state.rests = false;
                return Err(self.after_no_segment(&mut state, error));
            }
        }
        let purged = self.purge(seq);
        self.state.lock().rests = false;
        purged
    }

    /// After a next segment could not be begun: the present one is whole and durable, so a full disk has changed nothing.
    fn after_no_segment(&self, state: &mut State, error: Error) -> Error {
        if !error.is_disk_full() {
            state.poison = Some(error.clone());
            self.written.notify_all();
            self.synced.notify_all();
        }
        error
    }

    /// Starts the next segment: all of the present one is made durable first, then the new header, then the name.
    pub(super) fn rotate<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        seq: u64,
        need: u64,
    ) -> Result<MutexGuard<'a, State>> {
        let full = state.number;
        loop {
            state.check()?;
            if state.number != full {
                return Ok(state); // somebody else did it
            }
            if state.syncing {
                self.synced.wait(&mut state);
            } else if state.writing {
                self.written.wait(&mut state);
            } else if state.durable != (Position { segment: full, offset: state.end }) {
                state = self.sync_all(state);
            } else {
                break;
            }
        }
        match self.next_segment(&mut state, seq, need) {
            Ok(()) => Ok(state),
            Err(error) => Err(self.after_no_segment(&mut state, error)),
        }
    }

    fn next_segment(&self, state: &mut State, seq: u64, need: u64) -> Result<()> {
        let number = state.number + 1;
        let tag = (self.options.random)() as u32;
        let header = Header {
            tag,
            number,
            first_seq: seq,
            uuid: self.options.uuid.unwrap_or_default(),
            previous_len: state.end,
            previous_crc: state.last_crc,
        };
        let (temporary, file, len) = match state.spares.pop() {
            Some((name, len)) => {
                let path = self.options.dir.join(name);
                let file = self.vfs.open(&path, Mode::Write).map_err(|e| Error::io("open", &path, e))?;
                (path, file, len)
            }
            None => {
                let path = self.options.dir.join(format!("{number:010}.{}-new", self.options.extension));
                let file = self.vfs.open(&path, Mode::Create).map_err(|e| Error::io("create", &path, e))?;
                (path, file, 0)
            }
        };
        let capacity = if len > 0 { len } else { self.next_bytes(state) }.max(HEADER_BYTES as u64 + need);
        if capacity > len {
            if let Err(error) = file.allocate(capacity) {
                let _ = self.vfs.remove(&temporary); // or the next opening does
                return Err(Error::io("allocate", &temporary, error));
            }
        }
        let path = self.options.dir.join(segment_name(number, self.options.extension));
        let named = || {
            file.write_at(&header.encode(), 0).map_err(|e| Error::io("write", &temporary, e))?;
            file.sync().map_err(|e| sync_failed(&temporary, &e.0))?;
            self.vfs.rename(&temporary, &path).map_err(|e| Error::io("rename", &temporary, e))
        };
        if let Err(error) = named() {
            let _ = self.vfs.remove(&temporary); // or the next opening does
            return Err(error);
        }
        self.sync_dir()?;
        state.file = file;
        state.number = number;
        state.tag = tag;
        state.capacity = capacity;
        state.written = HEADER_BYTES as u64;
        state.end = HEADER_BYTES as u64;
        state.durable = Position { segment: number, offset: HEADER_BYTES as u64 };
        state.last_crc = 0;
        state.waits_before = std::mem::take(&mut state.waits);
        state.segments.push((number, seq));
        Ok(())
    }

    fn sync_dir(&self) -> Result<()> {
        self.vfs.sync_dir(&self.options.dir).map_err(|e| sync_failed(&self.options.dir, &e.0))
    }
}
