//! Calling other nodes, over three connections to each: for votes and forwarded requests, for entries, and for snapshots, so
//! that a long transfer delays no sign of life.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::uri::PathAndQuery;
use lumen_raft::network::{Answers, Lane, Transport, TransportError};
use lumen_raft::{Identity, Member};
use parking_lot::Mutex;
use tonic::client::Grpc;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use super::{APPEND, CALL, HELLO, Hello, MESSAGE_BYTES_MAX, Raw, was_not_sent};

/// A connection that is not there within this time is tried anew.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
/// A connection over which nothing comes for so long is asked whether it lives, and given up if it does not say so in as
/// long again: packets that nobody answers must not hold up a node that could be reached anew.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// Bytes that may be under way on a connection.
const WINDOW_BYTES: u32 = 16 << 20;

/// Who this node is, as its files say it.
type Who = Arc<dyn Fn() -> Identity + Send + Sync>;

/// Connections to other nodes, made when they are first needed.
pub(crate) struct Peers {
    /// The cluster's name.
    name: String,
    /// Where clients reach this node.
    url: String,
    /// What it shows to other nodes, if it talks over TLS.
    tls: Option<ClientTlsConfig>,
    /// Not known before the node's files are open.
    who: Mutex<Option<Who>>,
    channels: Mutex<HashMap<(String, Lane), Channel>>,
}

impl Peers {
    /// None yet.
    pub(crate) fn new(name: String, url: String, tls: Option<ClientTlsConfig>) -> Arc<Peers> {
        Arc::new(Peers { name, url, tls, who: Mutex::default(), channels: Mutex::default() })
    }

    /// What this node says of itself.
    pub(crate) fn me(&self) -> Option<Hello> {
        let who = self.who.lock().clone()?;
        let version = env!("CARGO_PKG_VERSION").to_string();
        Some(Hello { name: self.name.clone(), url: self.url.clone(), from: who(), version })
    }

    /// Asks whoever is at an address who it is.
    pub(crate) async fn hello(&self, address: &str) -> Result<Hello, TransportError> {
        let mut client = self.client(address, Lane::Control)?;
        client.ready().await.map_err(|error| TransportError::Unreachable(error.to_string()))?;
        let request = self.request(None, Bytes::new())?;
        let answered = client.unary(request, PathAndQuery::from_static(HELLO), Raw).await;
        let (headers, ..) = answered.map_err(failed)?.into_parts();
        Ok(Hello::read(&headers).map_err(failed)?.0)
    }

    fn client(&self, address: &str, lane: Lane) -> Result<Grpc<Channel>, TransportError> {
        let mut channels = self.channels.lock();
        let key = (address.to_string(), lane);
        let channel = match channels.get(&key) {
            Some(channel) => channel.clone(),
            None => {
                let unusable =
                    |error| TransportError::Unreachable(format!("{address:?} is no address: {error}"));
                let scheme = if self.tls.is_some() { "https" } else { "http" };
                let mut endpoint =
                    Endpoint::from_shared(format!("{scheme}://{address}")).map_err(unusable)?;
                if let Some(tls) = &self.tls {
                    endpoint = endpoint.tls_config(tls.clone()).map_err(unusable)?;
                }
                let channel = endpoint
                    .connect_timeout(CONNECT_TIME_MAX)
                    .tcp_nodelay(true)
                    .http2_keep_alive_interval(ALIVE_EVERY)
                    .keep_alive_timeout(ALIVE_EVERY)
                    .keep_alive_while_idle(true)
                    .initial_connection_window_size(WINDOW_BYTES)
                    .initial_stream_window_size(WINDOW_BYTES)
                    .connect_lazy();
                channels.entry(key).or_insert(channel).clone()
            }
        };
        let client = Grpc::new(channel);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn request<T>(&self, to: Option<u64>, body: T) -> Result<Request<T>, TransportError> {
        let me =
            self.me().ok_or_else(|| TransportError::Unreachable("this node is still starting".into()))?;
        let mut request = Request::new(body);
        me.put(to, request.metadata_mut());
        Ok(request)
    }

    fn ask(
        &self,
        address: &str,
        to: Option<u64>,
        lane: Lane,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let prepared = self.client(address, lane).and_then(|client| Ok((client, self.request(to, request)?)));
        Box::pin(async move {
            let (mut client, request) = prepared?;
            client.ready().await.map_err(|error| TransportError::Unreachable(error.to_string()))?;
            let answered = client.unary(request, PathAndQuery::from_static(CALL), Raw).await;
            Ok(answered.map_err(failed)?.into_inner())
        })
    }
}

fn failed(status: Status) -> TransportError {
    let reason = format!("{}: {}", status.code(), status.message());
    match status.code() {
        _ if was_not_sent(&status) => TransportError::Unreachable(reason),
        Code::InvalidArgument | Code::FailedPrecondition | Code::PermissionDenied => {
            TransportError::Refused(status.message().to_string())
        }
        _ => TransportError::Broken(reason),
    }
}

impl Transport for Peers {
    fn call(
        &self,
        to: u64,
        member: &Member,
        lane: Lane,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        self.ask(&member.raft_addr, Some(to), lane, request)
    }

    fn call_address(
        &self,
        address: &str,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        self.ask(address, None, Lane::Control, request)
    }

    fn introduce(&self, who: Who) {
        *self.who.lock() = Some(who);
    }

    fn stream(
        &self,
        to: u64,
        member: &Member,
        requests: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'static, Result<Answers, TransportError>> {
        let prepared = self
            .client(&member.raft_addr, Lane::Entries)
            .and_then(|client| Ok((client, self.request(Some(to), requests)?)));
        Box::pin(async move {
            let (mut client, requests) = prepared?;
            client.ready().await.map_err(|error| TransportError::Unreachable(error.to_string()))?;
            let answers = client.streaming(requests, PathAndQuery::from_static(APPEND), Raw).await;
            let answers = answers.map_err(failed)?.into_inner();
            Ok(answers.map(|answer| answer.map_err(failed)).boxed())
        })
    }
}
