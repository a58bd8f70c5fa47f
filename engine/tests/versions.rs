//! Keys of which there are many versions: a walk meets the one that it should see, both ways, wherever the others lie.

use std::ops::Bound::Unbounded;
use std::sync::Arc;
use std::task::Poll;

use lumen_engine::vfs::memory::Memory;
use lumen_engine::{Batch, Durability, Engine, Options, Snapshot};

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

fn options(vfs: &Memory) -> Options {
    Options {
        vfs: Arc::new(vfs.clone()),
        retain_seqs: 10_000,
        block_bytes: 64,
        threads: 0,
        ..Options::default()
    }
}

fn rows(snapshot: &Snapshot, forward: bool) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let mut scan = snapshot.scan(Unbounded, Unbounded);
    let mut rows = Vec::new();
    while if forward { scan.next_row() } else { scan.prev_row() }.expect("a walk") {
        rows.push((text(scan.key()), text(scan.value())));
    }
    if !forward {
        rows.reverse();
    }
    rows
}

/// Writes each of `keys` `times` over; `b` is deleted at the end, and `d` begins to be there.
fn write_over(engine: &Engine, keys: &[&str], round: u32, times: u32) {
    for n in 0..times {
        let mut batch = Batch::new();
        keys.iter().for_each(|key| batch.put(key.as_bytes(), format!("{key}{round}.{n}").as_bytes()));
        engine.write(&batch, Durability::Buffered).expect("write");
    }
    let mut batch = Batch::new();
    batch.delete(b"b");
    engine.write(&batch, Durability::Buffered).expect("write");
}

#[test]
fn a_walk_sees_its_own_version_among_many_newer_and_older_ones() {
    let vfs = Memory::new();
    let engine = Engine::open("/store", options(&vfs)).expect("open");
    let mut held: Vec<(Snapshot, Vec<(String, String)>)> = Vec::new();
    let row = |key: &str, round: u32, n: u32| (key.to_string(), format!("{key}{round}.{n}"));
    for (round, times) in [(1, 3), (2, 7), (3, 8), (4, 9), (5, 100), (6, 1)] {
        let keys = if round < 3 { &KEYS[..3] } else { &KEYS[..] };
        write_over(&engine, keys, round, times);
        let expected = keys.iter().filter(|key| **key != "b").map(|key| row(key, round, times - 1)).collect();
        held.push((engine.snapshot(), expected));
        // In memory, in tables of one flush each, and merged.
        if round % 2 == 0 {
            engine.flush().expect("flush");
        }
        for (snapshot, expected) in &held {
            for forward in [true, false] {
                assert_eq!(&rows(snapshot, forward), expected, "seq {} after round {round}", snapshot.seq());
                let later = engine.snapshot_of(snapshot.seq()).expect("kept");
                assert_eq!(&rows(&later, forward), expected, "seq {} asked in round {round}", snapshot.seq());
            }
        }
    }
    engine.settle().expect("settle");
    for (snapshot, expected) in &held {
        let merged = engine.snapshot_of(snapshot.seq()).expect("kept");
        assert_eq!((&rows(&merged, true), &rows(&merged, false)), (expected, expected));
        // Turning round amid the versions.
        let mut scan = merged.scan(Unbounded, Unbounded);
        for (key, value) in expected.iter() {
            assert!(scan.next_row().expect("a walk"));
            assert_eq!((scan.key(), scan.value()), (key.as_bytes(), value.as_bytes()));
        }
        for (key, value) in expected.iter().rev().skip(1) {
            assert!(scan.prev_row().expect("a walk"));
            assert_eq!((scan.key(), scan.value()), (key.as_bytes(), value.as_bytes()));
        }
    }
    // Before anything was written, all of it is too new.
    let first =
        engine.snapshot_of(0).map(|snapshot| rows(&snapshot, true).len() + rows(&snapshot, false).len());
    assert!(first.is_ok_and(|rows| rows == 0));
}

#[test]
fn try_get_answers_from_memory_or_not_at_all() {
    let vfs = Memory::new();
    let engine = Engine::open("/store", options(&vfs)).expect("open");
    let put = |engine: &Engine, key: &[u8], value: &[u8]| {
        let mut batch = Batch::new();
        batch.put(key, value);
        engine.write(&batch, Durability::Buffered).expect("write");
    };
    (0..100u8).for_each(|n| put(&engine, &[b'k', n], &[n; 50]));
    put(&engine, &[b'k', 7], b"newer");
    engine.flush().expect("flush");
    engine.close().expect("close");
    let engine = Engine::open("/store", options(&vfs)).expect("open");
    put(&engine, b"fresh", b"1");
    let snapshot = engine.snapshot();
    let before = vfs.calls();
    let look = |snapshot: &Snapshot, key: &[u8]| match snapshot.try_get(key).expect("try_get") {
        Poll::Ready(found) => format!("{:?}", found.as_deref().map(<[u8]>::len)),
        Poll::Pending => "pending".into(),
    };
    assert_eq!(look(&snapshot, b"fresh"), "Some(1)", "the memtable has it");
    assert_eq!(look(&snapshot, &[b'k', 7]), "pending", "nothing of the table was read yet");
    assert_eq!(look(&snapshot, b"zz"), "None", "no table reaches so far");
    assert_eq!(vfs.calls(), before, "and nothing is read for it");
    assert_eq!(snapshot.get(&[b'k', 7]).expect("get").as_deref(), Some(&b"newer"[..]));
    let before = vfs.calls();
    assert_eq!(look(&snapshot, &[b'k', 7]), "Some(5)", "the block is in the cache");
    // The version before lies further on, perhaps in another block.
    let past = engine.snapshot_of(50).expect("kept");
    assert_eq!(look(&past, &[b'k', 7]), "pending");
    assert_eq!(vfs.calls(), before);
    assert_eq!(past.get(&[b'k', 7]).expect("get").as_deref(), Some(&[7; 50][..]));
}
