//! `lumen bench` against a real server: what it says it put is there, what fails is told, and results can be compared.

mod support;

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use support::{Server, fresh, lumen, signal, write};
use tempfile::TempDir;

/// Runs it for a moment, and reads its JSON.
fn bench(server: &Server, what: &str, folder: &TempDir, arguments: &[&str]) -> (Output, Value) {
    let path = folder.path().join("result.json");
    let mut command = lumen();
    command.args(["bench", what, "--url", &server.url(), "--warm-up", "100ms", "--json"]).arg(&path);
    let output = command.args(arguments).output().expect("lumen runs");
    (output, json(&path))
}

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn code(output: &Output, expected: i32) {
    let said = format!("{}\n{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(expected), "{said}");
}

#[test]
fn keys_are_put_and_read_back_by_several_clients_and_nothing_is_wrong() {
    let (folder, server) = fresh();
    let arguments = "--clients 1,4 --duration 500ms --keys 300 --load --verify --mix \
        put=20,get=20,scan=20,rmw=20,insert=20 --scan-length 5 --value-size 100";
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let (output, result) = bench(&server, "kv", &folder, &arguments);
    code(&output, 0);
    let table = text(&output.stdout);
    assert!(table.contains("clients") && table.contains("p99.99") && table.contains("load"), "{table}");
    assert_eq!((&result["format"], &result["settings"]["keys"]), (&1.into(), &300.into()));
    assert_eq!(result["load"]["all"]["operations"], 300);
    let runs = result["runs"].as_array().expect("runs");
    assert_eq!(runs.iter().map(|run| run["clients"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(4)]);
    for run in runs {
        assert_eq!((&run["error_count"], &run["wrong"]), (&0.into(), &0.into()), "{run}");
        for kind in ["put", "get", "scan", "rmw", "insert"] {
            let of = &run["kinds"][kind];
            assert!(
                of["operations"].as_u64() > Some(0) && of["p99_us"].as_f64() > Some(0.0),
                "{kind}: {run}"
            );
            assert_eq!(of["missing"], 0, "{kind}: {run}");
        }
    }
    assert!(
        result["date"].as_str().is_some_and(|date| date.starts_with("20")) && result["host"]["cores"] != 0
    );
    let put = server.get("/kv/bench/keys/k000000000000299");
    assert_eq!((put.status, put.body.len()), (200, 100));
    assert_eq!(server.get("/kv/bench/keys/k000000000000300").status, 200);
    // A value that somebody else puts there is found.
    for n in 0..300 {
        assert_eq!(server.put(&format!("/kv/bench/keys/k{n:015}"), "strange").status, 200);
    }
    let arguments = "--clients 2 --operations 50 --keys 300 --verify --mix c --value-size 100 --allow-errors";
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let (output, result) = bench(&server, "kv", &folder, &arguments);
    code(&output, 1);
    assert!(
        result["runs"][0]["wrong"].as_u64() >= Some(50) && text(&output.stdout).contains("WRONG ANSWERS")
    );
}

#[test]
fn an_open_loop_sends_what_is_due() {
    let (folder, server) = fresh();
    let arguments = ["--clients", "8", "--operations", "200", "--rate", "400", "--arrivals", "constant"];
    let (output, result) = bench(&server, "kv", &folder, &arguments);
    code(&output, 0);
    let run = &result["runs"][0];
    assert_eq!((&run["loop"], &run["due_not_sent"]), (&"open".into(), &0.into()));
    assert_eq!(run["kinds"]["put"]["operations"], 200);
    assert!(text(&output.stdout).contains("all that was due was sent"));
}

#[test]
fn documents_live_in_a_collection_that_goes_again() {
    let (folder, server) = fresh();
    let arguments =
        "--clients 3 --duration 500ms --keys 50 --load --verify --mix put=50,get=50 --value-size 400";
    let mut arguments: Vec<&str> = arguments.split_whitespace().collect();
    let (output, result) = bench(&server, "docs", &folder, &arguments);
    code(&output, 0);
    assert_eq!(result["runs"][0]["wrong"], 0);
    assert!(result["runs"][0]["kinds"]["get"]["operations"].as_u64() > Some(0));
    assert_eq!(server.get("/collections/bench").status, 404);
    arguments.push("--keep");
    let (output, _) = bench(&server, "docs", &folder, &arguments);
    code(&output, 0);
    let document = server.get("/collections/bench/documents/k000000000000007").json();
    assert!(document["source"]["text"].is_string(), "{document}");

    let queries = write(&folder, "queries", "tag:t7\n\n*\n");
    let file = queries.to_str().expect("a path");
    let searches = ["--collection", "bench", "--queries", file, "--clients", "2", "--duration", "500ms"];
    let (output, result) = bench(&server, "search", &folder, &searches);
    code(&output, 0);
    assert_eq!(result["settings"]["queries"], 2);
    assert!(result["runs"][0]["kinds"]["search"]["operations"].as_u64() > Some(0));
    let bad = ["--collection", "bench", "--query", "text:(", "--clients", "1", "--operations", "5"];
    let (output, result) = bench(&server, "search", &folder, &bad);
    code(&output, 1);
    let errors = result["runs"][0]["errors"].as_object().expect("errors");
    assert!(errors["search: 400 query_syntax"].as_u64() >= Some(5), "{errors:?}");
    assert!(text(&output.stdout).contains("400 query_syntax"));
    let (output, _) = bench(&server, "search", &folder, &[&bad[..], &["--allow-errors"]].concat());
    code(&output, 0);
    // It was there before, so it stays.
    let (output, _) = bench(&server, "docs", &folder, &["--clients", "1", "--operations", "5"]);
    code(&output, 0);
    assert_eq!(server.get("/collections/bench").status, 200);
}

#[test]
fn results_are_compared_and_what_is_worse_is_told() {
    let (folder, server) = fresh();
    let (output, mut old) = bench(&server, "kv", &folder, &["--clients", "2", "--operations", "300"]);
    code(&output, 0);
    let figures = &mut old["runs"][0]["kinds"]["put"];
    figures["operations_per_s"] = 1.0.into();
    for name in ["mean_us", "p50_us", "p99_us"] {
        figures[name] = 1e9.into();
    }
    let better = write(&folder, "slow.json", old.to_string());
    old["runs"][0]["kinds"]["put"]["operations_per_s"] = 1e9.into();
    let worse = write(&folder, "fast.json", old.to_string());
    let again = |old: &Path, more: &[&str]| {
        let old = old.to_str().expect("a path");
        let arguments = ["--clients", "2", "--operations", "300", "--compare", old];
        bench(&server, "kv", &folder, &[&arguments[..], more].concat())
    };
    let (output, _) = again(&better, &["--fail-if-worse"]);
    code(&output, 0);
    assert!(text(&output.stdout).contains("nothing is worse"));
    let (output, result) = again(&worse, &[]);
    code(&output, 0);
    assert!(text(&output.stdout).contains("worse by more than 10 %: 1"), "{}", text(&output.stdout));
    let rows = result["compared"]["rows"].as_array().expect("rows");
    assert_eq!(rows.iter().filter(|row| row["worse"] == true).count(), 1);
    let (output, _) = again(&worse, &["--fail-if-worse"]);
    code(&output, 4);
    let (output, _) = again(&write(&folder, "none.json", "{}"), &[]);
    code(&output, 1);
}

#[test]
fn an_interrupted_run_tells_what_it_has_and_json_may_go_to_stdout() {
    let (_folder, server) = fresh();
    let mut command = lumen();
    command.args([
        "bench",
        "kv",
        "--url",
        &server.url(),
        "--clients",
        "4",
        "--duration",
        "1h",
        "--warm-up",
        "0s",
    ]);
    command.args(["--json", "-"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().expect("lumen starts");
    while server.get("/kv/bench/scan?limit=1").json()["pairs"][0].is_null() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    signal(child.id(), "INT");
    let output = child.wait_with_output().expect("lumen ends");
    code(&output, 130);
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    assert_eq!((&result["interrupted"], &result["runs"][0]["error_count"]), (&true.into(), &0.into()));
    assert!(result["runs"][0]["all"]["operations"].as_u64() > Some(0));
    assert!(text(&output.stderr).contains("interrupted"));
}

#[test]
fn without_a_server_it_says_so() {
    let port = support::free_port();
    let url = format!("http://127.0.0.1:{port}");
    for more in [&["--url", &url][..], &["--grpc", &url], &["--seed-profile", "--grpc", &url]] {
        let output = lumen().args(["bench", "kv"]).args(more).output().expect("lumen runs");
        code(&output, 5);
        assert!(text(&output.stderr).contains("no answer from"), "{}", text(&output.stderr));
    }
}
