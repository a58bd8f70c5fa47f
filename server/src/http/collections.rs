//! Collections: list, create, describe, drop.

use lumen_raft::Consistency;
use serde_json::json;

use crate::api;
use crate::error::{Failure, Kind};
use crate::http::json::{check_depth, locate};
use crate::http::reply::{Reply, at_seq, empty, json_text, json_value};
use crate::http::request::Call;

/// Bytes of a mapping, at most: a thousand fields with long names fit well.
const MAPPING_BYTES_MAX: usize = 1 << 20;

/// How new what is told of collections is, unless the request says.
const DEFAULT: Consistency = Consistency::Linearizable;

/// `GET /collections`
pub(crate) async fn list(call: Call) -> Result<Reply, Failure> {
    let snapshot = call.read(DEFAULT).await?;
    Ok(at_seq(json_value(200, &json!({ "collections": snapshot.collections() })), snapshot.seq()))
}

/// `PUT /collections/{collection}`
pub(crate) async fn create(mut call: Call) -> Result<Reply, Failure> {
    let body = call.read_body("the mapping", MAPPING_BYTES_MAX).await?;
    check_depth(&body).map_err(|failure| Failure { kind: Kind::Mapping, ..failure })?;
    let created = api::create_collection(&call.node.store, &call.collection, &body, &call.asked()?).await;
    let (created, mapping, seq) = created.map_err(|failure| locate(failure, &body))?;
    Ok(at_seq(json_text(if created { 201 } else { 200 }, mapping.to_json()), seq))
}

/// `GET /collections/{collection}`
pub(crate) async fn describe(call: Call) -> Result<Reply, Failure> {
    let snapshot = call.read(DEFAULT).await?;
    let mapping = snapshot.mapping(&call.collection).map_err(|e| Failure::from(e).at(snapshot.seq()))?;
    Ok(at_seq(json_text(200, mapping.to_json()), snapshot.seq()))
}

/// `DELETE /collections/{collection}`
pub(crate) async fn remove(call: Call) -> Result<Reply, Failure> {
    let seq = api::drop_collection(&call.node.store, &call.collection, &call.asked()?).await?;
    Ok(at_seq(empty(204), seq))
}
