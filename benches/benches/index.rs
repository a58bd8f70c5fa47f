//! The index alone, in memory and without files: analysing, appending, flushing, merging, and each kind of query.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lumen_benches::{Random, prose, word};
use lumen_index::{
    Analyzed, Analyzer, Bm25, Deletes, Field, FieldId, Index, Kind, NewDocument, Product, Query, Request,
    Schema, Segment, Stats, Value, View, parse,
};

/// Documents that are searched.
const DOCUMENTS: u64 = 20_000;
/// Documents that are inverted, flushed and merged.
const PART: u64 = 4_000;
/// Words of a document.
const WORDS: usize = 100;

fn schema() -> Arc<Schema> {
    let text =
        Field { name: "body".into(), kind: Kind::Text(Analyzer::Standard), indexed: true, fast: false };
    let number = Field { name: "n".into(), kind: Kind::I64, indexed: true, fast: true };
    Arc::new(Schema::new(vec![text, number]).expect("a good schema"))
}

fn analysed(schema: &Schema, text: &str, n: u64) -> Arc<Analyzed> {
    let values = [(FieldId(0), Value::Text(text)), (FieldId(1), Value::I64((n % 1000) as i64))];
    Arc::new(Analyzed::new(schema, &values).expect("good values"))
}

fn documents(schema: &Schema, from: u64, count: u64) -> Vec<NewDocument> {
    let mut random = Random::new(from + 1);
    let document = |uid: u64| NewDocument {
        uid,
        key: format!("{uid:010}").into_bytes().into(),
        document: analysed(schema, &prose(&mut random, WORDS), uid),
    };
    (from..from + count).map(document).collect()
}

fn segment(schema: &Arc<Schema>, documents: &[NewDocument]) -> (Segment, Stats) {
    let mut index = Index::new(schema.clone());
    documents.chunks(500).for_each(|group| index.append(group.to_vec()));
    let job = index.freeze().expect("documents to write");
    let mut bytes = Vec::new();
    job.write(&mut bytes, &|| false).expect("memory takes all").expect("documents");
    (Segment::open("s".into(), Arc::new(bytes)).expect("just written"), job.stats().clone())
}

fn indexing(c: &mut Criterion) {
    let schema = schema();
    let text = prose(&mut Random::new(2), WORDS);
    let mut group = c.benchmark_group("index");
    group.sample_size(20).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("analyse a document of 100 words", |b| b.iter(|| analysed(&schema, &text, 7)));

    let all = documents(&schema, 0, PART);
    for (name, size) in [("one by one", 1), ("in groups of 16", 16), ("in groups of 500", 500)] {
        group.throughput(Throughput::Elements(PART));
        group.bench_function(
            format!("append 4,000 analysed documents {name}, with a view after each"),
            |b| {
                let groups = || all.chunks(size).map(<[NewDocument]>::to_vec).collect::<Vec<_>>();
                b.iter_batched(
                    groups,
                    |groups| {
                        let mut index = Index::new(schema.clone());
                        for group in groups {
                            index.append(group);
                            black_box(index.view());
                        }
                        index
                    },
                    BatchSize::LargeInput,
                );
            },
        );
    }

    group.bench_function("flush 4,000 documents to a segment", |b| {
        let frozen = || {
            let mut index = Index::new(schema.clone());
            all.chunks(500).for_each(|group| index.append(group.to_vec()));
            index.freeze().expect("documents to write")
        };
        b.iter_batched_ref(
            frozen,
            |job| {
                let mut bytes = Vec::new();
                job.write(&mut bytes, &|| false).expect("memory takes all");
                bytes
            },
            BatchSize::LargeInput,
        );
    });

    let segments = || {
        let parts = (0..4).map(|part| {
            let (segment, _) = segment(&schema, &all[part * 1000..(part + 1) * 1000]);
            (part as u64, segment, Deletes::new())
        });
        let index = Index::open(schema.clone(), parts.collect(), Stats::new(2));
        index.expect("just written").merge_all().expect("four segments")
    };
    group.bench_function("merge four segments of 1,000 documents", |b| {
        b.iter_batched_ref(
            segments,
            |job| {
                let mut bytes = Vec::new();
                job.write(&mut bytes, &|| false).expect("memory takes all");
                bytes
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn search(view: &View, query: &Query) -> u64 {
    let request = Request { query, offset: 0, limit: 10, bm25: Bm25::default(), cancelled: &|| false };
    view.search(&request).expect("undamaged").total
}

fn queries(c: &mut Criterion) {
    let schema = schema();
    let (all, stats) = segment(&schema, &documents(&schema, 0, DOCUMENTS));
    let mut index = Index::open(schema.clone(), vec![(1, all, Deletes::new())], stats).expect("just written");
    let (common, middle, rare) = (word(3), word(200), word(9_000));
    let texts = [
        ("term, common", common.clone()),
        ("term, rare", rare.clone()),
        ("and", format!("+{common} +{middle}")),
        ("or", format!("{common} {middle} {rare}")),
        ("phrase", format!("\"{common} {}\"", word(5))),
        ("prefix", "kato*".to_owned()),
        ("range", "n:[100 TO 200]".to_owned()),
        ("not", format!("{middle} -{common}")),
    ];
    let mut run = |group: &str, view: Arc<View>| {
        let mut group = c.benchmark_group(group);
        group
            .sample_size(20)
            .measurement_time(Duration::from_secs(1))
            .warm_up_time(Duration::from_millis(300));
        group.throughput(Throughput::Elements(1));
        for (name, text) in &texts {
            let query = parse(text, &schema).expect("good queries");
            assert!(search(&view, &query) > 0, "{name} finds nothing: {text}");
            group.bench_function(*name, |b| b.iter(|| search(&view, &query)));
        }
        group.finish();
    };
    run("query, top 10 and exact total, one segment of 20,000 documents", index.view());
    // The same documents once more, as runs that no flush has taken yet.
    for group in documents(&schema, DOCUMENTS, DOCUMENTS).chunks(500) {
        index.append(group.to_vec());
    }
    while let Some(job) = index.pick_merge() {
        let run = job.run_memory();
        assert!(index.install_merge(&job, Product::Run(run)), "nobody else is at it");
    }
    run("query, the same and as many in memory", index.view());
}

criterion_group!(benches, indexing, queries);
criterion_main!(benches);
