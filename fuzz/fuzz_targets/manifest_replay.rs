//! A manifest that says anything, under right checksums: the store opens and works, or the manifest is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lumen_fuzz::engine::manifest_replay::{Input, run};

fuzz_target!(|input: Input| run(&input));
