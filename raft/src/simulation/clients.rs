//! Who asks: puts, deletes, conditional writes, reads of each kind and searches, at any node, one after the other; and whether
//! the answers may be so.

use std::sync::Arc;
use std::time::Duration;

use lumen::{Condition, Mapping, Outcome, SearchRequest, Write};
use parking_lot::Mutex;
use tokio::time::sleep;

use super::Random;
use super::checks::{COLLECTION, Found, History};
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

fn source(value: &str) -> Vec<u8> {
    // Long enough that files fill.
    format!(r#"{{"t":"{value}","more":"{}"}}"#, "x".repeat(300)).into_bytes()
}

/// What a snapshot has of a key, which a search must agree with.
pub(super) fn look_up(snapshot: &lumen::Snapshot, key: &str) -> Result<Found, String> {
    let failed = |error: lumen::Error| format!("{key} cannot be read: {error}");
    let Some(document) = snapshot.get(COLLECTION, key).map_err(failed)? else { return Ok(None) };
    let text = String::from_utf8(document.source).map_err(|error| error.to_string())?;
    let value = text.split('"').nth(3).unwrap_or_default().to_owned();
    let query = format!("t:{value}");
    let request =
        SearchRequest { collection: COLLECTION, query: &query, offset: 0, limit: 3, cancelled: None };
    let hits = snapshot.search(&request).map_err(failed)?.hits;
    let is_it = |hit: &lumen::Hit| (hit.id.as_str(), hit.version) == (key, document.version);
    match &hits[..] {
        [hit] if is_it(hit) => Ok(Some((document.version, value))),
        hits => Err(format!("{key} = {value} of {}, but a search for it finds {hits:?}", document.version)),
    }
}

/// One client, until it is stopped.
pub(super) async fn work(number: u64, seed: u64, net: Net, history: Arc<Mutex<History>>) {
    let mut client =
        Client { number, next: 0, token: 0, random: Random::new(seed ^ (number + 1) << 32), net, history };
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
    /// The newest moment that this client was told of.
    token: u64,
    random: Random,
    net: Net,
    history: Arc<Mutex<History>>,
}

impl Client {
    async fn ask(&mut self, node: Node) -> Result<(), String> {
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
            64..=84 => self.read(node, &key, Consistency::Linearizable).await,
            85..=94 => self.read(node, &key, Consistency::Session(self.token)).await,
            95..=97 => self.read(node, &key, Consistency::Bounded(Duration::from_millis(500))).await,
            _ => self.read(node, &key, Consistency::Eventual).await,
        }
    }

    async fn put(&mut self, node: Node, key: &str, condition: Condition) -> Result<(), String> {
        self.next += 1;
        let value = format!("v{}n{}", self.number, self.next);
        let (collection, id) = (COLLECTION.to_owned(), key.to_owned());
        let write = Write::Put { collection, id, source: source(&value), condition };
        self.write(node, key, Some(value), write).await
    }

    async fn delete(&mut self, node: Node, key: &str) -> Result<(), String> {
        let (collection, id) = (COLLECTION.to_owned(), key.to_owned());
        let write = Write::Delete { collection, id, condition: Condition::Always };
        self.write(node, key, None, write).await
    }

    async fn write(
        &mut self,
        node: Node,
        key: &str,
        value: Option<String>,
        write: Write,
    ) -> Result<(), String> {
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
        let after = {
            let mut history = self.history.lock();
            history.begins(key, value.as_deref());
            history.newest()
        };
        let answer = node.write(prepared, named, PATIENCE).await;
        let mut history = self.history.lock();
        // Nobody knows: then it may be done at any time.
        if !matches!(answer, Err(Error::Unknown { .. } | Error::Stopped { .. } | Error::Io { .. })) {
            history.ends(key, value.as_deref());
        }
        match answer {
            Ok(ack) => match ack.outcome {
                Outcome::Created | Outcome::Updated | Outcome::Deleted { existed: true } => {
                    self.net.note("written", (key, &value, ack.seq));
                    self.token = self.token.max(ack.seq);
                    history.written(after, ack.seq, key, value.as_deref())
                }
                // It changed nothing.
                Outcome::Deleted { existed: false } => Ok(()),
                Outcome::Rejected(_) => {
                    self.net.note("rejected", (key, &value));
                    value.iter().for_each(|value| history.refused(value));
                    Ok(())
                }
                other => Err(format!("{key} = {value:?} was answered by {other:?}")),
            },
            Err(Error::Unknown { .. } | Error::Stopped { .. } | Error::Io { .. }) => {
                self.net.note("unknown outcome", (key, &value));
                Ok(())
            }
            // Certainly not done: then nobody ever sees it.
            Err(_) => {
                self.net.note("not done", (key, &value));
                value.iter().for_each(|value| history.refused(value));
                Ok(())
            }
        }
    }

    async fn read(&mut self, node: Node, key: &str, consistency: Consistency) -> Result<(), String> {
        let after = self.history.lock().newest();
        let Ok(snapshot) = node.read(consistency, PATIENCE).await else { return Ok(()) };
        let (seq, found) = (snapshot.seq(), look_up_if_there(&snapshot, key)?);
        let mut history = self.history.lock();
        match consistency {
            Consistency::Linearizable => {
                self.net.note("read linearizable", (key, seq));
                history.linearizable(after, seq)?;
            }
            Consistency::Session(token) => {
                self.net.note("read with token", (key, seq));
                if seq < token {
                    return Err(format!("a read with the token {token} shows {seq}"));
                }
            }
            _ => self.net.note("read", (key, seq)),
        }
        if found.is_some() {
            self.net.note("searched", key);
        }
        self.token = self.token.max(seq);
        history.read(seq, key, &found)
    }
}

/// As [`look_up`], also where the collection is not there yet.
fn look_up_if_there(snapshot: &lumen::Snapshot, key: &str) -> Result<Found, String> {
    if snapshot.collections().iter().any(|name| name == COLLECTION) {
        look_up(snapshot, key)
    } else {
        Ok(None)
    }
}
