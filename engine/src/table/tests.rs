//! Tables that are not what is said of them, what stays in memory of which tables, and how many reads a walk takes.

#[path = "../../tests/noise/mod.rs"]
mod noise;

use std::path::Path;
use std::sync::Arc;

use crate::cursor::Cursor;
use crate::error::Error;
use crate::key::{Entry, Op};
use crate::table::ahead::Ahead;
use crate::table::block::{Block, BlockCursor};
use crate::table::builder::{TableBuilder, TableOptions, split_partition};
use crate::table::cache::BlockCache;
use crate::table::filter::{self, FilterKind};
use crate::table::footer::{self, BlockKind, Codec, Footer, Handle};
use crate::table::properties::{Properties, Times};
use crate::table::reader::{Reach, Table};
use crate::vfs::memory::Memory;
use crate::vfs::{Mode, Vfs};
use noise::noise;

fn key(n: u32) -> Vec<u8> {
    format!("key{n:06}").into_bytes()
}

fn value(n: u32) -> Vec<u8> {
    noise(n, 100)
}

/// A table of such entries; `value` is as it is stored.
fn table(
    vfs: &Memory,
    cache: &Arc<BlockCache>,
    number: u64,
    entries: &[(Vec<u8>, u64, Op, Vec<u8>)],
) -> Table {
    let options = TableOptions {
        block_bytes: 512,
        filter: FilterKind::Bloom(10),
        codec: Codec::Lz4,
        times: Times { oldest_ms: 5, written_ms: 7 },
    };
    let path = format!("/{number}.sst");
    let mut builder =
        TableBuilder::create(vfs, Path::new(&path), number, 99 + number, options).expect("create");
    for (key, seq, op, value) in entries {
        builder.add(Entry { key, seq: *seq, op: *op, value }).expect("add");
    }
    Table::new(builder.finish().expect("finish"), path.into(), Arc::new(vfs.clone()), cache.clone())
}

fn rows(numbers: std::ops::Range<u32>) -> Vec<(Vec<u8>, u64, Op, Vec<u8>)> {
    numbers.map(|n| (key(n), 1, Op::Put, value(n))).collect()
}

/// Whether the table holds the row as it was.
fn holds(table: &Table, n: u32) -> bool {
    let found = table.get(&key(n), filter::hash(&key(n)), 9, Reach::Disk).expect("get");
    found.is_some_and(|found| *found.into_value() == *value(n))
}

#[test]
fn what_a_table_says_of_its_entries_is_counted_again() {
    let (vfs, cache) = (Memory::new(), Arc::new(BlockCache::new(1 << 20, 512)));
    let mut entries = Vec::new();
    for n in 0..300 {
        match n {
            100..200 => entries.push((key(n), 9, Op::Delete, Vec::new())),
            _ if n % 7 == 0 => {
                let expiry = u64::from(1000 + n).to_le_bytes();
                entries.push((key(n), 8, Op::PutUntil, [&expiry[..], &value(n)].concat()));
            }
            _ => entries.push((key(n), 7, Op::Put, value(n))),
        }
        if n % 5 == 0 {
            entries.push((key(n), 3, Op::Put, value(n)));
        }
    }
    let mut table = table(&vfs, &cache, 1, &entries);
    let stated = table.meta.stated.clone();
    assert_eq!((stated.entries, stated.deletes, stated.shadowed), (360, 100, 60));
    assert_eq!((stated.expiring, stated.expiry_max), (29, 1294));
    assert_eq!((stated.min_seq, stated.max_seq), (3, 9));
    assert!((50..=100).contains(&stated.close_deletes), "{}", stated.close_deletes);
    table.verify(&mut |_| Ok(())).expect("all is as it says");
    assert!(holds(&table, 1), "the file is open now: what it says of itself is not compared any more");
    let lies: [(&str, fn(&mut Properties)); 12] = [
        ("entries", |stated| stated.entries += 1),
        ("deletes", |stated| stated.deletes -= 1),
        ("close deletes", |stated| stated.close_deletes += 1),
        ("shadowed entries", |stated| stated.shadowed -= 1),
        ("expiring entries", |stated| stated.expiring += 1),
        ("last expiry", |stated| stated.expiry_max += 1),
        ("raw bytes", |stated| stated.raw_bytes += 1),
        ("smallest seq", |stated| stated.min_seq -= 1),
        ("largest seq", |stated| stated.max_seq += 1),
        ("the smallest key", |stated| stated.smallest.push(0)),
        ("the largest key", |stated| stated.largest.push(0)),
        ("blob files", |stated| stated.blobs.push((7, 7))),
    ];
    for (name, lie) in lies {
        table.meta.stated = stated.clone();
        lie(&mut table.meta.stated);
        match table.recount(&mut |_| Ok(())) {
            Err(Error::Corrupt { file, reason, .. }) => {
                assert!(file == "1.sst" && reason.contains(name), "{name}: {reason}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    // Whoever verifies reads the file anew, where the properties speak first.
    let refused = table.verify(&mut |_| Ok(())).expect_err("the manifest says otherwise");
    assert!(refused.to_string().contains("not those of the manifest"), "{refused}");
}

/// A file whose checksums are right, but whose filter lacks the keys: who only reads the entries does not notice.
#[test]
fn a_key_to_which_the_filter_does_not_lead_is_damage() {
    let (vfs, cache) = (Memory::new(), Arc::new(BlockCache::new(1 << 20, 512)));
    let entries: Vec<_> = (0..300).map(|n| (key(n), 7, Op::Put, value(n))).collect();
    let sound = table(&vfs, &cache, 1, &entries);
    sound.verify(&mut |_| Ok(())).expect("all is as it says");
    let (uid, path) = (sound.meta.uid, Path::new("/1.sst"));
    let bytes = vfs.contents(path).expect("the file");
    let (body, footer) = bytes.split_last_chunk().expect("a footer");
    let top = Footer::decode(footer, bytes.len() as u64).expect("sound").index;
    let top_bytes = &body[top.offset as usize..][..top.len];
    let raw = footer::open(top_bytes, BlockKind::Index, uid, top.offset).expect("sound");
    let mut cursor = BlockCursor::new(Arc::new(Block::new(raw).expect("sound")));
    cursor.seek_first().expect("sound");
    let partition = Handle::decode(cursor.entry().expect("a partition").value).expect("sound");
    let (at, len) = (partition.offset as usize, partition.len);
    let mut raw = footer::open(&bytes[at..at + len], BlockKind::Partition, uid, at as u64).expect("sound");
    let filter_bytes = split_partition(&raw).expect("sound").0.len();
    raw[..filter_bytes - 16].fill(0); // all but what kind of filter it is
    let sealed = footer::seal(&raw, BlockKind::Partition, Codec::Raw, uid, at as u64);
    vfs.damage(path, |bytes| bytes[at..at + len].copy_from_slice(&sealed));
    let refused = sound.verify(&mut |_| Ok(())).expect_err("no key is found any more");
    assert!(refused.to_string().contains("index and filter do not lead to a key"), "{refused}");
}

/// What a look-up of a row costs in reads of files.
fn reads(vfs: &Memory, table: &Table, n: u32) -> u64 {
    let before = vfs.calls();
    assert!(holds(table, n));
    vfs.calls() - before
}

#[test]
fn pinned_partitions_stay_and_count_in_the_one_budget() {
    const BUDGET: u64 = 256 << 10;
    let (vfs, cache) = (Memory::new(), Arc::new(BlockCache::new(BUDGET, 512)));
    let (pinned, plain) = (table(&vfs, &cache, 1, &rows(0..1000)), table(&vfs, &cache, 2, &rows(0..1000)));
    pinned.pin();
    for n in 0..1000 {
        assert!(holds(&pinned, n) && holds(&plain, n));
    }
    let held = cache.pinned();
    assert!(held > 1000 && held == pinned.pinned_bytes() as u64, "{held} bytes");
    assert_eq!(plain.pinned_bytes(), 0);
    // Much else is read, twice over, until nothing of theirs is left but what is pinned.
    let other = table(&vfs, &cache, 3, &rows(0..20_000));
    for n in (0..20_000).chain(0..20_000) {
        assert!(holds(&other, n));
        let bytes = cache.bytes() + cache.pinned();
        assert!(bytes <= BUDGET + (16 << 10), "{bytes} bytes of {BUDGET}");
    }
    assert_eq!(cache.pinned(), held);
    assert_eq!(
        (reads(&vfs, &pinned, 500), reads(&vfs, &plain, 500)),
        (1, 2),
        "a block; a partition and a block"
    );
    // It ends where a quarter of the budget is pinned: others go through the cache.
    let many: Vec<Table> = (10..60).map(|number| table(&vfs, &cache, number, &rows(0..2000))).collect();
    for table in &many {
        table.pin();
        (0..2000).step_by(10).for_each(|n| assert!(holds(table, n)));
    }
    assert!(cache.pinned() > BUDGET / 4 && cache.pinned() < BUDGET / 4 + (16 << 10), "{}", cache.pinned());
    drop((pinned, many));
    assert_eq!(cache.pinned(), 0, "with the tables it is given back");
    (0..20_000).for_each(|n| assert!(holds(&other, n)));
    assert!(cache.bytes() > BUDGET * 3 / 4, "{} bytes are used again", cache.bytes());
}

#[test]
fn who_walks_reads_many_blocks_at_once() {
    let (vfs, cache) = (Memory::new(), Arc::new(BlockCache::new(64 << 10, 512)));
    let table = Arc::new(table(&vfs, &cache, 1, &rows(0..20_000)));
    let blocks = table.meta.len / 600;
    assert!(holds(&table, 0), "it is open");
    // Of all of it, as a compaction walks; then as a scan does, forward and backward.
    let walk = |keep: bool, forward: bool| {
        let before = vfs.calls();
        let mut cursor = table.cursor(keep);
        if forward { cursor.seek_first() } else { cursor.seek_last() }.expect("seek");
        let mut met = 0;
        while let Some(entry) = cursor.entry() {
            let n = if forward { met } else { 19_999 - met };
            assert_eq!((entry.key, entry.value), (&key(n)[..], &value(n)[..]));
            met += 1;
            if forward { cursor.next() } else { cursor.prev() }.expect("step");
        }
        assert_eq!(met, 20_000);
        vfs.calls() - before
    };
    let (whole, scan, backward) = (walk(false, true), walk(true, true), walk(true, false));
    assert!(blocks > 3000 && whole < 60 && scan < 80, "{whole} and {scan} reads of {blocks} blocks");
    assert!(backward > blocks / 2, "backward each block is read by itself: {backward} of {blocks}");
}

#[test]
fn reading_ahead_gives_the_bytes_that_were_asked_for() {
    let vfs = Memory::new();
    let bytes: Vec<u8> = (0..1_000_000u32).map(|n| (n / 7) as u8).collect();
    let file = vfs.open(Path::new("/file"), Mode::Create).expect("create");
    file.write_at(&bytes, 0).expect("write");
    let end = bytes.len() as u64 - 500; // nothing beyond is a block
    let reads_of = |offsets: &mut dyn Iterator<Item = u64>, scan: bool| {
        let (mut ahead, before) = (Ahead::new(scan), vfs.calls());
        for offset in offsets {
            let handle = Handle { offset, len: 500 };
            let read = ahead.read(&*file, handle, end).expect("read");
            assert!(read == &bytes[offset as usize..][..500], "at {offset}");
        }
        vfs.calls() - before
    };
    let in_order = || (0..end / 500).map(|n| n * 500);
    assert_eq!(reads_of(&mut in_order(), false), 1, "of 1 MB, 1 MiB at once");
    // The first two by themselves, then 32, 64, 128 KiB and 256 KiB at a time.
    assert_eq!(reads_of(&mut in_order(), true), 2 + 3 + 3);
    // A partition between two blocks does not end it; a jump does, and so does turning back.
    assert!(reads_of(&mut in_order().map(|n| if n > 500_000 { n + 2000 } else { n }).take(1900), true) < 12);
    assert_eq!(reads_of(&mut in_order().step_by(400), true), 5);
    let backward: Vec<u64> = in_order().take(100).collect();
    assert_eq!(reads_of(&mut backward.into_iter().rev(), true), 100);
}
