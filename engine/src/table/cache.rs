//! Unpacked data blocks that were read lately, within a budget of bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::table::block::Block;

/// Table number and offset.
type BlockId = (u64, u64);

#[derive(Clone)]
struct ByBytes;

impl Weighter<BlockId, Arc<Block>> for ByBytes {
    fn weight(&self, _: &BlockId, block: &Arc<Block>) -> u64 {
        block.size() as u64 + 64
    }
}

/// The block cache of an engine; scan-resistant (quick_cache: a variant of S3-FIFO).
pub(crate) struct BlockCache {
    cache: Cache<BlockId, Arc<Block>, ByBytes>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl BlockCache {
    pub(crate) fn new(bytes: u64, block_bytes: usize) -> BlockCache {
        let blocks = (bytes / block_bytes.max(512) as u64).max(16) as usize;
        let cache = Cache::with_weighter(blocks, bytes, ByBytes);
        BlockCache { cache, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    pub(crate) fn get(&self, table: u64, offset: u64) -> Option<Arc<Block>> {
        let found = self.cache.get(&(table, offset));
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Relaxed);
        found
    }

    pub(crate) fn insert(&self, table: u64, offset: u64, block: Arc<Block>) {
        self.cache.insert((table, offset), block);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.cache.weight()
    }

    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(Relaxed)
    }

    pub(crate) fn misses(&self) -> u64 {
        self.misses.load(Relaxed)
    }
}
