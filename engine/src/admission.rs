//! Whether a write may go on: memory, level 0, debt and the disk.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::events::Event;
use crate::state::{Shared, check};
use crate::stats::Stall;
use crate::sync::atomic::Ordering;

impl Shared {
    /// How far the store is from the point where writers wait (1.0 is there), and what is nearest to it.
    pub(crate) fn pressure(&self) -> (f64, Stall) {
        self.view.load().pressure
    }

    /// Waits until writers may go on; `Busy` when that takes longer than `patience`, `DiskFull` at once.
    pub(crate) fn admit(&self, patience: Duration) -> Result<()> {
        if self.is_disk_full() && !self.look_for_room() {
            return Err(self.no_room());
        }
        let (pressure, stall) = self.pressure();
        if pressure < 1.0 {
            return Ok(());
        }
        let started = Instant::now();
        let result = self.wait_for_room(started + patience);
        self.counters.stalled(stall, started.elapsed());
        self.options.tell(&Event::Stalled { reason: stall.name(), took: started.elapsed() });
        result
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
        self.want_room(self.free_space().saturating_add(self.options.memtable_bytes as u64));
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
