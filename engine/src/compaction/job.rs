//! Merging the tables of a job into new ones.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::compaction::picker::Job;
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::flush;
use crate::key::{Op, Seq};
use crate::merge::MergeCursor;
use crate::state::Shared;
use crate::table::builder::{TableBuilder, TableMeta};
use crate::table::reader::Table;
use crate::version::edit::Edit;
use crate::version::{RunCursor, SLOTS, Version};

/// Runs a job and installs its result. Stops early, with nothing done, when `stop` says so.
pub(crate) fn run(shared: &Shared, version: &Version, job: &Job, stop: &dyn Fn() -> bool) -> Result<()> {
    let mut edit = Edit::default();
    edit.remove.extend(job.tables().map(|table| table.meta.number));
    let outputs = match job.target {
        None => Vec::new(),
        // The same file in another slot: nothing is read or written.
        Some(target) if job.is_move() => {
            edit.add.extend(job.tables().map(|table| (target as u8, table.meta.clone())));
            Vec::new()
        }
        Some(target) => {
            let Some(outputs) = merge(shared, version, job, target, stop)? else { return Ok(()) };
            edit.add.extend(outputs.iter().map(|meta| (target as u8, meta.clone())));
            outputs
        }
    };
    let read = if job.target.is_none() || job.is_move() { 0 } else { job.tables().map(|t| t.meta.len).sum() };
    if shared.commit_compaction(edit, version)? {
        let written = outputs.iter().map(|meta| meta.len).sum();
        shared.counters.compacted(job.reason, read, written);
    } else {
        for meta in &outputs {
            let _ = shared.options.vfs.remove(&shared.table_path(meta.number)); // or the next opening does
        }
    }
    Ok(())
}

/// Says when an output table is full: at its size; from half of it on where a table of the next run begins, so that a later
/// merge with that run reaches into fewer tables (RocksDB measured an eighth less writing); and at a gap, where it would
/// reach over tables that it says nothing of: one with both ends of a queue would have all between them written again.
struct Cutter<'a> {
    next: &'a [Arc<Table>],
    at: usize,
    bytes_max: u64,
}

/// Tables of the next run that lie between two neighbouring keys where an output is cut.
const GAP_TABLES: usize = 2;

impl<'a> Cutter<'a> {
    fn new(version: &'a Version, target: usize, bytes_max: u64) -> Cutter<'a> {
        let next = (target + 1..SLOTS).find(|&slot| !version.slots[slot].is_empty());
        let next = if target == 0 { None } else { next };
        // One run is one table in slot 0.
        let bytes_max = if target == 0 { u64::MAX } else { bytes_max };
        Cutter { next: next.map_or(&[], |slot| &version.slots[slot]), at: 0, bytes_max }
    }

    /// Whether a table of so many bytes ends before `key`; asked with keys ascending.
    fn cuts(&mut self, key: &[u8], bytes: u64) -> bool {
        let before = self.at;
        while self.next.get(self.at).is_some_and(|table| table.meta.smallest.as_slice() <= key) {
            self.at += 1;
        }
        let begun = self.at - before;
        bytes >= self.bytes_max || (begun > 0 && bytes >= self.bytes_max / 2) || begun > GAP_TABLES
    }
}

fn merge(
    shared: &Shared,
    version: &Version,
    job: &Job,
    target: usize,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Vec<TableMeta>>> {
    let mut cursors: Vec<Box<dyn Cursor>> = Vec::new();
    for input in &job.inputs {
        if input.slot == 0 {
            cursors.extend(input.tables.iter().map(|table| Box::new(table.cursor(false)) as Box<dyn Cursor>));
        } else {
            cursors.push(Box::new(RunCursor::new(input.tables.clone(), false)));
        }
    }
    let mut merged = MergeCursor::new(cursors);
    merged.seek_first()?;
    let mut bottom = BottomCheck::new(version, job, target);
    let mut cutter = Cutter::new(version, target, shared.options.table_bytes);
    // What a table holds is as old as its newest part.
    let written_ms = job.tables().map(|table| table.meta.written_ms).max().unwrap_or(0);
    let (mut outputs, mut builder) = (Vec::new(), None::<TableBuilder>);
    let (mut read, mut written, mut dropped) = (0u64, 0u64, 0u64);
    let mut last: Option<Vec<u8>> = None;
    while let Some(entry) = merged.entry() {
        read += 1;
        if read % 4096 == 0 && stop() {
            return Ok(None);
        }
        let order = last.as_deref().map_or(Ordering::Greater, |last| entry.key.cmp(last));
        if order == Ordering::Less {
            let file = job.inputs[0].tables[0].name();
            return Err(Error::corrupt(file, 0, "a compaction met keys that do not ascend"));
        }
        let newest = order == Ordering::Greater;
        let kept = newest
            && !version.range_deletes.covers(entry.key, entry.seq, Seq::MAX)
            && !(entry.op == Op::Delete && bottom.is_bottom(entry.key));
        if newest {
            let last = last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(entry.key);
        }
        if kept {
            let bytes = builder.as_ref().map_or(0, TableBuilder::size);
            if cutter.cuts(entry.key, bytes)
                && let Some(full) = builder.take()
            {
                outputs.push(full.finish()?);
            }
            let builder = match &mut builder {
                Some(builder) => builder,
                None => builder.insert(flush::create(
                    shared,
                    version.is_cold(target, &shared.options),
                    written_ms,
                )?),
            };
            builder.add(entry)?;
            written += 1;
        } else {
            dropped += 1;
        }
        merged.next()?;
    }
    if let Some(builder) = builder {
        outputs.push(builder.finish()?);
    }
    // What went in must have come out or been dropped on purpose, and inputs must hold what the manifest says.
    let stated: u64 = job.tables().map(|table| table.meta.entries).sum();
    let counted: u64 = outputs.iter().map(|meta| meta.entries).sum();
    if stated != read || counted != written || written + dropped != read {
        return Err(Error::corrupt(
            job.inputs[0].tables[0].name(),
            0,
            format!(
                "a compaction read {read} entries of {stated}, wrote {counted} of {written}, dropped {dropped}"
            ),
        ));
    }
    Ok(Some(outputs))
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
