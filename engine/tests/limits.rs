//! Limits of the machine: a full disk, memory held under its budget, many threads at once.

mod noise;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lumen_engine::events::Event;
use lumen_engine::stats::StallStats;
use lumen_engine::vfs::Vfs;
use lumen_engine::vfs::memory::Memory;
use lumen_engine::{Batch, Compaction, Durability, Engine, Error, Options};
use noise::noise;
use parking_lot::Mutex;

fn options(vfs: Arc<dyn Vfs>) -> Options {
    Options {
        vfs,
        memtable_bytes: 32 << 10,
        table_bytes: 16 << 10,
        level_bytes: 64 << 10,
        segment_bytes: 64 << 10,
        cache_bytes: 64 << 10,
        disk_reserve_bytes: 128 << 10,
        threads: 0,
        ..Options::default()
    }
}

fn key(n: u32) -> Vec<u8> {
    format!("key{n:07}").into_bytes()
}

fn value(n: u32) -> Vec<u8> {
    noise(n, 200)
}

fn put(engine: &Engine, n: u32) -> Result<(), Error> {
    let mut batch = Batch::new();
    batch.put(&key(n), &value(n));
    engine.write(&batch, Durability::Sync).map(drop)
}

/// Writes until the disk is full; answers how many were acknowledged.
fn fill(engine: &Engine, from: u32) -> u32 {
    for n in from..1_000_000 {
        match put(engine, n) {
            Ok(()) => {}
            Err(Error::DiskFull { .. }) => return n,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the disk is never full");
}

/// Waits for what another thread will do soon.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::yield_now();
    }
}

#[derive(Default)]
struct Heard {
    full: AtomicU64,
    freed: AtomicU64,
    stalled: AtomicU64,
}

fn hearing(options: Options) -> (Arc<Heard>, Options) {
    let heard = Arc::new(Heard::default());
    let told = heard.clone();
    let listener = move |event: &Event| {
        match event {
            Event::DiskFull { .. } => told.full.fetch_add(1, Ordering::Relaxed),
            Event::DiskFreed { .. } => told.freed.fetch_add(1, Ordering::Relaxed),
            Event::Stalled { .. } => told.stalled.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
    };
    (heard, Options { listener: Some(Arc::new(listener)), ..options })
}

fn check(engine: &Engine, written: u32) {
    for n in 0..written {
        assert_eq!(engine.get(&key(n)).expect("get").as_deref(), Some(&value(n)[..]), "{n}");
    }
    assert!(engine.verify(&mut |_, _| true).expect("verify").is_empty());
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    for threads in [0, 2] {
        let vfs = Memory::new();
        vfs.set_capacity(Some(2 << 20));
        let (heard, options) = hearing(Options { threads, ..options(Arc::new(vfs.clone())) });
        let engine = Engine::open("/store", options.clone()).expect("open");
        let written = fill(&engine, 0);
        assert!(written > 1000, "{written} rows of 200 bytes fill two megabytes");
        eventually("the event", || heard.full.load(Ordering::Relaxed) > 0);
        // A compaction that ends may have made room for a few more.
        let written = match threads {
            0 => written,
            _ => (written..).find(|n| put(&engine, *n).is_err()).expect("it is full again"),
        };
        if threads == 0 {
            assert!(engine.stats().disk_full);
            assert!(put(&engine, written).is_err(), "and the next one is refused as well");
        }
        check(&engine, written);
        // Room is made, and it goes on by itself.
        vfs.set_capacity(Some(8 << 20));
        for n in written..written + 2000 {
            put(&engine, n).expect("there is room");
        }
        eventually("writes go on", || !engine.stats().disk_full);
        eventually("the event", || heard.freed.load(Ordering::Relaxed) > 0);
        engine.settle().expect("settle");
        check(&engine, written + 2000);
        // Once more, and closed and opened while it is full.
        let written = fill(&engine, written + 2000);
        let _ = engine.close();
        drop(engine);
        vfs.set_capacity(None);
        let engine = Engine::open("/store", options).expect("open");
        check(&engine, written);
    }
}

#[test]
fn background_work_goes_on_when_room_is_made_although_nobody_writes() {
    let vfs = Memory::new();
    vfs.set_capacity(Some(1 << 20));
    let options = Options { threads: 2, disk_reserve_bytes: 0, ..options(Arc::new(vfs.clone())) };
    let engine = Engine::open("/store", options).expect("open");
    let written = fill(&engine, 0);
    vfs.set_capacity(None);
    // What waits is flushed without another write to wake it.
    eventually("it goes on", || !engine.stats().disk_full && engine.stats().frozen_memtables == 0);
    check(&engine, written);
    engine.close().expect("close");
}

#[test]
fn a_compaction_that_lacked_room_is_done_when_there_is_some_although_nobody_writes() {
    let vfs = Memory::new();
    let open = |vfs: &Memory, compaction, threads, disk_reserve_bytes| {
        let vfs = Arc::new(vfs.clone());
        let options = Options { compaction, threads, disk_reserve_bytes, ..options(vfs) };
        Engine::open("/store", options).expect("open")
    };
    // Tables that lie over one another, since nothing is merged here.
    let engine = open(&vfs, Compaction::Fifo { bytes_max: u64::MAX, age_max: None }, 0, 0);
    (0..2_000).for_each(|n| put(&engine, n * 7919 % 2_000).expect("put"));
    engine.close().expect("close");
    const CAPACITY: u64 = 64 << 20;
    vfs.set_capacity(Some(CAPACITY));
    // What is free once the store is open, all but a little, is kept in reserve.
    let copy = vfs.fork();
    copy.set_capacity(Some(CAPACITY));
    let _engine = open(&copy, Compaction::Leveled, 0, 0);
    let free = copy.free_space(std::path::Path::new("/")).expect("told");
    let engine = open(&vfs, Compaction::Leveled, 2, free);
    let depth = engine.stats().level0_depth;
    assert!(depth > 8, "{depth} tables over one another are no reason to merge");
    assert!(!engine.stats().disk_full);
    check(&engine, 2_000); // while the thread finds that it can do nothing
    assert_eq!(engine.stats().compactions, 0);
    vfs.set_capacity(None);
    eventually("it goes on", || engine.stats().level0_depth <= depth / 2);
    check(&engine, 2_000);
    engine.close().expect("close");
}

/// As root a small file system can be had; elsewhere the same is shown on the one in memory, above.
#[test]
fn a_full_file_system_refuses_writes_until_there_is_room() {
    let dir = tempfile::tempdir().expect("a folder");
    let mount =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(dir.path()).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: nothing can be mounted here");
        return;
    }
    let store = dir.path().join("store");
    let ballast = dir.path().join("ballast");
    std::fs::write(&ballast, vec![1; 1 << 20]).expect("ballast");
    let (_, options) = hearing(Options { threads: 2, ..options(Options::default().vfs) });
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let engine = Engine::open(&store, options.clone()).expect("open");
        // A compaction that ends may have made room for a few more.
        let (mut written, mut refused) = (fill(&engine, 0), None);
        while refused.is_none() {
            refused = put(&engine, written).err();
            written += u32::from(refused.is_none());
        }
        let refused = refused.expect("full");
        let text = refused.to_string();
        assert!(text.contains("bytes are free") && text.contains("store"), "{text}");
        check(&engine, written);
        std::fs::remove_file(&ballast).expect("room is made");
        for n in written..written + 500 {
            put(&engine, n).expect("there is room");
        }
        let written = fill(&engine, written + 500);
        let _ = engine.close();
        drop(engine);
        let engine = Engine::open(&store, options.clone());
        // It opens if a first log segment finds room, and says why if none does.
        match engine {
            Ok(engine) => check(&engine, written),
            Err(error) => assert!(error.is_disk_full(), "{error}"),
        }
    }));
    let unmounted = Command::new("umount").arg(dir.path()).status().expect("umount");
    assert!(unmounted.success());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn writers_wait_when_compaction_is_behind_and_are_counted() {
    let vfs = Memory::new();
    // A wait counts for what it began with, so it must not be memory.
    let (threads, memtables_max) = (2, 1000);
    let tight =
        Options { threads, memtables_max, level0_tables: 1, level0_stop: 1, ..options(Arc::new(vfs)) };
    let (heard, options) = hearing(tight);
    let engine = Engine::open("/store", options).expect("open");
    let count = |reason: &str| {
        let of_reason = |stall: &&StallStats| stall.reason == reason;
        engine.stats().stalls_by_reason.iter().find(of_reason).expect("a known reason").count
    };
    // Whether compaction is behind is for the machine's scheduler to say: until it was.
    let mut n = 0;
    while n < 3000 || count("compacting level 0") == 0 {
        put(&engine, n).expect("waits, but is not refused");
        n += 1;
        assert!(n < 1_000_000, "{:?}", engine.stats().stalls_by_reason);
    }
    // Short waits that come often are counted, and not told.
    let untold = count("syncing the log") + count("keeping pace with compactions");
    assert_eq!(engine.stats().stalls - untold, heard.stalled.load(Ordering::Relaxed));
    engine.close().expect("close");
}

#[test]
fn writers_do_not_wait_for_what_no_strategy_would_merge() {
    let strategies = [
        Compaction::Leveled,
        Compaction::Tiered { runs: 12, size_ratio_percent: 1, space_percent: 1000 },
        Compaction::LazyLeveled { runs: 12 },
    ];
    for compaction in strategies {
        // Writers would have to wait before anything is merged.
        let options = Options {
            compaction,
            threads: 2,
            level0_tables: 15,
            level0_stop: 3,
            ..options(Arc::new(Memory::new()))
        };
        let engine = Engine::open("/store", options).expect("open");
        for n in 0..4_000 {
            put(&engine, n * 7919 % 4_000).unwrap_or_else(|error| panic!("{compaction:?}, row {n}: {error}"));
        }
        assert!(engine.stats().compactions > 0, "{compaction:?}");
        check(&engine, 4_000);
        engine.close().expect("close");
    }
}

#[test]
fn range_deletes_over_one_another_take_the_memory_that_they_count() {
    let vfs = Memory::new();
    let engine = Engine::open("/store", Options { memtable_bytes: 1 << 20, ..options(Arc::new(vfs)) });
    let engine = engine.expect("open");
    let flushes = || engine.stats().flushed_bytes;
    // A log of which the beginning goes with each row: each delete lies over all fragments of those before it.
    const ROWS: u32 = 4_000;
    for n in 0..ROWS {
        let mut batch = Batch::new();
        batch.put(&key(n), b"row");
        engine.write(&batch, Durability::Buffered).expect("write");
        let mut batch = Batch::new();
        batch.delete_range(b"key", &key(n));
        engine.write(&batch, Durability::Buffered).expect("write");
    }
    // Seqs in fragments alone are 64 MB if nobody counts them: memory of one megabyte is full many times.
    assert!(engine.stats().flushes > 4, "{} flushes of {} bytes", engine.stats().flushes, flushes());
    engine.settle().expect("settle");
    let deletes = engine.shape().matches("range delete").count();
    assert!(deletes <= 1, "{deletes} range deletes lie under newer ones");
    assert_eq!(engine.get(&key(ROWS - 1)).expect("get").as_deref(), Some(&b"row"[..]));
    assert!(engine.get(&key(ROWS - 2)).expect("get").is_none());
}

#[test]
fn compactions_run_side_by_side_and_nothing_is_lost() {
    let vfs = Memory::new();
    let options = Options { threads: 5, ..options(Arc::new(vfs)) };
    let engine = Engine::open("/store", options).expect("open");
    std::thread::scope(|scope| {
        for writer in 0..4u32 {
            let engine = &engine;
            scope.spawn(move || {
                for round in 0..3u32 {
                    for n in 0..1500u32 {
                        let mut batch = Batch::new();
                        let n = (n * 7919 % 1500) * 4 + writer;
                        if n % 11 == round {
                            batch.delete(&key(n));
                        } else {
                            batch.put(&key(n), &value(n + round));
                        }
                        engine.write(&batch, Durability::Buffered).expect("write");
                    }
                }
            });
        }
    });
    for settled in [false, true] {
        for n in 0..6000u32 {
            let expected = (n % 11 != 2).then(|| value(n + 2));
            assert_eq!(engine.get(&key(n)).expect("get").as_deref(), expected.as_deref(), "{n} {settled}");
        }
        engine.settle().expect("settle");
    }
    assert!(engine.verify(&mut |_, _| true).expect("verify").is_empty());
    engine.close().expect("close");
}

/// Says to the child that it is one, and where its store is.
const CHILD: &str = "LUMEN_TEST_STORE_OF_CHILD";
const LIMIT_BYTES: u64 = 96 << 20;

/// A control group whose processes may have [`LIMIT_BYTES`] of memory; gone when this is, with its processes at an end.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// Where each version of control groups has its memory, and the file with the limit
    /// (<https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>, <https://docs.kernel.org/admin-guide/cgroup-v2.html>).
    const PLACES: [(&str, &str); 2] =
        [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];

    /// None where this process may not make one.
    fn new() -> Option<MemoryGroup> {
        // None of these files is made here: without the controller they are not there.
        let write = |path: PathBuf, text: &str| {
            let mut file = std::fs::OpenOptions::new().write(true).open(path).ok()?;
            std::io::Write::write_all(&mut file, text.as_bytes()).ok()
        };
        // In the second version a group may limit memory only if the one above it says so.
        let _ = write("/sys/fs/cgroup/cgroup.subtree_control".into(), "+memory");
        MemoryGroup::PLACES.iter().find_map(|(root, limit)| {
            let path = std::path::Path::new(root).join(format!("lumen-engine-test-{}", std::process::id()));
            std::fs::create_dir(&path).ok()?;
            let group = MemoryGroup(path);
            write(group.0.join(limit), &LIMIT_BYTES.to_string())?;
            Some(group)
        })
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn what_compactions_replaced_leaves_the_cache() {
    const ROWS: u32 = 2_000;
    let memory = Arc::new(Memory::new());
    let engine = Engine::open("/store", Options { cache_bytes: 8 << 20, ..options(memory) }).expect("open");
    let read_all = || (0..ROWS).for_each(|n| assert!(engine.get(&key(n)).expect("get").is_some(), "{n}"));
    let cached = || engine.stats().cache_bytes;
    (0..ROWS).for_each(|n| put(&engine, n).expect("put"));
    engine.settle().expect("settled");
    read_all();
    let one_copy = cached();
    assert!(one_copy > u64::from(ROWS) * 200, "{one_copy} bytes do not hold all rows");
    // What a snapshot may still read stays, until it is let go of.
    let snapshot = engine.snapshot();
    (0..ROWS).for_each(|n| put(&engine, n).expect("put"));
    engine.settle().expect("settled");
    assert!(cached() >= one_copy, "{} bytes are left of {one_copy}", cached());
    drop(snapshot);
    assert!(cached() < one_copy / 3, "{} bytes of tables that are gone", cached());
    read_all();
    assert!(cached() < one_copy * 3 / 2, "{} bytes for {one_copy} of rows", cached());
}

/// A process that may have 96 MiB fills, compacts and reads a store of 150 MB, with 16 MiB of memtables and 32 MiB of cache.
#[test]
fn memory_stays_under_the_budget() {
    if let Ok(store) = std::env::var(CHILD) {
        return work_in_little_memory(&store);
    }
    let dir = tempfile::tempdir().expect("a folder");
    let group = MemoryGroup::new();
    // The child joins the group before it becomes this program again; without one, its own figures are looked at.
    let join = group.as_ref().map_or(String::new(), |MemoryGroup(group)| {
        format!("echo $$ > {}/cgroup.procs && ", group.display())
    });
    let program = std::env::current_exe().expect("this program");
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("{join}exec {} --exact memory_stays_under_the_budget --nocapture", program.display()))
        .env(CHILD, dir.path().join("store"))
        .output()
        .expect("sh");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if group.is_none() {
        println!("no memory group can be made here: the peak that the process reports counts");
    }
    assert!(output.status.success(), "{said}");
    let peak = said.lines().find_map(|line| line.strip_prefix("peak ")).expect("a figure");
    let peak: u64 = peak.trim().parse().expect("bytes");
    println!("peak {} MiB of {} allowed", peak >> 20, LIMIT_BYTES >> 20);
    assert!(peak < LIMIT_BYTES, "{peak} bytes");
}

fn work_in_little_memory(store: &str) {
    const ROWS: u32 = 700_000;
    let options = Options {
        memtable_bytes: 4 << 20,
        memtables_max: 4,
        cache_bytes: 32 << 20,
        table_bytes: 8 << 20,
        level_bytes: 32 << 20,
        segment_bytes: 16 << 20,
        threads: 2,
        ..Options::default()
    };
    let engine = Engine::open(store, options).expect("open");
    for chunk in 0..ROWS / 100 {
        let mut batch = Batch::new();
        for n in 0..100 {
            let n = (u64::from(chunk * 100 + n) * 7919 % u64::from(ROWS)) as u32;
            batch.put(&key(n), &value(n));
        }
        engine.write(&batch, Durability::Buffered).expect("write");
    }
    for n in 0..100_000u32 {
        let n = (u64::from(n) * 104_729 % u64::from(ROWS)) as u32;
        assert!(engine.get(&key(n)).expect("get").is_some(), "{n}");
    }
    let mut rows = 0;
    let whole = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    engine
        .scan(whole.0, whole.1, |_, _| {
            rows += 1;
            true
        })
        .expect("scan");
    assert_eq!(rows, ROWS);
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    println!("\npeak {}", kib * 1024);
    engine.close().expect("close");
}

#[test]
fn who_waits_too_long_is_told_what_is_behind() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = {
        let told = told.clone();
        move |event: &Event| {
            if let Event::Stalled { reason, .. } = event {
                told.lock().push(*reason);
            }
        }
    };
    // An outer log writes it, and nobody flushes until it is asked to.
    let options = Options {
        vfs: Arc::new(Memory::new()),
        log: false,
        threads: 0,
        memtables_max: 1,
        listener: Some(Arc::new(listener)),
        ..Options::default()
    };
    let engine = Engine::open("/store", options).expect("open");
    let mut batch = Batch::new();
    batch.put(b"a", b"1");
    engine.apply(1, &batch).expect("apply");
    engine.publish(1);
    engine.admit(Duration::from_secs(60)).expect("nothing is behind");
    engine.freeze(1, None).expect("freeze");
    assert!(engine.is_behind());
    match engine.admit(Duration::from_millis(20)) {
        Err(Error::Busy { reason, retry_after }) => {
            assert_eq!(reason, "flushing memory");
            assert!(retry_after > Duration::ZERO);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(*told.lock(), ["flushing memory"]);
    let stalls = engine.stats().stalls_by_reason;
    assert!(stalls.iter().any(|stall| stall.reason == "flushing memory" && stall.count == 1), "{stalls:?}");
    engine.work().expect("flush");
    engine.admit(Duration::from_secs(60)).expect("nothing is behind any more");
    assert_eq!(engine.get(b"a").expect("get").as_deref(), Some(&b"1"[..]));
}
