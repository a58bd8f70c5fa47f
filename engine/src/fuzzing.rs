//! Decoders that are reached through a whole table otherwise, for the fuzz target `block_decode`. Not part of the API.

use std::sync::Arc;

use crate::coding::Decoder;
use crate::key::Op;
use crate::table::block::{BadBlock, Block, BlockCursor};
use crate::table::filter::{self, Filter};

/// Reads the bytes after the first as what the first says: a block or a filter.
pub fn decode(bytes: &[u8]) {
    match bytes.split_first() {
        Some((0, bytes)) => filter(bytes),
        Some((_, bytes)) => block(bytes),
        None => {}
    }
}

/// A block: walked both ways, and each of its keys looked for. An index is a block whose values are places.
pub fn block(bytes: &[u8]) {
    let Some(block) = Block::new(bytes.to_vec()) else { return };
    let block = Arc::new(block);
    let mut cursor = BlockCursor::new(block.clone());
    let forward = walk(&mut cursor, BlockCursor::seek_first, BlockCursor::next);
    let backward = walk(&mut cursor, BlockCursor::seek_last, BlockCursor::prev);
    let Ok(entries) = forward else { return };
    if let Ok(mut backward) = backward {
        backward.reverse();
        assert_eq!(entries, backward, "a walk meets the same entries both ways");
    }
    for (key, ..) in entries.iter().take(200) {
        // Heads of restarts may lie, so a key need not be found; but what is found is on the right side of it.
        if cursor.seek(key).is_ok() {
            assert!(cursor.entry().is_none_or(|entry| entry.key >= key.as_slice()));
        }
        let _ = cursor.seek_before(key);
        let _ = (block.find(key), block.at_or_after(key));
    }
}

type Entries = Vec<(Vec<u8>, u64, Op, Vec<u8>)>;

fn walk(
    cursor: &mut BlockCursor,
    start: fn(&mut BlockCursor) -> Result<(), BadBlock>,
    step: fn(&mut BlockCursor) -> Result<(), BadBlock>,
) -> Result<Entries, BadBlock> {
    let mut entries = Entries::new();
    start(cursor)?;
    while let Some(entry) = cursor.entry() {
        let mut place = Decoder::new(entry.value);
        let _ = (place.varint(), place.length());
        entries.push((entry.key.to_vec(), entry.seq, entry.op, entry.value.to_vec()));
        step(cursor)?;
    }
    Ok(entries)
}

/// A filter: asked for a few keys.
pub fn filter(bytes: &[u8]) {
    let Some(filter) = Filter::new(bytes) else { return };
    for n in 0..64u64 {
        let hash = filter::hash(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[..n as usize % 9]);
        let _ = filter.may_contain(hash);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_input_of_the_corpus_is_decoded_or_refused() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/block_decode");
        let mut inputs = 0;
        for entry in std::fs::read_dir(corpus).expect("a corpus") {
            super::decode(&std::fs::read(entry.expect("an entry").path()).expect("an input"));
            inputs += 1;
        }
        assert!(inputs > 0);
    }
}
