//! Restarts with threads: replay, flushes, merges and the clearing away of leftovers run side by side.

use std::sync::Arc;

use lumen::{Condition, Database, Mapping, Options, SearchRequest, Write};
use lumen_engine::vfs::memory::{Crash, Memory};

const DIR: &str = "/data";

fn open(vfs: &Memory, memory_bytes: u64) -> Database {
    let options = Options {
        memory_bytes,
        cache_bytes: 64 << 10,
        threads: 2,
        segment_bytes: 16 << 10,
        vfs: Arc::new(vfs.clone()),
        ..Options::default()
    };
    Database::open(DIR, options).expect("the database opens")
}

#[test]
fn what_is_flushed_while_the_journal_is_replayed_stays() {
    let vfs = Memory::new();
    let db = open(&vfs, 64 << 20);
    let mapping =
        Mapping::from_json(br#"{"fields":{"body":{"type":"text"},"n":{"type":"i64"}}}"#).expect("good");
    db.write(Write::CreateCollection { name: "c".into(), mapping }).expect("created");
    drop(db);
    let mut written = 0;
    for life in 0..30 {
        // Much room, so that all of it is in the journal alone when the process dies.
        let db = open(&vfs, 64 << 20);
        for _ in 0..60 {
            let source = format!(
                r#"{{"body":"word{written} {}","n":{written}}}"#,
                "filler ".repeat(500 + written as usize % 7)
            );
            let put = Write::Put {
                collection: "c".into(),
                id: format!("d{written}"),
                source: source.into_bytes(),
                condition: Condition::Always,
            };
            db.write(put).expect("written");
            written += 1;
        }
        drop(db);
        vfs.crash(Crash::KeepAll, life);
        // Little room: replay sets flushes off at once, and the process dies in the midst of them.
        drop(open(&vfs, 96 << 10));
        vfs.crash(Crash::KeepAll, life);
    }
    let db = open(&vfs, 64 << 20);
    let snapshot = db.snapshot();
    assert_eq!(snapshot.count("c").expect("a count"), written);
    for n in 0..written {
        assert!(snapshot.get("c", &format!("d{n}")).expect("readable").is_some(), "d{n}");
        let query = format!("body:word{n}");
        let request = SearchRequest { collection: "c", query: &query, offset: 0, limit: 10, cancelled: None };
        let found = snapshot.search(&request).expect("searchable");
        assert_eq!((found.total, &*found.hits[0].id), (1, &*format!("d{n}")));
    }
}
