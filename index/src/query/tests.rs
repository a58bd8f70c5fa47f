//! Query texts, the trees they make, and what is wrong with bad ones.

use std::ops::Bound;

use proptest::prelude::*;

use crate::query::Query;
use crate::query::parser::parse;
use crate::schema::{Analyzer, Field, FieldId, Kind, Schema};

fn schema() -> Schema {
    let field =
        |name: &str, kind: Kind, indexed: bool, fast: bool| Field { name: name.into(), kind, indexed, fast };
    Schema::new(vec![
        field("body", Kind::Text(Analyzer::Standard), true, false),
        field("tag", Kind::Keyword, true, true),
        field("year", Kind::I64, true, true),
        field("price", Kind::F64, false, true),
        field("day", Kind::Date, true, true),
        field("open", Kind::Bool, true, true),
        field("hidden", Kind::Keyword, false, false),
    ])
    .expect("a schema")
}

/// A tree in one line: numbers as hex, text as text.
fn show(query: &Query) -> String {
    let schema = schema();
    let name = |field: &FieldId| schema.field(*field).expect("known").name.clone();
    let term = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && text.chars().all(|c| !c.is_control()) => text.to_owned(),
        _ => match bytes.try_into().map(u64::from_be_bytes) {
            Ok(number) => format!("#{}", (number ^ (1 << 63)) as i64),
            Err(_) => format!("{bytes:?}"),
        },
    };
    let bound = |bound: &Bound<Vec<u8>>, ends: [&str; 2]| match bound {
        Bound::Unbounded => "*".to_owned(),
        Bound::Included(bytes) => format!("{}{}", ends[0], term(bytes)),
        Bound::Excluded(bytes) => format!("{}{}", ends[1], term(bytes)),
    };
    let list = |queries: &[Query], sign: &str| {
        queries.iter().map(|query| format!("{sign}{}", show(query))).collect::<Vec<_>>()
    };
    match query {
        Query::All => "ALL".into(),
        Query::Nothing => "NOTHING".into(),
        Query::Term { field, term: bytes } => format!("{}:{}", name(field), term(bytes)),
        Query::Phrase { field, terms, slop } => {
            let words: Vec<String> = terms.iter().map(|(at, bytes)| format!("{at}{}", term(bytes))).collect();
            format!("{}:\"{}\"~{slop}", name(field), words.join(" "))
        }
        Query::Prefix { field, prefix } => format!("{}:{}*", name(field), term(prefix)),
        Query::Range { field, lower, upper } => {
            format!("{}:[{} TO {}]", name(field), bound(lower, ["=", ">"]), bound(upper, ["=", "<"]))
        }
        Query::Exists { field } => format!("{}:*", name(field)),
        Query::AnyOf { field, terms } => {
            format!("{} IN {:?}", name(field), terms.iter().map(|bytes| term(bytes)).collect::<Vec<_>>())
        }
        Query::Boost(query, boost) => format!("{}^{boost}", show(query)),
        Query::Bool { must, should, must_not } => {
            let all = [list(must, "+"), list(should, ""), list(must_not, "-")].concat();
            format!("({})", all.join(" "))
        }
    }
}

#[test]
fn texts_become_trees() {
    for (text, tree) in [
        ("", "ALL"),
        ("  ", "ALL"),
        ("*", "ALL"),
        ("Rust", "(body:rust tag:Rust)"),
        ("body:Rust", "body:rust"),
        ("body:rust body:java", "(body:rust body:java)"),
        ("+body:rust -body:java", "(+body:rust -body:java)"),
        ("-body:java", "(+ALL -body:java)"),
        ("NOT body:java", "(+ALL -body:java)"),
        ("NOT NOT body:a", "body:a"),
        ("body:a AND body:b OR body:c", "((+body:a +body:b) body:c)"),
        ("body:a OR body:b AND body:c", "(body:a (+body:b +body:c))"),
        ("body:a AND NOT body:b", "(+body:a -body:b)"),
        ("body:(a b)", "(body:a body:b)"),
        ("body:(a AND (b OR c))", "(+body:a +(body:b body:c))"),
        ("(body:a)", "body:a"),
        ("body:\"to be or not\"", "body:\"0to 1be 2or 3not\"~0"),
        ("body:\"a b\"~3", "body:\"0a 1b\"~3"),
        ("body:foo-bar", "body:\"0foo 1bar\"~0"),
        ("tag:\"two words\"", "tag:two words"),
        ("tag:a\\:b", "tag:a:b"),
        ("body:\\AND", "body:and"),
        ("body:hob*", "body:hob*"),
        ("tag:Hob*", "tag:Hob*"),
        ("tag:*", "tag:*"),
        ("year:1999", "year:#1999"),
        ("year:-5", "year:#-5"),
        ("year:[1990 TO 2000}", "year:[=#1990 TO <#2000]"),
        ("year:{* TO 2000]", "year:[* TO =#2000]"),
        ("year:>=1990", "year:[=#1990 TO *]"),
        ("year:<1990", "year:[* TO <#1990]"),
        ("price:[1 TO 2]", "price:[=\u{bf}\u{f0}"),
        ("day:1970-01-01", "day:#0"),
        ("day:[1970-01-01T00:00:01Z TO *]", "day:[=#1000000 TO *]"),
        ("tag: IN [b a b]", "tag IN [\"a\", \"b\"]"),
        ("year: IN [1 2]", "year IN [\"#1\", \"#2\"]"),
        ("body:a^2", "body:a^2"),
        ("(body:a body:b)^0.5", "(body:a body:b)^0.5"),
        ("body:!!!", "NOTHING"),
        ("!body:java", "(+ALL -body:java)"),
        ("body:a && body:b || !body:c", "((+body:a +body:b) -body:c)"),
        ("body:a && !(body:b)", "(+body:a -body:b)"),
        ("tag:a~b", "tag:a~b"),
        ("tag:a\\~1", "tag:a~1"),
    ] {
        let parsed = parse(text, &schema()).unwrap_or_else(|error| panic!("{text}: {error}"));
        if text.starts_with("price") {
            assert!(matches!(parsed, Query::Range { field: FieldId(3), .. }), "{text}");
            continue;
        }
        assert_eq!(show(&parsed), tree, "{text}");
    }
}

#[test]
fn bad_texts_are_refused_with_their_place() {
    for (text, position, part) in [
        ("(a", 0, "never closed"),
        ("a )", 2, "closes nothing"),
        ("()", 0, "empty parentheses"),
        ("\"abc", 0, "never closed"),
        ("a AND", 2, "nothing follows"),
        ("OR a", 0, "nothing on its left"),
        ("a AND OR b", 6, "nothing on its left"),
        ("+ a", 0, "stands alone"),
        ("+-a", 1, "follows another sign"),
        ("NOT +a", 4, "follows another sign or NOT"),
        ("NOT -a", 4, "follows another sign or NOT"),
        ("+NOT a", 1, "NOT follows +"),
        ("x:5", 0, "put it in quotes"),
        ("zz:5", 0, "put it in quotes"),
        ("yaer:5", 0, "did you mean \"year\""),
        ("http://x", 0, "put it in quotes"),
        ("year:abc", 5, "wants an integer"),
        ("year:1.5", 5, "wants an integer"),
        ("year:", 5, "value is expected"),
        ("price:nan", 6, "wants a number"),
        ("day:yesterday", 4, "wants a date"),
        ("open:yes", 5, "wants true or false"),
        ("hidden:x", 7, "neither indexed nor fast"),
        ("year:[1 2]", 8, "TO is expected"),
        ("year:[1 TO 2", 5, "never closed"),
        ("[1 TO 2]", 0, "needs a field"),
        ("year:19*", 5, "has no prefixes"),
        ("a^x", 1, "a boost is a number"),
        ("\"a b\"~x", 6, "slop is a whole number"),
        ("roam~1", 4, "follows only a phrase"),
        ("a body:roam~", 11, "follows only a phrase"),
        ("+!a", 1, "NOT follows +"),
        ("a &&", 2, "nothing follows"),
        ("ho*b", 0, "only at the end"),
        ("a\\", 1, "escapes nothing"),
        ("tag: IN [a", 5, "never closed"),
        ("é yaer:1", 3, "did you mean"),
    ] {
        let error = parse(text, &schema()).map(|query| show(&query)).expect_err(text);
        assert!(error.reason.contains(part), "{text}: {error}");
        assert_eq!(error.position, position, "{text}: {error}");
        assert_eq!(error.column, text[..position].chars().count() + 1, "{text}");
    }
}

#[test]
fn limits_hold() {
    let deep = "(".repeat(30_000);
    assert!(parse(&deep, &schema()).expect_err("deep").reason.contains("30 deep"));
    let thirty = format!("{}body:a{}", "(".repeat(30), ")".repeat(30));
    assert_eq!(show(&parse(&thirty, &schema()).expect("thirty are fine")), "body:a");
    let many = "tag:a ".repeat(1025);
    assert!(parse(&many, &schema()).expect_err("many").reason.contains("1024 clauses"));
    let keyword = |n: u32| Field { name: format!("f{n}"), kind: Kind::Keyword, indexed: true, fast: true };
    let wide = Schema::new((0..1000).map(keyword).collect()).expect("a schema");
    assert!(parse(&"a ".repeat(65), &wide).is_ok());
    assert!(parse(&"f1:a ".repeat(1024), &wide).is_ok());
    assert!(parse(&"a ".repeat(66), &wide).expect_err("wide").reason.contains("65536 fields"));
    let long = "a".repeat(40_000);
    assert!(parse(&long, &schema()).expect_err("long").reason.contains("32768"));
    for piece in [
        "\"",
        "[",
        "{",
        "~",
        "^",
        ":",
        "+",
        "-",
        "\\",
        "*",
        "a:",
        "tag:[",
        "a^",
        "NOT ",
        "a AND ",
        "é",
        "tag: IN [",
    ] {
        let text: String = piece.repeat(32_768 / piece.len());
        let _ = parse(&text, &schema()); // an answer, at once, whatever it is
    }
}

proptest! {
    #[test]
    fn any_text_gets_an_answer(text in "[ a-c()\\[\\]{}\"~^:+*\\\\<>=1-3A-Zé-]{0,60}") {
        if let Err(error) = parse(&text, &schema()) {
            prop_assert!(error.position <= text.len() && error.column >= 1);
        }
    }

    #[test]
    fn words_of_the_language_get_an_answer(
        words in proptest::collection::vec(
            prop_oneof![
                Just("AND"), Just("OR"), Just("NOT"), Just("("), Just(")"), Just("body:"), Just("year:"), Just("tag:"),
                Just("[1 TO 2]"), Just("a"), Just("\"b c\""), Just("+"), Just("-"), Just("*"), Just("IN"), Just("^2"), Just("~1"),
            ], 0..20),
        spaced in any::<bool>(),
    ) {
        let text = words.join(if spaced { " " } else { "" });
        let _ = parse(&text, &schema());
    }
}
