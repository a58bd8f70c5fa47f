//! The engine's own code under a scheduler that chooses which thread goes on at every step: [`crate::sync`] says how.
//!
//! ```text
//! RUSTFLAGS='--cfg lumen_shuttle' cargo test -p lumen-engine --lib --target-dir target/shuttle shuttle::
//! ```
//!
//! Each test runs so many times with threads chosen at random, and as many times by priorities that change at few places
//! (PCT: Burckhardt et al., ASPLOS 2010), always the same ones. `SHUTTLE_RANDOM_SEED` (a number) makes others, and
//! `LUMEN_SHUTTLE_ITERATIONS` more. What fails prints its schedule; the one test with the schedule in
//! `LUMEN_SHUTTLE_REPLAY` repeats it, as long as the code is the same. When all threads wait for each other, that is a
//! failure, "deadlock"; when some go round for ever, it is one too, "exceeded max_steps".

mod admission;
mod cache;
mod commit;
mod gaps;
mod view;

use std::collections::BTreeMap;
use std::env;
use std::ops::Bound;
use std::sync::Arc;

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

use crate::batch::Batch;
use crate::commit::Durability;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::key::Seq;
use crate::options::Options;
use crate::snapshot::Snapshot;
use crate::vfs::memory::{Crash, Memory};

const DIR: &str = "/store";
/// How often a test runs with each of the two schedulers.
const ITERATIONS: usize = 2000;
const SEED: u64 = 0x1e57_ab1e;
/// How many changes of priority make a schedule of PCT: most bugs need two or three.
const PCT_DEPTH: usize = 4;
/// Far more than any test takes: some thread goes round and waits for what does not come.
const STEPS_MAX: usize = 300_000;
/// The engine has buffers on its stack.
const STACK_BYTES: usize = 512 << 10;

/// Runs a test under both schedulers, or again as a failure printed it.
fn explore(test: impl Fn() + Send + Sync + 'static) {
    explore_times(1, test);
}

/// The same, so many times as often.
fn explore_times(times: usize, test: impl Fn() + Send + Sync + 'static) {
    let test = Arc::new(test);
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let mut config = Config::new();
        config.stack_size = STACK_BYTES;
        config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
        config.silence_warnings = true; // of memory orderings, which shuttle does not know
        let test = test.clone();
        Runner::new(scheduler, config).run(move || test());
    };
    if let Ok(schedule) = env::var("LUMEN_SHUTTLE_REPLAY") {
        return run(Box::new(ReplayScheduler::new_from_encoded(&schedule)));
    }
    let iterations = env::var("LUMEN_SHUTTLE_ITERATIONS")
        .map_or(ITERATIONS, |number| number.parse().expect("LUMEN_SHUTTLE_ITERATIONS is a number"));
    run(Box::new(RandomScheduler::new_from_seed(SEED, times * iterations)));
    run(Box::new(PctScheduler::new_from_seed(SEED, PCT_DEPTH, times * iterations)));
}

/// A number below `end`; the schedule repeats it.
fn below(end: usize) -> usize {
    thread_rng().gen_range(0..end)
}

/// An engine so small that a few batches fill a memtable, and a few of those a level.
fn options(vfs: &Memory, threads: usize) -> Options {
    Options {
        vfs: Arc::new(vfs.clone()),
        memtable_bytes: 900,
        block_bytes: 200,
        table_bytes: 700,
        level_bytes: 1500,
        level0_tables: 2,
        segment_bytes: 1024,
        cache_bytes: 8 << 10,
        disk_reserve_bytes: 0,
        threads,
        clock: || 0,
        random: || thread_rng().r#gen(),
        ..Options::default()
    }
}

fn open(vfs: &Memory, threads: usize) -> Arc<Engine> {
    Arc::new(Engine::open(DIR, options(vfs, threads)).expect("opens"))
}

/// Writes a batch, over again while the store is behind.
fn write(engine: &Engine, batch: &Batch, durability: Durability) -> Result<Seq> {
    loop {
        match engine.write(batch, durability) {
            Err(Error::Busy { .. }) => {}
            done => return done,
        }
    }
}

/// All that a snapshot shows, walked and, to compare, looked up.
fn rows(snapshot: &Snapshot) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut rows = BTreeMap::new();
    let mut scan = snapshot.scan(Bound::Unbounded, Bound::Unbounded);
    let mut last: Option<Vec<u8>> = None;
    while scan.next_row()? {
        let key = scan.key().to_vec();
        assert!(last.is_none_or(|last| last < key), "a scan answers each key once, in order");
        rows.insert(key.clone(), scan.value().to_vec());
        last = Some(key);
    }
    Ok(rows)
}

/// What a crash leaves: a third of the time all that the system was given, as when only the process died, and a third only
/// what was synced.
fn any_crash() -> Crash {
    match below(3) {
        0 => Crash::KeepAll,
        1 => Crash::DropPending,
        _ => Crash::ALL[below(Crash::ALL.len())],
    }
}
