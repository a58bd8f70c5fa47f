//! Three to five nodes in one thread, over a network and disks that treat them as a seed says, on a clock that stands still
//! while anybody works: what takes a minute there takes a part of a second here, and happens again with the same seed.
//!
//! `RUSTFLAGS='--cfg lumen_sim --cfg tokio_unstable' cargo test -p lumen-raft --lib --locked --target-dir target/simulation
//! --profile simulation simulation:: -- --nocapture`; the profile is explained in the workspace's `Cargo.toml`. Environment:
//!
//! | | |
//! |---|---|
//! | `LUMEN_SIM_SEED=7` | that life alone, with what happened |
//! | `LUMEN_LOG=openraft=debug` | what is logged in that life, too |
//! | `LUMEN_SIM_SEEDS=100000` | so many lives instead of [`SEEDS`] |
//! | `LUMEN_SIM_FROM=50001` | the first of them, for a run in parts; 1 otherwise |
//! | `LUMEN_SIM_THREADS=1` | lives at a time; otherwise as many as there are processors |
//!
//! Every life found wanting is told on stderr at once, and every [`TELL`] how far the run is. It goes on after one, and ends
//! after [`FOUND_MAX`]. In the end stands what was done and met in all of them.
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
mod keys;
mod network;
mod world;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, RngSeed};
use tokio::time::Instant;

use crate::planted::{self, Bug};
use crate::types::Runtime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seeds that a run of the tests tries.
const SEEDS: u64 = 1000;

/// Seeds that are found wanting before a run ends; the next would hardly say more.
const FOUND_MAX: usize = 5;

/// Between two words about how far a run is.
const TELL: Duration = Duration::from_secs(30);

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
    counts: BTreeMap<&'static str, u64>,
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

/// Runs seeds, several at a time; `each` is told of every one, and stops it by answering false.
fn run_all(
    seeds: RangeInclusive<u64>,
    bug: Option<Bug>,
    each: &(dyn Fn(u64, Result<Report, String>) -> bool + Sync),
) {
    let next = AtomicU64::new(*seeds.start());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = asked_for("LUMEN_SIM_THREADS").unwrap_or(processors as u64);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) || !each(seed, run(seed, bug, false)) {
                        next.store(seeds.end() + 1, Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
    });
}

/// Has everything that `LUMEN_LOG` asks for told on stdout, at simulated times.
fn tell_what_is_logged() {
    struct Clock;
    impl tracing_subscriber::fmt::time::FormatTime for Clock {
        fn format_time(&self, to: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
            write!(to, "{:>7} ms:", clock() - BEGINNING)
        }
    }
    let Ok(wanted) = std::env::var("LUMEN_LOG") else { return };
    let filter = tracing_subscriber::EnvFilter::new(wanted);
    tracing_subscriber::fmt().with_env_filter(filter).with_timer(Clock).with_ansi(false).init();
}

fn asked_for(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().expect("a number"))
}

/// What came of the lives until now.
struct Tally {
    seeds: RangeInclusive<u64>,
    begun: std::time::Instant,
    told: std::time::Instant,
    lives: u64,
    found: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn new(seeds: RangeInclusive<u64>) -> Tally {
        let now = std::time::Instant::now();
        Tally { seeds, begun: now, told: now, lives: 0, found: Vec::new(), counts: BTreeMap::new() }
    }

    /// Counts a life; false when enough is found.
    fn count(&mut self, seed: u64, lived: Result<Report, String>) -> bool {
        self.lives += 1;
        match lived {
            Ok(report) => {
                report.counts.iter().for_each(|(what, count)| *self.counts.entry(what).or_default() += count);
            }
            Err(error) => {
                eprintln!("seed {seed}: {error}");
                self.found.push(format!("seed {seed}: {error}"));
            }
        }
        if self.told.elapsed() > TELL {
            self.told = std::time::Instant::now();
            eprintln!("{}, the last {seed}", self.so_far());
        }
        self.found.len() < FOUND_MAX
    }

    fn so_far(&self) -> String {
        let all = self.seeds.end() - self.seeds.start() + 1;
        let seconds = self.begun.elapsed().as_secs_f64();
        let a_second = self.lives as f64 / seconds.max(0.001);
        let found = self.found.len();
        format!(
            "{} of {all} seeds in {seconds:.0} s, {a_second:.2} a second, {found} found wanting",
            self.lives
        )
    }
}

#[test]
fn whatever_happens_the_nodes_stay_one() {
    if let Some(seed) = asked_for("LUMEN_SIM_SEED") {
        tell_what_is_logged();
        let report = run(seed, None, true).unwrap_or_else(|found| panic!("seed {seed}: {found}"));
        println!("seed {seed}: {report:?}");
        return;
    }
    let first = asked_for("LUMEN_SIM_FROM").unwrap_or(1);
    let seeds = first..=first + asked_for("LUMEN_SIM_SEEDS").unwrap_or(SEEDS) - 1;
    let tally = parking_lot::Mutex::new(Tally::new(seeds.clone()));
    run_all(seeds, None, &|seed, lived| tally.lock().count(seed, lived));
    let tally = tally.into_inner();
    println!("{} from {first} on", tally.so_far());
    tally.counts.iter().for_each(|(what, count)| println!("{count:>12} {what}"));
    assert!(tally.found.is_empty(), "{}", tally.found.join("\n"));
    // A run in which nothing happened shows nothing.
    for what in world::MUST_HAPPEN {
        assert!(tally.counts.get(what).is_some_and(|&count| count > 0), "{what} never happened");
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
        run_all(1..=SEEDS_FOR_A_BUG, Some(bug), &|seed, lived| {
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
