//! What was measured: latencies by kind of operation, completions by second, errors by what they say.
//!
//! Clients share a few shards, each behind a lock that is nearly always free: a histogram of three digits has 200 KB, and
//! thousands of clients with seven kinds each would need gigabytes.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::workload::{KINDS, Kind};

/// Nanoseconds that are told apart, and after which all is the same: an hour.
const LATENCY_NS_MIN: u64 = 100;
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
/// Digits of a latency that are kept.
const DIGITS: u8 = 3;

/// How one operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Well, and there was something.
    Found,
    /// Well, and there was nothing.
    Missing,
    /// With an answer that is wrong.
    Wrong,
}

/// What there is of one kind of operation.
#[derive(Clone)]
pub(super) struct Latencies {
    /// In nanoseconds.
    pub(super) histogram: Histogram<u64>,
    /// Done before the time was over.
    pub(super) in_time: u64,
    /// Of reads, those that found nothing.
    pub(super) missing: u64,
}

impl Latencies {
    fn new() -> Latencies {
        let histogram = Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, DIGITS);
        Latencies { histogram: histogram.expect("the bounds are ordered"), in_time: 0, missing: 0 }
    }

    /// Takes another's in.
    pub(super) fn add(&mut self, other: &Latencies) {
        self.histogram.add(&other.histogram).expect("all have the same bounds");
        self.in_time += other.in_time;
        self.missing += other.missing;
    }

    /// A quantile, in microseconds.
    pub(super) fn quantile_us(&self, quantile: f64) -> f64 {
        self.histogram.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// All that is recorded in a run.
#[derive(Clone, Default)]
pub(super) struct Records {
    /// By the kind's number.
    pub(super) kinds: [Option<Box<Latencies>>; KINDS.len()],
    /// Completions in each second from the beginning of what is measured.
    pub(super) per_second: Vec<u64>,
    /// Operations that failed, by what is said of it; those of the warm-up too.
    pub(super) errors: BTreeMap<String, u64>,
    /// Answers that were wrong; those of the warm-up too.
    pub(super) wrong: u64,
    /// Operations that ended well and count.
    pub(super) done: u64,
    /// Connections that the server had closed between two operations.
    pub(super) reopened: u64,
    /// The last completion that counts.
    pub(super) last: Option<Instant>,
    /// In an open loop, how long after they were due operations were sent.
    pub(super) late: Option<Box<Latencies>>,
}

impl Records {
    /// What there is of a kind.
    pub(super) fn kind(&self, kind: Kind) -> Option<&Latencies> {
        self.kinds[kind as usize].as_deref()
    }

    /// What there is of all kinds together.
    pub(super) fn all(&self) -> Latencies {
        let mut all = Latencies::new();
        self.kinds.iter().flatten().for_each(|kind| all.add(kind));
        all
    }

    /// Operations that failed.
    pub(super) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    fn add(&mut self, other: &Records) {
        let ours = self.kinds.iter_mut().chain([&mut self.late]);
        for (kind, others) in ours.zip(other.kinds.iter().chain([&other.late])) {
            match (kind.as_deref_mut(), others) {
                (_, None) => {}
                (None, Some(others)) => *kind = Some(others.clone()),
                (Some(kind), Some(others)) => kind.add(others),
            }
        }
        if self.per_second.len() < other.per_second.len() {
            self.per_second.resize(other.per_second.len(), 0);
        }
        for (count, others) in self.per_second.iter_mut().zip(&other.per_second) {
            *count += others;
        }
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
        self.wrong += other.wrong;
        self.done += other.done;
        self.reopened += other.reopened;
        self.last = self.last.max(other.last);
    }
}

/// When what is measured begins and ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Operations that are due, or sent in a closed loop, from here on count.
    pub(super) start: Instant,
    /// Nothing is sent from here on; none if operations are counted instead.
    pub(super) end: Option<Instant>,
}

/// Where clients record.
pub(super) struct Recorder {
    shards: Vec<Mutex<Records>>,
    window: Window,
}

impl Recorder {
    /// With so many shards, one to a thread, say.
    pub(super) fn new(shards: usize, window: Window) -> Recorder {
        Recorder { shards: (0..shards.max(1)).map(|_| Mutex::default()).collect(), window }
    }

    fn shard(&self, client: usize) -> &Mutex<Records> {
        &self.shards[client % self.shards.len()]
    }

    /// An operation that was due (or sent) at `from` has ended at `to`.
    pub(super) fn ended(&self, client: usize, kind: Kind, from: Instant, to: Instant, how: Ended) {
        let mut records = self.shard(client).lock();
        if how == Ended::Wrong {
            records.wrong += 1;
        }
        if from < self.window.start {
            return;
        }
        let in_time = self.window.end.is_none_or(|end| to < end);
        let latencies = records.kinds[kind as usize].get_or_insert_with(|| Box::new(Latencies::new()));
        latencies.histogram.saturating_record(nanos(to - from));
        latencies.in_time += u64::from(in_time);
        latencies.missing += u64::from(how == Ended::Missing);
        records.done += 1;
        records.last = records.last.max(Some(to));
        if in_time {
            let second = (to - self.window.start).as_secs() as usize;
            if records.per_second.len() <= second {
                records.per_second.resize(second + 1, 0);
            }
            records.per_second[second] += 1;
        }
    }

    /// An operation that was due is sent.
    pub(super) fn sent(&self, client: usize, due: Instant, sent: Instant) {
        if due >= self.window.start {
            let mut records = self.shard(client).lock();
            let late = records.late.get_or_insert_with(|| Box::new(Latencies::new()));
            late.histogram.saturating_record(nanos(sent.saturating_duration_since(due)));
        }
    }

    /// An operation failed.
    pub(super) fn failed(&self, client: usize, kind: Kind, what: &str) {
        let mut records = self.shard(client).lock();
        *records.errors.entry(format!("{}: {what}", kind.name())).or_default() += 1;
    }

    /// A connection was found closed before anything was sent on it, and opened again.
    pub(super) fn reopened(&self, client: usize, times: u64) {
        if times > 0 {
            self.shard(client).lock().reopened += times;
        }
    }

    /// Operations that ended well so far and count, and errors.
    pub(super) fn counts(&self) -> (u64, u64) {
        self.shards.iter().fold((0, 0), |(done, errors), shard| {
            let records = shard.lock();
            (done + records.done, errors + records.error_count() + records.wrong)
        })
    }

    /// All of it.
    pub(super) fn records(&self) -> Records {
        let mut all = Records::default();
        self.shards.iter().for_each(|shard| all.add(&shard.lock()));
        all
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_come_together_and_the_warm_up_stays_out_but_for_its_errors() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let recorder = Recorder::new(3, Window { start: at(1000), end: Some(at(3000)) });
        recorder.ended(0, Kind::Put, at(990), at(1010), Ended::Found);
        recorder.failed(0, Kind::Put, "timeout");
        for client in 0..6 {
            recorder.ended(client, Kind::Put, at(1000), at(1500), Ended::Found);
            recorder.ended(client, Kind::Get, at(1500), at(2500), Ended::Missing);
            recorder.ended(client, Kind::Get, at(2500), at(3500), Ended::Found);
        }
        recorder.failed(1, Kind::Put, "timeout");
        let records = recorder.records();
        assert_eq!(records.per_second, [6, 6]);
        assert_eq!(records.errors, BTreeMap::from([("put: timeout".to_string(), 2)]));
        let get = records.kind(Kind::Get).expect("gets");
        assert_eq!((get.histogram.len(), get.in_time, get.missing), (12, 6, 6));
        assert!((get.quantile_us(0.5) - 1e6).abs() < 1e3);
        assert_eq!((records.all().histogram.len(), records.done, recorder.counts()), (18, 18, (18, 2)));
    }
}
