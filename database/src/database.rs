//! The handle: open, write, snapshot, flush, close.
//!
//! A database keeps its own log ([`Database::open`]), or follows one that is kept elsewhere ([`Database::open_replica`]): then
//! whoever keeps it hands over its entries in order ([`Database::apply`]), and hands over again, after a restart, what comes
//! after the position that the manifest knows ([`Database::durable_position`]).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use lumen_engine::attachment::AttachmentEdit;
use lumen_engine::file_set::{FileSet, ReadyFileSet, SetFile};
use lumen_engine::log::{Kind, Log, LogOptions, Position};
use lumen_engine::vfs::Vfs;
use lumen_engine::{Engine, Error as EngineError};
use parking_lot::{Condvar, Mutex};

use crate::apply;
use crate::catalog::Catalog;
use crate::entry::{Entry, Proposal, Request};
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
    /// The time in milliseconds since 1970, for what is proposed here. Default: the system's.
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
            blob_bytes: engine.blob_bytes,
            scrub_bytes_per_second: engine.scrub_bytes_per_second,
            vfs: engine.vfs,
            read_only: engine.read_only,
            random: engine.random,
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

struct Inner {
    store: Arc<Store>,
    /// None of a replica.
    journal: Option<Arc<Journal>>,
    /// What went wrong where no caller could be told.
    failure: Arc<OnceLock<Error>>,
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
        let (store, state) = open_store(dir, &options)?;
        let log = Arc::new(replay(&store, dir, &options, &state)?);
        store.journal.get_or_init(|| log.clone());
        store.engine.remove_orphans()?;
        log.purge(store.engine.durable_seq())?;
        let next_seq = store.live.lock().applied + 1;
        let threaded = options.threads > 0 && !options.read_only;
        let journal = Arc::new(Journal::new(store.clone(), log, next_seq, threaded, options.clock));
        if options.read_only {
            journal.close();
        }
        Database::start(store, Some(journal), threaded)
    }

    /// Opens a database that follows a log kept elsewhere. It stands at [`Database::durable_position`]; what the log holds after
    /// that is to be applied before anything is read.
    ///
    /// Errors: as [`Database::open`].
    pub fn open_replica(path: impl AsRef<Path>, options: Options) -> Result<Database> {
        let (store, _) = open_store(path.as_ref(), &options)?;
        store.engine.remove_orphans()?;
        Database::start(store, None, options.threads > 0 && !options.read_only)
    }

    fn start(store: Arc<Store>, journal: Option<Arc<Journal>>, threaded: bool) -> Result<Database> {
        let (stop, failure) = (Arc::new(AtomicBool::new(false)), Arc::new(OnceLock::new()));
        let mut threads = Vec::new();
        if threaded {
            if let Some(journal) = journal.clone() {
                threads.push(spawn("lumen-journal", move || journal.run())?);
            }
            let (store, journal) = (store.clone(), journal.clone());
            let (stop, failure) = (stop.clone(), failure.clone());
            let merge = move || merge_loop(&store, journal.as_deref(), &stop, &failure);
            threads.push(spawn("lumen-merge", merge)?);
        }
        let threads = Mutex::new(threads);
        let inner = Inner { store, journal, failure, stop, threads, closed: AtomicBool::new(false) };
        Ok(Database { inner: Arc::new(inner) })
    }

    /// Applies entries of the log that this replica follows, in order; `position` is where the log is after the last of them,
    /// for [`Database::durable_position`]. Answers for each entry what its writes did, in order. One thread at a time.
    ///
    /// It waits while memory is full and being flushed: what is committed cannot be refused. Any error is final: the node must
    /// stop and reopen. [`Error::Corrupt`] when an entry is malformed or of a version that is not known here.
    pub fn apply(&self, entries: &[&[u8]], position: &[u8]) -> Result<Vec<Vec<Ack>>> {
        let store = &self.inner.store;
        assert!(self.inner.journal.is_none(), "a database with a journal has a log of its own");
        self.wait_for_memory()?;
        let read = {
            let live = store.live.lock();
            let one = |payload: &&[u8]| {
                Entry::decode(&live.catalog, payload).ok_or_else(|| {
                    Error::corrupt("the replicated log", 0, "an entry that this version cannot read")
                })
            };
            entries.iter().map(one).collect::<Result<Vec<_>>>()?
        };
        let acks = apply::entries(store, read, Some(position))?;
        if self.inner.threads.lock().is_empty() {
            while indexing::merge_one(store, &|| false)? {}
        }
        Ok(acks)
    }

    fn wait_for_memory(&self) -> Result<()> {
        let store = &self.inner.store;
        while !self.inner.threads.lock().is_empty() && store.is_behind() {
            if let Some(error) = self.failure() {
                return Err(error);
            }
            if self.inner.stop.load(Ordering::Acquire) {
                return Err(Error::Closed);
            }
            let mut live = store.live.lock();
            store.bell.wait_for(&mut live, Duration::from_millis(100));
        }
        Ok(())
    }

    /// Whether more may be proposed now; [`Error::Busy`] when memory or disk is behind or full. Does not wait.
    /// For who keeps the log: an entry in the log is applied in any case.
    pub fn admits(&self) -> Result<()> {
        if let Some(error) = self.failure() {
            return Err(error);
        }
        if self.inner.store.is_behind() {
            return Err(Error::Busy { retry_after: Duration::from_secs(1) });
        }
        Ok(())
    }

    /// What tells this database from every other: replicas of one log have different ones.
    pub fn id(&self) -> [u8; 16] {
        self.inner.store.id
    }

    /// Where the log is up to which everything is in the manifest, as it was given to [`Database::apply`]; empty for a new
    /// database, and for one that kept its own log until now.
    pub fn durable_position(&self) -> Result<Vec<u8>> {
        Ok(decode_state(&self.inner.store.engine.attachment_state())?.position)
    }

    /// The files of everything up to [`Database::durable_position`], held so that they can be sent to another replica.
    pub fn file_set(&self) -> FileSet {
        self.inner.store.engine.file_set()
    }

    /// Where the log is after everything that a set holds, by its manifest.
    pub fn position_of(manifest: &[u8]) -> Result<Vec<u8>> {
        let state = lumen_engine::file_set::state_of(manifest)?;
        Ok(decode_state(&state)?.position)
    }

    /// Which files of a set are neither here nor whole in the folder `staged`.
    pub fn missing(&self, manifest: &[u8], staged: &Path) -> Result<Vec<SetFile>> {
        Ok(self.inner.store.engine.missing(manifest, staged)?)
    }

    /// Brings the files of a set here and checks all of them; nothing changes yet, and everything goes on meanwhile.
    pub fn prepare_install(&self, manifest: &[u8], staged: &Path) -> Result<ReadyFileSet> {
        Ok(self.inner.store.engine.prepare_install(manifest, staged)?)
    }

    /// Replaces everything by a set, with one manifest edit; who applies must not do so meanwhile. Snapshots that are held
    /// stay as they are. An error is final.
    pub fn install(&self, mut ready: ReadyFileSet) -> Result<()> {
        let store = &self.inner.store;
        let state = State { store: store.id, ..decode_state(ready.state())? };
        ready.set_state(state.encode());
        assert!(self.inner.journal.is_none(), "a database with a journal has a log of its own");
        // What is under way on the indexes that go must not meet those that come.
        let mut live = store.live.lock();
        live.replacing = true;
        while live.indexes.values().any(|index| index.flushing || index.merging) {
            drop(live);
            store.engine.flush()?;
            live = store.live.lock();
            if live.indexes.values().any(|index| index.flushing || index.merging) {
                store.bell.wait_for(&mut live, Duration::from_millis(100));
            }
            if let Some(error) = self.failure() {
                return Err(error);
            }
        }
        store.epoch.fetch_add(1, Ordering::SeqCst);
        let installed = store.engine.install_ready(ready).map_err(Error::from).and_then(|_| {
            let state = decode_state(&store.engine.attachment_state())?;
            load_live(&store.engine, &state)
        });
        let result = installed.map(|loaded| {
            *live = loaded;
            let seq = live.applied;
            store.publish(&mut live, seq);
        });
        store.epoch.fetch_add(1, Ordering::SeqCst);
        store.bell.notify_all();
        result
    }

    /// The log's own time in milliseconds since 1970: the latest of all that were applied.
    pub fn log_time(&self) -> u64 {
        self.inner.store.live.lock().time
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
            journal.log().purge(store.engine.durable_seq())?;
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

/// Engine, catalog and indexes as the manifest knows them.
fn open_store(dir: &Path, options: &Options) -> Result<(Arc<Store>, State)> {
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
    let mut live = load_live(&engine, &state)?;
    let durable = engine.durable_seq();
    let empty = Moment { seq: durable, catalog: Arc::default(), views: BTreeMap::new() };
    let store = Arc::new(Store {
        engine,
        id: state.store,
        live: Mutex::new(Live::default()),
        moment: ArcSwap::from_pointee(empty),
        epoch: AtomicU64::new(0),
        bell: Condvar::new(),
        index_bytes: AtomicU64::new(0),
        journal: OnceLock::new(),
    });
    store.publish(&mut live, durable);
    *store.live.lock() = live;
    Ok((store, state))
}

/// What the manifest and the tables say.
fn load_live(engine: &Engine, state: &State) -> Result<Live> {
    let catalog = load_catalog(engine)?;
    let indexes = indexing::open(&engine.attachments(), &catalog, state)?;
    Ok(Live {
        catalog: Arc::new(catalog),
        indexes,
        next_uid: state.next_uid,
        next_collection: state.next_collection,
        dropped_files: orphaned_attachments(engine)?,
        applied: engine.durable_seq(),
        time: state.time,
        generation: state.generation,
        position: state.position.clone(),
        sessions: state.sessions.clone(),
        replacing: false,
    })
}

fn decode_state(bytes: &[u8]) -> Result<State> {
    State::decode(bytes).ok_or_else(|| Error::corrupt("the manifest", 0, "malformed state"))
}

/// The state in the manifest; a new store gets its id here.
fn load_state(engine: &Engine, random: fn() -> u64) -> Result<State> {
    let bytes = engine.attachment_state();
    if !bytes.is_empty() {
        return decode_state(&bytes);
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
        kinds: &[Kind::Entry],
        uuid: Some(store.id),
        random: options.random,
    };
    let floor = Position { segment: state.journal.0, offset: state.journal.1 };
    let floor = (floor.segment > 0).then_some(floor);
    let durable = store.engine.durable_seq();
    let mut expected = durable + 1;
    let mut group: Vec<Entry> = Vec::new();
    let mut bytes = 0;
    let mut failed = None;
    let opened = Log::open(store.engine.vfs(), log_options, floor, durable + 1, &mut |seq, _, payload| {
        if seq <= durable {
            return Ok(());
        }
        if seq != expected {
            let reason = format!("entry {seq} follows entry {}: entries are missing", expected - 1);
            return Err(EngineError::corrupt("the journal", 0, reason));
        }
        expected += 1;
        // Each entry is prepared against the catalog as it is after those before it; a group ends where one changes it.
        let entry = Entry::decode(&store.live.lock().catalog, payload)
            .filter(|entry| entry.proposals.len() == 1)
            .ok_or_else(|| EngineError::corrupt("the journal", 0, format!("malformed entry {seq}")))?;
        bytes += payload.len();
        group.push(entry);
        if bytes >= REPLAY_GROUP_BYTES {
            bytes = 0;
            if let Err(error) = apply::entries(store, std::mem::take(&mut group), None) {
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
    apply::entries(store, group, None)?;
    Ok(log)
}
