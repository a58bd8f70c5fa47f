//! Taking in many rows at once, already sorted, past log and memtable: they become tables where they lie, and appear all
//! at once, by one manifest edit, in place of whatever was in a range of keys if that is wanted.

use std::sync::Arc;

use crate::batch::{KEY_BYTES_MAX, VALUE_BYTES_MAX, check_len};
use crate::blob::NO_BLOBS;
use crate::compaction::picker::Picker;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::inspect::printable;
use crate::key::{Entry, Op, Seq};
use crate::output::{Output, Plan};
use crate::range_delete::{RangeDelete, WAITING};
use crate::state::Shared;
use crate::table::properties::{TableMeta, Times};
use crate::version::edit::Edit;
use crate::version::{SLOTS, Version};

/// Rows on their way in. Nothing of them is seen before [`Ingestion::commit`]; dropped, they are gone.
pub struct Ingestion<'e> {
    engine: &'e Engine,
    shared: &'e Shared,
    output: Output<'e>,
    /// Bytes taken in since there was looked for room.
    since_look: u64,
    last: Option<Vec<u8>>,
    replaced: Option<(Vec<u8>, Vec<u8>)>,
    stored: Vec<u8>,
}

impl<'e> Ingestion<'e> {
    pub(crate) fn new(engine: &'e Engine, shared: &'e Arc<Shared>) -> Ingestion<'e> {
        let options = &shared.options;
        let version = shared.view.load().version.clone();
        let table = version.table_options(SLOTS - 1, Times::of_flush(options.now_ms()), options);
        let output = Output::new(shared, Plan { table, blobs: &NO_BLOBS, collect: Vec::new() });
        Ingestion { engine, shared, output, since_look: 0, last: None, replaced: None, stored: Vec::new() }
    }

    /// Adds a row. Keys ascend strictly: else [`Error::OutOfOrder`], and the row is left out.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.add(Op::Put, key, value)
    }

    /// Adds a row that expires at `expiry`, in milliseconds since 1970.
    pub fn put_until(&mut self, key: &[u8], value: &[u8], expiry: u64) -> Result<()> {
        let mut stored = std::mem::take(&mut self.stored);
        stored.clear();
        stored.extend_from_slice(&expiry.to_le_bytes());
        stored.extend_from_slice(value);
        let added = self.add(Op::PutUntil, key, &stored);
        self.stored = stored;
        added
    }

    fn add(&mut self, op: Op, key: &[u8], stored: &[u8]) -> Result<()> {
        check_len("a key", key.len(), KEY_BYTES_MAX)?;
        check_len("a value", stored.len() - op.prefix_bytes(), VALUE_BYTES_MAX)?;
        if let Some(last) = self.last.as_deref().filter(|last| *last >= key) {
            return Err(Error::OutOfOrder { key: printable(key), after: printable(last) });
        }
        let table_bytes = self.shared.options.table_bytes;
        if self.output.table_bytes() >= table_bytes {
            self.output.cut()?;
        }
        // Values in blob files are not in the table, and take room too.
        self.since_look += (key.len() + stored.len()) as u64;
        if self.since_look >= table_bytes {
            self.since_look = 0;
            if self.shared.room() < table_bytes {
                return Err(self.shared.no_room()); // what is in reserve is not for this
            }
        }
        self.output.add(Entry { key, seq: 0, op, value: stored })?;
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        Ok(())
    }

    /// Has everything that is in `[start, end)` at the commit removed by it. The rows taken in may lie in it or not.
    pub fn replace(&mut self, start: &[u8], end: &[u8]) {
        self.replaced = Some((start.to_vec(), end.to_vec()));
    }

    /// Makes all rows durable and visible at once, and answers their sequence number. Other writers wait meanwhile for what
    /// is in memory to be flushed. Only with [`Options::log`](crate::Options::log).
    pub fn commit(self) -> Result<Seq> {
        let Ingestion { engine, mut output, replaced, .. } = self;
        let (tables, blobs) = output.so_far()?;
        let committed = engine.commit_ingested(&mut |seq| {
            let mut edit = Edit { durable_seq: Some(seq), add_blobs: blobs.clone(), ..Edit::default() };
            for meta in &tables {
                edit.add.push((0, TableMeta { seq_base: seq, ..meta.clone() }));
            }
            if let Some((start, end)) = replaced.clone() {
                edit.add_ranges.push(RangeDelete { start, end, seq, floor: WAITING });
            }
            edit
        });
        // Without room it was not begun; of all else nobody knows whether the manifest names it, and if not, the next opening
        // removes it.
        if !committed.as_ref().is_err_and(Error::is_disk_full) {
            output.keep();
        }
        let seq = committed?;
        engine.after_ingestion(seq)?;
        Ok(seq)
    }
}

/// Puts new tables, which are newer than all others and do not overlap each other, as deep as nothing is in their way; into
/// level 0 if the strategy keeps tables in the order in which they came.
pub(crate) fn place(version: &Version, picker: &dyn Picker, edit: &mut Edit) {
    if picker.keeps_order() {
        return; // they are there already
    }
    let deepest = (1..SLOTS).rev().find(|&slot| !version.slots[slot].is_empty()).unwrap_or(SLOTS - 1);
    for (slot, meta) in &mut edit.add {
        let is_free = |slot: &usize| {
            let tables = version.slots[*slot].iter();
            !tables.clone().any(|table| table.overlaps(&meta.smallest, &meta.largest))
        };
        *slot = (0..=deepest).take_while(is_free).last().unwrap_or(0) as u8;
    }
}
