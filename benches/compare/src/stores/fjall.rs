//! fjall: one keyspace.

use std::path::Path;
use std::time::Duration;

use fjall::config::{BlockSizePolicy, BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{BLOCK_BYTES, FILTER_BITS, MEMTABLE_BYTES, Setup, Store, Write};

struct Fjall {
    db: Database,
    keys: Keyspace,
}

pub(crate) fn open(dir: &Path, setup: Setup) -> impl Store + use<> {
    let db =
        Database::builder(dir).cache_size(setup.cache_bytes).worker_threads(2).open().expect("fjall opens");
    let bloom = FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(FILTER_BITS as f32));
    let options = || {
        KeyspaceCreateOptions::default()
            .max_memtable_size(MEMTABLE_BYTES as u64)
            .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES as u32))
            .filter_policy(FilterPolicy::all(bloom))
    };
    let keys = db.keyspace("keys", options).expect("fjall has a keyspace");
    Fjall { db, keys }
}

impl Store for Fjall {
    fn write(&self, (key, value): Write<'_>, sync: bool) {
        match value {
            Some(value) => self.keys.insert(key, value),
            None => self.keys.remove(key),
        }
        .expect("fjall writes");
        if sync {
            self.db.persist(PersistMode::SyncData).expect("fjall syncs");
        }
    }

    fn get(&self, key: &[u8], with: &mut dyn FnMut(&[u8])) -> bool {
        match self.keys.get(key).expect("fjall reads") {
            Some(value) => {
                with(&value);
                true
            }
            None => false,
        }
    }

    fn scan(&self, key: &[u8], rows: usize, with: &mut dyn FnMut(&[u8], &[u8])) -> usize {
        let mut count = 0;
        for row in self.keys.range(key..).take(rows) {
            let (key, value) = row.into_inner().expect("fjall scans");
            with(&key, &value);
            count += 1;
        }
        count
    }

    fn settle(&self) {
        self.keys.rotate_memtable_and_wait().expect("fjall flushes");
        // It does not tell of work that waits: rest is when its files stay the same for a second.
        let shape = || (self.keys.table_count(), self.keys.disk_space());
        let (mut last, mut same) = (shape(), 0);
        while same < 10 {
            std::thread::sleep(Duration::from_millis(100));
            let now = shape();
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
    }
}
