//! What goes in: a [`Write`], and what comes back: an [`Outcome`]. A write's encoding is the payload of a log entry.
//!
//! ```text
//! │ 1: u8, version │ write │
//! write:  │ 1 │ name: slice │ mapping: slice │                           create collection
//!         │ 2 │ name: slice │                                            drop collection
//!         │ 3 │ collection │ id │ condition │ source: slice │           put
//!         │ 4 │ collection │ id │ condition │                           delete
//!         │ 9 │ count: varint │ { slice holding a write } … │            batch; not inside a batch
//! condition:  │ 0 │ always   │ 1 │ absent   │ 2 │ version: varint │   │ 3 │ present  │
//! ```

use std::sync::Arc;

use lumen_engine::coding::{Decoder, put_slice, put_varint};
use lumen_index::Analyzed;

use crate::catalog::{Catalog, check_id, check_name};
use crate::error::Rejection;
use crate::fields;
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
    /// One outcome for each part.
    Batch(Vec<Outcome>),
    /// Nothing was changed.
    Rejected(Rejection),
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

    /// Bytes of the log entry.
    pub fn encoded_len(&self) -> usize {
        self.payload.len()
    }

    /// Checks a write against the catalog and analyses its documents.
    pub(crate) fn new(catalog: &Catalog, write: Write) -> Result<Prepared, Rejection> {
        match write {
            Write::Batch(writes) => {
                let mut parts = Vec::with_capacity(writes.len());
                for write in writes {
                    if matches!(write, Write::Batch(_)) {
                        let reason = "a batch inside a batch".into();
                        return Err(Rejection::Validation { reason, field: None });
                    }
                    parts.push(Part::new(catalog, write)?);
                }
                Ok(Prepared::of_parts(parts, true))
            }
            write => Ok(Prepared::of_parts(vec![Part::new(catalog, write)?], false)),
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
    fn new(catalog: &Catalog, write: Write) -> Result<Part, Rejection> {
        let analysed = Part::analyse(catalog, &write)?;
        Ok(Part { write, analysed })
    }

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
                    return Err(Rejection::TooLarge { what: "the document", limit, size });
                }
                Ok(Some((collection.id, Arc::new(fields::analyse(&collection.schema, source)?))))
            }
            Write::Delete { collection, id, .. } => {
                catalog.get(collection)?;
                check_id(id).map(|()| None)
            }
            Write::Batch(_) => Ok(None),
        }
    }
}

fn put_condition(out: &mut Vec<u8>, condition: Condition) {
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
        Write::Batch(_) => unreachable!("batches are opened when they are prepared"),
    }
}

fn decode(bytes: &[u8]) -> Option<Write> {
    let mut decoder = Decoder::new(bytes);
    let kind = decoder.u8()?;
    let text = |decoder: &mut Decoder<'_>| Some(std::str::from_utf8(decoder.slice()?).ok()?.to_owned());
    let condition = |decoder: &mut Decoder<'_>| {
        Some(match decoder.u8()? {
            0 => Condition::Always,
            1 => Condition::Absent,
            2 => Condition::Version(decoder.varint()?),
            3 => Condition::Present,
            _ => return None,
        })
    };
    let write = match kind {
        1 => Write::CreateCollection {
            name: text(&mut decoder)?,
            mapping: Mapping::from_json(decoder.slice()?).ok()?,
        },
        2 => Write::DropCollection { name: text(&mut decoder)? },
        3 => Write::Put {
            collection: text(&mut decoder)?,
            id: text(&mut decoder)?,
            condition: condition(&mut decoder)?,
            source: decoder.slice()?.to_vec(),
        },
        4 => Write::Delete {
            collection: text(&mut decoder)?,
            id: text(&mut decoder)?,
            condition: condition(&mut decoder)?,
        },
        _ => return None,
    };
    decoder.is_empty().then_some(write)
}

/// A log entry in words, for people.
pub(crate) fn describe(payload: &[u8]) -> String {
    let Some(prepared) = Prepared::decode(&Catalog::default(), payload) else {
        return "malformed entry".into();
    };
    let shown = prepared.parts.iter().take(3).map(|part| match &part.write {
        Write::CreateCollection { name, .. } => format!("create {name}"),
        Write::DropCollection { name } => format!("drop {name}"),
        Write::Put { collection, id, source, .. } => format!("put {collection}/{id} {} bytes", source.len()),
        Write::Delete { collection, id, .. } => format!("delete {collection}/{id}"),
        Write::Batch(_) => "batch".into(),
    });
    let more = prepared.parts.len().saturating_sub(3);
    let tail = if more > 0 { format!("; {more} more") } else { String::new() };
    format!("{}{tail}", shown.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_cut_ones_do_not() {
        let writes = vec![
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
        let mut catalog = Catalog::default();
        catalog.insert(1, "c", Mapping::default());
        let mut entries: Vec<(Prepared, Vec<Write>)> = Vec::new();
        for write in &writes {
            entries.push((Prepared::new(&catalog, write.clone()).expect("good"), vec![write.clone()]));
        }
        entries.push((Prepared::new(&catalog, Write::Batch(writes.clone())).expect("good"), writes));
        for (prepared, expected) in entries {
            let back = Prepared::decode(&catalog, &prepared.payload).expect("decodes");
            assert_eq!(back.parts.into_iter().map(|part| part.write).collect::<Vec<_>>(), expected);
            for len in 0..prepared.payload.len() {
                assert!(Prepared::decode(&catalog, &prepared.payload[..len]).is_none(), "cut at {len}");
            }
        }
    }
}
