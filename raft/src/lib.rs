//! One replicated database, on openraft. Knows no wire.
//!
//! Empty until replication is built: a single node keeps its own log (`lumen::journal`), and the same `apply`
//! will turn a replicated log into the same state.
