//! A database that follows a log kept elsewhere: applying its entries, and being replaced by another replica's files.
//!
//! Whoever keeps the log hands over its entries in order ([`Database::apply`]), and hands over again, after a restart, what
//! comes after the position that the manifest knows ([`Database::durable_position`]).

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lumen_engine::file_set::{FileSet, ReadyFileSet, SetFile};

use crate::apply;
use crate::database::Database;
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::indexing;
use crate::layout::State;
use crate::open::{decode_state, load_live};
use crate::write::{Ack, Prepared};

impl Database {
    /// Applies entries of the log that this replica follows, in order, each with its index; `position` is where the log is after
    /// the last of them, for [`Database::durable_position`]. Answers for each entry what its writes did, in order. One thread
    /// at a time.
    ///
    /// It waits while memory is full and being flushed: what is committed cannot be refused. Any error is final: the node must
    /// stop and reopen. [`Error::Corrupt`] when an entry is malformed or of a version that is not known here.
    pub fn apply(&self, entries: &[(u64, &[u8])], position: &[u8]) -> Result<Vec<Vec<Ack>>> {
        let unprepared = |&(index, payload): &(u64, _)| (index, payload, Vec::new());
        self.apply_prepared(entries.iter().map(unprepared).collect(), position)
    }

    /// [`Database::apply`] of entries of which some writes are still there as they were prepared, by their place: they are not
    /// read and analysed again.
    pub fn apply_prepared(
        &self,
        entries: Vec<(u64, &[u8], Vec<Option<Prepared>>)>,
        position: &[u8],
    ) -> Result<Vec<Vec<Ack>>> {
        let store = &self.inner.store;
        assert!(self.inner.journal.is_none(), "a database with a journal has a log of its own");
        self.wait_for_memory()?;
        let read = {
            let live = store.live.lock();
            let one = |(index, payload, kept): (u64, &[u8], Vec<Option<Prepared>>)| {
                Entry::decode_with(&live.catalog, index, payload, kept).ok_or_else(|| {
                    Error::corrupt("the replicated log", 0, "an entry that this version cannot read")
                })
            };
            entries.into_iter().map(one).collect::<Result<Vec<_>>>()?
        };
        let acks = apply::entries(store, read, Some(position))?;
        if self.inner.threads.lock().is_empty() {
            while indexing::merge_one(store, &|| false)? {}
        }
        Ok(acks)
    }

    /// Whether applying more would wait for memory.
    pub fn is_behind(&self) -> bool {
        self.inner.store.is_behind()
    }

    /// Waits until there is memory for more, as [`Database::apply`] does before all else.
    ///
    /// Errors: those that ended the database; [`Error::Closed`] when it is closed meanwhile.
    pub fn wait_for_memory(&self) -> Result<()> {
        let store = &self.inner.store;
        while !self.inner.threads.lock().is_empty() && store.is_behind() {
            if let Some(error) = self.failure() {
                return Err(error);
            }
            if self.inner.stop.load(Ordering::Acquire) {
                return Err(Error::Closed);
            }
            let mut live = store.live.lock();
            store.bell.wait_for(&mut live, Duration::from_millis(100));
        }
        Ok(())
    }

    /// Whether more may be proposed now; [`Error::Busy`] when memory or disk is behind, [`Error::DiskFull`]. Does not wait.
    /// For who keeps the log: an entry in the log is applied in any case.
    pub fn admits(&self) -> Result<()> {
        if let Some(error) = self.failure() {
            return Err(error);
        }
        if self.inner.store.engine.is_disk_full() {
            return Err(Error::DiskFull { reason: "there is no room left on the disk".into() });
        }
        if self.inner.store.is_behind() {
            return Err(Error::Busy { retry_after: Duration::from_secs(1) });
        }
        Ok(())
    }

    /// What tells this database from every other: replicas of one log have different ones.
    pub fn id(&self) -> [u8; 16] {
        self.inner.store.id
    }

    /// Where the log is up to which everything is in the manifest, as it was given to [`Database::apply`]; empty for a new
    /// database, and for one that kept its own log until now.
    pub fn durable_position(&self) -> Result<Vec<u8>> {
        Ok(decode_state(&self.inner.store.engine.attachment_state())?.position)
    }

    /// The files of everything up to [`Database::durable_position`], held so that they can be sent to another replica.
    pub fn file_set(&self) -> FileSet {
        self.inner.store.engine.file_set()
    }

    /// Where the log is after everything that a set holds, by its manifest.
    pub fn position_of(manifest: &[u8]) -> Result<Vec<u8>> {
        let state = lumen_engine::file_set::state_of(manifest)?;
        Ok(decode_state(&state)?.position)
    }

    /// Which files of a set are not here. In the database that a set is of, a name is never given to another file.
    pub fn missing(&self, manifest: &[u8]) -> Result<Vec<SetFile>> {
        Ok(self.inner.store.engine.missing(manifest)?)
    }

    /// Brings the files of a set here and checks all of them; nothing changes yet, and everything goes on meanwhile.
    pub fn prepare_install(&self, manifest: &[u8], staged: &Path) -> Result<ReadyFileSet> {
        Ok(self.inner.store.engine.prepare_install(manifest, staged)?)
    }

    /// Replaces everything by a set, with one manifest edit; who applies must not do so meanwhile. Snapshots that are held
    /// stay as they are. An error is final.
    pub fn install(&self, mut ready: ReadyFileSet) -> Result<()> {
        let store = &self.inner.store;
        let state = State { store: store.id, ..decode_state(ready.state())? };
        ready.set_state(state.encode());
        assert!(self.inner.journal.is_none(), "a database with a journal has a log of its own");
        // What is under way on the indexes that go must not meet those that come. A flush that touches none of them ends only
        // with this lock as well, so it has to be over before the engine waits for it.
        store.live.lock().replacing = true;
        store.engine.flush()?;
        let mut live = store.live.lock();
        while live.indexes.values().any(|index| index.flushing || index.merging) {
            drop(live);
            store.engine.flush()?;
            live = store.live.lock();
            if live.indexes.values().any(|index| index.flushing || index.merging) {
                store.bell.wait_for(&mut live, Duration::from_millis(100));
            }
            if let Some(error) = self.failure() {
                return Err(error);
            }
        }
        store.epoch.fetch_add(1, Ordering::SeqCst);
        let installed = store.engine.install_ready(ready).map_err(Error::from).and_then(|_| {
            let state = decode_state(&store.engine.attachment_state())?;
            load_live(&store.engine, &state)
        });
        let result = installed.map(|loaded| {
            *live = loaded;
            store.begin(&live);
            let seq = live.applied;
            store.publish(&mut live, seq);
        });
        store.epoch.fetch_add(1, Ordering::SeqCst);
        store.bell.notify_all();
        result
    }
}
