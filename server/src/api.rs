//! One function for each operation: typed in, typed out, one kind of error. Every face calls these and nothing below.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lumen::{
    Condition, Document, KeyOutcome, KeyWrite, Mapping, Outcome, Prepared, Previous, SearchRequest,
    SearchResults, Snapshot, Transaction, Write,
};
use tokio::time::{Instant, timeout_at};

use crate::error::{Failure, Kind};
use crate::node::Node;
use crate::store::{Asked, Reading, Store};

/// Bytes of a document id, at most.
pub(crate) const ID_BYTES_MAX: usize = 512;

/// What a write to one document did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutResult {
    /// There was none under this id.
    Created,
    /// There was one, it is replaced.
    Updated,
}

impl PutResult {
    /// `created` or `updated`, as answers say it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            PutResult::Created => "created",
            PutResult::Updated => "updated",
        }
    }
}

/// An outcome that does not belong to the write that was asked for.
fn unexpected(outcome: &Outcome) -> Failure {
    Failure::new(Kind::Internal, format!("the log answered with {outcome:?}"))
}

/// Makes a collection; `true` when it was not there.
pub(crate) async fn create_collection(
    store: &Store,
    name: &str,
    mapping: &[u8],
    asked: &Asked,
) -> Result<(bool, Mapping, u64), Failure> {
    let mapping = Mapping::from_json(mapping)?;
    let prepared = store.prepare(Write::CreateCollection { name: name.to_string(), mapping })?;
    let ack = store.write(prepared, asked).await?;
    match ack.outcome {
        Outcome::CollectionCreated { mapping } => Ok((true, mapping, ack.seq)),
        Outcome::CollectionExists { mapping } => Ok((false, mapping, ack.seq)),
        Outcome::Rejected(rejection) => Err(Failure::from(rejection).at(ack.seq)),
        other => Err(unexpected(&other)),
    }
}

/// Drops a collection and all that is in it.
pub(crate) async fn drop_collection(store: &Store, name: &str, asked: &Asked) -> Result<u64, Failure> {
    let prepared = store.prepare(Write::DropCollection { name: name.to_string() })?;
    let ack = store.write(prepared, asked).await?;
    match ack.outcome {
        Outcome::CollectionDropped => Ok(ack.seq),
        Outcome::Rejected(rejection) => Err(Failure::from(rejection).at(ack.seq)),
        other => Err(unexpected(&other)),
    }
}

/// A document ready for the log: everything that costs is done.
pub(crate) fn prepare_put(
    store: &Store,
    collection: String,
    id: String,
    source: Vec<u8>,
    condition: Condition,
) -> Result<Prepared, Failure> {
    store.prepare(Write::Put { collection, id, source, condition })
}

/// Stores a prepared document.
pub(crate) async fn put(
    store: &Store,
    prepared: Prepared,
    asked: &Asked,
) -> Result<(PutResult, u64), Failure> {
    let ack = store.write(prepared, asked).await?;
    match ack.outcome {
        Outcome::Created => Ok((PutResult::Created, ack.seq)),
        Outcome::Updated => Ok((PutResult::Updated, ack.seq)),
        Outcome::Rejected(rejection) => Err(Failure::from(rejection).at(ack.seq)),
        other => Err(unexpected(&other)),
    }
}

/// Deletes a document; whether it was there makes no difference.
pub(crate) async fn delete(
    store: &Store,
    collection: &str,
    id: &str,
    condition: Condition,
    asked: &Asked,
) -> Result<u64, Failure> {
    let write = Write::Delete { collection: collection.to_string(), id: id.to_string(), condition };
    let prepared = match store.prepare(write.clone()) {
        // Here the collection may not be known yet.
        Err(_) if store.catch_up(asked.patience).await => store.prepare(write)?,
        prepared => prepared?,
    };
    let ack = store.write(prepared, asked).await?;
    match ack.outcome {
        Outcome::Deleted { .. } => Ok(ack.seq),
        Outcome::Rejected(rejection) => Err(Failure::from(rejection).at(ack.seq)),
        other => Err(unexpected(&other)),
    }
}

/// What a put of a key-value did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PutKey {
    /// Whether there was one before.
    pub(crate) existed: bool,
    /// What it replaced, if that was asked for.
    pub(crate) previous: Option<Previous>,
}

/// Changes key-values.
async fn write_keys(store: &Store, write: KeyWrite, asked: &Asked) -> Result<(KeyOutcome, u64), Failure> {
    let prepared = store.prepare(Write::Keys(write))?;
    let ack = store.write(prepared, asked).await?;
    match ack.outcome {
        Outcome::Keys(outcome) => Ok((outcome, ack.seq)),
        Outcome::Rejected(rejection) => Err(Failure::from(rejection).at(ack.seq)),
        other => Err(unexpected(&other)),
    }
}

/// Puts a key-value.
pub(crate) async fn put_key(store: &Store, write: KeyWrite, asked: &Asked) -> Result<(PutKey, u64), Failure> {
    match write_keys(store, write, asked).await? {
        (KeyOutcome::Put { existed, previous }, seq) => Ok((PutKey { existed, previous }, seq)),
        (other, _) => Err(unexpected(&Outcome::Keys(other))),
    }
}

/// Deletes key-values; answers how many were there.
pub(crate) async fn delete_keys(
    store: &Store,
    write: KeyWrite,
    asked: &Asked,
) -> Result<(u64, u64), Failure> {
    match write_keys(store, write, asked).await? {
        (KeyOutcome::Deleted { count, .. }, seq) => Ok((count, seq)),
        (other, _) => Err(unexpected(&Outcome::Keys(other))),
    }
}

/// Makes a lease, or has one last for its time again; answers its number and its time in milliseconds.
pub(crate) async fn lease(
    store: &Store,
    write: KeyWrite,
    asked: &Asked,
) -> Result<((u64, u64), u64), Failure> {
    match write_keys(store, write, asked).await? {
        (KeyOutcome::Lease { lease, ttl }, seq) => Ok(((lease, ttl), seq)),
        (other, _) => Err(unexpected(&Outcome::Keys(other))),
    }
}

/// What a transaction did.
pub(crate) struct Transacted {
    /// Whether all that was compared was so.
    pub(crate) succeeded: bool,
    /// One for each operation that was chosen.
    pub(crate) outcomes: Vec<Outcome>,
    /// The sequence number of all of it.
    pub(crate) seq: u64,
}

/// Does a transaction, whole or not at all.
pub(crate) async fn transact(
    store: &Store,
    transaction: Transaction,
    asked: &Asked,
) -> Result<Transacted, Failure> {
    let write = Write::Transaction(transaction);
    let again = store.may_catch_up().then(|| write.clone());
    let prepared = match (store.prepare(write), again) {
        (Err(failure), Some(write)) => {
            // Here the collection may not be known yet.
            if !store.catch_up(asked.patience).await {
                return Err(failure);
            }
            store.prepare(write)?
        }
        (prepared, _) => prepared?,
    };
    let ack = store.write(prepared, asked).await?;
    match ack.outcome {
        Outcome::Transaction { succeeded, outcomes } => Ok(Transacted { succeeded, outcomes, seq: ack.seq }),
        Outcome::Rejected(rejection) => Err(Failure::from(rejection).at(ack.seq)),
        other => Err(unexpected(&other)),
    }
}

/// Reads a document.
pub(crate) fn get(snapshot: &Snapshot, collection: &str, id: &str) -> Result<Document, Failure> {
    let found = snapshot.get(collection, id).map_err(Failure::from);
    let there = found.and_then(|found| found.ok_or_else(|| Failure::document_not_found(collection, id)));
    there.map_err(|failure| failure.at(snapshot.seq()))
}

/// Bytes of a query, at most.
const QUERY_BYTES_MAX: usize = 32 << 10;

/// `limit + offset`, at most: what comes later is nobody's reading any more.
pub(crate) const WINDOW_MAX: u64 = 10_000;

/// What to search for, and how new what is searched has to be.
pub(crate) struct Search {
    pub(crate) collection: String,
    pub(crate) query: String,
    /// With `limit`, at most [`WINDOW_MAX`].
    pub(crate) offset: usize,
    pub(crate) limit: usize,
    pub(crate) reading: Reading,
}

/// Tells the search to give up when the request is dropped, whether it timed out or its connection went away.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Searches within the time that a request has; answers what `then` makes of the results and their sequence number.
pub(crate) async fn search<T: Send + 'static>(
    node: &Arc<Node>,
    search: Search,
    then: impl FnOnce(SearchResults, u64) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let Search { collection, query, offset, limit, reading } = search;
    if query.len() > QUERY_BYTES_MAX {
        let message = format!("the query has {} bytes; the limit is {QUERY_BYTES_MAX}", query.len());
        return Err(Failure::new(Kind::QueryTooLong, message).with("limit", QUERY_BYTES_MAX));
    }
    let deadline = Instant::now() + node.limits.request_timeout;
    let cancel = CancelOnDrop(Arc::new(AtomicBool::new(false)));
    let too_long = |_| {
        let message = format!("the search took longer than {:?}", node.limits.request_timeout);
        Failure::new(Kind::Timeout, message)
            .with("hint", "a narrower query, or --request-timeout on the server")
    };
    let permit = timeout_at(deadline, node.searches.acquire()).await.map_err(too_long)?;
    let snapshot = timeout_at(deadline, node.store.read(&reading)).await.map_err(too_long)??;
    let (counted, cancelled) = (node.clone(), cancel.0.clone());
    // A search may take microseconds or seconds, nobody knows before. On its own thread it costs one hop (some 10 µs),
    // never holds up the requests beside it, and can be given up while it runs.
    let found = blocking(move || {
        let asks = || cancelled.load(Ordering::Relaxed);
        let request =
            SearchRequest { collection: &collection, query: &query, offset, limit, cancelled: Some(&asks) };
        let found = snapshot.search(&request);
        if found.is_err() && asks() {
            counted.metrics.search_given_up();
        }
        then(found.map_err(|error| Failure::from(error).at(snapshot.seq()))?, snapshot.seq())
    });
    let found = timeout_at(deadline, found).await.map_err(too_long)?;
    drop(permit);
    found
}

/// Says whether an id can be one.
pub(crate) fn check_id(id: &str) -> Result<(), Failure> {
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        let message = format!("a document id has 1 to {ID_BYTES_MAX} bytes; this one has {}", id.len());
        return Err(Failure::new(Kind::InvalidName, message).with("limit", ID_BYTES_MAX));
    }
    if let Some(c) = id.chars().find(|c| c.is_control()) {
        let message = format!("a document id has no control characters; this one has U+{:04X}", u32::from(c));
        return Err(Failure::new(Kind::InvalidName, message));
    }
    Ok(())
}

/// A new id: UUID version 7, whose order is the order of time. Under an idempotency key it is the same each time.
pub(crate) fn new_id(key: Option<[u8; 16]>) -> String {
    key.map_or_else(uuid::Uuid::now_v7, uuid::Uuid::from_bytes).to_string()
}

/// What stands for a client's `Idempotency-Key`.
pub(crate) fn hash_key(key: &str) -> [u8; 16] {
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, key.as_bytes()).into_bytes()
}

/// Runs what costs on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::new(Kind::Internal, format!("the request's work broke off: {error}"))),
    }
}
