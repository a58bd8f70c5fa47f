//! The HTTP face: connections in, requests dispatched by the table in [`routes`], answers out.
//!
//! HTTP/1.1 and HTTP/2 (with prior knowledge) share one port. Every request gets an id, is counted under the label of
//! its route, and cannot take the process with it: a panic in a handler is that request's 500.

pub(crate) mod admin;
pub(crate) mod batch;
pub(crate) mod changes;
pub(crate) mod cluster;
pub(crate) mod collections;
pub(crate) mod documents;
pub(crate) mod import;
pub(crate) mod json;
pub(crate) mod keys;
pub(crate) mod leases;
pub(crate) mod lines;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod routes;
pub(crate) mod search;
pub(crate) mod tx;
pub(crate) mod wire;

use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::Watcher;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::body::Body;
use crate::error::{Failure, Kind, did_you_mean, excerpt};
use crate::grpc::{Services, http_status};
use crate::http::reply::Reply;
use crate::http::request::{Call, Query, decode_segment, drain, header_text};
use crate::http::routes::{Handling, ROUTER, ROUTES, Route};
use crate::http::wire::{HEAD_TIME_MAX, Requests, Watched};
use crate::node::Node;

/// Bytes of a request's headers, at most.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// The read buffer bounds request line and headers together: a query of 32 KiB may be 96 KiB percent-encoded.
const READ_BUFFER_BYTES: usize = 128 << 10;

/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 1000;

/// Serves one connection until it ends, or until the watcher says to finish what is under way.
pub(crate) async fn connection<T>(node: Arc<Node>, stream: T, watcher: Watcher)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _open = node.metrics.connection();
    let requests = Arc::new(Requests::default());
    let service = {
        let (node, requests) = (node.clone(), requests.clone());
        let services = Arc::new(Services::new(node.clone()));
        service_fn(move |request: Request<Incoming>| {
            let (node, running) = (node.clone(), requests.begin(request.version()));
            // gRPC needs trailers, and those HTTP/2.
            let is_grpc = request.version() == http::Version::HTTP_2
                && request.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc);
            let services = is_grpc.then(|| services.clone());
            async move {
                let reply = match services {
                    Some(services) => respond_to_grpc(node, services, request).await,
                    None => respond(node, request).await,
                };
                Ok::<_, Infallible>(running.until_sent(reply))
            }
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .header_read_timeout(None)
        .max_buf_size(READ_BUFFER_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(HEAD_TIME_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(READ_BUFFER_BYTES as u32);
    let io = TokioIo::new(Watched::new(stream, node, requests));
    if let Err(error) = watcher.watch(builder.serve_connection(io, service).into_owned()).await {
        tracing::debug!(%error, "connection ended");
    }
}

fn is_grpc(content_type: &HeaderValue) -> bool {
    content_type.as_bytes().starts_with(b"application/grpc")
}

/// Answers one call of gRPC.
async fn respond_to_grpc(node: Arc<Node>, services: Arc<Services>, request: Request<Incoming>) -> Reply {
    let started = Instant::now();
    let _in_flight = node.metrics.request();
    // A name that the caller gives comes back; one of ours would be a tenth of what a small answer takes.
    let request_id = request.headers().get("x-request-id").cloned();
    let (route, response) = services.respond(request).await;
    let mut reply = response.map(Body::Grpc);
    if let Some(id) = &request_id {
        reply.headers_mut().insert("x-request-id", id.clone());
    }
    // Of a call that goes well, the code comes with the trailers.
    let code = tonic::Status::from_header_map(reply.headers()).map_or(tonic::Code::Ok, |it| it.code());
    let took = started.elapsed();
    node.metrics.answered("POST", route, http_status(code), took);
    tracing::debug!(?request_id, route, ?code, took_us = took.as_micros() as u64, "call");
    reply
}

/// Answers one request, whatever happens.
async fn respond(node: Arc<Node>, request: Request<Incoming>) -> Reply {
    let started = Instant::now();
    let _in_flight = node.metrics.request();
    let request_id = request_id(&node, request.headers());
    let method = known_method(request.method().as_str());
    let (route, result) = dispatch(&node, request).await;
    let mut reply = match result {
        Ok(reply) => reply,
        Err(failure) => {
            if failure.kind == Kind::Unknown {
                node.fail(&failure.message);
            }
            let mut reply = reply::failure(&failure, &request_id);
            if let Some(allow) = failure.details.get("allow").and_then(|allow| allow.as_str()) {
                reply::set(&mut reply, "allow", allow);
            }
            if let Some(location) = failure.details.get("location").and_then(|location| location.as_str()) {
                reply::set(&mut reply, "location", location);
            }
            reply
        }
    };
    reply::set(&mut reply, "x-request-id", &request_id);
    if let Some(face) = &node.cluster {
        reply::set(&mut reply, "lumen-node", &face.raft.identity().id.to_string());
        if let Some((leader, _)) = face.raft.leader() {
            reply::set(&mut reply, "lumen-leader", &leader.to_string());
        }
    }
    let (status, took) = (reply.status().as_u16(), started.elapsed());
    node.metrics.answered(method, route, status, took);
    tracing::debug!(request_id, method, route, status, took_us = took.as_micros() as u64, "request");
    reply
}

/// The caller's name for the request if it is a harmless one, else one of ours.
fn request_id(node: &Node, headers: &HeaderMap) -> String {
    const LENGTH_MAX: usize = 128;
    match headers.get("x-request-id").map(HeaderValue::to_str) {
        Some(Ok(id)) if !id.is_empty() && id.len() <= LENGTH_MAX => id.to_string(),
        _ => node.next_request_id(),
    }
}

/// A method as a metric label: of those that nobody knows there could be endlessly many.
fn known_method(method: &str) -> &'static str {
    ["GET", "PUT", "POST", "DELETE", "HEAD"].into_iter().find(|known| *known == method).unwrap_or("other")
}

/// What a path names.
#[derive(Default)]
struct Names {
    collection: String,
    id: String,
    space: String,
    key: Vec<u8>,
}

/// Finds the route and runs its handler; gives the route's metric label with the result.
async fn dispatch(node: &Arc<Node>, request: Request<Incoming>) -> (&'static str, Result<Reply, Failure>) {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let Ok(found) = ROUTER.at(path) else {
        drain(body);
        return ("none", Err(route_not_found(path)));
    };
    let Some(route) = found.value.find(parts.method.as_str()) else {
        drain(body);
        let message = format!("{} does not take {}", excerpt(path), excerpt(parts.method.as_str()));
        let failure = Failure::new(Kind::MethodNotAllowed, message).with("allow", found.value.allow.as_str());
        return ("none", Err(failure));
    };
    let decoded = (|| {
        check_headers(&parts.headers)?;
        let mut names = Names::default();
        for (name, value) in found.params.iter() {
            match name {
                "collection" => names.collection = decode_segment(value)?,
                "space" => names.space = decode_segment(value)?,
                "key" => names.key = percent_decode_str(value).collect(),
                _ => names.id = decode_segment(value)?,
            }
        }
        let query = Query::parse(parts.uri.query().unwrap_or_default(), route.parameters)?;
        Ok((names, query))
    })();
    let (Names { collection, id, space, key }, query) = match decoded {
        Ok(decoded) => decoded,
        Err(failure) => {
            drain(body);
            return (route.path, Err(failure));
        }
    };
    if let Some(failure) = forward(node, route, &parts) {
        drain(body);
        return (route.path, Err(failure));
    }
    let (node, headers, body) = (node.clone(), parts.headers, Some(body));
    let call = Call { node, collection, id, space, key, query, headers, body };
    (route.path, CatchPanic((route.handler)(call)).await)
}

/// With `--forwarding redirect`: where a write has to go, if this node does not lead.
fn forward(node: &Node, route: &Route, parts: &http::request::Parts) -> Option<Failure> {
    let face = node.cluster.as_ref().filter(|face| face.redirects)?;
    if route.method == "GET"
        || !["/collections", "/kv", "/leases", "/tx"].iter().any(|writable| route.path.starts_with(writable))
    {
        return None;
    }
    let Some((leader, member)) = face.raft.leader() else {
        return Some(Failure::new(Kind::Unavailable, "the cluster has no leader to send this to"));
    };
    if leader == face.raft.identity().id {
        return None;
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let message = format!("node {leader} leads, and takes writes");
    Some(
        Failure::new(Kind::ForwardToLeader, message)
            .with("leader", leader)
            .with("location", format!("{}{path}", member.api_url)),
    )
}

fn check_headers(headers: &HeaderMap) -> Result<(), Failure> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if bytes > HEADER_BYTES_MAX {
        let message = format!("the headers have {bytes} bytes; the limit is {HEADER_BYTES_MAX}");
        return Err(Failure::new(Kind::HeadersTooLarge, message).with("limit", HEADER_BYTES_MAX));
    }
    // Read as it is, a packed body would be refused as broken JSON, line by line.
    match header_text(headers, header::CONTENT_ENCODING)? {
        None | Some("" | "identity") => Ok(()),
        Some(other) => {
            let message = format!("bodies are taken as they are, not as {}", excerpt(other));
            Err(Failure::new(Kind::UnsupportedEncoding, message)
                .with("hint", "send it without Content-Encoding"))
        }
    }
}

fn route_not_found(path: &str) -> Failure {
    let failure = Failure::new(Kind::RouteNotFound, format!("there is nothing at {}", excerpt(path)));
    match did_you_mean(path, ROUTES.iter().map(|route| route.path)) {
        Some(hint) if path.len() <= 256 => failure.with("hint", hint),
        _ => failure.with("hint", "GET /openapi.json lists what there is"),
    }
}

/// A handler whose panic is an error of this request alone.
struct CatchPanic(Handling);

impl Future for CatchPanic {
    type Output = Result<Reply, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let handling = self.0.as_mut();
        match catch_unwind(AssertUnwindSafe(|| handling.poll(context))) {
            Ok(poll) => poll,
            Err(_) => {
                tracing::error!("a request's handler panicked");
                let message = "this request met a fault of the server; its log says more";
                Poll::Ready(Err(Failure::new(Kind::Internal, message)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_one_requests_500() {
        let handling: Handling = Box::pin(async { panic!("on purpose, in a test") });
        let failure = CatchPanic(handling).await.err().unwrap();
        assert_eq!(failure.kind, Kind::Internal);
    }
}
