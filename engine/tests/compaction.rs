//! What compaction costs in writing, where a wrong choice would cost many times that. The file system is in memory and nothing
//! runs beside the test, so that the figures repeat.

mod noise;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lumen_engine::vfs::memory::Memory;
use lumen_engine::{Batch, Compaction, Durability, Engine, Options};
use noise::noise;

fn options(compaction: Compaction) -> Options {
    Options {
        vfs: Arc::new(Memory::new()),
        compaction,
        memtable_bytes: 32 << 10,
        table_bytes: 32 << 10,
        level_bytes: 128 << 10,
        segment_bytes: 64 << 10,
        block_bytes: 1 << 10,
        level0_stop: 1000,
        threads: 0,
        random: || 42,
        ..Options::default()
    }
}

fn key(n: u32) -> [u8; 8] {
    let mut key = *b"row/....";
    key[4..].copy_from_slice(&n.to_be_bytes());
    key
}

/// Bytes of tables written for each byte of the user.
fn written_a_byte(engine: &Engine, user_bytes: u64) -> f64 {
    let stats = engine.stats();
    (stats.flushed_bytes + stats.compacted_bytes) as f64 / user_bytes as f64
}

fn value(n: u32) -> Vec<u8> {
    noise(n, 100)
}

fn put(engine: &Engine, n: u32) {
    let mut batch = Batch::new();
    batch.put(&key(n), &value(n));
    engine.write(&batch, Durability::Buffered).expect("write");
}

#[test]
fn a_queue_is_not_rewritten_between_its_ends() {
    const LENGTH: u32 = 20_000;
    let engine = Engine::open("/store", options(Compaction::Leveled)).expect("open");
    (0..LENGTH).for_each(|n| put(&engine, n));
    let before = engine.stats();
    for n in 0..LENGTH {
        put(&engine, LENGTH + n);
        let mut batch = Batch::new();
        batch.delete(&key(n));
        engine.write(&batch, Durability::Buffered).expect("write");
    }
    engine.settle().expect("settle");
    let written = written_a_byte(&engine, u64::from(LENGTH) * 116)
        - (before.flushed_bytes + before.compacted_bytes) as f64 / f64::from(LENGTH * 116);
    // It was 52 while outputs reached from one end to the other.
    assert!(written < 10.0, "{written:.1} bytes are written for each byte of the queue");
    let bytes: u64 = engine.stats().levels.iter().map(|level| level.bytes).sum();
    assert!(bytes < u64::from(LENGTH) * 160, "{bytes} bytes for {LENGTH} rows");
}

#[test]
fn tiers_write_less_than_levels() {
    let written = |compaction| {
        let engine = Engine::open("/store", options(compaction)).expect("open");
        let mut n = 1u32;
        for _ in 0..40_000 {
            n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            put(&engine, n);
        }
        engine.settle().expect("settle");
        written_a_byte(&engine, 40_000 * 108)
    };
    let leveled = written(Compaction::Leveled);
    let tiered = written(Compaction::Tiered { runs: 8, size_ratio_percent: 1, space_percent: 200 });
    let fifo = written(Compaction::Fifo { bytes_max: u64::MAX, age_max: None });
    assert!(tiered < 0.8 * leveled, "tiered {tiered:.2}, leveled {leveled:.2}");
    assert!(fifo < 1.4, "nothing is merged, and {fifo:.2} bytes are written a byte");
}

#[test]
fn at_rest_level_0_goes_down_unless_it_is_small_beside_what_it_meets() {
    let engine = Engine::open("/store", options(Compaction::Leveled)).expect("open");
    let mut n = 1u32;
    let mut next = || {
        n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        n
    };
    let keys: Vec<u32> = (0..700).map(|_| next()).collect();
    keys.iter().for_each(|n| put(&engine, *n));
    engine.settle().expect("settle");
    assert!(engine.stats().level0_depth > 0, "what is left is not enough for a compaction that has to be");
    engine.rest().expect("rest");
    assert_eq!(engine.stats().level0_depth, 0);
    let by_reason = engine.stats().compactions_by_reason;
    assert!(by_reason.iter().any(|(reason, count)| *reason == "rest" && *count > 0), "{by_reason:?}");
    for n in &keys {
        assert_eq!(engine.get(&key(*n)).expect("get").as_deref(), Some(&value(*n)[..]));
    }
    // A few rows all over the keys would have all of it written again.
    let before = engine.stats().compacted_bytes;
    (0..10).for_each(|_| put(&engine, next()));
    engine.rest().expect("rest");
    assert_eq!((engine.stats().level0_depth, engine.stats().compacted_bytes), (1, before));
}

#[test]
fn a_store_comes_to_rest_by_itself() {
    // Nothing else is due: what a compaction of another reason leaves may be too small to be worth one at rest.
    let options =
        Options { threads: 2, level0_tables: 1000, level0_stop: 1000, ..options(Compaction::Leveled) };
    let engine = Engine::open("/store", options).expect("open");
    (0..700u32).for_each(|n| put(&engine, n.wrapping_mul(2_654_435_761)));
    engine.flush().expect("flush");
    assert!(engine.stats().level0_depth > 1 || engine.stats().compactions > 0);
    let deadline = Instant::now() + Duration::from_secs(60);
    while engine.stats().level0_depth > 0 {
        assert!(Instant::now() < deadline, "{} tables lie over one another", engine.stats().level0_depth);
        std::thread::yield_now();
    }
    engine.close().expect("close");
}

#[test]
fn the_log_of_a_store_at_rest_gives_its_room_back() {
    let vfs = Memory::new();
    let options = || Options {
        vfs: Arc::new(vfs.clone()),
        threads: 2,
        memtable_bytes: 1 << 20,
        segment_bytes: 64 << 20,
        ..options(Compaction::Leveled)
    };
    let log_bytes = || -> usize {
        let is_log = |path: &Path| path.to_string_lossy().contains(".wal");
        vfs.files().iter().filter(|(path, _)| is_log(path)).map(|(_, bytes)| bytes.len()).sum()
    };
    let engine = Engine::open("/store", options()).expect("open");
    (0..50_000u32).for_each(|n| put(&engine, n));
    assert!(log_bytes() > 8 << 20, "{} bytes", log_bytes());
    engine.flush().expect("flush");
    let deadline = Instant::now() + Duration::from_secs(60);
    while log_bytes() > 4 << 20 {
        assert!(Instant::now() < deadline, "the log has {} bytes", log_bytes());
        std::thread::sleep(Duration::from_millis(50));
    }
    // It goes on from there, through a kill and a close.
    put(&engine, 50_000);
    drop(engine);
    let engine = Engine::open("/store", options()).expect("open");
    assert_eq!(engine.get(&key(50_000)).expect("get").as_deref(), Some(&value(50_000)[..]));
    put(&engine, 50_001);
    engine.close().expect("close");
    let engine = Engine::open("/store", options()).expect("open");
    for n in (0..50_002).step_by(7).chain([50_001]) {
        assert_eq!(engine.get(&key(n)).expect("get").as_deref(), Some(&value(n)[..]), "{n}");
    }
}
