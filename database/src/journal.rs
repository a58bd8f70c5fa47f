//! The local log of a standalone database: propose, sync in groups, apply in order.
//!
//! A proposal is queued; whoever finds no leader becomes it: appends all that is queued, syncs once, applies the group,
//! and answers everybody. The first proposer into an idle journal leads one round in its own thread, which spares two
//! context switches per write; what has gathered meanwhile is left to the journal's thread. While the journal idles, its
//! thread vouches for the last group, so that damage to it can be told from a torn tail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lumen_engine::log::{Kind, Log};
use parking_lot::{Condvar, Mutex};

use crate::apply;
use crate::entry::{self, Entry, Proposal};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::write::Ack;

/// Bytes that may wait in the queue: beyond, a proposal is told to come back.
const QUEUE_BYTES_MAX: usize = 128 << 20;
/// Bytes that one group takes at most: a larger one would keep the first of it waiting.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// How long a group waits for flushes before everybody in it is told to come back.
const PATIENCE: Duration = Duration::from_secs(10);
/// Idle time after which the last group is vouched for, at most; it is looked twice in it.
const VOUCH_AFTER: Duration = Duration::from_millis(50);

type Done = Box<dyn FnOnce(Result<Ack>) + Send>;

struct Waiting {
    proposal: Proposal,
    done: Done,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    bytes: usize,
    /// Somebody is working on a group.
    led: bool,
    /// The journal's thread is asked to take over.
    handed: bool,
    /// The journal's thread has nothing to look after, and waits to be told of the next group.
    rests: bool,
    closed: bool,
    failure: Option<Error>,
}

/// Counters since the opening.
#[derive(Debug, Clone, Copy, Default)]
pub struct JournalStats {
    /// Syncs.
    pub syncs: u64,
    /// Entries: proposals that were logged.
    pub entries: u64,
    /// Groups: entries / groups is how many shared a sync.
    pub groups: u64,
    /// Bytes of log.
    pub bytes: u64,
}

/// The journal.
pub(crate) struct Journal {
    store: Arc<Store>,
    log: Arc<Log>,
    queue: Mutex<Queue>,
    bell: Condvar,
    next_seq: AtomicU64,
    entries: AtomicU64,
    groups: AtomicU64,
    /// Without a thread of its own, proposers do all the work.
    threaded: bool,
    /// Milliseconds since 1970.
    clock: fn() -> u64,
}

impl Journal {
    pub(crate) fn new(
        store: Arc<Store>,
        log: Arc<Log>,
        next_seq: u64,
        threaded: bool,
        clock: fn() -> u64,
    ) -> Journal {
        Journal {
            store,
            log,
            queue: Mutex::new(Queue::default()),
            bell: Condvar::new(),
            next_seq: AtomicU64::new(next_seq),
            entries: AtomicU64::new(0),
            groups: AtomicU64::new(0),
            threaded,
            clock,
        }
    }

    /// Queues a write; `done` is called once, by whoever commits its group.
    pub(crate) fn propose(&self, proposal: Proposal, done: Done) {
        let refused = {
            let mut queue = self.queue.lock();
            match &queue.failure {
                Some(error) => Some(error.clone()),
                None if queue.closed => Some(Error::Closed),
                None if queue.bytes > QUEUE_BYTES_MAX => {
                    Some(Error::Busy { retry_after: Duration::from_secs(1) })
                }
                None => {
                    queue.bytes += proposal.prepared.encoded_len();
                    queue.waiting.push(Waiting { proposal, done });
                    if queue.led {
                        return;
                    }
                    queue.led = true;
                    if self.threaded && self.store.is_behind() {
                        // Somebody will have to wait for a flush: not the caller.
                        queue.handed = true;
                        self.bell.notify_all();
                        return;
                    }
                    drop(queue);
                    self.lead(!self.threaded);
                    return;
                }
            }
        };
        if let Some(error) = refused {
            done(Err(error));
        }
    }

    /// Works as the leader: one round, or until nothing is waiting.
    fn lead(&self, all: bool) {
        loop {
            let group = self.take_group();
            if !group.is_empty() {
                self.commit(group);
            }
            let mut queue = self.queue.lock();
            if queue.waiting.is_empty() {
                queue.led = false;
                // Not for nothing: it would be the dearest part of a lone write but for the sync.
                if queue.closed || queue.rests {
                    queue.rests = false;
                    self.bell.notify_all();
                }
                return;
            }
            if !all {
                queue.handed = true;
                self.bell.notify_all();
                return;
            }
        }
    }

    fn take_group(&self) -> Vec<Waiting> {
        let mut queue = self.queue.lock();
        let mut bytes = 0;
        let mut count = 0;
        for waiting in &queue.waiting {
            bytes += waiting.proposal.prepared.encoded_len();
            count += 1;
            if bytes >= GROUP_BYTES_MAX {
                break;
            }
        }
        queue.bytes -= bytes;
        if count == queue.waiting.len() {
            return std::mem::take(&mut queue.waiting);
        }
        queue.waiting.drain(..count).collect()
    }

    fn commit(&self, group: Vec<Waiting>) {
        let (mut proposals, mut dones) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
        for waiting in group {
            proposals.push(waiting.proposal);
            dones.push(waiting.done);
        }
        match self.admit() {
            Ok(()) => {}
            Err(error) => {
                // Nothing was logged: the refusal is certain.
                dones.into_iter().for_each(|done| done(Err(error.clone())));
                return;
            }
        }
        self.entries.fetch_add(proposals.len() as u64, Ordering::Relaxed);
        self.groups.fetch_add(1, Ordering::Relaxed);
        match self.log_and_apply(proposals) {
            Ok((acks, refusal)) => {
                let refused = dones.split_off(acks.len());
                dones.into_iter().zip(acks).for_each(|(done, ack)| done(Ok(ack)));
                let refusal = refusal.unwrap_or(Error::Closed); // there is one if any is refused
                refused.into_iter().for_each(|done| done(Err(refusal.clone())));
            }
            Err(error) => {
                // Whether the group survives is known only after a reopen.
                let error = match error {
                    Error::DiskFull { .. } | Error::Corrupt { .. } => error,
                    other => Error::Unknown { reason: other.to_string() },
                };
                self.fail(error.clone());
                dones.into_iter().for_each(|done| done(Err(error.clone())));
            }
        }
    }

    /// Answers for all of the group, or for those in front of the one for which the disk had no room.
    fn log_and_apply(&self, mut group: Vec<Proposal>) -> Result<(Vec<Ack>, Option<Error>)> {
        let time = (self.clock)();
        let first = self.next_seq.load(Ordering::Relaxed);
        let mut end = self.log.durable();
        let mut refusal = None;
        for (place, proposal) in group.iter().enumerate() {
            let head = entry::head_of_one(time, proposal);
            match self.log.append(first + place as u64, Kind::Entry, &[&head, &proposal.prepared.payload]) {
                Ok(position) => end = position,
                Err(error) if error.is_disk_full() => {
                    refusal = Some((place, Error::from(error)));
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some((place, _)) = &refusal {
            group.truncate(*place);
        }
        let refusal = refusal.map(|(_, error)| error);
        self.next_seq.store(first + group.len() as u64, Ordering::Relaxed);
        if group.is_empty() {
            return Ok((Vec::new(), refusal));
        }
        self.log.sync(end)?;
        let of_one = |(index, proposal)| Entry { index, time, proposals: vec![proposal] };
        let entries = (first..).zip(group).map(of_one).collect();
        let acks = apply::entries(&self.store, entries, None)?.into_iter().flatten().collect();
        if !self.threaded {
            while crate::indexing::merge_one(&self.store, &|| false)? {}
        }
        Ok((acks, refusal))
    }

    fn admit(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        self.store.engine.admit(PATIENCE)?;
        while self.threaded && self.store.is_behind() {
            if let Some(error) = self.store.engine.failure() {
                return Err(error.into());
            }
            let mut live = self.store.live.lock();
            if self.store.bell.wait_until(&mut live, until).timed_out() {
                return Err(Error::Busy { retry_after: Duration::from_secs(1) });
            }
        }
        Ok(())
    }

    /// Refuses everything from now on with `error`.
    pub(crate) fn fail(&self, error: Error) {
        let waiting = {
            let mut queue = self.queue.lock();
            queue.failure.get_or_insert(error.clone());
            queue.bytes = 0;
            std::mem::take(&mut queue.waiting)
        };
        waiting.into_iter().for_each(|waiting| (waiting.done)(Err(error.clone())));
    }

    /// Why the journal refuses, if it does.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.queue.lock().failure.clone()
    }

    /// The journal's thread.
    pub(crate) fn run(&self) {
        loop {
            let vouch = {
                let mut queue = self.queue.lock();
                let mut seen = None;
                loop {
                    if queue.handed {
                        queue.handed = false;
                        break false;
                    }
                    if queue.closed && !queue.led {
                        return;
                    }
                    let groups = Some(self.groups.load(Ordering::Relaxed));
                    if seen == groups && !queue.led && !queue.closed && queue.failure.is_none() {
                        break true;
                    }
                    seen = groups;
                    if queue.led || self.log.wants_vouch() {
                        self.bell.wait_for(&mut queue, VOUCH_AFTER / 2);
                    } else {
                        queue.rests = !queue.closed;
                        self.bell.wait(&mut queue);
                        queue.rests = false;
                        seen = None;
                    }
                }
            };
            if vouch {
                if let Err(error) = self.log.vouch() {
                    self.fail(Error::Unknown { reason: error.to_string() });
                }
                if let Some(error) = self.store.engine.failure() {
                    self.fail(error.into());
                }
            } else {
                self.lead(true);
            }
        }
    }

    /// Takes no more proposals and waits for those that are there.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        self.bell.notify_all();
        while queue.led {
            self.bell.wait(&mut queue);
        }
    }

    pub(crate) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    pub(crate) fn stats(&self) -> JournalStats {
        let log = self.log.stats();
        JournalStats {
            syncs: log.syncs,
            entries: self.entries.load(Ordering::Relaxed),
            groups: self.groups.load(Ordering::Relaxed),
            bytes: log.bytes,
        }
    }
}
