//! Key-values over real HTTP: bytes in, the same bytes out, with conditions, times to live and pages.

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{Server, fresh};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn bytes_come_back_as_they_were_put() {
    let (_folder, server) = fresh();
    let bytes: Vec<u8> = (0..=255).collect();
    let put = server.send("PUT", "/kv/s/keys/a/b%00%FF", &[], &bytes);
    assert_eq!((put.status, put.json()["result"].as_str()), (201, Some("created")), "{}", put.text());
    let etag = put.header("etag").expect("a version").to_owned();
    let got = server.get("/kv/s/keys/a/b%00%FF");
    assert_eq!((got.status, &got.body), (200, &bytes));
    assert_eq!(got.header("content-type"), Some("application/octet-stream"));
    assert_eq!((got.header("etag"), got.header("lumen-seq").is_some()), (Some(&*etag), true));
    assert_eq!(server.send("GET", "/kv/s/keys/a/b%00%FF", &[("if-none-match", &etag)], b"").status, 304);
    server.get("/kv/other/keys/a/b%00%FF").is_error(404, "key_not_found");
    let empty = server.send("PUT", "/kv/s/keys/empty", &[], b"");
    assert_eq!(empty.status, 201);
    let got = server.get("/kv/s/keys/empty");
    assert_eq!((got.status, got.body.len()), (200, 0));
    assert_eq!(server.get("/kv").json(), json!({ "spaces": ["s"] }));
    assert_eq!(server.delete("/kv/s/keys/empty").status, 204);
    assert_eq!(server.delete("/kv/s/keys/empty").status, 204);
    server.get("/kv/s/keys/empty").is_error(404, "key_not_found");
    server.get("/kv/_s/keys/k").is_error(400, "invalid_name");
    server.put("/kv/s/keys/k?ttl=5s", "").is_error(400, "unknown_parameter");
}

#[test]
fn conditions_are_those_of_http() {
    let (_folder, server) = fresh();
    let key = "/kv/s/keys/counter";
    let put = |headers: &[(&str, &str)], value: &str| server.send("PUT", key, headers, value.as_bytes());
    put(&[("if-match", "*")], "0").is_error(412, "precondition_failed");
    let first = put(&[("if-none-match", "*")], "1");
    let etag = first.header("etag").expect("a version").to_owned();
    let refused = put(&[("if-none-match", "*")], "1").is_error(412, "precondition_failed");
    assert_eq!(format!("\"{}\"", refused["current_version"]), etag);
    let second = put(&[("if-match", &etag)], "2");
    assert_eq!((second.status, second.json()["result"].as_str()), (200, Some("updated")));
    put(&[("if-match", &etag)], "3").is_error(412, "precondition_failed");
    server.send("DELETE", key, &[("if-match", &etag)], b"").is_error(412, "precondition_failed");
    let etag = second.header("etag").expect("a version").to_owned();
    assert_eq!(server.send("DELETE", key, &[("if-match", &etag)], b"").status, 204);
    // Sent twice under one name, it is done once.
    let name = [("idempotency-key", "once"), ("if-none-match", "*")];
    assert_eq!((put(&name, "1").status, put(&name, "1").status), (201, 201));
    put(&name, "2").is_error(422, "idempotency_mismatch");
}

#[test]
fn what_has_a_time_to_live_goes_by_itself() {
    let (_folder, server) = fresh();
    let put = |ttl: &str| server.send("PUT", "/kv/s/keys/short", &[("lumen-ttl", ttl)], b"x");
    assert_eq!(put("90d").status, 201);
    let expires: u64 = server
        .get("/kv/s/keys/short")
        .header("lumen-expires-ms")
        .and_then(|at| at.parse().ok())
        .expect("when it expires");
    assert_eq!(put("200ms").status, 200);
    let sooner = server.get("/kv/s/keys/short");
    let at: u64 = sooner.header("lumen-expires-ms").and_then(|at| at.parse().ok()).expect("when it expires");
    assert!(at < expires);
    // Nobody writes: it goes all the same.
    let late = Instant::now() + PATIENCE;
    while server.get("/kv/s/keys/short").status == 200 {
        assert!(Instant::now() < late, "it stays");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(server.get("/kv/s/scan").json(), json!({ "pairs": [] }));
    put("soon").is_error(400, "invalid_parameter");
    put("0s").is_error(400, "validation");
    let lease = server.send("PUT", "/kv/s/keys/k", &[("lumen-lease", "7")], b"x");
    lease.is_error(404, "lease_not_found");
}

#[test]
fn scans_go_in_pages_both_ways() {
    let (_folder, server) = fresh();
    for n in 0..25 {
        assert_eq!(server.put(&format!("/kv/s/keys/k{n:02}"), &format!("v{n}")).status, 201);
    }
    server.send("PUT", "/kv/s/keys/%FF", &[], b"\xff");
    let keys = |answer: &serde_json::Value| -> Vec<String> {
        let pairs = answer["pairs"].as_array().expect("pairs");
        pairs.iter().map(|pair| pair["key"].as_str().unwrap_or("?").to_owned()).collect()
    };
    for reverse in ["", "&reverse"] {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = server.get(&format!("/kv/s/scan?prefix=k&limit=7{reverse}{cursor}")).json();
            all.extend(keys(&page));
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let mut expected: Vec<String> = (0..25).map(|n| format!("k{n:02}")).collect();
        if !reverse.is_empty() {
            expected.reverse();
        }
        assert_eq!(all, expected);
    }
    let part = server.get("/kv/s/scan?start=k03&end=k05&keys_only").json();
    assert_eq!(keys(&part), ["k03", "k04"]);
    assert_eq!(part["pairs"][0]["value"], json!(null));
    let odd = server.get("/kv/s/scan?start=l").json();
    assert_eq!(odd["pairs"][0]["key_base64"], "/w==");
    assert_eq!(odd["pairs"][0]["value_base64"], "/w==");
    let same = server.get("/kv/s/scan?start=%2Fw%3D%3D&encoding=base64").json();
    assert_eq!(same["pairs"].as_array().map(Vec::len), Some(1));
    let small = server.get("/kv/s/scan?max_bytes=1").json();
    assert_eq!((keys(&small).len(), small["cursor"].is_string()), (1, true));
    server.get("/kv/s/scan?prefix=a&start=b").is_error(400, "invalid_parameter");
    server.get("/kv/s/scan?cursor=*").is_error(400, "invalid_parameter");
    server.delete("/kv/s/keys").is_error(400, "invalid_parameter");
    assert_eq!(server.delete("/kv/s/keys?prefix=k1").json(), json!({ "deleted": 10 }));
    assert_eq!(server.delete("/kv/s/keys?prefix=").json(), json!({ "deleted": 16 }));
    assert_eq!(server.get("/kv").json(), json!({ "spaces": [] }));
}

#[test]
fn limits_are_those_that_were_set_and_what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = || Server::start(folder.path(), &["--key-size", "16", "--value-size", "1KiB"]);
    let server = start();
    server.put(&format!("/kv/s/keys/{}", "k".repeat(17)), "").is_error(413, "too_large");
    server.put("/kv/s/keys/k", &"v".repeat(1025)).is_error(413, "too_large");
    assert_eq!(server.put("/kv/s/keys/k", &"v".repeat(1024)).status, 201);
    assert_eq!(server.send("PUT", "/kv/s/keys/t", &[("lumen-ttl", "1h")], b"x").status, 201);
    server.kill();
    let server = start();
    assert_eq!(server.get("/kv/s/keys/k").body.len(), 1024);
    assert!(server.get("/kv/s/keys/t").header("lumen-expires-ms").is_some());
}
