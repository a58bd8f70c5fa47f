//! The command line against real servers: what it prints where, which files it leaves, and its exit codes.

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Server, files, fresh, lumen, signal, write};

fn run(args: &[&str]) -> Output {
    lumen().args(args).output().expect("lumen runs")
}

fn code(output: &Output) -> i32 {
    let code = output.status.code();
    code.unwrap_or_else(|| panic!("no exit code: {}", String::from_utf8_lossy(&output.stderr)))
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

const FILMS: &str = "{\"id\":\"1\",\"title\":\"The Third Man is a film about friends in Vienna\",\"year\":1949,\"at\":\"1949-08-31T00:00:00Z\",\"good\":true}\n\
    {\"id\":\"2\",\"title\":\"Playtime is a film about Paris and glass\",\"year\":1967,\"at\":\"1967-12-16T00:00:00Z\",\"good\":true}\n";

#[test]
fn import_guesses_the_mapping_and_search_finds_what_came_in() {
    let (folder, server) = fresh();
    let file = write(&folder, "films.ndjson", FILMS);
    let output = run(&["import", "films", file.to_str().unwrap(), "--url", &server.url()]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("title") && stderr(&output).contains("text"), "the guess is shown");
    let summary = &lines(&stdout(&output))[0];
    assert_eq!((&summary["created"], &summary["rejected"]), (&json!(2), &json!(0)));
    assert!(!Path::new(&format!("{}.rejects.ndjson", file.display())).exists());
    let mapping = server.get("/collections/films").json();
    for (field, kind) in [("title", "text"), ("year", "i64"), ("at", "date"), ("good", "bool")] {
        assert_eq!(mapping["fields"][field]["type"], kind, "{field}");
    }

    let output = run(&["search", "films", "vienna", "--url", &server.url()]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let hits = lines(&stdout(&output));
    assert_eq!((hits.len(), &hits[0]["id"], &hits[0]["source"]["year"]), (1, &json!("1"), &json!(1949)));
    assert!(hits[0]["score"].is_number());
    let output = run(&["search", "films", "film", "--limit", "1", "--offset", "1", "--url", &server.url()]);
    assert_eq!(lines(&stdout(&output)).len(), 1);

    let again = run(&["import", "films", file.to_str().unwrap(), "--url", &server.url()]);
    assert_eq!((code(&again), &lines(&stdout(&again))[0]["updated"]), (0, &json!(2)));
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_file_and_a_hit_is_one_line() {
    let (folder, server) = fresh();
    let file = write(&folder, "windows.ndjson", "\u{feff}{\"id\":\"1\",\"title\":\"one of many words\"}\r\n");
    let output = run(&["import", "notes", file.to_str().unwrap(), "--url", &server.url()]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let spread = "{\n  \"title\":\r\n  \"two words\"\n}";
    assert_eq!(server.put("/collections/notes/documents/2", spread).status, 201);
    let output = run(&["search", "notes", "words", "--url", &server.url()]);
    let mut ids: Vec<Value> = lines(&stdout(&output)).iter().map(|hit| hit["id"].clone()).collect();
    ids.sort_by_key(Value::to_string);
    assert_eq!(ids, vec![json!("1"), json!("2")], "{}", stdout(&output));
    let output = run(&["search", "notes", "words (", "--url", &server.url()]);
    assert!(stderr(&output).contains("at column 7"), "{}", stderr(&output));
}

#[test]
fn rejected_lines_are_listed_in_a_file_and_exit_7() {
    let (folder, server) = fresh();
    let mut text = String::new();
    for n in 0..60_000 {
        match n {
            17 => text.push_str("{\"id\":\"bad\",\"n\":true}\n"),
            55_555 => text.push_str("no json\n"),
            _ => text.push_str(&format!("{{\"id\":\"{n}\",\"n\":{n}}}\n")),
        }
    }
    let file = write(&folder, "numbers.ndjson", text);
    let mapping = write(&folder, "mapping.json", r#"{"fields":{"n":{"type":"i64"}}}"#);
    let (file, mapping) = (file.to_str().unwrap(), mapping.to_str().unwrap());
    let output = run(&["import", "numbers", file, "--mapping", mapping, "--url", &server.url()]);
    assert_eq!(code(&output), 7, "{}", stderr(&output));
    let rejects = lines(&std::fs::read_to_string(format!("{file}.rejects.ndjson")).unwrap());
    let numbers: Vec<&Value> = rejects.iter().map(|reject| &reject["line"]).collect();
    assert_eq!(numbers, vec![&json!(18), &json!(55_556)]);
    assert_eq!((&rejects[0]["id"], &rejects[0]["error"]["field"]), (&json!("bad"), &json!("n")));
    assert_eq!(rejects[1]["error"]["type"], "validation");
    assert!(stderr(&output).contains("rejects.ndjson"));
    assert_eq!(lines(&stdout(&output))[0]["created"], 59_998);
    let total = server.get("/collections/numbers/documents/search?limit=0").json()["total"].clone();
    assert_eq!(total, 59_998);

    let other = folder.path().join("elsewhere.ndjson");
    let output =
        run(&["import", "numbers", file, "--url", &server.url(), "--rejects", other.to_str().unwrap()]);
    assert_eq!((code(&output), other.exists()), (7, true));
}

#[test]
fn import_reads_a_pipe_and_takes_other_id_fields() {
    let (folder, server) = fresh();
    let rejects = folder.path().join("rejects.ndjson");
    let mut child = lumen()
        .args(["import", "words", "-", "--id-field", "isbn", "--url", &server.url()])
        .arg("--rejects")
        .arg(&rejects)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(b"{\"isbn\":7,\"w\":\"seven\"}\n\n{\"isbn\":8,\"w\":\"eight\"}").unwrap();
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(server.get("/collections/words/documents/7").json()["source"], json!({ "w": "seven" }));
    assert_eq!(server.get("/collections/words/documents/8").status, 200);
}

#[test]
fn keys_are_put_counted_listed_and_deleted() {
    let (_folder, server) = fresh();
    let url = server.url();
    let kv = |args: &[&str]| run(&[&["kv"], args, &["--url", &url]].concat());
    let done = |args: &[&str]| {
        let output = kv(args);
        assert_eq!(code(&output), 0, "{args:?}: {}", stderr(&output));
        stdout(&output)
    };
    done(&["put", "a b/ü", "hello"]);
    assert_eq!(done(&["get", "a b/ü"]), "hello");
    assert_eq!(server.get("/kv/default/keys/a%20b/%C3%BC").text(), "hello");
    assert_eq!(code(&kv(&["get", "missing"])), 3);
    assert_eq!(done(&["incr", "n"]).trim(), "1");
    assert_eq!(done(&["incr", "n", "-5"]).trim(), "-4");
    assert_eq!(code(&kv(&["incr", "a b/ü"])), 1, "it is no number");
    let version = done(&["cas", "lock", "0", "mine"]);
    assert_eq!(code(&kv(&["cas", "lock", "0", "yours"])), 4);
    done(&["cas", "lock", version.trim(), "mine again"]);
    done(&["put", "lock", "elsewhere", "--space", "other"]);
    let rows = lines(&done(&["scan"]));
    let keys: Vec<&str> = rows.iter().filter_map(|row| row["key"].as_str()).collect();
    assert_eq!(keys, ["a b/ü", "lock", "n"]);
    assert_eq!(lines(&done(&["scan", "l"]))[0]["value"], "mine again");
    let last = lines(&done(&["scan", "--reverse", "--limit", "1", "--keys-only"]));
    assert_eq!((last.len(), &last[0]["key"], &last[0]["value"]), (1, &json!("n"), &Value::Null));
    // Counted by many at once, none is lost.
    let counters: Vec<_> = (0..8)
        .map(|_| {
            lumen()
                .args(["kv", "incr", "many", "--url", &url])
                .stdout(Stdio::null())
                .spawn()
                .expect("it runs")
        })
        .collect();
    counters.into_iter().for_each(|mut one| assert!(one.wait().expect("it ends").success()));
    assert_eq!(done(&["get", "many"]), "8");
    done(&["put", "brief", "x", "--ttl", "90d"]);
    assert_eq!(code(&kv(&["put", "brief", "x", "--ttl", "soon"])), 2);
    done(&["del", "n"]);
    done(&["del", "", "--prefix"]);
    assert_eq!(done(&["scan"]), "");
    assert_eq!(done(&["get", "lock", "--space", "other"]), "elsewhere");
}

#[test]
fn show_mapping_needs_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(&folder, "films.ndjson", FILMS);
    let output = run(&["import", "films", file.to_str().unwrap(), "--show-mapping"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let mapping: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(mapping["fields"]["year"]["type"], "i64");
    assert!(mapping["fields"]["id"].is_null());
}

#[test]
fn an_interrupted_import_says_what_was_done() {
    let (_folder, server) = fresh();
    assert_eq!(server.put("/collections/words", r#"{"fields":{"w":{"type":"text"}}}"#).status, 201);
    let mut child = lumen()
        .args(["import", "words", "-", "--url", &server.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let line = format!("{{\"id\":\"first\",\"w\":\"{}\"}}\n", "word ".repeat(2000));
    pipe.write_all(line.repeat(800).as_bytes()).unwrap();
    while server.get("/collections/words/documents/first").status != 200 {
        std::thread::yield_now();
    }
    signal(child.id(), "INT");
    let output = child.wait_with_output().unwrap();
    drop(pipe);
    assert_eq!(code(&output), 130, "{}", stderr(&output));
    assert!(stderr(&output).contains("stopped"), "{}", stderr(&output));
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let (folder, server) = fresh();
    server.make_books();
    let url = server.url();
    let file = write(&folder, "films.ndjson", FILMS);
    let file = file.to_str().unwrap();
    let mapping = write(&folder, "mapping.json", r#"{"fields":{"title":{"type":"keyword"}}}"#);
    let nothing = write(&folder, "nothing.ndjson", "not json\n");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nowhere = format!("http://{free}");
    let taken = folder.path().join("data");
    let taken = taken.to_str().unwrap();
    for (args, expected) in [
        (vec!["search", "none", "x", "--url", &url], 3),
        (vec!["search", "books", "(x", "--url", &url], 1),
        (vec!["search", "books", "x", "--limit", "10001", "--url", &url], 2),
        (vec!["search", "books", "x", "--url", &nowhere], 5),
        (vec!["search", "books", "x", "--url", "ftp://x"], 2),
        (vec!["search", "books"], 2),
        (vec!["health", "--url", &url], 0),
        (vec!["health", "--url", &nowhere], 5),
        (vec!["import", "books", file, "--mapping", mapping.to_str().unwrap(), "--url", &url], 4),
        (vec!["import", "books", "/no/such/file", "--url", &url], 3),
        (vec!["import", "fresh", nothing.to_str().unwrap(), "--url", &url], 1),
        (vec!["import", "fresh", "/", "--url", &url], 1),
        (vec!["import", "books", file, "--url", &nowhere], 5),
        (vec!["check", "/no/such/folder"], 3),
        (vec!["check", folder.path().to_str().unwrap()], 3),
        (vec!["inspect", "/no/such/file"], 3),
        (vec!["inspect", file], 1),
        (vec!["standalone", "--bind", &server.address.to_string(), "--data-dir", "/nonexistent/x"], 5),
        (vec!["standalone", "--bind", "127.0.0.1:0", "--data-dir", taken], 5),
        (vec!["check", taken], 5),
        (vec!["standalone", "--memory", "lots"], 2),
        (vec!["nonsense"], 2),
        (vec!["--help"], 0),
    ] {
        let output = run(&args);
        assert_eq!(code(&output), expected, "{args:?}: {}", stderr(&output));
        assert!(expected == 0 || (output.stdout.is_empty() && !output.stderr.is_empty()), "{args:?}");
    }
}

#[test]
fn the_environment_says_where_when_the_command_line_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("here");
    let mut command = lumen();
    command.arg("standalone").env("LUMEN_DATA_DIR", &data).env("LUMEN_BIND", "127.0.0.2:0");
    let server = Server::spawn(command);
    assert_eq!(server.address.ip().to_string(), "127.0.0.2");
    assert!(std::fs::read_dir(&data).unwrap().count() > 0, "nothing is in {data:?}");
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_server_may_have_as_many_files_open_as_the_system_allows() {
    let folder = tempfile::tempdir().unwrap();
    // Started as many systems do: with a low limit that may be raised.
    let mut command = std::process::Command::new("sh");
    let program = lumen().get_program().to_owned();
    command.args(["-c", "ulimit -S -n 300; exec \"$0\" \"$@\""]).arg(program);
    command.args(["standalone", "--bind", "127.0.0.1:0", "--data-dir"]).arg(folder.path().join("data"));
    let server = Server::spawn(command);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let files: Vec<&str> =
        limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect();
    assert!(files[3] == files[4] && files[3] != "300", "{files:?}");
}

#[test]
fn check_and_inspect_read_a_folder_that_no_server_uses() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::start(&data, &[]);
    server.make_books();
    assert_eq!(server.put("/collections/books/documents/a", r#"{"title":"x"}"#).status, 201);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    let output = run(&["check", data.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("nothing is wrong"));
    let output = run(&["inspect", data.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(!output.stdout.is_empty());
}

#[test]
fn inspect_shows_every_kind_of_file() {
    let folder = tempfile::tempdir().unwrap();
    // The stores of version 1 that the engine and the database are tested with.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let stores = ["engine/tests/formats/v1", "database/tests/formats/v1"].map(|store| root.join(store));
    let mut kinds = std::collections::BTreeSet::new();
    for path in
        stores.iter().flat_map(|store| std::fs::read_dir(store).unwrap()).map(|entry| entry.unwrap().path())
    {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let (kind, bytes) = (name.rsplit('.').next().unwrap().to_string(), std::fs::read(&path).unwrap());
        let expected = match kind.as_str() {
            "sst" => "table uid ",
            "blob" => "blob file uid ",
            "wal" | "log" | "manifest" => "segment ",
            // What an embedder attaches is its own; the database's are segments and deletes.
            "att" if path.starts_with(&stores[0]) => continue,
            "att" => "segment",
            other => panic!("a file of kind {other}: {name}"),
        };
        let output = run(&["inspect", path.to_str().unwrap()]);
        let text = stdout(&output);
        assert!(
            code(&output) == 0 && text.contains(expected) && !text.contains("DAMAGE"),
            "{path:?}: {text}"
        );
        // What cannot be read is named, and the rest shown; so are tables that were put aside.
        if kind == "sst" || kind == "blob" {
            let mut damaged = bytes.clone();
            damaged[bytes.len() / 4] ^= 1;
            let aside =
                folder.path().join(if kind == "sst" { format!("{name}.damaged") } else { name.clone() });
            std::fs::write(&aside, damaged).unwrap();
            let output = run(&["inspect", aside.to_str().unwrap()]);
            let text = stdout(&output);
            assert!(text.contains("DAMAGE") && text.contains(expected), "{name}: {text}");
        }
        kinds.insert(kind);
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["att", "blob", "log", "manifest", "sst", "wal"]);
}

#[test]
fn check_names_the_damage_and_leaves_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::start(&data, &[]);
    server.make_books();
    assert_eq!(server.put("/collections/books/documents/a", r#"{"title":"x"}"#).status, 201);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    let (name, (_, bytes)) = files(&data).into_iter().find(|(name, _)| name.ends_with(".att")).unwrap();
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    std::fs::write(data.join(&name), damaged).unwrap();
    let before = files(&data);
    let output = run(&["check", data.to_str().unwrap()]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(stdout(&output).contains(&name), "{}", stdout(&output));
    assert!(files(&data) == before);

    std::fs::write(data.join(&name), bytes).unwrap();
    let server = Server::start(&data, &[]);
    let output = run(&["check", data.to_str().unwrap()]);
    assert_eq!(code(&output), 5, "a server has it: {}", stderr(&output));
    assert_eq!(server.get("/collections/books/documents/a").status, 200);
}

#[test]
fn damage_is_found_in_the_background_and_named_while_all_else_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::start(&data, &[]);
    server.make_books();
    let title = |n: u32| n.wrapping_mul(2_654_435_761).to_string().repeat(60);
    for n in 0..200 {
        let body = format!(r#"{{"title":"{}"}}"#, title(n));
        assert_eq!(server.put(&format!("/collections/books/documents/{n:03}"), &body).status, 201);
    }
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    let (name, (_, mut bytes)) = files(&data).into_iter().find(|(name, _)| name.ends_with(".sst")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(data.join(&name), bytes).unwrap();

    let server = Server::start(&data, &["--scrub", "1GiB"]);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !server.get("/metrics").text().contains("lumen_quarantines 1\n") {
        assert!(Instant::now() < deadline, "the damage is not found");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (mut lost, mut served) = (0, 0);
    for n in 0..200 {
        let answer = server.get(&format!("/collections/books/documents/{n:03}"));
        if answer.status == 200 {
            assert_eq!(answer.json()["source"]["title"], title(n));
            served += 1;
        } else {
            let error = answer.is_error(500, "corruption");
            assert!(error["message"].as_str().unwrap().contains(&name), "{error}");
            lost += 1;
        }
    }
    assert!(lost > 0 && served > 150, "{lost} lost, {served} served");
    assert_eq!(server.put("/collections/books/documents/new", r#"{"title":"x"}"#).status, 201);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    let output = run(&["check", data.to_str().unwrap()]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(stdout(&output).contains("quarantine") && stdout(&output).contains(&name), "{}", stdout(&output));
}

#[test]
fn a_reader_that_leaves_is_no_fault() {
    let (folder, server) = fresh();
    let films = write(&folder, "films.ndjson", FILMS);
    assert_eq!(code(&run(&["import", "films", films.to_str().unwrap(), "--url", &server.url()])), 0);
    let data = folder.path().join("kept");
    let kept = Server::start(&data, &[]);
    kept.make_books();
    kept.kill();
    let (films, url, data) = (films.to_str().unwrap(), server.url(), data.to_str().unwrap());
    for args in [
        vec!["demo", "--exit", "--bind", "127.0.0.1:0"],
        vec!["search", "films", "film", "--url", &url],
        vec!["import", "films", films, "--show-mapping"],
        vec!["import", "films", films, "--url", &url],
        vec!["health", "--url", &url],
        vec!["inspect", data],
        vec!["check", data],
        vec!["--help"],
    ] {
        // Both pipes are closed before anything is written to them.
        let (out, err) = (std::io::pipe().unwrap().1, std::io::pipe().unwrap().1);
        let status = lumen().args(&args).stdout(out).stderr(err).status().unwrap();
        assert_eq!(status.code(), Some(0), "{args:?}");
    }
}

#[test]
fn demo_shows_three_searches_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = occupied.local_addr().unwrap().to_string();
    let output =
        lumen().args(["demo", "--exit", "--bind", &taken]).env("TMPDIR", folder.path()).output().unwrap();
    drop(occupied);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("is taken"), "{}", stderr(&output));
    let shown = stdout(&output);
    assert_eq!(shown.matches("curl 'http://127.0.0.1:").count(), 3, "{shown}");
    assert_eq!(shown.matches(" documents, ").count(), 3, "{shown}");
    assert!(!shown.contains("\n  0 of 0"), "every search finds something: {shown}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the temporary folder is gone");
}

#[test]
fn demo_serves_until_it_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("kept");
    let mut command = lumen();
    command.args(["demo", "--bind", "127.0.0.1:0", "--data-dir"]).arg(&data).stdout(Stdio::null());
    let server = Server::spawn(command);
    while !server.says.recv().expect("the demo says when it is ready").contains("goes on serving") {}
    let total = server.get("/collections/devils-dictionary/documents/search?limit=0").json()["total"].clone();
    assert_eq!(total, 962);
    server.signal("INT");
    assert_eq!(server.wait().code(), Some(0));
    assert!(data.is_dir());
}
