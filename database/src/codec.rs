//! How writes, outcomes and refusals are encoded: a write is the payload of a log entry, outcomes travel between nodes and are
//! kept for those who ask again.
//!
//! ```text
//! │ 1: u8, version │ write │
//! write:  │ 1 │ name: slice │ mapping: slice │                           create collection
//!         │ 2 │ name: slice │                                            drop collection
//!         │ 3 │ collection │ id │ condition │ source: slice │           put
//!         │ 4 │ collection │ id │ condition │                           delete
//!         │ 5 │ change of key-values, see `keys` │
//!         │ 6 │ target │                                                 read; in a transaction only
//!         │ 9 │ count: varint │ { slice holding a write } … │            batch; nothing with parts inside
//!         │ 10 │ count │ { compare } … │ count │ { slice holding a write } … then │ count │ … otherwise │   transaction
//! condition:  │ 0 │ always   │ 1 │ absent   │ 2 │ version: varint │   │ 3 │ present  │
//! target:     │ 1 │ space: slice │ key: slice │    │ 2 │ collection: slice │ id: slice │
//! compare:    │ target │ test │
//! test:       │ 0 │ absent │ 1 │ present │ 2 │ version: varint │ 3 │ version at most: varint │ 4 │ value: slice │
//!
//! outcome: │ 1 │ mapping: slice │ created    │ 2 │ mapping: slice │ exists    │ 3 │ dropped   │ 4 │ created   │ 5 │ updated
//!          │ 6 │ existed: u8 │ deleted       │ 7 │ count: varint │ { slice holding an outcome } … │ of a batch
//!          │ 8 │ rejection: u8 │ what it holds: slices, varints behind a u8 that says whether they are there │
//!          │ 9 │ outcome of a change of key-values, see `keys` │
//!          │ 10 │ 0 │ or │ 1 │ version: varint │ value: slice │ expires: varint or 0 │ lease: varint or 0 │   read
//!          │ 11 │ succeeded: u8 │ count: varint │ { slice holding an outcome } … │ of a transaction
//! ```

use lumen_engine::coding::{Decoder, put_slice, put_varint};

use crate::error::Rejection;
use crate::keys::{KeyOutcome, KeyWrite};
use crate::mapping::Mapping;
use crate::transaction::{Compare, Found, Target, Test};
use crate::write::{Condition, Outcome, Write};

impl Outcome {
    /// Encodes it.
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
                put_outcomes(out, outcomes);
            }
            Outcome::Read(found) => {
                out.extend([10, u8::from(found.is_some())]);
                if let Some(Found { version, value, expires, lease }) = found {
                    put_varint(out, *version);
                    put_slice(out, value);
                    put_varint(out, expires.unwrap_or(0));
                    put_varint(out, lease.unwrap_or(0));
                }
            }
            Outcome::Transaction { succeeded, outcomes } => {
                out.extend([11, u8::from(*succeeded)]);
                put_outcomes(out, outcomes);
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
            7 => Outcome::Batch(read_outcomes(&mut decoder)?),
            11 => Outcome::Transaction { succeeded: decoder.flag()?, outcomes: read_outcomes(&mut decoder)? },
            _ => return read_outcome(&mut Decoder::new(bytes)),
        };
        decoder.is_empty().then_some(outcome)
    }
}

fn put_outcomes(out: &mut Vec<u8>, outcomes: &[Outcome]) {
    put_varint(out, outcomes.len() as u64);
    outcomes.iter().for_each(|outcome| put_slice(out, &outcome.encode()));
}

/// Outcomes without parts: so deep and no deeper.
fn read_outcomes(decoder: &mut Decoder<'_>) -> Option<Vec<Outcome>> {
    let count = decoder.length()?;
    let mut outcomes = Vec::with_capacity(count.min(decoder.remaining() / 2));
    for _ in 0..count {
        outcomes.push(read_outcome(&mut Decoder::new(decoder.slice()?))?);
    }
    Some(outcomes)
}

/// An outcome without parts.
fn read_outcome(decoder: &mut Decoder<'_>) -> Option<Outcome> {
    let outcome = match decoder.u8()? {
        1 => Outcome::CollectionCreated { mapping: Mapping::from_json(decoder.slice()?).ok()? },
        2 => Outcome::CollectionExists { mapping: Mapping::from_json(decoder.slice()?).ok()? },
        3 => Outcome::CollectionDropped,
        4 => Outcome::Created,
        5 => Outcome::Updated,
        6 => Outcome::Deleted { existed: decoder.flag()? },
        8 => Outcome::Rejected(read_rejection(decoder, true)?),
        9 => Outcome::Keys(KeyOutcome::decode(decoder)?),
        10 => Outcome::Read(match decoder.flag()? {
            false => None,
            true => Some(Found {
                version: decoder.varint()?,
                value: decoder.slice()?.to_vec(),
                expires: Some(decoder.varint()?).filter(|at| *at != 0),
                lease: Some(decoder.varint()?).filter(|lease| *lease != 0),
            }),
        }),
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
        Rejection::InTransaction { operation, rejection } => {
            out.push(13);
            put_varint(out, *operation);
            put_rejection(out, rejection);
        }
    }
}

/// With `outer`, also one of an operation of a transaction, whose own is none.
fn read_rejection(decoder: &mut Decoder<'_>, outer: bool) -> Option<Rejection> {
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
        13 if outer => Rejection::InTransaction {
            operation: decoder.varint()?,
            rejection: Box::new(read_rejection(decoder, false)?),
        },
        _ => return None,
    })
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

/// Appends a write without parts.
pub(crate) fn put_write(out: &mut Vec<u8>, write: &Write) {
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
        Write::Read(target) => {
            out.push(6);
            put_target(out, target);
        }
        Write::Batch(_) | Write::Transaction(_) => unreachable!("they are opened when they are prepared"),
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

/// Reads a write without parts.
pub(crate) fn read_write(bytes: &[u8]) -> Option<Write> {
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
        6 => Write::Read(read_target(&mut decoder)?),
        _ => return None,
    };
    decoder.is_empty().then_some(write)
}

/// Appends a count and writes without parts.
pub(crate) fn put_writes<'a>(out: &mut Vec<u8>, writes: impl ExactSizeIterator<Item = &'a Write>) {
    put_varint(out, writes.len() as u64);
    let mut one = Vec::new();
    for write in writes {
        one.clear();
        put_write(&mut one, write);
        put_slice(out, &one);
    }
}

/// Reads them.
pub(crate) fn read_writes(decoder: &mut Decoder<'_>) -> Option<Vec<Write>> {
    let count = decoder.length()?;
    let mut writes = Vec::with_capacity(count.min(decoder.remaining()));
    for _ in 0..count {
        writes.push(read_write(decoder.slice()?)?);
    }
    Some(writes)
}

fn put_target(out: &mut Vec<u8>, target: &Target) {
    match target {
        Target::Key { space, key } => {
            out.push(1);
            put_slice(out, space.as_bytes());
            put_slice(out, key);
        }
        Target::Document { collection, id } => {
            out.push(2);
            put_slice(out, collection.as_bytes());
            put_slice(out, id.as_bytes());
        }
    }
}

fn read_target(decoder: &mut Decoder<'_>) -> Option<Target> {
    Some(match decoder.u8()? {
        1 => Target::Key { space: decoder.text()?.into(), key: decoder.slice()?.to_vec() },
        2 => Target::Document { collection: decoder.text()?.into(), id: decoder.text()?.into() },
        _ => return None,
    })
}

/// Appends a count and comparisons.
pub(crate) fn put_compares(out: &mut Vec<u8>, compares: &[Compare]) {
    put_varint(out, compares.len() as u64);
    for Compare { target, test } in compares {
        put_target(out, target);
        match test {
            Test::Absent => out.push(0),
            Test::Present => out.push(1),
            Test::Version(version) => {
                out.push(2);
                put_varint(out, *version);
            }
            Test::VersionAtMost(version) => {
                out.push(3);
                put_varint(out, *version);
            }
            Test::Value(value) => {
                out.push(4);
                put_slice(out, value);
            }
        }
    }
}

/// Reads them.
pub(crate) fn read_compares(decoder: &mut Decoder<'_>) -> Option<Vec<Compare>> {
    let count = decoder.length()?;
    let mut compares = Vec::with_capacity(count.min(decoder.remaining() / 4));
    for _ in 0..count {
        let target = read_target(decoder)?;
        let test = match decoder.u8()? {
            0 => Test::Absent,
            1 => Test::Present,
            2 => Test::Version(decoder.varint()?),
            3 => Test::VersionAtMost(decoder.varint()?),
            4 => Test::Value(decoder.slice()?.to_vec()),
            _ => return None,
        };
        compares.push(Compare { target, test });
    }
    Some(compares)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::keys::{Due, DueWhat, KeyLimits, Previous, Until};
    use crate::transaction::Transaction;
    use crate::write::Prepared;

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
            Rejection::InTransaction {
                operation: 200,
                rejection: Box::new(Rejection::LeaseNotFound { lease: 7 }),
            },
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
        outcomes.push(Outcome::Read(None));
        let found = Found { version: 300, value: b"v".to_vec(), expires: Some(1 << 40), lease: None };
        outcomes.push(Outcome::Read(Some(found)));
        let parts = outcomes.clone();
        outcomes.push(Outcome::Batch(parts.clone()));
        outcomes.push(Outcome::Transaction { succeeded: true, outcomes: parts });
        for outcome in outcomes {
            let bytes = outcome.encode();
            assert_eq!(Outcome::decode(&bytes), Some(outcome));
            (0..bytes.len()).for_each(|len| assert_eq!(Outcome::decode(&bytes[..len]), None));
        }
        let nested = Outcome::Batch(vec![Outcome::Batch(Vec::new())]);
        assert_eq!(Outcome::decode(&nested.encode()), None, "no recursion on input");
        let inner = Rejection::InTransaction { operation: 1, rejection: Box::new(Rejection::Past) };
        let nested = Rejection::InTransaction { operation: 1, rejection: Box::new(inner) };
        assert_eq!(Outcome::decode(&Outcome::Rejected(nested).encode()), None, "no recursion on input");
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
            writes.clone(),
        ));
        let target = || Target::Key { space: space.clone(), key: key.clone() };
        let document = || Target::Document { collection: "c".into(), id: "1".into() };
        let tests = [
            Test::Absent,
            Test::Present,
            Test::Version(300),
            Test::VersionAtMost(1 << 40),
            Test::Value(b"v".to_vec()),
        ];
        let mut when: Vec<Compare> =
            tests.into_iter().map(|test| Compare { target: target(), test }).collect();
        when.push(Compare { target: document(), test: Test::Version(3) });
        let mut then = vec![Write::Read(target()), Write::Read(document())];
        then.extend(writes.into_iter().filter(|write| Transaction::takes(write).is_ok()));
        let otherwise = vec![Write::Read(document())];
        let all = [then.clone(), otherwise.clone()].concat();
        let transaction = Write::Transaction(Transaction { when, then, otherwise });
        entries.push((Prepared::new(&catalog, &KeyLimits::NONE, transaction).expect("good"), all));
        for (prepared, expected) in entries {
            let back = Prepared::decode(&catalog, &prepared.payload).expect("decodes");
            assert_eq!(back.shape, prepared.shape);
            assert_eq!(back.parts.into_iter().map(|part| part.write).collect::<Vec<_>>(), expected);
            for len in 0..prepared.payload.len() {
                assert!(Prepared::decode(&catalog, &prepared.payload[..len]).is_none(), "cut at {len}");
            }
        }
    }
}
