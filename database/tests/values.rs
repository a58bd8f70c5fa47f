//! Values of every type are found by the text that they were sent with.

use std::sync::Arc;

use lumen::{Condition, Database, Mapping, Options, SearchRequest, Write};
use lumen_engine::vfs::memory::Memory;

/// How many documents of a database of this one match.
fn found(source: &str, query: &str) -> u64 {
    let options =
        Options { threads: 1, segment_bytes: 64 << 10, vfs: Arc::new(Memory::new()), ..Options::default() };
    let db = Database::open("/data", options).expect("the database opens");
    let mapping = Mapping::from_json(
        br#"{"fields":{"i":{"type":"i64"},"f":{"type":"f64"},"d":{"type":"date"},"column":{"type":"f64","indexed":false}}}"#,
    );
    db.write(Write::CreateCollection { name: "c".into(), mapping: mapping.expect("good") }).expect("created");
    let (collection, id, condition) = ("c".into(), "x".into(), Condition::Always);
    db.write(Write::Put { collection, id, source: source.into(), condition }).expect("written");
    let request = SearchRequest { collection: "c", query, offset: 0, limit: 10, cancelled: None };
    db.snapshot().search(&request).unwrap_or_else(|error| panic!("{query}: {error}")).total
}

#[test]
fn floats_are_found_by_their_digits() {
    // The first is read one bit off by a parser that trades exactness for speed.
    for digits in
        ["31.245270191439438", "121.48791951161945", "5e-324", "1.7976931348623157e308", "0.1", "1e22"]
    {
        for field in ["f", "column"] {
            let source = format!(r#"{{"{field}":{digits}}}"#);
            for query in [format!("{field}:{digits}"), format!("{field}:[{digits} TO {digits}]")] {
                assert_eq!(found(&source, &query), 1, "{source} {query}");
            }
            assert_eq!(found(&source, &format!("{field}:{{{digits} TO *]")), 0, "{source}");
        }
    }
    for (sent, sought) in [("-0.0", "0"), ("0", "-0"), ("9007199254740993", "9007199254740992")] {
        assert_eq!(found(&format!(r#"{{"f":{sent}}}"#), &format!("f:{sought}")), 1, "{sent} {sought}");
    }
}

#[test]
fn the_ends_of_integers_and_dates_are_found() {
    for end in [i64::MIN, i64::MAX] {
        let source = format!(r#"{{"i":{end}}}"#);
        assert_eq!(found(&source, &format!("i:{end}")), 1);
        assert_eq!(found(&source, &format!("i:[{end} TO {end}]")), 1);
        assert_eq!(found(&source, &format!("i:>{end} i:<{end}")), 0);
    }
    for (sent, query) in [
        ("0001-01-01T00:00:00Z", "d:<=0001-01-01"),
        ("9999-12-31T23:59:59.999999Z", "d:>9999-12-31T23:59:59.999998Z"),
        ("2020-06-01T12:00:00+02:00", "d:2020-06-01T10:00:00Z"),
    ] {
        assert_eq!(found(&format!(r#"{{"d":"{sent}"}}"#), query), 1, "{sent} {query}");
    }
}
