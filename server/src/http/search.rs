//! `GET …/documents/search`: the query string in, the best documents out.

use std::time::Instant;

use lumen_raft::Consistency;

use crate::api::{self, WINDOW_MAX};
use crate::error::Failure;
use crate::http::documents::write_string;
use crate::http::reply::{Reply, at_seq, json_text, set};
use crate::http::request::{Call, invalid};

/// Hits unless the request says how many.
const LIMIT_DEFAULT: u64 = 10;

/// `GET …/documents/search?q=&limit=&offset=`
pub(crate) async fn search(call: Call) -> Result<Reply, Failure> {
    let started = Instant::now();
    let (limit, offset) = window(&call)?;
    let query = call.query.get("q").unwrap_or_default().to_string();
    let (collection, reading) = (call.collection.clone(), call.reading(Consistency::Session(0))?);
    let search = api::Search { collection, query, offset, limit, reading };
    let answered = api::search(&call.node, search, move |results, seq| {
        let mut body =
            Vec::with_capacity(64 + results.hits.iter().map(|hit| hit.source.len() + 128).sum::<usize>());
        body.extend_from_slice(b"{\"hits\":[");
        for (nth, hit) in results.hits.iter().enumerate() {
            body.extend_from_slice(if nth == 0 { b"{\"id\":" } else { b",{\"id\":" });
            write_string(&mut body, &hit.id)?;
            let score = if hit.score.is_finite() { hit.score } else { 0.0 };
            body.extend_from_slice(
                format!(",\"score\":{score},\"version\":{},\"source\":", hit.version).as_bytes(),
            );
            body.extend_from_slice(&hit.source);
            body.push(b'}');
        }
        let took = started.elapsed();
        let tail = format!("],\"total\":{},\"took_ms\":{}}}", results.total, took.as_millis());
        body.extend_from_slice(tail.as_bytes());
        Ok((body, seq, took))
    });
    let (body, seq, took) = answered.await?;
    let mut reply = at_seq(json_text(200, body), seq);
    set(&mut reply, "server-timing", &format!("search;dur={:.3}", took.as_secs_f64() * 1000.0));
    Ok(reply)
}

/// Limit and offset, within the window.
fn window(call: &Call) -> Result<(usize, usize), Failure> {
    let limit = call.query.number("limit", LIMIT_DEFAULT)?;
    let offset = call.query.number("offset", 0)?;
    if limit.saturating_add(offset) > WINDOW_MAX {
        let parameter = if limit > WINDOW_MAX { "limit" } else { "offset" };
        let why = format!("is too large: limit + offset may be {WINDOW_MAX}");
        return Err(invalid(parameter, &why).with("limit", WINDOW_MAX));
    }
    Ok((limit as usize, offset as usize))
}
