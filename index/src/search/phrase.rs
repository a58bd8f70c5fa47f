//! Phrases: documents with all terms, then their positions.
//!
//! With slop, positions are shifted so that an exact match has all terms at one place; a match of width w (the distance
//! between the outermost) counts 1 / (1 + w), as in Lucene. The same word of a document never stands for two terms.

use crate::error::Error;
use crate::part::{Cursor, Part};
use crate::search::WINDOW;
use crate::search::bm25::score;
use crate::search::node::NONE;
use crate::search::term::Scoring;
use crate::search::window::{Window, first_from, offsets, set};

/// Documents looked at one by one before the rest of a block is bisected.
const NEAR: usize = 4;

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
    /// How often each document of the window at `base` has the phrase.
    base: u32,
    frequencies: Vec<f32>,
    /// Of each member, the place of the document in its block, and the last document of that block.
    places: Vec<usize>,
    lasts: Vec<u32>,
    starts: Vec<u32>,
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
            base: NONE,
            frequencies: Vec::new(),
            places: vec![0; count],
            lasts: vec![NONE; count],
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
            let last = cursor.last();
            let docs = cursor.docs()?;
            // Mostly it is one of the next few.
            let before = if self.lasts[at] == last { self.places[at] } else { 0 };
            let near = docs[before..].iter().take(NEAR).position(|&doc| doc >= from);
            let place = match near {
                Some(steps) => before + steps,
                None => before + docs[before..].partition_point(|&doc| doc < from),
            };
            let Some(&doc) = docs.get(place) else { return Ok(NONE) };
            self.places[at] = place;
            self.lasts[at] = last;
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

    /// The documents of the window, and how often each has the phrase.
    pub(crate) fn fill(&mut self, base: u32, mask: Option<&Window>, bits: &mut Window) -> Result<(), Error> {
        let count = self.part.docs().saturating_sub(base).min(WINDOW);
        self.base = base;
        self.frequencies.clear();
        self.frequencies.resize(WINDOW as usize, 0.0);
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
            let frequency = if self.slop == 0 { self.exact()? } else { self.sloppy()? };
            if frequency > 0.0 {
                set(bits, offset);
                self.frequencies[offset as usize] = frequency;
            }
            target = doc + 1;
        }
        Ok(())
    }

    pub(crate) fn bound(&mut self, base: u32) -> Result<f32, Error> {
        let scoring = &self.scoring;
        if self.done || self.slop > 0 {
            return Ok(if self.done { 0.0 } else { scoring.bound(None) });
        }
        // A phrase is in a document no more often than any of its terms.
        let mut least = f32::INFINITY;
        for member in &mut self.members {
            let end = base.saturating_add(WINDOW - 1);
            least = least.min(member.cursor.bound(base, end, &|facts| scoring.bound(facts))?);
        }
        Ok(least)
    }

    pub(crate) fn score(&mut self, base: u32, wanted: &Window, scores: &mut [f32]) -> Result<(), Error> {
        if self.base != base {
            self.fill(base, Some(wanted), &mut [0; 64])?;
        }
        let count = self.part.docs().saturating_sub(base).min(WINDOW);
        let norms = match &self.scoring {
            Scoring::Bm25 { slot, .. } => self.part.norms(*slot, base, count)?,
            Scoring::Constant(_) => &[],
        };
        for offset in offsets(wanted) {
            let frequency = self.frequencies[offset as usize];
            if frequency > 0.0 {
                scores[offset as usize] += match &self.scoring {
                    Scoring::Constant(constant) => *constant,
                    Scoring::Bm25 { weight, table, .. } => {
                        score(*weight, frequency, table[usize::from(norms[offset as usize])])
                    }
                };
            }
        }
        Ok(())
    }

    /// How often all terms stand exactly so: what is left of the rarest one's positions after the others', each shifted
    /// to where the phrase ends.
    fn exact(&mut self) -> Result<f32, Error> {
        let end = self.members.iter().map(|member| member.offset).max().unwrap_or(0);
        let (first, others) = self.members.split_at_mut(1);
        let shift = end - first[0].offset;
        let positions = first[0].cursor.positions(self.places[0])?;
        self.starts.clear();
        self.starts.extend(positions.iter().map(|&position| position.wrapping_add(shift)));
        for (member, &place) in others.iter_mut().zip(&self.places[1..]) {
            let shift = end - member.offset;
            let positions = member.cursor.positions(place)?;
            // Which side moves on is as good as random, so this asks no branch of the processor.
            let (mut read, mut kept, mut at) = (0, 0, 0);
            while read < self.starts.len() && at < positions.len() {
                let (start, other) = (self.starts[read], positions[at].wrapping_add(shift));
                self.starts[kept] = start;
                kept += usize::from(start == other);
                read += usize::from(start <= other);
                at += usize::from(other <= start);
            }
            self.starts.truncate(kept);
            if kept == 0 {
                return Ok(0.0);
            }
        }
        Ok(self.starts.len() as f32)
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
