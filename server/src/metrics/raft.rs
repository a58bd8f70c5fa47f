//! What a node of a cluster shows of its replicated log: where it is, what it hears of the others, how long its work takes.

use std::fmt;

use lumen_raft::metrics::{Histogram, Metrics};
use lumen_raft::{Node, Status};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::{counter, family, gauge};
use crate::peer;

/// Writes all of it.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, node: &Node) -> fmt::Result {
    let (status, metrics, log) = (node.status(), node.metrics(), node.log_stats());
    encode_place(encoder, &status, &metrics)?;
    encode_others(encoder, &status, &metrics)?;
    encode_writes(encoder, &metrics)?;
    counter(encoder, "raft_log_syncs", "Syncs of the replicated log", log.syncs)?;
    counter(encoder, "raft_log_records", "Records written to it", log.records)?;
    counter(encoder, "raft_log_bytes", "Bytes written to it", log.bytes)?;
    encode_reads(encoder, &metrics)?;
    encode_snapshots(encoder, &metrics)
}

fn encode_place(encoder: &mut DescriptorEncoder<'_>, status: &Status, metrics: &Metrics) -> fmt::Result {
    gauge(encoder, "raft_term", "The term this node is in", status.term)?;
    gauge(encoder, "raft_is_leader", "1 if this node leads", u64::from(status.leader == Some(status.id)))?;
    gauge(encoder, "raft_leader_id", "Who leads; 0 when nobody is known to", status.leader.unwrap_or(0))?;
    let indexes = [
        ("raft_last_index", "The last entry of the log", status.last_log_index),
        ("raft_commit_index", "The last entry known to be committed", status.committed_index),
        ("raft_applied_index", "The last entry applied", status.applied_index),
        ("raft_purged_index", "The last entry that the log has let go", status.purged_index),
        (
            "raft_durable_index",
            "The last entry that tables and segments hold; after a crash, what comes behind it is applied again",
            metrics.durable_index,
        ),
    ];
    for (name, help, index) in indexes {
        gauge(encoder, name, help, index.unwrap_or(0))?;
    }
    gauge(encoder, "raft_voters", "Nodes that vote", status.voters.len() as u64)?;
    gauge(encoder, "raft_members", "Nodes in the cluster", status.members.len() as u64)?;
    let help = "1 while this node votes for nobody, since it started a moment ago";
    gauge(encoder, "raft_boot_guard_active", help, u64::from(metrics.is_guarded))?;
    let help = "Version of what this node says to others; nodes of different ones do not talk";
    gauge(encoder, "raft_protocol_version", help, peer::PROTOCOL)
}

fn encode_others(encoder: &mut DescriptorEncoder<'_>, status: &Status, metrics: &Metrics) -> fmt::Result {
    let last = status.last_log_index.unwrap_or(0);
    let lags = status.replicated.iter().filter(|(id, _)| **id != status.id);
    let lags = lags.map(|(id, at)| (id.to_string(), last.saturating_sub(at.unwrap_or(0))));
    let help = "Entries a node is behind, as the leader sees it";
    family(encoder, "raft_peer_lag_entries", help, "peer", MetricType::Gauge, lags)?;
    let help = "Age of the last message that a node has answered, as the leader sees it; of one that has never answered this \
                leader, time since it stood for election";
    let mut ages =
        encoder.encode_descriptor("raft_peer_ack_age", help, Some(&Unit::Seconds), MetricType::Gauge)?;
    for (id, age) in &metrics.peer_ack_ages {
        let labels = [("peer", id.to_string())];
        ConstGauge::new(age.as_secs_f64()).encode(ages.encode_family(&labels)?)?;
    }
    let help = "The same of so many nodes that they are a majority with the leader, which alone shows it";
    let quorum =
        encoder.encode_descriptor("raft_quorum_ack_age", help, Some(&Unit::Seconds), MetricType::Gauge)?;
    if let Some(age) = metrics.quorum_ack_age {
        ConstGauge::new(age.as_secs_f64()).encode(quorum)?;
    }
    let help = "Elections that this node began, by why: it formed the cluster, heard of no leader, or was handed over to";
    labelled(encoder, "raft_elections", help, "reason", &metrics.elections)
}

fn encode_writes(encoder: &mut DescriptorEncoder<'_>, metrics: &Metrics) -> fmt::Result {
    let help = "Writes handed to this node's log, by what became of them: applied, refused before anything was done, not \
                taken since another node leads, or unknown since it ceased to lead meanwhile";
    labelled(encoder, "raft_proposals", help, "result", &metrics.proposals)?;
    let help = "Requests sent to the leader, by what for: a write, a read, a change of members";
    labelled(encoder, "raft_forward", help, "reason", &metrics.forwards)?;
    let help = "Writes that came up in the log once more and were answered as before, not done again";
    counter(encoder, "raft_dedup_hits", help, metrics.repeats)?;
    let help = "Time from when the first write of an entry was handed in until the entry was applied";
    times(encoder, "raft_propose", help, &metrics.propose_seconds)?;
    let help = "Time to write and sync what somebody waits for in the log";
    times(encoder, "raft_wal_fsync", help, &metrics.sync_seconds)?;
    let help = "Entries that shared a sync";
    histogram(encoder, "raft_wal_group_entries", help, None, &metrics.synced_entries)?;
    let help = "Bytes of entries that shared a sync";
    histogram(encoder, "raft_wal_group", help, Some(&Unit::Bytes), &metrics.synced_bytes)?;
    let help = "Time to apply committed entries together";
    times(encoder, "raft_apply", help, &metrics.apply_seconds)?;
    let help = "Entries that were applied together";
    histogram(encoder, "raft_apply_batch", help, None, &metrics.applied_entries)
}

fn encode_reads(encoder: &mut DescriptorEncoder<'_>, metrics: &Metrics) -> fmt::Result {
    let help = "Time to learn from the leader at which entry a read may be served";
    times(encoder, "raft_readindex", help, &metrics.read_index_seconds)?;
    let help = "Reads that learned it together";
    histogram(encoder, "raft_readindex_shared", help, None, &metrics.read_index_shared)
}

fn encode_snapshots(encoder: &mut DescriptorEncoder<'_>, metrics: &Metrics) -> fmt::Result {
    let (bytes, seconds) = (metrics.snapshot_bytes, metrics.snapshot_seconds);
    let help = "Bytes of snapshots that came from other nodes";
    let received =
        encoder.encode_descriptor("raft_snapshot", help, Some(&Unit::Bytes), MetricType::Counter)?;
    ConstCounter::new(bytes).encode(received)?;
    let help = "Time in which they came";
    let receiving =
        encoder.encode_descriptor("raft_snapshot", help, Some(&Unit::Seconds), MetricType::Counter)?;
    ConstCounter::new(seconds).encode(receiving)?;
    let help = "Snapshots that went on coming where they had stopped";
    counter(encoder, "raft_snapshot_resumed", help, metrics.snapshots_resumed)?;
    let help = "Time to replace the database by a snapshot that has come, in which nothing is applied";
    times(encoder, "raft_install", help, &metrics.install_seconds)
}

fn labelled(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    counts: &[(&str, u64)],
) -> fmt::Result {
    let counts = counts.iter().map(|(value, count)| ((*value).to_string(), *count));
    family(encoder, name, help, label, MetricType::Counter, counts)
}

fn times(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, times: &Histogram) -> fmt::Result {
    histogram(encoder, name, help, Some(&Unit::Seconds), times)
}

fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    values: &Histogram,
) -> fmt::Result {
    let mut descriptor = encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
    descriptor.encode_histogram::<NoLabelSet>(values.sum, values.count(), &values.buckets, None)
}
