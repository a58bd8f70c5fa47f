//! What goes in: a [`Write`], and what comes back: an [`Outcome`]. A write's encoding is the payload of a log entry.
//!
//! ```text
//! │ 1: u8, version │ write │
//! write:  │ 1 │ name: slice │ mapping: slice │                           create collection
//!         │ 2 │ name: slice │                                            drop collection
//!         │ 3 │ collection │ id │ condition │ source: slice │           put
//!         │ 4 │ collection │ id │ condition │                           delete
//!         │ 5 │ change of key-values, see `keys` │
//!         │ 9 │ count: varint │ { slice holding a write } … │            batch; not inside a batch
//! condition:  │ 0 │ always   │ 1 │ absent   │ 2 │ version: varint │   │ 3 │ present  │
//!
//! outcome: │ 1 │ mapping: slice │ created    │ 2 │ mapping: slice │ exists    │ 3 │ dropped   │ 4 │ created   │ 5 │ updated
//!          │ 6 │ existed: u8 │ deleted       │ 7 │ count: varint │ { slice holding an outcome } … │ of a batch
//!          │ 9 │ outcome of a change of key-values, see `keys` │
//!          │ 8 │ rejection: u8 │ what it holds: slices, varints behind a u8 that says whether they are there │
//! ```

use std::sync::Arc;

use lumen_engine::coding::{Decoder, put_slice, put_varint};
use lumen_index::Analyzed;

use crate::catalog::{Catalog, check_id, check_name};
use crate::error::Rejection;
use crate::fields;
use crate::keys::{KeyLimits, KeyOutcome, KeyWrite};
use crate::mapping::Mapping;

/// Bytes of a document at most: 16 MiB.
pub const DOCUMENT_BYTES_MAX: usize = 16 << 20;
const VERSION: u8 = 1;

/// One change of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Makes a collection; the same mapping again is fine.
    CreateCollection {
        /// Its name.
        name: String,
        /// Its fields.
        mapping: Mapping,
    },
    /// Drops a collection with all its documents.
    DropCollection {
        /// Its name.
        name: String,
    },
    /// Creates or replaces a document.
    Put {
        /// The collection.
        collection: String,
        /// The document's id.
        id: String,
        /// JSON text of an object of mapped fields; kept byte for byte.
        source: Vec<u8>,
        /// When to refuse.
        condition: Condition,
    },
    /// Removes a document; one that is not there is fine.
    Delete {
        /// The collection.
        collection: String,
        /// The document's id.
        id: String,
        /// When to refuse.
        condition: Condition,
    },
    /// Changes key-values.
    Keys(KeyWrite),
    /// Several writes as one log entry: durable and visible together, each with its own outcome. Not nested.
    Batch(Vec<Write>),
}

/// What a document must be for a write to take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// Anything.
    #[default]
    Always,
    /// Not there.
    Absent,
    /// There, at this version.
    Version(u64),
    /// There, at any version.
    Present,
}

impl Condition {
    /// Whether it holds for what is of this version, or not there.
    pub(crate) fn is_met(self, current: Option<u64>) -> bool {
        match self {
            Condition::Always => true,
            Condition::Absent => current.is_none(),
            Condition::Version(wanted) => current == Some(wanted),
            Condition::Present => current.is_some(),
        }
    }
}

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The collection is new.
    CollectionCreated {
        /// Its mapping.
        mapping: Mapping,
    },
    /// The collection was there, with the same mapping.
    CollectionExists {
        /// Its mapping.
        mapping: Mapping,
    },
    /// The collection is gone.
    CollectionDropped,
    /// The document is new.
    Created,
    /// The document replaced another.
    Updated,
    /// The document is gone.
    Deleted {
        /// Whether it was there before.
        existed: bool,
    },
    /// What a change of key-values did.
    Keys(KeyOutcome),
    /// One outcome for each part.
    Batch(Vec<Outcome>),
    /// Nothing was changed.
    Rejected(Rejection),
}

impl Outcome {
    /// Encodes it: answers travel between nodes, and are kept for those who ask again.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Outcome::CollectionCreated { mapping } => {
                out.push(1);
                put_slice(out, mapping.to_json().as_bytes());
            }
            Outcome::CollectionExists { mapping } => {
                out.push(2);
                put_slice(out, mapping.to_json().as_bytes());
            }
            Outcome::CollectionDropped => out.push(3),
            Outcome::Created => out.push(4),
            Outcome::Updated => out.push(5),
            Outcome::Deleted { existed } => out.extend([6, u8::from(*existed)]),
            Outcome::Keys(outcome) => {
                out.push(9);
                outcome.encode(out);
            }
            Outcome::Batch(outcomes) => {
                out.push(7);
                put_varint(out, outcomes.len() as u64);
                for outcome in outcomes {
                    put_slice(out, &outcome.encode());
                }
            }
            Outcome::Rejected(rejection) => {
                out.push(8);
                put_rejection(out, rejection);
            }
        }
    }

    /// Reads what [`Outcome::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Option<Outcome> {
        let mut decoder = Decoder::new(bytes);
        let outcome = match decoder.u8()? {
            7 => {
                let count = decoder.length()?;
                let mut outcomes = Vec::with_capacity(count.min(decoder.remaining() / 2));
                for _ in 0..count {
                    // A batch holds no batches: so deep and no deeper.
                    outcomes.push(read_outcome(&mut Decoder::new(decoder.slice()?))?);
                }
                Outcome::Batch(outcomes)
            }
            _ => return read_outcome(&mut Decoder::new(bytes)),
        };
        decoder.is_empty().then_some(outcome)
    }
}

/// An outcome that is no batch.
fn read_outcome(decoder: &mut Decoder<'_>) -> Option<Outcome> {
    let outcome = match decoder.u8()? {
        1 => Outcome::CollectionCreated { mapping: Mapping::from_json(decoder.slice()?).ok()? },
        2 => Outcome::CollectionExists { mapping: Mapping::from_json(decoder.slice()?).ok()? },
        3 => Outcome::CollectionDropped,
        4 => Outcome::Created,
        5 => Outcome::Updated,
        6 => Outcome::Deleted { existed: decoder.flag()? },
        8 => Outcome::Rejected(read_rejection(decoder)?),
        9 => Outcome::Keys(KeyOutcome::decode(decoder)?),
        _ => return None,
    };
    decoder.is_empty().then_some(outcome)
}

fn put_rejection(out: &mut Vec<u8>, rejection: &Rejection) {
    fn put_field(out: &mut Vec<u8>, field: Option<&str>) {
        out.push(u8::from(field.is_some()));
        field.into_iter().for_each(|field| put_slice(out, field.as_bytes()));
    }
    match rejection {
        Rejection::CollectionNotFound { name } => {
            out.push(1);
            put_slice(out, name.as_bytes());
        }
        Rejection::SchemaConflict { name, reason } => {
            out.push(2);
            put_slice(out, name.as_bytes());
            put_slice(out, reason.as_bytes());
        }
        Rejection::Mapping { reason, field } => {
            out.push(3);
            put_slice(out, reason.as_bytes());
            put_field(out, field.as_deref());
        }
        Rejection::Validation { reason, field } => {
            out.push(4);
            put_slice(out, reason.as_bytes());
            put_field(out, field.as_deref());
        }
        Rejection::VersionConflict { id, current } => {
            out.push(5);
            put_slice(out, id.as_bytes());
            out.push(u8::from(current.is_some()));
            current.iter().for_each(|version| put_varint(out, *version));
        }
        Rejection::InvalidName { reason } => {
            out.push(6);
            put_slice(out, reason.as_bytes());
        }
        Rejection::TooLarge { what, limit, size } => {
            out.push(7);
            put_slice(out, what.as_bytes());
            put_varint(out, *limit);
            put_varint(out, *size);
        }
        Rejection::KeyReused => out.push(8),
        Rejection::Past => out.push(9),
        Rejection::KeyConflict { key, current } => {
            out.push(10);
            put_slice(out, key);
            out.push(u8::from(current.is_some()));
            current.iter().for_each(|version| put_varint(out, *version));
        }
        Rejection::LeaseNotFound { lease } => {
            out.push(11);
            put_varint(out, *lease);
        }
        Rejection::LeaseExists { lease } => {
            out.push(12);
            put_varint(out, *lease);
        }
    }
}

fn read_rejection(decoder: &mut Decoder<'_>) -> Option<Rejection> {
    fn field(decoder: &mut Decoder<'_>) -> Option<Option<String>> {
        Some(if decoder.flag()? { Some(decoder.text()?.into()) } else { None })
    }
    Some(match decoder.u8()? {
        1 => Rejection::CollectionNotFound { name: decoder.text()?.into() },
        2 => Rejection::SchemaConflict { name: decoder.text()?.into(), reason: decoder.text()?.into() },
        3 => Rejection::Mapping { reason: decoder.text()?.into(), field: field(decoder)? },
        4 => Rejection::Validation { reason: decoder.text()?.into(), field: field(decoder)? },
        5 => Rejection::VersionConflict {
            id: decoder.text()?.into(),
            current: if decoder.flag()? { Some(decoder.varint()?) } else { None },
        },
        6 => Rejection::InvalidName { reason: decoder.text()?.into() },
        7 => Rejection::TooLarge {
            what: decoder.text()?.into(),
            limit: decoder.varint()?,
            size: decoder.varint()?,
        },
        8 => Rejection::KeyReused,
        9 => Rejection::Past,
        10 => Rejection::KeyConflict {
            key: decoder.slice()?.to_vec(),
            current: if decoder.flag()? { Some(decoder.varint()?) } else { None },
        },
        11 => Rejection::LeaseNotFound { lease: decoder.varint()? },
        12 => Rejection::LeaseExists { lease: decoder.varint()? },
        _ => return None,
    })
}

/// An acknowledgement: durable and searchable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The index of the log entry: the sequence number, and the version of the documents it wrote.
    pub seq: u64,
    /// What happened.
    pub outcome: Outcome,
}

/// A write that was checked, parsed and analysed, ready to be proposed.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) payload: Vec<u8>,
    pub(crate) parts: Vec<Part>,
    pub(crate) batch: bool,
}

/// One write with what was computed from it.
#[derive(Debug)]
pub(crate) struct Part {
    pub write: Write,
    /// Of a put: the collection it was analysed for, and the result.
    pub analysed: Option<(u32, Arc<Analyzed>)>,
}

impl Prepared {
    /// Joins several into one log entry. Batches inside are opened.
    pub fn batch(prepared: Vec<Prepared>) -> Prepared {
        let parts: Vec<Part> = prepared.into_iter().flat_map(|prepared| prepared.parts).collect();
        Prepared::of_parts(parts, true)
    }

    fn of_parts(parts: Vec<Part>, batch: bool) -> Prepared {
        let mut payload = vec![VERSION];
        if batch {
            payload.push(9);
            put_varint(&mut payload, parts.len() as u64);
            let mut one = Vec::new();
            for part in &parts {
                one.clear();
                encode(&part.write, &mut one);
                put_slice(&mut payload, &one);
            }
        } else {
            encode(&parts[0].write, &mut payload);
        }
        Prepared { payload, parts, batch }
    }

    /// The write as a log entry carries it (see [`entry`](crate::entry)).
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }

    /// The same, leaving what was prepared, for [`Database::apply_prepared`](crate::Database::apply_prepared).
    pub fn take_payload(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.payload)
    }

    /// Bytes of the log entry.
    pub fn encoded_len(&self) -> usize {
        self.payload.len()
    }

    /// Checks a write against the catalog and analyses its documents.
    pub(crate) fn new(catalog: &Catalog, limits: &KeyLimits, write: Write) -> Result<Prepared, Rejection> {
        let part = |write: Write| {
            if let Write::Keys(write) = &write {
                write.check(limits)?;
            }
            let analysed = Part::analyse(catalog, &write)?;
            Ok(Part { write, analysed })
        };
        match write {
            Write::Batch(writes) => {
                let mut parts = Vec::with_capacity(writes.len());
                for write in writes {
                    if matches!(write, Write::Batch(_)) {
                        let reason = "a batch inside a batch".into();
                        return Err(Rejection::Validation { reason, field: None });
                    }
                    parts.push(part(write)?);
                }
                Ok(Prepared::of_parts(parts, true))
            }
            write => Ok(Prepared::of_parts(vec![part(write)?], false)),
        }
    }

    /// Reads a log entry and prepares it again. Parts that the catalog refuses are kept: `apply` refuses them the same way.
    pub(crate) fn decode(catalog: &Catalog, payload: &[u8]) -> Option<Prepared> {
        let (&version, rest) = payload.split_first()?;
        if version != VERSION {
            return None;
        }
        let (writes, batch) = match rest.first()? {
            9 => {
                let mut decoder = Decoder::new(&rest[1..]);
                let count = decoder.length()?;
                let mut writes = Vec::with_capacity(count.min(decoder.remaining()));
                for _ in 0..count {
                    writes.push(decode(decoder.slice()?)?);
                }
                (decoder.is_empty().then_some(writes)?, true)
            }
            _ => (vec![decode(rest)?], false),
        };
        let prepare = |write: Write| {
            let analysed = Part::analyse(catalog, &write).ok().flatten();
            Part { write, analysed }
        };
        Some(Prepared { payload: Vec::new(), parts: writes.into_iter().map(prepare).collect(), batch })
    }
}

impl Part {
    /// Checks what can be checked without the documents that are there.
    pub(crate) fn analyse(
        catalog: &Catalog,
        write: &Write,
    ) -> Result<Option<(u32, Arc<Analyzed>)>, Rejection> {
        match write {
            Write::CreateCollection { name, .. } => check_name(name).map(|()| None),
            Write::DropCollection { name } => catalog.get(name).map(|_| None),
            Write::Put { collection, id, source, .. } => {
                let collection = catalog.get(collection)?;
                check_id(id)?;
                if source.len() > DOCUMENT_BYTES_MAX {
                    let (limit, size) = (DOCUMENT_BYTES_MAX as u64, source.len() as u64);
                    return Err(Rejection::TooLarge { what: "the document".into(), limit, size });
                }
                Ok(Some((collection.id, Arc::new(fields::analyse(&collection.schema, source)?))))
            }
            Write::Delete { collection, id, .. } => {
                catalog.get(collection)?;
                check_id(id).map(|()| None)
            }
            // The limits of whoever proposed it were checked there; they may be others elsewhere.
            Write::Keys(write) => write.check(&KeyLimits::NONE).map(|()| None),
            Write::Batch(_) => Ok(None),
        }
    }
}

pub(crate) fn put_condition(out: &mut Vec<u8>, condition: Condition) {
    match condition {
        Condition::Always => out.push(0),
        Condition::Absent => out.push(1),
        Condition::Version(version) => {
            out.push(2);
            put_varint(out, version);
        }
        Condition::Present => out.push(3),
    }
}

fn encode(write: &Write, out: &mut Vec<u8>) {
    match write {
        Write::CreateCollection { name, mapping } => {
            out.push(1);
            put_slice(out, name.as_bytes());
            put_slice(out, mapping.to_json().as_bytes());
        }
        Write::DropCollection { name } => {
            out.push(2);
            put_slice(out, name.as_bytes());
        }
        Write::Put { collection, id, source, condition } => {
            out.push(3);
            put_slice(out, collection.as_bytes());
            put_slice(out, id.as_bytes());
            put_condition(out, *condition);
            put_slice(out, source);
        }
        Write::Delete { collection, id, condition } => {
            out.push(4);
            put_slice(out, collection.as_bytes());
            put_slice(out, id.as_bytes());
            put_condition(out, *condition);
        }
        Write::Keys(write) => {
            out.push(5);
            write.encode(out);
        }
        Write::Batch(_) => unreachable!("batches are opened when they are prepared"),
    }
}

pub(crate) fn read_condition(decoder: &mut Decoder<'_>) -> Option<Condition> {
    Some(match decoder.u8()? {
        0 => Condition::Always,
        1 => Condition::Absent,
        2 => Condition::Version(decoder.varint()?),
        3 => Condition::Present,
        _ => return None,
    })
}

fn decode(bytes: &[u8]) -> Option<Write> {
    let mut decoder = Decoder::new(bytes);
    let kind = decoder.u8()?;
    let write = match kind {
        1 => Write::CreateCollection {
            name: decoder.text()?.into(),
            mapping: Mapping::from_json(decoder.slice()?).ok()?,
        },
        2 => Write::DropCollection { name: decoder.text()?.into() },
        3 => Write::Put {
            collection: decoder.text()?.into(),
            id: decoder.text()?.into(),
            condition: read_condition(&mut decoder)?,
            source: decoder.slice()?.to_vec(),
        },
        4 => Write::Delete {
            collection: decoder.text()?.into(),
            id: decoder.text()?.into(),
            condition: read_condition(&mut decoder)?,
        },
        5 => Write::Keys(KeyWrite::decode(&mut decoder)?),
        _ => return None,
    };
    decoder.is_empty().then_some(write)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Due, DueWhat, Previous, Until};

    #[test]
    fn outcomes_come_back_and_cut_ones_do_not() {
        let (field, reason) = (Some("f".to_string()), "r".to_string());
        let name = "c".to_string();
        let rejections = [
            Rejection::CollectionNotFound { name: name.clone() },
            Rejection::SchemaConflict { name, reason: reason.clone() },
            Rejection::Mapping { reason: reason.clone(), field: None },
            Rejection::Validation { reason: reason.clone(), field },
            Rejection::VersionConflict { id: "i".into(), current: Some(700) },
            Rejection::VersionConflict { id: "i".into(), current: None },
            Rejection::InvalidName { reason },
            Rejection::TooLarge { what: "it".into(), limit: 3, size: 400 },
            Rejection::KeyReused,
            Rejection::Past,
            Rejection::KeyConflict { key: vec![0, 255], current: Some(7) },
            Rejection::KeyConflict { key: vec![1], current: None },
            Rejection::LeaseNotFound { lease: 1 << 60 },
            Rejection::LeaseExists { lease: 3 },
        ];
        let mut outcomes = vec![
            Outcome::CollectionCreated { mapping: Mapping::default() },
            Outcome::CollectionExists { mapping: Mapping::default() },
            Outcome::CollectionDropped,
            Outcome::Created,
            Outcome::Updated,
            Outcome::Deleted { existed: true },
        ];
        let previous = || Some(Previous { version: 300, value: b"v".to_vec() });
        let of_keys = [
            KeyOutcome::Put { existed: true, previous: previous() },
            KeyOutcome::Put { existed: false, previous: None },
            KeyOutcome::Deleted { count: 1000, previous: previous() },
            KeyOutcome::Deleted { count: 0, previous: None },
            KeyOutcome::Lease { lease: 9, ttl: 1 << 40 },
            KeyOutcome::Expired { keys: 300, leases: 2 },
        ];
        outcomes.extend(of_keys.map(Outcome::Keys));
        outcomes.extend(rejections.map(Outcome::Rejected));
        outcomes.push(Outcome::Batch(outcomes.clone()));
        for outcome in outcomes {
            let bytes = outcome.encode();
            assert_eq!(Outcome::decode(&bytes), Some(outcome));
            (0..bytes.len()).for_each(|len| assert_eq!(Outcome::decode(&bytes[..len]), None));
        }
        let nested = Outcome::Batch(vec![Outcome::Batch(Vec::new())]);
        assert_eq!(Outcome::decode(&nested.encode()), None, "no recursion on input");
    }

    #[test]
    fn entries_come_back_and_cut_ones_do_not() {
        let mut writes = vec![
            Write::CreateCollection { name: "c".into(), mapping: Mapping::default() },
            Write::Put {
                collection: "c".into(),
                id: "1".into(),
                source: b"{}".to_vec(),
                condition: Condition::Version(7),
            },
            Write::Delete { collection: "c".into(), id: "1".into(), condition: Condition::Absent },
            Write::Delete { collection: "c".into(), id: "2".into(), condition: Condition::Present },
            Write::DropCollection { name: "c".into() },
        ];
        let (space, key) = ("s".to_string(), b"k\0".to_vec());
        let what = DueWhat::Key { space: space.clone(), key: key.clone() };
        let due = vec![Due { expires: 1 << 40, what }, Due { expires: 3, what: DueWhat::Lease(9) }];
        let put = |until| KeyWrite::Put {
            space: space.clone(),
            key: key.clone(),
            value: b"v".to_vec(),
            condition: Condition::Version(300),
            until,
            returns: true,
        };
        let keys = [
            put(Until::Deleted),
            put(Until::Ttl(5000)),
            put(Until::Lease(1 << 50)),
            KeyWrite::Delete {
                space: space.clone(),
                key: key.clone(),
                condition: Condition::Absent,
                returns: false,
            },
            KeyWrite::DeleteRange { space: space.clone(), start: key.clone(), end: None },
            KeyWrite::DeleteRange { space: space.clone(), start: key.clone(), end: Some(Vec::new()) },
            KeyWrite::Grant { lease: 0, ttl: 1000 },
            KeyWrite::KeepAlive { lease: 7 },
            KeyWrite::Revoke { lease: 7 },
            KeyWrite::Expire { due },
        ];
        writes.extend(keys.map(Write::Keys));
        let mut catalog = Catalog::default();
        catalog.insert(1, "c", Mapping::default());
        let mut entries: Vec<(Prepared, Vec<Write>)> = Vec::new();
        for write in &writes {
            entries.push((
                Prepared::new(&catalog, &KeyLimits::NONE, write.clone()).expect("good"),
                vec![write.clone()],
            ));
        }
        entries.push((
            Prepared::new(&catalog, &KeyLimits::NONE, Write::Batch(writes.clone())).expect("good"),
            writes,
        ));
        for (prepared, expected) in entries {
            let back = Prepared::decode(&catalog, &prepared.payload).expect("decodes");
            assert_eq!(back.parts.into_iter().map(|part| part.write).collect::<Vec<_>>(), expected);
            for len in 0..prepared.payload.len() {
                assert!(Prepared::decode(&catalog, &prepared.payload[..len]).is_none(), "cut at {len}");
            }
        }
    }
}
