//! `kill -9` under sixteen writing clients: what was acknowledged is there by id and by search, once; what was not is
//! there wholly or not at all. `LUMEN_KILL_CYCLES` says how often (3), `LUMEN_KILL_SEED` which moments.

mod support;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Sender};
use std::thread;
use support::{Connection, Random, Server};

const CLIENTS: u64 = 16;
/// Each client's own documents: few, so that they are replaced and deleted often.
const KEYS: u64 = 24;
/// Documents of one import.
const BATCH: u64 = 5;

/// Which version each document is at, by key; a key that is missing has no document.
type Versions = BTreeMap<u64, u64>;

/// One client and what it knows.
struct Client {
    number: u64,
    random: Random,
    /// Every version is used once.
    next_version: u64,
    /// What was acknowledged.
    acknowledged: Versions,
    /// What will be, if the request under way has its effect.
    hoped: Option<Versions>,
    writes: u64,
}

impl Client {
    fn id(&self, key: u64) -> String {
        format!("c{}k{key}", self.number)
    }

    /// A word that is in this version of this document alone.
    fn word(&self, key: u64, version: u64) -> String {
        format!("w{}x{key}x{version}", self.number)
    }

    fn document(&self, key: u64, version: u64) -> String {
        let filler = "what is written down stays ".repeat(1 + (version % 7) as usize);
        format!(r#"{{"text":"{} {filler}","key":{key},"version":{version}}}"#, self.word(key, version))
    }

    fn new_version(&mut self) -> u64 {
        self.next_version += 1;
        self.next_version
    }

    /// Writes until the server is gone.
    fn write(&mut self, address: SocketAddr, acknowledged: &Sender<()>) {
        let Ok(mut connection) = Connection::open(address) else { return };
        while self.write_once(&mut connection).is_ok() {
            self.acknowledged = self.hoped.take().expect("a write hopes for something");
            self.writes += 1;
            if acknowledged.send(()).is_err() {
                return;
            }
        }
    }

    fn write_once(&mut self, connection: &mut Connection) -> io::Result<()> {
        let mut hoped = self.acknowledged.clone();
        let key = self.random.below(KEYS);
        match self.random.below(10) {
            0..2 => {
                hoped.remove(&key);
                self.hoped = Some(hoped);
                let path = format!("/collections/docs/documents/{}", self.id(key));
                let status = connection.send("DELETE", &path, "")?.status;
                assert_eq!(status, 204);
            }
            2..4 => {
                let keys = (key..key + BATCH).map(|key| key % KEYS);
                let mut lines = String::new();
                for key in keys {
                    let version = self.new_version();
                    let document = self.document(key, version);
                    lines.push_str(&format!("{{\"id\":\"{}\",{}\n", self.id(key), &document[1..]));
                    hoped.insert(key, version);
                }
                self.hoped = Some(hoped);
                let answer = connection.send("POST", "/collections/docs/import?id_field=id", &lines)?;
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
            _ => {
                let version = self.new_version();
                let replaced = hoped.insert(key, version).is_some();
                self.hoped = Some(hoped);
                let path = format!("/collections/docs/documents/{}", self.id(key));
                let answer = connection.send("PUT", &path, &self.document(key, version))?;
                assert_eq!(answer.status, if replaced { 200 } else { 201 }, "{}", answer.text());
            }
        }
        Ok(())
    }

    /// Which of its documents are there, and that a search finds these versions and no others.
    fn check(&mut self, server: &Server) {
        let mut connection = Connection::open(server.address).expect("the server accepts");
        let mut there = Versions::new();
        for key in 0..KEYS {
            let path = format!("/collections/docs/documents/{}", self.id(key));
            let answer = connection.send("GET", &path, "").expect("an answer");
            if answer.status == 200 {
                let body = answer.json();
                let document = body.get("source").unwrap_or(&body);
                let version = document["version"].as_u64().expect("a version");
                let text = document["text"].as_str().expect("text");
                assert!(text.starts_with(&self.word(key, version)), "{text}");
                there.insert(key, version);
            } else {
                assert_eq!(answer.status, 404, "{}", answer.text());
            }
        }
        let hoped = self.hoped.take();
        assert!(
            there == self.acknowledged || Some(&there) == hoped.as_ref(),
            "client {}: there {there:?}, acknowledged {:?}, under way {hoped:?}",
            self.number,
            self.acknowledged
        );
        let mut versions: Vec<(u64, u64)> = Vec::new();
        for known in [&there, &self.acknowledged].into_iter().chain(&hoped) {
            versions.extend(known.iter().map(|(&key, &version)| (key, version)));
        }
        versions.sort_unstable();
        versions.dedup();
        for (key, version) in versions {
            let path = format!("/collections/docs/documents/search?q=text:{}", self.word(key, version));
            let answer = connection.send("GET", &path, "").expect("an answer").json();
            let expected = u64::from(there.get(&key) == Some(&version));
            assert_eq!(answer["total"], expected, "{} version {version}: {answer}", self.id(key));
            if expected == 1 {
                assert_eq!(answer["hits"][0]["id"], self.id(key));
            }
        }
        self.acknowledged = there;
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}: a number")))
    };
    let cycles = number("LUMEN_KILL_CYCLES", 3);
    let seed = number("LUMEN_KILL_SEED", u64::from(std::process::id()));
    println!("LUMEN_KILL_SEED={seed} LUMEN_KILL_CYCLES={cycles}");
    let mut random = Random(seed);
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|number| Client {
            number,
            random: Random(random.below(u64::MAX)),
            next_version: 0,
            acknowledged: Versions::new(),
            hoped: None,
            writes: 0,
        })
        .collect();
    // Little memory, so that kills come in flushes, compactions and merges too.
    let start = || Server::start(&data, &["--memory", "1MiB"]);
    let mut server = start();
    let mapping = r#"{"fields":{"text":{"type":"text"},"key":{"type":"i64"},"version":{"type":"i64"}}}"#;
    assert_eq!(server.put("/collections/docs", mapping).status, 201);
    for _ in 0..cycles {
        let address = server.address;
        let moment = 1 + random.below(2000);
        let (sender, acknowledged) = mpsc::channel();
        clients = thread::scope(|scope| {
            let running: Vec<_> = clients
                .into_iter()
                .map(|mut client| {
                    let sender = sender.clone();
                    scope.spawn(move || {
                        client.write(address, &sender);
                        client
                    })
                })
                .collect();
            drop(sender);
            for _ in 0..moment {
                acknowledged.recv().expect("the clients write on until the server is killed");
            }
            server.kill();
            running.into_iter().map(|client| client.join().expect("a client's answers are right")).collect()
        });
        server = start();
        clients.iter_mut().for_each(|client| client.check(&server));
        let count: usize = clients.iter().map(|client| client.acknowledged.len()).sum();
        let all = server.get("/collections/docs/documents/search?q=*&limit=1").json();
        assert_eq!(all["total"], count as u64);
    }
    let writes: u64 = clients.iter().map(|client| client.writes).sum();
    println!("{cycles} kills, {writes} acknowledged writes");
}
