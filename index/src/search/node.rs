//! A query over one part, in windows of 4096 documents.
//!
//! Which documents match and what they score are two passes, each with a place of its own in the posting lists. `fill`
//! adds the node's documents of the window to `bits`; with a mask, only documents in the mask need to be right: others
//! may be missing or there by mistake. `bound` says what no document of the window scores above, from the block facts
//! alone. `score` adds the node's score to each of the wanted documents, all of which the query was seen to match; what it
//! adds to a document that cannot make up `need` is of no account, and such a document may be taken out of the wanted. So a window or a block that cannot win is counted,
//! but neither its frequencies nor its lengths are read.
//!
//! Windows are visited in ascending order; of one window, `bound` comes first, then `fill`, then `score`.

use crate::columns::ZONE;
use crate::error::Error;
use crate::part::{ColumnRef, Part};
use crate::search::WINDOW;
use crate::search::boolean::BoolNode;
use crate::search::phrase::Phrase;
use crate::search::term::TermNode;
use crate::search::window::{Window, add, keep, offsets, set};

/// No document, no window.
pub(crate) const NONE: u32 = u32::MAX;

pub(crate) enum Node<'a> {
    Empty,
    Docs(Box<DocsNode<'a>>),
    Term(Box<TermNode<'a>>),
    Phrase(Box<Phrase<'a>>),
    Bool(Box<BoolNode<'a>>),
}

/// Documents that all score the same.
pub(crate) enum Docs<'a> {
    /// Every document of a part of so many.
    Every(u32),
    /// Collected beforehand: a bit per document of the part.
    Set(Vec<u64>),
    /// Documents with a value in this range.
    Column { column: ColumnRef<'a>, range: (u64, u64) },
    /// Documents with a length in this field.
    Length { part: &'a Part, slot: usize },
}

/// Documents that all score the same, and the last window of them.
pub(crate) struct DocsNode<'a> {
    docs: Docs<'a>,
    score: f32,
    base: u32,
    bits: Window,
}

impl<'a> Node<'a> {
    pub(crate) fn docs(docs: Docs<'a>, score: f32) -> Node<'a> {
        Node::Docs(Box::new(DocsNode { docs, score, base: NONE, bits: [0; 64] }))
    }
}

impl Node<'_> {
    /// About how many documents the node has.
    pub(crate) fn cost(&self) -> u64 {
        match self {
            Node::Empty => 0,
            Node::Docs(all) => match &all.docs {
                Docs::Every(docs) => u64::from(*docs) * 4,
                Docs::Set(bits) => bits.len() as u64,
                Docs::Column { .. } | Docs::Length { .. } => u64::MAX,
            },
            Node::Term(term) => u64::from(term.df()),
            Node::Phrase(phrase) => phrase.cost(),
            Node::Bool(all) => all.cost(),
        }
    }

    /// No document between `from` and this one is in the node; `NONE` when there is none at all.
    pub(crate) fn next(&mut self, from: u32) -> Result<u32, Error> {
        match self {
            Node::Empty => Ok(NONE),
            Node::Docs(all) => Ok(all.next(from)),
            Node::Term(term) => term.next(from),
            Node::Phrase(phrase) => phrase.next(from),
            Node::Bool(all) => all.next(from),
        }
    }

    /// The window's documents; see above.
    pub(crate) fn fill(&mut self, base: u32, mask: Option<&Window>, bits: &mut Window) -> Result<(), Error> {
        match self {
            Node::Empty => Ok(()),
            Node::Docs(all) => {
                all.load(base)?;
                add(bits, &all.bits);
                Ok(())
            }
            Node::Term(term) => term.fill(base, mask, bits),
            Node::Phrase(phrase) => phrase.fill(base, mask, bits),
            Node::Bool(all) => all.fill(base, mask, bits),
        }
    }

    /// No document of the window scores more; not below zero.
    pub(crate) fn bound(&mut self, base: u32) -> Result<f32, Error> {
        match self {
            Node::Empty => Ok(0.0),
            Node::Docs(all) => Ok(all.score.max(0.0)),
            Node::Term(term) => term.bound(base),
            Node::Phrase(phrase) => phrase.bound(base),
            Node::Bool(all) => all.bound(base),
        }
    }

    /// Adds the scores of the wanted documents; see above.
    pub(crate) fn score(
        &mut self,
        base: u32,
        wanted: &mut Window,
        need: f32,
        scores: &mut [f32],
    ) -> Result<(), Error> {
        match self {
            Node::Empty => Ok(()),
            Node::Docs(all) => {
                all.load(base)?;
                let mut own = all.bits;
                keep(&mut own, wanted);
                offsets(&own).for_each(|offset| scores[offset as usize] += all.score);
                Ok(())
            }
            Node::Term(term) => term.score(base, wanted, need, scores),
            Node::Phrase(phrase) => phrase.score(base, wanted, scores),
            Node::Bool(all) => all.score(base, wanted, need, scores),
        }
    }
}

impl DocsNode<'_> {
    fn next(&self, from: u32) -> u32 {
        match &self.docs {
            Docs::Every(docs) if from < *docs => from,
            Docs::Every(_) => NONE,
            Docs::Set(bits) => {
                let word = from as usize / 64;
                match bits.get(word).map(|bits| bits & u64::MAX << (from % 64)) {
                    None => NONE,
                    Some(0) => (word + 1..bits.len())
                        .find(|&word| bits[word] != 0)
                        .map_or(NONE, |word| word as u32 * 64 + bits[word].trailing_zeros()),
                    Some(bits) => word as u32 * 64 + bits.trailing_zeros(),
                }
            }
            Docs::Column { .. } | Docs::Length { .. } => from,
        }
    }

    fn load(&mut self, base: u32) -> Result<(), Error> {
        if self.base == base {
            return Ok(());
        }
        let mut own = [0; 64];
        match &self.docs {
            Docs::Every(docs) => {
                let count = docs.saturating_sub(base).min(WINDOW);
                for (word, bits) in own.iter_mut().enumerate() {
                    let have = count.saturating_sub(word as u32 * 64).min(64);
                    *bits = if have == 64 { u64::MAX } else { (1 << have) - 1 };
                }
            }
            Docs::Set(all) => {
                let start = (base as usize / 64).min(all.len());
                let end = (start + 64).min(all.len());
                own[..end - start].copy_from_slice(&all[start..end]);
            }
            Docs::Column { column, range } => {
                debug_assert_eq!(WINDOW, ZONE);
                column.between(base, *range, &mut |doc, _| set(&mut own, doc - base))?;
            }
            Docs::Length { part, slot } => {
                let count = part.docs().saturating_sub(base).min(WINDOW);
                for (offset, &code) in part.norms(*slot, base, count)?.iter().enumerate() {
                    own[offset / 64] |= u64::from(code > 0) << (offset % 64);
                }
            }
        }
        self.bits = own;
        self.base = base;
        Ok(())
    }
}
