//! The log of changes: what is live, on disk.
//!
//! `<n>.manifest` files are log segments (see [`log`](crate::log)) whose records are edits; a snapshot record is an edit
//! from nothing. Opening replays them, writes a fresh snapshot and lets the older files go. Every edit is synced and
//! then vouched for by a further record, so that damage to the last one cannot be mistaken for a torn tail.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::attachment::Attachment;
use crate::blob::BlobFile;
use crate::error::{Error, Result};
use crate::key::Seq;
use crate::log::{Kind, Log, LogOptions, Position};
use crate::options::Options;
use crate::range_delete::{RangeDelete, RangeDeletes, WAITING};
use crate::table::cache::BlockCache;
use crate::table::reader::Table;
use crate::version::edit::Edit;
use crate::version::{SLOTS, Version};
use crate::vfs::Vfs;

/// File ending of manifest segments.
pub(crate) const EXTENSION: &str = "manifest";
/// Edits are folded into a fresh snapshot after this many bytes, or four times the last snapshot.
const SNAPSHOT_AFTER_BYTES: u64 = 4 << 20;

/// No table has so many bytes or entries; sums and products of less are counted with.
pub(crate) const NUMBERS_END: u64 = 1 << 48;

/// Builds live handles for what edits name.
pub(crate) struct Files {
    pub vfs: Arc<dyn Vfs>,
    pub dir: std::path::PathBuf,
    pub cache: Arc<BlockCache>,
}

/// The open manifest.
pub(crate) struct Manifest {
    log: Log,
    /// Number of the last record.
    last: u64,
    since_snapshot: u64,
    snapshot_bytes: u64,
}

/// What the manifest says at opening.
pub(crate) struct Opened {
    pub manifest: Manifest,
    pub version: Version,
    pub next_file: u64,
    pub log: Option<Position>,
}

/// The state that edits add up to, as plain data.
#[derive(Default)]
struct Replay {
    whole: Option<Edit>,
}

impl Replay {
    fn apply(&mut self, kind: Kind, edit: Edit) -> std::result::Result<(), String> {
        if kind == Kind::Snapshot {
            self.whole = Some(edit);
            return Ok(());
        }
        // Edits in front of the first snapshot continue a file that is gone; the snapshot holds what they did.
        let Some(whole) = &mut self.whole else { return Ok(()) };
        whole.next_file = edit.next_file.or(whole.next_file);
        whole.durable_seq = edit.durable_seq.or(whole.durable_seq);
        whole.log = edit.log.or(whole.log);
        whole.floor = edit.floor.or(whole.floor);
        whole.splits = edit.splits.or(whole.splits.take());
        if edit.attachments.state.is_some() {
            whole.attachments.state = edit.attachments.state;
        }
        for number in edit.remove {
            let before = whole.add.len();
            whole.add.retain(|(_, meta)| meta.number != number);
            if whole.add.len() == before {
                return Err(format!("an edit removes table {number}, which is not there"));
            }
        }
        for number in edit.attachments.detach {
            let before = whole.attachments.attach.len();
            whole.attachments.attach.retain(|meta| meta.number != number);
            if whole.attachments.attach.len() == before {
                return Err(format!("an edit detaches file {number}, which is not there"));
            }
        }
        for uid in edit.remove_blobs {
            let before = whole.add_blobs.len();
            whole.add_blobs.retain(|meta| meta.uid != uid);
            if whole.add_blobs.len() == before {
                return Err(format!("an edit removes the blob file {uid:016x}, which is not there"));
            }
        }
        whole.progress.retain(|progress| !edit.progress.iter().any(|later| later.id() == progress.id()));
        whole.progress.extend(edit.progress);
        whole.progress.retain(|progress| !edit.remove_progress.contains(&progress.id()));
        whole.add_blobs.extend(edit.add_blobs);
        whole.add.extend(edit.add);
        whole.attachments.attach.extend(edit.attachments.attach);
        whole.add_quarantines.extend(edit.add_quarantines);
        whole.add_quarantines.retain(|quarantine| !edit.remove_quarantines.contains(quarantine));
        whole.add_ranges.extend(edit.add_ranges);
        whole.add_ranges.retain(|range| !edit.remove_ranges.contains(range));
        Ok(())
    }
}

impl Manifest {
    /// `leftover` is a file that only a manifest can have named.
    pub(crate) fn open(
        dir: &Path,
        options: &Options,
        files: &Files,
        leftover: Option<&str>,
    ) -> Result<Opened> {
        let mut replay = Replay::default();
        let (log, recovery) =
            Log::open(options.vfs.clone(), log_options(dir, options), None, 1, &mut |seq, kind, payload| {
                let bad = |reason: String| Error::corrupt(format!("the manifest, record {seq}"), 0, reason);
                let edit = Edit::decode(payload).ok_or_else(|| bad("malformed edit".into()))?;
                replay.apply(kind, edit).map_err(bad)
            })?;
        let fresh = recovery.last_seq.is_none();
        if let (true, Some(name)) = (fresh, leftover) {
            return Err(Error::corrupt("the manifest", 0, format!("it is empty, but {name} is there")));
        }
        if !fresh && replay.whole.is_none() {
            return Err(Error::corrupt(
                "the manifest",
                0,
                "it holds no snapshot, so what is live is unknown",
            ));
        }
        let whole = replay.whole.unwrap_or_default();
        check(&whole).map_err(|reason| Error::corrupt("the manifest", 0, reason))?;
        let mut version = Version::default();
        apply(&mut version, &whole, files)?;
        let mut manifest =
            Manifest { log, last: recovery.last_seq.unwrap_or(0), since_snapshot: 0, snapshot_bytes: 0 };
        let next_file = whole.next_file.unwrap_or(1);
        manifest.write_snapshot(&version, next_file, whole.log)?;
        Ok(Opened { manifest, version, next_file, log: whole.log })
    }

    /// Makes an edit durable. The caller then swaps the version. After [`Error::is_disk_full`] nothing has happened.
    pub(crate) fn write(&mut self, edit: &Edit, after: &Version, next_file: u64) -> Result<()> {
        let bytes = edit.encode();
        self.since_snapshot += bytes.len() as u64;
        self.append(Kind::Edit, &bytes)?;
        if self.since_snapshot > SNAPSHOT_AFTER_BYTES.max(4 * self.snapshot_bytes) {
            let folded = self.write_snapshot(after, next_file, edit.log);
            return or_later(folded);
        }
        Ok(())
    }

    pub(crate) fn seal(&self) -> Result<()> {
        self.log.seal()
    }

    fn append(&mut self, kind: Kind, bytes: &[u8]) -> Result<()> {
        let end = self.log.append(self.last + 1, kind, &[bytes])?;
        self.last += 1;
        self.log.sync(end)?;
        or_later(self.log.vouch())
    }

    fn write_snapshot(&mut self, version: &Version, next_file: u64, log: Option<Position>) -> Result<()> {
        let whole = whole(version, next_file, log);
        let bytes = whole.encode();
        self.append(Kind::Snapshot, &bytes)?;
        self.snapshot_bytes = bytes.len() as u64;
        self.since_snapshot = 0;
        self.log.purge(self.last - 1)
    }
}

/// What is only good to have, once the edit is durable: when the disk is full, the next edit sees to it.
fn or_later(result: Result<()>) -> Result<()> {
    result.or_else(|error| if error.is_disk_full() { Ok(()) } else { Err(error) })
}

fn log_options(dir: &Path, options: &Options) -> LogOptions {
    LogOptions {
        dir: dir.to_path_buf(),
        extension: EXTENSION,
        segment_bytes: 1 << 20,
        first_segment_bytes: 4096,
        kinds: &[Kind::Edit, Kind::Snapshot],
        from_seq: 0,
        uuid: None,
        random: options.random,
    }
}

/// Everything that is live, as an edit from nothing.
pub(crate) fn whole(version: &Version, next_file: u64, log: Option<Position>) -> Edit {
    let mut whole = Edit {
        next_file: Some(next_file),
        durable_seq: Some(version.durable_seq),
        floor: Some(version.floor),
        splits: Some(version.splits.clone()),
        add_quarantines: version.quarantines.clone(),
        progress: version.progress.iter().map(|progress| (**progress).clone()).collect(),
        log,
        add_ranges: version.range_deletes.list().to_vec(),
        ..Edit::default()
    };
    whole.attachments.state = Some(version.state.to_vec());
    whole.attachments.attach = version.attachments.values().map(|a| a.meta.clone()).collect();
    whole.add_blobs = version.blobs.values().map(|blob| blob.meta).collect();
    for (slot, tables) in version.slots.iter().enumerate() {
        // Oldest first, as edits would have added them.
        whole.add.extend(tables.iter().rev().map(|table| (slot as u8, table.meta.clone())));
    }
    whole
}

/// Writes the manifest of a store whose files lie in `dir` already, and which nobody has open.
pub(crate) fn write_alone(dir: &Path, options: &Options, version: &Version, next_file: u64) -> Result<()> {
    let log_options = log_options(dir, options);
    let (log, _) = Log::open(options.vfs.clone(), log_options, None, 1, &mut |_, _, _| Ok(()))?;
    let mut manifest = Manifest { log, last: 0, since_snapshot: 0, snapshot_bytes: 0 };
    manifest.write_snapshot(version, next_file, None)?;
    manifest.seal()
}

/// Whether what the manifest adds up to can be: what is written next gets the next seq and the next file number.
pub(crate) fn check(whole: &Edit) -> std::result::Result<(), String> {
    let (durable, next_file) = (whole.durable_seq.unwrap_or(0), whole.next_file.unwrap_or(1));
    if durable == Seq::MAX {
        return Err("no seq can follow the durable one".into());
    }
    if next_file >= NUMBERS_END {
        return Err(format!("the next file cannot be {next_file}"));
    }
    let mut numbers = HashSet::new();
    let of_progress = whole.progress.iter().flat_map(|progress| &progress.tables);
    for meta in whole.add.iter().map(|(_, meta)| meta).chain(of_progress) {
        let blob_bytes = meta.blobs.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
        let is_sound = meta.len.max(meta.entries).max(meta.raw_bytes).max(blob_bytes) < NUMBERS_END
            && meta.deletes.max(meta.expiring).max(meta.shadowed) <= meta.entries
            && meta.close_deletes <= meta.deletes
            && meta.oldest_ms <= meta.written_ms
            && meta.smallest <= meta.largest
            && meta.min_seq <= meta.max_seq
            && meta.max_seq() <= durable
            && meta.number < next_file
            && numbers.insert(meta.number);
        if !is_sound {
            return Err(format!("table {} cannot be: {meta:?}, durable seq {durable}", meta.number));
        }
    }
    let blobs = || whole.add_blobs.iter().chain(whole.progress.iter().flat_map(|progress| &progress.blobs));
    if let Some(meta) = blobs().find(|meta| meta.len >= NUMBERS_END || meta.number >= next_file) {
        return Err(format!("blob file {} cannot be: {meta:?}", meta.number));
    }
    if let Some(meta) = whole.attachments.attach.iter().find(|meta| meta.number >= next_file) {
        return Err(format!("attachment {} cannot be, the next file is {next_file}", meta.number));
    }
    let is_there = |&(slot, number): &(u8, u64)| {
        whole.add.iter().any(|(other, meta)| (*other, meta.number) == (slot, number))
    };
    for progress in &whole.progress {
        let counts = progress.counts;
        let counted = counts.written.checked_add(counts.dropped) == Some(counts.read);
        let entries: u64 = progress.tables.iter().map(|meta| meta.entries).sum();
        let is_sound = counted && counts.written == entries && progress.inputs.iter().all(is_there);
        if !is_sound || progress.inputs.is_empty() {
            return Err(format!("progress of a compaction of table {} cannot be: {counts:?}", progress.id()));
        }
    }
    // In force is only what no reader looks behind; else compactions would heed it again and again.
    let is_unsound = |range: &RangeDelete| range.floor > next_file || range.seq > whole.floor.unwrap_or(0);
    let cannot_be =
        |range: &&RangeDelete| range.seq > durable || (range.floor != WAITING && is_unsound(range));
    match whole.add_ranges.iter().find(cannot_be) {
        Some(range) => Err(format!("a range delete cannot be: {range:?}, durable seq {durable}")),
        None => Ok(()),
    }
}

/// Changes `version` by `edit`; removed files are told that they are obsolete by the caller, once the edit is durable.
pub(crate) fn apply(version: &mut Version, edit: &Edit, files: &Files) -> Result<()> {
    let mut removed: Vec<Arc<Table>> = Vec::new();
    for slot in &mut version.slots {
        removed.extend(slot.extract_if(.., |table| edit.remove.contains(&table.meta.number)));
    }
    for (slot, meta) in &edit.add {
        let slot = usize::from(*slot);
        if slot >= SLOTS {
            let reason = format!("table {} is in slot {slot}", meta.number);
            return Err(Error::corrupt("the manifest", 0, reason));
        }
        let table = match removed.iter().find(|table| table.meta.number == meta.number) {
            Some(table) => table.moved(),
            None => {
                let path = files.dir.join(crate::table::name(meta.number));
                Table::new(meta.clone(), path, files.vfs.clone(), files.cache.clone())
            }
        };
        if version.is_first(slot) {
            table.pin();
        }
        let table = Arc::new(table);
        let at = match slot {
            // Runs are merged with their neighbours only, so their seqs never overlap.
            0 => version.slots[0].partition_point(|other| other.meta.max_seq() > meta.max_seq()),
            _ => version.slots[slot].partition_point(|other| other.meta.smallest < meta.smallest),
        };
        version.slots[slot].insert(at, table);
    }
    for run in &version.slots[1..] {
        if let Some(pair) = run.windows(2).find(|pair| pair[0].meta.largest >= pair[1].meta.smallest) {
            let (a, b) = (pair[0].meta.number, pair[1].meta.number);
            let reason = format!("tables {a} and {b} of one run overlap");
            return Err(Error::corrupt("the manifest", 0, reason));
        }
    }
    for number in &edit.attachments.detach {
        version.attachments.remove(number);
    }
    for meta in &edit.attachments.attach {
        let path = files.dir.join(crate::attachment::name(meta.number));
        let attachment = Attachment::new(meta.clone(), path, files.vfs.clone());
        version.attachments.insert(meta.number, Arc::new(attachment));
    }
    if let Some(state) = &edit.attachments.state {
        version.state = Arc::new(state.clone());
    }
    if let Some(seq) = edit.durable_seq {
        version.durable_seq = seq;
    }
    version.floor = version.floor.max(edit.floor.unwrap_or(0));
    for uid in &edit.remove_blobs {
        version.blobs.remove(uid);
    }
    for meta in &edit.add_blobs {
        let path = files.dir.join(crate::blob::name(meta.number));
        version.blobs.insert(meta.uid, Arc::new(BlobFile::new(*meta, path, files.vfs.clone())));
    }
    version.progress.retain(|progress| !edit.progress.iter().any(|later| later.id() == progress.id()));
    version.progress.extend(edit.progress.iter().map(|progress| Arc::new(progress.clone())));
    version.progress.retain(|progress| !edit.remove_progress.contains(&progress.id()));
    let mut ranges = version.range_deletes.list().to_vec();
    ranges.extend(edit.add_ranges.iter().cloned());
    let removed: HashSet<&RangeDelete> = edit.remove_ranges.iter().collect();
    ranges.retain(|range| !removed.contains(range));
    version.range_deletes = RangeDeletes::new(ranges);
    version.quarantines.extend(edit.add_quarantines.iter().cloned());
    version.quarantines.retain(|quarantine| !edit.remove_quarantines.contains(quarantine));
    if let Some(splits) = &edit.splits {
        version.splits = splits.clone();
    }
    version.arrange();
    Ok(())
}

/// Range deletes that no table needs any more: nothing older lies under them.
pub(crate) fn idle_ranges(version: &Version) -> Vec<RangeDelete> {
    let needed = |range: &RangeDelete| {
        version.slots.iter().flatten().any(|table| RangeDeletes::touches(range, &table.meta))
            || version.quarantines.iter().any(|quarantine| quarantine.is_touched_by(range))
    };
    version.range_deletes.list().iter().filter(|range| !needed(range)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::properties::{Properties, TableMeta};

    fn table(number: u64) -> TableMeta {
        let (smallest, largest) = (b"a".to_vec(), b"b".to_vec());
        let sizes = Properties { uid: 1, entries: 2, deletes: 1, raw_bytes: 10, ..Properties::default() };
        let stated = Properties { smallest, largest, min_seq: 3, max_seq: 5, ..sizes };
        TableMeta { number, seq_base: 0, len: 100, stated }
    }

    #[test]
    fn numbers_that_the_next_write_would_trip_over_are_refused() {
        let range = RangeDelete { start: b"a".to_vec(), end: b"b".to_vec(), seq: 5, floor: 3 };
        let sound = Edit {
            next_file: Some(3),
            durable_seq: Some(5),
            floor: Some(5),
            add: vec![(0, table(1)), (1, table(2))],
            add_ranges: vec![range],
            ..Edit::default()
        };
        assert_eq!(check(&sound), Ok(()));
        let wrong: [fn(&mut Edit); 13] = [
            |edit| edit.durable_seq = Some(Seq::MAX),
            |edit| edit.durable_seq = Some(4),
            |edit| edit.next_file = Some(2),
            |edit| edit.add[0].1.number = 2,
            |edit| edit.add[0].1.stated.deletes = 3,
            |edit| edit.add[0].1.stated.close_deletes = 3,
            |edit| edit.add[0].1.stated.shadowed = 3,
            |edit| edit.add[0].1.stated.min_seq = edit.add[0].1.stated.max_seq + 1,
            |edit| edit.add[0].1.stated.oldest_ms = edit.add[0].1.stated.written_ms + 1,
            |edit| edit.add[0].1.stated.smallest = b"c".to_vec(),
            |edit| edit.add_ranges[0].seq = 6,
            |edit| edit.add_ranges[0].floor = 4,
            |edit| edit.floor = Some(4),
        ];
        for (n, change) in wrong.iter().enumerate() {
            let mut edit = sound.clone();
            change(&mut edit);
            assert!(check(&edit).is_err(), "{n}");
        }
    }
}
