//! What is committed, applied in order to the database.
//!
//! The database is volatile between its flushes: what it has durably is `durable_position`, and after a restart the log's
//! entries from there on are applied again. The position that goes with each apply holds the last log id and the
//! membership, so that both are in the same manifest record as what they describe.
//!
//! ```text
//! position:  │ 1: u8 │ maybe a log id │ membership with the log id of its entry │ used: varint │ { id: varint } … │
//! ```

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use futures_util::{Stream, TryStreamExt};
use lumen::{Ack, Database};
use lumen_engine::coding::{Decoder, put_varint};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::codec;
use crate::error::{Error, Result};
use crate::metrics::Meters;
use crate::planted::{self, Bug};
use crate::read::Progress;
use crate::snapshot::{Home, SnapshotData};
use crate::types::{Applied, Entry, Kept, LogId, StoredMembership, TypeConfig, blocking};

type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Bytes of entries that are applied together, at most; one entry may be more.
const APPLY_BYTES_MAX: usize = 1 << 20;
const VERSION: u8 = 1;

/// Where the log is after what was applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
    /// The numbers of all nodes that there ever were.
    pub used: BTreeSet<u64>,
}

impl Place {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        codec::put_maybe(&mut out, self.applied.as_ref());
        codec::put_stored_membership(&mut out, &self.membership);
        put_varint(&mut out, self.used.len() as u64);
        self.used.iter().for_each(|id| put_varint(&mut out, *id));
        out
    }

    /// Reads a position; that of a database that had no replicated log until now is empty.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Place> {
        let malformed = || Error::Corrupt {
            file: "the manifest".into(),
            offset: 0,
            reason: "malformed position of the replicated log".into(),
        };
        if bytes.is_empty() {
            return Ok(Place::default());
        }
        let mut decoder = Decoder::new(bytes);
        let mut read = || {
            if decoder.u8()? != VERSION {
                return None;
            }
            let applied = codec::read_maybe(&mut decoder)?;
            let membership = codec::read_stored_membership(&mut decoder)?;
            let mut used = BTreeSet::new();
            for _ in 0..decoder.varint()? {
                used.insert(decoder.varint()?);
            }
            decoder.is_empty().then_some(Place { applied, membership, used })
        };
        read().ok_or_else(malformed)
    }
}

/// The state machine. Clones are the same.
#[derive(Clone)]
pub(crate) struct StateMachine {
    db: Database,
    home: Home,
    place: Arc<Mutex<Place>>,
    progress: Arc<watch::Sender<Progress>>,
    meters: Arc<Meters>,
}

impl StateMachine {
    /// Stands where the database's manifest does.
    pub(crate) fn new(db: Database, home: Home, meters: Arc<Meters>) -> Result<StateMachine> {
        let place = Place::decode(&db.durable_position()?)?;
        let progress = Arc::new(watch::Sender::new(progress_of(&place, &db)));
        Ok(StateMachine { db, home, place: Arc::new(Mutex::new(place)), progress, meters })
    }

    /// Tells how far it is.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Where it is.
    pub(crate) fn place(&self) -> Place {
        self.place.lock().clone()
    }

    /// What it applied last.
    pub(crate) fn applied(&self) -> Option<LogId> {
        self.place.lock().applied
    }

    /// Applies entries in order; answers what the writes of each did.
    pub(crate) fn apply_all(&self, entries: &[Entry]) -> Result<Vec<Vec<Ack>>> {
        let Some(last) = entries.last() else { return Ok(Vec::new()) };
        let mut place = self.place.lock();
        let mut writes: Vec<(u64, &[u8], Kept)> = Vec::with_capacity(entries.len());
        for entry in entries {
            match &entry.payload {
                EntryPayload::Normal(proposed) => {
                    writes.push((entry.log_id.index, &proposed.0, proposed.take_kept()));
                }
                EntryPayload::Membership(membership) => {
                    place.used.extend(membership.nodes().map(|(id, _)| *id));
                    place.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                }
                EntryPayload::Blank => {}
            }
        }
        place.applied = Some(last.log_id);
        if planted::is(Bug::EntriesLeftOut) && last.log_id.index % 50 == u64::from(self.db.id()[0] % 50) {
            writes.clear();
        }
        let mut noted = place.encode();
        if planted::is(Bug::PlaceTooOld) {
            let applied = Some(LogId { index: last.log_id.index.saturating_sub(1), ..last.log_id });
            noted = Place { applied, ..place.clone() }.encode();
        }
        let mut acks = self.db.apply_prepared(writes, &noted)?.into_iter();
        self.progress.send_replace(progress_of(&place, &self.db));
        let of = |entry: &Entry| match &entry.payload {
            EntryPayload::Normal(_) => acks.next().unwrap_or_default(),
            _ => Vec::new(),
        };
        Ok(entries.iter().map(of).collect())
    }

    /// What is durable now.
    fn pin(&self) -> Result<Snapshot> {
        let snapshot = SnapshotData::pin(&self.db)?;
        let mut place = snapshot.place()?;
        if planted::is(Bug::SnapshotSaysApplied) {
            place.applied = self.applied();
        }
        let meta = SnapshotMeta { last_log_id: place.applied, last_membership: place.membership };
        Ok(Snapshot { meta, snapshot })
    }

    /// Where there is none for what comes next, a thread waits that others do not need.
    async fn wait_for_memory(&self) -> io::Result<()> {
        if !self.db.is_behind() {
            return Ok(());
        }
        let db = self.db.clone();
        blocking(self.home.threaded, move || Ok(db.wait_for_memory()?)).await.map_err(io::Error::other)
    }

    fn apply_batch(&self, batch: &mut Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let (begun, seq) = (Instant::now(), self.db.seq());
        let (entries, responders): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        let acks = self.apply_all(&entries).map_err(io::Error::other)?;
        self.meters.apply.add_since(begun);
        self.meters.applied_entries.add(entries.len() as u64);
        // Each write takes a number; one that was applied before is answered with the number of then.
        let repeats = acks.iter().flatten().zip(seq + 1..).filter(|(ack, seq)| ack.seq != *seq);
        self.meters.repeats.add(repeats.count() as u64);
        for (responder, acks) in responders.into_iter().zip(acks) {
            if let Some(responder) = responder {
                responder.send(Applied(acks));
            }
        }
        Ok(())
    }
}

fn progress_of(place: &Place, db: &Database) -> Progress {
    Progress { entries: place.applied.map_or(0, |id| id.index + 1), seq: db.seq() }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = StateMachine;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let place = self.place();
        Ok((place.applied, place.membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some((entry, responder)) = entries.try_next().await? {
            bytes += codec::entry_len(&entry);
            batch.push((entry, responder));
            if bytes >= APPLY_BYTES_MAX {
                bytes = 0;
                self.wait_for_memory().await?;
                self.apply_batch(&mut batch)?;
            }
        }
        self.wait_for_memory().await?;
        self.apply_batch(&mut batch)
    }

    async fn get_snapshot_builder(&mut self) -> StateMachine {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let begun = Instant::now();
        let mut place = match planted::is(Bug::SnapshotNotInstalled) {
            true => snapshot.place().map_err(io::Error::other)?,
            false => {
                let (db, home) = (self.db.clone(), self.home.clone());
                let installed = blocking(self.home.threaded, move || snapshot.install(&db, &home)).await;
                installed.map_err(io::Error::other)?
            }
        };
        if planted::is(Bug::SnapshotWithoutMembers) {
            place.membership = self.place().membership;
        }
        if place.applied != meta.last_log_id {
            let reason = format!("the snapshot is of {:?}, not of {:?}", place.applied, meta.last_log_id);
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        self.progress.send_replace(progress_of(&place, &self.db));
        *self.place.lock() = place;
        self.meters.install.add_since(begun);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let snapshot = self.pin().map_err(io::Error::other)?;
        Ok(Some(snapshot).filter(|snapshot| snapshot.meta.last_log_id.is_some()))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let snapshot = self.pin().map_err(io::Error::other)?;
        if snapshot.meta.last_log_id == self.applied() {
            return Ok(snapshot);
        }
        let db = self.db.clone();
        blocking(self.home.threaded, move || Ok(db.flush()?)).await.map_err(io::Error::other)?;
        self.pin().map_err(io::Error::other)
    }
}
