//! One change of the version, and its encoding: a list of tagged fields.
//!
//! ```text
//! │ tag: u8 │ field │ …
//! 1 next file number: varint      2 durable seq: varint        3 state: slice
//! 4 table: level u8 ‖ meta        5 table gone: number varint  6 attachment: meta
//! 7 attachment gone: varint       8 range delete: start slice ‖ end slice ‖ seq varint ‖ floor varint
//! 9 durable log position: segment varint ‖ offset varint       10 range delete gone: as 8
//! 11 read floor: seq varint      12 blob file: meta             13 blob file gone: uid varint
//! 14 splits: count varint ‖ key slice …                        15 quarantine           16 quarantine gone: as 15
//! 17 progress of a compaction    18 progress gone: first input varint
//!
//! meta of a table:       number varint ‖ seq base varint ‖ length varint ‖ properties, as in `table/mod.rs`
//! meta of an attachment: number varint ‖ kind u8 ‖ length varint ‖ XXH3-128 u128 ‖ note slice
//! meta of a blob file:   number varint ‖ uid varint ‖ length varint
//! quarantine:            start slice ‖ end slice ‖ largest seq varint ‖ file slice ‖ offset varint ‖ reason slice
//! ```

use crate::attachment::{AttachmentEdit, AttachmentMeta};
use crate::blob::BlobMeta;
use crate::coding::{Decoder, put_slice, put_varint};
use crate::compaction::progress::Progress;
use crate::key::Seq;
use crate::log::Position;
use crate::quarantine::Quarantine;
use crate::range_delete::RangeDelete;
use crate::table::properties::TableMeta;

/// A change that takes effect as one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Edit {
    pub next_file: Option<u64>,
    pub durable_seq: Option<Seq>,
    /// New tables with their level; those of level 0 are newer than all that are there.
    pub add: Vec<(u8, TableMeta)>,
    pub remove: Vec<u64>,
    pub attachments: AttachmentEdit,
    pub add_ranges: Vec<RangeDelete>,
    pub remove_ranges: Vec<RangeDelete>,
    /// Where the engine's own log was known to be durable.
    pub log: Option<Position>,
    /// What was before this seq may be gone.
    pub floor: Option<Seq>,
    /// Where flushes cut their output from now on.
    pub splits: Option<Vec<Vec<u8>>>,
    pub add_quarantines: Vec<Quarantine>,
    pub remove_quarantines: Vec<Quarantine>,
    pub add_blobs: Vec<BlobMeta>,
    /// Their uids.
    pub remove_blobs: Vec<u64>,
    /// How far compactions have come; takes the place of what was said of the same one.
    pub progress: Vec<Progress>,
    /// Their first inputs.
    pub remove_progress: Vec<u64>,
}

fn put_range(out: &mut Vec<u8>, tag: u8, range: &RangeDelete) {
    out.push(tag);
    put_slice(out, &range.start);
    put_slice(out, &range.end);
    put_varint(out, range.seq);
    put_varint(out, range.floor);
}

impl Edit {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, value) in [(1, self.next_file), (2, self.durable_seq), (11, self.floor)] {
            if let Some(value) = value {
                out.push(tag);
                put_varint(&mut out, value);
            }
        }
        if let Some(state) = &self.attachments.state {
            out.push(3);
            put_slice(&mut out, state);
        }
        for (level, meta) in &self.add {
            out.push(4);
            out.push(*level);
            meta.encode(&mut out);
        }
        for number in &self.remove {
            out.push(5);
            put_varint(&mut out, *number);
        }
        for meta in &self.attachments.attach {
            out.push(6);
            meta.encode(&mut out);
        }
        for number in &self.attachments.detach {
            out.push(7);
            put_varint(&mut out, *number);
        }
        for range in &self.add_ranges {
            put_range(&mut out, 8, range);
        }
        if let Some(position) = self.log {
            out.push(9);
            put_varint(&mut out, position.segment);
            put_varint(&mut out, position.offset);
        }
        for range in &self.remove_ranges {
            put_range(&mut out, 10, range);
        }
        for meta in &self.add_blobs {
            out.push(12);
            meta.encode(&mut out);
        }
        if let Some(splits) = &self.splits {
            out.push(14);
            put_varint(&mut out, splits.len() as u64);
            splits.iter().for_each(|key| put_slice(&mut out, key));
        }
        for (tag, quarantines) in [(15, &self.add_quarantines), (16, &self.remove_quarantines)] {
            for quarantine in quarantines {
                out.push(tag);
                quarantine.encode(&mut out);
            }
        }
        for uid in &self.remove_blobs {
            out.push(13);
            put_varint(&mut out, *uid);
        }
        for progress in &self.progress {
            out.push(17);
            progress.encode(&mut out);
        }
        for id in &self.remove_progress {
            out.push(18);
            put_varint(&mut out, *id);
        }
        out
    }

    /// `None` when the bytes are not exactly one edit.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Edit> {
        let mut edit = Edit::default();
        let mut decoder = Decoder::new(bytes);
        while !decoder.is_empty() {
            match decoder.u8()? {
                1 => edit.next_file = Some(decoder.varint()?),
                2 => edit.durable_seq = Some(decoder.varint()?),
                3 => edit.attachments.state = Some(decoder.slice()?.to_vec()),
                4 => edit.add.push((decoder.u8()?, TableMeta::decode(&mut decoder)?)),
                5 => edit.remove.push(decoder.varint()?),
                6 => edit.attachments.attach.push(AttachmentMeta::decode(&mut decoder)?),
                7 => edit.attachments.detach.push(decoder.varint()?),
                9 => edit.log = Some(Position { segment: decoder.varint()?, offset: decoder.varint()? }),
                11 => edit.floor = Some(decoder.varint()?),
                12 => edit.add_blobs.push(BlobMeta::decode(&mut decoder)?),
                13 => edit.remove_blobs.push(decoder.varint()?),
                14 => {
                    let mut splits = Vec::new();
                    for _ in 0..decoder.varint()? {
                        splits.push(decoder.slice()?.to_vec());
                    }
                    edit.splits = Some(splits);
                }
                15 => edit.add_quarantines.push(Quarantine::decode(&mut decoder)?),
                16 => edit.remove_quarantines.push(Quarantine::decode(&mut decoder)?),
                17 => edit.progress.push(Progress::decode(&mut decoder)?),
                18 => edit.remove_progress.push(decoder.varint()?),
                tag @ (8 | 10) => {
                    let range = RangeDelete {
                        start: decoder.slice()?.to_vec(),
                        end: decoder.slice()?.to_vec(),
                        seq: decoder.varint()?,
                        floor: decoder.varint()?,
                    };
                    if tag == 8 { edit.add_ranges.push(range) } else { edit.remove_ranges.push(range) }
                }
                _ => return None,
            }
        }
        Some(edit)
    }
}
