//! A frozen memory becomes a level-0 table and attachments, installed together by one manifest record.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::attachment::Attachments;
use crate::blob::NO_BLOBS;
use crate::cursor::Cursor;
use crate::error::Result;
use crate::key::{Entry, Op};
use crate::log::Log;
use crate::output::{Fate, Output, Plan, Survivors};
use crate::range_delete::WAITING;
use crate::state::{FlushTask, How, Shared};
use crate::version::Version;
use crate::version::edit::Edit;

/// Writes and installs one frozen memory. `log` is the engine's own, whose position the record carries.
pub(crate) fn run(shared: &Arc<Shared>, task: &mut FlushTask, log: Option<&Log>) -> Result<()> {
    if let Some(log) = log {
        // Tables must not run ahead of the log: what a failed sync left in doubt stays out of them.
        log.sync(log.end())?;
    }
    let version = shared.view.load().version.clone();
    let floor = version.floor.max(task.seq.saturating_sub(shared.options.retain_seqs));
    let mut edit = Edit { durable_seq: Some(task.seq), floor: Some(floor), ..Edit::default() };
    // Range deletes that no reader looks behind any more come into force for all tables to come, this one included: those
    // need no rewriting for them.
    let waiting = version.range_deletes.list().iter().filter(|range| range.floor == WAITING);
    edit.remove_ranges = waiting.filter(|range| range.seq <= floor).cloned().collect();
    edit.add_ranges = task.memtable.range_deletes().list().to_vec();
    edit.add_ranges.extend_from_slice(&edit.remove_ranges);
    if edit.add_ranges.iter().any(|range| range.seq <= floor) {
        let number = shared.next_file();
        let in_force = edit.add_ranges.iter_mut().filter(|range| range.seq <= floor);
        in_force.for_each(|range| range.floor = number);
    }
    write_table(shared, &version, task, &mut edit)?;
    edit.log = log.map(Log::durable);
    let files = Attachments { shared: shared.clone() };
    if let Some(attached) = &mut task.attached {
        edit.attachments = attached.write(&files)?;
    }
    shared.commit_with(edit, How::Flush(&task.memtable))?;
    shared.counters.flushes.fetch_add(1, Ordering::Relaxed);
    if let Some(attached) = task.attached.take() {
        attached.installed(&files)?;
    }
    if let Some(log) = log {
        log.purge(task.seq)?;
    }
    Ok(())
}

/// Writes what readers may still see. Deletes are kept: older tables may hold the key.
fn write_table(shared: &Shared, version: &Version, task: &FlushTask, edit: &mut Edit) -> Result<()> {
    let floor = edit.floor.unwrap_or(version.floor);
    let (ranges, now) = (task.memtable.range_deletes(), shared.options.now_ms());
    let mut survivors = Survivors::new(floor, now, &ranges);
    let table = version.table_options(0, now, &shared.options);
    let mut output = Output::new(shared, Plan { table, blobs: &NO_BLOBS, collect: Vec::new() });
    let mut cursor = task.memtable.cursor();
    cursor.seek_first()?;
    while let Some(entry) = cursor.entry() {
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
    Ok(())
}
