//! Walks where much was deleted: queues, stacks and what comes back into the middle, against a sorted map, with snapshots
//! held, time passing, memory frozen and compacted, tables taken in and the store reopened.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use lumen_engine::vfs::memory::Memory;
use lumen_engine::{Batch, Durability, Engine, Options, Snapshot};
use proptest::prelude::*;

/// Value, and when it expires.
type Rows = BTreeMap<u32, (u32, u64)>;

#[derive(Debug, Clone)]
enum Step {
    /// So many keys at the end get a row.
    Append(u32),
    /// The same, for so many milliseconds.
    AppendUntil(u32, u64),
    /// So many milliseconds pass.
    Later(u64),
    /// So many of the first rows go.
    Consume(u32),
    /// So many of the last rows go.
    Pop(u32),
    /// The key at so many thousandths of all keys gets a row.
    Return(u32),
    /// Everything from here to there, in thousandths, goes.
    DeleteRange(u32, u32),
    /// A table with a row for the keys at these thousandths is taken in.
    Ingest(u32, u32),
    /// The first rows, the last rows, and those around a place.
    Look(u32),
    Hold,
    Flush,
    Settle,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = || 0..1000u32;
    let step = prop_oneof![
        3 => (1..400u32).prop_map(Step::Append),
        2 => (1..400u32, 1..100u64).prop_map(|(count, ms)| Step::AppendUntil(count, ms)),
        2 => (1..60u64).prop_map(Step::Later),
        6 => (1..300u32).prop_map(Step::Consume),
        3 => (1..300u32).prop_map(Step::Pop),
        2 => place().prop_map(Step::Return),
        1 => (place(), place()).prop_map(|(from, to)| Step::DeleteRange(from.min(to), from.max(to))),
        1 => (place(), place()).prop_map(|(one, other)| Step::Ingest(one, other)),
        12 => place().prop_map(Step::Look),
        2 => Just(Step::Hold),
        1 => Just(Step::Flush),
        1 => Just(Step::Settle),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 20..80)
}

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

fn key(n: u32) -> [u8; 4] {
    n.to_be_bytes()
}

fn row((key, (value, _)): (&u32, &(u32, u64))) -> (u32, u32) {
    (*key, *value)
}

/// What has not expired.
fn live(rows: &Rows) -> Rows {
    rows.iter().filter(|(_, (_, expiry))| NOW.get() < *expiry).map(|(key, row)| (*key, *row)).collect()
}

/// The first `count` rows from `start` on, or back from the last one before it.
fn walk(snapshot: &Snapshot, start: Option<u32>, forward: bool, count: usize) -> Vec<(u32, u32)> {
    let start = start.map(key);
    let here = start.as_ref().map(|key| &key[..]);
    let (from, to) = match forward {
        true => (here.map_or(Bound::Unbounded, Bound::Included), Bound::Unbounded),
        false => (Bound::Unbounded, here.map_or(Bound::Unbounded, Bound::Excluded)),
    };
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
    let (mut rows, mut scan) = (Vec::new(), snapshot.scan(from, to));
    while rows.len() < count
        && if forward { scan.next_row() } else { scan.prev_row() }.expect("nothing is damaged")
    {
        rows.push((number(scan.key()), number(scan.value())));
    }
    rows
}

fn look(snapshot: &Snapshot, rows: &Rows, place: u32) {
    assert_eq!(walk(snapshot, None, true, 3), rows.iter().take(3).map(row).collect::<Vec<_>>());
    assert_eq!(walk(snapshot, None, false, 3), rows.iter().rev().take(3).map(row).collect::<Vec<_>>());
    let after: Vec<_> = rows.range(place..).take(3).map(row).collect();
    assert_eq!(walk(snapshot, Some(place), true, 3), after);
    let before: Vec<_> = rows.range(..place).rev().take(3).map(row).collect();
    assert_eq!(walk(snapshot, Some(place), false, 3), before);
}

fn options(vfs: &Memory) -> Options {
    Options {
        vfs: Arc::new(vfs.clone()),
        memtable_bytes: 60 << 10,
        block_bytes: 512,
        table_bytes: 8 << 10,
        level_bytes: 16 << 10,
        level0_tables: 3,
        threads: 0,
        clock: || NOW.get(),
        ..Options::default()
    }
}

fn run(steps: &[Step]) {
    NOW.set(1);
    let vfs = Memory::new();
    let mut engine = Engine::open("/store", options(&vfs)).expect("open");
    let (mut rows, mut end, mut writes) = (Rows::new(), 0u32, 0u32);
    let mut held: Vec<(Snapshot, Rows)> = Vec::new();
    for step in steps {
        let mut batch = Batch::new();
        let at = |thousandth: u32| (u64::from(end) * u64::from(thousandth) / 1000) as u32;
        writes += 1;
        match *step {
            Step::Append(count) => {
                (end..end + count).for_each(|n| {
                    batch.put(&key(n), &key(writes));
                    rows.insert(n, (writes, u64::MAX));
                });
                end += count;
            }
            Step::AppendUntil(count, ms) => {
                (end..end + count).for_each(|n| {
                    batch.put_until(&key(n), &key(writes), NOW.get() + ms);
                    rows.insert(n, (writes, NOW.get() + ms));
                });
                end += count;
            }
            Step::Later(ms) => NOW.set(NOW.get() + ms),
            Step::Consume(count) => {
                for _ in 0..count {
                    rows.pop_first().into_iter().for_each(|(n, _)| batch.delete(&key(n)));
                }
            }
            Step::Pop(count) => {
                for _ in 0..count {
                    rows.pop_last().into_iter().for_each(|(n, _)| batch.delete(&key(n)));
                }
            }
            Step::Return(place) => {
                batch.put(&key(at(place)), &key(writes));
                rows.insert(at(place), (writes, u64::MAX));
            }
            Step::DeleteRange(from, to) => {
                batch.delete_range(&key(at(from)), &key(at(to)));
                rows.retain(|n, _| *n < at(from) || *n >= at(to));
            }
            Step::Ingest(one, other) => {
                let mut ingestion = engine.ingest();
                for n in [at(one).min(at(other)), at(one).max(at(other)) + 1] {
                    ingestion.put(&key(n), &key(writes)).expect("ascends");
                    rows.insert(n, (writes, u64::MAX));
                }
                ingestion.commit().expect("nothing fails");
                end = end.max(at(1000) + 2);
            }
            Step::Look(place) => look(&engine.snapshot(), &live(&rows), at(place)),
            Step::Hold => held.push((engine.snapshot(), live(&rows))),
            Step::Flush => engine.flush().expect("nothing fails"),
            Step::Settle => engine.settle().expect("nothing fails"),
            Step::Reopen => {
                held.clear();
                engine.close().expect("nothing fails");
                drop(engine);
                engine = Engine::open("/store", options(&vfs)).expect("open");
            }
        }
        if !batch.is_empty() {
            engine.write(&batch, Durability::Buffered).expect("nothing fails");
        }
        held.iter().for_each(|(snapshot, rows)| look(snapshot, rows, end / 2));
    }
    let all = walk(&engine.snapshot(), None, true, usize::MAX);
    assert_eq!(all, live(&rows).iter().map(row).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn walks_over_what_was_deleted_answer_like_a_sorted_map(steps in steps()) {
        run(&steps);
    }
}

#[test]
fn a_held_snapshot_keeps_what_expires_later() {
    let now = |ms| NOW.set(ms);
    let vfs = Memory::new();
    now(100);
    let engine = Engine::open("/store", options(&vfs)).expect("open");
    let mut batch = Batch::new();
    (0..20).for_each(|n| batch.delete(&key(n)));
    (20..200).for_each(|n| batch.put_until(&key(n), &key(1), 150));
    engine.write(&batch, Durability::Buffered).expect("nothing fails");
    let held = engine.snapshot();
    let rows = |snapshot: &Snapshot| walk(snapshot, None, true, usize::MAX).len();
    assert_eq!(rows(&held), 180);
    // The flush makes deletes of them, so that nothing is left that expires.
    now(200);
    engine.flush().expect("nothing fails");
    (0..3).for_each(|_| assert_eq!(rows(&engine.snapshot()), 0));
    assert_eq!(rows(&held), 180);
}
