//! Clients: of Lumen over HTTP, of etcd over gRPC, a connection each.

use std::net::SocketAddr;
use std::time::Duration;

use lumen_benches::etcd::Etcd;
use lumen_benches::http::{Answer, Connection};
use serde_json::Value;

use crate::nodes::System;

/// A space of values, which are compared with etcd's, and a collection of counters that no search looks into.
pub(crate) const VALUES: &str = "values";
/// Documents of which each word is found.
pub(crate) const DOCUMENTS: &str = "documents";

/// How new an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Newest {
    /// As new as anything acknowledged before.
    Linearizable,
    /// At least as new as what this client was told before; of etcd: whatever the node has (it calls that serializable).
    Session,
}

pub(crate) enum Client {
    Lumen(Connection, u64),
    Etcd(Etcd),
}

/// What a client was told instead of an answer.
pub(crate) type Error = String;

impl Client {
    pub(crate) async fn open(system: System, address: SocketAddr) -> Result<Client, Error> {
        if system.is_lumen() {
            return Ok(Client::Lumen(Connection::open(address).await.map_err(text)?, 0));
        }
        Ok(Client::Etcd(Etcd::open(address).await?))
    }

    /// Puts a value.
    pub(crate) async fn put(&mut self, key: &str, value: &str) -> Result<(), Error> {
        match self {
            Client::Lumen(..) => {
                let path = format!("/kv/{VALUES}/keys/{key}");
                self.send("PUT", &path, "", value.as_bytes()).await.map(drop)
            }
            Client::Etcd(etcd) => etcd.put(key, value.as_bytes()).await,
        }
    }

    /// Gets a value, which has to be there.
    pub(crate) async fn get(&mut self, key: &str, newest: Newest) -> Result<(), Error> {
        match self {
            Client::Lumen(connection, seq) => {
                let headers = match newest {
                    Newest::Linearizable => "lumen-consistency: linearizable\r\n".into(),
                    Newest::Session => format!("lumen-consistency: session\r\nlumen-min-seq: {seq}\r\n"),
                };
                let path = format!("/kv/{VALUES}/keys/{key}");
                let answer = connection.send("GET", &path, &headers, b"").await.map_err(text)?;
                expect(&answer, 200)?;
                *seq = (*seq).max(seq_of(&answer));
            }
            Client::Etcd(etcd) => etcd.get(key, newest == Newest::Session).await?,
        }
        Ok(())
    }

    /// Writes to a collection of Lumen; the version after it.
    pub(crate) async fn write(
        &mut self,
        method: &str,
        collection: &str,
        id: &str,
        headers: &str,
        body: &[u8],
    ) -> Result<String, Error> {
        let path = format!("/collections/{collection}/documents/{id}");
        self.send(method, &path, headers, body).await
    }

    async fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<String, Error> {
        let Client::Lumen(connection, seq) = self else { panic!("etcd has another client") };
        let answer = connection.send(method, path, headers, body).await.map_err(text)?;
        match (method, answer.status) {
            (_, 200 | 201 | 204) | ("DELETE", 404) => {}
            _ => return Err(words(&answer)),
        }
        *seq = (*seq).max(seq_of(&answer));
        Ok(answer.header("etag").unwrap_or_default().to_owned())
    }

    /// The body of an answer to a GET, if it is JSON.
    pub(crate) async fn ask(&mut self, path: &str) -> Option<Value> {
        let Client::Lumen(connection, _) = self else { return None };
        let answer = connection.send("GET", path, "", b"").await.ok()?;
        serde_json::from_slice(answer.body).ok()
    }

    /// Makes the collections, which etcd does not need.
    pub(crate) async fn prepare(&mut self) {
        let Client::Lumen(connection, _) = self else { return };
        let values = r#"{"fields":{"v":{"type":"keyword","indexed":false}}}"#;
        let documents = r#"{"fields":{"text":{"type":"text"},"number":{"type":"i64"},
            "rest":{"type":"keyword","indexed":false,"fast":false}}}"#;
        for (name, mapping) in [(VALUES, values), (DOCUMENTS, documents)] {
            let made = connection.send("PUT", &format!("/collections/{name}"), "", mapping.as_bytes()).await;
            expect(&made.expect("the node answers"), 201).expect("a collection");
        }
    }
}

fn text(error: impl std::fmt::Display) -> Error {
    error.to_string()
}

fn seq_of(answer: &Answer<'_>) -> u64 {
    answer.header("lumen-seq").and_then(|seq| seq.parse().ok()).unwrap_or(0)
}

fn words(answer: &Answer<'_>) -> Error {
    format!("{}: {}", answer.status, String::from_utf8_lossy(answer.body))
}

fn expect(answer: &Answer<'_>, status: u16) -> Result<(), Error> {
    if answer.status == status { Ok(()) } else { Err(words(answer)) }
}

/// A node's number, and the number of whom it takes for the leader.
pub(crate) async fn leader_of(system: System, address: SocketAddr) -> Option<(u64, u64)> {
    let asked = async {
        let mut client = Client::open(system, address).await.ok()?;
        if let Client::Etcd(etcd) = &mut client {
            return etcd.leader().await.ok()?;
        }
        let status = client.ask("/cluster/metrics").await?;
        Some((status["id"].as_u64()?, status["current_leader"].as_u64()?))
    };
    tokio::time::timeout(Duration::from_secs(5), asked).await.ok()?
}
