//! Entries of a database's journal: whatever they say, the database opens with a state that reads and survives a flush,
//! or refuses them as damage.
#![no_main]

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use lumen::{
    Changed, Condition, Database, KeyRange, KeyRow, Mapping, Request, Scope, SearchRequest, Snapshot, Write,
};
use lumen_engine::log::{Kind, Log, LogOptions};
use lumen_engine::vfs::memory::Memory;

thread_local! {
    static BASE: OnceCell<(Memory, [u8; 16])> = const { OnceCell::new() };
}

/// A database with a collection and two documents, killed; and the identity that its journal's segments carry.
fn base() -> (Memory, [u8; 16]) {
    let vfs = Memory::new();
    let database = Database::open("/db", lumen_fuzz::database_options(&vfs)).expect("a fresh database opens");
    let mapping = Mapping::from_json(lumen_fuzz::MAPPING).expect("good");
    database.write(Write::CreateCollection { name: "c".into(), mapping }).expect("written");
    for id in ["a", "b"] {
        let source = br#"{"t":"some words","k":"key","i":7}"#.to_vec();
        let put = Write::Put { collection: "c".into(), id: id.into(), source, condition: Condition::Always };
        database.write(put).expect("written");
    }
    drop(database);
    let journal = vfs.files().into_iter().find(|(path, _)| path.extension().is_some_and(|e| e == "log"));
    let (_, bytes) = journal.expect("a journal");
    (vfs, bytes[32..48].try_into().expect("sixteen bytes"))
}

/// What a database holds, by collection or space.
type Contents = Vec<(String, Vec<(Vec<u8>, Vec<u8>)>)>;

/// Told by collections, counts, scans and searches that must agree, and by keys.
fn contents(snapshot: &Snapshot) -> Contents {
    let collections = snapshot.collections().into_iter().map(|name| {
        let mut rows = Vec::new();
        let scanned = snapshot.scan(&name, "", &mut |document| {
            rows.push((document.id.into_bytes(), document.source));
            true
        });
        scanned.expect("readable");
        let request = SearchRequest { collection: &name, query: "*", offset: 0, limit: 0, cancelled: None };
        assert_eq!(snapshot.search(&request).expect("searchable").total, rows.len() as u64);
        assert_eq!(snapshot.count(&name).expect("countable"), rows.len() as u64);
        (name, rows)
    });
    let spaces = snapshot.spaces().expect("readable").into_iter().map(|space| {
        let mut rows = Vec::new();
        let row = &mut |row: KeyRow<'_>| {
            rows.push((row.key.to_vec(), row.value.to_vec()));
            true
        };
        snapshot.scan_keys(&space, &KeyRange::ALL, row).expect("readable");
        (space, rows)
    });
    collections.collect::<Vec<_>>().into_iter().chain(spaces).collect()
}

/// Everything that happened, as it is told to who follows.
fn history(database: &Database) -> Vec<Changed> {
    let mut changes = database.changes(Some(0), Scope::All).expect("all of it is kept");
    let mut all = Vec::new();
    while changes.is_behind() {
        all.extend(changes.read(1 << 20).expect("readable"));
    }
    all
}

fuzz_target!(|bytes: &[u8]| {
    BASE.with(|base_cell| {
        let (base, uuid) = base_cell.get_or_init(base);
        let vfs = base.fork();
        let options = LogOptions {
            dir: Path::new("/db").to_path_buf(),
            extension: "log",
            segment_bytes: 4096,
            first_segment_bytes: 4096,
            kinds: &[Kind::Entry],
            from_seq: 0,
            uuid: Some(*uuid),
            random: || 0x5eed_5eed_5eed_5eed,
        };
        let (log, recovery) =
            Log::open(Arc::new(vfs.clone()), options, None, 1, &mut |_, _, _| Ok(())).expect("undamaged");
        // Writes are behind each other, each an entry: a length byte, then so many bytes.
        let (mut rest, mut seq) = (bytes, recovery.last_seq.expect("entries"));
        while let Some((&len, after)) = rest.split_first() {
            let (entry, after) = after.split_at(usize::from(len).min(after.len()));
            seq += 1;
            let entry = lumen::entry::encode(seq, &[(Request::None, entry)]);
            log.append(seq, Kind::Entry, &[&entry]).expect("appended");
            rest = after;
        }
        log.sync(log.end()).expect("synced");
        drop(log);
        let Ok(database) = Database::open("/db", lumen_fuzz::database_options(&vfs)) else { return };
        let before = contents(&database.snapshot());
        let happened = history(&database);
        database.flush().expect("flushed");
        assert_eq!(contents(&database.snapshot()), before, "a flush changed what is there");
        drop(database);
        let database = Database::open("/db", lumen_fuzz::database_options(&vfs)).expect("it opens again");
        assert_eq!(contents(&database.snapshot()), before, "a restart changed what is there");
        assert_eq!(history(&database), happened, "a restart changed what happened");
    });
});
