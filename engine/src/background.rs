//! The threads that flush and compact, and the same work done inline when there are none.
//!
//! A failure is final: it is remembered, writers are told, and the store must be reopened. A full disk is none: what could
//! not be done is undone and tried again when there is room.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::compaction::job;
use crate::compaction::plan::{Claim, Input, Job, Limits, Reason};
use crate::compaction::upkeep;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::flush;
use crate::log::Log;
use crate::quarantine;
use crate::state::{Shared, Work};
use crate::sync::thread::{self, JoinHandle};
use crate::version::Version;

/// How often a thread looks for what nobody tells it: room on the disk, and what time alone makes due. Also how long nobody
/// must have written before a store is at rest.
const LOOK: Duration = Duration::from_secs(1);
/// How often it looks for what is too old after days.
const LOOK_FOR_AGE: Duration = Duration::from_secs(60);
/// How long a scrub rests when it has read everything.
const SCRUB_REST: Duration = Duration::from_secs(3600);
/// Compactions wait for a flush under way while writers are this far from waiting.
const YIELD_PRESSURE: f64 = 0.5;
/// A store that is this far from making writers wait compacts without a rest.
const HURRY_PRESSURE: f64 = 0.25;
/// The longest rest at a time.
const REST_MAX: Duration = Duration::from_millis(50);

/// When a compaction last rested, and what clients had done until then.
#[derive(Clone, Copy)]
struct Pace {
    since: Instant,
    seen: u64,
}

/// What the threads work on.
#[derive(Clone)]
pub(crate) struct Background {
    pub shared: Arc<Shared>,
    pub log: Option<Arc<Log>>,
}

impl Background {
    /// Starts the threads, unless the options want none.
    pub(crate) fn start(&self) -> Result<Vec<JoinHandle<()>>> {
        let spawn = |name: &str, run: fn(&Background)| {
            let background = self.clone();
            thread::Builder::new()
                .name(name.into())
                .spawn(move || run(&background))
                .map_err(|e| Error::io("start a thread for", &self.shared.dir, e))
        };
        let mut threads = Vec::new();
        if self.shared.options.threads > 0 {
            threads.push(spawn("lumen-flush", Background::flush_loop)?);
        }
        if self.shared.options.threads > 0 && self.log.is_some() {
            threads.push(spawn("lumen-log", Background::log_loop)?);
        }
        for _ in 0..self.shared.options.threads.saturating_sub(1).max(threads.len().min(1)) {
            threads.push(spawn("lumen-compact", Background::compact_loop)?);
        }
        if self.shared.options.threads > 0 && self.shared.options.scrub_bytes_per_second > 0 {
            threads.push(spawn("lumen-scrub", Background::scrub_loop)?);
        }
        Ok(threads)
    }

    /// Does everything that is waiting, in the calling thread.
    pub(crate) fn drain_inline(&self) -> Result<()> {
        while self.flush_one()? {}
        while self.compact_one()? {}
        if let Some(log) = &self.log {
            if log.wants_spare() {
                log.prepare_spare()?;
            }
        }
        Ok(())
    }

    fn flush_loop(&self) {
        loop {
            {
                let mut work = self.shared.work.lock();
                while work.queue.is_empty() && !work.is_over() {
                    self.shared.bell.wait(&mut work);
                }
                if work.failure.is_some() || (work.closing && work.queue.is_empty()) {
                    return;
                }
            }
            if !self.goes_on_after(self.flush_one()) {
                return;
            }
        }
    }

    /// Keeps what costs time in the log off the write path: a file for the next segment is there before it is needed, and
    /// what was written without a sync does not add up to a long one.
    fn log_loop(&self) {
        let Some(log) = &self.log else { return };
        let wants_spare = || log.wants_spare() && self.shared.room() > log.segment_bytes();
        let written = || self.shared.counters.user_bytes.sum();
        loop {
            // Of neither a failure is final here: a writer makes its own segment, only slower, and meets a real fault itself.
            let failed = (wants_spare() && log.prepare_spare().is_err())
                || (log.wants_sync() && log.sync_ahead().is_err());
            let mut work = self.shared.work.lock();
            let mut is_idle = false;
            while !work.is_over() && !is_idle && (failed || !(log.wants_sync() || wants_spare())) {
                let before = written();
                let is_quiet = self.shared.bell.wait_for(&mut work, LOOK).timed_out();
                if is_quiet && failed {
                    break;
                }
                let wants = || log.wants_vouch() || log.may_rest(self.version().durable_seq);
                is_idle = is_quiet && written() == before && wants();
            }
            if work.is_over() {
                return;
            }
            drop(work);
            if is_idle {
                // Damage to what was written last can then be told from a torn end. A real fault meets the next writer.
                let _ = log.vouch().and_then(|()| self.rest_log());
            }
        }
    }

    /// Lets the log be small, if all that is in it has been flushed.
    pub(crate) fn rest_log(&self) -> Result<()> {
        let durable = self.shared.view.load().version.durable_seq;
        self.log.as_ref().map_or(Ok(()), |log| log.rest(durable))
    }

    /// Flushes the oldest frozen memory; `false` when there is none, or another thread is at it.
    pub(crate) fn flush_one(&self) -> Result<bool> {
        let mut task = {
            let mut work = self.shared.work.lock();
            if work.flushing {
                return Ok(false);
            }
            let Some(task) = work.queue.pop_front() else { return Ok(false) };
            work.flushing = true;
            task
        };
        let started = Instant::now();
        let result = flush::run(&self.shared, &mut task, self.log.as_deref());
        let mut work = self.shared.work.lock();
        work.flushing = false;
        let is_final = result.is_err() && task.committed;
        if result.is_err() && !task.committed {
            work.queue.push_front(task);
        }
        self.shared.bell.notify_all();
        drop(work);
        if let (true, Err(error)) = (is_final, &result) {
            self.shared.fail(error); // what hangs on it is not in force, and never will be
        }
        let bytes = result?;
        self.shared.options.tell(&Event::Flushed { bytes, took: started.elapsed() });
        Ok(true)
    }

    fn compact_loop(&self) {
        loop {
            let result = self.compact_one();
            let found = matches!(result, Ok(true));
            if !self.goes_on_after(result) {
                return;
            }
            let mut work = self.shared.work.lock();
            if work.is_over() {
                return;
            }
            if !found && self.pick(&work).is_none() {
                let view = self.shared.view.load();
                let lacks_room = || self.pick_within(&work, u64::MAX).is_some();
                let is_full = self.shared.is_disk_full();
                let may_rest = self.pick_at_rest(&work).is_some();
                let grows_old = self.shared.options.garbage_age_max.is_some();
                let is_timed = self.shared.picker.is_timed() || view.version.expires();
                let looks_soon = is_timed || is_full || may_rest || lacks_room();
                if !looks_soon && !grows_old {
                    self.shared.bell.wait(&mut work);
                    continue;
                }
                let look = if looks_soon { LOOK } else { LOOK_FOR_AGE };
                let written = self.shared.counters.user_bytes.sum();
                let is_quiet = self.shared.bell.wait_for(&mut work, look).timed_out();
                if is_full {
                    self.shared.look_for_room(); // perhaps nobody else does
                }
                drop(work);
                let rests = || self.shared.counters.user_bytes.sum() == written;
                while may_rest && is_quiet && rests() {
                    let result = self.compact_at_rest();
                    let found = matches!(result, Ok(true));
                    if !self.goes_on_after(result) {
                        return;
                    }
                    if !found {
                        break;
                    }
                }
            }
        }
    }

    /// Whether a thread goes on after this; after a full disk, it waits for room first.
    fn goes_on_after(&self, result: Result<bool>) -> bool {
        match result {
            Err(error) if error.is_disk_full() => {
                let _ = self.shared.disk_is_full(); // for the writers
                let mut work = self.shared.work.lock();
                while !work.is_over() && self.shared.is_disk_full() {
                    self.shared.bell.wait_for(&mut work, LOOK);
                    self.shared.look_for_room();
                }
                !work.is_over()
            }
            Err(error) => {
                self.shared.fail(&error);
                false
            }
            Ok(_) => true,
        }
    }

    /// What may be compacted now beside what is under way.
    pub(crate) fn pick(&self, work: &Work) -> Option<Job> {
        self.pick_within(work, self.shared.room())
    }

    /// What may be compacted although nothing has to be, while nobody writes.
    pub(crate) fn pick_at_rest(&self, work: &Work) -> Option<Job> {
        let version = self.shared.view.load().version.clone();
        if !version.progress.is_empty() {
            return None; // what was begun before goes first
        }
        self.shared.picker.pick_at_rest(&version, &self.limits(work, &work.claims, self.shared.room()))
    }

    fn limits<'a>(&'a self, work: &Work, claims: &'a [Claim], room: u64) -> Limits<'a> {
        let collect = upkeep::blobs_to_collect(&self.shared.view.load().version);
        Limits { claims, room, options: &self.shared.options, collect, turn: work.last_claim }
    }

    /// As `pick`, if so many bytes of the disk were free.
    fn pick_within(&self, work: &Work, room: u64) -> Option<Job> {
        let shared = &self.shared;
        let version = shared.view.load().version.clone();
        let mut claims = work.claims.clone();
        // What was begun before goes first, and keeps all else away from its tables.
        for progress in &version.progress {
            let Some(job) = progress.job(&version) else { continue };
            if self.limits(work, &work.claims, room.saturating_add(progress.bytes())).allow(&job) {
                return Some(job);
            }
            // It keeps others away from its tables; room is kept for it when it is at work.
            claims.push(job.claim(0, &self.limits(work, &work.claims, room)).without_room());
        }
        shared.picker.pick(&version, shared.options.now_ms(), &self.limits(work, &claims, room))
    }

    /// Runs one compaction; `false` when none is due that could be done.
    pub(crate) fn compact_one(&self) -> Result<bool> {
        self.compact(Background::pick)
    }

    /// Runs one of the compactions that are done when nobody writes; `false` when there is none.
    pub(crate) fn compact_at_rest(&self) -> Result<bool> {
        self.compact(Background::pick_at_rest)
    }

    fn compact(&self, pick: fn(&Background, &Work) -> Option<Job>) -> Result<bool> {
        let table_bytes = self.shared.options.table_bytes;
        let (job, id) = {
            let mut work = self.shared.work.lock();
            if work.is_over() {
                return Ok(false);
            }
            let Some(job) = pick(self, &work) else { return Ok(false) };
            work.last_claim += 1;
            let id = work.last_claim;
            let claim = job.claim(id, &self.limits(&work, &work.claims, u64::MAX));
            work.claims.push(claim);
            (job, id)
        };
        let pace = Cell::new(Pace { since: Instant::now(), seen: self.shared.asked() });
        let run = |(number, part): (usize, &Job)| {
            if number > 0 && !self.goes_on(&pace) {
                return Ok(());
            }
            let version = self.shared.view.load().version.clone();
            match job::run(&self.shared, &version, part, &|| self.goes_on(&pace)) {
                Err(Error::Corrupt { file, offset, reason }) => {
                    self.without_damage(part, &file, offset, reason)
                }
                other => other,
            }
        };
        // What was begun before goes on as it was.
        let is_resumed = self.shared.progress_of(&job).is_some();
        let parts = if is_resumed { vec![job.clone()] } else { job.parts(table_bytes) };
        let result = parts.iter().enumerate().try_for_each(run);
        let mut work = self.shared.work.lock();
        work.claims.retain(|claim| claim.id != id);
        self.shared.bell.notify_all();
        result.map(|()| !work.is_over())
    }

    /// After damage in a table of a job: the table goes on without what cannot be read.
    fn without_damage(&self, job: &Job, file: &str, offset: u64, reason: String) -> Result<()> {
        let damaged = job.tables().find(|table| table.name() == file);
        let isolated = damaged.map_or(Ok(false), |table| quarantine::isolate(&self.shared, table))?;
        if isolated { Ok(()) } else { Err(Error::corrupt(file, offset, reason)) }
    }

    /// Reads all tables of the moment with their values in blob files, and all attachments; isolates what is damaged in
    /// tables. Answers what was found; `step` is called with each file's name and bytes, and stops it by answering false.
    /// What goes meanwhile is passed over: files wait for nobody who only will read them.
    pub(crate) fn scrub(&self, step: &mut dyn FnMut(&str, u64) -> bool) -> Result<Vec<Error>> {
        let mut found = Vec::new();
        let moment = self.version();
        let tables = moment.slots.iter().flatten();
        let tables: Vec<_> =
            tables.map(|table| (table.meta.number, table.meta.len + table.meta.blob_bytes())).collect();
        let attachments: Vec<_> =
            moment.attachments.values().map(|it| (it.meta.number, it.meta.len)).collect();
        drop(moment);
        for (number, bytes) in tables {
            if self.version().table(number).is_none() {
                continue;
            }
            if !step(&crate::table::name(number), bytes) {
                return Ok(found);
            }
            let version = self.version();
            let Some((slot, table)) = version.table(number) else { continue };
            let damage = version.verify(table);
            // Who reads it meets the same, and names it: a value, or what the disk does not give.
            for error in damage.values.into_values().chain(damage.unread) {
                self.shared.distrust(&error);
                self.shared.options.tell(&Event::Damaged(error.clone()));
                found.push(error);
            }
            let Some(damage) = damage.table else { continue };
            self.shared.distrust(&damage);
            found.push(damage.clone());
            let inputs = vec![Input { slot, tables: vec![table.clone()] }];
            let job = Job { reason: Reason::Damage, inputs, target: Some(slot) };
            let id = self.claim(&job);
            let isolated = quarantine::isolate(&self.shared, table);
            self.shared.work.lock().claims.retain(|claim| claim.id != id);
            self.shared.bell.notify_all();
            match isolated {
                // What the disk does not give or has no room for may be had at the next scrub.
                Err(error) if error.is_disk_full() || matches!(error, Error::Io { .. }) => {
                    self.shared.options.tell(&Event::Damaged(error.clone()));
                    found.push(error);
                }
                // All entries can be read, and yet something is wrong: what is said of them, or what only memory still has.
                Ok(false) if self.version().table(number).is_some() => {
                    self.shared.options.tell(&Event::Damaged(damage));
                }
                isolated => drop(isolated?),
            }
        }
        for (number, bytes) in attachments {
            let name = crate::attachment::name(number);
            if self.version().attachments.contains_key(&number) && !step(&name, bytes) {
                return Ok(found);
            }
            let Some(attachment) = self.version().attachments.get(&number).cloned() else { continue };
            if let Err(error) = attachment.verify() {
                self.shared.distrust(&error);
                self.shared.options.tell(&Event::Damaged(error.clone()));
                found.push(error);
            }
        }
        Ok(found)
    }

    fn version(&self) -> Arc<Version> {
        self.shared.view.load().version.clone()
    }

    /// Waits until nothing is at work where the job would be, and keeps others away.
    fn claim(&self, job: &Job) -> u64 {
        let mut work = self.shared.work.lock();
        while !self.limits(&work, &work.claims, u64::MAX).allow(job) {
            self.shared.bell.wait(&mut work);
        }
        work.last_claim += 1;
        let id = work.last_claim;
        let claim = job.claim(id, &self.limits(&work, &work.claims, u64::MAX));
        work.claims.push(claim);
        id
    }

    /// Scrubs over and over, at the pace that the options allow.
    fn scrub_loop(&self) {
        let pace = self.shared.options.scrub_bytes_per_second;
        loop {
            let scrubbed = self.scrub(&mut |_, bytes| {
                let mut work = self.shared.work.lock();
                let until = Instant::now() + Duration::from_secs_f64(bytes as f64 / pace as f64);
                while !work.is_over() && !self.shared.bell.wait_until(&mut work, until).timed_out() {}
                !work.is_over()
            });
            if let Err(error) = scrubbed {
                return self.shared.fail(&error);
            }
            let mut work = self.shared.work.lock();
            let until = Instant::now() + SCRUB_REST;
            while !work.is_over() && !self.shared.bell.wait_until(&mut work, until).timed_out() {}
            if work.is_over() {
                return;
            }
        }
    }

    /// Asked by a compaction between stretches of its work: whether it goes on. Waits while there is something more urgent:
    /// a flush frees memory that writers wait for. While clients are at work it rests as long as it worked, and the less the
    /// more is to be done, so that it takes from them what it must.
    fn goes_on(&self, pace: &Cell<Pace>) -> bool {
        let (shared, seen) = (&self.shared, self.shared.asked());
        let before = pace.get();
        let (worked, is_used) = (before.since.elapsed(), seen != before.seen);
        let mut work = shared.work.lock();
        if shared.options.threads == 0 {
            return !work.is_over();
        }
        while work.flushing && !work.is_over() && shared.pressure().0 < YIELD_PRESSURE {
            shared.bell.wait(&mut work);
        }
        let hurry = shared.pressure().0 / HURRY_PRESSURE;
        if is_used && hurry < 1.0 {
            let until = Instant::now() + worked.mul_f64(1.0 - hurry).min(REST_MAX);
            while !work.is_over() && !shared.bell.wait_until(&mut work, until).timed_out() {}
        }
        pace.set(Pace { since: Instant::now(), seen });
        !work.is_over()
    }
}

#[cfg(test)]
mod tests;
