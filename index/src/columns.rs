//! A column in memory: the values of one field, by document.

use crate::blobs::Blobs;

/// Documents per zone and per window of a search.
pub(crate) const ZONE: u32 = 4096;

/// Values in document order; a document without value has none, one with an array has several.
#[derive(Debug, Clone, Default)]
pub(crate) struct Column {
    pub(crate) docs: Vec<u32>,
    /// Sortable numbers, or for keywords the ordinal in `words`.
    pub(crate) values: Vec<u64>,
    /// The distinct keywords, sorted.
    pub(crate) words: Blobs,
}

impl Column {
    /// The values of documents `base..base + ZONE`.
    pub(crate) fn zone(&self, base: u32) -> (&[u32], &[u64]) {
        let start = self.docs.partition_point(|&doc| doc < base);
        let end = start + self.docs[start..].partition_point(|&doc| doc < base.saturating_add(ZONE));
        (&self.docs[start..end], &self.values[start..end])
    }

    /// A keyword column from words in document order.
    pub(crate) fn of_words<'a>(pairs: &[(u32, &'a [u8])]) -> Column {
        let mut sorted: Vec<&'a [u8]> = pairs.iter().map(|pair| pair.1).collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut column = Column::default();
        for word in &sorted {
            column.words.push(word);
        }
        for &(doc, word) in pairs {
            column.docs.push(doc);
            column.values.push(sorted.binary_search(&word).expect("every word was collected") as u64);
        }
        column
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.docs.capacity() * 4 + self.values.capacity() * 8 + self.words.memory_bytes()
    }
}
