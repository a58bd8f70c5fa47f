//! Who asks: puts, deletes, conditional writes, reads of each kind and searches, at any node, one after the other; and whether
//! the answers may be so.

use std::sync::Arc;
use std::time::Duration;

use lumen::{Condition, Mapping, Outcome, SearchRequest, Write};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::Random;
use super::checks::{Answers, COLLECTION};
use super::history::{Asked, If, Told, Value};
use super::keys;
use super::network::Net;
use crate::error::Error;
use crate::node::Node;
use crate::read::Consistency;

const PATIENCE: Duration = Duration::from_secs(3);
const KEYS: u64 = 6;

/// The keys that are written.
pub(super) fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(|n| format!("k{n}"))
}

/// A document as a read found it: its version, and what is in it.
type Found = Option<(u64, Value)>;

fn source(value: Value) -> Vec<u8> {
    // Long enough that files fill.
    format!(r#"{{"t":"v{value}","more":"{}"}}"#, "x".repeat(300)).into_bytes()
}

/// What a search for a value finds.
fn hits(snapshot: &lumen::Snapshot, value: Value) -> Result<Vec<lumen::Hit>, String> {
    let query = format!("t:v{value}");
    let request =
        SearchRequest { collection: COLLECTION, query: &query, offset: 0, limit: 3, cancelled: None };
    Ok(snapshot.search(&request).map_err(|error| format!("{query}: {error}"))?.hits)
}

/// What a snapshot has of a key, which a search must agree with.
pub(super) fn look_up(snapshot: &lumen::Snapshot, key: &str) -> Result<Found, String> {
    let failed = |error: lumen::Error| format!("{key} cannot be read: {error}");
    let Some(document) = snapshot.get(COLLECTION, key).map_err(failed)? else { return Ok(None) };
    let text = String::from_utf8(document.source).map_err(|error| error.to_string())?;
    let value = text.split('"').nth(3).and_then(|value| value.trim_start_matches('v').parse().ok());
    let value = value.ok_or_else(|| format!("{key} holds {text}"))?;
    let hits = hits(snapshot, value)?;
    let is_it = |hit: &lumen::Hit| (hit.id.as_str(), hit.version) == (key, document.version);
    match &hits[..] {
        [hit] if is_it(hit) => Ok(Some((document.version, value))),
        hits => Err(format!("{key} = v{value} of {}, but a search for it finds {hits:?}", document.version)),
    }
}

/// One client, until it is stopped.
pub(super) async fn work(number: u64, seed: u64, net: Net, answers: Arc<Mutex<Answers>>) {
    let mut client = Client {
        number,
        next: 0,
        put: None,
        token: 0,
        random: Random::new(seed ^ (number + 1) << 32),
        net,
        answers,
    };
    loop {
        let pause = client.random.below(150);
        sleep(Duration::from_millis(pause)).await;
        let running = client.net.running();
        let Some(node) = client.random.one_of(&running).and_then(|id| client.net.node(id)) else { continue };
        if let Err(found) = client.ask(node).await {
            client.net.found(found);
        }
    }
}

struct Client {
    number: u64,
    next: u64,
    /// What it put last, and where.
    put: Option<(String, Value)>,
    /// The newest moment that this client was told of.
    token: u64,
    random: Random,
    net: Net,
    answers: Arc<Mutex<Answers>>,
}

impl Client {
    async fn ask(&mut self, node: Node) -> Result<(), String> {
        if self.random.happens(150) {
            return self.write_keys(node).await;
        }
        let key = format!("k{}", self.random.below(KEYS));
        match self.random.below(100) {
            0..=39 => self.put(node, &key, Condition::Always).await,
            40..=47 => self.put(node, &key, Condition::Absent).await,
            48..=57 => {
                let found = look_up_if_there(&node.snapshot(), &key)?;
                let condition = found.map_or(Condition::Present, |(version, _)| Condition::Version(version));
                self.put(node, &key, condition).await
            }
            58..=63 => self.delete(node, &key).await,
            64..=79 => self.read(node, &key, Consistency::Linearizable).await,
            80..=84 => self.search(node).await,
            85..=94 => self.read(node, &key, Consistency::Session(self.token)).await,
            95..=97 => self.read(node, &key, Consistency::Bounded(Duration::from_millis(500))).await,
            _ => self.read(node, &key, Consistency::Eventual).await,
        }
    }

    /// Of key-values no history is kept: nodes are compared, and who follows knows what they hold.
    async fn write_keys(&mut self, node: Node) -> Result<(), String> {
        let write = keys::write(&mut self.random);
        let Ok(prepared) = node.prepare(write) else { return Ok(()) };
        let answer = node.write(prepared, None, PATIENCE).await;
        self.net.note(if answer.is_ok() { "keys written" } else { "keys perhaps written" }, self.number);
        Ok(())
    }

    async fn put(&mut self, node: Node, key: &str, condition: Condition) -> Result<(), String> {
        self.next += 1;
        let value = self.next << 8 | self.number;
        self.put = Some((key.to_owned(), value));
        let (collection, id) = (COLLECTION.to_owned(), key.to_owned());
        let write = Write::Put { collection, id, source: source(value), condition };
        self.write(node, key, Asked::Put(value, asked_for(condition)), write).await
    }

    async fn delete(&mut self, node: Node, key: &str) -> Result<(), String> {
        let (collection, id) = (COLLECTION.to_owned(), key.to_owned());
        let write = Write::Delete { collection, id, condition: Condition::Always };
        self.write(node, key, Asked::Delete(If::Always), write).await
    }

    async fn write(&mut self, node: Node, key: &str, asked: Asked, write: Write) -> Result<(), String> {
        let prepared = match node.prepare(write) {
            Ok(prepared) => prepared,
            // The collection is not known here yet: whoever comes first makes it.
            Err(_) => {
                let mapping = br#"{"fields":{"t":{"type":"text"},"more":{"type":"keyword"}}}"#;
                let mapping = Mapping::from_json(mapping).expect("good");
                let create = Write::CreateCollection { name: COLLECTION.into(), mapping };
                let Ok(prepared) = node.prepare(create) else { return Ok(()) };
                let _ = node.write(prepared, None, PATIENCE).await; // or at the next attempt
                return Ok(());
            }
        };
        let named = self.random.happens(200).then(|| {
            let mut name = [self.number as u8; 16];
            name[..8].copy_from_slice(&self.next.to_le_bytes());
            name[8..15].copy_from_slice(&self.random.bits().to_le_bytes()[..7]);
            name
        });
        let number = self.answers.lock().ask(key, asked);
        let answer = node.write(prepared, named, PATIENCE).await;
        let told = match answer {
            Ok(ack) => match ack.outcome {
                Outcome::Created | Outcome::Updated | Outcome::Deleted { existed: true } => {
                    Told::Done(ack.seq)
                }
                Outcome::Deleted { existed: false } => Told::Nothing(ack.seq),
                Outcome::Rejected(_) => Told::Refused(ack.seq),
                other => return Err(format!("{key}: {asked:?} was answered by {other:?}")),
            },
            Err(Error::Unknown { .. } | Error::Stopped { .. } | Error::Io { .. }) => Told::Unknown,
            Err(_) => Told::NotDone,
        };
        if let Told::Done(seq) = told {
            self.token = self.token.max(seq);
        }
        let what = match told {
            Told::Done(_) | Told::Nothing(_) => "written",
            Told::Refused(_) => "rejected",
            Told::Unknown => "unknown outcome",
            _ => "not done",
        };
        self.net.note(what, (key, asked, told));
        self.answers.lock().tell(number, told);
        Ok(())
    }

    /// Searches for what this client put last, as it is now.
    async fn search(&mut self, node: Node) -> Result<(), String> {
        let Some((key, value)) = self.put.clone() else { return Ok(()) };
        let number = self.answers.lock().ask(&key, Asked::Search(value));
        let Ok(snapshot) = node.read(Consistency::Linearizable, PATIENCE).await else { return Ok(()) };
        let hits = if is_there(&snapshot) { hits(&snapshot, value)? } else { Vec::new() };
        self.net.note("searched", (&key, hits.len()));
        let found = match &hits[..] {
            [] => None,
            [hit] if hit.id == key => Some((hit.version, value)),
            hits => return Err(format!("a search for v{value}, which is in {key}, finds {hits:?}")),
        };
        self.answers.lock().tell(number, Told::Found(snapshot.seq(), found));
        Ok(())
    }

    async fn read(&mut self, node: Node, key: &str, consistency: Consistency) -> Result<(), String> {
        let (what, asked) = match consistency {
            Consistency::Linearizable => ("read linearizable", Asked::Read),
            Consistency::Session(token) => ("read with token", Asked::ReadSince(token)),
            Consistency::Bounded(age) => {
                let at = Instant::now().checked_sub(age).expect("later than the beginning");
                ("read of an age", Asked::ReadSince(self.answers.lock().newest_at(at)))
            }
            Consistency::Eventual => ("read", Asked::ReadSince(0)),
        };
        let number = self.answers.lock().ask(key, asked);
        let Ok(snapshot) = node.read(consistency, PATIENCE).await else { return Ok(()) };
        let (seq, found) = (snapshot.seq(), look_up_if_there(&snapshot, key)?);
        self.net.note(what, (key, seq));
        if found.is_some() {
            self.net.note("searched", key);
        }
        self.token = self.token.max(seq);
        self.answers.lock().tell(number, Told::Found(seq, found));
        Ok(())
    }
}

fn asked_for(condition: Condition) -> If {
    match condition {
        Condition::Always => If::Always,
        Condition::Absent => If::Absent,
        Condition::Present => If::Present,
        Condition::Version(version) => If::Version(version),
    }
}

/// Whether the clients' collection is there.
fn is_there(snapshot: &lumen::Snapshot) -> bool {
    snapshot.collections().iter().any(|name| name == COLLECTION)
}

fn look_up_if_there(snapshot: &lumen::Snapshot, key: &str) -> Result<Found, String> {
    if is_there(snapshot) { look_up(snapshot, key) } else { Ok(None) }
}
