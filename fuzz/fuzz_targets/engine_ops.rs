//! Operations on the engine, with power cuts, against a sorted map.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lumen_fuzz::engine::engine_ops::{Input, run};

fuzz_target!(|input: Input| run(&input));
