//! One term's documents and their scores.

use crate::deletes::Deletes;
use crate::error::Error;
use crate::part::{Cursor, Part, Term};
use crate::postings::Facts;
use crate::search::WINDOW;
use crate::search::bm25::{Table, score};
use crate::search::boolean::ROUNDING;
use crate::search::node::NONE;
use crate::search::top_k::TopK;
use crate::search::window::{Window, first_from, has, set};
use std::rc::Rc;

/// Blocks between two questions whether to stop.
const CANCEL_BLOCKS: u32 = 1024;

/// How a term or a phrase scores.
#[derive(Clone)]
pub(crate) enum Scoring {
    Constant(f32),
    Bm25 { weight: f32, table: Rc<Table>, slot: usize },
}

impl Scoring {
    /// What a document scores at most whose (tf, norm) one of these facts dominates; without facts, any document.
    pub(crate) fn bound(&self, facts: Option<Facts>) -> f32 {
        let bound = match (self, facts) {
            (Scoring::Constant(constant), _) => *constant,
            (Scoring::Bm25 { weight, .. }, None) => *weight,
            (Scoring::Bm25 { weight, table, .. }, Some(facts)) => {
                let of = |(tf, norm): (u8, u8)| match tf {
                    // "255 or more": the limit of many.
                    u8::MAX => 1.0,
                    tf => score(1.0, f32::from(tf), table[usize::from(norm)]),
                };
                *weight * of(facts[0]).max(of(facts[1]))
            }
        };
        bound.max(0.0)
    }
}

/// A term's documents.
pub(crate) struct TermNode<'a> {
    part: &'a Part,
    term: Term,
    scoring: Scoring,
    /// Where matching is.
    matching: Cursor<'a>,
    matched: bool,
    /// Where scoring is; opened when it is first needed, as most queries score little of what they match.
    scored: Option<Cursor<'a>>,
}

impl<'a> TermNode<'a> {
    pub(crate) fn new(part: &'a Part, term: Term, scoring: Scoring) -> Result<TermNode<'a>, Error> {
        let matching = part.cursor(&term)?;
        Ok(TermNode { part, term, scoring, matching, matched: false, scored: None })
    }

    pub(crate) fn df(&self) -> u32 {
        self.term.df()
    }

    pub(crate) fn next(&mut self, from: u32) -> Result<u32, Error> {
        if self.matched || !self.matching.seek(from)? {
            self.matched = true;
            return Ok(NONE);
        }
        let docs = self.matching.docs()?;
        Ok(docs.get(docs.partition_point(|&doc| doc < from)).copied().unwrap_or(NONE))
    }

    pub(crate) fn fill(&mut self, base: u32, mask: Option<&Window>, bits: &mut Window) -> Result<(), Error> {
        let count = self.part.docs().saturating_sub(base).min(WINDOW);
        let mut target = base;
        while !self.matched {
            if let Some(mask) = mask {
                match first_from(mask, target - base) {
                    None => return Ok(()),
                    Some(offset) => target = base + offset,
                }
            }
            if !self.matching.seek(target)? {
                self.matched = true;
                return Ok(());
            }
            let last = self.matching.last();
            for &doc in window_of(self.matching.docs()?, base, count).0 {
                set(bits, doc - base);
            }
            if last >= base + (count - 1) {
                return Ok(());
            }
            target = last + 1;
        }
        Ok(())
    }

    /// Asked of the place where matching is: before the window is filled.
    pub(crate) fn bound(&mut self, base: u32) -> Result<f32, Error> {
        let scoring = &self.scoring;
        if self.matched {
            return Ok(0.0);
        }
        self.matching.bound(base, base.saturating_add(WINDOW - 1), &|facts| scoring.bound(facts))
    }

    fn cursor(&mut self) -> Result<&mut Cursor<'a>, Error> {
        if self.scored.is_none() {
            self.scored = Some(self.part.cursor(&self.term)?);
        }
        Ok(self.scored.as_mut().expect("it was opened just now"))
    }

    pub(crate) fn score(
        &mut self,
        base: u32,
        wanted: &Window,
        need: f32,
        scores: &mut [f32],
    ) -> Result<(), Error> {
        let part = self.part;
        let scoring = self.scoring.clone();
        let count = part.docs().saturating_sub(base).min(WINDOW);
        let cursor = self.cursor()?;
        let norms = match &scoring {
            Scoring::Bm25 { slot, .. } => part.norms(*slot, base, count)?,
            Scoring::Constant(_) => &[],
        };
        let mut target = base;
        while let Some(offset) = first_from(wanted, target - base) {
            target = base + offset;
            if !cursor.seek(target)? {
                return Ok(());
            }
            let last = cursor.last();
            if need <= 0.0 || scoring.bound(cursor.facts()) >= need {
                let (docs, tfs) = cursor.both()?;
                let (docs, start) = window_of(docs, target, count - offset);
                let hits = docs.iter().zip(&tfs[start..start + docs.len()]);
                let hits =
                    hits.map(|(&doc, &tf)| (doc - base, tf)).filter(|&(offset, _)| has(wanted, offset));
                match &scoring {
                    Scoring::Constant(constant) => hits.for_each(|(at, _)| scores[at as usize] += constant),
                    Scoring::Bm25 { weight, table, .. } => {
                        for (offset, tf) in hits {
                            let length = table[usize::from(norms[offset as usize])];
                            scores[offset as usize] += score(*weight, tf as f32, length);
                        }
                    }
                }
            }
            if last >= base + (count - 1) {
                return Ok(());
            }
            target = last + 1;
        }
        Ok(())
    }

    /// Offers the documents of all blocks that may still get in; what scores less than the worst of the best is passed
    /// over by whole blocks, undecoded.
    pub(crate) fn offer_best(
        mut self,
        deletes: &Deletes,
        top: &mut TopK,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        let part = self.part;
        let (slot, table, weight) = match &self.scoring {
            Scoring::Bm25 { slot, table, weight } => (*slot, table.clone(), *weight),
            Scoring::Constant(_) => unreachable!("terms without lengths are not searched by blocks"),
        };
        let norms = part.norms(slot, 0, part.docs())?;
        let mut blocks = 0_u32;
        loop {
            if blocks.is_multiple_of(CANCEL_BLOCKS) && cancelled() {
                return Err(Error::Cancelled);
            }
            blocks += 1;
            let bound = self.scoring.bound(self.matching.facts());
            if bound + bound * ROUNDING >= top.threshold() {
                let (docs, tfs) = self.matching.both()?;
                for (&doc, &tf) in docs.iter().zip(tfs) {
                    let score = score(weight, tf as f32, table[usize::from(norms[doc as usize])]);
                    if score >= top.threshold() && !deletes.contains(doc) {
                        top.offer(score, part.key(doc)?, || part.uid(doc))?;
                    }
                }
            }
            if !self.matching.next()? {
                return Ok(());
            }
        }
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
