//! Compactions beside one another and beside flushes: who waits for whom, and what is refused.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Pace, REST_MAX};
use crate::batch::Batch;
use crate::commit::Durability;
use crate::compaction::job;
use crate::compaction::plan::{Input, Job, Reason};
use crate::engine::Engine;
use crate::error::Error;
use crate::options::Options;
use crate::table::filter;
use crate::table::reader::{Reach, Table};
use crate::vfs::memory::Memory;
use crate::vfs::{Bytes, File, Lock, Mode, SyncError, Vfs};

fn options(vfs: Arc<dyn Vfs>, threads: usize) -> Options {
    Options { vfs, threads, level0_tables: 2, ..Options::default() }
}

fn put(engine: &Engine, keys: impl Iterator<Item = String>, value: &str) {
    let mut batch = Batch::new();
    keys.for_each(|key| batch.put(key.as_bytes(), value.as_bytes()));
    engine.write(&batch, Durability::Buffered).expect("write");
}

#[test]
fn a_compaction_whose_entries_do_not_add_up_replaces_nothing() {
    let vfs = Memory::new();
    let options = Options { level0_tables: 100, ..options(Arc::new(vfs.clone()), 0) };
    let engine = Engine::open("/store", options).expect("open");
    for round in ["one", "two"] {
        put(&engine, (0..100).map(|n| format!("key{n}")), round);
        engine.flush().expect("flush");
    }
    let shared = &engine.background.shared;
    let mut version = (*shared.view.load().version.clone()).clone();
    // One of the tables was open already when the manifest, as it seems, began to say something else.
    let honest = &version.slots[0][0];
    let (meta, path) = (honest.meta.clone(), shared.table_path(honest.meta.number));
    let mut lying = Table::new(meta, path, shared.files.vfs.clone(), shared.files.cache.clone());
    assert!(lying.get(b"key1", filter::hash(b"key1"), 9, Reach::Disk).expect("honest so far").is_some());
    lying.meta.stated.entries += 1;
    version.slots[0][0] = Arc::new(lying);
    version.arrange();
    let names = || vfs.files().into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    let manifest = || vfs.contents(Path::new("/store/0000000001.manifest")).expect("a manifest");
    let before = (names(), crc32fast::hash(&manifest()));
    let inputs = vec![Input { slot: 0, tables: version.slots[0].clone() }];
    let job = Job { reason: Reason::Count, inputs, target: Some(15) };
    match job::run(shared, &version, &job, &|| true) {
        Err(Error::Corrupt { reason, .. }) => assert!(reason.contains("200 entries of 201"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        (names(), crc32fast::hash(&manifest())),
        before,
        "what it wrote is gone, and the manifest is as it was"
    );
    assert_eq!(engine.get(b"key7").expect("get").as_deref(), Some(&b"two"[..]));
    assert_eq!(engine.stats().compactions, 0);
}

#[test]
fn a_scrub_keeps_no_file_that_a_compaction_has_replaced() {
    let vfs = Memory::new();
    let engine = Engine::open("/store", options(Arc::new(vfs.clone()), 0)).expect("open");
    let fill = |round: &str| {
        for part in 0..4 {
            put(&engine, (part * 500..part * 500 + 500).map(|n| format!("key{n:04}")), round);
            engine.flush().expect("flush");
        }
        engine.settle().expect("settle");
    };
    let tables =
        || vfs.files().into_iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "sst")).count();
    fill("first");
    let (mut most, mut steps) = (0, 0);
    let found = engine.scrub(&mut |_, _| {
        (0..3).for_each(|round| fill(&format!("round {round} of step {steps}")));
        most = most.max(tables());
        steps += 1;
        true
    });
    assert!(found.expect("scrubbed").is_empty());
    let live = engine.background.shared.view.load().version.slots.iter().flatten().count();
    assert!(steps > 0 && most <= 2 * live.max(2), "{most} tables at a time, {live} live");
    assert_eq!(tables(), live);
}

#[test]
fn walks_count_as_clients_at_work() {
    let engine = Engine::open("/store", options(Arc::new(Memory::new()), 0)).expect("open");
    put(&engine, (0..500).map(|n| format!("key{n:04}")), "value");
    engine.flush().expect("flush");
    let before = engine.background.shared.asked();
    engine.scan(std::ops::Bound::Unbounded, std::ops::Bound::Unbounded, |_, _| true).expect("scan");
    assert_ne!(engine.background.shared.asked(), before);
}

/// A file system on which a compaction that has begun to write waits for another one.
struct Meeting {
    inner: Memory,
    is_on: AtomicBool,
    met: Mutex<BTreeSet<String>>,
    came: Condvar,
}

impl Meeting {
    fn wait_for_another(&self, who: ThreadId) {
        let mut met = self.met.lock();
        met.insert(format!("{who:?}"));
        self.came.notify_all();
        let deadline = Instant::now() + Duration::from_secs(60);
        while met.len() < 2 && !self.came.wait_until(&mut met, deadline).timed_out() {}
    }
}

impl Vfs for Meeting {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        let is_table = path.extension().is_some_and(|kind| kind == "sst");
        if self.is_on.load(Ordering::Acquire) && mode == Mode::Create && is_table {
            self.wait_for_another(thread::current().id());
        }
        self.inner.open(path, mode)
    }
    fn map(&self, path: &Path) -> io::Result<Bytes> {
        self.inner.map(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.inner.list(path)
    }
    fn sync_dir(&self, path: &Path) -> Result<(), SyncError> {
        self.inner.sync_dir(path)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.inner.free_space(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.inner.lock(path)
    }
}

#[test]
fn two_compactions_of_level_0_are_at_work_at_once() {
    let vfs = Arc::new(Meeting {
        inner: Memory::new(),
        is_on: AtomicBool::new(false),
        met: Mutex::default(),
        came: Condvar::new(),
    });
    // Tables of two stretches of keys, which share none. Nothing is merged while they are made.
    let quiet = Options { level0_tables: 100, ..options(vfs.clone(), 0) };
    let engine = Engine::open("/store", quiet).expect("open");
    for round in 0..6 {
        for stretch in ["low", "top"] {
            put(&engine, (0..200).map(|n| format!("{stretch}{n:03}")), &format!("{stretch} {round}"));
            engine.flush().expect("flush");
        }
    }
    engine.close().expect("close");
    vfs.is_on.store(true, Ordering::Release);
    let engine = Engine::open("/store", options(vfs.clone(), 3)).expect("open");
    let deadline = Instant::now() + Duration::from_secs(60);
    while engine.stats().compactions < 2 {
        assert!(Instant::now() < deadline, "{} compactions are done", engine.stats().compactions);
        thread::yield_now();
    }
    assert_eq!(vfs.met.lock().len(), 2, "the first was alone for a minute");
    vfs.is_on.store(false, Ordering::Release);
    engine.settle().expect("settle");
    for stretch in ["low", "top"] {
        for n in 0..200 {
            let found = engine.get(format!("{stretch}{n:03}").as_bytes()).expect("get");
            assert_eq!(found.as_deref(), Some(format!("{stretch} 5").as_bytes()));
        }
    }
    assert!(engine.verify(&mut |_, _| true).expect("verify").is_empty());
}

#[test]
fn a_compaction_lets_flushes_and_clients_go_first() {
    let engine = Engine::open("/store", options(Arc::new(Memory::new()), 2)).expect("open");
    let background = &engine.background;
    let (shared, asked) = (&background.shared, || background.shared.counters.asked());
    let pace = |worked: Duration, seen: u64| {
        let since = Instant::now().checked_sub(worked).expect("the machine is up that long");
        Cell::new(Pace { since, seen })
    };
    // While a flush is at work it does not go on.
    shared.work.lock().flushing = true;
    let (has_begun, is_flushed) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            has_begun.store(true, Ordering::Release);
            let goes_on = background.goes_on(&pace(Duration::ZERO, asked()));
            (goes_on, is_flushed.load(Ordering::Acquire))
        });
        while !has_begun.load(Ordering::Acquire) {
            thread::yield_now();
        }
        (0..1000).for_each(|_| thread::yield_now());
        assert!(!waiting.is_finished());
        is_flushed.store(true, Ordering::Release);
        shared.work.lock().flushing = false;
        shared.ring();
        assert_eq!(waiting.join().expect("no panic"), (true, true));
    });
    // Beside clients it rests as long as it worked, at most so long.
    for (worked, rest) in [(20, 20), (5000, REST_MAX.as_millis() as u64)] {
        let worked = pace(Duration::from_millis(worked), asked());
        engine.get(b"somebody asks").expect("get");
        let begun = Instant::now();
        assert!(background.goes_on(&worked));
        let rested = begun.elapsed();
        assert!(rested >= Duration::from_millis(rest), "{rested:?} of {rest} ms");
        assert_eq!(worked.get().seen, asked());
    }
    // When the store is closed, it ends.
    engine.close().expect("close");
    assert!(!background.goes_on(&pace(Duration::ZERO, asked())));
}
