//! The feed of changes: everything that happened after a sequence number, once and in order, read from the log itself.
//!
//! The log holds every write with its values. What it does not hold, `apply` has noted in records of its own (see `layout`):
//! what became of writes that did not do as they say, and where in the log some writes stand, from which the reading begins.
//! So a change costs nothing more than the write, whoever follows reads as slowly as it likes, and what it has not read yet takes
//! no memory. The feed reaches back as far as the log is kept; who comes later is told so ([`Error::Compacted`]).

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use event_listener::{EventListener, Listener};
use lumen_engine::log::{Cursor, Log};
use lumen_engine::scan::Scan;

use crate::database::Database;
use crate::entry;
use crate::error::{Error, Result};
use crate::keys::{KeyWrite, Until};
use crate::layout::{self, Effect, Effects, Place};
use crate::mapping::Mapping;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::write::{Prepared, Shape, Write};

/// What is followed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scope {
    /// Everything.
    #[default]
    All,
    /// A collection and its documents.
    Collection(String),
    /// Key-values of a space, from `start` to before `end`; without an end, to that of the space.
    Keys {
        /// The space.
        space: String,
        /// The first key.
        start: Vec<u8>,
        /// The first key after them.
        end: Option<Vec<u8>>,
    },
}

/// What one write changed, of what is followed. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The write's sequence number.
    pub seq: u64,
    /// The log's time then, in milliseconds since 1970.
    pub time: u64,
    /// What changed, in order.
    pub changes: Vec<Change>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A document was created or replaced.
    DocumentPut {
        /// Where.
        collection: String,
        /// Which.
        id: String,
        /// Its JSON text.
        source: Vec<u8>,
    },
    /// A document is gone.
    DocumentDeleted {
        /// Where.
        collection: String,
        /// Which.
        id: String,
    },
    /// A collection was made.
    CollectionCreated {
        /// Its name.
        name: String,
        /// Its mapping.
        mapping: Mapping,
    },
    /// A collection is gone with all its documents.
    CollectionDropped {
        /// Its name.
        name: String,
    },
    /// A key-value was created or replaced.
    KeyPut {
        /// Where.
        space: String,
        /// Which.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
        /// When it expires by itself, in milliseconds since 1970, if it does.
        expires: Option<u64>,
        /// The lease that keeps it, if one does.
        lease: Option<u64>,
    },
    /// A key-value is gone.
    KeyDeleted {
        /// Where.
        space: String,
        /// Which.
        key: Vec<u8>,
        /// Whether it had expired, or its lease had.
        expired: bool,
    },
    /// All key-values of a range are gone.
    KeysDeleted {
        /// Where.
        space: String,
        /// The first key.
        start: Vec<u8>,
        /// The first key after them; none: to the end of the space.
        end: Option<Vec<u8>>,
    },
}

/// A log whose entries can be read again.
pub trait EntryLog {
    /// The index of the first entry that is there, or of the next one.
    fn first(&self) -> u64;
    /// A place before the entry of an index; `None` when it is gone.
    fn cursor(&self, index: u64) -> Result<Option<Box<dyn EntryCursor>>>;
}

/// A place in such a log.
pub trait EntryCursor: Send {
    /// The next entry that holds writes, of those before index `end`: they are there to stay.
    fn next(&mut self, end: u64) -> Result<NextEntry>;
}

/// What comes next in a log.
pub enum NextEntry {
    /// An entry: its index, and what it holds.
    Entry(u64, Vec<u8>),
    /// Nothing yet.
    End,
    /// It is gone.
    Gone,
}

/// Changes as they are read. It never skips one: when the log does not hold the next one any more, it says so.
pub struct Changes {
    store: Arc<Store>,
    cursor: Box<dyn EntryCursor>,
    scope: Scope,
    /// Changes up to here are not wanted.
    since: u64,
    /// Writes up to here were read.
    read: u64,
    /// The log's time at `read`.
    time: u64,
    /// Read and not yet given.
    ahead: VecDeque<Changed>,
    /// Why it cannot go on; told when all before that is given.
    failed: Option<Error>,
}

impl Database {
    /// Everything that happened after `since`, of what is in scope; without `since`, what happens from now on. For a database
    /// with a journal of its own.
    ///
    /// Errors: [`Error::Compacted`] when the log does not reach back so far; [`Error::NotYet`] when there is no such write
    /// yet; [`Error::Replica`].
    pub fn changes(&self, since: Option<u64>, scope: Scope) -> Result<Changes> {
        let journal = self.inner.journal.as_ref().ok_or(Error::Replica)?;
        self.changes_of(&JournalLog(journal.log().clone()), false, since, scope)
    }

    /// [`Database::changes`] of a replica, by the log that it follows.
    pub fn changes_in(&self, log: &dyn EntryLog, since: Option<u64>, scope: Scope) -> Result<Changes> {
        self.changes_of(log, true, since, scope)
    }

    fn changes_of(
        &self,
        log: &dyn EntryLog,
        replicated: bool,
        since: Option<u64>,
        scope: Scope,
    ) -> Result<Changes> {
        let store = self.inner.store.clone();
        let snapshot = Snapshot::new(&store);
        let moment = snapshot.moment();
        let since = since.unwrap_or(moment.seq);
        if since > moment.seq {
            return Err(Error::NotYet { seq: since, last: moment.seq });
        }
        let next = if replicated { moment.entry } else { moment.seq + 1 };
        let (read, Place { index, time, .. }) = match since == moment.seq {
            true => (since, Place { replicated, index: next, time: moment.time }),
            false => place_before(&snapshot, log.first(), replicated, since, *store.begun.lock())?,
        };
        let cursor = log.cursor(index)?.ok_or(Error::Compacted { oldest: moment.seq })?;
        Ok(Changes { store, cursor, scope, since, read, time, ahead: VecDeque::new(), failed: None })
    }
}

/// The last place at or before the write of a sequence number that is known and still there: its sequence number and itself.
fn place_before(
    snapshot: &Snapshot,
    first: u64,
    replicated: bool,
    since: u64,
    begun: (u64, Place),
) -> Result<(u64, Place)> {
    let last = snapshot.moment().seq;
    let is_there = |place: &Place| place.replicated == replicated && place.index >= first;
    let read = |scan: &Scan<'_>| {
        let place = layout::decode_place_key(scan.key()).zip(layout::decode_place(scan.value()));
        place.ok_or_else(|| Error::corrupt("a place in the log", 0, "malformed record"))
    };
    let (floor, here) = (layout::place_key(layout::feed_floor(last)), layout::place_key(since + 1));
    let end = layout::place_key(last + 1);
    let mut before = snapshot.engine().scan(Bound::Included(&floor), Bound::Excluded(&here));
    let noted = if before.prev_row()? { Some(read(&before)?).filter(|(_, it)| is_there(it)) } else { None };
    // Where this node began, of which nothing is noted for all.
    let begun = Some(begun).filter(|(_, place)| is_there(place));
    let early = begun.filter(|(seq, _)| *seq <= since);
    if let Some(found) = noted.into_iter().chain(early).max_by_key(|(seq, _)| *seq) {
        return Ok(found);
    }
    let begun = begun.map_or(last, |(seq, _)| seq);
    let mut after = snapshot.engine().scan(Bound::Included(&here), Bound::Excluded(&end));
    while after.next_row()? {
        let (seq, place) = read(&after)?;
        if is_there(&place) {
            return Err(Error::Compacted { oldest: seq.min(begun) });
        }
    }
    Err(Error::Compacted { oldest: begun })
}

impl Changes {
    /// All changes up to here were given, or are none of those followed: what to begin with another time.
    pub fn seq(&self) -> u64 {
        self.ahead.front().map_or(self.read, |next| next.seq - 1).max(self.since)
    }

    /// Whether there are writes that were not read yet.
    pub fn is_behind(&self) -> bool {
        !self.ahead.is_empty() || self.read < self.store.moment.load().seq
    }

    /// What is there, in order, about `bytes_max` of it at most, one write's changes always together. Empty if there is nothing
    /// more yet, or nothing that is followed in a part of what is there ([`Changes::is_behind`] tells). It reads the disk.
    ///
    /// Errors: [`Error::Compacted`] when the log was let go of faster than it was read.
    pub fn read(&mut self, bytes_max: usize) -> Result<Vec<Changed>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut given = Vec::new();
        match self.read_into(&mut given, bytes_max) {
            Ok(()) => Ok(given),
            Err(error) => {
                self.failed = Some(error.clone());
                if given.is_empty() { Err(error) } else { Ok(given) }
            }
        }
    }

    fn read_into(&mut self, given: &mut Vec<Changed>, bytes_max: usize) -> Result<()> {
        let snapshot = Snapshot::new(&self.store);
        let (last, end) = (snapshot.moment().seq, snapshot.moment().entry);
        let mut bytes = 0;
        let mut odd = Odd { noted: BTreeMap::new(), snapshot: &snapshot, upto: self.read, last };
        // A follower of little in a log of much has to come up for air, too.
        let mut walked = 0;
        while bytes < bytes_max && walked < bytes_max.max(1 << 20) {
            if let Some(changed) = self.ahead.pop_front() {
                bytes += changed.changes.iter().map(Change::bytes).sum::<usize>();
                given.push(changed);
                continue;
            }
            if self.read >= last {
                break;
            }
            if self.read + 1 < layout::feed_floor(last) {
                return Err(Error::Compacted { oldest: last });
            }
            let (index, payload) = match self.cursor.next(end)? {
                NextEntry::Entry(index, payload) => (index, payload),
                NextEntry::End | NextEntry::Gone => return Err(Error::Compacted { oldest: last }),
            };
            walked += payload.len();
            let before = self.read;
            if let Err(error) = self.entry(index, &payload, &mut odd) {
                // None of it is told: an entry that cannot be read to its end says nothing.
                self.read = before;
                self.ahead.clear();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Tells when there may be more: to be had before [`Changes::read`] finds nothing, and to be waited for after that, by a
    /// thread or a task.
    pub fn listen(&self) -> EventListener {
        self.store.published.listen()
    }

    /// [`Changes::read`], but waits for something, for so long at most.
    pub fn wait(&mut self, bytes_max: usize, patience: Duration) -> Result<Vec<Changed>> {
        let until = std::time::Instant::now() + patience;
        loop {
            let news = self.listen();
            let found = self.read(bytes_max)?;
            if !found.is_empty() {
                return Ok(found);
            }
            if !self.is_behind() && news.wait_deadline(until).is_none() {
                return Ok(found);
            }
        }
    }

    /// Reads an entry.
    fn entry(&mut self, index: u64, payload: &[u8], odd: &mut Odd<'_>) -> Result<()> {
        let malformed = || Error::corrupt("the log", 0, format!("malformed entry {index}"));
        let (time, writes) = entry::read(payload).ok_or_else(malformed)?;
        self.time = self.time.max(time);
        for (_, payload) in writes {
            self.read += 1;
            let seq = self.read;
            let effects = odd.of(seq)?;
            if seq <= self.since || effects == Some(Effects::None) {
                continue;
            }
            let (mut writes, shape) = Prepared::read(payload).ok_or_else(malformed)?;
            let (otherwise, parts) = match effects {
                Some(Effects::Parts { otherwise, parts }) => (otherwise, Some(parts)),
                _ => (false, None),
            };
            if let Shape::Transaction { then, .. } = shape {
                let rest = writes.split_off(then);
                writes = if otherwise { rest } else { writes };
            }
            let mut parts = parts.map(Vec::into_iter);
            let mut changes = Vec::new();
            for write in writes {
                let effect = match &mut parts {
                    None => Effect::AsSaid,
                    Some(parts) => parts.next().ok_or_else(malformed)?,
                };
                self.add(write, effect, &mut changes).ok_or_else(malformed)?;
            }
            if !changes.is_empty() {
                self.ahead.push_back(Changed { seq, time: self.time, changes });
            }
        }
        Ok(())
    }

    /// Adds what a write changed of what is followed; `None` if it cannot have had such an effect.
    fn add(&self, write: Write, effect: Effect, changes: &mut Vec<Change>) -> Option<()> {
        let change = match (write, effect) {
            (_, Effect::None) => return Some(()),
            (Write::Keys(write), Effect::Removed(records)) => {
                let expired = !matches!(write, KeyWrite::Revoke { .. });
                for record in records {
                    let (space, key) = layout::decode_kv_key(&record)?;
                    if self.scope.holds_key(space, key) {
                        let (space, key) = (space.to_owned(), key.to_vec());
                        changes.push(Change::KeyDeleted { space, key, expired });
                    }
                }
                return Some(());
            }
            (_, Effect::Removed(_)) => return None,
            (Write::CreateCollection { name, mapping }, _) => Change::CollectionCreated { name, mapping },
            (Write::DropCollection { name }, _) => Change::CollectionDropped { name },
            (Write::Put { collection, id, source, .. }, _) => Change::DocumentPut { collection, id, source },
            (Write::Delete { collection, id, .. }, _) => Change::DocumentDeleted { collection, id },
            (Write::Keys(KeyWrite::Put { space, key, value, until, .. }), _) => {
                let (expires, lease) = match until {
                    Until::Deleted => (None, None),
                    Until::Ttl(ttl) => (Some(self.time.saturating_add(ttl)), None),
                    Until::Lease(lease) => (None, Some(lease)),
                };
                Change::KeyPut { space, key, value, expires, lease }
            }
            (Write::Keys(KeyWrite::Delete { space, key, .. }), _) => {
                Change::KeyDeleted { space, key, expired: false }
            }
            (Write::Keys(KeyWrite::DeleteRange { space, start, end }), _) => {
                changes.extend(self.scope.clip(space, start, end));
                return Some(());
            }
            (Write::Keys(KeyWrite::Expire { .. }), _) => return None, // what it removed is noted
            (Write::Keys(_) | Write::Read(_), _) => return Some(()),
            (Write::Batch(_) | Write::Transaction(_), _) => return None,
        };
        if self.scope.holds(&change) {
            changes.push(change);
        }
        Some(())
    }
}

/// What is noted of writes that did not do as they say, in order.
struct Odd<'a> {
    noted: BTreeMap<u64, Effects>,
    snapshot: &'a Snapshot,
    /// Noted is what there is up to here.
    upto: u64,
    last: u64,
}

/// Writes whose notes are read at once.
const NOTES: u64 = 4096;

impl Odd<'_> {
    /// What is noted of a write; asked for in order.
    fn of(&mut self, seq: u64) -> Result<Option<Effects>> {
        if seq > self.upto {
            self.noted.clear();
            self.upto = (seq + NOTES).min(self.last);
            let (start, end) = (layout::effects_key(seq), layout::effects_key(self.upto + 1));
            let mut scan = self.snapshot.engine().scan(Bound::Included(&start), Bound::Excluded(&end));
            while scan.next_row()? {
                let malformed = || Error::corrupt("what a write did", 0, "malformed record");
                let seq = layout::decode_effects_key(scan.key()).ok_or_else(malformed)?;
                let effects = layout::decode_effects(scan.value()).ok_or_else(malformed)?;
                self.noted.insert(seq, effects);
            }
        }
        Ok(self.noted.remove(&seq))
    }
}

impl Scope {
    fn holds_key(&self, of_space: &str, key: &[u8]) -> bool {
        match self {
            Scope::All => true,
            Scope::Collection(_) => false,
            Scope::Keys { space, start, end } => {
                space == of_space && key >= &start[..] && end.as_ref().is_none_or(|end| key < &end[..])
            }
        }
    }

    fn holds(&self, change: &Change) -> bool {
        match change {
            Change::DocumentPut { collection: name, .. }
            | Change::DocumentDeleted { collection: name, .. }
            | Change::CollectionCreated { name, .. }
            | Change::CollectionDropped { name } => match self {
                Scope::All => true,
                Scope::Collection(followed) => followed == name,
                Scope::Keys { .. } => false,
            },
            Change::KeyPut { space, key, .. } | Change::KeyDeleted { space, key, .. } => {
                self.holds_key(space, key)
            }
            Change::KeysDeleted { .. } => true, // it was clipped
        }
    }

    /// What of a range of deleted keys is followed.
    fn clip(&self, space: String, mut start: Vec<u8>, mut end: Option<Vec<u8>>) -> Option<Change> {
        match self {
            Scope::All => {}
            Scope::Collection(_) => return None,
            Scope::Keys { space: followed, .. } if *followed != space => return None,
            Scope::Keys { start: first, end: after, .. } => {
                start = start.max(first.clone());
                end = match (end, after) {
                    (Some(end), Some(after)) => Some(end.min(after.clone())),
                    (end, after) => end.or_else(|| after.clone()),
                };
            }
        }
        let is_empty = end.as_ref().is_some_and(|end| *end <= start);
        (!is_empty).then_some(Change::KeysDeleted { space, start, end })
    }
}

impl Change {
    /// Bytes of names and values, about.
    pub fn bytes(&self) -> usize {
        let beside = match self {
            Change::DocumentPut { collection, id, source } => collection.len() + id.len() + source.len(),
            Change::DocumentDeleted { collection, id } => collection.len() + id.len(),
            Change::CollectionCreated { name, mapping } => name.len() + mapping.fields().count() * 64,
            Change::CollectionDropped { name } => name.len(),
            Change::KeyPut { space, key, value, .. } => space.len() + key.len() + value.len(),
            Change::KeyDeleted { space, key, .. } => space.len() + key.len(),
            Change::KeysDeleted { space, start, end } => {
                space.len() + start.len() + end.as_ref().map_or(0, Vec::len)
            }
        };
        beside + 32
    }
}

/// The journal, whose records are entries with their sequence numbers as indexes.
struct JournalLog(Arc<Log>);

struct JournalCursor {
    log: Arc<Log>,
    cursor: Cursor,
    next: u64,
}

impl EntryLog for JournalLog {
    fn first(&self) -> u64 {
        self.0.segments().first().map_or(0, |&(_, first)| first)
    }

    fn cursor(&self, index: u64) -> Result<Option<Box<dyn EntryCursor>>> {
        let log = self.0.clone();
        let Some(cursor) = log.cursor(index)? else { return Ok(None) };
        Ok(Some(Box::new(JournalCursor { log, cursor, next: index })))
    }
}

impl EntryCursor for JournalCursor {
    fn next(&mut self, _: u64) -> Result<NextEntry> {
        let found = self.cursor.next(&self.log);
        // What was let go of looks like an end, or like damage: its file may hold another segment by now.
        let is_gone = || self.log.segments().first().is_some_and(|&(_, first)| first > self.next);
        match found {
            Ok(Some(record)) if record.seq == self.next => {
                self.next += 1;
                Ok(NextEntry::Entry(record.seq, record.payload))
            }
            Ok(None) if !is_gone() => Ok(NextEntry::End),
            Err(error) if !is_gone() => Err(error.into()),
            _ => Ok(NextEntry::Gone),
        }
    }
}
