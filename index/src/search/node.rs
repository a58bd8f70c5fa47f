//! A query over one part: fills windows of 4096 documents.
//!
//! `fill` adds the node's documents of the window to `bits` and, when scores are wanted, adds its score to each of them.
//! With a mask, only documents in the mask need to be right; others may be missing or carry any score.

use crate::columns::ZONE;
use crate::deletes::Bits;
use crate::error::Error;
use crate::part::{ColumnRef, Cursor, Part};
use crate::search::WINDOW;
use crate::search::bm25::{Table, score};
use crate::search::phrase::Phrase;
use std::rc::Rc;

/// A window's documents.
pub(crate) type Window = [u64; 64];

/// No document.
pub(crate) const NONE: u32 = u32::MAX;

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

/// How a term scores.
#[derive(Clone)]
pub(crate) enum Scoring {
    Constant(f32),
    Bm25 { weight: f32, table: Rc<Table>, slot: usize },
}

/// A term's documents.
pub(crate) struct TermNode<'a> {
    pub(crate) part: &'a Part,
    pub(crate) cursor: Cursor<'a>,
    pub(crate) scoring: Scoring,
    pub(crate) df: u32,
    pub(crate) done: bool,
}

pub(crate) enum Node<'a> {
    Empty,
    /// Every document.
    Every {
        docs: u32,
        score: f32,
    },
    /// Collected beforehand: a bit per document of the part.
    Set {
        bits: Vec<u64>,
        score: f32,
    },
    /// Documents with a value in this range.
    Column {
        column: ColumnRef<'a>,
        range: (u64, u64),
        score: f32,
    },
    /// Documents with a length in this field.
    Length {
        part: &'a Part,
        slot: usize,
        score: f32,
    },
    Term(Box<TermNode<'a>>),
    Phrase(Box<Phrase<'a>>),
    Bool(Box<BoolNode<'a>>),
}

pub(crate) struct BoolNode<'a> {
    must: Vec<(Node<'a>, Vec<f32>)>,
    /// `must` by cost, cheapest first.
    order: Vec<usize>,
    should: Vec<Node<'a>>,
    must_not: Vec<Node<'a>>,
    sum: Vec<f32>,
}

impl<'a> BoolNode<'a> {
    pub(crate) fn new(must: Vec<Node<'a>>, should: Vec<Node<'a>>, must_not: Vec<Node<'a>>) -> BoolNode<'a> {
        let mut order: Vec<usize> = (0..must.len()).collect();
        order.sort_by_key(|&at| must[at].cost());
        let must = must.into_iter().map(|node| (node, Vec::new())).collect();
        BoolNode { must, order, should, must_not, sum: Vec::new() }
    }
}

impl Node<'_> {
    /// About how many documents the node has.
    pub(crate) fn cost(&self) -> u64 {
        match self {
            Node::Empty => 0,
            Node::Every { docs, .. } => u64::from(*docs) * 4,
            Node::Set { bits, .. } => bits.len() as u64,
            Node::Column { .. } | Node::Length { .. } => u64::MAX,
            Node::Term(term) => u64::from(term.df),
            Node::Phrase(phrase) => phrase.cost(),
            Node::Bool(all) if all.must.is_empty() => {
                all.should.iter().fold(0, |sum, node| sum.saturating_add(node.cost()))
            }
            Node::Bool(all) => all.must.iter().map(|(node, _)| node.cost()).min().unwrap_or(0),
        }
    }

    /// No document between `from` and this one is in the node; `NONE` when there is none at all.
    pub(crate) fn next(&mut self, from: u32) -> Result<u32, Error> {
        Ok(match self {
            Node::Empty => NONE,
            Node::Every { docs, .. } => {
                if from < *docs {
                    from
                } else {
                    NONE
                }
            }
            Node::Set { bits, .. } => {
                let word = from as usize / 64;
                match bits.get(word).map(|bits| bits & u64::MAX << (from % 64)) {
                    None => NONE,
                    Some(0) => (word + 1..bits.len())
                        .find(|&word| bits[word] != 0)
                        .map_or(NONE, |word| word as u32 * 64 + bits[word].trailing_zeros()),
                    Some(bits) => word as u32 * 64 + bits.trailing_zeros(),
                }
            }
            Node::Column { .. } | Node::Length { .. } => from,
            Node::Term(term) => term.next(from)?,
            Node::Phrase(phrase) => phrase.next(from)?,
            Node::Bool(all) if all.must.is_empty() => {
                let mut least = NONE;
                for node in &mut all.should {
                    least = least.min(node.next(from)?);
                }
                least
            }
            Node::Bool(all) => {
                let mut most = from;
                for &at in &all.order {
                    most = most.max(all.must[at].0.next(most)?);
                    if most == NONE {
                        break;
                    }
                }
                most
            }
        })
    }

    /// The window at `base`; see above.
    pub(crate) fn fill(
        &mut self,
        base: u32,
        mask: Option<&Window>,
        scores: Option<&mut [f32]>,
        bits: &mut Window,
    ) -> Result<(), Error> {
        let (own, constant) = match self {
            Node::Empty => return Ok(()),
            Node::Term(term) => return term.fill(base, mask, scores, bits),
            Node::Phrase(phrase) => return phrase.fill(base, mask, scores, bits),
            Node::Bool(all) => return all.fill(base, mask, scores, bits),
            Node::Every { docs, score } => {
                let mut own = [u64::MAX; 64];
                let count = docs.saturating_sub(base).min(WINDOW);
                for (word, bits) in own.iter_mut().enumerate() {
                    let have = count.saturating_sub(word as u32 * 64).min(64);
                    *bits = if have == 64 { u64::MAX } else { (1 << have) - 1 };
                }
                (own, *score)
            }
            Node::Set { bits: all, score } => {
                let mut own = [0; 64];
                let start = (base as usize / 64).min(all.len());
                let end = (start + 64).min(all.len());
                own[..end - start].copy_from_slice(&all[start..end]);
                (own, *score)
            }
            Node::Column { column, range, score } => {
                let mut own = [0; 64];
                debug_assert_eq!(WINDOW, ZONE);
                column.between(base, *range, &mut |doc, _| set(&mut own, doc - base))?;
                (own, *score)
            }
            Node::Length { part, slot, score } => {
                let mut own = [0; 64];
                let count = part.docs().saturating_sub(base).min(WINDOW);
                for (offset, &code) in part.norms(*slot, base, count)?.iter().enumerate() {
                    own[offset / 64] |= u64::from(code > 0) << (offset % 64);
                }
                (own, *score)
            }
        };
        if let Some(scores) = scores {
            for offset in offsets(&own) {
                scores[offset as usize] += constant;
            }
        }
        bits.iter_mut().zip(own).for_each(|(bits, own)| *bits |= own);
        Ok(())
    }
}

impl TermNode<'_> {
    fn next(&mut self, from: u32) -> Result<u32, Error> {
        if self.done || !self.cursor.seek(from)? {
            self.done = true;
            return Ok(NONE);
        }
        let docs = self.cursor.docs()?;
        Ok(docs.get(docs.partition_point(|&doc| doc < from)).copied().unwrap_or(NONE))
    }

    fn fill(
        &mut self,
        base: u32,
        mask: Option<&Window>,
        mut scores: Option<&mut [f32]>,
        bits: &mut Window,
    ) -> Result<(), Error> {
        let docs_in_window = self.part.docs().saturating_sub(base).min(WINDOW);
        let norms = match (&self.scoring, scores.is_some()) {
            (Scoring::Bm25 { slot, .. }, true) => self.part.norms(*slot, base, docs_in_window)?,
            _ => &[],
        };
        let mut target = base;
        while !self.done {
            if let Some(mask) = mask {
                match first_from(mask, target - base) {
                    None => return Ok(()),
                    Some(offset) => target = base + offset,
                }
            }
            if !self.cursor.seek(target)? {
                self.done = true;
                return Ok(());
            }
            let last = self.cursor.last();
            match &mut scores {
                None => {
                    let docs = window_of(self.cursor.docs()?, base, docs_in_window).0;
                    for &doc in docs {
                        set(bits, doc - base);
                    }
                }
                Some(scores) => {
                    let (docs, tfs) = self.cursor.both()?;
                    let (docs, start) = window_of(docs, target, docs_in_window - (target - base));
                    let tfs = &tfs[start..start + docs.len()];
                    match &self.scoring {
                        Scoring::Constant(constant) => {
                            for &doc in docs {
                                set(bits, doc - base);
                                scores[(doc - base) as usize] += constant;
                            }
                        }
                        Scoring::Bm25 { weight, table, .. } => {
                            for (&doc, &tf) in docs.iter().zip(tfs) {
                                let offset = doc - base;
                                if mask.is_none_or(|mask| has(mask, offset)) {
                                    set(bits, offset);
                                    let length = table[usize::from(norms[offset as usize])];
                                    scores[offset as usize] += score(*weight, tf as f32, length);
                                }
                            }
                        }
                    }
                }
            }
            if last >= base + (docs_in_window - 1) {
                return Ok(());
            }
            target = last + 1;
        }
        Ok(())
    }
}

/// The documents `start..start + count` of a block, and where they begin in it.
#[inline]
fn window_of(docs: &[u32], start: u32, count: u32) -> (&[u32], usize) {
    let low =
        if docs.first().is_some_and(|&doc| doc >= start) { 0 } else { docs.partition_point(|&d| d < start) };
    let end = start.saturating_add(count);
    let high = match docs.last() {
        Some(&last) if last < end => docs.len(),
        _ => docs.partition_point(|&doc| doc < end),
    };
    (&docs[low..high.max(low)], low)
}

fn clear(scores: &mut Vec<f32>) {
    scores.clear();
    scores.resize(WINDOW as usize, 0.0);
}

impl BoolNode<'_> {
    fn fill(
        &mut self,
        base: u32,
        mask: Option<&Window>,
        scores: Option<&mut [f32]>,
        bits: &mut Window,
    ) -> Result<(), Error> {
        let scored = scores.is_some();
        let mut found = [0; 64];
        if scored {
            clear(&mut self.sum);
        }
        if self.must.is_empty() {
            for node in &mut self.should {
                node.fill(base, mask, scored.then_some(&mut self.sum[..]), &mut found)?;
            }
            if let Some(mask) = mask {
                found.iter_mut().zip(mask).for_each(|(bits, mask)| *bits &= mask);
            }
        } else {
            let mut narrowed: Option<Window> = mask.copied();
            for &at in &self.order {
                let (node, own) = &mut self.must[at];
                if scored {
                    clear(own);
                }
                let mut now = [0; 64];
                node.fill(base, narrowed.as_ref(), scored.then_some(&mut own[..]), &mut now)?;
                if let Some(narrowed) = &narrowed {
                    now.iter_mut().zip(narrowed).for_each(|(bits, mask)| *bits &= mask);
                }
                if now == [0; 64] {
                    return Ok(());
                }
                narrowed = Some(now);
            }
            found = narrowed.unwrap_or([0; 64]);
        }
        for node in &mut self.must_not {
            let mut excluded = [0; 64];
            node.fill(base, Some(&found), None, &mut excluded)?;
            found.iter_mut().zip(excluded).for_each(|(bits, excluded)| *bits &= !excluded);
        }
        if let Some(scores) = scores {
            if !self.must.is_empty() {
                for offset in offsets(&found) {
                    self.sum[offset as usize] = self.must.iter().map(|(_, own)| own[offset as usize]).sum();
                }
                let mut ignored = [0; 64];
                for node in &mut self.should {
                    node.fill(base, Some(&found), Some(&mut self.sum), &mut ignored)?;
                }
            }
            for offset in offsets(&found) {
                scores[offset as usize] += self.sum[offset as usize];
            }
        }
        bits.iter_mut().zip(found).for_each(|(bits, found)| *bits |= found);
        Ok(())
    }
}
