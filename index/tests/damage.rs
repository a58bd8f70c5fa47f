//! A damaged segment gives the same answers or an error, never others and never a panic.

use lumen_index::{
    Analyzed, Analyzer, Bm25, Deletes, Error, Field, FieldId, Index, Kind, NewDocument, Query, Request,
    Response, Schema, Segment, Value, inspect,
};
use std::ops::Bound;
use std::sync::Arc;

fn schema() -> Arc<Schema> {
    let field = |name: &str, kind, fast| Field { name: name.into(), kind, indexed: true, fast };
    let fields = vec![
        field("body", Kind::Text(Analyzer::Simple), false),
        field("tag", Kind::Keyword, true),
        field("n", Kind::I64, true),
    ];
    Arc::new(Schema::new(fields).unwrap())
}

fn segment(schema: &Arc<Schema>, docs: u64) -> (Vec<u8>, lumen_index::Stats) {
    let mut index = Index::new(schema.clone());
    let group = (0..docs).map(|uid| {
        let body = format!(
            "common {} {} again common",
            ["red", "green", "blue"][uid as usize % 3],
            "x".repeat(uid as usize % 5)
        );
        let tag = format!("t{}", uid % 4);
        let mut values = vec![(FieldId(0), Value::Text(&body)), (FieldId(1), Value::Keyword(&tag))];
        if uid % 5 > 0 {
            values.push((FieldId(2), Value::I64(uid as i64 * 3)));
        }
        let document = Arc::new(Analyzed::new(schema, &values).unwrap());
        NewDocument { uid: uid * 2 + 1, key: format!("key{uid}").into_bytes().into(), document }
    });
    index.append(group.collect());
    let job = index.freeze().unwrap();
    let mut bytes = Vec::new();
    job.write(&mut bytes, &|| false).unwrap().unwrap();
    (bytes, job.stats().clone())
}

fn queries() -> Vec<Query> {
    let term = |term: &str| Query::Term { field: FieldId(0), term: term.into() };
    let words = |slop| Query::Phrase {
        field: FieldId(0),
        terms: vec![(0, b"common".to_vec()), (1, b"red".to_vec())],
        slop,
    };
    vec![
        Query::Bool { must: vec![term("common")], should: vec![term("blue"), term("xxx")], must_not: vec![] },
        words(0),
        words(3),
        Query::Range {
            field: FieldId(1),
            lower: Bound::Included(b"t1".to_vec()),
            upper: Bound::Excluded(b"t3".to_vec()),
        },
        Query::Exists { field: FieldId(2) },
    ]
}

type Answers = (Vec<Response>, u128);

fn answers(schema: &Arc<Schema>, bytes: Vec<u8>, stats: &lumen_index::Stats) -> Result<Answers, Error> {
    let segment = Segment::open("s".into(), Arc::new(bytes))?;
    let index = Index::open(schema.clone(), vec![(1, segment, Deletes::new())], stats.clone())?;
    let view = index.view();
    let all = queries();
    let search = |query| {
        view.search(&Request { query, offset: 0, limit: 30, bm25: Bm25::default(), cancelled: &|| false })
    };
    let responses: Result<Vec<Response>, Error> = all.iter().map(search).collect();
    Ok((responses?, view.digest()?))
}

fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Corrupt { file, .. } if file == "s")
}

#[test]
fn every_flipped_bit_is_noticed_or_harmless() {
    let schema = schema();
    let (bytes, stats) = segment(&schema, 40);
    let whole = answers(&schema, bytes.clone(), &stats).unwrap();
    assert_eq!(whole.0[0].total, 40);
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        match answers(&schema, damaged.clone(), &stats) {
            Ok(found) => assert_eq!(found, whole, "bit {bit}"),
            Err(error) => assert!(is_damage(&error), "bit {bit}: {error}"),
        }
        if bit % 7 == 0 {
            let verified = Segment::open("s".into(), Arc::new(damaged)).and_then(|segment| segment.verify());
            assert!(verified.is_err_and(|error| is_damage(&error)), "bit {bit}");
        }
    }
}

#[test]
fn every_truncation_and_extension_is_noticed() {
    let schema = schema();
    let (bytes, _) = segment(&schema, 40);
    for len in 0..bytes.len() {
        let cut = Segment::open("s".into(), Arc::new(bytes[..len].to_vec()));
        assert!(cut.is_err_and(|error| is_damage(&error)), "{len} bytes");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(Segment::open("s".into(), Arc::new(longer)).is_err());
}

#[test]
fn bytes_with_right_checksums_but_wrong_contents_do_not_panic() {
    // Checksums are recomputed after the damage, so that decoders see it.
    let schema = schema();
    let (bytes, stats) = segment(&schema, 300);
    let footer = u64::from_le_bytes(bytes[bytes.len() - 24..bytes.len() - 16].try_into().unwrap()) as usize;
    assert!(footer < 1 << 16, "one chunk");
    let crc_at = bytes.len() - 24 - 4;
    for at in 12..footer {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            let mut chunk = 0_u64.to_le_bytes().to_vec();
            chunk.extend_from_slice(&damaged[..footer]);
            damaged[crc_at..crc_at + 4].copy_from_slice(&crc32fast::hash(&chunk).to_le_bytes());
            let end = damaged.len() - 8;
            let crc = crc32fast::hash(&damaged[footer..end]);
            damaged[end..end + 4].copy_from_slice(&crc.to_le_bytes());
            let _ = answers(&schema, damaged.clone(), &stats);
            if at % 5 == 0 {
                let _ =
                    Segment::open("s".into(), Arc::new(damaged.clone())).and_then(|segment| segment.verify());
                let _ = inspect("s", Arc::new(damaged), &mut std::io::sink());
            }
        }
    }
}
