//! Posting lists of a segment: blocks of up to 128 documents with skip entries in front.
//!
//! ```text
//! single    │ doc: varint │ tf: varint │ position delta: varint × tf, when the field has positions │   a term of one document
//! list      │ skip entry × blocks (only when blocks > 1) │ block × blocks │   then, in the same section:
//! positions │ chunks of block 0 │ chunks of block 1 │ …
//! skip      │ last_doc: u32 │ block_end: u32 │ positions_end: u32 │ fact: tf u8, norm u8 │ fact: tf u8, norm u8 │
//! block     │ doc_width: u8 │ tf_width: u8 │ docs, packed │ tf - 1, packed │
//! chunk     │ width: u8 │ up to 128 position deltas, packed │
//! ```
//! Ends count from the first block and the first chunk. A block's documents are packed relative to the last document of
//! the block before. Full blocks are packed by SIMD (strictly sorted deltas); the last, partial one holds plain gaps.
//! Positions of a document start from 0 again, and a block's chunks hold the positions of its documents only.
//!
//! The two facts dominate every (tf, norm) of the block: for each posting one of them has a tf at least as large (255
//! means "or more") and a norm at most as large. So they bound scores for any BM25 parameters and any average length.

pub(crate) mod cursor;
pub(crate) mod encoder;

/// Bytes of a skip entry.
pub(crate) const SKIP_BYTES: usize = 16;

/// Two (tf, norm) pairs that together dominate a block.
pub(crate) type Facts = [(u8, u8); 2];

#[cfg(test)]
mod tests {
    use super::cursor::{ListBytes, SliceSource};
    use super::encoder::ListEncoder;
    use crate::postings::cursor::ListCursor;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn lists_come_back_whole_and_by_seeking(
            gaps in prop::collection::vec((1_u32..2000, 1_u32..6, 0_u32..300), 1..700), step in 1_u32..50_000,
        ) {
            let mut encoder = ListEncoder::default();
            let (mut doc, mut expected) = (0, Vec::new());
            for &(gap, tf, start) in &gaps {
                doc += gap;
                let positions: Vec<u32> = (0..tf).map(|i| start * 7 + i * gap).collect();
                encoder.push(doc, tf, &positions, &|doc| (doc % 40) as u8);
                expected.push((doc, tf, positions));
            }
            let mut bytes = Vec::new();
            let positions_len = encoder.finish(&|doc| (doc % 40) as u8, &mut bytes);
            let source = SliceSource { bytes: &bytes };
            let at = ListBytes {
                at: 0, len: (bytes.len() - positions_len) as u64, positions_len: positions_len as u64,
                df: gaps.len() as u32, positional: true,
            };
            let mut cursor = ListCursor::open(&source, at, doc + 1).unwrap();
            let mut back = Vec::new();
            loop {
                let docs = cursor.docs().unwrap().to_vec();
                let tfs = cursor.tfs().unwrap().to_vec();
                for i in 0..docs.len() {
                    back.push((docs[i], tfs[i], cursor.positions(i).unwrap().to_vec()));
                    if let Some(facts) = cursor.facts() {
                        prop_assert!(facts.iter().any(|f| u32::from(f.0) >= tfs[i] && u32::from(f.1) <= docs[i] % 40));
                    }
                }
                if !cursor.next().unwrap() { break; }
            }
            prop_assert_eq!(&back, &expected);
            let mut cursor = ListCursor::open(&source, at, doc + 1).unwrap();
            let mut target = 0;
            loop {
                let want = expected.iter().find(|e| e.0 >= target);
                let found = cursor.seek(target).unwrap();
                prop_assert_eq!(found, want.is_some());
                let Some(want) = want else { break };
                let docs = cursor.docs().unwrap();
                let i = docs.partition_point(|&doc| doc < target);
                prop_assert_eq!(docs[i], want.0);
                prop_assert_eq!(cursor.positions(i).unwrap(), &want.2[..]);
                target += step;
            }
        }
    }
}
