//! Whether a write may go on: memory, level 0, debt and the disk.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::events::Event;
use crate::state::{Shared, check};
use crate::stats::Stall;
use crate::sync::atomic::Ordering;
use crate::throttle;

/// The longest sleep of a writer at a time, between looks at how things are.
const NAP_MAX: Duration = Duration::from_millis(10);

impl Shared {
    /// How far the store is from the point where writers wait (1.0 is there), and what is nearest to it.
    pub(crate) fn pressure(&self) -> (f64, Stall) {
        self.view.load().pressure
    }

    /// Waits until writers may go on, or a little where they soon could not; `Busy` when that takes longer than `patience`,
    /// `DiskFull` at once.
    pub(crate) fn admit(&self, patience: Duration) -> Result<()> {
        if self.is_disk_full() && !self.look_for_room() {
            return Err(self.no_room());
        }
        if self.pressure().0 < throttle::BEGINS {
            self.throttle.let_go();
            return Ok(());
        }
        let started = Instant::now();
        self.slow_down(started, patience)?;
        let (pressure, stall) = self.pressure();
        if pressure < 1.0 {
            return Ok(());
        }
        let result = self.wait_for_room(started + patience);
        self.throttle.stopped();
        self.counters.stalled(stall, started.elapsed());
        self.options.tell(&Event::Stalled { reason: stall.name(), took: started.elapsed() });
        result
    }

    /// Keeps to the pace of compactions, until there is no need to, or no use in it.
    fn slow_down(&self, started: Instant, patience: Duration) -> Result<()> {
        // Nothing gets done meanwhile where there are no threads, and no time passes under the scheduler of tests.
        if self.options.threads == 0 || cfg!(lumen_shuttle) {
            return Ok(());
        }
        let (mut now, mut waited) = (started, false);
        loop {
            let (pressure, stall) = self.pressure();
            let delay = match (throttle::BEGINS..1.0).contains(&pressure) {
                true => self.throttle.delay(pressure, self.counters.user_bytes.sum(), now),
                false => Duration::ZERO,
            };
            if delay.is_zero() || self.over.load(Ordering::Acquire) {
                break;
            }
            if now.saturating_duration_since(started) > patience {
                return Err(Error::Busy { reason: stall.name(), retry_after: Duration::from_secs(1) });
            }
            std::thread::sleep(delay.min(NAP_MAX));
            (now, waited) = (Instant::now(), true);
        }
        if waited {
            self.counters.stalled(Stall::Pace, started.elapsed());
        }
        Ok(())
    }

    fn wait_for_room(&self, until: Instant) -> Result<()> {
        let mut work = self.work.lock();
        loop {
            check(&work)?;
            let (pressure, stall) = self.pressure();
            if pressure < 1.0 {
                return Ok(());
            }
            if self.is_disk_full() {
                return Err(self.no_room());
            }
            if self.options.threads == 0 || self.bell.wait_until(&mut work, until).timed_out() {
                return Err(Error::Busy { reason: stall.name(), retry_after: Duration::from_secs(1) });
            }
        }
    }

    /// Free bytes of the device; where they cannot be told, as many as one likes.
    pub(crate) fn free_space(&self) -> u64 {
        self.options.vfs.free_space(&self.dir).unwrap_or(u64::MAX)
    }

    /// What a writer is told when the disk is full.
    pub(crate) fn no_room(&self) -> Error {
        let (dir, reserve) = (self.dir.clone(), self.options.disk_reserve_bytes);
        Error::DiskFull { dir, free: self.free_space(), reserve }
    }

    /// Bytes that may be written before the reserve is touched.
    pub(crate) fn room(&self) -> u64 {
        self.free_space().saturating_sub(self.options.disk_reserve_bytes)
    }

    /// Whether writes are refused for want of room.
    pub(crate) fn is_disk_full(&self) -> bool {
        self.wanted_room.load(Ordering::Acquire) > 0
    }

    /// Refuses writes until there is more room than now, for something did not fit. Answers what writers are told.
    pub(crate) fn disk_is_full(&self) -> Error {
        // Somebody may have made room since it did not fit: then no more is wanted than a segment and a table take.
        let options = &self.options;
        let short = self.free_space().min(options.disk_reserve_bytes.saturating_add(options.segment_bytes));
        self.want_room(short.saturating_add(options.memtable_bytes as u64));
        self.no_room()
    }

    /// Refuses writes if there is too little room: asked whenever a piece of the disk was taken.
    pub(crate) fn watch_disk(&self) {
        if self.free_space() < self.options.disk_reserve_bytes {
            self.want_room(self.options.disk_reserve_bytes);
        }
    }

    fn want_room(&self, bytes: u64) {
        let wanted = bytes.max(self.options.disk_reserve_bytes).max(1);
        if self.wanted_room.swap(wanted, Ordering::AcqRel) == 0 {
            self.options.tell(&Event::DiskFull { free: self.free_space() });
            self.ring(); // who waits for a flush waits in vain
        }
    }

    /// Lets writes go on if there is the room that was wanted.
    pub(crate) fn look_for_room(&self) -> bool {
        let free = self.free_space();
        if free < self.wanted_room.load(Ordering::Acquire) {
            return false;
        }
        if self.wanted_room.swap(0, Ordering::AcqRel) > 0 {
            self.options.tell(&Event::DiskFreed { free });
            self.bell.notify_all();
        }
        true
    }
}
