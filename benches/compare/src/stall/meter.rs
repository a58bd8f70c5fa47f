//! What is counted while writers write, looked at once a second: for the eye, for the CSV, and for what is decided by it.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::stores::{Debt, Store};

/// How often a line is shown.
const SHOW_SECONDS: usize = 5;

/// Counts finished writes and the stretches between them. Shared by all writers of a phase.
pub(crate) struct Meter {
    started: Instant,
    finished: AtomicU64,
    last_finish_ns: AtomicU64,
    /// The longest stretch without a finished write that ended since the last tick.
    gap_ns: AtomicU64,
}

/// What was seen at the end of a second.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tick {
    /// Seconds since the phase began; the last digits say how late the look was.
    pub(crate) at: f64,
    /// Writes that had finished by then.
    pub(crate) finished: u64,
    /// Writes a second since the tick before.
    pub(crate) rate: f64,
    /// Writes that were due and not finished.
    pub(crate) backlog: u64,
    /// The longest stretch without a finished write that ended in this second, or is still going on.
    pub(crate) gap: Duration,
    pub(crate) debt: Debt,
}

impl Meter {
    pub(crate) fn start() -> Meter {
        Meter {
            started: Instant::now(),
            finished: AtomicU64::new(0),
            last_finish_ns: AtomicU64::new(0),
            gap_ns: AtomicU64::new(0),
        }
    }

    /// Time since the beginning of the phase.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// A write has finished at `now`.
    pub(crate) fn finish(&self, now: Duration) {
        let now_ns = now.as_nanos() as u64;
        // Of two that finish at once the later one may swap first; the gap is then nothing, which is right.
        let gap = now_ns.saturating_sub(self.last_finish_ns.swap(now_ns, Relaxed));
        if gap > self.gap_ns.load(Relaxed) {
            self.gap_ns.fetch_max(gap, Relaxed);
        }
        self.finished.fetch_add(1, Relaxed);
    }

    pub(crate) fn finished(&self) -> u64 {
        self.finished.load(Relaxed)
    }

    fn tick(&self, before: Tick, due: impl Fn(Duration) -> Option<u64>, debt: Debt) -> Tick {
        let (at, finished) = (self.now(), self.finished());
        let backlog = due(at).map(|due| due.saturating_sub(finished));
        // A stretch that is still open, unless it is only that nothing is due.
        let open = match backlog {
            Some(0) => 0,
            _ => (at.as_nanos() as u64).saturating_sub(self.last_finish_ns.load(Relaxed)),
        };
        let gap = Duration::from_nanos(self.gap_ns.swap(0, Relaxed).max(open));
        let at = at.as_secs_f64();
        let rate = (finished - before.finished) as f64 / (at - before.at);
        Tick { at, finished, rate, backlog: backlog.unwrap_or(0), gap, debt }
    }
}

/// Looks at one phase.
pub(crate) struct Watch<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) meter: &'a Meter,
    /// The name of store and phase, for the eye and the CSV.
    pub(crate) name: (&'a str, &'a str),
    pub(crate) csv: &'a File,
    pub(crate) stopped: &'a AtomicBool,
}

impl Watch<'_> {
    /// Ticks once a second until `goes_on` says no, or somebody stops the program. `due` says how many writes should have
    /// finished by a time, in a phase where that is fixed.
    pub(crate) fn run(
        &self,
        due: impl Fn(Duration) -> Option<u64>,
        mut goes_on: impl FnMut(&[Tick]) -> bool,
    ) -> Vec<Tick> {
        let (store, phase) = self.name;
        let mut ticks: Vec<Tick> = Vec::new();
        while !self.stopped.load(Relaxed) && goes_on(&ticks) {
            // On the second, so that one late look does not make all that follow late.
            let now = self.meter.now();
            std::thread::sleep(Duration::from_secs(now.as_secs() + 1) - now);
            let before = ticks.last().copied().unwrap_or_default();
            let tick = self.meter.tick(before, &due, self.store.debt());
            ticks.push(tick);
            let (Debt { bytes, level0, memtables }, gap) = (tick.debt, tick.gap.as_secs_f64() * 1e3);
            let (at, rate, backlog) = (tick.at, tick.rate, tick.backlog);
            let line = format!("{phase},{at:.3},{rate:.0},{backlog},{gap:.3},{bytes},{level0},{memtables}\n");
            { self.csv }.write_all(line.as_bytes()).expect("the csv is written");
            if ticks.len().is_multiple_of(SHOW_SECONDS) {
                eprintln!(
                    "{store}, {phase}, {at:.0} s: {rate:.0} writes/s, backlog {backlog}, longest gap {gap:.1} ms, \
                     debt {} MiB, level 0: {level0}, frozen: {memtables}",
                    bytes >> 20
                );
            }
        }
        ticks
    }
}

/// The names of what `Watch::run` writes.
pub(crate) const CSV_HEADER: &str =
    "phase,second,writes_per_second,backlog_writes,longest_gap_ms,debt_bytes,level0,frozen_memtables";
