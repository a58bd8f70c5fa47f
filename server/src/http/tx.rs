//! `POST /tx` and `POST /kv/{space}/batch`: several operations of which all take effect or none.
//!
//! ```text
//! { "when":      [ {"doc":"books/tdg","version":4711}, {"key":"default/lock","absent":true}, … ],
//!   "then":      [ {"put":{"doc":"books/tdg","source":{…}}}, {"put":{"key":"default/lock","value":"me","ttl":"30s"}},
//!                  {"delete":{"key":"default/old"}}, {"delete":{"prefix":"default/tmp/"}}, {"get":{"doc":"books/tdg"}} ],
//!   "otherwise": [ {"get":{"key":"default/lock"}} ] }
//! ```
//!
//! A document is `collection/id`, a key `space/key`; in a batch, whose space the path names, it is the key alone. Bytes that are
//! no text are given as base64, by `key_base64`, `prefix_base64` and `value_base64`; such a key has its `space` beside it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lumen::{
    Compare, Condition, KeyOutcome, KeyWrite, Outcome, Target, Test, Transaction, Until, Write, prefix_end,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::api;
use crate::config::parse_span;
use crate::error::{Failure, Kind, excerpt};
use crate::http::keys::put_bytes;
use crate::http::reply::{Reply, at_seq, json_value};
use crate::http::request::Call;

/// Bytes of a transaction.
const BODY_BYTES_MAX: usize = 32 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(default)]
    when: Vec<When>,
    #[serde(default, borrow)]
    then: Vec<Operation<'a>>,
    #[serde(default, borrow)]
    otherwise: Vec<Operation<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<'a> {
    #[serde(borrow)]
    ops: Vec<Operation<'a>>,
}

/// What an operation is about.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Named {
    doc: Option<String>,
    space: Option<String>,
    key: Option<String>,
    key_base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct When {
    doc: Option<String>,
    space: Option<String>,
    key: Option<String>,
    key_base64: Option<String>,
    version: Option<u64>,
    version_at_most: Option<u64>,
    absent: Option<bool>,
    present: Option<bool>,
    value: Option<String>,
    value_base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Operation<'a> {
    #[serde(borrow)]
    Put(Put<'a>),
    Delete(Delete),
    Get(Named),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Put<'a> {
    doc: Option<String>,
    space: Option<String>,
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(borrow)]
    source: Option<&'a RawValue>,
    value: Option<String>,
    value_base64: Option<String>,
    ttl: Option<String>,
    lease: Option<u64>,
    #[serde(default)]
    returns: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    doc: Option<String>,
    space: Option<String>,
    key: Option<String>,
    key_base64: Option<String>,
    prefix: Option<String>,
    prefix_base64: Option<String>,
}

fn bad(message: impl Into<String>) -> Failure {
    Failure::new(Kind::BadRequest, message)
}

/// Bytes given as text or as base64.
fn bytes(name: &str, text: Option<String>, base64: Option<String>) -> Result<Option<Vec<u8>>, Failure> {
    match (text, base64) {
        (None, None) => Ok(None),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(text)) => {
            let no = |error| bad(format!("{name}_base64 is no base64: {error}"));
            STANDARD.decode(text).map(Some).map_err(no)
        }
        (Some(_), Some(_)) => Err(bad(format!("{name} and {name}_base64 say the same thing twice"))),
    }
}

/// Space and key of a name: in a batch it is a key of the path's space, elsewhere it begins with the space and `/`.
fn place(
    name: &str,
    of_path: Option<&str>,
    space: Option<String>,
    text: Option<String>,
    base64: Option<String>,
) -> Result<Option<(String, Vec<u8>)>, Failure> {
    let space = space.or_else(|| of_path.map(str::to_owned));
    match (space, text, base64) {
        (None, Some(text), None) => match text.split_once('/') {
            Some((space, key)) => Ok(Some((space.to_owned(), key.as_bytes().to_vec()))),
            None => {
                Err(bad(format!("the {name} {} has no space in front, as default/… has", excerpt(&text))))
            }
        },
        (None, _, Some(_)) => Err(bad(format!("{name}_base64 has its space beside it"))),
        (Some(space), text, base64) => Ok(bytes(name, text, base64)?.map(|key| (space, key))),
        (None, None, None) => Ok(None),
    }
}

fn document(doc: &str) -> Result<(String, String), Failure> {
    let parts = doc.split_once('/').map(|(collection, id)| (collection.to_owned(), id.to_owned()));
    parts.ok_or_else(|| bad(format!("the document {} is not like collection/id", excerpt(doc))))
}

fn target(named: Named, of_path: Option<&str>) -> Result<Target, Failure> {
    let Named { doc, space, key, key_base64 } = named;
    match (doc, place("key", of_path, space, key, key_base64)?) {
        (Some(doc), None) => document(&doc).map(|(collection, id)| Target::Document { collection, id }),
        (None, Some((space, key))) => Ok(Target::Key { space, key }),
        _ => Err(bad("it names either a doc or a key")),
    }
}

fn compare(when: When) -> Result<Compare, Failure> {
    let When { doc, space, key, key_base64, version, version_at_most, absent, present, value, value_base64 } =
        when;
    let target = target(Named { doc, space, key, key_base64 }, None)?;
    let is_there = |there: bool| if there { Test::Present } else { Test::Absent };
    let tests = [
        version.map(|version| if version == 0 { Test::Absent } else { Test::Version(version) }),
        version_at_most.map(Test::VersionAtMost),
        absent.map(|absent| is_there(!absent)),
        present.map(is_there),
        bytes("value", value, value_base64)?.map(Test::Value),
    ];
    let mut tests = tests.into_iter().flatten();
    match (tests.next(), tests.next()) {
        (Some(test), None) => Ok(Compare { target, test }),
        _ => Err(bad("a comparison has one of version, version_at_most, absent, present and value")),
    }
}

fn operation(operation: Operation<'_>, of_path: Option<&str>) -> Result<Write, Failure> {
    match operation {
        Operation::Get(named) => target(named, of_path).map(Write::Read),
        Operation::Put(put) => {
            let Put { doc, space, key, key_base64, source, value, value_base64, ttl, lease, returns } = put;
            let value = bytes("value", value, value_base64)?;
            let condition = Condition::Always;
            match (target(Named { doc, space, key, key_base64 }, of_path)?, source, value) {
                (Target::Document { collection, id }, Some(source), None) => {
                    if ttl.is_some() || lease.is_some() || returns {
                        return Err(bad("ttl, lease and returns are of keys"));
                    }
                    Ok(Write::Put { collection, id, source: source.get().as_bytes().to_vec(), condition })
                }
                (Target::Key { space, key }, None, Some(value)) => {
                    let until = match (ttl, lease) {
                        (None, None) => Until::Deleted,
                        (Some(ttl), None) => {
                            Until::Ttl(parse_span(&ttl).map_err(|reason| bad(format!("ttl: {reason}")))?)
                        }
                        (None, Some(lease)) => Until::Lease(lease),
                        _ => return Err(bad("ttl and lease both say how long it is kept")),
                    };
                    Ok(Write::Keys(KeyWrite::Put { space, key, value, condition, until, returns }))
                }
                (Target::Document { .. }, ..) => Err(bad("a document is put with a source")),
                (Target::Key { .. }, ..) => Err(bad("a key is put with a value or value_base64")),
            }
        }
        Operation::Delete(delete) => {
            let Delete { doc, space, key, key_base64, prefix, prefix_base64 } = delete;
            let condition = Condition::Always;
            if prefix.is_some() || prefix_base64.is_some() {
                if doc.is_some() || key.is_some() || key_base64.is_some() {
                    return Err(bad("it names one of doc, key and prefix"));
                }
                let Some((space, start)) = place("prefix", of_path, space, prefix, prefix_base64)? else {
                    return Err(bad("it names a prefix"));
                };
                let end = prefix_end(&start);
                return Ok(Write::Keys(KeyWrite::DeleteRange { space, start, end }));
            }
            Ok(match target(Named { doc, space, key, key_base64 }, of_path)? {
                Target::Document { collection, id } => Write::Delete { collection, id, condition },
                Target::Key { space, key } => {
                    Write::Keys(KeyWrite::Delete { space, key, condition, returns: false })
                }
            })
        }
    }
}

fn operations(list: &str, ops: Vec<Operation<'_>>, of_path: Option<&str>) -> Result<Vec<Write>, Failure> {
    let one = |(place, op)| {
        operation(op, of_path).map_err(|mut failure| {
            failure.message = format!("{list}[{place}]: {}", failure.message);
            failure.with("operation", place)
        })
    };
    ops.into_iter().enumerate().map(one).collect()
}

fn json_of(outcome: Outcome) -> Value {
    let found = |version: u64, value: &[u8]| {
        let mut object = Map::new();
        object.insert("version".into(), version.into());
        put_bytes(&mut object, "value", value, false);
        object
    };
    match outcome {
        Outcome::Created => json!({ "result": "created" }),
        Outcome::Updated => json!({ "result": "updated" }),
        Outcome::Deleted { existed } => json!({ "result": "deleted", "deleted": u64::from(existed) }),
        Outcome::Keys(KeyOutcome::Put { existed, previous }) => {
            let mut result = json!({ "result": if existed { "updated" } else { "created" } });
            if let Some(previous) = previous {
                result["previous"] = Value::Object(found(previous.version, &previous.value));
            }
            result
        }
        Outcome::Keys(KeyOutcome::Deleted { count, .. }) => {
            json!({ "result": "deleted", "deleted": count })
        }
        Outcome::Read(None) => json!({ "found": false }),
        Outcome::Read(Some(read)) => {
            let mut object = found(read.version, &read.value);
            object.insert("found".into(), true.into());
            read.expires.into_iter().for_each(|at| drop(object.insert("expires_ms".into(), at.into())));
            read.lease.into_iter().for_each(|lease| drop(object.insert("lease".into(), lease.into())));
            Value::Object(object)
        }
        other => json!({ "result": format!("{other:?}") }),
    }
}

async fn answer(call: &Call, transaction: Transaction) -> Result<Reply, Failure> {
    // A document is answered as what it is, a value as bytes.
    let is_document = |write: &Write| matches!(write, Write::Read(Target::Document { .. }));
    let (then, otherwise): (Vec<bool>, Vec<bool>) = (
        transaction.then.iter().map(is_document).collect(),
        transaction.otherwise.iter().map(is_document).collect(),
    );
    let done = api::transact(&call.node.store, transaction, &call.asked()?).await?;
    let kinds = if done.succeeded { then } else { otherwise };
    let mut results = Vec::with_capacity(kinds.len());
    for (outcome, is_document) in done.outcomes.into_iter().zip(kinds) {
        results.push(match outcome {
            Outcome::Read(Some(read)) if is_document => {
                let source: Value = serde_json::from_slice(&read.value)
                    .map_err(|error| Failure::new(Kind::Internal, format!("a stored document: {error}")))?;
                json!({ "found": true, "version": read.version, "source": source })
            }
            outcome => json_of(outcome),
        });
    }
    let body = json!({ "succeeded": done.succeeded, "seq": done.seq, "results": results });
    Ok(at_seq(json_value(200, &body), done.seq))
}

fn unreadable(error: &serde_json::Error) -> Failure {
    let failure = bad(format!("the body cannot be read: {error}"));
    failure.with("line", error.line()).with("column", error.column())
}

/// `POST /tx`
pub(crate) async fn transact(mut call: Call) -> Result<Reply, Failure> {
    let body = call.read_body("the transaction", BODY_BYTES_MAX).await?;
    let Body { when, then, otherwise } = serde_json::from_slice(&body).map_err(|error| unreadable(&error))?;
    let when = when.into_iter().enumerate().map(|(place, when)| {
        compare(when).map_err(|mut failure| {
            failure.message = format!("when[{place}]: {}", failure.message);
            failure
        })
    });
    let transaction = Transaction {
        when: when.collect::<Result<_, _>>()?,
        then: operations("then", then, None)?,
        otherwise: operations("otherwise", otherwise, None)?,
    };
    answer(&call, transaction).await
}

/// `POST /kv/{space}/batch`
pub(crate) async fn batch(mut call: Call) -> Result<Reply, Failure> {
    let body = call.read_body("the batch", BODY_BYTES_MAX).await?;
    let Batch { ops } = serde_json::from_slice(&body).map_err(|error| unreadable(&error))?;
    let then = operations("ops", ops, Some(&call.space))?;
    answer(&call, Transaction { then, ..Transaction::default() }).await
}
