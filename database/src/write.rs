//! What goes in: a [`Write`], and what comes back: an [`Outcome`]. How both are encoded stands in `codec`.

use std::sync::Arc;

use lumen_engine::coding::Decoder;
use lumen_index::Analyzed;

use crate::catalog::{Catalog, check_id, check_name, check_space};
use crate::codec;
use crate::error::Rejection;
use crate::fields;
use crate::keys::{KeyLimits, KeyOutcome, KeyWrite};
use crate::mapping::Mapping;
use crate::transaction::{Compare, Found, Target, Transaction};

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
    /// Several writes of which all take effect or none, and which of two lists of them may depend on what is there.
    Transaction(Transaction),
    /// What is there, the writes before it among it; in a transaction only.
    Read(Target),
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
    /// A transaction took effect.
    Transaction {
        /// Whether all that it compared was so.
        succeeded: bool,
        /// One outcome for each of the writes that were chosen.
        outcomes: Vec<Outcome>,
    },
    /// What is there, if it is.
    Read(Option<Found>),
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
    pub(crate) shape: Shape,
}

/// How the parts of a write belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    /// There is one.
    One,
    /// Each by itself.
    Batch,
    /// The first `then` of them if all of `when` holds, else the others.
    Transaction { when: Vec<Compare>, then: usize },
}

/// One write with what was computed from it.
#[derive(Debug)]
pub(crate) struct Part {
    pub write: Write,
    /// Of a put: the collection it was analysed for, and the result.
    pub analysed: Option<(u32, Arc<Analyzed>)>,
}

const BATCH: u8 = 9;
const TRANSACTION: u8 = 10;

impl Prepared {
    /// Joins several into one log entry, each with its own outcome. Batches inside are opened.
    pub fn batch(prepared: Vec<Prepared>) -> Prepared {
        let is_open = |one: &Prepared| !matches!(one.shape, Shape::Transaction { .. });
        assert!(prepared.iter().all(is_open), "a transaction is a log entry of its own");
        let parts: Vec<Part> = prepared.into_iter().flat_map(|prepared| prepared.parts).collect();
        Prepared::of_parts(parts, Shape::Batch)
    }

    fn of_parts(parts: Vec<Part>, shape: Shape) -> Prepared {
        let mut payload = vec![VERSION];
        fn writes(parts: &[Part]) -> impl ExactSizeIterator<Item = &Write> {
            parts.iter().map(|part| &part.write)
        }
        match &shape {
            Shape::One => codec::put_write(&mut payload, &parts[0].write),
            Shape::Batch => {
                payload.push(BATCH);
                codec::put_writes(&mut payload, writes(&parts));
            }
            Shape::Transaction { when, then } => {
                payload.push(TRANSACTION);
                codec::put_compares(&mut payload, when);
                codec::put_writes(&mut payload, writes(&parts[..*then]));
                codec::put_writes(&mut payload, writes(&parts[*then..]));
            }
        }
        Prepared { payload, parts, shape }
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
        let invalid = |reason: &str| Err(Rejection::Validation { reason: reason.into(), field: None });
        match write {
            Write::Batch(writes) => {
                let mut parts = Vec::with_capacity(writes.len());
                for write in writes {
                    match write {
                        Write::Batch(_) => return invalid("a batch inside a batch"),
                        Write::Transaction(_) => return invalid("a transaction inside a batch"),
                        Write::Read(_) => return invalid("a read inside a batch: transactions read"),
                        write => parts.push(part(write)?),
                    }
                }
                Ok(Prepared::of_parts(parts, Shape::Batch))
            }
            Write::Transaction(Transaction { when, then, otherwise }) => {
                when.iter().try_for_each(Compare::check)?;
                let chosen = then.len();
                let mut parts = Vec::with_capacity(chosen + otherwise.len());
                for (place, write) in then.into_iter().chain(otherwise).enumerate() {
                    let place = if place < chosen { place } else { place - chosen };
                    let inside = |rejection| Rejection::in_transaction(place, rejection);
                    Transaction::takes(&write).map_err(inside)?;
                    parts.push(part(write).map_err(inside)?);
                }
                Ok(Prepared::of_parts(parts, Shape::Transaction { when, then: chosen }))
            }
            Write::Read(_) => invalid("a read that is no part of a transaction"),
            write => Ok(Prepared::of_parts(vec![part(write)?], Shape::One)),
        }
    }

    /// Reads a log entry and prepares it again. Parts that the catalog refuses are kept: `apply` refuses them the same way.
    pub(crate) fn decode(catalog: &Catalog, payload: &[u8]) -> Option<Prepared> {
        let (writes, shape) = Prepared::read(payload)?;
        let prepare = |write: Write| {
            let analysed = Part::analyse(catalog, &write).ok().flatten();
            Part { write, analysed }
        };
        Some(Prepared { payload: Vec::new(), parts: writes.into_iter().map(prepare).collect(), shape })
    }

    /// The writes of a log entry, and how they belong together.
    pub(crate) fn read(payload: &[u8]) -> Option<(Vec<Write>, Shape)> {
        let (&version, rest) = payload.split_first()?;
        if version != VERSION {
            return None;
        }
        let mut decoder = Decoder::new(rest.get(1..)?);
        let (writes, shape) = match *rest.first()? {
            BATCH => (codec::read_writes(&mut decoder)?, Shape::Batch),
            TRANSACTION => {
                let when = codec::read_compares(&mut decoder)?;
                let mut writes = codec::read_writes(&mut decoder)?;
                let then = writes.len();
                writes.extend(codec::read_writes(&mut decoder)?);
                (writes, Shape::Transaction { when, then })
            }
            _ => return Some((vec![codec::read_write(rest)?], Shape::One)),
        };
        decoder.is_empty().then_some((writes, shape))
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
            Write::Read(Target::Document { collection, .. }) => catalog.get(collection).map(|_| None),
            Write::Read(Target::Key { space, .. }) => check_space(space).map(|()| None),
            Write::Batch(_) | Write::Transaction(_) => Ok(None),
        }
    }
}
