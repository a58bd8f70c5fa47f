//! Any bytes as a block or a filter: refused, or walked both ways and searched.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lumen_engine::fuzzing::decode;

fuzz_target!(|bytes: &[u8]| decode(bytes));
