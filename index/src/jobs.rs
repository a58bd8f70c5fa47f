//! Work cut out of the index under its lock and done outside of it.
//!
//! A job owns what it reads: parts are immutable and deletes are copied on write, so writers and readers go on meanwhile.

use crate::deletes::Deletes;
use crate::error::Error;
use crate::memory::Run;
use crate::merge::{Input, into_run, into_segment};
use crate::part::Part;
use crate::schema::Schema;
use crate::segment::SegmentSummary;
use crate::segment::reader::Segment;
use crate::stats::Stats;
use std::io;
use std::sync::Arc;

/// Everything that was in memory at one moment, to be written as one segment.
#[derive(Debug)]
pub struct FlushJob {
    pub(crate) schema: Arc<Schema>,
    /// Serial numbers of the frozen runs.
    pub(crate) serials: Vec<u64>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) deletes: Vec<(u64, Deletes)>,
    pub(crate) stats: Stats,
}

impl FlushJob {
    /// Writes the segment; `None` when no document of the runs is left.
    pub fn write(
        &self,
        out: &mut dyn io::Write,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<SegmentSummary>, Error> {
        into_segment(&self.schema, &self.inputs, out, cancelled)
    }

    /// The bitmaps of the segments as of the freeze, the empty ones left out: made durable together with this flush.
    /// When a merge of segments was installed since the freeze, `Index::durable_deletes` after `install_flush` says it
    /// for the segments there are now.
    pub fn deletes(&self) -> Vec<(u64, Deletes)> {
        self.deletes.clone()
    }

    /// Statistics as of the freeze.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

/// Several neighbouring parts, to be made one.
#[derive(Debug)]
pub struct MergeJob {
    pub(crate) schema: Arc<Schema>,
    pub(crate) serials: Vec<u64>,
    pub(crate) inputs: Vec<Input>,
    /// The caller's ids of the segments; empty for runs.
    pub(crate) files: Vec<u64>,
}

impl MergeJob {
    /// Are the inputs runs, to be merged in memory?
    pub fn is_memory(&self) -> bool {
        self.files.is_empty()
    }

    /// The merged run, of a job in memory.
    pub fn run_memory(&self) -> Run {
        assert!(self.is_memory(), "segments are written, not merged in memory");
        into_run(&self.schema, &self.inputs).expect("runs hold nothing that could be damaged")
    }

    /// Ids of the segments that the product replaces.
    pub fn inputs(&self) -> Vec<u64> {
        self.files.clone()
    }

    /// Writes the merged segment; `None` when no document is left.
    pub fn write(
        &self,
        out: &mut dyn io::Write,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<SegmentSummary>, Error> {
        into_segment(&self.schema, &self.inputs, out, cancelled)
    }
}

/// What came out of a merge.
#[derive(Debug)]
pub enum Product {
    /// Of a job in memory.
    Run(Run),
    /// Of a job over segments: its file id and the segment; `None` when no document was left.
    Segment(Option<(u64, Segment)>),
}

impl Product {
    /// The part, unless it is empty, and its file.
    pub(crate) fn into_part(self) -> Option<(Part, Option<u64>)> {
        match self {
            Product::Run(run) if run.docs() == 0 => None,
            Product::Run(run) => Some((Part::Run(Arc::new(run)), None)),
            Product::Segment(segment) => {
                segment.map(|(file, segment)| (Part::Segment(Arc::new(segment)), Some(file)))
            }
        }
    }
}
