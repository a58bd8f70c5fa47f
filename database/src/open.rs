//! Opening: what the manifest and the tables hold, then what the journal has after it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use event_listener::Event;
use lumen_engine::attachment::AttachmentEdit;
use lumen_engine::log::{Kind, Log, LogOptions, Position};
use lumen_engine::options::random_id;
use lumen_engine::{Engine, Error as EngineError};
use parking_lot::{Condvar, Mutex};

use crate::apply;
use crate::catalog::Catalog;
use crate::database::Options;
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::expiry::Alarm;
use crate::indexing;
use crate::layout::{self, Place, State};
use crate::mapping::Mapping;
use crate::store::{Live, Moment, Store};

/// File ending of the journal's segments.
pub(crate) const JOURNAL_EXTENSION: &str = "log";
/// The first journal segment after opening: 4 MiB of zeros take about 12 ms to write.
const FIRST_SEGMENT_BYTES: u64 = 4 << 20;
/// Bytes of log that replay applies as one group.
const REPLAY_GROUP_BYTES: usize = 1 << 20;

/// Engine, catalog and indexes as the manifest knows them.
pub(crate) fn open_store(dir: &Path, options: &Options) -> Result<(Arc<Store>, State)> {
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
            clock: options.clock,
            ..lumen_engine::Options::default()
        },
    )?;
    let state = load_state(&engine, options.random)?;
    let mut live = load_live(&engine, &state)?;
    let durable = engine.durable_seq();
    let empty = Moment { seq: durable, time: 0, entry: 0, catalog: Arc::default(), views: BTreeMap::new() };
    let store = Arc::new(Store {
        engine,
        id: state.store,
        live: Mutex::new(Live::default()),
        moment: ArcSwap::from_pointee(empty),
        epoch: AtomicU64::new(0),
        bell: Condvar::new(),
        published: Event::new(),
        alarm: Alarm::new(),
        begun: Mutex::new((0, Place { replicated: false, index: 0, time: 0 })),
        keep_log_bytes: options.keep_log_bytes,
        index_bytes: AtomicU64::new(0),
        journal: OnceLock::new(),
    });
    store.begin(&live);
    store.publish(&mut live, durable);
    *store.live.lock() = live;
    Ok((store, state))
}

/// What the manifest and the tables say.
pub(crate) fn load_live(engine: &Engine, state: &State) -> Result<Live> {
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
        expires_next: None,
        generation: state.generation,
        entry: state.entry,
        position: state.position.clone(),
        sessions: state.sessions.clone(),
        replacing: false,
    })
}

/// The state in a manifest.
pub(crate) fn decode_state(bytes: &[u8]) -> Result<State> {
    State::decode(bytes).ok_or_else(|| Error::corrupt("the manifest", 0, "malformed state"))
}

/// The state in the manifest; a new store gets its id here.
fn load_state(engine: &Engine, random: fn() -> u64) -> Result<State> {
    let bytes = engine.attachment_state();
    if !bytes.is_empty() {
        return decode_state(&bytes);
    }
    let state = State { store: random_id(random), next_uid: 1, next_collection: 1, ..State::default() };
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

/// The journal's segments, by name.
pub(crate) fn journal_files(dir: &Path, options: &Options) -> Result<Vec<String>> {
    let names = match options.vfs.list(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(EngineError::io("list", dir, error).into()),
    };
    let ending = format!(".{JOURNAL_EXTENSION}");
    Ok(names.into_iter().filter(|name| name.ends_with(&ending)).collect())
}

/// Removes the journal of a closed database: everything is in its files.
pub(crate) fn remove_journal(dir: &Path, options: &Options) -> Result<()> {
    for name in journal_files(dir, options)? {
        let path = dir.join(name);
        options.vfs.remove(&path).map_err(|error| EngineError::io("remove", &path, error))?;
    }
    options.vfs.sync_dir(dir).map_err(|error| Error::from(EngineError::io("sync", dir, error.0)))
}

/// Opens the journal and applies what the manifest does not hold yet.
pub(crate) fn replay(store: &Arc<Store>, dir: &Path, options: &Options, state: &State) -> Result<Log> {
    let log_options = LogOptions {
        dir: dir.to_path_buf(),
        extension: JOURNAL_EXTENSION,
        segment_bytes: options.segment_bytes,
        first_segment_bytes: FIRST_SEGMENT_BYTES.min(options.segment_bytes),
        kinds: &[Kind::Entry],
        from_seq: store.engine.durable_seq() + 1,
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
        let entry = Entry::decode(&store.live.lock().catalog, seq, payload)
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
