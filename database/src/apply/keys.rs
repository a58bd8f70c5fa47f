//! Applying changes of key-values: what is there is read, what expires is noted, and leases take with them what they keep.
//!
//! What has expired by the log's time is not there any more for whoever asks, though its record may be: it is met here as
//! something to be replaced or removed.

use std::collections::BTreeMap;
use std::ops::Bound;

use lumen_engine::key::prefix_end;
use lumen_engine::slice::Slice;

use super::Change;
use crate::error::{Error, Rejection, Result};
use crate::keys::{Due, DueWhat, KeyOutcome, KeyWrite, Previous, Until};
use crate::layout::{self, Expiring, Kept};
use crate::write::{Condition, Outcome};

/// Key-values of a range up to which they are deleted one by one; more of them by one range delete, which every later read
/// has to look at.
const DELETED_SINGLY_MAX: usize = 64;

/// A refusal, which every replica repeats.
type Refusable<T> = std::result::Result<T, Rejection>;

/// A record of a key-value that is there.
pub(super) struct Found {
    pub version: u64,
    pub kept: Kept,
    record: Slice,
    /// Whether it has expired.
    pub is_over: bool,
}

impl Found {
    pub(super) fn value(&self) -> &[u8] {
        layout::decode_kv(&self.record).map_or(&[], |(_, value)| value)
    }

    fn previous(&self) -> Previous {
        Previous { version: self.version, value: self.value().to_vec() }
    }
}

/// A lease that is there and has not expired.
pub(super) struct Lease {
    ttl: u64,
    expires: u64,
}

impl Change<'_> {
    /// The outer result is an error of this machine, the inner one the refusal that every replica repeats.
    pub(super) fn keys(&mut self, write: KeyWrite) -> Result<Refusable<Outcome>> {
        let done = match write {
            KeyWrite::Put { space, key, value, condition, until, returns } => {
                self.put_key(&layout::kv_key(&space, &key), &value, condition, until, returns)
            }
            KeyWrite::Delete { space, key, condition, returns } => {
                self.delete_key(&layout::kv_key(&space, &key), condition, returns)
            }
            KeyWrite::DeleteRange { space, start, end } => {
                let all = layout::kv_key(&space, b"");
                let end = match end {
                    Some(end) => layout::kv_key(&space, &end),
                    None => prefix_end(&all).expect("it holds a byte below 255"),
                };
                self.delete_keys(&layout::kv_key(&space, &start), &end)
            }
            KeyWrite::Grant { lease, ttl } => self.grant(lease, ttl),
            KeyWrite::KeepAlive { lease } => self.keep_alive(lease),
            KeyWrite::Revoke { lease } => self.revoke(lease),
            KeyWrite::Expire { due } => self.expire(due),
        };
        Ok(done?.map(Outcome::Keys))
    }

    fn put_key(
        &mut self,
        key: &[u8],
        value: &[u8],
        condition: Condition,
        until: Until,
        returns: bool,
    ) -> Result<Refusable<KeyOutcome>> {
        let found = match self.find_if(key, condition)? {
            Ok(found) => found,
            Err(conflict) => return Ok(Err(conflict)),
        };
        let seen = found.as_ref().filter(|found| !found.is_over);
        let kept = match until {
            Until::Deleted => Kept::Always,
            Until::Ttl(ttl) => Kept::Until(self.live.time.saturating_add(ttl)),
            Until::Lease(lease) if self.lease(lease)?.is_some() => Kept::Lease(lease),
            Until::Lease(lease) => return Ok(Err(Rejection::LeaseNotFound { lease })),
        };
        let outcome = KeyOutcome::Put {
            existed: seen.is_some(),
            previous: seen.filter(|_| returns).map(Found::previous),
        };
        if let Some(before) = found.map(|found| found.kept).filter(|before| *before != kept) {
            self.forget(key, before);
        }
        match kept {
            Kept::Always => {}
            Kept::Until(expires) => self.set_alarm(expires, &Expiring::KeyValue(key.to_vec())),
            Kept::Lease(lease) => self.set(&layout::leased_key(lease, key), b""),
        }
        self.set(key, &layout::encode_kv(kept, value));
        Ok(Ok(outcome))
    }

    fn delete_key(
        &mut self,
        key: &[u8],
        condition: Condition,
        returns: bool,
    ) -> Result<Refusable<KeyOutcome>> {
        let found = match self.find_if(key, condition)? {
            Ok(found) => found,
            Err(conflict) => return Ok(Err(conflict)),
        };
        let seen = found.as_ref().filter(|found| !found.is_over);
        let (count, previous) = (u64::from(seen.is_some()), seen.filter(|_| returns).map(Found::previous));
        if let Some(found) = &found {
            self.remove_key(key, found.kept);
            if found.is_over {
                self.removed.push(key.to_vec()); // it expires now, for who follows
            }
        }
        Ok(Ok(KeyOutcome::Deleted { count, previous }))
    }

    fn delete_keys(&mut self, start: &[u8], end: &[u8]) -> Result<Refusable<KeyOutcome>> {
        let mut count = 0;
        if start >= end {
            return Ok(Ok(KeyOutcome::Deleted { count: 0, previous: None }));
        }
        let (mut is_large, mut next) = (false, start.to_vec());
        // In pieces, for a range may be larger than memory.
        let rest = loop {
            let keys = self.keys_in(&next, end, DELETED_SINGLY_MAX)?;
            for key in &keys {
                let Some(found) = self.find_key(key)? else { continue };
                count += u64::from(!found.is_over);
                self.removed_some = true;
                self.forget(key, found.kept);
            }
            let Some(last) = keys.last().filter(|_| keys.len() == DELETED_SINGLY_MAX) else {
                break keys;
            };
            is_large = true;
            next = [last, &[0][..]].concat();
        };
        if is_large {
            self.batch.delete_range(start, end);
            if let Some(written) = &mut self.written_keys {
                for (_, record) in
                    written.range_mut::<[u8], _>((Bound::Included(start), Bound::Excluded(end)))
                {
                    *record = None;
                }
                self.deleted_ranges.push((start.to_vec(), end.to_vec()));
            }
        } else {
            rest.iter().for_each(|key| self.unset(key));
        }
        Ok(Ok(KeyOutcome::Deleted { count, previous: None }))
    }

    fn grant(&mut self, lease: u64, ttl: u64) -> Result<Refusable<KeyOutcome>> {
        let lease = if lease == 0 { self.seq } else { lease };
        if self.lease(lease)?.is_some() {
            return Ok(Err(Rejection::LeaseExists { lease }));
        }
        // One that has expired and is not removed yet gives up what it kept, but not to this one.
        self.end_lease(lease)?;
        self.let_last(lease, ttl);
        Ok(Ok(KeyOutcome::Lease { lease, ttl }))
    }

    fn keep_alive(&mut self, lease: u64) -> Result<Refusable<KeyOutcome>> {
        let Some(Lease { ttl, expires }) = self.lease(lease)? else {
            return Ok(Err(Rejection::LeaseNotFound { lease }));
        };
        self.unset(&layout::expiring_key(expires, &Expiring::Lease(lease)));
        self.let_last(lease, ttl);
        Ok(Ok(KeyOutcome::Lease { lease, ttl }))
    }

    fn let_last(&mut self, lease: u64, ttl: u64) {
        let expires = self.live.time.saturating_add(ttl);
        self.set(&layout::lease_key(lease), &layout::encode_lease(ttl, expires));
        self.set_alarm(expires, &Expiring::Lease(lease));
    }

    fn set_alarm(&mut self, expires: u64, what: &Expiring) {
        self.set(&layout::expiring_key(expires, what), b"");
        let next = self.live.expires_next.get_or_insert(expires);
        *next = expires.min(*next);
    }

    fn revoke(&mut self, lease: u64) -> Result<Refusable<KeyOutcome>> {
        if self.lease(lease)?.is_none() {
            return Ok(Err(Rejection::LeaseNotFound { lease }));
        }
        let count = self.end_lease(lease)?;
        Ok(Ok(KeyOutcome::Deleted { count, previous: None }))
    }

    /// Removes a lease, whether it has expired or not, and all it keeps; answers how many key-values that were.
    fn end_lease(&mut self, lease: u64) -> Result<u64> {
        let key = layout::lease_key(lease);
        let Some((_, record)) = self.record(&key)? else { return Ok(0) };
        let (_, expires) = layout::decode_lease(&record).ok_or_else(malformed_lease)?;
        self.unset(&key);
        self.unset(&layout::expiring_key(expires, &Expiring::Lease(lease)));
        let start = layout::leased_key(lease, b"");
        let end = prefix_end(&start).unwrap_or_else(|| vec![u8::MAX]);
        let (mut next, mut count) = (start, 0);
        loop {
            let kept = self.keys_in(&next, &end, DELETED_SINGLY_MAX)?;
            for key in &kept {
                let key_value = layout::decode_leased_key(key).ok_or_else(malformed_lease)?;
                self.unset(&key_value);
                self.unset(key);
                self.removed.push(key_value);
                count += 1;
            }
            match kept.last().filter(|_| kept.len() == DELETED_SINGLY_MAX) {
                Some(last) => next = [last, &[0][..]].concat(),
                None => return Ok(count),
            }
        }
    }

    fn expire(&mut self, due: Vec<Due>) -> Result<Refusable<KeyOutcome>> {
        // One may be there twice.
        self.written_keys.get_or_insert_with(BTreeMap::new);
        let (mut keys, mut leases) = (0, 0);
        for Due { expires, what } in due {
            if expires > self.live.time {
                continue;
            }
            match what {
                DueWhat::Key { space, key } => {
                    let key = layout::kv_key(&space, &key);
                    match self.find_key(&key)? {
                        // What has been written since is kept otherwise.
                        Some(found) if found.kept == Kept::Until(expires) => {
                            self.remove_key(&key, found.kept);
                            self.removed.push(key);
                            keys += 1;
                        }
                        _ => self.unset(&layout::expiring_key(expires, &Expiring::KeyValue(key))),
                    }
                }
                DueWhat::Lease(lease) => {
                    let record = self.record(&layout::lease_key(lease))?;
                    let ends = record.and_then(|(_, record)| layout::decode_lease(&record));
                    if ends.is_some_and(|(_, ends)| ends == expires) {
                        keys += self.end_lease(lease)?;
                        leases += 1;
                    } else {
                        self.unset(&layout::expiring_key(expires, &Expiring::Lease(lease)));
                    }
                }
            }
        }
        Ok(Ok(KeyOutcome::Expired { keys, leases }))
    }

    fn remove_key(&mut self, key: &[u8], kept: Kept) {
        self.forget(key, kept);
        self.unset(key);
    }

    /// Removes the note of how long a key-value was kept.
    fn forget(&mut self, key: &[u8], kept: Kept) {
        match kept {
            Kept::Always => {}
            Kept::Until(expires) => {
                self.unset(&layout::expiring_key(expires, &Expiring::KeyValue(key.to_vec())));
            }
            Kept::Lease(lease) => self.unset(&layout::leased_key(lease, key)),
        }
    }

    /// A lease, unless it has expired.
    pub(super) fn lease(&self, lease: u64) -> Result<Option<Lease>> {
        let Some((_, record)) = self.record(&layout::lease_key(lease))? else { return Ok(None) };
        let (ttl, expires) = layout::decode_lease(&record).ok_or_else(malformed_lease)?;
        Ok((expires > self.live.time).then_some(Lease { ttl, expires }))
    }

    /// What is there, if it is as a condition wants it; what has expired is not there.
    fn find_if(&self, key: &[u8], condition: Condition) -> Result<Refusable<Option<Found>>> {
        let found = self.find_key(key)?;
        let current = found.as_ref().filter(|found| !found.is_over).map(|found| found.version);
        if condition.is_met(current) {
            return Ok(Ok(found));
        }
        let (_, key) = layout::decode_kv_key(key).unwrap_or_default();
        Ok(Err(Rejection::KeyConflict { key: key.to_vec(), current }))
    }

    pub(super) fn find_key(&self, key: &[u8]) -> Result<Option<Found>> {
        let Some((version, record)) = self.record(key)? else { return Ok(None) };
        let (kept, _) = layout::decode_kv(&record).ok_or_else(|| {
            let key = lumen_engine::inspect::printable(key);
            Error::corrupt("a key-value's record", 0, format!("malformed head of {key}"))
        })?;
        let is_over = match kept {
            Kept::Always => false,
            Kept::Until(expires) => expires <= self.live.time,
            Kept::Lease(lease) => self.lease(lease)?.is_none(),
        };
        Ok(Some(Found { version, kept, record, is_over }))
    }

    /// What is there now, this write's own changes among it.
    fn record(&self, key: &[u8]) -> Result<Option<(u64, Slice)>> {
        if let Some(written) = &self.written_keys {
            if let Some(record) = written.get(key) {
                return Ok(record.clone().map(|record| (self.seq, record.into())));
            }
            if self.deleted_ranges.iter().any(|(start, end)| &start[..] <= key && key < &end[..]) {
                return Ok(None);
            }
        }
        Ok(self.engine.get_versioned(key)?)
    }

    /// The first keys of a range that are there now.
    fn keys_in(&self, start: &[u8], end: &[u8], most: usize) -> Result<Vec<Vec<u8>>> {
        let is_there = |key: &[u8]| match &self.written_keys {
            None => true,
            Some(written) => {
                !written.contains_key(key)
                    && !self.deleted_ranges.iter().any(|(start, end)| &start[..] <= key && key < &end[..])
            }
        };
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        let own = self.written_keys.iter().flat_map(|written| written.range::<[u8], _>(bounds));
        let mut keys: Vec<Vec<u8>> =
            own.filter(|(_, record)| record.is_some()).map(|(key, _)| key.clone()).take(most).collect();
        let own = keys.len();
        let mut scan = self.engine.scan(bounds.0, bounds.1);
        while keys.len() < own + most && scan.next_row()? {
            if is_there(scan.key()) {
                keys.push(scan.key().to_vec());
            }
        }
        keys.sort_unstable();
        keys.truncate(most);
        Ok(keys)
    }

    fn set(&mut self, key: &[u8], record: &[u8]) {
        self.batch.put(key, record);
        if let Some(written) = &mut self.written_keys {
            written.insert(key.to_vec(), Some(record.to_vec()));
        }
    }

    fn unset(&mut self, key: &[u8]) {
        self.batch.delete(key);
        if let Some(written) = &mut self.written_keys {
            written.insert(key.to_vec(), None);
        }
    }
}

fn malformed_lease() -> Error {
    Error::corrupt("a lease", 0, "malformed record")
}
