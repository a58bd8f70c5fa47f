//! Decoders that are reached through a whole table otherwise, for the fuzz target `block_decode`. Not part of the API.

use std::sync::Arc;

use crate::key::Op;
use crate::table::block::{BadBlock, Block, BlockCursor};
use crate::table::builder::split_partition;
use crate::table::filter::{self, Filter};
use crate::table::footer::Handle;

/// Reads the bytes after the first as what the first says: a filter, a partition or a block.
pub fn decode(bytes: &[u8]) {
    match bytes.split_first() {
        Some((0, bytes)) => filter(bytes),
        Some((1, bytes)) => {
            if let Some((filtered, index)) = split_partition(bytes) {
                filter(filtered);
                block(index);
            }
        }
        Some((_, bytes)) => block(bytes),
        None => {}
    }
}

/// A block of data or of an index: walked both ways, and each of its keys looked for.
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
        // Heads of restarts may lie, so that a key is not found.
        let _ = cursor.seek(key);
        let _ = cursor.seek_before(key);
        if let Ok(Some((_, _, value))) = block.find(key) {
            assert!(value.end <= bytes.len());
        }
        if let Ok(Some((number, value))) = block.at_or_after(key) {
            assert!(number < block.entries());
            let _ = Handle::decode(value);
        }
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
        let _ = (entry.expiry(), entry.blob_handle(), entry.is_live(0));
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
