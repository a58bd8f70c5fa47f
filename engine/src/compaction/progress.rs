//! How far a long compaction has come, or the part of it that is being merged, kept in the manifest: whoever opens the store
//! goes on from there.
//!
//! ```text
//! │ reason: u8 │ target: u8 │ floor: varint │ read: varint │ written: varint │ dropped: varint │ next key: slice │
//! │ inputs: varint │ slot: u8 ‖ table: varint … │ tables: varint │ meta … │ blob files: varint │ meta … │
//! ```
//!
//! What was written so far is whole tables, synced before the record that names them; all versions of a key lie in one of
//! them, so the next key is where merging goes on. A compaction has one such record at most, known by its first input. It
//! goes with the edit that ends the compaction, or with the one that takes away an input.

use std::path::PathBuf;
use std::sync::Arc;

use crate::blob::BlobMeta;
use crate::coding::{Decoder, put_slice, put_varint};
use crate::compaction::plan::{Input, Job, Reason};
use crate::key::Seq;
use crate::state::Shared;
use crate::table::properties::TableMeta;
use crate::version::{SLOTS, Version};

/// What a compaction has done so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    pub reason: Reason,
    /// The slot that the output goes to.
    pub target: u8,
    /// Slot and number of each input table.
    pub inputs: Vec<(u8, u64)>,
    /// Who reads as of this seq or later misses nothing in the output.
    pub floor: Seq,
    /// The first key that the output says nothing of.
    pub next_key: Vec<u8>,
    pub counts: Counts,
    pub tables: Vec<TableMeta>,
    pub blobs: Vec<BlobMeta>,
}

/// Entries that a compaction has met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub read: u64,
    pub written: u64,
    pub dropped: u64,
}

impl Progress {
    pub(crate) fn of(job: &Job, target: usize) -> Progress {
        let numbers = |input: &Input| {
            let slot = input.slot as u8;
            input.tables.iter().map(move |table| (slot, table.meta.number)).collect::<Vec<_>>()
        };
        Progress {
            reason: job.reason,
            target: target as u8,
            inputs: job.inputs.iter().flat_map(numbers).collect(),
            floor: Seq::MAX,
            next_key: Vec::new(),
            counts: Counts::default(),
            tables: Vec::new(),
            blobs: Vec::new(),
        }
    }

    /// What it is known by.
    pub(crate) fn id(&self) -> u64 {
        self.inputs.first().map_or(0, |(_, number)| *number)
    }

    /// Bytes of the output so far.
    pub(crate) fn bytes(&self) -> u64 {
        let tables = self.tables.iter().map(|meta| meta.len);
        // `inspect` shows what no opening has checked.
        tables.chain(self.blobs.iter().map(|meta| meta.len)).fold(0, u64::saturating_add)
    }

    /// The files of the output so far.
    pub(crate) fn paths(&self, shared: &Shared) -> Vec<PathBuf> {
        let tables = self.tables.iter().map(|meta| shared.table_path(meta.number));
        tables.chain(self.blobs.iter().map(|meta| shared.blob_path(meta.number))).collect()
    }

    /// The compaction; `None` when an input is not in `version`.
    pub(crate) fn job(&self, version: &Version) -> Option<Job> {
        let mut inputs: Vec<Input> = Vec::new();
        for &(slot, number) in &self.inputs {
            let slot = usize::from(slot);
            let table = version.slots.get(slot)?.iter().find(|table| table.meta.number == number)?.clone();
            match inputs.last_mut().filter(|input| input.slot == slot) {
                Some(input) => input.tables.push(table),
                None => inputs.push(Input { slot, tables: vec![table] }),
            }
        }
        Some(Job { reason: self.reason, inputs, target: Some(usize::from(self.target)) })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.reason as u8, self.target]);
        for number in [self.floor, self.counts.read, self.counts.written, self.counts.dropped] {
            put_varint(out, number);
        }
        put_slice(out, &self.next_key);
        put_varint(out, self.inputs.len() as u64);
        for (slot, number) in &self.inputs {
            out.push(*slot);
            put_varint(out, *number);
        }
        put_varint(out, self.tables.len() as u64);
        self.tables.iter().for_each(|meta| meta.encode(out));
        put_varint(out, self.blobs.len() as u64);
        self.blobs.iter().for_each(|meta| meta.encode(out));
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Option<Progress> {
        let mut progress = Progress {
            reason: *Reason::ALL.get(usize::from(decoder.u8()?))?,
            target: decoder.u8().filter(|&slot| usize::from(slot) < SLOTS)?,
            floor: decoder.varint()?,
            counts: Counts {
                read: decoder.varint()?,
                written: decoder.varint()?,
                dropped: decoder.varint()?,
            },
            next_key: decoder.slice()?.to_vec(),
            inputs: Vec::new(),
            tables: Vec::new(),
            blobs: Vec::new(),
        };
        for _ in 0..decoder.varint()? {
            progress.inputs.push((decoder.u8()?, decoder.varint()?));
        }
        for _ in 0..decoder.varint()? {
            progress.tables.push(TableMeta::decode(decoder)?);
        }
        for _ in 0..decoder.varint()? {
            progress.blobs.push(BlobMeta::decode(decoder)?);
        }
        Some(progress)
    }
}

impl Shared {
    /// How far the job has come before.
    pub(crate) fn progress_of(&self, job: &Job) -> Option<Arc<Progress>> {
        let begun = Progress::of(job, job.target?);
        let is_same = |other: &&Arc<Progress>| (other.target, &other.inputs) == (begun.target, &begun.inputs);
        self.view.load().version.progress.iter().find(is_same).cloned()
    }
}
