//! One document, analysed: what the parallel stage hands to the single writer.
//!
//! Terms are grouped per document first, so that a run being built sees each distinct term of a document once, and with
//! the hash that it needs to find it.

use crate::analysis;
use crate::blobs::Blobs;
use crate::digest;
use crate::error::AnalyzeError;
use crate::interner::Interner;
use crate::norm;
use crate::schema::{FieldId, Kind, Schema};
use crate::term::{field_of, sortable_f64, sortable_i64};
use std::sync::Arc;

/// Positions left free between two values of one text field, so that no phrase reaches across.
const VALUE_GAP: u32 = 100;
/// The longest keyword, as in Lucene.
const KEYWORD_MAX_BYTES: usize = 32_766;
/// The most text of one document.
const TEXT_MAX_BYTES: usize = 1 << 28;

/// A field's value; several values of one field make an array.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// To be analysed.
    Text(&'a str),
    /// One exact string.
    Keyword(&'a str),
    /// An integer.
    I64(i64),
    /// A finite float.
    F64(f64),
    /// Microseconds since 1970.
    Date(i64),
    /// True or false.
    Bool(bool),
}

/// A column value of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ColumnValue<'a> {
    Number(u64),
    Word(&'a [u8]),
}

/// A document's distinct terms with frequencies and positions, its token counts and its column values.
#[derive(Debug, Default)]
pub struct Analyzed {
    /// In order of their first occurrence.
    keys: Blobs,
    hashes: Vec<u32>,
    tfs: Vec<u32>,
    /// Of term i, those at `position_ends[i - 1]..position_ends[i]`.
    position_ends: Vec<u32>,
    positions: Vec<u32>,
    lengths: Vec<(FieldId, u32)>,
    numbers: Vec<(FieldId, u64)>,
    words: Vec<(FieldId, u32)>,
    word_bytes: Blobs,
}

/// A document on its way into the index.
#[derive(Debug, Clone)]
pub struct NewDocument {
    /// Its number: above all earlier ones.
    pub uid: u64,
    /// The caller's name for it; ties in score are broken by it.
    pub key: Box<[u8]>,
    /// What was found in it.
    pub document: Arc<Analyzed>,
}

impl Analyzed {
    /// Analyses the values of one document.
    pub fn new(schema: &Schema, values: &[(FieldId, Value<'_>)]) -> Result<Analyzed, AnalyzeError> {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by_key(|&at| values[at].0);
        let mut grouper = Grouper::new();
        let mut out = Analyzed::default();
        let mut words: Vec<(FieldId, &str)> = Vec::new();
        let mut text_bytes = 0;
        let mut at = 0;
        while at < order.len() {
            let id = values[order[at]].0;
            let field = schema.field(id).ok_or(AnalyzeError::UnknownField { field: id.0 })?;
            let (mut length, mut base) = (0_u32, 0_u32);
            while at < order.len() && values[order[at]].0 == id {
                let value = values[order[at]].1;
                at += 1;
                let number = match (field.kind, value) {
                    (Kind::Text(analyzer), Value::Text(text)) => {
                        text_bytes += text.len();
                        if text_bytes > TEXT_MAX_BYTES {
                            return Err(AnalyzeError::TooLarge { max: TEXT_MAX_BYTES });
                        }
                        if field.indexed {
                            let taken = analysis::tokens(analyzer, text, &mut |token, position| {
                                grouper.add(id, token, base.saturating_add(position));
                                length += 1;
                            });
                            base = base.saturating_add(taken).saturating_add(VALUE_GAP);
                        }
                        continue;
                    }
                    (Kind::Keyword, Value::Keyword(word)) => {
                        if word.len() > KEYWORD_MAX_BYTES {
                            let field = field.name.clone();
                            return Err(AnalyzeError::KeywordTooLong {
                                field,
                                bytes: word.len(),
                                max: KEYWORD_MAX_BYTES,
                            });
                        }
                        text_bytes += word.len();
                        if text_bytes > TEXT_MAX_BYTES {
                            return Err(AnalyzeError::TooLarge { max: TEXT_MAX_BYTES });
                        }
                        if field.indexed {
                            grouper.add(id, word.as_bytes(), 0);
                            length += 1;
                        }
                        if field.fast {
                            words.push((id, word));
                        }
                        continue;
                    }
                    (Kind::I64, Value::I64(value)) | (Kind::Date, Value::Date(value)) => sortable_i64(value),
                    (Kind::F64, Value::F64(value)) if !value.is_finite() => {
                        return Err(AnalyzeError::NotFinite { field: field.name.clone() });
                    }
                    (Kind::F64, Value::F64(value)) => sortable_f64(value),
                    (Kind::Bool, Value::Bool(value)) => u64::from(value),
                    _ => return Err(AnalyzeError::WrongKind { field: field.name.clone() }),
                };
                if field.indexed {
                    grouper.add(id, &number.to_be_bytes(), 0);
                }
                if field.fast {
                    out.numbers.push((id, number));
                }
            }
            if length > 0 {
                out.lengths.push((id, length));
            }
        }
        out.numbers.sort_unstable();
        out.numbers.dedup();
        words.sort_unstable();
        words.dedup();
        for (id, word) in words {
            out.words.push((id, out.word_bytes.len() as u32));
            out.word_bytes.push(word.as_bytes());
        }
        grouper.finish(schema, &mut out);
        Ok(out)
    }

    /// Token counts of the indexed text and keyword fields that have tokens.
    pub fn lengths(&self) -> &[(FieldId, u32)] {
        &self.lengths
    }

    /// Heap bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.keys.memory_bytes()
            + self.word_bytes.memory_bytes()
            + (self.hashes.capacity()
                + self.tfs.capacity()
                + self.position_ends.capacity()
                + self.positions.capacity())
                * 4
            + (self.lengths.capacity() + self.words.capacity()) * 8
            + self.numbers.capacity() * 16
            + size_of::<Analyzed>()
    }

    /// A sum over everything findable in the document under this uid; a view's digest is the sum over its documents.
    pub fn digest(&self, uid: u64) -> u128 {
        let mut sum = 0_u128;
        for term in 0..self.keys.len() {
            let (tf, positions) = (self.tfs[term], self.positions(term));
            sum = sum.wrapping_add(digest::posting(uid, self.keys.get(term), tf, positions));
        }
        for &(field, length) in &self.lengths {
            sum = sum.wrapping_add(digest::length(uid, field, norm::encode(length)));
        }
        for (field, value) in self.column_values() {
            sum = sum.wrapping_add(digest::value(uid, field, value));
        }
        sum
    }

    pub(crate) fn keys(&self) -> &Blobs {
        &self.keys
    }

    /// Of each key.
    pub(crate) fn hashes(&self) -> &[u32] {
        &self.hashes
    }

    pub(crate) fn tf(&self, term: usize) -> u32 {
        self.tfs[term]
    }

    pub(crate) fn positions(&self, term: usize) -> &[u32] {
        let start = if term == 0 { 0 } else { self.position_ends[term - 1] };
        &self.positions[start as usize..self.position_ends[term] as usize]
    }

    /// By field, ascending and distinct within a field.
    pub(crate) fn column_values(&self) -> impl Iterator<Item = (FieldId, ColumnValue<'_>)> {
        let numbers = self.numbers.iter().map(|&(field, number)| (field, ColumnValue::Number(number)));
        let words = self.words.iter();
        numbers.chain(words.map(|&(field, at)| (field, ColumnValue::Word(self.word_bytes.get(at as usize)))))
    }
}

/// Finds the distinct terms of a document.
struct Grouper {
    terms: Interner,
    counts: Vec<u32>,
    tokens: Vec<(u32, u32)>,
    key: Vec<u8>,
}

impl Grouper {
    fn new() -> Grouper {
        Grouper {
            terms: Interner::with_capacity(128, 1024),
            counts: Vec::with_capacity(128),
            tokens: Vec::with_capacity(256),
            key: Vec::with_capacity(64),
        }
    }

    #[inline]
    fn add(&mut self, field: FieldId, token: &[u8], position: u32) {
        self.key.clear();
        self.key.extend_from_slice(&field.0.to_be_bytes());
        self.key.extend_from_slice(token);
        let term = self.terms.number(digest::short(&self.key), &self.key);
        if term == self.counts.len() {
            self.counts.push(0);
        }
        self.counts[term] += 1;
        self.tokens.push((term as u32, position));
    }

    fn finish(self, schema: &Schema, out: &mut Analyzed) {
        // Where the positions of each term go; `u32::MAX` when the field keeps none.
        let mut places = vec![u32::MAX; self.counts.len()];
        let mut next = 0;
        out.position_ends = Vec::with_capacity(self.counts.len());
        for ((key, &tf), place) in self.terms.keys.iter().zip(&self.counts).zip(&mut places) {
            if field_of(key).is_some_and(|field| schema.has_positions(field)) {
                *place = next;
                next += tf;
            }
            out.position_ends.push(next);
        }
        out.positions = vec![0; next as usize];
        for (term, position) in self.tokens {
            let place = &mut places[term as usize];
            if *place != u32::MAX {
                out.positions[*place as usize] = position;
                *place += 1;
            }
        }
        out.keys = self.terms.keys;
        out.hashes = self.terms.hashes;
        out.tfs = self.counts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Analyzer, Field};

    fn schema() -> Schema {
        let field = |name: &str, kind, fast| Field { name: name.into(), kind, indexed: true, fast };
        Schema::new(vec![
            field("body", Kind::Text(Analyzer::Simple), false),
            field("tag", Kind::Keyword, true),
        ])
        .unwrap()
    }

    #[test]
    fn terms_are_grouped_and_array_values_stand_apart() {
        let values = [
            (FieldId(0), Value::Text("b a b")),
            (FieldId(1), Value::Keyword("x")),
            (FieldId(0), Value::Text("a")),
            (FieldId(1), Value::Keyword("x")),
        ];
        let document = Analyzed::new(&schema(), &values).unwrap();
        let terms: Vec<_> =
            (0..3).map(|i| (document.keys.get(i), document.tf(i), document.positions(i))).collect();
        assert_eq!(
            terms,
            [
                (&b"\0\0b"[..], 2, &[0, 2][..]),
                (&b"\0\0a"[..], 2, &[1, 103][..]),
                (&b"\0\x01x"[..], 2, &[][..]),
            ]
        );
        assert_eq!(document.lengths(), [(FieldId(0), 4), (FieldId(1), 2)]);
        assert_eq!(document.column_values().count(), 1);
    }

    #[test]
    fn long_keywords_and_wrong_kinds_name_the_field() {
        let long = "x".repeat(KEYWORD_MAX_BYTES + 1);
        let error = Analyzed::new(&schema(), &[(FieldId(1), Value::Keyword(&long))]).unwrap_err();
        assert!(matches!(error, AnalyzeError::KeywordTooLong { field, bytes: 32_767, .. } if field == "tag"));
        let error = Analyzed::new(&schema(), &[(FieldId(0), Value::I64(1))]).unwrap_err();
        assert_eq!(error, AnalyzeError::WrongKind { field: "body".into() });
    }
}
