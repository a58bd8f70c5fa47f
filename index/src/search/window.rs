//! A window's documents: a bit for each of 4096.

use crate::deletes::Bits;
use crate::search::WINDOW;

/// A window's documents.
pub(crate) type Window = [u64; 64];

pub(crate) fn has(bits: &Window, offset: u32) -> bool {
    bits[offset as usize / 64] >> (offset % 64) & 1 == 1
}

pub(crate) fn set(bits: &mut Window, offset: u32) {
    bits[offset as usize / 64] |= 1 << (offset % 64);
}

/// The first document of the window at or after `offset`.
pub(crate) fn first_from(bits: &Window, offset: u32) -> Option<u32> {
    if offset >= WINDOW {
        return None;
    }
    let word = offset as usize / 64;
    let first = bits[word] & (u64::MAX << (offset % 64));
    if first != 0 {
        return Some(word as u32 * 64 + first.trailing_zeros());
    }
    let next = (word + 1..64).find(|&word| bits[word] != 0)?;
    Some(next as u32 * 64 + bits[next].trailing_zeros())
}

pub(crate) fn offsets(bits: &Window) -> impl Iterator<Item = u32> + '_ {
    bits.iter().enumerate().flat_map(|(word, &bits)| Bits(bits).map(move |bit| word as u32 * 64 + bit))
}

pub(crate) fn keep(bits: &mut Window, mask: &Window) {
    bits.iter_mut().zip(mask).for_each(|(bits, mask)| *bits &= mask);
}

pub(crate) fn add(bits: &mut Window, more: &Window) {
    bits.iter_mut().zip(more).for_each(|(bits, more)| *bits |= more);
}

pub(crate) fn remove(bits: &mut Window, gone: &Window) {
    bits.iter_mut().zip(gone).for_each(|(bits, gone)| *bits &= !gone);
}

pub(crate) fn is_empty(bits: &Window) -> bool {
    bits.iter().all(|&bits| bits == 0)
}

pub(crate) fn count(bits: &Window) -> u32 {
    bits.iter().map(|bits| bits.count_ones()).sum()
}

/// Sets the scores of these documents to zero.
pub(crate) fn clear(scores: &mut Vec<f32>, bits: &Window) {
    scores.resize(WINDOW as usize, 0.0);
    for (scores, _) in scores.chunks_exact_mut(64).zip(bits).filter(|(_, bits)| **bits != 0) {
        scores.fill(0.0);
    }
}
