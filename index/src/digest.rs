//! Hashes: a quick one for tables, and 128 bits per posting and value that are summed up into digests.
//!
//! A digest is a sum, so that it can be computed by document and by posting list alike.

use crate::document::ColumnValue;
use crate::schema::FieldId;

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(state: u64, word: u64) -> u64 {
    let wide = u128::from(state ^ word) * u128::from(MULTIPLIER);
    (wide as u64 ^ (wide >> 64) as u64).wrapping_add(word.rotate_left(29))
}

fn bytes(mut state: u64, bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        state = mix(state, u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    mix(mix(state, u64::from_le_bytes(last)), bytes.len() as u64)
}

/// A hash for tables.
#[inline]
pub(crate) fn short(key: &[u8]) -> u32 {
    let hash = bytes(MULTIPLIER, key);
    (hash ^ hash >> 32) as u32
}

fn both(of: impl Fn(u64) -> u64) -> u128 {
    u128::from(of(0x243f_6a88_85a3_08d3)) << 64 | u128::from(of(0x1319_8a2e_0370_7344))
}

/// A term of a document.
pub(crate) fn posting(uid: u64, key: &[u8], tf: u32, positions: &[u32]) -> u128 {
    both(|seed| {
        let state = mix(mix(bytes(seed, key), uid), u64::from(tf));
        mix(positions.iter().fold(state, |state, &position| mix(state, u64::from(position))), 1)
    })
}

/// A field's length code in a document.
pub(crate) fn length(uid: u64, field: FieldId, code: u8) -> u128 {
    both(|seed| mix(mix(mix(mix(seed, 2), uid), u64::from(field.0)), u64::from(code)))
}

/// A column value of a document.
pub(crate) fn value(uid: u64, field: FieldId, value: ColumnValue<'_>) -> u128 {
    both(|seed| {
        let state = mix(mix(mix(seed, 3), uid), u64::from(field.0));
        match value {
            ColumnValue::Number(number) => mix(state, number),
            ColumnValue::Word(word) => bytes(state, word),
        }
    })
}
