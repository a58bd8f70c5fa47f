//! Key-values in a simulated life: what is written to them, transactions and leases among it, and somebody who follows.
//!
//! What they hold is compared between nodes like all else. Beside that a copy is kept by the feed of changes, from whichever node
//! has news: it has to be what that node holds.

use std::collections::BTreeMap;

use lumen::{
    Change, Compare, Condition, KeyRange, KeyRow, KeyWrite, Scope, Snapshot, Target, Test, Transaction,
    Until, Write,
};

use super::Random;
use super::checks::COLLECTION;
use crate::error::Error;
use crate::node::Node;

const SPACE: &str = "s";
const KEYS: u64 = 6;
const LEASES: u64 = 3;
/// Pages that are read of a feed.
const PAGE_BYTES: usize = 2000;

fn key(number: u64) -> Vec<u8> {
    format!("k{number}").into_bytes()
}

fn put(random: &mut Random, condition: Condition) -> KeyWrite {
    let until = match random.below(4) {
        0 => Until::Ttl(1 + random.below(3000)),
        1 => Until::Lease(1 + random.below(LEASES)),
        _ => Until::Deleted,
    };
    let value = random.bits().to_le_bytes().to_vec();
    KeyWrite::Put {
        space: SPACE.into(),
        key: key(random.below(KEYS)),
        value,
        condition,
        until,
        returns: false,
    }
}

fn delete(random: &mut Random) -> KeyWrite {
    match random.below(3) {
        0 => {
            let (start, end) = (key(random.below(KEYS)), Some(key(random.below(KEYS))));
            KeyWrite::DeleteRange { space: SPACE.into(), start, end }
        }
        _ => KeyWrite::Delete {
            space: SPACE.into(),
            key: key(random.below(KEYS)),
            condition: Condition::Always,
            returns: false,
        },
    }
}

/// Something to be done to them.
pub(super) fn write(random: &mut Random) -> Write {
    let lease = 1 + random.below(LEASES);
    Write::Keys(match random.below(20) {
        0..=6 => put(random, Condition::Always),
        7 => put(random, Condition::Absent),
        8..=10 => delete(random),
        11..=12 => KeyWrite::Grant { lease, ttl: 1 + random.below(5000) },
        13 => KeyWrite::KeepAlive { lease },
        14 => KeyWrite::Revoke { lease },
        15 => {
            let writes = (0..3).map(|_| Write::Keys(put(random, Condition::Present)));
            return Write::Batch(writes.collect());
        }
        _ => {
            let target = Target::Key { space: SPACE.into(), key: key(random.below(KEYS)) };
            let test = if random.happens(500) { Test::Absent } else { Test::Present };
            let then = vec![
                Write::Keys(put(random, Condition::Always)),
                Write::Keys(delete(random)),
                Write::Read(target.clone()),
            ];
            let otherwise = vec![
                Write::Read(Target::Document { collection: COLLECTION.into(), id: "k0".into() }),
                Write::Keys(delete(random)),
            ];
            let when = vec![Compare { target, test }];
            return Write::Transaction(Transaction { when, then, otherwise });
        }
    })
}

/// Everything that a snapshot holds of them.
pub(super) fn all(snapshot: &Snapshot) -> Result<BTreeMap<Vec<u8>, Held>, String> {
    let mut all = BTreeMap::new();
    let row = &mut |row: KeyRow<'_>| {
        let expires = row.expires.filter(|_| row.lease.is_none());
        all.insert(row.key.to_vec(), Held { value: row.value.to_vec(), expires, lease: row.lease });
        true
    };
    snapshot.scan_keys(SPACE, &KeyRange::ALL, row).map_err(|error| error.to_string())?;
    Ok(all)
}

/// A value and what ends it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Held {
    value: Vec<u8>,
    expires: Option<u64>,
    lease: Option<u64>,
}

/// A copy that is kept by following.
#[derive(Default)]
pub(super) struct Follower {
    seq: u64,
    copy: BTreeMap<Vec<u8>, Held>,
    /// Changes that were told.
    told: u64,
}

impl Follower {
    /// How many changes were told.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    /// Reads what a node has to tell, and compares.
    pub(super) fn follow(&mut self, id: u64, node: &Node) -> Result<(), String> {
        let scope = Scope::Keys { space: SPACE.into(), start: Vec::new(), end: None };
        let mut changes = match node.changes(Some(self.seq), scope) {
            Ok(changes) => changes,
            Err(Error::Database(lumen::Error::NotYet { .. })) => return Ok(()),
            Err(Error::Database(lumen::Error::Compacted { .. })) => {
                let snapshot = node.snapshot();
                (self.seq, self.copy) = (snapshot.seq(), all(&snapshot)?);
                return Ok(());
            }
            Err(error) => return Err(format!("node {id} tells no changes: {error}")),
        };
        while changes.is_behind() {
            let page = changes.read(PAGE_BYTES).map_err(|error| format!("node {id}, changes: {error}"))?;
            for changed in page {
                if changed.seq <= self.seq || changed.changes.is_empty() {
                    return Err(format!("node {id} tells of {} after {}", changed.seq, self.seq));
                }
                self.seq = changed.seq;
                self.told += changed.changes.len() as u64;
                changed.changes.into_iter().for_each(|change| self.apply(change));
            }
        }
        self.seq = changes.seq();
        let snapshot = node.snapshot();
        if snapshot.seq() != self.seq {
            return Err(format!("node {id} holds {}, and its changes end at {}", snapshot.seq(), self.seq));
        }
        // What has expired is gone for everybody before the log says so.
        let lives = |held: &Held| {
            let lease =
                held.lease.map_or(Ok(true), |lease| snapshot.lease(lease).map(|lease| lease.is_some()));
            let lease = lease.map_err(|error| error.to_string())?;
            Ok::<bool, String>(lease && held.expires.is_none_or(|expires| expires > snapshot.time()))
        };
        let mut copy = BTreeMap::new();
        for (key, held) in &self.copy {
            if lives(held)? {
                copy.insert(key.clone(), held.clone());
            }
        }
        let holds = all(&snapshot)?;
        if copy != holds {
            return Err(format!("at {} node {id} holds {holds:?}, by its changes {copy:?}", self.seq));
        }
        Ok(())
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::KeyPut { key, value, expires, lease, .. } => {
                self.copy.insert(key, Held { value, expires, lease });
            }
            Change::KeyDeleted { key, .. } => drop(self.copy.remove(&key)),
            Change::KeysDeleted { start, end, .. } => {
                self.copy.retain(|key, _| *key < start || end.as_ref().is_some_and(|end| key >= end));
            }
            _ => {}
        }
    }
}
