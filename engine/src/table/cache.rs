//! Blocks that were read lately, unpacked, within one budget of bytes for data, indexes and filters.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle, GuardResult};

use crate::error::Result;
use crate::stats::Striped;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{CacheHasher, Mutex};
use crate::table::block::Block;
use crate::table::filter::Filter;

/// Table number and offset.
type BlockId = (u64, u64);

/// What lies over a stretch of data blocks.
#[derive(Debug)]
pub(crate) struct Partition {
    pub filter: Filter,
    pub index: Arc<Block>,
}

/// A block as it is kept.
#[derive(Debug, Clone)]
pub(crate) enum Cached {
    Data(Arc<Block>),
    Partition(Arc<Partition>),
}

impl Cached {
    pub(crate) fn size(&self) -> usize {
        match self {
            Cached::Data(block) => block.size(),
            Cached::Partition(partition) => partition.filter.size() + partition.index.size(),
        }
    }

    pub(crate) fn into_partition(self) -> Option<Arc<Partition>> {
        match self {
            Cached::Partition(partition) => Some(partition),
            Cached::Data(_) => None,
        }
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<BlockId, Cached> for ByBytes {
    fn weight(&self, _: &BlockId, cached: &Cached) -> u64 {
        cached.size() as u64 + 64
    }
}

/// The block cache of an engine; scan-resistant (quick_cache: a variant of S3-FIFO).
pub(crate) struct BlockCache {
    cache: Cache<BlockId, Cached, ByBytes, CacheHasher>,
    budget: u64,
    /// Bytes of partitions that tables hold themselves: what they take, the cache gives up.
    pinned: AtomicU64,
    /// Held while one follows from the other, or the cache would be left with what was pinned a moment ago.
    pinning: Mutex<()>,
    hits: Striped,
    misses: Striped,
    /// Lookups that a filter let pass although the key was not there, and those that it stopped.
    pub filter_false: Striped,
    pub filter_stopped: Striped,
    /// Blocks that look-ups by key read from files.
    pub get_reads: Striped,
}

/// The share of the budget that may be pinned.
const MOST_PINNED: u64 = 4;

impl BlockCache {
    pub(crate) fn new(budget: u64, block_bytes: usize) -> BlockCache {
        let blocks = (budget / block_bytes.max(512) as u64).max(16) as usize;
        BlockCache {
            cache: Cache::with(blocks, budget, ByBytes, CacheHasher::default(), DefaultLifecycle::default()),
            budget,
            pinned: AtomicU64::new(0),
            pinning: Mutex::new(()),
            hits: Striped::default(),
            misses: Striped::default(),
            get_reads: Striped::default(),
            filter_false: Striped::default(),
            filter_stopped: Striped::default(),
        }
    }

    /// Rises with every block that a client asks for.
    pub(crate) fn asked(&self) -> u64 {
        self.hits.sum().wrapping_add(self.misses.sum())
    }

    /// The block if it is here. Only `counted` if a client asks, not a compaction.
    pub(crate) fn peek(&self, table: u64, offset: u64, counted: bool) -> Option<Cached> {
        let found = self.cache.get(&(table, offset));
        if counted {
            if found.is_some() { &self.hits } else { &self.misses }.add(1);
        }
        found
    }

    /// The block, loaded if it is not here: by one of those who want it, while the others wait for him.
    pub(crate) fn get_or_load(
        &self,
        table: u64,
        offset: u64,
        load: impl FnOnce() -> Result<Cached>,
    ) -> Result<Cached> {
        match self.cache.get_value_or_guard(&(table, offset), None) {
            GuardResult::Value(found) => {
                self.hits.add(1);
                Ok(found)
            }
            GuardResult::Guard(guard) => {
                self.misses.add(1);
                let loaded = load()?;
                let _ = guard.insert(loaded.clone()); // refused only when it was removed meanwhile
                Ok(loaded)
            }
            GuardResult::Timeout => load(), // there is none
        }
    }

    /// Lets go of a block that will not be read again, and answers it.
    pub(crate) fn remove(&self, table: u64, offset: u64) -> Option<Cached> {
        self.cache.remove(&(table, offset)).map(|(_, cached)| cached)
    }

    /// Counts bytes held elsewhere against the budget, or (negative) no longer.
    pub(crate) fn pin(&self, bytes: i64) {
        let _one_at_a_time = self.pinning.lock();
        let pinned = self.pinned.fetch_add(bytes as u64, Relaxed).wrapping_add(bytes as u64);
        self.cache.set_capacity(self.budget.saturating_sub(pinned));
    }

    /// Whether there is room for more of it.
    pub(crate) fn may_pin(&self) -> bool {
        self.pinned() <= self.budget / MOST_PINNED
    }

    pub(crate) fn pinned(&self) -> u64 {
        self.pinned.load(Relaxed)
    }

    #[cfg(all(test, lumen_shuttle))]
    pub(crate) fn capacity(&self) -> u64 {
        self.cache.capacity()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.cache.weight()
    }

    pub(crate) fn hits(&self) -> u64 {
        self.hits.sum()
    }

    pub(crate) fn misses(&self) -> u64 {
        self.misses.sum()
    }
}
