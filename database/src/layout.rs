//! Every kind of record in the one key space.
//!
//! ```text
//! key                                          value
//! │ 1 │ collection name │                      │ id: u32 BE │ mapping as JSON │              catalog
//! │ 2 │ collection id: u32 BE │ document id │  │ header │ document as JSON │                  documents
//! │ 3 │ generation: u32 BE │ request key: 16 │ │ digest: u64 │ seq: varint │ outcome │        answered requests
//! │ 4 │ space │ 0 │ key │                      │ head │ value │                               key-values
//! │ 5 │ lease: u64 BE │                        │ ttl: varint, ms │ expires: varint │           leases
//! │ 6 │ lease: u64 BE │ space │ 0 │ key │                                                      the keys of a lease
//! │ 7 │ expires: u64 BE │ 1 │ space │ 0 │ key │ or │ 2 │ lease: u64 BE │                       what expires when
//! │ 8 │ seq: u64 BE │                          │ effects │                                   what a write did, if not what it says
//! │ 9 │ seq: u64 BE │                          │ log: u8 │ index: varint │ time: varint │    a place in the log
//!
//! header:  │ uid: varint │ fields: varint │ field: varint ‖ tokens: varint … │
//! head:    │ 0 │ kept until it is deleted    │ 1 │ expires: varint │    │ 2 │ lease: varint │
//! effects: │ 0 │ none    │ 1 │ otherwise: u8 │ count: varint │ { effect } …, one for each part │
//! effect:  │ 0 │ none    │ 1 │ as the write says    │ 2 │ count: varint │ { space, 0, key: slice } … removed │
//! ```
//!
//! The header lets a replacement take the old document out of the index without reading its text again: `uid` finds its
//! bit, the token counts correct the statistics. A document's version is the sequence number of its record.
//!
//! Answers to requests that clients named (Idempotency-Key) are kept for a day at least, by generations of half a day of the
//! log's time, so that one range delete lets go of a generation.
//!
//! The log itself is the feed of changes (`changes`); 8 and 9 are what it does not say: what became of writes that did not
//! do as they say (refused, nothing there to delete) or do not name what they removed, and, for a write of every
//! [`PLACE_EVERY`], where the log was before the entry that holds it: its kind (1 the journal, 2 a replicated one), the
//! entry's index, and the log's time. Both are kept for [`FEED_WRITES`] writes.
//!
//! Beside the records, the manifest keeps the database's state (see [`State`]): what `apply` counts.

use lumen_engine::coding::{Decoder, put_slice, put_varint};
use lumen_index::FieldId;

use crate::sessions::Sessions;
use crate::write::{Ack, Outcome};

const CATALOG: u8 = 1;
const DOCUMENTS: u8 = 2;
const REQUESTS: u8 = 3;
const KEYS: u8 = 4;
const LEASES: u8 = 5;
const LEASED: u8 = 6;
const EXPIRING: u8 = 7;
const EFFECTS: u8 = 8;
const PLACES: u8 = 9;

/// Writes from one noted place in the log to the next.
pub(crate) const PLACE_EVERY: u64 = 32;
/// Writes of which it is known what they did: 4 Mi.
pub(crate) const FEED_WRITES: u64 = 1 << 22;
/// Writes after which what is known of older ones is let go.
pub(crate) const FEED_STEP: u64 = 1 << 16;

/// How long a generation of answered requests is, in milliseconds.
const GENERATION_MS: u64 = 12 * 3600 * 1000;
/// Generations that are kept, the present one included: so an answer is kept for 24 to 36 hours.
pub(crate) const GENERATIONS: u32 = 3;

/// Attachment kind: an index segment. Note: collection id, smallest uid, documents with the deleted ones.
pub(crate) const SEGMENT: u8 = 1;
/// Attachment kind: the deletes of all segments of a collection. Note: collection id.
pub(crate) const DELETES: u8 = 2;

/// The key of a collection's catalog record.
pub(crate) fn catalog_key(name: &str) -> Vec<u8> {
    [&[CATALOG], name.as_bytes()].concat()
}

/// What all catalog keys start with.
pub(crate) const CATALOG_PREFIX: [u8; 1] = [CATALOG];

/// The key of a document.
pub(crate) fn document_key(collection: u32, id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + id.len());
    key.push(DOCUMENTS);
    key.extend_from_slice(&collection.to_be_bytes());
    key.extend_from_slice(id);
    key
}

/// The document id in a document's key.
pub(crate) fn document_id(key: &[u8]) -> &[u8] {
    &key[5.min(key.len())..]
}

/// The generation that a time (milliseconds since 1970) is in.
pub(crate) fn generation(time: u64) -> u32 {
    u32::try_from(time / GENERATION_MS).unwrap_or(u32::MAX)
}

/// The key of an answered request.
pub(crate) fn request_key(generation: u32, key: &[u8; 16]) -> Vec<u8> {
    [&[REQUESTS][..], &generation.to_be_bytes(), key].concat()
}

/// By which two requests under one key are told apart: length and checksum of the write.
pub(crate) fn digest(payload: &[u8]) -> u64 {
    (payload.len() as u64) << 32 | u64::from(crc32fast::hash(payload))
}

/// The record of an answered request.
pub(crate) fn encode_answer(digest: u64, ack: &Ack) -> Vec<u8> {
    let mut value = digest.to_le_bytes().to_vec();
    put_varint(&mut value, ack.seq);
    value.extend_from_slice(&ack.outcome.encode());
    value
}

/// The parts of the record of an answered request.
pub(crate) fn decode_answer(value: &[u8]) -> Option<(u64, Ack)> {
    let mut decoder = Decoder::new(value);
    let (digest, seq) = (decoder.u64()?, decoder.varint()?);
    let outcome = Outcome::decode(&value[decoder.position()..])?;
    Some((digest, Ack { seq, outcome }))
}

/// The key of a key-value, or with an empty `key` what all of its space begin with.
pub(crate) fn kv_key(space: &str, key: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(2 + space.len() + key.len());
    record.push(KEYS);
    record.extend_from_slice(space.as_bytes());
    record.push(0);
    record.extend_from_slice(key);
    record
}

/// What the keys of all key-values begin with.
pub(crate) const KV_PREFIX: [u8; 1] = [KEYS];

/// Space and key, of the key of a key-value without its first byte.
fn split_kv(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

/// Space and key of the key of a key-value.
pub(crate) fn decode_kv_key(record: &[u8]) -> Option<(&str, &[u8])> {
    split_kv(record.strip_prefix(&KV_PREFIX)?)
}

/// Until when a key-value is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Until it is deleted.
    Always,
    /// Until this time of the log, in milliseconds since 1970.
    Until(u64),
    /// As long as this lease.
    Lease(u64),
}

/// A key-value's record.
pub(crate) fn encode_kv(kept: Kept, value: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(10 + value.len());
    match kept {
        Kept::Always => record.push(0),
        Kept::Until(expires) => {
            record.push(1);
            put_varint(&mut record, expires);
        }
        Kept::Lease(lease) => {
            record.push(2);
            put_varint(&mut record, lease);
        }
    }
    record.extend_from_slice(value);
    record
}

/// The parts of a key-value's record.
pub(crate) fn decode_kv(record: &[u8]) -> Option<(Kept, &[u8])> {
    let mut decoder = Decoder::new(record);
    let kept = match decoder.u8()? {
        0 => Kept::Always,
        1 => Kept::Until(decoder.varint()?),
        2 => Kept::Lease(decoder.varint()?),
        _ => return None,
    };
    Some((kept, &record[decoder.position()..]))
}

/// The key of a lease.
pub(crate) fn lease_key(lease: u64) -> Vec<u8> {
    [&[LEASES][..], &lease.to_be_bytes()].concat()
}

/// A lease's record: how long it lasts, and until when it does, in milliseconds.
pub(crate) fn encode_lease(ttl: u64, expires: u64) -> Vec<u8> {
    let mut record = Vec::new();
    put_varint(&mut record, ttl);
    put_varint(&mut record, expires);
    record
}

/// The parts of a lease's record.
pub(crate) fn decode_lease(record: &[u8]) -> Option<(u64, u64)> {
    let mut decoder = Decoder::new(record);
    let parts = (decoder.varint()?, decoder.varint()?);
    decoder.is_empty().then_some(parts)
}

/// The key that says that a key-value, by the key of its record, is kept by a lease. With an empty one: what all of the lease
/// begin with.
pub(crate) fn leased_key(lease: u64, record: &[u8]) -> Vec<u8> {
    [&[LEASED][..], &lease.to_be_bytes(), record.get(1..).unwrap_or_default()].concat()
}

/// The key of a key-value's record that such a key names.
pub(crate) fn decode_leased_key(key: &[u8]) -> Option<Vec<u8>> {
    Some([&KV_PREFIX[..], key.get(9..)?].concat())
}

/// What expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expiring {
    /// A key-value, by the key of its record.
    KeyValue(Vec<u8>),
    /// A lease, with all that it keeps.
    Lease(u64),
}

/// The key that says when something expires.
pub(crate) fn expiring_key(expires: u64, what: &Expiring) -> Vec<u8> {
    let mut key = vec![EXPIRING];
    key.extend_from_slice(&expires.to_be_bytes());
    match what {
        Expiring::KeyValue(record) => {
            key.push(1);
            key.extend_from_slice(&record[1..]);
        }
        Expiring::Lease(lease) => {
            key.push(2);
            key.extend_from_slice(&lease.to_be_bytes());
        }
    }
    key
}

/// What all such keys begin with.
pub(crate) const EXPIRING_PREFIX: [u8; 1] = [EXPIRING];

/// When something expires, and what, of such a key.
pub(crate) fn decode_expiring_key(key: &[u8]) -> Option<(u64, Expiring)> {
    let (expires, rest) = key.strip_prefix(&EXPIRING_PREFIX)?.split_first_chunk::<8>()?;
    let what = match rest.split_first()? {
        (1, rest) => Expiring::KeyValue([&KV_PREFIX[..], rest].concat()),
        (2, rest) => Expiring::Lease(u64::from_be_bytes(rest.try_into().ok()?)),
        _ => return None,
    };
    Some((u64::from_be_bytes(*expires), what))
}

/// What a write did, if not what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effects {
    /// Nothing.
    None,
    /// What each part did; of a transaction, those that were chosen.
    Parts { otherwise: bool, parts: Vec<Effect> },
}

/// What a part of a write did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// What it says.
    AsSaid,
    /// It removed these key-values, each by the key of its record.
    Removed(Vec<Vec<u8>>),
}

/// The key of what the write of a sequence number did.
pub(crate) fn effects_key(seq: u64) -> Vec<u8> {
    [&[EFFECTS][..], &seq.to_be_bytes()].concat()
}

/// The sequence number in such a key.
pub(crate) fn decode_effects_key(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.strip_prefix(&[EFFECTS])?.try_into().ok()?))
}

pub(crate) fn encode_effects(effects: &Effects) -> Vec<u8> {
    let Effects::Parts { otherwise, parts } = effects else { return vec![0] };
    let mut value = vec![1, u8::from(*otherwise)];
    put_varint(&mut value, parts.len() as u64);
    for part in parts {
        match part {
            Effect::None => value.push(0),
            Effect::AsSaid => value.push(1),
            Effect::Removed(records) => {
                value.push(2);
                put_varint(&mut value, records.len() as u64);
                records.iter().for_each(|record| put_slice(&mut value, &record[1..]));
            }
        }
    }
    value
}

pub(crate) fn decode_effects(value: &[u8]) -> Option<Effects> {
    let mut decoder = Decoder::new(value);
    if decoder.u8()? == 0 {
        return decoder.is_empty().then_some(Effects::None);
    }
    let otherwise = decoder.flag()?;
    let count = decoder.length()?;
    let mut parts = Vec::with_capacity(count.min(decoder.remaining()));
    for _ in 0..count {
        parts.push(match decoder.u8()? {
            0 => Effect::None,
            1 => Effect::AsSaid,
            2 => {
                let count = decoder.length()?;
                let mut records = Vec::with_capacity(count.min(decoder.remaining()));
                for _ in 0..count {
                    records.push([&KV_PREFIX[..], decoder.slice()?].concat());
                }
                Effect::Removed(records)
            }
            _ => return None,
        });
    }
    decoder.is_empty().then_some(Effects::Parts { otherwise, parts })
}

/// A place in a log: before an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Whether the log is a replicated one.
    pub replicated: bool,
    /// The entry's index in it.
    pub index: u64,
    /// The log's time before it, in milliseconds since 1970.
    pub time: u64,
}

/// The key of the place in the log behind the write of a sequence number.
pub(crate) fn place_key(seq: u64) -> Vec<u8> {
    [&[PLACES][..], &seq.to_be_bytes()].concat()
}

/// The sequence number in such a key.
pub(crate) fn decode_place_key(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.strip_prefix(&[PLACES])?.try_into().ok()?))
}

pub(crate) fn encode_place(place: &Place) -> Vec<u8> {
    let mut value = vec![if place.replicated { 2 } else { 1 }];
    put_varint(&mut value, place.index);
    put_varint(&mut value, place.time);
    value
}

pub(crate) fn decode_place(value: &[u8]) -> Option<Place> {
    let mut decoder = Decoder::new(value);
    let replicated = match decoder.u8()? {
        1 => false,
        2 => true,
        _ => return None,
    };
    let place = Place { replicated, index: decoder.varint()?, time: decoder.varint()? };
    decoder.is_empty().then_some(place)
}

/// The first write of which it is known what it did when `applied` is the last.
pub(crate) fn feed_floor(applied: u64) -> u64 {
    (applied / FEED_STEP * FEED_STEP).saturating_sub(FEED_WRITES)
}

/// A catalog record.
pub(crate) fn encode_catalog(id: u32, mapping: &str) -> Vec<u8> {
    [&id.to_be_bytes(), mapping.as_bytes()].concat()
}

/// The parts of a catalog record.
pub(crate) fn decode_catalog(value: &[u8]) -> Option<(u32, &[u8])> {
    let (id, mapping) = value.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*id), mapping))
}

/// What the header of a document record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub uid: u64,
    pub lengths: Vec<(FieldId, u32)>,
}

/// A document record.
pub(crate) fn encode_document(uid: u64, lengths: &[(FieldId, u32)], source: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(12 + lengths.len() * 4 + source.len());
    put_varint(&mut value, uid);
    put_varint(&mut value, lengths.len() as u64);
    for (field, tokens) in lengths {
        put_varint(&mut value, u64::from(field.0));
        put_varint(&mut value, u64::from(*tokens));
    }
    value.extend_from_slice(source);
    value
}

/// The parts of a document record.
pub(crate) fn decode_document(value: &[u8]) -> Option<(Header, &[u8])> {
    let mut decoder = Decoder::new(value);
    let uid = decoder.varint()?;
    let count = decoder.length()?;
    let mut lengths = Vec::with_capacity(count.min(decoder.remaining()));
    for _ in 0..count {
        let field = FieldId(decoder.varint()?.try_into().ok()?);
        lengths.push((field, decoder.varint()?.try_into().ok()?));
    }
    let at = decoder.position();
    Some((Header { uid, lengths }, &value[at..]))
}

/// What the manifest keeps for the database as of its durable sequence number.
///
/// ```text
/// │ 1: u8 │ store id: 16 │ next uid: varint │ next collection id: varint │ journal segment: varint │ offset: varint │
/// │ time: varint │ generation: varint │ entry: varint │ position: slice │ sessions: slice │ collections: varint │ { id: varint │ stats: slice } … │
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub store: [u8; 16],
    pub next_uid: u64,
    pub next_collection: u32,
    /// Where the journal was known to be durable: segment and offset.
    pub journal: (u64, u64),
    /// The latest time of an entry, in milliseconds since 1970.
    pub time: u64,
    /// The generation of answered requests that was written to last.
    pub generation: u32,
    /// The index of the log's next entry.
    pub entry: u64,
    /// Where a replicated log is: whoever keeps it knows what this means.
    pub position: Vec<u8>,
    /// Answers that nodes may ask for again.
    pub sessions: Sessions,
    /// Index statistics by collection id, encoded by the index.
    pub stats: Vec<(u32, Vec<u8>)>,
}

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&self.store);
        for number in [self.next_uid, u64::from(self.next_collection), self.journal.0, self.journal.1] {
            put_varint(&mut out, number);
        }
        put_varint(&mut out, self.time);
        put_varint(&mut out, u64::from(self.generation));
        put_varint(&mut out, self.entry);
        put_slice(&mut out, &self.position);
        put_slice(&mut out, &self.sessions.encode());
        put_varint(&mut out, self.stats.len() as u64);
        for (id, stats) in &self.stats {
            put_varint(&mut out, u64::from(*id));
            put_slice(&mut out, stats);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<State> {
        let mut decoder = Decoder::new(bytes);
        if decoder.u8()? != 1 {
            return None;
        }
        let store = decoder.take(16)?.try_into().ok()?;
        let next_uid = decoder.varint()?;
        let next_collection = decoder.varint()?.try_into().ok()?;
        let journal = (decoder.varint()?, decoder.varint()?);
        let (time, generation) = (decoder.varint()?, decoder.varint()?.try_into().ok()?);
        let entry = decoder.varint()?;
        let position = decoder.slice()?.to_vec();
        let sessions = Sessions::decode(decoder.slice()?)?;
        let count = decoder.length()?;
        let mut stats = Vec::with_capacity(count.min(decoder.remaining()));
        for _ in 0..count {
            let id = decoder.varint()?.try_into().ok()?;
            stats.push((id, decoder.slice()?.to_vec()));
        }
        let state = State {
            store,
            next_uid,
            next_collection,
            journal,
            time,
            generation,
            entry,
            position,
            sessions,
            stats,
        };
        decoder.is_empty().then_some(state)
    }
}

/// The note of a segment.
pub(crate) fn segment_note(collection: u32, first_uid: u64, documents: u32) -> Vec<u8> {
    let mut note = Vec::new();
    put_varint(&mut note, u64::from(collection));
    put_varint(&mut note, first_uid);
    put_varint(&mut note, u64::from(documents));
    note
}

/// Collection id, and for a segment its first uid and its documents, of an attachment's note.
pub(crate) fn decode_note(note: &[u8]) -> Option<(u32, u64, u32)> {
    let mut decoder = Decoder::new(note);
    let collection = decoder.varint()?.try_into().ok()?;
    if decoder.is_empty() {
        return Some((collection, 0, 0));
    }
    Some((collection, decoder.varint()?, decoder.varint()?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        let lengths = vec![(FieldId(0), 7), (FieldId(300), 1)];
        let record = kv_key("space", b"a\0b");
        assert_eq!(decode_kv_key(&record), Some(("space", &b"a\0b"[..])));
        assert_eq!(decode_leased_key(&leased_key(7, &record)), Some(record.clone()));
        for kept in [Kept::Always, Kept::Until(1 << 40), Kept::Lease(300)] {
            assert_eq!(decode_kv(&encode_kv(kept, b"value")), Some((kept, &b"value"[..])));
        }
        assert_eq!(decode_lease(&encode_lease(5000, 1 << 40)), Some((5000, 1 << 40)));
        for what in [Expiring::KeyValue(record), Expiring::Lease(9)] {
            assert_eq!(decode_expiring_key(&expiring_key(1 << 40, &what)), Some((1 << 40, what)));
        }
        let parts = vec![
            Effect::None,
            Effect::AsSaid,
            Effect::Removed(vec![kv_key("s", b"1"), kv_key("t", b"2")]),
            Effect::Removed(Vec::new()),
        ];
        for effects in [Effects::None, Effects::Parts { otherwise: true, parts }] {
            let bytes = encode_effects(&effects);
            (0..bytes.len()).for_each(|len| assert_eq!(decode_effects(&bytes[..len]), None));
            assert_eq!(decode_effects(&bytes), Some(effects));
        }
        assert_eq!(decode_effects_key(&effects_key(1 << 40)), Some(1 << 40));
        for replicated in [false, true] {
            let place = Place { replicated, index: 300, time: 1 << 40 };
            assert_eq!(decode_place(&encode_place(&place)), Some(place));
        }
        assert_eq!(decode_place_key(&place_key(7)), Some(7));
        assert_eq!(feed_floor(FEED_WRITES + FEED_STEP - 1), 0);
        assert_eq!(feed_floor(FEED_WRITES + FEED_STEP), FEED_STEP);
        let value = encode_document(99, &lengths, b"{}");
        assert_eq!(decode_document(&value), Some((Header { uid: 99, lengths }, &b"{}"[..])));
        let state = State {
            store: [7; 16],
            next_uid: 5,
            next_collection: 2,
            journal: (3, 4096),
            time: 1_700_000_000_000,
            generation: 39_351,
            entry: 12_345,
            position: vec![9; 20],
            sessions: Sessions::default(),
            stats: vec![(1, vec![1, 2, 3])],
        };
        let bytes = state.encode();
        assert_eq!(State::decode(&bytes), Some(state));
        for len in 0..bytes.len() {
            assert_eq!(State::decode(&bytes[..len]), None);
        }
    }
}
