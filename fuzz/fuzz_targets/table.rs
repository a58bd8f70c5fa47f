//! A table with wrong contents under right checksums: read by key, walked both ways, verified and shown, it answers or
//! reports damage.
#![no_main]

use std::ops::Bound;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use lumen_engine::vfs::memory::Memory;
use lumen_engine::{Batch, Durability, Engine, inspect};

#[derive(Debug, Arbitrary)]
struct Input {
    /// Rows: a key byte and the value's length.
    rows: Vec<(u8, u8)>,
    /// Block, place in it, new byte.
    bytes: Vec<(u8, u16, u8)>,
    /// What a block begins with instead.
    replaced: Option<(u8, Vec<u8>)>,
    /// Place in the footer, new byte.
    footer: Option<(u8, u8)>,
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// Offset and length of data (all blocks of a small table are one), filter, index and properties.
fn blocks(table: &[u8]) -> [(usize, usize); 4] {
    let footer = &table[table.len() - 64..];
    let filter = (number(&footer[24..32]), number(&footer[20..24]));
    let index = (number(&footer[8..16]), number(&footer[16..20]));
    let properties = (number(&footer[32..40]), number(&footer[40..44]));
    [(0, filter.0), filter, index, properties]
}

fn seal(table: &mut [u8], (offset, len): (usize, usize)) {
    let mut context = table[table.len() - 64..][..8].to_vec();
    context.extend_from_slice(&(offset as u64).to_le_bytes());
    let checked = offset + len - 4;
    let check = crc32fast::hash(&table[offset..checked]) ^ crc32fast::hash(&context);
    table[checked..checked + 4].copy_from_slice(&check.to_le_bytes());
}

fuzz_target!(|input: Input| {
    let vfs = Memory::new();
    let options = || lumen_engine::Options { block_bytes: 1 << 20, ..lumen_fuzz::engine_options(&vfs) };
    let engine = Engine::open("/db", options()).expect("a fresh store opens");
    let mut batch = Batch::new();
    batch.put(b"first", b"row");
    for (n, (key, len)) in input.rows.iter().take(60).enumerate() {
        batch.put(&[b'k', key / 16, key % 16], &vec![n as u8; usize::from(*len)]);
    }
    engine.write(&batch, Durability::Sync).expect("nothing fails");
    engine.close().expect("nothing fails");
    drop(engine);
    let tables = vfs.files().into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "sst"));
    for (path, mut table) in tables {
        let blocks = blocks(&table);
        let place = |block: &u8| blocks[usize::from(*block) % blocks.len()];
        if let Some((block, bytes)) = &input.replaced {
            let (offset, len) = place(block);
            let count = bytes.len().min(len - 12);
            table[offset..offset + count].copy_from_slice(&bytes[..count]);
        }
        for (block, at, byte) in input.bytes.iter().take(16) {
            let (offset, len) = place(block);
            table[offset + usize::from(*at) % len] = *byte;
        }
        blocks.iter().for_each(|block| seal(&mut table, *block));
        if let Some((at, byte)) = input.footer {
            let footer = table.len() - 64;
            table[footer + usize::from(at) % 52] = byte;
            let crc = crc32fast::hash(&table[footer..footer + 52]);
            table[footer + 52..footer + 56].copy_from_slice(&crc.to_le_bytes());
        }
        inspect::table("t", &table, &mut std::io::sink()).expect("a sink takes all");
        vfs.damage(&path, |bytes| *bytes = table);
    }
    let Ok(engine) = Engine::open("/db", options()) else { return };
    let _ = engine.verify(&mut |_, _| true);
    for key in 0..=255u8 {
        let _ = engine.get(&[b'k', key / 16, key % 16]);
    }
    let snapshot = engine.snapshot();
    for start in [&b""[..], b"first", b"k\x07", b"z"] {
        let mut scan = snapshot.scan(Bound::Included(start), Bound::Unbounded);
        (0..1000).take_while(|_| matches!(scan.next_row(), Ok(true))).for_each(|_| {});
        let mut scan = snapshot.scan(Bound::Unbounded, Bound::Excluded(start));
        (0..1000).take_while(|_| matches!(scan.prev_row(), Ok(true))).for_each(|_| {});
    }
    // A compaction reads it as well.
    let _ = engine.write(&batch, Durability::Sync).and_then(|_| engine.settle());
});
