//! Log segments, damaged or forged: a second reader, which shares no code with the engine's, says what is in them.
//!
//! ```text
//! │ manifest: u8 │ durable seq: u8 │ floor: u16 │ length of the first: u16 │ first segment │ second, if anything is left │
//! ```
//!
//! `manifest`: bit 0: there is one, and it says that tables hold everything up to the durable seq. Then bits 1 and 2, if
//! not 0, are a segment, and it says that this one was durable up to the floor.

use lumen_engine::coding::Decoder;
use lumen_engine::log::{HEADER_BYTES, Kind};
use lumen_engine::vfs::memory::{Crash, Memory};
use lumen_engine::{Batch, Durability, Error, inspect};

use super::forge::{self, Field, Rows, record, u32_at, u64_at};

const HEAD_BYTES: usize = 6;

/// An input, taken apart.
struct Input<'a> {
    has_manifest: bool,
    durable_seq: u64,
    floor: Option<(u64, u64)>,
    segments: Vec<&'a [u8]>,
}

fn parse(bytes: &[u8]) -> Option<Input<'_>> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let number = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let has_manifest = head[0] & 1 == 1;
    let floor = (u64::from(head[0] >> 1 & 3), u64::from(number(2)));
    let (first, second) = rest.split_at(usize::from(number(4)).min(rest.len()));
    Some(Input {
        has_manifest,
        durable_seq: if has_manifest { u64::from(head[1]) } else { 0 },
        floor: (has_manifest && floor.0 > 0).then_some(floor),
        segments: [first, second].into_iter().filter(|segment| !segment.is_empty()).collect(),
    })
}

fn store(input: &Input<'_>) -> Memory {
    let vfs = Memory::new();
    if input.has_manifest {
        let mut edit = Vec::new();
        Field::NextFile(1).encode(&mut edit);
        Field::DurableSeq(input.durable_seq).encode(&mut edit);
        if let Some((segment, offset)) = input.floor {
            Field::LogPosition { segment, offset }.encode(&mut edit);
        }
        forge::append_to_manifest(&vfs, [(Kind::Snapshot, edit)]);
    }
    for (number, bytes) in (1..).zip(&input.segments) {
        forge::put_file(&vfs, &format!("{number:010}.wal"), bytes);
    }
    vfs
}

/// What the second reader says of the segments.
#[derive(Debug)]
enum Verdict {
    /// Nothing may be served.
    Damaged,
    /// These rows, or damage: what follows them may have been durable.
    Ends(Rows),
    /// These rows.
    Whole(Rows),
}

fn read(input: &Input<'_>) -> Verdict {
    let mut rows = Rows::new();
    let (mut last_seq, mut next_batch, mut previous_crc) = (0, input.durable_seq + 1, 0);
    let mut verdict = None;
    for (index, segment) in input.segments.iter().enumerate() {
        let following = input.segments.get(index + 1);
        let is_sound = |segment: &[u8], number: usize| {
            segment.len() >= HEADER_BYTES
                && &segment[..8] == b"LMNLOG01"
                && u32_at(segment, 8) == 1
                && u64_at(segment, 16) == number as u64
                && u32_at(segment, 60) == crc32fast::hash(&segment[..60])
        };
        if !is_sound(segment, index + 1) || following.is_some_and(|bytes| !is_sound(bytes, index + 2)) {
            return Verdict::Damaged;
        }
        let is_continued = match index {
            0 => u64_at(segment, 24) <= input.durable_seq + 1,
            _ => u32_at(segment, 56) == previous_crc,
        };
        if !is_continued {
            return Verdict::Damaged;
        }
        let end = following.map(|bytes| u64_at(bytes, 48));
        let (mut at, mut synced) = (HEADER_BYTES, HEADER_BYTES as u64);
        let (mut starts, mut is_sealed) = (Vec::new(), false);
        previous_crc = 0;
        while end.is_none_or(|end| (at as u64) < end) {
            let Some(record) = record(segment, at, u32_at(segment, 12)) else { break };
            let is_batch = record.kind == 1 && record.seq > input.durable_seq;
            let is_sound = [1, 7, 8].contains(&record.kind)
                && record.seq >= last_seq
                && (!is_batch || record.seq == next_batch && apply(record.payload, &mut rows).is_some());
            if !is_sound {
                return Verdict::Damaged;
            }
            last_seq = record.seq;
            next_batch += u64::from(is_batch);
            previous_crc = record.crc;
            is_sealed = record.kind == 7;
            starts.push(at as u64);
            synced = synced.max(record.synced);
            at = record.end;
        }
        if let Some((_, floor)) = input.floor.filter(|floor| floor.0 == index as u64 + 1) {
            synced = synced.max(floor);
        }
        starts.push(at as u64);
        let rest = segment.get(at..).unwrap_or(&[]);
        // What follows the end may be a record that proves more.
        let is_end = rest.iter().all(|&byte| byte == 0);
        let is_sound = match end {
            Some(end) => end == at as u64,
            None => synced <= at as u64 && (is_sealed || !is_end || starts.contains(&synced)),
        };
        if !is_sound {
            return Verdict::Damaged;
        }
        verdict = Some(if is_end { Verdict::Whole } else { Verdict::Ends });
    }
    // Whoever goes on from here writes the next batch: no record may lie beyond it already.
    let lacks_segment = input.floor.is_some_and(|(segment, _)| segment > input.segments.len() as u64);
    if lacks_segment || last_seq >= next_batch {
        return Verdict::Damaged;
    }
    verdict.unwrap_or(Verdict::Whole)(rows)
}

/// Does what a batch says, one operation after the other; `None` when it makes no sense.
fn apply(payload: &[u8], rows: &mut Rows) -> Option<()> {
    let batch = Batch::decode(payload);
    let mut replay = || {
        let mut decoder = Decoder::new(payload);
        for _ in 0..decoder.varint()? {
            match decoder.u8()? {
                op @ (0 | 3) => {
                    let (key, value) = (decoder.slice()?.to_vec(), decoder.slice()?.to_vec());
                    rows.insert(key.clone(), value);
                    if op == 3 && decoder.varint()? <= forge::NOW {
                        rows.remove(&key);
                    }
                }
                1 => drop(rows.remove(decoder.slice()?)),
                2 => {
                    let (start, end) = (decoder.slice()?, decoder.slice()?);
                    rows.retain(|key, _| key.as_slice() < start || key.as_slice() >= end);
                }
                _ => return None,
            }
        }
        decoder.is_empty().then_some(())
    };
    let done = replay();
    assert_eq!(done.is_some(), batch.is_some(), "a batch is read or refused");
    if let Some(batch) = batch {
        let mut again = Vec::new();
        batch.encode(&mut again);
        assert_eq!(Batch::decode(&again), Some(batch), "a batch encodes what it decoded");
    }
    done
}

/// Opens a store with these segments; answers whether it opened.
pub fn run(bytes: &[u8]) -> bool {
    let Some(input) = parse(bytes) else { return false };
    for segment in &input.segments {
        inspect::log_segment("s", segment, &mut std::io::sink(), &|_| String::new())
            .expect("a sink takes all");
    }
    let vfs = store(&input);
    let rows = match (read(&input), forge::open(&vfs)) {
        (Verdict::Damaged | Verdict::Ends(_), Err(Error::Corrupt { .. })) => return false,
        (Verdict::Whole(rows) | Verdict::Ends(rows), Ok(engine)) => {
            assert_eq!(forge::rows(&engine.snapshot()).expect("readable"), rows);
            rows
        }
        (verdict, opened) => panic!("{verdict:?}, but the engine says {:?}", opened.err()),
    };
    survives(&vfs, rows);
    true
}

/// What recovery has shown is there after the next power cut too, and so is what is written after it.
fn survives(vfs: &Memory, mut rows: Rows) {
    let check = |rows: &Rows| {
        vfs.crash(Crash::DropPending, 1);
        let engine = forge::open(vfs).expect("opens again");
        assert_eq!(forge::rows(&engine.snapshot()).expect("readable"), *rows, "after a power cut");
        engine
    };
    let engine = check(&rows);
    let mut batch = Batch::new();
    batch.put(b"later", b"row");
    engine.write(&batch, Durability::Sync).expect("written");
    rows.insert(b"later".to_vec(), b"row".to_vec());
    drop(engine);
    let engine = check(&rows);
    engine.settle().expect("settled");
    assert_eq!(forge::rows(&engine.snapshot()).expect("readable"), rows, "from the table");
}

/// Puts all checksums right, and what the second header says of the first segment.
pub fn seal(bytes: &mut [u8]) {
    if bytes.len() < HEAD_BYTES {
        return;
    }
    let (head, rest) = bytes.split_at_mut(HEAD_BYTES);
    let first = usize::from(u16::from_le_bytes([head[4], head[5]])).min(rest.len());
    let (first, second) = rest.split_at_mut(first);
    if let Some(end) = forge::seal_segment(first, 1, (0, 0)) {
        forge::seal_segment(second, 2, end);
    }
}

/// An input as the engine leaves it: after some writes, a close, a kill or a power cut.
pub fn sample(seed: u32) -> Vec<u8> {
    let mut state = u64::from(seed) << 1 | 1;
    let mut below = |limit: u64| {
        // splitmix64 (Steele et al. 2014)
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 27) % limit
    };
    let vfs = Memory::new();
    let mut engine = forge::open(&vfs).expect("a new store");
    for _ in 0..1 + below(12) {
        let mut batch = Batch::new();
        for _ in 0..below(4) {
            let (key, end) = ([b'k', below(8) as u8], [b'k', below(8) as u8]);
            match below(6) {
                0 => batch.delete(&key),
                1 => batch.delete_range(&key, &end),
                2 => batch.put_until(&key, b"for a time", forge::NOW + below(2)),
                _ => batch.put(&key, &vec![b'v'; below(60) as usize]),
            }
        }
        let durability = if below(2) == 0 { Durability::Sync } else { Durability::Buffered };
        engine.write(&batch, durability).expect("nothing fails");
        match below(16) {
            0 => engine.flush().expect("nothing fails"),
            1 => {
                drop(engine);
                engine = forge::open(&vfs).expect("opens again");
            }
            _ => {}
        }
    }
    if below(4) == 0 {
        engine.close().expect("nothing fails");
    }
    let durable_seq = engine.durable_seq() as u8;
    drop(engine);
    vfs.crash(Crash::ALL[below(8) as usize], u64::from(seed));
    let segments: Vec<Vec<u8>> = forge::files(&vfs, "wal").into_iter().map(|(_, bytes)| bytes).collect();
    let first = segments[0].len() as u16;
    let mut input = vec![u8::from(durable_seq > 0), durable_seq, 0, 0];
    input.extend_from_slice(&first.to_le_bytes());
    segments.iter().take(2).for_each(|segment| input.extend_from_slice(segment));
    input
}
