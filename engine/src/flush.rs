//! A frozen memory becomes a level-0 table and attachments, installed together by one manifest record.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::attachment::Attachments;
use crate::blob::NO_BLOBS;
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::install::How;
use crate::key::{Entry, Op};
use crate::log::Log;
use crate::output::{Fate, Output, Plan, Survivors};
use crate::range_delete::{RangeDelete, WAITING};
use crate::state::{FlushTask, Shared};
use crate::table::properties::Times;
use crate::version::Version;
use crate::version::edit::Edit;

/// Writes and installs one frozen memory, and answers how many bytes that were. `log` is the engine's own, whose position
/// the record carries. After an error nothing has changed, and it may be tried again, unless it was committed.
pub(crate) fn run(shared: &Arc<Shared>, task: &mut FlushTask, log: Option<&Log>) -> Result<u64> {
    if let Some(log) = log {
        // Tables must not run ahead of the log: what a failed sync left in doubt stays out of them.
        log.sync(log.end())?;
    }
    let version = shared.view.load().version.clone();
    let floor = version.floor.max(task.seq.saturating_sub(shared.options.retain_seqs));
    let mut edit = Edit { durable_seq: Some(task.seq), floor: Some(floor), ..Edit::default() };
    edit.add_ranges = task.memtable.range_deletes().list().to_vec();
    bring_into_force(shared, &version, &mut edit);
    let bytes = write_table(shared, &version, task, &mut edit)?;
    edit.log = log.map(Log::durable);
    let files = Attachments { shared: shared.clone() };
    let numbers: Vec<u64> = edit.add.iter().map(|(_, meta)| meta.number).collect();
    let written: Vec<PathBuf> = numbers.iter().map(|&number| shared.table_path(number)).collect();
    let written = written.into_iter().chain(edit.add_blobs.iter().map(|meta| shared.blob_path(meta.number)));
    let leftovers = Leftovers { shared, paths: written.collect() };
    if let Some(attached) = &mut task.attached {
        edit.attachments = attached.write(&files)?;
    }
    let attached: Vec<u64> = edit.attachments.attach.iter().map(|meta| meta.number).collect();
    let committed = shared.commit_with(edit, How::Flush(&task.memtable));
    if committed.as_ref().is_err_and(Error::is_disk_full) {
        attached.iter().for_each(|&number| files.discard(number));
    } else {
        leftovers.may_be_live(); // after any other error it is not known
    }
    committed?;
    task.committed = true;
    shared.watch_disk();
    shared.counters.flushes.fetch_add(1, Ordering::Relaxed);
    if let Some(attached) = task.attached.take() {
        attached.installed(&files)?;
    }
    match log.map_or(Ok(()), |log| log.purge(task.seq)) {
        // The next flush sees to it.
        Err(error) if error.is_disk_full() => Ok(bytes),
        purged => purged.map(|()| bytes),
    }
}

/// Range deletes that no reader looks behind any more, the floor of `edit` being where it will be, come into force for all
/// tables to come, those of `edit` included: they need no rewriting for them.
pub(crate) fn bring_into_force(shared: &Shared, version: &Version, edit: &mut Edit) {
    let floor = edit.floor.unwrap_or(version.floor);
    let is_due = |range: &&RangeDelete| range.floor == WAITING && range.seq <= floor;
    edit.remove_ranges.extend(version.range_deletes.list().iter().filter(is_due).cloned());
    edit.add_ranges.extend(edit.remove_ranges.iter().cloned());
    if edit.add_ranges.iter().any(|range| is_due(&range)) {
        let number = shared.next_file();
        let due = edit.add_ranges.iter_mut().filter(|range| is_due(&&**range));
        due.for_each(|range| range.floor = number);
    }
}

/// Files that go unless they become live.
struct Leftovers<'a> {
    shared: &'a Shared,
    paths: Vec<PathBuf>,
}

impl Leftovers<'_> {
    fn may_be_live(mut self) {
        self.paths.clear();
    }
}

impl Drop for Leftovers<'_> {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = self.shared.options.vfs.remove(path); // or the next opening does
        }
    }
}

/// Writes what readers may still see. Deletes are kept: older tables may hold the key.
fn write_table(shared: &Shared, version: &Version, task: &FlushTask, edit: &mut Edit) -> Result<u64> {
    let floor = edit.floor.unwrap_or(version.floor);
    let (ranges, now) = (task.memtable.range_deletes(), shared.options.now_ms());
    let mut survivors = Survivors::new(floor, now, &ranges);
    let table = version.table_options(0, Times::of_flush(now), &shared.options);
    let mut output = Output::new(shared, Plan { table, blobs: &NO_BLOBS, collect: Vec::new() });
    let splits = splits(shared, version, edit);
    let mut ahead = splits.iter().peekable();
    let mut cursor = task.memtable.cursor();
    cursor.seek_first()?;
    while let Some(entry) = cursor.entry() {
        if ahead.next_if(|split| split.as_slice() <= entry.key).is_some() {
            while ahead.next_if(|split| split.as_slice() <= entry.key).is_some() {}
            output.cut()?;
        }
        match survivors.fate(&entry, &mut |_| false) {
            Fate::Keep => output.add(entry)?,
            Fate::KeepAsDelete => output.add(Entry { op: Op::Delete, value: &[], ..entry })?,
            Fate::Drop => {}
        }
        cursor.next()?;
    }
    let (tables, blobs) = output.finish()?;
    let bytes: u64 = tables.iter().map(|t| t.len).chain(blobs.iter().map(|b| b.len)).sum();
    shared.counters.flushed_bytes.fetch_add(bytes, Ordering::Relaxed);
    edit.add.extend(tables.into_iter().map(|meta| (0, meta)));
    edit.add_blobs = blobs;
    Ok(bytes)
}

/// A flush is cut into so many tables at most.
const PARTS_MAX: usize = 8;

/// Where the output is cut. The keys stay as long as they may, because only tables that were cut alike can be compacted part
/// by part.
fn splits(shared: &Shared, version: &Version, edit: &mut Edit) -> Vec<Vec<u8>> {
    let options = &shared.options;
    // A part is no smaller than an eighth of a table of the levels below.
    let parts = ((options.memtable_bytes as u64).saturating_mul(8) / options.table_bytes.max(1))
        .min(PARTS_MAX as u64) as usize;
    let Some(splits) = shared.picker.splits(version, parts) else { return version.splits.clone() };
    if splits != version.splits {
        edit.splits = Some(splits.clone());
    }
    splits
}
