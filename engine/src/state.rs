//! What all parts of the engine share: the files, the view, the manifest, and the bell that wakes workers.
//!
//! The write path, reads, flushes, compactions and recovery stand on this side by side and never call one another.
//! Locks, in the order they may be taken: `manifest`, then `work`. The view is only swapped under `work`.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::attachment::Frozen;
use crate::compaction::picker::Picker;
use crate::compaction::plan::Claim;
use crate::error::{Error, Result};
use crate::key::Seq;
use crate::memtable::Memtable;
use crate::options::Options;
use crate::stats::Counters;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{ArcSwap, Condvar, Mutex};
use crate::table::cache::BlockCache;
use crate::table::filter;
use crate::throttle::Throttle;
use crate::version::manifest::{Files, Manifest};
use crate::view::View;

/// Views that were replaced while somebody still held them, and when.
type Replaced = VecDeque<(Instant, Weak<View>)>;

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
    pub counters: Arc<Counters>,
    /// What slows writers down before they must stop.
    pub throttle: Throttle,
    pub replaced: Mutex<Replaced>,
    /// Names of files here that were found damaged: nothing is taken from them that can be had from elsewhere.
    pub distrusted: Mutex<HashSet<String>>,
    /// Free bytes that there have to be before writes go on; 0: they do go on.
    pub wanted_room: AtomicU64,
}

impl Shared {
    /// Notes a file that was found damaged, or that the disk does not give.
    pub(crate) fn distrust(&self, error: &Error) {
        if let Some(file) = error.file_name() {
            self.distrusted.lock().insert(file);
        }
    }

    /// Rises with every write, every look-up by key and every block that a walk asks for.
    pub(crate) fn asked(&self) -> u64 {
        self.counters.asked().wrapping_add(self.files.cache.asked())
    }

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

    pub(crate) fn new_memtable(&self) -> Arc<Memtable> {
        Arc::new(Memtable::new(self.options.memtable_bytes))
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

    /// Lets readers see another view. Under `work`.
    pub(crate) fn swap(&self, view: View) {
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
        self.swap(view.with(self.new_memtable(), frozen));
        self.visible.fetch_max(seq, Ordering::AcqRel);
        self.bell.notify_all();
    }

    /// Starts a new memtable; the old one, with `attached`, waits to be flushed. Everything up to `seq` is in it, and the
    /// caller lets nobody write meanwhile.
    pub(crate) fn freeze(&self, seq: Seq, attached: Option<Box<dyn Frozen>>) -> Result<()> {
        let active = self.new_memtable(); // takes a moment, in which nobody has to wait
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
        self.swap(view.with(active, frozen));
        work.queue.push_back(FlushTask { memtable, attached, seq, committed: false });
        self.bell.notify_all();
        Ok(())
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

/// Whether something may be begun; else why not.
pub(crate) fn check(work: &Work) -> Result<()> {
    match &work.failure {
        Some(error) => Err(error.clone()),
        None if work.closing => Err(Error::Closed),
        None => Ok(()),
    }
}
