//! The stores in the contest, behind the few calls that all of them have.

mod fjall;
mod lmdb;
mod lumen;
mod redb;
mod rocks;
mod sled;

use std::path::Path;
use std::time::Duration;

/// How a store is set up: the same for all that have the knob.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    /// Bytes of the block or page cache. LMDB has none of its own: the page cache of the system is free for all.
    pub(crate) cache_bytes: u64,
}

/// Bytes of a memtable.
pub(crate) const MEMTABLE_BYTES: usize = 64 << 20;
/// Memtables in memory at most, the one that is written included.
pub(crate) const MEMTABLES: usize = 4;
/// Bits of the filters for each key.
pub(crate) const FILTER_BITS: usize = 10;
/// Bytes of a data block.
pub(crate) const BLOCK_BYTES: usize = 8 << 10;

/// One operation of a batch: a value, or a delete.
pub(crate) type Write<'a> = (&'a [u8], Option<&'a [u8]>);

/// Work that a store has put off, as far as it tells.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Debt {
    /// Bytes that compactions still have to rewrite, about.
    pub(crate) bytes: u64,
    /// Tables in level 0 (Lumen: over one another, at most).
    pub(crate) level0: u64,
    /// Memtables that wait to be flushed.
    pub(crate) memtables: u64,
}

/// How often writers were held back since the opening, for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) reason: String,
    pub(crate) count: u64,
    pub(crate) took: Duration,
}

/// A store that is open. A failure ends the contest, so there are no errors here.
pub(crate) trait Store: Send + Sync {
    /// Writes one key; `None` deletes. With `sync` it is on the disk when this returns, else with the operating system,
    /// or wherever the store's cheapest promise leaves it.
    fn write(&self, write: Write<'_>, sync: bool);
    /// Calls `with` on the value, if there is one.
    fn get(&self, key: &[u8], with: &mut dyn FnMut(&[u8])) -> bool;
    /// Walks up to `rows` rows from `key` on; answers how many there were.
    fn scan(&self, key: &[u8], rows: usize, with: &mut dyn FnMut(&[u8], &[u8])) -> usize;
    /// Waits until everything is in its files and background work has come to rest.
    fn settle(&self);
    /// What it has put off.
    fn debt(&self) -> Debt {
        Debt::default()
    }
    /// What writers had to wait for, if it is counted.
    fn waits(&self) -> Vec<Wait> {
        Vec::new()
    }
}

/// The names of all stores; ours first.
pub(crate) const NAMES: [&str; 6] = ["lumen", "rocksdb", "fjall", "redb", "sled", "lmdb"];

/// Opens a store by name.
pub(crate) fn open(name: &str, dir: &Path, setup: Setup) -> Box<dyn Store> {
    match name {
        "lumen" => Box::new(lumen::open(dir, setup)),
        "rocksdb" => Box::new(rocks::open(dir, setup)),
        "fjall" => Box::new(fjall::open(dir, setup)),
        "redb" => Box::new(redb::open(dir, setup)),
        "sled" => Box::new(sled::open(dir, setup)),
        "lmdb" => Box::new(lmdb::open(dir)),
        other => panic!("no store is called {other}"),
    }
}
