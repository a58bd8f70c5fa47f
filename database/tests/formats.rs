//! Every version of the format is opened for ever: a copy of each folder in `formats/` holds what its text says.
//!
//! `formats/v1` is a database as version 1 left it when its process was killed: a manifest, tables, two index segments,
//! deletes of one of them, and a journal with writes that are nowhere else. `formats/v1.txt` is what must be found in it.
//! A change of the format gets a folder of its own and leaves this one alone. Should it have to be made anew, remove it
//! and run `UPDATE=1 cargo test -p lumen-database --test formats`; with the folder there, `UPDATE` changes nothing.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use lumen::check::check;
use lumen::{Condition, Database, Mapping, Options, SearchRequest, Write};

fn formats() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats")
}

fn options() -> Options {
    Options { threads: 0, segment_bytes: 8 << 10, random: || 0x5eed_0000_0000_0001, ..Options::default() }
}

fn put(id: u32, source: String) -> Write {
    let (collection, source) = ("books".into(), source.into_bytes());
    Write::Put { collection, id: format!("book{id:03}"), source, condition: Condition::Always }
}

/// A document with a field of every kind; common and rare words, several values, and now and then one left out.
fn book(n: u32) -> String {
    let (word, tag) = (["red", "green", "blue"][n as usize % 3], n % 5);
    let year = if n.is_multiple_of(7) { String::new() } else { format!(r#","year":{}"#, 1900 + n) };
    format!(
        r#"{{"title":"The {word} book number {n}","notes":["a common note","another {word} note"],"tag":["t{tag}","all"],"price":{n}.25,"when":"2020-01-{:02}T00:00:00Z","sold":{}{year}}}"#,
        1 + n % 28,
        n.is_multiple_of(2)
    )
}

/// Makes the database of version 1 and leaves it as a kill would.
fn make(dir: &Path) {
    let db = Database::open(dir, options()).expect("a new database");
    let mapping = br#"{"fields":{"title":{"type":"text"},"notes":{"type":"text","analyzer":"simple"},"tag":{"type":"keyword","fast":true},"year":{"type":"i64","fast":true},"price":{"type":"f64"},"when":{"type":"date"},"sold":{"type":"bool"}}}"#;
    let mapping = Mapping::from_json(mapping).expect("good");
    db.write(Write::CreateCollection { name: "books".into(), mapping: mapping.clone() }).expect("created");
    db.write(Write::CreateCollection { name: "gone".into(), mapping: mapping.clone() }).expect("created");
    db.write(Write::Batch((0..100).map(|n| put(n, book(n))).collect())).expect("written");
    db.flush().expect("flushed");
    // A second segment, and deletes in the first.
    let delete = |n: u32| Write::Delete {
        collection: "books".into(),
        id: format!("book{n:03}"),
        condition: Condition::Always,
    };
    db.write(Write::Batch((0..100).step_by(10).map(delete).collect())).expect("written");
    db.write(Write::Batch((95..140).map(|n| put(n, book(n + 1000))).collect())).expect("written");
    db.write(Write::DropCollection { name: "gone".into() }).expect("dropped");
    db.flush().expect("flushed");
    // The journal alone has these.
    db.write(put(5, book(5005))).expect("written");
    db.write(delete(6)).expect("written");
    db.write(Write::CreateCollection { name: "late".into(), mapping }).expect("created");
    drop(db);
    for entry in fs::read_dir(dir).expect("the folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if name == "LOCK" || name.ends_with("-spare") {
            fs::remove_file(path).expect("removed");
        }
    }
}

const QUERIES: [&str; 12] = [
    "common",
    "title:red",
    "+title:blue +tag:t3",
    "\"another green note\"",
    "\"red number\"~2",
    "title:nu*",
    "tag:t1 -sold:true",
    "year:[1950 TO 1960}",
    "price:>=1100.5",
    "when:2020-01-07",
    "year:*",
    "tag: IN [t0 t4]",
];

fn contents(db: &Database) -> String {
    let mut text = String::new();
    let snapshot = db.snapshot();
    for name in snapshot.collections() {
        let mapping = snapshot.mapping(&name).expect("there").to_json();
        writeln!(text, "collection {name} {mapping}").expect("a string");
        let scanned = snapshot.scan(&name, "", &mut |document| {
            let source = String::from_utf8(document.source).expect("JSON");
            writeln!(text, "{} @{} {source}", document.id, document.version).expect("a string");
            true
        });
        scanned.expect("readable");
    }
    for query in QUERIES {
        let request = SearchRequest { collection: "books", query, offset: 0, limit: 5, cancelled: None };
        let found = snapshot.search(&request).expect("searchable");
        let hits: Vec<String> = found.hits.iter().map(|hit| format!("{} {:.3}", hit.id, hit.score)).collect();
        writeln!(text, "{query}: {} documents; {}", found.total, hits.join(", ")).expect("a string");
    }
    text
}

#[test]
fn a_database_of_version_1_holds_what_it_held() {
    let (source, expected) = (formats().join("v1"), formats().join("v1.txt"));
    if !source.exists() && std::env::var_os("UPDATE").is_some() {
        make(&source);
    }
    let copy = tempfile::tempdir().expect("a folder");
    let mut endings = Vec::new();
    for entry in fs::read_dir(&source).expect("the database of version 1") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("copied");
        endings.push(path.extension().expect("an ending").to_string_lossy().into_owned());
    }
    let count = |ending: &str| endings.iter().filter(|found| *found == ending).count();
    assert!(count("att") >= 3, "two segments and the deletes: {endings:?}");
    assert!(count("sst") > 0 && count("log") > 0 && count("manifest") > 0, "{endings:?}");
    let db = Database::open(copy.path(), options()).expect("version 1 opens");
    assert!(db.stats().seq > db.stats().durable_seq, "the journal was replayed");
    let found = contents(&db);
    if !expected.exists() && std::env::var_os("UPDATE").is_some() {
        fs::write(&expected, &found).expect("writable");
    }
    let expected = fs::read_to_string(expected).expect("what version 1 held");
    assert_eq!(found, expected);
    // It is not only readable: it goes on, into files of this version, and answers as before.
    let write = put(999, r#"{"year":-1}"#.into());
    db.write(write).expect("written");
    db.flush().expect("flushed");
    db.merge("books").expect("merged");
    let delete =
        Write::Delete { collection: "books".into(), id: "book999".into(), condition: Condition::Always };
    db.write(delete).expect("written");
    assert_eq!(contents(&db), expected);
    db.close().expect("closed");
    drop(db);
    let report = check(copy.path(), &mut |_| {}).expect("checked");
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}
