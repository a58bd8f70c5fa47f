//! One function for each operation: typed in, typed out, one kind of error. Every face calls these and nothing below.

use std::sync::atomic::{AtomicBool, Ordering};

use lumen::{
    Ack, Condition, Database, Document, Error, Mapping, Outcome, Prepared, Request, SearchRequest,
    SearchResults, Write,
};
use tokio::sync::oneshot;

use crate::error::{Failure, Kind};

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

/// Hands a prepared write to the log and waits until it is durable and searchable.
///
/// `propose` may sync and apply on this very thread: that is what keeps a lone small write free of thread hops.
pub(crate) async fn propose(db: &Database, prepared: Prepared) -> Result<Ack, Failure> {
    let (sender, receiver) = oneshot::channel();
    db.propose(Request::None, prepared, move |result| {
        // The caller may have gone away; the write is done all the same.
        let _ = sender.send(result);
    });
    match receiver.await {
        Ok(Ok(ack)) => Ok(ack),
        Ok(Err(error)) => Err(write_failure(error)),
        Err(_) => Err(write_failure(Error::Unknown { reason: "the log dropped the write".into() })),
    }
}

/// An error of the log. Where the disk failed under a write, nobody knows what a restart will find: that is `unknown`.
pub(crate) fn write_failure(error: Error) -> Failure {
    match error {
        Error::Io { .. } => Failure::from(Error::Unknown { reason: error.to_string() }),
        other => Failure::from(other),
    }
}

/// An outcome that does not belong to the write that was asked for.
fn unexpected(outcome: &Outcome) -> Failure {
    Failure::new(Kind::Internal, format!("the log answered with {outcome:?}"))
}

/// Makes a collection; `true` when it was not there.
pub(crate) async fn create_collection(
    db: &Database,
    name: &str,
    mapping: &[u8],
) -> Result<(bool, Mapping, u64), Failure> {
    let mapping = Mapping::from_json(mapping)?;
    let prepared = db.prepare(Write::CreateCollection { name: name.to_string(), mapping })?;
    let ack = propose(db, prepared).await?;
    match ack.outcome {
        Outcome::CollectionCreated { mapping } => Ok((true, mapping, ack.seq)),
        Outcome::CollectionExists { mapping } => Ok((false, mapping, ack.seq)),
        Outcome::Rejected(rejection) => Err(rejection.into()),
        other => Err(unexpected(&other)),
    }
}

/// Drops a collection and all that is in it.
pub(crate) async fn drop_collection(db: &Database, name: &str) -> Result<u64, Failure> {
    let prepared = db.prepare(Write::DropCollection { name: name.to_string() })?;
    let ack = propose(db, prepared).await?;
    match ack.outcome {
        Outcome::CollectionDropped => Ok(ack.seq),
        Outcome::Rejected(rejection) => Err(rejection.into()),
        other => Err(unexpected(&other)),
    }
}

/// A document ready for the log: everything that costs is done.
pub(crate) fn prepare_put(
    db: &Database,
    collection: String,
    id: String,
    source: Vec<u8>,
    condition: Condition,
) -> Result<Prepared, Failure> {
    Ok(db.prepare(Write::Put { collection, id, source, condition })?)
}

/// Stores a prepared document.
pub(crate) async fn put(db: &Database, prepared: Prepared) -> Result<(PutResult, u64), Failure> {
    let ack = propose(db, prepared).await?;
    match ack.outcome {
        Outcome::Created => Ok((PutResult::Created, ack.seq)),
        Outcome::Updated => Ok((PutResult::Updated, ack.seq)),
        Outcome::Rejected(rejection) => Err(rejection.into()),
        other => Err(unexpected(&other)),
    }
}

/// Deletes a document; whether it was there makes no difference.
pub(crate) async fn delete(
    db: &Database,
    collection: &str,
    id: &str,
    condition: Condition,
) -> Result<u64, Failure> {
    let write = Write::Delete { collection: collection.to_string(), id: id.to_string(), condition };
    let prepared = db.prepare(write)?;
    let ack = propose(db, prepared).await?;
    match ack.outcome {
        Outcome::Deleted { .. } => Ok(ack.seq),
        Outcome::Rejected(rejection) => Err(rejection.into()),
        other => Err(unexpected(&other)),
    }
}

/// Reads a document, and at which sequence number it was read.
pub(crate) fn get(db: &Database, collection: &str, id: &str) -> Result<(Document, u64), Failure> {
    let snapshot = db.snapshot();
    match snapshot.get(collection, id)? {
        Some(document) => Ok((document, snapshot.seq())),
        None => Err(Failure::document_not_found(collection, id)),
    }
}

/// Searches. Blocks: call it where blocking is allowed. Gives up soon after `cancelled` is set.
pub(crate) fn search(
    db: &Database,
    collection: &str,
    query: &str,
    offset: usize,
    limit: usize,
    cancelled: &AtomicBool,
) -> Result<(SearchResults, u64), Failure> {
    let snapshot = db.snapshot();
    let asks = || cancelled.load(Ordering::Relaxed);
    let request = SearchRequest { collection, query, offset, limit, cancelled: Some(&asks) };
    let results = snapshot.search(&request)?;
    Ok((results, snapshot.seq()))
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

/// A new id: UUID version 7, whose order is the order of time.
pub(crate) fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}
