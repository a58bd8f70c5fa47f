//! A strict file system in memory, for tests: it forgets what was not synced, and fails when told to.
//!
//! Each file is an inode with its durable bytes and the list of writes since the last sync; each name likewise lives in
//! a durable and a current table. [`Memory::crash`] cuts the power: it decides by a [`Crash`] model and a seed which of
//! the pending writes (in sectors of 512 bytes) and names survive. Every call that reaches the file system is counted,
//! and [`Memory::fail`] makes the n-th one misbehave; [`Memory::power_off_at`] fails that call and all after it, as a
//! process sees the world when the machine dies. Nothing here depends on time, threads or hashing, so the same calls
//! give the same trace.

mod crash;

pub use crash::Crash;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::sync::Mutex;
use crate::vfs::{Bytes, File, Lock, Mode, SyncError, Vfs};

/// The unit that a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// How a chosen call misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with an input/output error and does nothing.
    Eio,
    /// It fails for want of space and does nothing.
    Enospc,
    /// A write stores half of its bytes, then fails; other calls fail with EIO.
    ShortWrite,
    /// A sync fails once and the unsynced bytes are then called clean: still readable, gone at the next power cut.
    LyingSync,
}

enum Pending {
    Write { issue: u64, offset: usize, bytes: Vec<u8> },
    Length { issue: u64, len: usize },
}

#[derive(Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<Pending>,
}

enum NameChange {
    Set { issue: u64, path: PathBuf, inode: u64 },
    Remove { issue: u64, path: PathBuf },
}

#[derive(Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    durable_names: BTreeMap<PathBuf, u64>,
    names: BTreeMap<PathBuf, u64>,
    changes: Vec<NameChange>,
    dirs: Vec<PathBuf>,
    locks: Vec<PathBuf>,
    calls: u64,
    issues: u64,
    faults: BTreeMap<u64, Fault>,
    power_off_at: Option<u64>,
    capacity: Option<u64>,
    /// Raised by a crash: handles from before it are dead.
    generation: u64,
}

/// The file system; clones share it.
#[derive(Clone, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

struct MemoryFile {
    state: Arc<Mutex<State>>,
    inode: u64,
    generation: u64,
}

struct MemoryLock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    generation: u64,
}

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.generation == self.generation {
            state.locks.retain(|path| *path != self.path);
        }
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl State {
    /// Counts a call and says how it is to fail, if it is.
    fn call(&mut self, generation: u64) -> io::Result<Option<Fault>> {
        self.calls += 1;
        if generation != self.generation || self.power_off_at.is_some_and(|at| self.calls >= at) {
            return Err(power_is_off());
        }
        match self.faults.remove(&self.calls) {
            Some(Fault::Eio) => Err(io::Error::other("input/output error (injected)")),
            Some(Fault::Enospc) => Err(io::ErrorKind::StorageFull.into()),
            other => Ok(other),
        }
    }

    fn issue(&mut self) -> u64 {
        self.issues += 1;
        self.issues
    }

    fn used(&self) -> u64 {
        self.inodes.values().map(|inode| inode.current.len() as u64).sum()
    }

    fn room_for(&self, inode: u64, len: usize) -> io::Result<()> {
        let grows = len.saturating_sub(self.inodes[&inode].current.len()) as u64;
        match self.capacity {
            Some(capacity) if grows > 0 && self.used() + grows > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn forget_unnamed(&mut self) {
        let (names, durable) = (&self.names, &self.durable_names);
        self.inodes.retain(|id, _| names.values().any(|n| n == id) || durable.values().any(|n| n == id));
    }
}

fn write_into(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

impl Memory {
    /// An empty file system.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// How many calls have been made.
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// Makes call number `call` (the first is 1) misbehave.
    pub fn fail(&self, call: u64, fault: Fault) {
        self.state.lock().faults.insert(call, fault);
    }

    /// Makes call number `call` and every later one fail, until [`Memory::crash`].
    pub fn power_off_at(&self, call: u64) {
        self.state.lock().power_off_at = Some(call);
    }

    /// Limits the bytes that files may hold together; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// The current bytes of a file.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock();
        Some(state.inodes[state.names.get(path)?].current.clone())
    }

    /// Replaces a file's bytes behind everybody's back, as a failing disk would.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        let id = *state.names.get(path).expect("a file to damage");
        let inode = state.inodes.get_mut(&id).expect("a named inode");
        change(&mut inode.current);
        inode.durable = inode.current.clone();
        inode.pending.clear();
    }

    /// All files with their bytes, for a copy or a comparison.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let state = self.state.lock();
        state.names.iter().map(|(path, id)| (path.clone(), state.inodes[id].current.clone())).collect()
    }

    /// A separate file system with the same files, all of them durable.
    pub fn fork(&self) -> Memory {
        let copy = Memory::new();
        {
            let source = self.state.lock();
            let mut target = copy.state.lock();
            target.dirs = source.dirs.clone();
            for (path, id) in &source.names {
                let bytes = source.inodes[id].current.clone();
                let inode = target.next_inode;
                target.next_inode += 1;
                target
                    .inodes
                    .insert(inode, Inode { durable: bytes.clone(), current: bytes, pending: Vec::new() });
                target.names.insert(path.clone(), inode);
                target.durable_names.insert(path.clone(), inode);
            }
        }
        copy
    }
}

impl MemoryFile {
    fn with<T>(&self, action: impl FnOnce(&mut State, Option<Fault>) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        let fault = state.call(self.generation)?;
        action(&mut state, fault)
    }
}

impl File for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|state, fault| {
            if fault.is_some() {
                return Err(io::Error::other("input/output error (injected)"));
            }
            let bytes = &state.inodes[&self.inode].current;
            let start = usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            let source = start
                .checked_add(buffer.len())
                .and_then(|end| bytes.get(start..end))
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(source);
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|state, fault| {
            let offset = offset as usize;
            let bytes = if fault.is_some() { &bytes[..bytes.len() / 2] } else { bytes };
            state.room_for(self.inode, offset + bytes.len())?;
            let issue = state.issue();
            let inode = state.inodes.get_mut(&self.inode).expect("an open inode");
            write_into(&mut inode.current, offset, bytes);
            inode.pending.push(Pending::Write { issue, offset, bytes: bytes.to_vec() });
            if fault.is_some() { Err(io::Error::other("short write (injected)")) } else { Ok(()) }
        })
    }

    fn sync(&self) -> Result<(), SyncError> {
        self.with(|state, fault| {
            let inode = state.inodes.get_mut(&self.inode).expect("an open inode");
            if fault == Some(Fault::LyingSync) {
                inode.pending.clear();
            }
            if fault.is_some() {
                return Err(io::Error::other("sync failed (injected)"));
            }
            // The durable bytes are built from the pending writes, not copied from the current ones: pages that a
            // lying sync called clean are never written again.
            for pending in inode.pending.drain(..) {
                match pending {
                    Pending::Write { offset, bytes, .. } => write_into(&mut inode.durable, offset, &bytes),
                    Pending::Length { len, .. } => inode.durable.resize(len, 0),
                }
            }
            Ok(())
        })
        .map_err(SyncError)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.with(|state, fault| match fault {
            Some(_) => Err(io::Error::other("input/output error (injected)")),
            None => {
                state.room_for(self.inode, len as usize)?;
                if (state.inodes[&self.inode].current.len() as u64) < len {
                    let issue = state.issue();
                    let inode = state.inodes.get_mut(&self.inode).expect("an open inode");
                    inode.current.resize(len as usize, 0);
                    inode.pending.push(Pending::Length { issue, len: len as usize });
                }
                Ok(())
            }
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state, fault| match fault {
            Some(_) => Err(io::Error::other("input/output error (injected)")),
            None => {
                state.room_for(self.inode, len as usize)?;
                let issue = state.issue();
                let inode = state.inodes.get_mut(&self.inode).expect("an open inode");
                inode.current.resize(len as usize, 0);
                inode.pending.push(Pending::Length { issue, len: len as usize });
                Ok(())
            }
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state, _| Ok(state.inodes[&self.inode].current.len() as u64))
    }
}

impl Vfs for Memory {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        let generation = state.generation;
        if state.call(generation)?.is_some() {
            return Err(io::Error::other("input/output error (injected)"));
        }
        let inode = match (state.names.get(path).copied(), mode) {
            (Some(_), Mode::Create) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), _) => inode,
            (None, Mode::Create) => {
                let inode = state.next_inode;
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::default());
                state.names.insert(path.to_path_buf(), inode);
                let issue = state.issue();
                state.changes.push(NameChange::Set { issue, path: path.to_path_buf(), inode });
                inode
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(MemoryFile { state: self.state.clone(), inode, generation }))
    }

    fn map(&self, path: &Path) -> io::Result<Bytes> {
        let mut state = self.state.lock();
        let generation = state.generation;
        if state.call(generation)?.is_some() {
            return Err(io::Error::other("input/output error (injected)"));
        }
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(state.inodes[&inode].current.clone()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let generation = state.generation;
        if state.call(generation)?.is_some() {
            return Err(io::Error::other("input/output error (injected)"));
        }
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_path_buf(), inode);
        // Two halves that a power cut may part: POSIX promises atomicity to processes, not to disks.
        let issue = state.issue();
        state.changes.push(NameChange::Set { issue, path: to.to_path_buf(), inode });
        let issue = state.issue();
        state.changes.push(NameChange::Remove { issue, path: from.to_path_buf() });
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let generation = state.generation;
        if state.call(generation)?.is_some() {
            return Err(io::Error::other("input/output error (injected)"));
        }
        if state.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_path_buf(), inode);
        let issue = state.issue();
        state.changes.push(NameChange::Set { issue, path: to.to_path_buf(), inode });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let generation = state.generation;
        if state.call(generation)?.is_some() {
            return Err(io::Error::other("input/output error (injected)"));
        }
        state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        let issue = state.issue();
        state.changes.push(NameChange::Remove { issue, path: path.to_path_buf() });
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let generation = state.generation;
        if state.call(generation)?.is_some() {
            return Err(io::Error::other("input/output error (injected)"));
        }
        if !state.dirs.iter().any(|dir| dir == path) {
            state.dirs.push(path.to_path_buf());
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state.lock();
        let generation = state.generation;
        if state.call(generation)?.is_some() {
            return Err(io::Error::other("input/output error (injected)"));
        }
        if !state.dirs.iter().any(|dir| dir == path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let names = state.names.keys().filter(|name| name.parent() == Some(path));
        Ok(names.filter_map(|name| name.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn sync_dir(&self, path: &Path) -> Result<(), SyncError> {
        let mut state = self.state.lock();
        let generation = state.generation;
        match state.call(generation) {
            Err(error) => return Err(SyncError(error)),
            Ok(Some(_)) => return Err(SyncError(io::Error::other("sync failed (injected)"))),
            Ok(None) => {}
        }
        let state = &mut *state;
        state.changes.retain(|change| {
            let (NameChange::Set { path: name, .. } | NameChange::Remove { path: name, .. }) = change;
            if name.parent() != Some(path) {
                return true;
            }
            match change {
                NameChange::Set { inode, .. } => state.durable_names.insert(name.clone(), *inode),
                NameChange::Remove { .. } => state.durable_names.remove(name),
            };
            false
        });
        Ok(())
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        let mut state = self.state.lock();
        let generation = state.generation;
        state.call(generation)?;
        Ok(state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used())))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut state = self.state.lock();
        let generation = state.generation;
        state.call(generation)?;
        if state.locks.iter().any(|held| held == path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locks.push(path.to_path_buf());
        Ok(Box::new(MemoryLock { state: self.state.clone(), path: path.to_path_buf(), generation }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(vfs: &Memory, name: &str) -> Arc<dyn File> {
        vfs.open(Path::new(name), Mode::Create).expect("create")
    }

    #[test]
    fn unsynced_bytes_and_names_are_lost() {
        let vfs = Memory::new();
        vfs.create_dir(Path::new("/d")).expect("dir");
        let synced = file(&vfs, "/d/synced");
        synced.write_at(b"kept", 0).expect("write");
        synced.sync().expect("sync");
        vfs.sync_dir(Path::new("/d")).expect("sync dir");
        synced.write_at(b"lost", 4).expect("write");
        let unnamed = file(&vfs, "/d/unnamed");
        unnamed.write_at(b"x", 0).expect("write");
        unnamed.sync().expect("sync of the bytes, not of the name");
        vfs.crash(Crash::DropPending, 1);
        assert_eq!(vfs.contents(Path::new("/d/synced")).expect("there"), b"kept");
        assert_eq!(vfs.contents(Path::new("/d/unnamed")), None);
        assert!(synced.write_at(b"x", 0).is_err(), "a handle from before the crash is dead");
    }

    #[test]
    fn a_lying_sync_shows_bytes_until_the_power_is_cut() {
        let vfs = Memory::new();
        let lied = file(&vfs, "/f");
        vfs.sync_dir(Path::new("/")).expect("sync dir");
        lied.write_at(b"abc", 0).expect("write");
        vfs.fail(vfs.calls() + 1, Fault::LyingSync);
        assert!(lied.sync().is_err());
        lied.sync().expect("the second sync has nothing left to write");
        assert_eq!(vfs.contents(Path::new("/f")).expect("there"), b"abc");
        vfs.crash(Crash::DropPending, 1);
        assert_eq!(vfs.contents(Path::new("/f")).expect("there"), b"");
    }

    #[test]
    fn the_same_seed_leaves_the_same_bytes() {
        let run = |seed| {
            let vfs = Memory::new();
            let random = file(&vfs, "/f");
            vfs.sync_dir(Path::new("/")).expect("sync dir");
            for sector in 0..20 {
                random
                    .write_at(&[sector as u8 + 1; SECTOR_BYTES], sector * SECTOR_BYTES as u64)
                    .expect("write");
            }
            vfs.crash(Crash::RandomSectors, seed);
            vfs.contents(Path::new("/f")).expect("there")
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn space_is_counted() {
        let vfs = Memory::new();
        let full = file(&vfs, "/f");
        vfs.set_capacity(Some(10));
        full.write_at(&[1; 10], 0).expect("fits");
        assert_eq!(full.write_at(&[1], 10).expect_err("full").kind(), io::ErrorKind::StorageFull);
        assert_eq!(vfs.free_space(Path::new("/")).expect("space"), 0);
    }
}
