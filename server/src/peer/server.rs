//! Listening to other nodes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{Request as HttpRequest, Response as HttpResponse};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lumen_raft::Node;
use lumen_raft::network::TransportError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tonic::server::{Grpc, StreamingService, UnaryService};
use tonic::{Request, Response, Status, Streaming};

use super::client::Peers;
use super::{APPEND, CALL, HELLO, Hello, MESSAGE_BYTES_MAX, Raw};

/// A connection that has not shown a certificate by then is given up.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// Requests under way on a connection, at most.
const STREAMS_MAX: u32 = 1024;
/// Bytes that may be under way on a connection.
const WINDOW_BYTES: u32 = 16 << 20;
/// Bytes of a frame: few for a large message.
const FRAME_BYTES: u32 = 1 << 20;

/// What answers.
#[derive(Clone)]
struct Answerer {
    node: Node,
    peers: Arc<Peers>,
}

/// Answers other nodes until `stop` says so.
pub(crate) async fn run(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    node: Node,
    peers: Arc<Peers>,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stop.wait_for(|stop| *stop) => return, // what is open ends with the set
        };
        match accepted {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                let answerer = Answerer { node: node.clone(), peers: peers.clone() };
                match tls.clone() {
                    None => connections.spawn(serve(stream, answerer)),
                    Some(tls) => connections.spawn(serve_over_tls(stream, tls, answerer)),
                };
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept another node's connection");
                tokio::time::sleep(crate::serve::ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a node that shows a certificate of the cluster's authority, and nobody else.
async fn serve_over_tls(stream: TcpStream, tls: TlsAcceptor, answerer: Answerer) {
    let from = stream.peer_addr().map_or_else(|error| error.to_string(), |from| from.to_string());
    match tokio::time::timeout(HANDSHAKE_TIME_MAX, tls.accept(stream)).await {
        Ok(Ok(stream)) => serve(stream, answerer).await,
        Ok(Err(error)) => tracing::warn!(from, %error, "refused a connection: it is not that of a node"),
        Err(_) => tracing::warn!(from, "refused a connection: no handshake within {HANDSHAKE_TIME_MAX:?}"),
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, answerer: Answerer) {
    let service = service_fn(move |request: HttpRequest<Incoming>| {
        let answerer = answerer.clone();
        async move { Ok::<HttpResponse<Body>, Infallible>(answerer.respond(request).await) }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "another node's connection ended");
    }
}

impl Answerer {
    async fn respond(self, request: HttpRequest<Incoming>) -> HttpResponse<Body> {
        let mut grpc = Grpc::new(Raw)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        match request.uri().path() {
            HELLO => grpc.unary(Greet(self), request).await,
            CALL => grpc.unary(Call(self), request).await,
            APPEND => grpc.streaming(Append(self), request).await,
            other => Status::unimplemented(format!("there is nothing at {other}")).into_http(),
        }
    }

    fn me(&self) -> Result<Hello, Status> {
        self.peers.me().ok_or_else(|| Status::unavailable("this node is still starting"))
    }

    /// Whether a message is for this node, and from one that may talk to it.
    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let (from, to) = Hello::read(request.metadata())?;
        let me = self.me()?;
        if from.name != me.name {
            let reason = format!("this is a node of cluster {:?}, not of {:?}", me.name, from.name);
            return Err(Status::failed_precondition(reason));
        }
        if let Some(to) = to.filter(|to| *to != me.from.id) {
            let reason = format!("this is node {}, not node {to}", me.from.id);
            return Err(Status::failed_precondition(reason));
        }
        self.node.admits(&from.from).map_err(|reason| {
            tracing::warn!(reason, "refused to talk to another node");
            Status::failed_precondition(reason)
        })
    }
}

fn status(error: TransportError) -> Status {
    match error {
        TransportError::Unreachable(reason) | TransportError::Broken(reason) => Status::unavailable(reason),
        TransportError::Refused(reason) => Status::failed_precondition(reason),
    }
}

type Pending<T> = std::pin::Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

struct Greet(Answerer);

impl UnaryService<Bytes> for Greet {
    type Response = Bytes;
    type Future = Pending<Bytes>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let answerer = self.0.clone();
        Box::pin(async move {
            answerer.check(&request)?;
            let mut response = Response::new(Bytes::new());
            answerer.me()?.put(None, response.metadata_mut());
            Ok(response)
        })
    }
}

struct Call(Answerer);

impl UnaryService<Bytes> for Call {
    type Response = Bytes;
    type Future = Pending<Bytes>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let answerer = self.0.clone();
        Box::pin(async move {
            answerer.check(&request)?;
            let answer = answerer.node.answer(request.into_inner()).await;
            answer.map(Response::new).map_err(status)
        })
    }
}

struct Append(Answerer);

impl StreamingService<Bytes> for Append {
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = Pending<Self::ResponseStream>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let answerer = self.0.clone();
        Box::pin(async move {
            answerer.check(&request)?;
            // What breaks off ends the stream; the leader begins a new one.
            let requests = request
                .into_inner()
                .take_while(|one| std::future::ready(one.is_ok()))
                .filter_map(|one| std::future::ready(one.ok()));
            let answers = answerer.node.answer_stream(requests.boxed());
            let answers: Self::ResponseStream = answers.map(|answer| answer.map_err(status)).boxed();
            Ok(Response::new(answers))
        })
    }
}
