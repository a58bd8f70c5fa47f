//! What is counted, as OpenMetrics text at `/metrics`.
//!
//! Requests are counted as they happen. What the database counts itself (syncs, groups, memory, levels, segments) is
//! read from `Database::stats` when somebody asks, so that nothing is counted twice. What a node of a cluster shows beside is in
//! `raft`.

mod raft;

use std::fmt;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use lumen::{EngineStats, Stats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::store::Store;

/// Upper bounds of the latency histogram in seconds: a synced write takes 0.1 to 10 ms, a search 0.05 to 100.
const LATENCY_BOUNDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: &'static str,
}

/// The registry of one node.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    latency: Family<RouteLabels, Histogram, fn() -> Histogram>,
    in_flight: Gauge<i64, AtomicI64>,
    connections: Gauge<i64, AtomicI64>,
    followers: Gauge<i64, AtomicI64>,
    searches_given_up: Counter,
}

impl Metrics {
    /// A registry that also reads the counters of the database, and of the cluster if it is in one.
    pub(crate) fn new(store: Store) -> Metrics {
        let mut registry = Registry::with_prefix("lumen");
        let requests = Family::<RequestLabels, Counter>::default();
        let histogram: fn() -> Histogram = || Histogram::new(LATENCY_BOUNDS);
        let latency = Family::new_with_constructor(histogram);
        let in_flight = Gauge::default();
        let connections = Gauge::default();
        let followers = Gauge::default();
        let searches_given_up = Counter::default();
        registry.register("http_requests", "Requests answered", requests.clone());
        let help = "Time from the request's headers to its answer";
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, latency.clone());
        registry.register("http_requests_in_flight", "Requests being answered now", in_flight.clone());
        registry.register("http_connections", "Connections open now", connections.clone());
        registry.register("followers", "Clients that follow changes now", followers.clone());
        let help = "Searches that were stopped because their client left or their time was up";
        registry.register("searches_given_up", help, searches_given_up.clone());
        registry.register_collector(Box::new(StoreCollector { store }));
        Metrics { registry, requests, latency, in_flight, connections, followers, searches_given_up }
    }

    /// Counts one answered request.
    pub(crate) fn answered(&self, method: &'static str, route: &'static str, status: u16, took: Duration) {
        self.requests.get_or_create(&RequestLabels { method, route, status }).inc();
        self.latency.get_or_create(&RouteLabels { method, route }).observe(took.as_secs_f64());
    }

    /// Counts a search that was stopped.
    pub(crate) fn search_given_up(&self) {
        self.searches_given_up.inc();
    }

    /// Counts a request as being answered until the guard is dropped.
    pub(crate) fn request(&self) -> Held {
        Held::new(&self.in_flight)
    }

    /// Counts a connection as open until the guard is dropped.
    pub(crate) fn connection(&self) -> Held {
        Held::new(&self.connections)
    }

    /// Counts a client that follows changes until the guard is dropped.
    pub(crate) fn follower(&self) -> Held {
        Held::new(&self.followers)
    }

    /// The OpenMetrics text.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

/// One more on a gauge for as long as it lives.
pub(crate) struct Held(Gauge<i64, AtomicI64>);

impl Held {
    fn new(gauge: &Gauge<i64, AtomicI64>) -> Held {
        gauge.inc();
        Held(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

struct StoreCollector {
    store: Store,
}

impl fmt::Debug for StoreCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreCollector")
    }
}

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let stats: Stats = self.store.stats();
        let (journal, engine) = (&stats.journal, &stats.engine);
        gauge(&mut encoder, "seq", "Sequence number that reads and searches see", stats.seq)?;
        gauge(
            &mut encoder,
            "durable_seq",
            "Sequence number that tables and segments hold",
            stats.durable_seq,
        )?;
        counter(&mut encoder, "journal_syncs", "Syncs of the journal", journal.syncs)?;
        counter(&mut encoder, "journal_entries", "Log entries written", journal.entries)?;
        let help = "Groups of entries that shared a sync; entries / groups is the group size";
        counter(&mut encoder, "journal_groups", help, journal.groups)?;
        counter(&mut encoder, "journal_bytes", "Bytes written to the journal", journal.bytes)?;
        gauge(&mut encoder, "memtable_bytes", "Bytes in the memtable", engine.memtable_bytes)?;
        gauge(&mut encoder, "frozen_memtables", "Memtables waiting to be flushed", engine.frozen_memtables)?;
        counter(&mut encoder, "flushes", "Memtables written to tables", engine.flushes)?;
        counter(&mut encoder, "compactions", "Compactions done", engine.compactions)?;
        counter(&mut encoder, "compacted_bytes", "Bytes written by compactions", engine.compacted_bytes)?;
        counter(&mut encoder, "cache_hits", "Blocks found in the cache", engine.cache_hits)?;
        counter(&mut encoder, "cache_misses", "Blocks read from disk", engine.cache_misses)?;
        gauge(&mut encoder, "cache_bytes", "Bytes of blocks in the cache", engine.cache_bytes)?;
        encode_engine(&mut encoder, engine)?;
        let levels = || engine.levels.iter().enumerate().map(|(n, level)| (n.to_string(), level));
        let tables = levels().map(|(n, level)| (n, level.tables));
        family(&mut encoder, "level_tables", "Tables by level", "level", MetricType::Gauge, tables)?;
        let bytes = levels().map(|(n, level)| (n, level.bytes));
        family(&mut encoder, "level_bytes", "Bytes of tables by level", "level", MetricType::Gauge, bytes)?;

        if let Store::Cluster(node) = &self.store {
            raft::encode(&mut encoder, node)?;
        }
        let columns = [
            ("documents", "Live documents", MetricType::Gauge),
            ("index_segments", "Index segments on disk", MetricType::Gauge),
            ("index_runs", "Index runs in memory", MetricType::Gauge),
            ("index_memory_bytes", "Bytes of the index in memory", MetricType::Gauge),
            ("index_segment_bytes", "Bytes of index segments", MetricType::Gauge),
            ("index_merges", "Index merges done", MetricType::Counter),
        ];
        for (column, (name, help, kind)) in columns.into_iter().enumerate() {
            let values = stats.collections.iter().map(|c| {
                let row = [c.documents, c.segments, c.runs, c.memory_bytes, c.segment_bytes, c.merges];
                (c.name.clone(), row[column])
            });
            family(&mut encoder, name, help, "collection", kind, values)?;
        }
        Ok(())
    }
}

/// What tells how the tree is doing: write amplification is `(flushed + compacted) / user` bytes, for one.
fn encode_engine(encoder: &mut DescriptorEncoder<'_>, engine: &EngineStats) -> fmt::Result {
    counter(encoder, "user_bytes", "Bytes of keys and values written", engine.user_bytes)?;
    counter(encoder, "flushed_bytes", "Bytes written by flushes", engine.flushed_bytes)?;
    let help = "Bytes of tables read by compactions";
    counter(encoder, "compaction_read_bytes", help, engine.compaction_read_bytes)?;
    let reasons = engine.compactions_by_reason.iter().map(|(reason, count)| ((*reason).into(), *count));
    let help = "Compactions done, by what made them necessary";
    family(encoder, "compactions_by_reason", help, "reason", MetricType::Counter, reasons)?;
    gauge(encoder, "compaction_debt_bytes", "Bytes of compaction that are due, about", engine.debt_bytes)?;
    gauge(encoder, "level0_depth", "Tables over one another in level 0, at most", engine.level0_depth)?;
    let stalls = || engine.stalls_by_reason.iter();
    let counts = stalls().map(|stall| (stall.reason.into(), stall.count));
    let help = "Times a writer waited, by what for";
    family(encoder, "stalls", help, "reason", MetricType::Counter, counts)?;
    let times = stalls().map(|stall| (stall.reason.into(), stall.took.as_millis() as u64));
    let help = "Milliseconds that writers waited, by what for";
    family(encoder, "stall_milliseconds", help, "reason", MetricType::Counter, times)?;
    let full = u64::from(engine.disk_full);
    gauge(encoder, "disk_full", "1 while writes are refused for want of room on the disk", full)?;
    counter(encoder, "gets", "Look-ups by key", engine.gets)?;
    counter(encoder, "get_reads", "Blocks that they read from files", engine.get_reads)?;
    let help = "Bytes of tables and blob files that hold what lives, estimated";
    gauge(encoder, "live_bytes", help, engine.live_bytes)?;
    let help = "Look-ups that a filter stopped, the key not being in the table";
    counter(encoder, "filter_stopped", help, engine.filter_stopped)?;
    let help = "Look-ups that a filter let pass although the key was not in the table";
    counter(encoder, "filter_false", help, engine.filter_false)?;
    let help = "Bytes of filters and indexes held beside the cache, within its budget";
    gauge(encoder, "pinned_bytes", help, engine.pinned_bytes)?;
    gauge(encoder, "blob_bytes", "Bytes of files of long values", engine.blob_bytes)?;
    gauge(encoder, "blob_bytes_used", "Bytes of those that are still needed", engine.blob_bytes_used)?;
    let held = engine.oldest_snapshot.map_or(0, |age| age.as_secs());
    let help = "For how long a reader has kept files from being removed";
    gauge(encoder, "oldest_snapshot_seconds", help, held)?;
    let help = "Ranges of keys that damage has made unreadable";
    gauge(encoder, "quarantines", help, engine.quarantines)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    encode_gauge(value, descriptor)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(descriptor)
}

fn encode_gauge(value: u64, encoder: MetricEncoder<'_>) -> fmt::Result {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder)
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    kind: MetricType,
    values: impl Iterator<Item = (String, u64)>,
) -> fmt::Result {
    let mut descriptor = encoder.encode_descriptor(name, help, None, kind)?;
    for (label_value, value) in values {
        let labels = [(label, label_value)];
        let member = descriptor.encode_family(&labels)?;
        match kind {
            MetricType::Counter => ConstCounter::new(value).encode(member)?,
            _ => encode_gauge(value, member)?,
        }
    }
    Ok(())
}
