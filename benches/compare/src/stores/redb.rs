//! redb: one table; each write is a transaction.

use std::path::Path;

use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use super::{Setup, Store, Write};

const KEYS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("keys");

pub(crate) fn open(dir: &Path, setup: Setup) -> impl Store + use<> {
    let mut builder = Database::builder();
    builder.set_cache_size(setup.cache_bytes as usize);
    let db = builder.create(dir.join("redb")).expect("redb opens");
    let transaction = db.begin_write().expect("redb begins");
    transaction.open_table(KEYS).expect("redb has a table");
    transaction.commit().expect("redb commits");
    db
}

impl Store for Database {
    fn write(&self, (key, value): Write<'_>, sync: bool) {
        let mut transaction = self.begin_write().expect("redb begins");
        let durability = if sync { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability).expect("redb takes a durability");
        {
            let mut table = transaction.open_table(KEYS).expect("redb has a table");
            match value {
                Some(value) => drop(table.insert(key, value).expect("redb writes")),
                None => drop(table.remove(key).expect("redb deletes")),
            }
        }
        transaction.commit().expect("redb commits");
    }

    fn get(&self, key: &[u8], with: &mut dyn FnMut(&[u8])) -> bool {
        let transaction = self.begin_read().expect("redb begins");
        let table = transaction.open_table(KEYS).expect("redb has a table");
        match table.get(key).expect("redb reads") {
            Some(value) => {
                with(value.value());
                true
            }
            None => false,
        }
    }

    fn scan(&self, key: &[u8], rows: usize, with: &mut dyn FnMut(&[u8], &[u8])) -> usize {
        let transaction = self.begin_read().expect("redb begins");
        let table = transaction.open_table(KEYS).expect("redb has a table");
        let mut count = 0;
        for row in table.range(key..).expect("redb scans").take(rows) {
            let (key, value) = row.expect("redb scans");
            with(key.value(), value.value());
            count += 1;
        }
        count
    }

    fn settle(&self) {
        let transaction = self.begin_write().expect("redb begins");
        transaction.commit().expect("redb commits");
    }
}
