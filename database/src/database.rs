//! The handle: open, write, snapshot, flush, close.
//!
//! A database keeps its own log ([`Database::open`]), or follows one that is kept elsewhere ([`Database::open_replica`], see
//! `replica`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use lumen_engine::vfs::Vfs;
use lumen_engine::{Engine, Error as EngineError};
use parking_lot::Mutex;

use crate::entry::{Proposal, Request};
use crate::error::{Error, Rejection, Result};
use crate::expiry;
use crate::indexing;
use crate::journal::{Journal, JournalStats};
use crate::keys::{Due, KEY_BYTES_MAX, KeyLimits, KeyWrite, VALUE_BYTES_MAX};
use crate::open;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::write::{Ack, Prepared, Write};

/// What expires in one entry, at most.
const EXPIRED_AT_ONCE: usize = 256;

/// How a database is set up.
#[derive(Clone)]
pub struct Options {
    /// Bytes of documents in memory, table and index together, at which they are flushed. Default 64 MiB.
    pub memory_bytes: u64,
    /// Bytes of the block cache. Default 256 MiB.
    pub cache_bytes: u64,
    /// Background threads; 0 does all work inside the calls that cause it, for tests that must repeat. Default 2.
    pub threads: usize,
    /// Bytes of a journal segment. Default 64 MiB.
    pub segment_bytes: u64,
    /// Bytes of the journal that are kept for [`Database::changes`] although everything in them is in tables. Default 256 MiB.
    pub keep_log_bytes: u64,
    /// Bytes from which on a document lies in a file for long values, which compactions do not rewrite. Default: none does.
    pub blob_bytes: usize,
    /// Bytes of tables that a background thread reads each second to find damage before somebody else does. What it finds is
    /// quarantined: those documents are errors, all else goes on. Default 0: there is no such thread.
    pub scrub_bytes_per_second: u64,
    /// The file system. Default: the real one.
    pub vfs: Arc<dyn Vfs>,
    /// Opens without changing a file, to read: writes are refused as after a close. What only the journal holds is in memory
    /// then, however much it is. Default: off.
    pub read_only: bool,
    /// Where random numbers come from (file tags, the store's id); nothing that replicas share depends on it.
    pub random: fn() -> u64,
    /// Bytes of a key of a key-value, at most. Default 8 KiB.
    pub key_bytes_max: usize,
    /// Bytes of the value of a key-value, at most. Default 16 MiB.
    pub value_bytes_max: usize,
    /// The time in milliseconds since 1970: for what is proposed here, and when tables were written. Default: the system's.
    pub clock: fn() -> u64,
}

impl Default for Options {
    fn default() -> Options {
        let engine = lumen_engine::Options::default();
        Options {
            memory_bytes: 64 << 20,
            cache_bytes: engine.cache_bytes,
            threads: engine.threads,
            segment_bytes: engine.segment_bytes,
            keep_log_bytes: 256 << 20,
            blob_bytes: engine.blob_bytes,
            scrub_bytes_per_second: engine.scrub_bytes_per_second,
            vfs: engine.vfs,
            read_only: engine.read_only,
            random: engine.random,
            key_bytes_max: KEY_BYTES_MAX,
            value_bytes_max: VALUE_BYTES_MAX,
            clock: engine.clock,
        }
    }
}

/// Gauges of now and counters since the opening.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Everything up to here is published.
    pub seq: u64,
    /// Everything up to here is flushed.
    pub durable_seq: u64,
    /// The journal.
    pub journal: JournalStats,
    /// The engine.
    pub engine: lumen_engine::stats::Stats,
    /// Collection by collection.
    pub collections: Vec<CollectionStats>,
}

/// One collection's index.
#[derive(Debug, Clone, Default)]
pub struct CollectionStats {
    /// Its name.
    pub name: String,
    /// Live documents.
    pub documents: u64,
    /// Segments on disk.
    pub segments: u64,
    /// Runs in memory.
    pub runs: u64,
    /// Bytes of the runs.
    pub memory_bytes: u64,
    /// Bytes of the segments.
    pub segment_bytes: u64,
    /// Merges done since the opening.
    pub merges: u64,
}

pub(crate) struct Inner {
    pub store: Arc<Store>,
    pub limits: KeyLimits,
    pub clock: fn() -> u64,
    /// None of a replica.
    pub journal: Option<Arc<Journal>>,
    /// What went wrong where no caller could be told.
    failure: Arc<OnceLock<Error>>,
    pub stop: Arc<AtomicBool>,
    pub threads: Mutex<Vec<JoinHandle<()>>>,
    closed: AtomicBool,
}

/// An open database. Clones are the same database.
#[derive(Clone)]
pub struct Database {
    pub(crate) inner: Arc<Inner>,
}

impl Database {
    /// Opens the database in a folder, creating it if it is not there: manifest first, then the journal after it.
    ///
    /// Errors: [`Error::InUse`] when another process has it; [`Error::Replica`] when it follows a log kept elsewhere;
    /// [`Error::Corrupt`] naming file and offset when anything that was acknowledged is damaged.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Database> {
        let dir = path.as_ref();
        let (store, state) = open::open_store(dir, &options)?;
        if !state.position.is_empty() && !options.read_only {
            return Err(Error::Replica);
        }
        let log = Arc::new(open::replay(&store, dir, &options, &state)?);
        store.journal.get_or_init(|| log.clone());
        store.engine.remove_orphans()?;
        log.purge_keeping(store.engine.durable_seq(), options.keep_log_bytes)?;
        let next_seq = store.live.lock().applied + 1;
        let threaded = options.threads > 0 && !options.read_only;
        let journal = Arc::new(Journal::new(store.clone(), log, next_seq, threaded, options.clock));
        if options.read_only {
            journal.close();
        }
        Database::start(store, Some(journal), threaded, &options)
    }

    /// Opens a database that follows a log kept elsewhere. It stands at [`Database::durable_position`]; what the log holds after
    /// that is to be applied before anything is read. One that kept its own log until now does so no more, and keeps what it
    /// holds.
    ///
    /// Errors: as [`Database::open`].
    pub fn open_replica(path: impl AsRef<Path>, options: Options) -> Result<Database> {
        let dir = path.as_ref();
        let journal = open::journal_files(dir, &options)?;
        if !journal.is_empty() {
            Database::open(dir, options.clone())?.close()?;
            open::remove_journal(dir, &options)?;
        }
        let (store, state) = open::open_store(dir, &options)?;
        if state.position.is_empty() {
            store.live.lock().entry = 0; // those counted until now were of the journal
        }
        store.engine.remove_orphans()?;
        Database::start(store, None, options.threads > 0 && !options.read_only, &options)
    }

    fn start(
        store: Arc<Store>,
        journal: Option<Arc<Journal>>,
        threaded: bool,
        options: &Options,
    ) -> Result<Database> {
        let limits = KeyLimits { key: options.key_bytes_max, value: options.value_bytes_max };
        let clock = options.clock;
        let (stop, failure) = (Arc::new(AtomicBool::new(false)), Arc::new(OnceLock::new()));
        let mut threads = Vec::new();
        if threaded {
            if let Some(journal) = journal.clone() {
                let (store, stop) = (store.clone(), stop.clone());
                let expire = {
                    let (store, journal) = (store.clone(), journal.clone());
                    move || expire(&store, &journal, clock())
                };
                threads.push(spawn("lumen-expiry", move || expiry::run(&store, clock, &stop, expire))?);
                threads.push(spawn("lumen-journal", move || journal.run())?);
            }
            let (store, journal) = (store.clone(), journal.clone());
            let (stop, failure) = (stop.clone(), failure.clone());
            let merge = move || merge_loop(&store, journal.as_deref(), &stop, &failure);
            threads.push(spawn("lumen-merge", merge)?);
        }
        let threads = Mutex::new(threads);
        let closed = AtomicBool::new(false);
        let inner = Inner { store, limits, clock, journal, failure, stop, threads, closed };
        Ok(Database { inner: Arc::new(inner) })
    }

    /// The log's own time in milliseconds since 1970: the latest of all that were applied.
    pub fn log_time(&self) -> u64 {
        self.inner.store.live.lock().time
    }

    /// Checks, parses and analyses a write in the caller's thread; writes nothing. Many threads may prepare at once.
    pub fn prepare(&self, write: Write) -> std::result::Result<Prepared, Rejection> {
        let moment = self.inner.store.moment.load();
        Prepared::new(&moment.catalog, &self.inner.limits, write)
    }

    /// Writes and waits until the write is durable and searchable. A refusal that depends on the data comes back as
    /// [`Outcome::Rejected`](crate::write::Outcome::Rejected), one that does not as [`Error::Rejected`].
    pub fn write(&self, write: Write) -> Result<Ack> {
        self.propose_blocking(self.prepare(write)?)
    }

    /// Proposes a prepared write and waits for it.
    pub fn propose_blocking(&self, prepared: Prepared) -> Result<Ack> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.propose(Request::None, prepared, move |result| {
            // The receiver waits below; it cannot be gone.
            let _ = sender.send(result);
        });
        receiver.recv().unwrap_or(Err(Error::Closed))
    }

    /// Proposes a prepared write, to be applied unless `request` was answered before. `done` is called exactly once, after the
    /// write is durable and searchable, from the thread that commits its group, which may be this one. It must not block.
    /// A replica refuses: its writes come from its log.
    pub fn propose(
        &self,
        request: Request,
        prepared: Prepared,
        done: impl FnOnce(Result<Ack>) + Send + 'static,
    ) {
        match &self.inner.journal {
            Some(journal) => journal.propose(Proposal { request, prepared }, Box::new(done)),
            None => done(Err(Error::Replica)),
        }
    }

    /// What has expired by `now` (milliseconds since 1970), at most `most` of it, and when the next does: for who keeps the log
    /// of a replica, to have it taken away by [`KeyWrite::Expire`].
    pub fn due(&self, now: u64, most: usize) -> Result<(Vec<Due>, Option<u64>)> {
        expiry::due(&self.inner.store, now, most)
    }

    /// Takes away what has expired, and answers when the next does. Done by itself where there are threads.
    pub fn expire(&self) -> Result<Option<u64>> {
        let journal = self.inner.journal.as_ref().ok_or(Error::Replica)?;
        expire(&self.inner.store, journal, (self.inner.clock)())
    }

    /// The sequence number that a snapshot taken now has, or one before it.
    pub fn seq(&self) -> u64 {
        self.inner.store.moment.load().seq
    }

    /// Everything that is acknowledged now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(&self.inner.store)
    }

    /// Writes memory to disk and waits for it.
    pub fn flush(&self) -> Result<()> {
        let store = &self.inner.store;
        loop {
            let mut live = store.live.lock();
            if let Some(error) = store.engine.failure() {
                return Err(error.into());
            }
            if live.indexes.values().any(|index| index.flushing) {
                drop(live);
                store.engine.flush()?; // what was frozen before, also if it failed for want of room
                continue;
            }
            indexing::freeze(store, &mut live)?;
            break;
        }
        store.engine.work()?;
        Ok(store.engine.flush()?)
    }

    /// Merges a collection's index down to one segment and waits for it.
    pub fn merge(&self, collection: &str) -> Result<()> {
        self.flush()?;
        let store = &self.inner.store;
        loop {
            let picked = {
                let mut live = store.live.lock();
                let id = live.catalog.get(collection)?.id;
                let Some(index) = live.indexes.get_mut(&id) else { return Ok(()) };
                match index.index.merge_all() {
                    Some(job) => {
                        index.merging = true;
                        (id, job)
                    }
                    None if !index.merging => return Ok(()),
                    None => {
                        // A background merge has some of the inputs: wait for it.
                        if let Some(error) = store.engine.failure().or_else(|| self.failure_of_engine()) {
                            return Err(error.into());
                        }
                        store.bell.wait_for(&mut live, Duration::from_millis(100));
                        continue;
                    }
                }
            };
            indexing::run_merge(store, picked.0, picked.1, &|| self.inner.stop.load(Ordering::Relaxed))?;
            if self.inner.stop.load(Ordering::Relaxed) {
                return Err(Error::Closed);
            }
        }
    }

    fn failure_of_engine(&self) -> Option<EngineError> {
        let failure = self.inner.failure.get().cloned().or_else(|| self.journal_failure());
        failure.map(|error| EngineError::corrupt("the journal", 0, error.to_string()))
    }

    fn journal_failure(&self) -> Option<Error> {
        self.inner.journal.as_ref().and_then(|journal| journal.failure())
    }

    /// Gauges and counters.
    pub fn stats(&self) -> Stats {
        let store = &self.inner.store;
        let moment = store.moment.load();
        let merges: BTreeMap<u32, u64> =
            store.live.lock().indexes.iter().map(|(id, i)| (*id, i.merges)).collect();
        let collections = moment.catalog.iter().filter_map(|collection| {
            let shape = moment.views.get(&collection.id)?.shape();
            Some(CollectionStats {
                name: collection.name.clone(),
                documents: shape.documents,
                segments: shape.segments as u64,
                runs: shape.runs as u64,
                memory_bytes: shape.memory_bytes,
                segment_bytes: shape.segment_bytes,
                merges: merges.get(&collection.id).copied().unwrap_or(0),
            })
        });
        Stats {
            seq: moment.seq,
            durable_seq: store.engine.durable_seq(),
            journal: self.inner.journal.as_ref().map(|journal| journal.stats()).unwrap_or_default(),
            engine: store.engine.stats(),
            collections: collections.collect(),
        }
    }

    /// Why writes are refused, if they are: then only a reopen helps.
    pub fn failure(&self) -> Option<Error> {
        let failure = self.journal_failure().or_else(|| self.inner.failure.get().cloned());
        failure.or_else(|| self.inner.store.engine.failure().map(Error::from))
    }

    /// Finishes what is proposed, flushes, seals the journal and stops the threads. Writes are refused afterwards.
    pub fn close(&self) -> Result<()> {
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let (store, journal) = (&self.inner.store, &self.inner.journal);
        journal.iter().for_each(|journal| journal.close());
        let flushed = self.flush();
        self.inner.join();
        flushed?;
        if let Some(error) = self.journal_failure() {
            return Err(error);
        }
        store.engine.close()?;
        if let Some(journal) = journal {
            journal.log().purge_keeping(store.engine.durable_seq(), store.keep_log_bytes)?;
            journal.log().seal()?;
        }
        Ok(())
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.store.engine
    }
}

impl Inner {
    fn join(&self) {
        self.stop.store(true, Ordering::Release);
        self.store.bell.notify_all();
        self.store.alarm.ring();
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join(); // a thread that panicked has nothing more to say
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Not a close: nothing is flushed, as after a kill.
        self.journal.iter().for_each(|journal| journal.close());
        self.join();
        self.store.engine.stop();
    }
}

/// Writes that goes what has expired.
fn expire(store: &Store, journal: &Journal, now: u64) -> Result<Option<u64>> {
    let mut before = None;
    loop {
        let (due, next) = expiry::due(store, now, EXPIRED_AT_ONCE)?;
        // Still there: the clock went back, and by the log's time it has not expired yet.
        if due.is_empty() || due.first() == before.as_ref() {
            return Ok(next);
        }
        before = due.first().cloned();
        let write = Write::Keys(KeyWrite::Expire { due });
        let prepared = Prepared::new(&store.moment.load().catalog, &KeyLimits::NONE, write)?;
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let done = move |result| drop(sender.send(result));
        journal.propose(Proposal { request: Request::None, prepared }, Box::new(done));
        receiver.recv().unwrap_or(Err(Error::Closed))?;
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    thread.map_err(|error| Error::Io { reason: format!("cannot start a thread: {error}") })
}

/// Merges indexes and keeps a journal segment ready, until told to stop.
fn merge_loop(store: &Arc<Store>, journal: Option<&Journal>, stop: &AtomicBool, failure: &OnceLock<Error>) {
    let stopped = || stop.load(Ordering::Acquire);
    while !stopped() {
        if let Some(journal) = journal.filter(|journal| journal.log().wants_spare()) {
            // Without a spare the next segment is made on the write path, only slower; a real fault is met there too.
            let _ = journal.log().prepare_spare();
        }
        match indexing::merge_one(store, &stopped) {
            Ok(true) => continue,
            // When there is room again, it is tried again.
            Ok(false) | Err(Error::DiskFull { .. }) => {}
            Err(error) => {
                failure.get_or_init(|| error.clone());
                journal.into_iter().for_each(|journal| journal.fail(error.clone()));
                return;
            }
        }
        let mut live = store.live.lock();
        if !stopped() {
            store.bell.wait_for(&mut live, Duration::from_millis(500));
        }
    }
}
