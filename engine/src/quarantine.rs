//! Keys of which a part of a table cannot be read any more: reads of them fail by name, all others go on.
//!
//! When a compaction or a scrub meets a block that is not what was written, the table is written anew without it, and the
//! keys that the block may have held (its neighbours in the index tell) are quarantined: what was written there up to the
//! newest seq of the table is unknown. A newer version of a key is answered; a key without one is an error, never a guess. A
//! range delete over the keys, or rows taken in over them ([`Ingestion::replace`](crate::ingest::Ingestion::replace)), ends
//! it. The damaged file stays beside the others as `<number>.sst.damaged`, for people.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use crate::coding::{Decoder, put_slice, put_varint};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::inspect::printable;
use crate::install::How;
use crate::key::Seq;
use crate::output::{Output, Plan};
use crate::range_delete::{RangeDelete, RangeDeletes};
use crate::state::Shared;
use crate::table::properties::Times;
use crate::table::reader::Table;
use crate::version::edit::Edit;

/// Versions up to `max_seq` of keys in `[start, end)` are unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// First key.
    pub start: Vec<u8>,
    /// First key after them.
    pub end: Vec<u8>,
    /// Newer versions are known.
    pub max_seq: Seq,
    /// The file that was damaged.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// How.
    pub reason: String,
}

impl fmt::Display for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (printable(&self.start), printable(&self.end));
        let Quarantine { max_seq, file, offset, .. } = self;
        write!(f, "quarantine {start}..{end} up to seq {max_seq}: {file} at offset {offset}")
    }
}

impl Quarantine {
    /// `start slice ‖ end slice ‖ max_seq varint ‖ file slice ‖ offset varint ‖ reason slice`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_slice(out, &self.start);
        put_slice(out, &self.end);
        put_varint(out, self.max_seq);
        put_slice(out, self.file.as_bytes());
        put_varint(out, self.offset);
        put_slice(out, self.reason.as_bytes());
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Option<Quarantine> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some(Quarantine {
            start: decoder.slice()?.to_vec(),
            end: decoder.slice()?.to_vec(),
            max_seq: decoder.varint()?,
            file: text(decoder.slice()?),
            offset: decoder.varint()?,
            reason: text(decoder.slice()?),
        })
    }

    pub(crate) fn error(&self) -> Error {
        Error::corrupt(self.file.clone(), self.offset, self.reason.clone())
    }

    /// Whether range deletes take away everything that is unknown, for who reads at `at`.
    pub(crate) fn ends_by(&self, deletes: &RangeDeletes, at: Seq) -> bool {
        deletes.cover_all(&self.start, Bound::Excluded(&self.end), self.max_seq, at)
    }

    /// Whether `range` takes away a part of it.
    pub(crate) fn is_touched_by(&self, range: &RangeDelete) -> bool {
        range.seq > self.max_seq && range.start < self.end && self.start < range.end
    }
}

/// Writes `table` anew without what cannot be read of it, and quarantines that. `false`: all of it can be read, or it is not
/// there any more. Nothing else may be at work on it.
pub(crate) fn isolate(shared: &Shared, table: &Arc<Table>) -> Result<bool> {
    loop {
        let version = shared.view.load().version.clone();
        let is_here = |tables: &Vec<Arc<Table>>| tables.iter().any(|other| Arc::ptr_eq(other, table));
        let Some(slot) = version.slots.iter().position(is_here) else { return Ok(false) };
        let options = version.table_options(slot, Times::of(std::iter::once(&table.meta)), &shared.options);
        let plan = Plan { table: options, blobs: &version.blobs, collect: Vec::new() };
        let mut output = Output::new(shared, plan);
        let damage = table.salvage(&mut |entry| {
            // As every table to come is: without what range deletes in force cover.
            let is_gone = version.range_deletes.covers(entry.key, entry.seq, version.floor);
            if is_gone { Ok(()) } else { output.add(entry) }
        })?;
        if damage.is_empty() {
            return Ok(false);
        }
        let (tables, blobs) = output.finish()?;
        let written: Vec<_> = tables.iter().map(|meta| shared.table_path(meta.number)).collect();
        let mut edit = Edit { remove: vec![table.meta.number], add_blobs: blobs, ..Edit::default() };
        edit.add.extend(tables.into_iter().map(|meta| (slot as u8, meta)));
        for (start, end, error) in &damage {
            let Error::Corrupt { file, offset, reason } = error else { return Err(error.clone()) };
            edit.add_quarantines.push(Quarantine {
                start: start.clone(),
                end: end.clone(),
                max_seq: table.meta.max_seq(),
                file: file.clone(),
                offset: *offset,
                reason: reason.clone(),
            });
        }
        let kept = shared.dir.join(format!("{}.damaged", table.name()));
        // One that is there already is of an earlier try that did not come to its end.
        let _ = shared.options.vfs.remove(&kept);
        let path = shared.table_path(table.meta.number);
        let _ = shared.options.vfs.link(&path, &kept); // good to have; a file that is missing cannot be kept
        if shared.commit_with(edit, How::Compaction(version.floor))? {
            damage.into_iter().for_each(|(.., error)| shared.options.tell(&Event::Damaged(error)));
            return Ok(true);
        }
        // The table has gone meanwhile, or its place was taken: once more.
        for path in &written {
            let _ = shared.options.vfs.remove(path); // or the next opening does
        }
    }
}
