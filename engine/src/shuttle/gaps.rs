//! Gaps: walks that jump over what was deleted, beside writers who put rows into it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{below, explore, open, rows, write};
use crate::batch::Batch;
use crate::commit::Durability;
use crate::engine::Engine;
use crate::key::Seq;
use crate::snapshot::Snapshot;
use crate::sync::thread;
use crate::vfs::memory::Memory;

const KEYS: u8 = 12;
const BATCHES: u64 = 10;
const LOOKS: usize = 5;

/// Batch 1 puts all keys, batch 2 deletes them; then one key comes, and goes with the next.
fn change(number: u64) -> (Vec<u8>, bool) {
    match number {
        1 => ((0..KEYS).collect(), true),
        2 => ((0..KEYS).collect(), false),
        _ => (vec![(number / 2 * 5 % u64::from(KEYS)) as u8], number % 2 == 1),
    }
}

fn expected(seq: Seq) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    for number in 1..=seq {
        let (keys, puts) = change(number);
        for key in keys {
            match puts {
                true => drop(rows.insert(vec![key], number.to_le_bytes().to_vec())),
                false => drop(rows.remove(&vec![key])),
            }
        }
    }
    rows
}

fn check(snapshot: &Snapshot) {
    assert_eq!(rows(snapshot).expect("read"), expected(snapshot.seq()), "at seq {}", snapshot.seq());
}

fn reader(engine: &Engine, is_over: &AtomicBool) {
    let mut held: Option<Snapshot> = None;
    for _ in 0..LOOKS {
        let snapshot = engine.snapshot();
        check(&snapshot);
        held.iter().for_each(check);
        if below(3) == 0 {
            held = Some(snapshot);
        }
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        thread::yield_now();
    }
    check(&engine.snapshot());
}

#[test]
fn no_walk_jumps_over_a_row() {
    explore(|| {
        let engine = open(&Memory::new(), 1);
        let is_over = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (engine, is_over) = (engine.clone(), is_over.clone());
                thread::spawn(move || reader(&engine, &is_over))
            })
            .collect();
        for number in 1..=BATCHES {
            let (mut batch, (keys, puts)) = (Batch::new(), change(number));
            for key in keys {
                match puts {
                    true => batch.put(&[key], &number.to_le_bytes()),
                    false => batch.delete(&[key]),
                }
            }
            assert_eq!(write(&engine, &batch, Durability::Buffered).expect("nothing fails"), number);
        }
        is_over.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().expect("no panic"));
        check(&engine.snapshot());
        engine.close().expect("closes");
    });
}
