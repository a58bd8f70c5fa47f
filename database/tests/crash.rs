//! The power is cut at every file-system call of a workload under every crash model, every call fails once, and every bit
//! of a data folder is flipped. After recovery every acknowledged document is there by id and by search, none twice, none
//! by halves; damage ends in the right data or in an error that names the file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lumen::{Condition, Database, Error, Mapping, Options, Outcome, SearchRequest, Write};
use lumen_engine::vfs::memory::{Crash, Fault, Memory};

const DIR: &str = "/data";

fn options(vfs: &Memory) -> Options {
    Options {
        memory_bytes: 9 << 10,
        cache_bytes: 64 << 10,
        threads: 0,
        segment_bytes: 2048,
        blob_bytes: 100,
        vfs: Arc::new(vfs.clone()),
        random: || 0x0dd_ba11_5eed,
        ..Options::default()
    }
}

fn mapping() -> Mapping {
    Mapping::from_json(br#"{"fields":{"body":{"type":"text"},"n":{"type":"i64"},"tag":{"type":"keyword"}}}"#)
        .expect("good")
}

/// Documents by id.
type Documents = BTreeMap<String, String>;

#[derive(Default)]
struct Told {
    acknowledged: Documents,
    /// What is there if the write whose fate is open took effect.
    open: Option<Documents>,
    collection: bool,
}

fn source(step: u32, part: u32) -> String {
    let words = ["granite", "harbor", "lantern", "meadow", "quartz"];
    let word = words[(step + part) as usize % words.len()];
    let filler = "grass ".repeat(1 + (step % 7) as usize);
    format!(r#"{{"body":"{word} step{step} {filler}","n":{step},"tag":"t{}"}}"#, step % 4)
}

fn put(id: &str, source: &str) -> Write {
    Write::Put {
        collection: "c".into(),
        id: id.into(),
        source: source.as_bytes().to_vec(),
        condition: Condition::Always,
    }
}

fn delete(id: &str) -> Write {
    Write::Delete { collection: "c".into(), id: id.into(), condition: Condition::Always }
}

/// Runs until the first error.
fn workload(vfs: &Memory, told: &mut Told) -> Result<(), Error> {
    let mut db = Database::open(DIR, options(vfs))?;
    db.write(Write::CreateCollection { name: "c".into(), mapping: mapping() })?;
    told.collection = true;
    for step in 0..36u32 {
        let mut after = told.acknowledged.clone();
        let mut writes = Vec::new();
        for part in 0..1 + step % 3 {
            let id = format!("d{}", (step * 5 + part * 3) % 13);
            if step % 6 == 5 {
                writes.push(delete(&id));
                after.remove(&id);
            } else {
                let source = source(step, part);
                writes.push(put(&id, &source));
                after.insert(id, source);
            }
        }
        told.open = Some(after);
        let write = if writes.len() == 1 { writes.remove(0) } else { Write::Batch(writes) };
        db.write(write)?;
        told.acknowledged = told.open.take().expect("just set");
        match step {
            12 => db.flush()?,
            20 => {
                db.close()?;
                db = Database::open(DIR, options(vfs))?;
            }
            28 => db.merge("c")?,
            _ => {}
        }
    }
    db.close()
}

fn search(db: &Database, query: &str) -> Result<Vec<String>, Error> {
    let request = SearchRequest { collection: "c", query, offset: 0, limit: 1000, cancelled: None };
    let found = db.snapshot().search(&request)?;
    let mut ids: Vec<String> = found.hits.into_iter().map(|hit| hit.id).collect();
    assert_eq!(found.total, ids.len() as u64, "total and hits differ");
    ids.sort();
    Ok(ids)
}

/// What is there, after checking that get, scan and search agree about it.
fn contents(db: &Database) -> Result<Documents, Error> {
    let snapshot = db.snapshot();
    let mut documents = Documents::new();
    if snapshot.collections().is_empty() {
        return Ok(documents);
    }
    snapshot.scan("c", "", &mut |document| {
        documents.insert(document.id, String::from_utf8(document.source).expect("UTF-8"));
        true
    })?;
    for (id, source) in &documents {
        let got = snapshot.get("c", id)?.expect("a scanned document is there");
        assert_eq!(got.source, source.as_bytes());
    }
    let ids: Vec<String> = documents.keys().cloned().collect();
    assert_eq!(search(db, "*")?, ids, "search finds what is there, once");
    for step in 0..36 {
        let word = format!("step{step}");
        let with: Vec<String> = documents
            .iter()
            .filter(|(_, s)| s.contains(&format!("{word} ")))
            .map(|(id, _)| id.clone())
            .collect();
        assert_eq!(search(db, &format!("body:{word}"))?, with, "{word}");
        assert_eq!(search(db, &format!("n:{step}"))?, with, "n:{step}");
    }
    Ok(documents)
}

fn check(db: &Database, told: &Told, context: &str) {
    let documents = contents(db).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(!told.collection || db.snapshot().collections() == ["c"], "{context}: the collection is lost");
    assert!(
        documents == told.acknowledged || told.open.as_ref() == Some(&documents),
        "{context}\nfound {documents:#?}\nacknowledged {:#?}",
        told.acknowledged
    );
}

#[test]
fn a_power_cut_at_any_call_loses_nothing_acknowledged() {
    let whole = Memory::new();
    workload(&whole, &mut Told::default()).expect("undisturbed");
    let calls = whole.calls();
    let mut recoveries = 0;
    for model in Crash::ALL {
        for call in 1..=calls {
            let vfs = Memory::new();
            vfs.power_off_at(call);
            let mut told = Told::default();
            workload(&vfs, &mut told).expect_err("the power went off");
            vfs.crash(model, call);
            let context = format!("{model:?} at call {call} of {calls}");
            // A second cut during the recovery.
            vfs.power_off_at(vfs.calls() + 1 + call % 41);
            drop(Database::open(DIR, options(&vfs)));
            vfs.crash(model, call + 1);
            let db = Database::open(DIR, options(&vfs)).unwrap_or_else(|error| panic!("{context}: {error}"));
            check(&db, &told, &context);
            recoveries += 1;
        }
    }
    println!("PROMISE acknowledged survives power: {recoveries} recoveries, 0 lost");
}

#[test]
fn any_failing_call_loses_nothing_acknowledged() {
    let whole = Memory::new();
    workload(&whole, &mut Told::default()).expect("undisturbed");
    let calls = whole.calls();
    for fault in [Fault::Eio, Fault::Enospc, Fault::ShortWrite, Fault::LyingSync] {
        for call in 1..=calls {
            let vfs = Memory::new();
            vfs.fail(call, fault);
            let mut told = Told::default();
            let outcome = workload(&vfs, &mut told);
            vfs.crash(Crash::DropPending, call);
            let context = format!("{fault:?} at call {call} of {calls}, the workload said {outcome:?}");
            let db = Database::open(DIR, options(&vfs)).unwrap_or_else(|error| panic!("{context}: {error}"));
            check(&db, &told, &context);
        }
    }
}

#[test]
fn any_flipped_bit_gives_the_right_data_or_an_error() {
    let vfs = Memory::new();
    let mut told = Told::default();
    workload(&vfs, &mut told).expect("undisturbed");
    // A second life that ends without a close: its last group is vouched for by nobody.
    let db = Database::open(DIR, options(&vfs)).expect("open");
    let mut before_last = told.acknowledged.clone();
    for n in 0..3 {
        before_last = told.acknowledged.clone();
        let (id, source) = (format!("late{n}"), source(n, 9));
        db.write(put(&id, &source)).expect("write");
        told.acknowledged.insert(id, source);
    }
    drop(db);
    vfs.crash(Crash::DropPending, 1);
    let (mut flips, mut refused) = (0u64, 0u64);
    for (path, bytes) in vfs.files() {
        if path == Path::new(DIR).join("LOCK") {
            continue;
        }
        // Every bit of what is written; zeros that fill a segment are sampled.
        let written = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let bits = (0..written * 8).chain((written * 8..bytes.len() * 8).step_by(101));
        for bit in bits {
            let copy = vfs.fork();
            copy.damage(&path, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            flips += 1;
            let context = format!("bit {bit} of {}", path.display());
            match Database::open(DIR, options(&copy)).and_then(|db| contents(&db)) {
                Ok(documents) => {
                    let last_group = path.extension().is_some_and(|e| e == "log") && documents == before_last;
                    assert!(
                        documents == told.acknowledged || last_group,
                        "{context} lost data: {documents:#?}"
                    );
                }
                Err(Error::Corrupt { .. }) => refused += 1,
                Err(other) => panic!("{context}: {other}"),
            }
        }
    }
    println!("PROMISE damage is found: {flips} bits flipped, {refused} refused, the rest answered right");
}

#[test]
fn a_refused_write_changes_nothing_and_a_restart_repeats_it() {
    let vfs = Memory::new();
    let db = Database::open(DIR, options(&vfs)).expect("open");
    db.write(Write::CreateCollection { name: "c".into(), mapping: mapping() }).expect("create");
    let first = db.write(put("a", r#"{"n":1}"#)).expect("put");
    let conditional = |condition| Write::Put {
        collection: "c".into(),
        id: "a".into(),
        source: br#"{"n":2}"#.to_vec(),
        condition,
    };
    let refused = db.write(conditional(Condition::Absent)).expect("an answer");
    assert!(matches!(refused.outcome, Outcome::Rejected(lumen::Rejection::VersionConflict { current, .. })
        if current == Some(first.seq)));
    let taken = db.write(conditional(Condition::Version(first.seq))).expect("an answer");
    assert_eq!(taken.outcome, Outcome::Updated);
    drop(db);
    let db = Database::open(DIR, options(&vfs)).expect("reopen");
    let document = db.snapshot().get("c", "a").expect("get").expect("there");
    assert_eq!((document.version, &document.source[..]), (taken.seq, &br#"{"n":2}"#[..]));
    assert_eq!(search(&db, "n:2").expect("search"), ["a"]);
    assert!(search(&db, "n:1").expect("search").is_empty());
}
