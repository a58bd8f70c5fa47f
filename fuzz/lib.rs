//! What the fuzz targets share: small databases and indexes to damage, and checksums put right after the damage, so that
//! the decoders behind them are reached. What the engine's targets do is in `engine/`.

pub mod engine;

use std::sync::Arc;

use lumen_engine::vfs::memory::Memory;
use lumen_index::{
    Analyzed, Analyzer, Bm25, Field, FieldId, Index, Kind, NewDocument, Request, Schema, Stats, Value, View,
};

/// A database in memory, without threads, the same each time.
pub fn database_options(vfs: &Memory) -> lumen::Options {
    lumen::Options {
        vfs: Arc::new(vfs.clone()),
        segment_bytes: 4096,
        cache_bytes: 8 << 10,
        threads: 0,
        random: || 0x5eed_5eed_5eed_5eed,
        ..lumen::Options::default()
    }
}

/// A field of every kind.
pub const MAPPING: &[u8] = br#"{"fields":{"t":{"type":"text"},"s":{"type":"text","analyzer":"simple"},"k":{"type":"keyword","fast":true},"i":{"type":"i64"},"f":{"type":"f64"},"d":{"type":"date"},"b":{"type":"bool"}}}"#;

/// A field of every kind.
pub fn schema() -> Arc<Schema> {
    let field = |name: &str, kind, fast| Field { name: name.into(), kind, indexed: true, fast };
    let fields = vec![
        field("t", Kind::Text(Analyzer::Standard), false),
        field("k", Kind::Keyword, true),
        field("i", Kind::I64, true),
        field("f", Kind::F64, true),
        field("d", Kind::Date, true),
        field("b", Kind::Bool, true),
    ];
    Arc::new(Schema::new(fields).expect("a good schema"))
}

/// An index with `docs` documents in one run.
pub fn index(schema: &Arc<Schema>, docs: u64) -> Index {
    let documents = (0..docs).map(|n| {
        let text = format!("common {} again common w{}", ["red", "green", "blue"][n as usize % 3], n % 17);
        let tag = format!("k{}", n % 4);
        let values = [
            (FieldId(0), Value::Text(&text)),
            (FieldId(1), Value::Keyword(&tag)),
            (FieldId(2), Value::I64(n as i64 - 20)),
            (FieldId(3), Value::F64(n as f64 / 3.0)),
            (FieldId(4), Value::Date(n as i64 * 1_000_000_007)),
            (FieldId(5), Value::Bool(n % 2 == 0)),
        ];
        let document = Arc::new(Analyzed::new(schema, &values).expect("good values"));
        NewDocument { uid: n * 2 + 1, key: format!("key{n}").into_bytes().into(), document }
    });
    let mut index = Index::new(schema.clone());
    index.append(documents.collect());
    index
}

/// The bytes of a segment with `docs` documents.
pub fn segment(schema: &Arc<Schema>, docs: u64) -> (Vec<u8>, Stats) {
    let job = index(schema, docs).freeze().expect("documents to write");
    let mut bytes = Vec::new();
    job.write(&mut bytes, &|| false).expect("memory takes all").expect("documents");
    (bytes, job.stats().clone())
}

/// Puts the checksums of a segment of one chunk right; `false` when its footer is nowhere.
pub fn seal_segment(bytes: &mut [u8]) -> bool {
    let Some(trailer) = bytes.len().checked_sub(24) else { return false };
    let footer = u64::from_le_bytes(bytes[trailer..trailer + 8].try_into().expect("eight bytes")) as usize;
    if footer > trailer.saturating_sub(4) || footer > 1 << 16 {
        return false;
    }
    let mut chunk = 0_u64.to_le_bytes().to_vec();
    chunk.extend_from_slice(&bytes[..footer]);
    bytes[trailer - 4..trailer].copy_from_slice(&crc32fast::hash(&chunk).to_le_bytes());
    let crc = crc32fast::hash(&bytes[footer..trailer + 16]);
    bytes[trailer + 16..trailer + 20].copy_from_slice(&crc.to_le_bytes());
    true
}

/// Asks; an error is an answer.
pub fn ask(view: &View, query: &lumen_index::Query) {
    let request = Request { query, offset: 0, limit: 20, bm25: Bm25::default(), cancelled: &|| false };
    if let Ok(found) = view.search(&request) {
        assert!(found.hits.len() as u64 <= found.total);
        assert!(found.hits.is_sorted_by(|a, b| a.score >= b.score), "{query:?}");
    }
}
