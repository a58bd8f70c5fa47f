//! Three to five nodes in one thread, over a network and disks that treat them as a seed says, on a clock that stands still
//! while anybody works: what takes a minute there takes a part of a second here, and happens again with the same seed.
//!
//! `RUSTFLAGS='--cfg lumen_sim --cfg tokio_unstable' cargo test -p lumen-raft --lib --locked --target-dir target/simulation
//! --profile simulation simulation:: -- --nocapture`; the profile is explained in the workspace's `Cargo.toml`.
//! `LUMEN_SIM_SEEDS=100000` runs so many instead of [`SEEDS`], `LUMEN_SIM_SEED=7` just that one, with what happened.
//!
//! The nodes are the real ones: openraft, the log, the database with its engine and index. Simulated are the [`network`]
//! (delays, loss, duplicates, one-way cuts, slow nodes), the disks (`lumen_engine::vfs::memory`, which forgets what was not
//! synced), clock and randomness. [`world`] is what happens to them, `clients` what is asked of them meanwhile, `checks` what
//! must be so after every step. That the checks find something is shown by planting bugs (`planted`).
//!
//! After openraft's fuzzer (twelve invariants after each tick, a client with an oracle), FoundationDB and TigerBeetle's VOPR.

mod checks;
mod clients;
mod history;
mod network;
mod world;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, RngSeed};
use tokio::time::Instant;

use crate::planted::{self, Bug};
use crate::types::Runtime;

/// Seeds that a run of the tests tries.
const SEEDS: u64 = 1000;

/// Seeds in which each planted bug must be found.
const SEEDS_FOR_A_BUG: u64 = 400;

thread_local! {
    static RANDOM: Cell<u64> = const { Cell::new(1) };
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A task that panics has found something; nobody else would say so.
fn listen_for_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let is_ours = BEGUN.get().is_some();
            PANICKED.with_borrow_mut(|said| _ = said.get_or_insert_with(|| panic.to_string()));
            if !is_ours {
                before(panic);
            }
        }));
    });
}

/// What a task said when it panicked.
pub(crate) fn panicked() -> Option<String> {
    PANICKED.take().map(|said| format!("a panic: {said}"))
}

/// xorshift64*, Vigna 2016.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: u64) -> u64 {
        self.bits() % end.max(1)
    }

    /// So many times in a thousand.
    fn happens(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        all.get(self.below(all.len() as u64) as usize).copied()
    }
}

/// For the database.
fn random() -> u64 {
    let mut random = Random(RANDOM.get());
    let bits = random.bits() << 24 ^ random.bits();
    RANDOM.set(random.0);
    bits
}

/// When each run begins, in milliseconds since 1970.
const BEGINNING: u64 = 1_700_000_000_000;

/// Milliseconds since 1970, of the simulated clock.
fn clock() -> u64 {
    let since = BEGUN.get().map_or(Duration::ZERO, |begun| begun.elapsed());
    BEGINNING + since.as_millis() as u64
}

/// The clock of a node. No two are right alike: some are minutes fast, some slow, and one goes too slowly.
fn clock_of(id: u64) -> fn() -> u64 {
    match id % 4 {
        1 => clock,
        2 => || clock() + 600_000,
        3 => || clock() - 90_000,
        _ => || clock() - (clock() - BEGINNING) / 3,
    }
}

/// What a run was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Report {
    /// Of everything that happened, in its order.
    trace: u64,
    /// What was done and met, by name.
    counts: std::collections::BTreeMap<&'static str, u64>,
}

/// Lives through a seed; the error is what was found.
fn run(seed: u64, bug: Option<Bug>, tells: bool) -> Result<Report, String> {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime");
    planted::plant(bug);
    RANDOM.set(Random::new(seed ^ 0x5eed).0);
    listen_for_panics();
    panicked(); // what others left
    let lived = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(Runtime::scope(seed, async {
            BEGUN.set(Some(Instant::now()));
            world::live(seed, tells).await
        }))
    }));
    planted::plant(None);
    runtime.shutdown_background();
    BEGUN.set(None);
    match (panicked(), lived) {
        (Some(said), _) => Err(said),
        (None, lived) => lived.unwrap_or_else(|_| Err("a panic that said nothing".into())),
    }
}

/// Runs seeds on all processors; `each` is told of every one, and stops it by answering false.
fn run_all(seeds: u64, bug: Option<Bug>, each: &(dyn Fn(u64, Result<Report, String>) -> bool + Sync)) {
    let next = AtomicU64::new(1);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > seeds || !each(seed, run(seed, bug, false)) {
                        next.store(seeds + 1, Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
    });
}

fn asked_for(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().expect("a number"))
}

#[test]
fn whatever_happens_the_nodes_stay_one() {
    if let Some(seed) = asked_for("LUMEN_SIM_SEED") {
        let report = run(seed, None, true).unwrap_or_else(|found| panic!("seed {seed}: {found}"));
        println!("seed {seed}: {report:?}");
        return;
    }
    let seeds = asked_for("LUMEN_SIM_SEEDS").unwrap_or(SEEDS);
    let found = parking_lot::Mutex::new(Vec::new());
    let totals = parking_lot::Mutex::new(std::collections::BTreeMap::<&str, u64>::new());
    run_all(seeds, None, &|seed, lived| {
        match lived {
            Ok(report) => {
                let mut totals = totals.lock();
                report.counts.iter().for_each(|(what, count)| *totals.entry(what).or_default() += count);
            }
            Err(error) => found.lock().push(format!("seed {seed}: {error}")),
        }
        found.lock().len() < 5
    });
    let (found, totals) = (found.into_inner(), totals.into_inner());
    println!("{seeds} seeds: {totals:?}");
    assert!(found.is_empty(), "{}", found.join("\n"));
    // A run in which nothing happened shows nothing.
    for what in world::MUST_HAPPEN {
        assert!(totals.get(what).is_some_and(|&count| count > 0), "{what} never happened: {totals:?}");
    }
}

#[test]
fn the_same_seed_is_the_same_life() {
    for seed in 1..=20 {
        let (one, other) = (run(seed, None, false), run(seed, None, false));
        assert_eq!(one, other, "seed {seed}");
    }
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let first = parking_lot::Mutex::new(None::<(u64, String)>);
        run_all(SEEDS_FOR_A_BUG, Some(bug), &|seed, lived| {
            if let Err(error) = lived {
                let mut first = first.lock();
                if first.as_ref().is_none_or(|(before, _)| seed < *before) {
                    *first = Some((seed, error));
                }
            }
            first.lock().is_none()
        });
        match first.into_inner() {
            Some((seed, error)) => {
                let line = error.lines().next().unwrap_or_default();
                println!("{bug:?}: seed {seed}: {}", line.chars().take(160).collect::<String>());
            }
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found within {SEEDS_FOR_A_BUG} seeds: {missed:?}");
}
