//! Leases: what is put with one is kept as long as it is kept alive.

use lumen::KeyWrite;
use lumen_raft::Consistency;
use serde::Deserialize;
use serde_json::json;

use crate::api;
use crate::config::parse_span;
use crate::error::{Failure, Kind, excerpt};
use crate::http::reply::{Reply, at_seq, json_value, set};
use crate::http::request::Call;

/// Bytes of a request that asks for a lease.
const BODY_BYTES_MAX: usize = 4 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grant {
    ttl: String,
    #[serde(default)]
    lease: u64,
}

fn number(call: &Call) -> Result<u64, Failure> {
    let no = || {
        let message = format!("a lease is a number from 1 on, not {}", excerpt(&call.id));
        Failure::new(Kind::InvalidParameter, message)
    };
    call.id.parse().ok().filter(|lease| *lease > 0).ok_or_else(no)
}

/// `POST /leases`
pub(crate) async fn grant(mut call: Call) -> Result<Reply, Failure> {
    let asked = call.asked()?;
    let body = call.read_body("the lease", BODY_BYTES_MAX).await?;
    let bad = |reason: String| Failure::new(Kind::BadRequest, reason).with("hint", "{\"ttl\":\"30s\"}");
    let Grant { ttl, lease } =
        serde_json::from_slice(&body).map_err(|error| bad(format!("the body is no lease: {error}")))?;
    let ttl = parse_span(&ttl).map_err(|reason| bad(format!("ttl: {reason}")))?;
    let ((lease, ttl), seq) = api::lease(&call.node.store, KeyWrite::Grant { lease, ttl }, &asked).await?;
    let mut reply = at_seq(json_value(201, &json!({ "lease": lease, "ttl_ms": ttl })), seq);
    set(&mut reply, "location", &format!("/leases/{lease}"));
    Ok(reply)
}

/// `PUT /leases/{id}`
pub(crate) async fn keep_alive(call: Call) -> Result<Reply, Failure> {
    let write = KeyWrite::KeepAlive { lease: number(&call)? };
    let ((lease, ttl), seq) = api::lease(&call.node.store, write, &call.asked()?).await?;
    Ok(at_seq(json_value(200, &json!({ "lease": lease, "ttl_ms": ttl })), seq))
}

/// `DELETE /leases/{id}`
pub(crate) async fn revoke(call: Call) -> Result<Reply, Failure> {
    let write = KeyWrite::Revoke { lease: number(&call)? };
    let (count, seq) = api::delete_keys(&call.node.store, write, &call.asked()?).await?;
    Ok(at_seq(json_value(200, &json!({ "deleted": count })), seq))
}

/// `GET /leases/{id}`
pub(crate) async fn get(call: Call) -> Result<Reply, Failure> {
    let lease = number(&call)?;
    let snapshot = call.read(Consistency::Linearizable).await?;
    let seq = snapshot.seq();
    let found = snapshot.lease(lease).map_err(|error| Failure::from(error).at(seq))?;
    let missing = || Failure::from(lumen::Rejection::LeaseNotFound { lease }).at(seq);
    let state = found.ok_or_else(missing)?;
    let body = json!({ "lease": lease, "ttl_ms": state.ttl, "expires_ms": state.expires });
    Ok(at_seq(json_value(200, &body), seq))
}
