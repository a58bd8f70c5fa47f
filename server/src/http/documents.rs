//! Single documents: add, put, get, delete.

use bytes::Bytes;
use http::header;
use hyper::body::Body;
use lumen::Prepared;
use lumen_raft::Consistency;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::api::{self, blocking};
use crate::error::{Failure, Kind};
use crate::http::json::{check_depth, locate};
use crate::http::reply::{Reply, at_seq, empty, json_text, json_value, set};
use crate::http::request::{Call, header_text, invalid, parse_etag};
use crate::http::routes::Handling;

/// Bytes of a document, at most.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// Documents up to this size are parsed and analysed on the thread that read them: that takes less than the two thread
/// switches it would cost to move them. Larger ones would hold up other requests.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// Bytes of a path segment that stand for themselves.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The path `documents/search` on PUT and DELETE.
pub(crate) fn named_search(mut call: Call) -> Call {
    call.id = "search".to_string();
    call
}

/// The path `document?id=…`: takes the id from the query.
pub(crate) async fn with_id_parameter(
    mut call: Call,
    handler: fn(Call) -> Handling,
) -> Result<Reply, Failure> {
    match call.query.get("id") {
        Some(id) => call.id = id.to_string(),
        None => return Err(invalid("id", "is missing")),
    }
    handler(call).await
}

/// `POST …/documents`
pub(crate) async fn add(mut call: Call) -> Result<Reply, Failure> {
    if call.headers.contains_key(header::IF_MATCH) {
        let message = "If-Match cannot hold for a document that gets a new id";
        return Err(Failure::new(Kind::InvalidParameter, message));
    }
    call.id = api::new_id(call.asked()?.key);
    let location = format!(
        "/collections/{}/documents/{}",
        utf8_percent_encode(&call.collection, SEGMENT),
        utf8_percent_encode(&call.id, SEGMENT)
    );
    let mut reply = store(call).await?;
    set(&mut reply, "location", &location);
    Ok(reply)
}

/// `PUT …/documents/{id}`
pub(crate) async fn put(call: Call) -> Result<Reply, Failure> {
    api::check_id(&call.id)?;
    store(call).await
}

async fn store(mut call: Call) -> Result<Reply, Failure> {
    let condition = call.condition()?;
    let asked = call.asked()?;
    if call.body.as_ref().is_some_and(|body| body.size_hint().lower() > INLINE_BYTES_MAX as u64) {
        // Whoever sends 16 MB to a collection that is not there need not send them all to learn it.
        let here = call.node.store.snapshot().mapping(&call.collection);
        if here.is_err() {
            call.node.store.catch_up(asked.patience).await;
            call.node.store.snapshot().mapping(&call.collection)?;
        }
    }
    let body = call.read_body("the document", DOCUMENT_BYTES_MAX).await?;
    let small = body.len() <= INLINE_BYTES_MAX;
    let node = call.node.clone();
    let prepare = move |collection: String, id: String| -> Result<Prepared, Failure> {
        check_depth(&body)?;
        let source = Vec::from(Bytes::clone(&body));
        let prepared = api::prepare_put(&node.store, collection, id, source, condition);
        prepared.map_err(|failure| match failure.kind {
            Kind::Validation => locate(failure, &body),
            _ => failure,
        })
    };
    let (collection, id) = (call.collection.clone(), call.id.clone());
    let first = if small {
        prepare(collection, id)
    } else {
        let prepare = prepare.clone();
        blocking(move || prepare(collection, id)).await
    };
    let prepared = match first {
        // The collection, or its mapping, may be news to this node.
        Err(_) if call.node.store.catch_up(asked.patience).await => {
            let (collection, id) = (call.collection.clone(), call.id.clone());
            blocking(move || prepare(collection, id)).await?
        }
        prepared => prepared?,
    };
    let (result, version) = api::put(&call.node.store, prepared, &asked).await?;
    let body = json!({ "id": call.id, "result": result.name(), "version": version });
    let status = if result == api::PutResult::Created { 201 } else { 200 };
    let mut reply = at_seq(json_value(status, &body), version);
    set(&mut reply, "etag", &format!("\"{version}\""));
    Ok(reply)
}

/// `GET …/documents/{id}`
pub(crate) async fn get(call: Call) -> Result<Reply, Failure> {
    api::check_id(&call.id)?;
    let snapshot = call.read(Consistency::Linearizable).await?;
    let document = api::get(&snapshot, &call.collection, &call.id)?;
    let known = header_text(&call.headers, header::IF_NONE_MATCH)?.and_then(parse_etag);
    let etag = format!("\"{}\"", document.version);
    let mut reply = if known == Some(document.version) {
        empty(304)
    } else {
        let mut body = Vec::with_capacity(document.source.len() + document.id.len() + 64);
        write_document(&mut body, &document.id, document.version, &document.source)?;
        json_text(200, body)
    };
    set(&mut reply, "etag", &etag);
    Ok(at_seq(reply, snapshot.seq()))
}

/// `{"id":…,"version":…,"source":…}` with the source as it is stored, not parsed again.
fn write_document(out: &mut Vec<u8>, id: &str, version: u64, source: &[u8]) -> Result<(), Failure> {
    out.extend_from_slice(b"{\"id\":");
    write_string(out, id)?;
    out.extend_from_slice(format!(",\"version\":{version},\"source\":").as_bytes());
    out.extend_from_slice(source);
    out.push(b'}');
    Ok(())
}

/// A string as JSON.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) -> Result<(), Failure> {
    serde_json::to_writer(out, text).map_err(|error| Failure::new(Kind::Internal, error.to_string()))
}

/// `DELETE …/documents/{id}`
pub(crate) async fn delete(call: Call) -> Result<Reply, Failure> {
    api::check_id(&call.id)?;
    let condition = call.condition()?;
    let asked = call.asked()?;
    let seq = api::delete(&call.node.store, &call.collection, &call.id, condition, &asked).await?;
    Ok(at_seq(empty(204), seq))
}
