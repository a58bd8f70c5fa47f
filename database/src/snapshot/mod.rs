//! The one way out: get, scan and search at one moment.

mod keys;

pub use keys::{KeyRange, KeyRow, KeyValue, LeaseState};

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lumen_engine::Snapshot as EngineSnapshot;
use lumen_engine::key::prefix_end;
use lumen_index::{Bm25, Request, View, parse};

use crate::catalog::Collection;
use crate::error::{Error, Result};
use crate::layout;
use crate::mapping::Mapping;
use crate::store::{Moment, Store};

/// The database as of one sequence number. Holding it keeps that moment readable; cheap to clone.
#[derive(Clone)]
pub struct Snapshot {
    engine: EngineSnapshot,
    moment: Arc<Moment>,
}

/// A document as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its id.
    pub id: String,
    /// The sequence number that wrote it.
    pub version: u64,
    /// Its JSON text, byte for byte.
    pub source: Vec<u8>,
}

/// What to search for.
#[derive(Clone, Copy)]
pub struct SearchRequest<'a> {
    /// Where.
    pub collection: &'a str,
    /// The query text; empty for everything.
    pub query: &'a str,
    /// Hits to leave out at the top.
    pub offset: usize,
    /// Hits to return at most; 0 for the total alone.
    pub limit: usize,
    /// Asked now and then; true stops the search with [`Error::Cancelled`].
    pub cancelled: Option<&'a (dyn Fn() -> bool + Sync)>,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchResults {
    /// How many documents match; exact.
    pub total: u64,
    /// The best of them, by score, then id.
    pub hits: Vec<Hit>,
}

/// One document that matches.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// Its id.
    pub id: String,
    /// How well it matches.
    pub score: f32,
    /// Its version.
    pub version: u64,
    /// Its JSON text.
    pub source: Vec<u8>,
}

impl Snapshot {
    /// What is published now. The engine's view is taken before the moment is read, as `Engine::snapshot_at` asks.
    pub(crate) fn new(store: &Store) -> Snapshot {
        loop {
            let epoch = store.epoch.load(Ordering::SeqCst);
            let snapshot = Snapshot::take(store);
            if epoch.is_multiple_of(2) && store.epoch.load(Ordering::SeqCst) == epoch {
                return snapshot;
            }
            std::thread::yield_now(); // one manifest edit long
        }
    }

    fn take(store: &Store) -> Snapshot {
        let mut moment = None;
        let engine = store.engine.snapshot_at(|| {
            let now = store.moment.load_full();
            let seq = now.seq;
            moment = Some(now);
            seq
        });
        Snapshot { engine, moment: moment.expect("snapshot_at asks") }
    }

    pub(crate) fn moment(&self) -> &Moment {
        &self.moment
    }

    pub(crate) fn engine(&self) -> &EngineSnapshot {
        &self.engine
    }

    /// The sequence number that get and search agree on.
    pub fn seq(&self) -> u64 {
        self.moment.seq
    }

    /// Names of all collections, sorted.
    pub fn collections(&self) -> Vec<String> {
        self.moment.catalog.iter().map(|collection| collection.name.clone()).collect()
    }

    /// The mapping of a collection.
    pub fn mapping(&self, collection: &str) -> Result<Mapping> {
        Ok(self.moment.catalog.get(collection)?.mapping.clone())
    }

    /// How many documents a collection has.
    pub fn count(&self, collection: &str) -> Result<u64> {
        let collection = self.moment.catalog.get(collection)?;
        Ok(self.view(collection).stats().docs)
    }

    fn view(&self, collection: &Collection) -> &Arc<View> {
        self.moment.views.get(&collection.id).expect("every collection of a moment has its view")
    }

    /// A document by its id.
    pub fn get(&self, collection: &str, id: &str) -> Result<Option<Document>> {
        let collection = self.moment.catalog.get(collection)?;
        let key = layout::document_key(collection.id, id.as_bytes());
        let Some((version, value)) = self.engine.get_versioned(&key)? else { return Ok(None) };
        let (_, source) = layout::decode_document(&value).ok_or_else(|| malformed(id))?;
        Ok(Some(Document { id: id.to_owned(), version, source: source.to_vec() }))
    }

    /// Calls `row` with each document of a collection in the order of ids, from `start` on, until it answers false.
    pub fn scan(&self, collection: &str, start: &str, row: &mut dyn FnMut(Document) -> bool) -> Result<()> {
        self.scan_records(self.moment.catalog.get(collection)?, start, &mut |id, version, value| {
            let (_, source) = layout::decode_document(value).ok_or_else(|| malformed(id))?;
            Ok(row(Document { id: id.to_owned(), version, source: source.to_vec() }))
        })
    }

    pub(crate) fn scan_records(
        &self,
        collection: &Collection,
        start: &str,
        row: &mut dyn FnMut(&str, u64, &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let prefix = layout::document_key(collection.id, b"");
        let from = layout::document_key(collection.id, start.as_bytes());
        let end = prefix_end(&prefix).expect("the prefix holds a byte below 255");
        let mut scan = self.engine.scan(Bound::Included(&from), Bound::Excluded(&end));
        while scan.next_row()? {
            let id = std::str::from_utf8(layout::document_id(scan.key()))
                .map_err(|_| Error::corrupt("a document record", 0, "an id is not UTF-8"))?;
            if !row(id, scan.seq(), scan.value())? {
                break;
            }
        }
        Ok(())
    }

    /// Searches a collection. The query language is described in `lumen_index::query`.
    pub fn search(&self, request: &SearchRequest<'_>) -> Result<SearchResults> {
        let collection = self.moment.catalog.get(request.collection)?;
        let query = parse(request.query, &collection.schema).map_err(|error| Error::QuerySyntax {
            reason: error.reason.to_string(),
            position: error.position,
            column: error.column,
        })?;
        let never = || false;
        let cancelled: &dyn Fn() -> bool = match request.cancelled {
            Some(cancelled) => cancelled,
            None => &never,
        };
        let found = self.view(collection).search(&Request {
            query: &query,
            offset: request.offset,
            limit: request.limit,
            bm25: Bm25::default(),
            cancelled,
        })?;
        let mut hits = Vec::with_capacity(found.hits.len());
        for hit in found.hits {
            hits.push(self.document_of(collection, hit.uid, &hit.key, hit.score)?);
        }
        Ok(SearchResults { total: found.total, hits })
    }

    fn document_of(&self, collection: &Collection, uid: u64, id: &[u8], score: f32) -> Result<Hit> {
        let key = layout::document_key(collection.id, id);
        let disagree = |what: &str| {
            let id = lumen_engine::inspect::printable(id);
            Error::corrupt(
                "the index",
                0,
                format!("document {id} of collection {:?} {what}", collection.name),
            )
        };
        let Some((version, value)) = self.engine.get_versioned(&key)? else {
            return Err(disagree("is in the index, but not in the store"));
        };
        let (header, source) =
            layout::decode_document(&value).ok_or_else(|| disagree("has a malformed record"))?;
        if header.uid != uid {
            return Err(disagree(&format!("has uid {} in the store and {uid} in the index", header.uid)));
        }
        let id = String::from_utf8(id.to_vec()).map_err(|_| disagree("has an id that is not UTF-8"))?;
        Ok(Hit { id, score, version, source: source.to_vec() })
    }

    /// Compares a collection's index with the store: every document, term, position, length and column.
    pub(crate) fn compare(&self, name: &str, step: &mut dyn FnMut() -> bool) -> Result<Option<String>> {
        let collection = self.moment.catalog.get(name)?;
        let view = self.view(collection);
        let (mut documents, mut digest, mut stopped) = (0u64, 0u128, false);
        let mut problem = None;
        self.scan_records(collection, "", &mut |id, _, value| {
            if !step() {
                stopped = true;
                return Ok(false);
            }
            let (header, source) = layout::decode_document(value).ok_or_else(|| malformed(id))?;
            match crate::fields::analyse(&collection.schema, source) {
                Ok(analysed) => {
                    if analysed.lengths() != header.lengths {
                        problem.get_or_insert(format!(
                            "document {id:?} has other token counts than its header says"
                        ));
                    }
                    digest = digest.wrapping_add(analysed.digest(header.uid));
                }
                Err(rejection) => {
                    problem.get_or_insert(format!("document {id:?} does not fit its mapping: {rejection}"));
                }
            }
            documents += 1;
            Ok(true)
        })?;
        if stopped || problem.is_some() {
            return Ok(problem);
        }
        let counted = view.stats().docs;
        if counted != documents {
            return Ok(Some(format!("the store has {documents} documents, the index {counted}")));
        }
        let indexed = view.digest()?;
        Ok((indexed != digest).then(|| format!("the index of {name:?} does not hold what its documents say")))
    }
}

fn malformed(id: &str) -> Error {
    Error::corrupt("a document record", 0, format!("malformed header of {id:?}"))
}
