//! Maps a file into memory: the only `unsafe` of the engine (D9).
#![expect(unsafe_code, reason = "mapping a file is unsafe by nature; see the SAFETY note")]

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
