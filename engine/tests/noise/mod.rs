//! Values that no codec makes smaller, so that what a store takes is what rows take.

/// Bytes that look random, always the same for the same number.
pub(crate) fn noise(n: u32, bytes: usize) -> Vec<u8> {
    let mut state = u64::from(n) * 2 + 1;
    let byte = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..bytes).map(byte).collect()
}
