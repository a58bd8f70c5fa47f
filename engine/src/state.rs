//! Memtables and version as one value, swapped whole; the files, the manifest and the bell that wakes workers.
//!
//! The write path, reads, flushes, compactions and recovery stand on this side by side and never call one another.
//! Locks, in the order they may be taken: `manifest`, then `work`. The view is only swapped under `work`.

use std::collections::VecDeque;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::attachment::Frozen;
use crate::batch::Operation;
use crate::blob::BlobHandle;
use crate::compaction::picker::{Claim, Picker};
use crate::compaction::progress::Progress;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::gaps::Gaps;
use crate::ingest;
use crate::key::Seq;
use crate::memtable::Memtable;
use crate::options::Options;
use crate::output;
use crate::quarantine::Quarantine;
use crate::range_delete::{RangeDelete, RangeDeletes, WAITING};
use crate::slice::Slice;
use crate::stats::{Counters, Stall};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{ArcSwap, Condvar, Mutex};
use crate::table::builder::TableMeta;
use crate::table::cache::BlockCache;
use crate::table::filter;
use crate::table::reader::{Reach, Table};
use crate::version::Version;
use crate::version::edit::Edit;
use crate::version::manifest::{self, Files, Manifest};

/// Everything a reader needs, immutable but for the active memtable, which only grows.
#[derive(Clone)]
pub(crate) struct View {
    pub active: Arc<Memtable>,
    /// Newest first.
    pub frozen: Vec<Arc<Memtable>>,
    pub version: Arc<Version>,
    /// Where there are no rows.
    pub gaps: Arc<Gaps>,
    /// Whether any entry outside the active memtable expires.
    expires: bool,
    /// How far the store is from the point where writers wait (1.0 is there), and what is nearest to it.
    pressure: (f64, Stall),
}

/// Views that were replaced while somebody still held them, and when.
type Replaced = VecDeque<(Instant, Weak<View>)>;

impl View {
    pub(crate) fn new(
        active: Arc<Memtable>,
        frozen: Vec<Arc<Memtable>>,
        version: Arc<Version>,
        gaps: Arc<Gaps>,
    ) -> View {
        let expires = version.expires() || frozen.iter().any(|memtable| memtable.expires());
        View { active, frozen, version, gaps, expires, pressure: (0.0, Stall::Memory) }
    }

    /// With its pressure, which every write asks for.
    pub(crate) fn measured(mut self, options: &Options, picker: &dyn Picker) -> View {
        let part = |is: usize, stop: usize| is as f64 / stop.max(1) as f64;
        let depth = self.version.depth;
        let debt = picker.debt(&self.version) as f64 / options.debt_stop_bytes.max(1) as f64;
        let all = [
            (part(self.frozen.len(), options.memtables_max), Stall::Memory),
            (picker.stop_at().map_or(0.0, |stop| part(depth, stop)), Stall::Level0),
            (debt, Stall::Debt),
        ];
        self.pressure = all.into_iter().max_by(|(a, _), (b, _)| a.total_cmp(b)).expect("three of them");
        self
    }

    /// Into the active memtable, by one writer at a time; keys are unique.
    pub(crate) fn insert(&self, seq: Seq, operations: &[Operation<'_>]) {
        self.gaps.put(seq, operations);
        self.active.insert(seq, operations);
    }

    /// The newest value of `key` that a reader sees, and the seq that wrote it.
    pub(crate) fn get(&self, key: &[u8], moment: Moment, reach: Reach) -> Result<Option<(Seq, Slice)>> {
        let mut memtables = self.memtables().filter(|memtable| !memtable.is_empty());
        let found = memtables.find_map(|memtable| memtable.get(key, moment.seq));
        let found = match found {
            Some(found) => Some(found),
            None => self.version.get(key, moment.seq, reach)?,
        };
        if !self.version.quarantines.is_empty() {
            self.answer_for(key, found.as_ref().map_or(0, |found| found.seq), moment.seq)?;
        }
        let Some(found) = found.filter(|found| found.is_live(moment.now)) else { return Ok(None) };
        if self.is_range_deleted(key, found.seq, moment.seq) {
            return Ok(None);
        }
        let (seq, is_blob, value) = (found.seq, found.op.is_blob(), found.into_value());
        if !is_blob {
            return Ok(Some((seq, value)));
        }
        if reach == Reach::Memory {
            return Err(Error::NotInMemory);
        }
        Ok(Some((seq, Slice::owned(self.blob(&value)?))))
    }

    /// An error if the newest known version of `key`, `seq`, may not be the newest there was.
    fn answer_for(&self, key: &[u8], seq: Seq, at: Seq) -> Result<()> {
        let over = |unknown: &&Quarantine| unknown.start.as_slice() <= key && key < unknown.end.as_slice();
        let mut unknown = self.version.quarantines.iter().filter(over);
        match unknown
            .find(|unknown| seq <= unknown.max_seq && !self.is_range_deleted(key, unknown.max_seq, at))
        {
            Some(unknown) => Err(unknown.error()),
            None => Ok(()),
        }
    }

    /// An error if a walk from `from` to `to` passes keys that cannot be answered for.
    pub(crate) fn answer_between(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, at: Seq) -> Result<()> {
        let begins_before_end = |unknown: &Quarantine| match to {
            Bound::Unbounded => true,
            Bound::Included(to) => unknown.start.as_slice() <= to,
            Bound::Excluded(to) => unknown.start.as_slice() < to,
        };
        let ends_after_start = |unknown: &Quarantine| match from {
            Bound::Unbounded => true,
            Bound::Included(from) | Bound::Excluded(from) => from < unknown.end.as_slice(),
        };
        let is_gone = |unknown: &Quarantine| {
            let newer = |range: &RangeDelete| range.seq <= at && unknown.ends_by(range);
            self.version.range_deletes.list().iter().any(newer)
                || self.memtables().any(|memtable| memtable.range_deletes().list().iter().any(newer))
        };
        let mut met = self.version.quarantines.iter();
        match met.find(|unknown| begins_before_end(unknown) && ends_after_start(unknown) && !is_gone(unknown))
        {
            Some(unknown) => Err(unknown.error()),
            None => Ok(()),
        }
    }

    /// The value behind a handle.
    pub(crate) fn blob(&self, handle: &[u8]) -> Result<Vec<u8>> {
        output::read_blob(&self.version.blobs, BlobHandle::decode(handle)?)
    }

    pub(crate) fn is_range_deleted(&self, key: &[u8], seq: Seq, at: Seq) -> bool {
        self.version.range_deletes.covers(key, seq, at)
            || self
                .memtables()
                .any(|memtable| memtable.range_deleted(key, at).is_some_and(|newest| seq < newest))
    }

    /// Whether there is any range delete.
    pub(crate) fn has_range_deletes(&self) -> bool {
        !self.version.range_deletes.is_empty() || self.memtables().any(|memtable| memtable.has_ranges())
    }

    /// Whether any entry expires, so that a reader has to know the time.
    pub(crate) fn expires(&self) -> bool {
        self.expires || self.active.expires()
    }

    pub(crate) fn memtables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.active).chain(&self.frozen)
    }
}

/// When a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Versions up to here are seen.
    pub seq: Seq,
    /// What has expired by then is not; milliseconds since 1970.
    pub now: u64,
}

impl Moment {
    /// Whether whoever reads at `other` sees all that was written, and has expired, by now.
    pub(crate) fn is_no_later(self, other: Moment) -> bool {
        self.seq <= other.seq && self.now <= other.now
    }
}

/// A frozen memory that waits to be written.
pub(crate) struct FlushTask {
    pub memtable: Arc<Memtable>,
    pub attached: Option<Box<dyn Frozen>>,
    /// Everything up to here is in it or in earlier ones.
    pub seq: Seq,
    /// Whether the manifest names what it was written to: then it is not tried again, whatever fails.
    pub committed: bool,
}

/// What the background is to do, and how it went.
#[derive(Default)]
pub(crate) struct Work {
    pub queue: VecDeque<FlushTask>,
    pub flushing: bool,
    /// Compactions under way.
    pub claims: Vec<Claim>,
    pub last_claim: u64,
    pub failure: Option<Error>,
    pub closing: bool,
}

impl Work {
    /// Whether nothing more is to be begun.
    pub(crate) fn is_over(&self) -> bool {
        self.closing || self.failure.is_some()
    }
}

/// What an edit comes from.
#[derive(Clone, Copy)]
pub(crate) enum How<'a> {
    /// A flush of this memtable, which goes in the same swap.
    Flush(&'a Arc<Memtable>),
    /// A compaction whose output heeds the range deletes up to this seq, and no others.
    Compaction(Seq),
    /// Tables that were made elsewhere, are newer than all others and become visible as this seq; all memory is flushed,
    /// and nobody writes.
    Ingest(Seq),
    /// A set of files in place of everything.
    Install,
    /// Something that touches no table.
    Alone,
}

/// The engine's state.
pub(crate) struct Shared {
    pub options: Options,
    pub dir: PathBuf,
    pub files: Files,
    pub view: ArcSwap<View>,
    /// Readers see versions up to here.
    pub visible: AtomicU64,
    pub next_file: AtomicU64,
    /// Files that nothing named at opening, until they are removed.
    pub orphans: Mutex<Vec<PathBuf>>,
    pub manifest: Mutex<Manifest>,
    pub work: Mutex<Work>,
    /// Whether [`Work::is_over`], without its lock.
    pub over: AtomicBool,
    /// Rung when there is work, and when work is done.
    pub bell: Condvar,
    /// What to compact next.
    pub picker: Arc<dyn Picker>,
    pub counters: Counters,
    pub replaced: Mutex<Replaced>,
    /// Free bytes that there have to be before writes go on; 0: they do go on.
    pub wanted_room: AtomicU64,
}

impl Shared {
    pub(crate) fn next_file(&self) -> u64 {
        self.next_file.fetch_add(1, Ordering::Relaxed)
    }

    /// The number that the next file would get.
    pub(crate) fn peek_next_file(&self) -> u64 {
        self.next_file.load(Ordering::Relaxed)
    }

    /// Takes `count` numbers and more; the first is the answer.
    pub(crate) fn reserve_files(&self, count: u64) -> u64 {
        self.next_file.fetch_add(count, Ordering::Relaxed)
    }

    /// A uid for a file, unlike that of any other here even where randomness is poor.
    pub(crate) fn uid(&self, number: u64) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(self.options.random)().to_le_bytes());
        bytes[8..].copy_from_slice(&number.to_le_bytes());
        filter::hash(&bytes)
    }

    pub(crate) fn table_path(&self, number: u64) -> PathBuf {
        self.dir.join(crate::table::name(number))
    }

    pub(crate) fn blob_path(&self, number: u64) -> PathBuf {
        self.dir.join(crate::blob::name(number))
    }

    pub(crate) fn attachment_path(&self, number: u64) -> PathBuf {
        self.dir.join(crate::attachment::name(number))
    }

    pub(crate) fn cache(&self) -> &Arc<BlockCache> {
        &self.files.cache
    }

    /// Makes an edit durable and swaps the version. `false`: a compaction has lost what it relied on, nothing was done.
    pub(crate) fn commit_with(&self, mut edit: Edit, how: How<'_>) -> Result<bool> {
        if matches!(how, How::Install) {
            // What waits to be flushed is older than what comes.
            let mut work = self.work.lock();
            work.queue.clear();
            while work.flushing {
                self.bell.wait(&mut work);
            }
        }
        let mut manifest = self.manifest.lock();
        let before = self.view.load().version.clone();
        let live = |number: &u64| before.slots.iter().flatten().any(|table| table.meta.number == *number);
        match how {
            How::Compaction(_) if !fits(&edit, &before) => return Ok(false),
            How::Ingest(_) => ingest::place(&before, &mut edit),
            How::Install => {
                edit.remove = before.slots.iter().flatten().map(|table| table.meta.number).collect();
                edit.attachments.detach = before.attachments.keys().copied().collect();
                edit.remove_blobs = before.blobs.keys().copied().collect();
                edit.remove_ranges = before.range_deletes.list().to_vec();
                edit.remove_quarantines = before.quarantines.clone();
            }
            _ => {}
        }
        self.heed_later(&before, &mut edit, how);
        let mut after = (*before).clone();
        manifest::apply(&mut after, &edit, &self.files)?;
        // Tables that lie wholly under a range delete go in the same record, and then the deletes that nothing needs.
        let ranges = &after.range_deletes;
        if !ranges.is_empty() {
            let covered = |t: &&Arc<Table>| {
                ranges.cover_table(&t.meta.smallest, &t.meta.largest, t.meta.max_seq(), after.floor)
            };
            let numbers: Vec<u64> =
                after.slots.iter().flatten().filter(covered).map(|t| t.meta.number).collect();
            for slot in &mut after.slots {
                slot.retain(|table| {
                    let goes = numbers.contains(&table.meta.number);
                    if goes && !live(&table.meta.number) {
                        table.make_obsolete(); // nothing has named it yet
                    }
                    !goes
                });
            }
            edit.add.retain(|(_, meta)| !numbers.contains(&meta.number));
            edit.remove.extend(numbers.into_iter().filter(live));
            after.arrange();
            let in_force = || after.range_deletes.list().iter().filter(|range| range.seq <= after.floor);
            let ended =
                after.quarantines.iter().filter(|unknown| in_force().any(|range| unknown.ends_by(range)));
            edit.remove_quarantines.extend(ended.cloned().collect::<Vec<_>>());
            after.quarantines.retain(|unknown| !edit.remove_quarantines.contains(unknown));
            edit.remove_ranges.extend(manifest::idle_ranges(&after));
            let kept = after.range_deletes.list().iter().filter(|r| !edit.remove_ranges.contains(r)).cloned();
            after.range_deletes = RangeDeletes::new(kept.collect());
        }
        // A blob file goes with the last table that points into it.
        let used = after.blob_bytes_used();
        let is_used = |uid: &u64| used.get(uid).is_some_and(|&bytes| bytes > 0);
        for blob in after.blobs.values().filter(|blob| !is_used(&blob.meta.uid)) {
            match before.blobs.contains_key(&blob.meta.uid) {
                true => edit.remove_blobs.push(blob.meta.uid),
                false => blob.make_obsolete(), // nothing has named it yet
            }
        }
        edit.add_blobs.retain(|meta| is_used(&meta.uid));
        after.blobs.retain(|uid, _| is_used(uid));
        // So does what a compaction has noted, with its first input that goes.
        let has_ended = |progress: &&Arc<Progress>| progress.job(&after).is_none();
        edit.remove_progress.extend(after.progress.iter().filter(has_ended).map(|progress| progress.id()));
        after.progress.retain(|progress| !edit.remove_progress.contains(&progress.id()));
        let next_file = self.next_file.load(Ordering::Relaxed);
        edit.next_file = Some(next_file);
        // The names of new files must be durable before a record names them.
        let names_files = !(edit.add.is_empty() && edit.add_blobs.is_empty());
        if names_files || !(edit.progress.is_empty() && edit.attachments.attach.is_empty()) {
            let synced = self.options.vfs.sync_dir(&self.dir);
            synced.map_err(|e| crate::log::sync_failed(&self.dir, &e.0))?;
        }
        manifest.write(&edit, &after, next_file)?;
        for table in before.slots.iter().flatten() {
            if !after.slots.iter().flatten().any(|t| t.meta.number == table.meta.number) {
                table.make_obsolete();
            }
        }
        for (uid, blob) in &before.blobs {
            if after.blobs.get(uid).is_none_or(|other| other.meta.number != blob.meta.number) {
                blob.make_obsolete();
            }
        }
        for number in &edit.attachments.detach {
            if let Some(attachment) = before.attachments.get(number) {
                attachment.make_obsolete();
            }
        }
        self.remove_unfinished(&before, &after);
        drop(before);
        let _work = self.work.lock();
        let view = self.view.load();
        let (mut active, mut frozen) = (view.active.clone(), view.frozen.clone());
        let mut gaps = view.gaps.clone();
        match how {
            How::Flush(flushed) => frozen.retain(|memtable| !Arc::ptr_eq(memtable, flushed)),
            // Visible first: readers wait for the view. Older ones would miss what went, and not see what came for it.
            How::Ingest(seq) => {
                active.end(self.visible.load(Ordering::Acquire));
                active = Arc::new(Memtable::new());
                gaps = Arc::new(Gaps::new(seq));
                self.visible.fetch_max(seq, Ordering::AcqRel);
            }
            How::Install => {
                active.end(self.visible.load(Ordering::Acquire));
                (active, frozen) = (Arc::new(Memtable::new()), Vec::new());
                gaps = Arc::new(Gaps::new(after.durable_seq));
                self.visible.store(after.durable_seq, Ordering::Release);
            }
            _ => {}
        }
        self.swap(View::new(active, frozen, Arc::new(after), gaps));
        self.bell.notify_all();
        Ok(true)
    }

    /// Tables that were written without heeding a range delete in force have to be rewritten for it: its floor rises above
    /// their numbers.
    fn heed_later(&self, before: &Version, edit: &mut Edit, how: How<'_>) {
        let misses = |range: &RangeDelete, meta: &TableMeta| {
            let after_all = RangeDelete { floor: u64::MAX, ..range.clone() };
            meta.number >= range.floor && RangeDeletes::touches(&after_all, meta)
        };
        if let How::Compaction(floor) = how {
            let in_force = before.range_deletes.list().iter().filter(|range| range.floor != WAITING);
            let outputs = |range: &&RangeDelete| edit.add.iter().any(|(_, meta)| misses(range, meta));
            let missed: Vec<_> =
                in_force.filter(|range| range.seq > floor).filter(outputs).cloned().collect();
            edit.add_ranges
                .extend(missed.iter().cloned().map(|r| RangeDelete { floor: self.next_file(), ..r }));
            edit.remove_ranges.extend(missed);
            return;
        }
        // A compaction may have ended between the moment at which a range delete got its floor and now.
        for range in edit.add_ranges.iter_mut().filter(|range| range.floor != WAITING) {
            if before.slots.iter().flatten().any(|table| misses(range, &table.meta)) {
                range.floor = self.next_file();
            }
        }
    }

    /// Removes what compactions have noted and will not end.
    fn remove_unfinished(&self, before: &Version, after: &Version) {
        if before.progress.is_empty() {
            return;
        }
        let mut kept: Vec<PathBuf> = after.files().iter().map(|(name, _)| self.dir.join(name)).collect();
        kept.extend(after.progress.iter().flat_map(|progress| progress.paths(self)));
        for path in before.progress.iter().flat_map(|progress| progress.paths(self)) {
            if !kept.contains(&path) {
                let _ = self.options.vfs.remove(&path); // or the next opening does
            }
        }
    }

    /// Lets readers see another view. Under `work`.
    fn swap(&self, view: View) {
        let before = self.view.swap(Arc::new(view.measured(&self.options, &*self.picker)));
        let mut replaced = self.replaced.lock();
        replaced.retain(|(_, view)| view.strong_count() > 0);
        replaced.push_back((Instant::now(), Arc::downgrade(&before)));
    }

    /// How long ago the oldest view that somebody still holds was replaced.
    pub(crate) fn oldest_snapshot(&self) -> Option<Duration> {
        let replaced = self.replaced.lock();
        let mut held = replaced.iter().filter(|(_, view)| view.strong_count() > 0);
        held.next().map(|(since, _)| since.elapsed())
    }

    /// Makes an edit durable that changes attachments only.
    pub(crate) fn commit(&self, edit: Edit) -> Result<()> {
        self.commit_with(edit, How::Alone).map(drop)
    }

    /// Puts a memtable of its own, which holds all of batch `seq`, behind the active one, freezes both and lets readers see
    /// them. Everything before is visible already, and the caller lets nobody write meanwhile. This works in a store that has
    /// failed as well: the log has the batch, and who reads later ones must see it.
    pub(crate) fn freeze_with(&self, seq: Seq, memtable: Memtable) {
        let mut work = self.work.lock();
        let view = self.view.load();
        let mut frozen = view.frozen.clone();
        let active = view.active.clone();
        active.end(seq - 1);
        if !active.is_empty() {
            frozen.insert(0, active.clone());
            work.queue.push_back(FlushTask {
                memtable: active,
                attached: None,
                seq: seq - 1,
                committed: false,
            });
        }
        let memtable = Arc::new(memtable);
        frozen.insert(0, memtable.clone());
        work.queue.push_back(FlushTask { memtable, attached: None, seq, committed: false });
        self.swap(View::new(Arc::new(Memtable::new()), frozen, view.version.clone(), view.gaps.clone()));
        self.visible.fetch_max(seq, Ordering::AcqRel);
        self.bell.notify_all();
    }

    /// Starts a new memtable; the old one, with `attached`, waits to be flushed. Everything up to `seq` is in it, and the
    /// caller lets nobody write meanwhile.
    pub(crate) fn freeze(&self, seq: Seq, attached: Option<Box<dyn Frozen>>) -> Result<()> {
        let mut work = self.work.lock();
        check(&work)?;
        let view = self.view.load();
        if view.active.is_empty() && attached.is_none() {
            return Ok(());
        }
        let memtable = view.active.clone();
        memtable.end(seq);
        let mut frozen = view.frozen.clone();
        frozen.insert(0, memtable.clone());
        self.swap(View::new(Arc::new(Memtable::new()), frozen, view.version.clone(), view.gaps.clone()));
        work.queue.push_back(FlushTask { memtable, attached, seq, committed: false });
        self.bell.notify_all();
        Ok(())
    }

    /// How far the store is from the point where writers wait (1.0 is there), and what is nearest to it.
    pub(crate) fn pressure(&self) -> (f64, Stall) {
        self.view.load().pressure
    }

    /// Waits until writers may go on; `Busy` when that takes longer than `patience`, `DiskFull` at once.
    pub(crate) fn admit(&self, patience: Duration) -> Result<()> {
        if self.is_disk_full() && !self.look_for_room() {
            return Err(self.no_room());
        }
        let (pressure, stall) = self.pressure();
        if pressure < 1.0 {
            return Ok(());
        }
        let started = Instant::now();
        let result = self.wait_for_room(started + patience);
        self.counters.stalled(stall, started.elapsed());
        self.options.tell(&Event::Stalled { reason: stall.name(), took: started.elapsed() });
        result
    }

    fn wait_for_room(&self, until: Instant) -> Result<()> {
        let mut work = self.work.lock();
        loop {
            check(&work)?;
            let (pressure, stall) = self.pressure();
            if pressure < 1.0 {
                return Ok(());
            }
            if self.is_disk_full() {
                return Err(self.no_room());
            }
            if self.options.threads == 0 || self.bell.wait_until(&mut work, until).timed_out() {
                return Err(Error::Busy { reason: stall.name(), retry_after: Duration::from_secs(1) });
            }
        }
    }

    /// Free bytes of the device; where they cannot be told, as many as one likes.
    pub(crate) fn free_space(&self) -> u64 {
        self.options.vfs.free_space(&self.dir).unwrap_or(u64::MAX)
    }

    /// What a writer is told when the disk is full.
    pub(crate) fn no_room(&self) -> Error {
        let (dir, reserve) = (self.dir.clone(), self.options.disk_reserve_bytes);
        Error::DiskFull { dir, free: self.free_space(), reserve }
    }

    /// Bytes that may be written before the reserve is touched.
    pub(crate) fn room(&self) -> u64 {
        self.free_space().saturating_sub(self.options.disk_reserve_bytes)
    }

    /// Whether writes are refused for want of room.
    pub(crate) fn is_disk_full(&self) -> bool {
        self.wanted_room.load(Ordering::Acquire) > 0
    }

    /// Refuses writes until there is more room than now, for something did not fit. Answers what writers are told.
    pub(crate) fn disk_is_full(&self) -> Error {
        self.want_room(self.free_space().saturating_add(self.options.memtable_bytes as u64));
        self.no_room()
    }

    /// Refuses writes if there is too little room: asked whenever a piece of the disk was taken.
    pub(crate) fn watch_disk(&self) {
        if self.free_space() < self.options.disk_reserve_bytes {
            self.want_room(self.options.disk_reserve_bytes);
        }
    }

    fn want_room(&self, bytes: u64) {
        let wanted = bytes.max(self.options.disk_reserve_bytes).max(1);
        if self.wanted_room.swap(wanted, Ordering::AcqRel) == 0 {
            self.options.tell(&Event::DiskFull { free: self.free_space() });
            self.ring(); // who waits for a flush waits in vain
        }
    }

    /// Lets writes go on if there is the room that was wanted.
    pub(crate) fn look_for_room(&self) -> bool {
        let free = self.free_space();
        if free < self.wanted_room.load(Ordering::Acquire) {
            return false;
        }
        if self.wanted_room.swap(0, Ordering::AcqRel) > 0 {
            self.options.tell(&Event::DiskFreed { free });
            self.bell.notify_all();
        }
        true
    }

    /// Wakes the background for something that it is not told otherwise. Under the lock: one who has looked and not yet begun
    /// to wait would sleep on.
    pub(crate) fn ring(&self) {
        let _work = self.work.lock();
        self.bell.notify_all();
    }

    /// Remembers that a background job failed: everyone who writes is told.
    pub(crate) fn fail(&self, error: &Error) {
        let mut work = self.work.lock();
        work.failure.get_or_insert_with(|| error.clone());
        self.over.store(true, Ordering::Release);
        self.bell.notify_all();
    }

    /// From now on nothing is begun; if `abandon`, what waits to be flushed is not either.
    pub(crate) fn end(&self, abandon: bool) {
        let mut work = self.work.lock();
        work.closing = true;
        if abandon {
            work.queue.clear();
        }
        self.over.store(true, Ordering::Release);
        self.bell.notify_all();
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.over.load(Ordering::Acquire) { check(&self.work.lock()) } else { Ok(()) }
    }
}

/// Whether what a compaction relied on still holds: its inputs are there, and nothing has come to where they go.
fn fits(edit: &Edit, before: &Version) -> bool {
    let live = |number: &u64| before.slots.iter().flatten().any(|table| table.meta.number == *number);
    let is_free = |(slot, meta): &(u8, TableMeta)| {
        let others =
            before.slots[usize::from(*slot)].iter().filter(|table| !edit.remove.contains(&table.meta.number));
        *slot == 0 || !others.clone().any(|table| table.overlaps(&meta.smallest, &meta.largest))
    };
    edit.remove.iter().all(live) && edit.add.iter().all(is_free)
}

fn check(work: &Work) -> Result<()> {
    match &work.failure {
        Some(error) => Err(error.clone()),
        None if work.closing => Err(Error::Closed),
        None => Ok(()),
    }
}
