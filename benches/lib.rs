//! Workloads, data and drawings that the benches share.

pub mod draw;
pub mod etcd;
pub mod http;
pub mod options;

use std::fs;
use std::time::Duration;

/// A small generator (xorshift64*, Vigna 2016): the same numbers in every run.
pub struct Random(u64);

impl Random {
    /// From a seed other than 0.
    pub fn new(seed: u64) -> Random {
        assert_ne!(seed, 0, "xorshift stays at 0");
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A rank below `bound` with the frequencies of words (Zipf, exponent 1): low ranks are common.
    pub fn zipf(&mut self, bound: u64) -> u64 {
        let unit = (self.bits() >> 11) as f64 / (1u64 << 53) as f64;
        (((bound as f64).powf(unit)) as u64 - 1).min(bound - 1)
    }
}

/// A 16-byte key of number `n`, scattered over the key space.
pub fn key(n: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key[8..].copy_from_slice(&n.to_be_bytes());
    key
}

/// A value of `len` bytes that compresses to about half.
pub fn value(random: &mut Random, len: usize) -> Vec<u8> {
    let mut value = vec![b'v'; len];
    for chunk in value[..len / 2].chunks_mut(8) {
        let bytes = random.bits().to_le_bytes();
        chunk.copy_from_slice(&bytes[..chunk.len()]);
    }
    value
}

/// Text of `words` words out of a vocabulary of 50,000, common words first.
pub fn prose(random: &mut Random, words: usize) -> String {
    let mut text = String::with_capacity(words * 7);
    for n in 0..words {
        if n > 0 {
            text.push(' ');
        }
        text.push_str(&word(random.zipf(50_000)));
    }
    text
}

/// The word of a rank; common ones are short.
pub fn word(rank: u64) -> String {
    const SYLLABLES: [&str; 20] = [
        "ka", "to", "mi", "re", "so", "la", "ne", "vu", "pa", "du", "go", "he", "ji", "ba", "fe", "cho",
        "shi", "ry", "ze", "wo",
    ];
    let mut word = String::new();
    let mut rest = rank;
    loop {
        word.push_str(SYLLABLES[(rest % 20) as usize]);
        rest /= 20;
        if rest == 0 {
            return word;
        }
    }
}

/// Processor time of a process, which has a number or is `self`.
pub fn processor_time(process: &str) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Its name may hold anything; the times are the 12th and 13th word behind it, in hundredths of a second.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after.split_whitespace().skip(11).take(2).filter_map(|text| text.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}
