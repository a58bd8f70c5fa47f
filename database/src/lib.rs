//! Collections, key spaces and search, embedded: a `Write` goes in, a `Snapshot` comes out.
