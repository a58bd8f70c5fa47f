//! `kv.KeyValueStore`: LumenKV's three calls as its clients know them, and everything beyond.

use futures_util::stream::{BoxStream, StreamExt, unfold};
use lumen::{
    Compare, Condition, KeyOutcome, KeyWrite, Outcome, Previous, Target, Test, Transaction, Until, Write,
    prefix_end,
};
use lumen_raft::Consistency;
use tonic::{Request, Response, Status, Streaming};

use super::Face;
use super::changes::watch;
use super::proto::kv::key_value_store_server::KeyValueStore;
use super::proto::kv::{
    self as pb, BatchRequest, BatchResponse, DeleteRequest, DeleteResponse, Empty, GetRequest, GetResponse,
    Lease, LeaseGrantRequest, Pair, PutRequest, PutResponse, ReadLevel, ScanRequest, ScanResponse,
    TxnRequest, TxnResponse, WatchRequest, WatchResponse,
};
use super::scan::scan;
use crate::api;
use crate::error::{Failure, Kind};
use crate::store::{Asked, Reading};

/// The space that LumenKV's clients, who know of none, mean.
const SPACE: &str = "default";
/// Puts of a stream that go into one log entry, at most, and bytes of them from which on it takes no more.
const STREAM_PUTS: usize = 1000;
const STREAM_BYTES: usize = 1 << 20;

type Answer<T> = Result<Response<T>, Status>;

fn invalid(message: impl Into<String>, field: &str) -> Failure {
    Failure::new(Kind::InvalidParameter, message).with("parameter", field)
}

pub(super) fn space(name: String) -> String {
    if name.is_empty() { SPACE.into() } else { name }
}

fn key(text: String, raw: Vec<u8>) -> Vec<u8> {
    if raw.is_empty() { text.into_bytes() } else { raw }
}

pub(super) fn condition(if_version: Option<u64>) -> Condition {
    match if_version {
        None => Condition::Always,
        Some(0) => Condition::Absent,
        Some(version) => Condition::Version(version),
    }
}

pub(super) fn lease_number(id: i64) -> Result<u64, Failure> {
    u64::try_from(id).map_err(|_| invalid("a lease has no negative number", "lease"))
}

/// First key, and first key behind, of what a request names.
pub(super) fn range(
    start: Vec<u8>,
    end: Vec<u8>,
    prefix: Vec<u8>,
) -> Result<(Vec<u8>, Option<Vec<u8>>), Failure> {
    if prefix.is_empty() {
        return Ok((start, (!end.is_empty()).then_some(end)));
    }
    if !start.is_empty() || !end.is_empty() {
        return Err(invalid("prefix says start and end by itself", "prefix"));
    }
    let end = prefix_end(&prefix);
    Ok((prefix, end))
}

fn put_write(put: PutRequest) -> Result<KeyWrite, Failure> {
    let until = match (put.ttl_ms, put.lease) {
        (0, 0) => Until::Deleted,
        (ttl, 0) => Until::Ttl(ttl),
        (0, lease) => Until::Lease(lease_number(lease)?),
        _ => return Err(invalid("ttl_ms and lease both say how long it is kept", "lease")),
    };
    Ok(KeyWrite::Put {
        space: space(put.space),
        key: key(put.key, put.raw_key.into()),
        value: put.value.into(),
        condition: condition(put.if_version),
        until,
        returns: put.return_previous,
    })
}

fn delete_write(delete: DeleteRequest) -> Result<KeyWrite, Failure> {
    let (space, key) = (space(delete.space), key(delete.key, delete.raw_key.into()));
    if !delete.prefix && delete.range_end.is_empty() {
        let condition = condition(delete.if_version);
        return Ok(KeyWrite::Delete { space, key, condition, returns: false });
    }
    if delete.if_version.is_some() {
        return Err(invalid("if_version is of one key, not of a range", "if_version"));
    }
    let end = match (delete.prefix, delete.range_end.is_empty()) {
        (true, false) => return Err(invalid("prefix says range_end by itself", "prefix")),
        (true, true) => prefix_end(&key),
        (false, _) => Some(delete.range_end.into()),
    };
    Ok(KeyWrite::DeleteRange { space, start: key, end })
}

fn operation(op: pb::Op) -> Result<Write, Failure> {
    Ok(match op.op {
        Some(pb::op::Op::Put(put)) => Write::Keys(put_write(put)?),
        Some(pb::op::Op::Delete(delete)) => Write::Keys(delete_write(delete)?),
        Some(pb::op::Op::Get(get)) => {
            let (space, key) = (space(get.space), key(get.key, get.raw_key.into()));
            Write::Read(Target::Key { space, key })
        }
        None => return Err(invalid("an operation is a put, a delete or a get", "op")),
    })
}

fn operations(ops: Vec<pb::Op>) -> Result<Vec<Write>, Failure> {
    let of = |(place, op)| operation(op).map_err(|failure| failure.with("operation", place));
    ops.into_iter().enumerate().map(of).collect()
}

fn compare(compare: pb::Compare) -> Result<Compare, Failure> {
    let target = Target::Key { space: space(compare.space), key: compare.key.into() };
    let test = match compare.test {
        Some(pb::compare::Test::VersionIs(0)) | Some(pb::compare::Test::Exists(false)) => Test::Absent,
        Some(pb::compare::Test::VersionIs(version)) => Test::Version(version),
        Some(pb::compare::Test::ValueIs(value)) => Test::Value(value.into()),
        Some(pb::compare::Test::Exists(true)) => Test::Present,
        Some(pb::compare::Test::VersionAtMost(version)) => Test::VersionAtMost(version),
        None => return Err(invalid("a comparison says what it tests", "when")),
    };
    Ok(Compare { target, test })
}

fn previous(key: &[u8], previous: Option<Previous>) -> Option<Pair> {
    previous.map(|before| Pair {
        key: key.to_vec().into(),
        value: before.value.into(),
        version: before.version,
        ..Pair::default()
    })
}

/// What an operation of a batch or transaction answers; `key` is that of a put.
fn result(outcome: Outcome, key: &[u8], seq: u64) -> pb::OpResult {
    use pb::op_result::Result as R;
    let result = match outcome {
        Outcome::Keys(KeyOutcome::Put { previous: before, .. }) => {
            Some(R::Put(PutResponse { success: true, seq, previous: previous(key, before) }))
        }
        Outcome::Keys(KeyOutcome::Deleted { count, .. }) => {
            Some(R::Delete(DeleteResponse { success: count > 0, seq, deleted: count }))
        }
        Outcome::Read(None) => Some(R::Get(GetResponse { seq, ..GetResponse::default() })),
        Outcome::Read(Some(found)) => Some(R::Get(GetResponse {
            value: found.value.into(),
            found: true,
            version: found.version,
            seq,
            expires_at_ms: found.expires.unwrap_or(0),
            lease: found.lease.unwrap_or(0) as i64,
        })),
        _ => None,
    };
    pb::OpResult { result }
}

/// The keys of puts, for what they replaced; of other operations none.
fn keys_of(writes: &[Write]) -> Vec<Vec<u8>> {
    let key = |write: &Write| match write {
        Write::Keys(KeyWrite::Put { key, returns: true, .. }) => key.clone(),
        _ => Vec::new(),
    };
    writes.iter().map(key).collect()
}

impl Face {
    pub(super) fn asked(&self, idempotency_key: &str) -> Asked {
        let key = (!idempotency_key.is_empty()).then(|| api::hash_key(idempotency_key));
        Asked { key, patience: self.node.limits.request_timeout }
    }

    /// How new what is read has to be.
    pub(super) fn level(&self, level: i32, min_seq: u64) -> Result<Reading, Failure> {
        let consistency = match ReadLevel::try_from(level) {
            Ok(ReadLevel::Default | ReadLevel::Strong) => Consistency::Linearizable,
            Ok(ReadLevel::Session) => Consistency::Session(min_seq),
            Ok(ReadLevel::Any) => Consistency::Eventual,
            Err(_) => return Err(invalid("there is no such level", "level")),
        };
        Ok(Reading { consistency, min_seq, patience: self.node.limits.request_timeout })
    }

    async fn transact(
        &self,
        transaction: Transaction,
        idempotency_key: &str,
    ) -> Result<(bool, u64, Vec<pb::OpResult>), Failure> {
        let (then, otherwise) = (keys_of(&transaction.then), keys_of(&transaction.otherwise));
        let asked = self.asked(idempotency_key);
        let done = api::transact(&self.node.store, transaction, &asked).await?;
        let keys = if done.succeeded { then } else { otherwise };
        let results = done.outcomes.into_iter().zip(keys);
        let results = results.map(|(outcome, key)| result(outcome, &key, done.seq)).collect();
        Ok((done.succeeded, done.seq, results))
    }
}

#[tonic::async_trait]
impl KeyValueStore for Face {
    async fn put(&self, request: Request<PutRequest>) -> Answer<PutResponse> {
        let write = put_write(request.into_inner())?;
        let key = match &write {
            KeyWrite::Put { key, returns: true, .. } => key.clone(),
            _ => Vec::new(),
        };
        let (put, seq) = api::put_key(&self.node.store, write, &self.asked("")).await?;
        Ok(Response::new(PutResponse { success: true, seq, previous: previous(&key, put.previous) }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Answer<GetResponse> {
        let GetRequest { key: text, raw_key, space: name, level, min_seq } = request.into_inner();
        let (space, key) = (space(name), key(text, raw_key.into()));
        if key.is_empty() {
            return Err(Failure::new(Kind::InvalidName, "a key has at least one byte").into());
        }
        let reading = self.level(level, min_seq)?;
        let snapshot = self.node.store.read(&reading).await?;
        let (found, seq) = (snapshot.get_key(&space, &key).map_err(Failure::from)?, snapshot.seq());
        Ok(Response::new(match found {
            None => GetResponse { seq, ..GetResponse::default() },
            Some(found) => GetResponse {
                value: found.value.into(),
                found: true,
                version: found.version,
                seq,
                expires_at_ms: found.expires.unwrap_or(0),
                lease: found.lease.unwrap_or(0) as i64,
            },
        }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Answer<DeleteResponse> {
        let write = delete_write(request.into_inner())?;
        let (deleted, seq) = api::delete_keys(&self.node.store, write, &self.asked("")).await?;
        Ok(Response::new(DeleteResponse { success: deleted > 0, seq, deleted }))
    }

    type ScanStream = BoxStream<'static, Result<ScanResponse, Status>>;

    async fn scan(&self, request: Request<ScanRequest>) -> Answer<Self::ScanStream> {
        Ok(Response::new(scan(self, request.into_inner()).await?))
    }

    async fn batch(&self, request: Request<BatchRequest>) -> Answer<BatchResponse> {
        let BatchRequest { ops, idempotency_key } = request.into_inner();
        let then = operations(ops)?;
        let written = then.iter().filter(|write| !matches!(write, Write::Read(_))).count() as u64;
        let transaction = Transaction { then, ..Transaction::default() };
        let (_, seq, results) = self.transact(transaction, &idempotency_key).await?;
        Ok(Response::new(BatchResponse { seq, results, written }))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Answer<TxnResponse> {
        let TxnRequest { when, then, otherwise, idempotency_key } = request.into_inner();
        let when = when.into_iter().map(compare).collect::<Result<_, _>>()?;
        let transaction = Transaction { when, then: operations(then)?, otherwise: operations(otherwise)? };
        let (succeeded, seq, results) = self.transact(transaction, &idempotency_key).await?;
        Ok(Response::new(TxnResponse { succeeded, seq, results }))
    }

    type WatchStream = BoxStream<'static, Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Answer<Self::WatchStream> {
        Ok(Response::new(watch(self, request.into_inner()).await?))
    }

    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Answer<Lease> {
        let LeaseGrantRequest { ttl_ms, id } = request.into_inner();
        let write = KeyWrite::Grant { lease: lease_number(id)?, ttl: ttl_ms };
        let ((lease, ttl_ms), _) = api::lease(&self.node.store, write, &self.asked("")).await?;
        Ok(Response::new(Lease { id: lease as i64, ttl_ms }))
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<Lease, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<Lease>>,
    ) -> Answer<Self::LeaseKeepAliveStream> {
        let (node, asked) = (self.node.clone(), self.asked(""));
        let answers = unfold(Some(request.into_inner()), move |leases| {
            let node = node.clone();
            async move {
                let mut leases = leases?;
                let id = match leases.message().await {
                    Ok(lease) => lease?.id,
                    Err(status) => return Some((Err(status), None)),
                };
                let kept = async {
                    let write = KeyWrite::KeepAlive { lease: lease_number(id)? };
                    api::lease(&node.store, write, &asked).await
                };
                match kept.await {
                    Ok(((_, ttl_ms), _)) => Some((Ok(Lease { id, ttl_ms }), Some(leases))),
                    // Others of the stream may still be there.
                    Err(failure) if failure.kind == Kind::LeaseNotFound => {
                        Some((Ok(Lease { id, ttl_ms: 0 }), Some(leases)))
                    }
                    Err(failure) => Some((Err(failure.into()), None)),
                }
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_revoke(&self, request: Request<Lease>) -> Answer<Empty> {
        let write = KeyWrite::Revoke { lease: lease_number(request.into_inner().id)? };
        api::delete_keys(&self.node.store, write, &self.asked("")).await?;
        Ok(Response::new(Empty {}))
    }

    async fn put_stream(&self, request: Request<Streaming<PutRequest>>) -> Answer<BatchResponse> {
        let mut puts = request.into_inner();
        let (mut writes, mut bytes) = (Vec::new(), 0);
        let (mut written, mut seq) = (0, 0);
        loop {
            let next = puts.message().await?;
            let is_last = next.is_none();
            if let Some(put) = next {
                bytes += put.value.len() + put.key.len() + put.raw_key.len();
                let place = written + writes.len() as u64;
                writes.push(Write::Keys(put_write(put).map_err(|failure| failure.with("put", place))?));
            }
            if !writes.is_empty() && (is_last || writes.len() == STREAM_PUTS || bytes >= STREAM_BYTES) {
                bytes = 0;
                let count = writes.len() as u64;
                let prepared = self.node.store.prepare(Write::Batch(std::mem::take(&mut writes)))?;
                let ack = self.node.store.write(prepared, &self.asked("")).await?;
                let Outcome::Batch(outcomes) = ack.outcome else {
                    return Err(Status::internal("the log answered with no batch"));
                };
                for (place, outcome) in (written..).zip(outcomes) {
                    if let Outcome::Rejected(rejection) = outcome {
                        return Err(Failure::from(rejection).at(ack.seq).with("put", place).into());
                    }
                }
                (written, seq) = (written + count, ack.seq);
            }
            if is_last {
                return Ok(Response::new(BatchResponse { seq, results: Vec::new(), written }));
            }
        }
    }
}
