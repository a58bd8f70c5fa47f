//! Merging the tables of a job into new ones.

use std::sync::atomic::Ordering;

use crate::compaction::picker::Job;
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::flush;
use crate::key::{Op, Seq};
use crate::merge::MergeCursor;
use crate::state::Shared;
use crate::table::builder::{TableBuilder, TableMeta};
use crate::version::edit::Edit;
use crate::version::{LevelCursor, Version};

/// Runs a job and installs its result. Stops early, with nothing done, when `stop` says so.
pub(crate) fn run(shared: &Shared, version: &Version, job: &Job, stop: &dyn Fn() -> bool) -> Result<()> {
    let mut edit = Edit::default();
    edit.remove.extend(job.upper.iter().chain(&job.lower).map(|table| table.meta.number));
    if job.is_move() {
        // The same file under another level: nothing is read or written.
        edit.add.push((job.target as u8, job.upper[0].meta.clone()));
        return move_table(shared, edit, version);
    }
    let Some(outputs) = merge(shared, version, job, stop)? else { return Ok(()) };
    let written: u64 = outputs.iter().map(|meta| meta.len).sum();
    let numbers: Vec<u64> = outputs.iter().map(|meta| meta.number).collect();
    edit.add.extend(outputs.into_iter().map(|meta| (job.target as u8, meta)));
    if shared.commit_compaction(edit, version)? {
        shared.counters.compactions.fetch_add(1, Ordering::Relaxed);
        shared.counters.compacted_bytes.fetch_add(written, Ordering::Relaxed);
    } else {
        for number in numbers {
            let _ = shared.options.vfs.remove(&shared.table_path(number)); // or the next opening does
        }
    }
    Ok(())
}

fn move_table(shared: &Shared, edit: Edit, version: &Version) -> Result<()> {
    if shared.commit_compaction(edit, version)? {
        shared.counters.compactions.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn merge(
    shared: &Shared,
    version: &Version,
    job: &Job,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Vec<TableMeta>>> {
    let mut cursors: Vec<Box<dyn Cursor>> = Vec::new();
    if job.level == 0 {
        cursors.extend(job.upper.iter().map(|table| Box::new(table.cursor(false)) as Box<dyn Cursor>));
    } else {
        cursors.push(Box::new(LevelCursor::new(job.upper.clone(), false)));
    }
    if !job.lower.is_empty() {
        cursors.push(Box::new(LevelCursor::new(job.lower.clone(), false)));
    }
    let mut merged = MergeCursor::new(cursors);
    merged.seek_first()?;
    let mut bottom = BottomCheck { version, from: job.target + 1, at: vec![0; version.levels.len()] };
    let (mut outputs, mut builder) = (Vec::new(), None::<TableBuilder>);
    let (mut read, mut written, mut dropped) = (0u64, 0u64, 0u64);
    let mut last: Option<Vec<u8>> = None;
    while let Some(entry) = merged.entry() {
        read += 1;
        if read % 4096 == 0 && stop() {
            return Ok(None);
        }
        let newest = last.as_deref() != Some(entry.key);
        let kept = newest
            && !version.range_deletes.covers(entry.key, entry.seq, Seq::MAX)
            && !(entry.op == Op::Delete && bottom.is_bottom(entry.key));
        if newest {
            let last = last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(entry.key);
        }
        if kept {
            if builder.as_ref().is_some_and(|builder| builder.size() >= shared.options.table_bytes) {
                outputs.push(builder.take().expect("just seen").finish()?);
            }
            let builder = match &mut builder {
                Some(builder) => builder,
                None => builder.insert(flush::create(shared, job.target)?),
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
    let stated: u64 = job.upper.iter().chain(&job.lower).map(|table| table.meta.entries).sum();
    let counted: u64 = outputs.iter().map(|meta| meta.entries).sum();
    if stated != read || counted != written || written + dropped != read {
        return Err(Error::corrupt(
            job.upper[0].name(),
            0,
            format!(
                "a compaction read {read} entries of {stated}, wrote {counted} of {written}, dropped {dropped}"
            ),
        ));
    }
    Ok(Some(outputs))
}

/// Says whether any level below may hold a key, asked with keys ascending.
struct BottomCheck<'a> {
    version: &'a Version,
    from: usize,
    at: Vec<usize>,
}

impl BottomCheck<'_> {
    fn is_bottom(&mut self, key: &[u8]) -> bool {
        for (level, tables) in self.version.levels.iter().enumerate().skip(self.from) {
            while tables.get(self.at[level]).is_some_and(|table| table.meta.largest.as_slice() < key) {
                self.at[level] += 1;
            }
            if tables.get(self.at[level]).is_some_and(|table| table.meta.smallest.as_slice() <= key) {
                return false;
            }
        }
        true
    }
}
