//! The parts of a collection over time: one writer appends, deletes, freezes and installs; readers take views.
//!
//! ```text
//! uid order   segment │ segment │ … │ frozen runs │ runs
//! ```
//! Every append makes a run. Small runs are merged upward at once, eight into one, up to 512 documents; larger ones by
//! jobs. A freeze takes all runs into a [`FlushJob`]; they stay searchable until the segment is installed in their place.
//!
//! Each segment has three bitmaps: `current` (what searches leave out), `durable` (those of the last installed flush:
//! only these may be dropped by a merge) and `pending` (those of the flush under way).

use crate::deletes::Deletes;
use crate::document::NewDocument;
use crate::error::Error;
use crate::jobs::{FlushJob, MergeJob, Product};
use crate::memory::Run;
use crate::merge::{Input, into_run};
use crate::part::Part;
use crate::schema::{FieldId, Schema};
use crate::segment::reader::Segment;
use crate::stats::Stats;
use crate::view::{Slice, View};
use std::sync::Arc;

/// So many neighbours are merged into one.
const FAN_IN: usize = 8;
/// Merges of runs inside `append` make no more documents than this.
const INLINE_DOCS: u32 = 512;
/// With more free runs than this, `append` merges larger ones too.
const RUNS_MAX: usize = 64;
/// Run merges stay under this, so that a run's offsets fit.
const RUN_MERGE_BYTES_MAX: u64 = 1 << 30;
/// Segments up to this size count as equally small.
const SEGMENT_FLOOR_BYTES: u64 = 1 << 20;

#[derive(Debug)]
struct Slot {
    serial: u64,
    part: Part,
    file: Option<u64>,
    current: Deletes,
    durable: Deletes,
    pending: Option<Deletes>,
    /// An input of a merge that is under way.
    busy: bool,
    /// A run of the flush that is under way.
    frozen: bool,
}

impl Slot {
    fn is_free_run(&self) -> bool {
        self.file.is_none() && !self.busy && !self.frozen
    }
}

/// The index of one collection.
#[derive(Debug)]
pub struct Index {
    schema: Arc<Schema>,
    slots: Vec<Slot>,
    stats: Stats,
    next_serial: u64,
    /// Something was appended or deleted since the last freeze.
    changed: bool,
    flushing: bool,
}

impl Index {
    /// An empty index.
    pub fn new(schema: Arc<Schema>) -> Index {
        let stats = Stats::new(schema.fields().len());
        Index { schema, slots: Vec::new(), stats, next_serial: 0, changed: false, flushing: false }
    }

    /// The index of these segments, each with the caller's id and its deletes, as of the last flush.
    pub fn open(
        schema: Arc<Schema>,
        segments: Vec<(u64, Segment, Deletes)>,
        mut stats: Stats,
    ) -> Result<Index, Error> {
        let mut index = Index::new(schema);
        stats.fields.resize_with(index.schema.fields().len(), Default::default);
        index.stats = stats;
        for (file, segment, deletes) in segments {
            let part = Part::Segment(Arc::new(segment));
            if !part.fits(&index.schema) {
                let Part::Segment(segment) = part else { continue };
                return Err(Error::Schema { file: segment.name().to_owned() });
            }
            let mut slot = index.slot(part, Some(file));
            slot.durable = deletes.clone();
            slot.current = deletes;
            index.slots.push(slot);
        }
        index.slots.sort_by_key(|slot| slot.part.uid_range());
        Ok(index)
    }

    fn slot(&mut self, part: Part, file: Option<u64>) -> Slot {
        self.next_serial += 1;
        Slot {
            serial: self.next_serial,
            part,
            file,
            current: Deletes::new(),
            durable: Deletes::new(),
            pending: None,
            busy: false,
            frozen: false,
        }
    }

    /// Adds documents, whose uids ascend and are above all earlier ones. They are in every view taken from now on.
    pub fn append(&mut self, docs: Vec<NewDocument>) {
        if docs.is_empty() {
            return;
        }
        let above = self.slots.last().map_or(0, |slot| slot.part.uid_range().1 + 1);
        assert!(docs[0].uid >= above && docs.is_sorted_by(|a, b| a.uid < b.uid), "uids ascend");
        for new in &docs {
            self.stats.add(new.document.lengths());
        }
        let run = Run::of_documents(&self.schema, &docs);
        let slot = self.slot(Part::Run(Arc::new(run)), None);
        self.slots.push(slot);
        self.changed = true;
        self.merge_upward();
    }

    /// Merges the last runs as long as there are eight of about one size, or too many at all.
    fn merge_upward(&mut self) {
        while let Some(range) = self.last_small_runs() {
            self.merge_inline(range);
        }
        let free = self.slots.iter().filter(|slot| slot.is_free_run()).count();
        if free > RUNS_MAX
            && let Some(range) = self.lightest(FAN_IN, |slot| slot.is_free_run())
        {
            self.merge_inline(range);
        }
    }

    /// The last eight runs, when none is of a higher level than the last one and they are small together.
    fn last_small_runs(&self) -> Option<std::ops::Range<usize>> {
        let end = self.slots.len();
        let start = end.checked_sub(FAN_IN)?;
        let level = level(self.slots[end - 1].part.docs().into());
        let fits = |slot: &Slot| slot.is_free_run() && self::level(slot.part.docs().into()) <= level;
        let docs: u32 = self.slots[start..].iter().map(|slot| slot.part.docs().min(INLINE_DOCS + 1)).sum();
        (docs <= INLINE_DOCS && self.slots[start..].iter().all(fits)).then_some(start..end)
    }

    /// The `count` neighbours of this kind that are smallest together.
    fn lightest(&self, count: usize, fits: impl Fn(&Slot) -> bool) -> Option<std::ops::Range<usize>> {
        let windows = self.slots.windows(count).enumerate().filter(|(_, slots)| slots.iter().all(&fits));
        let size = |slots: &[Slot]| slots.iter().map(|slot| slot.part.size_bytes()).sum::<u64>();
        let (start, slots) = windows.min_by_key(|(_, slots)| size(slots))?;
        (size(slots) <= RUN_MERGE_BYTES_MAX || slots[0].file.is_some()).then_some(start..start + count)
    }

    fn merge_inline(&mut self, range: std::ops::Range<usize>) {
        let inputs: Vec<Input> = self.slots[range.clone()].iter().map(current_input).collect();
        let run = self.inverted_again(&inputs).unwrap_or_else(|| {
            into_run(&self.schema, &inputs).expect("runs hold nothing that could be damaged")
        });
        let merged = (run.docs() > 0).then(|| self.slot(Part::Run(Arc::new(run)), None));
        self.slots.splice(range, merged);
    }

    /// Small runs merged by way of their documents.
    fn inverted_again(&self, inputs: &[Input]) -> Option<Run> {
        let mut group = Vec::new();
        for input in inputs {
            let Part::Run(run) = &input.part else { return None };
            let sources = run.sources()?.iter().enumerate();
            group.extend(
                sources.filter(|(doc, _)| !input.without.contains(*doc as u32)).map(|(_, new)| new.clone()),
            );
        }
        Some(Run::of_documents(&self.schema, &group))
    }

    /// Deletes a document, whose token counts are `lengths`; false when there is none of this uid.
    pub fn delete(&mut self, uid: u64, lengths: &[(FieldId, u32)]) -> bool {
        let at = self.slots.partition_point(|slot| slot.part.uid_range().1 < uid);
        let Some(slot) = self.slots.get_mut(at) else { return false };
        // A segment's uids were verified when it was opened, so this does not fail.
        let Ok(Some(doc)) = slot.part.find(uid) else { return false };
        if !slot.current.insert(doc) {
            return false;
        }
        self.stats.remove(lengths);
        self.changed = true;
        true
    }

    /// The index as it is now.
    pub fn view(&self) -> Arc<View> {
        let slices =
            self.slots.iter().map(|slot| Slice { part: slot.part.clone(), deletes: slot.current.clone() });
        Arc::new(View { schema: self.schema.clone(), slices: slices.collect(), stats: self.stats.clone() })
    }

    /// Memory of the runs.
    pub fn memory_bytes(&self) -> usize {
        let runs = self.slots.iter().filter(|slot| slot.file.is_none());
        runs.map(|slot| slot.part.size_bytes() as usize).sum()
    }

    /// Bitmaps of the segments as of the last installed flush, the empty ones left out: what the manifest shall name
    /// beside the segments there are now.
    pub fn durable_deletes(&self) -> Vec<(u64, Deletes)> {
        let segments = self.slots.iter().filter(|slot| !slot.durable.is_empty());
        segments.filter_map(|slot| Some((slot.file?, slot.durable.clone()))).collect()
    }

    /// Cuts off everything that is not in a segment yet. `None` when nothing changed since the last freeze, and while a
    /// flush is under way: one at a time.
    pub fn freeze(&mut self) -> Option<FlushJob> {
        if self.flushing || !self.changed {
            return None;
        }
        self.flushing = true;
        self.changed = false;
        let mut job = FlushJob {
            schema: self.schema.clone(),
            serials: Vec::new(),
            inputs: Vec::new(),
            deletes: Vec::new(),
            stats: self.stats.clone(),
        };
        for slot in &mut self.slots {
            slot.pending = Some(slot.current.clone());
            match slot.file {
                Some(file) if !slot.current.is_empty() => job.deletes.push((file, slot.current.clone())),
                Some(_) => {}
                None => {
                    slot.frozen = true;
                    job.serials.push(slot.serial);
                    job.inputs.push(current_input(slot));
                }
            }
        }
        Some(job)
    }

    /// Replaces the frozen runs by their segment and makes the deletes of the freeze the durable ones.
    pub fn install_flush(&mut self, job: &FlushJob, segment: Option<(u64, Segment)>) {
        if !self.flushing {
            return;
        }
        let mut product =
            segment.map(|(file, segment)| self.slot(Part::Segment(Arc::new(segment)), Some(file)));
        for slot in &mut self.slots {
            let pending = slot.pending.take();
            if !slot.frozen {
                slot.durable = pending.unwrap_or_default();
            } else if let (Some(product), Some(pending)) = (&mut product, pending) {
                carry(&slot.part, &slot.current, &pending, &product.part, &mut product.current);
            }
        }
        let at = self.slots.iter().position(|slot| slot.frozen).unwrap_or(self.slots.len());
        self.slots.retain(|slot| !slot.frozen);
        self.slots.splice(at..at, product);
        self.flushing = false;
        debug_assert!(job.serials.iter().all(|serial| self.slots.iter().all(|slot| slot.serial != *serial)));
    }

    /// Gives the frozen runs back; the next freeze takes them again.
    pub fn abandon_flush(&mut self, _job: &FlushJob) {
        for slot in &mut self.slots {
            slot.frozen = false;
            slot.pending = None;
        }
        self.flushing = false;
        self.changed = true;
    }

    /// The next merge worth doing, if any: eight neighbouring runs or segments of about one size, or a segment with more
    /// than a fifth of its documents durably deleted.
    pub fn pick_merge(&mut self) -> Option<MergeJob> {
        self.due().map(|range| self.start_merge(range))
    }

    /// Whether there is a merge worth doing.
    pub fn merge_is_due(&self) -> bool {
        self.due().is_some()
    }

    fn due(&self) -> Option<std::ops::Range<usize>> {
        let range = self.tier(|slot| slot.is_free_run(), |slot| level(slot.part.docs().into()));
        let range = range.or_else(|| {
            let size = |slot: &Slot| level(slot.part.size_bytes() / SEGMENT_FLOOR_BYTES);
            self.tier(|slot| slot.file.is_some() && !slot.busy, size)
        });
        range.or_else(|| {
            let worn = |slot: &Slot| slot.durable.count() * 5 > u64::from(slot.part.docs());
            let at = self.slots.iter().position(|slot| slot.file.is_some() && !slot.busy && worn(slot))?;
            Some(at..at + 1)
        })
    }

    /// Eight neighbours or more, none above the lowest level for which there are as many, that together are four times as
    /// large as the largest of them: so what was merged once is not merged again for the sake of a few small ones.
    fn tier(
        &self,
        fits: impl Fn(&Slot) -> bool,
        level: impl Fn(&Slot) -> u32,
    ) -> Option<std::ops::Range<usize>> {
        for top in 0..=self.slots.iter().map(&level).max()? {
            let mut start = 0;
            for end in 0..=self.slots.len() {
                let slot = self.slots.get(end);
                if slot.is_some_and(|slot| fits(slot) && level(slot) <= top) {
                    continue;
                }
                let sizes = self.slots[start..end].iter().map(|slot| slot.part.size_bytes());
                let (bytes, largest) = (sizes.clone().sum::<u64>(), sizes.max().unwrap_or(0));
                let runs = self.slots.get(start).is_some_and(|slot| slot.file.is_none());
                let fits = bytes >= largest * 4 && (!runs || bytes <= RUN_MERGE_BYTES_MAX);
                if end - start >= FAN_IN && fits {
                    return Some(start..end);
                }
                start = end + 1;
            }
        }
        None
    }

    /// All segments into one; `None` when one of them is busy or there is nothing to gain.
    pub fn merge_all(&mut self) -> Option<MergeJob> {
        let count = self.slots.iter().take_while(|slot| slot.file.is_some()).count();
        let segments = &self.slots[..count];
        let gain = count > 1 || segments.iter().any(|slot| !slot.durable.is_empty());
        (gain && segments.iter().all(|slot| !slot.busy)).then(|| self.start_merge(0..count))
    }

    fn start_merge(&mut self, range: std::ops::Range<usize>) -> MergeJob {
        let mut job = MergeJob {
            schema: self.schema.clone(),
            serials: Vec::new(),
            inputs: Vec::new(),
            files: Vec::new(),
        };
        for slot in &mut self.slots[range] {
            slot.busy = true;
            job.serials.push(slot.serial);
            job.files.extend(slot.file);
            // What a file drops must be gone for good after a crash too; memory may drop what is deleted now.
            let without = if slot.file.is_some() { slot.durable.clone() } else { slot.current.clone() };
            job.inputs.push(Input { part: slot.part.clone(), without });
        }
        job
    }

    /// Frees the inputs of a merge that was not finished.
    pub fn abandon_merge(&mut self, job: &MergeJob) {
        for slot in self.slots.iter_mut().filter(|slot| job.serials.contains(&slot.serial)) {
            slot.busy = false;
        }
    }

    /// Replaces the inputs by the product. False, and nothing happened, when some of them went into a flush meanwhile.
    pub fn install_merge(&mut self, job: &MergeJob, product: Product) -> bool {
        self.abandon_merge(job);
        let Some(at) = self.slots.iter().position(|slot| slot.serial == job.serials[0]) else { return false };
        let range = at..at + job.serials.len();
        let same = self.slots.get(range.clone()).is_some_and(|slots| {
            slots.iter().zip(&job.serials).all(|(slot, serial)| slot.serial == *serial && !slot.frozen)
        });
        if !same {
            return false;
        }
        let merged = product.into_part().map(|(part, file)| {
            let mut merged = self.slot(part, file);
            merged.pending = self.flushing.then(Deletes::new);
            for (slot, input) in self.slots[range.clone()].iter().zip(&job.inputs) {
                let part = merged.part.clone();
                carry(&slot.part, &slot.current, &input.without, &part, &mut merged.current);
                carry(&slot.part, &slot.durable, &input.without, &part, &mut merged.durable);
                if let (Some(from), Some(to)) = (&slot.pending, &mut merged.pending) {
                    carry(&slot.part, from, &input.without, &part, to);
                }
            }
            merged
        });
        self.slots.splice(range, merged);
        true
    }
}

/// Carries deletes that came after `without` over to the part the documents are in now.
fn carry(from: &Part, deletes: &Deletes, without: &Deletes, to: &Part, target: &mut Deletes) {
    for doc in deletes.iter().filter(|&doc| !without.contains(doc)) {
        // Uids were verified when the parts were opened, so these do not fail.
        if let Ok(Some(doc)) = from.uid(doc).and_then(|uid| to.find(uid)) {
            target.insert(doc);
        }
    }
}

fn current_input(slot: &Slot) -> Input {
    Input { part: slot.part.clone(), without: slot.current.clone() }
}

/// Sizes in steps of eight.
fn level(size: u64) -> u32 {
    size.max(1).ilog2() / 3
}
