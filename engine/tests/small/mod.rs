//! Small stores, and rows to fill them with.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::Bound;
use std::sync::Arc;

use lumen_engine::attachment::AttachmentEdit;
use lumen_engine::vfs::memory::Memory;
use lumen_engine::{Engine, Options};

/// Of tables, blocks and memtables so small that a few hundred rows have all of them.
pub(crate) fn options(vfs: &Memory) -> Options {
    Options {
        vfs: Arc::new(vfs.clone()),
        memtable_bytes: 16 << 10,
        block_bytes: 512,
        table_bytes: 8 << 10,
        level_bytes: 16 << 10,
        segment_bytes: 16 << 10,
        cache_bytes: 64 << 10,
        blob_bytes: 500,
        threads: 0,
        ..Options::default()
    }
}

/// Row `n` as round `round` writes it; every tenth has a long value.
pub(crate) fn row(n: u32, round: u32) -> (Vec<u8>, Vec<u8>) {
    let long = if n.is_multiple_of(10) { 40 } else { 1 };
    (format!("key{n:05}").into_bytes(), format!("value {n} of round {round} ").repeat(long).into_bytes())
}

/// All rows.
pub(crate) fn rows(engine: &Engine) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    let snapshot = engine.snapshot();
    let mut scan = snapshot.scan(Bound::Unbounded, Bound::Unbounded);
    while scan.next_row().expect("scan") {
        rows.insert(scan.key().to_vec(), scan.value().to_vec());
    }
    rows
}

/// Attaches a file of this text and answers its number.
pub(crate) fn attach(engine: &Engine, text: &[u8]) -> u64 {
    let files = engine.attachments();
    let mut writer = files.create().expect("create");
    writer.write_all(text).expect("memory takes all");
    let meta = writer.finish(7, b"note".to_vec()).expect("finish");
    let number = meta.number;
    files.install(AttachmentEdit { attach: vec![meta], ..AttachmentEdit::default() }).expect("install");
    number
}
