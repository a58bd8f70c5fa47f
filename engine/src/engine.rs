//! The engine: open, read, write, flush, close.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::attachment::{Attachments, Frozen};
use crate::background::Background;
use crate::batch::Batch;
use crate::checkpoint;
use crate::commit::{Commit, Durability};
use crate::error::{Error, Result};
use crate::file_set::{self, FileSet, ReadyFileSet, SetFile};
use crate::ingest::Ingestion;
use crate::key::Seq;
use crate::log::{Log, Recovery};
use crate::options::Options;
use crate::quarantine::Quarantine;
use crate::recovery;
use crate::slice::Slice;
use crate::snapshot::Snapshot;
use crate::state::Shared;
use crate::stats::{LevelStats, Stats};
use crate::sync::Mutex;
use crate::sync::atomic::Ordering;
use crate::sync::thread::JoinHandle;
use crate::version::edit::Edit;
use crate::vfs::Lock;

/// An open store. Share it by `Arc`; all methods may be called from any thread.
pub struct Engine {
    shared: Arc<Shared>,
    pub(crate) background: Background,
    commit: Commit,
    threads: Mutex<Vec<JoinHandle<()>>>,
    recovery: Recovery,
    lock: Mutex<Option<Box<dyn Lock>>>,
}

impl Engine {
    /// Opens the store in `dir`, creating it if it is not there: reads the manifest and replays the log.
    ///
    /// Errors: [`Error::InUse`] when another process has it, [`Error::Corrupt`] naming file and offset when anything that
    /// was durable is damaged. Nothing is modified then.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Engine> {
        let opened = recovery::open(dir.as_ref(), options)?;
        let threads = opened.background.start()?;
        let engine = Engine {
            commit: Commit::new(opened.background.shared.visible.load(Ordering::Acquire)),
            shared: opened.background.shared.clone(),
            background: opened.background,
            threads: Mutex::new(threads),
            recovery: opened.recovery,
            lock: Mutex::new(Some(opened.lock)),
        };
        if engine.shared.options.log {
            engine.remove_orphans()?;
        }
        engine.work_inline()?;
        Ok(engine)
    }

    fn log(&self) -> Result<&Log> {
        // A store above an outer log has no write path of its own; asking for it is a bug of the caller.
        Ok(self
            .background
            .log
            .as_deref()
            .expect("write() needs Options::log; a store without it is written by apply()"))
    }

    fn work_inline(&self) -> Result<()> {
        if self.shared.options.threads > 0 || self.shared.options.read_only {
            return Ok(());
        }
        match self.background.drain_inline() {
            // What was not done is done when there is room; until then writes are refused.
            Err(error) if error.is_disk_full() => {
                let _ = self.shared.disk_is_full(); // for the writers
                Ok(())
            }
            Err(error) => {
                self.shared.fail(&error);
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Writes a batch through the engine's own log and answers its sequence number.
    ///
    /// Errors: [`Error::Busy`] when flushes and compactions are behind for 10 s, [`Error::DiskFull`], [`Error::SyncFailed`] when it is not
    /// known whether the batch will survive, [`Error::TooLarge`] for a key over 64 KiB or a value over 128 MiB.
    pub fn write(&self, batch: &Batch, durability: Durability) -> Result<Seq> {
        if self.shared.options.threads == 0 && self.frozen_count() > 0 {
            self.work_inline()?; // what found no room before, and nobody else does
        }
        let seq = self.commit.write(&self.shared, self.log()?, batch, durability)?;
        self.work_inline()?;
        Ok(seq)
    }

    /// Applies a batch that an outer log made durable as entry `seq`; the outer log's order is the order of calls, one at
    /// a time. Readers see it after [`Engine::publish`].
    pub fn apply(&self, seq: Seq, batch: &Batch) -> Result<()> {
        let operations = batch.effective()?;
        self.shared.counters.user_bytes.add(batch.size() as u64);
        self.shared.view.load().insert(seq, &operations);
        Ok(())
    }

    /// Lets readers see everything applied up to `seq`.
    pub fn publish(&self, seq: Seq) {
        self.shared.visible.fetch_max(seq, Ordering::AcqRel);
    }

    /// Freezes memory at `seq`, everything up to which is applied and published, together with what the owner of
    /// attachments froze at the same moment. A flush follows in the background. Not to be called while applying.
    pub fn freeze(&self, seq: Seq, attached: Option<Box<dyn Frozen>>) -> Result<()> {
        assert!(self.shared.visible.load(Ordering::Acquire) >= seq, "frozen memory must be visible");
        self.shared.freeze(seq, attached)
    }

    /// Without background threads, does what they would do: flushes what is frozen, compacts what is due. With threads it
    /// does nothing.
    pub fn work(&self) -> Result<()> {
        self.work_inline()
    }

    /// Bytes of the memtables, active and frozen, estimated.
    pub fn memory_bytes(&self) -> usize {
        self.shared.view.load().memtables().map(|memtable| memtable.bytes()).sum()
    }

    /// Memtables that wait to be flushed.
    pub fn frozen_count(&self) -> usize {
        self.shared.view.load().frozen.len()
    }

    /// The budget that [`Engine::wants_freeze`] holds memory against.
    pub fn memory_budget(&self) -> usize {
        self.shared.options.memtable_bytes
    }

    /// The file system it runs on.
    pub fn vfs(&self) -> Arc<dyn crate::vfs::Vfs> {
        self.shared.options.vfs.clone()
    }

    /// Whether the memtable, with `more` bytes of others beside it, has reached its budget.
    pub fn wants_freeze(&self, more: usize) -> bool {
        let full = self.shared.view.load().active.bytes() + more >= self.shared.options.memtable_bytes;
        full && !self.shared.options.read_only
    }

    /// Waits while flushes and compactions are behind: [`Error::Busy`] after `patience`; [`Error::DiskFull`] at once.
    pub fn admit(&self, patience: Duration) -> Result<()> {
        self.shared.admit(patience)?;
        self.shared.check()
    }

    /// Whether [`Engine::admit`] would wait or refuse now.
    pub fn is_behind(&self) -> bool {
        self.shared.pressure().0 >= 1.0 || self.shared.is_disk_full()
    }

    /// Whether writes are refused for want of room on the disk.
    pub fn is_disk_full(&self) -> bool {
        self.shared.is_disk_full()
    }

    /// The value of `key`, as visible now.
    pub fn get(&self, key: &[u8]) -> Result<Option<Slice>> {
        Snapshot::get_now(&self.shared, key)
    }

    /// Everything visible now, to be read as long as it is held.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(&self.shared)
    }

    /// Everything visible at `seq`, which must be a moment that was published, and not older than the newest freeze when
    /// it is asked. It is asked again when memory was frozen meanwhile; the last answer counts.
    pub fn snapshot_at(&self, seq: impl FnMut() -> Seq) -> Snapshot {
        Snapshot::when(&self.shared, seq)
    }

    /// Everything as it was at `seq`: no older than [`Options::retain_seqs`] allows, no newer than what is visible.
    pub fn snapshot_of(&self, seq: Seq) -> Result<Snapshot> {
        self.snapshot().of(seq)
    }

    /// Everything applied, published or not: for the thread that applies.
    pub fn latest(&self) -> Snapshot {
        Snapshot::latest(&self.shared)
    }

    /// Calls `row` for each visible key from `start` to `end`, in order, until it answers false.
    pub fn scan(
        &self,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        mut row: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        let snapshot = self.snapshot();
        let mut scan = snapshot.scan(start, end);
        while scan.next_row()? {
            if !row(scan.key(), scan.value()) {
                break;
            }
        }
        Ok(())
    }

    /// Writes all memory to tables and waits for it: from here on, all that was written before survives. With an outer log,
    /// whatever was frozen.
    pub fn flush(&self) -> Result<()> {
        if self.shared.options.read_only {
            return Ok(());
        }
        if let Some(log) = &self.background.log {
            self.commit.freeze(&self.shared, log, true)?;
            log.sync(log.end())?; // batches of nothing have no table, but numbers that others may have seen
        }
        self.work_inline()?;
        self.wait(|work| work.queue.is_empty() && !work.flushing)
    }

    /// Waits until no compaction is due.
    pub fn settle(&self) -> Result<()> {
        self.flush()?;
        loop {
            if self.background.compact_one()? {
                continue;
            }
            let mut work = self.shared.work.lock();
            if let Some(error) = &work.failure {
                return Err(error.clone());
            }
            if work.closing {
                return Err(Error::Closed);
            }
            if work.claims.is_empty() && self.background.pick(&work).is_none() {
                return Ok(());
            }
            if !work.claims.is_empty() {
                self.shared.bell.wait(&mut work);
            }
        }
    }

    /// Does now what is done by itself when nobody has written for a second: [`settle`](Engine::settle), and then level 0 is
    /// merged into the level below unless it is small beside that, so that reads meet one run less (leveled compaction alone
    /// has something to do here); and the log gives back the room of what has been flushed.
    pub fn rest(&self) -> Result<()> {
        self.settle()?;
        while self.background.compact_at_rest()? {}
        self.settle()?;
        self.background.rest_log()
    }

    fn wait(&self, done: impl Fn(&crate::state::Work) -> bool) -> Result<()> {
        let mut work = self.shared.work.lock();
        while !done(&work) {
            if let Some(error) = &work.failure {
                return Err(error.clone());
            }
            if self.shared.is_disk_full() {
                return Err(self.shared.no_room());
            }
            self.shared.bell.wait(&mut work);
        }
        work.failure.clone().map_or(Ok(()), Err)
    }

    /// Everything up to here is in tables and attachments; an outer log may let it go.
    pub fn durable_seq(&self) -> Seq {
        self.shared.view.load().version.durable_seq
    }

    /// Readers see everything up to here.
    pub fn visible_seq(&self) -> Seq {
        self.shared.visible.load(Ordering::Acquire)
    }

    /// The attachment owner's state as of [`Engine::durable_seq`].
    pub fn attachment_state(&self) -> Arc<Vec<u8>> {
        self.shared.view.load().version.state.clone()
    }

    /// Reads, creates and installs attachments.
    pub fn attachments(&self) -> Attachments {
        Attachments { shared: self.shared.clone() }
    }

    /// What the log's recovery found at opening.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Removes the files that the manifest did not name at opening: leftovers of a crash. An owner with an outer log calls
    /// it once that log has proved whole, because until then such a file may be all that is left of something.
    pub fn remove_orphans(&self) -> Result<()> {
        recovery::remove_orphans(&self.shared)
    }

    /// Makes `dir`, which is empty or not there, a store of its own that holds everything up to the sequence number it
    /// answers: by hard links, so that it costs room only as this store moves on; by copies to another device. `step` is
    /// called with each file's name and bytes, and may stop it by answering false; then the answer is `None` and `dir` does
    /// not open. With an outer log it holds what was flushed.
    pub fn checkpoint(
        &self,
        dir: impl AsRef<Path>,
        step: &mut dyn FnMut(&str, u64) -> bool,
    ) -> Result<Option<Seq>> {
        if self.background.log.is_some() {
            self.flush()?;
        }
        let version = self.shared.view.load().version.clone();
        checkpoint::write(&self.shared, &version, dir.as_ref(), step)
    }

    /// The files of everything up to [`Engine::durable_seq`], held so that they can be sent elsewhere.
    pub fn file_set(&self) -> FileSet {
        FileSet::new(&self.shared)
    }

    /// Which files of a set, described by its manifest, are not here. In the store that a set is of, a name is never given to
    /// another file, so that what was staged of one set of it serves for the next.
    pub fn missing(&self, manifest: &[u8]) -> Result<Vec<SetFile>> {
        file_set::missing(&self.shared, manifest)
    }

    /// Replaces everything, memory included, by a set of files: those that are not here lie in `staged`. All of them are
    /// read and checked first; then one manifest edit does it. Answers the sequence number of the set.
    ///
    /// Only for a store under an outer log, whose owner applies nothing meanwhile, and afterwards what follows the answer.
    pub fn install(&self, manifest: &[u8], staged: impl AsRef<Path>) -> Result<Seq> {
        self.install_ready(self.prepare_install(manifest, staged)?)
    }

    /// The first half of [`Engine::install`], which takes its time: the store goes on meanwhile.
    pub fn prepare_install(&self, manifest: &[u8], staged: impl AsRef<Path>) -> Result<ReadyFileSet> {
        assert!(self.background.log.is_none(), "a store with a log of its own cannot be replaced under it");
        self.shared.check()?;
        file_set::prepare(&self.shared, manifest, staged.as_ref())
    }

    /// The second half of [`Engine::install`]: one manifest edit.
    pub fn install_ready(&self, ready: ReadyFileSet) -> Result<Seq> {
        self.shared.check()?;
        file_set::install(&self.shared, ready)
    }

    /// Begins to take in rows that are sorted already.
    pub fn ingest(&self) -> Ingestion<'_> {
        Ingestion::new(self, &self.shared)
    }

    pub(crate) fn commit_ingested(&self, edit: &mut dyn FnMut(Seq) -> Edit) -> Result<Seq> {
        let log = self.log()?;
        self.flush()?; // most of it while others still write
        let flush = || {
            self.work_inline()?;
            self.wait(|work| work.queue.is_empty() && !work.flushing)
        };
        self.commit.ingest(&self.shared, log, &flush, edit)
    }

    /// Lets the log go and the tree get into shape, once rows taken in are in force as of `seq`.
    pub(crate) fn after_ingestion(&self, seq: Seq) -> Result<()> {
        self.log()?.purge(seq)?;
        self.work_inline()
    }

    /// Reads all tables and checks every block, every value and count, and every attachment's checksum. `step` is called with each
    /// file's name and bytes before it is read and may stop the check by answering false. Problems are returned, not
    /// repaired.
    pub fn verify(&self, step: &mut dyn FnMut(&str, u64) -> bool) -> Result<Vec<Error>> {
        let version = self.shared.view.load().version.clone();
        let mut problems = Vec::new();
        for table in version.slots.iter().flatten() {
            if !step(&table.name(), table.meta.len + table.meta.blob_bytes()) {
                return Ok(problems);
            }
            let damage = version.verify(table);
            problems.extend(damage.values.into_values().chain(damage.table).chain(damage.unread));
        }
        for attachment in version.attachments.values() {
            if !step(&crate::attachment::name(attachment.meta.number), attachment.meta.len) {
                return Ok(problems);
            }
            problems.extend(attachment.verify().err());
        }
        Ok(problems)
    }

    /// Reads all tables with their values in blob files, and all attachments, and quarantines what is damaged in tables: its
    /// keys are errors from then on, everything else is served, flushed and compacted. Answers what was found; `step` is
    /// called with each file's name and bytes, and stops the scrub by answering false.
    pub fn scrub(&self, step: &mut dyn FnMut(&str, u64) -> bool) -> Result<Vec<Error>> {
        self.shared.check()?;
        self.background.scrub(step)
    }

    /// Keys that cannot be answered for.
    pub fn quarantines(&self) -> Vec<Quarantine> {
        self.shared.view.load().version.quarantines.clone()
    }

    /// The tree as text, for people and golden tests: tables level by level, range deletes, attachments.
    pub fn shape(&self) -> String {
        crate::inspect::version(&self.shared.view.load().version)
    }

    /// Gauges and counters.
    pub fn stats(&self) -> Stats {
        let view = self.shared.view.load();
        let counters = &self.shared.counters;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let levels = view.version.slots.iter();
        let level = |tables: &Vec<Arc<crate::table::reader::Table>>| LevelStats {
            tables: tables.len() as u64,
            bytes: tables.iter().map(|table| table.meta.len).sum(),
        };
        let cache = self.shared.cache();
        let log = self.background.log.as_ref().map(|log| log.stats());
        let stalls = counters.stalls(log.unwrap_or_default());
        Stats {
            visible_seq: self.visible_seq(),
            durable_seq: view.version.durable_seq,
            memtable_bytes: view.active.bytes() as u64,
            frozen_memtables: view.frozen.len() as u64,
            levels: levels.clone().map(level).collect(),
            attachment_bytes: view.version.attachments.values().map(|a| a.meta.len).sum(),
            flushes: load(&counters.flushes),
            flushed_bytes: load(&counters.flushed_bytes),
            compactions: load(&counters.compactions),
            compacted_bytes: load(&counters.compacted_bytes),
            compaction_read_bytes: load(&counters.compaction_read_bytes),
            compactions_by_reason: counters.reasons(),
            stalls: stalls.iter().map(|stall| stall.count).sum(),
            stalls_by_reason: stalls,
            disk_full: self.shared.is_disk_full(),
            debt_bytes: self.shared.picker.debt(&view.version),
            level0_depth: view.version.depth as u64,
            user_bytes: counters.user_bytes.sum(),
            blob_bytes: view.version.blobs.values().map(|blob| blob.meta.len).sum(),
            blob_bytes_used: view.version.blob_bytes_used().values().sum(),
            quarantines: view.version.quarantines.len() as u64,
            live_bytes: view.version.live_bytes(),
            gets: counters.gets.sum(),
            get_reads: cache.get_reads.sum(),
            filter_stopped: cache.filter_stopped.sum(),
            filter_false: cache.filter_false.sum(),
            floor_seq: view.version.floor,
            oldest_snapshot: self.shared.oldest_snapshot(),
            cache_hits: cache.hits(),
            cache_misses: cache.misses(),
            cache_bytes: cache.bytes(),
            pinned_bytes: cache.pinned(),
            log,
        }
    }

    /// Whether the background has failed: then only a reopen helps.
    pub fn failure(&self) -> Option<Error> {
        self.shared.work.lock().failure.clone()
    }

    /// Ends the threads without a close: nothing more is flushed, as after a kill. Dropping the engine does it too; whoever
    /// gives out things that hold the engine, and that its own threads may be the last to let go of, calls it first.
    pub fn stop(&self) {
        self.shared.end(true);
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has nothing more to say here; its work is in the log.
            let _ = thread.join();
        }
    }

    /// Flushes, seals the log and stops the threads. Writes are refused afterwards; snapshots stay readable.
    pub fn close(&self) -> Result<()> {
        let flushed = if self.shared.work.lock().closing { Ok(()) } else { self.flush() };
        self.shared.end(false);
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has nothing more to say here; its work is in the log.
            let _ = thread.join();
        }
        flushed?;
        let mut lock = self.lock.lock(); // held until all is sealed, so that another close does not let go of it
        if lock.is_none() {
            return Ok(());
        }
        if let Some(log) = &self.background.log {
            log.seal()?;
        }
        self.shared.manifest.lock().seal()?;
        *lock = None;
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}
