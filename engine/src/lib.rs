//! An ordered key-value store on an LSM tree. Bytes only.
