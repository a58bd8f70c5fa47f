//! Random puts, replacements, deletes, searches, flushes, merges and restarts against a `BTreeMap` and a naive scorer that
//! shares no code with the index.

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
    tag: usize,
    n: i64,
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
    (proptest::collection::vec(0..WORDS.len(), 0..14), 0..4usize, -20..20i64)
        .prop_map(|(words, tag, n)| Doc { words, tag, n })
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
    format!(r#"{{"body":"{}","tag":"t{}","n":{}}}"#, body.join(" "), doc.tag, doc.n)
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
fn naive(model: &BTreeMap<u8, Doc>, words: &[usize]) -> Vec<(u8, f64)> {
    let with_text: Vec<&Doc> = model.values().filter(|doc| !doc.words.is_empty()).collect();
    let n = with_text.len() as f64;
    let average = with_text.iter().map(|doc| doc.words.len() as f64).sum::<f64>() / n.max(1.0);
    let mut scores: BTreeMap<u8, f64> = BTreeMap::new();
    for &word in words {
        let df = with_text.iter().filter(|doc| doc.words.contains(&word)).count() as f64;
        let idf = (1.0 + (n - df + 0.5) / (df + 0.5)).ln();
        for (id, doc) in model {
            let tf = doc.words.iter().filter(|&&w| w == word).count() as f64;
            if tf > 0.0 {
                let length = coded(doc.words.len() as u32);
                *scores.entry(*id).or_default() += idf * tf / (tf + 1.2 * (0.25 + 0.75 * length / average));
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
    let names: Vec<&str> = distinct.iter().map(|&word| WORDS[word]).collect();
    let scored = naive(model, &distinct);
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
    assert_eq!(ids(snapshot, &format!("tag:t{tag}")), expected(model, |doc| doc.tag == tag), "tag");
    let low = n.min(3);
    let range = expected(model, |doc| doc.n >= low && doc.n < 5);
    assert_eq!(ids(snapshot, &format!("n:[{low} TO 5}}")), range, "range from {low}");
    let word = WORDS[words[0]];
    let without = expected(model, |doc| doc.tag == tag && !doc.words.contains(&words[0]));
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
        let mapping = br#"{"fields":{"body":{"type":"text"},"tag":{"type":"keyword"},"n":{"type":"i64"}}}"#;
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
