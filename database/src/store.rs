//! What a database is made of: engine, catalog, indexes, and the moment that readers see.
//!
//! One thread at a time applies, under `live`. Readers load the published [`Moment`] and never wait. Locks, in the order
//! they may be taken: the journal's queue, `live`, the engine's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use event_listener::Event;
use lumen_engine::Engine;
use lumen_index::{Index, View};
use parking_lot::{Condvar, Mutex};

use crate::catalog::Catalog;
use crate::expiry::Alarm;
use crate::layout::Place;
use crate::sessions::Sessions;

/// Everything readers see, as of one sequence number.
pub(crate) struct Moment {
    pub seq: u64,
    /// The log's time then, in milliseconds since 1970.
    pub time: u64,
    /// The index of the log's next entry then.
    pub entry: u64,
    pub catalog: Arc<Catalog>,
    /// Index views by collection id.
    pub views: BTreeMap<u32, Arc<View>>,
}

/// What is known of a segment's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentFile {
    /// The smallest uid in it.
    pub first_uid: u64,
    /// Its documents, the deleted ones among them.
    pub documents: u32,
}

/// The index of one collection with what the manifest knows of it.
pub(crate) struct LiveIndex {
    pub index: Index,
    /// Changed since it was published last.
    pub dirty: bool,
    /// A flush of it is frozen and not yet installed: merges must not be installed meanwhile.
    pub flushing: bool,
    /// The attachment that holds the durable deletes.
    pub deletes_file: Option<u64>,
    /// The segments, by the numbers of their files.
    pub segments: BTreeMap<u64, SegmentFile>,
    /// A merge is under way.
    pub merging: bool,
    /// Merges done since the opening.
    pub merges: u64,
}

impl LiveIndex {
    /// An index without files.
    pub(crate) fn new(index: Index) -> LiveIndex {
        LiveIndex {
            index,
            dirty: true,
            flushing: false,
            deletes_file: None,
            segments: BTreeMap::new(),
            merging: false,
            merges: 0,
        }
    }
}

/// What only the applying thread changes.
#[derive(Default)]
pub(crate) struct Live {
    pub catalog: Arc<Catalog>,
    pub indexes: BTreeMap<u32, LiveIndex>,
    pub next_uid: u64,
    pub next_collection: u32,
    /// Attachments of dropped collections, to be detached with the next flush.
    pub dropped_files: Vec<u64>,
    /// Everything is about to be replaced: nothing is frozen or merged any more.
    pub replacing: bool,
    /// The sequence number of the last write that was applied.
    pub applied: u64,
    /// The latest time of an entry, in milliseconds since 1970: the log's own clock, the same on every replica.
    pub time: u64,
    /// The first time at which something expires of what was written since the alarm was set.
    pub expires_next: Option<u64>,
    /// The generation of answered requests that was written to last.
    pub generation: u32,
    /// The index of the log's next entry.
    pub entry: u64,
    /// Where a replicated log is after what was applied; empty without one.
    pub position: Vec<u8>,
    /// Answers that nodes may ask for again.
    pub sessions: Sessions,
}

/// The store.
pub(crate) struct Store {
    pub engine: Engine,
    pub id: [u8; 16],
    pub live: Mutex<Live>,
    pub moment: ArcSwap<Moment>,
    /// Odd while everything is being replaced: engine and moment do not belong together then.
    pub epoch: AtomicU64,
    /// Rung when a flush was installed, when there may be something to merge, and at the close.
    pub bell: Condvar,
    /// Told when something was published.
    pub published: Event,
    /// Set for the next thing that expires.
    pub alarm: Alarm,
    /// Where in its log this store began or was replaced, and the sequence number before that.
    pub begun: Mutex<(u64, Place)>,
    /// Bytes of the journal that are kept for [`Changes`](crate::Changes).
    pub keep_log_bytes: u64,
    /// Bytes of all mutable indexes at the last publication.
    pub index_bytes: AtomicU64,
    /// Where the journal is durable, so that flushes can note it; the journal may let go what is flushed.
    pub journal: std::sync::OnceLock<Arc<lumen_engine::log::Log>>,
}

impl Store {
    /// Whether memory is so far over its budget that writers must wait for a flush.
    pub(crate) fn is_behind(&self) -> bool {
        let memory = self.engine.memory_bytes() + self.index_bytes.load(Ordering::Relaxed) as usize;
        memory >= 3 * self.engine.memory_budget() && self.engine.frozen_count() > 0 || self.engine.is_behind()
    }

    /// Notes that what is there comes from files: followers can go on from here, though nothing is noted for all.
    pub(crate) fn begin(&self, live: &Live) {
        let replicated = !live.position.is_empty();
        let index = if replicated { live.entry } else { live.applied + 1 };
        *self.begun.lock() = (live.applied, Place { replicated, index, time: live.time });
    }

    /// Publishes what was applied up to `seq`: get and search see it together.
    pub(crate) fn publish(&self, live: &mut Live, seq: u64) {
        let before = self.moment.load();
        let mut views = BTreeMap::new();
        let mut bytes = 0;
        for (id, index) in &mut live.indexes {
            let view = match before.views.get(id) {
                Some(view) if !index.dirty => view.clone(),
                _ => index.index.view(),
            };
            index.dirty = false;
            bytes += index.index.memory_bytes();
            views.insert(*id, view);
        }
        live.applied = seq;
        self.index_bytes.store(bytes as u64, Ordering::Relaxed);
        let (time, entry, catalog) = (live.time, live.entry, live.catalog.clone());
        self.moment.store(Arc::new(Moment { seq, time, entry, catalog, views }));
        self.engine.publish(seq);
        self.published.notify(usize::MAX);
    }
}
