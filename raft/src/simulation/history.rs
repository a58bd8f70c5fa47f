//! What clients asked and were told, and whether one order of all of it explains it: linearizability, and with it that a
//! search agrees with a get.
//!
//! Every answer says of which moment it is, a sequence number, so the order need not be searched for: it is that of the numbers
//! (the witness that Wing & Gong's search would find; Herlihy & Wing 1990 for what it must satisfy). To be shown is then that the
//! numbers agree with real time, and that each answer is right at its number. What is not known of a write whose outcome
//! nobody was told is left open, but only as far as one write at one moment can explain.
//!
//! This file stands by itself: tests of real processes include it (`server/tests/orders/`), and hold it against a
//! search of another author.

use std::collections::BTreeMap;

/// A key, as a number.
pub(crate) type Key = u64;
/// A value, as a number. Each is written by one operation alone.
pub(crate) type Value = u64;

/// What a write asks for before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum If {
    Always,
    Absent,
    Present,
    Version(u64),
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Asked {
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
pub(crate) enum Told {
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
pub(crate) struct Operation {
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
    /// Deletes of which nobody knows whether they were done: after which moment each came, and what it asks for.
    deletes: Vec<(u64, If)>,
    /// Such puts, whose value nobody found, by operation.
    open_puts: BTreeMap<usize, (u64, If)>,
}

impl If {
    /// What must be so for a write that asks for this to be done.
    fn seen(self) -> Option<Seen> {
        match self {
            If::Always => None,
            If::Present => Some(Seen::Something),
            If::Absent => Some(Seen::Nothing),
            If::Version(version) => Some(Seen::Version(version)),
        }
    }
}

/// What is wrong with a history, in words that name the operations; `Ok` if nothing is.
pub(crate) fn check(operations: &[Operation]) -> Result<(), String> {
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
        if let (Asked::Put(_, If::Always) | Asked::Delete(If::Always), Told::Refused(_)) =
            (operation.asked, operation.told)
        {
            return Err(format!("refused although it asks for nothing: {operation:?}"));
        }
        if let Told::Done(seq) | Told::Nothing(seq) | Told::Refused(seq) = operation.told
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
            if let Some(seen) = condition.seen() {
                saw(seq.saturating_sub(1), seen);
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
        Told::Unknown if value.is_some() => _ = known.open_puts.insert(number, (newest, condition)),
        Told::Unknown => known.deletes.push((newest, condition)),
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
        if matches!(reader.asked, Asked::Search(wanted) if wanted != value) {
            return wrong("another value than was searched for");
        }
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
        // So it was done, and what it asks for was so.
        if let (Some(_), Asked::Put(_, condition)) = (known.open_puts.remove(&number), writer.asked)
            && let Some(seen) = condition.seen()
        {
            known.seen.push((version.saturating_sub(1), seen, number));
        }
        match known.writes.insert(version, Some(value)) {
            Some(before) if before != Some(value) => return wrong("two writes of one moment"),
            _ => {}
        }
    }
    Ok(())
}

/// What a key is known to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// What the newest known write left.
    ItsPut,
    Nothing,
    /// Something that nobody was told of.
    Another,
    /// Not its put any more: nothing, or something else.
    NotItsPut,
}

/// Everything that was seen of a key is as the newest write before it left it, or as writes did of which nobody was told, each
/// of them once.
fn right_at_its_moment(operations: &[Operation], known: &mut Known) -> Result<(), String> {
    // A version that somebody relied on, and nobody was told of, is such a put; of which value is not known.
    let mut relied_on: Vec<(u64, usize)> = known
        .seen
        .iter()
        .filter_map(|(at, seen, number)| match seen {
            Seen::Version(version) if version <= at => Some((*version, *number)),
            _ => None,
        })
        .collect();
    relied_on.sort_unstable();
    for (version, number) in relied_on {
        if known.writes.contains_key(&version) {
            continue;
        }
        // One that asks for a version that was never there was not done.
        let can = |put: &(u64, If)| match put.1 {
            If::Version(it) => {
                known.open_puts.len() > 1 || known.writes.get(&it).is_some_and(Option::is_some)
            }
            _ => put.0 < version,
        };
        let candidates = || known.open_puts.iter().filter(|(_, put)| put.0 < version && can(put));
        let asks = |put: &(u64, If)| match put.1 {
            If::Always => None,
            If::Absent => Some(Seen::Nothing),
            If::Present | If::Version(_) => Some(Seen::Something),
        };
        let mut asked = candidates().map(|(_, put)| asks(put));
        let all_ask_for = asked.next().flatten().filter(|first| asked.all(|other| other == Some(*first)));
        let Some((&open, _)) = candidates().max_by_key(|(_, put)| put.0) else { continue };
        known.open_puts.remove(&open);
        known.writes.insert(version, Some(Value::MAX));
        if let Some(seen) = all_ask_for {
            known.seen.push((version.saturating_sub(1), seen, number));
        }
    }
    known.seen.sort_unstable_by_key(|(at, ..)| *at);
    let (mut gone, mut came) = (Vec::new(), Vec::new());
    // When it was last seen to hold what it holds, and its put.
    let (mut newest, mut holds, mut last, mut alive) = (None, Holds::Nothing, 0, 0);
    for &(at, seen, number) in &known.seen {
        let write = known.writes.range(..=at).next_back().map(|(seq, value)| (*seq, *value));
        if write != newest {
            newest = write;
            last = write.map_or(0, |(seq, _)| seq);
            alive = last;
            holds =
                if write.is_some_and(|(_, value)| value.is_some()) { Holds::ItsPut } else { Holds::Nothing };
        }
        let wrong =
            || Err(format!("{seen:?} at {at}, but the newest write is {newest:?}: {:?}", operations[number]));
        let (its_version, its_value) = match newest {
            Some((seq, Some(value))) => (Some(seq), Some(value)),
            _ => (None, None),
        };
        let is_its_put = match seen {
            Seen::Version(version) | Seen::NotVersion(version) => its_version == Some(version),
            Seen::Not(value) => its_value == Some(value),
            Seen::Something | Seen::Nothing => false,
        };
        let of_its_put = its_version.filter(|_| matches!(holds, Holds::ItsPut | Holds::NotItsPut));
        let replaces = |put: &(u64, If)| match put.1 {
            If::Always | If::Present => put.0 < at,
            If::Version(version) => put.0 < at && its_version == Some(version),
            If::Absent => false,
        };
        let may_be_put = known.open_puts.values().any(replaces);
        match seen {
            Seen::Version(_) if is_its_put && holds == Holds::ItsPut => {}
            Seen::Version(_) => return wrong(),
            Seen::Something if holds == Holds::Nothing => {
                if last >= at {
                    return wrong();
                }
                came.push(Stretch { version: None, after: last, by: at });
                holds = Holds::Another;
            }
            Seen::Nothing if holds == Holds::ItsPut || holds == Holds::Another => {
                if last >= at {
                    return wrong();
                }
                gone.push(Stretch { version: of_its_put, after: last, by: at });
                holds = Holds::Nothing;
            }
            Seen::NotVersion(_) | Seen::Not(_) if is_its_put && holds == Holds::ItsPut => {
                if alive >= at {
                    return wrong();
                }
                if last >= at {
                    came.push(Stretch { version: its_version, after: alive, by: at });
                    holds = Holds::Another;
                } else if may_be_put {
                    holds = Holds::NotItsPut;
                } else {
                    gone.push(Stretch { version: of_its_put, after: last, by: at });
                    holds = Holds::Nothing;
                    last = at;
                }
            }
            Seen::Something if holds == Holds::NotItsPut => {
                came.push(Stretch { version: its_version, after: alive, by: at });
                holds = Holds::Another;
            }
            Seen::Nothing if holds == Holds::NotItsPut => {
                if last >= at {
                    return wrong();
                }
                gone.push(Stretch { version: of_its_put, after: last, by: at });
                holds = Holds::Nothing;
            }
            Seen::Something | Seen::Nothing | Seen::NotVersion(_) | Seen::Not(_) => {}
        }
        match seen {
            Seen::Version(_) => (last, alive) = (at, at),
            Seen::Something | Seen::Nothing => last = at,
            // That something is not there says little of what is.
            Seen::Not(_) | Seen::NotVersion(_) => {}
        }
        if seen == Seen::Something && holds == Holds::ItsPut && !may_be_put {
            alive = at;
        }
    }
    let deletes = |write: If, version: Option<u64>| match write {
        If::Always | If::Present => true,
        // Or what a put left of which nobody was told.
        If::Version(it) => {
            version == Some(it) || !(known.writes.contains_key(&it) || known.open_puts.is_empty())
        }
        If::Absent => false,
    };
    explained(&gone, known.deletes.clone(), deletes)
        .map_err(|at| format!("nobody deleted a key after {} and by {}", at.after, at.by))?;
    let puts = known.open_puts.values().copied().collect();
    explained(&came, puts, |write, version| match (write, version) {
        (If::Always | If::Absent, _) | (If::Present, Some(_)) => true,
        (If::Version(it), version) => version == Some(it),
        (If::Present, None) => false,
    })
    .map_err(|at| format!("nobody put a key after {} and by {}", at.after, at.by))
}

/// Moments after one and up to another, in which a write must have been done of which nobody was told; of a key that held
/// this version until then.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    version: Option<u64>,
    after: u64,
    by: u64,
}

/// Whether so many writes, each done once and after its moment, can be what the stretches have to have, which come one after
/// the other; `fits` says whether a write can have been done to a version. The error is a stretch that none is left for.
fn explained(
    stretches: &[Stretch],
    mut writes: Vec<(u64, If)>,
    fits: impl Fn(If, Option<u64>) -> bool,
) -> Result<(), Stretch> {
    for stretch in stretches {
        let can = |write: &(usize, &(u64, If))| write.1.0 < stretch.by && fits(write.1.1, stretch.version);
        // One that asks for this version is good for nothing else. Of the others any: each is as good for all that come later.
        let is_for_this = |write: &(usize, &(u64, If))| matches!(write.1.1, If::Version(_));
        let which = writes.iter().enumerate().filter(can).max_by_key(is_for_this);
        match which.map(|(number, _)| number) {
            Some(number) => _ = writes.swap_remove(number),
            None => return Err(*stretch),
        }
    }
    Ok(())
}
