//! A frozen memory becomes a level-0 table and attachments, installed together by one manifest record.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::attachment::Attachments;
use crate::cursor::Cursor;
use crate::error::Result;
use crate::key::Seq;
use crate::log::Log;
use crate::memtable::Memtable;
use crate::range_delete::RangeDeletes;
use crate::state::{FlushTask, Shared};
use crate::table::builder::{TableBuilder, TableMeta, TableOptions};
use crate::table::footer::Codec;
use crate::version::edit::Edit;

/// Writes and installs one frozen memory. `log` is the engine's own, whose position the record carries.
pub(crate) fn run(shared: &Arc<Shared>, mut task: FlushTask, log: Option<&Log>) -> Result<()> {
    if let Some(log) = log {
        // Tables must not run ahead of the log: what a failed sync left in doubt stays out of them.
        log.sync(log.end())?;
    }
    let mut edit = Edit { durable_seq: Some(task.seq), ..Edit::default() };
    edit.add_ranges = task.memtable.range_deletes();
    if !edit.add_ranges.is_empty() {
        // Taken before the table's number: the table is written with them in force and needs no rewriting for them.
        let floor = shared.next_file();
        edit.add_ranges.iter_mut().for_each(|range| range.floor = floor);
    }
    if let Some(meta) = write_table(shared, &task.memtable)? {
        shared.counters.flushed_bytes.fetch_add(meta.len, Ordering::Relaxed);
        edit.add.push((0, meta));
    }
    edit.log = log.map(Log::durable);
    let files = Attachments { shared: shared.clone() };
    if let Some(attached) = &mut task.attached {
        edit.attachments = attached.write(&files)?;
    }
    shared.commit_flush(edit, Some(&task.memtable))?;
    shared.counters.flushes.fetch_add(1, Ordering::Relaxed);
    if let Some(attached) = task.attached {
        attached.installed(&files)?;
    }
    if let Some(log) = log {
        log.purge(task.seq)?;
    }
    Ok(())
}

/// The newest version of each key; `None` when there is nothing to write. Deletes are kept: older tables may hold the key.
fn write_table(shared: &Shared, memtable: &Memtable) -> Result<Option<TableMeta>> {
    let ranges = RangeDeletes::new(memtable.range_deletes());
    let mut cursor = memtable.cursor();
    cursor.seek_first()?;
    let mut builder = None;
    let mut last: Option<Vec<u8>> = None;
    while let Some(entry) = cursor.entry() {
        let newest = last.as_deref() != Some(entry.key);
        if newest {
            match &mut last {
                Some(last) => {
                    last.clear();
                    last.extend_from_slice(entry.key);
                }
                None => last = Some(entry.key.to_vec()),
            }
            if !ranges.covers(entry.key, entry.seq, Seq::MAX) {
                let builder = match &mut builder {
                    Some(builder) => builder,
                    None => builder.insert(create(shared, false, shared.options.now_ms())?),
                };
                builder.add(entry)?;
            }
        }
        cursor.next()?;
    }
    builder.map(TableBuilder::finish).transpose()
}

/// A builder for a table. Most are packed fast (lz4), cold ones small (zstd). What it holds was written up to `written_ms`.
pub(crate) fn create(shared: &Shared, is_cold: bool, written_ms: u64) -> Result<TableBuilder> {
    let number = shared.next_file();
    let options = TableOptions {
        block_bytes: if is_cold { 2 * shared.options.block_bytes } else { shared.options.block_bytes },
        filter_bits: shared.options.filter_bits,
        codec: if is_cold { Codec::Zstd } else { Codec::Lz4 },
        written_ms,
    };
    let uid = (shared.options.random)();
    TableBuilder::create(&*shared.options.vfs, &shared.table_path(number), number, uid, options)
}
