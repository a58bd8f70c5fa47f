//! The engine's own write path: log, memtable, publish.
//!
//! A batch gets its sequence number and is copied into the log's group and the memtable under one lock; a batch that
//! asked for durability then waits, outside the lock, for the sync that covers it, and is published after it: nobody
//! reads what a power cut could take back. Publishing is in order, so a buffered batch behind a waiting one becomes
//! visible (and returns) with it.

use std::time::{Duration, Instant};

use crate::batch::{Batch, Operation};
use crate::error::Result;
use crate::flush;
use crate::install::How;
use crate::key::Seq;
use crate::log::{Kind, Log, Position};
use crate::memtable::Gathered;
use crate::state::Shared;
use crate::stats::Stall;
use crate::sync::Mutex;
use crate::sync::atomic::Ordering;
use crate::version::edit::Edit;

/// When a write counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When the operating system has it: survives the process, not a power cut.
    Buffered,
    /// When the disk has it.
    Sync,
}

/// How long a writer waits for flushes and compactions before it is told to come back later.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The order of writes.
pub(crate) struct Commit {
    order: Mutex<Order>,
}

struct Order {
    last: Seq,
    /// The newest batch that waits for a sync: whatever is published must wait for it too.
    syncing: Option<Position>,
}

impl Commit {
    pub(crate) fn new(last: Seq) -> Commit {
        Commit { order: Mutex::new(Order { last, syncing: None }) }
    }

    /// Writes a batch; answers its sequence number.
    pub(crate) fn write(
        &self,
        shared: &Shared,
        log: &Log,
        batch: &Batch,
        durability: Durability,
    ) -> Result<Seq> {
        shared.admit(PATIENCE)?;
        shared.check()?;
        let operations = batch.effective()?;
        shared.counters.user_bytes.add(batch.size() as u64);
        if batch.size() >= shared.options.memtable_bytes / 2 {
            return self.write_large(shared, log, &operations, batch, durability);
        }
        let (seq, end, wait, bytes) = {
            let mut order = self.order.lock();
            let seq = order.last + 1;
            let end = append(shared, log, seq, batch)?;
            order.last = seq;
            let view = shared.view.load();
            view.insert(seq, &operations);
            if durability == Durability::Sync {
                order.syncing = Some(end);
            } else if order.syncing.is_some_and(|position| log.durable() >= position) {
                order.syncing = None;
            }
            (seq, end, order.syncing, view.active.bytes())
        };
        if let Some(position) = wait {
            log.sync(position)?;
        }
        if wait != Some(end) && log.write_out(end)? {
            shared.ring();
        }
        shared.visible.fetch_max(seq, Ordering::AcqRel);
        if bytes >= shared.options.memtable_bytes {
            // The batch is written: what fails from here on meets the next one.
            let _ = self.freeze(shared, log, false);
        }
        Ok(seq)
    }

    /// Writes a batch that would fill the memtable by itself: it becomes one, frozen from the beginning. It is sorted before
    /// it has its number, so that nobody waits for that.
    fn write_large(
        &self,
        shared: &Shared,
        log: &Log,
        operations: &[Operation<'_>],
        batch: &Batch,
        durability: Durability,
    ) -> Result<Seq> {
        let mut gathered = Gathered::new();
        gathered.add(0, operations);
        let mut memtable = gathered.sorted();
        let mut order = self.order.lock();
        let seq = order.last + 1;
        let end = append(shared, log, seq, batch)?;
        order.last = seq;
        memtable.number(seq);
        shared.view.load().gaps.put(seq, operations);
        // All before it must be visible before it is frozen, and durable if it was asked to be.
        match order.syncing {
            None if durability == Durability::Buffered => drop(log.write_out(end)?),
            _ => log.sync(end)?,
        }
        order.syncing = None;
        shared.visible.fetch_max(seq - 1, Ordering::AcqRel);
        shared.freeze_with(seq, memtable);
        Ok(seq)
    }

    /// Freezes the memtable, unless (without `always`) another writer did it already.
    pub(crate) fn freeze(&self, shared: &Shared, log: &Log, always: bool) -> Result<()> {
        let mut order = self.order.lock();
        if !always && shared.view.load().active.bytes() < shared.options.memtable_bytes {
            return Ok(());
        }
        // All of it must be visible before it is frozen: a snapshot reads its view first and the sequence number after. What
        // nobody asked to be durable is made so by the flush, while others write.
        match order.syncing.take() {
            None => drop(log.write_out(log.end())?),
            Some(_) => {
                let begun = Instant::now();
                log.sync(log.end())?;
                shared.counters.stalled(Stall::Log, begun.elapsed());
            }
        }
        shared.visible.fetch_max(order.last, Ordering::AcqRel);
        shared.freeze(order.last, None)
    }

    /// Takes in tables that were made past log and memory. All writers wait: `flush` empties memory, then `edit` says what
    /// comes at the sequence number it is given. An empty batch in the log keeps its numbers without a gap.
    pub(crate) fn ingest(
        &self,
        shared: &Shared,
        log: &Log,
        flush: &dyn Fn() -> Result<()>,
        edit: &mut dyn FnMut(Seq) -> Edit,
    ) -> Result<Seq> {
        shared.check()?;
        let mut order = self.order.lock();
        log.sync(log.end())?;
        shared.visible.fetch_max(order.last, Ordering::AcqRel);
        shared.freeze(order.last, None)?;
        flush()?;
        let seq = order.last + 1;
        let mut payload = Vec::new();
        Batch::new().encode(&mut payload);
        let end = log.append(seq, Kind::Batch, &[&payload])?;
        order.last = seq;
        log.sync(end)?;
        let mut edit = edit(seq);
        let floor = seq.saturating_sub(shared.options.retain_seqs);
        let version = shared.view.load().version.clone();
        edit.floor = Some(floor.max(version.floor));
        flush::bring_into_force(shared, &version, &mut edit);
        edit.log = Some(log.durable());
        shared.commit_with(edit, How::Ingest(seq))?;
        Ok(seq)
    }
}

fn append(shared: &Shared, log: &Log, seq: Seq, batch: &Batch) -> Result<Position> {
    batch.with_parts(|parts| log.append(seq, Kind::Batch, parts)).map_err(|error| {
        match error.is_disk_full() {
            true => shared.disk_is_full(),
            false => error,
        }
    })
}
