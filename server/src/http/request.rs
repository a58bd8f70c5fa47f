//! What a handler is given: the node, the path's parameters, the query, the headers, and the body in bounds.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use lumen::{Condition, Snapshot};
use lumen_raft::Consistency;
use percent_encoding::percent_decode_str;
use tokio::time::timeout;

use crate::api;
use crate::config::parse_duration;
use crate::error::{Failure, Kind, did_you_mean, excerpt};
use crate::node::Node;
use crate::store::{Asked, Reading};

/// The whole body of a document has to be there within this time, however steadily it drips.
const BODY_TIME_MAX: Duration = Duration::from_secs(60);

/// Of a refused body, this much is read and thrown away so that the client gets to read the answer.
const DRAIN_BYTES_MAX: usize = 128 << 20;

/// For no longer than this.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// A client's name for a write.
const IDEMPOTENCY_KEY: header::HeaderName = header::HeaderName::from_static("idempotency-key");

/// Bytes of it, at most.
const KEY_BYTES_MAX: usize = 255;

/// How new what is read must be.
const CONSISTENCY: header::HeaderName = header::HeaderName::from_static("lumen-consistency");

/// A sequence number that what is read must have.
const MIN_SEQ: header::HeaderName = header::HeaderName::from_static("lumen-min-seq");

/// What `consistency=bounded` means without `max_stale`.
const MAX_STALE: Duration = Duration::from_secs(1);

/// The parameters of a read.
pub(crate) const READING: [&str; 2] = ["consistency", "max_stale"];

/// One request on its way to its handler.
pub(crate) struct Call {
    /// The node that answers.
    pub(crate) node: Arc<Node>,
    /// The path's `{collection}`, decoded.
    pub(crate) collection: String,
    /// The path's `{id}`, decoded.
    pub(crate) id: String,
    /// The path's `{space}`, decoded.
    pub(crate) space: String,
    /// The path's `{key}`, decoded: any bytes.
    pub(crate) key: Vec<u8>,
    /// The query's parameters, decoded; only names that the route knows, each once.
    pub(crate) query: Query,
    /// The request's headers.
    pub(crate) headers: HeaderMap,
    /// The body, not read yet; none once somebody took it.
    pub(crate) body: Option<Incoming>,
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            drain(body);
        }
    }
}

impl Call {
    /// Reads the whole body, which may have `limit` bytes.
    pub(crate) async fn read_body(&mut self, what: &str, limit: usize) -> Result<Bytes, Failure> {
        let too_large = || Failure::too_large(what, limit as u64);
        let pause = self.node.limits.request_timeout;
        let Some(body) = self.body.as_mut() else { return Ok(Bytes::new()) };
        if body.size_hint().lower() > limit as u64 {
            return Err(too_large());
        }
        let read = async {
            let mut first = Bytes::new();
            let mut whole = BytesMut::new();
            while let Some(data) = next_data(body, pause).await? {
                if first.len() + whole.len() + data.len() > limit {
                    return Err(too_large());
                }
                // A small body comes in one piece and is not copied.
                if first.is_empty() && whole.is_empty() {
                    first = data;
                    continue;
                }
                if whole.is_empty() {
                    whole.extend_from_slice(&std::mem::take(&mut first));
                }
                whole.extend_from_slice(&data);
            }
            Ok(if whole.is_empty() { first } else { whole.freeze() })
        };
        timeout(BODY_TIME_MAX.max(pause), read).await.unwrap_or_else(|_| Err(body_too_slow()))
    }

    /// How the write is asked for: `Idempotency-Key`, and the time there is.
    pub(crate) fn asked(&self) -> Result<Asked, Failure> {
        let key = match header_text(&self.headers, IDEMPOTENCY_KEY)? {
            None => None,
            Some(key) if (1..=KEY_BYTES_MAX).contains(&key.len()) => Some(api::hash_key(key)),
            Some(key) => {
                let message =
                    format!("an Idempotency-Key has 1 to {KEY_BYTES_MAX} bytes; this one has {}", key.len());
                return Err(Failure::new(Kind::InvalidParameter, message));
            }
        };
        Ok(Asked { key, patience: self.node.limits.request_timeout })
    }

    /// A moment that is as new as the request asks for: `Lumen-Consistency` or `consistency=`, `Lumen-Min-Seq`.
    pub(crate) async fn read(&self, default: Consistency) -> Result<Snapshot, Failure> {
        self.node.store.read(&self.reading(default)?).await
    }

    /// How new what is read has to be.
    pub(crate) fn reading(&self, default: Consistency) -> Result<Reading, Failure> {
        let min_seq = match header_text(&self.headers, MIN_SEQ)? {
            None => 0,
            Some(text) => text.parse().map_err(|_| {
                let message =
                    format!("Lumen-Min-Seq is a whole number as Lumen-Seq gives it, not {}", excerpt(text));
                Failure::new(Kind::InvalidParameter, message)
            })?,
        };
        let max_stale = match self.query.get("max_stale") {
            None => MAX_STALE,
            Some(text) => parse_duration(text).map_err(|reason| invalid("max_stale", &reason))?,
        };
        let asked = match self.query.get("consistency") {
            Some(asked) => Some(asked),
            None => header_text(&self.headers, CONSISTENCY)?,
        };
        let consistency = match asked {
            None => default,
            Some("linearizable" | "strong") => Consistency::Linearizable,
            Some("session") => Consistency::Session(min_seq),
            Some("bounded") => Consistency::Bounded(max_stale),
            Some("eventual" | "any") => Consistency::Eventual,
            Some(other) => {
                let why = format!("is linearizable, session, bounded or eventual, not {}", excerpt(other));
                return Err(invalid("consistency", &why));
            }
        };
        Ok(Reading { consistency, min_seq, patience: self.node.limits.request_timeout })
    }

    /// What `If-Match` and `If-None-Match` ask of a write.
    pub(crate) fn condition(&self) -> Result<Condition, Failure> {
        let if_match = header_text(&self.headers, header::IF_MATCH)?;
        let if_none_match = header_text(&self.headers, header::IF_NONE_MATCH)?;
        match (if_match, if_none_match) {
            (None, None) => Ok(Condition::Always),
            (Some(_), Some(_)) => Err(Failure::new(
                Kind::InvalidParameter,
                "If-Match and If-None-Match together say nothing that one of them does not",
            )),
            (None, Some("*")) => Ok(Condition::Absent),
            (None, Some(other)) => Err(Failure::new(
                Kind::InvalidParameter,
                format!("If-None-Match on a write can only be *, not {}", excerpt(other)),
            )
            .with("hint", "If-Match: \"N\" replaces version N only")),
            (Some("*"), None) => Ok(Condition::Present),
            (Some(tag), None) => parse_etag(tag).map(Condition::Version).ok_or_else(|| {
                Failure::new(
                    Kind::InvalidParameter,
                    format!("If-Match has to be a version in quotes, as ETag gives it, not {}", excerpt(tag)),
                )
            }),
        }
    }
}

/// Takes the body's rest off the client's hands, in the background and in bounds: a client that is cut off while it
/// sends would see a reset connection and never read the answer.
pub(crate) fn drain(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    // While the runtime shuts down there is none, and nobody waits for an answer either.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(timeout(DRAIN_TIME_MAX, async move {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DRAIN_BYTES_MAX {
                return;
            }
        }
    }));
}

/// The version in an `ETag`: `"17"`.
pub(crate) fn parse_etag(tag: &str) -> Option<u64> {
    tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

/// A header's value as text, if the header is there.
pub(crate) fn header_text(headers: &HeaderMap, name: header::HeaderName) -> Result<Option<&str>, Failure> {
    match headers.get(&name) {
        None => Ok(None),
        Some(value) => value.to_str().map(|text| Some(text.trim())).map_err(|_| {
            Failure::new(
                Kind::InvalidParameter,
                format!("the header {name} has bytes that are no ASCII text"),
            )
        }),
    }
}

/// The next bytes of a body; none at its end; an error when the client pauses for too long or breaks off.
pub(crate) async fn next_data(body: &mut Incoming, pause: Duration) -> Result<Option<Bytes>, Failure> {
    loop {
        match timeout(pause, body.frame()).await {
            Err(_) => return Err(body_too_slow()),
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Ok(Some(Err(error))) => {
                return Err(Failure::new(Kind::BadRequest, format!("the body breaks off: {error}")));
            }
        }
    }
}

fn body_too_slow() -> Failure {
    Failure::new(Kind::Timeout, "the body came too slowly")
}

/// Decodes one segment of a path. `%2F` inside a segment is part of its text, not a separator.
pub(crate) fn decode_segment(segment: &str) -> Result<String, Failure> {
    match percent_decode_str(segment).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Failure::new(
            Kind::BadRequest,
            format!("the path's segment {} is not UTF-8 after percent-decoding", excerpt(segment)),
        )),
    }
}

/// The decoded parameters of a query.
#[derive(Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a query of which only the names in `known` are allowed.
    pub(crate) fn parse(text: &str, known: &[&str]) -> Result<Query, Failure> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = decode_form(name)?;
            if !known.contains(&name.as_str()) {
                let message = format!("there is no parameter {} here", excerpt(&name));
                let mut failure =
                    Failure::new(Kind::UnknownParameter, message).with("parameter", name.as_str());
                let hint = did_you_mean(&name, known.iter().copied()).unwrap_or_else(|| match known {
                    [] => "this path takes none".to_string(),
                    _ => format!("there are: {}", known.join(", ")),
                });
                failure = failure.with("hint", hint);
                return Err(failure);
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(invalid(&name, "is there twice"));
            }
            pairs.push((name, decode_form(value)?));
        }
        Ok(Query(pairs))
    }

    /// The value of a parameter, if it is there.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that is a whole number, or the default.
    pub(crate) fn number(&self, name: &str, default: u64) -> Result<u64, Failure> {
        match self.get(name) {
            None => Ok(default),
            Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().map_err(|_| invalid(name, "is too large"))
            }
            Some(text) => {
                Err(invalid(name, &format!("has to be a whole number from 0 on, not {}", excerpt(text))))
            }
        }
    }
}

/// A parameter whose value is not allowed.
pub(crate) fn invalid(parameter: &str, why: &str) -> Failure {
    Failure::new(Kind::InvalidParameter, format!("the parameter {parameter:?} {why}"))
        .with("parameter", parameter)
}

fn decode_form(text: &str) -> Result<String, Failure> {
    let spaced: Cow<'_, str> = if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Failure::new(
            Kind::BadRequest,
            format!("the query's part {} is not UTF-8 after percent-decoding", excerpt(text)),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_as_forms() {
        let query = Query::parse("q=a+b%2Bc%C3%A4&limit=5&&offset=", &["q", "limit", "offset"]).unwrap();
        assert_eq!(query.get("q"), Some("a b+cä"));
        assert_eq!(query.number("limit", 10).unwrap(), 5);
        assert_eq!(query.number("offset", 0).unwrap_err().kind, Kind::InvalidParameter);
        assert_eq!(query.number("absent", 3).unwrap(), 3);
    }

    #[test]
    fn unknown_names_get_a_hint() {
        let failure = Query::parse("limt=5", &["q", "limit"]).err().unwrap();
        assert_eq!(failure.kind, Kind::UnknownParameter);
        assert_eq!(failure.details["hint"], "did you mean \"limit\"?");
        assert_eq!(Query::parse("q=1&q=2", &["q"]).err().unwrap().kind, Kind::InvalidParameter);
        assert_eq!(Query::parse("q=%FF", &["q"]).err().unwrap().kind, Kind::BadRequest);
    }

    #[test]
    fn etags_are_versions_in_quotes() {
        assert_eq!(parse_etag("\"17\""), Some(17));
        for bad in ["17", "\"\"", "W/\"17\"", "\"x\"", "\"-1\"", "\""] {
            assert_eq!(parse_etag(bad), None, "{bad}");
        }
    }
}
