//! `GET /changes` and `GET /kv/{space}/watch`: what happens, as server-sent events or as one JSON object a line.
//!
//! One write's changes are one event, whose id is its sequence number: a client that comes again with the id of the last
//! event that it got (`Last-Event-ID`, or `since=`) gets every other one, once.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, header};
use lumen::{Change, Changed, Scope, prefix_end};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::body::Body;
use crate::error::{Failure, Kind, excerpt};
use crate::feed::{Feed, News};
use crate::http::documents::write_string;
use crate::http::keys::{is_base64, put_bytes, range};
use crate::http::reply::{Reply, at_seq, set, with_body};
use crate::http::request::{Call, header_text, invalid};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// So often a client hears something: proxies let go of a connection in which nothing happens.
const WORD_EVERY: Duration = Duration::from_secs(15);
/// And so often if it asks for progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// The parameters of a feed.
pub(crate) const FOLLOWING: [&str; 5] = ["since", "follow", "progress", "include", "encoding"];

/// How a feed is written.
#[derive(Clone, Copy)]
struct Form {
    /// Server-sent events, or else lines.
    events: bool,
    /// Without documents and values.
    ids_only: bool,
    base64: bool,
}

fn flag(call: &Call, name: &str, default: bool) -> Result<bool, Failure> {
    match call.query.get(name) {
        None => Ok(default),
        Some("true" | "") => Ok(true),
        Some("false") => Ok(false),
        Some(_) => Err(invalid(name, "is either true or false")),
    }
}

/// `GET /changes`
pub(crate) async fn changes(call: Call) -> Result<Reply, Failure> {
    let named = |name| call.query.get(name).map(str::to_owned);
    let scope = match (named("collection"), named("space"), named("prefix")) {
        (None, None, None) => Scope::All,
        (Some(collection), None, None) => Scope::Collection(collection),
        (None, Some(space), prefix) => {
            let start = prefix.unwrap_or_default().into_bytes();
            Scope::Keys { space, end: prefix_end(&start), start }
        }
        _ => {
            return Err(invalid(
                "collection",
                "and space= exclude one another, and prefix= goes with space=",
            ));
        }
    };
    follow(call, scope).await
}

/// `GET /kv/{space}/watch`
pub(crate) async fn watch(call: Call) -> Result<Reply, Failure> {
    let (start, end) = range(&call, is_base64(&call)?)?;
    let scope = Scope::Keys { space: call.space.clone(), start, end };
    follow(call, scope).await
}

async fn follow(call: Call, scope: Scope) -> Result<Reply, Failure> {
    let since = match (call.query.get("since"), header_text(&call.headers, LAST_EVENT_ID)?) {
        // What the browser adds when it comes again is newer than the address it was given.
        (_, Some(id)) => Some(id.parse().map_err(|_| {
            let message = format!("Last-Event-ID is a sequence number, not {}", excerpt(id));
            Failure::new(Kind::InvalidParameter, message)
        })?),
        (Some(_), None) => Some(call.query.number("since", 0)?),
        (None, None) => None,
    };
    let accept = header_text(&call.headers, header::ACCEPT)?.unwrap_or_default();
    let form = Form {
        events: accept.contains("text/event-stream"),
        ids_only: match call.query.get("include") {
            None | Some("source") => false,
            Some("ids") => true,
            Some(_) => return Err(invalid("include", "is source or ids")),
        },
        base64: is_base64(&call)?,
    };
    let (follow, progress) = (flag(&call, "follow", true)?, flag(&call, "progress", false)?);
    let word_every = if progress { PROGRESS_EVERY } else { WORD_EVERY };
    let feed = Feed::open(call.node.clone(), since, scope, word_every).await?;
    let seq = feed.seq();
    let (sender, body) = Body::pieces(1);
    tokio::spawn(async move {
        let gone = sender.clone();
        tokio::select! {
            () = run(feed, form, follow, sender) => {}
            () = gone.closed() => {}
        }
    });
    let content_type = if form.events { "text/event-stream" } else { "application/x-ndjson" };
    let mut reply = at_seq(with_body(200, content_type, body), seq);
    set(&mut reply, "cache-control", "no-store");
    // nginx would keep events until it has a page of them.
    set(&mut reply, "x-accel-buffering", "no");
    Ok(reply)
}

/// Writes what comes, until nobody reads it.
async fn run(mut feed: Feed, form: Form, follow: bool, sender: mpsc::Sender<Bytes>) {
    // From here on it can be resumed.
    if sender.send(form.progress(feed.seq())).await.is_err() {
        return;
    }
    while follow || feed.is_behind() {
        let piece = match feed.next().await {
            Ok(News::Changes(page)) => form.page(page),
            Ok(News::Progress(seq)) => form.progress(seq),
            Ok(News::Closing) => return,
            Err(failure) => {
                let _ = sender.send(form.failure(&failure)).await; // or nobody reads any more
                return;
            }
        };
        if sender.send(piece).await.is_err() {
            return;
        }
    }
    if !follow {
        let _ = sender.send(form.progress(feed.seq())).await;
    }
}

impl Form {
    fn event(self, out: &mut Vec<u8>, name: &str, id: Option<u64>, data: &[u8]) {
        if self.events {
            id.into_iter().for_each(|id| out.extend_from_slice(format!("id: {id}\n").as_bytes()));
            out.extend_from_slice(format!("event: {name}\ndata: ").as_bytes());
        }
        out.extend_from_slice(data);
        out.extend_from_slice(if self.events { b"\n\n" } else { b"\n" });
    }

    fn progress(self, seq: u64) -> Bytes {
        let mut out = Vec::new();
        self.event(&mut out, "progress", Some(seq), json!({ "seq": seq }).to_string().as_bytes());
        out.into()
    }

    fn failure(self, failure: &Failure) -> Bytes {
        let mut out = Vec::new();
        let data = json!({ "error": failure.to_json(None) }).to_string();
        self.event(&mut out, failure.kind.name(), None, data.as_bytes());
        out.into()
    }

    fn page(self, page: Vec<Changed>) -> Bytes {
        let (mut out, mut data) = (Vec::new(), Vec::new());
        for Changed { seq, time, changes } in page {
            data.clear();
            data.extend_from_slice(format!("{{\"seq\":{seq},\"time_ms\":{time},\"changes\":[").as_bytes());
            for (nth, change) in changes.into_iter().enumerate() {
                data.extend_from_slice(if nth == 0 { b"" } else { b"," });
                self.change(&mut data, change);
            }
            data.extend_from_slice(b"]}");
            self.event(&mut out, "changes", Some(seq), &data);
        }
        out.into()
    }

    fn change(self, out: &mut Vec<u8>, change: Change) {
        let object = |op: &str, members: Value| {
            let mut object = Map::new();
            object.insert("op".into(), op.into());
            if let Value::Object(members) = members {
                object.extend(members);
            }
            object
        };
        let of_key = |op: &str, space: &str, key: &[u8]| {
            let mut object = object(op, json!({ "space": space }));
            put_bytes(&mut object, "key", key, self.base64);
            object
        };
        let object = match change {
            Change::DocumentPut { collection, id, source } => {
                let written = self.document(out, &collection, &id, &source);
                debug_assert!(written.is_ok(), "strings can be written as JSON");
                return;
            }
            Change::DocumentDeleted { collection, id } => {
                object("delete", json!({ "collection": collection, "id": id }))
            }
            Change::CollectionCreated { name, mapping } => {
                let mapping: Value = serde_json::from_str(&mapping.to_json()).unwrap_or_default();
                object("create_collection", json!({ "collection": name, "mapping": mapping }))
            }
            Change::CollectionDropped { name } => object("drop_collection", json!({ "collection": name })),
            Change::KeyPut { space, key, value, expires, lease } => {
                let mut object = of_key("put", &space, &key);
                if !self.ids_only {
                    put_bytes(&mut object, "value", &value, self.base64);
                }
                expires.into_iter().for_each(|at| drop(object.insert("expires_ms".into(), at.into())));
                lease.into_iter().for_each(|lease| drop(object.insert("lease".into(), lease.into())));
                object
            }
            Change::KeyDeleted { space, key, expired } => {
                of_key(if expired { "expire" } else { "delete" }, &space, &key)
            }
            Change::KeysDeleted { space, start, end } => {
                let mut object = object("delete_range", json!({ "space": space }));
                put_bytes(&mut object, "start", &start, self.base64);
                end.into_iter().for_each(|end| put_bytes(&mut object, "end", &end, self.base64));
                object
            }
        };
        out.extend_from_slice(Value::Object(object).to_string().as_bytes());
    }

    fn document(self, out: &mut Vec<u8>, collection: &str, id: &str, source: &[u8]) -> Result<(), Failure> {
        out.extend_from_slice(b"{\"op\":\"put\",\"collection\":");
        write_string(out, collection)?;
        out.extend_from_slice(b",\"id\":");
        write_string(out, id)?;
        if !self.ids_only {
            out.extend_from_slice(b",\"source\":");
            // Between the tokens of JSON a line's end is a space; inside them there is none.
            out.extend(source.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
        }
        out.push(b'}');
        Ok(())
    }
}
