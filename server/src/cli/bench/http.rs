//! Operations over HTTP/1.1: key-values, documents and searches.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use memchr::memmem;
use serde_json::Value;

use super::link::{Link, Reply};
use super::target::{Answer, Client, Fault};
use super::values::Shape;
use super::workload::{Kind, Op};
use crate::body::Body;
use crate::http::request::parse_etag;

/// Room that a client's buffer takes at a time: many requests are cut from it before there is another.
const BUFFER_SIZE: usize = 8 << 10;

/// What the server is asked for.
#[derive(Clone)]
pub(super) enum Face {
    /// Key-values of a space: `/kv/{space}`.
    Keys(String),
    /// Documents of a collection: `/collections/{collection}/documents/`.
    Documents(String),
    /// Searches, each a whole path.
    Searches(Arc<Vec<Bytes>>),
}

/// Where and how all clients of a run ask.
#[derive(Clone)]
pub(super) struct Place {
    /// `host:port`.
    pub(super) authority: String,
    /// What for.
    pub(super) face: Face,
    /// What keys and values look like.
    pub(super) shape: Shape,
    /// Whether the rows of scans are wanted.
    pub(super) wants_pairs: bool,
}

/// A client with a connection of its own.
pub(super) struct Http {
    place: Arc<Place>,
    host: HeaderValue,
    link: Option<Link>,
    buffer: BytesMut,
    reopened: u64,
}

impl Http {
    /// A client that is not connected yet.
    pub(super) fn new(place: &Arc<Place>) -> Result<Http, Fault> {
        let host = HeaderValue::from_str(&place.authority).map_err(|error| Fault::new(error.to_string()))?;
        Ok(Http { place: place.clone(), host, link: None, buffer: BytesMut::new(), reopened: 0 })
    }

    /// Connects, if it is not.
    pub(super) async fn connect(&mut self) -> Result<(), Fault> {
        self.link().await.map(drop)
    }

    async fn link(&mut self) -> Result<&mut Link, Fault> {
        if let Some(link) = &mut self.link {
            if !link.is_ready().await {
                self.link = None;
                self.reopened += 1;
            }
        }
        if self.link.is_none() {
            self.link = Some(Link::open(&self.place.authority).await?);
        }
        self.link.as_mut().ok_or_else(|| Fault::unreachable("no connection"))
    }

    /// What `write` puts into the buffer, as bytes of its own.
    fn cut(&mut self, write: impl FnOnce(&mut BytesMut)) -> Bytes {
        if self.buffer.capacity() < BUFFER_SIZE / 16 {
            self.buffer.reserve(BUFFER_SIZE);
        }
        write(&mut self.buffer);
        self.buffer.split().freeze()
    }

    async fn exchange(&mut self, method: Method, path: Bytes, body: Bytes) -> Result<Reply, Fault> {
        let is_json = matches!(self.place.face, Face::Documents(_)) && !body.is_empty();
        let mut request = Request::new(Body::whole(body));
        *request.method_mut() = method;
        *request.uri_mut() =
            Uri::from_maybe_shared(path).map_err(|error| Fault::new(format!("no path: {error}")))?;
        request.headers_mut().insert(header::HOST, self.host.clone());
        if is_json {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, json);
        }
        let reply = self.link().await?.exchange(request).await;
        if reply.is_err() {
            self.link = None;
        }
        reply
    }

    fn key_path(&mut self, key: u64) -> Bytes {
        let place = self.place.clone();
        self.cut(|out| {
            match &place.face {
                Face::Keys(space) => {
                    out.extend_from_slice(space.as_bytes());
                    out.extend_from_slice(b"/keys/");
                }
                Face::Documents(documents) => out.extend_from_slice(documents.as_bytes()),
                Face::Searches(_) => out.put_u8(b'/'),
            }
            place.shape.write_key(out, key);
        })
    }

    async fn get(&mut self, key: u64) -> Result<Answer, Fault> {
        let path = self.key_path(key);
        let reply = self.exchange(Method::GET, path, Bytes::new()).await?;
        match reply.status {
            200 => {
                let value = match self.place.face {
                    Face::Documents(_) => source_of(&reply.body),
                    _ => reply.body,
                };
                let version = number(&reply.headers, header::ETAG);
                Ok(Answer { is_found: true, version, value, ..Answer::default() })
            }
            404 if is_nothing(&reply.body) => Ok(Answer::default()),
            _ => Err(refused(&reply)),
        }
    }

    async fn put(&mut self, op: &Op) -> Result<Answer, Fault> {
        let path = self.key_path(op.key);
        let shape = self.place.shape;
        let value = self.cut(|out| shape.write_value(out, op.key, op.counter));
        let reply = self.exchange(Method::PUT, path, value).await?;
        match reply.status {
            200 | 201 => Ok(Answer::written(number(&reply.headers, header::ETAG))),
            _ => Err(refused(&reply)),
        }
    }

    async fn delete(&mut self, key: u64) -> Result<Answer, Fault> {
        let path = self.key_path(key);
        let reply = self.exchange(Method::DELETE, path, Bytes::new()).await?;
        match reply.status {
            204 => Ok(Answer::written(number(&reply.headers, "lumen-seq"))),
            404 if is_nothing(&reply.body) => Ok(Answer::default()),
            _ => Err(refused(&reply)),
        }
    }

    async fn scan(&mut self, op: &Op) -> Result<Answer, Fault> {
        let place = self.place.clone();
        let Face::Keys(space) = &place.face else { return Err(Fault::new("documents have no scan")) };
        let path = self.cut(|out| {
            out.extend_from_slice(space.as_bytes());
            out.extend_from_slice(b"/scan?start=");
            place.shape.write_key(out, op.key);
            out.extend_from_slice(format!("&limit={}", op.rows).as_bytes());
        });
        let reply = self.exchange(Method::GET, path, Bytes::new()).await?;
        if reply.status != 200 {
            return Err(refused(&reply));
        }
        let pairs = if place.wants_pairs { pairs_of(&reply.body)? } else { Vec::new() };
        let is_found = memmem::find(&reply.body, b"\"key").is_some();
        Ok(Answer { is_found, pairs, ..Answer::default() })
    }

    async fn search(&mut self, query: u64) -> Result<Answer, Fault> {
        let Face::Searches(paths) = &self.place.face else { return Err(Fault::new("nothing to search for")) };
        let path = paths[query as usize % paths.len()].clone();
        let reply = self.exchange(Method::GET, path, Bytes::new()).await?;
        match reply.status {
            200 => {
                let is_found = !reply.body.starts_with(b"{\"hits\":[]");
                Ok(Answer { is_found, value: reply.body, ..Answer::default() })
            }
            _ => Err(refused(&reply)),
        }
    }
}

impl Client for Http {
    async fn run(&mut self, op: &Op) -> Result<Answer, Fault> {
        match op.kind {
            Kind::Get => self.get(op.key).await,
            Kind::Put | Kind::Insert => self.put(op).await,
            Kind::Delete => self.delete(op.key).await,
            Kind::Scan => self.scan(op).await,
            Kind::Search => self.search(op.key).await,
            Kind::Rmw => {
                let read = self.get(op.key).await?;
                let written = self.put(op).await?.written;
                Ok(Answer { written, ..read })
            }
        }
    }

    fn forget(&mut self) {
        self.link = None;
    }

    fn reopened(&mut self) -> u64 {
        std::mem::take(&mut self.reopened)
    }
}

/// A header's number, in quotes or not; 0 if there is none.
fn number(headers: &HeaderMap, name: impl header::AsHeaderName) -> u64 {
    let text = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    parse_etag(text).or_else(|| text.parse().ok()).unwrap_or(0)
}

/// Whether a 404 says that there is no such key or document, and not that there is no such place.
fn is_nothing(body: &[u8]) -> bool {
    [&b"\"key_not_found\""[..], b"\"document_not_found\""]
        .iter()
        .any(|name| memmem::find(body, name).is_some())
}

/// The document in `{"id":…,"version":…,"source":…}`; nothing if that is not what it is.
fn source_of(body: &Bytes) -> Bytes {
    const BEFORE: &[u8] = b"\"source\":";
    match memmem::find(body, BEFORE) {
        Some(at) => body.slice(at + BEFORE.len()..body.len() - 1),
        None => Bytes::new(),
    }
}

/// The rows of a scan.
fn pairs_of(body: &[u8]) -> Result<Vec<(Bytes, Bytes)>, Fault> {
    let unreadable = || Fault::new("unreadable answer");
    let page: Value = serde_json::from_slice(body).map_err(|_| unreadable())?;
    let bytes = |pair: &Value, name: &str| match &pair[name] {
        Value::String(text) => Some(Bytes::from(text.clone())),
        _ => STANDARD.decode(pair[format!("{name}_base64")].as_str()?).ok().map(Bytes::from),
    };
    let pairs = page["pairs"].as_array().ok_or_else(unreadable)?;
    let pair = |pair| Some((bytes(pair, "key")?, bytes(pair, "value")?));
    pairs.iter().map(|it| pair(it).ok_or_else(unreadable)).collect()
}

fn refused(reply: &Reply) -> Fault {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let kind = body["error"]["type"].as_str().unwrap_or("without a reason");
    Fault::new(format!("{} {kind}", reply.status))
}
