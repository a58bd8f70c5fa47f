//! Figures on newline-delimited JSON from standard input: indexing speed and query times on the field `body`.

use lumen_index::{
    Analyzed, Analyzer, Bm25, Deletes, Field, FieldId, Index, Kind, NewDocument, Product, Query, Request,
    Schema, Segment, Value,
};
use std::io::BufRead;
use std::sync::Arc;
use std::time::Instant;

const BODY: FieldId = FieldId(0);

fn term(word: &str) -> Query {
    Query::Term { field: BODY, term: word.into() }
}

fn main() {
    let limit: usize = std::env::args().nth(1).and_then(|limit| limit.parse().ok()).unwrap_or(200 << 20);
    let mut bodies = Vec::new();
    let mut bytes = 0;
    for line in std::io::stdin().lock().lines() {
        let document: serde_json::Value = serde_json::from_str(&line.expect("readable input")).expect("JSON");
        let body = document["body"].as_str().unwrap_or_default().to_owned();
        bytes += body.len();
        bodies.push(body);
        if bytes > limit {
            break;
        }
    }
    let kind = Kind::Text(Analyzer::Simple);
    let field = Field { name: "body".into(), kind, indexed: true, fast: false };
    let schema = Arc::new(Schema::new(vec![field]).expect("a schema of one field"));
    let new = |uid: usize| {
        let document = Arc::new(Analyzed::new(&schema, &[(BODY, Value::Text(&bodies[uid]))]).expect("text"));
        NewDocument { uid: uid as u64, key: format!("{uid:08}").into_bytes().into(), document }
    };

    // Bulk: groups of 1 MiB, a flush every 64 MiB.
    let mut index = Index::new(schema.clone());
    let started = Instant::now();
    let (mut group, mut group_bytes, mut unflushed, mut file) = (Vec::new(), 0, 0, 0);
    let (mut analysing, mut appending, mut flushing) = (0.0, 0.0, 0.0);
    let mut segment_bytes = 0;
    for uid in 0..bodies.len() {
        let now = Instant::now();
        group.push(new(uid));
        analysing += now.elapsed().as_secs_f64();
        group_bytes += bodies[uid].len();
        let end = uid + 1 == bodies.len();
        if group_bytes > 1 << 20 || end {
            unflushed += std::mem::take(&mut group_bytes);
            let now = Instant::now();
            index.append(std::mem::take(&mut group));
            appending += now.elapsed().as_secs_f64();
        }
        if unflushed > 64 << 20 || end {
            unflushed = 0;
            let now = Instant::now();
            let job = index.freeze().expect("documents");
            let mut out = Vec::new();
            job.write(&mut out, &|| false).expect("memory takes it").expect("documents");
            segment_bytes += out.len();
            file += 1;
            index.install_flush(
                &job,
                Some((file, Segment::open(format!("s{file}"), Arc::new(out)).expect("whole"))),
            );
            flushing += now.elapsed().as_secs_f64();
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let mib = bytes as f64 / 1e6;
    println!("{} documents, {mib:.0} MB in {seconds:.2} s: {:.1} MB/s", bodies.len(), mib / seconds);
    println!(
        "analyse {analysing:.2} s, append {appending:.2} s, flush {flushing:.2} s, segments {segment_bytes} bytes"
    );

    // One document per append.
    let mut single = Index::new(schema.clone());
    let some: Vec<NewDocument> = (0..bodies.len().min(20_000)).map(new).collect();
    let (count, started) = (some.len(), Instant::now());
    for document in some {
        single.append(vec![document]);
    }
    println!(
        "one by one: {:.1} us each, {:?}",
        started.elapsed().as_secs_f64() * 1e6 / count as f64,
        single.view().shape()
    );

    let started = Instant::now();
    let job = index.merge_all();
    if let Some(job) = job {
        let mut out = Vec::new();
        job.write(&mut out, &|| false).expect("memory takes it");
        println!("merge into one: {:.2} s, {} bytes", started.elapsed().as_secs_f64(), out.len());
        let segment = Segment::open("all".into(), Arc::new(out)).expect("whole");
        index.install_merge(&job, Product::Segment(Some((99, segment))));
    }
    let _ = Deletes::new();
    let view = index.view();
    let all = |must: &[&str], should: &[&str]| Query::Bool {
        must: must.iter().map(|word| term(word)).collect(),
        should: should.iter().map(|word| term(word)).collect(),
        must_not: vec![],
    };
    let phrase = |words: &[&str]| Query::Phrase {
        field: BODY,
        terms: words.iter().enumerate().map(|(at, word)| (at as u32, word.as_bytes().to_vec())).collect(),
        slop: 0,
    };
    let queries = [
        ("the", term("the")),
        ("history", term("history")),
        ("photosynthesis", term("photosynthesis")),
        ("+the +history", all(&["the", "history"], &[])),
        ("+united +states +army", all(&["united", "states", "army"], &[])),
        ("+solar +eclipse", all(&["solar", "eclipse"], &[])),
        ("the history", all(&[], &["the", "history"])),
        ("united states army", all(&[], &["united", "states", "army"])),
        ("solar eclipse", all(&[], &["solar", "eclipse"])),
        ("to be or not to be", all(&[], &["to", "be", "or", "not"])),
        ("\"united states\"", phrase(&["united", "states"])),
        ("\"of the\"", phrase(&["of", "the"])),
        ("\"the united states of america\"", phrase(&["the", "united", "states", "of", "america"])),
        ("photo*", Query::Prefix { field: BODY, prefix: b"photo".to_vec() }),
    ];
    let only = std::env::args().nth(2);
    for (name, query) in queries.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        let mut best = f64::INFINITY;
        let mut total = 0;
        for _ in 0..if only.is_some() { 3000 } else { 10 } {
            let now = Instant::now();
            let request =
                Request { query, offset: 0, limit: 10, bm25: Bm25::default(), cancelled: &|| false };
            total = view.search(&request).expect("whole segments").total;
            best = best.min(now.elapsed().as_secs_f64() * 1e6);
        }
        println!("{best:9.1} us  {total:7} hits  {name}");
    }
}
