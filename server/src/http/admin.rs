//! What operators and their tools ask: health, readiness, metrics, the OpenAPI page.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::error::{Failure, Kind};
use crate::http::reply::{Reply, empty, json_value, with_type};
use crate::http::request::Call;
use crate::http::routes;
use crate::node::Node;

/// `GET /health`
pub(crate) async fn health(call: Call) -> Result<Reply, Failure> {
    if call.node.is_ready() {
        return Ok(empty(200));
    }
    Err(Failure::new(Kind::Unavailable, "the server is shutting down"))
}

/// `GET /livez`
pub(crate) async fn livez(_call: Call) -> Result<Reply, Failure> {
    Ok(empty(200))
}

/// `GET /readyz?verbose`
pub(crate) async fn readyz(call: Call) -> Result<Reply, Failure> {
    let checks = checks(&call.node);
    let failed = checks.iter().find(|check| !check.holds);
    if call.query.get("verbose").is_some_and(|value| value != "false") {
        let shown: Vec<Value> = checks
            .iter()
            .map(|check| match check.holds {
                true => json!({ "check": check.name, "ok": true }),
                false => json!({ "check": check.name, "ok": false, "why": check.why, "do": check.advice }),
            })
            .collect();
        let status = if failed.is_some() { 503 } else { 200 };
        return Ok(json_value(status, &json!({ "ready": failed.is_none(), "checks": shown })));
    }
    match failed {
        None => Ok(empty(200)),
        Some(check) => Err(Failure::new(Kind::Unavailable, check.why.as_str())
            .with("check", check.name)
            .with("hint", check.advice)),
    }
}

/// Something that must be so for requests to be answered.
struct Check {
    name: &'static str,
    holds: bool,
    why: String,
    advice: &'static str,
}

fn checks(node: &Node) -> Vec<Check> {
    let check = |name, holds, why: &str, advice| Check { name, holds, why: why.to_string(), advice };
    let full = node.store.stats().engine.disk_full;
    let mut checks = vec![
        check("serving", node.is_ready(), "the server is shutting down", "wait until it is started again"),
        check(
            "disk",
            !full,
            "there is no room left on the disk",
            "free some: writes go on by themselves then",
        ),
    ];
    let Some(face) = &node.cluster else { return checks };
    let status = face.raft.status();
    let is_member = status.members.contains_key(&status.id);
    let why = "this node is in no cluster";
    let advice = "POST /cluster/init forms one, POST /cluster/join joins one";
    checks.push(check("member", is_member, why, advice));
    let advice = "start more of the cluster's nodes, or look at their network: more than half of the voters are needed";
    checks.push(check("leader", status.leader.is_some(), "no leader is known here", advice));
    checks.push(check(
        "recovered",
        node.has_recovered(),
        "what was committed before the start is not applied yet",
        "wait; it needs a leader",
    ));
    let lag = status.committed_index.unwrap_or(0).saturating_sub(status.applied_index.unwrap_or(0));
    let why = format!("{lag} entries are committed and not applied here");
    checks.push(check(
        "lag",
        lag <= face.lag_max,
        &why,
        "wait; if it does not shrink, the disk or the processor is too slow",
    ));
    checks
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
