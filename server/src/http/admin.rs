//! What operators and their tools ask: health, readiness, metrics, the OpenAPI page.

use bytes::Bytes;

use crate::error::{Failure, Kind};
use crate::http::reply::{Reply, empty, json_value, with_type};
use crate::http::request::Call;
use crate::http::routes;

/// `GET /health`
pub(crate) async fn health(call: Call) -> Result<Reply, Failure> {
    readyz(call).await
}

/// `GET /livez`
pub(crate) async fn livez(_call: Call) -> Result<Reply, Failure> {
    Ok(empty(200))
}

/// `GET /readyz`
pub(crate) async fn readyz(call: Call) -> Result<Reply, Failure> {
    if call.node.is_ready() {
        return Ok(empty(200));
    }
    Err(Failure::new(Kind::Unavailable, "the server is shutting down"))
}

/// `GET /metrics`
pub(crate) async fn metrics(call: Call) -> Result<Reply, Failure> {
    let text = call.node.metrics.text();
    Ok(with_type(200, "application/openmetrics-text; version=1.0.0; charset=utf-8", Bytes::from(text)))
}

/// `GET /openapi.json`
pub(crate) async fn openapi(_call: Call) -> Result<Reply, Failure> {
    Ok(json_value(200, &routes::openapi()))
}
