//! `GET …/documents/search`: the query string in, the best documents out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use lumen_raft::Consistency;
use tokio::time::timeout_at;

use crate::api;
use crate::error::{Failure, Kind};
use crate::http::documents::{blocking, write_string};
use crate::http::reply::{Reply, at_seq, json_text, set};
use crate::http::request::{Call, invalid};

/// Hits unless the request says how many.
const LIMIT_DEFAULT: u64 = 10;

/// `limit + offset`, at most: what comes later is nobody's reading any more.
const WINDOW_MAX: u64 = 10_000;

/// Bytes of a query, at most.
const QUERY_BYTES_MAX: usize = 32 << 10;

/// Tells the search to give up when the request is dropped, whether it timed out or its connection went away.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// `GET …/documents/search?q=&limit=&offset=`
pub(crate) async fn search(call: Call) -> Result<Reply, Failure> {
    let started = Instant::now();
    let (limit, offset) = window(&call)?;
    let query = call.query.get("q").unwrap_or_default().to_string();
    if query.len() > QUERY_BYTES_MAX {
        let message = format!("the query has {} bytes; the limit is {QUERY_BYTES_MAX}", query.len());
        return Err(Failure::new(Kind::QueryTooLong, message).with("limit", QUERY_BYTES_MAX));
    }
    let deadline = tokio::time::Instant::from_std(started + call.node.limits.request_timeout);
    let cancel = CancelOnDrop(Arc::new(AtomicBool::new(false)));
    let too_long = |_| {
        let message = format!("the search took longer than {:?}", call.node.limits.request_timeout);
        Failure::new(Kind::Timeout, message)
            .with("hint", "a narrower query, or --request-timeout on the server")
    };
    let permit = timeout_at(deadline, call.node.searches.acquire()).await.map_err(too_long)?;
    let snapshot = timeout_at(deadline, call.read(Consistency::Session(0))).await.map_err(too_long)??;
    let (node, collection, cancelled) = (call.node.clone(), call.collection.clone(), cancel.0.clone());
    // A search may take microseconds or seconds, nobody knows before. On its own thread it costs one hop (some 10 µs),
    // never holds up the requests beside it, and can be given up while it runs.
    let found = blocking(move || {
        let found = api::search(&snapshot, &collection, &query, offset, limit, &cancelled);
        if found.is_err() && cancelled.load(Ordering::Relaxed) {
            node.metrics.search_given_up();
        }
        let (results, seq) = (found?, snapshot.seq());
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
    let (body, seq, took) = timeout_at(deadline, found).await.map_err(too_long)??;
    drop(permit);
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
