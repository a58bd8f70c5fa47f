//! Key-values against a sorted map: conditions, times to live, leases, ranges, batches, over restarts and flushes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lumen::{
    Condition, Database, KeyOutcome, KeyRange, KeyValue, KeyWrite, Options, Outcome, Previous, Rejection,
    Until, Write,
};
use lumen_engine::vfs::memory::{Crash, Memory};

const START: u64 = 1_700_000_000_000;

thread_local! {
    static NOW: AtomicU64 = const { AtomicU64::new(START) };
}

fn clock() -> u64 {
    NOW.with(|now| now.load(Ordering::Relaxed))
}

fn pass(ms: u64) {
    NOW.with(|now| now.fetch_add(ms, Ordering::Relaxed));
}

fn open(vfs: &Memory) -> Database {
    let options = Options {
        vfs: Arc::new(vfs.clone()),
        threads: 0,
        memory_bytes: 64 << 10,
        random: || 7,
        clock,
        ..Options::default()
    };
    Database::open("/db", options).expect("opens")
}

fn put(key: &str, value: &str, condition: Condition, until: Until) -> KeyWrite {
    let (space, key, value) = ("s".into(), key.into(), value.into());
    KeyWrite::Put { space, key, value, condition, until, returns: true }
}

fn delete(key: &str, condition: Condition) -> KeyWrite {
    KeyWrite::Delete { space: "s".into(), key: key.into(), condition, returns: true }
}

fn write(db: &Database, write: KeyWrite) -> (u64, Outcome) {
    let ack = db.write(Write::Keys(write)).expect("written");
    (ack.seq, ack.outcome)
}

fn done(db: &Database, one: KeyWrite) -> (u64, KeyOutcome) {
    match write(db, one) {
        (seq, Outcome::Keys(outcome)) => (seq, outcome),
        other => panic!("{other:?}"),
    }
}

fn refused(db: &Database, one: KeyWrite) -> Rejection {
    match write(db, one) {
        (_, Outcome::Rejected(rejection)) => rejection,
        other => panic!("{other:?}"),
    }
}

fn get(db: &Database, key: &str) -> Option<String> {
    let found = db.snapshot().get_key("s", key.as_bytes()).expect("read");
    found.map(|found| String::from_utf8(found.value).expect("text"))
}

fn all(db: &Database) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let row = &mut |row: lumen::KeyRow<'_>| {
        rows.push((text(row.key), text(row.value)));
        true
    };
    db.snapshot().scan_keys("s", &KeyRange::ALL, row).expect("scanned");
    rows
}

const EVER: Until = Until::Deleted;
const ANY: Condition = Condition::Always;

#[test]
fn conditions_hold_for_the_version_that_is_there() {
    let db = open(&Memory::new());
    let (first, outcome) = done(&db, put("a", "1", Condition::Absent, EVER));
    assert_eq!(outcome, KeyOutcome::Put { existed: false, previous: None });
    let conflict = |current| Rejection::KeyConflict { key: b"a".to_vec(), current };
    assert_eq!(refused(&db, put("a", "2", Condition::Absent, EVER)), conflict(Some(first)));
    assert_eq!(refused(&db, delete("a", Condition::Version(first + 9))), conflict(Some(first)));
    let (second, outcome) = done(&db, put("a", "2", Condition::Version(first), EVER));
    let previous = Some(Previous { version: first, value: b"1".to_vec() });
    assert_eq!(outcome, KeyOutcome::Put { existed: true, previous });
    assert_eq!(refused(&db, put("a", "3", Condition::Version(first), EVER)), conflict(Some(second)));
    let found = db.snapshot().get_key("s", b"a").expect("read");
    let expected = KeyValue { value: b"2".to_vec(), version: second, expires: None, lease: None };
    assert_eq!(found, Some(expected));
    let (_, outcome) = done(&db, delete("a", Condition::Present));
    let previous = Some(Previous { version: second, value: b"2".to_vec() });
    assert_eq!(outcome, KeyOutcome::Deleted { count: 1, previous });
    assert_eq!(done(&db, delete("a", ANY)).1, KeyOutcome::Deleted { count: 0, previous: None });
    assert_eq!(refused(&db, delete("a", Condition::Present)), conflict(None));
}

#[test]
fn what_expires_is_gone_at_one_sequence_number_and_its_room_is_taken() {
    let vfs = Memory::new();
    let db = open(&vfs);
    done(&db, put("short", "1", ANY, Until::Ttl(100)));
    done(&db, put("long", "2", ANY, Until::Ttl(10_000)));
    done(&db, put("ever", "3", ANY, EVER));
    done(&db, put("rescued", "4", ANY, Until::Ttl(100)));
    done(&db, put("rescued", "5", ANY, EVER));
    let before = db.snapshot();
    pass(100);
    // By the log's time it is there until something is written.
    assert_eq!(get(&db, "short").as_deref(), Some("1"));
    done(&db, put("other", "", ANY, EVER));
    assert_eq!(get(&db, "short"), None);
    assert!(before.get_key("s", b"short").expect("read").is_some(), "a held moment stays what it was");
    assert_eq!(db.due(clock(), 10).expect("due").0.len(), 1);
    // Who asks for it not to be there may put it, and takes the room.
    assert!(matches!(
        done(&db, put("short", "6", Condition::Absent, Until::Ttl(50))).1,
        KeyOutcome::Put { existed: false, previous: None }
    ));
    pass(50);
    let next = db.expire().expect("expired");
    assert_eq!(next, Some(START + 10_000));
    assert_eq!(db.due(clock(), 10).expect("due").0, []);
    db.close().expect("closed");
    let db = open(&vfs);
    let rows: Vec<String> = all(&db).into_iter().map(|(key, _)| key).collect();
    assert_eq!(rows, ["ever", "long", "other", "rescued"]);
    pass(10_000);
    assert_eq!(db.expire().expect("expired"), None);
    assert_eq!(get(&db, "long"), None);
    assert_eq!(get(&db, "rescued").as_deref(), Some("5"));
}

#[test]
fn a_lease_takes_with_it_what_it_keeps() {
    let db = open(&Memory::new());
    let (seq, outcome) = done(&db, KeyWrite::Grant { lease: 0, ttl: 1000 });
    assert_eq!(outcome, KeyOutcome::Lease { lease: seq, ttl: 1000 });
    let lease = seq;
    assert_eq!(refused(&db, KeyWrite::Grant { lease, ttl: 5 }), Rejection::LeaseExists { lease });
    for n in 0..200 {
        done(&db, put(&format!("k{n:03}"), "v", ANY, Until::Lease(lease)));
    }
    done(&db, put("k000", "own", ANY, EVER));
    let kept = db.snapshot().get_key("s", b"k001").expect("read").expect("there");
    assert_eq!((kept.lease, kept.expires), (Some(lease), Some(START + 1000)));
    pass(900);
    done(&db, KeyWrite::KeepAlive { lease });
    pass(900);
    assert_eq!(db.expire().expect("looked"), Some(clock() + 100));
    assert_eq!(all(&db).len(), 200);
    pass(100);
    assert_eq!(db.expire().expect("expired"), None);
    assert_eq!(all(&db), [("k000".to_owned(), "own".to_owned())]);
    let gone = Rejection::LeaseNotFound { lease };
    assert_eq!(refused(&db, KeyWrite::KeepAlive { lease }), gone);
    assert_eq!(refused(&db, put("x", "", ANY, Until::Lease(lease))), gone);
    assert_eq!(db.snapshot().lease(lease).expect("read"), None);

    done(&db, KeyWrite::Grant { lease: 77, ttl: 1000 });
    done(&db, put("x", "", ANY, Until::Lease(77)));
    assert_eq!(done(&db, KeyWrite::Revoke { lease: 77 }).1, KeyOutcome::Deleted { count: 1, previous: None });
    assert_eq!(get(&db, "x"), None);
    // The same number again is another lease.
    done(&db, KeyWrite::Grant { lease: 77, ttl: 1000 });
    assert_eq!(get(&db, "x"), None);
}

#[test]
fn ranges_are_walked_both_ways_and_deleted_whole() {
    let db = open(&Memory::new());
    for n in 0..300 {
        done(&db, put(&format!("{n:03}"), "", ANY, if n % 2 == 0 { EVER } else { Until::Ttl(100_000) }));
    }
    let walk = |start: Bound<&str>, end: Bound<&str>, reverse: bool, most: usize| {
        let range = KeyRange { start: start.map(str::as_bytes), end: end.map(str::as_bytes), reverse };
        let mut keys = Vec::new();
        let row = &mut |row: lumen::KeyRow<'_>| {
            keys.push(String::from_utf8(row.key.to_vec()).expect("text"));
            keys.len() < most
        };
        db.snapshot().scan_keys("s", &range, row).expect("scanned");
        keys
    };
    assert_eq!(walk(Bound::Included("010"), Bound::Excluded("013"), false, 99), ["010", "011", "012"]);
    assert_eq!(walk(Bound::Excluded("010"), Bound::Included("013"), true, 2), ["013", "012"]);
    assert_eq!(walk(Bound::Unbounded, Bound::Unbounded, true, 1), ["299"]);
    let range = |start: &str, end: Option<&str>| KeyWrite::DeleteRange {
        space: "s".into(),
        start: start.into(),
        end: end.map(Into::into),
    };
    let count = |count| KeyOutcome::Deleted { count, previous: None };
    // What ends before it begins is nothing.
    assert_eq!(done(&db, range("020", Some("010"))).1, count(0));
    let reversed = vec![Write::Keys(put("000", "", ANY, EVER)), Write::Keys(range("020", Some("010")))];
    assert!(matches!(db.write(Write::Batch(reversed)).expect("written").outcome, Outcome::Batch(_)));
    assert_eq!(walk(Bound::Included("020"), Bound::Included("010"), false, 9), [""; 0]);
    assert_eq!(walk(Bound::Excluded("020"), Bound::Excluded("020"), true, 9), [""; 0]);
    assert_eq!(done(&db, range("010", Some("020"))).1, count(10));
    assert_eq!(done(&db, range("010", Some("030"))).1, count(10));
    assert_eq!(done(&db, range("100", None)).1, count(200));
    assert_eq!(walk(Bound::Included("008"), Bound::Unbounded, false, 3), ["008", "009", "030"]);
    done(&db, put("150", "", ANY, EVER));
    assert_eq!(walk(Bound::Included("100"), Bound::Unbounded, false, 3), ["150"]);
    // Of what was deleted nothing expires any more: of the first hundred eighty are left, and half of those do.
    pass(200_000);
    assert_eq!(db.due(clock(), 1000).expect("due").0.len(), 40);
    assert_eq!(db.snapshot().spaces().expect("spaces"), ["s"]);
}

#[test]
fn keys_and_documents_change_together_in_a_batch() {
    let vfs = Memory::new();
    let db = open(&vfs);
    let mapping = lumen::Mapping::from_json(br#"{"fields":{"title":{"type":"text"}}}"#).expect("a mapping");
    db.write(Write::CreateCollection { name: "c".into(), mapping }).expect("made");
    let document = Write::Put {
        collection: "c".into(),
        id: "1".into(),
        source: br#"{"title":"together"}"#.to_vec(),
        condition: ANY,
    };
    let parts = vec![
        Write::Keys(put("a", "1", ANY, EVER)),
        Write::Keys(put("a", "2", Condition::Present, Until::Ttl(50))),
        document,
        Write::Keys(KeyWrite::DeleteRange {
            space: "s".into(),
            start: b"a".to_vec(),
            end: Some(b"b".to_vec()),
        }),
        Write::Keys(put("b", "3", Condition::Absent, EVER)),
        Write::Keys(delete("c", Condition::Present)),
    ];
    let ack = db.write(Write::Batch(parts)).expect("written");
    let Outcome::Batch(outcomes) = ack.outcome else { panic!("a batch") };
    assert!(matches!(outcomes[1], Outcome::Keys(KeyOutcome::Put { existed: true, .. })), "{outcomes:?}");
    assert_eq!(outcomes[3], Outcome::Keys(KeyOutcome::Deleted { count: 1, previous: None }));
    assert!(matches!(outcomes[5], Outcome::Rejected(Rejection::KeyConflict { current: None, .. })));
    assert_eq!(all(&db), [("b".to_owned(), "3".to_owned())]);
    pass(50);
    assert_eq!(db.expire().expect("nothing"), None);
    drop(db);
    vfs.crash(Crash::DropPending, 1);
    let db = open(&vfs);
    assert_eq!(all(&db), [("b".to_owned(), "3".to_owned())]);
    assert_eq!(db.snapshot().count("c").expect("count"), 1);
}

#[test]
fn limits_and_names_are_kept_to() {
    let options = Options {
        vfs: Arc::new(Memory::new()),
        threads: 0,
        key_bytes_max: 10,
        value_bytes_max: 20,
        ..Options::default()
    };
    let db = Database::open("/db", options).expect("opens");
    let refused = |write: KeyWrite| match db.prepare(Write::Keys(write)) {
        Err(rejection) => rejection.kind(),
        Ok(_) => "taken",
    };
    assert_eq!(refused(put("", "", ANY, EVER)), "invalid_name");
    assert_eq!(refused(put("12345678901", "", ANY, EVER)), "too_large");
    assert_eq!(refused(put("1", &"v".repeat(21), ANY, EVER)), "too_large");
    assert_eq!(refused(put("1", "", ANY, Until::Ttl(0))), "validation");
    assert_eq!(refused(put("1234567890", &"v".repeat(20), ANY, EVER)), "taken");
    let odd = KeyWrite::Delete { space: "a\0b".into(), key: b"k".to_vec(), condition: ANY, returns: false };
    assert_eq!(refused(odd), "invalid_name");
    assert!(db.snapshot().get_key("", b"k").is_err());
}

/// xorshift64*, Vigna 2016.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }
}

/// What the model knows of a key.
#[derive(Clone)]
struct Known {
    value: String,
    version: u64,
    expires: Option<u64>,
    lease: Option<u64>,
}

#[derive(Default)]
struct Model {
    time: u64,
    keys: BTreeMap<String, Known>,
    leases: BTreeMap<u64, (u64, u64)>,
}

impl Model {
    fn pass(&mut self, now: u64) {
        self.time = self.time.max(now);
        let time = self.time;
        self.leases.retain(|_, (_, expires)| *expires > time);
        let leases = &self.leases;
        self.keys.retain(|_, known| {
            known.expires.is_none_or(|expires| expires > time)
                && known.lease.is_none_or(|lease| leases.contains_key(&lease))
        });
    }
}

#[test]
fn whatever_is_written_a_sorted_map_answers_the_same() {
    for seed in 1..=30_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let vfs = Memory::new();
        let mut db = open(&vfs);
        let mut model = Model::default();
        for step in 0..600 {
            let key = format!("k{}", random.below(40));
            let condition = match random.below(6) {
                0 => Condition::Absent,
                1 => Condition::Present,
                2 => Condition::Version(model.keys.get(&key).map_or(1, |known| known.version)),
                _ => ANY,
            };
            let lease = 1 + random.below(3);
            let one = match random.below(20) {
                0..=9 => {
                    let until = match random.below(4) {
                        0 => Until::Ttl(1 + random.below(2000)),
                        1 => Until::Lease(lease),
                        _ => EVER,
                    };
                    put(&key, &format!("v{step}"), condition, until)
                }
                10..=12 => delete(&key, condition),
                13 => KeyWrite::DeleteRange {
                    space: "s".into(),
                    start: key.clone().into(),
                    end: Some(format!("k{}", random.below(40)).into()).filter(|_| random.below(8) > 0),
                },
                14 => KeyWrite::Grant { lease, ttl: 1 + random.below(3000) },
                15 => KeyWrite::KeepAlive { lease },
                16 => KeyWrite::Revoke { lease },
                _ => {
                    match random.below(5) {
                        0 => db.flush().expect("flushed"),
                        1 => {
                            drop(db);
                            vfs.crash(Crash::KeepAll, step);
                            db = open(&vfs);
                        }
                        2 => drop(db.expire().expect("expired")),
                        _ => pass(random.below(400)),
                    }
                    continue;
                }
            };
            model.pass(clock());
            let known = model.keys.get(&key).cloned();
            let current = known.as_ref().map(|known| known.version);
            let met = |condition| match condition {
                Condition::Always => true,
                Condition::Absent => current.is_none(),
                Condition::Present => current.is_some(),
                Condition::Version(version) => current == Some(version),
            };
            let conflict = || Outcome::Rejected(Rejection::KeyConflict { key: key.clone().into(), current });
            let missing = Outcome::Rejected(Rejection::LeaseNotFound { lease });
            let previous = known
                .as_ref()
                .map(|known| Previous { version: known.version, value: known.value.clone().into() });
            let ack = db.write(Write::Keys(one.clone())).expect("written");
            let expected = match &one {
                KeyWrite::Put { condition, .. } | KeyWrite::Delete { condition, .. } if !met(*condition) => {
                    conflict()
                }
                KeyWrite::Put { until: Until::Lease(lease), .. } if !model.leases.contains_key(lease) => {
                    missing
                }
                KeyWrite::Put { value, until, .. } => {
                    let (expires, lease) = match until {
                        Until::Ttl(ttl) => (Some(model.time + ttl), None),
                        Until::Lease(lease) => (None, Some(*lease)),
                        Until::Deleted => (None, None),
                    };
                    let value = String::from_utf8(value.clone()).expect("text");
                    model.keys.insert(key.clone(), Known { value, version: ack.seq, expires, lease });
                    Outcome::Keys(KeyOutcome::Put { existed: current.is_some(), previous })
                }
                KeyWrite::Delete { .. } => {
                    model.keys.remove(&key);
                    Outcome::Keys(KeyOutcome::Deleted { count: u64::from(current.is_some()), previous })
                }
                KeyWrite::DeleteRange { start, end, .. } => {
                    let before = model.keys.len();
                    let end = end.clone();
                    model.keys.retain(|key, _| {
                        key.as_bytes() < &start[..]
                            || end.as_ref().is_some_and(|end| key.as_bytes() >= &end[..])
                    });
                    let count = (before - model.keys.len()) as u64;
                    Outcome::Keys(KeyOutcome::Deleted { count, previous: None })
                }
                KeyWrite::Grant { lease, ttl } => match model.leases.contains_key(lease) {
                    true => Outcome::Rejected(Rejection::LeaseExists { lease: *lease }),
                    false => {
                        model.leases.insert(*lease, (*ttl, model.time + ttl));
                        Outcome::Keys(KeyOutcome::Lease { lease: *lease, ttl: *ttl })
                    }
                },
                KeyWrite::KeepAlive { .. } => match model.leases.get_mut(&lease) {
                    None => missing,
                    Some((ttl, expires)) => {
                        *expires = model.time + *ttl;
                        Outcome::Keys(KeyOutcome::Lease { lease, ttl: *ttl })
                    }
                },
                KeyWrite::Revoke { .. } => match model.leases.remove(&lease) {
                    None => missing,
                    Some(_) => {
                        let before = model.keys.len();
                        model.keys.retain(|_, known| known.lease != Some(lease));
                        let count = (before - model.keys.len()) as u64;
                        Outcome::Keys(KeyOutcome::Deleted { count, previous: None })
                    }
                },
                KeyWrite::Expire { .. } => unreachable!("it is not among them"),
            };
            assert_eq!(ack.outcome, expected, "seed {seed}, step {step}: {one:?}");
            let rows: Vec<(String, String)> =
                model.keys.iter().map(|(key, known)| (key.clone(), known.value.clone())).collect();
            assert_eq!(all(&db), rows, "seed {seed}, step {step}: {one:?}");
        }
        // When all has had its time, nothing is left of it but what is kept.
        pass(10_000);
        assert_eq!(db.expire().expect("expired"), None, "seed {seed}");
        model.pass(clock());
        assert_eq!(all(&db).len(), model.keys.len());
        assert!(model.keys.values().all(|known| known.expires.is_none() && known.lease.is_none()));
    }
}
