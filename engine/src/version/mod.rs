//! A version: which tables make up each slot, and which attachments there are, at one moment. Immutable; a change makes
//! a new one.

pub(crate) mod edit;
pub(crate) mod manifest;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::attachment::AttachmentMap;
use crate::blob::BlobMap;
use crate::compaction::progress::Progress;
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::key::{Entry, Seq};
use crate::options::Options;
use crate::output::read_blob;
use crate::quarantine::Quarantine;
use crate::range_delete::RangeDeletes;
use crate::slice::Found;
use crate::table::builder::TableOptions;
use crate::table::cursor::TableCursor;
use crate::table::filter::FilterKind;
use crate::table::footer::Codec;
use crate::table::properties::Times;
use crate::table::reader::{Reach, Table};

/// How many slots there are.
pub(crate) const SLOTS: usize = 16;

/// Bits per key that filters of slot 0 and the first run have beyond the others.
const MORE_BITS: usize = 4;

/// A store is large when its oldest run has so many times the bytes of the first level.
const COLD_FROM: u64 = 100;

/// Tables by slot. In slot 0 they overlap, newest first; each other slot is one sorted run, and a deeper one is older.
#[derive(Clone, Default)]
pub(crate) struct Version {
    pub slots: [Vec<Arc<Table>>; SLOTS],
    /// What readers look through: all tables as sorted runs, newest first, none of them empty. Those of slot 0, where each
    /// table lies in the first run above all older ones that it overlaps (Pebble's sublevels), then the other slots. Follows
    /// from the slots.
    pub runs: Vec<Arc<Run>>,
    /// How many of the runs are slot 0's.
    pub depth: usize,
    /// Keys at which flushes cut their output, and merges of whole runs theirs, so that parts of them can be compacted by
    /// themselves; ascending. They stay the same as long as they may, so that the cuts of all tables fall together.
    pub splits: Vec<Vec<u8>>,
    pub attachments: AttachmentMap,
    pub range_deletes: RangeDeletes,
    /// Everything up to here is in the tables and attachments.
    pub durable_seq: Seq,
    /// What readers below this seq would see may be gone.
    pub floor: Seq,
    /// The attachment owner's state at `durable_seq`.
    pub state: Arc<Vec<u8>>,
    /// Keys that cannot be answered for.
    pub quarantines: Vec<Quarantine>,
    /// Blob files that tables point into.
    pub blobs: BlobMap,
    /// Compactions that have written a part of their output.
    pub progress: Vec<Arc<Progress>>,
}

impl Version {
    /// The newest version of `key` with a seq of at most `at`. `hash` is the filter hash of the key.
    pub(crate) fn get(&self, key: &[u8], hash: u64, at: Seq, reach: Reach) -> Result<Option<Found>> {
        for run in &self.runs {
            if let Some(table) = run.tables.get(run.find(key)) {
                if let Some(found) = table.get(key, hash, at, reach)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// Cursors that together walk all tables.
    pub(crate) fn cursors<'a>(&self, out: &mut Vec<Box<dyn Cursor + 'a>>) {
        for run in &self.runs {
            out.push(Box::new(RunCursor::new(run.clone(), true)));
        }
    }

    /// Brings what follows from the slots up to date.
    pub(crate) fn arrange(&mut self) {
        let sublevels = sublevels(&self.slots[0]);
        self.depth = sublevels.len();
        let slots = self.slots[1..].iter().filter(|tables| !tables.is_empty()).cloned();
        let runs = sublevels.into_iter().chain(slots).map(|tables| match self.run_of(&tables) {
            Some(run) => run,
            None => Arc::new(Run::new(tables)),
        });
        self.runs = runs.collect();
    }

    /// The run of just these tables that is there already.
    fn run_of(&self, tables: &[Arc<Table>]) -> Option<Arc<Run>> {
        let is_same = |run: &&Arc<Run>| {
            run.tables.len() == tables.len() && run.tables.iter().zip(tables).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        self.runs.iter().find(is_same).cloned()
    }

    /// Keys that cut `slot` into at most `parts` of like size: between its tables.
    pub(crate) fn quantiles(&self, slot: usize, parts: usize) -> Vec<Vec<u8>> {
        let run = &self.slots[slot];
        let parts = parts.min(run.len());
        (1..parts).map(|part| run[part * run.len() / parts].meta.smallest.clone()).collect()
    }

    /// Tables of `slot` that touch a key range. Not for slot 0, whose tables are in no order of keys.
    pub(crate) fn overlapping(&self, slot: usize, smallest: &[u8], largest: &[u8]) -> Vec<Arc<Table>> {
        let tables = &self.slots[slot];
        let from = tables.partition_point(|table| table.meta.largest.as_slice() < smallest);
        let to = tables.partition_point(|table| table.meta.smallest.as_slice() <= largest);
        tables[from..to.max(from)].to_vec()
    }

    /// Bytes of a slot.
    pub(crate) fn slot_bytes(&self, slot: usize) -> u64 {
        self.slots[slot].iter().map(|table| table.meta.len).sum()
    }

    /// The same data without what only concerns this store's background.
    pub(crate) fn without_progress(&self) -> Version {
        Version { progress: Vec::new(), ..self.clone() }
    }

    /// Name and length of every file.
    pub(crate) fn files(&self) -> Vec<(String, u64)> {
        let tables = self.slots.iter().flatten().map(|table| (table.name(), table.meta.len));
        let blobs = self.blobs.values().map(|blob| (crate::blob::name(blob.meta.number), blob.meta.len));
        let attachments =
            self.attachments.values().map(|a| (crate::attachment::name(a.meta.number), a.meta.len));
        tables.chain(blobs).chain(attachments).collect()
    }

    /// Whether any entry expires.
    pub(crate) fn expires(&self) -> bool {
        self.slots.iter().flatten().any(|table| table.meta.expiring > 0)
    }

    /// Whether `slot` is the newest run, or what comes before all runs.
    pub(crate) fn is_first(&self, slot: usize) -> bool {
        (1..slot).all(|newer| self.slots[newer].is_empty())
    }

    /// How tables for `slot` are made. In the oldest run are most of the data, and most looks into it find something: its
    /// filters are exact and small. Into slot 0 and the first run nearly every read looks, mostly in vain: they get more
    /// bits (Dayan et al., "Monkey", SIGMOD 2017). What is written there once is packed for speed, the oldest run of a
    /// large store for room.
    pub(crate) fn table_options(&self, slot: usize, times: Times, options: &Options) -> TableOptions {
        let is_oldest = slot > 0 && (slot + 1..SLOTS).all(|deeper| self.slots[deeper].is_empty());
        let is_cold = is_oldest && self.slot_bytes(slot) >= options.level_bytes.saturating_mul(COLD_FROM);
        let filter = match options.filter_bits {
            0 => FilterKind::None,
            _ if is_oldest => FilterKind::Fuse,
            bits if self.is_first(slot) => FilterKind::Bloom(bits + MORE_BITS),
            bits => FilterKind::Bloom(bits),
        };
        TableOptions {
            block_bytes: if is_cold { 2 * options.block_bytes } else { options.block_bytes },
            filter,
            codec: if is_cold { Codec::Zstd } else { Codec::Lz4 },
            times,
        }
    }

    /// Bytes of tables that lie over no older one, and of values in blob files that are pointed to.
    pub(crate) fn live_bytes(&self) -> u64 {
        let mut bytes = 0;
        let mut met: BTreeMap<&[u8], &[u8]> = BTreeMap::new(); // stretches of keys that share no key: first and last
        for table in self.runs.iter().rev().flat_map(|run| &run.tables) {
            let (smallest, largest) = (table.meta.smallest.as_slice(), table.meta.largest.as_slice());
            let before = met.range(..=largest).next_back();
            if before.is_none_or(|(_, last)| *last < smallest) {
                bytes += table.meta.len;
                met.insert(smallest, largest);
            }
        }
        bytes + self.blob_bytes_used().values().sum::<u64>()
    }

    /// The table with this number, and where it is.
    pub(crate) fn table(&self, number: u64) -> Option<(usize, &Arc<Table>)> {
        let mut tables =
            self.slots.iter().enumerate().flat_map(|(slot, run)| run.iter().map(move |t| (slot, t)));
        tables.find(|(_, table)| table.meta.number == number)
    }

    /// Reads a table and the values that it points to.
    pub(crate) fn verify(&self, table: &Table) -> Damage {
        let mut damage = Damage::default();
        let read = table.verify(&mut |entry| {
            let value =
                entry.blob_handle().map_or(Ok(()), |handle| read_blob(&self.blobs, handle?).map(drop));
            match value {
                Err(Error::Corrupt { file, offset, reason }) => {
                    let error = Error::corrupt(&*file, offset, reason);
                    damage.values.entry(file).or_insert(error);
                    Ok(())
                }
                value => value,
            }
        });
        match read {
            Err(error @ Error::Corrupt { .. }) => damage.table = Some(error),
            read => damage.unread = read.err(),
        }
        damage
    }

    /// Bytes of each blob file that tables still point to, by uid.
    pub(crate) fn blob_bytes_used(&self) -> BTreeMap<u64, u64> {
        let mut used: BTreeMap<u64, u64> = self.blobs.keys().map(|&uid| (uid, 0)).collect();
        for (file, bytes) in self.slots.iter().flatten().flat_map(|table| &table.meta.blobs) {
            *used.entry(*file).or_default() += bytes;
        }
        used
    }
}

/// What was found when a table was read.
#[derive(Default)]
pub(crate) struct Damage {
    /// In the table.
    pub table: Option<Error>,
    /// In the blob files that it points into, by their names: the first of each, since all of one may be lost together.
    pub values: BTreeMap<String, Error>,
    /// Why not all of it was read, if the disk did not give it.
    pub unread: Option<Error>,
}

/// Tables that may overlap, newest first, as sorted runs, newest first.
pub(crate) fn sublevels(tables: &[Arc<Table>]) -> Vec<Vec<Arc<Table>>> {
    let mut runs: Vec<Vec<Arc<Table>>> = Vec::new();
    for table in tables.iter().rev() {
        let reached = |run: &Vec<Arc<Table>>| {
            let at = run.partition_point(|other| other.meta.largest < table.meta.smallest);
            run.get(at).is_some_and(|other| other.meta.smallest <= table.meta.largest)
        };
        let level = runs.iter().rposition(reached).map_or(0, |newest| newest + 1);
        if level == runs.len() {
            runs.push(Vec::new());
        }
        let at = runs[level].partition_point(|other| other.meta.smallest < table.meta.smallest);
        runs[level].insert(at, table.clone());
    }
    runs.reverse();
    runs
}

/// Tables that do not overlap, in the order of their keys.
pub(crate) struct Run {
    pub tables: Vec<Arc<Table>>,
    /// The beginning of each table's largest key, as a number that sorts like it.
    heads: Vec<u64>,
}

/// The first bytes of a key as a number; a shorter key is filled up with zeros.
fn head(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = key.len().min(8);
    bytes[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(bytes)
}

impl Run {
    pub(crate) fn new(tables: Vec<Arc<Table>>) -> Run {
        let heads = tables.iter().map(|table| head(&table.meta.largest)).collect();
        Run { tables, heads }
    }

    /// The number of the first table whose largest key is at least `key`.
    #[inline]
    pub(crate) fn find(&self, key: &[u8]) -> usize {
        let wanted = head(key);
        let mut at = self.heads.partition_point(|&head| head < wanted);
        // Equal heads say nothing of the rest.
        while self.heads.get(at) == Some(&wanted) && self.tables[at].meta.largest.as_slice() < key {
            at += 1;
        }
        at
    }
}

/// Walks the tables of one sorted, disjoint run as one.
pub(crate) struct RunCursor {
    run: Arc<Run>,
    /// Which table the cursor is in; as many as there are for none.
    at: usize,
    cursor: Option<TableCursor<Arc<Table>>>,
    keep: bool,
}

impl RunCursor {
    pub(crate) fn new(run: Arc<Run>, keep: bool) -> RunCursor {
        RunCursor { at: run.tables.len(), run, cursor: None, keep }
    }

    fn enter(
        &mut self,
        at: usize,
        place: impl FnOnce(&mut TableCursor<Arc<Table>>) -> Result<()>,
    ) -> Result<()> {
        self.at = at;
        self.cursor = None;
        if let Some(table) = self.run.tables.get(at) {
            let mut cursor = table.cursor(self.keep);
            place(&mut cursor)?;
            self.cursor = Some(cursor);
        }
        Ok(())
    }

    fn stands(&self) -> bool {
        self.entry().is_some()
    }
}

impl Cursor for RunCursor {
    fn seek_first(&mut self) -> Result<()> {
        self.enter(0, TableCursor::seek_first)
    }

    fn seek_last(&mut self) -> Result<()> {
        match self.run.tables.len().checked_sub(1) {
            Some(last) => self.enter(last, TableCursor::seek_last),
            None => Ok(()),
        }
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.enter(self.run.find(key), |cursor| cursor.seek(key))
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        let tables = &self.run.tables;
        match tables.partition_point(|table| table.meta.smallest.as_slice() < key).checked_sub(1) {
            Some(at) => self.enter(at, |cursor| cursor.seek_before(key)),
            None => self.enter(tables.len(), |_| Ok(())),
        }
    }

    fn next(&mut self) -> Result<()> {
        if let Some(cursor) = &mut self.cursor {
            cursor.next()?;
            if !self.stands() {
                self.enter(self.at + 1, TableCursor::seek_first)?;
            }
        }
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        if let Some(cursor) = &mut self.cursor {
            cursor.prev()?;
            if !self.stands() {
                match self.at.checked_sub(1) {
                    Some(before) => self.enter(before, TableCursor::seek_last)?,
                    None => self.cursor = None,
                }
            }
        }
        Ok(())
    }

    fn entry(&self) -> Option<Entry<'_>> {
        self.cursor.as_ref()?.entry()
    }

    fn out_of_order(&self) -> Error {
        match &self.cursor {
            Some(cursor) => cursor.out_of_order(),
            None => Error::corrupt("a run", 0, "keys do not ascend"),
        }
    }
}
