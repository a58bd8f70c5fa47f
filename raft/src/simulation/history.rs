//! What clients asked and were told, and whether one order of all of it explains it: linearizability, and with it that a
//! search agrees with a get.
//!
//! Every answer says of which moment it is, a sequence number, so the order need not be searched for: it is that of the numbers
//! (the witness that Wing & Gong's search would find; Herlihy & Wing 1990 for what it must satisfy). To be shown is then that the
//! numbers agree with real time, and that each answer is right at its number. What is not known of a write whose outcome
//! nobody was told is left open, but only as far as one write at one moment can explain.
//!
//! This file stands by itself: tests of real processes include it (`server/tests/linearizable.rs`), and hold it against a
//! search of another author.

use std::collections::{BTreeMap, BTreeSet};

/// A key, as a number.
pub(super) type Key = u64;
/// A value, as a number. Each is written by one operation alone.
pub(super) type Value = u64;

/// What a write asks for before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum If {
    Always,
    Absent,
    Present,
    Version(u64),
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    /// Puts a value.
    Put(Value, If),
    Delete(If),
    /// Reads a key as it is now.
    Read,
    /// Searches for the value of a key as it is now: there, or not.
    Search(Value),
    /// Reads a moment that is at least so new.
    ReadSince(u64),
}

/// What was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Told {
    /// A write was done, and is of this moment; of a delete it does not say whether there was something.
    Done(u64),
    /// A delete found nothing, at this moment.
    Nothing(u64),
    /// What the write asks for was not so, at this moment.
    Refused(u64),
    /// The write was not done and never will be.
    NotDone,
    /// Nobody knows whether the write was done, or will be.
    Unknown,
    /// A read, or search, at a moment found a value, with the version it has; or nothing.
    Found(u64, Option<(u64, Value)>),
}

/// One operation of a client. Times are of one clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operation {
    pub key: Key,
    pub asked: Asked,
    pub told: Told,
    /// Not later than the request was sent.
    pub began: u64,
    /// Not earlier than the answer was there.
    pub ended: u64,
}

/// What was seen of a key at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// A put of this moment.
    Version(u64),
    Something,
    Nothing,
    /// Not this value.
    Not(Value),
    /// Not the put of this moment.
    NotVersion(u64),
}

/// What is known of one key.
#[derive(Default)]
struct Known {
    /// Writes by their moments: what was put, or that it was deleted.
    writes: BTreeMap<u64, Option<Value>>,
    /// What was seen at which moments, and by which operation.
    seen: Vec<(u64, Seen, usize)>,
    /// After which moment each delete came of which nobody knows whether it was done.
    deletes: Vec<u64>,
    /// Puts of which nobody knows.
    open_puts: usize,
}

/// What is wrong with a history, in words that name the operations; `Ok` if nothing is.
pub(super) fn check(operations: &[Operation]) -> Result<(), String> {
    let newest = real_time(operations)?;
    let writers = writers(operations)?;
    let mut keys: BTreeMap<Key, Known> = BTreeMap::new();
    for (number, operation) in operations.iter().enumerate() {
        collect(operation, number, newest[number], keys.entry(operation.key).or_default());
    }
    found_values(operations, &newest, &writers, &mut keys)?;
    keys.values_mut().try_for_each(|known| right_at_its_moment(operations, known))
}

impl Told {
    /// The moment of which the answer is, as far as real time has to agree with it.
    fn moment(self) -> Option<u64> {
        match self {
            Told::Done(seq) | Told::Nothing(seq) | Told::Refused(seq) | Told::Found(seq, _) => Some(seq),
            Told::NotDone | Told::Unknown => None,
        }
    }
}

/// What begins after an answer is of no older moment, a write of a newer one. Answers for each operation the newest moment that
/// was told before it began.
fn real_time(operations: &[Operation]) -> Result<Vec<u64>, String> {
    let mut begins: Vec<usize> = (0..operations.len()).collect();
    let mut ends = begins.clone();
    begins.sort_by_key(|&number| operations[number].began);
    ends.sort_by_key(|&number| operations[number].ended);
    let (mut ends, mut newest, mut by) = (ends.into_iter().peekable(), 0, None);
    let mut before = vec![0; operations.len()];
    for number in begins {
        let operation = &operations[number];
        while let Some(ended) = ends.next_if(|&ended| operations[ended].ended < operation.began) {
            if let Some(moment) = operations[ended].told.moment().filter(|moment| *moment > newest) {
                (newest, by) = (moment, Some(ended));
            }
        }
        before[number] = newest;
        let is_old = match (operation.asked, operation.told) {
            (Asked::ReadSince(since), Told::Found(seq, _)) => {
                if seq < since {
                    return Err(format!("older than it may be: {operation:?}"));
                }
                false
            }
            (_, Told::Found(seq, _)) => seq < newest,
            (_, Told::Done(seq) | Told::Nothing(seq) | Told::Refused(seq)) => seq <= newest,
            _ => false,
        };
        if is_old {
            let by = by.map(|number: usize| operations[number]);
            return Err(format!("older than what was told before it began: {operation:?} after {by:?}"));
        }
    }
    Ok(before)
}

/// Who writes each value, and that no two writes are of one moment.
fn writers(operations: &[Operation]) -> Result<BTreeMap<Value, usize>, String> {
    let (mut writers, mut moments) = (BTreeMap::new(), BTreeMap::new());
    for (number, operation) in operations.iter().enumerate() {
        if let Asked::Put(value, _) = operation.asked
            && let Some(other) = writers.insert(value, number)
        {
            return Err(format!("two write one value: {:?} and {operation:?}", operations[other]));
        }
        if let Told::Done(seq) = operation.told
            && let Some(other) = moments.insert(seq, number)
        {
            return Err(format!("two writes of one moment: {:?} and {operation:?}", operations[other]));
        }
    }
    Ok(writers)
}

/// What an operation says of its key; `newest` is the newest moment told before it began.
fn collect(operation: &Operation, number: usize, newest: u64, known: &mut Known) {
    let mut saw = |at: u64, seen| known.seen.push((at, seen, number));
    let (value, condition) = match operation.asked {
        Asked::Put(value, condition) => (Some(value), condition),
        Asked::Delete(condition) => (None, condition),
        Asked::Read | Asked::ReadSince(_) => {
            if let Told::Found(at, found) = operation.told {
                saw(at, found.map_or(Seen::Nothing, |(version, _)| Seen::Version(version)));
            }
            return;
        }
        Asked::Search(value) => {
            if let Told::Found(at, found) = operation.told {
                saw(at, found.map_or(Seen::Not(value), |(version, _)| Seen::Version(version)));
            }
            return;
        }
    };
    match operation.told {
        Told::Done(seq) => {
            match condition {
                If::Always => {}
                If::Present => saw(seq - 1, Seen::Something),
                If::Absent => saw(seq - 1, Seen::Nothing),
                If::Version(version) => saw(seq - 1, Seen::Version(version)),
            }
            known.writes.insert(seq, value);
        }
        Told::Nothing(seq) => saw(seq, Seen::Nothing),
        Told::Refused(seq) => match condition {
            If::Always => {}
            If::Absent => saw(seq, Seen::Something),
            If::Present => saw(seq, Seen::Nothing),
            If::Version(version) => saw(seq, Seen::NotVersion(version)),
        },
        Told::Unknown if value.is_some() => known.open_puts += 1,
        Told::Unknown => known.deletes.push(newest),
        Told::NotDone | Told::Found(..) => {}
    }
}

/// Every value that was found was written, to its key, at the moment that is its version. So what became of writes of which
/// nobody was told is known of those that were seen.
fn found_values(
    operations: &[Operation],
    newest: &[u64],
    writers: &BTreeMap<Value, usize>,
    keys: &mut BTreeMap<Key, Known>,
) -> Result<(), String> {
    for reader in operations {
        let Told::Found(at, Some((version, value))) = reader.told else { continue };
        let Some(&number) = writers.get(&value) else {
            return Err(format!("nobody wrote what was found: {reader:?}"));
        };
        let writer = &operations[number];
        let wrong = |what: &str| Err(format!("{what}: {reader:?} found what is of {writer:?}"));
        if writer.key != reader.key {
            return wrong("the value of another key");
        }
        if writer.began > reader.ended {
            return wrong("found before it was written");
        }
        if version > at {
            return wrong("a version newer than the moment");
        }
        match writer.told {
            Told::Done(seq) if seq == version => continue,
            Told::Done(_) => return wrong("another version than its write"),
            Told::Unknown if version > newest[number] => {}
            Told::Unknown => return wrong("a version older than what was told before it began"),
            _ => return wrong("not done, but found"),
        }
        let known = keys.entry(reader.key).or_default();
        match known.writes.insert(version, Some(value)) {
            Some(before) if before != Some(value) => return wrong("two writes of one moment"),
            _ => {}
        }
    }
    Ok(())
}

/// Everything that was seen of a key is as the newest write before it left it.
fn right_at_its_moment(operations: &[Operation], known: &mut Known) -> Result<(), String> {
    known.seen.sort_unstable_by_key(|(at, ..)| *at);
    // Up to where each version was seen alive.
    let mut alive: BTreeMap<u64, u64> = BTreeMap::new();
    for (at, seen, _) in &known.seen {
        let version = match seen {
            Seen::Version(version) => *version,
            Seen::Something => known.writes.range(..=at).next_back().map_or(0, |(seq, _)| *seq),
            _ => continue,
        };
        alive.insert(version, *at);
    }
    // Moments after the first and up to the second, in which a delete must have been done that nobody was told of.
    let mut gone: BTreeSet<(u64, u64)> = BTreeSet::new();
    for &(at, seen, number) in &known.seen {
        let wrong = |newest: &dyn std::fmt::Debug| {
            Err(format!("{seen:?} at {at}, but the newest write is {newest:?}: {:?}", operations[number]))
        };
        let newest = known.writes.range(..=at).next_back().map(|(seq, value)| (*seq, *value));
        let put = newest.and_then(|(seq, value)| Some((seq, value?)));
        match (seen, put) {
            (Seen::Version(version), Some((seq, _))) if version == seq => {}
            (Seen::Version(_), _) => return wrong(&newest),
            (Seen::Something, None) if known.open_puts == 0 => return wrong(&newest),
            (Seen::NotVersion(version), Some((seq, _))) if version == seq => {
                gone_by(&alive, seq, at, &mut gone).or_else(|()| wrong(&newest))?;
            }
            (Seen::Not(value), Some((seq, there))) if there == value => {
                gone_by(&alive, seq, at, &mut gone).or_else(|()| wrong(&newest))?;
            }
            (Seen::Nothing, Some((seq, _))) => {
                gone_by(&alive, seq, at, &mut gone).or_else(|()| wrong(&newest))?;
            }
            _ => {}
        }
    }
    explained(&gone, &mut known.deletes)
}

/// A version was not there any more at a moment.
fn gone_by(
    alive: &BTreeMap<u64, u64>,
    version: u64,
    at: u64,
    gone: &mut BTreeSet<(u64, u64)>,
) -> Result<(), ()> {
    let last = alive.get(&version).copied().unwrap_or(0).max(version);
    if last >= at {
        return Err(());
    }
    gone.insert((at, last));
    Ok(())
}

/// Whether so many deletes, each done once and after its moment, can be what all stretches (last moment, moment before the
/// first) have to have. A delete is best taken as late as a stretch allows: there it is in most of those that follow, and
/// latest after it began.
fn explained(gone: &BTreeSet<(u64, u64)>, deletes: &mut Vec<u64>) -> Result<(), String> {
    deletes.sort_unstable_by(|a, b| b.cmp(a));
    let mut done = 0;
    for &(last, before) in gone {
        if done > before {
            continue;
        }
        // Of those that began before it, any: each is as good for all that come later.
        match deletes.iter().rposition(|after| *after < last) {
            Some(which) => _ = deletes.remove(which),
            None => return Err(format!("a key is gone after {before} and by {last}, and nobody deleted it")),
        }
        done = last;
    }
    Ok(())
}
