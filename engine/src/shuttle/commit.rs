//! The commit pipeline: what readers see while others write, freeze and flush, and what of it a power cut leaves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::{any_crash, below, explore, explore_times, open, rows, write};
use crate::batch::Batch;
use crate::commit::Durability;
use crate::engine::Engine;
use crate::error::Result;
use crate::key::Seq;
use crate::snapshot::Snapshot;
use crate::sync::thread;
use crate::vfs::memory::{Crash, Memory};

/// How much goes on at once. A schedule of few steps is explored far better, one of many has more to find.
#[derive(Clone, Copy)]
struct Size {
    writers: u8,
    batches: u8,
    readers: usize,
    looks: usize,
    /// Of the engine.
    threads: usize,
}

const SMALL: Size = Size { writers: 2, batches: 1, readers: 1, looks: 2, threads: 0 };
const LARGE: Size = Size { writers: 3, batches: 3, readers: 2, looks: 4, threads: 1 };

/// The key that every batch puts.
const NEWEST: &[u8] = b"newest";
/// Bytes of a value that make its batch a memtable of its own.
const LARGE_BYTES: usize = 300;

/// Which batch of which writer; ordered so that a set shows what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    writer: u8,
    number: u8,
    is_sync: bool,
}

impl Name {
    fn of(value: &[u8]) -> Name {
        Name { writer: value[0], number: value[1], is_sync: value[2] == 1 }
    }

    fn durability(self) -> Durability {
        if self.is_sync { Durability::Sync } else { Durability::Buffered }
    }

    /// Two keys of its own with the same value, far from each other, and one that every batch overwrites.
    fn batch(self, is_large: bool) -> Batch {
        let mut value = vec![self.writer, self.number, self.is_sync.into()];
        if is_large {
            value.resize(LARGE_BYTES, 0);
        }
        let mut batch = Batch::new();
        batch.put(&[b'a', self.writer, self.number], &value);
        batch.put(&[b'b', self.writer, self.number], &value);
        batch.put(NEWEST, &value[..3]);
        batch
    }
}

/// The batches that a snapshot shows. Every batch has one sequence number and keys of its own, so a snapshot shows exactly
/// as many as its number says; each is there with both of its keys, and the newest one in the key that all of them put.
fn batches(snapshot: &Snapshot) -> Result<BTreeSet<Name>> {
    let rows = rows(snapshot)?;
    let newest = snapshot.get_versioned(NEWEST)?.map_or(0, |(seq, _)| seq);
    assert_eq!(newest, snapshot.seq(), "the newest batch that is visible is seen");
    let halves = |half: u8| {
        let of_half = rows.iter().filter(move |(key, _)| key[0] == half);
        of_half.map(|(key, value)| {
            assert_eq!(key[1..], value[..2], "a key has the value that was written with it");
            Name::of(value)
        })
    };
    let (one, other): (BTreeSet<Name>, BTreeSet<Name>) = (halves(b'a').collect(), halves(b'b').collect());
    assert!(rows.get(NEWEST).is_none_or(|value| one.contains(&Name::of(value))), "the newest is one of them");
    assert_eq!(one, other, "a batch is seen whole or not at all, at seq {}", snapshot.seq());
    assert_eq!(one.len() as Seq, snapshot.seq(), "a snapshot shows as many batches as its seq says: {one:?}");
    Ok(one)
}

/// What the threads learned. Its locks are not the scheduler's: keeping the books is no step.
#[derive(Default)]
struct Books {
    acknowledged: Mutex<BTreeSet<Name>>,
    seen: Mutex<BTreeSet<Name>>,
    is_off: AtomicBool,
}

impl Books {
    fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Relaxed)
    }

    /// Whether a batch that asked to be durable is seen before its writer knows that it is.
    fn is_early(&self, seen: &BTreeSet<Name>) -> bool {
        let acknowledged = self.acknowledged.lock();
        seen.iter().any(|name| name.is_sync && !acknowledged.contains(name))
    }
}

/// Writes until the end or until the power is off.
fn writer(engine: &Engine, writer: u8, batches: u8, books: &Books) {
    for number in 0..batches {
        let name = Name { writer, number, is_sync: below(2) == 0 };
        let seq = match write(engine, &name.batch(below(6) == 0), name.durability()) {
            Ok(seq) => seq,
            Err(_) if books.is_off() => break,
            Err(error) => panic!("{error}"),
        };
        books.acknowledged.lock().insert(name);
        assert!(engine.visible_seq() >= seq, "a write that returned is visible");
        let found = engine.get(&[b'b', writer, number]);
        assert!(found.is_ok_and(|found| found.is_some()) || books.is_off(), "{name:?}");
    }
}

/// Looks again and again. One who `cuts` ends it by cutting the power right after a look, above all when it has seen what
/// its writer does not know yet.
fn reader(engine: &Engine, vfs: &Memory, looks: usize, books: &Books, cuts: bool) {
    let mut before = BTreeSet::new();
    let mut last = 0;
    for look in 1..=looks {
        let snapshot = engine.snapshot();
        assert!(snapshot.seq() >= last, "the visible sequence number only rises");
        last = snapshot.seq();
        let Ok(seen) = batches(&snapshot) else {
            assert!(books.is_off(), "reads fail only without power");
            return;
        };
        assert!(before.is_subset(&seen), "what was seen stays: {before:?}, {seen:?}");
        books.seen.lock().extend(&seen);
        if cuts && (look == looks || below(2) == 0 && books.is_early(&seen)) {
            books.is_off.store(true, Ordering::Relaxed);
            return vfs.power_off_at(0);
        }
        before = seen;
    }
}

/// Writers of both durabilities, readers and a flush, with the threads of the engine; then the power is cut, or was.
fn pipeline(size: Size, cuts: bool) {
    let vfs = Memory::new();
    let engine = open(&vfs, size.threads);
    let books = Arc::new(Books::default());
    let mut threads = Vec::new();
    for number in 0..size.writers {
        let (engine, books) = (engine.clone(), books.clone());
        threads.push(thread::spawn(move || writer(&engine, number, size.batches, &books)));
    }
    for number in 0..size.readers {
        let (engine, vfs, books) = (engine.clone(), vfs.clone(), books.clone());
        threads.push(thread::spawn(move || reader(&engine, &vfs, size.looks, &books, cuts && number == 0)));
    }
    let flushed = engine.flush();
    assert!(flushed.is_ok() || books.is_off(), "{flushed:?}");
    for thread in threads {
        thread.join().expect("no panic");
    }
    let (acknowledged, known) = (books.acknowledged.lock(), books.seen.lock());
    if !cuts {
        let seen = batches(&engine.snapshot()).expect("read");
        assert!(seen.is_superset(&known) && seen.is_superset(&acknowledged));
    }
    engine.stop();
    drop(engine);
    let model = any_crash();
    vfs.crash(model, below(1 << 16) as u64);
    let after = open(&vfs, 0);
    let left = batches(&after.snapshot()).expect("read");
    // The death of the process alone takes nothing that was acknowledged or seen.
    let stays = |name: &&Name| name.is_sync || model == Crash::KeepAll;
    let lost = |names: &BTreeSet<Name>| -> Vec<Name> {
        names.iter().filter(stays).filter(|name| !left.contains(name)).copied().collect()
    };
    let gone = lost(&acknowledged);
    assert!(gone.is_empty(), "acknowledged, gone after {model:?}: {gone:?}");
    let gone = lost(&known);
    assert!(gone.is_empty(), "seen, gone after {model:?}: {gone:?}");
}

#[test]
fn batches_are_seen_whole_in_order_and_at_once() {
    explore(|| pipeline(LARGE, false));
}

#[test]
fn what_was_seen_of_sync_writes_survives_a_power_cut() {
    explore(|| pipeline(LARGE, true));
}

#[test]
fn two_writes_and_a_freeze_in_most_orders_there_are() {
    explore_times(10, || pipeline(SMALL, true));
}
