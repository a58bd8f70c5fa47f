//! A server with more to do than it can: connections over the cap, searches over their time, clients that leave, and a disk
//! that fails.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Answer, Connection, Server, fresh};

/// The value of a metric.
fn metric(connection: &mut Connection, name: &str) -> u64 {
    let text = connection.send("GET", "/metrics", "").expect("metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
}

#[test]
fn connections_over_the_cap_wait_for_their_turn() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"), &["--connections", "2"]);
    let mut first = Connection::open(server.address).unwrap();
    let mut second = Connection::open(server.address).unwrap();
    assert_eq!(second.send("GET", "/health", "").unwrap().status, 200);
    let mut third = TcpStream::connect(server.address).unwrap();
    third.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    for _ in 0..50 {
        assert_eq!(metric(&mut first, "lumen_http_connections"), 2);
    }
    third.set_nonblocking(true).unwrap();
    assert!(third.peek(&mut [0]).is_err(), "nobody has answered the third");
    third.set_nonblocking(false).unwrap();
    drop(second);
    assert_eq!(Answer::read(&mut BufReader::new(third)).status, 200);
}

/// Fills the folder with documents of many words, and gives the path of a search that has to look at all of them.
fn slow_search(data: &Path) -> String {
    let server = Server::start(data, &[]);
    assert_eq!(server.put("/collections/words", r#"{"fields":{"w":{"type":"text"}}}"#).status, 201);
    let mut lines = String::new();
    for n in 0..20_000u32 {
        let words: Vec<String> = (0..40)
            .map(|k| format!("{:x}", n.wrapping_mul(40).wrapping_add(k).wrapping_mul(2_654_435_761)))
            .collect();
        lines.push_str(&format!("{{\"id\":\"{n}\",\"w\":\"{}\"}}\n", words.join(" ")));
    }
    assert_eq!(server.post("/collections/words/import", &lines).status, 200);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    let prefixes: Vec<String> = (0..256).map(|n| format!("{n:02x}*")).collect();
    format!("/collections/words/documents/search?q={}", prefixes.join("+OR+"))
}

#[test]
fn a_search_over_its_time_is_408_and_stops_and_so_does_one_whose_client_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let path = slow_search(&data);
    let server = Server::start(&data, &["--request-timeout", "1ms"]);
    let error = server.get(&path).is_error(408, "timeout");
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("--request-timeout")), "{error}");
    let mut connection = Connection::open(server.address).unwrap();
    while metric(&mut connection, "lumen_searches_given_up_total") == 0 {}
    drop(server);

    let server = Server::start(&data, &[]);
    assert_eq!(server.get(&path).status, 200, "with time enough it is answered");
    let mut connection = Connection::open(server.address).unwrap();
    // Now and then a search may be done before the server sees that its client has left.
    while metric(&mut connection, "lumen_searches_given_up_total") == 0 {
        let mut leaving = TcpStream::connect(server.address).unwrap();
        leaving.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
        leaving.shutdown(Shutdown::Both).unwrap();
    }
}

#[test]
fn a_failed_sync_is_told_to_the_client_and_ends_the_server_with_4() {
    let (folder, server) = fresh();
    server.make_books();
    assert_eq!(server.put("/collections/books/documents/before", r#"{"title":"before"}"#).status, 201);
    // strace makes the system call fail without asking the disk.
    let inject = ["-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO"];
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", "-p", &server.id().to_string()]).args(inject);
    let Ok(mut strace) = command.stderr(Stdio::piped()).spawn() else {
        return println!("skipped: there is no strace here");
    };
    let mut says = BufReader::new(strace.stderr.take().unwrap()).lines().map_while(Result::ok);
    if !says.by_ref().any(|line| line.contains("attached")) {
        return println!("skipped: strace may not attach here");
    }
    let answer = server.put("/collections/books/documents/during", r#"{"title":"during"}"#);
    answer.is_error(503, "unknown");
    assert_eq!(server.wait().code(), Some(4));
    strace.wait().unwrap();

    let server = Server::start(&folder.path().join("data"), &[]);
    assert_eq!(server.find("before").0, ["before"]);
    let is_there = server.get("/collections/books/documents/during").status == 200;
    assert_eq!(server.find("during").1, u64::from(is_there), "wholly there or wholly absent");
}
