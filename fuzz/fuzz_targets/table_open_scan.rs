//! A table with wrong bytes under right checksums: read, verified, shown and compacted, it answers or reports damage.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lumen_fuzz::engine::table_open_scan::{Input, run};

fuzz_target!(|input: Input| run(&input));
