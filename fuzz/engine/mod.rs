//! What the engine's fuzz targets do with an input. It is here and not in the targets, because `engine/tests/corpus.rs`
//! does the same, on the stable compiler, with every input of the corpora.

pub mod engine_ops;
pub mod forge;
pub mod manifest_replay;
#[path = "../../engine/tests/operations/mod.rs"]
pub mod operations;
pub mod table_open_scan;
pub mod wal_recover;
