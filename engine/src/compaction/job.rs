//! Merging the tables of a job into new ones.

use std::sync::Arc;
use std::time::Instant;

use crate::blob::{BlobFile, BlobMap, BlobMeta};
use crate::compaction::plan::Job;
use crate::compaction::progress::{Counts, Progress};
use crate::compaction::upkeep;
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::install::How;
use crate::key::{Entry, Op};
use crate::merge::MergeCursor;
use crate::output::{Fate, Output, Plan, Survivors, read_blob};
use crate::state::Shared;
use crate::table::properties::Times;
use crate::table::reader::Table;
use crate::version::edit::Edit;
use crate::version::{Run, RunCursor, SLOTS, Version, sublevels};

/// Runs a job and installs its result. Stops early when `goes_on`, asked every few thousand entries, denies it; what it has
/// noted of its progress by then is where the next run of the same job begins.
pub(crate) fn run(shared: &Shared, version: &Version, job: &Job, goes_on: &dyn Fn() -> bool) -> Result<()> {
    let started = Instant::now();
    let mut edit = Edit::default();
    edit.remove.extend(job.tables().map(|table| table.meta.number));
    let (mut read, mut written, mut floor) = (0, 0, version.floor);
    let mut outputs = Vec::new();
    match job.target {
        None => {}
        // The same file in another slot: nothing is read or written.
        Some(target) if job.is_move() => {
            edit.add.extend(job.tables().map(|table| (target as u8, table.meta.clone())));
        }
        Some(target) => {
            let before = resumed(shared, job)?;
            let (bytes, entries) = before.as_ref().map_or((0, 0), |noted| (noted.bytes(), noted.counts.read));
            let Some(done) = merge(shared, version, job, target, before, goes_on)? else { return Ok(()) };
            (written, floor) = (done.bytes() - bytes, done.floor);
            outputs = done.paths(shared);
            let all = job.tables().map(|table| table.meta.len).sum::<u64>();
            read = all - all.min(all / done.counts.read.max(1) * entries);
            edit.add.extend(done.tables.into_iter().map(|meta| (target as u8, meta)));
            edit.add_blobs = done.blobs;
        }
    };
    let committed = shared.commit_with(edit, How::Compaction(floor));
    if *committed.as_ref().unwrap_or(&false) {
        shared.counters.compacted(job.reason, read, written);
        shared.watch_disk();
        let (reason, took) = (job.reason.name(), started.elapsed());
        shared.options.tell(&Event::Compacted { reason, read, written, took });
    } else if committed.as_ref().map_or_else(Error::is_disk_full, |_| true) {
        let noted = shared.progress_of(job).map_or(Vec::new(), |noted| noted.paths(shared));
        for path in outputs.iter().filter(|path| !noted.contains(path)) {
            let _ = shared.options.vfs.remove(path); // or the next opening does
        }
        if committed.is_ok() {
            forget(shared, job)?;
        }
    }
    committed.map(drop)
}

/// Drops what was noted of the job's progress.
fn forget(shared: &Shared, job: &Job) -> Result<()> {
    let Some(noted) = shared.progress_of(job) else { return Ok(()) };
    shared.commit(Edit { remove_progress: vec![noted.id()], ..Edit::default() })
}

/// What was noted of the job's progress, if all of it can be read.
fn resumed(shared: &Shared, job: &Job) -> Result<Option<Progress>> {
    let Some(noted) = shared.progress_of(job) else { return Ok(None) };
    let files = &shared.files;
    let open = |meta: &BlobMeta| BlobFile::new(*meta, shared.blob_path(meta.number), files.vfs.clone());
    let blobs: BlobMap = noted.blobs.iter().map(|meta| (meta.uid, Arc::new(open(meta)))).collect();
    // Values that have not moved are where they were.
    let mut value = |entry: &Entry<'_>| match entry.blob_handle().transpose()? {
        Some(handle) if blobs.contains_key(&handle.file) => read_blob(&blobs, handle).map(drop),
        _ => Ok(()),
    };
    for meta in &noted.tables {
        let path = shared.table_path(meta.number);
        let table = Table::new(meta.clone(), path, files.vfs.clone(), files.cache.clone());
        if let Err(error) = table.verify(&mut value) {
            shared.options.tell(&Event::Damaged(error));
            forget(shared, job)?;
            return Ok(None);
        }
    }
    shared.options.tell(&Event::Resumed { reason: job.reason.name(), written: noted.bytes() });
    Ok(Some((*noted).clone()))
}

/// Says when an output table is full: at its size; from half of it on where a table of the next run begins, so that a later
/// merge with that run reaches into fewer tables (RocksDB measured an eighth less writing); and at a gap, where it would
/// reach over tables that it says nothing of: one with both ends of a queue would have all between them written again. And
/// at the keys where flushes are cut, if the strategy merges whole runs, so that it can do it part by part.
pub(super) struct Cutter<'a> {
    next: &'a [Arc<Table>],
    splits: &'a [Vec<u8>],
    at: usize,
    at_split: usize,
    bytes_max: u64,
}

/// Tables of the next run that lie between two neighbouring keys where an output is cut.
const GAP_TABLES: usize = 2;

impl<'a> Cutter<'a> {
    fn new(shared: &Shared, version: &'a Version, target: usize) -> Cutter<'a> {
        let next = (target + 1..SLOTS).find(|&slot| !version.slots[slot].is_empty());
        let next = if target == 0 { None } else { next };
        // What goes to slot 0 is one table.
        let bytes_max = if target == 0 { u64::MAX } else { shared.options.table_bytes };
        let is_cut = target > 0 && shared.picker.merges_split();
        let splits: &[Vec<u8>] = if is_cut { &version.splits } else { &[] };
        Cutter::over(next.map_or(&[], |slot| &version.slots[slot]), splits, bytes_max)
    }

    pub(super) fn over(next: &'a [Arc<Table>], splits: &'a [Vec<u8>], bytes_max: u64) -> Cutter<'a> {
        Cutter { next, splits, at: 0, at_split: 0, bytes_max }
    }

    /// Whether a table of so many bytes ends before `key`; asked with keys ascending.
    pub(super) fn cuts(&mut self, key: &[u8], bytes: u64) -> bool {
        let before = self.at;
        while self.next.get(self.at).is_some_and(|table| table.meta.smallest.as_slice() <= key) {
            self.at += 1;
        }
        let begun = self.at - before;
        let before_split = self.at_split;
        while self.splits.get(self.at_split).is_some_and(|split| split.as_slice() <= key) {
            self.at_split += 1;
        }
        self.at_split > before_split
            || bytes >= self.bytes_max
            || (begun > 0 && bytes >= self.bytes_max / 2)
            || begun > GAP_TABLES
    }
}

/// Merges the tables of a job, from where it was `before`; the answer is the whole of its output.
fn merge(
    shared: &Shared,
    version: &Version,
    job: &Job,
    target: usize,
    before: Option<Progress>,
    goes_on: &dyn Fn() -> bool,
) -> Result<Option<Progress>> {
    let mut cursors: Vec<Box<dyn Cursor>> = Vec::new();
    for input in &job.inputs {
        let runs = if input.slot == 0 { sublevels(&input.tables) } else { vec![input.tables.clone()] };
        let runs = runs.into_iter().map(|run| RunCursor::new(Arc::new(Run::new(run)), false));
        cursors.extend(runs.map(|cursor| Box::new(cursor) as Box<dyn Cursor>));
    }
    let mut bottom = BottomCheck::new(version, job, target);
    let mut cutter = Cutter::new(shared, version, target);
    let times = Times::of(job.tables().map(|table| &table.meta));
    let plan = Plan {
        table: version.table_options(target, times, &shared.options),
        blobs: &version.blobs,
        collect: upkeep::blobs_to_collect(version),
    };
    let mut output = Output::new(shared, plan);
    let mut survivors = Survivors::new(version.floor, shared.options.now_ms(), &version.range_deletes);
    let mut merged = MergeCursor::new(cursors);
    let mut progress = match before {
        Some(progress) => {
            merged.seek(&progress.next_key)?;
            output.follow(progress.tables.clone(), progress.blobs.clone());
            progress
        }
        None => {
            merged.seek_first()?;
            Progress::of(job, target)
        }
    };
    progress.floor = progress.floor.min(version.floor);
    let mut counts = progress.counts;
    let mut since_note = 0;
    let mut last: Vec<u8> = Vec::new();
    let mut is_first = true;
    while let Some(entry) = merged.entry() {
        counts.read += 1;
        if counts.read % 4096 == 0 && !goes_on() {
            return Ok(None);
        }
        if !survivors.follow(entry.key) {
            let file = job.inputs[0].tables[0].name();
            return Err(Error::corrupt(file, 0, "a compaction met keys that do not ascend"));
        }
        let fate = survivors.fate(&entry, &mut |key| bottom.is_bottom(key));
        if fate == Fate::Drop {
            counts.dropped += 1;
        } else {
            // All versions of a key stay in one table: of a run, a reader looks into one.
            if is_first || last != entry.key {
                let bytes = output.table_bytes();
                if cutter.cuts(entry.key, bytes) && bytes > 0 {
                    output.cut()?;
                    since_note += bytes;
                    // What is kept of a key begins with its newest version, so nothing of this one was met before.
                    if since_note >= shared.options.resume_bytes {
                        (progress.tables, progress.blobs) = output.so_far()?;
                        progress.next_key = entry.key.to_vec();
                        progress.counts = Counts { read: counts.read - 1, ..counts };
                        shared.commit(Edit { progress: vec![progress.clone()], ..Edit::default() })?;
                        output.keep();
                        since_note = 0;
                    }
                }
                last.clear();
                last.extend_from_slice(entry.key);
                is_first = false;
            }
            match fate {
                Fate::KeepAsDelete => output.add(Entry { op: Op::Delete, value: &[], ..entry })?,
                _ => output.add(entry)?,
            }
            counts.written += 1;
        }
        merged.next()?;
    }
    let (tables, blobs) = output.so_far()?;
    // What went in must have come out or been dropped on purpose, and inputs must hold what the manifest says.
    let stated: u64 = job.tables().map(|table| table.meta.entries).sum();
    let counted: u64 = tables.iter().map(|meta| meta.entries).sum();
    let Counts { read, written, dropped } = counts;
    if stated != read || counted != written || written + dropped != read {
        return Err(Error::corrupt(
            job.inputs[0].tables[0].name(),
            0,
            format!(
                "a compaction read {read} entries of {stated}, wrote {counted} of {written}, dropped {dropped}"
            ),
        ));
    }
    output.keep();
    Ok(Some(Progress { tables, blobs, counts, ..progress }))
}

/// Says whether anything older than a job's inputs may hold a key, asked with keys ascending.
struct BottomCheck<'a> {
    /// Tables of slot 0 behind the inputs.
    behind: Vec<&'a Arc<Table>>,
    version: &'a Version,
    from: usize,
    at: [usize; SLOTS],
}

impl<'a> BottomCheck<'a> {
    fn new(version: &'a Version, job: &Job, target: usize) -> BottomCheck<'a> {
        let of_job = |table: &Arc<Table>| job.tables().any(|input| input.meta.number == table.meta.number);
        let last = version.slots[0].iter().rposition(of_job);
        let behind = last.map_or(Vec::new(), |last| version.slots[0][last + 1..].iter().collect());
        BottomCheck { behind, version, from: target + 1, at: [0; SLOTS] }
    }

    fn is_bottom(&mut self, key: &[u8]) -> bool {
        if self.behind.iter().any(|table| table.overlaps(key, key)) {
            return false;
        }
        for (slot, tables) in self.version.slots.iter().enumerate().skip(self.from) {
            while tables.get(self.at[slot]).is_some_and(|table| table.meta.largest.as_slice() < key) {
                self.at[slot] += 1;
            }
            if tables.get(self.at[slot]).is_some_and(|table| table.meta.smallest.as_slice() <= key) {
                return false;
            }
        }
        true
    }
}
