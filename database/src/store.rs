//! What a database is made of: engine, catalog, indexes, and the moment that readers see.
//!
//! One thread at a time applies, under `live`. Readers load the published [`Moment`] and never wait. Locks, in the order
//! they may be taken: the journal's queue, `live`, the engine's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use lumen_engine::Engine;
use lumen_index::{Index, View};
use parking_lot::{Condvar, Mutex};

use crate::catalog::Catalog;

/// Everything readers see, as of one sequence number.
pub(crate) struct Moment {
    pub seq: u64,
    pub catalog: Arc<Catalog>,
    /// Index views by collection id.
    pub views: BTreeMap<u32, Arc<View>>,
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
    /// Documents of each segment file, the deleted ones among them.
    pub segments: BTreeMap<u64, u32>,
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
pub(crate) struct Live {
    pub catalog: Arc<Catalog>,
    pub indexes: BTreeMap<u32, LiveIndex>,
    pub next_uid: u64,
    pub next_collection: u32,
    /// Attachments of dropped collections, to be detached with the next flush.
    pub dropped_files: Vec<u64>,
    pub applied: u64,
}

/// The store.
pub(crate) struct Store {
    pub engine: Engine,
    pub id: [u8; 16],
    pub live: Mutex<Live>,
    pub moment: ArcSwap<Moment>,
    /// Rung when a flush was installed, when there may be something to merge, and at the close.
    pub bell: Condvar,
    /// Bytes of all mutable indexes at the last publication.
    pub index_bytes: AtomicU64,
    /// Where the journal is durable, so that flushes can note it; the journal may let go what is flushed.
    pub journal: std::sync::OnceLock<Arc<lumen_engine::log::Log>>,
}

impl Store {
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
        self.index_bytes.store(bytes as u64, std::sync::atomic::Ordering::Relaxed);
        self.moment.store(Arc::new(Moment { seq, catalog: live.catalog.clone(), views }));
        self.engine.publish(seq);
    }
}
