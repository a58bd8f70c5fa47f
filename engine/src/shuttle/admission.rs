//! Admission: writers that wait for memory or the disk are woken by whatever ends their wait.
//!
//! A deadline never comes for half of the waits (`sync.rs`), so a wake-up that is lost leaves a thread that waits for ever.

use std::sync::Arc;

use super::{DIR, below, explore, open, options, rows, write};
use crate::batch::Batch;
use crate::commit::Durability;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::sync::thread::{self, JoinHandle};
use crate::vfs::memory::{Fault, Memory};

const WRITERS: u8 = 3;
const BATCHES: u8 = 3;

/// Writers wait as soon as one memtable is to be flushed, and every second batch fills one.
fn open_tight(vfs: &Memory) -> Arc<Engine> {
    let options = Options { memtable_bytes: 500, memtables_max: 1, ..options(vfs, 1) };
    Arc::new(Engine::open(DIR, options).expect("opens"))
}

/// Starts the writers; each answers how many of its batches were written, and why no more.
fn writers(engine: &Arc<Engine>) -> Vec<JoinHandle<(u8, Result<()>)>> {
    let write_all = |engine: &Engine, writer: u8| {
        for number in 0..BATCHES {
            let mut batch = Batch::new();
            batch.put(&[writer, number], &[7; 150]);
            if let Err(error) = write(engine, &batch, Durability::Buffered) {
                return (number, Err(error));
            }
        }
        (BATCHES, Ok(()))
    };
    (0..WRITERS)
        .map(|writer| {
            let engine = engine.clone();
            thread::spawn(move || write_all(&engine, writer))
        })
        .collect()
}

#[test]
fn a_flush_wakes_those_who_wait_for_memory() {
    explore(|| {
        let vfs = Memory::new();
        let engine = open_tight(&vfs);
        for writer in writers(&engine) {
            let (_, result) = writer.join().expect("no panic");
            result.expect("nothing fails");
        }
        engine.close().expect("closes");
    });
}

#[test]
fn a_failure_wakes_everybody() {
    explore(|| {
        let vfs = Memory::new();
        let engine = open_tight(&vfs);
        vfs.fail(vfs.calls() + 1 + below(150) as u64, Fault::Eio);
        let writers = writers(&engine);
        let flushed = engine.flush();
        for writer in writers {
            let _ = writer.join().expect("no panic"); // it may have failed or not
        }
        if let Some(failure) = engine.failure() {
            let mut batch = Batch::new();
            batch.put(b"late", b"");
            let late = engine.write(&batch, Durability::Buffered);
            assert!(late.is_err(), "{flushed:?}, {failure}: a failure is told to everybody who writes");
        }
    });
}

#[test]
fn a_close_wakes_everybody_and_loses_nothing() {
    explore(|| {
        let vfs = Memory::new();
        let engine = open_tight(&vfs);
        let writers = writers(&engine);
        let stops = below(2) == 0;
        for _ in 0..below(20) {
            thread::yield_now();
        }
        if stops {
            engine.stop();
        } else {
            engine.close().expect("closes");
        }
        let mut written = 0;
        for writer in writers {
            let (number, result) = writer.join().expect("no panic");
            assert!(matches!(result, Ok(()) | Err(Error::Closed)), "{result:?}");
            written += usize::from(number);
        }
        drop(engine);
        let engine = open(&vfs, 0);
        let found = rows(&engine.snapshot()).expect("read").len();
        assert!(found >= written, "{found} of {written} acknowledged batches are there");
    });
}

/// A thread may be about to say what was so a moment ago.
fn until_there_is_room(action: impl Fn() -> Result<()>) {
    loop {
        match action() {
            Err(error) if error.is_disk_full() => thread::yield_now(),
            done => return done.expect("there is room again"),
        }
    }
}

#[test]
fn a_full_disk_wakes_everybody_and_is_waited_out() {
    explore(|| {
        let vfs = Memory::new();
        let engine = open_tight(&vfs);
        vfs.set_capacity(Some(6_000 + below(4_000) as u64));
        let writers = writers(&engine);
        // Every call comes back before there is room again.
        let _ = engine.flush();
        for writer in writers {
            let (_, result) = writer.join().expect("no panic");
            assert!(result.as_ref().err().is_none_or(Error::is_disk_full), "{result:?}");
        }
        vfs.set_capacity(None);
        assert!(engine.failure().is_none(), "a full disk is no failure");
        let mut batch = Batch::new();
        batch.put(b"late", b"");
        until_there_is_room(|| write(&engine, &batch, Durability::Sync).map(drop));
        until_there_is_room(|| engine.flush());
        engine.close().expect("closes");
    });
}
