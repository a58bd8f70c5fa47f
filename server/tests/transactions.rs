//! Transactions, batches and leases over HTTP, and what the command line makes of key-values: whole or not at all, and told why.

mod support;

use std::io::Write as _;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Server, fresh, lumen};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn tx(server: &Server, body: Value) -> Value {
    let answer = server.post("/tx", &body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[test]
fn documents_and_keys_change_together_or_not_at_all() {
    let (_folder, server) = fresh();
    server.put("/collections/books", r#"{"fields":{"t":{"type":"text"}}}"#);
    let order = |by: &str| {
        json!({
            "when": [{ "key": "default/lock", "absent": true }, { "doc": "books/w", "absent": true }],
            "then": [
                { "put": { "doc": "books/w", "source": { "t": format!("taken by {by}") } } },
                { "put": { "key": "default/lock", "value": by, "ttl": "1h" } },
                { "put": { "space": "raw", "key_base64": "AP8=", "value_base64": "AAE=" } },
                { "get": { "doc": "books/w" } }
            ],
            "otherwise": [{ "get": { "key": "default/lock" } }, { "get": { "doc": "books/w" } }]
        })
    };
    let done = tx(&server, order("me"));
    assert_eq!(done["succeeded"], true);
    let seq = done["seq"].as_u64().expect("a number");
    let source = json!({ "t": "taken by me" });
    let read = json!({ "found": true, "version": seq, "source": source });
    let created = json!({ "result": "created" });
    assert_eq!(done["results"], json!([created, created, created, read]));
    let lost = tx(&server, order("you"));
    assert_eq!((&lost["succeeded"], &lost["results"][0]["value"]), (&json!(false), &json!("me")));
    assert_eq!(lost["results"][1]["source"], source);
    // All of it at once, for get and for search.
    let found = server.get("/collections/books/documents/search?q=taken").json();
    assert_eq!((&found["total"], &found["hits"][0]["version"]), (&json!(1), &json!(seq)));
    assert_eq!(server.get("/kv/raw/keys/%00%FF").body, [0, 1]);
    // One that is refused takes the others with it, and is named.
    let bad = json!({ "then": [
        { "delete": { "doc": "books/w" } },
        { "delete": { "prefix": "default/" } },
        { "put": { "doc": "books/v", "source": { "nobody": 1 } } }
    ]});
    let told = server.post("/tx", &bad.to_string()).is_error(400, "validation");
    assert_eq!((&told["operation"], &told["field"]), (&json!(2), &json!("nobody")));
    assert_eq!(server.get("/collections/books/documents/w").status, 200);
    assert_eq!(server.get("/kv/default/keys/lock").text(), "me");
    let told = json!({ "then": [{ "put": { "key": "default/k", "value": "v", "lease": 77 } }] });
    assert_eq!(server.post("/tx", &told.to_string()).is_error(404, "lease_not_found")["operation"], 0);
    // What was written under a name is not written again.
    let count =
        json!({ "then": [{ "put": { "key": "default/n", "value": "1", "returns": true } }] }).to_string();
    let named = || server.send("POST", "/tx", &[("idempotency-key", "n1")], count.as_bytes()).json();
    assert_eq!(named(), named());
    // A malformed one says what and where.
    for (body, what) in [
        (json!({ "then": [{ "put": { "key": "nospace", "value": "v" } }] }), "then[0]"),
        (json!({ "when": [{ "key": "a/b" }] }), "when[0]"),
        (json!({ "when": [{ "key": "a/b", "absent": true, "version": 3 }] }), "when[0]"),
        (
            json!({ "then": [{ "put": { "key": "a/b", "doc": "c/d", "value": "v" } }] }),
            "either a doc or a key",
        ),
        (json!({ "then": [{ "put": { "doc": "books/x", "source": {}, "ttl": "1s" } }] }), "are of keys"),
        (json!({ "then": [{ "put": { "key": "a/b" } }] }), "with a value"),
        (json!({ "then": [{ "get": { "doc": "noslash" } }] }), "collection/id"),
        (json!({ "then": [{ "put": { "key": "a/b", "value_base64": "%" } }] }), "no base64"),
        (json!({ "otherwis": [] }), "unknown field"),
    ] {
        let told = server.post("/tx", &body.to_string()).is_error(400, "bad_request");
        assert!(told["message"].as_str().is_some_and(|message| message.contains(what)), "{told}");
    }
    let deep = "[".repeat(100_000);
    server.post("/tx", &format!("{{\"then\":{deep}")).is_error(400, "bad_request");
}

#[test]
fn a_batch_is_of_one_space_and_leases_keep_what_is_put_with_them() {
    let (_folder, server) = fresh();
    let granted = server.post("/leases", r#"{"ttl":"300ms"}"#);
    assert_eq!(granted.status, 201, "{}", granted.text());
    let short = granted.json()["lease"].as_u64().expect("a number");
    assert_eq!(granted.header("location"), Some(&*format!("/leases/{short}")));
    let long = server.post("/leases", r#"{"ttl":"1h","lease":42}"#).json();
    assert_eq!(long, json!({ "lease": 42, "ttl_ms": 3_600_000 }));
    server.post("/leases", r#"{"ttl":"1h","lease":42}"#).is_error(409, "lease_exists");
    let ops = json!({ "ops": [
        { "put": { "key": "a/1", "value": "x", "lease": 42 } },
        { "put": { "key": "b", "value": "x", "lease": short } },
        { "get": { "key": "a/1" } },
        { "delete": { "key": "none" } }
    ]});
    let done = server.post("/kv/s/batch", &ops.to_string()).json();
    assert_eq!(done["results"][2]["lease"], 42);
    assert_eq!(done["results"][3], json!({ "result": "deleted", "deleted": 0 }));
    assert_eq!(server.put("/leases/42", "").json()["ttl_ms"], 3_600_000);
    assert!(server.get("/leases/42").json()["expires_ms"].as_u64().is_some());
    let late = Instant::now() + PATIENCE;
    while server.get("/kv/s/keys/b").status == 200 {
        assert!(Instant::now() < late, "it does not expire");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.get(&format!("/leases/{short}")).is_error(404, "lease_not_found");
    server.put(&format!("/leases/{short}"), "").is_error(404, "lease_not_found");
    assert_eq!(server.get("/kv/s/keys/a/1").header("lumen-lease"), Some("42"));
    assert_eq!(server.delete("/leases/42").json(), json!({ "deleted": 1 }));
    server.get("/kv/s/keys/a/1").is_error(404, "key_not_found");
    server.delete("/leases/none").is_error(400, "invalid_parameter");
    server.post("/leases", r#"{"ttl":"soon"}"#).is_error(400, "bad_request");
    server.post("/leases", r#"{"ttl":"0s"}"#).is_error(400, "validation");
}

fn run(server: &Server, args: &[&str], stdin: &[u8]) -> Output {
    let mut command = lumen();
    command.args(args).args(["--url", &server.url()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("lumen starts");
    child.stdin.take().expect("piped").write_all(stdin).expect("it reads");
    child.wait_with_output().expect("it ends")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_command_line_copies_watches_and_transacts() {
    let (folder, server) = fresh();
    let mut lines = String::new();
    for nth in 0..2500 {
        lines.push_str(&format!("{{\"key\":\"k{nth:04}\",\"value\":\"v{nth}\"}}\n"));
    }
    lines.push_str("{\"key_base64\":\"AP8=\",\"value_base64\":\"AAE=\"}\n\n");
    lines.push_str("{\"key\":\"past\",\"value\":\"x\",\"expires_ms\":1}\n");
    let imported = run(&server, &["kv", "import", "-", "--space", "one"], lines.as_bytes());
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    assert!(String::from_utf8_lossy(&imported.stderr).contains("imported 2,501 keys"));
    let file = folder.path().join("copy.ndjson");
    let file = file.to_str().expect("text");
    assert!(run(&server, &["kv", "export", "-o", file, "--space", "one"], b"").status.success());
    assert!(run(&server, &["kv", "import", file, "--space", "two"], b"").status.success());
    let export = |space| text(&run(&server, &["kv", "export", "--space", space], b""));
    let without_versions = |lines: String| {
        let read = |line: &str| {
            let mut line: Value = serde_json::from_str(line).expect("JSON");
            line.as_object_mut().expect("an object").remove("version");
            line
        };
        lines.lines().map(read).collect::<Vec<_>>()
    };
    let (one, two) = (without_versions(export("one")), without_versions(export("two")));
    assert_eq!(one.len(), 2501);
    assert_eq!(one, two);
    assert_eq!(server.get("/kv/two/keys/%00%FF").body, [0, 1]);
    let bad = run(&server, &["kv", "import", "-"], b"{\"key\":\"a\",\"value\":\"b\"}\n{\"kye\":1}\n");
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("line 2"));
    assert_eq!(run(&server, &["kv", "import", "nowhere.ndjson"], b"").status.code(), Some(3));

    let lock = json!({
        "when": [{ "key": "default/lock", "absent": true }],
        "then": [{ "put": { "key": "default/lock", "value": "x" } }]
    });
    let lock = lock.to_string();
    assert_eq!(run(&server, &["kv", "txn", "-"], lock.as_bytes()).status.code(), Some(0));
    assert_eq!(run(&server, &["kv", "txn", "-"], lock.as_bytes()).status.code(), Some(4));

    let lease = text(&run(&server, &["lease", "grant", "1h"], b""));
    let lease = lease.trim();
    assert_eq!(run(&server, &["kv", "put", "leased", "v", "--lease", lease], b"").status.code(), Some(0));
    assert!(run(&server, &["lease", "keep", lease], b"").status.success());
    assert!(text(&run(&server, &["lease", "show", lease], b"")).contains("3600000"));
    assert!(run(&server, &["lease", "revoke", lease], b"").status.success());
    assert_eq!(run(&server, &["lease", "show", lease], b"").status.code(), Some(3));
    assert_eq!(run(&server, &["kv", "get", "leased"], b"").status.code(), Some(3));

    let watched = run(&server, &["kv", "watch", "l", "--since", "0", "--until-now"], b"");
    let ops: Vec<String> = text(&watched)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .map(|change| {
            format!("{} {}", change["op"].as_str().expect("text"), change["key"].as_str().expect("text"))
        })
        .collect();
    assert_eq!(ops, ["put lock", "put leased", "delete leased"]);
}
