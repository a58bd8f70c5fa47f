//! Random puts, replacements, deletes, searches, scans, flushes, merges and restarts against a `BTreeMap` and a naive scorer
//! that shares no code with the index.

use std::collections::BTreeMap;
use std::sync::Arc;

use lumen::{Condition, Database, Mapping, Options, SearchRequest, Snapshot, Write};
use lumen_engine::vfs::memory::{Crash, Memory};
use proptest::prelude::*;

const WORDS: [&str; 12] =
    ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibex", "jay", "kiwi", "lynx"];

#[derive(Debug, Clone, PartialEq)]
struct Doc {
    words: Vec<usize>,
    tags: Vec<usize>,
    n: i64,
    /// In quarters.
    prices: Vec<i32>,
    day: Option<u8>,
    sold: Option<bool>,
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, Doc),
    Import(Vec<(u8, Doc)>),
    Delete(u8),
    Flush,
    Merge,
    Reopen,
    Crash,
    Keep,
    Check(Vec<usize>, usize, i64),
}

fn doc() -> impl Strategy<Value = Doc> {
    let texts =
        (proptest::collection::vec(0..WORDS.len(), 0..14), proptest::collection::vec(0..4usize, 0..3));
    let prices = proptest::collection::vec(-8..8i32, 0..3);
    let rest = (prices, proptest::option::of(1..29u8), proptest::option::of(any::<bool>()));
    (texts, -20..20i64, rest).prop_map(|((words, tags), n, (prices, day, sold))| Doc {
        words,
        tags,
        n,
        prices,
        day,
        sold,
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        10 => (any::<u8>(), doc()).prop_map(|(id, doc)| Step::Put(id % 40, doc)),
        3 => proptest::collection::vec((0u8..40, doc()), 1..20).prop_map(Step::Import),
        4 => (0u8..40).prop_map(Step::Delete),
        1 => Just(Step::Flush),
        1 => Just(Step::Merge),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
        1 => Just(Step::Keep),
        4 => (proptest::collection::vec(0..WORDS.len(), 1..4), 0..4usize, -20..20i64)
            .prop_map(|(words, tag, n)| Step::Check(words, tag, n)),
    ];
    proptest::collection::vec(step, 1..60)
}

fn source(doc: &Doc) -> String {
    let body: Vec<&str> = doc.words.iter().map(|&word| WORDS[word]).collect();
    let tags: Vec<String> = doc.tags.iter().map(|tag| format!(r#""t{tag}""#)).collect();
    let prices: Vec<String> = doc.prices.iter().map(|&price| price_text(price)).collect();
    let day = doc.day.map_or("null".into(), |day| format!(r#""{}""#, day_text(day)));
    let sold = doc.sold.map_or("null".into(), |sold| sold.to_string());
    format!(
        r#"{{"body":"{}","tag":[{}],"n":{},"price":[{}],"day":{day},"sold":{sold}}}"#,
        body.join(" "),
        tags.join(","),
        doc.n,
        prices.join(",")
    )
}

fn price_text(quarters: i32) -> String {
    format!("{:?}", f64::from(quarters) / 4.0)
}

fn day_text(day: u8) -> String {
    format!("2020-01-{day:02}T00:00:00Z")
}

fn put(id: u8, doc: &Doc) -> Write {
    Write::Put {
        collection: "c".into(),
        id: format!("id{id:02}"),
        source: source(doc).into_bytes(),
        condition: Condition::Always,
    }
}

fn open(vfs: &Memory) -> Database {
    let options = Options {
        memory_bytes: 12 << 10,
        cache_bytes: 64 << 10,
        threads: 0,
        segment_bytes: 4096,
        vfs: Arc::new(vfs.clone()),
        ..Options::default()
    };
    Database::open("/data", options).expect("open")
}

/// Lucene's one-byte length code, written anew: exact to 40, then four significant bits.
fn coded(length: u32) -> f64 {
    let round = |value: u32| {
        let bits = 32 - value.leading_zeros();
        if bits < 4 { value } else { (value >> (bits - 4)) << (bits - 4) }
    };
    f64::from(if length < 40 { length } else { 24 + round(length - 24) })
}

/// BM25 by the book over all documents, in f64.
fn naive(model: &BTreeMap<u8, Doc>, words: &[(usize, f64)]) -> Vec<(u8, f64)> {
    let with_text: Vec<&Doc> = model.values().filter(|doc| !doc.words.is_empty()).collect();
    let n = with_text.len() as f64;
    let average = with_text.iter().map(|doc| doc.words.len() as f64).sum::<f64>() / n.max(1.0);
    let mut scores: BTreeMap<u8, f64> = BTreeMap::new();
    for &(word, boost) in words {
        let df = with_text.iter().filter(|doc| doc.words.contains(&word)).count() as f64;
        let idf = (1.0 + (n - df + 0.5) / (df + 0.5)).ln();
        for (id, doc) in model {
            let tf = doc.words.iter().filter(|&&w| w == word).count() as f64;
            if tf > 0.0 {
                let length = coded(doc.words.len() as u32);
                *scores.entry(*id).or_default() +=
                    boost * idf * tf / (tf + 1.2 * (0.25 + 0.75 * length / average));
            }
        }
    }
    let mut scores: Vec<(u8, f64)> = scores.into_iter().collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scores
}

fn ids(snapshot: &Snapshot, query: &str) -> Vec<String> {
    let request = SearchRequest { collection: "c", query, offset: 0, limit: 100, cancelled: None };
    let found = snapshot.search(&request).expect(query);
    assert_eq!(found.total as usize, found.hits.len(), "{query}");
    let mut ids: Vec<String> = found.hits.into_iter().map(|hit| hit.id).collect();
    ids.sort();
    ids
}

fn expected(model: &BTreeMap<u8, Doc>, matches: impl Fn(&Doc) -> bool) -> Vec<String> {
    model.iter().filter(|(_, doc)| matches(doc)).map(|(id, _)| format!("id{id:02}")).collect()
}

fn check(snapshot: &Snapshot, model: &BTreeMap<u8, Doc>, words: &[usize], tag: usize, n: i64) {
    for id in 0..40u8 {
        let got = snapshot.get("c", &format!("id{id:02}")).expect("get");
        assert_eq!(got.map(|d| String::from_utf8(d.source).expect("UTF-8")), model.get(&id).map(source));
    }
    assert_eq!(ids(snapshot, "*"), expected(model, |_| true), "everything");
    assert_eq!(snapshot.count("c").expect("count"), model.len() as u64);
    let mut distinct = words.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let weighed: Vec<(usize, f64)> = distinct.iter().map(|&word| (word, 1.0 + (word % 3) as f64)).collect();
    let names: Vec<String> =
        weighed.iter().map(|&(word, boost)| format!("{}^{boost}", WORDS[word])).collect();
    let scored = naive(model, &weighed);
    let request = SearchRequest {
        collection: "c",
        query: &format!("body:({})", names.join(" ")),
        offset: 0,
        limit: 7,
        cancelled: None,
    };
    let found = snapshot.search(&request).expect("search");
    assert_eq!(found.total as usize, scored.len(), "total of {names:?}");
    assert_eq!(found.hits.len(), scored.len().min(7));
    for (hit, (_, score)) in found.hits.iter().zip(&scored) {
        assert!(
            (f64::from(hit.score) - score).abs() < 1e-4,
            "score {} where {score} was expected",
            hit.score
        );
        let own = scored.iter().find(|(id, _)| format!("id{id:02}") == hit.id).expect("a matching document");
        assert!((f64::from(hit.score) - own.1).abs() < 1e-4, "{} has another document's score", hit.id);
    }
    let all = distinct.iter().map(|&word| format!("+body:{}", WORDS[word])).collect::<Vec<_>>().join(" ");
    assert_eq!(
        ids(snapshot, &all),
        expected(model, |doc| distinct.iter().all(|w| doc.words.contains(w))),
        "{all}"
    );
    let phrase = words.iter().map(|&word| WORDS[word]).collect::<Vec<_>>().join(" ");
    let with_phrase = expected(model, |doc| doc.words.windows(words.len()).any(|window| window == words));
    assert_eq!(ids(snapshot, &format!("body:\"{phrase}\"")), with_phrase, "phrase {phrase:?}");
    let (first, second) = (words[0], words[words.len() - 1]);
    let near = |at: usize, doc: &Doc| {
        doc.words[at] == first && doc.words[at + 1..].iter().take(2).any(|&w| w == second)
    };
    let close = expected(model, |doc| (0..doc.words.len()).any(|at| near(at, doc)));
    let sloppy = format!("body:\"{} {}\"~1", WORDS[first], WORDS[second]);
    if first != second {
        assert_eq!(ids(snapshot, &sloppy), close, "{sloppy}");
    }
    let tagged = expected(model, |doc| doc.tags.contains(&tag));
    assert_eq!(ids(snapshot, &format!("tag:t{tag}")), tagged, "tag");
    let low = n.min(3);
    let range = expected(model, |doc| doc.n >= low && doc.n < 5);
    assert_eq!(ids(snapshot, &format!("n:[{low} TO 5}}")), range, "range from {low}");
    let (from, to) = (price_text(low as i32), price_text(3));
    let cheap = expected(model, |doc| doc.prices.iter().any(|&price| price > low as i32 && price <= 3));
    assert_eq!(ids(snapshot, &format!("price:{{{from} TO {to}]")), cheap, "price from {from}");
    let day = low.unsigned_abs() as u8;
    let late = expected(model, |doc| doc.day.is_some_and(|own| own >= day));
    let since = if day == 0 { "2019-12-31T00:00:00Z".into() } else { day_text(day) };
    assert_eq!(ids(snapshot, &format!("day:[\"{since}\" TO *]")), late, "since {since}");
    assert_eq!(ids(snapshot, "sold:true"), expected(model, |doc| doc.sold == Some(true)), "sold");
    let one_of = expected(model, |doc| [n, n + 1].contains(&doc.n));
    assert_eq!(ids(snapshot, &format!("n: IN [{n} {}]", n + 1)), one_of, "n");
    // From some id on, and not to the end.
    let (start, rows_max) = (day % 40, 1 + tag * 7);
    let mut rows = Vec::new();
    let row = |document: lumen::Document| {
        rows.push((document.id, String::from_utf8(document.source).expect("UTF-8")));
        rows.len() < rows_max
    };
    snapshot.scan("c", &format!("id{start:02}"), &mut { row }).expect("scan");
    let range = model.range(start..).take(rows_max);
    let wanted: Vec<_> = range.map(|(id, doc)| (format!("id{id:02}"), source(doc))).collect();
    assert_eq!(rows, wanted, "scan from {start}");
    let word = WORDS[words[0]];
    let without = expected(model, |doc| doc.tags.contains(&tag) && !doc.words.contains(&words[0]));
    assert_eq!(ids(snapshot, &format!("+tag:t{tag} -body:{word}")), without, "without {word}");
    let prefix = expected(model, |doc| doc.words.iter().any(|&w| WORDS[w].starts_with(&word[..1])));
    assert_eq!(ids(snapshot, &format!("body:{}*", &word[..1])), prefix, "prefix of {word}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    #[test]
    fn answers_like_a_map_and_a_naive_scorer(steps in steps()) {
        let vfs = Memory::new();
        let mut db = open(&vfs);
        let mapping = br#"{"fields":{"body":{"type":"text"},"tag":{"type":"keyword"},"n":{"type":"i64"},
            "price":{"type":"f64"},"day":{"type":"date"},"sold":{"type":"bool"}}}"#;
        let mapping = Mapping::from_json(mapping).expect("good");
        db.write(Write::CreateCollection { name: "c".into(), mapping }).expect("create");
        let mut model: BTreeMap<u8, Doc> = BTreeMap::new();
        let mut kept: Vec<(Snapshot, BTreeMap<u8, Doc>)> = Vec::new();
        for step in &steps {
            match step {
                Step::Put(id, doc) => {
                    db.write(put(*id, doc)).expect("put");
                    model.insert(*id, doc.clone());
                }
                Step::Import(docs) => {
                    let writes = docs.iter().map(|(id, doc)| put(*id, doc)).collect();
                    db.write(Write::Batch(writes)).expect("import");
                    model.extend(docs.iter().cloned());
                }
                Step::Delete(id) => {
                    let id_text = format!("id{id:02}");
                    let condition = Condition::Always;
                    db.write(Write::Delete { collection: "c".into(), id: id_text, condition }).expect("delete");
                    model.remove(id);
                }
                Step::Flush => db.flush().expect("flush"),
                Step::Merge => db.merge("c").expect("merge"),
                Step::Reopen => {
                    kept.clear();
                    db.close().expect("close");
                    drop(db);
                    db = open(&vfs);
                }
                Step::Crash => {
                    kept.clear();
                    drop(db);
                    vfs.crash(Crash::DropPending, 1);
                    db = open(&vfs);
                }
                Step::Keep => kept.push((db.snapshot(), model.clone())),
                Step::Check(words, tag, n) => check(&db.snapshot(), &model, words, *tag, *n),
            }
        }
        check(&db.snapshot(), &model, &[0, 1], 1, 0);
        for (snapshot, model) in &kept {
            check(snapshot, model, &[2, 3], 2, -5);
        }
        drop(kept);
        db.close().expect("close");
        drop(db);
        let options = Options { vfs: Arc::new(vfs), ..Options::default() };
        let report = lumen::check::check_with("/data".as_ref(), options, &mut |_| {}).expect("check");
        prop_assert_eq!(report.problems, Vec::<String>::new());
    }
}
