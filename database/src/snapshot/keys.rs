//! Key-values and leases at one moment. What has expired by then, by the log's time, is not there.

use std::ops::Bound;

use lumen_engine::key::prefix_end;

use super::Snapshot;
use crate::catalog::check_space;
use crate::error::{Error, Result};
use crate::layout::{self, Kept};

/// A key-value as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// Its value.
    pub value: Vec<u8>,
    /// The sequence number that wrote it.
    pub version: u64,
    /// When it expires, in milliseconds since 1970, if it does; by its lease, if that keeps it, as it is now.
    pub expires: Option<u64>,
    /// The lease that keeps it, if one does.
    pub lease: Option<u64>,
}

/// A key-value met by a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRow<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// The sequence number that wrote it.
    pub version: u64,
    /// When it expires, as of [`KeyValue`].
    pub expires: Option<u64>,
    /// The lease that keeps it, if one does.
    pub lease: Option<u64>,
}

/// A range of keys of a space.
#[derive(Debug, Clone, Copy)]
pub struct KeyRange<'a> {
    /// The first key.
    pub start: Bound<&'a [u8]>,
    /// The last.
    pub end: Bound<&'a [u8]>,
    /// Whether it is walked from its end.
    pub reverse: bool,
}

impl KeyRange<'_> {
    /// All keys, in order.
    pub const ALL: KeyRange<'static> =
        KeyRange { start: Bound::Unbounded, end: Bound::Unbounded, reverse: false };
}

/// A lease as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseState {
    /// How long it lasts when it is kept alive, in milliseconds.
    pub ttl: u64,
    /// When it expires unless it is, in milliseconds since 1970.
    pub expires: u64,
}

impl Snapshot {
    /// The log's own time at this moment, in milliseconds since 1970.
    pub fn time(&self) -> u64 {
        self.moment.time
    }

    /// A key-value.
    pub fn get_key(&self, space: &str, key: &[u8]) -> Result<Option<KeyValue>> {
        check_space(space)?;
        let Some((version, record)) = self.engine.get_versioned(&layout::kv_key(space, key))? else {
            return Ok(None);
        };
        let (kept, value) = layout::decode_kv(&record).ok_or_else(malformed)?;
        let Some((expires, lease)) = self.life(kept)? else { return Ok(None) };
        Ok(Some(KeyValue { value: value.to_vec(), version, expires, lease }))
    }

    /// Calls `row` with each key-value of a range, until it answers false.
    pub fn scan_keys(
        &self,
        space: &str,
        range: &KeyRange<'_>,
        row: &mut dyn FnMut(KeyRow<'_>) -> bool,
    ) -> Result<()> {
        check_space(space)?;
        let all = layout::kv_key(space, b"");
        let end_of_all = prefix_end(&all).expect("it holds a byte below 255");
        let record = |bound: Bound<&[u8]>| bound.map(|key| layout::kv_key(space, key));
        let (start, end) = (record(range.start), record(range.end));
        let start = match &start {
            Bound::Unbounded => Bound::Included(&all[..]),
            bound => bound.as_ref().map(|key| &key[..]),
        };
        let end = match &end {
            Bound::Unbounded => Bound::Excluded(&end_of_all[..]),
            bound => bound.as_ref().map(|key| &key[..]),
        };
        let is_empty = match (start, end) {
            (Bound::Included(start), Bound::Included(end)) => start > end,
            (
                Bound::Included(start) | Bound::Excluded(start),
                Bound::Included(end) | Bound::Excluded(end),
            ) => start >= end,
            _ => false,
        };
        if is_empty {
            return Ok(());
        }
        let mut scan = self.engine.scan(start, end);
        // Many keys of one lease come one after the other, as a rule.
        let mut known: Option<(u64, Option<LeaseState>)> = None;
        while if range.reverse { scan.prev_row()? } else { scan.next_row()? } {
            let (kept, value) = layout::decode_kv(scan.value()).ok_or_else(malformed)?;
            let life = match kept {
                Kept::Lease(lease) => {
                    let state = match known {
                        Some((number, state)) if number == lease => state,
                        _ => self.lease(lease)?,
                    };
                    known = Some((lease, state));
                    state.map(|state| (Some(state.expires), Some(lease)))
                }
                kept => self.life(kept)?,
            };
            let Some((expires, lease)) = life else { continue };
            let key = &scan.key()[all.len()..];
            if !row(KeyRow { key, value, version: scan.seq(), expires, lease }) {
                break;
            }
        }
        Ok(())
    }

    /// The spaces in which something is or was a moment ago, sorted.
    pub fn spaces(&self) -> Result<Vec<String>> {
        let end = prefix_end(&layout::KV_PREFIX).expect("a small prefix");
        let mut scan = self.engine.scan(Bound::Included(&layout::KV_PREFIX), Bound::Excluded(&end));
        let mut spaces = Vec::new();
        let mut is_there = scan.next_row()?;
        while is_there {
            let (space, _) = layout::decode_kv_key(scan.key()).ok_or_else(malformed)?;
            let space = space.to_owned();
            let after = prefix_end(&layout::kv_key(&space, b"")).expect("it holds a byte below 255");
            spaces.push(space);
            is_there = scan.seek(&after)?;
        }
        Ok(spaces)
    }

    /// A lease, unless it has expired.
    pub fn lease(&self, lease: u64) -> Result<Option<LeaseState>> {
        let Some(record) = self.engine.get(&layout::lease_key(lease))? else { return Ok(None) };
        let malformed = || Error::corrupt("a lease", 0, "malformed record");
        let (ttl, expires) = layout::decode_lease(&record).ok_or_else(malformed)?;
        Ok((expires > self.moment.time).then_some(LeaseState { ttl, expires }))
    }

    /// When something that is kept so expires, and its lease; `None` if it has expired.
    fn life(&self, kept: Kept) -> Result<Option<(Option<u64>, Option<u64>)>> {
        Ok(match kept {
            Kept::Always => Some((None, None)),
            Kept::Until(expires) => (expires > self.moment.time).then_some((Some(expires), None)),
            Kept::Lease(lease) => self.lease(lease)?.map(|state| (Some(state.expires), Some(lease))),
        })
    }
}

fn malformed() -> Error {
    Error::corrupt("a key-value's record", 0, "malformed head")
}
