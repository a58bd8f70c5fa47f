//! Stores made by hand: files with given bytes, manifests with given edits, and the checksums of log segments put right.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arbitrary::Arbitrary;
use lumen_engine::coding::{put_slice, put_varint};
use lumen_engine::log::{HEADER_BYTES, Kind, Log, LogOptions, RECORD_HEADER_BYTES};
use lumen_engine::vfs::memory::Memory;
use lumen_engine::vfs::{Mode, Vfs};
use lumen_engine::{Engine, Options, Result, Snapshot};

/// Where the stores are.
pub const DIR: &str = "/db";

/// Keys and values.
pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The time in these stores, in milliseconds since 1970.
pub const NOW: u64 = 1_000_000;

/// An engine in memory, without threads, the same each time.
pub fn options(vfs: &Memory) -> Options {
    Options {
        vfs: Arc::new(vfs.clone()),
        segment_bytes: 1024,
        cache_bytes: 8 << 10,
        threads: 0,
        clock: || NOW,
        random: || 0x5eed_5eed_5eed_5eed,
        ..Options::default()
    }
}

/// Opens the store.
pub fn open(vfs: &Memory) -> Result<Engine> {
    Engine::open(DIR, options(vfs))
}

/// All rows of a snapshot, forward.
pub fn rows(snapshot: &Snapshot) -> Result<Rows> {
    let mut rows = Rows::new();
    let mut scan = snapshot.scan(Bound::Unbounded, Bound::Unbounded);
    while scan.next_row()? {
        rows.insert(scan.key().to_vec(), scan.value().to_vec());
    }
    Ok(rows)
}

/// Files of the store that end so, in the order of their numbers.
pub fn files(vfs: &Memory, ending: &str) -> Vec<(PathBuf, Vec<u8>)> {
    vfs.files().into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == ending)).collect()
}

/// Makes a file of the store with these bytes.
pub fn put_file(vfs: &Memory, name: &str, bytes: &[u8]) {
    vfs.create_dir(Path::new(DIR)).expect("nothing fails");
    let file = vfs.open(&Path::new(DIR).join(name), Mode::Create).expect("a new file");
    file.write_at(bytes, 0).expect("nothing fails");
    file.sync().expect("nothing fails");
    vfs.sync_dir(Path::new(DIR)).expect("nothing fails");
}

/// Appends records to the manifest of the store, or starts one.
pub fn append_to_manifest(vfs: &Memory, records: impl IntoIterator<Item = (Kind, Vec<u8>)>) {
    vfs.create_dir(Path::new(DIR)).expect("nothing fails");
    let options = LogOptions {
        dir: DIR.into(),
        extension: "manifest",
        segment_bytes: 4096,
        first_segment_bytes: 4096,
        kinds: &[Kind::Edit, Kind::Snapshot, Kind::Batch],
        from_seq: 0,
        uuid: None,
        random: || 0x5eed_5eed_5eed_5eed,
    };
    let (log, recovery) =
        Log::open(Arc::new(vfs.clone()), options, None, 1, &mut |_, _, _| Ok(())).expect("undamaged");
    let mut seq = recovery.last_seq.unwrap_or(0);
    for (kind, payload) in records {
        seq += 1;
        log.append(seq, kind, &[&payload]).expect("nothing fails");
    }
    log.sync(log.end()).expect("nothing fails");
    log.vouch().expect("nothing fails");
}

/// The payloads of the manifest's records.
pub fn manifest_payloads(vfs: &Memory) -> Vec<Vec<u8>> {
    let options = LogOptions {
        dir: DIR.into(),
        extension: "manifest",
        segment_bytes: 4096,
        first_segment_bytes: 4096,
        kinds: &[Kind::Edit, Kind::Snapshot],
        from_seq: 0,
        uuid: None,
        random: || 0,
    };
    let mut payloads = Vec::new();
    let mut visit = |_, _, payload: &[u8]| {
        payloads.push(payload.to_vec());
        Ok(())
    };
    Log::open(Arc::new(vfs.fork()), options, None, 1, &mut visit).expect("undamaged");
    payloads
}

/// A field of an edit, as `engine/src/version/edit.rs` draws them. Only here is it known how they are encoded.
#[derive(Debug, Arbitrary)]
pub enum Field {
    NextFile(u64),
    DurableSeq(u64),
    State(Vec<u8>),
    Table {
        level: u8,
        meta: Meta,
    },
    TableGone(u64),
    Attachment {
        number: u64,
        kind: u8,
        len: u64,
        hash: u128,
        note: Vec<u8>,
    },
    AttachmentGone(u64),
    RangeDelete {
        gone: bool,
        start: Vec<u8>,
        end: Vec<u8>,
        seq: u64,
        floor: u64,
    },
    LogPosition {
        segment: u64,
        offset: u64,
    },
    Floor(u64),
    Blob {
        number: u64,
        uid: u64,
        len: u64,
    },
    BlobGone(u64),
    Splits(Vec<Vec<u8>>),
    Quarantine {
        gone: bool,
        start: Vec<u8>,
        end: Vec<u8>,
        max_seq: u64,
        file: Vec<u8>,
        offset: u64,
        reason: Vec<u8>,
    },
    Progress {
        reason: u8,
        target: u8,
        /// floor, entries read, written and dropped.
        numbers: [u64; 4],
        next_key: Vec<u8>,
        inputs: Vec<(u8, u64)>,
        tables: Vec<Meta>,
        blobs: Vec<[u64; 3]>,
    },
    ProgressGone(u64),
}

/// What the manifest says of a table.
#[derive(Debug, Arbitrary)]
pub struct Meta {
    number: u64,
    seq_base: u64,
    len: u64,
    /// uid, entries, deletes, those that lie close, shadowed and expiring entries, last expiry, raw bytes, smallest and largest
    /// seq, times of the first and the last writing.
    properties: [u64; 12],
    smallest: Vec<u8>,
    largest: Vec<u8>,
    blobs: Vec<(u64, u64)>,
}

impl Meta {
    /// Two puts, as a flush leaves them.
    pub fn sound(number: u64, smallest: &[u8], largest: &[u8]) -> Meta {
        let (smallest, largest) = (smallest.to_vec(), largest.to_vec());
        let properties = [99, 2, 0, 0, 0, 0, 0, 20, 1, 1, NOW, NOW];
        Meta { number, seq_base: 0, len: 500, properties, smallest, largest, blobs: vec![(7, 3)] }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let numbers = [self.number, self.seq_base, self.len].into_iter().chain(self.properties);
        numbers.for_each(|number| put_varint(out, number));
        put_slice(out, &self.smallest);
        put_slice(out, &self.largest);
        put_varint(out, self.blobs.len() as u64);
        self.blobs.iter().flat_map(|blob| [blob.0, blob.1]).for_each(|number| put_varint(out, number));
    }
}

impl Field {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut tagged = |tag: u8, numbers: &[u64]| {
            out.push(tag);
            numbers.iter().for_each(|number| put_varint(out, *number));
        };
        match self {
            Field::NextFile(number) => tagged(1, &[*number]),
            Field::DurableSeq(seq) => tagged(2, &[*seq]),
            Field::State(state) => {
                tagged(3, &[]);
                put_slice(out, state);
            }
            Field::Table { level, meta } => {
                out.extend_from_slice(&[4, *level]);
                meta.encode(out);
            }
            Field::TableGone(number) => tagged(5, &[*number]),
            Field::Attachment { number, kind, len, hash, note } => {
                tagged(6, &[*number]);
                out.push(*kind);
                put_varint(out, *len);
                out.extend_from_slice(&hash.to_le_bytes());
                put_slice(out, note);
            }
            Field::AttachmentGone(number) => tagged(7, &[*number]),
            Field::RangeDelete { gone, start, end, seq, floor } => {
                tagged(if *gone { 10 } else { 8 }, &[]);
                put_slice(out, start);
                put_slice(out, end);
                put_varint(out, *seq);
                put_varint(out, *floor);
            }
            Field::LogPosition { segment, offset } => tagged(9, &[*segment, *offset]),
            Field::Floor(seq) => tagged(11, &[*seq]),
            Field::Blob { number, uid, len } => tagged(12, &[*number, *uid, *len]),
            Field::BlobGone(uid) => tagged(13, &[*uid]),
            Field::Splits(keys) => {
                tagged(14, &[keys.len() as u64]);
                keys.iter().for_each(|key| put_slice(out, key));
            }
            Field::Quarantine { gone, start, end, max_seq, file, offset, reason } => {
                tagged(if *gone { 16 } else { 15 }, &[]);
                put_slice(out, start);
                put_slice(out, end);
                put_varint(out, *max_seq);
                put_slice(out, file);
                put_varint(out, *offset);
                put_slice(out, reason);
            }
            Field::Progress { reason, target, numbers, next_key, inputs, tables, blobs } => {
                out.extend_from_slice(&[17, *reason, *target]);
                numbers.iter().for_each(|number| put_varint(out, *number));
                put_slice(out, next_key);
                put_varint(out, inputs.len() as u64);
                for (slot, number) in inputs {
                    out.push(*slot);
                    put_varint(out, *number);
                }
                put_varint(out, tables.len() as u64);
                tables.iter().for_each(|meta| meta.encode(out));
                put_varint(out, blobs.len() as u64);
                blobs.iter().flatten().for_each(|number| put_varint(out, *number));
            }
            Field::ProgressGone(table) => tagged(18, &[*table]),
        }
    }
}

/// Four little-endian bytes.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Eight little-endian bytes.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A record of a log segment, as `engine/src/log/mod.rs` draws it.
pub struct Record<'a> {
    pub crc: u32,
    pub synced: u64,
    pub seq: u64,
    pub kind: u8,
    pub payload: &'a [u8],
    pub end: usize,
}

/// The record at `at`, if one with this tag and a right checksum is there.
pub fn record(segment: &[u8], at: usize, tag: u32) -> Option<Record<'_>> {
    let end = record_end(segment, at)?;
    let crc = u32_at(segment, at);
    let is_sound = u32_at(segment, at + 8) == tag && crc32fast::hash(&segment[at + 4..end]) == crc;
    is_sound.then(|| Record {
        crc,
        synced: u64::from(u32_at(segment, at + 12)) * 8,
        seq: u64_at(segment, at + 16),
        kind: segment[at + RECORD_HEADER_BYTES],
        payload: &segment[at + RECORD_HEADER_BYTES + 1..end],
        end: end.next_multiple_of(8),
    })
}

/// Where the bytes of the record at `at` end, by its own account.
fn record_end(segment: &[u8], at: usize) -> Option<usize> {
    let room = segment.len().checked_sub(at + RECORD_HEADER_BYTES)?;
    let len = u32_at(segment, at + 4) as usize;
    (0 < len && len <= room).then_some(at + RECORD_HEADER_BYTES + len)
}

/// Puts the checksums of a segment's header and records right, and what the header says of the segment before it.
/// Answers where the records end and the checksum of the last, which is what the header of the next says.
pub fn seal_segment(segment: &mut [u8], number: u64, previous: (u64, u32)) -> Option<(u64, u32)> {
    segment.get(..HEADER_BYTES)?;
    let tag = u32_at(segment, 12);
    segment[16..24].copy_from_slice(&number.to_le_bytes());
    segment[48..56].copy_from_slice(&previous.0.to_le_bytes());
    segment[56..60].copy_from_slice(&previous.1.to_le_bytes());
    let crc = crc32fast::hash(&segment[..60]);
    segment[60..64].copy_from_slice(&crc.to_le_bytes());
    let (mut at, mut crc) = (HEADER_BYTES, 0);
    while let Some(end) = record_end(segment, at) {
        segment[at + 8..at + 12].copy_from_slice(&tag.to_le_bytes());
        crc = crc32fast::hash(&segment[at + 4..end]);
        segment[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        at = end.next_multiple_of(8);
    }
    Some((at as u64, crc))
}
