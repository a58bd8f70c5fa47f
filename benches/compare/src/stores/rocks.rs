//! RocksDB, as its wiki recommends to set it up (block-based tables of format 5, filters whole, cache in blocks).

use std::path::Path;
use std::time::Duration;

use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, Options, ReadOptions, WriteOptions};

use super::{BLOCK_BYTES, Debt, FILTER_BITS, MEMTABLE_BYTES, MEMTABLES, Setup, Store, Wait, Write};

pub(crate) fn open(dir: &Path, setup: Setup) -> impl Store + use<> {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_lru_cache(setup.cache_bytes as usize).expect("a cache"));
    tables.set_bloom_filter(FILTER_BITS as f64, false);
    tables.set_block_size(BLOCK_BYTES);
    tables.set_format_version(5);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&tables);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_max_write_buffer_number(MEMTABLES as i32);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_background_jobs(2);
    DB::open(&options, dir).expect("rocksdb opens")
}

impl Store for DB {
    fn write(&self, (key, value): Write<'_>, sync: bool) {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        match value {
            Some(value) => self.put_opt(key, value, &options),
            None => self.delete_opt(key, &options),
        }
        .expect("rocksdb writes");
    }

    fn get(&self, key: &[u8], with: &mut dyn FnMut(&[u8])) -> bool {
        match self.get_pinned(key).expect("rocksdb reads") {
            Some(value) => {
                with(&value);
                true
            }
            None => false,
        }
    }

    fn scan(&self, key: &[u8], rows: usize, with: &mut dyn FnMut(&[u8], &[u8])) -> usize {
        // The raw iterator lends its rows, as ours does.
        let mut iterator = self.raw_iterator_opt(ReadOptions::default());
        iterator.seek(key);
        let mut count = 0;
        while count < rows && iterator.valid() {
            with(iterator.key().expect("valid"), iterator.value().expect("valid"));
            count += 1;
            iterator.next();
        }
        count
    }

    fn settle(&self) {
        self.flush().expect("rocksdb flushes");
        let busy = || {
            ["rocksdb.num-running-compactions", "rocksdb.compaction-pending", "rocksdb.num-running-flushes"]
                .into_iter()
                .any(|name| self.property_int_value(name).ok().flatten().unwrap_or(0) > 0)
        };
        while busy() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn debt(&self) -> Debt {
        let number = |name: &str| self.property_int_value(name).ok().flatten().unwrap_or(0);
        Debt {
            bytes: number("rocksdb.estimate-pending-compaction-bytes"),
            level0: number("rocksdb.num-files-at-level0"),
            memtables: number("rocksdb.num-immutable-mem-table"),
        }
    }

    /// From its reports. It counts how often each condition was met when a flush or compaction ended, and the time that
    /// writers were delayed or stopped for all reasons together.
    fn waits(&self) -> Vec<Wait> {
        let report = |name: &str| self.property_value(name).ok().flatten().unwrap_or_default();
        let (columns, all) = (report("rocksdb.cfstats-no-file-histogram"), report("rocksdb.dbstats"));
        let after = |text: &str, what: &str| {
            text.lines().find_map(|line| line.strip_prefix(what).map(str::to_string)).unwrap_or_default()
        };
        let condition = |part: &str| {
            let (count, reason) = part.trim().split_once(' ')?;
            let is_sum = reason.starts_with("interval") || reason.starts_with("total");
            let count = count.parse().ok().filter(|_| !is_sum)?;
            Some(Wait { reason: reason.into(), count, took: Duration::ZERO })
        };
        let mut waits: Vec<Wait> =
            after(&columns, "Stalls(count):").split(',').filter_map(condition).collect();
        // "Cumulative stall: 00:01:02.345 H:M:S, 12.3 percent"
        let clock = after(&all, "Cumulative stall:");
        let clock = clock.split_whitespace().next().unwrap_or_default();
        let seconds =
            clock.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?));
        let took = Duration::from_secs_f64(seconds.expect("rocksdb reports its stalls"));
        waits.push(Wait { reason: "all of these".into(), count: 0, took });
        waits
    }
}
