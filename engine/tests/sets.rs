//! Sets of files that are sent to another store and installed there in place of what it holds.

mod small;

use std::collections::BTreeMap;
use std::path::Path;

use lumen_engine::vfs::memory::{Crash, Fault, Memory};
use lumen_engine::vfs::{Mode, Vfs};
use lumen_engine::{Batch, Compaction, Engine, Error, Options};
use small::{attach, options, row, rows};

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
    let mut missing = to.missing(&set.manifest()).expect("missing");
    let has = |name: &str| {
        let there = vfs.open(&Path::new(staged).join(name), Mode::Read);
        there.and_then(|file| file.len()).unwrap_or(0)
    };
    missing.retain(|file| has(&file.name) < file.len);
    for file in &missing {
        let mut bytes = vec![0; file.len as usize];
        set.read(&file.name, 0, &mut bytes).expect("read");
        let copy = vfs.open(&Path::new(staged).join(&file.name), Mode::Create).expect("create");
        copy.write_at(&bytes, 0).expect("write");
    }
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
fn attachments_that_end_with_their_own_checksums_are_told_apart() {
    let vfs = Memory::new();
    let outer = || Options { log: false, ..options(&vfs) };
    let leader = Engine::open("/leader", outer()).expect("open");
    let follower = Engine::open("/follower", outer()).expect("open");
    // As index segments do; the CRC of the whole is then the same for all of a length.
    let sealed = |body: &[u8]| [body, &crc32fast::hash(body).to_le_bytes()].concat();
    assert_eq!(crc32fast::hash(&sealed(b"there")), crc32fast::hash(&sealed(b"here.")));
    apply(&leader, 1, 0..10, 1);
    attach(&leader, &sealed(b"there"));
    apply(&follower, 1, 0..10, 1);
    attach(&follower, &sealed(b"here."));
    send(&leader, &follower, &vfs, "/staged");
    follower.install(&leader.file_set().manifest(), "/staged").expect("install");
    let attached = follower.attachments().list();
    let bytes = follower.attachments().map(attached[0].number).expect("map");
    assert_eq!((*bytes).as_ref(), sealed(b"there"));
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
    assert_eq!(follower.missing(&manifest).expect("told"), [], "all of it is here");
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
        let missing = follower.missing(&manifest).expect("told");
        assert_eq!(missing.len(), number + 1, "{}: {missing:?}", file.name);
        assert!(missing.iter().all(|file| set.files().contains(file)), "{missing:?}");
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
