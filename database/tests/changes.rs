//! Following changes: a copy that is kept by them is the same as the database, over restarts, crashes, and what is let go of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lumen::{
    Change, Changed, Changes, Compare, Condition, Database, Error, KeyOutcome, KeyRange, KeyWrite, Mapping,
    Options, Outcome, Rejection, Request, Scope, SearchRequest, Snapshot, Target, Test, Transaction, Until,
    Write,
};
use lumen_engine::vfs::memory::{Crash, Memory};
use proptest::prelude::*;

const START: u64 = 1_700_000_000_000;

thread_local! {
    static NOW: AtomicU64 = const { AtomicU64::new(START) };
}

fn clock() -> u64 {
    NOW.with(|now| now.load(Ordering::Relaxed))
}

fn open(vfs: &Memory, keep_log_bytes: u64) -> Database {
    let options = Options {
        vfs: Arc::new(vfs.clone()),
        threads: 0,
        memory_bytes: 32 << 10,
        segment_bytes: 8 << 10,
        keep_log_bytes,
        random: || 7,
        clock,
        ..Options::default()
    };
    Database::open("/db", options).expect("opens")
}

const KEPT: u64 = 1 << 30;

fn key(space: &str, key: u8) -> (String, Vec<u8>) {
    (space.into(), format!("k{key}").into_bytes())
}

fn put(space: &str, at: u8, value: &str, until: Until) -> Write {
    put_if(space, at, value, until, Condition::Always)
}

fn put_if(space: &str, at: u8, value: &str, until: Until, condition: Condition) -> Write {
    let (space, key) = key(space, at);
    Write::Keys(KeyWrite::Put { space, key, value: value.into(), condition, until, returns: false })
}

fn delete(space: &str, at: u8) -> Write {
    let (space, key) = key(space, at);
    Write::Keys(KeyWrite::Delete { space, key, condition: Condition::Always, returns: false })
}

fn delete_range(space: &str, from: u8, to: u8) -> Write {
    let (space, start) = key(space, from);
    Write::Keys(KeyWrite::DeleteRange { space, start, end: Some(key("", to).1) })
}

fn put_document(collection: &str, id: u8, text: &str) -> Write {
    let source = format!(r#"{{"t":"{text}"}}"#).into_bytes();
    Write::Put { collection: collection.into(), id: format!("d{id}"), source, condition: Condition::Always }
}

fn delete_document(collection: &str, id: u8) -> Write {
    Write::Delete { collection: collection.into(), id: format!("d{id}"), condition: Condition::Always }
}

fn create(name: &str) -> Write {
    let mapping = Mapping::from_json(br#"{"fields":{"t":{"type":"text"}}}"#).expect("good");
    Write::CreateCollection { name: name.into(), mapping }
}

/// A value, when it expires by itself, and which lease keeps it.
type Kept = (Vec<u8>, Option<u64>, Option<u64>);

/// What somebody knows who read everything once, and has followed since.
#[derive(Debug, Default)]
struct Copied {
    collections: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    keys: BTreeMap<(String, Vec<u8>), Kept>,
}

impl Copied {
    fn of(snapshot: &Snapshot) -> Copied {
        let mut copy = Copied::default();
        for collection in snapshot.collections() {
            let request =
                SearchRequest { collection: &collection, query: "", offset: 0, limit: 1000, cancelled: None };
            let hits = snapshot.search(&request).expect("searched").hits;
            let documents = hits.into_iter().map(|hit| (hit.id, hit.source)).collect();
            copy.collections.insert(collection, documents);
        }
        for space in snapshot.spaces().expect("read") {
            let row = &mut |row: lumen::KeyRow<'_>| {
                let expires = row.expires.filter(|_| row.lease.is_none());
                copy.keys.insert((space.clone(), row.key.to_vec()), (row.value.to_vec(), expires, row.lease));
                true
            };
            snapshot.scan_keys(&space, &KeyRange::ALL, row).expect("scanned");
        }
        copy
    }

    fn follow(&mut self, changed: &Changed) {
        for change in changed.changes.clone() {
            match change {
                Change::CollectionCreated { name, .. } => {
                    assert!(self.collections.insert(name, BTreeMap::new()).is_none());
                }
                Change::CollectionDropped { name } => drop(self.collections.remove(&name).expect("there")),
                Change::DocumentPut { collection, id, source } => {
                    self.collections.get_mut(&collection).expect("there").insert(id, source);
                }
                Change::DocumentDeleted { collection, id } => {
                    let documents = self.collections.get_mut(&collection).expect("there");
                    documents.remove(&id).expect("a document that was there");
                }
                Change::KeyPut { space, key, value, expires, lease } => {
                    self.keys.insert((space, key), (value, expires, lease));
                }
                Change::KeyDeleted { space, key, expired } => {
                    // What had expired when everything was read was not there any more.
                    let was_there = self.keys.remove(&(space, key)).is_some();
                    assert!(was_there || expired, "a key that was there");
                }
                Change::KeysDeleted { space, start, end } => self.keys.retain(|(in_space, key), _| {
                    *in_space != space || *key < start || end.as_ref().is_some_and(|end| key >= end)
                }),
            }
        }
    }

    /// Whether it is what the snapshot says, of which what has expired is gone for everybody before the log says so.
    fn check(&self, snapshot: &Snapshot) {
        let now = Copied::of(snapshot);
        assert_eq!(self.collections, now.collections);
        let lives = |(_, expires, lease): &Kept| {
            expires.is_none_or(|expires| expires > snapshot.time())
                && lease.is_none_or(|lease| snapshot.lease(lease).expect("read").is_some())
        };
        let mut keys = self.keys.clone();
        keys.retain(|_, kept| lives(kept));
        assert_eq!(keys, now.keys);
    }
}

/// One who follows.
struct Follower {
    changes: Option<Changes>,
    seq: u64,
    copy: Copied,
}

impl Follower {
    fn new(db: &Database) -> Follower {
        let snapshot = db.snapshot();
        Follower { changes: None, seq: snapshot.seq(), copy: Copied::of(&snapshot) }
    }

    /// Reads a page, or begins anew if what comes next is gone. Answers whether it did so.
    fn read(&mut self, db: &Database, bytes: usize) -> bool {
        if self.changes.is_none() {
            match db.changes(Some(self.seq), Scope::All) {
                Ok(changes) => self.changes = Some(changes),
                Err(Error::Compacted { oldest }) => {
                    assert!(oldest > self.seq && oldest <= db.seq(), "{oldest} of {} {}", self.seq, db.seq());
                    db.changes(Some(oldest), Scope::All).expect("what is said to be there");
                    *self = Follower::new(db);
                    return true;
                }
                Err(error) => panic!("{error}"),
            }
        }
        let changes = self.changes.as_mut().expect("just made");
        let page = match changes.read(bytes) {
            Ok(page) => page,
            Err(Error::Compacted { .. }) => {
                *self = Follower::new(db);
                return true;
            }
            Err(error) => panic!("{error}"),
        };
        for changed in page {
            assert!(changed.seq > self.seq && !changed.changes.is_empty());
            self.seq = changed.seq;
            self.copy.follow(&changed);
        }
        self.seq = changes.seq();
        false
    }

    fn catch_up(&mut self, db: &Database) {
        while self.read(db, 512) || self.changes.as_ref().is_none_or(Changes::is_behind) {}
        assert_eq!(self.seq, db.seq());
        self.copy.check(&db.snapshot());
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(Write),
    Named(u8, Write),
    Pass(u64),
    Expire,
    Flush,
    Read(usize),
    Resume,
    CatchUp,
    Reopen,
    Crash(u64),
}

fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("s"), Just("t")]
}

fn collection() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b")]
}

fn put_of(condition: impl Strategy<Value = Condition>) -> impl Strategy<Value = Write> {
    let until = prop_oneof![
        4 => Just(Until::Deleted),
        2 => (1..2000u64).prop_map(Until::Ttl),
        2 => (1..4u64).prop_map(Until::Lease)
    ];
    (space(), 0..8u8, "[a-z]{0,40}", until, condition)
        .prop_map(|(space, at, value, until, condition)| put_if(space, at, &value, until, condition))
}

/// What a transaction may hold.
fn part() -> impl Strategy<Value = Write> {
    prop_oneof![
        6 => put_of(Just(Condition::Always)),
        3 => (space(), 0..8u8).prop_map(|(space, at)| delete(space, at)),
        2 => (space(), 0..8u8, 0..8u8).prop_map(|(space, from, to)| delete_range(space, from, to)),
        4 => (collection(), 0..6u8, "[a-z]{1,9}").prop_map(|(name, id, text)| put_document(name, id, &text)),
        2 => (collection(), 0..6u8).prop_map(|(name, id)| delete_document(name, id)),
    ]
}

fn single() -> impl Strategy<Value = Write> {
    prop_oneof![
        16 => part(),
        3 => put_of(prop_oneof![Just(Condition::Absent), Just(Condition::Present)]),
        1 => (1..4u64, 1..3000u64).prop_map(|(lease, ttl)| Write::Keys(KeyWrite::Grant { lease, ttl })),
        1 => (1..4u64).prop_map(|lease| Write::Keys(KeyWrite::KeepAlive { lease })),
        1 => (1..4u64).prop_map(|lease| Write::Keys(KeyWrite::Revoke { lease })),
        1 => collection().prop_map(create),
        1 => collection().prop_map(|name| Write::DropCollection { name: name.into() }),
    ]
}

fn write() -> impl Strategy<Value = Write> {
    let few = || prop::collection::vec(part(), 0..4);
    let transaction = (0..8u8, any::<bool>(), few(), few()).prop_map(|(at, there, then, otherwise)| {
        let (space, key) = key("s", at);
        let test = if there { Test::Present } else { Test::Absent };
        let when = vec![Compare { target: Target::Key { space, key }, test }];
        Write::Transaction(Transaction { when, then, otherwise })
    });
    prop_oneof![
        6 => single(),
        1 => prop::collection::vec(single(), 1..5).prop_map(Write::Batch),
        2 => transaction
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => write().prop_map(Step::Write),
        2 => (0..4u8, write()).prop_map(|(name, write)| Step::Named(name, write)),
        2 => (1..900u64).prop_map(Step::Pass),
        2 => Just(Step::Expire),
        1 => Just(Step::Flush),
        4 => (1..2000usize).prop_map(Step::Read),
        1 => Just(Step::Resume),
        1 => Just(Step::CatchUp),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn who_follows_knows_what_the_database_does(
        steps in prop::collection::vec(step(), 1..150),
        keep in prop_oneof![Just(0), Just(16 << 10), Just(KEPT)],
    ) {
        NOW.with(|now| now.store(START, Ordering::Relaxed));
        let vfs = Memory::new();
        let mut db = open(&vfs, keep);
        for name in ["a", "b"] {
            db.write(create(name)).expect("created");
        }
        let mut followers = [Follower::new(&db), Follower::new(&db)];
        for step in steps {
            match step {
                Step::Write(write) => {
                    if let Ok(prepared) = db.prepare(write) {
                        db.propose_blocking(prepared).expect("written");
                    }
                }
                Step::Named(name, write) => {
                    if let Ok(prepared) = db.prepare(write) {
                        db.propose(Request::Key([name; 16]), prepared, |result| drop(result.expect("written")));
                    }
                }
                Step::Pass(ms) => drop(NOW.with(|now| now.fetch_add(ms, Ordering::Relaxed))),
                Step::Expire => drop(db.expire().expect("expired")),
                Step::Flush => db.flush().expect("flushed"),
                Step::Read(bytes) => drop(followers[0].read(&db, bytes)),
                Step::Resume => followers[0].changes = None,
                Step::CatchUp => followers[0].catch_up(&db),
                Step::Reopen | Step::Crash(_) => {
                    followers.iter_mut().for_each(|follower| follower.changes = None);
                    if let Step::Crash(seed) = step {
                        db = open(&Memory::new(), keep); // the old one is dropped here, not closed
                        vfs.crash(Crash::DropPending, seed);
                    } else {
                        db.close().expect("closed");
                    }
                    drop(db);
                    db = open(&vfs, keep);
                }
            }
        }
        followers.iter_mut().for_each(|follower| follower.catch_up(&db));
    }
}

fn read_all(changes: &mut Changes) -> Vec<Change> {
    let mut all = Vec::new();
    loop {
        all.extend(changes.read(1 << 20).expect("read").into_iter().flat_map(|changed| changed.changes));
        if !changes.is_behind() {
            return all;
        }
    }
}

#[test]
fn what_is_not_followed_does_not_come_and_ranges_are_clipped() {
    let db = open(&Memory::new(), KEPT);
    let scope = |space: &str, from, to| Scope::Keys {
        space: space.into(),
        start: key("", from).1,
        end: Some(key("", to).1),
    };
    let mut keys = db.changes(None, scope("s", 2, 5)).expect("there");
    let mut documents = db.changes(None, Scope::Collection("a".into())).expect("there");
    for write in [create("a"), create("b"), put_document("a", 1, "x"), put_document("b", 1, "y")] {
        db.write(write).expect("written");
    }
    for at in 1..7 {
        db.write(put("s", at, "v", Until::Deleted)).expect("written");
        db.write(put("t", at, "v", Until::Deleted)).expect("written");
    }
    for (space, from, to) in [("s", 1, 3), ("s", 4, 9), ("s", 5, 9), ("t", 1, 9), ("s", 3, 3)] {
        db.write(delete_range(space, from, to)).expect("written");
    }
    let mut shown = Vec::new();
    for change in read_all(&mut keys) {
        shown.push(match change {
            Change::KeyPut { space, key, .. } => format!("put {space} {}", String::from_utf8_lossy(&key)),
            Change::KeysDeleted { space, start, end } => {
                let end = end.expect("clipped");
                format!(
                    "deleted {space} {} {}",
                    String::from_utf8_lossy(&start),
                    String::from_utf8_lossy(&end)
                )
            }
            other => panic!("{other:?}"),
        });
    }
    let expected = ["put s k2", "put s k3", "put s k4", "deleted s k2 k3", "deleted s k4 k5"];
    assert_eq!(shown, expected);
    let of_a = read_all(&mut documents);
    assert!(matches!(
        &of_a[..],
        [Change::CollectionCreated { name, .. }, Change::DocumentPut { collection, .. }]
            if name == "a" && collection == "a"
    ));
}

#[test]
fn one_writes_changes_come_together_with_the_time_of_the_log() {
    let db = open(&Memory::new(), KEPT);
    let mut changes = db.changes(None, Scope::All).expect("there");
    let grant = Write::Keys(KeyWrite::Grant { lease: 9, ttl: 50 });
    let writes = vec![put("s", 1, "1", Until::Ttl(70)), grant, put("s", 2, "2", Until::Lease(9))];
    let seq = db.write(Write::Batch(writes)).expect("written").seq;
    let [changed] = &changes.read(1).expect("read")[..] else { panic!("one") };
    let now = clock();
    assert_eq!((changed.seq, changed.time, changed.changes.len()), (seq, now, 2));
    assert!(matches!(changed.changes[0], Change::KeyPut { expires: Some(at), .. } if at == now + 70));
    assert!(matches!(changed.changes[1], Change::KeyPut { lease: Some(9), .. }));
    // A replacement of what has expired by then is no more than that; what goes is said to have expired.
    NOW.with(|now| now.fetch_add(60, Ordering::Relaxed));
    db.expire().expect("expired");
    let (space, key) = key("s", 2);
    let gone = |expired| Change::KeyDeleted { space: space.clone(), key: key.clone(), expired };
    assert_eq!(read_all(&mut changes), [gone(true)]);
    db.write(Write::Keys(KeyWrite::Grant { lease: 9, ttl: 50 })).expect("granted");
    db.write(put("s", 2, "2", Until::Lease(9))).expect("written");
    db.write(Write::Keys(KeyWrite::Revoke { lease: 9 })).expect("revoked");
    assert_eq!(read_all(&mut changes)[1..], [gone(false)]);
}

#[test]
fn a_transaction_is_done_whole_or_not_at_all() {
    let db = open(&Memory::new(), KEPT);
    db.write(create("a")).expect("created");
    let (space, at) = key("s", 1);
    let target = || Target::Key { space: space.clone(), key: at.clone() };
    let document = || Target::Document { collection: "a".into(), id: "d1".into() };
    let tx = |when, then, otherwise| Write::Transaction(Transaction { when, then, otherwise });
    let lock = |value: &str| {
        let then = vec![
            put("s", 1, value, Until::Deleted),
            put_document("a", 1, value),
            Write::Read(target()),
            Write::Read(document()),
        ];
        let when = vec![Compare { target: target(), test: Test::Absent }];
        tx(when, then, vec![Write::Read(target()), Write::Read(document())])
    };
    let values = |outcome: Outcome| match outcome {
        Outcome::Transaction { succeeded, outcomes } => {
            let read = outcomes.into_iter().filter_map(|outcome| match outcome {
                Outcome::Read(found) => {
                    Some(found.map(|found| String::from_utf8(found.value).expect("text")))
                }
                _ => None,
            });
            (succeeded, read.collect::<Vec<_>>())
        }
        other => panic!("{other:?}"),
    };
    let mine = || vec![Some("mine".to_owned()), Some(r#"{"t":"mine"}"#.to_owned())];
    let first = db.write(lock("mine")).expect("written");
    assert_eq!(values(first.outcome), (true, mine()));
    assert_eq!(values(db.write(lock("yours")).expect("written").outcome), (false, mine()));
    let found = db.snapshot().get("a", "d1").expect("read").expect("there");
    assert_eq!((found.version, &found.source[..]), (first.seq, &br#"{"t":"mine"}"#[..]));
    // A lease that is not there is found before anything is changed.
    let before = db.snapshot();
    let then = vec![delete("s", 1), delete_document("a", 1), put("s", 3, "x", Until::Lease(77))];
    let refused = db.write(tx(Vec::new(), then, Vec::new())).expect("answered").outcome;
    let rejection = Rejection::InTransaction {
        operation: 2,
        rejection: Box::new(Rejection::LeaseNotFound { lease: 77 }),
    };
    assert_eq!(refused, Outcome::Rejected(rejection));
    assert_eq!(Copied::of(&before).keys, Copied::of(&db.snapshot()).keys);
    // So is what can be seen without the data, and then nothing is logged.
    let seq = db.seq();
    let bad = [
        put_if("s", 1, "x", Until::Deleted, Condition::Absent),
        Write::Keys(KeyWrite::Revoke { lease: 1 }),
        create("b"),
        put_document("nowhere", 1, "x"),
        Write::Batch(Vec::new()),
    ];
    for write in bad {
        let refused = db.write(tx(Vec::new(), vec![Write::Read(target()), write], Vec::new()));
        assert!(
            matches!(refused, Err(Error::Rejected(Rejection::InTransaction { operation: 1, .. }))),
            "{refused:?}"
        );
    }
    assert!(matches!(db.write(Write::Read(target())), Err(Error::Rejected(_))));
    assert_eq!(db.seq(), seq);
    // All tests, and that they all have to hold.
    let version = first.seq;
    let tests = [
        (Test::Present, true),
        (Test::Absent, false),
        (Test::Version(version), true),
        (Test::Version(version + 1), false),
        (Test::VersionAtMost(version), true),
        (Test::VersionAtMost(version - 1), false),
        (Test::Value(b"mine".to_vec()), true),
        (Test::Value(b"min".to_vec()), false),
    ];
    for (test, holds) in tests {
        let when = vec![
            Compare { target: document(), test: Test::Present },
            Compare { target: target(), test: test.clone() },
        ];
        let outcome = db.write(tx(when, Vec::new(), Vec::new())).expect("answered").outcome;
        assert_eq!(values(outcome), (holds, Vec::new()), "{test:?}");
    }
    // Later operations meet what earlier ones did.
    let then = vec![
        put("s", 5, "1", Until::Deleted),
        delete_range("s", 0, 9),
        Write::Read(Target::Key { space: space.clone(), key: key("", 5).1 }),
        put("s", 5, "2", Until::Deleted),
        delete("s", 5),
        delete("s", 5),
    ];
    let Outcome::Transaction { outcomes, .. } =
        db.write(tx(Vec::new(), then, Vec::new())).expect("written").outcome
    else {
        panic!("done")
    };
    let deleted = |count| Outcome::Keys(KeyOutcome::Deleted { count, previous: None });
    assert_eq!(outcomes[1..3], [deleted(2), Outcome::Read(None)]);
    assert_eq!(outcomes[4..], [deleted(1), deleted(0)]);
    assert!(Copied::of(&db.snapshot()).keys.is_empty());
}

#[test]
fn who_comes_too_late_or_too_early_is_told() {
    let vfs = Memory::new();
    let db = open(&vfs, 0);
    assert!(matches!(db.changes(Some(1), Scope::All), Err(Error::NotYet { seq: 1, last: 0 })));
    let mut slow = db.changes(Some(0), Scope::All).expect("there");
    for round in 0..40u8 {
        for at in 0..8 {
            db.write(put("s", at, &"x".repeat(500), Until::Deleted)).expect("written");
        }
        if round % 4 == 3 {
            db.flush().expect("flushed");
        }
    }
    let Err(Error::Compacted { oldest }) = db.changes(Some(1), Scope::All) else { panic!("it is long gone") };
    assert!(oldest > 1 && oldest <= db.seq());
    // What it still had open may last a little; then it is told, and has missed nothing before that.
    let mut seen = 0;
    let told = loop {
        match slow.read(4000) {
            Ok(page) => {
                for changed in &page {
                    assert_eq!(changed.seq, seen + 1);
                    seen += 1;
                }
                if !slow.is_behind() {
                    break false;
                }
            }
            Err(Error::Compacted { .. }) => {
                assert_eq!(slow.seq(), seen, "what was read before it was told is given first");
                break true;
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert!(told || seen == db.seq());
    let mut rest = db.changes(Some(oldest), Scope::All).expect("there");
    assert_eq!(read_all(&mut rest).len() as u64, db.seq() - oldest);
}

#[test]
fn who_waits_is_woken() {
    let folder = tempfile::tempdir().expect("a folder");
    let db = Database::open(folder.path(), Options::default()).expect("opens");
    let mut changes = db.changes(None, Scope::All).expect("there");
    assert!(changes.wait(1, Duration::from_millis(1)).expect("read").is_empty());
    let writer = db.clone();
    let thread = std::thread::spawn(move || writer.write(put("s", 1, "v", Until::Deleted)).expect("written"));
    let found = changes.wait(1, Duration::from_secs(60)).expect("read");
    assert_eq!(found[0].seq, thread.join().expect("written").seq);
    db.close().expect("closed");
}
