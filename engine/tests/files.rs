//! Stores as files: checkpoints, rows taken in past the log, values that lie in files of their own.

mod noise;
mod small;

use std::collections::BTreeMap;
use std::path::Path;

use lumen_engine::vfs::Vfs;
use lumen_engine::vfs::memory::{Crash, Memory};
use lumen_engine::{Batch, Compaction, Durability, Engine, Error, Options};
use noise::noise;
use small::{attach, options, row, rows};

fn fill(engine: &Engine, numbers: impl IntoIterator<Item = u32>, round: u32) {
    for n in numbers {
        let (mut batch, (key, value)) = (Batch::new(), row(n, round));
        batch.put(&key, &value);
        engine.write(&batch, Durability::Buffered).expect("write");
    }
}

#[test]
fn a_checkpoint_is_a_store_of_its_own() {
    let vfs = Memory::new();
    let engine = Engine::open("/store", options(&vfs)).expect("open");
    fill(&engine, 0..800, 1);
    attach(&engine, b"carried along");
    let (before, seq) = (rows(&engine), engine.visible_seq());
    let mut named = 0;
    let copied = engine.checkpoint("/copy", &mut |_, _| {
        named += 1;
        true
    });
    assert_eq!(copied.expect("checkpoint"), Some(seq));
    assert!(named > 3);
    // Both go on by themselves.
    fill(&engine, 0..800, 2);
    engine.settle().expect("settle");
    vfs.crash(Crash::DropPending, 1);
    let copy = Engine::open("/copy", options(&vfs)).expect("open the copy");
    assert_eq!(rows(&copy), before);
    assert!(copy.verify(&mut |_, _| true).expect("verify").is_empty());
    let files = copy.attachments();
    let attached = files.list();
    assert_eq!((*files.map(attached[0].number).expect("map")).as_ref(), b"carried along");
    fill(&copy, 800..900, 3);
    assert_eq!(rows(&copy).len(), 900);
    assert_eq!(copy.visible_seq(), seq + 100);
    // A folder with something in it is left alone.
    let copy = copy.checkpoint("/copy", &mut |_, _| true);
    assert!(matches!(copy, Err(Error::Io { .. })), "{copy:?}");
}

#[test]
fn half_a_checkpoint_does_not_open() {
    let vfs = Memory::new();
    let engine = Engine::open("/store", options(&vfs)).expect("open");
    fill(&engine, 0..500, 1);
    let mut files = 2;
    let stopped = engine.checkpoint("/copy", &mut |_, _| {
        files -= 1;
        files > 0
    });
    assert_eq!(stopped.expect("stopped"), None);
    assert!(matches!(Engine::open("/copy", options(&vfs)), Err(Error::Corrupt { .. })));
    // The power is cut at every call of it.
    let calls = {
        let before = vfs.calls();
        engine.checkpoint("/whole", &mut |_, _| true).expect("checkpoint");
        vfs.calls() - before
    };
    drop(engine);
    let expected = rows(&Engine::open("/whole", options(&vfs)).expect("open"));
    for call in 1..=calls {
        let copy = vfs.fork();
        let engine = Engine::open("/store", options(&copy)).expect("open");
        copy.power_off_at(copy.calls() + call);
        let _ = engine.checkpoint("/cut", &mut |_, _| true);
        drop(engine);
        copy.crash(Crash::RandomSectors, call);
        match Engine::open("/cut", options(&copy)) {
            Ok(engine) => assert!(rows(&engine) == expected || rows(&engine).is_empty(), "call {call}"),
            Err(Error::Corrupt { .. } | Error::Io { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        assert_eq!(rows(&Engine::open("/store", options(&copy)).expect("open")), expected, "call {call}");
    }
}

#[test]
fn rows_taken_in_leave_the_reserve_alone_wherever_their_values_lie() {
    for blob_bytes in [500, usize::MAX] {
        let vfs = Memory::new();
        let reserve = 100 << 10;
        let options = Options { disk_reserve_bytes: reserve, blob_bytes, ..options(&vfs) };
        let engine = Engine::open("/store", options).expect("open");
        let used: u64 = vfs.files().iter().map(|(_, bytes)| bytes.len() as u64).sum();
        vfs.set_capacity(Some(used + 4 * reserve));
        let mut ingestion = engine.ingest();
        let refused = (0..1_000u32).find_map(|n| ingestion.put(&n.to_be_bytes(), &noise(n, 2_000)).err());
        assert!(refused.is_some_and(|error| error.is_disk_full()), "two megabytes fit into 300 KiB");
        let free = vfs.free_space(Path::new("/")).expect("told");
        assert!(free > reserve - (20 << 10), "{free} bytes are left of {reserve} in reserve");
        drop(ingestion);
        let used_now: u64 = vfs.files().iter().map(|(_, bytes)| bytes.len() as u64).sum();
        assert_eq!(used_now, used);
    }
}

#[test]
fn rows_taken_in_appear_at_once_and_may_replace_a_range() {
    let vfs = Memory::new();
    let engine = Engine::open("/store", options(&vfs)).expect("open");
    fill(&engine, 0..400, 1);
    let mut ingestion = engine.ingest();
    for n in (100..300).step_by(2) {
        let (key, value) = row(n, 2);
        ingestion.put(&key, &value).expect("in order");
    }
    let again = ingestion.put(b"key00100", b"behind");
    assert!(matches!(again, Err(Error::OutOfOrder { .. })), "{again:?}");
    ingestion.replace(b"key00100", b"key00300");
    let before = rows(&engine);
    let held = engine.snapshot();
    assert_eq!(before.len(), 400, "nothing is seen before the commit");
    let seq = ingestion.commit().expect("commit");
    assert_eq!(seq, engine.visible_seq());
    let mut expected = before.clone();
    expected.retain(|key, _| &key[..] < b"key00100" || &key[..] >= b"key00300");
    expected.extend((100..300).step_by(2).map(|n| row(n, 2)));
    assert_eq!(rows(&engine), expected);
    assert_eq!(held.get(b"key00101").expect("get").as_deref(), before.get(&b"key00101"[..]).map(|v| &v[..]));
    // Later writes win over it, through a crash and a compaction.
    fill(&engine, 100..110, 3);
    expected.extend((100..110).map(|n| row(n, 3)));
    engine.flush().expect("flush");
    drop((held, engine));
    vfs.crash(Crash::DropPending, 1);
    let engine = Engine::open("/store", options(&vfs)).expect("open");
    assert_eq!(rows(&engine), expected);
    engine.settle().expect("settle");
    assert_eq!(rows(&engine), expected);
    // One that finds no room leaves no file behind, and touches nothing that is in reserve.
    engine.flush().expect("flush");
    let files = vfs.files().len();
    let used: u64 = vfs.files().iter().map(|(_, bytes)| bytes.len() as u64).sum();
    for room in [40 << 10, 200 << 10] {
        vfs.set_capacity(Some(used + room));
        let (mut ingestion, mut refused) = (engine.ingest(), None);
        for n in 0..3000 {
            let (key, value) = row(n, 4);
            refused = ingestion.put(&key, &value).err();
            if refused.is_some() {
                break;
            }
        }
        let refused = refused.or_else(|| ingestion.commit().err()).expect("it does not fit");
        assert!(refused.is_disk_full(), "{refused}");
        assert_eq!(vfs.files().len(), files, "{room} bytes are free");
    }
    vfs.set_capacity(None);
    assert_eq!(rows(&engine), expected);
    // Nor does one that is dropped.
    let files = vfs.files().len();
    let mut ingestion = engine.ingest();
    for n in 0..2000 {
        let (key, value) = row(n, 4);
        ingestion.put(&key, &value).expect("in order");
    }
    drop(ingestion);
    assert_eq!(vfs.files().len(), files);
    assert_eq!(rows(&engine), expected);
}

#[test]
fn blob_files_are_collected_when_most_of_them_is_unused() {
    let vfs = Memory::new();
    let engine = Engine::open("/store", options(&vfs)).expect("open");
    let blob_bytes = || -> u64 {
        let files = vfs.files().into_iter();
        files
            .filter(|(path, _)| path.extension().is_some_and(|e| e == "blob"))
            .map(|(_, b)| b.len() as u64)
            .sum()
    };
    // A value in ten is long. Each round overwrites a part, so that every file has some that is in use.
    let mut model = BTreeMap::new();
    for round in 0..12 {
        let numbers = (0..400u32).filter(|n| (n / 10 + round) % 3 != 0);
        model.extend(numbers.clone().map(|n| row(n, round)));
        fill(&engine, numbers, round);
        engine.flush().expect("flush");
    }
    engine.settle().expect("settle");
    assert_eq!(rows(&engine), model);
    let in_use: u64 = model.values().filter(|v| v.len() >= 500).map(|v| v.len() as u64).sum();
    // Long values repeat themselves, so that they take less room packed; a half may be garbage.
    assert!(blob_bytes() <= 2 * in_use, "{} bytes of blob files for {in_use} in use", blob_bytes());
    assert!(engine.verify(&mut |_, _| true).expect("verify").is_empty());
    let counts = engine.stats().compactions_by_reason;
    assert!(counts.iter().any(|(name, count)| *name == "blobs" && *count > 0), "{counts:?}");
    // Deleted, they go altogether.
    let mut batch = Batch::new();
    batch.delete_range(b"", b"z");
    engine.write(&batch, Durability::Sync).expect("write");
    engine.settle().expect("settle");
    assert_eq!((blob_bytes(), rows(&engine).len()), (0, 0));
}

#[test]
fn what_has_expired_is_gone_and_leaves_the_disk() {
    thread_local! {
        static NOW: std::cell::Cell<u64> = const { std::cell::Cell::new(1_000) };
    }
    let vfs = Memory::new();
    let options = Options { clock: || NOW.get(), ..options(&vfs) };
    let engine = Engine::open("/store", options).expect("open");
    let mut batch = Batch::new();
    for n in 0..200u32 {
        let (key, value) = row(n, 1);
        batch.put_until(&key, &value, 2_000 + u64::from(n % 2) * 1_000);
    }
    batch.put(b"stays", b"on");
    engine.write(&batch, Durability::Sync).expect("write");
    let young = engine.snapshot();
    engine.settle().expect("settle");
    assert_eq!(rows(&engine).len(), 201);
    NOW.set(2_000);
    assert_eq!(rows(&engine).len(), 101, "at its expiry a row is gone");
    assert!(engine.get(b"key00000").expect("get").is_none());
    assert!(young.get(b"key00000").expect("get").is_some(), "a snapshot stays at its time");
    NOW.set(3_000);
    engine.settle().expect("settle");
    assert_eq!(rows(&engine).len(), 1);
    assert!(engine.shape().contains("1 puts, 0 deletes"), "{}", engine.shape());
    assert!(!engine.shape().contains("blobs"), "{}", engine.shape());
}

#[test]
fn what_is_taken_in_under_fifo_is_the_newest_not_the_oldest() {
    let vfs = Memory::new();
    let fifo = Compaction::Fifo { bytes_max: 40_000, age_max: None };
    let engine =
        Engine::open("/store", Options { compaction: fifo, blob_bytes: usize::MAX, ..options(&vfs) })
            .expect("open");
    let put = |from: u32, to: u32| {
        for n in from..to {
            let (mut batch, (key, value)) = (Batch::new(), row(n, 1));
            batch.put(&key, &value);
            engine.write(&batch, Durability::Buffered).expect("write");
        }
        engine.settle().expect("settle");
    };
    put(0, 100);
    let mut ingestion = engine.ingest();
    for n in 5000..5100 {
        let (key, value) = row(n, 1);
        ingestion.put(&key, &value).expect("in order");
    }
    ingestion.commit().expect("commit");
    let there = |n: u32| engine.get(&row(n, 1).0).expect("get").is_some();
    assert!(there(0) && there(5000), "{}", engine.shape());
    let mut next = 100;
    while there(0) {
        put(next, next + 20);
        next += 20;
        assert!(there(5000) || !there(0), "what came later went first\n{}", engine.shape());
        assert!(next < 100_000, "nothing goes\n{}", engine.shape());
    }
    while there(5000) {
        put(next, next + 20);
        next += 20;
        assert!(next < 100_000, "nothing more goes\n{}", engine.shape());
    }
}

#[test]
fn fifo_counts_values_that_lie_apart_and_lets_go_of_what_has_expired() {
    thread_local! {
        static NOW: std::cell::Cell<u64> = const { std::cell::Cell::new(1_000) };
    }
    let blob_bytes = |vfs: &Memory| -> u64 {
        let files = vfs.files().into_iter();
        files
            .filter(|(path, _)| path.extension().is_some_and(|it| it == "blob"))
            .map(|(_, b)| b.len() as u64)
            .sum()
    };
    let vfs = Memory::new();
    let compaction = Compaction::Fifo { bytes_max: 200_000, age_max: None };
    let options = Options { compaction, clock: || NOW.get(), ..options(&vfs) };
    let engine = Engine::open("/store", options).expect("open");
    for n in 0..1_000u32 {
        let mut batch = Batch::new();
        batch.put(&n.to_be_bytes(), &noise(n, 2_000));
        engine.write(&batch, Durability::Buffered).expect("write");
    }
    engine.settle().expect("settle");
    let kept = blob_bytes(&vfs);
    assert!((100_000..300_000).contains(&kept), "{kept} bytes of values are kept of two megabytes");
    assert!(engine.get(&999u32.to_be_bytes()).expect("get").is_some());
    drop(engine);
    let vfs = Memory::new();
    let options = Options { compaction, clock: || NOW.get(), ..self::options(&vfs) };
    let engine = Engine::open("/store", options).expect("open");
    for n in 0..60u32 {
        let mut batch = Batch::new();
        batch.put_until(&n.to_be_bytes(), &noise(n, 2_000), 2_000 + u64::from(n));
        engine.write(&batch, Durability::Buffered).expect("write");
    }
    engine.flush().expect("flush");
    engine.settle().expect("settle");
    assert!(blob_bytes(&vfs) > 100_000, "less than the limit");
    NOW.set(10_000);
    engine.settle().expect("settle");
    assert_eq!(blob_bytes(&vfs), 0, "{}", engine.shape());
}

#[test]
fn tables_of_which_all_has_expired_go_without_being_read() {
    thread_local! {
        static NOW: std::cell::Cell<u64> = const { std::cell::Cell::new(1_000) };
    }
    let vfs = Memory::new();
    let options = Options { clock: || NOW.get(), ..options(&vfs) };
    let engine = Engine::open("/store", options).expect("open");
    for n in 0..400u32 {
        let (mut batch, (key, value)) = (Batch::new(), row(n, 1));
        batch.put_until(&key, &value, 2_000);
        engine.write(&batch, Durability::Buffered).expect("write");
    }
    engine.settle().expect("settle");
    let before = engine.stats();
    assert!(before.levels.iter().map(|level| level.tables).sum::<u64>() > 2, "{:?}", before.levels);
    let tables: u64 = before.levels.iter().map(|level| level.bytes).sum();
    assert_eq!(before.live_bytes, tables + before.blob_bytes_used);
    NOW.set(2_000);
    engine.settle().expect("settle");
    let after = engine.stats();
    assert_eq!(after.levels.iter().map(|level| level.tables).sum::<u64>(), 0, "{:?}", after.levels);
    assert_eq!(after.compaction_read_bytes, before.compaction_read_bytes, "nothing was read for it");
}

#[test]
fn a_store_opened_for_reading_only_shows_its_log_and_changes_nothing() {
    let vfs = Memory::new();
    let engine = Engine::open("/store", Options { memtable_bytes: 1 << 20, ..options(&vfs) }).expect("open");
    // None of it has been flushed when the process dies.
    for n in 0..400u32 {
        let mut batch = Batch::new();
        batch.put(&n.to_be_bytes(), &[n as u8; 100]);
        engine.write(&batch, Durability::Buffered).expect("write");
    }
    let alive = vfs.fork();
    drop(engine);
    let before = alive.files();
    let small = Options { memtable_bytes: 10 << 10, ..options(&alive) };
    let engine = Engine::open("/store", Options { read_only: true, ..small.clone() }).expect("open");
    assert_eq!(rows(&engine).len(), 400);
    engine.flush().expect("there is nothing to flush to");
    engine.close().expect("closes");
    drop(engine);
    assert_eq!(alive.files(), before);
    // And as ever: what the log held is in tables at once, but for a small rest.
    let engine = Engine::open("/store", small).expect("open");
    assert!(engine.stats().flushes >= 3, "{:?}", engine.stats());
    assert!(engine.stats().memtable_bytes < 5 << 10);
    assert_eq!(engine.get(&399u32.to_be_bytes()).expect("undamaged").as_deref(), Some(&[143; 100][..]));
}

#[test]
fn a_memtable_of_no_bytes_is_enough() {
    let vfs = Memory::new();
    let options = || Options { memtable_bytes: 0, ..options(&vfs) };
    for n in 0..6u8 {
        let engine = Engine::open("/store", options()).expect("open");
        assert_eq!(engine.visible_seq(), u64::from(n.min(3)), "opening {n}");
        if n < 3 {
            let mut batch = Batch::new();
            batch.put(&[n], b"value");
            engine.write(&batch, Durability::Sync).expect("write");
        }
        assert_eq!(rows(&engine).len(), usize::from(n + 1).min(3));
        engine.close().expect("close");
    }
}
