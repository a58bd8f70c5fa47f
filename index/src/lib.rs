//! An inverted index. Bytes in, hits out; no files, no JSON.
