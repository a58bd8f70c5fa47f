//! sled: its default tree.

use std::path::Path;

use sled::{Config, Db};

use super::{Setup, Store, Write};

pub(crate) fn open(dir: &Path, setup: Setup) -> impl Store + use<> {
    Config::new().path(dir.join("sled")).cache_capacity(setup.cache_bytes).open().expect("sled opens")
}

impl Store for Db {
    fn write(&self, (key, value): Write<'_>, sync: bool) {
        match value {
            Some(value) => self.insert(key, value),
            None => self.remove(key),
        }
        .expect("sled writes");
        if sync {
            self.flush().expect("sled syncs");
        }
    }

    fn get(&self, key: &[u8], with: &mut dyn FnMut(&[u8])) -> bool {
        match sled::Tree::get(self, key).expect("sled reads") {
            Some(value) => {
                with(&value);
                true
            }
            None => false,
        }
    }

    fn scan(&self, key: &[u8], rows: usize, with: &mut dyn FnMut(&[u8], &[u8])) -> usize {
        let mut count = 0;
        for row in self.range(key..).take(rows) {
            let (key, value) = row.expect("sled scans");
            with(&key, &value);
            count += 1;
        }
        count
    }

    fn settle(&self) {
        self.flush().expect("sled syncs");
    }
}
