//! The edges of the HTTP face: limits and how they are answered, protocols, and how a server ends.

mod support;

use std::io::{BufReader, Write};
use std::net::TcpStream;

use serde_json::json;
use support::{Answer, Server, fresh};

#[test]
fn deep_json_is_refused_wherever_it_stands() {
    let (_folder, server) = fresh();
    server.make_books();
    let deep = format!("{{\"title\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    let error = server.put("/collections/books/documents/a", &deep).is_error(400, "validation");
    assert_eq!(error["limit"], 64);
    assert!(error["message"].as_str().unwrap().contains("64"));
    let error = server.put("/collections/deep", &deep).is_error(400, "mapping");
    assert_eq!(error["limit"], 64);
    let answer =
        server.post("/collections/books/import", &format!("{deep}\n{{\"id\":\"b\",\"title\":\"fine\"}}"));
    assert_eq!((answer.status, &answer.lines()[0]["line"]), (207, &json!(1)));
    assert_eq!(server.find("fine").1, 1);
}

#[test]
fn queries_that_cannot_be_read_or_are_too_long_are_400() {
    let (_folder, server) = fresh();
    server.make_books();
    let search = |query: &str| server.get(&format!("/collections/books/documents/search?q={query}"));
    let error = search("(common").is_error(400, "query_syntax");
    assert!(error["column"].is_u64(), "{error}");
    assert_eq!(search(&"(".repeat(20_000)).status, 400, "deep parentheses do not kill the process");
    search(&"a".repeat(33_000)).is_error(400, "query_too_long");
    for (query, allowed) in [
        ("%41".repeat(20_000), &[200, 400][..]),
        ("a".repeat(70_000), &[400, 414]),
        ("a".repeat(500_000), &[400, 414, 431]),
    ] {
        let answer = search(&query);
        assert!(allowed.contains(&answer.status), "{} {}", answer.status, answer.text());
    }
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_line_too_long_is_rejected_alone() {
    let (_folder, server) = fresh();
    server.make_books();
    let long = "x".repeat(17 << 20);
    let body = format!(
        "{{\"id\":\"a\",\"title\":\"one\"}}\n{{\"id\":\"b\",\"title\":\"{long}\"}}\n{{\"id\":\"c\",\"title\":\"three\"}}\n"
    );
    let answer = server.post("/collections/books/import", &body);
    let lines = answer.lines();
    assert_eq!(
        (answer.status, &lines[0]["line"], &lines[0]["error"]["type"]),
        (207, &json!(2), &json!("too_large"))
    );
    assert_eq!(lines[1]["summary"]["created"], 2);
    assert_eq!(server.find("three").0, vec!["c"]);
}

#[test]
fn bodies_over_the_limit_are_413_before_they_are_read() {
    let (_folder, server) = fresh();
    server.make_books();
    let over = |path: &str, method: &str, bytes: u64| {
        server
            .raw(format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {bytes}\r\n\r\n").as_bytes())
    };
    let error = over("/collections/books/documents/a", "PUT", (16 << 20) + 1).is_error(413, "too_large");
    assert_eq!(error["limit"], 16 << 20);
    over("/collections/books/documents", "POST", u64::MAX / 2).is_error(413, "too_large");
    over("/collections/books/import", "POST", (100 << 20) + 1).is_error(413, "too_large");
    over("/collections/other", "PUT", 17 << 20).is_error(413, "too_large");

    // Without a length: refused as soon as it is too much, and the client still gets to read it.
    let mut chunked =
        b"PUT /collections/books/documents/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec();
    for _ in 0..18 {
        chunked.extend_from_slice(b"100000\r\n");
        chunked.extend(std::iter::repeat_n(b' ', 1 << 20));
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    server.raw(&chunked).is_error(413, "too_large");
    let large = format!("{{\"title\":\"{}\"}}", "long words ".repeat(100_000));
    assert_eq!(server.put("/collections/books/documents/large", &large).status, 201, "1.1 MB is well within");
    assert_eq!(server.find("long").0, vec!["large"]);
}

#[test]
fn headers_have_a_limit() {
    let (_folder, server) = fresh();
    let long = "x".repeat(20_000);
    server.send("GET", "/health", &[("x-long", &long)], b"").is_error(431, "headers_too_large");
    assert_eq!(server.send("GET", "/health", &[("x-long", &long[..8000])], b"").status, 200);
    let named = server.send("GET", "/nowhere", &[("x-request-id", "my-name")], b"");
    assert_eq!(named.header("x-request-id"), Some("my-name"));
    assert_eq!(named.is_error(404, "not_found")["request_id"], "my-name");
}

#[test]
fn a_body_that_does_not_come_is_408() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"), &["--request-timeout", "200ms"]);
    server.make_books();
    let head = "HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"title\":";
    server.raw(format!("PUT /collections/books/documents/a {head}").as_bytes()).is_error(408, "timeout");
    server.raw(format!("POST /collections/books/import {head}").as_bytes()).is_error(408, "timeout");
}

#[test]
fn one_connection_serves_many_requests_and_head_has_no_body() {
    let (_folder, server) = fresh();
    server.make_books();
    let mut stream = TcpStream::connect(server.address).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for n in 0..50 {
        let body = format!("{{\"title\":\"number{n}\"}}");
        let head = format!(
            "PUT /collections/books/documents/{n} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        assert_eq!(Answer::read(&mut reader).status, 201);
    }
    assert_eq!(server.find("number49").0, vec!["49"]);
    stream.write_all(b"HEAD /collections/books HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut reader, &mut rest).unwrap();
    assert!(rest.starts_with("HTTP/1.1 200") && rest.ends_with("\r\n\r\n"), "{rest}");
}

#[test]
fn http2_without_tls_is_served_on_the_same_port() {
    use http_body_util::{BodyExt, Full};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;

    let (_folder, server) = fresh();
    server.make_books();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client: Client<_, Full<bytes::Bytes>> =
            Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        let exchange = |method: &str, path: String, body: String| {
            let request = http::Request::builder()
                .method(method)
                .uri(format!("{}{path}", server.url()))
                .body(Full::new(bytes::Bytes::from(body)))
                .unwrap();
            let answer = client.request(request);
            async move {
                let answer = answer.await.unwrap();
                assert_eq!(answer.version(), http::Version::HTTP_2);
                let status = answer.status().as_u16();
                (status, answer.into_body().collect().await.unwrap().to_bytes())
            }
        };
        let mut puts = tokio::task::JoinSet::new();
        for n in 0..50 {
            let path = format!("/collections/books/documents/{n}");
            puts.spawn(exchange("PUT", path, "{\"title\":\"both\"}".to_string()));
        }
        while let Some(put) = puts.join_next().await {
            assert_eq!(put.unwrap().0, 201);
        }
        let (status, body) =
            exchange("GET", "/collections/books/documents/search?q=both".into(), String::new()).await;
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, &body["total"]), (200, &json!(50)));
    });
}

#[test]
fn sigterm_ends_with_0_and_everything_is_there_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    for (signal, title) in [("TERM", "hobbit"), ("INT", "silmarillion")] {
        let server = Server::start(&data, &[]);
        if title == "hobbit" {
            server.make_books();
        }
        assert_eq!(
            server
                .put(&format!("/collections/books/documents/{title}"), &format!("{{\"title\":\"{title}\"}}"))
                .status
                / 100,
            2
        );
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal}");
    }
    let server = Server::start(&data, &[]);
    assert_eq!(server.find("*").0, vec!["hobbit", "silmarillion"]);
    assert_eq!(server.find("hobbit").0, vec!["hobbit"]);
    assert_eq!(server.get("/collections").json(), json!({ "collections": ["books"] }));
}

#[test]
fn a_request_under_way_is_finished_before_the_end() {
    let (_folder, server) = fresh();
    server.make_books();
    let body = r#"{"title":"late"}"#;
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = format!(
        "PUT /collections/books/documents/late HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    assert_eq!(Answer::read(&mut reader).status, 100, "the request has arrived");
    server.signal("TERM");
    while TcpStream::connect(server.address).is_ok() {
        std::thread::yield_now();
    }
    stream.write_all(body.as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut reader).status, 201);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_signal_does_not_wait() {
    let (_folder, server) = fresh();
    server.make_books();
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = "PUT /collections/books/documents/late HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 100\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut BufReader::new(stream.try_clone().unwrap())).status, 100);
    server.signal("TERM");
    while TcpStream::connect(server.address).is_ok() {
        std::thread::yield_now();
    }
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(130));
}

#[test]
fn what_cannot_be_read_as_http_is_refused_like_everything_else() {
    let (_folder, server) = fresh();
    for garbage in ["GARBAGE\r\n\r\n", "GET /health HTTP/1.1\r\nno colon\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
        let answer = server.raw(garbage.as_bytes());
        assert!(answer.header("x-request-id").is_some() && answer.header("connection") == Some("close"));
        let error = answer.is_error(400, "bad_request");
        assert_eq!(error["request_id"], answer.header("x-request-id").unwrap());
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(70_000));
    server.raw(long.as_bytes()).is_error(414, "uri_too_long");
    let many = format!("GET /health HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(200));
    server.raw(many.as_bytes()).is_error(431, "headers_too_large");
    // After an answer of ours the same connection still refuses in the same shape.
    let mut stream = TcpStream::connect(server.address).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    stream.write_all(b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    Answer::read(&mut reader).is_error(404, "not_found");
    stream.write_all(b"GARBAGE\r\n\r\n").unwrap();
    Answer::read(&mut reader).is_error(400, "bad_request");
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("status=\"414\""), "they are counted too: {metrics}");
}
