//! The server is killed with SIGKILL under sixteen writing clients, again and again over the same folder.
//!
//! Each client owns its documents, so it knows what is to be there: what was acknowledged, and of its one request under way
//! at the kill either all or nothing. Every version of a document carries a word of its own and the document's word:
//!
//! ```text
//! id: c3d17   text: "c3d17 c3d17v208 rain on the old roof"
//! ```
//!
//! so that search can be held against get. `LUMEN_KILL_CYCLES` says how often (3), `LUMEN_KILL_SEED` repeats a run as far
//! as threads can be repeated.

mod support;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::{Instant, SystemTime};

use serde_json::{Value, json};
use support::{Answer, Connection, Random, Server, files, lumen};

const CLIENTS: u64 = 16;

/// Documents of each client: few, so that replacing and deleting are as frequent as creating.
const DOCUMENTS: u64 = 40;

/// The kill comes after at most so many acknowledgements.
const ACKNOWLEDGED_MAX: u64 = 3000;

/// Memory before a flush: the small ones make the kill hit flushes, compactions and merges, the large one the journal.
const MEMORY: [&str; 4] = ["64KiB", "256KiB", "1MiB", "64MiB"];

const COLLECTION: &str = "/collections/killed";

/// A document as it was acknowledged.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    word: String,
    version: u64,
}

/// One request: for each document its new word, or none to delete it.
type Changes = BTreeMap<u64, Option<String>>;

struct Client {
    number: u64,
    random: Random,
    words: u64,
    /// What is there.
    known: BTreeMap<u64, Known>,
    /// What was under way when the server was killed.
    pending: Changes,
    /// Words of this cycle that were replaced or deleted, acknowledged.
    gone: Vec<String>,
}

/// What a run has seen.
#[derive(Default)]
struct Counts {
    acknowledged: u64,
    present: u64,
    absent: u64,
    lookups: u64,
}

impl Client {
    fn new(number: u64, seed: u64) -> Client {
        let random = Random(seed ^ (number + 1).wrapping_mul(0x2545_f491_4f6c_dd1d));
        let (known, pending) = (BTreeMap::new(), BTreeMap::new());
        Client { number, random, words: 0, known, pending, gone: Vec::new() }
    }

    fn id(&self, document: u64) -> String {
        format!("c{}d{document}", self.number)
    }

    /// The next request: half are single puts, the rest deletes and imports.
    fn draw(&mut self) -> Changes {
        let count = match self.random.below(8) {
            0 => return [(self.random.below(DOCUMENTS), None)].into(),
            1..5 => 1,
            _ => 2 + self.random.below(20),
        };
        let mut changes = Changes::new();
        for _ in 0..count {
            let document = self.random.below(DOCUMENTS);
            self.words += 1;
            changes.insert(document, Some(format!("{}v{}", self.id(document), self.words)));
        }
        changes
    }

    fn source(&mut self, document: u64, word: &str) -> Value {
        const PROSE: [&str; 8] =
            ["rain", "on the old roof", "and", "a river", "never twice", "the same", "winter", "grass"];
        let count = 1 + self.random.below(60) as usize;
        let prose: Vec<&str> = (0..count).map(|_| PROSE[self.random.below(8) as usize]).collect();
        let text = format!("{} {word} {}", self.id(document), prose.join(" "));
        json!({ "text": text, "client": self.number })
    }

    fn send(&mut self, connection: &mut Connection, changes: &Changes) -> io::Result<Answer> {
        let (document, word) = changes.first_key_value().expect("something changes");
        let path = format!("{COLLECTION}/documents/{}", self.id(*document));
        match word {
            None => connection.send("DELETE", &path, ""),
            Some(word) if changes.len() == 1 => {
                let source = self.source(*document, word);
                connection.send("PUT", &path, &source.to_string())
            }
            Some(_) => {
                let mut lines = String::new();
                for (document, word) in changes {
                    let mut line = self.source(*document, word.as_deref().expect("imports only put"));
                    line["id"] = self.id(*document).into();
                    lines.push_str(&format!("{line}\n"));
                }
                connection.send("POST", &format!("{COLLECTION}/import"), &lines)
            }
        }
    }

    /// Writes until the server is gone; rings `acknowledged` for each request that was answered.
    fn write(&mut self, address: SocketAddr, killed: &AtomicBool, acknowledged: &Sender<()>) {
        let mut connection = match Connection::open(address) {
            Ok(connection) => connection,
            Err(error) => return assert!(killed.load(Ordering::SeqCst), "cannot connect: {error}"),
        };
        loop {
            let changes = self.draw();
            match self.send(&mut connection, &changes) {
                Ok(answer) if answer.status == 429 => {}
                Ok(answer) => {
                    self.acknowledge(changes, &answer);
                    let _ = acknowledged.send(());
                }
                Err(error) => {
                    assert!(killed.load(Ordering::SeqCst), "the server broke off: {error}");
                    self.pending = changes;
                    return;
                }
            }
        }
    }

    fn acknowledge(&mut self, changes: Changes, answer: &Answer) {
        assert!(matches!(answer.status, 200 | 201 | 204), "{} {}", answer.status, answer.text());
        let version = answer.header("lumen-seq").and_then(|seq| seq.parse().ok()).expect("a number");
        if changes.len() > 1 {
            let summary = &answer.json()["summary"];
            let stored = summary["created"].as_u64().unwrap_or(0) + summary["updated"].as_u64().unwrap_or(0);
            assert_eq!(stored, changes.len() as u64, "{summary}");
        }
        for (document, word) in changes {
            let before = match word {
                Some(word) => self.known.insert(document, Known { word, version }),
                None => self.known.remove(&document),
            };
            self.gone.extend(before.map(|known| known.word));
        }
    }

    /// Holds everything of this client against the server, and takes what was under way for what it became.
    fn verify(&mut self, connection: &mut Connection, counts: &mut Counts) {
        let mut found = BTreeMap::new();
        for document in 0..DOCUMENTS {
            let id = self.id(document);
            let answer =
                connection.send("GET", &format!("{COLLECTION}/documents/{id}"), "").expect("an answer");
            let by_id = (answer.status == 200).then(|| answer.json());
            assert!(by_id.is_some() || answer.status == 404, "{} {}", answer.status, answer.text());
            let hits = search(connection, &format!("text:{id}"));
            let by_search = (!hits.is_empty()).then(|| &hits[0]);
            assert!(hits.len() < 2, "{id} is found twice: {hits:?}");
            assert_eq!(
                by_id.as_ref().map(|d| (&d["id"], &d["version"], &d["source"])),
                by_search.map(|d| (&d["id"], &d["version"], &d["source"])),
                "get and search disagree"
            );
            counts.lookups += 2;
            if let Some(by_id) = by_id {
                let text = by_id["source"]["text"].as_str().expect("text");
                let word = text.split(' ').nth(1).expect("a word").to_string();
                let hits = search(connection, &format!("text:{word}"));
                assert!(hits.len() == 1 && hits[0]["id"] == *id, "{word} finds {hits:?}");
                found
                    .insert(document, Known { word, version: by_id["version"].as_u64().expect("a version") });
            }
        }
        self.resolve(&found, counts);
        self.known = found;
        for words in self.gone.chunks(50) {
            let query: Vec<String> = words.iter().map(|word| format!("text:{word}")).collect();
            let hits = search(connection, &query.join(" OR "));
            assert!(hits.is_empty(), "what was replaced or deleted is found: {hits:?}");
            counts.lookups += words.len() as u64;
        }
        self.gone.clear();
    }

    /// Acknowledged documents have to be as they were; of the request under way, all or nothing may have happened.
    fn resolve(&mut self, found: &BTreeMap<u64, Known>, counts: &mut Counts) {
        let pending = std::mem::take(&mut self.pending);
        let mut happened = Vec::new();
        for document in 0..DOCUMENTS {
            let (before, now) = (self.known.get(&document), found.get(&document));
            match pending.get(&document) {
                None => assert_eq!(now, before, "{} was acknowledged", self.id(document)),
                // Deleting what was not there leaves no trace either way.
                Some(None) if before.is_none() => assert_eq!(now, None),
                Some(word) => {
                    let is_new = now.map(|known| &known.word) == word.as_ref();
                    assert!(is_new || now == before, "{word:?} over {before:?} left {now:?}");
                    happened.push(is_new);
                    self.gone.extend(if is_new { before.map(|b| b.word.clone()) } else { word.clone() });
                }
            }
        }
        let Some(&first) = happened.first() else { return };
        assert!(
            happened.iter().all(|other| *other == first),
            "half of a request: {pending:?} left {found:?}"
        );
        *(if first { &mut counts.present } else { &mut counts.absent }) += 1;
    }
}

/// All hits, whose number has to be the total.
fn search(connection: &mut Connection, query: &str) -> Vec<Value> {
    let query = query.replace(' ', "+");
    let answer = connection.send("GET", &format!("{COLLECTION}/documents/search?limit=1000&q={query}"), "");
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut body = answer.json();
    let Value::Array(hits) = body["hits"].take() else { panic!("no hits in {body}") };
    assert_eq!(body["total"], hits.len());
    hits
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let cycles = number("LUMEN_KILL_CYCLES").unwrap_or(3);
    let now = || SystemTime::UNIX_EPOCH.elapsed().expect("a time after 1970").as_nanos() as u64;
    let seed = number("LUMEN_KILL_SEED").unwrap_or_else(now);
    println!("LUMEN_KILL_SEED={seed} LUMEN_KILL_CYCLES={cycles}");
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let mut random = Random(seed);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|number| Client::new(number, seed)).collect();
    let (mut counts, started) = (Counts::default(), Instant::now());
    for cycle in 0..=cycles {
        let memory = MEMORY[random.below(MEMORY.len() as u64) as usize];
        let server = Server::start(&data, &["--memory", memory]);
        if cycle == 0 {
            let mapping =
                r#"{"fields":{"text":{"type":"text","analyzer":"simple"},"client":{"type":"i64"}}}"#;
            assert_eq!(server.put(COLLECTION, mapping).status, 201);
        }
        verify(&server, &mut clients, &mut counts);
        if cycle == cycles {
            server.signal("TERM");
            assert_eq!(server.wait().code(), Some(0));
            break;
        }
        counts.acknowledged += kill(server, &mut clients, 1 + random.below(ACKNOWLEDGED_MAX));
        check(&data);
    }
    check(&data);
    let Counts { acknowledged, present, absent, lookups } = counts;
    println!(
        "{cycles} kills in {:.1?}: {acknowledged} requests acknowledged, all there; of those under way {present} were \
         there, {absent} were not; {lookups} lookups",
        started.elapsed()
    );
}

/// `lumen check` finds nothing wrong in what is left, and leaves it as it is.
fn check(data: &Path) {
    let before = files(data);
    let output = lumen().arg("check").arg(data).output().expect("lumen runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(files(data) == before, "the check changed the folder");
}

/// Lets all clients write, kills the server once enough was acknowledged, and says how much was.
fn kill(server: Server, clients: &mut [Client], enough: u64) -> u64 {
    let (sender, acknowledged) = mpsc::channel();
    let (address, killed) = (server.address, &AtomicBool::new(false));
    std::thread::scope(|scope| {
        for client in clients {
            let sender = sender.clone();
            scope.spawn(move || client.write(address, killed, &sender));
        }
        drop(sender);
        for nth in 0..enough {
            // Without senders all clients have failed; the scope says how.
            if acknowledged.recv().is_err() {
                return nth;
            }
        }
        killed.store(true, Ordering::SeqCst);
        server.kill();
        enough + acknowledged.iter().count() as u64
    })
}

fn verify(server: &Server, clients: &mut [Client], counts: &mut Counts) {
    let mut connection = Connection::open(server.address).expect("the server accepts");
    for client in clients.iter_mut() {
        client.verify(&mut connection, counts);
    }
    let answer =
        connection.send("GET", &format!("{COLLECTION}/documents/search?limit=0&q=*"), "").expect("an answer");
    let there: usize = clients.iter().map(|client| client.known.len()).sum();
    assert_eq!(answer.json()["total"], there, "documents in all");
}
