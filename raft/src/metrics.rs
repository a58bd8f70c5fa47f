//! What a node counts for whoever operates it: how often something happened, how long it took, how large it was.
//!
//! Nothing is decided by it. Each number is an atomic that is added to once for a group, a batch or a request, never for a row.
//! They are read one by one, so those that belong together may be a moment apart.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::node::Node;
use crate::state_machine::Place;

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;

/// Bounds of times in nanoseconds: to apply one small write takes some 20 µs, a sync 0.1 to 10 ms, to install a large snapshot
/// seconds.
const TIMES: [u64; 18] = [
    10 * MICROSECOND,
    25 * MICROSECOND,
    50 * MICROSECOND,
    100 * MICROSECOND,
    250 * MICROSECOND,
    500 * MICROSECOND,
    MILLISECOND,
    2_500 * MICROSECOND,
    5 * MILLISECOND,
    10 * MILLISECOND,
    25 * MILLISECOND,
    50 * MILLISECOND,
    100 * MILLISECOND,
    250 * MILLISECOND,
    500 * MILLISECOND,
    1_000 * MILLISECOND,
    2_500 * MILLISECOND,
    10_000 * MILLISECOND,
];
/// Bounds of how many did something together.
const COUNTS: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
/// Bounds of bytes: from one small write to many full entries.
const SIZES: [u64; 9] = [256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];

/// How many values were how large.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// An upper bound, and how many values are at most so large and larger than the bound before; the last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// All values added up.
    pub sum: f64,
}

impl Histogram {
    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

/// A histogram that is being added to.
pub(crate) struct Meter {
    bounds: &'static [u64],
    /// What is added for one unit of what is told.
    unit: f64,
    /// One for each bound, and one for what is above all.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Meter {
    fn new(bounds: &'static [u64], unit: f64) -> Meter {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Meter { bounds, unit, counts, sum: AtomicU64::new(0) }
    }

    fn of_times() -> Meter {
        Meter::new(&TIMES, 1e9)
    }

    fn of_counts() -> Meter {
        Meter::new(&COUNTS, 1.0)
    }

    fn of_sizes() -> Meter {
        Meter::new(&SIZES, 1.0)
    }

    /// Adds a number.
    pub(crate) fn add(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Adds the time since `begun`.
    pub(crate) fn add_since(&self, begun: Instant) {
        self.add(begun.elapsed().as_nanos() as u64);
    }

    pub(crate) fn read(&self) -> Histogram {
        let bounds = self.bounds.iter().map(|bound| *bound as f64 / self.unit).chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        Histogram {
            buckets: bounds.zip(counts).collect(),
            sum: self.sum.load(Ordering::Relaxed) as f64 / self.unit,
        }
    }
}

/// A number that grows.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Elections that this node has begun.
#[derive(Default)]
pub(crate) struct Elections {
    formed: Counter,
    transferred: Counter,
    leaderless: Counter,
    /// The term for which the leader has asked this node to take over.
    handed: AtomicU64,
    /// When it began the last one.
    last: Mutex<Option<Instant>>,
}

impl Elections {
    /// Notes that the leader of `term`, or nobody any more, asks this node to take over.
    pub(crate) fn hand(&self, term: Option<u64>) {
        self.handed.store(term.map_or(0, |term| term + 1), Ordering::Relaxed);
    }

    /// Notes that this node stands for election in `term`.
    pub(crate) fn begin(&self, term: u64) {
        let reason = match term {
            // Nobody stands in it but who forms the cluster: the others learn of it from who leads then.
            1 => &self.formed,
            _ if self.handed.load(Ordering::Relaxed) == term => &self.transferred,
            _ => &self.leaderless,
        };
        reason.add(1);
        *self.last.lock() = Some(Instant::now());
    }
}

/// All that a node counts.
pub(crate) struct Meters {
    pub elections: Elections,
    /// Writes handed to the log of this node, by what became of them.
    pub writes_applied: Counter,
    pub writes_refused: Counter,
    pub writes_not_led: Counter,
    pub writes_unknown: Counter,
    /// From when the first write of an entry was handed in until all of them were applied.
    pub propose: Meter,
    /// To write and sync what somebody waits for in the log.
    pub sync: Meter,
    /// Entries that shared a sync, and their bytes.
    pub synced_entries: Meter,
    pub synced_bytes: Meter,
    /// To apply entries together, and how many.
    pub apply: Meter,
    pub applied_entries: Meter,
    /// Writes that had been applied before.
    pub repeats: Counter,
    /// To be told at which entry a read may be served, and how many reads asked together.
    pub read_index: Meter,
    pub read_index_shared: Meter,
    /// What this node had the leader do.
    pub forwarded_writes: Counter,
    pub forwarded_reads: Counter,
    pub forwarded_changes: Counter,
    /// Of snapshots that came.
    pub received_bytes: Counter,
    pub receiving_nanos: Counter,
    pub resumed: Counter,
    /// To replace the database by a snapshot that has come.
    pub install: Meter,
}

impl Default for Meters {
    fn default() -> Meters {
        Meters {
            elections: Elections::default(),
            writes_applied: Counter::default(),
            writes_refused: Counter::default(),
            writes_not_led: Counter::default(),
            writes_unknown: Counter::default(),
            propose: Meter::of_times(),
            sync: Meter::of_times(),
            synced_entries: Meter::of_counts(),
            synced_bytes: Meter::of_sizes(),
            apply: Meter::of_times(),
            applied_entries: Meter::of_counts(),
            repeats: Counter::default(),
            read_index: Meter::of_times(),
            read_index_shared: Meter::of_counts(),
            forwarded_writes: Counter::default(),
            forwarded_reads: Counter::default(),
            forwarded_changes: Counter::default(),
            received_bytes: Counter::default(),
            receiving_nanos: Counter::default(),
            resumed: Counter::default(),
            install: Meter::of_times(),
        }
    }
}

/// What a node has counted since it was opened, and how old its news of the others is. Times are in seconds.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// The last entry that the database's files hold: after a crash, what comes behind it is applied again.
    pub durable_index: Option<u64>,
    /// Whether it votes for nobody yet, having started a moment ago.
    pub is_guarded: bool,
    /// How long ago that was sent which each other node has answered last; of one that has not answered this leader, how long
    /// ago this node stood for election. Empty unless it leads.
    pub peer_ack_ages: BTreeMap<u64, Duration>,
    /// The same of so many nodes that they are a majority with this one; nothing unless it leads.
    pub quorum_ack_age: Option<Duration>,
    /// Elections that it began, by why: the cluster was `formed`, there was `no_leader`, or a `transfer`.
    pub elections: [(&'static str, u64); 3],
    /// Writes handed to its log, by what became of them: `applied`; `refused` before anything was done; `not_leader`, for
    /// another node has to do it; `unknown`, since it ceased to lead meanwhile.
    pub proposals: [(&'static str, u64); 4],
    /// From when the first write of an entry was handed in until all of them were applied.
    pub propose_seconds: Histogram,
    /// To write and sync what somebody waits for in the log.
    pub sync_seconds: Histogram,
    /// Entries that shared a sync.
    pub synced_entries: Histogram,
    /// Bytes of these.
    pub synced_bytes: Histogram,
    /// To apply committed entries together.
    pub apply_seconds: Histogram,
    /// Entries that were applied together.
    pub applied_entries: Histogram,
    /// Writes in the log that had been applied before, and got the answer of then.
    pub repeats: u64,
    /// To be told at which entry a read may be served.
    pub read_index_seconds: Histogram,
    /// Reads that were told together.
    pub read_index_shared: Histogram,
    /// Requests sent to the leader, by what for: a `write`, a `read`, a `change` of members.
    pub forwards: [(&'static str, u64); 3],
    /// Bytes of snapshots that have come.
    pub snapshot_bytes: u64,
    /// How long they were coming.
    pub snapshot_seconds: f64,
    /// Snapshots that went on coming where they had stopped.
    pub snapshots_resumed: u64,
    /// To replace the database by a snapshot, while nothing is applied.
    pub install_seconds: Histogram,
}

impl Node {
    /// What it has counted.
    pub fn metrics(&self) -> Metrics {
        let (inner, meters) = (&self.inner, &self.inner.meters);
        let place = inner.db.durable_position().map(|position| Place::decode(&position));
        let applied = place.ok().and_then(Result::ok).and_then(|place| place.applied);
        let (peer_ack_ages, quorum_ack_age) = self.ack_ages();
        let elections = &meters.elections;
        Metrics {
            durable_index: applied.map(|id| id.index),
            is_guarded: Instant::now() < inner.guarded_until,
            peer_ack_ages,
            quorum_ack_age,
            elections: [
                ("formed", elections.formed.read()),
                ("no_leader", elections.leaderless.read()),
                ("transfer", elections.transferred.read()),
            ],
            proposals: [
                ("applied", meters.writes_applied.read()),
                ("refused", meters.writes_refused.read()),
                ("not_leader", meters.writes_not_led.read()),
                ("unknown", meters.writes_unknown.read()),
            ],
            propose_seconds: meters.propose.read(),
            sync_seconds: meters.sync.read(),
            synced_entries: meters.synced_entries.read(),
            synced_bytes: meters.synced_bytes.read(),
            apply_seconds: meters.apply.read(),
            applied_entries: meters.applied_entries.read(),
            repeats: meters.repeats.read(),
            read_index_seconds: meters.read_index.read(),
            read_index_shared: meters.read_index_shared.read(),
            forwards: [
                ("write", meters.forwarded_writes.read()),
                ("read", meters.forwarded_reads.read()),
                ("change", meters.forwarded_changes.read()),
            ],
            snapshot_bytes: meters.received_bytes.read(),
            snapshot_seconds: Duration::from_nanos(meters.receiving_nanos.read()).as_secs_f64(),
            snapshots_resumed: meters.resumed.read(),
            install_seconds: meters.install.read(),
        }
    }

    /// How old the news is that a leader has of each other node, and of a majority.
    fn ack_ages(&self) -> (BTreeMap<u64, Duration>, Option<Duration>) {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let Some(heard) = metrics.heartbeat.as_ref() else { return (BTreeMap::new(), None) };
        // Nodes that were gone before it led must not look as if all were well.
        let Some(stood) = *self.inner.meters.elections.last.lock() else { return (BTreeMap::new(), None) };
        let others = heard.iter().filter(|(id, _)| **id != metrics.id);
        let ages = others.map(|(id, at)| (*id, at.map_or_else(|| stood.elapsed(), |at| at.elapsed())));
        let is_alone = metrics.membership_config.membership().voter_ids().all(|id| id == metrics.id);
        let quorum = match metrics.last_quorum_acked {
            _ if is_alone => Duration::ZERO,
            Some(at) => at.elapsed(),
            None => stood.elapsed(),
        };
        (ages.collect(), Some(quorum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_belongs_to_the_first_bound_that_is_not_below_it() {
        let meter = Meter::of_counts();
        for value in [0, 1, 2, 3, 1024, 1025] {
            meter.add(value);
        }
        let histogram = meter.read();
        let filled: Vec<(f64, u64)> = histogram.buckets.iter().copied().filter(|(_, n)| *n > 0).collect();
        assert_eq!(filled, [(1.0, 2), (2.0, 1), (4.0, 1), (1024.0, 1), (f64::INFINITY, 1)]);
        assert_eq!((histogram.count(), histogram.sum), (6, 2055.0));
    }

    #[test]
    fn times_are_told_in_seconds() {
        let meter = Meter::of_times();
        meter.add(100 * MICROSECOND);
        meter.add(60_000 * MILLISECOND);
        let Histogram { buckets, sum } = meter.read();
        assert_eq!(buckets[3], (0.0001, 1));
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 1)));
        assert_eq!(sum, 60.0001);
    }

    #[test]
    fn an_election_has_the_reason_for_which_it_was_begun() {
        let elections = Elections::default();
        let read = || [&elections.formed, &elections.leaderless, &elections.transferred].map(Counter::read);
        elections.begin(1);
        assert_eq!(read(), [1, 0, 0]);
        elections.hand(Some(1));
        elections.begin(2);
        assert_eq!(read(), [1, 0, 1]);
        elections.begin(3);
        assert_eq!(read(), [1, 1, 1]);
        // It declined, and later the leader was gone.
        elections.hand(Some(3));
        elections.hand(None);
        elections.begin(4);
        assert_eq!(read(), [1, 2, 1]);
    }
}
