//! LMDB: one database; each write is a transaction.

use std::ops::Bound;
use std::path::Path;
use std::sync::OnceLock;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, WithoutTls};

use super::{Store, Write};

#[derive(Clone, Copy)]
struct Lmdb {
    /// Opened without syncing, since the choice is the environment's and not the transaction's; for ever, since a
    /// database borrows it.
    env: &'static Env<WithoutTls>,
    keys: Database<'static, Bytes, Bytes>,
}

const MAP_BYTES: usize = 32 << 30;

/// A process has one folder, and LMDB opens it once: whoever opens it again gets the same.
static OPENED: OnceLock<Lmdb> = OnceLock::new();

pub(crate) fn open(dir: &Path) -> impl Store + use<> {
    *OPENED.get_or_init(|| open_first(dir))
}

fn open_first(dir: &Path) -> Lmdb {
    // SAFETY: the contest owns the folder, and no other process opens it.
    let env = unsafe {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(MAP_BYTES).max_readers(256);
        options.flags(EnvFlags::NO_SYNC | EnvFlags::NO_READ_AHEAD);
        options.open(dir).expect("lmdb opens")
    };
    let env: &'static Env<WithoutTls> = Box::leak(Box::new(env));
    let transaction = env.write_txn().expect("lmdb begins");
    let create = |opener: &heed::DatabaseOpener<'static, _>, transaction: &mut heed::RwTxn<'static>| {
        opener.create_database(transaction, None).map(CommitOrAbort::<_, ()>::Commit)
    };
    let keys =
        env.create_databases_and_commit(transaction, create).expect("lmdb has a database").unwrap_commit();
    Lmdb { env, keys }
}

impl Store for Lmdb {
    fn write(&self, (key, value): Write<'_>, sync: bool) {
        let mut transaction = self.env.write_txn().expect("lmdb begins");
        match value {
            Some(value) => self.keys.put(&mut transaction, key, value).expect("lmdb writes"),
            None => drop(self.keys.delete(&mut transaction, key).expect("lmdb deletes")),
        }
        transaction.commit().expect("lmdb commits");
        if sync {
            self.env.force_sync().expect("lmdb syncs");
        }
    }

    fn get(&self, key: &[u8], with: &mut dyn FnMut(&[u8])) -> bool {
        let transaction = self.env.read_txn().expect("lmdb begins");
        match self.keys.get(&transaction, key).expect("lmdb reads") {
            Some(value) => {
                with(value);
                true
            }
            None => false,
        }
    }

    fn scan(&self, key: &[u8], rows: usize, with: &mut dyn FnMut(&[u8], &[u8])) -> usize {
        let transaction = self.env.read_txn().expect("lmdb begins");
        // LMDB has no empty key, not even to seek to.
        let start = if key.is_empty() { Bound::Unbounded } else { Bound::Included(key) };
        let from = (start, Bound::Unbounded);
        let mut count = 0;
        for row in self.keys.range(&transaction, &from).expect("lmdb scans").take(rows) {
            let (key, value) = row.expect("lmdb scans");
            with(key, value);
            count += 1;
        }
        count
    }

    fn settle(&self) {
        self.env.force_sync().expect("lmdb syncs");
    }
}
