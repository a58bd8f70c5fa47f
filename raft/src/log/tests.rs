//! What openraft's suite does not ask of a log: that it comes back after a crash at every call to the file system with all
//! that was told to be durable, in the order it was written; and that damage is found.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use lumen_engine::vfs::memory::{Crash, Memory};
use openraft::EntryPayload;
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, RaftLogReader};
use openraft::type_config::TypeConfigExt;

use super::{LogSetup, LogStore};
use crate::error::{Error, Result};
use crate::types::{Entry, LeaderId, LogId, Proposed, TypeConfig, Vote};

const DIR: &str = "/node/raft";
fn open(vfs: &Memory, threaded: bool) -> Result<LogStore> {
    let setup = LogSetup {
        vfs: Arc::new(vfs.clone()),
        segment_bytes: 16 << 10,
        tail_bytes: 2 << 10,
        uuid: Some([7; 16]),
        threaded,
        random: || 42,
        clock: || 0,
        base: 0,
        meters: Arc::default(),
    };
    LogStore::open(Path::new(DIR), setup)
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What a log holds.
#[derive(Debug, Clone, Default, PartialEq)]
struct Content {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
}

impl Content {
    fn of(log: &LogStore) -> Content {
        let (purged, last) = log.ends();
        let entries = log.read(0, u64::MAX, usize::MAX).expect("readable");
        assert_eq!(entries.last().map(|entry| entry.log_id).or(purged), last);
        Content { vote: log.vote(), purged, entries }
    }

    fn next(&self) -> u64 {
        self.entries.last().map(|entry| entry.log_id).or(self.purged).map_or(0, |id| id.index + 1)
    }
}

/// One thing done to a log.
#[derive(Debug)]
enum Operation {
    Append(Vec<Entry>),
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
}

impl Operation {
    fn random(random: &mut Random, content: &Content, term: &mut u64) -> Operation {
        let leader_id = LeaderId { term: *term, node_id: 1 };
        let entries = &content.entries;
        match random.below(10) {
            0 => {
                *term += 1;
                Operation::Vote(Vote { leader_id: LeaderId { term: *term, node_id: 2 }, committed: true })
            }
            1 if entries.len() > 1 => {
                let kept = entries.len() - 1 - random.below(entries.len().min(6) as u64) as usize;
                let last = kept.checked_sub(1).map(|last| entries[last].log_id);
                Operation::Truncate(last.or(content.purged))
            }
            2 if entries.len() > 10 => {
                Operation::Purge(entries[random.below(entries.len() as u64) as usize].log_id)
            }
            _ => {
                let entry = |index| {
                    let bytes = vec![index as u8; random.below(1500) as usize];
                    let log_id = LogId { leader_id, index };
                    Entry { log_id, payload: EntryPayload::Normal(Proposed::of(Bytes::from(bytes))) }
                };
                let next = content.next();
                let count = 1 + (next % 3);
                Operation::Append((next..next + count).map(entry).collect())
            }
        }
    }

    /// What a log holds afterwards; and before that, what it may hold if it did not come to its end.
    fn on(&self, before: &Content) -> Vec<Content> {
        let mut content = before.clone();
        match self {
            Operation::Append(entries) => {
                let mut all = Vec::new();
                for entry in entries {
                    content.entries.push(entry.clone());
                    all.push(content.clone());
                }
                return all;
            }
            Operation::Vote(vote) => content.vote = Some(*vote),
            Operation::Truncate(last) => content.entries.retain(|entry| Some(entry.log_id) <= *last),
            Operation::Purge(upto) => {
                content.entries.retain(|entry| entry.log_id > *upto);
                content.purged = Some(*upto);
            }
        }
        vec![content]
    }

    /// Does it; true when it is durable then, false when it is nothing to wait for. An error is no answer.
    fn run(&self, log: &LogStore) -> std::io::Result<bool> {
        match self {
            Operation::Append(entries) => {
                let (sender, receiver) = TypeConfig::oneshot();
                log.append_entries(entries.clone(), IOFlushed::signal(sender))?;
                receiver.now_or_never().expect("without a thread it is told at once").expect("told")?;
                Ok(true)
            }
            Operation::Vote(vote) => {
                log.save_vote(vote)?.try_recv().expect("without a thread it is told at once")?;
                Ok(true)
            }
            Operation::Truncate(last) => log.truncate(*last).map(|()| false),
            Operation::Purge(upto) => log.purge_upto(*upto).map(|()| false),
        }
    }
}

/// Works until the power goes, at that call to the file system. Answers what the log may hold then.
fn work(vfs: &Memory, seed: u64, operations: usize, power_off_at: u64) -> Vec<Content> {
    vfs.power_off_at(power_off_at);
    let mut random = Random(seed);
    let (mut content, mut term) = (Content::default(), 1);
    let mut possible = vec![content.clone()];
    let Ok(log) = open(vfs, false) else { return possible };
    for _ in 0..operations {
        let operation = Operation::random(&mut random, &content, &mut term);
        let after = operation.on(&content);
        possible.extend(after.iter().cloned());
        match operation.run(&log) {
            Err(_) => return possible,
            Ok(durable) => {
                content = after.last().expect("one").clone();
                if durable {
                    possible = vec![content.clone()];
                }
            }
        }
        if power_off_at == u64::MAX {
            assert_eq!(Content::of(&log), content, "after {operation:?}");
        }
    }
    possible
}

#[test]
fn a_crash_at_any_call_leaves_all_that_was_durable() {
    let vfs = Memory::new();
    work(&vfs, 11, 120, u64::MAX);
    let calls = vfs.calls();
    let newest = vfs.files().pop().map(|(path, _)| path.display().to_string());
    assert!(newest > Some(format!("{DIR}/0000000003")), "the work takes several segments: {newest:?}");
    for call in 1..=calls {
        for model in [0, 3].map(|shift| Crash::ALL[(call as usize + shift) % Crash::ALL.len()]) {
            let vfs = Memory::new();
            let possible = work(&vfs, 11, 120, call);
            vfs.crash(model, call);
            let log = open(&vfs, false).unwrap_or_else(|error| panic!("call {call}, {model:?}: {error}"));
            let found = Content::of(&log);
            assert!(possible.contains(&found), "call {call}, {model:?}: {found:?} is none of {possible:?}");
            // It goes on, and what was told then is there after the next crash.
            let (mut random, mut term) = (Random(call), 1000);
            let operation = Operation::random(&mut random, &found, &mut term);
            operation.run(&log).unwrap_or_else(|error| panic!("call {call}, {model:?}: {error}"));
            let vote = Operation::Vote(Vote { leader_id: LeaderId { term, node_id: 3 }, committed: false });
            vote.run(&log).expect("voted");
            let expected = Content::of(&log);
            drop(log);
            vfs.crash(Crash::DropPending, call);
            assert_eq!(Content::of(&open(&vfs, false).expect("opens")), expected, "call {call}, {model:?}");
        }
    }
}

#[test]
fn a_purge_may_end_anywhere_and_the_next_one_too() {
    // Entries of one segment go by two purges, of which the first is noted behind entries that stay: those of the second
    // are nowhere then.
    let id = |index| LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index };
    for (first, second) in
        (0..58).flat_map(|first| (first + 1..59).step_by(3).map(move |second| (first, second)))
    {
        let vfs = Memory::new();
        let log = open(&vfs, false).expect("opens");
        let payload = EntryPayload::Normal(Proposed::of(Bytes::from(vec![1; 900])));
        for index in 0..60 {
            Operation::Append(vec![Entry { log_id: id(index), payload: payload.clone() }])
                .run(&log)
                .expect("appended");
            if index == 40 && first < 40 {
                Operation::Purge(id(first)).run(&log).expect("purged");
            }
        }
        if first >= 40 {
            Operation::Purge(id(first)).run(&log).expect("purged");
        }
        Operation::Purge(id(second)).run(&log).expect("purged");
        let expected = Content::of(&log);
        drop(log);
        let log =
            open(&vfs, false).unwrap_or_else(|error| panic!("gone to {first}, then to {second}: {error}"));
        assert_eq!(Content::of(&log), expected, "gone to {first}, then to {second}");
    }
}

#[test]
fn entries_that_have_left_memory_are_read_from_the_files_in_pieces() {
    let vfs = Memory::new();
    let log = open(&vfs, false).expect("opens");
    let mut content = Content::default();
    let (mut random, mut term) = (Random(5), 1);
    while content.entries.len() < 300 {
        let operation = Operation::random(&mut random, &content, &mut term);
        if matches!(operation, Operation::Purge(_)) {
            continue;
        }
        operation.run(&log).expect("done");
        content = operation.on(&content).pop().expect("one");
    }
    let entries = &content.entries;
    // By turns, as several followers that are at different places.
    let mut places = [0usize, 100, 250, 299];
    while places.iter().any(|place| *place < entries.len()) {
        for place in &mut places {
            let read = log.read(*place as u64, u64::MAX, 3000).expect("readable");
            assert!(read.len() <= 8 || read.iter().map(crate::codec::entry_len).sum::<usize>() < 5000);
            assert_eq!(read, entries[*place..*place + read.len()]);
            assert!(!read.is_empty() || *place == entries.len());
            *place += read.len();
        }
    }
    assert_eq!(log.read(20, 23, usize::MAX).expect("readable"), entries[20..23]);
    assert_eq!(log.read(300_000, u64::MAX, 1).expect("readable"), []);
}

#[test]
fn who_asks_for_entries_that_are_gone_gets_none() {
    // The rest would be taken for what was asked for, and sent to a follower with a gap.
    let mut log = open(&Memory::new(), false).expect("opens");
    let id = |index| LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index };
    let payload = EntryPayload::Normal(Proposed::of(Bytes::from(vec![1; 900])));
    let entries: Vec<Entry> = (0..60).map(|n| Entry { log_id: id(n), payload: payload.clone() }).collect();
    Operation::Append(entries.clone()).run(&log).expect("appended");
    Operation::Purge(id(29)).run(&log).expect("purged");
    let mut from = |start| {
        let read = log.limited_get_log_entries(start, 60).now_or_never().expect("without a wait");
        read.expect("readable")
    };
    assert_eq!(from(29), []);
    let read = from(30);
    assert_eq!(read, entries[30..30 + read.len()]);
    assert!(!read.is_empty());
}

#[test]
fn a_hint_of_what_is_committed_comes_back() {
    let vfs = Memory::new();
    let log = open(&vfs, false).expect("opens");
    let id = |index| LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index };
    let entry = |index| Entry { log_id: id(index), payload: EntryPayload::Blank };
    let append = |log: &LogStore, index| Operation::Append(vec![entry(index)]).run(log).expect("appended");
    append(&log, 0);
    append(&log, 1);
    log.set_committed(Some(id(1)));
    append(&log, 2);
    log.set_committed(Some(id(2))); // no entry has carried this
    drop(log);
    let log = open(&vfs, false).expect("opens");
    assert_eq!((log.committed(), log.entries()), (Some(id(1)), (0, 3)));
}

#[test]
fn a_changed_byte_is_an_error_or_changes_nothing() {
    let vfs = Memory::new();
    let expected = work(&vfs, 23, 60, u64::MAX).pop().expect("one");
    let log = open(&vfs, false).expect("opens");
    assert_eq!(Content::of(&log), expected);
    log.close().expect("closes");
    let files: Vec<(PathBuf, usize)> =
        vfs.files().into_iter().map(|(path, bytes)| (path, bytes.len())).collect();
    let mut found = 0;
    for (path, len) in files {
        for at in (0..len).step_by(37) {
            let copy = vfs.fork();
            copy.damage(&path, |bytes| bytes[at] ^= 1 << (at % 8));
            match open(&copy, false) {
                Ok(log) => match log.read(0, u64::MAX, usize::MAX) {
                    Ok(_) => assert_eq!(Content::of(&log), expected, "{} at {at}", path.display()),
                    Err(_) => found += 1,
                },
                Err(error) => {
                    assert!(matches!(error, Error::Corrupt { .. }), "{} at {at}: {error}", path.display());
                    found += 1;
                }
            }
        }
    }
    assert!(found > 100, "{found}");
}

#[test]
fn what_is_told_by_the_thread_is_durable() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for seed in 0..20 {
        let vfs = Memory::new();
        let log = open(&vfs, true).expect("opens");
        let (mut random, mut term) = (Random(seed + 1), 1);
        let mut content = Content::default();
        let mut last = None;
        for _ in 0..30 {
            let operation = Operation::random(&mut random, &content, &mut term);
            content = operation.on(&content).pop().expect("one");
            match operation {
                Operation::Append(entries) => {
                    let (sender, receiver) = TypeConfig::oneshot();
                    log.append_entries(entries, IOFlushed::signal(sender)).expect("appended");
                    last = Some(receiver);
                }
                Operation::Vote(vote) => drop(log.save_vote(&vote).expect("saved")),
                Operation::Truncate(id) => log.truncate(id).expect("cut"),
                Operation::Purge(upto) => log.purge_upto(upto).expect("purged"),
            }
        }
        let told = last.expect("something was appended");
        runtime.block_on(told).expect("told").expect("durable");
        log.close().expect("closes");
        drop(log);
        vfs.crash(Crash::DropPending, seed);
        assert_eq!(Content::of(&open(&vfs, true).expect("opens")), content);
    }
}

#[test]
fn entries_count_with_the_sync_that_they_share() {
    let log = open(&Memory::new(), false).expect("opens");
    let leader_id = LeaderId { term: 1, node_id: 1 };
    for indexes in [0..1, 1..4] {
        let (sender, receiver) = TypeConfig::oneshot();
        let entries = indexes.map(|index| Entry::new_blank(LogId { leader_id, index }));
        log.append_entries(entries, IOFlushed::signal(sender)).expect("appended");
        receiver.now_or_never().expect("told").expect("told").expect("durable");
    }
    drop(log.save_vote(&Vote { leader_id, committed: true }).expect("saved"));
    let (meters, shared) = (log.meters(), log.meters().synced_entries.read());
    assert_eq!((shared.count(), shared.sum), (2, 4.0));
    assert_eq!((meters.sync.read().count(), meters.synced_bytes.read().count()), (3, 2));
}

#[test]
fn each_life_has_a_larger_number_whatever_the_log_lets_go() {
    let vfs = Memory::new();
    let mut before = 0;
    for life in 0..30 {
        let log = open(&vfs, false).expect("opens");
        assert!(log.boot() > before, "{} follows {before}", log.boot());
        before = log.boot();
        let id = |index| LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index };
        let next = log.entries().1;
        let payload = EntryPayload::Normal(Proposed::of(Bytes::from(vec![1; 9000])));
        let entries =
            (next..next + 3).map(|index| Entry { log_id: id(index), payload: payload.clone() }).collect();
        Operation::Append(entries).run(&log).expect("appended");
        Operation::Purge(id(next + 1)).run(&log).expect("purged");
        drop(log);
        vfs.crash(Crash::DropPending, life);
    }
}
