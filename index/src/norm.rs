//! A field's length in one byte: Lucene's `SmallFloat.intToByte4`.
//!
//! Lengths up to 40 are exact, longer ones keep four significant bits, so the error stays under 12 %. 0 means that the
//! document has no token in the field. Kept as in Lucene so that scores can be compared with anybody's.

/// Codes below this one are the length itself, shifted by nothing.
const FREE: u32 = 24;

/// The code of a length.
pub(crate) fn encode(length: u32) -> u8 {
    if length < FREE {
        return length as u8;
    }
    let rest = length - FREE;
    let bits = 32 - rest.leading_zeros();
    if bits < 4 {
        return (FREE + rest) as u8;
    }
    let shift = bits - 4;
    (FREE + ((rest >> shift) & 7 | (shift + 1) << 3)).min(255) as u8
}

/// The smallest length of a code.
pub(crate) fn decode(code: u8) -> u32 {
    let code = u32::from(code);
    if code < FREE {
        return code;
    }
    let rest = code - FREE;
    let length = if rest < 8 { u64::from(rest) } else { u64::from(rest & 7 | 8) << ((rest >> 3) - 1) };
    (u64::from(FREE) + length).min(u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_lengths_are_exact() {
        for length in 0..=40 {
            assert_eq!(decode(encode(length)), length);
        }
    }

    #[test]
    fn codes_are_monotone_and_stable() {
        for code in 0..=255 {
            assert_eq!(encode(decode(code)), code, "code {code}");
        }
        let mut previous = 0;
        for length in (0..1_000_000).step_by(7) {
            let code = encode(length);
            assert!(code >= previous && decode(code) <= length);
            previous = code;
        }
    }

    #[test]
    fn lucene_agrees() {
        // From SmallFloat: intToByte4(41) = 40 (with 8 values per octave above), byte4ToInt(41) = 42.
        assert_eq!((encode(41), decode(41), decode(47), decode(48)), (40, 42, 54, 56));
    }
}
