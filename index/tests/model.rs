//! The index against a naive twin: plain vectors of tokens, every query answered by looking at every document.

use lumen_index::{
    Analyzed, Analyzer, Bm25, Deletes, Field, FieldId, Hit, Index, Kind, NewDocument, Product, Query,
    Request, Schema, Segment, Value, View, sortable_i64,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

const BODY: FieldId = FieldId(0);
const TITLE: FieldId = FieldId(1);
const TAG: FieldId = FieldId(2);
const NUMBER: FieldId = FieldId(3);
const SLOW: FieldId = FieldId(4);
const LABEL: FieldId = FieldId(5);

/// A small generator of random numbers, seeded.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn word(&mut self) -> String {
        // Skewed: some words are in nearly every document.
        let (a, b) = (self.below(40), self.below(40));
        format!("w{}", a.min(b))
    }
}

#[derive(Clone)]
struct Naive {
    key: Vec<u8>,
    body: Vec<Vec<String>>,
    title: Option<Vec<String>>,
    tags: Vec<String>,
    numbers: Vec<i64>,
    slow: Option<i64>,
    labels: Vec<String>,
}

impl Naive {
    fn random(random: &mut Random, uid: u64) -> Naive {
        let text = |random: &mut Random, most: u64| {
            (0..random.below(most)).map(|_| random.word()).collect::<Vec<_>>()
        };
        let body = (0..random.below(3)).map(|_| text(random, 30)).collect();
        let title = (random.below(3) > 0).then(|| text(random, 4));
        let tags = (0..random.below(3)).map(|_| format!("t{}", random.below(6))).collect();
        let numbers = (0..random.below(3)).map(|_| random.below(50) as i64 - 25).collect();
        let slow = (random.below(2) == 0).then(|| random.below(10) as i64);
        let labels = (0..random.below(2)).map(|_| format!("l{}", random.below(20))).collect();
        Naive {
            key: format!("k{}", uid * 7919 % 100_003).into_bytes(),
            body,
            title,
            tags,
            numbers,
            slow,
            labels,
        }
    }

    fn analyzed(&self, schema: &Schema) -> Analyzed {
        let body: Vec<String> = self.body.iter().map(|words| words.join(" ")).collect();
        let title = self.title.as_ref().map(|words| words.join(", "));
        let mut values: Vec<(FieldId, Value<'_>)> = Vec::new();
        values.extend(self.numbers.iter().map(|&number| (NUMBER, Value::I64(number))));
        values.extend(body.iter().map(|text| (BODY, Value::Text(text))));
        values.extend(title.iter().map(|text| (TITLE, Value::Text(text))));
        values.extend(self.tags.iter().map(|tag| (TAG, Value::Keyword(tag))));
        values.extend(self.slow.iter().map(|&number| (SLOW, Value::I64(number))));
        values.extend(self.labels.iter().map(|label| (LABEL, Value::Keyword(label))));
        Analyzed::new(schema, &values).unwrap()
    }

    /// Tokens with positions.
    fn tokens(&self, field: FieldId) -> Vec<(i64, Vec<u8>)> {
        let mut out = Vec::new();
        let mut base = 0;
        let empty = Vec::new();
        let values: Vec<&Vec<String>> = match field {
            BODY => self.body.iter().collect(),
            TITLE => vec![self.title.as_ref().unwrap_or(&empty)],
            _ => vec![],
        };
        for words in values {
            out.extend(
                words.iter().enumerate().map(|(i, word)| (base + i as i64, word.clone().into_bytes())),
            );
            base += words.len() as i64 + 100;
        }
        if field == TAG {
            out = self.tags.iter().map(|tag| (0, tag.clone().into_bytes())).collect();
        }
        out
    }

    /// All values as term bytes.
    fn terms(&self, field: FieldId) -> Vec<Vec<u8>> {
        let number = |number: &i64| sortable_i64(*number).to_be_bytes().to_vec();
        match field {
            NUMBER => self.numbers.iter().map(number).collect(),
            SLOW => self.slow.iter().map(number).collect(),
            LABEL => self.labels.iter().map(|label| label.clone().into_bytes()).collect(),
            _ => self.tokens(field).into_iter().map(|token| token.1).collect(),
        }
    }
}

fn schema() -> Arc<Schema> {
    let field = |name: &str, kind, indexed, fast| Field { name: name.into(), kind, indexed, fast };
    let fields = vec![
        field("body", Kind::Text(Analyzer::Standard), true, false),
        field("title", Kind::Text(Analyzer::Simple), true, false),
        field("tag", Kind::Keyword, true, true),
        field("number", Kind::I64, true, true),
        field("slow", Kind::I64, true, false),
        field("label", Kind::Keyword, false, true),
    ];
    Arc::new(Schema::new(fields).unwrap())
}

type Documents = BTreeMap<u64, Naive>;

/// Lucene's one-byte length, by searching for the largest length that is kept and not above.
fn rounded(length: usize) -> f64 {
    let mut kept: Vec<usize> = (0..40).collect();
    let mut step = 2;
    let mut at = 40;
    while at < 1 << 20 {
        for _ in 0..8 {
            kept.push(at);
            at += step;
        }
        step *= 2;
    }
    *kept.iter().filter(|&&kept| kept <= length).max().unwrap() as f64
}

fn bm25(documents: &Documents, field: FieldId, terms: &[&Vec<u8>], frequency: f64, document: &Naive) -> f64 {
    if field != BODY && field != TITLE && field != TAG {
        return 1.0;
    }
    let lengths: Vec<usize> = documents.values().map(|d| d.tokens(field).len()).filter(|&l| l > 0).collect();
    let average = lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
    let idf: f64 = terms
        .iter()
        .map(|term| {
            let df = documents.values().filter(|d| d.terms(field).contains(term)).count() as f64;
            (1.0 + (lengths.len() as f64 - df + 0.5) / (df + 0.5)).ln()
        })
        .sum();
    let length = rounded(document.tokens(field).len());
    idf * frequency / (frequency + 1.2 * (0.25 + 0.75 * length / average))
}

/// How often a phrase occurs: every start, or with slop every stretch that cannot be made narrower.
fn phrase(document: &Naive, field: FieldId, terms: &[(u32, Vec<u8>)], slop: u32) -> f64 {
    let tokens = document.tokens(field);
    let lists: Vec<Vec<i64>> = terms
        .iter()
        .map(|(offset, term)| {
            tokens.iter().filter(|token| token.1 == *term).map(|token| token.0 - i64::from(*offset)).collect()
        })
        .collect();
    if lists.iter().any(Vec::is_empty) {
        return 0.0;
    }
    if slop == 0 {
        return lists[0].iter().filter(|start| lists.iter().all(|list| list.contains(start))).count() as f64;
    }
    let mut heads = vec![0; lists.len()];
    let mut sum = 0.0;
    loop {
        let at =
            |heads: &[usize]| -> Vec<i64> { heads.iter().zip(&lists).map(|(&h, list)| list[h]).collect() };
        let width = |heads: &[usize]| -> i64 {
            let places = at(heads);
            for a in 0..places.len() {
                for b in 0..a {
                    if terms[a].1 == terms[b].1
                        && places[a] + i64::from(terms[a].0) == places[b] + i64::from(terms[b].0)
                    {
                        return i64::MAX;
                    }
                }
            }
            places.iter().max().unwrap() - places.iter().min().unwrap()
        };
        let places = at(&heads);
        let lowest = (0..places.len()).min_by_key(|&i| (places[i], terms[i].0)).unwrap();
        let next = (0..places.len()).filter(|&i| i != lowest).map(|i| places[i]).min().unwrap();
        let mut best = i64::MAX;
        while heads[lowest] < lists[lowest].len() && lists[lowest][heads[lowest]] <= next.max(places[lowest])
        {
            best = best.min(width(&heads));
            heads[lowest] += 1;
        }
        if best <= i64::from(slop) {
            sum += 1.0 / (1.0 + best as f64);
        }
        if heads[lowest] == lists[lowest].len() {
            return sum;
        }
    }
}

/// The score of a document that matches.
fn answer(documents: &Documents, query: &Query, document: &Naive) -> Option<f64> {
    match query {
        Query::All => Some(1.0),
        Query::Nothing => None,
        Query::Term { field, term } => {
            let count = document.terms(*field).iter().filter(|other| *other == term).count();
            (count > 0).then(|| bm25(documents, *field, &[term], count as f64, document))
        }
        Query::Phrase { field, terms, slop } => {
            let frequency = phrase(document, *field, terms, *slop);
            let words: Vec<&Vec<u8>> = terms.iter().map(|(_, term)| term).collect();
            (frequency > 0.0).then(|| bm25(documents, *field, &words, frequency, document))
        }
        Query::Prefix { field, prefix } => {
            document.terms(*field).iter().any(|term| term.starts_with(prefix)).then_some(1.0)
        }
        Query::Range { field, lower, upper } => {
            let inside = |term: &Vec<u8>| {
                let above = match lower {
                    Bound::Unbounded => true,
                    Bound::Included(bound) => term >= bound,
                    Bound::Excluded(bound) => term > bound,
                };
                above
                    && match upper {
                        Bound::Unbounded => true,
                        Bound::Included(bound) => term <= bound,
                        Bound::Excluded(bound) => term < bound,
                    }
            };
            document.terms(*field).iter().any(inside).then_some(1.0)
        }
        Query::Exists { field } => (!document.terms(*field).is_empty()).then_some(1.0),
        Query::AnyOf { field, terms } => {
            document.terms(*field).iter().any(|term| terms.contains(term)).then_some(1.0)
        }
        Query::Boost(query, boost) => {
            answer(documents, query, document).map(|score| score * f64::from(*boost))
        }
        Query::Bool { must, should, must_not } => {
            if must_not.iter().any(|query| answer(documents, query, document).is_some()) {
                return None;
            }
            if must.is_empty() && should.is_empty() {
                return Some(1.0);
            }
            let needed: Option<Vec<f64>> =
                must.iter().map(|query| answer(documents, query, document)).collect();
            let wanted: Vec<f64> =
                should.iter().filter_map(|query| answer(documents, query, document)).collect();
            let needed = needed?;
            (!must.is_empty() || !wanted.is_empty()).then(|| needed.iter().chain(&wanted).sum())
        }
    }
}

fn random_query(random: &mut Random, depth: u32) -> Query {
    let text = |random: &mut Random| if random.below(3) == 0 { TITLE } else { BODY };
    let number = |random: &mut Random| sortable_i64(random.below(60) as i64 - 30).to_be_bytes().to_vec();
    let bound = |random: &mut Random, term: Vec<u8>| match random.below(3) {
        0 => Bound::Unbounded,
        1 => Bound::Included(term),
        _ => Bound::Excluded(term),
    };
    let kind = if depth == 0 { random.below(9) } else { random.below(14) };
    match kind {
        0..=2 => Query::Term { field: text(random), term: random.word().into_bytes() },
        3 => {
            let slop = if random.below(2) == 0 { 0 } else { random.below(5) as u32 };
            let count = 2 + random.below(2) as u32;
            let terms =
                (0..count).map(|at| (at + at * random.below(2) as u32, random.word().into_bytes())).collect();
            Query::Phrase { field: text(random), terms, slop }
        }
        4 => match random.below(3) {
            0 => Query::Term { field: TAG, term: format!("t{}", random.below(7)).into_bytes() },
            1 => Query::Term { field: NUMBER, term: number(random) },
            _ => Query::Term { field: LABEL, term: format!("l{}", random.below(22)).into_bytes() },
        },
        5 => {
            let field = [BODY, TITLE, TAG, LABEL][random.below(4) as usize];
            let start = if field == TAG {
                "t"
            } else if field == LABEL {
                "l"
            } else {
                "w"
            };
            Query::Prefix { field, prefix: format!("{start}{}", random.below(4)).into_bytes() }
        }
        6 => match random.below(3) {
            0 => {
                let field = if random.below(2) == 0 { NUMBER } else { SLOW };
                let (low, high) = (number(random), number(random));
                Query::Range { field, lower: bound(random, low), upper: bound(random, high) }
            }
            1 => {
                let (low, high) = (random.word().into_bytes(), random.word().into_bytes());
                Query::Range { field: text(random), lower: bound(random, low), upper: bound(random, high) }
            }
            _ => {
                let (low, high) = (format!("l{}", random.below(9)), format!("l1{}", random.below(9)));
                let (low, high) = (bound(random, low.into_bytes()), bound(random, high.into_bytes()));
                Query::Range { field: LABEL, lower: low, upper: high }
            }
        },
        7 => Query::Exists { field: FieldId(random.below(6) as u16) },
        8 => match random.below(3) {
            0 => Query::AnyOf { field: NUMBER, terms: (0..3).map(|_| number(random)).collect() },
            1 => {
                let terms = (0..3).map(|_| format!("l{}", random.below(20)).into_bytes()).collect();
                Query::AnyOf { field: LABEL, terms }
            }
            _ => Query::AnyOf { field: BODY, terms: (0..3).map(|_| random.word().into_bytes()).collect() },
        },
        9 => Query::Boost(Box::new(random_query(random, depth - 1)), 0.5 + random.below(4) as f32),
        10 => {
            if random.below(4) == 0 {
                Query::Nothing
            } else {
                Query::All
            }
        }
        _ => {
            let mut some = |most: u64| {
                (0..random.below(most)).map(|_| random_query(random, depth - 1)).collect::<Vec<_>>()
            };
            Query::Bool { must: some(4), should: some(4), must_not: some(2) }
        }
    }
}

fn check(view: &View, documents: &Documents, query: &Query, (offset, limit): (usize, usize)) {
    let request = Request { query, offset, limit, bm25: Bm25::default(), cancelled: &|| false };
    let response = view.search(&request).unwrap();
    let mut expected: Vec<(f64, &Vec<u8>, u64)> = documents
        .iter()
        .filter_map(|(&uid, document)| Some((answer(documents, query, document)?, &document.key, uid)))
        .collect();
    assert_eq!(response.total, expected.len() as u64, "total of {query:?}");
    expected.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    let scores: BTreeMap<u64, f64> = expected.iter().map(|e| (e.2, e.0)).collect();
    let wanted = &expected[offset.min(expected.len())..(offset + limit).min(expected.len())];
    assert_eq!(response.hits.len(), wanted.len(), "hits of {query:?}");
    let mut seen = BTreeSet::new();
    for (at, hit) in response.hits.iter().enumerate() {
        let score = *scores.get(&hit.uid).unwrap_or_else(|| panic!("{} does not match {query:?}", hit.uid));
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-5 * a.abs().max(1.0);
        assert!(near(f64::from(hit.score), score), "score {} for {score} of {query:?}", hit.score);
        assert!(near(wanted[at].0, score), "order of {query:?}: {at}");
        assert!(seen.insert(hit.uid));
        assert_eq!(&*hit.key, &documents[&hit.uid].key[..]);
    }
    for pair in response.hits.windows(2) {
        let (a, b): (&Hit, &Hit) = (&pair[0], &pair[1]);
        assert!(a.score > b.score || (a.score == b.score && a.key < b.key), "ties of {query:?}");
    }
}

struct World {
    schema: Arc<Schema>,
    index: Index,
    documents: Documents,
    next_uid: u64,
    next_file: u64,
    /// What the manifest holds: files with bytes, their deletes, statistics, documents.
    durable: Documents,
    flush: Option<(lumen_index::FlushJob, Documents)>,
    merges: Vec<lumen_index::MergeJob>,
    files: BTreeMap<u64, Vec<u8>>,
    manifest: Vec<u64>,
    stats: lumen_index::Stats,
}

impl World {
    fn new() -> World {
        let schema = schema();
        World {
            index: Index::new(schema.clone()),
            stats: lumen_index::Stats::new(schema.fields().len()),
            schema,
            documents: Documents::new(),
            next_uid: 1,
            next_file: 1,
            durable: Documents::new(),
            flush: None,
            merges: Vec::new(),
            files: BTreeMap::new(),
            manifest: Vec::new(),
        }
    }

    fn segment(&mut self, bytes: Vec<u8>) -> (u64, Segment) {
        let file = self.next_file;
        self.next_file += 1;
        let segment = Segment::open(format!("s{file}"), Arc::new(bytes.clone())).unwrap();
        segment.verify().unwrap();
        self.files.insert(file, bytes);
        (file, segment)
    }

    fn step(&mut self, random: &mut Random) {
        match random.below(20) {
            0..=9 => {
                let count = if random.below(5) == 0 { random.below(60) } else { 1 + random.below(3) };
                let mut group = Vec::new();
                for _ in 0..count {
                    let uid = self.next_uid;
                    self.next_uid += 1 + random.below(3);
                    let naive = Naive::random(random, uid);
                    let document = Arc::new(naive.analyzed(&self.schema));
                    group.push(NewDocument { uid, key: naive.key.clone().into(), document });
                    self.documents.insert(uid, naive);
                }
                self.index.append(group);
            }
            10..=13 => {
                for _ in 0..random.below(12) {
                    let uid = random.below(self.next_uid + 1);
                    let gone = self.documents.remove(&uid);
                    let lengths = gone
                        .as_ref()
                        .map_or(Vec::new(), |naive| naive.analyzed(&self.schema).lengths().to_vec());
                    assert_eq!(self.index.delete(uid, &lengths), gone.is_some(), "delete of {uid}");
                }
            }
            14 | 15 => match self.flush.take() {
                None => {
                    let held = self.documents.clone();
                    self.flush = self.index.freeze().map(|job| (job, held));
                }
                Some((job, _)) if random.below(5) == 0 => self.index.abandon_flush(&job),
                Some((job, held)) => {
                    let mut bytes = Vec::new();
                    let summary = job.write(&mut bytes, &|| false).unwrap();
                    let segment = summary.map(|_| self.segment(bytes));
                    self.manifest.extend(segment.as_ref().map(|segment| segment.0));
                    self.index.install_flush(&job, segment);
                    self.stats = job.stats().clone();
                    self.durable = held;
                }
            },
            16 => {
                let job = if random.below(4) == 0 { self.index.merge_all() } else { self.index.pick_merge() };
                self.merges.extend(job);
            }
            17 => {
                let Some(job) = self.merges.pop() else { return };
                if random.below(6) == 0 {
                    return self.index.abandon_merge(&job);
                }
                if job.is_memory() {
                    self.index.install_merge(&job, Product::Run(job.run_memory()));
                    return;
                }
                let mut bytes = Vec::new();
                let summary = job.write(&mut bytes, &|| false).unwrap();
                let segment = summary.map(|_| self.segment(bytes));
                let file = segment.as_ref().map(|segment| segment.0);
                assert!(self.index.install_merge(&job, Product::Segment(segment)));
                self.manifest.retain(|file| !job.inputs().contains(file));
                self.manifest.extend(file);
            }
            _ => {}
        }
    }

    /// What a restart would find.
    fn reopened(&self) -> Index {
        let deletes: BTreeMap<u64, Deletes> = self.index.durable_deletes().into_iter().collect();
        let segments = self.manifest.iter().map(|file| {
            let segment = Segment::open(format!("s{file}"), Arc::new(self.files[file].clone())).unwrap();
            let deletes = deletes.get(file).map_or(Deletes::new(), |deletes| {
                Deletes::decode("d", &deletes.encode(segment.docs()), segment.docs()).unwrap()
            });
            (*file, segment, deletes)
        });
        Index::open(self.schema.clone(), segments.collect(), self.stats.clone()).unwrap()
    }
}

fn digest(schema: &Schema, documents: &Documents) -> u128 {
    documents.iter().fold(0, |sum, (&uid, naive)| sum.wrapping_add(naive.analyzed(schema).digest(uid)))
}

fn play(seed: u64, steps: u32) {
    let mut random = Random(seed * 2 + 1);
    let mut world = World::new();
    let mut kept: Vec<(Arc<View>, Documents)> = Vec::new();
    for step in 0..steps {
        world.step(&mut random);
        let view = world.index.view();
        assert_eq!(view.stats().docs, world.documents.len() as u64);
        for _ in 0..3 {
            let query = random_query(&mut random, 3);
            check(&view, &world.documents, &query, (random.below(5) as usize, random.below(40) as usize));
        }
        if step % 10 == 0 {
            assert_eq!(
                view.digest().unwrap(),
                digest(&world.schema, &world.documents),
                "seed {seed} step {step}"
            );
            let reopened = world.reopened().view();
            assert_eq!(
                reopened.digest().unwrap(),
                digest(&world.schema, &world.durable),
                "seed {seed} step {step}"
            );
            let query = random_query(&mut random, 3);
            check(&reopened, &world.durable, &query, (0, 20));
            if random.below(3) == 0 {
                kept.push((view, world.documents.clone()));
            }
        }
    }
    for (view, documents) in kept {
        for _ in 0..5 {
            check(&view, &documents, &random_query(&mut random, 3), (0, 30));
        }
        assert_eq!(view.digest().unwrap(), digest(&world.schema, &documents));
    }
}

#[test]
fn random_histories_answer_as_the_naive_twin_does() {
    let seeds: u64 = std::env::var("LUMEN_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(5);
    for seed in 1..=seeds {
        println!("seed {seed}");
        play(seed, 120);
    }
}
