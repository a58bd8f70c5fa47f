//! Maps files into memory: the only `unsafe` of the engine (D9).
#![expect(unsafe_code, reason = "mapping a file is unsafe by nature; see the SAFETY notes")]

use std::fs::File;
use std::io;

/// Maps all of `file` for reading.
pub(super) fn map(file: &File) -> io::Result<memmap2::Mmap> {
    // SAFETY: a mapping is sound while nobody changes or shortens the file beneath it. Only attachments are mapped:
    // they are written under a fresh number, synced, and named in the manifest before anyone maps them, and are never
    // written again; removing the name leaves the mapped pages alive. The folder is locked against other Lumen
    // processes. A foreign process that truncates the file can still cause SIGBUS, as with every mapped database;
    // README.md says so under limits.
    unsafe { memmap2::Mmap::map(file) }
}

/// A stretch of a file whose pages are in memory, to be written without a call of the system.
#[cfg(target_os = "linux")]
pub(super) struct Window {
    map: memmap2::MmapMut,
    start: u64,
}

#[cfg(target_os = "linux")]
impl Window {
    /// Pages in so many bytes from `start`, all of which the file has, and makes them writable: what goes wrong with that is
    /// an error here, not a signal at the first store. What remains is the system writing pages back by itself between two
    /// stores, on a file system that fails at just that moment.
    pub(super) fn new(file: &File, start: u64, len: usize) -> io::Result<Window> {
        // SAFETY: the slice is handed to nobody, and written by copying only (below), under the lock that holds the window;
        // nothing in this process reads these bytes through memory. The file is a segment of a log: it is never shortened
        // while it is open (`DiskFile::set_len` drops the window), and `len` ends inside it. A foreign process that
        // truncates it can cause SIGBUS, as above.
        let map = unsafe { memmap2::MmapOptions::new().offset(start).len(len).map_mut(file)? };
        map.advise(memmap2::Advice::PopulateWrite)?;
        Ok(Window { map, start })
    }

    /// Copies `bytes` to `offset` of the file; false if the window does not reach so far.
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) -> bool {
        let at = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let place = at.and_then(|at| self.map.get_mut(at..at.checked_add(bytes.len())?));
        match place {
            Some(place) => {
                place.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}
