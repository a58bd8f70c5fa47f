//! The power is cut at every file-system call of a workload under every crash model, and every bit of a store is
//! flipped: what was acknowledged is there, or an error names the file.

mod noise;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use lumen_engine::attachment::AttachmentEdit;
use lumen_engine::vfs::memory::{Crash, Fault, Memory};
use lumen_engine::vfs::{Mode, Vfs};
use lumen_engine::{Batch, Compaction, Durability, Engine, Error, Options};
use noise::noise;

const DIR: &str = "/store";
/// Where the workload makes a checkpoint.
const COPY: &str = "/copy";

/// Batches of the workload.
const STEPS: u32 = 44;

fn options(vfs: &Memory) -> Options {
    Options {
        vfs: Arc::new(vfs.clone()),
        memtable_bytes: 1800,
        block_bytes: 200,
        table_bytes: 700,
        resume_bytes: 1000,
        level_bytes: 1500,
        level0_tables: 2,
        blob_bytes: 60,
        segment_bytes: 1024,
        cache_bytes: 8 << 10,
        threads: 0,
        random: || 0x1234_5678_9abc_def1,
        ..Options::default()
    }
}

/// What the workload was told: keys with the value that was acknowledged, and the one write whose fate is open.
#[derive(Default, Clone)]
struct Told {
    acknowledged: BTreeMap<Vec<u8>, Vec<u8>>,
    open: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// What was acknowledged when a checkpoint was made, once it was.
    copy: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Compactions done, by their reason.
    compactions: BTreeMap<&'static str, u64>,
}

/// The strategies under which the workload runs, with the reasons for which each compacts in it. (FIFO lets rows go: below.)
const STRATEGIES: [(Compaction, &[&str]); 3] = [
    (Compaction::Leveled, &["count", "size", "blobs", "range-delete"]),
    (
        Compaction::Tiered { runs: 3, size_ratio_percent: 1, space_percent: 100 },
        &["count", "space", "blobs", "range-delete"],
    ),
    (Compaction::LazyLeveled { runs: 2 }, &["space", "blobs", "range-delete"]),
];

impl Told {
    fn count(&mut self, engine: &Engine) {
        for (reason, count) in engine.stats().compactions_by_reason {
            *self.compactions.entry(reason).or_default() += count;
        }
    }
}

fn value(step: u32) -> Vec<u8> {
    format!("value of step {step} ").repeat(1 + step as usize % 4).into_bytes()
}

/// Long after, and long before now, in milliseconds since 1970.
const IN_2100: u64 = 4_102_444_800_000;
const IN_1970: u64 = 1;

/// Puts, deletes of keys and of ranges, rows that expire, batches, flushes and an orderly close in the middle; stops at the
/// first error.
fn workload(vfs: &Memory, compaction: Compaction, told: &mut Told) -> Result<(), Error> {
    let options = |vfs| Options { compaction, ..options(vfs) };
    let mut engine = Engine::open(DIR, options(vfs))?;
    for step in 0..STEPS {
        let mut batch = Batch::new();
        let mut changes = Vec::new();
        for part in 0..1 + step % 3 {
            let key = format!("key{:02}", (step * 7 + part * 5) % 23).into_bytes();
            if step % 5 == 4 {
                batch.delete(&key);
                changes.push((key, None));
            } else if step % 7 == 5 {
                let until = if step % 2 == 0 { IN_2100 } else { IN_1970 };
                batch.put_until(&key, &value(step), until);
                changes.push((key, (until == IN_2100).then(|| value(step))));
            } else {
                batch.put(&key, &value(step));
                changes.push((key, Some(value(step))));
            }
        }
        if step == 41 {
            // After what the batch puts: of that, too, it deletes what lies in it.
            let (start, end) = (format!("key{:02}", step % 20), format!("key{:02}", step % 20 + 4));
            batch.delete_range(start.as_bytes(), end.as_bytes());
            let is_in = |key: &[u8]| start.as_bytes() <= key && key < end.as_bytes();
            let there = told.acknowledged.keys().cloned().chain(changes.iter().map(|(key, _)| key.clone()));
            let inside: Vec<_> = there.filter(|key| is_in(key)).map(|key| (key, None)).collect();
            changes.extend(inside);
        }
        told.open = changes;
        engine.write(&batch, Durability::Sync)?;
        for (key, value) in told.open.drain(..) {
            match value {
                Some(value) => told.acknowledged.insert(key, value),
                None => told.acknowledged.remove(&key),
            };
        }
        if step == 25 {
            told.count(&engine);
            engine.close()?;
            engine = Engine::open(DIR, options(vfs))?;
        }
        if step == 33 {
            engine.flush()?;
        }
        if step == 35 {
            engine.rest()?;
        }
        if step == 37 {
            engine.checkpoint(COPY, &mut |_, _| true)?;
            told.copy = Some(told.acknowledged.clone());
        }
        if step == 39 {
            ingest(&engine, told)?;
        }
    }
    told.count(&engine);
    engine.close()
}

/// Replaces the keys of a range by others, all at once.
fn ingest(engine: &Engine, told: &mut Told) -> Result<(), Error> {
    let mut ingestion = engine.ingest();
    ingestion.replace(b"key05", b"key10");
    let inside = told.acknowledged.range(b"key05".to_vec()..b"key10".to_vec());
    let mut changes: Vec<_> = inside.map(|(key, _)| (key.clone(), None)).collect();
    for n in 6..9u32 {
        let key = format!("key{n:02}").into_bytes();
        ingestion.put(&key, &value(100 + n))?;
        changes.push((key, Some(value(100 + n))));
    }
    told.open = changes;
    ingestion.commit()?;
    for (key, value) in told.open.drain(..) {
        match value {
            Some(value) => told.acknowledged.insert(key, value),
            None => told.acknowledged.remove(&key),
        };
    }
    Ok(())
}

fn contents(engine: &Engine) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
    let mut rows = BTreeMap::new();
    engine.scan(std::ops::Bound::Unbounded, std::ops::Bound::Unbounded, |key, value| {
        rows.insert(key.to_vec(), value.to_vec());
        true
    })?;
    for (key, value) in &rows {
        assert_eq!(engine.get(key)?.as_deref(), Some(&value[..]), "get and scan differ");
    }
    Ok(rows)
}

/// All acknowledged writes are there; the open one is there whole or not at all.
fn check(rows: &BTreeMap<Vec<u8>, Vec<u8>>, told: &Told, context: &str) {
    let mut with = told.acknowledged.clone();
    for (key, value) in &told.open {
        match value {
            Some(value) => with.insert(key.clone(), value.clone()),
            None => with.remove(key),
        };
    }
    let show = |map: &BTreeMap<Vec<u8>, Vec<u8>>| {
        map.iter()
            .map(|(k, v)| format!("{}={}", k.escape_ascii(), v.escape_ascii()))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert!(
        *rows == told.acknowledged || *rows == with,
        "{context}\nfound:\n{}\nacknowledged:\n{}\nopen: {}",
        show(rows),
        show(&told.acknowledged),
        told.open.len()
    );
}

/// A checkpoint that was acknowledged holds what the store held then.
fn check_copy(vfs: &Memory, told: &Told, context: &str) {
    let Some(expected) = &told.copy else { return };
    let engine =
        Engine::open(COPY, options(vfs)).unwrap_or_else(|error| panic!("{context}, the copy: {error}"));
    assert!(contents(&engine).expect("readable") == *expected, "{context}: the copy differs");
    assert!(engine.verify(&mut |_, _| true).expect("verify").is_empty(), "{context}: the copy is damaged");
}

/// How many calls of the file system the workload makes; it does all that is to be disturbed.
fn undisturbed(compaction: Compaction, reasons: &[&str]) -> u64 {
    let (vfs, mut told) = (Memory::new(), Told::default());
    workload(&vfs, compaction, &mut told).expect("undisturbed");
    println!("{compaction:?}: {:?}", told.compactions);
    for reason in reasons {
        assert!(told.compactions[reason] > 0, "none of {reason}: {:?}", told.compactions);
    }
    vfs.calls()
}

#[test]
fn a_power_cut_at_any_call_loses_nothing_acknowledged() {
    let (mut recoveries, mut copies) = (0, 0);
    for (compaction, reasons) in STRATEGIES {
        let calls = undisturbed(compaction, reasons);
        for (model, call) in
            Crash::ALL.into_iter().flat_map(|model| (1..=calls).map(move |call| (model, call)))
        {
            let vfs = Memory::new();
            vfs.power_off_at(call);
            let mut told = Told::default();
            workload(&vfs, compaction, &mut told).expect_err("the power went off");
            vfs.crash(model, call);
            // A second cut during the recovery, then a third try that must succeed.
            let context = format!("{compaction:?}, {model:?} at call {call} of {calls}");
            vfs.power_off_at(vfs.calls() + 1 + call % 37);
            let options = Options { compaction, ..options(&vfs) };
            let _ = Engine::open(DIR, options.clone());
            vfs.crash(model, call + 1);
            let engine = Engine::open(DIR, options).unwrap_or_else(|error| panic!("{context}: {error}"));
            check(&contents(&engine).expect("readable"), &told, &context);
            check_copy(&vfs, &told, &context);
            copies += u64::from(told.copy.is_some());
            recoveries += 1;
        }
    }
    assert!(copies > 100, "{copies} checkpoints were opened");
    println!(
        "PROMISE acknowledged survives power: {recoveries} recoveries, {copies} checkpoints opened, 0 lost"
    );
}

#[test]
fn any_failing_call_loses_nothing_acknowledged() {
    const FAULTS: [Fault; 4] = [Fault::Eio, Fault::Enospc, Fault::ShortWrite, Fault::LyingSync];
    for (compaction, reasons) in STRATEGIES {
        let calls = undisturbed(compaction, reasons);
        let mut reported = 0;
        for (fault, call) in FAULTS.into_iter().flat_map(|fault| (1..=calls).map(move |call| (fault, call))) {
            let vfs = Memory::new();
            vfs.fail(call, fault);
            let mut told = Told::default();
            let outcome = workload(&vfs, compaction, &mut told);
            reported += u64::from(outcome.is_err());
            vfs.crash(Crash::DropPending, call);
            let context = format!("{compaction:?}, {fault:?} at call {call} of {calls}: {outcome:?}");
            let options = Options { compaction, ..options(&vfs) };
            let engine = Engine::open(DIR, options).unwrap_or_else(|error| panic!("{context}: {error}"));
            check(&contents(&engine).expect("readable"), &told, &context);
            // A sync that fails and is not noticed may have been the copy's.
            if fault != Fault::LyingSync {
                check_copy(&vfs, &told, &context);
            }
        }
        // A sync that lies is not noticed, nor a file that stays although it should go.
        assert!(reported > calls, "of {calls} calls, each failing in three ways, {reported} were reported");
    }
}

/// Puts numbered rows in order, of which FIFO keeps the newest; answers how many were acknowledged.
fn fill_in_order(vfs: &Memory, compaction: Compaction, acknowledged: &mut u32) -> Result<(), Error> {
    let engine = Engine::open(DIR, Options { compaction, blob_bytes: usize::MAX, ..options(vfs) })?;
    for n in 0..120u32 {
        let mut batch = Batch::new();
        batch.put(&n.to_be_bytes(), &noise(n, 90));
        engine.write(&batch, Durability::Sync)?;
        *acknowledged = n + 1;
    }
    engine.close()
}

/// What FIFO lets go is always the oldest: of what was acknowledged there is an end without a gap, as long as it should be.
#[test]
fn a_power_cut_at_any_call_leaves_the_newest_under_fifo() {
    const BYTES: u64 = 5000;
    let compaction = Compaction::Fifo { bytes_max: BYTES, age_max: None };
    let vfs = Memory::new();
    fill_in_order(&vfs, compaction, &mut 0).expect("undisturbed");
    let calls = vfs.calls();
    let mut without_the_first = 0;
    for (model, call) in Crash::ALL.into_iter().flat_map(|model| (1..=calls).map(move |call| (model, call))) {
        let vfs = Memory::new();
        vfs.power_off_at(call);
        let mut acknowledged = 0;
        fill_in_order(&vfs, compaction, &mut acknowledged).expect_err("the power went off");
        vfs.crash(model, call);
        let context = format!("{model:?} at call {call} of {calls}");
        let engine = Engine::open(DIR, Options { compaction, ..options(&vfs) })
            .unwrap_or_else(|error| panic!("{context}: {error}"));
        let rows = contents(&engine).expect("readable");
        let numbers: Vec<u32> =
            rows.keys().map(|key| u32::from_be_bytes(key[..].try_into().expect("four bytes"))).collect();
        let end = numbers.last().map_or(0, |last| last + 1);
        assert!(end >= acknowledged, "{context}: {acknowledged} were acknowledged, {end} are there");
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{context}: a gap in {numbers:?}");
        assert!(numbers.iter().zip(rows.values()).all(|(n, value)| *value == noise(*n, 90)), "{context}");
        // Of tables as small as these the rows are half, and they go whole: one less than the limit may be left.
        let kept = numbers.len() as u64 * 94;
        assert!(
            kept >= BYTES / 2 - 700 || numbers.first() == Some(&0) || end == 0,
            "{context}: {kept} bytes"
        );
        without_the_first += u64::from(numbers.first().is_some_and(|first| *first > 0));
    }
    assert!(without_the_first > 100, "{without_the_first} times something had gone");
}

const ATTACHED: &[u8] = b"a segment of an index, say";

/// All rows and the attachment, after everything was read; or what is wrong with one of them.
fn whole(engine: &Engine) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
    let rows = contents(engine)?;
    if let Some(damage) = engine.verify(&mut |_, _| true)?.into_iter().next() {
        return Err(damage);
    }
    let files = engine.attachments();
    let attached = files.list();
    assert_eq!((attached.len(), attached[0].note.as_slice()), (1, &b"note"[..]));
    assert_eq!((*files.map(attached[0].number)?).as_ref(), ATTACHED);
    Ok(rows)
}

#[test]
fn any_flipped_bit_gives_the_right_data_or_an_error() {
    let vfs = Memory::new();
    let mut told = Told::default();
    workload(&vfs, Compaction::Leveled, &mut told).expect("undisturbed");
    // A second life that ends without a close, so that a live log is there to be damaged.
    let engine = Engine::open(DIR, options(&vfs)).expect("open");
    for step in 0..4u8 {
        let mut batch = Batch::new();
        batch.put(&[b'z', step], &[step; 30]);
        engine.write(&batch, Durability::Sync).expect("write");
        told.acknowledged.insert(vec![b'z', step], vec![step; 30]);
    }
    let files = engine.attachments();
    let mut writer = files.create().expect("create");
    writer.write_all(ATTACHED).expect("memory takes all");
    let meta = writer.finish(7, b"note".to_vec()).expect("finish");
    files.install(AttachmentEdit { attach: vec![meta], ..AttachmentEdit::default() }).expect("install");
    drop((files, engine));
    vfs.crash(Crash::DropPending, 1);
    let (mut flips, mut refused) = (0u64, BTreeMap::<String, u64>::new());
    for (path, bytes) in vfs.files() {
        if path == Path::new(DIR).join("LOCK") || path.parent() != Some(Path::new(DIR)) {
            continue;
        }
        let kind = path.extension().map_or_else(String::new, |kind| kind.to_string_lossy().into_owned());
        for bit in 0..bytes.len() * 8 {
            let copy = vfs.fork();
            copy.damage(&path, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            flips += 1;
            let rows = Engine::open(DIR, options(&copy)).and_then(|engine| whole(&engine));
            match rows {
                Ok(rows) => {
                    // The very last group of a log that was not closed has nobody to vouch for it (module log).
                    let mut without_last = told.acknowledged.clone();
                    without_last.remove(&vec![b'z', 3]);
                    let last_group = path.extension().is_some_and(|e| e == "wal") && rows == without_last;
                    assert!(
                        rows == told.acknowledged || last_group,
                        "bit {bit} of {} lost data",
                        path.display()
                    );
                }
                Err(Error::Corrupt { .. }) => *refused.entry(kind.clone()).or_default() += 1,
                Err(other) => panic!("bit {bit} of {}: {other}", path.display()),
            }
        }
    }
    println!("PROMISE damage is found: {flips} bits flipped, refused {refused:?}, the rest answered right");
    for kind in ["wal", "manifest", "sst", "blob", "att"] {
        assert!(refused.get(kind).is_some_and(|&count| count > 100), "{kind}: {refused:?}");
    }
}

#[test]
fn leftovers_go_but_what_is_being_written_stays() {
    let vfs = Memory::new();
    drop(Engine::open(DIR, Options { log: false, ..options(&vfs) }).unwrap());
    let leftover = Path::new(DIR).join("0000000005.sst");
    vfs.open(&leftover, Mode::Create).unwrap();
    let engine = Engine::open(DIR, Options { log: false, ..options(&vfs) }).unwrap();
    // A flush during the replay of the outer log: its file is there, the manifest does not name it yet.
    let file = engine.attachments().create().unwrap();
    let number = file.number();
    engine.remove_orphans().unwrap();
    let meta = file.finish(1, Vec::new()).unwrap();
    engine.attachments().install(AttachmentEdit { attach: vec![meta], ..AttachmentEdit::default() }).unwrap();
    assert!(engine.attachments().map(number).is_ok());
    assert!(vfs.contents(&leftover).is_none());
}
