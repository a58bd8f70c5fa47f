//! `lumen.v1.Documents` and `lumen.v1.Search`: what the HTTP face does with documents, as JSON text in messages.

use std::time::{Duration, Instant};

use futures_util::stream::{BoxStream, StreamExt, unfold};
use lumen::Outcome;
use lumen_raft::Consistency;
use tonic::{Request, Response, Status, Streaming};

use super::Face;
use super::kv::condition;
use super::proto::v1::documents_server::Documents;
use super::proto::v1::put_stream_response::Result as Put;
use super::proto::v1::search_server::Search;
use super::proto::v1::{self as pb, consistency::Level};
use crate::api::{self, WINDOW_MAX, blocking};
use crate::error::{Failure, Kind};
use crate::store::Reading;

/// Hits unless the request says how many.
const LIMIT_DEFAULT: u64 = 10;
/// Documents of a stream that go into one log entry, at most, and bytes of them from which on it takes no more.
const STREAM_DOCUMENTS: usize = 1000;
const STREAM_BYTES: usize = 1 << 20;

type Answer<T> = Result<Response<T>, Status>;

impl Face {
    fn reading(&self, asked: Option<pb::Consistency>, default: Consistency) -> Reading {
        let (consistency, min_seq) = match asked.and_then(|asked| asked.level) {
            None => (default, 0),
            Some(Level::Linearizable(_)) => (Consistency::Linearizable, 0),
            Some(Level::MinSeq(seq)) => (Consistency::Session(seq), seq),
            Some(Level::BoundedMs(ms)) => (Consistency::Bounded(Duration::from_millis(ms)), 0),
            Some(Level::Eventual(_)) => (Consistency::Eventual, 0),
        };
        Reading { consistency, min_seq, patience: self.node.limits.request_timeout }
    }

    async fn put_document(&self, put: pb::PutRequest) -> Result<pb::PutResponse, Failure> {
        let asked = self.asked(&put.idempotency_key);
        let id = if put.id.is_empty() { api::new_id(asked.key) } else { put.id };
        api::check_id(&id)?;
        let (store, condition) = (&self.node.store, condition(put.if_version));
        let prepare =
            || api::prepare_put(store, put.collection.clone(), id.clone(), put.json.to_vec(), condition);
        let prepared = match prepare() {
            // Here the collection may not be known yet.
            Err(failure)
                if failure.kind == Kind::CollectionNotFound && store.catch_up(asked.patience).await =>
            {
                prepare()?
            }
            prepared => prepared?,
        };
        let (result, seq) = api::put(store, prepared, &asked).await?;
        Ok(pb::PutResponse { id, created: result == api::PutResult::Created, seq })
    }
}

#[tonic::async_trait]
impl Documents for Face {
    async fn create_collection(
        &self,
        request: Request<pb::CreateCollectionRequest>,
    ) -> Answer<pb::CreateCollectionResponse> {
        let pb::CreateCollectionRequest { collection, mapping } = request.into_inner();
        let asked = self.asked("");
        let (created, mapping, seq) =
            api::create_collection(&self.node.store, &collection, &mapping, &asked).await?;
        let mapping = mapping.to_json().into_bytes().into();
        Ok(Response::new(pb::CreateCollectionResponse { created, mapping, seq }))
    }

    async fn drop_collection(
        &self,
        request: Request<pb::DropCollectionRequest>,
    ) -> Answer<pb::WriteResponse> {
        let collection = request.into_inner().collection;
        let seq = api::drop_collection(&self.node.store, &collection, &self.asked("")).await?;
        Ok(Response::new(pb::WriteResponse { seq }))
    }

    async fn list_collections(
        &self,
        request: Request<pb::ListCollectionsRequest>,
    ) -> Answer<pb::ListCollectionsResponse> {
        let reading = self.reading(request.into_inner().consistency, Consistency::Linearizable);
        let snapshot = self.node.store.read(&reading).await?;
        let (collections, seq) = (snapshot.collections(), snapshot.seq());
        Ok(Response::new(pb::ListCollectionsResponse { collections, seq }))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        Ok(Response::new(self.put_document(request.into_inner()).await?))
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Answer<pb::Document> {
        let pb::GetRequest { collection, id, consistency } = request.into_inner();
        api::check_id(&id)?;
        let reading = self.reading(consistency, Consistency::Linearizable);
        let snapshot = self.node.store.read(&reading).await?;
        let document = api::get(&snapshot, &collection, &id)?;
        Ok(Response::new(pb::Document {
            id,
            json: document.source.into(),
            version: document.version,
            seq: snapshot.seq(),
        }))
    }

    async fn delete(&self, request: Request<pb::DeleteRequest>) -> Answer<pb::WriteResponse> {
        let pb::DeleteRequest { collection, id, if_version, idempotency_key } = request.into_inner();
        api::check_id(&id)?;
        let asked = self.asked(&idempotency_key);
        let condition = condition(if_version);
        let seq = api::delete(&self.node.store, &collection, &id, condition, &asked).await?;
        Ok(Response::new(pb::WriteResponse { seq }))
    }

    type PutStreamStream = BoxStream<'static, Result<pb::PutStreamResponse, Status>>;

    async fn put_stream(&self, request: Request<Streaming<pb::PutRequest>>) -> Answer<Self::PutStreamStream> {
        let face = Face { node: self.node.clone() };
        let batches = unfold(Some((face, request.into_inner())), |state| async {
            let (face, mut puts) = state?;
            let (mut batch, mut bytes) = (Vec::new(), 0);
            // What has come goes together; a lone one does not wait for company.
            loop {
                let next = match batch.is_empty() {
                    true => puts.message().await,
                    false => match tokio::time::timeout(Duration::ZERO, puts.message()).await {
                        Ok(next) => next,
                        Err(_) => break,
                    },
                };
                match next {
                    Ok(Some(put)) => {
                        bytes += put.json.len();
                        batch.push(put);
                    }
                    Ok(None) if batch.is_empty() => return None,
                    Ok(None) => break,
                    Err(status) => return Some((vec![Err(status)], None)),
                }
                if batch.len() == STREAM_DOCUMENTS || bytes >= STREAM_BYTES {
                    break;
                }
            }
            match face.put_batch(batch).await {
                Ok(results) => {
                    let answer = |result| Ok(pb::PutStreamResponse { result: Some(result) });
                    Some((results.into_iter().map(answer).collect(), Some((face, puts))))
                }
                Err(failure) => Some((vec![Err(failure.into())], None)),
            }
        });
        Ok(Response::new(batches.flat_map(futures_util::stream::iter).boxed()))
    }
}

/// A document of a stream that is refused.
fn refused(failure: Failure) -> Put {
    Put::Refused(pb::Refusal { r#type: failure.kind.name().into(), message: failure.message })
}

impl Face {
    /// Puts documents in one log entry; answers for each, in order.
    async fn put_batch(&self, batch: Vec<pb::PutRequest>) -> Result<Vec<Put>, Failure> {
        let store = self.node.store.clone();
        let read = move || {
            let prepare = |put: pb::PutRequest| {
                let asked = (!put.idempotency_key.is_empty()).then(|| api::hash_key(&put.idempotency_key));
                let id = if put.id.is_empty() { api::new_id(asked) } else { put.id };
                api::check_id(&id)?;
                let condition = condition(put.if_version);
                let prepared =
                    api::prepare_put(&store, put.collection, id.clone(), put.json.into(), condition)?;
                Ok((id, prepared))
            };
            Ok(batch.into_iter().map(prepare).collect::<Vec<Result<_, Failure>>>())
        };
        let mut results = Vec::new();
        let (mut ids, mut writes) = (Vec::new(), Vec::new());
        for one in blocking(read).await? {
            match one {
                Ok((id, prepared)) => {
                    results.push(None);
                    ids.push(id);
                    writes.push(prepared);
                }
                Err(failure) => results.push(Some(refused(failure))),
            }
        }
        if writes.is_empty() {
            return Ok(results.into_iter().flatten().collect());
        }
        let ack = self.node.store.write(lumen::Prepared::batch(writes), &self.asked("")).await?;
        let Outcome::Batch(outcomes) = ack.outcome else {
            return Err(Failure::new(Kind::Internal, "the log answered with no batch"));
        };
        let mut done = ids.into_iter().zip(outcomes).map(|(id, outcome)| match outcome {
            Outcome::Rejected(rejection) => refused(rejection.into()),
            outcome => Put::Put(pb::PutResponse { id, created: outcome == Outcome::Created, seq: ack.seq }),
        });
        Ok(results.into_iter().filter_map(|result| result.or_else(|| done.next())).collect())
    }
}

#[tonic::async_trait]
impl Search for Face {
    async fn search(&self, request: Request<pb::SearchRequest>) -> Answer<pb::SearchResponse> {
        let started = Instant::now();
        let pb::SearchRequest { collection, query, offset, limit, consistency } = request.into_inner();
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        if limit.saturating_add(offset) > WINDOW_MAX {
            let message = format!("limit + offset may be {WINDOW_MAX}");
            let failure = Failure::new(Kind::InvalidParameter, message).with("parameter", "limit");
            return Err(failure.with("limit", WINDOW_MAX).into());
        }
        let reading = self.reading(consistency, Consistency::Session(0));
        let (offset, limit) = (offset as usize, limit as usize);
        let search = api::Search { collection, query, offset, limit, reading };
        let found = api::search(&self.node, search, |results, seq| Ok((results, seq)));
        let (results, seq) = found.await?;
        let hit = |hit: lumen::Hit| pb::Hit {
            id: hit.id,
            score: f64::from(hit.score),
            json: hit.source.into(),
            version: hit.version,
        };
        Ok(Response::new(pb::SearchResponse {
            hits: results.hits.into_iter().map(hit).collect(),
            total: results.total,
            took_ms: started.elapsed().as_secs_f64() * 1000.0,
            seq,
        }))
    }
}
