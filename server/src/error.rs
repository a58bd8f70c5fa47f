//! The one error table: each kind has its stable type, its HTTP status and the exit code of the command line.
//!
//! Whatever goes wrong below (a rejection, a failed disk, an unreadable query) becomes a [`Failure`] here and nowhere
//! else, so that every face says the same about the same thing.

use std::fmt;
use std::time::{Duration, Instant};

use lumen::{Error, Rejection};
use serde_json::{Map, Value, json};

/// Exit codes of `lumen`, as `lumen help` prints them.
pub(crate) mod exit {
    /// Refused by the server, or wrong data.
    pub(crate) const REFUSED: u8 = 1;
    /// A sync failed: what was written last may or may not be there.
    pub(crate) const SYNC_FAILED: u8 = 4;
    /// No server there, or no answer in time.
    pub(crate) const UNAVAILABLE: u8 = 5;
    /// Some lines of an import were rejected.
    pub(crate) const PARTIAL: u8 = 7;
    /// Stopped by Ctrl-C.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// What went wrong, by what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No such collection.
    CollectionNotFound,
    /// No such document in a collection that is there.
    DocumentNotFound,
    /// No such key-value.
    KeyNotFound,
    /// No such lease, or none any more.
    LeaseNotFound,
    /// A lease of this number is there.
    LeaseExists,
    /// No such path.
    RouteNotFound,
    /// The path is there, the method is not.
    MethodNotAllowed,
    /// The collection is there under another mapping.
    SchemaConflict,
    /// The mapping cannot be used.
    Mapping,
    /// The document does not fit the mapping.
    Validation,
    /// A collection's name or a document's id that is not allowed.
    InvalidName,
    /// The query cannot be read.
    QuerySyntax,
    /// The query is longer than the limit.
    QueryTooLong,
    /// A query parameter nobody knows.
    UnknownParameter,
    /// A query parameter or a header with a value that is not allowed.
    InvalidParameter,
    /// The request breaks off or cannot be read.
    BadRequest,
    /// `If-Match` or `If-None-Match` does not hold.
    PreconditionFailed,
    /// A body, a document or a line over its limit.
    TooLarge,
    /// The request's name stands for another request.
    IdempotencyMismatch,
    /// The request's headers are over their limit.
    HeadersTooLarge,
    /// The request's path and query are over their limit.
    UriTooLong,
    /// The body is packed in a way that is not read here.
    UnsupportedEncoding,
    /// The request took too long.
    Timeout,
    /// Memory or disk is behind; come again.
    Overloaded,
    /// The server is shutting down, or the cluster has no leader.
    Unavailable,
    /// This node has not yet what was asked for.
    Behind,
    /// The log does not hold these changes any more.
    Compacted,
    /// The time ran out while the write was under way: it may or may not take effect.
    OutcomeUnknown,
    /// Another node leads, and takes this.
    ForwardToLeader,
    /// The cluster was formed before.
    AlreadyInitialized,
    /// The membership cannot be changed so, or not now.
    Membership,
    /// The disk is full.
    DiskFull,
    /// Damage on disk, located.
    Corruption,
    /// A sync failed: the write may or may not be there.
    Unknown,
    /// The disk failed, or this program did.
    Internal,
}

impl Kind {
    /// The table: HTTP status, `error.type`, exit code.
    pub(crate) fn row(self) -> (u16, &'static str, u8) {
        match self {
            Kind::CollectionNotFound => (404, "collection_not_found", 3),
            Kind::DocumentNotFound => (404, "document_not_found", 3),
            Kind::KeyNotFound => (404, "key_not_found", 3),
            Kind::LeaseNotFound => (404, "lease_not_found", 3),
            Kind::LeaseExists => (409, "lease_exists", 4),
            Kind::RouteNotFound => (404, "not_found", 3),
            Kind::MethodNotAllowed => (405, "method_not_allowed", 2),
            Kind::SchemaConflict => (409, "schema_conflict", 4),
            Kind::Mapping => (400, "mapping", 1),
            Kind::Validation => (400, "validation", 1),
            Kind::InvalidName => (400, "invalid_name", 1),
            Kind::QuerySyntax => (400, "query_syntax", 1),
            Kind::QueryTooLong => (400, "query_too_long", 1),
            Kind::UnknownParameter => (400, "unknown_parameter", 2),
            Kind::InvalidParameter => (400, "invalid_parameter", 2),
            Kind::BadRequest => (400, "bad_request", 1),
            Kind::PreconditionFailed => (412, "precondition_failed", 4),
            Kind::TooLarge => (413, "too_large", 1),
            Kind::IdempotencyMismatch => (422, "idempotency_mismatch", 1),
            Kind::HeadersTooLarge => (431, "headers_too_large", 1),
            Kind::UriTooLong => (414, "uri_too_long", 1),
            Kind::UnsupportedEncoding => (415, "unsupported_encoding", 1),
            Kind::Timeout => (408, "timeout", exit::UNAVAILABLE),
            Kind::Overloaded => (429, "overloaded", exit::UNAVAILABLE),
            Kind::Unavailable => (503, "unavailable", exit::UNAVAILABLE),
            Kind::Behind => (503, "behind", exit::UNAVAILABLE),
            Kind::Compacted => (410, "compacted", 1),
            Kind::OutcomeUnknown => (504, "outcome_unknown", exit::UNAVAILABLE),
            Kind::ForwardToLeader => (307, "forward_to_leader", exit::UNAVAILABLE),
            Kind::AlreadyInitialized => (409, "already_initialized", 4),
            Kind::Membership => (409, "membership", 4),
            Kind::DiskFull => (507, "disk_full", 1),
            Kind::Corruption => (500, "corruption", 1),
            Kind::Unknown => (503, "unknown", exit::SYNC_FAILED),
            Kind::Internal => (500, "internal", 1),
        }
    }

    /// The HTTP status.
    pub(crate) fn status(self) -> u16 {
        self.row().0
    }

    /// The stable `error.type`.
    pub(crate) fn name(self) -> &'static str {
        self.row().1
    }

    /// The exit code of a command that met it.
    pub(crate) fn exit_code(self) -> u8 {
        self.row().2
    }

    /// Reads a type back, for the command line, which meets errors as JSON.
    pub(crate) fn from_name(name: &str) -> Option<Kind> {
        KINDS.iter().copied().find(|kind| kind.name() == name)
    }
}

/// All kinds, for reading types back and for the OpenAPI page.
pub(crate) const KINDS: &[Kind] = &[
    Kind::CollectionNotFound,
    Kind::DocumentNotFound,
    Kind::KeyNotFound,
    Kind::LeaseNotFound,
    Kind::LeaseExists,
    Kind::RouteNotFound,
    Kind::MethodNotAllowed,
    Kind::SchemaConflict,
    Kind::Mapping,
    Kind::Validation,
    Kind::InvalidName,
    Kind::QuerySyntax,
    Kind::QueryTooLong,
    Kind::UnknownParameter,
    Kind::InvalidParameter,
    Kind::BadRequest,
    Kind::PreconditionFailed,
    Kind::TooLarge,
    Kind::IdempotencyMismatch,
    Kind::HeadersTooLarge,
    Kind::UriTooLong,
    Kind::UnsupportedEncoding,
    Kind::Timeout,
    Kind::Overloaded,
    Kind::Unavailable,
    Kind::Behind,
    Kind::Compacted,
    Kind::OutcomeUnknown,
    Kind::ForwardToLeader,
    Kind::AlreadyInitialized,
    Kind::Membership,
    Kind::DiskFull,
    Kind::Corruption,
    Kind::Unknown,
    Kind::Internal,
];

/// One error, as every face reports it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// Which row of the table.
    pub(crate) kind: Kind,
    /// For people: what, and where.
    pub(crate) message: String,
    /// Further members of the error's JSON object: `field`, `hint`, `line`, `column`, `limit`, …
    pub(crate) details: Map<String, Value>,
    /// When to come again, for [`Kind::Overloaded`].
    pub(crate) retry_after: Option<Duration>,
    /// At which sequence number this is so, if it is said of what is stored.
    pub(crate) seq: Option<u64>,
}

impl Failure {
    /// An error with no further details.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), details: Map::new(), retry_after: None, seq: None }
    }

    /// The same with one more member in its JSON object.
    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Failure {
        self.details.insert(key.to_string(), value.into());
        self
    }

    /// The same, said of what is stored at this sequence number.
    pub(crate) fn at(mut self, seq: u64) -> Failure {
        self.seq = Some(seq);
        self
    }

    /// Whether it is worth to try again before `deadline`.
    pub(crate) fn is_busy_until(&self, deadline: Instant) -> bool {
        let again = |after: Duration| Instant::now() + after < deadline;
        self.kind == Kind::Overloaded && self.retry_after.is_some_and(again)
    }

    /// Whole seconds after which it is worth to try again, if it ever is.
    pub(crate) fn retry_after_s(&self) -> Option<u64> {
        match (self.retry_after, self.kind) {
            (Some(after), _) => Some((after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1)),
            (None, Kind::Unavailable | Kind::Behind) => Some(1),
            (None, _) => None,
        }
    }

    /// `{"type","message",…}`; `request_id` names the request where there is one.
    pub(crate) fn to_json(&self, request_id: Option<&str>) -> Value {
        let mut error = Map::new();
        error.insert("type".into(), self.kind.name().into());
        error.insert("message".into(), self.message.as_str().into());
        error.extend(self.details.clone());
        if let Some(seconds) = self.retry_after_s() {
            error.insert("retry_after_s".into(), seconds.into());
        }
        if let Some(id) = request_id {
            error.insert("request_id".into(), id.into());
        }
        Value::Object(error)
    }

    /// A body, a document or a line over its limit.
    pub(crate) fn too_large(what: &str, limit: u64) -> Failure {
        Failure::new(Kind::TooLarge, format!("{what} is larger than the limit of {limit} bytes"))
            .with("limit", limit)
    }

    /// A document that is not there.
    pub(crate) fn document_not_found(collection: &str, id: &str) -> Failure {
        let message =
            format!("document {} does not exist in collection {}", excerpt(id), excerpt(collection));
        Failure::new(Kind::DocumentNotFound, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Failure {
        if let Rejection::InTransaction { operation, rejection } = rejection {
            let mut failure = Failure::from(*rejection).with("operation", operation);
            failure.message = format!("operation {operation}: {}", failure.message);
            return failure;
        }
        let kind = match &rejection {
            Rejection::CollectionNotFound { .. } => Kind::CollectionNotFound,
            Rejection::SchemaConflict { .. } => Kind::SchemaConflict,
            Rejection::Mapping { .. } => Kind::Mapping,
            Rejection::Validation { .. } => Kind::Validation,
            Rejection::VersionConflict { .. } | Rejection::KeyConflict { .. } => Kind::PreconditionFailed,
            Rejection::LeaseNotFound { .. } => Kind::LeaseNotFound,
            Rejection::LeaseExists { .. } => Kind::LeaseExists,
            Rejection::InvalidName { .. } => Kind::InvalidName,
            Rejection::TooLarge { .. } => Kind::TooLarge,
            Rejection::KeyReused => Kind::IdempotencyMismatch,
            Rejection::Past | Rejection::InTransaction { .. } => Kind::Unavailable,
        };
        let mut failure = Failure::new(kind, rejection.to_string());
        if let Some(field) = rejection.field() {
            failure = failure.with("field", field);
        }
        match &rejection {
            Rejection::VersionConflict { current, .. } | Rejection::KeyConflict { current, .. } => {
                failure = failure.with("current_version", json!(current));
            }
            Rejection::TooLarge { limit, size, .. } => {
                failure = failure.with("limit", *limit).with("size", *size);
            }
            _ => {}
        }
        failure
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let message = error.to_string();
        match error {
            Error::Rejected(rejection) => Failure::from(rejection),
            Error::QuerySyntax { reason, position, column } => Failure::new(Kind::QuerySyntax, reason)
                .with("line", 1)
                .with("column", column)
                .with("position", position),
            Error::Busy { retry_after } => {
                let mut failure =
                    Failure::new(Kind::Overloaded, "memory or disk is behind the writes; try again");
                failure.retry_after = Some(retry_after);
                failure
            }
            Error::Unknown { reason } => Failure::new(
                Kind::Unknown,
                format!(
                    "the write may or may not be there ({reason}); the server stops now, read after it is back"
                ),
            ),
            Error::DiskFull { .. } => Failure::new(Kind::DiskFull, message),
            Error::Corrupt { file, offset, reason } => {
                Failure::new(Kind::Corruption, format!("{file} is damaged at offset {offset}: {reason}"))
                    .with("file", file)
                    .with("offset", offset)
            }
            Error::Compacted { oldest } => Failure::new(Kind::Compacted, message)
                .with("oldest", oldest)
                .with("hint", "read what there is, then follow from the Lumen-Seq of that"),
            Error::NotYet { last, .. } => Failure::new(Kind::InvalidParameter, message).with("last", last),
            Error::Cancelled => Failure::new(Kind::Timeout, "the request was given up before it was done"),
            Error::Closed => Failure::new(Kind::Unavailable, "the server is shutting down"),
            Error::InUse { .. } | Error::Replica => Failure::new(Kind::Unavailable, message),
            Error::Io { .. } => Failure::new(Kind::Internal, message),
        }
    }
}

impl From<lumen_raft::Error> for Failure {
    fn from(error: lumen_raft::Error) -> Failure {
        use lumen_raft::Error as E;
        let message = error.to_string();
        match error {
            E::Rejected(rejection) => Failure::from(rejection),
            E::Database(error) => Failure::from(error),
            E::NoLeader { .. } | E::NotLeader { .. } => Failure::new(Kind::Unavailable, message).with(
                "hint",
                "GET /cluster shows who is there; a cluster needs more than half of its voters",
            ),
            E::Busy { retry_after } => Failure::from(Error::Busy { retry_after }),
            E::Unknown { .. } => Failure::new(Kind::OutcomeUnknown, message).with(
                "hint",
                "send it again with an Idempotency-Key: then it is done once, however often it comes",
            ),
            E::Behind { wanted, has } => {
                Failure::new(Kind::Behind, message).with("wanted_seq", wanted).with("seq", has)
            }
            E::AlreadyInitialized => Failure::new(Kind::AlreadyInitialized, message),
            E::OtherNode { .. } | E::Membership { .. } => Failure::new(Kind::Membership, message),
            E::DiskFull { reason } => Failure::from(Error::DiskFull { reason }),
            E::Corrupt { file, offset, reason } => Failure::from(Error::Corrupt { file, offset, reason }),
            E::Io { .. } => Failure::new(Kind::Internal, message),
            E::Stopped { .. } => Failure::new(Kind::Unavailable, message),
        }
    }
}

/// A piece of the caller's input for a message: quoted, escaped, and at most 64 bytes of it.
pub(crate) fn excerpt(text: &str) -> String {
    const BYTES_MAX: usize = 64;
    if text.len() <= BYTES_MAX {
        return format!("{text:?}");
    }
    let mut end = BYTES_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{:?}…", &text[..end])
}

/// The known name nearest to `name`, as a hint, when one is near enough to be meant.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let nearest = known.map(|k| (strsim::damerau_levenshtein(name, k), k)).min()?;
    let near = nearest.0 <= 2.max(nearest.1.len() / 3) && nearest.0 < nearest.1.len();
    near.then(|| format!("did you mean {:?}?", nearest.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_unique_and_reads_back() {
        for kind in KINDS {
            assert_eq!(Kind::from_name(kind.name()), Some(*kind));
            assert!((307..600).contains(&kind.status()));
            assert_ne!(kind.exit_code(), 0);
        }
    }

    #[test]
    fn errors_of_the_database_find_their_row() {
        let corrupt = Error::Corrupt { file: "sst-7".into(), offset: 42, reason: "checksum".into() };
        for (error, status, name) in [
            (Error::Busy { retry_after: Duration::from_millis(1500) }, 429, "overloaded"),
            (Error::Unknown { reason: "fsync".into() }, 503, "unknown"),
            (Error::Cancelled, 408, "timeout"),
            (Error::Closed, 503, "unavailable"),
            (corrupt, 500, "corruption"),
        ] {
            let failure = Failure::from(error);
            assert_eq!((failure.kind.status(), failure.kind.name()), (status, name));
            let reply = crate::http::reply::failure(&failure, "r1");
            let wait = reply.headers().get("retry-after").map(|value| value.to_str().unwrap().to_string());
            match status {
                429 => assert_eq!(wait.as_deref(), Some("2"), "whole seconds, rounded up"),
                500 => assert_eq!(failure.to_json(Some("r1"))["offset"], 42),
                _ => {}
            }
        }
        let conflict = Rejection::VersionConflict { id: "a".into(), current: None };
        assert_eq!(Failure::from(conflict).to_json(None)["current_version"], Value::Null);
    }

    #[test]
    fn messages_echo_little_of_the_input() {
        let long = "ä".repeat(1000);
        assert!(excerpt(&long).len() < 80);
        assert_eq!(excerpt("a\nb"), r#""a\nb""#);
    }

    #[test]
    fn hints_only_when_near() {
        let known = ["limit", "offset", "q"];
        assert_eq!(did_you_mean("limt", known.into_iter()).as_deref(), Some("did you mean \"limit\"?"));
        assert_eq!(did_you_mean("something_else", known.into_iter()), None);
    }
}
