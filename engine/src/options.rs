//! Every knob of the engine: its unit, its default and the reason for it.

use std::sync::Arc;

use crate::vfs::Vfs;
use crate::vfs::disk::Disk;

/// How an engine is set up. All fields may be changed between one opening and the next.
#[derive(Clone)]
pub struct Options {
    /// The file system. Default: the real one.
    pub vfs: Arc<dyn Vfs>,
    /// Whether the engine keeps its own write-ahead log for [`Engine::write`](crate::engine::Engine::write). A database
    /// that has a log above the engine turns it off and calls `apply`. Default: on.
    pub log: bool,
    /// Bytes in the memtable at which it is frozen and flushed. Default 64 MiB, as RocksDB and fjall: large enough that
    /// level 0 gets few tables, small enough that replay is short.
    pub memtable_bytes: usize,
    /// Frozen memtables at which writers wait. Default 4.
    pub memtables_max: usize,
    /// Bytes of the block cache. Default 256 MiB.
    pub cache_bytes: u64,
    /// Size in bytes of a data block before compression. Default 8 KiB.
    pub block_bytes: usize,
    /// Bits per key of the Bloom filters. Default 10: 1.1 % false positives with 6 probes.
    pub filter_bits: usize,
    /// Size in bytes of a table that compaction writes. Default 32 MiB.
    pub table_bytes: u64,
    /// Bytes that level 1 may hold; each further level holds ten times as much. Default 128 MiB.
    pub level_bytes: u64,
    /// Tables in level 0 at which they are compacted. Default 4.
    pub level0_tables: usize,
    /// Tables in level 0 at which writers wait. Default 20.
    pub level0_stop: usize,
    /// Size in bytes of a log segment. Default 64 MiB.
    pub segment_bytes: u64,
    /// Background threads: 0 does all work inside the calls that cause it, in an order that repeats (for tests); otherwise
    /// one thread flushes and one compacts. Default 2.
    pub threads: usize,
    /// Opens without changing anything: what recovery writes stays in memory, nothing is flushed or compacted. For checks;
    /// whatever is written to such a store is gone with it. Default: off.
    pub read_only: bool,
    /// Where random numbers come from (file tags, store identity). Default: the system's hasher keys.
    pub random: fn() -> u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            vfs: Arc::new(Disk),
            log: true,
            memtable_bytes: 64 << 20,
            memtables_max: 4,
            cache_bytes: 256 << 20,
            block_bytes: 8 << 10,
            filter_bits: 10,
            table_bytes: 32 << 20,
            level_bytes: 128 << 20,
            level0_tables: 4,
            level0_stop: 20,
            segment_bytes: 64 << 20,
            threads: 2,
            read_only: false,
            random: system_random,
        }
    }
}

/// Random bits from the keys that the standard library draws for every new hash map.
pub fn system_random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
