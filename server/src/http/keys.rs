//! Key-values: raw bytes under a key, and walks over them.

use std::ops::Bound;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header;
use lumen::{KeyRange, KeyRow, KeyWrite, Until, prefix_end};
use lumen_raft::Consistency;
use serde_json::{Map, Value, json};

use crate::api::{self, blocking};
use crate::config::parse_span;
use crate::error::{Failure, Kind, excerpt};
use crate::http::documents::write_string;
use crate::http::reply::{Reply, at_seq, empty, json_text, json_value, set, with_type};
use crate::http::request::{Call, header_text, invalid, parse_etag};

/// How new what is read is, unless the request says.
const DEFAULT: Consistency = Consistency::Linearizable;
/// Rows of a page of a scan, at most, and unless the request says.
const ROWS_MAX: u64 = 10_000;
const ROWS: u64 = 100;
/// Bytes of keys and values after which a page ends, at most and unless the request says.
const PAGE_BYTES_MAX: u64 = 16 << 20;
const PAGE_BYTES: u64 = 1 << 20;

/// How long a key-value is to be kept.
const TTL: header::HeaderName = header::HeaderName::from_static("lumen-ttl");
/// By which lease it is to be kept.
const LEASE: header::HeaderName = header::HeaderName::from_static("lumen-lease");

/// What `encoding=base64` says of parameters and answers.
pub(crate) fn is_base64(call: &Call) -> Result<bool, Failure> {
    match call.query.get("encoding") {
        None | Some("text") => Ok(false),
        Some("base64") => Ok(true),
        Some(other) => Err(invalid("encoding", &format!("is text or base64, not {}", excerpt(other)))),
    }
}

fn bytes_of(call: &Call, name: &str, base64: bool) -> Result<Option<Vec<u8>>, Failure> {
    let Some(text) = call.query.get(name) else { return Ok(None) };
    if !base64 {
        return Ok(Some(text.as_bytes().to_vec()));
    }
    STANDARD.decode(text).map(Some).map_err(|error| invalid(name, &format!("is no base64: {error}")))
}

fn until(call: &Call) -> Result<Until, Failure> {
    let ttl = header_text(&call.headers, TTL)?;
    let lease = header_text(&call.headers, LEASE)?;
    match (ttl, lease) {
        (None, None) => Ok(Until::Deleted),
        (Some(_), Some(_)) => {
            let message = "Lumen-TTL and Lumen-Lease both say how long it is kept; one of them has to go";
            Err(Failure::new(Kind::InvalidParameter, message))
        }
        (Some(ttl), None) => {
            let bad = |reason: String| Failure::new(Kind::InvalidParameter, format!("Lumen-TTL: {reason}"));
            parse_span(ttl).map(Until::Ttl).map_err(bad)
        }
        (None, Some(lease)) => lease.parse().map(Until::Lease).map_err(|_| {
            let message = format!("Lumen-Lease is the number of a lease, not {}", excerpt(lease));
            Failure::new(Kind::InvalidParameter, message)
        }),
    }
}

/// `PUT /kv/{space}/keys/{key}`
pub(crate) async fn put(mut call: Call) -> Result<Reply, Failure> {
    let (condition, until, asked) = (call.condition()?, until(&call)?, call.asked()?);
    let limit = call.node.limits.value_size;
    let value = call.read_body("the value", limit).await?;
    let (space, key) = (call.space.clone(), call.key.clone());
    let write = KeyWrite::Put { space, key, value: value.into(), condition, until, returns: false };
    let (put, seq) = api::put_key(&call.node.store, write, &asked).await?;
    let (status, result) = if put.existed { (200, "updated") } else { (201, "created") };
    let mut reply = at_seq(json_value(status, &json!({ "result": result, "version": seq })), seq);
    set(&mut reply, "etag", &format!("\"{seq}\""));
    Ok(reply)
}

/// `GET /kv/{space}/keys/{key}`
pub(crate) async fn get(call: Call) -> Result<Reply, Failure> {
    let snapshot = call.read(DEFAULT).await?;
    let found = snapshot.get_key(&call.space, &call.key).map_err(|e| Failure::from(e).at(snapshot.seq()))?;
    let Some(found) = found else {
        let message = format!("there is no such key in space {}", excerpt(&call.space));
        return Err(Failure::new(Kind::KeyNotFound, message).at(snapshot.seq()));
    };
    let known = header_text(&call.headers, header::IF_NONE_MATCH)?.and_then(parse_etag);
    let mut reply = match known == Some(found.version) {
        true => empty(304),
        false => with_type(200, "application/octet-stream", Bytes::from(found.value)),
    };
    set(&mut reply, "etag", &format!("\"{}\"", found.version));
    if let Some(expires) = found.expires {
        set(&mut reply, "lumen-expires-ms", &expires.to_string());
    }
    if let Some(lease) = found.lease {
        set(&mut reply, "lumen-lease", &lease.to_string());
    }
    Ok(at_seq(reply, snapshot.seq()))
}

/// `DELETE /kv/{space}/keys/{key}`
pub(crate) async fn delete(call: Call) -> Result<Reply, Failure> {
    let (condition, asked) = (call.condition()?, call.asked()?);
    let (space, key) = (call.space.clone(), call.key.clone());
    let write = KeyWrite::Delete { space, key, condition, returns: false };
    let (_, seq) = api::delete_keys(&call.node.store, write, &asked).await?;
    Ok(at_seq(empty(204), seq))
}

/// First and last key of what `prefix`, `start` and `end` say.
pub(crate) fn range(call: &Call, base64: bool) -> Result<(Vec<u8>, Option<Vec<u8>>), Failure> {
    let start = bytes_of(call, "start", base64)?;
    let end = bytes_of(call, "end", base64)?;
    match bytes_of(call, "prefix", base64)? {
        None => Ok((start.unwrap_or_default(), end)),
        Some(prefix) if start.is_none() && end.is_none() => {
            let end = prefix_end(&prefix);
            Ok((prefix, end))
        }
        Some(_) => Err(invalid("prefix", "says start and end by itself")),
    }
}

/// `DELETE /kv/{space}/keys?prefix=…`
pub(crate) async fn delete_range(call: Call) -> Result<Reply, Failure> {
    let asked = call.asked()?;
    let (start, end) = range(&call, is_base64(&call)?)?;
    if start.is_empty() && end.is_none() && call.query.get("prefix").is_none() {
        let message = "this would delete all keys of the space; prefix= (empty) says that it is meant";
        return Err(Failure::new(Kind::InvalidParameter, message));
    }
    let write = KeyWrite::DeleteRange { space: call.space.clone(), start, end };
    let (count, seq) = api::delete_keys(&call.node.store, write, &asked).await?;
    Ok(at_seq(json_value(200, &json!({ "deleted": count })), seq))
}

/// A member of a JSON object that holds bytes: as text if they are, unless base64 is asked for.
pub(crate) fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8], base64: bool) {
    match std::str::from_utf8(bytes) {
        Ok(text) if !base64 => object.insert(name.into(), text.into()),
        _ => object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}

/// The same, written down.
fn write_bytes(out: &mut Vec<u8>, name: &str, bytes: &[u8], base64: bool) {
    match std::str::from_utf8(bytes) {
        Ok(text) if !base64 => {
            out.extend_from_slice(format!("\"{name}\":").as_bytes());
            // A string can always be written, and so can it be to memory.
            let _ = write_string(out, text);
        }
        _ => {
            out.extend_from_slice(format!("\"{name}_base64\":\"{}\"", STANDARD.encode(bytes)).as_bytes());
        }
    }
}

/// `GET /kv/{space}/scan`
pub(crate) async fn scan(call: Call) -> Result<Reply, Failure> {
    let base64 = is_base64(&call)?;
    let flag = |name: &str| call.query.get(name).is_some_and(|value| value != "false");
    let (reverse, keys_only) = (flag("reverse"), flag("keys_only"));
    let (start, end) = range(&call, base64)?;
    let limit = call.query.number("limit", ROWS)?.min(ROWS_MAX) as usize;
    let bytes_max = call.query.number("max_bytes", PAGE_BYTES)?.min(PAGE_BYTES_MAX) as usize;
    let cursor = match call.query.get("cursor") {
        None => None,
        Some(text) => Some(URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid("cursor", "is none of ours"))?),
    };
    let snapshot = call.read(DEFAULT).await?;
    let (space, seq) = (call.space.clone(), snapshot.seq());
    let page = blocking(move || {
        let end_of_range = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let (start, end) = match &cursor {
            None => (Bound::Included(&start[..]), end_of_range),
            Some(last) if reverse => (Bound::Included(&start[..]), Bound::Excluded(&last[..])),
            Some(last) => (Bound::Excluded(&last[..]), end_of_range),
        };
        // Written as it goes: by way of a tree of values a page would take a sixth longer.
        let (mut page, mut rows, mut bytes, mut next) = (b"{\"pairs\":[".to_vec(), 0, 0, None);
        let row = &mut |row: KeyRow<'_>| {
            if rows == limit || bytes > bytes_max {
                return false;
            }
            bytes += row.key.len() + if keys_only { 0 } else { row.value.len() };
            page.extend_from_slice(if rows == 0 { b"{" } else { b",{" });
            write_bytes(&mut page, "key", row.key, base64);
            if !keys_only {
                page.push(b',');
                write_bytes(&mut page, "value", row.value, base64);
            }
            page.extend_from_slice(format!(",\"version\":{}", row.version).as_bytes());
            let mut also = |name: &str, number: Option<u64>| {
                number
                    .into_iter()
                    .for_each(|number| page.extend_from_slice(format!(",\"{name}\":{number}").as_bytes()));
            };
            also("expires_ms", row.expires);
            also("lease", row.lease);
            page.push(b'}');
            rows += 1;
            let is_last = rows == limit || bytes > bytes_max;
            next = is_last.then(|| URL_SAFE_NO_PAD.encode(row.key));
            true
        };
        snapshot.scan_keys(&space, &KeyRange { start, end, reverse }, row).map_err(Failure::from)?;
        page.push(b']');
        next.iter().for_each(|next| page.extend_from_slice(format!(",\"cursor\":\"{next}\"").as_bytes()));
        page.push(b'}');
        Ok(page)
    });
    let page = page.await.map_err(|failure: Failure| failure.at(seq))?;
    Ok(at_seq(json_text(200, page), seq))
}

/// `GET /kv`
pub(crate) async fn spaces(call: Call) -> Result<Reply, Failure> {
    let snapshot = call.read(DEFAULT).await?;
    let seq = snapshot.seq();
    let spaces = blocking(move || snapshot.spaces().map_err(Failure::from)).await?;
    Ok(at_seq(json_value(200, &json!({ "spaces": spaces })), seq))
}
