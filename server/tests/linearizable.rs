//! Clients of three real processes that are killed, stopped and cut off from each other, and whether one order explains all
//! that they were told: gets, puts, deletes, conditional puts, and searches for what was put.
//!
//! `LUMEN_LINEARIZABLE=1000000 cargo test --release -p lumen-server --test linearizable -- --nocapture` asks so much more.
//! As root each node has a network of its own (namespaces), which is cut; elsewhere they are killed and stopped.

mod orders;
mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use orders::history::{self, Asked, If, Key, Operation, Told, Value};
use orders::is_linearizable_by_search;
use support::{Connection, Random, Server, free_port, lumen};

/// Operations unless `LUMEN_LINEARIZABLE` says otherwise.
const OPERATIONS: u64 = 30_000;
const CLIENTS: u64 = 12;
/// Keys that are written at a time, and operations after which they are others.
const KEYS: u64 = 16;
const ERA: u64 = 20_000;
const NODES: u64 = 3;

fn run(command: &str) -> bool {
    let output = Command::new("sh").args(["-c", command]).output().expect("sh runs");
    output.status.success()
}

/// A network for each node: one wire to the clients, one to the bridge over which the nodes speak. Gone when dropped.
struct Net {
    /// What the names of all that was made begin with, if anything could be.
    prefix: Option<String>,
    /// The second number of their addresses: others on this machine may have networks like these.
    number: u32,
    /// Ports of the nodes where all have this machine's network.
    ports: BTreeMap<u64, (u16, u16)>,
}

impl Net {
    fn new() -> Net {
        let prefix = format!("lm{}", std::process::id() % 1_000_000);
        let made = run(&format!("ip link add {prefix}b type bridge && ip link set {prefix}b up"));
        let free = |number: &u32| !run(&format!("ip -o addr | grep -q ' 10.{number}.'"));
        let number = (64..128).map(|n| 64 + (n + std::process::id()) % 64).find(free).unwrap_or(64);
        let ports = (1..=NODES).map(|id| (id, (free_port(), free_port()))).collect();
        let mut net = Net { prefix: made.then_some(prefix.clone()), number, ports };
        for id in (1..=NODES).filter(|_| made) {
            let (ns, public, private) =
                (format!("{prefix}n{id}"), format!("{prefix}c{id}"), format!("{prefix}r{id}"));
            let made = run(&format!(
                "ip netns add {ns} && ip -n {ns} link set lo up \
                 && ip link add {public} type veth peer name clients netns {ns} \
                 && ip addr add 10.{number}.{id}.1/24 dev {public} && ip link set {public} up \
                 && ip -n {ns} addr add 10.{number}.{id}.2/24 dev clients && ip -n {ns} link set clients up \
                 && ip link add {private} type veth peer name peers netns {ns} \
                 && ip link set {private} master {prefix}b && ip link set {private} up \
                 && ip -n {ns} addr add 10.{number}.0.{id}/24 dev peers && ip -n {ns} link set peers up"
            ));
            if !made {
                net.remove();
            }
        }
        net
    }

    fn remove(&mut self) {
        let Some(prefix) = self.prefix.take() else { return };
        for id in 1..=NODES {
            run(&format!("ip netns del {prefix}n{id}; ip link del {prefix}c{id}; ip link del {prefix}r{id}"));
        }
        run(&format!("ip link del {prefix}b"));
    }

    /// Where a node listens for clients and for the others.
    fn addresses(&self, id: u64) -> (String, String) {
        match &self.prefix {
            Some(_) => {
                let number = self.number;
                (format!("10.{number}.{id}.2:7700"), format!("10.{number}.0.{id}:7701"))
            }
            None => {
                let (public, private) = self.ports[&id];
                (format!("127.0.0.1:{public}"), format!("127.0.0.1:{private}"))
            }
        }
    }

    /// `lumen`, in the network of a node.
    fn command(&self, id: u64) -> Command {
        let plain = lumen();
        let Some(prefix) = &self.prefix else { return plain };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{prefix}n{id}")]).arg(plain.get_program());
        plain.get_envs().for_each(|(name, _)| _ = command.env_remove(name));
        command
    }

    /// Cuts a node off from the others, or not any more.
    fn cut(&self, id: u64, is_cut: bool) {
        let Some(prefix) = &self.prefix else { return };
        let state = if is_cut { "down" } else { "up" };
        assert!(run(&format!("ip link set {prefix}r{id} {state}")), "the wire of node {id}");
    }

    /// Loses all that a node sends to another, or not any more.
    fn cut_one_way(&self, from: u64, to: u64, is_cut: bool) {
        let Some(prefix) = &self.prefix else { return };
        let change = if is_cut { "add" } else { "del" };
        assert!(
            run(&format!("ip -n {prefix}n{from} route {change} blackhole 10.{}.0.{to}/32", self.number)),
            "{from} to {to}"
        );
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Three nodes, started again as often as they are killed.
struct Cluster {
    folder: tempfile::TempDir,
    net: Net,
    nodes: Mutex<BTreeMap<u64, Server>>,
}

impl Cluster {
    fn new() -> Cluster {
        let folder = tempfile::tempdir().expect("a folder");
        let cluster = Cluster { folder, net: Net::new(), nodes: Mutex::default() };
        (1..=NODES).for_each(|id| cluster.start(id));
        cluster
    }

    fn start(&self, id: u64) {
        let mut command = self.net.command(id);
        let (public, private) = self.net.addresses(id);
        command.arg("cluster").arg("--data-dir").arg(self.folder.path().join(id.to_string()));
        command.args(["--id", &id.to_string(), "--bind", &public, "--raft-addr", &private]);
        command.args(["--profile", "lan-fast", "--request-timeout", "2s"]);
        let first = self.net.addresses(1).1;
        match id {
            1 => command.arg("--init"),
            _ => command.args(["--join", &first]),
        };
        self.nodes.lock().expect("no panic").insert(id, Server::spawn(command));
    }

    fn kill(&self, id: u64) {
        if let Some(node) = self.nodes.lock().expect("no panic").remove(&id) {
            node.kill();
        }
    }

    fn signal(&self, id: u64, name: &str) {
        if let Some(node) = self.nodes.lock().expect("no panic").get(&id) {
            node.signal(name);
        }
    }

    fn address(&self, id: u64) -> SocketAddr {
        self.net.addresses(id).0.parse().expect("an address")
    }

    /// Until everybody votes and answers.
    fn wait_until_whole(&self) {
        let late = Instant::now() + Duration::from_secs(60);
        for id in 1..=NODES {
            loop {
                let answer = Connection::open(self.address(id))
                    .and_then(|mut it| it.send("GET", "/cluster/metrics", ""));
                let voters = answer.ok().and_then(|answer| answer.json()["voters"].as_array().map(Vec::len));
                if voters == Some(NODES as usize) {
                    break;
                }
                assert!(Instant::now() < late, "node {id}: {voters:?}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// What is done to the nodes, by name, until it is over; then everything is well again.
fn disturb(cluster: &Cluster, seed: u64, is_over: &AtomicBool) -> BTreeMap<&'static str, u64> {
    let (mut random, mut counts) = (Random(seed), BTreeMap::new());
    while !is_over.load(Ordering::Relaxed) {
        let (one, other) = (1 + random.below(NODES), 1 + random.below(NODES));
        let pause = Duration::from_millis(50 + random.below(1_500));
        let wait = || std::thread::sleep(pause);
        let what = match random.below(10) {
            0..=2 => {
                cluster.kill(one);
                wait();
                cluster.start(one);
                "kill"
            }
            3 if one != other => {
                cluster.kill(one);
                cluster.kill(other);
                wait();
                cluster.start(one);
                cluster.start(other);
                "kill of two"
            }
            4..=5 => {
                cluster.signal(one, "STOP");
                wait();
                cluster.signal(one, "CONT");
                "stop"
            }
            6..=7 if cluster.net.prefix.is_some() => {
                cluster.net.cut(one, true);
                wait();
                cluster.net.cut(one, false);
                "cut"
            }
            8 if one != other && cluster.net.prefix.is_some() => {
                cluster.net.cut_one_way(one, other, true);
                wait();
                cluster.net.cut_one_way(one, other, false);
                "cut one way"
            }
            _ => {
                wait();
                continue;
            }
        };
        *counts.entry(what).or_default() += 1;
        std::thread::sleep(Duration::from_millis(300 + random.below(700)));
    }
    counts
}

/// One client: its connections, and what it knows.
struct Client<'a> {
    cluster: &'a Cluster,
    begun: Instant,
    connections: BTreeMap<u64, Connection>,
    random: Random,
    /// What is put next, of which no other client puts the same.
    next: Value,
    /// The newest moment it was told of.
    token: u64,
    /// Versions of keys, as it was last told.
    versions: BTreeMap<Key, u64>,
    /// The last value it put, and where.
    last: Option<(Key, Value)>,
    history: Vec<Operation>,
}

impl Client<'_> {
    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// Asks any node for one thing.
    fn ask(&mut self, number: u64) {
        let key = number / ERA * KEYS + self.random.below(KEYS);
        let node = 1 + self.random.below(NODES);
        let document = format!("/collections/kv/documents/k{key}");
        let version = self.versions.get(&key).copied();
        let conditional = self.random.below(4) == 0;
        let condition = match version {
            _ if !conditional => If::Always,
            None => If::Absent,
            Some(_) if self.random.below(5) == 0 => If::Present,
            Some(version) => If::Version(version),
        };
        let header = match condition {
            If::Always => String::new(),
            If::Absent => "if-none-match: *\r\n".into(),
            If::Present => "if-match: *\r\n".into(),
            If::Version(version) => format!("if-match: \"{version}\"\r\n"),
        };
        match self.random.below(100) {
            0..=34 => {
                self.next += CLIENTS;
                let body = format!(r#"{{"t":"v{}"}}"#, self.next);
                self.last = Some((key, self.next));
                self.write(node, key, Asked::Put(self.next, condition), "PUT", &document, &header, &body);
            }
            35..=42 => self.write(node, key, Asked::Delete(condition), "DELETE", &document, &header, ""),
            43..=69 => self.read(node, key, Asked::Read, &document, ""),
            70..=79 => {
                let since = format!("lumen-consistency: session\r\nlumen-min-seq: {}\r\n", self.token);
                self.read(node, key, Asked::ReadSince(self.token), &document, &since);
            }
            _ => {
                let Some((key, value)) = self.last else { return };
                let path = format!("/collections/kv/documents/search?q=t:v{value}");
                self.read(node, key, Asked::Search(value), &path, "lumen-consistency: linearizable\r\n");
            }
        }
    }

    /// One request; `None` when the node is not there, or went away before it answered.
    fn send(
        &mut self,
        node: u64,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Option<support::Answer> {
        let mut connection = match self.connections.remove(&node) {
            Some(connection) => connection,
            None => Connection::open_within(self.cluster.address(node), Duration::from_secs(4)).ok()?,
        };
        let answer = connection.send_with(method, path, headers, body).ok()?;
        self.connections.insert(node, connection);
        Some(answer)
    }

    #[expect(clippy::too_many_arguments, reason = "a request has so many parts")]
    fn write(
        &mut self,
        node: u64,
        key: Key,
        asked: Asked,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) {
        let began = self.now();
        let answer = self.send(node, method, path, headers, body);
        let ended = self.now();
        let told = match answer {
            None => Told::Unknown,
            Some(answer) => {
                let seq = || answer.header("lumen-seq").and_then(|seq| seq.parse().ok()).expect("a token");
                match answer.status {
                    200 | 201 | 204 => Told::Done(seq()),
                    412 => {
                        let current = answer.json()["error"]["current_version"].as_u64();
                        match current {
                            Some(version) => self.versions.insert(key, version),
                            None => self.versions.remove(&key),
                        };
                        Told::Refused(seq())
                    }
                    // Nothing came of it, says the server.
                    404 | 408 | 429 | 503 if answer.json()["error"]["type"] != "unknown" => Told::NotDone,
                    503 | 504 => Told::Unknown,
                    status => panic!("{method} {path}: {status} {}", answer.text()),
                }
            }
        };
        if let Told::Done(seq) = told {
            self.token = self.token.max(seq);
            match asked {
                Asked::Put(..) => self.versions.insert(key, seq),
                _ => self.versions.remove(&key),
            };
        }
        let ended = if told == Told::Unknown { u64::MAX } else { ended };
        self.history.push(Operation { key, asked, told, began, ended });
    }

    fn read(&mut self, node: u64, key: Key, asked: Asked, path: &str, headers: &str) {
        let began = self.now();
        let Some(answer) = self.send(node, "GET", path, headers, "") else { return };
        let ended = self.now();
        let is_search = matches!(asked, Asked::Search(_));
        let found = match answer.status {
            200 if is_search => {
                let body = answer.json();
                let hits = body["hits"].as_array().expect("hits");
                assert!(hits.len() <= 1, "a value is in one document: {body}");
                let Asked::Search(value) = asked else { return };
                hits.first().map(|hit| {
                    assert_eq!(hit["id"], format!("k{key}"), "{body}");
                    (hit["version"].as_u64().expect("a version"), value)
                })
            }
            200 => {
                let body = answer.json();
                let text = body["source"]["t"].as_str().expect("a value").to_owned();
                let value = text.trim_start_matches('v').parse().expect("a number");
                Some((body["version"].as_u64().expect("a version"), value))
            }
            404 if answer.json()["error"]["type"] == "document_not_found" => None,
            404 | 408 | 429 | 503 | 504 => return,
            status => panic!("GET {path}: {status} {}", answer.text()),
        };
        let seq = answer.header("lumen-seq").and_then(|seq| seq.parse().ok()).expect("a token");
        self.token = self.token.max(seq);
        if !is_search {
            match found {
                Some((version, _)) => self.versions.insert(key, version),
                None => self.versions.remove(&key),
            };
        }
        self.history.push(Operation { key, asked, told: Told::Found(seq, found), began, ended });
    }
}

/// Of each key the first operations, as they looked when the last of them ended.
fn beginnings(operations: &[Operation], most: usize) -> Vec<Operation> {
    let mut by_key: BTreeMap<Key, Vec<Operation>> = BTreeMap::new();
    operations.iter().for_each(|operation| by_key.entry(operation.key).or_default().push(*operation));
    let cut = |mut of_key: Vec<Operation>| {
        of_key.sort_by_key(|operation| operation.began);
        of_key.truncate(most);
        let until = of_key.last().map_or(0, |last| last.began);
        of_key.into_iter().filter_map(move |operation| match operation.told {
            _ if operation.ended <= until => Some(operation),
            // Reads that were not over say nothing yet, writes may have been done.
            Told::Found(..) | Told::NotDone => None,
            _ => Some(Operation { told: Told::Unknown, ended: u64::MAX, ..operation }),
        })
    };
    by_key.into_values().flat_map(cut).collect()
}

#[test]
fn one_order_explains_all_answers_of_processes_that_are_killed_stopped_and_cut_off() {
    let wanted = std::env::var("LUMEN_LINEARIZABLE").map_or(OPERATIONS, |it| it.parse().expect("a number"));
    let cluster = Cluster::new();
    if cluster.net.prefix.is_none() {
        println!("SKIPPED: no networks can be made here, so none is cut");
    }
    cluster.wait_until_whole();
    let mapping = r#"{"fields":{"t":{"type":"text"}}}"#;
    let mut connection = Connection::open(cluster.address(1)).expect("node 1");
    assert_eq!(connection.send("PUT", "/collections/kv", mapping).expect("an answer").status, 201);
    let (begun, asked, told, is_over) =
        (Instant::now(), AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let (histories, counts) = std::thread::scope(|scope| {
        let disturbing = scope.spawn(|| disturb(&cluster, 7, &is_over));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (cluster, asked, told) = (&cluster, &asked, &told);
                scope.spawn(move || {
                    let mut client = Client {
                        cluster,
                        begun,
                        connections: BTreeMap::new(),
                        random: Random(number),
                        next: number,
                        token: 0,
                        versions: BTreeMap::new(),
                        last: None,
                        history: Vec::new(),
                    };
                    // What was told counts; who finds nobody there asks again.
                    while told.load(Ordering::Relaxed) < wanted {
                        let before = client.history.len();
                        client.ask(asked.fetch_add(1, Ordering::Relaxed));
                        let known = client.history.get(before).is_some_and(|it| it.told != Told::Unknown);
                        let count = told.fetch_add(u64::from(known), Ordering::Relaxed);
                        if known && count.is_multiple_of(100_000) && count > 0 {
                            println!("{count} operations, {:.0} s", begun.elapsed().as_secs_f64());
                        }
                        if !known {
                            std::thread::sleep(Duration::from_millis(5));
                        }
                    }
                    client.history
                })
            })
            .collect();
        let histories: Vec<_> = clients.into_iter().map(|client| client.join().expect("a client")).collect();
        is_over.store(true, Ordering::Relaxed);
        (histories, disturbing.join().expect("who disturbs"))
    });
    let mut operations: Vec<Operation> = histories.into_iter().flatten().collect();
    let took = begun.elapsed();
    // In the end all nodes have everything.
    cluster.wait_until_whole();
    let keys: std::collections::BTreeSet<Key> = operations.iter().map(|operation| operation.key).collect();
    for id in 1..=NODES {
        let mut connections = BTreeMap::new();
        connections.insert(id, Connection::open(cluster.address(id)).expect("it runs"));
        let (versions, random) = (BTreeMap::new(), Random(id));
        let mut client = Client {
            cluster: &cluster,
            begun,
            connections,
            random,
            next: 0,
            token: 0,
            versions,
            last: None,
            history: Vec::new(),
        };
        for key in &keys {
            let late = Instant::now() + Duration::from_secs(60);
            let before = client.history.len();
            while client.history.len() == before {
                client.read(id, *key, Asked::Read, &format!("/collections/kv/documents/k{key}"), "");
                assert!(Instant::now() < late, "node {id} does not answer");
            }
        }
        operations.extend(client.history);
    }
    let count = |what: fn(&Told) -> bool| operations.iter().filter(|operation| what(&operation.told)).count();
    println!(
        "{} operations in {:.0} s ({} done, {} found, {} refused, {} not done, {} of unknown outcome); {counts:?}",
        operations.len(),
        took.as_secs_f64(),
        count(|told| matches!(told, Told::Done(_))),
        count(|told| matches!(told, Told::Found(..))),
        count(|told| matches!(told, Told::Refused(_))),
        count(|told| matches!(told, Told::NotDone)),
        count(|told| matches!(told, Told::Unknown)),
    );
    if let Err(violation) = history::check(&operations) {
        panic!("not linearizable: {violation}");
    }
    assert!(
        is_linearizable_by_search(&beginnings(&operations, 200)),
        "the search finds no order, the checker one"
    );
    assert!(counts.values().sum::<u64>() > 0, "nothing was disturbed");
    assert!(
        count(|told| matches!(told, Told::Refused(_))) > 0
            && count(|told| matches!(told, Told::Done(_))) > 1_000
    );
}
