//! The best hits so far. Takes memory by hits found, not by hits asked for.

use crate::error::Error;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A candidate for the answer.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) score: f32,
    pub(crate) key: Box<[u8]>,
    pub(crate) uid: u64,
}

// The greatest is the worst: lowest score, then highest key.
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        other.score.total_cmp(&self.score).then_with(|| self.key.cmp(&other.key))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

/// The `count` best.
pub(crate) struct TopK {
    count: usize,
    heap: BinaryHeap<Entry>,
}

impl TopK {
    pub(crate) fn new(count: usize) -> TopK {
        TopK { count, heap: BinaryHeap::new() }
    }

    /// Scores below this cannot get in any more.
    #[inline]
    pub(crate) fn threshold(&self) -> f32 {
        if self.count == 0 {
            return f32::INFINITY;
        }
        if self.heap.len() < self.count {
            return f32::NEG_INFINITY;
        }
        self.heap.peek().map_or(f32::NEG_INFINITY, |worst| worst.score)
    }

    /// Takes a hit whose score is not below the threshold, if its key lets it in.
    pub(crate) fn offer(
        &mut self,
        score: f32,
        key: &[u8],
        uid: impl FnOnce() -> Result<u64, Error>,
    ) -> Result<(), Error> {
        if self.count == 0 {
            return Ok(());
        }
        if self.heap.len() < self.count {
            self.heap.push(Entry { score, key: key.into(), uid: uid()? });
            return Ok(());
        }
        let Some(mut worst) = self.heap.peek_mut() else { return Ok(()) };
        if worst.score.total_cmp(&score).then_with(|| key.cmp(&worst.key)).is_lt() {
            *worst = Entry { score, key: key.into(), uid: uid()? };
        }
        Ok(())
    }

    /// Best first.
    pub(crate) fn into_sorted(self) -> Vec<Entry> {
        self.heap.into_sorted_vec()
    }
}
