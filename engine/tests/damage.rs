//! Damage is isolated: keys of a block that cannot be read are errors that name it, everything else is served and goes on.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use lumen_engine::attachment::AttachmentEdit;
use lumen_engine::events::{Event, Listener};
use lumen_engine::vfs::memory::{Crash, Memory};
use lumen_engine::{Batch, Durability, Engine, Error, Options};
use parking_lot::Mutex;

fn options(vfs: &Memory) -> Options {
    Options {
        vfs: Arc::new(vfs.clone()),
        memtable_bytes: 64 << 10,
        block_bytes: 512,
        table_bytes: 32 << 10,
        level_bytes: 64 << 10,
        segment_bytes: 64 << 10,
        cache_bytes: 64 << 10,
        threads: 0,
        ..Options::default()
    }
}

fn key(n: u32) -> Vec<u8> {
    format!("key{n:05}").into_bytes()
}

fn value(n: u32, round: u32) -> Vec<u8> {
    format!("value {n} of round {round}, {}", n.wrapping_mul(2_654_435_761)).into_bytes()
}

fn put(engine: &Engine, numbers: impl IntoIterator<Item = u32>, round: u32) {
    for n in numbers {
        let mut batch = Batch::new();
        batch.put(&key(n), &value(n, round));
        engine.write(&batch, Durability::Buffered).expect("writes go on");
    }
}

#[test]
fn an_idle_store_can_tell_damage_to_its_last_write_from_a_torn_end() {
    let vfs = Memory::new();
    let options =
        |vfs: &Memory, threads| Options { vfs: Arc::new(vfs.clone()), threads, ..Options::default() };
    let engine = Engine::open("/store", options(&vfs, 1)).expect("open");
    let mut batch = Batch::new();
    batch.put(b"last", b"a value that is easily found");
    engine.write(&batch, Durability::Sync).expect("write");
    let is_vouched_for = || {
        let copy = vfs.fork();
        let (path, bytes) = copy
            .files()
            .into_iter()
            .find(|(path, _)| path.extension().is_some_and(|it| it == "wal"))
            .expect("a log");
        let at = bytes.windows(6).position(|six| six == b"easily").expect("the value");
        copy.damage(&path, |bytes| bytes[at] ^= 1);
        match Engine::open("/store", options(&copy, 0)) {
            Err(Error::Corrupt { .. }) => true,
            Err(other) => panic!("{other}"),
            Ok(engine) => {
                assert!(engine.get(b"last").expect("get").is_none(), "damage is not served");
                false
            }
        }
    };
    let late = Instant::now() + Duration::from_secs(60);
    while !is_vouched_for() {
        assert!(Instant::now() < late, "not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
    engine.close().expect("close");
}

const ROWS: u32 = 2000;

/// A store of one level, closed.
fn filled(vfs: &Memory) {
    let engine = Engine::open("/store", options(vfs)).expect("open");
    put(&engine, 0..ROWS, 1);
    engine.settle().expect("settle");
    engine.close().expect("close");
}

fn tables(vfs: &Memory) -> Vec<(PathBuf, Vec<u8>)> {
    vfs.files().into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "sst")).collect()
}

/// Which keys are answered rightly; the others are errors that name `file`.
fn answered(engine: &Engine, file: &str, expected: impl Fn(u32) -> Option<Vec<u8>>) -> Vec<bool> {
    let answer = |n| match engine.get(&key(n)) {
        Ok(found) => {
            assert_eq!(found.as_deref(), expected(n).as_deref(), "{n}");
            true
        }
        Err(Error::Corrupt { file: named, .. }) => {
            assert_eq!(named, file, "{n}");
            false
        }
        Err(error) => panic!("{error}"),
    };
    (0..ROWS).map(answer).collect()
}

#[test]
fn a_scrub_isolates_a_damaged_block_and_a_range_delete_ends_it() {
    let vfs = Memory::new();
    filled(&vfs);
    let (path, bytes) = tables(&vfs).swap_remove(0);
    let file = path.file_name().expect("a name").to_string_lossy().into_owned();
    vfs.damage(&path, |damaged| damaged[bytes.len() / 3] ^= 1);
    let engine = Engine::open("/store", options(&vfs)).expect("open");
    let found = engine.scrub(&mut |_, _| true).expect("scrub");
    assert!(matches!(&found[..], [Error::Corrupt { file: named, .. }] if *named == file), "{found:?}");
    assert!(engine.scrub(&mut |_, _| true).expect("scrub").is_empty(), "the second time all can be read");
    let is_answered = answered(&engine, &file, |n| Some(value(n, 1)));
    let lost: Vec<u32> = (0..ROWS).filter(|&n| !is_answered[n as usize]).collect();
    assert!((1..60).contains(&lost.len()), "a block of 512 bytes: {lost:?}");
    let (first, last) = (lost[0], lost[lost.len() - 1]);
    assert_eq!(lost.len() as u32, last - first + 1, "they are neighbours");
    // A scan that does not pass them is served both ways, one that does is not.
    let snapshot = engine.snapshot();
    let (below, above) = (key(first - 1), key(last + 1));
    for forward in [true, false] {
        let rows = |from: Bound<&[u8]>, to: Bound<&[u8]>| -> Result<u32, Error> {
            let mut scan = snapshot.scan(from, to);
            let mut rows = 0;
            while if forward { scan.next_row()? } else { scan.prev_row()? } {
                rows += 1;
            }
            Ok(rows)
        };
        assert_eq!(rows(Bound::Unbounded, Bound::Included(&below)).expect("below"), first);
        assert_eq!(rows(Bound::Included(&above), Bound::Unbounded).expect("above"), ROWS - last - 1);
        assert!(matches!(rows(Bound::Unbounded, Bound::Unbounded), Err(Error::Corrupt { .. })));
        let (lost_first, lost_last) = (key(first), key(last));
        let inside = rows(Bound::Included(&lost_first), Bound::Included(&lost_last));
        assert!(matches!(inside, Err(Error::Corrupt { .. })), "{inside:?}");
    }
    drop(snapshot);
    // New versions are answered, also when they have gone down; the rest of the keys stays unknown, through a restart.
    put(&engine, [first, 5, ROWS - 1], 2);
    engine.settle().expect("compactions go on");
    drop(engine);
    vfs.crash(Crash::DropPending, 1);
    let engine = Engine::open("/store", options(&vfs)).expect("open");
    let round = |n| if [first, 5, ROWS - 1].contains(&n) { 2 } else { 1 };
    let is_answered = answered(&engine, &file, |n| Some(value(n, round(n))));
    let still_lost: Vec<u32> = (0..ROWS).filter(|&n| !is_answered[n as usize]).collect();
    assert_eq!(still_lost, lost[1..]);
    assert!(vfs.contents(&Path::new("/store").join(format!("{file}.damaged"))).is_some());
    let quarantines = engine.quarantines();
    assert_eq!(quarantines.len(), 1);
    // Deleted, they are known again: gone.
    let mut batch = Batch::new();
    batch.delete_range(&quarantines[0].start, &quarantines[0].end);
    engine.write(&batch, Durability::Sync).expect("write");
    let gone = |n| (!lost.contains(&n)).then(|| value(n, round(n)));
    assert!(answered(&engine, &file, gone).iter().all(|answered| *answered));
    engine.settle().expect("settle");
    assert!(engine.quarantines().is_empty());
    assert!(answered(&engine, &file, gone).iter().all(|answered| *answered));
}

#[test]
fn a_scrub_reads_the_disk_also_where_memory_still_has_what_was_there() {
    let vfs = Memory::new();
    filled(&vfs);
    let engine = Engine::open("/store", Options { cache_bytes: 8 << 20, ..options(&vfs) }).expect("open");
    let all = answered(&engine, "none", |n| Some(value(n, 1)));
    assert!(all.iter().all(|answered| *answered));
    for (path, bytes) in tables(&vfs) {
        let file = path.file_name().expect("a name").to_string_lossy().into_owned();
        // In a block, and in what was read when the table was opened.
        for at in [bytes.len() / 3, bytes.len() - 100] {
            let before = vfs.contents(&path).expect("a table");
            vfs.damage(&path, |damaged| damaged[at] ^= 1);
            let found = engine.verify(&mut |_, _| true).expect("verify");
            let is_it = |error: &Error| matches!(error, Error::Corrupt { file: named, .. } if *named == file);
            assert!(found.len() == 1 && found.iter().all(is_it), "{file} at {at}: {found:?}");
            vfs.damage(&path, |damaged| damaged.clone_from(&before));
        }
    }
    let (path, bytes) = tables(&vfs).swap_remove(0);
    vfs.damage(&path, |damaged| damaged[bytes.len() / 3] ^= 1);
    assert_eq!(engine.scrub(&mut |_, _| true).expect("scrub").len(), 1);
    assert_eq!(engine.quarantines().len(), 1);
}

#[test]
fn rows_taken_in_over_them_end_a_quarantine() {
    let vfs = Memory::new();
    filled(&vfs);
    let (path, bytes) = tables(&vfs).swap_remove(0);
    vfs.damage(&path, |damaged| damaged[bytes.len() / 3] ^= 1);
    let engine = Engine::open("/store", options(&vfs)).expect("open");
    engine.scrub(&mut |_, _| true).expect("scrub");
    let quarantine = engine.quarantines().swap_remove(0);
    let mut ingestion = engine.ingest();
    ingestion.replace(&quarantine.start, &quarantine.end);
    let inside = |n: &u32| quarantine.start <= key(*n) && key(*n) < quarantine.end;
    for n in (0..ROWS).filter(inside) {
        ingestion.put(&key(n), &value(n, 1)).expect("in order");
    }
    ingestion.commit().expect("commit");
    assert!(engine.quarantines().is_empty());
    assert!(answered(&engine, "none", |n| Some(value(n, 1))).iter().all(|answered| *answered));
}

#[test]
fn a_compaction_goes_on_without_what_it_cannot_read() {
    let vfs = Memory::new();
    filled(&vfs);
    let (path, bytes) = tables(&vfs).swap_remove(0);
    let file = path.file_name().expect("a name").to_string_lossy().into_owned();
    vfs.damage(&path, |damaged| damaged[bytes.len() / 3] ^= 1);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = heard.clone();
    let listener = move |event: &Event| {
        if let Event::Damaged(error) = event {
            told.lock().push(error.to_string());
        }
    };
    let options = Options { listener: Some(Arc::new(listener)), ..options(&vfs) };
    let engine = Engine::open("/store", options).expect("open");
    for round in 2..8 {
        put(&engine, (0..ROWS).step_by(3), round);
    }
    engine.settle().expect("compactions go on");
    assert_eq!(heard.lock().len(), 1, "{:?}", heard.lock());
    assert!(heard.lock()[0].contains(&file));
    let expected = |n: u32| Some(value(n, if n.is_multiple_of(3) { 7 } else { 1 }));
    let is_answered = answered(&engine, &file, expected);
    let lost = is_answered.iter().filter(|answered| !**answered).count();
    assert!((1..60).contains(&lost), "{lost}");
    assert!(engine.verify(&mut |_, _| true).expect("verify").is_empty());
}

/// Wherever a bit of a table flips, a scrub finds it, no answer is wrong, and most keys are answered.
#[test]
fn wherever_a_table_is_damaged_the_others_are_served() {
    let vfs = Memory::new();
    filled(&vfs);
    let tables = tables(&vfs);
    assert!(tables.len() > 2);
    let mut smallest_part = ROWS as usize;
    for (path, bytes) in &tables {
        let file = path.file_name().expect("a name").to_string_lossy().into_owned();
        for at in (0..bytes.len()).step_by(97).chain(bytes.len() - 64..bytes.len()) {
            let copy = vfs.fork();
            copy.damage(path, |bytes| bytes[at] ^= 1);
            let engine = Engine::open("/store", options(&copy)).expect("open");
            let found = engine.scrub(&mut |_, _| true).expect("scrub");
            let is_answered = answered(&engine, &file, |n| Some(value(n, 1)));
            let served = is_answered.iter().filter(|answered| **answered).count();
            // A few bytes of a footer are zeros that nothing reads.
            assert!(!found.is_empty() || served == ROWS as usize, "{file} at {at}");
            smallest_part = smallest_part.min(served);
            put(&engine, [7], 3);
            engine.settle().expect("it goes on");
        }
    }
    let rows_of_a_table = ROWS as usize / (tables.len() - 1);
    assert!(smallest_part >= ROWS as usize - 2 * rows_of_a_table, "{smallest_part} rows were served");
}

/// How long a scrub in the background may take to find what it must.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store that is scrubbed in the background, and the damage that it tells of.
fn scrubbed(options: Options) -> (Engine, Receiver<Error>) {
    let (sender, receiver) = mpsc::channel();
    let listener = move |event: &Event| {
        if let Event::Damaged(error) = event {
            let _ = sender.send(error.clone());
        }
    };
    let listener: Option<Listener> = Some(Arc::new(listener));
    let options = Options { threads: 2, scrub_bytes_per_second: 1 << 30, listener, ..options };
    (Engine::open("/store", options).expect("open"), receiver)
}

#[test]
fn a_scrub_reads_values_in_blob_files_and_attachments_too() {
    let vfs = Memory::new();
    let with_blobs = |vfs: &Memory| Options { blob_bytes: 30, ..options(vfs) };
    let engine = Engine::open("/store", with_blobs(&vfs)).expect("open");
    put(&engine, 0..ROWS, 1);
    let files = engine.attachments();
    let mut writer = files.create().expect("create");
    writer.write_all(&[7; 5000]).expect("memory takes all");
    let meta = writer.finish(3, Vec::new()).expect("finish");
    files.install(AttachmentEdit { attach: vec![meta], ..AttachmentEdit::default() }).expect("install");
    engine.settle().expect("settle");
    engine.close().expect("close");
    let of_kind = |kind: &str| {
        let file = |(path, _): &(PathBuf, Vec<u8>)| path.extension().is_some_and(|ending| ending == kind);
        vfs.files().into_iter().find(file).expect("there is one")
    };
    let mut hit: Vec<String> = Vec::new();
    for (path, bytes) in [of_kind("blob"), of_kind("att")] {
        vfs.damage(&path, |damaged| damaged[bytes.len() / 2] ^= 1);
        hit.push(path.file_name().expect("a name").to_string_lossy().into_owned());
    }
    let files_of = |found: &[Error]| -> Vec<String> {
        let file = |error: &Error| match error {
            Error::Corrupt { file, .. } => file.clone(),
            other => panic!("{other}"),
        };
        found.iter().map(file).collect()
    };
    let engine = Engine::open("/store", with_blobs(&vfs)).expect("open");
    assert_eq!(files_of(&engine.verify(&mut |_, _| true).expect("verify")), hit);
    let mut bytes = 0;
    let found = engine.scrub(&mut |_, more| {
        bytes += more;
        true
    });
    assert_eq!(files_of(&found.expect("scrub")), hit);
    assert!(bytes > ROWS as u64 * 30, "{bytes} bytes: values count too");
    assert!(engine.quarantines().is_empty(), "the tables are whole");
    let lost =
        answered(&engine, &hit[0], |n| Some(value(n, 1))).iter().filter(|answered| !**answered).count();
    assert_eq!(lost, 1, "one value is lost, and no other");
    engine.close().expect("close");
    // In the background, both are told.
    let (engine, receiver) = scrubbed(with_blobs(&vfs));
    let told: Vec<Error> = (0..2).map(|_| receiver.recv_timeout(PATIENCE).expect("it is found")).collect();
    assert_eq!(files_of(&told), hit);
    engine.close().expect("close");
}

#[test]
fn the_background_scrub_finds_damage_before_anybody_reads() {
    let vfs = Memory::new();
    filled(&vfs);
    let (path, bytes) = tables(&vfs).swap_remove(1);
    vfs.damage(&path, |damaged| damaged[bytes.len() / 2] ^= 1);
    let (engine, receiver) = scrubbed(options(&vfs));
    let found = receiver.recv_timeout(PATIENCE).expect("it is found");
    assert!(matches!(found, Error::Corrupt { .. }));
    let model: BTreeMap<u32, bool> = (0..ROWS).map(|n| (n, engine.get(&key(n)).is_ok())).collect();
    assert!(model.values().filter(|answered| !**answered).count() < 60);
    assert_eq!(engine.quarantines().len(), 1);
    engine.close().expect("close");
}
