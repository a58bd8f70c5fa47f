//! The life of the indexes on disk: frozen with the memtable, flushed as attachments in the same manifest record, merged
//! in the background, and opened again.
//!
//! What the manifest names is always exactly the state of the last flush: segments, and one file with their deletes as of
//! that flush. A merge therefore drops only documents whose deletes are durable, and its record carries a new deletes file
//! with the durable deletes of what it made.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write as _};
use std::sync::{Arc, Weak};

use lumen_engine::attachment::{AttachmentEdit, AttachmentMeta, Attachments, Frozen};
use lumen_engine::coding::{Decoder, put_slice, put_varint};
use lumen_engine::error::{Error as EngineError, Result as EngineResult};
use lumen_index::{
    Deletes, Error as IndexError, FlushJob, Index, MergeJob, Product, Segment, SegmentSummary, Stats,
};

use crate::catalog::{Catalog, Collection};
use crate::error::{Error, Result};
use crate::layout::{self, State};
use crate::store::{Live, LiveIndex, SegmentFile, Store};

/// The name under which a segment's damage is reported.
fn file_name(number: u64) -> String {
    format!("{number:010}.att")
}

fn engine_error(error: IndexError) -> EngineError {
    match error {
        IndexError::Corrupt { file, offset, reason } => {
            EngineError::corrupt(file, offset, reason.to_string())
        }
        IndexError::Io(source) => EngineError::io("write", std::path::Path::new("an index segment"), source),
        IndexError::Cancelled => EngineError::Closed,
        other => EngineError::corrupt("the index", 0, other.to_string()),
    }
}

/// Freezes memtable and indexes at what was published last. The flush follows in the background.
pub(crate) fn freeze(store: &Arc<Store>, live: &mut Live) -> Result<()> {
    if live.replacing {
        return Ok(());
    }
    let mut jobs = Vec::new();
    let mut stats = Vec::new();
    for (id, index) in &mut live.indexes {
        if index.flushing {
            // The engine flushes in order and one by one; this index is frozen once its last flush is installed.
            return Ok(());
        }
        stats.push((*id, index.index.view().stats().encode()));
    }
    for (id, index) in &mut live.indexes {
        if let Some(job) = index.index.freeze() {
            index.flushing = true;
            index.dirty = true;
            let deletes = with_files(job.deletes(), &index.segments);
            let replaced = index.deletes_file;
            jobs.push(Flush { collection: *id, job, deletes, segment: None, deletes_file: None, replaced });
        }
    }
    let journal = store.journal.get().map_or((0, 0), |log| {
        let durable = log.durable();
        (durable.segment, durable.offset)
    });
    let state = State {
        store: store.id,
        next_uid: live.next_uid,
        next_collection: live.next_collection,
        journal,
        time: live.time,
        generation: live.generation,
        entry: live.entry,
        position: live.position.clone(),
        sessions: live.sessions.clone(),
        stats,
    };
    let frozen = FrozenIndexes {
        store: Arc::downgrade(store),
        seq: live.applied,
        jobs,
        dropped: std::mem::take(&mut live.dropped_files),
        state: state.encode(),
    };
    store.engine.freeze(live.applied, Some(Box::new(frozen)))?;
    Ok(())
}

struct Flush {
    collection: u32,
    job: FlushJob,
    /// Of the segments as of the freeze; no merge is installed until the flush is.
    deletes: Vec<SegmentDeletes>,
    segment: Option<(u64, SegmentFile)>,
    deletes_file: Option<u64>,
    replaced: Option<u64>,
}

/// The indexes' part of a frozen memory.
struct FrozenIndexes {
    /// Weak: the engine holds this until it is flushed, and the store holds the engine.
    store: Weak<Store>,
    seq: u64,
    jobs: Vec<Flush>,
    dropped: Vec<u64>,
    state: Vec<u8>,
}

impl FrozenIndexes {
    fn write_files(&mut self, files: &Attachments, edit: &mut AttachmentEdit) -> EngineResult<()> {
        let store = self.store.upgrade().ok_or(EngineError::Closed)?;
        edit.detach.extend(&self.dropped);
        for flush in &mut self.jobs {
            let job = &flush.job;
            let written = write_segment(files, flush.collection, |out| job.write(out, &|| false))?;
            flush.segment = written.as_ref().map(|(meta, file)| (meta.number, *file));
            edit.attach.extend(written.map(|(meta, _)| meta));
            let deletes = write_deletes(files, flush.collection, &flush.deletes)?;
            flush.deletes_file = deletes.as_ref().map(|meta| meta.number);
            edit.attach.extend(deletes);
            // A collection that was dropped meanwhile has handed its files to the next flush.
            let live = store.live.lock();
            if live.indexes.contains_key(&flush.collection) {
                edit.detach.extend(flush.replaced);
            }
        }
        Ok(())
    }
}

impl Frozen for FrozenIndexes {
    fn write(&mut self, files: &Attachments) -> EngineResult<AttachmentEdit> {
        let mut edit = AttachmentEdit { state: Some(self.state.clone()), ..AttachmentEdit::default() };
        let written = self.write_files(files, &mut edit);
        if written.is_err() {
            edit.attach.iter().for_each(|meta| files.discard(meta.number));
        }
        written.map(|()| edit)
    }

    fn installed(self: Box<Self>, files: &Attachments) -> EngineResult<()> {
        let store = self.store.upgrade().ok_or(EngineError::Closed)?;
        {
            let mut live = store.live.lock();
            for flush in &self.jobs {
                let Some(index) = live.indexes.get_mut(&flush.collection) else {
                    live.dropped_files.extend(flush.segment.map(|(number, _)| number));
                    live.dropped_files.extend(flush.deletes_file);
                    continue;
                };
                let segment = match flush.segment {
                    Some((number, file)) => {
                        index.segments.insert(number, file);
                        let bytes = files.map(number)?;
                        Some((number, Segment::open(file_name(number), bytes).map_err(engine_error)?))
                    }
                    None => None,
                };
                index.index.install_flush(&flush.job, segment);
                index.deletes_file = flush.deletes_file;
                index.flushing = false;
                index.dirty = true;
            }
            let seq = live.applied;
            store.publish(&mut live, seq);
        }
        store.bell.notify_all();
        match store.journal.get() {
            Some(journal) => journal.purge_keeping(self.seq, store.keep_log_bytes),
            None => Ok(()),
        }
    }
}

/// Writes a segment; `None` when there is no live document to write.
fn write_segment(
    files: &Attachments,
    collection: u32,
    write: impl FnOnce(&mut dyn std::io::Write) -> std::result::Result<Option<SegmentSummary>, IndexError>,
) -> EngineResult<Option<(AttachmentMeta, SegmentFile)>> {
    let mut out = BufWriter::with_capacity(1 << 20, files.create()?);
    let number = out.get_ref().number();
    let summary = write(&mut out).map_err(engine_error);
    let flushed = out.flush();
    match summary {
        Ok(Some(summary)) => {
            let io = |error| EngineError::io("write", std::path::Path::new(&file_name(number)), error);
            flushed.map_err(io)?;
            let writer = out.into_inner().map_err(|error| io(error.into_error()))?;
            let note = layout::segment_note(collection, summary.min_uid, summary.docs);
            let file = SegmentFile { first_uid: summary.min_uid, documents: summary.docs };
            Ok(Some((writer.finish(layout::SEGMENT, note)?, file)))
        }
        Ok(None) => {
            drop(out);
            files.discard(number);
            Ok(None)
        }
        Err(error) => {
            drop(out);
            files.discard(number);
            Err(error)
        }
    }
}

/// The deletes of a segment.
type SegmentDeletes = (SegmentFile, Deletes);

fn with_files(deletes: Vec<(u64, Deletes)>, segments: &BTreeMap<u64, SegmentFile>) -> Vec<SegmentDeletes> {
    let of = |number: &u64| *segments.get(number).expect("every segment of the index is listed");
    deletes.into_iter().map(|(number, bitmap)| (of(&number), bitmap)).collect()
}

/// Writes a collection's deletes; `None` when there are none. A segment goes by the smallest uid in it, which no other has:
/// its file has another number on another replica.
///
/// ```text
/// │ crc32 of the rest: u32 │ segments: varint │ { smallest uid: varint │ bitmap: slice } … │
/// ```
fn write_deletes(
    files: &Attachments,
    collection: u32,
    deletes: &[SegmentDeletes],
) -> EngineResult<Option<AttachmentMeta>> {
    if deletes.is_empty() {
        return Ok(None);
    }
    let mut body = Vec::new();
    put_varint(&mut body, deletes.len() as u64);
    for (segment, bitmap) in deletes {
        put_varint(&mut body, segment.first_uid);
        put_slice(&mut body, &bitmap.encode(segment.documents));
    }
    let mut out = files.create()?;
    let path = file_name(out.number());
    let crc = crc32fast::hash(&body).to_le_bytes();
    let written = out.write_all(&crc).and_then(|()| out.write_all(&body));
    written.map_err(|error| EngineError::io("write", std::path::Path::new(&path), error))?;
    let mut note = Vec::new();
    put_varint(&mut note, u64::from(collection));
    out.finish(layout::DELETES, note).map(Some)
}

pub(crate) fn read_deletes(name: &str, bytes: &[u8]) -> Result<BTreeMap<u64, Vec<u8>>> {
    let bad = |reason: &str| Error::corrupt(name, 0, reason);
    let (crc, body) = bytes.split_first_chunk::<4>().ok_or_else(|| bad("too short for deletes"))?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(bad("the checksum of the deletes does not match"));
    }
    let mut decoder = Decoder::new(body);
    let mut read = || {
        let mut deletes = BTreeMap::new();
        for _ in 0..decoder.varint()? {
            deletes.insert(decoder.varint()?, decoder.slice()?.to_vec());
        }
        decoder.is_empty().then_some(deletes)
    };
    read().ok_or_else(|| bad("malformed deletes"))
}

/// Opens the indexes that the manifest names.
pub(crate) fn open(
    files: &Attachments,
    catalog: &Catalog,
    state: &State,
) -> Result<BTreeMap<u32, LiveIndex>> {
    let mut segments: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
    let mut deletes: BTreeMap<u32, u64> = BTreeMap::new();
    for meta in files.list() {
        let name = file_name(meta.number);
        let (collection, first_uid, _) = layout::decode_note(&meta.note)
            .ok_or_else(|| Error::corrupt(&name, 0, "malformed note in the manifest"))?;
        match meta.kind {
            layout::SEGMENT => segments.entry(collection).or_default().push((first_uid, meta.number)),
            layout::DELETES => {
                if deletes.insert(collection, meta.number).is_some() {
                    return Err(Error::corrupt(name, 0, "a collection has two files of deletes"));
                }
            }
            kind => return Err(Error::corrupt(name, 0, format!("attachment of unknown kind {kind}"))),
        }
    }
    let mut indexes = BTreeMap::new();
    for collection in catalog.iter() {
        let numbers = segments.remove(&collection.id).unwrap_or_default();
        let index = open_one(files, collection, numbers, deletes.get(&collection.id).copied(), state)?;
        indexes.insert(collection.id, index);
    }
    Ok(indexes)
}

fn open_one(
    files: &Attachments,
    collection: &Collection,
    mut numbers: Vec<(u64, u64)>,
    deletes_file: Option<u64>,
    state: &State,
) -> Result<LiveIndex> {
    numbers.sort_unstable();
    let bitmaps = match deletes_file {
        Some(number) => read_deletes(&file_name(number), (*files.map(number)?).as_ref())?,
        None => BTreeMap::new(),
    };
    let mut segments = Vec::new();
    let mut listed = BTreeMap::new();
    for (first_uid, number) in numbers {
        let name = file_name(number);
        let segment = Segment::open(name.clone(), files.map(number)?)?;
        let deletes = match bitmaps.get(&first_uid) {
            Some(bytes) => Deletes::decode(&name, bytes, segment.docs())?,
            None => Deletes::new(),
        };
        listed.insert(number, SegmentFile { first_uid, documents: segment.docs() });
        segments.push((number, segment, deletes));
    }
    let stats = state.stats.iter().find(|(id, _)| *id == collection.id);
    let index = match stats {
        Some((_, stats)) => {
            let stats = Stats::decode("the database's state", stats)?;
            Index::open(collection.schema.clone(), segments, stats)?
        }
        None if segments.is_empty() => Index::new(collection.schema.clone()),
        None => {
            return Err(Error::corrupt("the database's state", 0, "statistics of a collection are missing"));
        }
    };
    Ok(LiveIndex { deletes_file, segments: listed, ..LiveIndex::new(index) })
}

/// Does one merge of any collection; `false` when none is due.
pub(crate) fn merge_one(store: &Arc<Store>, stop: &dyn Fn() -> bool) -> Result<bool> {
    let picked = {
        let mut live = store.live.lock();
        if live.replacing {
            return Ok(false);
        }
        live.indexes.iter_mut().find_map(|(id, index)| {
            let job = index.index.pick_merge()?;
            index.merging = true;
            Some((*id, job))
        })
    };
    match picked {
        Some((collection, job)) => run_merge(store, collection, job, stop).map(|()| true),
        None => Ok(false),
    }
}

/// Runs a merge and installs it.
pub(crate) fn run_merge(
    store: &Arc<Store>,
    collection: u32,
    job: MergeJob,
    stop: &dyn Fn() -> bool,
) -> Result<()> {
    let result = merge(store, collection, &job, stop);
    if let Some(index) = store.live.lock().indexes.get_mut(&collection) {
        index.merging = false;
        if result.is_err() {
            index.index.abandon_merge(&job);
        }
    }
    store.bell.notify_all();
    match result {
        Err(Error::Cancelled | Error::Closed) => Ok(()),
        other => other,
    }
}

fn merge(store: &Arc<Store>, collection: u32, job: &MergeJob, stop: &dyn Fn() -> bool) -> Result<()> {
    if job.is_memory() {
        let run = job.run_memory();
        let mut live = store.live.lock();
        if let Some(index) = live.indexes.get_mut(&collection) {
            index.index.install_merge(job, Product::Run(run));
            index.dirty = true;
            index.merges += 1;
            let seq = live.applied;
            store.publish(&mut live, seq);
        }
        return Ok(());
    }
    let files = store.engine.attachments();
    let written = write_segment(&files, collection, |out| job.write(out, stop))?;
    let number = written.as_ref().map(|(meta, _)| meta.number);
    let installed = install(store, &files, collection, job, written, stop);
    if !matches!(installed, Ok(true)) {
        // Nothing names the file; should it survive this, the next opening removes it.
        number.into_iter().for_each(|number| files.discard(number));
    }
    installed.map(drop)
}

/// Swaps the inputs of a merge for its product, in memory and in the manifest. `false`: the inputs are gone meanwhile.
fn install(
    store: &Arc<Store>,
    files: &Attachments,
    collection: u32,
    job: &MergeJob,
    written: Option<(AttachmentMeta, SegmentFile)>,
    stop: &dyn Fn() -> bool,
) -> Result<bool> {
    let mut live = store.live.lock();
    // A flush in between has frozen deletes of the very segments that this merge replaces: it goes first.
    while live.indexes.get(&collection).is_some_and(|index| index.flushing) {
        if stop() || store.engine.failure().is_some() {
            return Err(Error::Cancelled);
        }
        drop(live);
        store.engine.work()?; // without threads nobody else would try again what failed for want of room
        live = store.live.lock();
        if live.indexes.get(&collection).is_some_and(|index| index.flushing) {
            store.bell.wait_for(&mut live, std::time::Duration::from_millis(100));
        }
    }
    let Some(index) = live.indexes.get_mut(&collection) else { return Ok(false) };
    let segment = match &written {
        Some((meta, _)) => Some((meta.number, Segment::open(file_name(meta.number), files.map_new(meta)?)?)),
        None => None,
    };
    if !index.index.install_merge(job, Product::Segment(segment)) {
        return Ok(false);
    }
    // From here on an error is final, a full disk included: memory is ahead of the manifest, and only a reopen brings them
    // together.
    let is_final = |error: EngineError| Error::Io { reason: error.to_string() };
    for input in job.inputs() {
        index.segments.remove(&input);
    }
    index.segments.extend(written.as_ref().map(|(meta, file)| (meta.number, *file)));
    let durable = with_files(index.index.durable_deletes(), &index.segments);
    let deletes = write_deletes(files, collection, &durable).map_err(is_final)?;
    let mut edit = AttachmentEdit { detach: job.inputs(), ..AttachmentEdit::default() };
    edit.detach.extend(index.deletes_file);
    index.deletes_file = deletes.as_ref().map(|meta| meta.number);
    edit.attach.extend(written.map(|(meta, _)| meta));
    edit.attach.extend(deletes);
    files.install(edit).map_err(is_final)?;
    index.dirty = true;
    index.merges += 1;
    let seq = live.applied;
    store.publish(&mut live, seq);
    Ok(true)
}
