//! Answers: JSON, text, nothing, and errors in their one shape.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::body::Body;
use crate::error::Failure;

/// What every handler returns.
pub(crate) type Reply = Response<Body>;

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
    with_body(status, content_type, Body::whole(body))
}

/// An answer whose body may still have to come.
pub(crate) fn with_body(status: u16, content_type: &'static str, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

/// An answer without a body.
pub(crate) fn empty(status: u16) -> Reply {
    let mut reply = Response::new(Body::whole(Bytes::new()));
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
    if let Some(seconds) = failure.retry_after_s() {
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    match failure.seq {
        Some(seq) => at_seq(reply, seq),
        None => reply,
    }
}
