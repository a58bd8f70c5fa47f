//! The ceiling: a server on what Lumen's server stands on, set up as in `server/src/http/mod.rs`, that keeps nothing. Over
//! HTTP a PUT is answered with a short line and a GET with a value; over gRPC so are `kv.KeyValueStore`'s `Put` and `Get`,
//! by tonic without its router. Whatever Lumen does beside speaking is what it lacks to this.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use lumen_benches::options::Options;
use tokio::net::{TcpListener, TcpStream};
use tonic::Status;
use tonic::codegen::http::{HeaderValue, Method, Request, Response, Version, header};
use tonic_prost::ProstCodec;

pub(crate) const OPTIONS: &[(&str, &str)] = &[("--bind", "127.0.0.1:7790"), ("--value-size", "128")];

/// As in `server/src/http/mod.rs`.
const READ_BUFFER_BYTES: usize = 128 << 10;
const STREAMS_MAX: u32 = 1000;
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIME_MAX: Duration = Duration::from_secs(10);

/// What a GET is answered with.
static VALUE: OnceLock<Bytes> = OnceLock::new();

/// Whole, or as tonic has it.
type Body = Either<Full<Bytes>, tonic::body::Body>;

/// The messages of `server/proto/kv.proto` that are spoken here. They are written down here, so that nobody generates them twice.
mod proto {
    use bytes::Bytes;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct PutRequest {
        #[prost(string, tag = "1")]
        pub key: String,
        #[prost(bytes = "bytes", tag = "2")]
        pub value: Bytes,
        #[prost(string, tag = "4")]
        pub space: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct PutResponse {
        #[prost(bool, tag = "1")]
        pub success: bool,
        #[prost(uint64, tag = "2")]
        pub seq: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct GetRequest {
        #[prost(string, tag = "1")]
        pub key: String,
        #[prost(string, tag = "3")]
        pub space: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct GetResponse {
        #[prost(bytes = "bytes", tag = "1")]
        pub value: Bytes,
        #[prost(bool, tag = "2")]
        pub found: bool,
        #[prost(uint64, tag = "3")]
        pub version: u64,
        #[prost(uint64, tag = "4")]
        pub seq: u64,
    }
}

use proto::{GetRequest, GetResponse, PutRequest, PutResponse};

/// The two calls, answered at once.
struct Echo;

impl tonic::server::UnaryService<PutRequest> for Echo {
    type Response = PutResponse;
    type Future = std::future::Ready<Result<tonic::Response<PutResponse>, Status>>;

    fn call(&mut self, _: tonic::Request<PutRequest>) -> Self::Future {
        std::future::ready(Ok(tonic::Response::new(PutResponse { success: true, seq: 1 })))
    }
}

impl tonic::server::UnaryService<GetRequest> for Echo {
    type Response = GetResponse;
    type Future = std::future::Ready<Result<tonic::Response<GetResponse>, Status>>;

    fn call(&mut self, _: tonic::Request<GetRequest>) -> Self::Future {
        let found = GetResponse { value: value(), found: true, version: 1, seq: 1 };
        std::future::ready(Ok(tonic::Response::new(found)))
    }
}

fn value() -> Bytes {
    VALUE.get().cloned().unwrap_or_default()
}

/// Serves until it is ended.
pub(crate) async fn run(options: &Options) -> bool {
    let bind: SocketAddr = options.text("--bind").parse().expect("--bind is an address");
    VALUE.get_or_init(|| Bytes::from(vec![b'v'; options.number("--value-size") as usize]));
    let listener = TcpListener::bind(bind).await.unwrap_or_else(|error| panic!("{bind}: {error}"));
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let _ = stream.set_nodelay(true);
        tokio::spawn(connection(stream));
    }
}

async fn connection(stream: TcpStream) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .header_read_timeout(None)
        .max_buf_size(READ_BUFFER_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIME_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(READ_BUFFER_BYTES as u32);
    // A client that goes breaks its connection.
    let _ = builder.serve_connection(TokioIo::new(stream), service_fn(respond)).await;
}

async fn respond(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let is_grpc = request.version() == Version::HTTP_2
        && content_type.is_some_and(|text: &HeaderValue| text.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return Ok(call(request).await.map(Either::Right));
    }
    let answer = match *request.method() {
        Method::GET => value(),
        _ => match request.into_body().collect().await {
            Ok(_) => Bytes::from_static(b"{\"result\":\"created\",\"version\":1}"),
            Err(_) => Bytes::from_static(b"{}"),
        },
    };
    Ok(Response::new(Either::Left(Full::new(answer))))
}

async fn call(request: Request<Incoming>) -> Response<tonic::body::Body> {
    match request.uri().path() {
        "/kv.KeyValueStore/Put" => {
            let codec = ProstCodec::<PutResponse, PutRequest>::default();
            tonic::server::Grpc::new(codec).unary(Echo, request).await
        }
        "/kv.KeyValueStore/Get" => {
            let codec = ProstCodec::<GetResponse, GetRequest>::default();
            tonic::server::Grpc::new(codec).unary(Echo, request).await
        }
        _ => Status::unimplemented("there is Put and Get").into_http(),
    }
}
