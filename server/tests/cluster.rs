//! Clusters of real processes: formed, written to anywhere, with leaders killed, grown from one node, and started by one
//! command.

mod support;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use support::cluster::Cluster;
use support::{Server, free_port, lumen};

const PATIENCE: Duration = Duration::from_secs(60);

/// How long a node of the profile `lan-fast` votes for nobody after its start.
const GUARD: Duration = Duration::from_millis(250);

/// Numbers of a node at a moment.
struct Counted(BTreeMap<String, f64>);

/// What a node counts of its replicated log, as soon as it is so.
fn until_counted(cluster: &Cluster, id: u64, what: &str, is_so: impl Fn(&Counted) -> bool) -> Counted {
    let late = Instant::now() + PATIENCE;
    loop {
        let counted = Counted(cluster.nodes[&id].counted());
        if is_so(&counted) {
            return counted;
        }
        assert!(Instant::now() < late, "at node {id}, {what}: {:#?}", counted.0);
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Counted {
    /// One of the replicated log's, if it is shown.
    fn get(&self, name: &str) -> Option<f64> {
        self.0.get(&format!("lumen_raft_{name}")).copied()
    }

    /// One that is always shown.
    fn of(&self, name: &str) -> f64 {
        self.get(name).unwrap_or_else(|| panic!("{name} is not in {:#?}", self.0))
    }

    /// How old the leader's news of a node is, in seconds.
    fn age(&self, id: u64) -> Option<f64> {
        self.get(&format!("peer_ack_age_seconds{{peer=\"{id}\"}}"))
    }
}

#[test]
fn a_cluster_is_formed_by_hand_loses_its_leader_and_comes_back_whole() {
    let mut cluster = Cluster::new();
    for id in ["1", "2", "3"] {
        cluster.start(id.parse().expect("a number"), &["--id", id, "--request-timeout", "5s"]);
    }
    let one = &cluster.nodes[&1];
    one.put("/collections/books", r#"{"fields":{}}"#).is_error(503, "unavailable");
    let ready = one.get("/readyz");
    assert_eq!(ready.is_error(503, "unavailable")["check"], "member");
    assert_eq!(one.post("/cluster/init", "").status, 200);
    one.post("/cluster/init", "").is_error(409, "already_initialized");
    for id in [2, 3] {
        let body = json!({ "id": id, "addr": cluster.address(id) }).to_string();
        let added = one.post("/cluster/learners", &body);
        assert_eq!(added.status, 200, "{}", added.text());
    }
    let wrong = json!({ "id": 7, "addr": cluster.address(2) }).to_string();
    let told = one.post("/cluster/learners", &wrong).is_error(409, "membership");
    assert!(told["message"].as_str().is_some_and(|message| message.contains("node 2, not node 7")), "{told}");
    assert_eq!(one.post("/cluster/membership", "[1,2,3]").status, 200);
    for id in [1, 2, 3] {
        cluster.until(id, "all vote", |metrics| metrics["voters"] == json!([1, 2, 3]));
    }
    let metrics = cluster.metrics(1);
    let keys: Vec<&str> = metrics.as_object().expect("an object").keys().map(String::as_str).collect();
    let expected = [
        "current_leader",
        "current_term",
        "id",
        "last_applied_index",
        "last_log_index",
        "members",
        "state",
        "voters",
    ];
    assert_eq!(keys, expected);

    // Written anywhere, there for everybody.
    cluster.nodes[&2].make_books();
    for id in [1, 2, 3] {
        let put =
            cluster.nodes[&id].put(&format!("/collections/books/documents/b{id}"), r#"{"title":"kept"}"#);
        assert_eq!(put.status, 201, "{}", put.text());
        let seq = put.header("lumen-seq").expect("a token").to_string();
        for other in [1, 2, 3] {
            assert_eq!(cluster.nodes[&other].get(&format!("/collections/books/documents/b{id}")).status, 200);
            let path = "/collections/books/documents/search?q=kept";
            let found = cluster.nodes[&other].send("GET", path, &[("lumen-min-seq", &seq)], b"");
            assert_eq!(found.json()["total"], id, "at node {other}");
        }
    }

    // Each counts what it did, and the leader hears of the others.
    let leader = cluster.leader();
    let mut sums = [0.0; 3];
    for id in [1, 2, 3] {
        let counted =
            until_counted(&cluster, id, "the leader hears of the others, and nobody else", |counted| {
                let is_new = |age: Option<f64>| age.is_some_and(|age| age < 1.0);
                let quorum = counted.get("quorum_ack_age_seconds");
                let mut ages =
                    [1, 2, 3].into_iter().filter(|other| *other != id).map(|other| counted.age(other));
                match id == leader {
                    true => is_new(quorum) && ages.all(is_new),
                    false => quorum.is_none() && ages.all(|age| age.is_none()),
                }
            });
        assert!(counted.age(id).is_none(), "it needs no news of itself");
        for what in
            ["wal_fsync_seconds", "wal_group_bytes", "apply_seconds", "apply_batch", "readindex_seconds"]
        {
            let count = counted.of(&format!("{what}_count"));
            assert!(count > 0.0, "{what} at node {id}");
            assert_eq!(counted.of(&format!("{what}_bucket{{le=\"+Inf\"}}")), count, "{what} at node {id}");
            assert!(counted.of(&format!("{what}_sum")) > 0.0, "{what} at node {id}");
        }
        // Each has four writes in its log, and made them durable.
        assert!(counted.of("wal_group_entries_sum") >= 4.0 && counted.of("apply_batch_sum") >= 4.0);
        assert!(counted.of("readindex_shared_sum") >= counted.of("readindex_shared_count"));
        assert_eq!(counted.of("elections_total{reason=\"formed\"}"), f64::from(id == 1));
        assert_eq!((counted.of("protocol_version"), counted.of("boot_guard_active")), (1.0, 0.0));
        let names = [
            "proposals_total{result=\"applied\"}",
            "propose_seconds_count",
            "forward_total{reason=\"write\"}",
        ];
        sums = std::array::from_fn(|n| sums[n] + counted.of(names[n]));
    }
    assert!(sums[0] >= 4.0 && sums[1] >= 1.0 && sums[2] >= 1.0, "{sums:?}");

    // The leader dies; whoever writes through another node sees no error.
    cluster.nodes.remove(&leader).expect("it runs").kill();
    let survivor = *cluster.nodes.keys().next().expect("two are left");
    for n in 0..20 {
        let put = cluster.nodes[&survivor]
            .put(&format!("/collections/books/documents/c{n}"), r#"{"title":"after"}"#);
        assert_eq!(put.status, 201, "{}", put.text());
    }
    assert_ne!(cluster.leader(), leader);
    let shown = cluster.nodes[&cluster.leader()].get("/cluster").json();
    assert!(shown["summary"].as_str().is_some_and(|text| text.contains("no answer from node")), "{shown}");

    let next = cluster.leader();
    let survivor = [1, 2, 3].into_iter().find(|id| ![leader, next].contains(id)).expect("a third");
    let counted = until_counted(&cluster, next, "one is missed", |counted| {
        let is_new = |age: Option<f64>| age.is_some_and(|age| age < 1.0);
        counted.age(leader).is_some_and(|age| age > 1.0)
            && is_new(counted.age(survivor))
            && is_new(counted.get("quorum_ack_age_seconds"))
    });
    assert!(counted.of("elections_total{reason=\"no_leader\"}") >= 1.0);

    // It comes back, and has what it missed.
    let begun = Instant::now();
    cluster.start(leader, &["--request-timeout", "5s"]);
    let counted = Counted(cluster.nodes[&leader].counted());
    if begun.elapsed() < GUARD {
        assert_eq!(counted.of("boot_guard_active"), 1.0);
    }
    until_counted(&cluster, leader, "it may vote", |counted| counted.of("boot_guard_active") == 0.0);
    assert_eq!(cluster.nodes[&leader].get("/collections/books/documents/c19").status, 200);
    assert_eq!(cluster.nodes[&leader].find("after&consistency=linearizable").1, 20);

    // All stop in order, and start again as what they were.
    for (_, node) in std::mem::take(&mut cluster.nodes) {
        node.signal("TERM");
        assert_eq!(node.wait().code(), Some(0));
    }
    for id in [1, 2, 3] {
        cluster.start(id, &["--request-timeout", "5s"]);
    }
    for id in [1, 2, 3] {
        assert_eq!(cluster.nodes[&id].find("kept&consistency=linearizable").1, 3, "at node {id}");
        assert_eq!(cluster.metrics(id)["voters"], json!([1, 2, 3]));
        assert!(Counted(cluster.nodes[&id].counted()).of("durable_index") > 20.0, "all was in its files");
    }

    // One of three decides nothing, and says so; what it has can be read by who asks for no more.
    for id in [1, 2] {
        cluster.nodes.remove(&id).expect("it runs").kill();
    }
    let alone = &cluster.nodes[&3];
    let refused = alone.put("/collections/books/documents/d", r#"{"title":"never"}"#);
    assert!([503, 504].contains(&refused.status), "{}", refused.text());
    alone.get("/collections/books/documents/b1").is_error(503, "unavailable");
    assert_eq!(alone.get("/collections/books/documents/b1?consistency=eventual").status, 200);
}

#[test]
fn a_write_under_a_key_is_done_once_and_a_token_is_waited_for() {
    let cluster = Cluster::of_three(&["--request-timeout", "5s"]);
    cluster.nodes[&1].make_books();
    let path = "/collections/books/documents";
    let key = [("idempotency-key", "order 66")];
    let body = br#"{"title":"once"}"#;
    let first = cluster.nodes[&2].send("POST", path, &key, body);
    assert_eq!(first.status, 201, "{}", first.text());
    for id in [1, 2, 3] {
        let again = cluster.nodes[&id].send("POST", path, &key, body);
        assert_eq!((again.status, again.json()), (201, first.json()), "at node {id}");
    }
    assert_eq!(cluster.nodes[&3].find("once&consistency=linearizable").1, 1);
    for id in [1, 2, 3] {
        until_counted(&cluster, id, "three were answered as before", |counted| {
            counted.of("dedup_hits_total") >= 3.0
        });
    }
    let other = cluster.nodes[&1].send("POST", path, &key, br#"{"title":"twice"}"#);
    other.is_error(422, "idempotency_mismatch");
    // A token from the future is not there in time.
    let future = [("lumen-min-seq", "1000000")];
    let behind = cluster.nodes[&1].send("GET", "/collections", &future, b"");
    assert_eq!(behind.is_error(503, "behind")["wanted_seq"], 1_000_000);
    let odd = cluster.nodes[&1].get("/collections?consistency=perhaps");
    odd.is_error(400, "invalid_parameter");
}

#[test]
fn a_node_that_does_not_lead_can_send_writers_to_the_one_that_does() {
    let cluster = Cluster::of_three(&["--forwarding", "redirect"]);
    let leader = cluster.leader();
    cluster.nodes[&leader].make_books();
    let other = [1, 2, 3].into_iter().find(|id| *id != leader).expect("two others");
    let put = cluster.nodes[&other].put("/collections/books/documents/a?x=1", r#"{"title":"there"}"#);
    assert_eq!(put.status, 400, "a parameter that is none: {}", put.text());
    let put = cluster.nodes[&other].put("/collections/books/documents/a%2Fb", r#"{"title":"there"}"#);
    put.is_error(307, "forward_to_leader");
    let there = format!("{}/collections/books/documents/a%2Fb", cluster.nodes[&leader].url());
    assert_eq!(put.header("location"), Some(&*there));
    assert_eq!(put.header("lumen-leader"), Some(&*leader.to_string()));
    assert_eq!(cluster.nodes[&other].get("/collections/books").status, 200, "reads are answered here");
    // What the command line sends goes where it is told to.
    let file = cluster.folder.path().join("films.ndjson");
    let lines: String = (0..500).map(|n| format!("{{\"id\":\"f{n}\",\"title\":\"number {n}\"}}\n")).collect();
    std::fs::write(&file, lines).expect("a file");
    let url = cluster.nodes[&other].url();
    let import =
        lumen().arg("import").arg("films").arg(&file).args(["--url", &url]).output().expect("it runs");
    assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
    let found =
        cluster.nodes[&other].get("/collections/films/documents/search?q=number&consistency=linearizable");
    assert_eq!(found.json()["total"], 500, "{}", found.text());
}

#[test]
fn a_node_that_stood_alone_becomes_a_cluster_with_all_it_holds() {
    let mut cluster = Cluster::new();
    let alone = Server::start(&cluster.folder.path().join("1"), &[]);
    alone.make_books();
    for n in 0..30 {
        alone.put(&format!("/collections/books/documents/b{n}"), r#"{"title":"before"}"#);
    }
    alone.post("/cluster/init", "").is_error(404, "not_found");
    alone.kill();
    cluster.start(1, &["--id", "1", "--init"]);
    assert_eq!(cluster.nodes[&1].find("before&consistency=linearizable").1, 30);
    let first = cluster.address(1);
    cluster.start(2, &["--join", &first]);
    assert_eq!(cluster.nodes[&2].find("before&consistency=linearizable").1, 30);
    cluster.until(2, "both vote", |metrics| metrics["voters"] == json!([1, 2]));
    let counted = Counted(cluster.nodes[&2].counted());
    for name in
        ["snapshot_bytes_total", "snapshot_seconds_total", "install_seconds_count", "install_seconds_sum"]
    {
        assert!(counted.of(name) > 0.0, "{name}");
    }
    assert_eq!(Counted(cluster.nodes[&1].counted()).of("snapshot_bytes_total"), 0.0, "it sent them");
    // Another one that holds data cannot be made to follow.
    let other = Server::start(&cluster.folder.path().join("3"), &[]);
    other.make_books();
    drop(other);
    let output = cluster.command(3, &["--join", &first]).output().expect("lumen runs");
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("holds data of its own"));
    cluster.start(3, &["--id", "3"]);
    let body = json!({ "id": 3, "addr": cluster.address(3) }).to_string();
    let refused = cluster.nodes[&1].post("/cluster/learners", &body).is_error(503, "unavailable");
    assert!(
        refused["message"].as_str().is_some_and(|why| why.contains("holds data of its own")),
        "{refused}"
    );
    // It is no longer a folder to be served alone.
    let node = cluster.nodes.remove(&2).expect("it runs");
    node.signal("TERM");
    assert_eq!(node.wait().code(), Some(0));
    let folder = cluster.folder.path().join("2");
    let checked = lumen().arg("check").arg(&folder).output().expect("lumen runs");
    let told = String::from_utf8_lossy(&checked.stderr);
    assert!(told.contains("30 documents") && told.contains("entries of the replicated log"), "{told}");
    let segments = std::fs::read_dir(folder.join("raft"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path());
    let texts = segments.map(|path| {
        let output = lumen().arg("inspect").arg(path).output().expect("lumen runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    let text: String = texts.collect();
    assert!(text.contains("of node 2") && text.contains("gone up to entry"), "{text}");
    let refused = lumen().arg("standalone").arg("--data-dir").arg(cluster.folder.path().join("2")).output();
    let refused = refused.expect("lumen runs");
    assert_eq!(refused.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("node of a cluster"));
}

#[test]
fn a_node_that_has_lost_all_others_goes_on_alone_when_it_is_told_to() {
    let mut cluster = Cluster::of_three(&["--request-timeout", "5s"]);
    cluster.nodes[&1].make_books();
    for n in 0..20 {
        let put = cluster.nodes[&2].put(&format!("/collections/books/documents/b{n}"), r#"{"title":"kept"}"#);
        assert_eq!(put.status, 201, "{}", put.text());
    }
    assert_eq!(cluster.nodes[&3].find("kept&consistency=linearizable").1, 20);
    let folder = cluster.folder.path().join("3");
    let recover = |more: &[&str]| {
        let output = lumen().args(["cluster", "recover", "--data-dir"]).arg(&folder).args(more).output();
        let output = output.expect("lumen runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, told) = recover(&["--yes"]);
    assert!(code != Some(0) && told.contains("in use"), "while it runs: {code:?} {told}");
    for (_, node) in std::mem::take(&mut cluster.nodes) {
        node.kill();
    }
    let (code, told) = recover(&[]);
    assert_eq!(code, Some(1), "{told}");
    for part in ["node 3 of a cluster in which 1, 2, 3 vote", "LOST for good", "nothing was changed"] {
        assert!(told.contains(part), "{told}");
    }
    let (code, told) = recover(&["--yes"]);
    assert!(code == Some(0) && told.contains("a cluster of its own now"), "{code:?} {told}");
    cluster.start(3, &["--id", "3"]);
    assert_eq!(cluster.nodes[&3].find("kept&consistency=linearizable").1, 20);
    let put = cluster.nodes[&3].put("/collections/books/documents/new", r#"{"title":"after"}"#);
    assert_eq!(put.status, 201, "{}", put.text());
    assert_eq!(cluster.metrics(3)["voters"], json!([3]));
    // Who was lost and comes back has another history, and is kept out; others join.
    cluster.start(1, &["--id", "1"]);
    cluster.start(2, &["--id", "2"]);
    let third = cluster.address(3);
    cluster.start(4, &["--join", &third]);
    cluster.until(4, "both vote", |metrics| metrics["voters"] == json!([3, 4]));
    assert_eq!(cluster.nodes[&4].find("after&consistency=linearizable").1, 1);
    assert_eq!(cluster.metrics(3)["voters"], json!([3, 4]));
    assert_eq!(
        cluster.nodes[&1].find("after&consistency=eventual").1,
        0,
        "the old ones are a cluster of their own"
    );
    let (code, told) = recover(&[]);
    assert!(code != Some(0) && told.contains("in use"), "{code:?} {told}");
}

#[test]
fn nodes_with_certificates_talk_to_nobody_without() {
    let mut cluster = Cluster::new();
    let folder = cluster.folder.path().to_owned();
    let make = |authority: &str| {
        let mut command = lumen();
        command.args(["cluster", "certificates", "127.0.0.1", "node-2.example", "--out"]);
        command.arg(folder.join(authority)).output().expect("lumen runs")
    };
    let (ours, theirs) = (make("ours"), make("theirs"));
    assert!(ours.status.success() && theirs.status.success(), "{ours:?} {theirs:?}");
    let again = make("ours");
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already"), "{again:?}");
    let at = |host: &str| folder.join(host).to_str().expect("text").to_owned();
    let (here, stranger, elsewhere) =
        (at("ours/127.0.0.1"), at("theirs/127.0.0.1"), at("ours/node-2.example"));
    cluster.start(1, &["--id", "1", "--init", "--peer-tls", &here]);
    let first = cluster.address(1);
    cluster.start(2, &["--join", &first, "--peer-tls", &here]);
    cluster.nodes[&1].make_books();
    assert_eq!(cluster.nodes[&2].put("/collections/books/documents/a", r#"{"title":"secret"}"#).status, 201);
    cluster.until(2, "both vote", |metrics| metrics["voters"] == json!([1, 2]));

    // In vain: without a certificate, with one of another authority, and with a listener whose name is not that of its address.
    for (id, more) in [(3, &[][..]), (4, &["--peer-tls", &stranger])] {
        let mut refused = cluster.command(id, &[&["--join", &first], more].concat());
        let mut refused = refused.stderr(std::process::Stdio::null()).spawn().expect("lumen runs");
        let mut lines = std::iter::from_fn(|| cluster.nodes[&1].says.recv_timeout(PATIENCE).ok());
        let is_refused = lines.any(|line| line.contains("not that of a node"));
        refused.kill().expect("it is killed");
        refused.wait().expect("it ends");
        assert!(is_refused, "node {id} is let in");
    }
    cluster.start(5, &["--id", "5", "--peer-tls", &elsewhere]);
    let body = json!({ "id": 5, "addr": cluster.address(5) }).to_string();
    let told = cluster.nodes[&1].post("/cluster/learners", &body).is_error(503, "unavailable");
    assert!(told["message"].as_str().is_some_and(|message| message.contains("certificate")), "{told}");
    assert_eq!(cluster.metrics(1)["members"].as_object().map(serde_json::Map::len), Some(2));

    let missing =
        cluster.command(6, &["--join", &first, "--peer-tls", &at("ours")]).output().expect("lumen runs");
    let told = String::from_utf8_lossy(&missing.stderr);
    assert!(!missing.status.success() && told.contains("node.pem: No such file"), "{told}");
}

#[test]
fn one_command_starts_a_cluster_and_one_signal_stops_it() {
    let folder = tempfile::tempdir().expect("a folder");
    // Six ports, ten apart, of which some may be taken: then another six.
    let server = (0..20)
        .find_map(|_| {
            let base = free_port();
            let taken = [0, 1, 10, 11, 20, 21].iter().any(|more| {
                base.checked_add(*more).is_none_or(|port| TcpListener::bind(("127.0.0.1", port)).is_err())
            });
            let mut command = lumen();
            command.args(["cluster", "--dev", "3", "--bind", &format!("127.0.0.1:{base}"), "--data-dir"]);
            command.arg(folder.path());
            (!taken).then(|| Server::spawn(command))
        })
        .expect("free ports");
    let mut urls = Vec::new();
    while urls.len() < 3 {
        let line = server.says.recv_timeout(PATIENCE).expect("it says where the nodes are");
        if let Some((_, rest)) = line.split_once(": http://").filter(|_| line.starts_with("  node ")) {
            urls.push(rest.split(' ').next().expect("an address").to_string());
        }
    }
    assert_eq!(urls[0], server.address.to_string());
    let shown = server.get("/cluster").json();
    assert_eq!(shown["members"].as_array().map(Vec::len), Some(3));
    assert!(shown["summary"].as_str().is_some_and(|text| text.contains("all 3 nodes are there")), "{shown}");
    server.signal("INT");
    assert_eq!(server.wait().code(), Some(0));
    for url in urls {
        assert!(std::net::TcpStream::connect(&url).is_err(), "{url} is still served");
    }
}

/// The arguments that a service of `deploy/compose.yaml` is started with.
fn composed(service: &str) -> Vec<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/compose.yaml");
    let text = std::fs::read_to_string(path).expect("deploy/compose.yaml");
    let of_service = text.split_once(&format!("  {service}:\n")).expect("the service").1;
    let line = of_service.lines().find_map(|line| line.trim().strip_prefix("command: [")).expect("a command");
    // Commas part the items, but for those within quotes.
    let mut items = vec![String::new()];
    let mut is_quoted = false;
    for c in line.strip_suffix(']').expect("one line").chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => items.push(String::new()),
            ' ' if !is_quoted => {}
            c => items.last_mut().expect("one").push(c),
        }
    }
    items
}

#[test]
fn the_commands_of_the_compose_file_form_a_cluster_in_whatever_order_they_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let ports = ["node1", "node2", "node3"].map(|service| (service, free_port()));
    let start = |service: &str, port: u16| {
        let mut command = lumen();
        command.env("LUMEN_DATA_DIR", folder.path().join(service)).env("LUMEN_BIND", "127.0.0.1:0");
        for item in composed(service) {
            // Names are resolved by the composed network; here all of them are this machine.
            let at_home = ports.iter().fold(item, |item, (service, port)| {
                item.replace(&format!("{service}:7701"), &format!("127.0.0.1:{port}"))
            });
            command.arg(at_home.replace("0.0.0.0:7701", &format!("127.0.0.1:{port}")));
        }
        command
    };
    // Who joins waits for the first one.
    let commands: Vec<Command> = ports.iter().rev().map(|(service, port)| start(service, *port)).collect();
    let starting: Vec<_> =
        commands.into_iter().map(|command| std::thread::spawn(move || Server::spawn(command))).collect();
    let nodes: Vec<Server> = starting.into_iter().map(|node| node.join().expect("it starts")).collect();
    let late = Instant::now() + PATIENCE;
    loop {
        let metrics = nodes[0].get("/cluster/metrics").json();
        if metrics["voters"].as_array().is_some_and(|voters| voters.len() == 3) {
            break;
        }
        assert!(Instant::now() < late, "{metrics}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(nodes[1].put("/collections/books", r#"{"fields":{"title":{"type":"text"}}}"#).status, 201);
    assert_eq!(nodes[0].put("/collections/books/documents/a", r#"{"title":"composed"}"#).status, 201);
    let found = nodes[2].get("/collections/books/documents/a");
    assert_eq!(found.status, 200, "{}", found.text());
}
