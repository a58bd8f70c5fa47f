//! Going on alone after the other voters are lost for good: a node that does not run becomes a cluster of its own, with all
//! that it holds.
//!
//! What a majority would have to agree to is written into its log behind everything else: a vote for itself in a new term, and
//! an entry that makes it the only member of a cluster with a new number. It has the only vote there is, so all entries it
//! holds are committed, those too of which nobody was told: they are applied, and the log lets them go, because who joins
//! must not learn from them of the old cluster. The new number keeps lost nodes out that come back: they hold another
//! history. (As etcd's `--force-new-cluster`; Ongaro's dissertation knows no such step, for it breaks
//! the promise that an acknowledged write survives: those are lost that this node never got.)

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use futures_util::FutureExt;
use lumen::Database;
use lumen_engine::options::random_id;
use openraft::EntryPayload;
use openraft::storage::IOFlushed;
use openraft::type_config::TypeConfigExt;

use crate::error::{Error, Result};
use crate::inspect::FOLDER;
use crate::log::{LogSetup, LogStore};
use crate::node::replay;
use crate::snapshot::Home;
use crate::state_machine::StateMachine;
use crate::types::{Entry, LeaderId, LogId, Member, Membership, TypeConfig, Vote};

/// What a node that does not run would go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// Its number.
    pub id: u64,
    /// All members of its cluster, as it knows them.
    pub members: BTreeMap<u64, Member>,
    /// Those of them that vote.
    pub voters: BTreeSet<u64>,
    /// The last entry of its log, and the term it is of: of several that are left, the one with the largest (term, index) has
    /// lost least.
    pub last: (u64, u64),
    /// Entries up to here were known to be committed.
    pub committed: u64,
    /// Its files tell of more than one cluster: it was about to go on alone, and has to be told so again before others can join.
    pub is_unfinished: bool,
}

/// The numbers of the clusters that a membership is of; one, if it has members.
fn clusters_of(membership: &Membership) -> BTreeSet<[u8; 16]> {
    membership.nodes().map(|(_, member)| member.cluster).collect()
}

struct Stopped {
    db: Database,
    log: LogStore,
    machine: StateMachine,
    survivor: Survivor,
}

impl Stopped {
    /// Takes hold of the folder, so that it cannot be started meanwhile.
    fn open(dir: &Path, options: lumen::Options) -> Result<Stopped> {
        let refuse = |reason: String| Err(Error::Membership { reason });
        if options.vfs.list(&dir.join(FOLDER)).map_or(true, |names| names.is_empty()) {
            return refuse(format!("{} holds no node of a cluster", dir.display()));
        }
        let db = Database::open_replica(dir, options.clone())?;
        // Each call syncs by itself, and says so when it returns.
        let setup = LogSetup { threaded: false, ..LogSetup::of(&db, &options, 1 << 20) };
        let log = LogStore::open(&dir.join(FOLDER), setup)?;
        let Some(id) = log.node() else { return refuse("the node has no number yet".into()) };
        let machine = StateMachine::new(db.clone(), Home::of(dir, &options), log.meters().clone())?;
        let place = machine.place();
        let mut membership = place.membership.membership().clone();
        let applied_end = place.applied.map_or(0, |applied| applied.index + 1);
        let mut clusters = clusters_of(&membership);
        let (first, end) = log.entries();
        log.walk(first, end, &mut |entries| {
            for entry in entries {
                if let EntryPayload::Membership(of_entry) = entry.payload {
                    clusters.extend(clusters_of(&of_entry));
                    if entry.log_id.index >= applied_end {
                        membership = of_entry;
                    }
                }
            }
            Ok(())
        })?;
        let (purged, last) = log.ends();
        let Some(last) = last.or(purged).max(place.applied) else {
            return refuse("the node was never in a cluster".into());
        };
        let survivor = Survivor {
            id,
            members: membership.nodes().map(|(id, member)| (*id, member.clone())).collect(),
            voters: membership.voter_ids().collect(),
            last: (last.leader_id.term, last.index),
            is_unfinished: clusters.len() > 1,
            committed: log.committed().max(place.applied).map_or(0, |committed| committed.index),
        };
        Ok(Stopped { db, log, machine, survivor })
    }

    /// Brings all entries into the database's files.
    fn apply_all(&self) -> Result<()> {
        replay(&self.log, &self.machine, self.log.entries().1)?;
        Ok(self.db.flush()?)
    }

    fn close(self) -> Result<()> {
        self.db.close()?;
        self.log.close()
    }
}

/// What would go on. Nothing is decided by looking.
///
/// Errors: [`Error::Membership`] where there is no node of a cluster; [`lumen::Error::InUse`] while it runs; damage.
pub fn look(dir: &Path, options: lumen::Options) -> Result<Survivor> {
    let stopped = Stopped::open(dir, options)?;
    let survivor = stopped.survivor.clone();
    stopped.close()?;
    Ok(survivor)
}

/// Makes the node a cluster of its own, durably; it is in force when the node starts. Nothing is lost of what it holds; what
/// only other nodes hold is.
///
/// Errors: as [`look`], and [`Error::Membership`] if the node is no member of its cluster any more.
pub fn go_on_alone(dir: &Path, options: lumen::Options) -> Result<Survivor> {
    let random = options.random;
    let stopped = Stopped::open(dir, options)?;
    let survivor = stopped.survivor.clone();
    let id = survivor.id;
    let Some(member) = survivor.members.get(&id) else {
        return Err(Error::Membership { reason: format!("node {id} is no member of its cluster any more") });
    };
    let member =
        Member { cluster: random_id(random), store: stopped.db.id(), joining: false, ..member.clone() };
    let log = &stopped.log;
    let term = log.vote().map_or(0, |vote| vote.leader_id.term).max(survivor.last.0) + 1;
    let told = |error: std::io::Error| Error::Io { reason: error.to_string() };
    let vote = Vote { leader_id: LeaderId { term, node_id: id }, committed: false };
    let late = |_| Error::Io { reason: "the log was not told to be durable".into() };
    log.save_vote(&vote).map_err(told)?.try_recv().map_err(late)?.map_err(told)?;
    let membership = Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, member)]))
        .map_err(|error| Error::Membership { reason: error.to_string() })?;
    // It may have been installed from files, and stopped before its log knew.
    if let Some(applied) = stopped.machine.place().applied.filter(|applied| Some(*applied) > log.ends().1) {
        log.purge_upto(applied).map_err(told)?;
    }
    let log_id = LogId { leader_id: LeaderId { term, node_id: id }, index: survivor.last.1 + 1 };
    let entry = Entry { log_id, payload: EntryPayload::Membership(membership) };
    let (sender, receiver) = TypeConfig::oneshot();
    log.append_entries([entry], IOFlushed::signal(sender)).map_err(told)?;
    let durable = receiver.now_or_never().and_then(std::result::Result::ok);
    durable
        .ok_or_else(|| Error::Io { reason: "the log was not told to be durable".into() })?
        .map_err(told)?;
    // From here on it is decided: what follows is only done sooner, so that nobody learns of the old cluster.
    stopped.apply_all()?;
    log.purge_upto(log_id).map_err(told)?;
    stopped.close()?;
    Ok(survivor)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lumen_engine::vfs::memory::{Crash, Memory};
    use openraft::entry::RaftEntry as _;

    use super::*;

    fn options(vfs: &Memory) -> lumen::Options {
        let random = || 0x1234_5678_9abc_def1;
        lumen::Options { vfs: Arc::new(vfs.clone()), threads: 0, random, ..lumen::Options::default() }
    }

    fn append(log: &LogStore, entries: Vec<Entry>) {
        let (sender, receiver) = TypeConfig::oneshot();
        log.append_entries(entries, IOFlushed::signal(sender)).expect("appended");
        receiver.now_or_never().expect("told").expect("told").expect("durable");
    }

    /// A follower of three, with entries that it does not know to be committed.
    fn follower() -> Memory {
        let vfs = Memory::new();
        let log = {
            let db = Database::open_replica("/node", options(&vfs)).expect("open");
            let setup = LogSetup::of(&db, &options(&vfs), 1 << 20);
            let log = LogStore::open(Path::new("/node/raft"), setup).expect("open");
            db.close().expect("close");
            log
        };
        log.set_node(2).expect("numbered");
        let member =
            |id: u64| (id, Member { raft_addr: format!("n{id}:1"), cluster: [5; 16], ..Member::default() });
        let members = BTreeMap::from([1, 2, 3].map(member));
        let membership = Membership::new(vec![BTreeSet::from([1, 2, 3])], members).expect("good");
        let id = |index| LogId { leader_id: LeaderId { term: 4, node_id: 1 }, index };
        append(&log, vec![Entry { log_id: id(0), payload: EntryPayload::Membership(membership) }]);
        append(&log, (1..6).map(|index| Entry::new_blank(id(index))).collect());
        log.close().expect("close");
        vfs
    }

    #[test]
    fn a_power_cut_at_any_call_leaves_a_member_of_the_old_cluster_or_one_that_is_told_again() {
        let dir = Path::new("/node");
        let vfs = follower();
        let before = vfs.calls();
        let survivor = go_on_alone(dir, options(&vfs)).expect("undisturbed");
        assert_eq!((survivor.id, survivor.last, survivor.members.len()), (2, (4, 5), 3));
        let calls = vfs.calls() - before;
        let (mut undecided, mut unfinished) = (0, 0);
        for (model, call) in
            Crash::ALL.into_iter().flat_map(|model| (1..=calls).map(move |call| (model, call)))
        {
            let vfs = follower();
            vfs.power_off_at(vfs.calls() + call);
            let _ = go_on_alone(dir, options(&vfs));
            vfs.crash(model, call);
            let context = format!("{model:?} at call {call} of {calls}");
            let found = look(dir, options(&vfs)).unwrap_or_else(|error| panic!("{context}: {error}"));
            if found.members.len() == 3 {
                // Nothing is applied of which the others may decide otherwise.
                let db = Database::open_replica(dir, options(&vfs)).expect("open");
                let place = crate::state_machine::Place::decode(&db.durable_position().expect("told"))
                    .expect("whole");
                assert!(found.last == (4, 5) && place.applied.is_none(), "{context}: {found:?}, {place:?}");
                undecided += 1;
            }
            unfinished += u64::from(found.is_unfinished);
            go_on_alone(dir, options(&vfs)).unwrap_or_else(|error| panic!("{context}, again: {error}"));
            let last = look(dir, options(&vfs)).expect("open");
            assert!(last.members.keys().eq(&[2]) && last.voters.iter().eq(&[2]), "{context}: {last:?}");
            assert!(!last.is_unfinished && last.members[&2].cluster != [5; 16], "{context}: {last:?}");
            assert!(last.committed == last.last.1 && last.last.1 > 5, "{context}: {last:?}");
        }
        assert!(undecided > 10 && unfinished > 10, "{undecided} undecided, {unfinished} unfinished");
    }
}
