//! Workloads and data that the benches share.
