//! How an edit comes into force: a record in the manifest, then the next version for everybody who reads.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::compaction::progress::Progress;
use crate::error::Result;
use crate::gaps::Gaps;
use crate::ingest;
use crate::key::Seq;
use crate::memtable::Memtable;
use crate::range_delete::{RangeDelete, RangeDeletes, WAITING};
use crate::state::Shared;
use crate::sync::atomic::Ordering;
use crate::table::properties::TableMeta;
use crate::table::reader::Table;
use crate::version::Version;
use crate::version::edit::Edit;
use crate::version::manifest;
use crate::view::View;

/// What an edit comes from.
#[derive(Clone, Copy)]
pub(crate) enum How<'a> {
    /// A flush of this memtable, which goes in the same swap.
    Flush(&'a Arc<Memtable>),
    /// A compaction whose output heeds the range deletes up to this seq, and no others.
    Compaction(Seq),
    /// Tables that were made elsewhere, are newer than all others and become visible as this seq; all memory is flushed,
    /// and nobody writes.
    Ingest(Seq),
    /// A set of files in place of everything.
    Install,
    /// Something that touches no table.
    Alone,
}

impl Shared {
    /// Makes an edit durable and swaps the version. `false`: a compaction has lost what it relied on, nothing was done.
    pub(crate) fn commit_with(&self, edit: Edit, how: How<'_>) -> Result<bool> {
        if !matches!(how, How::Install) {
            return self.commit_edit(edit, how);
        }
        // What waits to be flushed is older than what comes: if it comes.
        let mut work = self.work.lock();
        while work.flushing {
            self.bell.wait(&mut work);
        }
        let waiting = std::mem::take(&mut work.queue);
        drop(work);
        let committed = self.commit_edit(edit, how);
        if committed.is_err() {
            let mut work = self.work.lock();
            let later = std::mem::replace(&mut work.queue, waiting);
            work.queue.extend(later);
            self.bell.notify_all();
        }
        committed
    }

    fn commit_edit(&self, mut edit: Edit, how: How<'_>) -> Result<bool> {
        let mut manifest = self.manifest.lock();
        let before = self.view.load().version.clone();
        match how {
            How::Compaction(_) if !fits(&edit, &before) => return Ok(false),
            How::Ingest(_) => ingest::place(&before, &*self.picker, &mut edit),
            How::Install => {
                edit.remove = before.slots.iter().flatten().map(|table| table.meta.number).collect();
                edit.attachments.detach = before.attachments.keys().copied().collect();
                edit.remove_blobs = before.blobs.keys().copied().collect();
                // What is in both stays: an edit adds before it removes.
                edit.remove_ranges = replaced(before.range_deletes.list(), &mut edit.add_ranges);
                edit.remove_quarantines = replaced(&before.quarantines, &mut edit.add_quarantines);
            }
            _ => {}
        }
        self.heed_later(&before, &mut edit, how);
        let mut after = (*before).clone();
        manifest::apply(&mut after, &edit, &self.files)?;
        drop_covered(&before, &mut after, &mut edit);
        drop_unused_blobs(&before, &mut after, &mut edit);
        // What a compaction has noted goes with its first input that goes.
        let has_ended = |progress: &&Arc<Progress>| progress.job(&after).is_none();
        edit.remove_progress.extend(after.progress.iter().filter(has_ended).map(|progress| progress.id()));
        after.progress.retain(|progress| !edit.remove_progress.contains(&progress.id()));
        let next_file = self.next_file.load(Ordering::Relaxed);
        edit.next_file = Some(next_file);
        // The names of new files must be durable before a record names them.
        let names_files = !(edit.add.is_empty() && edit.add_blobs.is_empty());
        if names_files || !(edit.progress.is_empty() && edit.attachments.attach.is_empty()) {
            let synced = self.options.vfs.sync_dir(&self.dir);
            synced.map_err(|e| crate::log::sync_failed(&self.dir, &e.0))?;
        }
        manifest.write(&edit, &after, next_file)?;
        make_obsolete(&before, &after, &edit);
        self.remove_unfinished(&before, &after);
        drop(before);
        self.show(after, how);
        Ok(true)
    }

    /// Lets readers see the version.
    fn show(&self, after: Version, how: How<'_>) {
        let _work = self.work.lock();
        let view = self.view.load();
        let (mut active, mut frozen) = (view.active.clone(), view.frozen.clone());
        let mut gaps = view.gaps.clone();
        match how {
            How::Flush(flushed) => frozen.retain(|memtable| !Arc::ptr_eq(memtable, flushed)),
            // Visible first: readers wait for the view. Older ones would miss what went, and not see what came for it.
            How::Ingest(seq) => {
                active.end(self.visible.load(Ordering::Acquire));
                active = self.new_memtable();
                gaps = Arc::new(Gaps::new(seq));
                self.visible.fetch_max(seq, Ordering::AcqRel);
            }
            How::Install => {
                active.end(self.visible.load(Ordering::Acquire));
                (active, frozen) = (self.new_memtable(), Vec::new());
                gaps = Arc::new(Gaps::new(after.durable_seq));
                self.visible.store(after.durable_seq, Ordering::Release);
            }
            How::Compaction(_) | How::Alone => {}
        }
        self.swap(View::new(active, frozen, Arc::new(after), gaps, self.counters.clone()));
        self.bell.notify_all();
    }

    /// Tables that were written without heeding a range delete in force have to be rewritten for it: its floor rises above
    /// their numbers.
    fn heed_later(&self, before: &Version, edit: &mut Edit, how: How<'_>) {
        let misses = |range: &RangeDelete, meta: &TableMeta| {
            let after_all = RangeDelete { floor: u64::MAX, ..range.clone() };
            meta.number >= range.floor && RangeDeletes::touches(&after_all, meta)
        };
        if let How::Compaction(floor) = how {
            let in_force = before.range_deletes.list().iter().filter(|range| range.floor != WAITING);
            let outputs = |range: &&RangeDelete| edit.add.iter().any(|(_, meta)| misses(range, meta));
            let missed: Vec<_> =
                in_force.filter(|range| range.seq > floor).filter(outputs).cloned().collect();
            edit.add_ranges
                .extend(missed.iter().cloned().map(|r| RangeDelete { floor: self.next_file(), ..r }));
            edit.remove_ranges.extend(missed);
            return;
        }
        // A compaction may have ended between the moment at which a range delete got its floor and now.
        for range in edit.add_ranges.iter_mut().filter(|range| range.floor != WAITING) {
            if before.slots.iter().flatten().any(|table| misses(range, &table.meta)) {
                range.floor = self.next_file();
            }
        }
    }

    /// Removes what compactions have noted and will not end.
    fn remove_unfinished(&self, before: &Version, after: &Version) {
        if before.progress.is_empty() {
            return;
        }
        let mut kept: Vec<PathBuf> = after.files().iter().map(|(name, _)| self.dir.join(name)).collect();
        kept.extend(after.progress.iter().flat_map(|progress| progress.paths(self)));
        for path in before.progress.iter().flat_map(|progress| progress.paths(self)) {
            if !kept.contains(&path) {
                let _ = self.options.vfs.remove(&path); // or the next opening does
            }
        }
    }

    /// Makes an edit durable that changes attachments only.
    pub(crate) fn commit(&self, edit: Edit) -> Result<()> {
        self.commit_with(edit, How::Alone).map(drop)
    }
}

/// What goes of `before` when `after` comes in its place; of that, what was there already need not come.
fn replaced<T: Clone + PartialEq>(before: &[T], after: &mut Vec<T>) -> Vec<T> {
    let goes = before.iter().filter(|it| !after.contains(it)).cloned().collect();
    after.retain(|it| !before.contains(it));
    goes
}

/// Whether what a compaction relied on still holds: its inputs are there, and nothing has come to where they go.
fn fits(edit: &Edit, before: &Version) -> bool {
    let is_free = |(slot, meta): &(u8, TableMeta)| {
        let others =
            before.slots[usize::from(*slot)].iter().filter(|table| !edit.remove.contains(&table.meta.number));
        *slot == 0 || !others.clone().any(|table| table.overlaps(&meta.smallest, &meta.largest))
    };
    edit.remove.iter().all(|&number| is_live(before, number)) && edit.add.iter().all(is_free)
}

/// Whether a version has a table of this number.
fn is_live(version: &Version, number: u64) -> bool {
    version.slots.iter().flatten().any(|table| table.meta.number == number)
}

/// Tables that lie wholly under a range delete go in the same record, and then the deletes that nothing needs.
fn drop_covered(before: &Version, after: &mut Version, edit: &mut Edit) {
    let ranges = &after.range_deletes;
    if ranges.is_empty() {
        return;
    }
    let covered = |t: &&Arc<Table>| {
        ranges.cover_table(&t.meta.smallest, &t.meta.largest, t.meta.max_seq(), after.floor)
    };
    let numbers: Vec<u64> = after.slots.iter().flatten().filter(covered).map(|t| t.meta.number).collect();
    for slot in &mut after.slots {
        slot.retain(|table| {
            let goes = numbers.contains(&table.meta.number);
            if goes && !is_live(before, table.meta.number) {
                table.make_obsolete(); // nothing has named it yet
            }
            !goes
        });
    }
    edit.add.retain(|(_, meta)| !numbers.contains(&meta.number));
    edit.remove.extend(numbers.into_iter().filter(|&number| is_live(before, number)));
    after.arrange();
    let ended = after.quarantines.iter().filter(|unknown| unknown.ends_by(&after.range_deletes, after.floor));
    edit.remove_quarantines.extend(ended.cloned().collect::<Vec<_>>());
    after.quarantines.retain(|unknown| !edit.remove_quarantines.contains(unknown));
    edit.remove_ranges.extend(manifest::idle_ranges(after));
    edit.remove_ranges.extend(after.range_deletes.hidden());
    let removed: HashSet<&RangeDelete> = edit.remove_ranges.iter().collect();
    let kept = after.range_deletes.list().iter().filter(|range| !removed.contains(range)).cloned();
    after.range_deletes = RangeDeletes::new(kept.collect());
}

/// A blob file goes with the last table that points into it.
fn drop_unused_blobs(before: &Version, after: &mut Version, edit: &mut Edit) {
    let used = after.blob_bytes_used();
    let is_used = |uid: &u64| used.get(uid).is_some_and(|&bytes| bytes > 0);
    for blob in after.blobs.values().filter(|blob| !is_used(&blob.meta.uid)) {
        match before.blobs.contains_key(&blob.meta.uid) {
            true => edit.remove_blobs.push(blob.meta.uid),
            false => blob.make_obsolete(), // nothing has named it yet
        }
    }
    edit.add_blobs.retain(|meta| is_used(&meta.uid));
    after.blobs.retain(|uid, _| is_used(uid));
}

/// Files that went are removed once nobody reads them.
fn make_obsolete(before: &Version, after: &Version, edit: &Edit) {
    // A set, for there may be many thousands.
    let live: HashSet<u64> = after.slots.iter().flatten().map(|table| table.meta.number).collect();
    for table in before.slots.iter().flatten().filter(|table| !live.contains(&table.meta.number)) {
        table.make_obsolete();
    }
    for (uid, blob) in &before.blobs {
        if after.blobs.get(uid).is_none_or(|other| other.meta.number != blob.meta.number) {
            blob.make_obsolete();
        }
    }
    for number in &edit.attachments.detach {
        if let Some(attachment) = before.attachments.get(number) {
            attachment.make_obsolete();
        }
    }
}
