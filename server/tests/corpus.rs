//! Real corpora, imported whole by the command line, and the exact counts of real queries: over HTTP, after `kill -9`, in
//! one segment, and with half of the documents in memory. The corpora lie in `../shared/data` of the checkout; where
//! they are not, these tests say that they skip.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Output;

use lumen::{Condition, Database, Mapping, Options, Prepared, SearchRequest, Write};
use serde_json::Value;
use support::{Connection, Server, lumen};

/// The most memory that a server may take for an import.
const RESIDENT_KIB_MAX: u64 = 3 << 19;

const WIKI: &str = r#"{"fields":{"page_id":{"type":"i64"},"seq":{"type":"i64"},"sections":{"type":"i64"},"chars":{"type":"i64"},
    "title":{"type":"text","analyzer":"simple"},"section":{"type":"text","analyzer":"simple"},
    "body":{"type":"text","analyzer":"simple"},"url":{"type":"keyword"}}}"#;

const REDDIT: &str = r#"{"fields":{"title":{"type":"text"},"body":{"type":"text"},"subreddit":{"type":"keyword"},
    "domain":{"type":"keyword"},"flair":{"type":"keyword"},"distinguished":{"type":"keyword"},"url":{"type":"keyword"},
    "created_utc":{"type":"i64"},"score":{"type":"i64"},"ups":{"type":"i64"},"downs":{"type":"i64"},
    "num_comments":{"type":"i64"},"edited":{"type":"i64"},"is_self":{"type":"bool"},"created":{"type":"date"}}}"#;

/// A file of the shared data, unpacked into the folder.
fn unpack(folder: &Path, name: &str) -> Option<PathBuf> {
    let packed = shared(&format!("{name}.zst"))?;
    let mut decoder = zstd::Decoder::new(std::fs::File::open(packed).expect("readable")).expect("zstd");
    decoder.window_log_max(27).expect("a window of 128 MiB");
    let path = folder.join(name);
    let mut file = std::fs::File::create(&path).expect("a file is made");
    std::io::copy(&mut decoder, &mut file).expect("unpacked");
    Some(path)
}

fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is not there", path.display());
    None
}

fn import(server: &Server, collection: &str, file: &Path, mapping: &str) -> Output {
    let mapping_file = file.with_extension("mapping.json");
    std::fs::write(&mapping_file, mapping).expect("a file is written");
    let file = file.to_str().expect("a path of text");
    let mapping_file = mapping_file.to_str().expect("a path of text");
    let output = lumen()
        .args(["import", collection, file, "--url", &server.url(), "--mapping", mapping_file])
        .output()
        .expect("lumen runs");
    let resident = resident_max_kib(server.pid());
    println!(
        "{collection}: {resident} KiB resident at most; {}",
        String::from_utf8_lossy(&output.stdout).trim()
    );
    assert!(resident < RESIDENT_KIB_MAX, "{resident} KiB");
    output
}

/// The most memory a process ever had resident.
fn resident_max_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the line is there");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Queries over `body` and how many documents each finds.
fn oracle() -> Option<BTreeMap<String, u64>> {
    let text = std::fs::read_to_string(shared("queries/wiki-oracle-dev.jsonl")?).expect("readable");
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let count = |name: &str| line[name].as_u64().expect("a count");
        let tokens = line["tokens"].as_array().expect("tokens").iter();
        let tokens: Vec<&str> = tokens.map(|token| token.as_str().expect("text")).collect();
        let each = |before: &str| {
            tokens.iter().map(|token| format!("{before}body:{token}")).collect::<Vec<_>>().join(" ")
        };
        for (token, df) in line["df"].as_object().expect("counts") {
            all.insert(format!("body:{token}"), df.as_u64().expect("a count"));
        }
        all.insert(each("+"), count("and"));
        all.insert(each(""), count("or"));
        all.insert(format!("body:\"{}\"", tokens.join(" ")), count("phrase"));
    }
    Some(all)
}

/// Holds every count against the expected one.
fn check(oracle: &BTreeMap<String, u64>, mut count: impl FnMut(&str) -> u64) {
    assert!(oracle.len() > 1500, "the oracle is whole");
    for (query, expected) in oracle {
        assert_eq!(count(query), *expected, "{query}");
    }
}

fn check_http(oracle: &BTreeMap<String, u64>, server: &Server) {
    let mut connection = Connection::open(server.address).expect("the server accepts");
    check(oracle, |query| {
        let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = format!("/collections/wiki/documents/search?limit=0&q={query}");
        connection.send("GET", &path, "").expect("an answer").json()["total"].as_u64().expect("a total")
    });
}

fn check_database(oracle: &BTreeMap<String, u64>, db: &Database) {
    let snapshot = db.snapshot();
    check(oracle, |query| {
        // With hits wanted, words are counted by another way.
        let limit = query.len() % 2 * 10;
        let request = SearchRequest { collection: "wiki", query, offset: 0, limit, cancelled: None };
        snapshot.search(&request).expect("a search").total
    });
}

#[test]
fn wiki_sections_are_counted_exactly_after_import_kill_and_merge() {
    let folder = tempfile::tempdir().expect("a folder");
    let (Some(file), Some(oracle)) = (unpack(folder.path(), "wiki-sections.ndjson"), oracle()) else {
        return;
    };
    let data = folder.path().join("data");
    let server = Server::start(&data, &[]);
    let output = import(&server, "wiki", &file, WIKI);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).expect("a summary");
    assert_eq!((summary["created"].as_u64(), summary["rejected"].as_u64()), (Some(202_281), Some(0)));
    check_http(&oracle, &server);
    server.kill();
    let server = Server::start(&data, &[]);
    check_http(&oracle, &server);
    server.kill();

    let db = Database::open(&data, Options::default()).expect("the store opens");
    db.merge("wiki").expect("merged");
    let shape = &db.stats().collections[0];
    assert_eq!((shape.segments, shape.runs), (1, 0), "{shape:?}");
    check_database(&oracle, &db);
    db.close().expect("closed");
}

#[test]
fn wiki_sections_are_counted_exactly_with_half_of_them_in_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let (Some(file), Some(oracle)) = (unpack(folder.path(), "wiki-sections.ndjson"), oracle()) else {
        return;
    };
    let options = Options { memory_bytes: 4 << 30, ..Options::default() };
    let db = Database::open(folder.path().join("data"), options).expect("a new store");
    let mapping = Mapping::from_json(WIKI.as_bytes()).expect("a mapping");
    db.write(Write::CreateCollection { name: "wiki".into(), mapping }).expect("created");
    let lines = BufReader::new(std::fs::File::open(file).expect("readable")).lines();
    let mut batch = Vec::new();
    for (number, line) in lines.enumerate() {
        let mut document: Value = serde_json::from_str(&line.expect("text")).expect("JSON");
        let id = document.as_object_mut().and_then(|fields| fields.remove("id")).expect("an id");
        let put = Write::Put {
            collection: "wiki".into(),
            id: id.as_str().expect("text").into(),
            source: document.to_string().into_bytes(),
            condition: Condition::Always,
        };
        batch.push(db.prepare(put).expect("a good document"));
        if batch.len() == 1000 {
            db.propose_blocking(Prepared::batch(std::mem::take(&mut batch))).expect("written");
        }
        if number == 100_999 {
            db.flush().expect("flushed");
        }
    }
    db.propose_blocking(Prepared::batch(batch)).expect("written");
    let shape = &db.stats().collections[0];
    assert_eq!(shape.documents, 202_281);
    assert!(shape.segments == 1 && shape.memory_bytes > 100 << 20, "{shape:?}");
    check_database(&oracle, &db);
    db.close().expect("closed");
}

#[test]
fn of_reddit_exactly_the_posts_with_a_boolean_for_a_number_are_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(file) = unpack(folder.path(), "reddit-posts.ndjson") else { return };
    let server = Server::start(&folder.path().join("data"), &[]);
    let output = import(&server, "reddit", &file, REDDIT);
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).expect("a summary");
    assert_eq!((summary["created"].as_u64(), summary["rejected"].as_u64()), (Some(59_312), Some(1589)));

    let posts = BufReader::new(std::fs::File::open(&file).expect("readable")).lines();
    let is_wrong = |line: &str| {
        let post: Value = serde_json::from_str(line).expect("JSON");
        post["edited"].is_boolean()
    };
    let expected = posts.zip(1_u64..).filter(|(line, _)| is_wrong(line.as_ref().expect("text")));
    let expected: Vec<u64> = expected.map(|(_, number)| number).collect();
    let rejects = std::fs::read_to_string(folder.path().join("reddit-posts.ndjson.rejects.ndjson"));
    let mut lines: Vec<u64> = Vec::new();
    for reject in rejects.expect("rejects are listed").lines() {
        let reject: Value = serde_json::from_str(reject).expect("JSON");
        assert_eq!(
            (&reject["error"]["type"], &reject["error"]["field"]),
            (&"validation".into(), &"edited".into()),
            "{reject}"
        );
        lines.push(reject["line"].as_u64().expect("a line number"));
    }
    lines.sort_unstable();
    assert_eq!(lines, expected);
    let all = server.get("/collections/reddit/documents/search?q=*&limit=0").json();
    assert_eq!(all["total"], 59_312);
    let answered =
        server.get("/collections/reddit/documents/search?q=%2Bis_self:true%20%2Bscore:%3E=1000&limit=0");
    assert!(answered.json()["total"].as_u64().expect("a total") > 0);
    server.signal("TERM");
    assert!(server.wait().success());
}
