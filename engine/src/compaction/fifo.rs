//! First in, first out: nothing is merged; the oldest table goes when there is too much, or when it is too old.
//!
//! For data that is written in the order of time and is worthless later. A table goes as a whole, once everything in it is
//! older than allowed.

use std::time::Duration;

use crate::compaction::picker::{Cause, Granularity, Picker, Reason};
use crate::version::{SLOTS, Version};

pub(crate) struct Fifo {
    pub bytes_max: u64,
    pub age_max: Option<Duration>,
}

impl Picker for Fifo {
    fn trigger(&self, version: &Version, now: u64) -> Option<Cause> {
        let oldest = (0..SLOTS).rev().find(|&slot| !version.slots[slot].is_empty())?;
        let bytes: u64 = (0..SLOTS).map(|slot| version.slot_bytes(slot)).sum();
        let newest_in_it = match oldest {
            0 => version.slots[0].last().map(|table| table.meta.written_ms),
            slot => version.slots[slot].iter().map(|table| table.meta.written_ms).max(),
        }?;
        let age = Duration::from_millis(now.saturating_sub(newest_in_it));
        if bytes <= self.bytes_max && self.age_max.is_none_or(|age_max| age <= age_max) {
            return None;
        }
        let mut cause = Cause::slot(Reason::Expired, oldest);
        if oldest == 0 {
            cause.skip = version.slots[0].len() - 1;
        }
        Some(cause)
    }

    fn layout(&self, _version: &Version, _cause: &Cause) -> Option<usize> {
        None
    }

    fn granularity(&self, _cause: &Cause) -> Granularity {
        Granularity::Runs
    }

    fn stop_at(&self) -> Option<usize> {
        None
    }
}
