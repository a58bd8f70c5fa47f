//! What must be so after every step, and what an answer may say.
//!
//! Every answer tells the sequence number of the moment that it is of, so whether a history is linearizable follows without a
//! search (Ongaro, *Consensus*, 2014, 6.4, read backwards): the order of numbers must agree with real time, and each read must
//! show of each key the newest write up to its number.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use openraft::EntryPayload;
use parking_lot::Mutex;

use super::network::Net;
use crate::node::Node;
use crate::types::LogId;

/// Where the clients' documents are.
pub(super) const COLLECTION: &str = "things";

/// Committed entries of a node that are compared again after each of its starts.
const AGAIN: u64 = 64;

/// What was asked and answered. A value is written once, by one request.
#[derive(Default)]
pub(super) struct History {
    /// Acknowledged writes: which key, and what was put; `None` for a delete.
    acknowledged: BTreeMap<u64, (String, Option<String>)>,
    /// Where each value was seen or acknowledged.
    places: BTreeMap<String, u64>,
    /// Values whose write was refused.
    refused: BTreeSet<String>,
    /// Deletes of each key of which nobody knows whether they were done, or will be.
    may_be_deleted: BTreeMap<String, u64>,
    /// The newest moment of any answer so far.
    newest: u64,
}

/// A document as a read found it.
pub(super) type Found = Option<(u64, String)>;

impl History {
    /// The newest moment that anybody has been told of: what begins now must not be older.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    fn seen_at(&mut self, value: &str, seq: u64) -> Result<(), String> {
        match self.places.insert(value.to_owned(), seq) {
            Some(before) if before != seq => Err(format!("{value} was written at {before} and at {seq}")),
            _ => Ok(()),
        }
    }

    /// A write was acknowledged that began when `after` was the newest.
    pub(super) fn written(
        &mut self,
        after: u64,
        seq: u64,
        key: &str,
        value: Option<&str>,
    ) -> Result<(), String> {
        if seq <= after {
            return Err(format!("{key} = {value:?} was acknowledged as {seq}, but began after {after}"));
        }
        let before = self.acknowledged.insert(seq, (key.to_owned(), value.map(str::to_owned)));
        if let Some(before) = before {
            return Err(format!("{seq} is {key} = {value:?}, and is {before:?}"));
        }
        self.newest = self.newest.max(seq);
        value.map_or(Ok(()), |value| self.seen_at(value, seq))
    }

    /// A write was refused.
    pub(super) fn refused(&mut self, value: &str) {
        self.refused.insert(value.to_owned());
    }

    /// A write begins.
    pub(super) fn begins(&mut self, key: &str, value: Option<&str>) {
        if value.is_none() {
            *self.may_be_deleted.entry(key.to_owned()).or_default() += 1;
        }
    }

    /// It is known what became of a write.
    pub(super) fn ends(&mut self, key: &str, value: Option<&str>) {
        if value.is_none() {
            *self.may_be_deleted.entry(key.to_owned()).or_default() -= 1;
        }
    }

    /// A key was read at `seq`.
    pub(super) fn read(&mut self, seq: u64, key: &str, found: &Found) -> Result<(), String> {
        let from = found.as_ref().map_or(0, |(version, _)| version + 1);
        let later = self.acknowledged.range(from..(seq + 1).max(from));
        let missed = later.rev().find(|(_, (of, _))| of == key);
        match (found, missed) {
            (Some((version, value)), _) if *version > seq => {
                return Err(format!("at {seq}, {key} = {value} of {version}"));
            }
            (Some((version, value)), Some((newer, what))) => {
                return Err(format!("at {seq}, {key} = {value} of {version}, but {newer} is {what:?}"));
            }
            (None, Some((newer, (_, Some(value)))))
                if self.may_be_deleted.get(key).is_none_or(|&deletes| deletes == 0) =>
            {
                return Err(format!("at {seq}, {key} is not there, but {newer} put {value}"));
            }
            _ => {}
        }
        if let Some((version, value)) = found {
            if self.refused.contains(value) {
                return Err(format!("{key} = {value}, which was refused"));
            }
            self.seen_at(value, *version)?;
        }
        Ok(())
    }

    /// A read that had to be linearizable was of `seq`, and began when `after` was the newest.
    pub(super) fn linearizable(&mut self, after: u64, seq: u64) -> Result<(), String> {
        if seq < after {
            return Err(format!("a linearizable read shows {seq}, but began after {after}"));
        }
        self.newest = self.newest.max(seq);
        Ok(())
    }
}

/// What was seen of the nodes.
pub(super) struct Checks {
    net: Net,
    history: Arc<Mutex<History>>,
    /// Who has led, in which terms.
    leaders: BTreeSet<(u64, u64)>,
    /// Committed entries: log id, and what is in them.
    committed: BTreeMap<u64, (LogId, u64)>,
    /// Up to where each node's were compared.
    compared: BTreeMap<u64, u64>,
    /// What the database holds after so many entries.
    states: BTreeMap<u64, (u64, u64, String)>,
    /// How far each node was in its present life.
    applied: BTreeMap<u64, u64>,
}

fn hash(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Everything in a database, as a number.
fn digest(snapshot: &lumen::Snapshot) -> Result<u64, String> {
    let mut hasher = DefaultHasher::new();
    for collection in snapshot.collections() {
        collection.hash(&mut hasher);
        let scanned = snapshot.scan(&collection, "", &mut |document| {
            (document.id, document.version, document.source).hash(&mut hasher);
            true
        });
        scanned.map_err(|error| error.to_string())?;
    }
    Ok(hasher.finish())
}

impl Checks {
    pub(super) fn new(net: Net) -> Checks {
        Checks {
            net,
            history: Arc::default(),
            leaders: BTreeSet::new(),
            committed: BTreeMap::new(),
            compared: BTreeMap::new(),
            states: BTreeMap::new(),
            applied: BTreeMap::new(),
        }
    }

    pub(super) fn history(&self) -> Arc<Mutex<History>> {
        self.history.clone()
    }

    /// A node lost its memory.
    pub(super) fn forget(&mut self, id: u64) {
        self.applied.remove(&id);
        if let Some(compared) = self.compared.get_mut(&id) {
            *compared = compared.saturating_sub(AGAIN);
        }
    }

    /// Looks at all nodes.
    pub(super) fn look(&mut self) {
        for id in self.net.running() {
            let Some(node) = self.net.node(id) else { continue };
            if let Err(found) = self.look_at(id, &node) {
                self.net.found(found);
            }
        }
    }

    fn look_at(&mut self, id: u64, node: &Node) -> Result<(), String> {
        let status = node.status();
        if let Some(failure) = &status.failure {
            return Err(format!("node {id} stopped: {failure}"));
        }
        if status.state == "leader" {
            let is_new = self.leaders.insert((status.term, id));
            if is_new {
                self.net.note("leader", (id, status.term));
            }
        }
        let (first, _) = node.inner.log.entries();
        let position = node.inner.db.durable_position().map_err(|error| error.to_string())?;
        let durable = crate::state_machine::Place::decode(&position).map_err(|error| error.to_string())?;
        let in_files = durable.applied.map_or(0, |applied| applied.index + 1);
        if first > in_files {
            return Err(format!(
                "node {id} let go of entries before {first}, its files end before {in_files}"
            ));
        }
        self.compare_log(id, node, status.committed_index)?;
        self.compare_state(id, node)
    }

    /// What is committed never changes, and is the same everywhere.
    fn compare_log(&mut self, id: u64, node: &Node, committed: Option<u64>) -> Result<(), String> {
        let log = &node.inner.log;
        let (first, end) = log.entries();
        let end = end.min(committed.map_or(0, |index| index + 1));
        let from = self.compared.get(&id).copied().unwrap_or(0).max(first);
        if from >= end {
            return Ok(());
        }
        let entries = log.read(from, end, usize::MAX).map_err(|error| format!("node {id}: {error}"))?;
        for entry in &entries {
            let what = match &entry.payload {
                EntryPayload::Blank => 0,
                EntryPayload::Normal(proposed) => hash(&proposed.0[..]),
                EntryPayload::Membership(membership) => hash(format!("{membership:?}")),
            };
            let index = entry.log_id.index;
            let (before, was) = *self.committed.entry(index).or_insert((entry.log_id, what));
            if (before, was) != (entry.log_id, what) {
                return Err(format!(
                    "entry {index} was committed as {before}, and at node {id} it is {}",
                    entry.log_id
                ));
            }
        }
        if from + entries.len() as u64 != end {
            return Err(format!("node {id} has {} of the entries from {from} to {end}", entries.len()));
        }
        self.compared.insert(id, end);
        Ok(())
    }

    /// After as many entries, all hold the same.
    fn compare_state(&mut self, id: u64, node: &Node) -> Result<(), String> {
        let place = node.inner.machine.place();
        let snapshot = node.snapshot();
        let Some(applied) = place.applied else { return Ok(()) };
        let before = self.applied.insert(id, applied.index);
        if before.is_some_and(|before| before > applied.index) {
            return Err(format!("node {id} went back from entry {before:?} to {}", applied.index));
        }
        if before == Some(applied.index) {
            return Ok(());
        }
        let members = format!("{:?}", place.membership);
        let state = (snapshot.seq(), digest(&snapshot)?, members);
        let known = self.states.entry(applied.index).or_insert_with(|| state.clone());
        if *known != state {
            return Err(format!(
                "after entry {} node {id} holds {state:?}, another one {known:?}",
                applied.index
            ));
        }
        // Reads that nobody asked for must be right as well.
        if snapshot.collections().iter().any(|name| name == COLLECTION) {
            let mut history = self.history.lock();
            for key in super::clients::keys() {
                let found = super::clients::look_up(&snapshot, &key)?;
                history
                    .read(snapshot.seq(), &key, &found)
                    .map_err(|error| format!("at node {id}, {error}"))?;
            }
        }
        Ok(())
    }

    /// In the end, everything that was acknowledged is there: at all, for they hold the same.
    pub(super) fn holds_everything(&self, node: &Node) -> Result<(), String> {
        let (snapshot, mut history) = (node.snapshot(), self.history.lock());
        if snapshot.seq() < history.newest() {
            return Err(format!("all are at {}, but {} was told", snapshot.seq(), history.newest()));
        }
        for key in super::clients::keys() {
            let found = super::clients::look_up(&snapshot, &key)?;
            history.read(snapshot.seq(), &key, &found)?;
        }
        Ok(())
    }
}
