//! Operations over gRPC: key-values as `kv.proto` has them.

use std::sync::Arc;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::target::{Answer, Client, Fault};
use super::values::Shape;
use super::workload::{Kind, Op};
use crate::error::{Failure, Kind as FailureKind};
use crate::grpc::proto::kv::key_value_store_client::KeyValueStoreClient;
use crate::grpc::proto::kv::{DeleteRequest, GetRequest, PutRequest, ScanRequest};

/// What all clients of a run have in common.
#[derive(Clone)]
pub(super) struct Place {
    /// In which space.
    pub(super) space: String,
    /// What keys and values look like.
    pub(super) shape: Shape,
    /// Whether the rows of scans are wanted.
    pub(super) wants_pairs: bool,
}

/// A client, on a channel of its own or one that it shares. A channel connects again by itself.
pub(super) struct Grpc {
    place: Arc<Place>,
    stub: KeyValueStoreClient<Channel>,
    buffer: bytes::BytesMut,
}

/// Opens a channel.
pub(super) async fn connect(url: &str) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(url.to_string()).map_err(|error| {
        Failure::new(FailureKind::InvalidParameter, format!("{url:?} is no server's address: {error}"))
            .with("hint", "as in http://127.0.0.1:50051")
    })?;
    let endpoint = endpoint.tcp_nodelay(true).connect_timeout(Duration::from_secs(10));
    endpoint.connect().await.map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Failure::new(FailureKind::Unavailable, format!("no answer from {url}: {error}{cause}"))
    })
}

impl Grpc {
    /// A client on this channel.
    pub(super) fn new(place: &Arc<Place>, channel: Channel) -> Grpc {
        let stub = KeyValueStoreClient::new(channel).max_decoding_message_size(64 << 20);
        Grpc { place: place.clone(), stub, buffer: bytes::BytesMut::new() }
    }

    fn key(&mut self, key: u64) -> String {
        self.buffer.clear();
        self.place.shape.write_key(&mut self.buffer, key);
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    async fn get(&mut self, key: u64) -> Result<Answer, Fault> {
        let request =
            GetRequest { key: self.key(key), space: self.place.space.clone(), ..Default::default() };
        let got = self.stub.get(request).await.map_err(refused)?.into_inner();
        Ok(Answer { is_found: got.found, version: got.version, value: got.value, ..Answer::default() })
    }

    async fn put(&mut self, op: &Op) -> Result<Answer, Fault> {
        let key = self.key(op.key);
        let mut value = bytes::BytesMut::with_capacity(self.place.shape.value_size + 16);
        self.place.shape.write_value(&mut value, op.key, op.counter);
        let space = self.place.space.clone();
        let request = PutRequest { key, value: value.freeze(), space, ..Default::default() };
        let put = self.stub.put(request).await.map_err(refused)?.into_inner();
        if put.success { Ok(Answer::written(put.seq)) } else { Err(Fault::new("no success")) }
    }

    async fn delete(&mut self, key: u64) -> Result<Answer, Fault> {
        let request =
            DeleteRequest { key: self.key(key), space: self.place.space.clone(), ..Default::default() };
        let deleted = self.stub.delete(request).await.map_err(refused)?.into_inner();
        Ok(Answer { is_found: deleted.success, written: deleted.seq, ..Answer::default() })
    }

    async fn scan(&mut self, op: &Op) -> Result<Answer, Fault> {
        let start = self.place.shape.key(op.key);
        let space = self.place.space.clone();
        let request = ScanRequest { space, start, limit: op.rows, ..Default::default() };
        let mut pages = self.stub.scan(request).await.map_err(refused)?.into_inner();
        let mut answer = Answer::default();
        while let Some(page) = pages.message().await.map_err(refused)? {
            answer.is_found |= !page.pairs.is_empty();
            if self.place.wants_pairs {
                answer.pairs.extend(page.pairs.into_iter().map(|pair| (pair.key, pair.value)));
            }
        }
        Ok(answer)
    }
}

impl Client for Grpc {
    async fn run(&mut self, op: &Op) -> Result<Answer, Fault> {
        match op.kind {
            Kind::Get => self.get(op.key).await,
            Kind::Put | Kind::Insert => self.put(op).await,
            Kind::Delete => self.delete(op.key).await,
            Kind::Scan => self.scan(op).await,
            Kind::Search => Err(Fault::new("key-values have no search")),
            Kind::Rmw => {
                let read = self.get(op.key).await?;
                let written = self.put(op).await?.written;
                Ok(Answer { written, ..read })
            }
        }
    }

    /// A call that is given up is reset; the channel stays good.
    fn forget(&mut self) {}
}

fn refused(status: Status) -> Fault {
    match status.code() {
        // tonic says so when it cannot connect, and when a connection breaks under a call.
        Code::Unavailable => Fault::unreachable("Unavailable"),
        code => Fault::new(format!("{code:?}")),
    }
}
