//! Taking away what has expired: whoever keeps the log looks for it, and writes that it goes.

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lumen_engine::key::prefix_end;
use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::keys::{Due, DueWhat};
use crate::layout::{self, Expiring};
use crate::store::Store;

/// Between two looks at the clock, which may have been set.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// When something expires next, as far as is known.
pub(crate) struct Alarm {
    next: Mutex<u64>,
    bell: Condvar,
}

impl Alarm {
    /// Nothing does.
    pub(crate) fn new() -> Alarm {
        Alarm { next: Mutex::new(u64::MAX), bell: Condvar::new() }
    }

    /// Something expires at this time.
    pub(crate) fn set(&self, expires: u64) {
        let mut next = self.next.lock();
        if expires < *next {
            *next = expires;
            self.bell.notify_all();
        }
    }

    /// Has whoever waits look again.
    pub(crate) fn ring(&self) {
        let _locked = self.next.lock();
        self.bell.notify_all();
    }

    /// Waits until something may have expired, for [`LOOK_EVERY`] at most.
    fn wait(&self, next: Option<u64>, now: u64, is_over: &AtomicBool) {
        let mut known = self.next.lock();
        // What was set since the look that found `next` counts too.
        *known = next.unwrap_or(u64::MAX).min(if *known > now { *known } else { u64::MAX });
        let wait = Duration::from_millis(known.saturating_sub(now).max(1)).min(LOOK_EVERY);
        if !is_over.load(Ordering::Acquire) {
            self.bell.wait_for(&mut known, wait);
        }
    }
}

/// What has expired by `now`, at most so much of it, and when the next does.
pub(crate) fn due(store: &Store, now: u64, most: usize) -> Result<(Vec<Due>, Option<u64>)> {
    let snapshot = store.engine.snapshot();
    let end = prefix_end(&layout::EXPIRING_PREFIX).expect("a small prefix");
    let mut scan = snapshot.scan(Bound::Included(&layout::EXPIRING_PREFIX), Bound::Excluded(&end));
    let mut due = Vec::new();
    while scan.next_row()? {
        let malformed = || Error::corrupt("the times of expiry", 0, "malformed key");
        let (expires, what) = layout::decode_expiring_key(scan.key()).ok_or_else(malformed)?;
        if expires > now || due.len() == most {
            return Ok((due, Some(expires)));
        }
        let what = match what {
            Expiring::Lease(lease) => DueWhat::Lease(lease),
            Expiring::KeyValue(record) => {
                let (space, key) = layout::decode_kv_key(&record).ok_or_else(malformed)?;
                DueWhat::Key { space: space.into(), key: key.into() }
            }
        };
        due.push(Due { expires, what });
    }
    Ok((due, None))
}

/// Until `is_over`: has what expires taken away by `expire`, which answers when the next does.
pub(crate) fn run(
    store: &Store,
    clock: fn() -> u64,
    is_over: &AtomicBool,
    expire: impl Fn() -> Result<Option<u64>>,
) {
    while !is_over.load(Ordering::Acquire) {
        let next = match expire() {
            Ok(next) => next,
            Err(Error::Closed) => return,
            // It is tried again; a log that has failed says so to those who write.
            Err(_) => None,
        };
        store.alarm.wait(next, clock(), is_over);
    }
}
