//! Many cursors walked as one, in the order of entries: a heap of the cursors, the nearest on top.

use std::cmp::Ordering;

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::key::{Entry, Seq, compare, head};

/// Walks the union of several cursors. No two of them hold the same (key, seq).
pub(crate) struct MergeCursor<'a> {
    cursors: Vec<Box<dyn Cursor + 'a>>,
    /// The cursors that stand on an entry, as a binary heap.
    heap: Vec<Standing>,
    forward: bool,
}

/// A cursor that stands on an entry: the head of its key decides most comparisons without asking it.
#[derive(Clone, Copy)]
struct Standing {
    head: u128,
    cursor: usize,
}

impl<'a> MergeCursor<'a> {
    pub(crate) fn new(cursors: Vec<Box<dyn Cursor + 'a>>) -> MergeCursor<'a> {
        MergeCursor { cursors, heap: Vec::new(), forward: true }
    }

    /// Whether cursor `a` comes before cursor `b` in the direction of travel. Both stand on an entry.
    fn before(&self, a: Standing, b: Standing) -> bool {
        let order = a.head.cmp(&b.head).then_with(|| {
            let (a, b) = (self.cursors[a.cursor].entry(), self.cursors[b.cursor].entry());
            let (a, b) = (a.expect("in the heap"), b.expect("in the heap"));
            compare(a.key, a.seq, b.key, b.seq)
        });
        order == if self.forward { Ordering::Less } else { Ordering::Greater }
    }

    fn standing(&self, cursor: usize) -> Option<Standing> {
        self.cursors[cursor].entry().map(|entry| Standing { head: head(entry.key), cursor })
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let mut first = at;
            for child in [left, right] {
                if child < self.heap.len() && self.before(self.heap[child], self.heap[first]) {
                    first = child;
                }
            }
            if first == at {
                return;
            }
            self.heap.swap(at, first);
            at = first;
        }
    }

    fn rebuild(&mut self, forward: bool) {
        self.forward = forward;
        let mut heap = std::mem::take(&mut self.heap);
        heap.clear();
        heap.extend((0..self.cursors.len()).filter_map(|cursor| self.standing(cursor)));
        self.heap = heap;
        for at in (0..self.heap.len() / 2).rev() {
            self.sift_down(at);
        }
    }

    /// After the cursor on top has moved.
    fn settle_top(&mut self) {
        match self.standing(self.heap[0].cursor) {
            Some(standing) => self.heap[0] = standing,
            None => drop(self.heap.swap_remove(0)),
        }
        self.sift_down(0);
    }

    fn each(&mut self, forward: bool, mut action: impl FnMut(&mut dyn Cursor) -> Result<()>) -> Result<()> {
        self.heap.clear();
        for cursor in &mut self.cursors {
            action(&mut **cursor)?;
        }
        self.rebuild(forward);
        Ok(())
    }

    /// Turns round: all other cursors are placed on the far side of the present entry.
    fn turn(&mut self, forward: bool) -> Result<()> {
        let top = self.heap[0].cursor;
        let (key, seq) = {
            let entry = self.cursors[top].entry().expect("stands on an entry");
            (entry.key.to_vec(), entry.seq)
        };
        self.heap.clear();
        for (index, cursor) in self.cursors.iter_mut().enumerate() {
            if index == top {
                continue;
            }
            cursor.seek_version(&key, seq)?;
            if !forward {
                match cursor.entry() {
                    Some(_) => cursor.prev()?,
                    None => cursor.seek_last()?,
                }
            }
        }
        self.rebuild(forward);
        Ok(())
    }
}

impl Cursor for MergeCursor<'_> {
    fn seek_first(&mut self) -> Result<()> {
        self.each(true, |cursor| cursor.seek_first())
    }

    fn seek_last(&mut self) -> Result<()> {
        self.each(false, |cursor| cursor.seek_last())
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.each(true, |cursor| cursor.seek(key))
    }

    fn seek_version(&mut self, key: &[u8], seq: Seq) -> Result<()> {
        self.each(true, |cursor| cursor.seek_version(key, seq))
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.each(false, |cursor| cursor.seek_before(key))
    }

    fn next(&mut self) -> Result<()> {
        if !self.forward {
            self.turn(true)?;
        }
        if let Some(&top) = self.heap.first() {
            self.cursors[top.cursor].next()?;
            self.settle_top();
        }
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        if self.forward {
            self.turn(false)?;
        }
        if let Some(&top) = self.heap.first() {
            self.cursors[top.cursor].prev()?;
            self.settle_top();
        }
        Ok(())
    }

    fn entry(&self) -> Option<Entry<'_>> {
        self.cursors[self.heap.first()?.cursor].entry()
    }

    fn out_of_order(&self) -> Error {
        match self.heap.first() {
            Some(top) => self.cursors[top.cursor].out_of_order(),
            None => Error::corrupt("the walk", 0, "keys do not ascend"),
        }
    }
}
