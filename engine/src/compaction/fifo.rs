//! First in, first out: nothing is merged; the oldest table goes when there is too much, when it is too old, or when all of
//! it has expired.
//!
//! For data that is written in the order of time and is worthless later. A table goes as a whole, once everything in it is
//! older than allowed. Under the oldest run there is nothing, so whatever goes from it uncovers nothing older.

use std::sync::Arc;
use std::time::Duration;

use crate::compaction::picker::{Cause, Granularity, Picker};
use crate::compaction::plan::Reason;
use crate::table::reader::Table;
use crate::version::{SLOTS, Version};

pub(crate) struct Fifo {
    pub bytes_max: u64,
    pub age_max: Option<Duration>,
}

/// The oldest table of a slot; in slot 0 it is the last, a run that another strategy left has them in no order of time.
fn oldest(version: &Version, slot: usize) -> Option<&Arc<Table>> {
    let tables = &version.slots[slot];
    if slot == 0 { tables.last() } else { tables.iter().min_by_key(|table| table.meta.written_ms) }
}

impl Picker for Fifo {
    fn triggers(&self, version: &Version, now: u64) -> Vec<Cause> {
        let slot = (0..SLOTS).rev().find(|&slot| !version.slots[slot].is_empty());
        let Some((slot, table)) = slot.and_then(|slot| Some((slot, oldest(version, slot)?))) else {
            return Vec::new();
        };
        let tables = version.slots.iter().flatten();
        let bytes: u64 = tables.map(|table| table.meta.len + table.meta.blob_bytes()).sum();
        let age = Duration::from_millis(now.saturating_sub(table.meta.written_ms));
        let is_due = bytes > self.bytes_max
            || self.age_max.is_some_and(|age_max| age > age_max)
            || (table.has_expired(now) && table.meta.max_seq() <= version.floor);
        if is_due { vec![Cause::slot(Reason::Expired, slot)] } else { Vec::new() }
    }

    fn layout(&self, _version: &Version, _cause: &Cause) -> Option<usize> {
        None
    }

    fn granularity(&self, _cause: &Cause) -> Granularity {
        Granularity::Table
    }

    fn movement(&self, version: &Version, slot: usize, _target: Option<usize>) -> Vec<Arc<Table>> {
        oldest(version, slot).cloned().into_iter().collect()
    }

    fn stop_at(&self) -> Option<usize> {
        None
    }

    /// Merged tables would have no place in time: what is new would go with what is old.
    fn keeps_order(&self) -> bool {
        true
    }

    fn is_timed(&self) -> bool {
        self.age_max.is_some()
    }
}
