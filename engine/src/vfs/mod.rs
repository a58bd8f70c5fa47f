//! Files as the engine sees them: named, written at positions, synced one by one, and nothing else.
//!
//! Three implementations: [`disk`] is the real one; [`memory`] forgets whatever was
//! not synced when the power is cut, and fails on request; [`overlay`] keeps changes from the one below. Everything the engine keeps goes through this trait, so that
//! one set of power-cut tests covers all of it.
//!
//! Rules for callers, from the fault model (design, reliability.md B):
//! 1. A name (create, rename, remove) is durable only after [`Vfs::sync_dir`] of its folder.
//! 2. Bytes and length are durable only after [`File::sync`].
//! 3. A failed sync is final: the file is never synced or written again, hence [`SyncError`] is a type of its own.

pub mod disk;
mod mapping;
pub mod memory;
pub mod overlay;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Immutable bytes of a whole file, mapped or copied.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A sync that failed. There is no way to retry it: the kernel may have dropped the dirty pages and call them clean.
#[derive(Debug)]
pub struct SyncError(pub io::Error);

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Existing, for reading.
    Read,
    /// Existing, for reading and writing.
    Write,
    /// New, for reading and writing; fails if the name is taken.
    Create,
}

/// An open file. Positional reads and writes only: there is no cursor to get out of step.
pub trait File: Send + Sync {
    /// Fills `buffer` from `offset`; an error if the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`. After an error, any part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// As [`File::write_at`], for small pieces that follow one another where room was allocated, and are not synced soon: the
    /// system has them, quicker.
    fn write_next_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(bytes, offset)
    }
    /// Makes bytes and length durable.
    fn sync(&self) -> Result<(), SyncError>;
    /// Reserves room for the first `len` bytes, as far as the file system can; never shortens.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Writes zeros from `from` to `to`, for small writes to replace: reserved blocks are not enough, their first write
    /// costs a journal commit.
    fn fill(&self, from: u64, to: u64) -> io::Result<()> {
        fill_by(self, 1 << 20, from, to)
    }
    /// Cuts or extends with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Writes zeros, so many bytes at once.
fn fill_by<F: File + ?Sized>(file: &F, chunk: u64, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; chunk.min(to.saturating_sub(from)) as usize];
    let mut at = from;
    while at < to {
        let len = (to - at).min(chunk);
        file.write_at(&zeros[..len as usize], at)?;
        at += len;
    }
    Ok(())
}

/// Keeps a folder locked against other processes while it lives.
pub trait Lock: Send + Sync {}

/// A file system.
pub trait Vfs: Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>>;
    /// All bytes of a file that will not change any more.
    fn map(&self, path: &Path) -> io::Result<Bytes>;
    /// Renames a file, replacing one of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file that will not change any more a further name, which must be free. Fails where the file system cannot,
    /// between devices for one.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Creates a folder and those above it, durably; an existing one is fine.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Names of the files in a folder, sorted. Folders in it are left out.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> Result<(), SyncError>;
    /// Free bytes on the device that holds `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
    /// Locks `path` (a file made for it) against other processes; `WouldBlock` when it is taken.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
}
