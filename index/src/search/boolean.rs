//! Clauses together: all of some, any of others, none of the rest.

use crate::deletes::Bits;
use crate::error::Error;
use crate::search::node::{NONE, Node};
use crate::search::window::{Window, add, clear, is_empty, keep, offsets, remove};

/// More clauses than this are scored one after the other: an array of scores for each would take too much memory.
const ORDERED_MAX: usize = 64;
/// How far, of the sum of all bounds, a bound may be off.
pub(crate) const ROUNDING: f32 = 1e-5;

/// A clause that scores, and its scores of the window.
struct Clause<'a> {
    node: Node<'a>,
    scores: Vec<f32>,
    /// No document of the window scores more in it.
    bound: f32,
}

pub(crate) struct BoolNode<'a> {
    /// The first `must` are needed, the others add to the score; when none is needed, one of the others is.
    clauses: Vec<Clause<'a>>,
    must: usize,
    must_not: Vec<Node<'a>>,
    /// The needed clauses by cost, cheapest first.
    by_cost: Vec<usize>,
    /// The documents that matched in the window at `base`.
    base: u32,
    found: Window,
    /// The window for which the clauses' bounds are.
    bound_base: u32,
    order: Vec<usize>,
    sums: Vec<f32>,
}

impl<'a> BoolNode<'a> {
    pub(crate) fn new(must: Vec<Node<'a>>, should: Vec<Node<'a>>, must_not: Vec<Node<'a>>) -> BoolNode<'a> {
        let mut by_cost: Vec<usize> = (0..must.len()).collect();
        by_cost.sort_by_key(|&at| must[at].cost());
        let needed = must.len();
        let clauses = must.into_iter().chain(should);
        let clauses = clauses.map(|node| Clause { node, scores: Vec::new(), bound: 0.0 }).collect();
        BoolNode {
            clauses,
            must: needed,
            must_not,
            by_cost,
            base: NONE,
            found: [0; 64],
            bound_base: NONE,
            order: Vec::new(),
            sums: Vec::new(),
        }
    }

    pub(crate) fn cost(&self) -> u64 {
        let costs = self.clauses.iter().map(|clause| clause.node.cost());
        match self.must {
            0 => costs.fold(0, u64::saturating_add),
            must => costs.take(must).min().unwrap_or(0),
        }
    }

    pub(crate) fn next(&mut self, from: u32) -> Result<u32, Error> {
        if self.must == 0 {
            let mut least = NONE;
            for clause in &mut self.clauses {
                least = least.min(clause.node.next(from)?);
            }
            return Ok(least);
        }
        let mut most = from;
        for &at in &self.by_cost {
            most = most.max(self.clauses[at].node.next(most)?);
            if most == NONE {
                break;
            }
        }
        Ok(most)
    }

    pub(crate) fn fill(&mut self, base: u32, mask: Option<&Window>, bits: &mut Window) -> Result<(), Error> {
        let mut found = [0; 64];
        if self.must == 0 {
            for clause in &mut self.clauses {
                clause.node.fill(base, mask, &mut found)?;
            }
            if let Some(mask) = mask {
                keep(&mut found, mask);
            }
        } else {
            let mut narrowed: Option<Window> = mask.copied();
            for &at in &self.by_cost {
                let mut now = [0; 64];
                self.clauses[at].node.fill(base, narrowed.as_ref(), &mut now)?;
                if let Some(narrowed) = &narrowed {
                    keep(&mut now, narrowed);
                }
                narrowed = Some(now);
                if is_empty(&now) {
                    break;
                }
            }
            found = narrowed.unwrap_or([0; 64]);
        }
        for node in &mut self.must_not {
            if is_empty(&found) {
                break;
            }
            let mut excluded = [0; 64];
            node.fill(base, Some(&found), &mut excluded)?;
            remove(&mut found, &excluded);
        }
        add(bits, &found);
        self.base = base;
        self.found = found;
        Ok(())
    }

    pub(crate) fn bound(&mut self, base: u32) -> Result<f32, Error> {
        if self.bound_base != base {
            for clause in &mut self.clauses {
                clause.bound = clause.node.bound(base)?;
            }
            self.bound_base = base;
        }
        Ok(self.clauses.iter().map(|clause| clause.bound).sum())
    }

    /// Scores the clauses by their bounds, the highest first, and after each one lets go of the documents that the rest
    /// cannot lift to `need` (MaxScore, Turtle and Flood 1995). The sum is taken in the order of the clauses, whatever
    /// the bounds were, so that it does not depend on the part.
    pub(crate) fn score(
        &mut self,
        base: u32,
        wanted: &mut Window,
        need: f32,
        scores: &mut [f32],
    ) -> Result<(), Error> {
        let mut rest = self.bound(base)?;
        // Sums of bounds are rounded in another order than sums of scores.
        let need = need - rest * ROUNDING;
        if self.base != base {
            self.fill(base, Some(&*wanted), &mut [0; 64])?;
        }
        let mut left = self.found;
        keep(&mut left, wanted);
        if self.clauses.len() > ORDERED_MAX {
            clear(&mut self.sums, &left);
            for clause in &mut self.clauses {
                clause.node.score(base, &mut left.clone(), f32::NEG_INFINITY, &mut self.sums)?;
            }
            offsets(&left).for_each(|offset| scores[offset as usize] += self.sums[offset as usize]);
            return Ok(());
        }
        self.order.clear();
        self.order.extend(0..self.clauses.len());
        self.order.sort_by(|&a, &b| self.clauses[b].bound.total_cmp(&self.clauses[a].bound));
        let total = rest;
        clear(&mut self.sums, &left);
        for &at in &self.order {
            let clause = &mut self.clauses[at];
            clear(&mut clause.scores, &left);
            let mut own = left;
            clause.node.score(base, &mut own, need - (total - clause.bound), &mut clause.scores)?;
            rest -= clause.bound;
            for (word, bits) in left.iter_mut().enumerate().filter(|(_, bits)| **bits != 0) {
                for bit in Bits(*bits) {
                    let offset = word * 64 + bit as usize;
                    self.sums[offset] += clause.scores[offset];
                    if self.sums[offset] + rest < need {
                        *bits &= !(1 << bit);
                    }
                }
            }
        }
        for offset in offsets(&left) {
            let offset = offset as usize;
            scores[offset] += self.clauses.iter().map(|clause| clause.scores[offset]).sum::<f32>();
        }
        *wanted = left;
        Ok(())
    }
}
