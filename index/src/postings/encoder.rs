//! Writes one posting list; see the drawing in `postings/mod.rs`.

use crate::coding::{BLOCK, pack_u32, packed_len, put_varint, width_of};
use crate::norm;
use crate::postings::{Facts, SKIP_BYTES};
use bitpacking::{BitPacker, BitPacker4x};

/// Gathers the postings of one term, block by block. Reused from term to term.
#[derive(Default)]
pub(crate) struct ListEncoder {
    docs: Vec<u32>,
    tfs: Vec<u32>,
    deltas: Vec<u32>,
    skips: Vec<u8>,
    blocks: Vec<u8>,
    positions: Vec<u8>,
    last: Option<u32>,
    df: u32,
}

impl ListEncoder {
    pub(crate) fn df(&self) -> u32 {
        self.df
    }

    fn clear(&mut self) {
        self.docs.clear();
        self.tfs.clear();
        self.deltas.clear();
        self.skips.clear();
        self.blocks.clear();
        self.positions.clear();
        self.last = None;
        self.df = 0;
    }

    #[inline]
    pub(crate) fn push(&mut self, doc: u32, tf: u32, positions: &[u32], norm: &dyn Fn(u32) -> u8) {
        if self.docs.len() == BLOCK {
            self.block(norm);
        }
        self.docs.push(doc);
        self.tfs.push(tf);
        self.df += 1;
        let mut previous = 0;
        for &position in positions {
            self.deltas.push(position - previous);
            previous = position;
        }
    }

    /// Appends the list and its positions to `out`; answers how many bytes the positions take.
    pub(crate) fn finish(&mut self, norm: &dyn Fn(u32) -> u8, out: &mut Vec<u8>) -> usize {
        if !self.docs.is_empty() {
            self.block(norm);
        }
        if self.skips.len() > SKIP_BYTES {
            out.extend_from_slice(&self.skips);
        }
        out.extend_from_slice(&self.blocks);
        out.extend_from_slice(&self.positions);
        let positions_len = self.positions.len();
        self.clear();
        positions_len
    }

    /// Appends the only posting.
    pub(crate) fn finish_single(&mut self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(self.docs[0]));
        put_varint(out, u64::from(self.tfs[0]));
        self.deltas.iter().for_each(|&delta| put_varint(out, u64::from(delta)));
        self.clear();
    }

    fn block(&mut self, norm: &dyn Fn(u32) -> u8) {
        let packer = BitPacker4x::new();
        let full = self.docs.len() == BLOCK;
        let head = self.blocks.len();
        self.blocks.extend_from_slice(&[0, 0]);
        let doc_width = if full {
            let width = packer.num_bits_strictly_sorted(self.last, &self.docs);
            let start = self.blocks.len();
            self.blocks.resize(start + packed_len(BLOCK, width), 0);
            packer.compress_strictly_sorted(self.last, &self.docs, &mut self.blocks[start..], width);
            width
        } else {
            let mut next = self.last.map_or(0, |last| last + 1);
            let mut gaps = [0; BLOCK];
            for (gap, &doc) in gaps.iter_mut().zip(&self.docs) {
                *gap = doc - next;
                next = doc + 1;
            }
            let gaps = &gaps[..self.docs.len()];
            let width = width_of(u64::from(gaps.iter().copied().max().unwrap_or(0)));
            pack_u32(gaps, width, &mut self.blocks);
            width
        };
        let facts = facts(&self.docs, &self.tfs, norm);
        self.last = self.docs.last().copied();
        self.tfs.iter_mut().for_each(|tf| *tf -= 1);
        let tf_width = width_of(u64::from(self.tfs.iter().copied().max().unwrap_or(0)));
        pack_u32(&self.tfs, tf_width, &mut self.blocks);
        self.blocks[head] = doc_width;
        self.blocks[head + 1] = tf_width;
        for chunk in self.deltas.chunks(BLOCK) {
            let width = width_of(u64::from(chunk.iter().copied().max().unwrap_or(0)));
            self.positions.push(width);
            pack_u32(chunk, width, &mut self.positions);
        }
        self.skips.extend_from_slice(&self.last.unwrap_or(0).to_le_bytes());
        self.skips.extend_from_slice(&(self.blocks.len() as u32).to_le_bytes());
        self.skips.extend_from_slice(&(self.positions.len() as u32).to_le_bytes());
        for (tf, norm) in facts {
            self.skips.extend_from_slice(&[tf, norm]);
        }
        self.docs.clear();
        self.tfs.clear();
        self.deltas.clear();
    }
}

/// Two pairs that dominate all: the Pareto front, cut in two, each part's largest tf with its smallest norm. They hold
/// for any way to score; where the cut is, BM25 with its usual parameters decides, the block's mean length for the average.
fn facts(docs: &[u32], tfs: &[u32], norm: &dyn Fn(u32) -> u8) -> Facts {
    // The smallest norm of each tf; 255 and more share the last place.
    let mut least = [u8::MAX; 256];
    let (mut top, mut low, mut total) = (0, usize::from(u8::MAX), 0_u64);
    for (&doc, &tf) in docs.iter().zip(tfs) {
        let (place, norm) = (tf.min(255) as usize, norm(doc));
        least[place] = least[place].min(norm);
        top = top.max(place);
        low = low.min(place);
        total += u64::from(norm::decode(norm));
    }
    let mean = (total as f32 / docs.len() as f32).max(1.0);
    let worth = |tf: usize, code: u8| {
        let length = 0.25 + 0.75 * norm::decode(code) as f32 / mean;
        tf as f32 / (tf as f32 + 1.2 * length)
    };
    let all = least[low..=top].iter().copied().min().unwrap_or(0);
    let (mut best, mut bound) = ([(top as u8, all); 2], worth(top, all));
    // Above the cut: the top tf and the smallest norm there. Up to the cut: the cut's tf and the smallest norm of all.
    let mut above = u8::MAX;
    for cut in (low..top).rev() {
        above = above.min(least[cut + 1]);
        if least[cut] == u8::MAX {
            continue;
        }
        let worst = worth(top, above).max(worth(cut, all));
        if worst < bound {
            bound = worst;
            best = [(cut as u8, all), (top as u8, above)];
        }
    }
    best
}
