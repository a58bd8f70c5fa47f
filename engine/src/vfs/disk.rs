//! The real file system.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::FallocateFlags;

use crate::vfs::mapping;
#[cfg(target_os = "linux")]
use crate::vfs::mapping::Window;
use crate::vfs::{Bytes, File, Lock, Mode, SyncError, Vfs};

/// Files of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

struct DiskFile {
    file: fs::File,
    /// Where small writes go that follow one another.
    #[cfg(target_os = "linux")]
    next: Mutex<Next>,
}

/// How the next small write is done.
#[cfg(target_os = "linux")]
#[derive(Default)]
enum Next {
    /// It is not known yet whether memory can be used.
    #[default]
    Unknown,
    /// By a call of the system.
    Call,
    /// Into memory.
    Window(Window),
    /// By a call, for somebody syncs: a page that is written to by memory now would be so after the sync as well, and the file
    /// system could refuse that by a signal only.
    Syncing,
}

/// Bytes of a window: pages are had in one call instead of one by one, and few of them count as memory in use.
#[cfg(target_os = "linux")]
const WINDOW_BYTES: u64 = 256 << 10;
/// Windows begin at multiples of it.
#[cfg(target_os = "linux")]
const WINDOW_ALIGN: u64 = 64 << 10;
/// Longer pieces are written as quickly by a call.
#[cfg(target_os = "linux")]
const SMALL_BYTES: usize = 256;

impl DiskFile {
    fn new(file: fs::File) -> DiskFile {
        DiskFile {
            file,
            #[cfg(target_os = "linux")]
            next: Mutex::default(),
        }
    }

    /// The next window, from `offset` on; a call where memory will not do.
    ///
    /// Memory is used on file systems that keep what was allocated for whoever writes later. Elsewhere (btrfs, zfs) a full disk
    /// would show in a signal and not in an error.
    #[cfg(target_os = "linux")]
    fn next_window(&self, next: &Next, offset: u64) -> Next {
        const KEEPS_ROOM: [rustix::fs::FsWord; 3] = [0xef53, 0x5846_5342, 0x0102_1994]; // ext4, XFS, tmpfs
        if let Next::Unknown = next {
            let kind = rustix::fs::fstatfs(&self.file).map_or(0, |stat| stat.f_type);
            if !KEEPS_ROOM.contains(&kind) {
                return Next::Call;
            }
        }
        let start = offset / WINDOW_ALIGN * WINDOW_ALIGN;
        let end = (start + WINDOW_BYTES).min(self.file.metadata().map_or(0, |metadata| metadata.len()));
        if end <= offset {
            return Next::Call; // no room was allocated
        }
        let len = (end - start) as usize;
        Window::new(&self.file, start, len).map_or(Next::Call, Next::Window)
    }
}

struct DiskLock {
    /// Held open: closing it would release the lock.
    _file: fs::File,
}

impl Lock for DiskLock {}

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    #[cfg(target_os = "linux")]
    fn write_next_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if bytes.len() > SMALL_BYTES {
            return self.write_at(bytes, offset);
        }
        let mut next = self.next.lock();
        for _ in 0..2 {
            let is_written = match &mut *next {
                Next::Call | Next::Syncing => break,
                Next::Window(window) => window.write(bytes, offset),
                Next::Unknown => false,
            };
            if is_written {
                return Ok(());
            }
            *next = self.next_window(&next, offset);
        }
        drop(next); // who syncs does not wait for the call
        self.write_at(bytes, offset)
    }

    #[cfg(target_os = "linux")]
    fn sync(&self) -> Result<(), SyncError> {
        let set = |to: Next| {
            let mut next = self.next.lock();
            if !matches!(*next, Next::Call) {
                *next = to;
            }
        };
        set(Next::Syncing);
        let synced = self.file.sync_data();
        set(Next::Unknown);
        synced.map_err(SyncError)
    }

    #[cfg(not(target_os = "linux"))]
    fn sync(&self) -> Result<(), SyncError> {
        self.file.sync_data().map_err(SyncError)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len <= self.len()? {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            // Not every file system can reserve; the room is then found write by write.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            other => other.map_err(io::Error::from),
        }
    }

    fn fill(&self, from: u64, to: u64) -> io::Result<()> {
        // Page by page: a large write makes large folios in the page cache, and ext4 walks all blocks of a folio
        // for each small write into it later (a third of the time of writing 100 B values).
        crate::vfs::fill_by(self, 4 << 10, from, to)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            *self.next.lock() = Next::Unknown;
        }
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

impl Vfs for Disk {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match mode {
            Mode::Read => {}
            Mode::Write => {
                options.write(true);
            }
            Mode::Create => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(DiskFile::new(options.open(path)?)))
    }

    fn map(&self, path: &Path) -> io::Result<Bytes> {
        let file = fs::File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Arc::new(Vec::new())); // an empty range cannot be mapped
        }
        Ok(Arc::new(mapping::map(&file)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.create_dir(parent)?;
        }
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.sync_dir(parent).map_err(|error| error.0)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                // A name that is not UTF-8 is none of ours.
                if let Ok(name) = entry.file_name().into_string() {
                    names.push(name);
                }
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self, path: &Path) -> Result<(), SyncError> {
        fs::File::open(path).and_then(|dir| dir.sync_all()).map_err(SyncError)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(DiskLock { _file: file })),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Disk;
    use crate::vfs::{Mode, Vfs};

    /// Pieces of all lengths, written next to one another through memory and by calls in turn, are what anybody reads, at once
    /// and through another handle: across windows, at the end of the file and beyond it.
    #[test]
    fn small_pieces_through_memory_are_in_the_file_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        for allocated in [0, 100, 300 << 10, 2 << 20] {
            let path: &Path = &folder.path().join(format!("{allocated}"));
            let file = Disk.open(path, Mode::Create).expect("create");
            file.allocate(allocated).expect("allocate");
            let other = Disk.open(path, Mode::Read).expect("open");
            let mut expected = Vec::new();
            for n in 0..3000usize {
                let piece = vec![(n % 251) as u8; 1 + n * 37 % 2500];
                let at = expected.len() as u64;
                if n % 7 == 3 { file.write_at(&piece, at) } else { file.write_next_at(&piece, at) }
                    .expect("write");
                expected.extend_from_slice(&piece);
                let mut read = vec![0; piece.len()];
                other.read_at(&mut read, at).expect("read");
                assert_eq!(read, piece, "piece {n} at {at} of {allocated}");
                if n % 500 == 499 {
                    file.sync().expect("sync");
                }
            }
            // Back to what was written before, and once more after the file was cut.
            file.write_next_at(b"first", 0).expect("write");
            expected[..5].copy_from_slice(b"first");
            let mut whole = vec![0; expected.len()];
            other.read_at(&mut whole, 0).expect("read");
            assert!(whole == expected, "{allocated}");
            file.set_len(10).expect("cut");
            file.write_next_at(b"again", 20).expect("write");
            assert_eq!(std::fs::read(path).expect("read")[20..25], *b"again");
        }
    }
}
