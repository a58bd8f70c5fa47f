//! A small HTTP client for the command line: one server, whole bodies, errors as the server's own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Method, Request, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as Pool, ResponseFuture};
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::body::Body;
use crate::error::{Failure, Kind};
use crate::http::request::parse_etag;

/// Which server to talk to.
#[derive(Args, Clone, Debug)]
pub(crate) struct Server {
    /// The server
    #[arg(
        long,
        env = "LUMEN_URL",
        default_value = "http://127.0.0.1:7700",
        value_name = "URL",
        global = true
    )]
    pub(crate) url: String,
}

/// Everything but letters, digits and the four marks that never mean anything in a URL.
pub(crate) const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// No answer takes longer than this, unless the server hangs: an import of a chunk waits at most a minute for a busy
/// database, and a search is given up after seconds.
pub(crate) const ANSWER_TIME_MAX: Duration = Duration::from_secs(300);

/// A request is sent on to another node so often: a leader that was replaced meanwhile knows the next one.
const REDIRECTS_MAX: usize = 10;
/// Before a request that was sent on goes there: two nodes that take each other for the leader must not be kept busy.
const REDIRECT_PAUSE: Duration = Duration::from_millis(50);

/// Talks to one server, or to the one that it says is the leader. Clones are the same client.
#[derive(Clone)]
pub(crate) struct Client {
    base: Arc<Mutex<String>>,
    pool: Pool<HttpConnector, Body>,
}

/// What the server said.
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The version that its `ETag` tells.
    pub(crate) version: Option<u64>,
    /// The body.
    pub(crate) body: Bytes,
}

impl Client {
    /// A client for the server at `url`.
    pub(crate) fn new(url: &str) -> Result<Client, Failure> {
        let base = url.trim_end_matches('/');
        let bad = |why: &str| {
            Failure::new(Kind::InvalidParameter, format!("{url:?} is no server's address: {why}"))
                .with("hint", "as in http://127.0.0.1:7700")
        };
        let uri: http::Uri = base.parse().map_err(|error: http::uri::InvalidUri| bad(&error.to_string()))?;
        if uri.scheme_str() != Some("http") || uri.authority().is_none() {
            return Err(bad("it has to begin with http:// and name a host"));
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(10)));
        let pool = Pool::builder(TokioExecutor::new()).build(connector);
        Ok(Client { base: Arc::new(Mutex::new(base.to_string())), pool })
    }

    /// Sends a request and reads the whole answer; on to the leader if a node says so.
    pub(crate) async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Failure> {
        self.send_with(method, path, &[], body).await
    }

    /// The same with further headers.
    pub(crate) async fn send_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let mut redirects = 0;
        loop {
            let answer = self.send_once(method.clone(), path, headers, body.clone()).await?;
            if answer.status != 307 || redirects == REDIRECTS_MAX || !self.moves_on(&answer.failure()) {
                return Ok(answer);
            }
            redirects += 1;
            tokio::time::sleep(REDIRECT_PAUSE).await;
        }
    }

    /// Whether a node that refused says who takes what it was asked for: then all goes there from now on.
    pub(crate) fn moves_on(&self, failure: &Failure) -> bool {
        let leader = failure.details.get("location").and_then(Value::as_str).and_then(|url| url.parse().ok());
        let Some(leader) = leader.map(http::Uri::into_parts) else { return false };
        let (Some(scheme), Some(host)) = (leader.scheme, leader.authority) else { return false };
        *self.base.lock() = format!("{scheme}://{host}");
        true
    }

    async fn send_once(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let mut request = self.request(method, path, Body::whole(body))?;
        for (name, value) in headers {
            let value = HeaderValue::from_str(value)
                .map_err(|_| Failure::new(Kind::InvalidParameter, format!("{name} cannot be {value:?}")))?;
            request.headers_mut().insert(*name, value);
        }
        let exchange = async {
            let response = self.pool.request(request).await.map_err(|error| self.no_answer(&error))?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| self.no_answer(&error))?.to_bytes();
            let etag = parts.headers.get(header::ETAG).and_then(|etag| etag.to_str().ok());
            Ok(Answer { status: parts.status.as_u16(), version: etag.and_then(parse_etag), body })
        };
        match tokio::time::timeout(ANSWER_TIME_MAX, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(self.silent()),
        }
    }

    /// Starts a request whose body goes through the sender, of which the answer may come meanwhile.
    pub(crate) fn stream(
        &self,
        path: &str,
        waiting_max: usize,
    ) -> Result<(mpsc::Sender<Bytes>, ResponseFuture), Failure> {
        let (sender, body) = Body::pieces(waiting_max);
        let request = self.request(Method::POST, path, body)?;
        Ok((sender, self.pool.request(request)))
    }

    /// The server broke off, or was never there.
    pub(crate) fn no_answer(&self, error: &dyn std::error::Error) -> Failure {
        Failure::new(Kind::Unavailable, format!("no answer from {}: {}", self.base.lock(), reason(error)))
    }

    /// The answer ended before it was complete.
    pub(crate) fn broke_off(&self) -> Failure {
        Failure::new(Kind::Unavailable, format!("the answer from {} breaks off", self.base.lock()))
    }

    /// The server says nothing.
    pub(crate) fn silent(&self) -> Failure {
        let message = format!("no answer from {}: nothing came within {ANSWER_TIME_MAX:?}", self.base.lock());
        Failure::new(Kind::Unavailable, message)
    }

    fn request(&self, method: Method, path: &str, body: Body) -> Result<Request<Body>, Failure> {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base.lock()))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| Failure::new(Kind::BadRequest, error.to_string()))
    }

    /// Sends a request whose answer has to be a success.
    pub(crate) async fn expect(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Failure> {
        self.expect_with(method, path, &[], body).await
    }

    /// The same with further headers.
    pub(crate) async fn expect_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let answer = self.send_with(method, path, headers, body).await?;
        if answer.status < 300 { Ok(answer) } else { Err(answer.failure()) }
    }

    /// Asks for an answer that comes bit by bit.
    pub(crate) async fn follow(&self, path: &str) -> Result<Incoming, Failure> {
        let request = self.request(Method::GET, path, Body::whole(Bytes::new()))?;
        let response = self.pool.request(request).await.map_err(|error| self.no_answer(&error))?;
        if response.status() == http::StatusCode::OK {
            return Ok(response.into_body());
        }
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| self.no_answer(&error))?.to_bytes();
        Err(Answer { status, version: None, body }.failure())
    }

    /// Where requests go.
    pub(crate) fn base(&self) -> String {
        self.base.lock().clone()
    }
}

/// An error with its causes: hyper's own text names only the outermost.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<Value, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::new(Kind::Internal, format!("the server's answer cannot be read: {error}"))
        })
    }

    /// The error in the body, or what can be said without one.
    pub(crate) fn failure(&self) -> Failure {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        match body.get("error") {
            Some(error) => failure_from(error),
            None => Failure::new(Kind::Internal, format!("the server answered with status {}", self.status)),
        }
    }
}

/// Reads a server's `error` object back.
pub(crate) fn failure_from(error: &Value) -> Failure {
    let name = error["type"].as_str().unwrap_or("internal");
    let mut message = error["message"].as_str().unwrap_or("the server gave no reason").to_string();
    if let Some(hint) = error["hint"].as_str() {
        message = format!("{message} ({hint})");
    }
    match error["column"].as_u64() {
        Some(column) if !message.contains(" column ") => message = format!("{message}, at column {column}"),
        _ => {}
    }
    let mut failure = Failure::new(Kind::from_name(name).unwrap_or(Kind::Internal), message);
    failure.retry_after = error["retry_after_s"].as_u64().map(Duration::from_secs);
    if let Some(location) = error["location"].as_str() {
        failure = failure.with("location", location);
        failure.retry_after = Some(REDIRECT_PAUSE);
    }
    failure
}

/// A piece of text as one segment of a path, or a value in a query.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}
