//! Reading ahead: who walks block after block gets the next ones with the same call.

use std::io;

use crate::table::footer::Handle;
use crate::vfs::File;

/// Blocks read one behind the other before more than one is read at once.
const AFTER_BLOCKS: u32 = 2;
/// Bytes of the first read that goes ahead; each further one takes twice as many.
const FIRST_BYTES: usize = 32 << 10;
/// The most that is read at once for a scan, which may end at any row.
const SCAN_BYTES_MAX: usize = 256 << 10;
/// What is read at once for who walks all of a table.
const WHOLE_BYTES: usize = 1 << 20;
/// A partition may lie between two blocks that follow one another.
const GAP_BYTES: u64 = 64 << 10;

/// Bytes of a file read beyond what was asked for.
pub(crate) struct Ahead {
    /// Where the bytes begin.
    at: u64,
    bytes: Vec<u8>,
    /// Where the block read last ends.
    last_end: u64,
    in_order: u32,
    window: usize,
    window_max: usize,
}

impl Ahead {
    /// For a scan, or for one that walks all of the table.
    pub(crate) fn new(scan: bool) -> Ahead {
        let (in_order, window) = if scan { (0, FIRST_BYTES) } else { (AFTER_BLOCKS, WHOLE_BYTES) };
        let window_max = if scan { SCAN_BYTES_MAX } else { WHOLE_BYTES };
        Ahead { at: 0, bytes: Vec::new(), last_end: 0, in_order, window, window_max }
    }

    /// The bytes of a block, which ends at most at `end` of the file.
    pub(crate) fn read(&mut self, file: &dyn File, handle: Handle, end: u64) -> io::Result<&[u8]> {
        let block_end = handle.offset + handle.len as u64;
        if handle.offset >= self.at && block_end <= self.at + self.bytes.len() as u64 {
            self.last_end = block_end;
            let from = (handle.offset - self.at) as usize;
            return Ok(&self.bytes[from..from + handle.len]);
        }
        let follows = handle.offset >= self.last_end && handle.offset - self.last_end < GAP_BYTES;
        self.in_order = if follows { self.in_order.saturating_add(1) } else { 0 };
        let mut len = handle.len;
        if self.in_order > AFTER_BLOCKS {
            len = len.max(self.window.min((end - handle.offset) as usize));
            self.window = (2 * self.window).min(self.window_max);
        }
        // Until it is read, the buffer holds nothing.
        self.at = 0;
        self.bytes.clear();
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(len, 0);
        file.read_at(&mut bytes, handle.offset)?;
        self.at = handle.offset;
        self.bytes = bytes;
        self.last_end = block_end;
        Ok(&self.bytes[..handle.len])
    }
}
