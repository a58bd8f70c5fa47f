//! Following changes over real processes: every event once and in order, whatever happens to nodes and connections; a slow
//! reader costs nothing and is told when it is too slow.

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::cluster::Cluster;
use support::{Connection, Random, Server, lines_of};

const PATIENCE: Duration = Duration::from_secs(60);
const WRITERS: u64 = 6;
const FOLLOWERS: u64 = 3;

/// Follows from node to node until it has seen `upto`; answers every event with its sequence number.
fn follow(addresses: &[SocketAddr], number: u64, upto: &AtomicU64) -> Vec<(u64, Value)> {
    let mut random = Random(number + 77);
    let (mut seq, mut seen) = (0, Vec::new());
    let late = Instant::now() + 3 * PATIENCE;
    loop {
        assert!(Instant::now() < late, "follower {number} stands at {seq}");
        let address = addresses[random.below(addresses.len() as u64) as usize];
        let path = format!("/changes?space=s&since={seq}&progress=true");
        let Ok(lines) = lines_of(address, &path, &[]) else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        // It also leaves by itself now and then.
        let stays = 1 + random.below(400);
        for (nth, line) in lines.enumerate() {
            let event: Value = serde_json::from_str(&line).expect("JSON");
            assert!(event.get("error").is_none(), "{event}");
            let at = event["seq"].as_u64().expect("a number");
            assert!(at >= seq, "{at} comes after {seq}");
            for change in event["changes"].as_array().into_iter().flatten() {
                assert!(at > seq, "{at} comes again after {seq}");
                seen.push((at, change.clone()));
            }
            seq = at;
            if seq >= upto.load(Ordering::SeqCst) {
                return seen;
            }
            if nth as u64 == stays {
                break;
            }
        }
    }
}

/// Puts keys of its own until it is over, each until it is acknowledged; answers which it put, with what, by sequence number.
fn write(addresses: &[SocketAddr], number: u64, is_over: &AtomicBool) -> BTreeMap<u64, (String, String)> {
    let mut random = Random(number + 7);
    let mut done = BTreeMap::new();
    let mut connection: Option<Connection> = None;
    for nth in 0.. {
        if is_over.load(Ordering::SeqCst) {
            break;
        }
        let (key, value) = (format!("w{number}/{}", random.below(50)), format!("{number}.{nth}"));
        let late = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < late, "writer {number} cannot write");
            let address = addresses[random.below(addresses.len() as u64) as usize];
            let Ok(mut open) = connection.take().map_or_else(|| Connection::open(address), Ok) else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            let name = format!("idempotency-key: {number}-{nth}\r\n");
            let path = format!("/kv/s/keys/{key}");
            match open.send_with("PUT", &path, &name, &value) {
                Ok(answer) if answer.status < 300 => {
                    let seq = answer.json()["version"].as_u64().expect("a number");
                    done.insert(seq, (key, value));
                    connection = Some(open);
                    break;
                }
                Ok(answer) => assert!(answer.status >= 500 || answer.status == 429, "{}", answer.text()),
                Err(_) => {}
            }
        }
    }
    done
}

#[test]
fn every_change_comes_once_and_in_order_whichever_nodes_die() {
    let mut cluster = Cluster::of_three(&[]);
    let addresses: Vec<SocketAddr> = cluster.nodes.values().map(|node| node.address).collect();
    let (is_over, upto) = (AtomicBool::new(false), AtomicU64::new(u64::MAX));
    let (written, seen) = std::thread::scope(|scope| {
        let addresses = &addresses;
        let (is_over, upto) = (&is_over, &upto);
        let writers: Vec<_> =
            (0..WRITERS).map(|number| scope.spawn(move || write(addresses, number, is_over))).collect();
        let followers: Vec<_> =
            (0..FOLLOWERS).map(|number| scope.spawn(move || follow(addresses, number, upto))).collect();
        for _ in 0..4 {
            let leader = cluster.leader();
            let before = cluster.metrics(leader)["last_applied_index"].as_u64().expect("a number");
            cluster.until(leader, "something was written", |metrics| {
                metrics["last_applied_index"].as_u64().is_some_and(|applied| applied > before + 50)
            });
            cluster.nodes.remove(&leader).expect("it runs").kill();
            let other = cluster.leader();
            cluster.until(other, "another leads", |metrics| {
                metrics["current_leader"].as_u64().is_some_and(|id| id != leader)
            });
            cluster.start(leader, &[]);
        }
        is_over.store(true, Ordering::SeqCst);
        let mut written = BTreeMap::new();
        for writer in writers {
            written.extend(writer.join().expect("a writer"));
        }
        let (last, _) = written.last_key_value().expect("something");
        upto.store(*last, Ordering::SeqCst);
        let seen: Vec<_> =
            followers.into_iter().map(|follower| follower.join().expect("a follower")).collect();
        (written, seen)
    });
    let expected: Vec<(u64, Value)> = written
        .into_iter()
        .map(|(seq, (key, value))| (seq, json!({ "op": "put", "space": "s", "key": key, "value": value })))
        .collect();
    for (number, seen) in seen.into_iter().enumerate() {
        let seen: Vec<_> =
            seen.into_iter().filter(|(seq, _)| *seq <= expected.last().expect("some").0).collect();
        assert_eq!(seen.len(), expected.len(), "follower {number}");
        for (seen, expected) in seen.iter().zip(&expected) {
            assert_eq!(seen, expected, "follower {number}");
        }
    }
}

#[test]
fn a_restart_loses_no_change_and_the_id_of_the_last_event_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start(folder.path(), &["--memory", "64KiB"]);
    server.put("/collections/c", r#"{"fields":{"t":{"type":"text"}}}"#);
    let (mut last, mut ids) = (String::from("0"), Vec::new());
    for round in 0..3 {
        for nth in 0..20 {
            let path = format!("/collections/c/documents/{round}-{nth}");
            assert_eq!(server.put(&path, &format!("{{\n \"t\": \"{}\"}}", "x ".repeat(2000))).status, 201);
        }
        server.send("DELETE", &format!("/collections/c/documents/{round}-3"), &[], b"");
        server.send("DELETE", "/collections/c/documents/nobody", &[], b"");
        match round {
            0 => server.signal("TERM"),
            _ => server.signal("KILL"),
        }
        server.wait();
        server = Server::start(folder.path(), &["--memory", "64KiB"]);
        let headers = [("accept", "text/event-stream"), ("last-event-id", &last)];
        let lines = server.lines("/changes?collection=c&follow=false", &headers).expect("answered");
        let mut id = String::new();
        for line in lines {
            if let Some(seq) = line.strip_prefix("id: ") {
                id = seq.to_owned();
            }
            if let Some(data) = line.strip_prefix("data: ") {
                let event: Value = serde_json::from_str(data).expect("JSON");
                for change in event["changes"].as_array().into_iter().flatten() {
                    let what = change["id"].as_str().unwrap_or("the collection");
                    ids.push(format!("{} {what}", change["op"].as_str().expect("text")));
                }
                last.clone_from(&id);
            }
        }
    }
    let mut expected = vec!["create_collection the collection".to_owned()];
    for round in 0..3 {
        expected.extend((0..20).map(|nth| format!("put {round}-{nth}")));
        expected.push(format!("delete {round}-3"));
    }
    assert_eq!(ids, expected);
    // Ids alone, and those of one collection alone.
    let mut lines =
        server.lines("/changes?collection=c&since=1&include=ids&follow=false", &[]).expect("answered");
    let first: Value = serde_json::from_str(&lines.nth(1).expect("a line")).expect("JSON");
    assert_eq!(first["changes"][0], json!({ "op": "put", "collection": "c", "id": "0-0" }));
    // What makes no sense is said.
    for bad in
        ["collection=c&space=s", "prefix=x", "since=x", "since=99999999", "include=all", "follow=maybe"]
    {
        server.get(&format!("/changes?{bad}")).is_error(400, "invalid_parameter");
    }
}

#[test]
fn a_reader_that_is_too_slow_is_told_and_who_is_told_to_stop_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--memory", "1MiB", "--keep-log", "0"]);
    let mut slow = server.lines("/kv/s/watch?since=0", &[]).expect("answered");
    assert_eq!(slow.next().as_deref(), Some(r#"{"seq":0}"#));
    let value = "x".repeat(256 << 10);
    let mut connection = Connection::open(server.address).expect("connected");
    let mut last = 0;
    // Far more than sockets hold, and than the log keeps.
    for nth in 0..600 {
        let put = connection.send("PUT", &format!("/kv/s/keys/k{}", nth % 20), &value).expect("answered");
        last = put.json()["version"].as_u64().expect("a number");
    }
    let (mut seq, mut told) = (0, None);
    for line in slow {
        let event: Value = serde_json::from_str(&line).expect("JSON");
        if event.get("error").is_some() {
            told = Some(event["error"].clone());
            break;
        }
        if event.get("changes").is_some() {
            assert_eq!(event["seq"].as_u64(), Some(seq + 1), "nothing is left out");
            seq += 1;
        }
    }
    let told = told.expect("it is told");
    assert_eq!(told["type"], "compacted");
    let oldest = told["oldest"].as_u64().expect("a number");
    assert!(seq < oldest && oldest <= last, "{seq} {oldest} {last}");
    let gone = server.get(&format!("/kv/s/watch?since={seq}")).is_error(410, "compacted");
    let oldest = gone["oldest"].as_u64().expect("a number");
    let rest = server.lines(&format!("/kv/s/watch?since={oldest}&follow=false"), &[]).expect("answered");
    let rest: Vec<Value> = rest.map(|line| serde_json::from_str(&line).expect("JSON")).collect();
    let changes = rest.iter().filter(|event| event.get("changes").is_some()).count() as u64;
    assert_eq!(changes, last - oldest);

    let follower = server.lines("/changes", &[]).expect("answered");
    server.signal("TERM");
    let stopping = Instant::now();
    assert!(server.wait().success());
    assert!(stopping.elapsed() < Duration::from_secs(20), "who follows holds up nobody");
    assert_eq!(follower.count(), 1, "where it began, and the end");
}
