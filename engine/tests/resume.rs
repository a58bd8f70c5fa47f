//! Compactions that a power cut interrupts go on where they were.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex};

use lumen_engine::events::Event;
use lumen_engine::vfs::Vfs;
use lumen_engine::vfs::memory::{Crash, Memory};
use lumen_engine::{Batch, Durability, Engine, Options};

const DIR: &str = "/store";
/// Tables over one another that are never reached.
const FLUSHES_ONLY: usize = 100;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Bytes of resumed compactions, bytes written by those that ended, and whether damage was met.
#[derive(Default)]
struct Heard {
    resumed: Vec<u64>,
    written: Vec<u64>,
    damaged: bool,
}

fn options(vfs: &Memory, level0_tables: usize) -> (Options, Arc<Mutex<Heard>>) {
    let heard = Arc::new(Mutex::new(Heard::default()));
    let told = heard.clone();
    let listener = move |event: &Event| {
        let mut told = told.lock().unwrap();
        match event {
            Event::Resumed { written, .. } => told.resumed.push(*written),
            Event::Compacted { written, .. } => told.written.push(*written),
            Event::Damaged(_) => told.damaged = true,
            _ => {}
        }
    };
    let options = Options {
        vfs: Arc::new(vfs.clone()),
        level0_tables,
        segment_bytes: 4 << 10,
        disk_reserve_bytes: 0,
        table_bytes: 2 << 10,
        resume_bytes: 4 << 10,
        // Compactions take long values out of the tables that flushes leave.
        blob_bytes: if level0_tables == FLUSHES_ONLY { usize::MAX } else { 300 },
        threads: 0,
        listener: Some(Arc::new(listener)),
        ..Options::default()
    };
    (options, heard)
}

fn open(vfs: &Memory, level0_tables: usize) -> (Engine, Arc<Mutex<Heard>>) {
    let (options, heard) = options(vfs, level0_tables);
    (Engine::open(DIR, options).unwrap(), heard)
}

/// A store with five tables over one another, nothing of which is compacted, and what is in it.
fn store() -> (Memory, Rows) {
    let vfs = Memory::new();
    let (engine, _) = open(&vfs, FLUSHES_ONLY);
    let mut rows = Rows::new();
    for round in 0..5u32 {
        let mut batch = Batch::new();
        for n in (0..300).filter(|n| (n * 7 + round) % 3 != 0) {
            let key = format!("key{n:04}").into_bytes();
            if (n + round) % 11 == 0 {
                batch.delete(&key);
                rows.remove(&key);
            } else {
                let length = if n % 20 == 0 { 400 } else { 40 };
                let value: Vec<u8> = (0..length).map(|at| (n * 31 + round * 17 + at * at) as u8).collect();
                batch.put(&key, &value);
                rows.insert(key, value);
            }
        }
        engine.write(&batch, Durability::Sync).unwrap();
        engine.flush().unwrap();
    }
    engine.close().unwrap();
    (vfs, rows)
}

fn contents(engine: &Engine) -> Rows {
    let mut rows = Rows::new();
    let mut row = |key: &[u8], value: &[u8]| rows.insert(key.to_vec(), value.to_vec()).is_none();
    engine.scan(Bound::Unbounded, Bound::Unbounded, &mut row).unwrap();
    rows
}

/// No table lies in the folder that is not in the tree.
fn check_files(vfs: &Memory, engine: &Engine) {
    let names = vfs.list(Path::new(DIR)).unwrap();
    let tables = names.iter().filter(|name| name.ends_with(".sst")).count() as u64;
    let live: u64 = engine.stats().levels.iter().map(|level| level.tables).sum();
    assert_eq!(tables, live, "{names:?}");
    assert!(!engine.shape().contains("compaction of"), "{}", engine.shape());
}

/// How many calls an opening makes that compacts the store.
fn calls(base: &Memory) -> u64 {
    let vfs = base.fork();
    let (_engine, _) = open(&vfs, 2);
    vfs.calls()
}

/// The store after the power went off at that call of such an opening.
fn cut(base: &Memory, call: u64) -> Memory {
    let vfs = base.fork();
    vfs.power_off_at(call);
    drop(Engine::open(DIR, options(&vfs, 2).0));
    vfs.crash(Crash::DropPending, call);
    vfs
}

fn has_progress(vfs: &Memory) -> bool {
    let options = Options { read_only: true, ..options(vfs, 2).0 };
    Engine::open(DIR, options).unwrap().shape().contains("compaction of")
}

/// A store whose compaction was cut off as late as possible, and what is in it.
fn interrupted() -> (Memory, Rows) {
    let (base, rows) = store();
    let late = (1..calls(&base)).rev().map(|call| cut(&base, call)).find(has_progress);
    (late.expect("some progress is noted"), rows)
}

/// Enough for a flush, but not for the compaction.
fn leave_little_room(vfs: &Memory) {
    let used: u64 = vfs.files().iter().map(|(_, bytes)| bytes.len() as u64).sum();
    vfs.set_capacity(Some(used + (20 << 10)));
}

#[test]
fn a_compaction_goes_on_where_the_power_was_cut() {
    let (base, rows) = store();
    let whole = base.fork();
    let (engine, heard) = open(&whole, 2);
    // The first one is of all tables; those that follow rewrite what points into blob files of which little is used.
    let all = heard.lock().unwrap().written[0];
    assert_eq!(contents(&engine), rows);
    let mut most = 0;
    for call in 1..calls(&base) {
        let vfs = cut(&base, call);
        let (engine, heard) = open(&vfs, 2);
        assert_eq!(contents(&engine), rows, "call {call}");
        assert!(engine.verify(&mut |_, _| true).unwrap().is_empty(), "call {call}");
        check_files(&vfs, &engine);
        let heard = heard.lock().unwrap();
        if let Some(before) = heard.resumed.first() {
            // Blob files may be cut elsewhere, so the sum is only about the same.
            let sum = before + heard.written[0];
            assert!(sum.abs_diff(all) < all / 10, "call {call}: {before} of {sum}, undisturbed {all}");
            most = most.max(*before);
        }
    }
    assert!(most > all / 2, "at best {most} of {all} bytes had not to be written again");
}

#[test]
fn range_deletes_that_come_between_are_heeded_by_what_was_written_before() {
    let (vfs, mut rows) = interrupted();
    leave_little_room(&vfs);
    let (engine, heard) = open(&vfs, 2);
    let mut batch = Batch::new();
    batch.delete_range(b"key0010", b"key0200");
    engine.write(&batch, Durability::Sync).unwrap();
    rows.retain(|key, _| !(b"key0010".as_slice()..b"key0200".as_slice()).contains(&key.as_slice()));
    engine.flush().unwrap();
    assert_eq!(contents(&engine), rows);
    assert!(engine.shape().contains("compaction of"), "{}", engine.shape());
    vfs.set_capacity(None);
    engine.settle().unwrap();
    assert_eq!(heard.lock().unwrap().resumed.len(), 1);
    assert_eq!(contents(&engine), rows);
    // All that it deletes has gone, and so has the range delete.
    assert!(!engine.shape().contains("range delete"), "{}", engine.shape());
    assert_eq!(engine.stats().levels.iter().map(|level| level.tables).sum::<u64>() > 0, !rows.is_empty());
    drop(engine);
    let (engine, _) = open(&vfs, 2);
    assert_eq!(contents(&engine), rows);
    check_files(&vfs, &engine);
}

#[test]
fn what_was_written_before_is_checked_and_written_anew_when_it_is_damaged() {
    let (base, rows) = interrupted();
    let names = base.list(Path::new(DIR)).unwrap();
    // The five inputs have the smallest numbers, and no long values elsewhere.
    for (ending, first) in [(".sst", 5), (".blob", 0)] {
        let noted = names.iter().filter(|name| name.ends_with(ending)).nth(first);
        let vfs = base.fork();
        vfs.damage(&Path::new(DIR).join(noted.expect("some are noted")), |bytes| bytes[30] ^= 1);
        let (engine, heard) = open(&vfs, 2);
        let heard = heard.lock().unwrap();
        assert!(heard.damaged && heard.resumed.is_empty(), "{ending}");
        assert_eq!(contents(&engine), rows);
        assert!(engine.verify(&mut |_, _| true).unwrap().is_empty());
        check_files(&vfs, &engine);
    }
}

#[test]
fn a_checkpoint_is_whole_without_what_a_compaction_has_noted() {
    let (vfs, rows) = interrupted();
    leave_little_room(&vfs);
    let (engine, _) = open(&vfs, 2);
    assert!(engine.shape().contains("compaction of"), "{}", engine.shape());
    engine.checkpoint("/copy", &mut |_, _| true).unwrap();
    vfs.set_capacity(None);
    let copy = Engine::open("/copy", options(&vfs, 2).0).unwrap();
    assert_eq!(contents(&copy), rows);
    copy.settle().unwrap();
    assert_eq!(contents(&copy), rows);
}
