//! A table: sorted entries in an immutable file, `<number>.sst`.
//!
//! ```text
//! │ data block … │ filter block │ index block │ properties block │ footer, 64 bytes │
//!
//! block:  │ payload, maybe compressed │ codec: u8 │ type: u8 │ 0: u16 │ raw_len: u32 │ check: u32 │
//!   codec: 0 raw, 1 lz4, 2 zstd        type: 1 data, 2 filter, 3 index, 4 properties
//!   check = crc32(payload ‖ codec..raw_len) xor crc32(uid ‖ offset of the block)
//!
//! footer:  0 u64 uid           8 u64 index offset     16 u32 index length    20 u32 filter length
//!         24 u64 filter offset 32 u64 properties off. 40 u32 properties len. 44 u32 format = 1
//!         48 u32 0             52 u32 crc32(0..52)    56 u64 magic "LMNSST01"
//! ```
//!
//! The check ties a block to its file and place, so that a good block in the wrong place is caught as well. Lengths
//! include the 12-byte trailer. The index is a block whose keys separate the data blocks (last key of block ≤ separator <
//! first key of the next) and whose values are `varint offset ‖ varint length`. A table holds each key once.

pub(crate) mod block;
pub(crate) mod builder;
pub(crate) mod cache;
pub(crate) mod filter;
pub(crate) mod footer;
pub(crate) mod reader;
