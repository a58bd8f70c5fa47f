//! Which tables to compact next, and why.

use std::sync::Arc;

use crate::options::Options;
use crate::range_delete::RangeDeletes;
use crate::table::reader::Table;
use crate::version::{LEVELS, Version};

/// A compaction to do.
pub(crate) struct Job {
    /// Where the upper inputs lie.
    pub level: usize,
    /// Where the output goes.
    pub target: usize,
    /// Tables of `level`.
    pub upper: Vec<Arc<Table>>,
    /// Tables of `target` that overlap them.
    pub lower: Vec<Arc<Table>>,
}

impl Job {
    /// Whether the tables may simply change their level.
    pub(crate) fn is_move(&self) -> bool {
        self.lower.is_empty() && self.upper.len() == 1 && self.level != self.target
    }
}

/// A compaction strategy: looks at a version and names the next job.
pub(crate) trait Picker: Send + Sync {
    /// `None` when the tree is in shape.
    fn pick(&self, version: &Version) -> Option<Job>;
}

/// Leveled compaction: each level is sorted and ten times the one above; the fullest level gives the table that overlaps
/// least, for its size, with the next (RocksDB's kMinOverlappingRatio).
pub(crate) struct Leveled {
    pub level0_tables: usize,
    pub level_bytes: u64,
}

impl Leveled {
    pub(crate) fn new(options: &Options) -> Leveled {
        Leveled { level0_tables: options.level0_tables.max(1), level_bytes: options.level_bytes.max(1) }
    }

    fn target_bytes(&self, level: usize) -> u64 {
        self.level_bytes.saturating_mul(10u64.saturating_pow(level as u32 - 1))
    }

    fn level0(&self, version: &Version) -> Option<Job> {
        let upper = version.levels[0].clone();
        let smallest = upper.iter().map(|table| &table.meta.smallest).min()?.clone();
        let largest = upper.iter().map(|table| &table.meta.largest).max()?.clone();
        let lower = version.overlapping(1, &smallest, &largest);
        Some(Job { level: 0, target: 1, upper, lower })
    }

    fn one_table(&self, version: &Version, level: usize) -> Option<Job> {
        let overlap = |table: &Arc<Table>| {
            let lower = version.overlapping(level + 1, &table.meta.smallest, &table.meta.largest);
            let bytes: u64 = lower.iter().map(|lower| lower.meta.len).sum();
            (bytes * 1024 / table.meta.len.max(1), lower)
        };
        let best = version.levels[level].iter().map(|table| (overlap(table), table));
        let ((_, lower), table) = best.min_by_key(|((ratio, _), table)| (*ratio, table.meta.number))?;
        Some(Job { level, target: level + 1, upper: vec![table.clone()], lower })
    }

    /// A table that a range delete covers in part and nothing newer will push down is rewritten in its place.
    fn under_range_delete(&self, version: &Version) -> Option<Job> {
        for range in version.range_deletes.list() {
            for (level, tables) in version.levels.iter().enumerate() {
                if let Some(table) = tables.iter().find(|table| RangeDeletes::touches(range, &table.meta)) {
                    if level == 0 {
                        return self.level0(version);
                    }
                    let (upper, lower) = (vec![table.clone()], Vec::new());
                    return Some(Job { level, target: level, upper, lower });
                }
            }
        }
        None
    }
}

impl Picker for Leveled {
    fn pick(&self, version: &Version) -> Option<Job> {
        let mut best: Option<(f64, usize)> = None;
        for level in 0..LEVELS - 1 {
            let score = match level {
                0 => version.levels[0].len() as f64 / self.level0_tables as f64,
                _ => version.level_bytes(level) as f64 / self.target_bytes(level) as f64,
            };
            if score >= 1.0 && best.is_none_or(|(top, _)| score > top) {
                best = Some((score, level));
            }
        }
        match best {
            Some((_, 0)) => self.level0(version),
            Some((_, level)) => self.one_table(version, level),
            None => self.under_range_delete(version),
        }
    }
}
