//! A file system whose changes stay in memory: whoever runs on it reads what is below and never changes it.
//!
//! Recovery writes (a fresh manifest, the unproven tail of the log, no more leftovers). Over an overlay it can do so as ever,
//! and a folder can be checked as it is, on a read-only mount too.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::sync::Mutex;
use crate::vfs::{Bytes, File, Lock, Mode, SyncError, Vfs};

/// Where the file of a name is that is not simply below under its name.
#[derive(Clone)]
enum Place {
    /// Removed, or renamed to another name.
    Gone,
    /// Below, under another name.
    Below(PathBuf),
    /// Written here.
    Here(Arc<Written>),
}

/// A file in memory.
#[derive(Default)]
struct Written(Mutex<Vec<u8>>);

/// See the module.
pub struct Overlay {
    below: Arc<dyn Vfs>,
    places: Mutex<BTreeMap<PathBuf, Place>>,
}

/// Nobody else can have the folder.
struct NoLock;

impl Lock for NoLock {}

impl Overlay {
    /// Lies over `below`.
    pub fn new(below: Arc<dyn Vfs>) -> Overlay {
        Overlay { below, places: Mutex::new(BTreeMap::new()) }
    }

    fn place(&self, path: &Path) -> Place {
        self.places.lock().get(path).cloned().unwrap_or_else(|| Place::Below(path.to_path_buf()))
    }

    fn write(&self, path: &Path, bytes: Vec<u8>) -> Arc<dyn File> {
        let file = Arc::new(Written(Mutex::new(bytes)));
        self.places.lock().insert(path.to_path_buf(), Place::Here(file.clone()));
        file
    }

    /// Fails unless there is a file of this name.
    fn exists(&self, path: &Path) -> io::Result<Place> {
        let place = self.place(path);
        match &place {
            Place::Gone => Err(io::ErrorKind::NotFound.into()),
            Place::Below(below) => self.below.open(below, Mode::Read).map(|_| place),
            Place::Here(_) => Ok(place),
        }
    }
}

impl File for Written {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.0.lock();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let from = bytes.get(start..start.saturating_add(buffer.len()));
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut all = self.0.lock();
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = start + bytes.len();
        if all.len() < end {
            all.resize(end, 0);
        }
        all[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> Result<(), SyncError> {
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len > self.len()? { self.set_len(len) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.0.lock().resize(len, 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().len() as u64)
    }
}

impl Vfs for Overlay {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        match (mode, self.exists(path)) {
            (Mode::Create, Ok(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            (Mode::Create, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                Ok(self.write(path, Vec::new()))
            }
            (_, Err(error)) => Err(error),
            (_, Ok(Place::Here(file))) => Ok(file),
            (Mode::Write, Ok(Place::Below(below))) => {
                let bytes = self.below.map(&below)?;
                Ok(self.write(path, (*bytes).as_ref().to_vec()))
            }
            (_, Ok(Place::Below(below))) => self.below.open(&below, Mode::Read),
            (_, Ok(Place::Gone)) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn map(&self, path: &Path) -> io::Result<Bytes> {
        match self.place(path) {
            Place::Gone => Err(io::ErrorKind::NotFound.into()),
            Place::Below(below) => self.below.map(&below),
            Place::Here(file) => Ok(Arc::new(file.0.lock().clone())),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let place = self.exists(from)?;
        let mut places = self.places.lock();
        places.insert(to.to_path_buf(), place);
        places.insert(from.to_path_buf(), Place::Gone);
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.exists(to).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let place = self.exists(from)?;
        self.places.lock().insert(to.to_path_buf(), place);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.exists(path)?;
        self.places.lock().insert(path.to_path_buf(), Place::Gone);
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        // A folder that is not there holds nothing that could be read.
        self.below.list(path).map(drop)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names: std::collections::BTreeSet<String> = self.below.list(path)?.into_iter().collect();
        for (file, place) in self.places.lock().iter().filter(|(file, _)| file.parent() == Some(path)) {
            let Some(name) = file.file_name().and_then(|name| name.to_str()) else { continue };
            match place {
                Place::Gone => names.remove(name),
                Place::Below(_) | Place::Here(_) => names.insert(name.to_owned()),
            };
        }
        Ok(names.into_iter().collect())
    }

    fn sync_dir(&self, _path: &Path) -> Result<(), SyncError> {
        Ok(())
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.below.free_space(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        // To lock is to make the file; where it is not, nobody has locked it.
        if self.below.open(path, Mode::Read).is_err() {
            return Ok(Box::new(NoLock));
        }
        match self.below.lock(path) {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(Box::new(NoLock)),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::memory::Memory;

    #[test]
    fn what_changes_above_stays_above() {
        let below = Memory::new();
        let dir = Path::new("/d");
        below.create_dir(dir).unwrap();
        for name in ["a", "b", "c"] {
            let file = below.open(&dir.join(name), Mode::Create).unwrap();
            file.write_at(name.as_bytes(), 0).unwrap();
        }
        let before = below.files();
        let overlay = Overlay::new(Arc::new(below.clone()));
        overlay.open(&dir.join("a"), Mode::Write).unwrap().write_at(b"xyz", 1).unwrap();
        overlay.rename(&dir.join("b"), &dir.join("d")).unwrap();
        overlay.remove(&dir.join("c")).unwrap();
        assert!(overlay.open(&dir.join("a"), Mode::Create).is_err());
        overlay.open(&dir.join("c"), Mode::Create).unwrap().set_len(2).unwrap();
        assert_eq!(overlay.list(dir).unwrap(), ["a", "c", "d"]);
        let bytes = |name: &str| overlay.map(&dir.join(name)).map(|bytes| (*bytes).as_ref().to_vec());
        assert_eq!((bytes("a").unwrap(), bytes("c").unwrap()), (b"axyz".to_vec(), vec![0, 0]));
        assert_eq!(bytes("d").unwrap(), b"b");
        assert!(bytes("b").is_err() && overlay.open(&dir.join("b"), Mode::Read).is_err());
        assert_eq!(below.files(), before);
    }
}
