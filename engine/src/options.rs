//! Every knob of the engine: its unit, its default and the reason for it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::events::{Event, Listener};
use crate::vfs::Vfs;
use crate::vfs::disk::Disk;

/// A compaction strategy. It may be another at each opening: every one goes on with the tree that is there.
///
/// `benches/compaction.md` says which is good for what, from measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compaction {
    /// Each level one sorted run, ten times the one above: least space, quickest reads, most writing.
    Leveled,
    /// Sorted runs by age, merged when alike or too many (RocksDB's universal): least writing.
    Tiered {
        /// Sorted runs at which something is merged, 2 to 12; 8 is usual.
        runs: usize,
        /// How much larger, in percent, a run may be than all newer ones that are merged with it; 1 is usual.
        size_ratio_percent: u64,
        /// What all newer runs may be, in percent of the oldest; 200 is usual.
        space_percent: u64,
    },
    /// Tiers everywhere but at the bottom, which is one run (Dostoevsky): less writing than levels, fewer runs than tiers.
    LazyLeveled {
        /// Runs of one size before they are merged, 2 to 12; 4 is usual.
        runs: usize,
    },
    /// Nothing is merged; the oldest tables go, those of which all has expired at once.
    Fifo {
        /// Bytes of all tables that are kept, with their values in blob files.
        bytes_max: u64,
        /// How old the newest entry of a table may be; `None`: any age.
        age_max: Option<Duration>,
    },
}

/// How an engine is set up. All fields may be changed between one opening and the next.
#[derive(Clone)]
pub struct Options {
    /// The file system. Default: the real one.
    pub vfs: Arc<dyn Vfs>,
    /// Whether the engine keeps its own write-ahead log for [`Engine::write`](crate::engine::Engine::write). A database
    /// that has a log above the engine turns it off and calls `apply`. Default: on.
    pub log: bool,
    /// Bytes in the memtable at which it is frozen and flushed; its filter takes a 128th more. Default 64 MiB, as RocksDB and
    /// fjall: large enough that level 0 gets few tables, small enough that replay is short.
    pub memtable_bytes: usize,
    /// Frozen memtables at which writers wait; like the limits of level 0 and of debt, it slows them down from six tenths of
    /// it on. Default 4.
    pub memtables_max: usize,
    /// Bytes of memory for blocks that were read: data, indexes and filters. Default 256 MiB.
    pub cache_bytes: u64,
    /// Size in bytes of a data block before compression. Default 8 KiB.
    pub block_bytes: usize,
    /// Bits per key of the Bloom filters between the first run and the oldest; slot 0 and the first run get 4 more, the
    /// oldest a binary fuse filter. 0: no filters. Default 10: 1.1 % false positives with 6 probes.
    pub filter_bits: usize,
    /// Bytes from which on a value lies in a blob file, which compactions do not rewrite, rather than in the tables.
    /// Default: no value does. 4 KiB and more pay where values are overwritten or many; a scan then reads each by itself.
    pub blob_bytes: usize,
    /// How many sequence numbers back [`Engine::snapshot_of`](crate::engine::Engine::snapshot_of) reaches: what was
    /// overwritten or deleted since then is kept. Default 0: nothing but what is visible now and what snapshots hold.
    pub retain_seqs: u64,
    /// Size in bytes of a table that compaction writes. Default 32 MiB.
    pub table_bytes: u64,
    /// Bytes that a compaction writes before it notes in the manifest how far it has come, so that one which a close or a
    /// kill interrupts goes on from there. Default 256 MiB.
    pub resume_bytes: u64,
    /// How long, about, what was overwritten, deleted or has expired may stay in tables although nothing else makes them due:
    /// who is older moves on, level by level, until it is gone. `None`: for ever. Snapshots and
    /// [`retain_seqs`](Options::retain_seqs) keep what they need; [`Compaction::Fifo`] has an age of its own. Default 30 days,
    /// as RocksDB.
    pub garbage_age_max: Option<Duration>,
    /// How tables are merged. Default [`Compaction::Leveled`].
    pub compaction: Compaction,
    /// Bytes that the first level below level 0 may hold; each further one holds ten times as much. Default 128 MiB.
    pub level_bytes: u64,
    /// Tables over one another in level 0 at which they are compacted; fewer are when nobody has written for a second.
    /// Default 4.
    pub level0_tables: usize,
    /// Tables over one another in level 0 at which writers wait, or so many as have the strategy merge some, if that is more.
    /// Default 20.
    pub level0_stop: usize,
    /// Size in bytes of a log segment; the first ones after opening are smaller, from 4 MiB, and after a rest from 1 MiB. Default
    /// 64 MiB.
    pub segment_bytes: u64,
    /// Bytes of compaction that is due at which writers wait. Default 64 GiB.
    pub debt_stop_bytes: u64,
    /// Free bytes of the device under which writes are refused with [`Error::DiskFull`](crate::Error::DiskFull), and work in
    /// the background that takes room is put off: both go on by themselves when there is room again. Default 128 MiB.
    pub disk_reserve_bytes: u64,
    /// Background threads: 0 does all work inside the calls that cause it, in an order that repeats (for tests); otherwise
    /// one thread flushes and the others compact, and one more sees to the log. Default: 1 and half the processors, 2 to 5.
    pub threads: usize,
    /// Bytes a second that a background thread reads to find damage before somebody else does; 0: there is none. What it
    /// finds is quarantined. Default 0.
    pub scrub_bytes_per_second: u64,
    /// Opens without changing anything: what recovery writes stays in memory, nothing is flushed or compacted. For checks;
    /// whatever is written to such a store is gone with it. Default: off.
    pub read_only: bool,
    /// The time in milliseconds since 1970. Default: the system's.
    pub clock: fn() -> u64,
    /// Who is told what happens. Default: nobody.
    pub listener: Option<Listener>,
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
            blob_bytes: usize::MAX,
            retain_seqs: 0,
            table_bytes: 32 << 20,
            resume_bytes: 256 << 20,
            garbage_age_max: Some(Duration::from_secs(30 * 24 * 3600)),
            compaction: Compaction::Leveled,
            level_bytes: 128 << 20,
            level0_tables: 4,
            level0_stop: 20,
            segment_bytes: 64 << 20,
            debt_stop_bytes: 64 << 30,
            disk_reserve_bytes: 128 << 20,
            threads: default_threads(),
            scrub_bytes_per_second: 0,
            read_only: false,
            clock: system_clock,
            listener: None,
            random: system_random,
        }
    }
}

impl Options {
    pub(crate) fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    pub(crate) fn tell(&self, event: &Event) {
        if let Some(listener) = &self.listener {
            listener(event);
        }
    }
}

fn default_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    1 + (processors / 2).clamp(1, 4)
}

/// The system's time, in milliseconds since 1970.
pub fn system_clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Sixteen random bytes, by which one thing is told from all others.
pub fn random_id(random: fn() -> u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&random().to_le_bytes());
    id[8..].copy_from_slice(&random().to_le_bytes());
    id
}

/// Random bits from the keys that the standard library draws for every new hash map.
pub fn system_random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
