//! The contract of the single node over real HTTP, case by case: every status, `error.type` and body, and what a search
//! finds right after each acknowledgement.

mod support;

use serde_json::json;
use support::{Answer, fresh};

const BOOKS: &str = "/collections/books";
const HOBBIT: &str =
    r#"{"title":"The Hobbit","genre":"fantasy","year":1937,"price":12.5,"published":"1937-09-21T00:00:00Z"}"#;

#[test]
fn collections_are_made_described_listed_and_dropped() {
    let (_folder, server) = fresh();
    assert_eq!(server.get("/collections").json(), json!({ "collections": [] }));
    let mapping =
        r#"{"fields":{"title":{"type":"text"},"tag":{"type":"keyword"},"n":{"type":"i64","indexed":false}}}"#;
    let made = server.put(BOOKS, mapping);
    assert_eq!(made.status, 201);
    let described = made.json();
    assert_eq!(described["fields"]["title"]["type"], "text");
    assert_eq!(described["fields"]["title"]["indexed"], true);
    assert_eq!(described["fields"]["title"]["fast"], false);
    assert_eq!(described["fields"]["tag"]["fast"], true);
    assert_eq!(described["fields"]["n"]["indexed"], false);
    let again = server.put(BOOKS, mapping);
    assert_eq!((again.status, again.json()), (200, described.clone()));
    let round_trip = server.put(BOOKS, &described.to_string());
    assert_eq!(round_trip.status, 200, "what describe prints is the same mapping");
    server.put(BOOKS, r#"{"fields":{"title":{"type":"keyword"}}}"#).is_error(409, "schema_conflict");
    assert_eq!(server.get(BOOKS).json(), described);
    assert_eq!(server.put("/collections/authors", mapping).status, 201);
    assert_eq!(server.get("/collections").json(), json!({ "collections": ["authors", "books"] }));
    let dropped = server.delete(BOOKS);
    assert_eq!((dropped.status, dropped.body.len()), (204, 0));
    server.delete(BOOKS).is_error(404, "collection_not_found");
    server.get(BOOKS).is_error(404, "collection_not_found");
    assert_eq!(server.get("/collections").json(), json!({ "collections": ["authors"] }));
}

#[test]
fn bad_mappings_are_refused() {
    let (_folder, server) = fresh();
    for mapping in [
        r#"{"fields":{"":{"type":"text"}}}"#,
        r#"{"fields":{"_id":{"type":"keyword"}}}"#,
        r#"{"fields":{"a":{"type":"text","fast":true}}}"#,
        r#"{"fields":{"a":{"type":"blob"}}}"#,
        r#"{"fields":{"a":{}}}"#,
        r#"{"fields":[]}"#,
        "{}",
        "[]",
        "{\"fields\":",
        "",
    ] {
        server.put(BOOKS, mapping).is_error(400, "mapping");
    }
    assert_eq!(server.get("/collections").json(), json!({ "collections": [] }));
    let name = server.put("/collections/_hidden", r#"{"fields":{"a":{"type":"text"}}}"#);
    assert_eq!(name.status, 400, "{}", name.text());
}

#[test]
fn an_unknown_collection_is_404_on_every_verb() {
    let (_folder, server) = fresh();
    let documents = "/collections/none/documents";
    for answer in [
        server.post(documents, HOBBIT),
        server.put(&format!("{documents}/a"), HOBBIT),
        server.get(&format!("{documents}/a")),
        server.delete(&format!("{documents}/a")),
        server.get(&format!("{documents}/search?q=a")),
        server.get("/collections/none"),
        server.delete("/collections/none"),
        server.post("/collections/none/import", "{}"),
        server.get("/collections/none/document?id=a"),
    ] {
        answer.is_error(404, "collection_not_found");
    }
}

#[test]
fn documents_are_put_read_and_deleted_and_each_acknowledgement_is_searchable() {
    let (_folder, server) = fresh();
    server.make_books();
    let path = "/collections/books/documents/hobbit";
    server.get(path).is_error(404, "document_not_found");
    let created = server.put(path, HOBBIT);
    assert_eq!(created.status, 201);
    assert_eq!((&created.json()["id"], &created.json()["result"]), (&json!("hobbit"), &json!("created")));
    assert_eq!(server.find("hobbit"), (vec!["hobbit".to_string()], 1));
    assert_eq!(server.find("fantasy").1, 1, "keyword fields are searched too");

    let read = server.get(path);
    assert_eq!(read.status, 200);
    assert_eq!(read.json()["id"], "hobbit");
    assert!(read.text().contains(HOBBIT), "the source is what was sent, byte for byte");

    let updated = server.put(path, r#"{"title":"There and Back Again"}"#);
    assert_eq!((updated.status, &updated.json()["result"]), (200, &json!("updated")));
    assert_eq!(server.find("hobbit").1, 0, "the old text is gone at once");
    assert_eq!(server.find("fantasy").1, 0);
    assert_eq!(server.find("back"), (vec!["hobbit".to_string()], 1));
    assert_eq!(server.get(path).json()["source"], json!({ "title": "There and Back Again" }));

    let added = server.post("/collections/books/documents", HOBBIT);
    assert_eq!((added.status, &added.json()["result"]), (201, &json!("created")));
    let id = added.json()["id"].as_str().unwrap().to_string();
    assert_eq!((id.len(), &id[14..15]), (36, "7"), "a UUID of version 7");
    assert_eq!(added.header("location"), Some(format!("/collections/books/documents/{id}").as_str()));
    assert_eq!(server.get(added.header("location").unwrap()).json()["id"], id.as_str());
    assert_eq!(server.find("hobbit"), (vec![id], 1));

    let deleted = server.delete(path);
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    assert_eq!(server.find("back").1, 0);
    server.get(path).is_error(404, "document_not_found");
    assert_eq!(server.delete(path).status, 204, "deleting is idempotent");
}

#[test]
fn documents_that_do_not_fit_are_refused() {
    let (_folder, server) = fresh();
    server.make_books();
    for (body, field) in [
        (r#"{"title":7}"#, Some("title")),
        (r#"{"year":"1937"}"#, Some("year")),
        (r#"{"year":1.5}"#, Some("year")),
        (r#"{"yaer":1937}"#, Some("yaer")),
        (r#"{"published":"yesterday"}"#, Some("published")),
        (r#"{"genre":"LONG"}"#, Some("genre")),
        ("[]", None),
        ("7", None),
        ("", None),
    ] {
        let body = &body.replace("LONG", &"x".repeat(40_000));
        let error = server.put("/collections/books/documents/a", body).is_error(400, "validation");
        if let Some(field) = field {
            assert_eq!(error["field"], field, "{error}");
        }
        server.post("/collections/books/documents", body).is_error(400, "validation");
    }
    let error =
        server.post("/collections/books/documents", "{\"title\":\n  oops}").is_error(400, "validation");
    assert_eq!(error["line"], 2, "{error}");
    assert!(error["column"].is_u64() && error["request_id"].is_string());
    assert_eq!(server.find("*").1, 0);
}

#[test]
fn searches_page_count_and_keep_to_their_window() {
    let (_folder, server) = fresh();
    server.make_books();
    let lines: String =
        (0..25).map(|n| format!("{{\"id\":\"d{n:02}\",\"title\":\"common word{n}\"}}\n")).collect();
    assert_eq!(server.post("/collections/books/import", &lines).status, 200);
    let search = |query: &str| server.get(&format!("/collections/books/documents/search?{query}"));
    let body = search("q=common").json();
    assert_eq!((body["hits"].as_array().unwrap().len(), &body["total"]), (10, &json!(25)));
    assert!(body["took_ms"].is_u64());
    let hit = &body["hits"][0];
    assert!(hit["id"].is_string() && hit["score"].is_number() && hit["source"]["title"].is_string(), "{hit}");
    let body = search("q=common&limit=0").json();
    assert_eq!((body["hits"].as_array().unwrap().len(), &body["total"]), (0, &json!(25)));
    let mut ids = Vec::new();
    for offset in (0..30).step_by(7) {
        let body = search(&format!("q=common&limit=7&offset={offset}")).json();
        assert_eq!(body["total"], 25);
        ids.extend(
            body["hits"].as_array().unwrap().iter().map(|hit| hit["id"].as_str().unwrap().to_string()),
        );
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 25, "pages neither overlap nor leave out");
    assert_eq!(server.find("word3").0, vec!["d03"]);
    assert_eq!(server.find("word3+word4").1, 2, "OR is the default operator");
    assert_eq!(server.find("").1, 25, "no words: everything");

    assert_eq!(search("q=common&limit=10000").status, 200);
    for bad in [
        "q=common&limit=10001",
        "q=common&limit=1&offset=10000",
        "q=common&limit=18446744073709551615",
        "q=common&limit=99999999999999999999999",
        "q=common&limit=18446744073709551615&offset=18446744073709551615",
        "q=common&limit=-1",
        "q=common&offset=x",
        "q=common&limit=",
        "q=common&q=word1",
    ] {
        search(bad).is_error(400, "invalid_parameter");
    }
    let error = search("q=common&limt=5").is_error(400, "unknown_parameter");
    assert_eq!(error["hint"], "did you mean \"limit\"?");
    server.get("/collections/books?pretty=1").is_error(400, "unknown_parameter");
    search("q=%FF").is_error(400, "bad_request");
}

#[test]
fn ids_with_odd_characters_are_themselves() {
    let (_folder, server) = fresh();
    server.make_books();
    let long = "x".repeat(512);
    let cases = [
        ("a%2Fb", "a/b"),
        ("..", ".."),
        ("%C3%BCber%20alles", "über alles"),
        ("a+b", "a+b"),
        ("100%25", "100%"),
        ("%3F%23%26%3D", "?#&="),
        ("%F0%9F%93%9A", "📚"),
        ("%22quoted%5C%22", "\"quoted\\\""),
        (long.as_str(), long.as_str()),
    ];
    for (encoded, id) in cases {
        let path = format!("/collections/books/documents/{encoded}");
        let put = server.put(&path, r#"{"title":"odd"}"#);
        assert_eq!((put.status, put.json()["id"].as_str()), (201, Some(id)));
        assert_eq!(server.get(&path).json()["id"], id);
    }
    let mut wanted: Vec<String> = cases.iter().map(|(_, id)| id.to_string()).collect();
    wanted.sort();
    assert_eq!(server.find("odd").0, wanted);
    assert_eq!(server.get("/collections/books/document?id=a/b").json()["id"], "a/b");
    for bad in ["a%00b", "a%0Ab", "%C2%85", &"x".repeat(513)] {
        server
            .put(&format!("/collections/books/documents/{bad}"), r#"{"title":"odd"}"#)
            .is_error(400, "invalid_name");
    }
    server.get("/collections/books/documents/%FF").is_error(400, "bad_request");
    server.get("/collections/books/documents/").is_error(404, "not_found");
}

#[test]
fn the_id_search_is_a_document_like_any_other() {
    let (_folder, server) = fresh();
    server.make_books();
    let put = server.put("/collections/books/documents/search", r#"{"title":"first"}"#);
    assert_eq!((put.status, &put.json()["id"]), (201, &json!("search")));
    let by_query = "/collections/books/document?id=search";
    assert_eq!(server.get(by_query).json()["source"]["title"], "first");
    assert_eq!(server.put(by_query, r#"{"title":"second"}"#).status, 200);
    assert_eq!(server.find("second").0, vec!["search"]);
    assert_eq!(server.delete("/collections/books/documents/search").status, 204);
    server.get(by_query).is_error(404, "document_not_found");
    assert_eq!(server.put("/collections/books/document?id=a/b", r#"{"title":"third"}"#).status, 201);
    assert_eq!(server.delete("/collections/books/document?id=a/b").status, 204);
    assert_eq!(server.find("third").1, 0);
    server.get("/collections/books/document").is_error(400, "invalid_parameter");
    server.get("/collections/books/document?di=a").is_error(400, "unknown_parameter");
}

#[test]
fn conditions_hold_or_answer_412() {
    let (_folder, server) = fresh();
    server.make_books();
    let path = "/collections/books/documents/a";
    let put = |headers: &[(&str, &str)]| server.send("PUT", path, headers, br#"{"title":"x"}"#);
    put(&[("if-match", "\"1\"")]).is_error(412, "precondition_failed");
    put(&[("if-match", "*")]).is_error(412, "precondition_failed");
    let created = put(&[("if-none-match", "*")]);
    assert_eq!(created.status, 201);
    let etag = created.header("etag").unwrap().to_string();
    assert_eq!(etag, format!("\"{}\"", created.json()["version"]));
    assert_eq!(server.get(path).header("etag"), Some(etag.as_str()));
    put(&[("if-none-match", "*")]).is_error(412, "precondition_failed");
    let updated = put(&[("if-match", &etag)]);
    assert_eq!(updated.status, 200);
    let updated = put(&[("if-match", "*")]);
    assert_eq!(updated.status, 200);
    let error = put(&[("if-match", &etag)]).is_error(412, "precondition_failed");
    assert_eq!(error["current_version"], updated.json()["version"]);
    assert_eq!(
        server.send("GET", path, &[("if-none-match", updated.header("etag").unwrap())], b"").status,
        304
    );
    server.send("DELETE", path, &[("if-match", &etag)], b"").is_error(412, "precondition_failed");
    assert_eq!(
        server.send("DELETE", path, &[("if-match", updated.header("etag").unwrap())], b"").status,
        204
    );
    for bad in [&[("if-match", "17")][..], &[("if-none-match", "\"1\"")]] {
        put(bad).is_error(400, "invalid_parameter");
    }
    // Every answer says of which moment it is, refusals and what is not there too, and each token can be waited for.
    let seq_of = |answer: &Answer| -> u64 { answer.header("lumen-seq").expect("a token").parse().unwrap() };
    let mut last = updated.json()["version"].as_u64().unwrap();
    let refused = server.send("PUT", path, &[("if-match", &etag)], b"{}");
    let absent = server.get(path);
    assert_eq!((refused.status, absent.status), (412, 404));
    for answer in [refused, absent, server.delete(path), server.get(BOOKS)] {
        let seq = seq_of(&answer);
        assert!(seq >= last, "{seq} after {last}: {}", answer.text());
        let since = server.send("GET", BOOKS, &[("lumen-min-seq", &seq.to_string())], b"");
        assert_eq!(since.status, 200, "{}", since.text());
        last = seq;
    }
}

#[test]
fn imports_reject_lines_singly_and_number_them() {
    let (_folder, server) = fresh();
    server.make_books();
    let mut body = Vec::new();
    body.extend_from_slice(b"{\"id\":\"a\",\"title\":\"alpha\",\"year\":1}\n");
    body.extend_from_slice(b"\n   \n");
    body.extend_from_slice(b"{\"title\":\"beta\",\"id\":42}\r\n");
    body.extend_from_slice(b"not json\n");
    body.extend_from_slice(b"{\"id\":\"c\",\"title\":7}\n");
    body.extend_from_slice(b"{\"id\":\"d\",\"title\":\"\xFF\xFE\"}\n");
    body.extend_from_slice(b"{\"id\":1.5,\"title\":\"gamma\"}\n");
    body.extend_from_slice(b"{\"id\":\"e\",\"unmapped\":1}\n");
    body.extend_from_slice(b"{\"title\":\"delta without id\"}\n");
    body.extend_from_slice(b"{\"id\":\"a\",\"title\":\"omega\"}");
    let answer = server.send("POST", "/collections/books/import", &[], &body);
    assert_eq!(answer.status, 207, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let mut lines = answer.lines();
    let summary = lines.pop().unwrap()["summary"].clone();
    let numbers: Vec<u64> = lines.iter().map(|line| line["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, vec![5, 6, 7, 8, 9]);
    for line in &lines {
        assert_eq!(line["error"]["type"], "validation", "{line}");
        assert!(line["error"]["message"].is_string());
    }
    assert_eq!((&lines[1]["id"], &lines[1]["error"]["field"]), (&json!("c"), &json!("title")));
    assert_eq!((&lines[4]["id"], &lines[4]["error"]["field"]), (&json!("e"), &json!("unmapped")));
    assert_eq!(summary["received"], 9);
    assert_eq!(
        (&summary["created"], &summary["updated"], &summary["rejected"]),
        (&json!(3), &json!(1), &json!(5))
    );
    assert!(summary["took_ms"].is_u64() && summary["seq"].is_u64());
    assert_eq!(server.find("alpha").1, 0, "the later line with the same id won");
    assert_eq!(server.find("omega").0, vec!["a"]);
    assert_eq!(server.find("beta").0, vec!["42"], "an integer id is its decimal text");
    assert_eq!(server.find("delta").0[0].len(), 36, "a missing id is made");
    assert_eq!(server.get("/collections/books/documents/a").json()["source"], json!({ "title": "omega" }));

    let none = server.post("/collections/books/import", "nope\n[1]\n");
    assert_eq!((none.status, none.lines().len()), (422, 3));
    let empty = server.post("/collections/books/import", "");
    assert_eq!((empty.status, &empty.json()["summary"]["received"]), (200, &json!(0)));
    server.post("/collections/books/import?id_feild=x", "{}").is_error(400, "unknown_parameter");
}

#[test]
fn a_rejected_line_is_told_as_it_was_sent() {
    let (_folder, server) = fresh();
    server.make_books();
    let body = concat!(
        "\u{feff}{\"id\":\"marked\",\"title\":\"byte order mark\"}\n",
        "{\"id\":\"a\",\"title\":\"broken}\n",
        "{\"title\":1}\n",
        "{\"id\":null}\n",
        "{\"id\":{\"a\":1}}\n",
    );
    let answer = server.post("/collections/books/import", body);
    let lines = answer.lines();
    assert_eq!((answer.status, lines.len()), (207, 5), "{}", answer.text());
    assert_eq!(server.find("mark").0, vec!["marked"]);
    let broken = &lines[0]["error"];
    assert_eq!((&lines[0]["line"], &broken["column"]), (&json!(2), &json!(26)), "{broken}");
    assert!(
        !broken["message"].as_str().unwrap().contains("line 1"),
        "the file's line stands outside: {broken}"
    );
    assert_eq!(lines[1]["id"], json!(null), "an id that nobody gave names nothing");
    assert!(lines[2]["error"]["message"].as_str().unwrap().ends_with("not null"), "{}", lines[2]);
    assert!(lines[3]["error"]["message"].as_str().unwrap().ends_with("not an object"), "{}", lines[3]);
}

#[test]
fn packed_bodies_are_refused_as_such() {
    let (_folder, server) = fresh();
    server.make_books();
    for path in ["/collections/books/documents/a", "/collections/books/import"] {
        let method = if path.ends_with("import") { "POST" } else { "PUT" };
        let answer = server.send(method, path, &[("content-encoding", "gzip")], b"\x1f\x8b\x08");
        answer.is_error(415, "unsupported_encoding");
        let answer = server.send(method, path, &[("content-encoding", "identity")], b"{}");
        assert!(answer.status < 300, "{}", answer.text());
    }
}

#[test]
fn the_id_field_stays_where_the_mapping_names_it() {
    let (_folder, server) = fresh();
    server.make_books();
    let answer =
        server.post("/collections/books/import?id_field=genre", "{\"title\":\"x\",\"genre\":\"poem\"}\n");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let source = server.get("/collections/books/documents/poem").json()["source"].clone();
    assert_eq!(source, json!({ "title": "x", "genre": "poem" }));
    let answer = server.post("/collections/books/import?id_field=isbn", "{\"isbn\":\"1\",\"title\":\"y\"}\n");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(server.get("/collections/books/documents/1").json()["source"], json!({ "title": "y" }));
}

#[test]
fn a_large_import_keeps_the_order_of_its_lines() {
    let (_folder, server) = fresh();
    server.make_books();
    let filler = "word ".repeat(100);
    let mut body = String::new();
    for n in 0..20_000 {
        body.push_str(&format!("{{\"id\":\"k{}\",\"title\":\"{filler}\",\"year\":{n}}}\n", n % 100));
        if n % 5000 == 4999 {
            body.push_str("broken\n");
        }
    }
    let answer = server.post("/collections/books/import", &body);
    assert_eq!(answer.status, 207);
    let lines = answer.lines();
    let numbers: Vec<u64> =
        lines[..lines.len() - 1].iter().map(|line| line["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, vec![5001, 10_002, 15_003, 20_004]);
    let summary = &lines[lines.len() - 1]["summary"];
    assert_eq!((&summary["created"], &summary["updated"]), (&json!(100), &json!(19_900)));
    for k in [0, 57, 99] {
        let document = server.get(&format!("/collections/books/documents/k{k}")).json();
        assert_eq!(document["source"]["year"], 19_900 + k, "the last line with this id won");
    }
    assert_eq!(server.find("word").1, 100);
}

#[test]
fn paths_and_methods_that_are_not_there_say_so() {
    let (_folder, server) = fresh();
    server.get("/").is_error(404, "not_found");
    server.get("/colections").is_error(404, "not_found");
    let wrong = server.post("/collections", "{}");
    wrong.is_error(405, "method_not_allowed");
    assert_eq!(wrong.header("allow"), Some("GET, HEAD"));
    let wrong = server.send("PATCH", "/collections/books/documents/search", &[], b"");
    wrong.is_error(405, "method_not_allowed");
    assert_eq!(wrong.header("allow"), Some("DELETE, GET, HEAD, PUT"));
}

#[test]
fn operators_get_health_metrics_and_the_table() {
    let (_folder, server) = fresh();
    server.make_books();
    for path in ["/health", "/livez", "/readyz"] {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
    }
    server.put("/collections/books/documents/a", r#"{"title":"x"}"#);
    let metrics = server.get("/metrics").text();
    let label = "lumen_http_requests_total{method=\"PUT\",route=\"/collections/{collection}/documents/{id}\",status=\"201\"} 1";
    assert!(metrics.contains(label), "{metrics}");
    for name in [
        "lumen_http_request_duration_seconds_bucket",
        "lumen_http_requests_in_flight",
        "lumen_journal_syncs_total",
        "lumen_journal_groups_total",
        "lumen_memtable_bytes",
        "lumen_compactions_by_reason_total{reason=\"deletes\"} 0",
        "lumen_stalls_total{reason=\"flushing memory\"} 0",
        "lumen_disk_full 0",
        "lumen_quarantines 0",
        "lumen_documents{collection=\"books\"} 1",
        "# EOF",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    let page = server.get("/openapi.json").json();
    assert_eq!(page["paths"]["/collections/{collection}/documents/search"]["get"]["operationId"], "search");
}
