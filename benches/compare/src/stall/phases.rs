//! The child's work: fill the store, find the rate that it can keep up, ask for 95 % of it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::data::{Random, Values, key};
use crate::stall::meter::{CSV_HEADER, Meter, Tick, Watch};
use crate::stall::{Plan, Report, steady};
use crate::stores::{self, MEMTABLE_BYTES, Store, Wait};
use crate::work;

const VALUE_BYTES: usize = 400;
const ROW_BYTES: u64 = 16 + VALUE_BYTES as u64;
/// Part of the sustainable rate that phase 2 asks for, as Luo & Carey do.
const PART: f64 = 0.95;
/// Memtables that phase 1 fills at least: four times the four at which level 0 is compacted.
const MEMTABLES_LEAST: u64 = 4 * 4;
/// How many times its least time phase 1 may take to become steady.
const PATIENCE: f64 = 3.0;
/// How long writes that were due in phase 2 may take to finish after it.
const GRACE: Duration = Duration::from_secs(30);

/// One store under test.
struct Test<'a> {
    name: &'a str,
    store: Box<dyn Store>,
    plan: Plan,
    csv: File,
    stopped: &'a AtomicBool,
}

/// Runs all phases on an empty folder; `None` when somebody stopped it.
pub(crate) fn run(name: &str, dir: &Path, plan: Plan, csv: &Path, stopped: &AtomicBool) -> Option<Report> {
    let mut csv = File::create(csv).expect("a csv");
    writeln!(csv, "{CSV_HEADER}").expect("the csv is written");
    let test = Test { name, store: stores::open(name, dir, work::BIG_CACHE), plan, csv, stopped };
    let mut report = Report::default();
    test.fill()?;
    let sustainable = test.find_rate(&mut report)?;
    // Without a rest: what phase 1 has put off is still to be done, beside what comes.
    let asked = plan.rate as f64;
    test.keep_rate(if asked > 0.0 { asked } else { PART * sustainable }, &mut report)?;
    report.figure("on disk, MiB", work::disk_bytes(dir) as f64 / f64::from(1 << 20));
    Some(report)
}

impl Test<'_> {
    fn watch<'a>(&'a self, meter: &'a Meter, phase: &'a str) -> Watch<'a> {
        let name = (self.name, phase);
        Watch { store: &*self.store, meter, name, csv: &self.csv, stopped: self.stopped }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    /// Writes every key once, in an order that is none, so that phase 1 only overwrites and the tree no longer grows.
    fn fill(&self) -> Option<()> {
        let (meter, plan) = (Meter::start(), self.plan);
        std::thread::scope(|scope| {
            for writer in 0..plan.writers {
                let meter = &meter;
                scope.spawn(move || {
                    let mut values = Values::new(VALUE_BYTES);
                    for n in (writer..plan.keys).step_by(plan.writers as usize) {
                        if self.is_stopped() {
                            return;
                        }
                        self.store.write((&key(n), Some(values.next())), false);
                        meter.finish(meter.now());
                    }
                });
            }
            self.watch(&meter, "fill").run(|_| None, |_| meter.finished() < plan.keys);
        });
        (!self.is_stopped()).then_some(())
    }

    /// Phase 1: overwrites as fast as the store lets, until it is steady; answers the mean rate of the last half.
    ///
    /// It lasts a quarter of phase 2 at least, and until as many bytes have been written as there are, and as fill level 0
    /// a few times; then until `steady::is_steady`, or three times as long as that took.
    fn find_rate(&self, report: &mut Report) -> Option<f64> {
        let (meter, plan, over) = (Meter::start(), self.plan, AtomicBool::new(false));
        let least = plan.keys.max(MEMTABLES_LEAST * MEMTABLE_BYTES as u64 / ROW_BYTES);
        let waits = self.store.waits();
        let mut least_took = None;
        let mut is_steady = false;
        let goes_on = |ticks: &[Tick]| {
            let Some(last) = ticks.last() else { return true };
            if last.at < plan.seconds as f64 / 4.0 || last.finished < least {
                return true;
            }
            let least_took = *least_took.get_or_insert(last.at);
            is_steady = steady::is_steady(ticks);
            !is_steady && last.at < PATIENCE * least_took
        };
        let ticks = std::thread::scope(|scope| {
            for writer in 0..plan.writers {
                let (meter, over) = (&meter, &over);
                scope.spawn(move || {
                    let (mut random, mut values) = (Random::new(21 + writer), Values::new(VALUE_BYTES));
                    while !over.load(Relaxed) && !self.is_stopped() {
                        self.store.write((&key(random.below(plan.keys)), Some(values.next())), false);
                        meter.finish(meter.now());
                    }
                });
            }
            let ticks = self.watch(&meter, "phase 1").run(|_| None, goes_on);
            over.store(true, Relaxed);
            ticks
        });
        if self.is_stopped() {
            return None;
        }
        let half = steady::last_half(&ticks);
        let (rate, took) = (steady::rate(half), meter.now().as_secs());
        report.figure("sustainable, writes/s", rate);
        let gap = ticks.iter().map(|tick| tick.gap).max().unwrap_or_default();
        report.note(format!(
            "phase 1 took {took} s, {} MB; the rate is the mean of its last {} s; its longest stall {} ms",
            meter.finished() * ROW_BYTES / 1_000_000,
            half.len(),
            gap.as_millis(),
        ));
        if !is_steady {
            report.note(format!(
                "NOT STEADY after {took} s of phase 1: by then {:.0} writes/s in the last quarter, {:.0} in the one before, \
                 debt {} MiB: the rate may be more than it can keep up",
                steady::rate(&half[half.len() / 2..]),
                steady::rate(&half[..half.len() / 2]),
                ticks.last().map_or(0, |tick| tick.debt.bytes >> 20),
            ));
        }
        report.note(format!("held back writers in phase 1: {}", difference(&waits, &self.store.waits())));
        Some(rate)
    }

    /// Phase 2: writes come at a fixed rate, each taken by the next writer that is free.
    fn keep_rate(&self, wanted: f64, report: &mut Report) -> Option<()> {
        let (meter, plan) = (Meter::start(), self.plan);
        let schedule = Schedule {
            rate: wanted,
            count: (wanted * plan.seconds as f64) as u64,
            next: AtomicU64::new(0),
            until: Duration::from_secs(plan.seconds) + GRACE,
        };
        let waits = self.store.waits();
        let (mut latencies, ticks) = std::thread::scope(|scope| {
            let spawn = |writer| {
                let (meter, schedule) = (&meter, &schedule);
                scope.spawn(move || self.write_on_time(writer, meter, schedule))
            };
            let writers: Vec<_> = (0..plan.writers).map(spawn).collect();
            let goes_on = |_: &[Tick]| meter.finished() < schedule.count && meter.now() < schedule.until;
            let ticks = self.watch(&meter, "phase 2").run(|now| Some(schedule.due_by(now)), goes_on);
            let mut all = Latencies::new();
            for writer in writers {
                all.add(writer.join().expect("a writer"));
            }
            (all, ticks)
        });
        if self.is_stopped() {
            return None;
        }
        // Nobody came to these: they have waited until now, and would have gone on.
        let ended = meter.now();
        for n in schedule.next.load(Relaxed)..schedule.count {
            latencies.write(ended.saturating_sub(schedule.due(n)));
        }
        let unfinished = schedule.count - meter.finished();
        let on_time: Vec<Tick> =
            ticks.iter().filter(|tick| tick.at < plan.seconds as f64 + 0.5).copied().collect();
        latencies.report(report);
        let gap = ticks.iter().max_by_key(|tick| tick.gap).copied().unwrap_or_default();
        report.figure("longest stall, ms", gap.gap.as_secs_f64() * 1e3);
        let slow = on_time.iter().filter(|tick| tick.rate < wanted / 2.0).count();
        report.figure("s under half the rate", slow as f64);
        let most = on_time.iter().map(|tick| tick.backlog).max().unwrap_or(0);
        let last = on_time.last().map_or(0, |tick| tick.backlog);
        report.note(format!(
            "phase 2 asked for {wanted:.0} writes/s for {} s; the longest stall was over at {:.0} s; the backlog was {most} \
             writes at most ({:.1} s of them), {last} at the end",
            plan.seconds,
            gap.at,
            most as f64 / wanted,
        ));
        if unfinished > 0 || steady::falls_behind(&on_time, wanted) {
            report.note(format!(
                "COULD NOT KEEP UP with phase 2: the backlog was {last} writes when it ended, and {unfinished} were not done \
                 {} s later: the times say how long the test was, and no more",
                GRACE.as_secs(),
            ));
        }
        report.note(format!("held back writers in phase 2: {}", difference(&waits, &self.store.waits())));
        Some(())
    }

    /// Writes whatever is due next, at its time or as soon after it as the store lets.
    fn write_on_time(&self, writer: u64, meter: &Meter, schedule: &Schedule) -> Latencies {
        let (mut random, mut values) = (Random::new(41 + writer), Values::new(VALUE_BYTES));
        let mut latencies = Latencies::new();
        while let Some((n, due)) = schedule.take() {
            // Sleeping, not spinning: two writers that spin take both processors of a small machine from compaction, which
            // has them when writers wait in phase 1. A sleep ends some 60 µs late and up to a time slice later when the
            // processors are busy; that is counted with the write, and reported apart.
            let now = meter.now();
            if now < due {
                std::thread::sleep(due - now);
                latencies.wake(meter.now().saturating_sub(due));
            }
            if self.is_stopped() || meter.now() > schedule.until {
                latencies.write(meter.now().saturating_sub(schedule.due(n)));
                break;
            }
            self.store.write((&key(random.below(self.plan.keys)), Some(values.next())), false);
            let now = meter.now();
            meter.finish(now);
            latencies.write(now.saturating_sub(due));
        }
        latencies
    }
}

/// When each write of phase 2 is due.
struct Schedule {
    /// Writes a second.
    rate: f64,
    count: u64,
    /// The first that no writer has taken.
    next: AtomicU64,
    /// When writers give up what is still due.
    until: Duration,
}

impl Schedule {
    fn due(&self, n: u64) -> Duration {
        Duration::from_secs_f64(n as f64 / self.rate)
    }

    fn due_by(&self, now: Duration) -> u64 {
        ((now.as_secs_f64() * self.rate) as u64).min(self.count)
    }

    /// The next write and its time, as long as there is one.
    fn take(&self) -> Option<(u64, Duration)> {
        let n = self.next.fetch_add(1, Relaxed);
        (n < self.count).then(|| (n, self.due(n)))
    }
}

/// Times of writes, in nanoseconds, to three digits.
struct Latencies {
    /// From when each was due to when it had finished.
    writes: Histogram<u64>,
    /// By how much those who slept until a write was due woke too late.
    wakes: Histogram<u64>,
}

impl Latencies {
    fn new() -> Latencies {
        let empty = || Histogram::new(3).expect("three digits");
        Latencies { writes: empty(), wakes: empty() }
    }

    fn write(&mut self, took: Duration) {
        self.writes.record(took.as_nanos() as u64).expect("it grows by itself");
    }

    fn wake(&mut self, late: Duration) {
        self.wakes.record(late.as_nanos() as u64).expect("it grows by itself");
    }

    fn add(&mut self, other: Latencies) {
        self.writes.add(other.writes).expect("it grows by itself");
        self.wakes.add(other.wakes).expect("it grows by itself");
    }

    fn report(&self, report: &mut Report) {
        let micros = |histogram: &Histogram<u64>, part| histogram.value_at_quantile(part) as f64 / 1e3;
        for (name, part) in [
            ("p50, µs", 0.5),
            ("p99, µs", 0.99),
            ("p99.9, µs", 0.999),
            ("p99.99, µs", 0.9999),
            ("max, µs", 1.0),
        ] {
            report.figure(name, micros(&self.writes, part));
        }
        report.note(format!(
            "of these times the pacer's own part, late wakes: p50 {:.0}, p99 {:.0}, p99.9 {:.0} µs for {} % of the writes",
            micros(&self.wakes, 0.5),
            micros(&self.wakes, 0.99),
            micros(&self.wakes, 0.999),
            100 * self.wakes.len() / self.writes.len().max(1),
        ));
    }
}

/// What has been waited for between two counts.
fn difference(before: &[Wait], after: &[Wait]) -> String {
    let since = |wait: &Wait| {
        let earlier = before.iter().find(|earlier| earlier.reason == wait.reason);
        let (count, took) = earlier.map_or((0, Duration::ZERO), |earlier| (earlier.count, earlier.took));
        (wait.count - count, wait.took.saturating_sub(took))
    };
    let mut parts = Vec::new();
    for wait in after {
        match since(wait) {
            (0, Duration::ZERO) => {}
            (0, took) => parts.push(format!("{} {} ms", wait.reason, took.as_millis())),
            (count, Duration::ZERO) => parts.push(format!("{} {count} times", wait.reason)),
            (count, took) => parts.push(format!("{} {count} times, {} ms", wait.reason, took.as_millis())),
        }
    }
    if parts.is_empty() {
        let reasons: Vec<&str> = after.iter().map(|wait| wait.reason.as_str()).collect();
        return format!("nothing (it counts: {})", reasons.join(", "));
    }
    parts.join("; ")
}
