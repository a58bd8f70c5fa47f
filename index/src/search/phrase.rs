//! Phrases: documents with all terms, then their positions.
//!
//! With slop, positions are shifted so that an exact match has all terms at one place; a match of width w (the distance
//! between the outermost) counts 1 / (1 + w), as in Lucene. The same word of a document never stands for two terms.

use crate::error::Error;
use crate::part::{Cursor, Part};
use crate::search::WINDOW;
use crate::search::bm25::score;
use crate::search::node::{NONE, Scoring, Window, first_from, set};

/// One term of a phrase.
pub(crate) struct Member<'a> {
    pub(crate) cursor: Cursor<'a>,
    /// Where it stands in the phrase.
    pub(crate) offset: u32,
    /// Members of one term have one number.
    pub(crate) term: usize,
    pub(crate) df: u32,
}

pub(crate) struct Phrase<'a> {
    part: &'a Part,
    /// Rarest first.
    members: Vec<Member<'a>>,
    slop: u32,
    repeats: bool,
    scoring: Scoring,
    done: bool,
    /// Of each member, the place of the document in its block.
    places: Vec<usize>,
    starts: Vec<i64>,
    positions: Vec<Vec<i64>>,
}

impl<'a> Phrase<'a> {
    pub(crate) fn new(
        part: &'a Part,
        mut members: Vec<Member<'a>>,
        slop: u32,
        scoring: Scoring,
    ) -> Phrase<'a> {
        members.sort_by_key(|member| member.df);
        let mut terms: Vec<usize> = members.iter().map(|member| member.term).collect();
        terms.sort_unstable();
        let repeats = terms.windows(2).any(|pair| pair[0] == pair[1]);
        let count = members.len();
        let positions = vec![Vec::new(); count];
        Phrase {
            part,
            members,
            slop,
            repeats,
            scoring,
            done: false,
            places: vec![0; count],
            starts: Vec::new(),
            positions,
        }
    }

    pub(crate) fn cost(&self) -> u64 {
        u64::from(self.members[0].df) * 2
    }

    /// The first document from `from` on with all terms.
    fn candidate(&mut self, mut from: u32) -> Result<u32, Error> {
        let mut at = 0;
        while at < self.members.len() {
            let cursor = &mut self.members[at].cursor;
            if self.done || !cursor.seek(from)? {
                self.done = true;
                return Ok(NONE);
            }
            let docs = cursor.docs()?;
            let place = docs.partition_point(|&doc| doc < from);
            let Some(&doc) = docs.get(place) else { return Ok(NONE) };
            self.places[at] = place;
            if doc > from && at > 0 {
                at = 0;
            } else {
                at += 1;
            }
            from = doc;
        }
        Ok(from)
    }

    pub(crate) fn next(&mut self, from: u32) -> Result<u32, Error> {
        self.candidate(from)
    }

    pub(crate) fn fill(
        &mut self,
        base: u32,
        mask: Option<&Window>,
        mut scores: Option<&mut [f32]>,
        bits: &mut Window,
    ) -> Result<(), Error> {
        let count = self.part.docs().saturating_sub(base).min(WINDOW);
        let norms = match (&self.scoring, scores.is_some()) {
            (Scoring::Bm25 { slot, .. }, true) => self.part.norms(*slot, base, count)?,
            _ => &[],
        };
        let mut target = base;
        while target - base < count {
            let doc = self.candidate(target)?;
            if doc == NONE || doc - base >= count {
                return Ok(());
            }
            let offset = doc - base;
            if let Some(mask) = mask {
                match first_from(mask, offset) {
                    None => return Ok(()),
                    Some(wanted) if wanted > offset => {
                        target = base + wanted;
                        continue;
                    }
                    Some(_) => {}
                }
            }
            let frequency = if self.slop == 0 { self.exact(scores.is_some())? } else { self.sloppy()? };
            if frequency > 0.0 {
                set(bits, offset);
                if let Some(scores) = &mut scores {
                    scores[offset as usize] += match &self.scoring {
                        Scoring::Constant(constant) => *constant,
                        Scoring::Bm25 { weight, table, .. } => {
                            score(*weight, frequency, table[usize::from(norms[offset as usize])])
                        }
                    };
                }
            }
            target = doc + 1;
        }
        Ok(())
    }

    /// How often all terms stand exactly so; with `all` false only whether they do.
    fn exact(&mut self, all: bool) -> Result<f32, Error> {
        let (first, others) = self.members.split_at_mut(1);
        let offset = i64::from(first[0].offset);
        self.starts.clear();
        let positions = first[0].cursor.positions(self.places[0])?;
        self.starts.extend(positions.iter().map(|&position| i64::from(position) - offset));
        for (member, &place) in others.iter_mut().zip(&self.places[1..]) {
            let offset = i64::from(member.offset);
            let positions = member.cursor.positions(place)?;
            let mut at = 0;
            self.starts.retain(|&start| {
                while at < positions.len() && i64::from(positions[at]) - offset < start {
                    at += 1;
                }
                at < positions.len() && i64::from(positions[at]) - offset == start
            });
            if self.starts.is_empty() {
                return Ok(0.0);
            }
        }
        Ok(if all { self.starts.len() as f32 } else { 1.0 })
    }

    /// Lucene's sweep: always the lowest member moves on, and what counts is the narrowest width it reaches before it
    /// passes the next one.
    fn sloppy(&mut self) -> Result<f32, Error> {
        let count = self.members.len();
        for (at, member) in self.members.iter_mut().enumerate() {
            let offset = i64::from(member.offset);
            self.positions[at].clear();
            let positions = member.cursor.positions(self.places[at])?;
            self.positions[at].extend(positions.iter().map(|&position| i64::from(position) - offset));
        }
        let order = |at: usize| self.members[at].offset;
        let mut now = vec![0_usize; count];
        let place = |now: &[usize], at: usize| self.positions[at][now[at]];
        let width = |now: &[usize]| -> Option<u32> {
            if self.repeats && self.clash(now) {
                return None;
            }
            let low = (0..count).map(|at| place(now, at)).min()?;
            let high = (0..count).map(|at| place(now, at)).max()?;
            u32::try_from(high - low).ok()
        };
        let mut frequency = 0.0;
        loop {
            // The lowest member; of several at one place the first in the phrase.
            let Some(lowest) = (0..count).min_by_key(|&at| (place(&now, at), order(at))) else {
                return Ok(0.0);
            };
            let next =
                (0..count).filter(|&at| at != lowest).map(|at| place(&now, at)).min().unwrap_or(i64::MAX);
            let mut best = width(&now);
            let mut ended = true;
            while now[lowest] + 1 < self.positions[lowest].len() {
                now[lowest] += 1;
                if place(&now, lowest) > next {
                    ended = false;
                    break;
                }
                best = match (best, width(&now)) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            }
            if let Some(best) = best.filter(|&best| best <= self.slop) {
                frequency += 1.0 / (1.0 + best as f32);
            }
            if ended {
                return Ok(frequency);
            }
        }
    }

    /// Do two members of one term stand on the same word?
    fn clash(&self, now: &[usize]) -> bool {
        let word = |at: usize| self.positions[at][now[at]] + i64::from(self.members[at].offset);
        let count = self.members.len();
        let pairs = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b)));
        pairs.into_iter().any(|(a, b)| self.members[a].term == self.members[b].term && word(a) == word(b))
    }
}
