//! A table: sorted entries in an immutable file, `<number>.sst`.
//!
//! ```text
//! │ data block … partition │ data block … partition │ … │ top index │ properties │ footer, 64 bytes │
//!
//! block:  │ payload, maybe compressed │ codec: u8 │ type: u8 │ 0: u16 │ raw_len: u32 │ check: u32 │
//!   codec: 0 raw, 1 lz4, 2 zstd        type: 1 data, 2 partition, 3 top index, 4 properties (5: in a blob file)
//!   check = crc32(payload ‖ codec..raw_len) xor crc32(uid ‖ offset of the block)
//!
//! partition:  │ filter │ index │ filter_len: u32 │       over the data blocks since the partition before
//!
//! properties:  │ uid │ entries │ deletes │ close_deletes │ shadowed │ expiring │ expiry_max │ raw_bytes │ min_seq │ max_seq │
//!              │ oldest_ms │ written_ms │                      all of them varints, as `properties.rs` explains them
//!              │ smallest key: slice │ largest key: slice │ blob files: varint │ uid: varint ‖ bytes: varint … │
//!
//! footer:  0 u64 uid            8 u64 top index offset  16 u32 top index length  20 u32 properties length
//!         24 u64 properties offset                      32 0                     44 u32 format = 1
//!         48 u32 0             52 u32 crc32(0..52)      56 u64 magic "LMNSST01"
//! ```
//!
//! The check ties a block to its file and place, so that a good block in the wrong place is caught as well. Lengths
//! include the 12-byte trailer. An index is a block whose keys separate what it points to (last key of one ≤ separator ≤
//! first key of the next, equal only where versions of one key are parted) and whose values are `varint offset ‖ varint
//! length`: those of the top index point to partitions, those of a partition to data blocks. Only the top index, a
//! hundredth of a hundredth of the file, is kept for each open table; partitions lie in the cache beside the data, and are
//! pinned where nearly every read passes: in slot 0 and the first run.

pub(crate) mod ahead;
pub(crate) mod block;
pub(crate) mod builder;
pub(crate) mod cache;
pub(crate) mod cursor;
pub(crate) mod filter;
pub(crate) mod footer;
pub(crate) mod properties;
pub(crate) mod reader;
#[cfg(test)]
mod tests;

/// What a table's file is called.
pub(crate) fn name(number: u64) -> String {
    format!("{number:010}.sst")
}
