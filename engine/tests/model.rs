//! Random operations against a `BTreeMap`, on the in-memory file system, under eight sets of options drawn at random, with
//! snapshots kept, and stores reopened under other options: another compaction strategy goes on with the same tree.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;

use lumen_engine::vfs::memory::{Crash, Memory};
use lumen_engine::{Batch, Compaction, Durability, Engine, Error, Options, Snapshot};
use proptest::prelude::*;

/// Values with when they expire.
type Model = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u16),
    PutUntil(u8, u16, u8),
    Delete(u8),
    DeleteRange(u8, u8),
    Many(Vec<(u8, u16)>),
    Snapshot,
    Flush,
    Settle,
    Later(u8),
    Reopen(u8),
    Crash(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (any::<u8>(), any::<u16>()).prop_map(|(k, v)| Step::Put(k, v)),
        4 => (any::<u8>(), any::<u16>(), 1u8..50).prop_map(|(k, v, ms)| Step::PutUntil(k, v, ms)),
        4 => any::<u8>().prop_map(Step::Delete),
        1 => (any::<u8>(), 0u8..40).prop_map(|(k, n)| Step::DeleteRange(k, k.saturating_add(n))),
        3 => proptest::collection::vec((any::<u8>(), any::<u16>()), 1..60).prop_map(Step::Many),
        1 => Just(Step::Snapshot),
        2 => Just(Step::Flush),
        1 => Just(Step::Settle),
        2 => (1u8..20).prop_map(Step::Later),
        1 => any::<u8>().prop_map(Step::Reopen),
        1 => any::<u8>().prop_map(Step::Crash),
    ];
    proptest::collection::vec(step, 1..120)
}

fn key(k: u8) -> Vec<u8> {
    format!("key/{k:03}").into_bytes()
}

fn value(v: u16) -> Vec<u8> {
    format!("value {v} ").repeat(1 + usize::from(v % 13)).into_bytes()
}

thread_local! {
    /// Milliseconds since 1970, as the test wants them.
    static NOW: Cell<u64> = const { Cell::new(1_000_000) };
}

/// One of many sets of options; whatever they are, the answers are the same.
fn options(vfs: &Memory, kind: u8) -> Options {
    let compaction = match kind % 6 {
        0 => Compaction::Leveled,
        1 => Compaction::Tiered { runs: 2, size_ratio_percent: 1, space_percent: 200 },
        2 => Compaction::Tiered { runs: 5, size_ratio_percent: 50, space_percent: 1_000_000 },
        3 => Compaction::LazyLeveled { runs: 2 },
        4 => Compaction::LazyLeveled { runs: 4 },
        _ => Compaction::Fifo { bytes_max: u64::MAX, age_max: None },
    };
    let large = kind / 6 % 2;
    Options {
        vfs: Arc::new(vfs.clone()),
        compaction,
        memtable_bytes: 3 << (10 + large),
        block_bytes: 128 << large,
        table_bytes: 1 << (10 + large),
        level_bytes: 2 << (10 + large),
        level0_tables: 2 + usize::from(large),
        level0_stop: 1000,
        filter_bits: if kind % 4 == 3 { 0 } else { 10 },
        blob_bytes: if kind % 5 == 2 { 60 } else { usize::MAX },
        segment_bytes: 4 << 10,
        cache_bytes: 16 << 10,
        threads: 0,
        clock: || NOW.get(),
        ..Options::default()
    }
}

fn check(snapshot: &Snapshot, model: &Model, now: u64) {
    let live = model.iter().filter(|(_, (_, expiry))| now < *expiry);
    let model: BTreeMap<&[u8], &[u8]> = live.map(|(k, (v, _))| (&k[..], &v[..])).collect();
    let keys: Vec<Vec<u8>> = (0..=255).map(key).collect();
    let keys: Vec<&[u8]> = keys.iter().rev().map(Vec::as_slice).collect();
    let many = snapshot.multi_get(&keys).expect("multi_get");
    for (key, one_of_many) in keys.iter().zip(many) {
        let expected = model.get(key).copied();
        assert_eq!(snapshot.get(key).expect("get").as_deref(), expected, "get {key:?}");
        assert_eq!(one_of_many.as_deref(), expected, "one of many: {key:?}");
        match snapshot.try_get(key).expect("try_get") {
            Poll::Ready(found) => assert_eq!(found.as_deref(), expected, "try_get {key:?}"),
            Poll::Pending => {}
        }
    }
    let mut rows = Vec::new();
    let mut scan = snapshot.scan(Bound::Unbounded, Bound::Unbounded);
    while scan.next_row().expect("scan") {
        rows.push((scan.key().to_vec(), scan.value().to_vec()));
    }
    let expected: Vec<_> = model.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
    assert_eq!(rows, expected, "forward");
    let mut rows = Vec::new();
    let mut scan = snapshot.scan(Bound::Unbounded, Bound::Unbounded);
    while scan.prev_row().expect("scan") {
        rows.push((scan.key().to_vec(), scan.value().to_vec()));
    }
    rows.reverse();
    assert_eq!(rows, expected, "backward");
    let (low, high) = (key(60), key(180));
    let mut scan = snapshot.scan(Bound::Excluded(&low), Bound::Included(&high));
    let mut inside = model.range::<[u8], _>((Bound::Excluded(&low[..]), Bound::Included(&high[..])));
    // To and fro: two on, one back.
    while scan.next_row().expect("scan") {
        let (k, v) = inside.next().expect("a row in the model");
        assert_eq!((scan.key(), scan.value()), (*k, *v));
        if let Some((after, _)) = inside.clone().next() {
            assert!(scan.next_row().expect("scan"));
            assert_eq!(scan.key(), *after, "one on");
            assert!(scan.prev_row().expect("scan"));
            assert_eq!((scan.key(), scan.value()), (*k, *v), "and back");
        }
    }
    assert_eq!(inside.next(), None, "bounded scan ended early");
}

/// Runs the steps, and compares at the end: what is there, what snapshots kept, and what can be read of the past.
fn run(steps: &[Step], kind: u8, retain_seqs: u64) {
    NOW.set(1_000_000);
    let vfs = Memory::new();
    let dir = Path::new("/store");
    let open = |kind| Engine::open(dir, Options { retain_seqs, ..options(&vfs, kind) }).expect("open");
    let mut engine = open(kind);
    let mut model = Model::new();
    let mut kept: Vec<(Snapshot, Model, u64)> = Vec::new();
    let mut history: BTreeMap<u64, Model> = BTreeMap::new();
    for step in steps {
        let mut batch = Batch::new();
        match step {
            Step::Put(k, v) => {
                batch.put(&key(*k), &value(*v));
                model.insert(key(*k), (value(*v), u64::MAX));
            }
            Step::PutUntil(k, v, ms) => {
                let expiry = NOW.get() + u64::from(*ms);
                batch.put_until(&key(*k), &value(*v), expiry);
                model.insert(key(*k), (value(*v), expiry));
            }
            Step::Delete(k) => {
                batch.delete(&key(*k));
                model.remove(&key(*k));
            }
            Step::DeleteRange(from, to) => {
                batch.delete_range(&key(*from), &key(*to));
                model.retain(|k, _| *k < key(*from) || *k >= key(*to));
            }
            Step::Many(pairs) => {
                for (k, v) in pairs {
                    batch.put(&key(*k), &value(*v));
                    model.insert(key(*k), (value(*v), u64::MAX));
                }
            }
            Step::Snapshot => kept.push((engine.snapshot(), model.clone(), NOW.get())),
            Step::Flush => engine.flush().expect("flush"),
            Step::Settle => engine.settle().expect("settle"),
            Step::Later(ms) => NOW.set(NOW.get() + u64::from(*ms)),
            Step::Reopen(kind) => {
                kept.clear();
                engine.close().expect("close");
                drop(engine);
                engine = open(*kind);
            }
            Step::Crash(kind) => {
                kept.clear();
                drop(engine);
                vfs.crash(Crash::DropPending, 1);
                engine = open(*kind);
            }
        }
        if !batch.is_empty() {
            let seq = engine.write(&batch, Durability::Sync).expect("write");
            history.insert(seq, model.clone());
        }
    }
    check(&engine.snapshot(), &model, NOW.get());
    engine.settle().expect("settle");
    check(&engine.snapshot(), &model, NOW.get());
    for (snapshot, model, now) in &kept {
        check(snapshot, model, *now);
    }
    let visible = engine.visible_seq();
    for (&seq, model) in history.iter().rev().step_by(7) {
        match engine.snapshot_of(seq) {
            Ok(snapshot) => check(&snapshot, model, NOW.get()),
            Err(Error::OutOfReach { .. }) => assert!(seq + retain_seqs < visible, "{seq} of {visible}"),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(matches!(engine.snapshot_of(visible + 1), Err(Error::OutOfReach { .. })));
    assert!(engine.verify(&mut |_, _| true).expect("verify").is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn answers_like_a_sorted_map(steps in steps(), kinds in any::<[u8; 8]>(), retain in 0u64..60) {
        for kind in kinds {
            run(&steps, kind, retain.saturating_sub(20));
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
