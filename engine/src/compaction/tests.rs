//! What is chosen, of versions made for the purpose: no file is behind them.

use std::sync::Arc;

use crate::compaction::job::Cutter;
use crate::compaction::picker::from_options;
use crate::compaction::plan::{Claim, Input, Job, Limits, Reason};
use crate::compaction::tiered;
use crate::options::{Compaction, Options};
use crate::table::cache::BlockCache;
use crate::table::properties::{Properties, TableMeta};
use crate::table::reader::Table;
use crate::version::Version;
use crate::vfs::memory::Memory;

/// A table of so many bytes and a hundred entries, so many of them deletes.
fn table(number: u64, smallest: &str, largest: &str, len: u64, deletes: u64) -> Arc<Table> {
    let stated = Properties {
        entries: 100,
        deletes,
        min_seq: number,
        max_seq: number,
        smallest: smallest.into(),
        largest: largest.into(),
        ..Properties::default()
    };
    let meta = TableMeta { number, seq_base: 0, len, stated };
    Arc::new(Table::new(meta, "none.sst".into(), Arc::new(Memory::new()), Arc::new(BlockCache::new(0, 512))))
}

fn version(slots: &[(usize, Vec<Arc<Table>>)]) -> Version {
    let mut version = Version { floor: 1000, ..Version::default() };
    for (slot, tables) in slots {
        version.slots[*slot].clone_from(tables);
    }
    version.arrange();
    version
}

fn numbers(job: &Job) -> Vec<u64> {
    job.tables().map(|table| table.meta.number).collect()
}

fn limits<'a>(options: &'a Options, claims: &'a [Claim], room: u64, turn: u64) -> Limits<'a> {
    Limits { claims, room, options, collect: vec![77], turn }
}

#[test]
fn outputs_are_cut_where_tables_of_the_next_run_begin() {
    let next: Vec<_> = ["c", "f", "i", "l", "o", "r"]
        .iter()
        .zip(1..)
        .map(|(key, number)| table(number, key, &format!("{key}z"), 1000, 0))
        .collect();
    let cuts = |asked: &[(&str, u64)]| {
        let mut cutter = Cutter::over(&next, &[], 1000);
        asked.iter().map(|(key, bytes)| cutter.cuts(key.as_bytes(), *bytes)).collect::<Vec<_>>()
    };
    // Where one begins, if the output is half full; and wherever it is full.
    assert_eq!(cuts(&[("a", 100), ("c", 499), ("d", 600), ("f", 700)]), [false, false, false, true]);
    assert_eq!(cuts(&[("a", 100), ("d", 500), ("e", 999), ("e1", 1000)]), [false, true, false, true]);
    // Over a gap of more than two tables, however little there is.
    assert_eq!(cuts(&[("a", 10), ("h", 20)]), [false, false]);
    assert_eq!(cuts(&[("a", 10), ("k", 20)]), [false, true]);
    // At the keys where flushes are cut.
    let splits = [b"e".to_vec()];
    let mut cutter = Cutter::over(&[], &splits, 1000);
    assert_eq!(["d", "e", "f"].map(|key| cutter.cuts(key.as_bytes(), 10)), [false, true, false]);
}

#[test]
fn upkeep_has_its_turn_although_other_work_is_due() {
    let options = Options { level0_tables: 2, ..Options::default() };
    let level0 = (1..=6).rev().map(|n| table(10 + n, "a", "f", 1000, 0)).collect();
    let bottom = vec![table(1, "a", "f", 1000, 0), table(2, "m", "p", 1000, 90)];
    let version = version(&[(0, level0), (15, bottom)]);
    let picker = from_options(&options);
    let reasons: Vec<Reason> = (0..8)
        .map(|turn| picker.pick(&version, 0, &limits(&options, &[], u64::MAX, turn)).expect("work").reason)
        .collect();
    let count = |reason| reasons.iter().filter(|&&r| r == reason).count();
    assert_eq!((count(Reason::Deletes), count(Reason::Count)), (2, 6), "{reasons:?}");
    // What is due is at work; then there is no need to wait for the turn.
    let due = picker.pick(&version, 0, &limits(&options, &[], u64::MAX, 1)).expect("due");
    let claims = [due.claim(1, &limits(&options, &[], 0, 0))];
    let other = picker.pick(&version, 0, &limits(&options, &claims, u64::MAX, 1)).expect("upkeep");
    assert_eq!((other.reason, numbers(&other)), (Reason::Deletes, vec![2]));
}

#[test]
fn two_jobs_do_not_count_on_the_same_room() {
    let options = Options::default();
    let job = |number: u64, key: &str| Job {
        reason: Reason::Size,
        inputs: vec![
            Input { slot: 14, tables: vec![table(number, key, key, 400, 0)] },
            Input { slot: 15, tables: vec![table(number + 1, key, key, 600, 0)] },
        ],
        target: Some(15),
    };
    let (first, second) = (job(1, "a"), job(5, "b"));
    let claims = [first.claim(1, &limits(&options, &[], 0, 0))];
    assert!(limits(&options, &[], 1000, 1).allow(&second));
    assert!(!limits(&options, &[], 999, 1).allow(&second));
    assert!(!limits(&options, &claims, 1999, 1).allow(&second), "1000 bytes of them are the first one's");
    assert!(limits(&options, &claims, 2000, 1).allow(&second));
    // What moves takes no room, whoever has it all.
    let inputs = vec![Input { slot: 13, tables: vec![table(9, "x", "z", 1 << 40, 0)] }];
    assert!(limits(&options, &claims, 0, 1).allow(&Job { reason: Reason::Size, inputs, target: Some(14) }));
}

#[test]
fn a_merge_of_runs_falls_into_parts_that_share_no_key() {
    let new = vec![table(1, "a", "c", 70, 0), table(2, "d", "f", 70, 0), table(3, "x", "y", 90, 0)];
    let small = vec![table(7, "k1", "k2", 10, 0), table(8, "l1", "l2", 10, 0)];
    let old = vec![table(4, "b", "c", 100, 0), table(5, "d", "e", 100, 0), table(6, "m", "p", 100, 0)];
    let job = Job {
        reason: Reason::Space,
        inputs: vec![
            Input { slot: 0, tables: new },
            Input { slot: 3, tables: small },
            Input { slot: 15, tables: old },
        ],
        target: Some(15),
    };
    let parts = job.parts(100);
    let found: Vec<(Vec<u64>, bool)> = parts.iter().map(|part| (numbers(part), part.is_move())).collect();
    // 6 stays where it is; the two small ones are merged; 3 moves.
    let expected = [(vec![1, 4], false), (vec![2, 5], false), (vec![7, 8], false), (vec![3], true)];
    assert_eq!(found, expected);
    for part in &parts {
        assert_eq!(
            part.parts(100).iter().map(numbers).collect::<Vec<_>>(),
            [numbers(part)],
            "once is enough"
        );
    }
    // The room that it takes is that of its largest part.
    let options = Options { table_bytes: 100, ..Options::default() };
    assert!(limits(&options, &[], 170, 1).allow(&job));
    assert!(!limits(&options, &[], 169, 1).allow(&job));
}

#[test]
fn a_run_of_level_0_is_what_a_flush_was_cut_into() {
    let level0 = vec![
        table(9, "k", "z", 1, 0),
        table(8, "a", "j", 1, 0),
        table(7, "k", "p", 1, 0),
        table(6, "a", "j", 1, 0),
        table(5, "r", "s", 1, 0),
        table(4, "a", "z", 1, 0),
    ];
    let version = version(&[(0, level0), (12, vec![table(1, "a", "z", 5, 0)])]);
    let runs = tiered::runs(&version);
    let found: Vec<_> = runs.iter().map(|run| (run.slot, run.tables, run.bytes)).collect();
    assert_eq!(found, [(0, 2, 2), (0, 3, 3), (0, 1, 1), (12, 1, 5)]);
    let cause = tiered::cause(Reason::Count, &runs, 1, 3);
    assert_eq!((cause.first, cause.last, cause.skip, cause.take), (0, 0, 2, 4));
}

#[test]
fn the_borders_of_runs_stay_while_they_may() {
    let options = Options {
        compaction: Compaction::Tiered { runs: 4, size_ratio_percent: 1, space_percent: 200 },
        ..Options::default()
    };
    let picker = from_options(&options);
    let oldest = |len: u64| -> Vec<Arc<Table>> {
        "abcdefgh".chars().map(|c| table(c as u64, &format!("{c}0"), &format!("{c}9"), len, 0)).collect()
    };
    let keys = |keys: &str| -> Vec<Vec<u8>> { keys.chars().map(|c| format!("{c}0").into_bytes()).collect() };
    let newer = vec![table(1, "a0", "h9", 10, 0)];
    // Nothing is cut yet: where the oldest run has its quarters.
    let mut version = version(&[(0, newer), (15, oldest(10))]);
    assert_eq!(picker.splits(&version, 4), Some(keys("ceg")));
    version.splits = keys("bdf");
    assert_eq!(picker.splits(&version, 4), None, "as good as others");
    assert_eq!(picker.splits(&version, 8), Some(keys("bcdefgh")), "there are to be more");
    // Half of it lies in one of them.
    version.splits = keys("bcd");
    assert_eq!(picker.splits(&version, 4), Some(keys("ceg")));
}

#[test]
fn deletes_that_lie_close_make_a_table_due_where_they_are_a_tenth_of_it() {
    let options = Options::default();
    let picker = from_options(&options);
    let pick = |close_deletes: u64| {
        let sparse = table(3, "a", "f", 1000, 12);
        let stated = Properties { close_deletes, ..sparse.meta.stated.clone() };
        let dense = TableMeta { stated, ..sparse.meta.clone() };
        let vfs = Arc::new(Memory::new());
        let dense = Arc::new(Table::new(dense, "none.sst".into(), vfs, Arc::new(BlockCache::new(0, 512))));
        let version = version(&[(14, vec![dense]), (15, vec![table(1, "b", "c", 1 << 30, 0)])]);
        picker.pick(&version, 0, &limits(&options, &[], u64::MAX, 1)).map(|job| (job.reason, numbers(&job)))
    };
    assert_eq!(pick(9), None);
    assert_eq!(pick(10), Some((Reason::Deletes, vec![3, 1])));
}

#[test]
fn values_that_move_count_as_room() {
    let options = Options::default();
    let with = |file: u64| {
        let plain = table(1, "a", "b", 400, 0);
        let stated = Properties { blobs: vec![(file, 600)], ..plain.meta.stated.clone() };
        let meta = TableMeta { stated, ..plain.meta.clone() };
        let vfs = Arc::new(Memory::new());
        let table = Arc::new(Table::new(meta, "none.sst".into(), vfs, Arc::new(BlockCache::new(0, 512))));
        Job { reason: Reason::Blobs, inputs: vec![Input { slot: 15, tables: vec![table] }], target: Some(15) }
    };
    assert!(limits(&options, &[], 400, 1).allow(&with(5)), "they stay where they are");
    assert!(!limits(&options, &[], 999, 1).allow(&with(77)));
    assert!(limits(&options, &[], 1000, 1).allow(&with(77)));
}

#[test]
fn of_a_level_the_table_goes_that_overlaps_least_for_its_size() {
    let options = Options::default();
    let picker = from_options(&options);
    let upper = vec![table(1, "a", "b", 100, 0), table(2, "c", "d", 100, 0), table(3, "e", "f", 100, 100)];
    let lower = vec![table(4, "a", "b", 900, 0), table(5, "c", "d", 800, 0), table(6, "e", "f", 1000, 0)];
    let version = version(&[(14, upper), (15, lower)]);
    let order: Vec<u64> = picker.movement(&version, 14, Some(15)).iter().map(|t| t.meta.number).collect();
    assert_eq!(order, [3, 2, 1], "deletes count double");
}

#[test]
fn runs_that_tiers_have_too_many_of_are_debt() {
    let options = Options {
        compaction: Compaction::Tiered { runs: 2, size_ratio_percent: 1, space_percent: 200 },
        ..Options::default()
    };
    let level0 = (1..=5).rev().map(|n| table(n, "a", "z", n * 100, 0)).collect();
    assert_eq!(from_options(&options).debt(&version(&[(0, level0)])), 500 + 400 + 300);
}
