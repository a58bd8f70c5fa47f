//! What a store tells of itself: events as they happen, and figures that add up.

mod noise;

use std::sync::Arc;
use std::time::Duration;

use lumen_engine::events::Event;
use lumen_engine::vfs::memory::Memory;
use lumen_engine::{Batch, Durability, Engine, Options};
use noise::noise;
use parking_lot::Mutex;

/// A store whose work is done when it is asked for, and what it tells.
fn open(vfs: &Memory) -> (Engine, Arc<Mutex<Vec<Event>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = heard.clone();
    let options = Options {
        vfs: Arc::new(vfs.clone()),
        threads: 0,
        level0_tables: 100,
        listener: Some(Arc::new(move |event: &Event| told.lock().push(event.clone()))),
        ..Options::default()
    };
    (Engine::open("/store", options).expect("open"), heard)
}

fn value(n: u32) -> Vec<u8> {
    noise(n, 100)
}

const ROWS: u32 = 5000;

fn fill(engine: &Engine, round: u32) {
    for n in 0..ROWS {
        let mut batch = Batch::new();
        batch.put(format!("key{n:05}").as_bytes(), &value(n + round));
        engine.write(&batch, Durability::Buffered).expect("write");
    }
}

#[test]
fn flushes_and_compactions_are_told_and_counted_alike() {
    let vfs = Memory::new();
    let (engine, heard) = open(&vfs);
    for round in 0..3 {
        fill(&engine, round);
        engine.flush().expect("flush");
    }
    let flushed: Vec<u64> = heard.lock().iter().filter_map(flushed_bytes).collect();
    let stats = engine.stats();
    assert_eq!((flushed.len() as u64, flushed.iter().sum()), (stats.flushes, stats.flushed_bytes));
    let raw = u64::from(ROWS) * 108;
    assert!(
        flushed.iter().all(|&bytes| bytes > raw * 9 / 10 && bytes < raw * 13 / 10),
        "{flushed:?} of {raw}"
    );
    engine.close().expect("close");
    // Merged under other options.
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = heard.clone();
    let options = Options {
        vfs: Arc::new(vfs),
        threads: 0,
        level0_tables: 2,
        listener: Some(Arc::new(move |event: &Event| told.lock().push(event.clone()))),
        ..Options::default()
    };
    let engine = Engine::open("/store", options).expect("open");
    engine.settle().expect("settle");
    let stats = engine.stats();
    let (mut jobs, mut was_read, mut was_written) = (0, 0, 0);
    for event in heard.lock().iter() {
        if let Event::Compacted { reason, read, written, took } = event {
            (jobs, was_read, was_written) = (jobs + 1, was_read + read, was_written + written);
            assert!(stats.compactions_by_reason.iter().any(|(name, count)| name == reason && *count > 0));
            assert!(*took > Duration::ZERO);
        }
    }
    assert!(jobs > 0 && was_read >= 2 * raw && was_written < was_read, "{jobs}: {was_read}, {was_written}");
    assert_eq!(
        (jobs, was_read, was_written),
        (stats.compactions, stats.compaction_read_bytes, stats.compacted_bytes)
    );
}

fn flushed_bytes(event: &Event) -> Option<u64> {
    match event {
        Event::Flushed { bytes, took } => {
            assert!(*took > Duration::ZERO);
            Some(*bytes)
        }
        _ => None,
    }
}

#[test]
fn amplifications_are_what_was_written_and_kept() {
    let vfs = Memory::new();
    let (engine, _) = open(&vfs);
    fill(&engine, 0);
    engine.flush().expect("flush");
    let near = |found: f64, expected: f64| (found - expected).abs() < 0.15 * expected;
    let stats = engine.stats();
    // Keys, values, and a few bytes around each in its batch.
    let user_bytes = stats.user_bytes as f64 / f64::from(ROWS * 108);
    assert!((1.0..1.1).contains(&user_bytes), "{user_bytes}");
    // Once to the log, with some bytes around each record, and once to a table.
    let log = stats.log.expect("a log of its own").bytes as f64 / stats.user_bytes as f64;
    assert!(log > 1.1 && log < 1.6, "{log} bytes of log");
    assert!(near(stats.write_amplification(), 1.0 + log), "{}", stats.write_amplification());
    assert!(near(stats.space_amplification(), 1.0), "{}", stats.space_amplification());
    for (round, copies) in [(1, 2.0), (2, 3.0)] {
        fill(&engine, round);
        engine.flush().expect("flush");
        assert!(
            near(engine.stats().space_amplification(), copies),
            "{}",
            engine.stats().space_amplification()
        );
    }
    assert!(near(engine.stats().write_amplification(), 1.0 + log), "merged was nothing yet");
}

#[test]
fn a_snapshot_that_keeps_files_from_going_is_told_by_its_age() {
    let vfs = Memory::new();
    let (engine, _) = open(&vfs);
    fill(&engine, 0);
    assert_eq!(engine.stats().oldest_snapshot, None);
    let old = engine.snapshot();
    assert_eq!(engine.stats().oldest_snapshot, None, "what it sees is what there is");
    engine.flush().expect("flush");
    let first = engine.stats().oldest_snapshot.expect("it holds memory that was flushed");
    let young = engine.snapshot();
    fill(&engine, 1);
    engine.flush().expect("flush");
    let second = engine.stats().oldest_snapshot.expect("still");
    assert!(second > first, "{second:?} after {first:?}: it is the oldest that counts");
    drop(old);
    let third = engine.stats().oldest_snapshot.expect("the other one");
    assert!(third < engine.stats().oldest_snapshot.expect("and it ages"));
    drop(young);
    assert_eq!(engine.stats().oldest_snapshot, None);
}

#[test]
fn filters_are_counted_by_what_they_did() {
    let passed = |filter_bits: usize| {
        let options = Options { vfs: Arc::new(Memory::new()), threads: 0, filter_bits, ..Options::default() };
        let engine = Engine::open("/store", options).expect("open");
        for n in 0..2_000u32 {
            let mut batch = Batch::new();
            batch.put(&(2 * n).to_be_bytes(), b"value");
            engine.write(&batch, Durability::Buffered).expect("write");
        }
        engine.flush().expect("flush");
        for n in 0..1_999u32 {
            assert!(engine.get(&(2 * n + 1).to_be_bytes()).expect("get").is_none());
        }
        let stats = engine.stats();
        assert_eq!(stats.filter_false + stats.filter_stopped, 1_999, "each is one or the other");
        assert_eq!(stats.gets, 1_999);
        assert!(stats.read_amplification() < 0.2, "{} blocks were read", stats.get_reads);
        assert!((stats.space_amplification() - 1.0).abs() < 1e-9, "one table, and nothing over it");
        stats.filter_false_rate()
    };
    assert!(passed(10) < 0.01);
    assert!(passed(0) > 0.999, "without filters every look is in vain");
}
