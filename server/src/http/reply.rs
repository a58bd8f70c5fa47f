//! Answers: JSON, text, nothing, and errors in their one shape.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::error::{Failure, Kind};

/// What every handler returns. Bodies are whole: nothing we answer is larger than its limit allows to hold.
pub(crate) type Reply = Response<Full<Bytes>>;

/// A JSON answer from JSON text.
pub(crate) fn json_text(status: u16, text: impl Into<Bytes>) -> Reply {
    with_type(status, "application/json", text.into())
}

/// A JSON answer.
pub(crate) fn json_value(status: u16, value: &Value) -> Reply {
    json_text(status, value.to_string())
}

/// An answer of another content type.
pub(crate) fn with_type(status: u16, content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

/// An answer without a body.
pub(crate) fn empty(status: u16) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::new()));
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply
}

/// Sets a header if its value can be one.
pub(crate) fn set(reply: &mut Reply, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}

/// Says at which sequence number the answer holds.
pub(crate) fn at_seq(mut reply: Reply, seq: u64) -> Reply {
    reply.headers_mut().insert("lumen-seq", HeaderValue::from(seq));
    reply
}

/// An error's answer: `{"error":{…}}` with the status of its kind.
pub(crate) fn failure(failure: &Failure, request_id: &str) -> Reply {
    let body = json!({ "error": failure.to_json(Some(request_id)) });
    let mut reply = json_value(failure.kind.status(), &body);
    if let Some(after) = failure.retry_after {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    } else if matches!(failure.kind, Kind::Unavailable) {
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(1));
    }
    reply
}
