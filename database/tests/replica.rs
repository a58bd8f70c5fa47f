//! Databases that follow a log kept elsewhere: the same entries give the same state, a request that comes twice takes effect
//! once, and what a restart or another replica's files bring is what the log says.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lumen::{
    Ack, Condition, Database, EntryCursor, EntryLog, Error, Mapping, NextEntry, NodeRequest, Options,
    Outcome, Rejection, Request, Scope, SearchRequest, Snapshot, Write,
};
use lumen_engine::vfs::memory::{Crash, Memory};
use lumen_engine::vfs::{Mode, Vfs};

const DIR: &str = "/replica";
const HOUR_MS: u64 = 3_600_000;
const START_MS: u64 = 1_700_000_000_000;

/// A replica, and the log that it follows.
struct Replica {
    vfs: Memory,
    db: Database,
    /// Entries that it was given.
    applied: usize,
}

fn open(vfs: &Memory) -> Database {
    let options = Options {
        memory_bytes: 32 << 10,
        cache_bytes: 64 << 10,
        threads: 0,
        segment_bytes: 16 << 10,
        vfs: Arc::new(vfs.clone()),
        ..Options::default()
    };
    Database::open_replica(DIR, options).expect("the replica opens")
}

impl Replica {
    fn new() -> Replica {
        let vfs = Memory::new();
        let db = open(&vfs);
        Replica { vfs, db, applied: 0 }
    }

    /// Applies entries of the log up to `end`, as one group.
    fn follow(&mut self, log: &[Vec<u8>], end: usize) -> Vec<Vec<Ack>> {
        let entries = (self.applied as u64..).zip(log[self.applied..end].iter().map(Vec::as_slice));
        let entries: Vec<(u64, &[u8])> = entries.collect();
        self.applied = end;
        self.db.apply(&entries, &(end as u64).to_le_bytes()).expect("applied")
    }

    /// Dies, and comes back with what its manifest holds.
    fn crash(&mut self, seed: u64) {
        self.db = open(&Memory::new()); // the old one is dropped here, not closed
        self.vfs.crash(Crash::DropPending, seed);
        self.db = open(&self.vfs);
        let position = self.db.durable_position().expect("readable");
        let position = <[u8; 8]>::try_from(&position[..]).map_or(0, u64::from_le_bytes);
        assert!(position <= self.applied as u64);
        self.applied = position as usize;
    }

    /// All documents, and what searches find, scores to the bit.
    fn state(&self) -> Vec<String> {
        state_of(&self.db.snapshot())
    }
}

fn state_of(snapshot: &Snapshot) -> Vec<String> {
    let mut lines = vec![format!("{}", snapshot.seq())];
    for query in ["", "word", "word1 word2 word3", "n:[10 TO 40]", "\"word word4\""] {
        let request = SearchRequest { collection: "c", query, offset: 0, limit: 500, cancelled: None };
        let found = snapshot.search(&request).expect("searchable");
        lines.push(format!("{query}: {}", found.total));
        for hit in found.hits {
            let document = snapshot.get("c", &hit.id).expect("readable").expect("a hit is a document");
            assert_eq!((document.version, &document.source), (hit.version, &hit.source));
            let text = String::from_utf8(hit.source).expect("text");
            lines.push(format!("{} {:x} {} {text}", hit.id, hit.score.to_bits(), hit.version));
        }
    }
    lines
}

/// An entry of one write.
fn entry(time: u64, request: Request, write: Write) -> Vec<u8> {
    // What a write is in the log depends on no state; the collection must be there for it to be checked.
    let db = open(&Memory::new());
    let create = db.prepare(create()).expect("good").into_payload();
    db.apply(&[(0, &lumen::entry::encode(0, &[(Request::None, &create)]))], b"x").expect("applied");
    let payload = db.prepare(write).expect("good").into_payload();
    lumen::entry::encode(time, &[(request, &payload)])
}

fn create() -> Write {
    let mapping = Mapping::from_json(br#"{"fields":{"t":{"type":"text"},"n":{"type":"i64"}}}"#);
    Write::CreateCollection { name: "c".into(), mapping: mapping.expect("good") }
}

fn put(id: u64, text: &str) -> Write {
    let source = format!(r#"{{"t":"word {text}","n":{id}}}"#).into_bytes();
    Write::Put { collection: "c".into(), id: format!("d{id}"), source, condition: Condition::Always }
}

fn delete(id: u64) -> Write {
    Write::Delete { collection: "c".into(), id: format!("d{id}"), condition: Condition::Always }
}

/// A log of puts, replacements and deletes, of nodes that ask again now and then.
fn log() -> Vec<Vec<u8>> {
    let mut entries = vec![entry(START_MS, Request::None, create())];
    let mut random = 88172645463325252u64;
    for n in 0..300u64 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let id = random % 60;
        let write = match random >> 32 & 7 {
            0 => delete(id),
            _ => put(id, &format!("word{} {}", n % 7, "filler ".repeat((random >> 40 & 63) as usize))),
        };
        // Every tenth request comes once more, some of them much later.
        let number = if n % 10 == 9 { n.saturating_sub(random >> 50 & 7) } else { n };
        let request =
            NodeRequest { node: 1 + n % 3, boot: 5, number: 1 + number, below: n.saturating_sub(20) };
        entries.push(entry(START_MS + n, Request::Node(request), write));
    }
    entries
}

fn same(acks: &[Vec<Ack>]) -> &Ack {
    assert_eq!((acks.len(), acks[0].len()), (1, 1));
    &acks[0][0]
}

#[test]
fn the_same_entries_give_the_same_state_whatever_happens_in_between() {
    let log = log();
    let mut steady = Replica::new();
    let mut answers: Vec<Vec<Ack>> = Vec::new();
    for end in 1..=log.len() {
        answers.extend(steady.follow(&log, end));
    }
    let mut grouped = Replica::new();
    assert_eq!(grouped.follow(&log, log.len()), answers, "in one group");
    assert_eq!(grouped.state(), steady.state());
    for seed in 0..6u64 {
        let mut other = Replica::new();
        let mut turn = seed;
        while other.applied < log.len() {
            turn += 1;
            let (from, end) = (other.applied, (other.applied + 1 + (turn * 7 % 40) as usize).min(log.len()));
            assert_eq!(other.follow(&log, end), answers[from..end], "entries {from} to {end} in turn {turn}");
            match turn % 5 {
                0 => other.db.flush().expect("flushed"),
                3 if turn < 40 => other.crash(turn),
                _ => {}
            }
        }
        assert_eq!(other.state(), steady.state(), "with seed {seed}");
        other.db.close().expect("closed");
        other.crash(0);
        assert_eq!(other.applied, log.len(), "a close leaves nothing to be replayed");
        assert_eq!(other.state(), steady.state());
    }
}

#[test]
fn a_key_that_comes_again_gets_the_answer_of_the_first_time_for_a_day() {
    let mut replica = Replica::new();
    let mut log = vec![entry(START_MS, Request::None, create())];
    let keyed = |time, write| entry(time, Request::Key([9; 16]), write);
    log.push(keyed(START_MS, put(1, "first")));
    log.push(entry(START_MS, Request::None, put(1, "second")));
    replica.follow(&log, 2);
    replica.follow(&log, 3);
    // The very same again: answered, and the document is not what it was then.
    log.push(keyed(START_MS + 1, put(1, "first")));
    assert_eq!(same(&replica.follow(&log, 4)), &Ack { seq: 2, outcome: Outcome::Created });
    let source = |replica: &Replica| {
        let document = replica.db.snapshot().get("c", "d1").expect("readable").expect("there");
        String::from_utf8(document.source).expect("text")
    };
    assert!(source(&replica).contains("second"));
    // Another write under the same key is refused.
    log.push(keyed(START_MS + 2, put(1, "third")));
    assert_eq!(same(&replica.follow(&log, 5)).outcome, Outcome::Rejected(Rejection::KeyReused));
    // So it is from files, and a day later.
    replica.db.flush().expect("flushed");
    replica.crash(1);
    assert_eq!(replica.applied, 5);
    log.push(keyed(START_MS + 24 * HOUR_MS, put(1, "first")));
    assert_eq!(same(&replica.follow(&log, 6)), &Ack { seq: 2, outcome: Outcome::Created });
    assert!(source(&replica).contains("second"));
    // After 36 hours it is forgotten at the latest; that another key came in between makes room.
    log.push(entry(START_MS + 37 * HOUR_MS, Request::Key([8; 16]), put(2, "other")));
    log.push(keyed(START_MS + 37 * HOUR_MS, put(1, "first")));
    replica.follow(&log, 7);
    assert_eq!(same(&replica.follow(&log, 8)).outcome, Outcome::Updated);
    assert!(source(&replica).contains("first"));
    // The log's time never runs back: a clock that does changes nothing.
    log.push(keyed(START_MS, put(1, "first")));
    assert_eq!(same(&replica.follow(&log, 9)), &Ack { seq: 8, outcome: Outcome::Updated });
    assert_eq!(replica.db.log_time(), START_MS + 37 * HOUR_MS);
}

#[test]
fn a_request_of_a_node_that_comes_again_is_answered_from_files_too() {
    let request = |boot, number| Request::Node(NodeRequest { node: 4, boot, number, below: 1 });
    let mut replica = Replica::new();
    let log = [
        entry(START_MS, Request::None, create()),
        entry(START_MS, request(1, 1), put(1, "first")),
        entry(START_MS, request(1, 2), delete(1)),
        entry(START_MS, request(1, 1), put(1, "first")),
        entry(START_MS, request(2, 1), put(3, "of the next life")),
        entry(START_MS, request(1, 3), put(4, "of a life that is over")),
    ];
    replica.follow(&log, 3);
    replica.db.flush().expect("flushed");
    replica.crash(2);
    assert_eq!(replica.applied, 3);
    assert_eq!(same(&replica.follow(&log, 4)), &Ack { seq: 2, outcome: Outcome::Created });
    assert_eq!(replica.db.snapshot().get("c", "d1").expect("readable"), None, "it was deleted since");
    assert_eq!(same(&replica.follow(&log, 5)).outcome, Outcome::Created);
    assert_eq!(same(&replica.follow(&log, 6)).outcome, Outcome::Rejected(Rejection::Past));
    assert_eq!(replica.db.snapshot().count("c").expect("a count"), 1);
}

/// Copies what is missing of `from`'s files to `to`, as a network would.
fn stage(from: &Database, to: &Replica, staged: &Path) -> Vec<u8> {
    let set = from.file_set();
    let manifest = set.manifest();
    to.vfs.create_dir(staged).expect("made");
    for file in to.db.missing(&manifest).expect("told") {
        let mut bytes = vec![0; file.len as usize];
        set.read(&file.name, 0, &mut bytes).expect("readable");
        let copy = to.vfs.open(&staged.join(&file.name), Mode::Create).expect("made");
        copy.write_at(&bytes, 0).expect("written");
    }
    manifest
}

#[test]
fn the_files_of_another_replica_replace_everything() {
    let log = log();
    let mut ahead = Replica::new();
    ahead.follow(&log, 200);
    ahead.db.flush().expect("flushed");
    let mut behind = Replica::new();
    behind.follow(&log, 50);
    let before = behind.db.snapshot();
    let (id, staged) = (behind.db.id(), PathBuf::from("/staged"));
    let manifest = stage(&ahead.db, &behind, &staged);
    ahead.follow(&log, 220); // not in those files
    assert_eq!(Database::position_of(&manifest).expect("readable"), 200u64.to_le_bytes());
    let ready = behind.db.prepare_install(&manifest, &staged).expect("checked");
    assert_eq!(behind.db.snapshot().seq(), 50, "nothing has changed yet");
    behind.db.install(ready).expect("installed");
    behind.applied = 200;
    assert_eq!(behind.db.durable_position().expect("readable"), 200u64.to_le_bytes());
    assert_eq!((behind.db.id(), behind.db.snapshot().seq()), (id, 200));
    // What was read before stays as it was.
    let expected = {
        let mut replica = Replica::new();
        replica.follow(&log, 50);
        replica.state()
    };
    assert_eq!(state_of(&before), expected);
    // From here on it follows like any other, crashes included.
    behind.follow(&log, 230);
    ahead.follow(&log, 230);
    assert_eq!(behind.state(), ahead.state());
    behind.crash(3);
    behind.follow(&log, log.len());
    ahead.follow(&log, log.len());
    assert_eq!(behind.state(), ahead.state());
}

#[test]
fn files_that_came_damaged_are_not_installed() {
    let log = log();
    let mut ahead = Replica::new();
    ahead.follow(&log, 200);
    ahead.db.flush().expect("flushed");
    let mut behind = Replica::new();
    behind.follow(&log, 50);
    let state = behind.state();
    let staged = PathBuf::from("/staged");
    let manifest = stage(&ahead.db, &behind, &staged);
    let files = behind.vfs.files();
    let (path, _) = files.iter().find(|(path, _)| path.starts_with(&staged)).expect("a staged file");
    behind.vfs.damage(path, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
    });
    let refused = behind.db.prepare_install(&manifest, &staged);
    let error = refused.err().expect("damage is found");
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert_eq!(behind.state(), state);
    behind.follow(&log, 60);
}

#[test]
fn what_is_no_entry_is_damage_and_a_replica_takes_no_other_writes() {
    let mut replica = Replica::new();
    let log = [entry(START_MS, Request::None, create())];
    replica.follow(&log, 1);
    assert!(matches!(replica.db.write(put(1, "x")), Err(Error::Replica)));
    let mut newer = log[0].clone();
    newer[0] += 1;
    for bad in [&newer[..], &log[0][..log[0].len() - 1], b""] {
        let refused = replica.db.apply(&[(1, bad)], b"p");
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    }
    assert_eq!(replica.db.snapshot().seq(), 1);
}

#[test]
fn a_database_that_kept_its_own_log_goes_on_as_a_replica() {
    let vfs = Memory::new();
    let options = Options { vfs: Arc::new(vfs.clone()), ..Options::default() };
    let alone = Database::open(DIR, options.clone()).expect("opens");
    alone.write(create()).expect("created");
    alone.write(put(1, "alone")).expect("put");
    drop(alone); // not closed: the journal alone has it
    vfs.crash(Crash::DropPending, 1);
    let mut replica = Replica { db: open(&vfs), vfs: vfs.clone(), applied: 0 };
    assert_eq!((replica.db.seq(), replica.db.durable_position().expect("readable")), (2, Vec::new()));
    assert!(vfs.files().iter().all(|(path, _)| path.extension().is_none_or(|end| end != "log")));
    let log = [entry(START_MS, Request::None, put(2, "together"))];
    assert_eq!(same(&replica.follow(&log, 1)), &Ack { seq: 3, outcome: Outcome::Created });
    assert_eq!(replica.db.snapshot().count("c").expect("a count"), 2);
    replica.db.close().expect("closed");
    drop(replica);
    // It cannot go back: it would write what the others do not have.
    vfs.crash(Crash::DropPending, 1);
    assert!(matches!(Database::open(DIR, options), Err(Error::Replica)));
}

/// The log of a replica, of which entries before `first` are gone.
struct Kept<'a> {
    log: &'a [Vec<u8>],
    first: u64,
}

struct At {
    next: std::vec::IntoIter<(u64, Vec<u8>)>,
}

impl EntryLog for Kept<'_> {
    fn first(&self) -> u64 {
        self.first
    }

    fn cursor(&self, index: u64) -> lumen::error::Result<Option<Box<dyn EntryCursor>>> {
        let entries = (0..).zip(self.log.iter().cloned()).skip(index as usize).collect::<Vec<_>>();
        Ok((index >= self.first).then(|| Box::new(At { next: entries.into_iter() }) as Box<dyn EntryCursor>))
    }
}

impl EntryCursor for At {
    fn next(&mut self, end: u64) -> lumen::error::Result<NextEntry> {
        Ok(match self.next.next().filter(|(index, _)| *index < end) {
            Some((index, payload)) => NextEntry::Entry(index, payload),
            None => NextEntry::End,
        })
    }
}

#[test]
fn what_happened_is_told_the_same_at_every_replica_as_far_back_as_its_log_goes() {
    let log = log();
    let mut ahead = Replica::new();
    ahead.follow(&log, 200);
    ahead.db.flush().expect("flushed");
    let mut behind = Replica::new();
    let staged = PathBuf::from("/staged");
    let manifest = stage(&ahead.db, &behind, &staged);
    behind.db.install(behind.db.prepare_install(&manifest, &staged).expect("checked")).expect("installed");
    behind.applied = 200;
    let told = |replica: &Replica, first, since| {
        let mut changes = replica.db.changes_in(&Kept { log: &log, first }, Some(since), Scope::All)?;
        let mut all = Vec::new();
        while changes.is_behind() {
            all.extend(changes.read(1000)?);
        }
        Ok::<_, Error>(all)
    };
    ahead.follow(&log, 230);
    let all = told(&ahead, 0, 0).expect("all of it");
    assert!(all.len() > 100);
    // One whose log begins where its files end tells what came since, from any place, after a crash too.
    for round in 0..2 {
        // Of what came by files and is in newer files by now, nobody knows where in the log it stands.
        let from = behind.applied as u64;
        behind.follow(&log, 230);
        for since in from..=230 {
            let rest: Vec<_> = all.iter().filter(|changed| changed.seq > since).cloned().collect();
            assert_eq!(told(&behind, 200, since).expect("it is there"), rest, "since {since}, round {round}");
        }
        for since in [0, 100, 199] {
            let gone = told(&behind, 200, since);
            assert!(matches!(gone, Err(Error::Compacted { oldest }) if oldest == from.min(224)), "{gone:?}");
        }
        behind.crash(3);
    }
    behind.follow(&log, 230);
    // Whose log is let go of further tells less, and says from where.
    let Err(Error::Compacted { oldest }) = told(&behind, 210, 205) else { panic!("it is gone") };
    assert!((210..=230).contains(&oldest));
    let rest: Vec<_> = all.iter().filter(|changed| changed.seq > oldest).cloned().collect();
    assert_eq!(told(&behind, 210, oldest).expect("it is there"), rest);
}
