//! The one way to walk sorted entries, forward and backward.

use std::cmp::Ordering;

use crate::error::{Error, Result};
use crate::key::{Entry, Seq, compare};

/// A place among entries that are sorted by key ascending, then seq descending. A new cursor stands nowhere; an error
/// leaves it nowhere.
pub(crate) trait Cursor {
    /// Stands on the first entry.
    fn seek_first(&mut self) -> Result<()>;
    /// Stands on the last entry.
    fn seek_last(&mut self) -> Result<()>;
    /// Stands on the first entry whose key is at least `key`: the newest version of that key.
    fn seek(&mut self, key: &[u8]) -> Result<()>;
    /// Stands on the first entry that is not before version `seq` of `key`. In tables it steps over the newer versions of the key:
    /// only who keeps old versions on purpose has many of them there.
    fn seek_version(&mut self, key: &[u8], seq: Seq) -> Result<()> {
        self.seek(key)?;
        while self.entry().is_some_and(|entry| compare(entry.key, entry.seq, key, seq) == Ordering::Less) {
            self.next()?;
        }
        Ok(())
    }
    /// Stands on the last entry whose key is less than `key`: the oldest version of that key.
    fn seek_before(&mut self, key: &[u8]) -> Result<()>;
    /// One entry on. The cursor must stand on an entry.
    fn next(&mut self) -> Result<()>;
    /// One entry back. The cursor must stand on an entry.
    fn prev(&mut self) -> Result<()>;
    /// The entry it stands on.
    fn entry(&self) -> Option<Entry<'_>>;
    /// The error for keys that do not ascend, with the file and the block that it stands in. A walk that seeks has to look, for
    /// it could go in circles.
    fn out_of_order(&self) -> Error;
}
