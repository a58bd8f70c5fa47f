//! A table with wrong bytes under right checksums: read by key, walked both ways, verified, shown and compacted, it
//! answers or reports damage.

use std::ops::Bound;

use arbitrary::Arbitrary;
use lumen_engine::vfs::memory::Memory;
use lumen_engine::{Batch, Durability, Engine, Options, Snapshot, inspect};

use super::forge::{self, Rows, u32_at};

const FOOTER_BYTES: usize = 64;
/// What of the footer its checksum covers.
const FOOTER_CHECKED: usize = 52;
const TRAILER_BYTES: usize = 12;

/// A table, and what is wrong with it.
#[derive(Debug, Arbitrary)]
pub struct Input {
    /// Rows beside the first, at most 63.
    rows: u8,
    /// From one key to the next.
    step: u8,
    /// Lengths of values, over and over; 0 is a delete, and an odd one is there for a time.
    lens: [u8; 6],
    /// Whether long values lie in a blob file.
    blobs: bool,
    /// Whether values are alike, so that blocks are packed.
    packed: bool,
    /// Bytes of a data block, in steps of 32.
    block_bytes: u8,
    /// Block, place in it, new byte.
    bytes: Vec<(u8, u16, u8)>,
    /// What a block begins with instead.
    begins: Option<(u8, Vec<u8>)>,
    /// What comes before a block's trailer instead.
    ends: Option<(u8, Vec<u8>)>,
    /// Place in the footer, new byte.
    footer: Option<(u8, u8)>,
}

impl Input {
    fn is_damaged(&self) -> bool {
        let footer = self.footer.is_some();
        footer || !self.bytes.is_empty() || self.begins.is_some() || self.ends.is_some()
    }
}

/// Offset and end of each block, found by their checksums and so without knowing what refers to them.
fn blocks(table: &[u8]) -> Vec<(usize, usize)> {
    let end = table.len() - FOOTER_BYTES;
    let uid = &table[end..end + 8];
    let (mut found, mut start) = (Vec::new(), 0);
    while start < end {
        let context = crc32fast::hash(&[uid, &(start as u64).to_le_bytes()].concat());
        let mut hasher = crc32fast::Hasher::new();
        let block = (start + 1..=end - 4).find(|&checked| {
            hasher.update(&table[checked - 1..checked]);
            checked >= start + TRAILER_BYTES - 4
                && hasher.clone().finalize() ^ context == u32_at(table, checked)
        });
        let block_end = block.expect("blocks lie end to end") + 4;
        found.push((start, block_end));
        start = block_end;
    }
    found
}

fn damage(table: &mut [u8], input: &Input) {
    let blocks = blocks(table);
    let place = |block: &u8| blocks[usize::from(*block) % blocks.len()];
    if let Some((block, bytes)) = &input.begins {
        let (start, end) = place(block);
        let count = bytes.len().min(end - start - TRAILER_BYTES);
        table[start..start + count].copy_from_slice(&bytes[..count]);
    }
    if let Some((block, bytes)) = &input.ends {
        let (start, end) = (place(block).0, place(block).1 - TRAILER_BYTES);
        let count = bytes.len().min(end - start);
        table[end - count..end].copy_from_slice(&bytes[..count]);
    }
    for (block, at, byte) in &input.bytes {
        let (start, end) = place(block);
        table[start + usize::from(*at) % (end - start)] = *byte;
    }
    let footer = table.len() - FOOTER_BYTES;
    for (start, end) in blocks {
        let context = [&table[footer..footer + 8], &(start as u64).to_le_bytes()].concat();
        let check = crc32fast::hash(&table[start..end - 4]) ^ crc32fast::hash(&context);
        table[end - 4..end].copy_from_slice(&check.to_le_bytes());
    }
    if let Some((at, byte)) = input.footer {
        table[footer + usize::from(at) % FOOTER_CHECKED] = byte;
        let crc = crc32fast::hash(&table[footer..footer + FOOTER_CHECKED]);
        table[footer + FOOTER_CHECKED..][..4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Damages a table and reads it in every way.
pub fn run(input: &Input) {
    let vfs = Memory::new();
    let block_bytes = 32 * (1 + usize::from(input.block_bytes));
    let blob_bytes = if input.blobs { 100 } else { usize::MAX };
    let options = || Options { block_bytes, blob_bytes, level0_tables: 2, ..forge::options(&vfs) };
    let mut batch = Batch::new();
    let mut rows = Rows::from([(b"first".to_vec(), b"row".to_vec())]);
    batch.put(b"first", b"row");
    for n in 0..input.rows % 64 {
        let (key, len) = (n.wrapping_mul(input.step | 1), input.lens[usize::from(n) % input.lens.len()]);
        let key = [b'k', key / 16, key % 16];
        let byte = |at: u8| if input.packed { n } else { at.wrapping_mul(n | 1) ^ at >> 3 };
        let value: Vec<u8> = (0..len).map(byte).collect();
        if len == 0 {
            batch.delete(&key);
        } else {
            match len % 2 {
                0 => batch.put(&key, &value),
                _ => batch.put_until(&key, &value, forge::NOW + 1),
            }
            rows.insert(key.to_vec(), value);
        }
    }
    let engine = Engine::open(forge::DIR, options()).expect("a new store");
    engine.write(&batch, Durability::Sync).expect("nothing fails");
    engine.close().expect("nothing fails");
    drop(engine);
    for (path, mut table) in forge::files(&vfs, "sst") {
        damage(&mut table, input);
        inspect::table("t", &table, &mut std::io::sink()).expect("a sink takes all");
        vfs.damage(&path, |bytes| *bytes = table);
    }
    match Engine::open(forge::DIR, options()) {
        Ok(engine) => read(&engine, (!input.is_damaged()).then_some(&rows)),
        Err(error) => assert!(input.is_damaged(), "an undamaged table: {error}"),
    }
}

/// Reads everything; `rows` are what must be there.
fn read(engine: &Engine, rows: Option<&Rows>) {
    let snapshot = engine.snapshot();
    let problems = engine.verify(&mut |_, _| true).expect("no background has failed");
    let (forward, backward) = (walk(&snapshot, b"", true), walk(&snapshot, b"", false));
    if problems.is_empty() {
        // No two walks over what is called sound differ.
        let (forward, mut backward) = (forward.expect("sound"), backward.expect("sound"));
        backward.reverse();
        assert_eq!(forward, backward);
    }
    if let Some(rows) = rows {
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(forge::rows(&snapshot).expect("undamaged"), *rows);
    }
    for key in 0..=255u8 {
        let key = [b'k', key / 16, key % 16];
        let found = snapshot.get(&key);
        if let Some(rows) = rows {
            let expected = rows.get(&key[..]).map(Vec::as_slice);
            assert_eq!(found.expect("undamaged").as_deref(), expected);
        }
    }
    for start in [&b"first"[..], b"k", b"k\x07", b"z"] {
        for forward in [true, false] {
            let walked = walk(&snapshot, start, forward);
            assert!(rows.is_none() || walked.is_ok(), "an undamaged table: {walked:?}");
        }
    }
    // A compaction reads it as well.
    let mut batch = Batch::new();
    batch.put(b"first", b"again");
    batch.put(b"k\x08", b"new");
    let written = engine.write(&batch, Durability::Sync).and_then(|_| engine.settle());
    if rows.is_some() {
        written.expect("undamaged");
        assert_eq!(engine.stats().compactions, 1);
    }
}

/// The rows from `start` on, or back from the last one before it; `start` empty: all. A damaged index may name a block any
/// number of times, so the walk ends somewhere.
fn walk(snapshot: &Snapshot, start: &[u8], forward: bool) -> lumen_engine::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let bounds = match (start, forward) {
        (b"", _) => (Bound::Unbounded, Bound::Unbounded),
        (_, true) => (Bound::Included(start), Bound::Unbounded),
        (_, false) => (Bound::Unbounded, Bound::Excluded(start)),
    };
    let mut rows = Vec::new();
    let mut scan = snapshot.scan(bounds.0, bounds.1);
    while rows.len() < 1000 && if forward { scan.next_row()? } else { scan.prev_row()? } {
        rows.push((scan.key().to_vec(), scan.value().to_vec()));
    }
    Ok(rows)
}
