//! Random operations against a sorted map (`operations/mod.rs`) under eight sets of options drawn at random, writers beside readers, and what FIFO drops.

#[expect(unreachable_pub, reason = "the fuzz target engine_ops uses it as well")]
mod operations;

use lumen_engine::vfs::memory::{Crash, Memory};
use lumen_engine::{Batch, Compaction, Durability, Engine, Options};
use operations::{Change, NOW, Operation, key, options, run};
use proptest::prelude::*;

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let change = prop_oneof![
        12 => (any::<u8>(), any::<u16>()).prop_map(|(k, v)| Change::Put(k, v)),
        3 => (any::<u8>(), any::<u16>(), any::<u8>()).prop_map(|(k, v, ms)| Change::PutUntil(k, v, ms)),
        4 => any::<u8>().prop_map(Change::Delete),
        1 => (any::<u8>(), 0u8..40).prop_map(|(k, n)| Change::DeleteRange(k, k.saturating_add(n))),
    ];
    let sizes = prop_oneof![6 => Just(1..2usize), 1 => Just(0..60usize)];
    let changes = sizes.prop_flat_map(move |sizes| proptest::collection::vec(change.clone(), sizes));
    let operation = prop_oneof![
        40 => (changes, proptest::bool::weighted(0.7)).prop_map(|(changes, sync)| Operation::Write { changes, sync }),
        2 => Just(Operation::Snapshot),
        1 => any::<u8>().prop_map(Operation::Look),
        1 => any::<u8>().prop_map(Operation::Past),
        2 => any::<u8>().prop_map(Operation::Later),
        1 => any::<(u8, u8, bool)>().prop_map(|(from, to, replace)| Operation::Ingest { from, to, replace }),
        4 => any::<u8>().prop_map(Operation::Get),
        2 => any::<(u8, u8, bool)>().prop_map(|(from, to, backward)| Operation::Scan { from, to, backward }),
        4 => Just(Operation::Flush),
        2 => Just(Operation::Settle),
        2 => any::<u8>().prop_map(Operation::Reopen),
        2 => any::<(u8, u8, u8, u8)>()
            .prop_map(|(after, crash, again, options)| Operation::PowerCut { after, crash, again, options }),
    ];
    proptest::collection::vec(operation, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn answers_like_a_sorted_map(operations in operations(), kinds in any::<[u8; 8]>()) {
        for kind in kinds {
            run(kind, &operations);
        }
    }
}

#[test]
fn plain_reads_never_see_more_than_a_snapshot_opened_after_them() {
    let vfs = Memory::new();
    let engine = Engine::open("/store", Options { threads: 2, ..options(&vfs, 0) }).expect("open");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..300u32 {
                let mut batch = Batch::new();
                for k in 0..50u8 {
                    batch.put(&key(k), &round.to_be_bytes());
                }
                engine.write(&batch, Durability::Sync).expect("write");
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        let mut pairs = 0u64;
        while !done.load(std::sync::atomic::Ordering::Acquire) || pairs == 0 {
            for k in [0, 25, 49] {
                let plain = engine.get(&key(k)).expect("get").map(|v| v.to_vec());
                let snapshot = engine.snapshot();
                let later = snapshot.get(&key(k)).expect("get").map(|v| v.to_vec());
                assert!(plain <= later, "a plain read saw {plain:?}, a later snapshot {later:?}");
                let other = snapshot.get(&key(49 - k)).expect("get").map(|v| v.to_vec());
                assert_eq!(later, other, "half a batch is visible");
                pairs += 1;
            }
        }
    });
    engine.close().expect("close");
}

#[test]
fn concurrent_sync_writes_share_syncs_and_all_survive() {
    let vfs = Memory::new();
    let engine = Engine::open("/store", Options { threads: 2, ..options(&vfs, 0) }).expect("open");
    std::thread::scope(|scope| {
        for writer in 0..8u8 {
            let engine = &engine;
            scope.spawn(move || {
                for n in 0..100u8 {
                    let mut batch = Batch::new();
                    batch.put(&[writer, n], &[n; 100]);
                    engine.write(&batch, Durability::Sync).expect("write");
                    assert_eq!(engine.get(&[writer, n]).expect("get").as_deref(), Some(&[n; 100][..]));
                }
            });
        }
    });
    drop(engine);
    vfs.crash(Crash::DropPending, 3);
    let engine = Engine::open("/store", options(&vfs, 0)).expect("recover");
    for writer in 0..8u8 {
        for n in 0..100u8 {
            assert_eq!(
                engine.get(&[writer, n]).expect("get").as_deref(),
                Some(&[n; 100][..]),
                "{writer} {n}"
            );
        }
    }
}

#[test]
fn the_oldest_go_first() {
    let vfs = Memory::new();
    let now = |ms: u64| NOW.set(ms);
    let fifo = |bytes_max, seconds: Option<u64>| Options {
        compaction: Compaction::Fifo { bytes_max, age_max: seconds.map(std::time::Duration::from_secs) },
        ..options(&vfs, 0)
    };
    let fill = |engine: &Engine, day: u8| {
        let mut batch = Batch::new();
        (0..50u8).for_each(|n| batch.put(&[day, n], &[n; 20]));
        engine.write(&batch, Durability::Sync).expect("write");
        engine.flush().expect("flush");
    };
    let days = |engine: &Engine| -> Vec<u8> {
        (0..9u8).filter(|&day| engine.get(&[day, 7]).expect("get").is_some()).collect()
    };
    let engine = Engine::open("/store", fifo(u64::MAX, Some(100))).expect("open");
    for day in 0..6u8 {
        now(1_000_000 + u64::from(day) * 30_000);
        fill(&engine, day);
    }
    // At 150 s, what was written before 50 s is gone: days 0 and 1.
    assert_eq!(days(&engine), [2, 3, 4, 5]);
    let bytes: u64 = engine.stats().levels.iter().map(|level| level.bytes).sum();
    let snapshot = engine.snapshot();
    engine.close().expect("close");
    drop(engine);
    let engine = Engine::open("/store", fifo(bytes * 4 / 5, None)).expect("reopen");
    assert_eq!(days(&engine), [3, 4, 5], "one has to go");
    // A range delete does not mix old and new, and reopened from another strategy's one run, the oldest still go first.
    let mut batch = Batch::new();
    batch.delete_range(&[4, 10], &[4, 20]);
    engine.write(&batch, Durability::Sync).expect("write");
    engine.flush().expect("flush");
    fill(&engine, 6);
    assert_eq!(days(&engine), [4, 5, 6]);
    assert!(engine.get(&[4, 15]).expect("get").is_none());
    assert!(snapshot.get(&[2, 7]).expect("get").is_some(), "who holds a snapshot still sees it");
    assert_eq!(
        engine.stats().compactions_by_reason.iter().find(|(name, _)| *name == "expired"),
        Some(&("expired", 2)),
        "one at the opening, one after day 6"
    );
}
