//! The handle: open, write, snapshot, flush, close.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use lumen_engine::attachment::AttachmentEdit;
use lumen_engine::log::{Kind, Log, LogOptions, Position};
use lumen_engine::vfs::Vfs;
use lumen_engine::{Engine, Error as EngineError};
use parking_lot::{Condvar, Mutex};

use crate::apply;
use crate::catalog::Catalog;
use crate::error::{Error, Rejection, Result};
use crate::indexing;
use crate::journal::{Journal, JournalStats};
use crate::layout::{self, State};
use crate::mapping::Mapping;
use crate::snapshot::Snapshot;
use crate::store::{Live, Moment, Store};
use crate::write::{Ack, Prepared, Write};

/// File ending of the journal's segments.
pub(crate) const JOURNAL_EXTENSION: &str = "log";
/// The first journal segment after opening: 4 MiB of zeros take about 12 ms to write.
const FIRST_SEGMENT_BYTES: u64 = 4 << 20;
/// Bytes of log that replay applies as one group.
const REPLAY_GROUP_BYTES: usize = 1 << 20;

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
}

impl Default for Options {
    fn default() -> Options {
        let engine = lumen_engine::Options::default();
        Options {
            memory_bytes: 64 << 20,
            cache_bytes: engine.cache_bytes,
            threads: engine.threads,
            segment_bytes: engine.segment_bytes,
            blob_bytes: engine.blob_bytes,
            scrub_bytes_per_second: engine.scrub_bytes_per_second,
            vfs: engine.vfs,
            read_only: engine.read_only,
            random: engine.random,
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

struct Inner {
    store: Arc<Store>,
    journal: Arc<Journal>,
    stop: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    closed: AtomicBool,
}

/// An open database. Clones are the same database.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

impl Database {
    /// Opens the database in a folder, creating it if it is not there: manifest first, then the journal after it.
    ///
    /// Errors: [`Error::InUse`] when another process has it; [`Error::Corrupt`] naming file and offset when anything that
    /// was acknowledged is damaged.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Database> {
        let dir = path.as_ref();
        let engine = Engine::open(
            dir,
            lumen_engine::Options {
                vfs: options.vfs.clone(),
                log: false,
                memtable_bytes: usize::try_from(options.memory_bytes).unwrap_or(usize::MAX),
                cache_bytes: options.cache_bytes,
                threads: options.threads,
                segment_bytes: options.segment_bytes,
                blob_bytes: options.blob_bytes,
                scrub_bytes_per_second: options.scrub_bytes_per_second,
                read_only: options.read_only,
                random: options.random,
                ..lumen_engine::Options::default()
            },
        )?;
        let state = load_state(&engine, options.random)?;
        let catalog = load_catalog(&engine)?;
        let indexes = indexing::open(&engine.attachments(), &catalog, &state)?;
        let durable = engine.durable_seq();
        let mut live = Live {
            catalog: Arc::new(catalog),
            indexes,
            next_uid: state.next_uid,
            next_collection: state.next_collection,
            dropped_files: orphaned_attachments(&engine)?,
            applied: durable,
        };
        let empty = Moment { seq: durable, catalog: Arc::default(), views: BTreeMap::new() };
        let store = Arc::new(Store {
            engine,
            id: state.store,
            live: Mutex::new(Live {
                catalog: Arc::default(),
                indexes: BTreeMap::new(),
                next_uid: 0,
                next_collection: 0,
                dropped_files: Vec::new(),
                applied: 0,
            }),
            moment: ArcSwap::from_pointee(empty),
            bell: Condvar::new(),
            index_bytes: AtomicU64::new(0),
            journal: std::sync::OnceLock::new(),
        });
        store.publish(&mut live, durable);
        *store.live.lock() = live;
        let log = Arc::new(replay(&store, dir, &options, &state)?);
        store.journal.get_or_init(|| log.clone());
        store.engine.remove_orphans()?;
        log.purge(store.engine.durable_seq())?;
        let next_seq = store.live.lock().applied + 1;
        let threaded = options.threads > 0 && !options.read_only;
        let journal = Arc::new(Journal::new(store.clone(), log, next_seq, threaded));
        if options.read_only {
            journal.close();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        if threaded {
            let (journal, merging) = (journal.clone(), (store.clone(), journal.clone(), stop.clone()));
            threads.push(spawn("lumen-journal", move || journal.run())?);
            threads.push(spawn("lumen-merge", move || merge_loop(&merging.0, &merging.1, &merging.2))?);
        }
        let inner =
            Inner { store, journal, stop, threads: Mutex::new(threads), closed: AtomicBool::new(false) };
        Ok(Database { inner: Arc::new(inner) })
    }

    /// Checks, parses and analyses a write in the caller's thread; writes nothing. Many threads may prepare at once.
    pub fn prepare(&self, write: Write) -> std::result::Result<Prepared, Rejection> {
        let moment = self.inner.store.moment.load();
        Prepared::new(&moment.catalog, write)
    }

    /// Writes and waits until the write is durable and searchable. A refusal that depends on the data comes back as
    /// [`Outcome::Rejected`](crate::write::Outcome::Rejected), one that does not as [`Error::Rejected`].
    pub fn write(&self, write: Write) -> Result<Ack> {
        self.propose_blocking(self.prepare(write)?)
    }

    /// Proposes a prepared write and waits for it.
    pub fn propose_blocking(&self, prepared: Prepared) -> Result<Ack> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.propose(prepared, move |result| {
            // The receiver waits below; it cannot be gone.
            let _ = sender.send(result);
        });
        receiver.recv().unwrap_or(Err(Error::Closed))
    }

    /// Proposes a prepared write. `done` is called exactly once, after the write is durable and searchable, from the thread
    /// that commits its group, which may be this one. It must not block.
    pub fn propose(&self, prepared: Prepared, done: impl FnOnce(Result<Ack>) + Send + 'static) {
        self.inner.journal.propose(prepared, Box::new(done));
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
        self.inner.journal.failure().map(|error| EngineError::corrupt("the journal", 0, error.to_string()))
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
            journal: self.inner.journal.stats(),
            engine: store.engine.stats(),
            collections: collections.collect(),
        }
    }

    /// Why writes are refused, if they are: then only a reopen helps.
    pub fn failure(&self) -> Option<Error> {
        self.inner.journal.failure().or_else(|| self.inner.store.engine.failure().map(Error::from))
    }

    /// Finishes what is proposed, flushes, seals the journal and stops the threads. Writes are refused afterwards.
    pub fn close(&self) -> Result<()> {
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.inner.journal.close();
        let flushed = self.flush();
        self.inner.join();
        flushed?;
        if let Some(error) = self.inner.journal.failure() {
            return Err(error);
        }
        self.inner.store.engine.close()?;
        self.inner.journal.log().purge(self.inner.store.engine.durable_seq())?;
        Ok(self.inner.journal.log().seal()?)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.store.engine
    }
}

impl Inner {
    fn join(&self) {
        self.stop.store(true, Ordering::Release);
        self.store.bell.notify_all();
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join(); // a thread that panicked has nothing more to say
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Not a close: nothing is flushed, as after a kill.
        self.journal.close();
        self.join();
        self.store.engine.stop();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    thread.map_err(|error| Error::Io { reason: format!("cannot start a thread: {error}") })
}

/// Merges indexes and keeps a journal segment ready, until told to stop.
fn merge_loop(store: &Arc<Store>, journal: &Journal, stop: &AtomicBool) {
    let stopped = || stop.load(Ordering::Acquire);
    while !stopped() {
        if journal.log().wants_spare() {
            // Without a spare the next segment is made on the write path, only slower; a real fault is met there too.
            let _ = journal.log().prepare_spare();
        }
        match indexing::merge_one(store, &stopped) {
            Ok(true) => continue,
            // When there is room again, it is tried again.
            Ok(false) | Err(Error::DiskFull { .. }) => {}
            Err(error) => return journal.fail(error),
        }
        let mut live = store.live.lock();
        if !stopped() {
            store.bell.wait_for(&mut live, Duration::from_millis(500));
        }
    }
}

/// The state in the manifest; a new store gets its id here.
fn load_state(engine: &Engine, random: fn() -> u64) -> Result<State> {
    let bytes = engine.attachment_state();
    if !bytes.is_empty() {
        return State::decode(&bytes).ok_or_else(|| Error::corrupt("the manifest", 0, "malformed state"));
    }
    let mut id = [0; 16];
    id[..8].copy_from_slice(&random().to_le_bytes());
    id[8..].copy_from_slice(&random().to_le_bytes());
    let state = State { store: id, next_uid: 1, next_collection: 1, ..State::default() };
    engine
        .attachments()
        .install(AttachmentEdit { state: Some(state.encode()), ..AttachmentEdit::default() })?;
    Ok(state)
}

fn load_catalog(engine: &Engine) -> Result<Catalog> {
    let mut catalog = Catalog::default();
    let snapshot = engine.snapshot();
    let end = lumen_engine::key::prefix_end(&layout::CATALOG_PREFIX).expect("a small prefix");
    let (from, to) =
        (std::ops::Bound::Included(&layout::CATALOG_PREFIX[..]), std::ops::Bound::Excluded(&end[..]));
    let mut scan = snapshot.scan(from, to);
    while scan.next_row()? {
        let bad = || Error::corrupt("the catalog", 0, format!("malformed record of seq {}", scan.seq()));
        let name = std::str::from_utf8(&scan.key()[1..]).map_err(|_| bad())?;
        let (id, mapping) = layout::decode_catalog(scan.value()).ok_or_else(bad)?;
        catalog.insert(id, name, Mapping::from_json(mapping).map_err(|_| bad())?);
    }
    Ok(catalog)
}

/// Attachments of collections that were dropped before their files were detached.
fn orphaned_attachments(engine: &Engine) -> Result<Vec<u64>> {
    let catalog = load_catalog(engine)?;
    let known = |note: &[u8]| {
        layout::decode_note(note)
            .is_some_and(|(id, _, _)| catalog.iter().any(|collection| collection.id == id))
    };
    Ok(engine
        .attachments()
        .list()
        .into_iter()
        .filter(|meta| !known(&meta.note))
        .map(|meta| meta.number)
        .collect())
}

/// Opens the journal and applies what the manifest does not hold yet.
fn replay(store: &Arc<Store>, dir: &Path, options: &Options, state: &State) -> Result<Log> {
    let log_options = LogOptions {
        dir: dir.to_path_buf(),
        extension: JOURNAL_EXTENSION,
        segment_bytes: options.segment_bytes,
        first_segment_bytes: FIRST_SEGMENT_BYTES.min(options.segment_bytes),
        uuid: Some(store.id),
        random: options.random,
    };
    let floor = Position { segment: state.journal.0, offset: state.journal.1 };
    let floor = (floor.segment > 0).then_some(floor);
    let durable = store.engine.durable_seq();
    let mut expected = durable + 1;
    let mut group: Vec<(u64, Prepared)> = Vec::new();
    let mut bytes = 0;
    let mut failed = None;
    let opened = Log::open(store.engine.vfs(), log_options, floor, durable + 1, &mut |seq, kind, payload| {
        if seq <= durable || kind != Kind::Entry {
            return Ok(());
        }
        if seq != expected {
            let reason = format!("entry {seq} follows entry {}: entries are missing", expected - 1);
            return Err(EngineError::corrupt("the journal", 0, reason));
        }
        expected += 1;
        // Each entry is prepared against the catalog as it is after those before it; a group ends where one changes it.
        let prepared = Prepared::decode(&store.live.lock().catalog, payload)
            .ok_or_else(|| EngineError::corrupt("the journal", 0, format!("malformed entry {seq}")))?;
        bytes += payload.len();
        group.push((seq, prepared));
        if bytes >= REPLAY_GROUP_BYTES {
            bytes = 0;
            if let Err(error) = apply::group(store, std::mem::take(&mut group)) {
                failed = Some(error);
                return Err(EngineError::Closed);
            }
        }
        Ok(())
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let (log, recovery) = opened?;
    if recovery.first_seq.is_some_and(|first| first > durable + 1) {
        let first = recovery.first_seq.unwrap_or(0);
        let reason = format!("it begins at entry {first}, but the tables end at {durable}");
        return Err(Error::corrupt("the journal", 0, reason));
    }
    apply::group(store, group)?;
    Ok(log)
}
