//! Every version of the format is opened for ever: a copy of each folder in `formats/` holds what its text says.
//!
//! `formats/v1` is a store as version 1 left it when its process was killed: a manifest, a log with writes that are in
//! no table, tables packed by each codec, a value in a blob file, entries that expire, an attachment. `formats/v1.txt` is
//! what must be found in it. From the first release on a change of the format gets a number and a folder of its own and leaves
//! this one alone; until then version 1 is what the code writes, and the folder is made anew with it: remove it and run
//! `UPDATE=1 cargo test -p lumen-engine --test formats`; with the folder there, `UPDATE` changes nothing.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use lumen_engine::attachment::AttachmentEdit;
use lumen_engine::{Batch, Durability, Engine, Options, inspect};

fn formats() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats")
}

/// Levels so small that a few hundred rows reach the deep ones, which are packed by zstd.
fn options() -> Options {
    Options {
        block_bytes: 512,
        table_bytes: 2 << 10,
        level_bytes: 4,
        level0_tables: 2,
        blob_bytes: 1000,
        segment_bytes: 4096,
        threads: 0,
        random: || 0x5eed_0000_0000_0001,
        ..Options::default()
    }
}

fn write(engine: &Engine, change: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    change(&mut batch);
    engine.write(&batch, Durability::Sync).expect("written");
}

/// Makes the store of version 1 and leaves it as a kill would.
fn make(dir: &Path) {
    let engine = Engine::open(dir, options()).expect("a new store");
    for round in 0..12u32 {
        write(&engine, |batch| {
            for n in 0..20 {
                let key = format!("row/{:03}", (n * 7 + round * 11) % 160);
                batch.put(key.as_bytes(), format!("round {round} ").repeat(1 + n as usize % 4).as_bytes());
            }
        });
        engine.flush().expect("flushed");
    }
    // New keys go down by name, as lz4 packed them; what does not compress is kept raw.
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    let noise: Vec<u8> = (0..2000).map(|_| noise()).collect();
    write(&engine, |batch| {
        batch.put(b"blob", &noise);
        batch.put(b"noise", &noise[..900]);
        batch.put(b"noise, alone in its block", &noise[900..1800]);
        batch.put_until(b"until 2100", b"there", 4_102_444_800_000);
        batch.put_until(b"until 1970", b"gone", 1);
        (0..20).for_each(|n| batch.put(format!("new/{n:03}").as_bytes(), &[b'v'; 30]));
    });
    engine.flush().expect("flushed");
    let files = engine.attachments();
    let mut file = files.create().expect("created");
    file.write_all(b"an index segment, say").expect("written");
    let meta = file.finish(7, b"note".to_vec()).expect("finished");
    let edit = AttachmentEdit { attach: vec![meta], detach: Vec::new(), state: Some(b"owner".to_vec()) };
    files.install(edit).expect("installed");
    // The log alone has these.
    write(&engine, |batch| batch.delete(b"row/000"));
    write(&engine, |batch| batch.delete_range(b"row/100", b"row/110"));
    write(&engine, |batch| batch.put(b"last", b"in the log"));
    drop(engine);
    for entry in fs::read_dir(dir).expect("the folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if name == "LOCK" || name.ends_with("-spare") {
            fs::remove_file(path).expect("removed");
        }
    }
}

fn contents(engine: &Engine) -> String {
    let mut text = String::new();
    let snapshot = engine.snapshot();
    let mut scan = snapshot.scan(Bound::Unbounded, Bound::Unbounded);
    while scan.next_row().expect("readable") {
        let (key, value) = (inspect::printable(scan.key()), scan.value());
        let (crc, value) = (crc32fast::hash(value), inspect::printable(value));
        writeln!(text, "{key}={value} @{} crc {crc:08x}", scan.seq()).expect("a string");
    }
    let files = engine.attachments();
    for meta in files.list() {
        let bytes = files.map(meta.number).expect("there");
        let (bytes, note) = (inspect::printable((*bytes).as_ref()), inspect::printable(&meta.note));
        writeln!(text, "file of kind {} with {note}: {bytes}", meta.kind).expect("a string");
    }
    writeln!(text, "owner's state: {}", inspect::printable(&engine.attachment_state())).expect("a string");
    text
}

#[test]
fn a_store_of_version_1_holds_what_it_held() {
    let (source, expected) = (formats().join("v1"), formats().join("v1.txt"));
    if !source.exists() && std::env::var_os("UPDATE").is_some() {
        make(&source);
    }
    let copy = tempfile::tempdir().expect("a folder");
    let mut tables = Vec::new();
    for entry in fs::read_dir(&source).expect("the store of version 1") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("copied");
        if path.extension().is_some_and(|extension| extension == "sst") {
            inspect::table("table", &fs::read(&path).expect("readable"), &mut tables)
                .expect("memory takes all");
        }
    }
    let tables = String::from_utf8(tables).expect("text");
    for codec in ["raw", "lz4", "zstd"] {
        assert!(
            tables.contains(&format!("bytes, {codec}, up to")),
            "no block is packed by {codec}:\n{tables}"
        );
    }
    for filter in ["Bloom", "fuse"] {
        assert!(tables.contains(&format!("{filter} filter of ")), "no {filter} filter is in it:\n{tables}");
    }
    let engine = Engine::open(copy.path(), options()).expect("version 1 opens");
    assert!(engine.verify(&mut |_, _| true).expect("readable").is_empty());
    assert!(engine.recovery().records > 0, "the log was replayed");
    let found = contents(&engine);
    if !expected.exists() && std::env::var_os("UPDATE").is_some() {
        fs::write(&expected, &found).expect("writable");
    }
    let expected = fs::read_to_string(expected).expect("what version 1 held");
    assert_eq!(found, expected);
    // It is not only readable: it goes on.
    write(&engine, |batch| batch.put(b"zoo", b"row"));
    engine.settle().expect("settled");
    engine.close().expect("closed");
    let engine = Engine::open(copy.path(), options()).expect("opens again");
    assert_eq!(engine.get(b"zoo").expect("readable").as_deref(), Some(&b"row"[..]));
    let found: String = contents(&engine)
        .lines()
        .filter(|line| !line.starts_with("zoo="))
        .fold(String::new(), |text, line| text + line + "\n");
    assert_eq!(found, expected);
}
