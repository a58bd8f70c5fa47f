//! What must be so after every step, and in the end of all that was answered.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use openraft::{EntryPayload, ServerState};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::history::{self, Asked, Operation, Told};
use super::keys::{self, Follower};
use super::network::Net;
use crate::node::Node;
use crate::state_machine::Place;
use crate::types::LogId;

/// Where the clients' documents are.
pub(super) const COLLECTION: &str = "things";

/// Committed entries of a node that are compared again after each of its starts.
const AGAIN: u64 = 64;

/// What was asked and answered so far, looked at in the end.
#[derive(Default)]
pub(super) struct Answers {
    operations: Vec<Operation>,
    /// Counts what begins and ends, which are in this order.
    clock: u64,
    /// The newest moment that was told, each with when that was.
    newest: Vec<(Instant, u64)>,
}

impl Answers {
    /// A client asks; answers the number of the operation, of which nobody knows the outcome until it is told.
    pub(super) fn ask(&mut self, key: &str, asked: Asked) -> usize {
        let key = key.bytes().fold(0, |key, byte| key << 8 | u64::from(byte));
        self.clock += 1;
        let (began, ended) = (self.clock, u64::MAX);
        self.operations.push(Operation { key, asked, told: Told::Unknown, began, ended });
        self.operations.len() - 1
    }

    /// It was told this.
    pub(super) fn tell(&mut self, number: usize, told: Told) {
        self.clock += 1;
        (self.operations[number].told, self.operations[number].ended) = (told, self.clock);
        if let Told::Done(seq) | Told::Found(seq, _) = told
            && seq > self.newest()
        {
            self.newest.push((Instant::now(), seq));
        }
    }

    fn newest(&self) -> u64 {
        self.newest.last().map_or(0, |(_, seq)| *seq)
    }

    /// The newest moment that anybody had been told of at a time.
    pub(super) fn newest_at(&self, time: Instant) -> u64 {
        let later = self.newest.partition_point(|(told, _)| *told <= time);
        later.checked_sub(1).map_or(0, |last| self.newest[last].1)
    }

    /// How many operations there are.
    pub(super) fn count(&self) -> u64 {
        self.operations.len() as u64
    }

    pub(super) fn check(&self) -> Result<(), String> {
        history::check(&self.operations)
    }
}

/// What was seen of the nodes.
pub(super) struct Checks {
    net: Net,
    answers: Arc<Mutex<Answers>>,
    /// Who has led, in which terms.
    leaders: BTreeSet<(u64, u64)>,
    /// Committed entries: log id, and what is in them.
    committed: BTreeMap<u64, (LogId, u64)>,
    /// Up to where each node's were compared.
    compared: BTreeMap<u64, u64>,
    /// What each node's files were said to hold, and how many entries that are.
    durable: BTreeMap<u64, (Vec<u8>, u64)>,
    /// What the database holds after so many entries.
    states: BTreeMap<u64, (u64, u64, Place)>,
    /// How far each node was in its present life.
    applied: BTreeMap<u64, u64>,
    /// Who follows what happens to key-values.
    follower: Follower,
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
    keys::all(snapshot)?.hash(&mut hasher);
    Ok(hasher.finish())
}

impl Checks {
    pub(super) fn new(net: Net) -> Checks {
        Checks {
            net,
            answers: Arc::default(),
            leaders: BTreeSet::new(),
            committed: BTreeMap::new(),
            compared: BTreeMap::new(),
            durable: BTreeMap::new(),
            states: BTreeMap::new(),
            applied: BTreeMap::new(),
            follower: Follower::default(),
        }
    }

    pub(super) fn answers(&self) -> Arc<Mutex<Answers>> {
        self.answers.clone()
    }

    /// How many changes were told to who follows.
    pub(super) fn told(&self) -> u64 {
        self.follower.told()
    }

    /// How many entries were committed.
    pub(super) fn committed(&self) -> u64 {
        self.committed.len() as u64
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
        let committed = self.look_at_core(id, node)?;
        let (first, _) = node.inner.log.entries();
        let in_files = self.in_files(id, node)?;
        if first > in_files {
            return Err(format!(
                "node {id} let go of entries before {first}, its files end before {in_files}"
            ));
        }
        self.compare_log(id, node, committed)?;
        self.compare_state(id, node)
    }

    /// What openraft's core says of itself makes sense. Answers what is committed.
    fn look_at_core(&mut self, id: u64, node: &Node) -> Result<Option<u64>, String> {
        let metrics = node.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        if let Err(failure) = &metrics.running_state {
            return Err(format!("node {id} stopped: {failure}"));
        }
        if metrics.state == ServerState::Leader {
            let is_new = self.leaders.insert((metrics.current_term, id));
            if is_new {
                self.net.note("leader", (id, metrics.current_term));
            }
        }
        let committed = metrics.local_committed;
        let is_in_order = metrics.purged <= metrics.snapshot
            && metrics.snapshot <= metrics.last_applied
            && metrics.last_applied <= committed
            && committed.map(|id| id.index) <= metrics.last_log_index;
        if !is_in_order {
            return Err(format!("node {id}: let go, in files, applied, committed, there: {metrics:?}"));
        }
        Ok(committed.map(|id| id.index))
    }

    /// How many entries are in a node's files.
    fn in_files(&mut self, id: u64, node: &Node) -> Result<u64, String> {
        let position = node.inner.db.durable_position().map_err(|error| error.to_string())?;
        match self.durable.get(&id) {
            Some((known, in_files)) if *known == position => Ok(*in_files),
            _ => {
                let durable = Place::decode(&position).map_err(|error| error.to_string())?;
                let in_files = durable.applied.map_or(0, |applied| applied.index + 1);
                self.durable.insert(id, (position, in_files));
                Ok(in_files)
            }
        }
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
        let Some(applied) = node.inner.machine.applied() else { return Ok(()) };
        let before = self.applied.insert(id, applied.index);
        if before.is_some_and(|before| before > applied.index) {
            return Err(format!("node {id} went back from entry {before:?} to {}", applied.index));
        }
        if before == Some(applied.index) {
            return Ok(());
        }
        self.follower.follow(id, node)?;
        let snapshot = node.snapshot();
        let state = (snapshot.seq(), digest(&snapshot)?, node.inner.machine.place());
        match self.states.get(&applied.index) {
            Some(known) if *known != state => {
                let index = applied.index;
                return Err(format!("after entry {index} node {id} holds {state:?}, another one {known:?}"));
            }
            Some(_) => return Ok(()),
            None => _ = self.states.insert(applied.index, state),
        }
        // Reads that nobody asked for must be right as well.
        if snapshot.collections().iter().any(|name| name == COLLECTION) {
            self.note_all(&snapshot, Asked::ReadSince(0))?;
        }
        Ok(())
    }

    /// Notes what a snapshot has of each key.
    fn note_all(&self, snapshot: &lumen::Snapshot, asked: Asked) -> Result<(), String> {
        let mut answers = self.answers.lock();
        for key in super::clients::keys() {
            let number = answers.ask(&key, asked);
            answers.tell(number, Told::Found(snapshot.seq(), super::clients::look_up(snapshot, &key)?));
        }
        Ok(())
    }

    /// In the end, everything that was acknowledged is there: at all, for they hold the same; and one order explains all answers.
    pub(super) fn holds_everything(&self, node: &Node) -> Result<(), String> {
        self.note_all(&node.snapshot(), Asked::Read)?;
        self.answers.lock().check()
    }
}
