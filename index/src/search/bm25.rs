//! BM25 as in Lucene, without the factor k1 + 1.
//!
//! score = idf · tf / (tf + k1 · (1 - b + b · dl / avgdl)),  idf = ln(1 + (N - df + 0.5) / (df + 0.5))

use crate::norm;
use crate::stats::FieldStats;

/// The parameters of BM25.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bm25 {
    /// How soon more occurrences stop to matter.
    pub k1: f32,
    /// How much length matters, 0 to 1.
    pub b: f32,
}

impl Default for Bm25 {
    fn default() -> Bm25 {
        Bm25 { k1: 1.2, b: 0.75 }
    }
}

/// The part of the denominator that depends on the length, for each length code of a field.
pub(crate) type Table = [f32; 256];

impl Bm25 {
    pub(crate) fn table(&self, stats: FieldStats) -> Table {
        let (k1, b) = (f64::from(self.k1), f64::from(self.b));
        let average = if stats.docs == 0 { 1.0 } else { stats.tokens.max(1) as f64 / stats.docs as f64 };
        let mut table = [0.0; 256];
        for (code, entry) in table.iter_mut().enumerate() {
            *entry = (k1 * (1.0 - b + b * f64::from(norm::decode(code as u8)) / average)) as f32;
        }
        table
    }
}

/// How rare a term is.
pub(crate) fn idf(docs: u64, df: u64) -> f64 {
    (1.0 + (docs.saturating_sub(df) as f64 + 0.5) / (df as f64 + 0.5)).ln()
}

/// One term's score in one document.
#[inline]
pub(crate) fn score(weight: f32, tf: f32, length: f32) -> f32 {
    weight * (tf / (tf + length))
}
