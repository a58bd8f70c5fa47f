//! A segment with wrong contents under right checksums: searched, walked, verified and shown, it answers or reports.
#![no_main]

use std::cell::OnceCell;
use std::sync::Arc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use lumen_index::{Deletes, Index, Schema, Segment, Stats, inspect, parse};

#[derive(Debug, Arbitrary)]
struct Input {
    documents: u8,
    /// Place and new byte.
    bytes: Vec<(u16, u8)>,
    /// Parts copied over other parts.
    copies: Vec<(u16, u16, u8)>,
    /// Bytes to take for the whole file.
    replaced: Option<Vec<u8>>,
    query: String,
}

thread_local! {
    static SEGMENTS: OnceCell<(Arc<Schema>, Vec<(Vec<u8>, Stats)>)> = const { OnceCell::new() };
}

const QUERIES: [&str; 9] = [
    "common blue w3",
    "+common +red -w5",
    "\"common red\"~2",
    "w*",
    "k:[k1 TO k3}",
    "i:[-5 TO 30]",
    "d:>=1970-01-01 OR b:true",
    "f:* -k:k2",
    "*",
];

/// The `fst` crate panics on senseless bytes, and the dictionary turns that into an error; libfuzzer's hook would abort
/// before it can. Panics that nobody catches still end the run.
fn let_the_dictionary_catch() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.location().is_some_and(|location| location.file().contains("/fst-")) {
            abort(info);
        }
    }));
}

fuzz_target!(init: let_the_dictionary_catch(), |input: Input| {
    SEGMENTS.with(|segments| {
        let (schema, segments) = segments.get_or_init(|| {
            let schema = lumen_fuzz::schema();
            let segments = [3, 40, 300].map(|docs| lumen_fuzz::segment(&schema, docs)).to_vec();
            (schema, segments)
        });
        let (whole, stats) = &segments[usize::from(input.documents) % segments.len()];
        let mut bytes = input.replaced.unwrap_or_else(|| whole.clone());
        let len = bytes.len();
        if len == 0 {
            return;
        }
        for (at, byte) in input.bytes.iter().take(16) {
            bytes[usize::from(*at) % len] = *byte;
        }
        for (from, to, count) in input.copies.iter().take(4) {
            let count = usize::from(*count).min(len);
            let (from, to) = (usize::from(*from) % (len - count + 1), usize::from(*to) % (len - count + 1));
            bytes.copy_within(from..from + count, to);
        }
        lumen_fuzz::seal_segment(&mut bytes);
        let bytes: Arc<Vec<u8>> = Arc::new(bytes);
        let _ = inspect("s", bytes.clone(), &mut std::io::sink());
        let Ok(segment) = Segment::open("s".into(), bytes.clone()) else { return };
        let _ = segment.verify();
        let Ok(index) = Index::open(schema.clone(), vec![(1, segment, Deletes::new())], stats.clone()) else {
            return;
        };
        let view = index.view();
        for text in QUERIES.into_iter().chain([input.query.as_str()]) {
            if let Ok(query) = parse(text, schema) {
                lumen_fuzz::ask(&view, &query);
            }
        }
        let _ = view.digest();
        let _ = view.for_each(&mut |_, _, _| {});
    });
});
