//! The one way in: the writes of log entries, in order, become engine batches and index changes, and are published together.
//!
//! Deterministic: the outcome depends on the entries and the state alone, never on clock, thread or what the caller had
//! prepared. A prepared analysis is used only if it was made for the collection that is there now.

mod feed;
mod keys;
mod transaction;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lumen_engine::{Batch, Snapshot as EngineSnapshot};
use lumen_index::{Analyzed, Index, NewDocument};

use crate::catalog::{Catalog, Collection};
use crate::entry::{Entry, Proposal, Request};
use crate::error::{Error, Rejection, Result};
use crate::indexing;
use crate::layout::{self, Effect, Effects, Header, Place};
use crate::sessions::Known;
use crate::store::{Live, LiveIndex, Store};
use crate::write::{Ack, Condition, Outcome, Part, Prepared, Shape, Write};

/// Documents of this group that are not yet in their index, by collection id.
type Fresh = HashMap<u32, Vec<NewDocument>>;

/// Applies entries and publishes the last write. Each write gets the next sequence number, also one that changes nothing.
/// `position` is where a replicated log is after them. An error is local and final: this store must be reopened.
pub(crate) fn entries(
    store: &Arc<Store>,
    entries: Vec<Entry>,
    position: Option<&[u8]>,
) -> Result<Vec<Vec<Ack>>> {
    let mut live = store.live.lock();
    let mut fresh = Fresh::new();
    let mut acks = Vec::with_capacity(entries.len());
    let mut seq = live.applied;
    for entry in entries {
        let time = live.time;
        live.time = time.max(entry.time);
        let mut answers = Vec::with_capacity(entry.proposals.len());
        let place = Place { replicated: position.is_some(), index: entry.index, time };
        let mut batch = feed::begin(live.entry == 0, place, seq, entry.proposals.len() as u64);
        for proposal in entry.proposals {
            seq += 1;
            let ack = one(store, &mut live, &mut fresh, seq, proposal, &mut batch)?;
            feed::let_go(seq, &mut batch);
            if !batch.is_empty() {
                store.engine.apply(seq, &batch)?;
                batch = Batch::new();
            }
            answers.push(ack);
        }
        live.entry = entry.index + 1;
        acks.push(answers);
    }
    if let Some(expires) = live.expires_next.take() {
        store.alarm.set(expires);
    }
    if let Some(position) = position {
        live.position.clear();
        live.position.extend_from_slice(position);
    }
    if seq == live.applied {
        return Ok(acks);
    }
    let mut merge_is_due = false;
    for (id, documents) in fresh {
        if let Some(index) = live.indexes.get_mut(&id) {
            index.index.append(documents);
            index.dirty = true;
            merge_is_due |= index.index.merge_is_due();
        }
    }
    store.publish(&mut live, seq);
    let index_bytes: usize = live.indexes.values().map(|index| index.index.memory_bytes()).sum();
    if store.engine.wants_freeze(index_bytes) {
        indexing::freeze(store, &mut live)?;
    }
    drop(live);
    store.engine.work()?;
    if merge_is_due {
        store.bell.notify_all();
    }
    Ok(acks)
}

/// Applies one write, unless it was applied before; what it changes goes into the batch.
fn one(
    store: &Store,
    live: &mut Live,
    fresh: &mut Fresh,
    seq: u64,
    proposal: Proposal,
    batch: &mut Batch,
) -> Result<Ack> {
    let Proposal { request, prepared } = proposal;
    let past = || Ack { seq, outcome: Outcome::Rejected(Rejection::Past) };
    match &request {
        Request::None => change(store, live, fresh, seq, prepared, batch),
        Request::Node(node) => match live.sessions.look_up(node) {
            Known::Answered(ack) => {
                feed::nothing(seq, batch);
                Ok(ack)
            }
            Known::Past => {
                feed::nothing(seq, batch);
                Ok(past())
            }
            Known::New => {
                let ack = change(store, live, fresh, seq, prepared, batch)?;
                live.sessions.answered(node, &ack);
                Ok(ack)
            }
        },
        Request::Key(key) => {
            let digest = layout::digest(&prepared.payload);
            let generation = layout::generation(live.time);
            let engine = store.engine.latest();
            for age in 0..layout::GENERATIONS {
                let key = layout::request_key(generation.saturating_sub(age), key);
                let Some(value) = engine.get(&key)? else { continue };
                let (stored, ack) = layout::decode_answer(&value)
                    .ok_or_else(|| Error::corrupt("an answered request", 0, "malformed record"))?;
                feed::nothing(seq, batch);
                let reused = || Ack { seq, outcome: Outcome::Rejected(Rejection::KeyReused) };
                return Ok(if stored == digest { ack } else { reused() });
            }
            let past = layout::request_key(generation.saturating_sub(layout::GENERATIONS - 1), &[0; 16]);
            let is_next = generation > live.generation;
            live.generation = generation;
            let ack = change(store, live, fresh, seq, prepared, batch)?;
            batch.put(&layout::request_key(generation, key), &layout::encode_answer(digest, &ack));
            if is_next {
                batch.delete_range(&layout::request_key(0, &[0; 16]), &past);
            }
            Ok(ack)
        }
    }
}

/// Applies a write that is new.
fn change(
    store: &Store,
    live: &mut Live,
    fresh: &mut Fresh,
    seq: u64,
    prepared: Prepared,
    batch: &mut Batch,
) -> Result<Ack> {
    let Prepared { parts, shape, .. } = prepared;
    let has_parts = shape != Shape::One;
    let mut change = Change {
        live,
        engine: store.engine.latest(),
        seq,
        batch,
        fresh,
        written: has_parts.then(HashMap::new),
        written_keys: has_parts.then(BTreeMap::new),
        written_sources: None,
        deleted_ranges: Vec::new(),
        removed: Vec::new(),
        removed_some: false,
    };
    let (outcome, effects) = match shape {
        Shape::One => {
            let part = parts.into_iter().next().expect("it has one");
            let (outcome, effect) = change.part_and_effect(part)?;
            // As a rule nothing is to be noted, and nothing is made for it.
            let is_said = effect == Effect::AsSaid;
            (outcome, if is_said { None } else { feed::effects(false, vec![effect]) })
        }
        Shape::Batch => {
            let (outcomes, effects) = change.parts(parts)?;
            (Outcome::Batch(outcomes), feed::effects(false, effects))
        }
        Shape::Transaction { when, then } => match change.transaction(&when, parts, then)? {
            Err(rejection) => (Outcome::Rejected(rejection), Some(Effects::None)),
            Ok((succeeded, (outcomes, effects))) => {
                let outcome = Outcome::Transaction { succeeded, outcomes };
                (outcome, feed::effects(!succeeded, effects))
            }
        },
    };
    if let Some(effects) = effects {
        batch.put(&layout::effects_key(seq), &layout::encode_effects(&effects));
    }
    Ok(Ack { seq, outcome })
}

/// One write while it is applied.
struct Change<'a> {
    live: &'a mut Live,
    engine: EngineSnapshot,
    seq: u64,
    batch: &'a mut Batch,
    fresh: &'a mut Fresh,
    /// What this write has written so far, by key; only batches can meet their own writes.
    written: Option<HashMap<Vec<u8>, Option<Header>>>,
    /// The same of key-values and what belongs to them; and the ranges of them that it has deleted.
    written_keys: Option<BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
    /// The documents that a transaction which reads has put, by key.
    written_sources: Option<HashMap<Vec<u8>, Vec<u8>>>,
    /// Records of key-values that went and that the write does not name.
    removed: Vec<Vec<u8>>,
    /// Whether something of a range went, were it only what had expired.
    removed_some: bool,
    deleted_ranges: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A document as it is now: the sequence number that wrote it, and its header.
type Current = Option<(u64, Header)>;

impl Change<'_> {
    /// Applies parts, each by itself; answers what they did, for whoever asked and for the feed of changes.
    fn parts(&mut self, parts: Vec<Part>) -> Result<(Vec<Outcome>, Vec<Effect>)> {
        let (mut outcomes, mut effects) = (Vec::with_capacity(parts.len()), Vec::with_capacity(parts.len()));
        for part in parts {
            let (outcome, effect) = self.part_and_effect(part)?;
            outcomes.push(outcome);
            effects.push(effect);
        }
        Ok((outcomes, effects))
    }

    fn part_and_effect(&mut self, part: Part) -> Result<(Outcome, Effect)> {
        let outcome = self.part(part)?.unwrap_or_else(Outcome::Rejected);
        let removed = std::mem::take(&mut self.removed);
        let removed_some = std::mem::take(&mut self.removed_some);
        let effect = feed::effect(&outcome, removed, removed_some);
        Ok((outcome, effect))
    }

    /// The outer result is an error of this machine, the inner one the refusal that every replica repeats.
    fn part(&mut self, part: Part) -> Result<std::result::Result<Outcome, Rejection>> {
        // What was prepared for another collection (dropped and made anew since) is prepared again.
        let analysed = match (&part.write, part.analysed) {
            (Write::Put { collection, .. }, Some((id, analysed)))
                if self.live.catalog.get(collection).is_ok_and(|collection| collection.id == id) =>
            {
                Some((id, analysed))
            }
            (write, _) => match Part::analyse(&self.live.catalog, write) {
                Ok(analysed) => analysed,
                Err(rejection) => return Ok(Err(rejection)),
            },
        };
        match part.write {
            Write::CreateCollection { name, mapping } => Ok(self.create(&name, mapping)),
            Write::DropCollection { name } => Ok(self.drop_collection(&name)),
            Write::Put { collection, id, source, condition } => {
                let collection = self.collection(&collection)?;
                let (_, analysed) = analysed.expect("a put is analysed or refused");
                self.put(&collection, &id, &source, condition, analysed)
            }
            Write::Delete { collection, id, condition } => {
                let collection = self.collection(&collection)?;
                self.delete(&collection, &id, condition)
            }
            Write::Keys(write) => self.keys(write),
            Write::Read(target) => self.read(&target).map(|found| Ok(Outcome::Read(found))),
            Write::Batch(_) | Write::Transaction(_) => {
                unreachable!("they are opened when they are prepared")
            }
        }
    }

    fn collection(&self, name: &str) -> Result<Arc<Collection>> {
        Ok(self.live.catalog.get(name)?.clone())
    }

    fn create(
        &mut self,
        name: &str,
        mapping: crate::mapping::Mapping,
    ) -> std::result::Result<Outcome, Rejection> {
        if let Ok(existing) = self.live.catalog.get(name) {
            if existing.mapping == mapping {
                return Ok(Outcome::CollectionExists { mapping });
            }
            let reason = existing.mapping.difference(&mapping);
            return Err(Rejection::SchemaConflict { name: name.to_owned(), reason });
        }
        let id = self.live.next_collection;
        self.live.next_collection += 1;
        self.batch.put(&layout::catalog_key(name), &layout::encode_catalog(id, &mapping.to_json()));
        let mut catalog = Catalog::clone(&self.live.catalog);
        let collection = catalog.insert(id, name, mapping.clone());
        self.live.catalog = Arc::new(catalog);
        let index = Index::new(collection.schema.clone());
        self.live.indexes.insert(id, LiveIndex::new(index));
        Ok(Outcome::CollectionCreated { mapping })
    }

    fn drop_collection(&mut self, name: &str) -> std::result::Result<Outcome, Rejection> {
        let id = self.live.catalog.get(name)?.id;
        let mut catalog = Catalog::clone(&self.live.catalog);
        catalog.remove(name);
        self.live.catalog = Arc::new(catalog);
        self.batch.delete(&layout::catalog_key(name));
        self.batch.delete_range(&layout::document_key(id, b""), &layout::document_key(id + 1, b""));
        if let Some(index) = self.live.indexes.remove(&id) {
            self.live.dropped_files.extend(index.deletes_file);
            self.live.dropped_files.extend(index.segments.keys());
        }
        self.fresh.remove(&id);
        if let Some(written) = &mut self.written {
            let prefix = layout::document_key(id, b"");
            written.retain(|key, _| !key.starts_with(&prefix));
        }
        Ok(Outcome::CollectionDropped)
    }

    fn current(&self, key: &[u8]) -> Result<Current> {
        if let Some(header) = self.written.as_ref().and_then(|written| written.get(key)) {
            return Ok(header.clone().map(|header| (self.seq, header)));
        }
        let Some((seq, value)) = self.engine.get_versioned(key)? else { return Ok(None) };
        let (header, _) = layout::decode_document(&value).ok_or_else(|| {
            Error::corrupt("a document record", 0, format!("malformed header of {}", printable(key)))
        })?;
        Ok(Some((seq, header)))
    }

    fn check(condition: Condition, id: &str, current: &Current) -> std::result::Result<(), Rejection> {
        let current = current.as_ref().map(|(seq, _)| *seq);
        if condition.is_met(current) {
            return Ok(());
        }
        Err(Rejection::VersionConflict { id: id.to_owned(), current })
    }

    fn put(
        &mut self,
        collection: &Collection,
        id: &str,
        source: &[u8],
        condition: Condition,
        document: Arc<Analyzed>,
    ) -> Result<std::result::Result<Outcome, Rejection>> {
        let key = layout::document_key(collection.id, id.as_bytes());
        let current = self.current(&key)?;
        if let Err(rejection) = Change::check(condition, id, &current) {
            return Ok(Err(rejection));
        }
        let uid = self.live.next_uid;
        self.live.next_uid += 1;
        self.batch.put(&key, &layout::encode_document(uid, document.lengths(), source));
        if let Some((_, old)) = &current {
            self.unindex(collection.id, old)?;
        }
        if let Some(written) = &mut self.written {
            let header = Header { uid, lengths: document.lengths().to_vec() };
            if let Some(sources) = &mut self.written_sources {
                sources.insert(key.clone(), source.to_vec());
            }
            written.insert(key, Some(header));
        }
        let documents = self.fresh.entry(collection.id).or_default();
        documents.push(NewDocument { uid, key: id.as_bytes().into(), document });
        Ok(Ok(if current.is_some() { Outcome::Updated } else { Outcome::Created }))
    }

    fn delete(
        &mut self,
        collection: &Collection,
        id: &str,
        condition: Condition,
    ) -> Result<std::result::Result<Outcome, Rejection>> {
        let key = layout::document_key(collection.id, id.as_bytes());
        let current = self.current(&key)?;
        if let Err(rejection) = Change::check(condition, id, &current) {
            return Ok(Err(rejection));
        }
        if let Some((_, old)) = &current {
            self.batch.delete(&key);
            self.unindex(collection.id, old)?;
            if let Some(written) = &mut self.written {
                written.insert(key, None);
            }
        }
        Ok(Ok(Outcome::Deleted { existed: current.is_some() }))
    }

    /// Takes a document out of the index.
    fn unindex(&mut self, collection: u32, old: &Header) -> Result<()> {
        if let Some(documents) = self.fresh.get_mut(&collection) {
            if let Ok(at) = documents.binary_search_by_key(&old.uid, |document| document.uid) {
                documents.remove(at); // it came in this very group and never reached the index
                return Ok(());
            }
        }
        let Some(index) = self.live.indexes.get_mut(&collection) else { return Ok(()) };
        index.dirty = true;
        if index.index.delete(old.uid, &old.lengths) {
            return Ok(());
        }
        let reason = format!("document uid {} is in the store, but not in the index", old.uid);
        Err(Error::corrupt("the index", 0, reason))
    }
}

fn printable(key: &[u8]) -> String {
    lumen_engine::inspect::printable(layout::document_id(key))
}
