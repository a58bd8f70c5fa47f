//! The swap of the view: a snapshot answers the same while flushes and compactions replace what it reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{DIR, below, explore, open, options, rows, write};
use crate::batch::Batch;
use crate::commit::Durability;
use crate::engine::Engine;
use crate::error::Result;
use crate::key::Seq;
use crate::options::Options;
use crate::snapshot::Snapshot;
use crate::sync::thread;
use crate::vfs::memory::Memory;

const KEYS: u64 = 5;
const BATCHES: u64 = 20;
const GENERATIONS: u64 = 4;
const READERS: usize = 2;
const LOOKS: usize = 6;
/// How far back the past can be read.
const PAST: u64 = 4;

/// Batch `n` puts key n modulo [`KEYS`], or, each third time round, deletes it: what is there at a seq follows from it.
fn batch(number: u64) -> Batch {
    let mut batch = Batch::new();
    let key = [b'k', (number % KEYS) as u8];
    if deletes(number) {
        batch.delete(&key);
    } else {
        batch.put(&key, &value(number));
    }
    batch
}

fn deletes(number: u64) -> bool {
    number / KEYS % 3 == 2
}

fn value(number: u64) -> Vec<u8> {
    format!("value {number:>60}").into_bytes()
}

fn expected(seq: Seq) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let newest = (1..=seq).rev().take(KEYS as usize).filter(|&number| !deletes(number));
    newest.map(|number| (vec![b'k', (number % KEYS) as u8], value(number))).collect()
}

fn check(snapshot: &Snapshot) {
    assert_eq!(rows(snapshot).expect("read"), expected(snapshot.seq()), "at seq {}", snapshot.seq());
    let key = [b'k', below(KEYS as usize) as u8];
    let found = snapshot.get(&key).expect("read").map(|value| value.to_vec());
    assert_eq!(found, expected(snapshot.seq()).remove(&key[..]), "{key:?} at seq {}", snapshot.seq());
}

/// Takes snapshots, holds some for a while, and reads them again and again; also of the past.
fn reader(engine: &Engine, is_over: &AtomicBool) {
    let mut held: Option<Snapshot> = None;
    while !is_over.load(Ordering::Relaxed) {
        let snapshot = engine.snapshot();
        check(&snapshot);
        if let Some(held) = &held {
            check(held);
        }
        let seq = snapshot.seq().saturating_sub(below(PAST as usize) as u64);
        if let Ok(past) = snapshot.clone().of(seq) {
            check(&past);
        }
        if held.is_none() || below(3) == 0 {
            held = Some(snapshot);
        }
        thread::yield_now();
    }
    check(&engine.snapshot());
    held.iter().for_each(check);
}

#[test]
fn a_snapshot_answers_the_same_while_views_are_swapped() {
    explore(|| {
        let vfs = Memory::new();
        let options = Options { retain_seqs: PAST, memtable_bytes: 700, ..options(&vfs, 1) };
        let engine = Arc::new(Engine::open(DIR, options).expect("opens"));
        let is_over = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let (engine, is_over) = (engine.clone(), is_over.clone());
                thread::spawn(move || reader(&engine, &is_over))
            })
            .collect();
        for number in 1..=BATCHES {
            let seq = write(&engine, &batch(number), Durability::Buffered).expect("written");
            assert_eq!(seq, number, "one writer, one number each");
        }
        engine.settle().expect("settles");
        is_over.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().expect("no panic");
        }
        assert_eq!(rows(&engine.snapshot()).expect("read"), expected(BATCHES));
        let stats = engine.stats();
        assert!(stats.flushes > 1 && stats.compactions > 0, "views were swapped by both");
        engine.close().expect("closes");
    });
}

/// Each generation puts all keys anew, by a batch or in place of everything there is.
fn generation(engine: &Engine, number: u64) -> Result<Seq> {
    if number % 2 == 1 {
        let mut batch = Batch::new();
        (0..KEYS).for_each(|key| batch.put(&[b'k', key as u8], &value(number)));
        return write(engine, &batch, Durability::Buffered);
    }
    let mut ingestion = engine.ingest();
    for key in 0..KEYS {
        ingestion.put(&[b'k', key as u8], &value(number))?;
    }
    ingestion.replace(b"k", b"l");
    ingestion.commit()
}

#[test]
fn rows_taken_in_replace_the_old_ones_at_once() {
    explore(|| {
        let vfs = Memory::new();
        let engine = open(&vfs, 1);
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let engine = engine.clone();
                thread::spawn(move || {
                    for _ in 0..LOOKS {
                        let snapshot = engine.snapshot();
                        let keys = if snapshot.seq() == 0 { 0 } else { KEYS };
                        let expected: BTreeMap<Vec<u8>, Vec<u8>> =
                            (0..keys).map(|key| (vec![b'k', key as u8], value(snapshot.seq()))).collect();
                        assert_eq!(rows(&snapshot).expect("read"), expected, "at seq {}", snapshot.seq());
                    }
                })
            })
            .collect();
        for number in 1..=GENERATIONS {
            assert_eq!(generation(&engine, number).expect("written"), number, "one number for each");
        }
        for reader in readers {
            reader.join().expect("no panic");
        }
        engine.close().expect("closes");
    });
}
