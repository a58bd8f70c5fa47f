//! An append-only log in segments: the write-ahead log, a database's journal, the manifest, and the replicated log.
//!
//! A segment file is `<number>.<extension>`: a header, then records until the first bytes that are none. All integers are
//! little-endian.
//!
//! ```text
//! header, 64 bytes
//!  0  u64  magic "LMNLOG01"          8  u32  format = 1           12  u32  tag (random for each incarnation of the file)
//! 16  u64  segment number           24  u64  first seq            32  [16] uuid of the store
//! 48  u64  length of the previous segment (where its records end)
//! 56  u32  crc of the previous segment's last record (0: none)   60  u32  crc32 of bytes 0..60
//!
//! record, 8-byte aligned
//!  0  u32  crc32 of bytes 4..24+len   4  u32  len                  8  u32  tag of the segment
//! 12  u32  synced: offset/8 in this segment that was known to be durable when this record was encoded
//! 16  u64  seq                      24  u8   kind                 25  payload, len-1 bytes           zeros to 8
//! ```
//!
//! Where writers wait for syncs, files are filled with written zeros before they become segments, or recycled: appending to
//! written blocks spares the file system a journal commit per sync (design, engine.md B3: 117 µs against 183 µs on a growing
//! file). Where they do not, the room is only reserved. The random tag keeps records of an earlier life from being taken for
//! new ones.
//!
//! Invariants that recovery (`reader.rs`) builds on:
//! 1. A segment's header is durable before its name is, so a named segment without a valid header is damage.
//! 2. All records of a segment are durable before the next segment is made, and the next header says where they end.
//! 3. `synced` in any valid record proves the bytes before it durable: invalid bytes there are damage, not a torn tail.

mod cursor;
mod reader;
mod rotation;
mod segment;
mod writer;

pub use cursor::{Cursor, LogRecord};
pub use reader::{Recovery, TornTail, Visit, dump};
pub use segment::{HEADER_BYTES, Kind, MAX_RECORD_BYTES, RECORD_HEADER_BYTES};
pub(crate) use writer::sync_failed;
pub use writer::{Log, LogOptions, LogStats, Position};
