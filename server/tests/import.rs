//! Imports that stream: what the server answers meanwhile, and what the command line makes of a server that is busy,
//! dies, or meets lines nobody can store.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Output, Stdio};

use serde_json::json;
use support::{Server, fresh, lumen, write};

/// Starts an import of what is written to its stdin.
fn import(url: &str, rejects: &std::path::Path) -> Child {
    let mut command = lumen();
    command.args(["import", "words", "-", "--url", url, "--rejects"]).arg(rejects);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("lumen starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn make_words(server: &Server) {
    assert_eq!(server.put("/collections/words", r#"{"fields":{"w":{"type":"text"}}}"#).status, 201);
}

#[test]
fn a_streamed_import_answers_as_it_goes() {
    let (_folder, server) = fresh();
    make_words(&server);
    let mut text = String::new();
    for n in 1..=300 {
        match n {
            7 | 299 => text.push_str("{\"id\":\"bad\",\"w\":7}\n"),
            _ => text.push_str(&format!("{{\"id\":\"{n}\",\"w\":\"{}\"}}\n", "word ".repeat(2000))),
        }
    }
    let answer = server.post("/collections/words/import?progress=true", &text);
    assert_eq!((answer.status, answer.header("content-length")), (200, None));
    let lines = answer.lines();
    let rejects: Vec<u64> = lines.iter().filter_map(|line| line["line"].as_u64()).collect();
    assert_eq!(rejects, [7, 299]);
    let through: Vec<u64> =
        lines.iter().filter_map(|line| line["progress"]["through_line"].as_u64()).collect();
    assert!(through.len() > 1 && through.is_sorted() && through.last() == Some(&300), "{through:?}");
    let last = lines.last().unwrap();
    assert_eq!((&last["summary"]["created"], &last["summary"]["rejected"]), (&json!(298), &json!(2)));
    server.post("/collections/words/import?progress=yes", "").is_error(400, "invalid_parameter");
    server.post("/collections/none/import?progress=true", "").is_error(404, "collection_not_found");
}

#[test]
fn the_later_of_two_lines_with_one_id_wins_and_a_line_too_long_keeps_its_number() {
    let (folder, server) = fresh();
    let mut text = String::from("{\"id\":\"twin\",\"w\":\"first\"}\n");
    text.push_str(&format!("{{\"id\":\"long\",\"w\":\"{}\"}}\n", "x".repeat(17 << 20)));
    for n in 0..3000 {
        text.push_str(&format!("{{\"id\":\"{n}\",\"w\":\"{}\"}}\n", "filler ".repeat(100)));
    }
    text.push_str("{\"id\":\"bad\",\"w\":[[\n{\"id\":\"twin\",\"w\":\"second\"}\n");
    let file = write(&folder, "words.ndjson", text);
    let mapping = write(&folder, "mapping.json", r#"{"fields":{"w":{"type":"text"}}}"#);
    let mut command = lumen();
    command
        .args(["import", "words"])
        .arg(&file)
        .arg("--mapping")
        .arg(&mapping)
        .args(["--url", &server.url()]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    let rejects = std::fs::read_to_string(format!("{}.rejects.ndjson", file.display())).unwrap();
    let numbers: Vec<u64> = rejects
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["line"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [2, 3003]);
    let twin = server.get("/collections/words/documents/twin").json();
    assert_eq!((&twin["source"]["w"], twin["version"].as_u64() > Some(2)), (&json!("second"), true));
}

#[test]
fn a_server_that_dies_is_told_with_the_last_line_it_answered() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::start(&data, &[]);
    make_words(&server);
    let mut child = import(&server.url(), &folder.path().join("rejects"));
    let mut pipe = child.stdin.take().unwrap();
    let mut lines = (1..).map(|n| format!("{{\"id\":\"{n}\",\"w\":\"{}\"}}\n", "word ".repeat(2000)));
    let mut write =
        |count: usize| lines.by_ref().take(count).try_for_each(|line| pipe.write_all(line.as_bytes()));
    write(1500).unwrap();
    while server.get("/collections/words/documents/1000").status != 200 {
        std::thread::yield_now();
    }
    server.kill();
    // It has ended when nobody reads any more; until then there is always more to send.
    while write(100).is_ok() {}
    let output = child.wait_with_output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("broken off") && said.contains("no answer from"), "{said}");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let through = summary["through_line"].as_u64().unwrap();
    assert!(through > 0 && said.contains(&format!("the lines up to {through} ")), "{said}");
    let server = Server::start(&data, &[]);
    for line in [1, through] {
        assert_eq!(server.get(&format!("/collections/words/documents/{line}")).status, 200, "line {line}");
    }
}

/// The lines of a request that comes in chunks, until there are `count` of them or it ends.
fn receive(reader: &mut BufReader<TcpStream>, count: usize) -> Vec<String> {
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    let mut text = Vec::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
        let start = text.len();
        text.resize(start + size + 2, 0);
        reader.read_exact(&mut text[start..]).unwrap();
        text.truncate(start + size);
        let lines: Vec<String> = String::from_utf8_lossy(&text).lines().map(str::to_string).collect();
        if size == 0 || lines.len() >= count {
            return lines;
        }
    }
}

#[test]
fn a_busy_server_is_asked_again_from_the_line_where_it_stopped() {
    // A real server is busy only after a minute of a slow disk, so this one plays the part, as the protocol has it.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let mut heard = Vec::new();
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 4096];
        assert!(stream.read(&mut asked).unwrap() > 0 && asked.starts_with(b"GET /collections/words "));
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}").unwrap();
        drop(stream);
        for answer in [
            "{\"progress\":{\"through_line\":2,\"created\":2,\"seq\":5}}\n{\"error\":{\"type\":\"overloaded\",\"message\":\"busy\",\"retry_after_s\":1},\"summary\":{\"created\":2,\"stopped_at_line\":3,\"seq\":5}}\n",
            "{\"line\":1,\"error\":{\"type\":\"validation\"}}\n{\"summary\":{\"created\":1,\"seq\":6}}\n",
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            heard.push(receive(&mut reader, 4 - 2 * heard.len()));
            let length = answer.len();
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length:";
            stream.write_all(format!("{head} {length}\r\n\r\n{answer}").as_bytes()).unwrap();
        }
        heard
    });
    let folder = tempfile::tempdir().unwrap();
    let mut child = import(&url, &folder.path().join("rejects"));
    let lines = b"{\"id\":1}\n{\"id\":2}\n{\"id\":3}\n{\"id\":4}\n";
    child.stdin.take().unwrap().write_all(lines).unwrap();
    let output = child.wait_with_output().unwrap();
    let heard = server.join().unwrap();
    assert_eq!(heard[0].len(), 4);
    assert_eq!(heard[1], ["{\"id\":3}", "{\"id\":4}"]);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary, json!({ "created": 3, "updated": 0, "rejected": 1, "through_line": 4, "seq": 6 }));
    let rejects = std::fs::read_to_string(folder.path().join("rejects")).unwrap();
    assert!(rejects.contains("\"line\":3"), "{rejects}");
}
