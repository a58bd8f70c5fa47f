//! Keys, values and documents by number: whoever knows key and counter knows every byte, so that what comes back can be
//! checked without keeping what was sent.
//!
//! A value of 32 bytes or more begins with its counter in hexadecimal; the rest follows from key and counter. It is text,
//! which a scan's JSON shows as it is, of six bits of chance a byte, which hardly packs.

use std::fmt::Write as _;

use bytes::{BufMut, Bytes, BytesMut};

use super::distribution::{Random, mix};

/// Digits of a counter.
const COUNTER_SIZE: usize = 16;
/// Values from here on tell their counter.
const COUNTED_SIZE_MIN: usize = 32;
const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
/// Different words in documents.
const WORDS: u64 = 5000;
const SYLLABLES: [&str; 24] = [
    "ba", "co", "di", "fu", "ga", "he", "ji", "ko", "lu", "ma", "ne", "po", "qui", "ra", "so", "ta", "ur",
    "ve", "wa", "xi", "yo", "za", "ther", "ing",
];

/// What keys and values look like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Bytes of a key.
    pub(super) key_size: usize,
    /// Bytes of a value; about, of a document.
    pub(super) value_size: usize,
    /// Whether values are documents.
    pub(super) is_document: bool,
}

impl Shape {
    /// Writes a key: `k`, and its number in as many digits as fit, so that their order is that of the numbers.
    pub(super) fn write_key(&self, out: &mut BytesMut, key: u64) {
        // Writing to memory cannot fail.
        let _ = write!(out, "k{key:0width$}", width = self.key_size - 1);
    }

    /// The most keys that keys of this size tell apart in order.
    pub(super) fn keys_max(&self) -> u64 {
        u32::try_from(self.key_size - 1)
            .ok()
            .and_then(|digits| 10_u64.checked_pow(digits))
            .unwrap_or(u64::MAX)
    }

    /// Writes the value of a key at a counter.
    pub(super) fn write_value(&self, out: &mut BytesMut, key: u64, counter: u64) {
        if self.is_document {
            return self.write_document(out, key, counter);
        }
        let end = out.len() + self.value_size;
        let is_counted = self.value_size >= COUNTED_SIZE_MIN;
        let counter = if is_counted { counter } else { 0 };
        if is_counted {
            let _ = write!(out, "{counter:0COUNTER_SIZE$x}");
        }
        let mut random = Random::new(key, counter);
        out.reserve(end - out.len());
        while out.len() < end {
            let mut bits = random.next();
            for _ in 0..10.min(end - out.len()) {
                out.put_u8(LETTERS[(bits & 63) as usize]);
                bits >>= 6;
            }
        }
    }

    /// A document of a title, a tag, a number, and text of words of which few are frequent.
    fn write_document(&self, out: &mut BytesMut, key: u64, counter: u64) {
        let end = out.len() + self.value_size;
        let mut random = Random::new(key, counter);
        let _ = write!(out, "{{\"counter\":{counter},\"tag\":\"t{}\",\"text\":\"", random.below(100));
        loop {
            write_word(out, &mut random);
            if out.len() + 2 >= end {
                break;
            }
            out.put_u8(b' ');
        }
        out.extend_from_slice(b"\"}");
    }

    /// Whether these bytes are a whole value of this key, of whatever counter.
    pub(super) fn is_value(&self, key: u64, value: &[u8]) -> bool {
        let counter = if self.is_document {
            let digits = value.strip_prefix(b"{\"counter\":").unwrap_or_default();
            let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
            std::str::from_utf8(&digits[..end]).ok().and_then(|digits| digits.parse().ok())
        } else if self.value_size >= COUNTED_SIZE_MIN {
            let digits = value.get(..COUNTER_SIZE).and_then(|digits| std::str::from_utf8(digits).ok());
            digits.and_then(|digits| u64::from_str_radix(digits, 16).ok())
        } else {
            Some(0)
        };
        let Some(counter) = counter else { return false };
        let mut expected = BytesMut::with_capacity(self.value_size + 32);
        self.write_value(&mut expected, key, counter);
        expected == value
    }

    /// The number of a key that [`Self::write_key`] wrote.
    pub(super) fn key_number(&self, key: &[u8]) -> Option<u64> {
        std::str::from_utf8(key.strip_prefix(b"k")?).ok()?.parse().ok()
    }

    /// A key as bytes of its own.
    pub(super) fn key(&self, key: u64) -> Bytes {
        let mut out = BytesMut::with_capacity(self.key_size);
        self.write_key(&mut out, key);
        out.freeze()
    }
}

/// One of the words; the smaller its number the more often (the product of two even chances).
fn write_word(out: &mut BytesMut, random: &mut Random) {
    let limit = 1 + random.below(WORDS);
    let mut bits = mix(random.below(limit));
    for _ in 0..2 + bits % 2 {
        bits >>= 8;
        out.extend_from_slice(SYLLABLES[(bits % SYLLABLES.len() as u64) as usize].as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(shape: &Shape, key: u64, counter: u64) -> BytesMut {
        let mut out = BytesMut::new();
        shape.write_value(&mut out, key, counter);
        out
    }

    #[test]
    fn a_value_is_known_by_its_key_and_nothing_else_is_taken_for_it() {
        for (value_size, is_document) in
            [(0, false), (1, false), (31, false), (32, false), (128, false), (200, true)]
        {
            let shape = Shape { key_size: 16, value_size, is_document };
            let bytes = value(&shape, 7, 99);
            assert!(is_document || bytes.len() == value_size);
            assert!(shape.is_value(7, &bytes));
            if value_size > 30 {
                assert!(!shape.is_value(8, &bytes));
                assert_ne!(bytes, value(&shape, 8, 99));
                let mut changed = bytes.clone();
                changed[value_size - 3] ^= 1;
                assert!(!shape.is_value(7, &changed) && !shape.is_value(7, &bytes[1..]));
                assert!(!shape.is_value(7, b""));
            }
        }
    }

    #[test]
    fn documents_are_json_of_about_the_size() {
        let shape = Shape { key_size: 16, value_size: 1000, is_document: true };
        let bytes = value(&shape, 7, 99);
        let json: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(json["counter"], 99);
        assert!((980..1020).contains(&bytes.len()), "{}", bytes.len());
    }

    #[test]
    fn keys_are_in_the_order_of_their_numbers() {
        let shape = Shape { key_size: 8, value_size: 0, is_document: false };
        assert_eq!(shape.key(42), "k0000042");
        assert!(shape.key(9) < shape.key(10));
        assert_eq!((shape.key_number(b"k0000042"), shape.keys_max()), (Some(42), 10_000_000));
    }
}
