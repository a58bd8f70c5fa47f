//! Stores as files: checkpoints, sets of files that are installed elsewhere, rows taken in past the log; and values that
//! lie in files of their own.

mod noise;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use lumen_engine::attachment::AttachmentEdit;
use lumen_engine::vfs::memory::{Crash, Fault, Memory};
use lumen_engine::vfs::{Mode, Vfs};
use lumen_engine::{Batch, Compaction, Durability, Engine, Error, Options};
use noise::noise;

fn options(vfs: &Memory) -> Options {
    Options {
        vfs: Arc::new(vfs.clone()),
        memtable_bytes: 16 << 10,
        block_bytes: 512,
        table_bytes: 8 << 10,
        level_bytes: 16 << 10,
        segment_bytes: 16 << 10,
        cache_bytes: 64 << 10,
        blob_bytes: 500,
        threads: 0,
        ..Options::default()
    }
}

fn row(n: u32, round: u32) -> (Vec<u8>, Vec<u8>) {
    let long = if n.is_multiple_of(10) { 40 } else { 1 };
    (format!("key{n:05}").into_bytes(), format!("value {n} of round {round} ").repeat(long).into_bytes())
}

fn fill(engine: &Engine, numbers: impl IntoIterator<Item = u32>, round: u32) {
    for n in numbers {
        let (mut batch, (key, value)) = (Batch::new(), row(n, round));
        batch.put(&key, &value);
        engine.write(&batch, Durability::Buffered).expect("write");
    }
}

fn rows(engine: &Engine) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    let snapshot = engine.snapshot();
    let mut scan = snapshot.scan(Bound::Unbounded, Bound::Unbounded);
    while scan.next_row().expect("scan") {
        rows.insert(scan.key().to_vec(), scan.value().to_vec());
    }
    rows
}

fn attach(engine: &Engine, text: &[u8]) -> u64 {
    let files = engine.attachments();
    let mut writer = files.create().expect("create");
    writer.write_all(text).expect("memory takes all");
    let meta = writer.finish(7, b"note".to_vec()).expect("finish");
    let number = meta.number;
    files.install(AttachmentEdit { attach: vec![meta], ..AttachmentEdit::default() }).expect("install");
    number
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

/// A store under an outer log: applied, frozen and flushed by hand.
fn apply(engine: &Engine, seq: u64, numbers: impl IntoIterator<Item = u32>, round: u32) {
    let mut batch = Batch::new();
    for n in numbers {
        let (key, value) = row(n, round);
        batch.put(&key, &value);
    }
    engine.apply(seq, &batch).expect("apply");
    engine.publish(seq);
    engine.freeze(seq, None).expect("freeze");
    engine.work().expect("work");
}

/// Sends what is missing, as another process would.
fn send(from: &Engine, to: &Engine, vfs: &Memory, staged: &str) -> usize {
    let set = from.file_set();
    vfs.create_dir(Path::new(staged)).expect("folder");
    let missing = to.missing(&set.manifest(), staged).expect("missing");
    for file in &missing {
        let mut bytes = vec![0; file.len as usize];
        set.read(&file.name, 0, &mut bytes).expect("read");
        let copy = vfs.open(&Path::new(staged).join(&file.name), Mode::Create).expect("create");
        copy.write_at(&bytes, 0).expect("write");
    }
    assert!(to.missing(&set.manifest(), staged).expect("missing").is_empty());
    missing.len()
}

#[test]
fn a_set_of_files_replaces_a_store_and_only_what_is_missing_is_sent() {
    let vfs = Memory::new();
    let outer = || Options { log: false, ..options(&vfs) };
    let leader = Engine::open("/leader", outer()).expect("open");
    let follower = Engine::open("/follower", outer()).expect("open");
    apply(&follower, 1, 5000..5100, 9); // goes
    apply(&leader, 1, 0..300, 1);
    apply(&leader, 2, 300..600, 1);
    attach(&leader, b"segment");
    let first = send(&leader, &follower, &vfs, "/staged1");
    let held = follower.snapshot();
    assert_eq!(follower.install(&leader.file_set().manifest(), "/staged1").expect("install"), 2);
    assert_eq!(rows(&follower), rows(&leader));
    assert_eq!((follower.durable_seq(), follower.visible_seq()), (2, 2));
    assert!(held.get(b"key05000").expect("get").is_some(), "who held a snapshot still reads it");
    let attached = follower.attachments().list();
    assert_eq!((*follower.attachments().map(attached[0].number).expect("map")).as_ref(), b"segment");
    // The second time, most is there.
    apply(&leader, 3, 600..650, 1);
    let second = send(&leader, &follower, &vfs, "/staged2");
    assert!(second < first, "{second} files after {first}");
    follower.install(&leader.file_set().manifest(), "/staged2").expect("install");
    assert_eq!(rows(&follower), rows(&leader));
    assert!(follower.verify(&mut |_, _| true).expect("verify").is_empty());
    // It goes on where the leader was, and opens again.
    drop(held);
    apply(&follower, 4, 650..700, 1);
    drop(follower);
    vfs.crash(Crash::DropPending, 1);
    let follower = Engine::open("/follower", outer()).expect("open");
    assert_eq!(rows(&follower).len(), 700);
}

#[test]
fn range_deletes_that_still_have_to_do_travel_with_a_set() {
    // In force at once, with all that they delete still there; and waiting for those who may read the past.
    for retain_seqs in [0, 100] {
        let vfs = Memory::new();
        let outer = || Options { log: false, retain_seqs, ..options(&vfs) };
        // Who lets go of the oldest rewrites nothing for a range delete.
        let compaction = Compaction::Fifo { bytes_max: u64::MAX, age_max: None };
        let leader = Engine::open("/leader", Options { compaction, ..outer() }).expect("open");
        let follower = Engine::open("/follower", outer()).expect("open");
        apply(&follower, 1, 150..250, 9); // goes, whatever is deleted
        apply(&leader, 1, 0..300, 1);
        let mut batch = Batch::new();
        batch.delete_range(b"key00100", b"key00200");
        leader.apply(2, &batch).expect("apply");
        leader.publish(2);
        leader.freeze(2, None).expect("freeze");
        leader.work().expect("flushed, and nothing is merged");
        assert!(leader.shape().contains("range delete key00100..key00200"), "{}", leader.shape());
        send(&leader, &follower, &vfs, "/staged");
        follower.install(&leader.file_set().manifest(), "/staged").expect("install");
        assert!(follower.shape().contains("range delete key00100..key00200"), "{}", follower.shape());
        // Installed over itself it is the same.
        follower.install(&leader.file_set().manifest(), "/staged").expect("install");
        assert!(follower.shape().contains("range delete key00100..key00200"), "{}", follower.shape());
        assert_eq!((rows(&leader).len(), rows(&follower)), (200, rows(&leader)));
        // Both go on alike: rows come back into the range, and all is merged.
        for seq in [3, 4] {
            for engine in [&leader, &follower] {
                apply(engine, seq, [150, 297 + seq as u32], 4);
                engine.settle().expect("settle");
            }
            assert_eq!(rows(&follower), rows(&leader), "retaining {retain_seqs}, at seq {seq}");
            assert_eq!(rows(&leader).len(), 201 + seq as usize - 2);
        }
        let expected = rows(&leader);
        drop((leader, follower));
        vfs.crash(Crash::DropPending, 1);
        for dir in ["/leader", "/follower"] {
            let engine = Engine::open(dir, outer()).expect("open");
            assert_eq!(rows(&engine), expected);
            engine.settle().expect("settle");
            assert_eq!(rows(&engine), expected, "{dir}, merged");
            assert!(engine.verify(&mut |_, _| true).expect("verify").is_empty());
        }
    }
}

#[test]
fn a_set_that_was_damaged_on_the_way_replaces_nothing() {
    let vfs = Memory::new();
    let outer = || Options { log: false, ..options(&vfs) };
    let leader = Engine::open("/leader", outer()).expect("open");
    let follower = Engine::open("/follower", outer()).expect("open");
    apply(&follower, 1, 0..50, 1);
    apply(&leader, 1, 0..300, 2);
    attach(&leader, b"segment");
    send(&leader, &follower, &vfs, "/staged");
    let (before, manifest) = (rows(&follower), leader.file_set().manifest());
    for file in leader.file_set().files() {
        let path = Path::new("/staged").join(&file.name);
        let middle = file.len as usize / 2;
        vfs.damage(&path, |bytes| bytes[middle] ^= 4);
        let refused = follower.install(&manifest, "/staged");
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "{}: {refused:?}", file.name);
        assert_eq!(rows(&follower), before);
        vfs.damage(&path, |bytes| bytes[middle] ^= 4);
    }
    follower.install(&manifest, "/staged").expect("install");
    assert_eq!(rows(&follower), rows(&leader));
}

#[test]
fn what_is_damaged_here_is_taken_from_the_set_the_next_time() {
    let vfs = Memory::new();
    let outer = || Options { log: false, ..options(&vfs) };
    let leader = Engine::open("/leader", outer()).expect("open");
    let follower = Engine::open("/follower", outer()).expect("open");
    apply(&leader, 1, 0..300, 2);
    attach(&leader, b"segment");
    send(&leader, &follower, &vfs, "/first");
    follower.install(&leader.file_set().manifest(), "/first").expect("install");
    let (manifest, set) = (leader.file_set().manifest(), leader.file_set());
    assert_eq!(follower.missing(&manifest, "/none").expect("told"), [], "all of it is here");
    let here: Vec<_> = follower.file_set().files();
    assert!(["sst", "blob", "att"].iter().all(|kind| here.iter().any(|file| file.name.ends_with(kind))));
    for (number, file) in here.iter().enumerate() {
        let path = Path::new("/follower").join(&file.name);
        vfs.damage(&path, |bytes| bytes[file.len as usize / 2] ^= 4);
        // Where it is damaged is met when it is read; until then nobody knows. Those before it are taken from the set.
        let staged = format!("/staged{number}");
        assert_eq!(send(&leader, &follower, &vfs, &staged), number);
        let names = || vfs.files().into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        let before = names();
        let refused = follower.install(&manifest, &staged);
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "{}: {refused:?}", file.name);
        assert_eq!(names(), before, "what was brought is gone");
        let missing = follower.missing(&manifest, &staged).expect("told");
        assert_eq!(missing.len(), 1, "{}: {missing:?}", file.name);
        assert!(set.files().contains(&missing[0]), "{missing:?}");
        vfs.damage(&path, |bytes| bytes[file.len as usize / 2] ^= 4);
        // It stays so for this life, whatever becomes of the file.
        send(&leader, &follower, &vfs, &staged);
        follower.prepare_install(&manifest, &staged).expect("whole");
    }
    // What the disk does not give is had from the set as well.
    for file in &here {
        vfs.remove(&Path::new("/follower").join(&file.name)).expect("removed");
    }
    let refused = follower.install(&manifest, "/none");
    assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
    send(&leader, &follower, &vfs, "/last");
    follower.install(&manifest, "/last").expect("install");
    assert_eq!(rows(&follower), rows(&leader));
    assert!(follower.verify(&mut |_, _| true).expect("verify").is_empty());
}

#[test]
fn keys_that_cannot_be_answered_for_stay_so_where_a_set_is_installed_however_often() {
    let vfs = Memory::new();
    let outer = || Options { log: false, ..options(&vfs) };
    let leader = Engine::open("/leader", outer()).expect("open");
    let follower = Engine::open("/follower", outer()).expect("open");
    apply(&leader, 1, 0..300, 1);
    let table =
        leader.file_set().files().into_iter().find(|file| file.name.ends_with("sst")).expect("a table");
    vfs.damage(&Path::new("/leader").join(&table.name), |bytes| bytes[600] ^= 1);
    assert_eq!(leader.scrub(&mut |_, _| true).expect("scrubbed").len(), 1);
    let unknown = leader.quarantines();
    assert_eq!(unknown.len(), 1);
    for staged in ["/first", "/second", "/third"] {
        send(&leader, &follower, &vfs, staged);
        follower.install(&leader.file_set().manifest(), staged).expect("install");
        assert!(follower.quarantines() == unknown, "{staged}");
        assert!(matches!(follower.get(&unknown[0].start), Err(Error::Corrupt { .. })), "{staged}");
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
fn a_set_is_installed_whole_or_what_was_there_stays_whatever_fails() {
    /// A follower with rows in its files, in frozen memory and in memory, and a set that waits to be installed; answers how
    /// the installing went, and what was there before and in the set.
    fn attempt(
        vfs: &Memory,
        disturb: impl Fn(),
    ) -> (Engine, Result<u64, Error>, [BTreeMap<Vec<u8>, Vec<u8>>; 2]) {
        let outer = || Options { log: false, ..options(vfs) };
        let leader = Engine::open("/leader", outer()).expect("open");
        let follower = Engine::open("/follower", outer()).expect("open");
        apply(&leader, 9, 0..200, 2);
        send(&leader, &follower, vfs, "/staged");
        apply(&follower, 1, 100..150, 1);
        for (seq, n) in [(2, 7), (3, 8)] {
            let (mut batch, (key, value)) = (Batch::new(), row(n, 1));
            batch.put(&key, &value);
            follower.apply(seq, &batch).expect("apply");
            follower.publish(seq);
            if seq == 2 {
                follower.freeze(seq, None).expect("freeze");
            }
        }
        let known = [rows(&follower), rows(&leader)];
        let ready = follower.prepare_install(&leader.file_set().manifest(), "/staged").expect("whole");
        disturb();
        let installed = follower.install_ready(ready);
        (follower, installed, known)
    }
    let (vfs, at) = (Memory::new(), std::cell::Cell::new(0));
    let (follower, installed, [_, set]) = attempt(&vfs, || at.set(vfs.calls()));
    let (begin, end) = (at.get() + 1, vfs.calls());
    assert!(installed.is_ok_and(|seq| seq == 9) && rows(&follower) == set);
    assert!(end > begin + 2, "{begin}..{end}");
    let mut went_on = 0;
    for call in begin..=end {
        for fault in [Fault::Enospc, Fault::Eio, Fault::ShortWrite] {
            let vfs = Memory::new();
            let (follower, installed, [before, set]) = attempt(&vfs, || vfs.fail(call, fault));
            let context = format!("{fault:?} at call {call} of {begin}..={end}: {installed:?}");
            // What was there goes on, if it can, with all that it held in memory.
            let goes_on = installed.is_err()
                && follower.freeze(3, None).and_then(|()| follower.work()).is_ok()
                && follower.durable_seq() == 3;
            went_on += u64::from(goes_on);
            assert!(rows(&follower) == if installed.is_ok() { &set } else { &before }.clone(), "{context}");
            drop(follower);
            vfs.crash(Crash::DropPending, 1);
            let follower = Engine::open("/follower", Options { log: false, ..options(&vfs) }).expect("open");
            let found = rows(&follower);
            match follower.durable_seq() {
                9 => assert!(found == set, "{context}"),
                3 => assert!(found == before, "{context}"),
                seq => assert!(seq < 2 && !goes_on && found.len() == 50, "{context}: {seq}"),
            }
        }
        for model in Crash::ALL {
            let vfs = Memory::new();
            let (follower, installed, [_, set]) = attempt(&vfs, || vfs.power_off_at(call));
            drop((follower, installed));
            vfs.crash(model, call);
            let follower = Engine::open("/follower", Options { log: false, ..options(&vfs) }).expect("open");
            match follower.durable_seq() {
                9 => assert!(rows(&follower) == set, "{model:?} at call {call}"),
                seq => assert!(seq < 2 && rows(&follower).len() == 50, "{model:?} at call {call}: {seq}"),
            }
        }
    }
    assert!(went_on > 0, "after none of them it went on");
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
