//! Log segments, damaged, or forged with right checksums: recovery gives what is in them or names the damage.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use lumen_fuzz::engine::wal_recover::{run, sample, seal};

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed.is_multiple_of(64) {
        let sample = sample(seed);
        let size = sample.len().min(max_size);
        data[..size].copy_from_slice(&sample[..size]);
        return size;
    }
    let size = fuzzer_mutate(data, size, max_size);
    if !seed.is_multiple_of(4) {
        seal(&mut data[..size]);
    }
    size
});

fuzz_target!(|bytes: &[u8]| {
    run(bytes);
});
