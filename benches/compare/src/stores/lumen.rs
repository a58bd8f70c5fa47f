//! Our engine.

use std::ops::Bound;
use std::path::Path;

use lumen_engine::{Batch, Durability, Engine, Error, Options};

use super::{BLOCK_BYTES, Debt, FILTER_BITS, MEMTABLE_BYTES, MEMTABLES, Setup, Store, Wait, Write};

pub(crate) fn open(dir: &Path, setup: Setup) -> impl Store + use<> {
    let options = Options {
        cache_bytes: setup.cache_bytes,
        memtable_bytes: MEMTABLE_BYTES,
        memtables_max: MEMTABLES - 1, // beside the one that is written
        block_bytes: BLOCK_BYTES,
        filter_bits: FILTER_BITS,
        ..Options::default()
    };
    Engine::open(dir, options).expect("lumen opens")
}

impl Store for Engine {
    fn write(&self, (key, value): Write<'_>, sync: bool) {
        let mut batch = Batch::new();
        match value {
            Some(value) => batch.put(key, value),
            None => batch.delete(key),
        }
        let durability = if sync { Durability::Sync } else { Durability::Buffered };
        // Where others would wait on, it says after ten seconds that it is busy; then it is asked again.
        while let Err(error) = Engine::write(self, &batch, durability) {
            assert!(matches!(error, Error::Busy { .. }), "lumen writes: {error}");
        }
    }

    fn get(&self, key: &[u8], with: &mut dyn FnMut(&[u8])) -> bool {
        match Engine::get(self, key).expect("lumen reads") {
            Some(value) => {
                with(&value);
                true
            }
            None => false,
        }
    }

    fn scan(&self, key: &[u8], rows: usize, with: &mut dyn FnMut(&[u8], &[u8])) -> usize {
        let snapshot = self.snapshot();
        let mut scan = snapshot.scan(Bound::Included(key), Bound::Unbounded);
        let mut count = 0;
        while count < rows && scan.next_row().expect("lumen scans") {
            with(scan.key(), scan.value());
            count += 1;
        }
        count
    }

    fn settle(&self) {
        Engine::settle(self).expect("lumen settles");
    }

    fn debt(&self) -> Debt {
        let stats = self.stats();
        Debt { bytes: stats.debt_bytes, level0: stats.level0_depth, memtables: stats.frozen_memtables }
    }

    fn waits(&self) -> Vec<Wait> {
        let stalls = self.stats().stalls_by_reason.into_iter();
        stalls
            .map(|stall| Wait { reason: stall.reason.into(), count: stall.count, took: stall.took })
            .collect()
    }
}
