//! What a compaction is to do: why, from which tables, where to, and what it keeps others from.

use std::sync::Arc;

use crate::options::Options;
use crate::table::reader::Table;
use crate::version::sublevels;

/// Tables of one slot that go into a job.
#[derive(Clone)]
pub(crate) struct Input {
    pub slot: usize,
    pub tables: Vec<Arc<Table>>,
}

/// A compaction to do.
#[derive(Clone)]
pub(crate) struct Job {
    /// Why, for statistics and people.
    pub reason: Reason,
    /// Newest first; of slot 0 the tables, too, of which those that do not overlap are one run.
    pub inputs: Vec<Input>,
    /// Where the output goes; `None` drops the inputs.
    pub target: Option<usize>,
}

/// What made a job necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Too many tables or runs.
    Count,
    /// A slot is over its size.
    Size,
    /// Old versions and deletes take too much room.
    Space,
    /// A table is mostly deletes.
    Deletes,
    /// A range delete covers a part of a table.
    RangeDelete,
    /// Too old, or too much, to be kept.
    Expired,
    /// Points into a blob file that is mostly unused.
    Blobs,
    /// A part of it cannot be read.
    Damage,
    /// Nobody writes, and reads would meet fewer runs.
    Rest,
    /// What it replaces or deletes may still be there, and has been for too long.
    Age,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Reason; 10] = [
        Reason::Count,
        Reason::Size,
        Reason::Space,
        Reason::Deletes,
        Reason::RangeDelete,
        Reason::Expired,
        Reason::Blobs,
        Reason::Damage,
        Reason::Rest,
        Reason::Age,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Reason::Count => "count",
            Reason::Size => "size",
            Reason::Space => "space",
            Reason::Deletes => "deletes",
            Reason::RangeDelete => "range-delete",
            Reason::Expired => "expired",
            Reason::Blobs => "blobs",
            Reason::Damage => "damage",
            Reason::Rest => "rest",
            Reason::Age => "age",
        }
    }
}

impl Job {
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.inputs.iter().flat_map(|input| &input.tables)
    }

    /// Whether the one table may simply change its slot.
    pub(crate) fn is_move(&self) -> bool {
        self.tables().count() == 1 && self.target.is_some_and(|target| target != self.inputs[0].slot)
    }

    /// Whether what goes down is at least a tenth of what it meets there, which is what a level is of the next: so work at
    /// rest costs no more for each byte than work that has to be.
    pub(crate) fn is_worth_it(&self) -> bool {
        let bytes = |input: &Input| input.tables.iter().map(|table| table.meta.len).sum::<u64>();
        let met = self.inputs.iter().filter(|input| Some(input.slot) == self.target).map(bytes).sum::<u64>();
        let all = self.inputs.iter().map(bytes).sum::<u64>();
        (all - met).saturating_mul(10) >= met
    }

    /// Bytes that it may write before anything is freed: those of its largest part, with the values that move.
    fn room(&self, limits: &Limits<'_>) -> u64 {
        let rewrites = |part: &&Job| part.target.is_some() && !part.is_move();
        let moved = |table: &Table| -> u64 {
            let values = table.meta.blobs.iter().filter(|(file, _)| limits.collect.contains(file));
            values.map(|(_, bytes)| bytes).sum()
        };
        let bytes = |part: &Job| part.tables().map(|table| table.meta.len + moved(table)).sum();
        self.parts(limits.options.table_bytes).iter().filter(rewrites).map(bytes).max().unwrap_or(0)
    }

    /// The job as several that share no key, in the order of keys, to be done and installed one after the other: so a merge
    /// of whole runs takes only the room of a part of them beside what is there (Dayan et al., "Spooky", VLDB 2022). What
    /// makes them many is that flushes and merges of runs are cut at the same borders. A table that lies alone moves or
    /// stays as it is, if it is at least half of `table_bytes` long; shorter ones go together.
    /// What goes to slot 0 stays together, for there the order of tables is that of their newest entries.
    pub(crate) fn parts(&self, table_bytes: u64) -> Vec<Job> {
        if self.target == Some(0) {
            return vec![self.clone()];
        }
        let bytes = |tables: &[Placed<'_>]| tables.iter().map(|(.., table)| table.meta.len).sum::<u64>();
        let is_large = |tables: &[Placed<'_>]| tables.len() == 1 && bytes(tables) * 2 >= table_bytes;
        let mut parts: Vec<Vec<Placed<'_>>> = Vec::new();
        for stretch in stretches(&self.inputs) {
            match parts.last_mut() {
                Some(part)
                    if bytes(part) + bytes(&stretch) <= table_bytes
                        && !(is_large(part) || is_large(&stretch)) =>
                {
                    part.extend(stretch);
                }
                _ => parts.push(stretch),
            }
        }
        if let (Reason::Count | Reason::Size | Reason::Space | Reason::Rest, Some(target)) =
            (self.reason, self.target)
        {
            let stays =
                |part: &[Placed<'_>]| part.iter().all(|(input, ..)| self.inputs[*input].slot == target);
            parts.retain(|part| !stays(part));
        }
        let parts = parts.into_iter().map(|part| self.inputs_of(part));
        parts.map(|inputs| Job { reason: self.reason, inputs, target: self.target }).collect()
    }

    /// The tables of slot 0 in groups that share no key; those where most tables lie over one another come first.
    pub(crate) fn columns(level0: &[Arc<Table>]) -> Vec<Input> {
        let all = Job {
            reason: Reason::Count,
            inputs: vec![Input { slot: 0, tables: level0.to_vec() }],
            target: None,
        };
        let mut columns: Vec<Input> =
            stretches(&all.inputs).into_iter().flat_map(|part| all.inputs_of(part)).collect();
        columns.sort_by_cached_key(|column| std::cmp::Reverse(sublevels(&column.tables).len()));
        columns
    }

    /// These of its tables, in their order.
    fn inputs_of(&self, mut tables: Vec<Placed<'_>>) -> Vec<Input> {
        tables.sort_by_key(|(input, place, _)| (*input, *place));
        let of_input = tables.chunk_by(|(a, ..), (b, ..)| a == b);
        of_input
            .map(|tables| Input {
                slot: self.inputs[tables[0].0].slot,
                tables: tables.iter().map(|(.., table)| Arc::clone(table)).collect(),
            })
            .collect()
    }

    /// What nobody else may touch meanwhile.
    pub(crate) fn claim(&self, id: u64, limits: &Limits<'_>) -> Claim {
        let slots = || self.inputs.iter().map(|input| input.slot).chain(self.target);
        Claim {
            id,
            first: slots().min().unwrap_or(0),
            last: slots().max().unwrap_or(0),
            smallest: self.tables().map(|table| table.meta.smallest.clone()).min().unwrap_or_default(),
            largest: self.tables().map(|table| table.meta.largest.clone()).max().unwrap_or_default(),
            room: self.room(limits),
        }
    }
}

/// A table with the number of its input and its place in it.
type Placed<'a> = (usize, usize, &'a Arc<Table>);

/// Tables in groups that share no key, in the order of keys.
fn stretches(inputs: &[Input]) -> Vec<Vec<Placed<'_>>> {
    let mut by_key: Vec<Placed<'_>> = Vec::new();
    for (number, input) in inputs.iter().enumerate() {
        by_key.extend(input.tables.iter().enumerate().map(|(place, table)| (number, place, table)));
    }
    by_key.sort_by(|(.., a), (.., b)| a.meta.smallest.cmp(&b.meta.smallest));
    let mut stretches: Vec<Vec<Placed<'_>>> = Vec::new();
    let mut largest: &[u8] = &[];
    for placed in by_key {
        let meta = &placed.2.meta;
        match stretches.last_mut() {
            Some(stretch) if meta.smallest.as_slice() <= largest => stretch.push(placed),
            _ => stretches.push(vec![placed]),
        }
        largest = largest.max(&meta.largest);
    }
    stretches
}

/// A stretch of keys over some slots, in which a job is at work, and the room on the disk that is kept for it.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub id: u64,
    first: usize,
    last: usize,
    smallest: Vec<u8>,
    largest: Vec<u8>,
    /// Bytes of the disk that it may take.
    room: u64,
}

impl Claim {
    /// The same, but no room on the disk is kept for it.
    pub(crate) fn without_room(self) -> Claim {
        Claim { room: 0, ..self }
    }

    /// Jobs may run side by side when their keys or their slots lie apart: then neither sees what the other changes, and
    /// nothing new comes to lie under something old.
    fn meets(&self, other: &Claim) -> bool {
        self.first <= other.last
            && other.first <= self.last
            && self.smallest <= other.largest
            && other.smallest <= self.largest
    }
}

/// What limits the choice of a job.
pub(crate) struct Limits<'a> {
    /// What is under way.
    pub claims: &'a [Claim],
    /// Bytes that may be written, by them too.
    pub room: u64,
    pub options: &'a Options,
    /// Blob files whose values are written anew by whatever meets them, by uid.
    pub collect: Vec<u64>,
    /// Rises with every job: now and then comes the turn of those that are not urgent.
    pub turn: u64,
}

impl Limits<'_> {
    /// Whether a job may be done beside the others.
    pub(crate) fn allow(&self, job: &Job) -> bool {
        let claim = job.claim(0, self);
        let reserved = self.claims.iter().map(|other| other.room).sum::<u64>();
        let is_room = claim.room == 0 || claim.room.saturating_add(reserved) <= self.room;
        is_room && !self.claims.iter().any(|other| other.meets(&claim))
    }
}
