//! Lists of operations, run against an engine on a file system in memory and against a sorted map that answers the same.
//!
//! `model.rs` draws them at random; the fuzz target `engine_ops` makes them of the fuzzer's bytes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;

use arbitrary::Arbitrary;
use lumen_engine::vfs::memory::{Crash, Memory};
use lumen_engine::{Batch, Compaction, Durability, Engine, Error, Options, Seq, Snapshot};

/// Snapshots that are held at once: reading all of one takes as long as a hundred operations.
const HELD_MAX: usize = 6;

/// What is there, or was at some moment: the numbers that [`key`] and [`value`] make keys and values of, and when they expire.
type Model = BTreeMap<u8, (u16, u64)>;

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// A part of a batch; keys and values are made of small numbers.
#[derive(Debug, Clone, Arbitrary)]
pub enum Change {
    /// The key gets a value.
    Put(u8, u16),
    /// The key gets a value for so many milliseconds.
    PutUntil(u8, u16, u8),
    /// The key goes.
    Delete(u8),
    /// Every key from the first to the second, without the second, goes.
    DeleteRange(u8, u8),
}

/// One call, or a cut of the power.
#[derive(Debug, Clone, Arbitrary)]
pub enum Operation {
    /// Writes a batch, and waits for the disk or not.
    Write { changes: Vec<Change>, sync: bool },
    /// Memory goes to tables.
    Flush,
    /// Everything due is compacted.
    Settle,
    /// Takes a snapshot and holds it; the oldest of many goes.
    Snapshot,
    /// Reads all of a held snapshot.
    Look(u8),
    /// Reads everything as of an earlier batch.
    Past(u8),
    /// So many milliseconds pass.
    Later(u8),
    /// Takes in a row for every second key from the first to the second, in place of all between them or not.
    Ingest { from: u8, to: u8, replace: bool },
    /// Reads a key.
    Get(u8),
    /// Walks from the first key to the second, without the second.
    Scan { from: u8, to: u8, backward: bool },
    /// Closes the store and opens it under other options.
    Reopen(u8),
    /// The power goes so many file-system calls later, and if `again` is not 0, so many into the recovery as well.
    PowerCut { after: u8, crash: u8, again: u8, options: u8 },
}

/// The key made of a number.
pub fn key(k: u8) -> Vec<u8> {
    format!("key/{k:03}").into_bytes()
}

fn value(v: u16) -> Vec<u8> {
    format!("value {v} ").repeat(1 + usize::from(v % 13)).into_bytes()
}

/// The rows that have not expired at `now`.
fn rows<'a>(model: impl IntoIterator<Item = (&'a u8, &'a (u16, u64))>, now: u64) -> Rows {
    let live = model.into_iter().filter(|(_, (_, expiry))| now < *expiry);
    live.map(|(k, (v, _))| (key(*k), value(*v))).collect()
}

thread_local! {
    /// Milliseconds since 1970, as the engine sees them.
    pub static NOW: Cell<u64> = const { Cell::new(1_000_000) };
}

/// One of many sets of options; whatever they are, the answers are the same.
pub fn options(vfs: &Memory, kind: u8) -> Options {
    let compaction = match kind % 6 {
        0 => Compaction::Leveled,
        1 => Compaction::Tiered { runs: 2, size_ratio_percent: 1, space_percent: 200 },
        2 => Compaction::Tiered { runs: 5, size_ratio_percent: 50, space_percent: 1_000_000 },
        3 => Compaction::LazyLeveled { runs: 2 },
        4 => Compaction::LazyLeveled { runs: 4 },
        _ => Compaction::Fifo { bytes_max: u64::MAX, age_max: None },
    };
    let large = kind / 6 % 2;
    Options {
        vfs: Arc::new(vfs.clone()),
        compaction,
        memtable_bytes: 3 << (10 + large),
        block_bytes: 128 << large,
        table_bytes: 1 << (10 + large),
        resume_bytes: 2 << 10,
        level_bytes: 2 << (10 + large),
        level0_tables: 2 + usize::from(large),
        level0_stop: 1000,
        filter_bits: if kind % 4 == 3 { 0 } else { 10 },
        blob_bytes: if kind % 5 == 2 { 60 } else { usize::MAX },
        segment_bytes: 4 << 10,
        cache_bytes: 16 << 10,
        threads: 0,
        clock: || NOW.get(),
        ..Options::default()
    }
}

/// What the engine is told to change, and what that makes of the map.
fn apply(changes: &[Change], model: &mut Model) -> Batch {
    let mut batch = Batch::new();
    for change in changes {
        match change {
            Change::Put(k, v) => {
                batch.put(&key(*k), &value(*v));
                model.insert(*k, (*v, u64::MAX));
            }
            Change::PutUntil(k, v, ms) => {
                let expiry = NOW.get() + u64::from(*ms);
                batch.put_until(&key(*k), &value(*v), expiry);
                model.insert(*k, (*v, expiry));
            }
            Change::Delete(k) => {
                batch.delete(&key(*k));
                model.remove(k);
            }
            Change::DeleteRange(from, to) => {
                batch.delete_range(&key(*from), &key(*to));
                model.retain(|k, _| k < from || k >= to);
            }
        }
    }
    batch
}

/// The rows of a snapshot from one bound to the other, as a walk in one direction meets them.
fn walk(
    snapshot: &Snapshot,
    (start, end): (Bound<&[u8]>, Bound<&[u8]>),
    backward: bool,
) -> Result<Rows, Error> {
    let mut rows = Rows::new();
    let mut scan = snapshot.scan(start, end);
    while if backward { scan.prev_row()? } else { scan.next_row()? } {
        rows.push((scan.key().to_vec(), scan.value().to_vec()));
    }
    if backward {
        rows.reverse();
    }
    Ok(rows)
}

/// Reads one key of a snapshot.
fn check_key(snapshot: &Snapshot, model: &Model, now: u64, k: u8) -> Result<(), Error> {
    let expected = model.get(&k).filter(|(_, expiry)| now < *expiry).map(|(v, _)| value(*v));
    let at_once = snapshot.try_get(&key(k))?;
    assert_eq!(snapshot.get(&key(k))?.as_deref(), expected.as_deref(), "get {k}");
    if let Poll::Ready(found) = at_once {
        assert_eq!(found.as_deref(), expected.as_deref(), "try_get {k}");
    }
    Ok(())
}

/// Reads a snapshot in every way; it holds what the model holds.
fn check(snapshot: &Snapshot, model: &Model, now: u64) -> Result<(), Error> {
    for k in 0..=255u8 {
        check_key(snapshot, model, now, k)?;
    }
    let keys: Vec<Vec<u8>> = (0..=255).rev().map(key).collect();
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let many = snapshot.multi_get(&keys)?;
    assert_eq!(many.len(), keys.len());
    for (key, found) in keys.iter().zip(&many) {
        assert_eq!(found.as_deref(), snapshot.get(key)?.as_deref(), "multi_get of {}", key.escape_ascii());
    }
    let expected = rows(model, now);
    let all = (Bound::Unbounded, Bound::Unbounded);
    assert_eq!(walk(snapshot, all, false)?, expected, "forward");
    assert_eq!(walk(snapshot, all, true)?, expected, "backward");
    let (low, high) = (key(60), key(180));
    let mut scan = snapshot.scan(Bound::Excluded(&low), Bound::Included(&high));
    let inside = rows(model.range((Bound::Excluded(60), Bound::Included(180))), now);
    let mut inside = inside.iter();
    // To and fro: two on, one back.
    while scan.next_row()? {
        let (k, v) = inside.next().expect("a row in the model");
        assert_eq!((scan.key(), scan.value()), (&k[..], &v[..]));
        if let Some((after, _)) = inside.clone().next() {
            assert!(scan.next_row()?);
            assert_eq!(scan.key(), &after[..], "one on");
            assert!(scan.prev_row()?);
            assert_eq!((scan.key(), scan.value()), (&k[..], &v[..]), "and back");
        }
    }
    assert_eq!(inside.next(), None, "bounded scan ended early");
    Ok(())
}

thread_local! {
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

/// Different each time, but the same in each run.
fn next_random() -> u64 {
    RANDOM.set(RANDOM.get() + 1);
    RANDOM.get().wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A power cut to come.
struct Cut {
    at_call: u64,
    crash: Crash,
    again: u8,
    options: u8,
}

/// A store, and what is to be expected of it.
struct Run {
    vfs: Memory,
    engine: Option<Engine>,
    /// What readers see.
    model: Model,
    /// What a power cut may leave, and the seq that it then has: the newest state that is on the disk for sure, and one for
    /// each write after it. Rows alone would not tell two of them apart that differ in when something expires.
    survivors: Vec<(Seq, Model)>,
    /// With the time of their taking.
    held: Vec<(Snapshot, Model, u64)>,
    /// How many batches back can be read, under any options.
    retain_seqs: u64,
    /// What was visible at each seq since the last power cut.
    history: BTreeMap<Seq, Model>,
    cut: Option<Cut>,
}

impl Run {
    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the store is open")
    }

    /// Opens the store; the same list of operations always makes the same files.
    fn open(&mut self, kind: u8) -> Result<(), Error> {
        let retain_seqs = self.retain_seqs;
        let options = Options { random: next_random, retain_seqs, ..options(&self.vfs, kind) };
        self.engine = Some(Engine::open(Path::new("/store"), options)?);
        Ok(())
    }

    /// Everything written so far survives from here on.
    fn is_durable(&mut self) {
        self.survivors = vec![(self.engine().visible_seq(), self.model.clone())];
    }

    /// What the next write makes of the store, whatever the call answers.
    fn may_become(&mut self, after: &Model) {
        self.survivors.push((self.engine().visible_seq() + 1, after.clone()));
    }

    fn step(&mut self, operation: &Operation) -> Result<(), Error> {
        match operation {
            Operation::Write { changes, sync } => {
                let mut after = self.model.clone();
                let batch = apply(changes, &mut after);
                self.may_become(&after);
                let durability = if *sync { Durability::Sync } else { Durability::Buffered };
                let seq = self.engine().write(&batch, durability)?;
                self.model = after;
                self.history.insert(seq, self.model.clone());
                if *sync {
                    self.is_durable();
                }
            }
            Operation::Flush => {
                self.engine().flush()?;
                self.is_durable();
            }
            Operation::Settle => {
                // Now as if nobody wrote for a while, and now not.
                match self.model.len() % 2 {
                    0 => self.engine().rest()?,
                    _ => self.engine().settle()?,
                }
                self.is_durable();
            }
            Operation::Snapshot => {
                self.held.truncate(HELD_MAX - 1);
                self.held.insert(0, (self.engine().snapshot(), self.model.clone(), NOW.get()));
            }
            Operation::Look(which) => {
                let which = usize::from(*which) % self.held.len().max(1);
                if let Some((snapshot, model, now)) = self.held.get(which) {
                    check(snapshot, model, *now)?;
                }
            }
            Operation::Past(which) => {
                let which = usize::from(*which) % self.history.len().max(1);
                if let Some((&seq, model)) = self.history.iter().nth(which) {
                    self.check_past(seq, model)?;
                }
            }
            Operation::Later(ms) => NOW.set(NOW.get() + u64::from(*ms)),
            Operation::Ingest { from, to, replace } => {
                let mut after = self.model.clone();
                if *replace {
                    after.retain(|k, _| k < from || k >= to);
                }
                after.extend((*from..*to).step_by(2).map(|k| (k, (u16::from(k), u64::MAX))));
                // Its number is in the log before its tables are in the manifest.
                let before = self.model.clone();
                self.may_become(&before);
                self.may_become(&after);
                let mut ingestion = self.engine().ingest();
                if *replace {
                    ingestion.replace(&key(*from), &key(*to));
                }
                for k in (*from..*to).step_by(2) {
                    ingestion.put(&key(k), &value(u16::from(k)))?;
                }
                let seq = ingestion.commit()?;
                self.model = after;
                self.history.insert(seq, self.model.clone());
                self.is_durable();
            }
            Operation::Get(k) => check_key(&self.engine().snapshot(), &self.model, NOW.get(), *k)?,
            Operation::Scan { from, to, backward } => {
                let (start, end) = (key(*from), key(*to));
                let bounds = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
                let found = walk(&self.engine().snapshot(), bounds, *backward)?;
                let inside = self.model.iter().filter(|(k, _)| (from..to).contains(k));
                assert_eq!(found, rows(inside, NOW.get()), "{operation:?}");
            }
            Operation::Reopen(kind) => {
                self.held.clear();
                self.engine().close()?;
                self.is_durable();
                self.engine = None;
                self.open(*kind)?;
            }
            Operation::PowerCut { after, crash, again, options } => {
                self.cut_power()?; // one that was to come
                let at_call = self.vfs.calls() + 1 + u64::from(*after);
                self.vfs.power_off_at(at_call);
                let crash = Crash::ALL[usize::from(*crash) % Crash::ALL.len()];
                self.cut = Some(Cut { at_call, crash, again: *again, options: *options });
                if *after == 0 {
                    self.cut_power()?;
                }
            }
        }
        Ok(())
    }

    /// Reads as of `seq`, if that is within reach: it must be, if it is no further back than asked for.
    fn check_past(&self, seq: Seq, model: &Model) -> Result<(), Error> {
        match self.engine().snapshot_of(seq) {
            Ok(snapshot) => check(&snapshot, model, NOW.get()),
            Err(Error::OutOfReach { newest, .. }) => {
                assert!(seq + self.retain_seqs < newest, "{seq} of {newest}");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Cuts the power, if that is to come, and opens what is left.
    fn cut_power(&mut self) -> Result<(), Error> {
        let Some(cut) = self.cut.take() else { return Ok(()) };
        self.held.clear();
        self.history.clear();
        self.engine = None;
        self.vfs.crash(cut.crash, cut.at_call);
        if cut.again > 0 {
            let off = self.vfs.calls() + u64::from(cut.again);
            self.vfs.power_off_at(off);
            let opened = self.open(cut.options);
            assert!(opened.is_ok() || self.vfs.calls() >= off, "with the power on: {opened:?}");
            self.engine = None;
            self.vfs.crash(cut.crash, cut.at_call + 1);
        }
        self.open(cut.options)?;
        let all = (Bound::Unbounded, Bound::Unbounded);
        let found = walk(&self.engine().snapshot(), all, false)?;
        let (seq, crash, at_call) = (self.engine().visible_seq(), cut.crash, cut.at_call);
        let is_left = |(survivor, model): &&(Seq, Model)| *survivor == seq && rows(model, NOW.get()) == found;
        let survivor = self.survivors.iter().rfind(is_left);
        let (_, model) = survivor.unwrap_or_else(|| {
            panic!("{crash:?} at call {at_call} left {found:?} at seq {seq}, none of {:?}", self.survivors)
        });
        self.model = model.clone();
        self.is_durable();
        Ok(())
    }
}

/// Runs a list of operations on a new store that is opened with the options of `kind`.
pub fn run(kind: u8, operations: &[Operation]) {
    RANDOM.set(0);
    NOW.set(1_000_000);
    let vfs = Memory::new();
    let (model, survivors) = (Model::new(), vec![(0, Model::new())]);
    let (held, history, retain_seqs) = (Vec::new(), BTreeMap::new(), u64::from(kind % 3) * 15);
    let mut run = Run { vfs, engine: None, model, survivors, held, retain_seqs, history, cut: None };
    run.open(kind).expect("a new store");
    for operation in operations {
        if let Err(error) = run.step(operation) {
            let off = run.cut.as_ref().is_some_and(|cut| run.vfs.calls() >= cut.at_call);
            assert!(off, "{operation:?} with the power on: {error}");
            run.cut_power().expect("opens after a power cut");
        }
    }
    run.cut_power().expect("opens after a power cut");
    check(&run.engine().snapshot(), &run.model, NOW.get()).expect("readable");
    run.engine().settle().expect("settle");
    check(&run.engine().snapshot(), &run.model, NOW.get()).expect("readable");
    for (snapshot, model, now) in &run.held {
        check(snapshot, model, *now).expect("readable");
    }
    for (&seq, model) in run.history.iter().rev().step_by(11) {
        run.check_past(seq, model).expect("readable");
    }
    assert!(run.engine().verify(&mut |_, _| true).expect("verify").is_empty());
}
