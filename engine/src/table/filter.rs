//! Filters: they say of most keys that are not in a partition that they are not, without a look at its blocks.
//!
//! ```text
//! blocked Bloom:  │ line, 64 bytes … │ kind = 1: u8 │ probes: u8 │ 0: u16 │ lines: u32 │ keys: u64 │
//! binary fuse:    │ fingerprint: u8 … │ segment: u32 │ starts: u32 │ kind = 2: u8 │ 0: u8, u16, u32 │ seed: u64 │
//! none:           │ kind = 0: u8 │ 0: u8, u16, u32, u64 │
//! ```
//!
//! Blocked Bloom: all probes of a key fall into one 64-byte line, so a lookup costs one cache miss. The line is chosen by
//! the upper half of the key's hash (multiplied down to the number of lines), the probes by the lower half, remultiplied by
//! the golden ratio for each; the top nine bits pick a bit. Technique and rates: RocksDB's FastLocalBloom and Pebble's
//! bloom package: 10 bits a key and 6 probes give 1.14 % false positives, 14 bits 0.37 %.
//!
//! Binary fuse (Graf and Lemire, "Binary Fuse Filters", 2022; built by the crate xorf): three fingerprints of 8 bits, xored,
//! give the key's own. 0.39 % false positives for 9 bits a key, 10 to 11 in sets as small as a partition. It takes longer to
//! build, so it is for the oldest run, which holds most of the data and is written least.

use xorf::{BinaryFuse8, BinaryFuse8Ref, Filter as _, FilterRef as _};

use crate::coding::u32_at;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};

const LINE_BYTES: usize = 64;
const TAIL_BYTES: usize = 16;
const FUSE_TAIL_BYTES: usize = 8 + TAIL_BYTES;
const PROBES: u8 = 6;
const NONE: u8 = 0;
const BLOOM: u8 = 1;
const FUSE: u8 = 2;

/// Which filter a table gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FilterKind {
    /// None at all.
    None,
    /// Blocked Bloom with so many bits a key.
    Bloom(usize),
    /// Binary fuse with 8-bit fingerprints.
    Fuse,
}

impl FilterKind {
    /// Bits a key, about.
    pub(crate) fn bits(self) -> usize {
        match self {
            FilterKind::None => 0,
            FilterKind::Bloom(bits) => bits,
            FilterKind::Fuse => 10,
        }
    }
}

/// The hash that filters on disk are made of: eight bytes at a time, folded multiplication (the scheme of wyhash), with
/// fixed constants. It is part of the file format.
pub(crate) fn hash(key: &[u8]) -> u64 {
    const A: u64 = 0xa076_1d64_78bd_642f;
    const B: u64 = 0xe703_7ed1_a0b4_28db;
    fn fold(x: u64, y: u64) -> u64 {
        let product = u128::from(x) * u128::from(y);
        product as u64 ^ (product >> 64) as u64
    }
    let mut state = A ^ key.len() as u64;
    let mut chunks = key.chunks_exact(8);
    for chunk in &mut chunks {
        state = fold(state ^ u64::from_le_bytes(chunk.try_into().expect("eight bytes")), B);
    }
    let mut last = [0; 8];
    let rest = chunks.remainder();
    last[..rest.len()].copy_from_slice(rest);
    fold(fold(state ^ u64::from_le_bytes(last), B) ^ A, B)
}

/// The encoded filter over these hashes, which it may sort.
pub(crate) fn build(hashes: &mut Vec<u64>, kind: FilterKind) -> Vec<u8> {
    match kind {
        FilterKind::None => [0; TAIL_BYTES].to_vec(),
        FilterKind::Bloom(bits) => bloom(hashes, bits),
        FilterKind::Fuse => {
            hashes.sort_unstable();
            hashes.dedup();
            // It fails for one in very many sets; those have to make do with the other kind.
            fuse(hashes).unwrap_or_else(|| bloom(hashes, FilterKind::Fuse.bits()))
        }
    }
}

fn bloom(hashes: &[u64], bits_per_key: usize) -> Vec<u8> {
    let lines = (hashes.len() * bits_per_key).div_ceil(LINE_BYTES * 8).max(1);
    let mut bytes = vec![0; lines * LINE_BYTES];
    for &hash in hashes {
        let line = &mut bytes[line_of(hash, lines)..][..LINE_BYTES];
        probes(hash, PROBES).for_each(|bit| line[bit / 8] |= 1 << (bit % 8));
    }
    bytes.extend_from_slice(&[BLOOM, PROBES, 0, 0]);
    bytes.extend_from_slice(&(lines as u32).to_le_bytes());
    bytes.extend_from_slice(&(hashes.len() as u64).to_le_bytes());
    bytes
}

fn fuse(hashes: &[u64]) -> Option<Vec<u8>> {
    let filter = BinaryFuse8::try_from(hashes).ok()?;
    let mut bytes = filter.fingerprints.to_vec();
    bytes.extend_from_slice(&filter.descriptor.segment_length.to_le_bytes());
    bytes.extend_from_slice(&filter.descriptor.segment_count_length.to_le_bytes());
    bytes.extend_from_slice(&[FUSE, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&filter.descriptor.seed.to_le_bytes());
    Some(bytes)
}

/// Where the line of a key begins.
fn line_of(hash: u64, lines: usize) -> usize {
    ((((hash >> 32) * lines as u64) >> 32) as usize) * LINE_BYTES
}

/// The bits of a key in its line.
#[inline]
fn probes(hash: u64, count: u8) -> impl Iterator<Item = usize> {
    let mut probe = hash as u32;
    (0..count).map(move |_| {
        let bit = (probe >> 23) as usize;
        probe = probe.wrapping_mul(0x9e37_79b9);
        bit
    })
}

/// A blocked Bloom filter that one adds to while others ask.
pub(crate) struct GrowingFilter {
    lines: Box<[Line]>,
}

/// 64 bytes that lie in one line of the processor's cache.
#[derive(Default)]
#[repr(align(64))]
struct Line([AtomicU64; LINE_BYTES / 8]);

impl GrowingFilter {
    /// A filter of about so many bytes. More than one key for each byte, and it begins to let strangers pass.
    pub(crate) fn new(bytes: usize) -> GrowingFilter {
        GrowingFilter { lines: (0..(bytes / LINE_BYTES).max(1)).map(|_| Line::default()).collect() }
    }

    fn line(&self, hash: u64) -> &Line {
        &self.lines[line_of(hash, self.lines.len()) / LINE_BYTES]
    }

    /// Adds a key; called by one at a time. Who learns of the key in order (by a release) finds it here.
    pub(crate) fn add(&self, hash: u64) {
        let line = self.line(hash);
        for bit in probes(hash, PROBES) {
            let word = &line.0[bit / 64];
            word.store(word.load(Relaxed) | 1 << (bit % 64), Relaxed);
        }
    }

    /// False only when no key with this hash was added.
    #[inline]
    pub(crate) fn may_contain(&self, hash: u64) -> bool {
        let line = self.line(hash);
        probes(hash, PROBES).all(|bit| line.0[bit / 64].load(Relaxed) & (1 << (bit % 64)) != 0)
    }
}

/// A filter as read from a file.
#[derive(Debug)]
pub(crate) enum Filter {
    None,
    Bloom {
        bytes: Vec<u8>,
        lines: usize,
        probes: u8,
    },
    /// The descriptor is xorf's: seed, segment, segment - 1, starts.
    Fuse {
        fingerprints: Vec<u8>,
        descriptor: [u8; 20],
    },
}

impl Filter {
    /// `None` when the bytes are no filter.
    pub(crate) fn new(bytes: &[u8]) -> Option<Filter> {
        let tail = bytes.len().checked_sub(TAIL_BYTES)?;
        match bytes[tail] {
            NONE => (tail == 0).then_some(Filter::None),
            BLOOM => {
                let (probes, lines) = (bytes[tail + 1], u32_at(bytes, tail + 4) as usize);
                let sound = lines > 0 && tail == lines.checked_mul(LINE_BYTES)?;
                sound.then(|| Filter::Bloom { bytes: bytes[..tail].to_vec(), lines, probes })
            }
            FUSE => {
                let len = bytes.len().checked_sub(FUSE_TAIL_BYTES)?;
                let (segment, starts) = (u32_at(bytes, len), u32_at(bytes, len + 4));
                // What the probes rely on: the three of a key lie in three segments that follow one another.
                let sound = segment.is_power_of_two()
                    && starts > 0
                    && starts.is_multiple_of(segment)
                    && starts.checked_add(segment.checked_mul(2)?)? as usize == len;
                let mut descriptor = [0; 20];
                descriptor[..8].copy_from_slice(&bytes[tail + 8..]);
                descriptor[8..12].copy_from_slice(&segment.to_le_bytes());
                descriptor[12..16].copy_from_slice(&segment.wrapping_sub(1).to_le_bytes());
                descriptor[16..].copy_from_slice(&starts.to_le_bytes());
                sound.then(|| Filter::Fuse { fingerprints: bytes[..len].to_vec(), descriptor })
            }
            _ => None,
        }
    }

    /// False only when no key with this hash was added.
    #[inline]
    pub(crate) fn may_contain(&self, hash: u64) -> bool {
        match self {
            Filter::None => true,
            Filter::Bloom { bytes, lines, probes } => {
                let line = &bytes[line_of(hash, *lines)..][..LINE_BYTES];
                self::probes(hash, *probes).all(|bit| line[bit / 8] & (1 << (bit % 8)) != 0)
            }
            Filter::Fuse { fingerprints, descriptor } => {
                BinaryFuse8Ref::from_dma(descriptor, fingerprints).contains(&hash)
            }
        }
    }

    /// What it is called, for people.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Filter::None => "no filter",
            Filter::Bloom { .. } => "Bloom filter",
            Filter::Fuse { .. } => "fuse filter",
        }
    }

    /// Bytes that it takes in memory.
    pub(crate) fn size(&self) -> usize {
        match self {
            Filter::None => 0,
            Filter::Bloom { bytes, .. } => bytes.len(),
            Filter::Fuse { fingerprints, .. } => fingerprints.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_missed_and_few_strangers_pass() {
        let hashes: Vec<u64> = (0..20_000u32).map(|n| hash(format!("key{n}").as_bytes())).collect();
        for (kind, per_100_000) in [
            (FilterKind::Bloom(10), 1_140),
            (FilterKind::Bloom(14), 370),
            (FilterKind::Fuse, 390),
            (FilterKind::None, 100_000),
        ] {
            let filter = Filter::new(&build(&mut hashes.clone(), kind)).expect("sound");
            assert!(hashes.iter().all(|&hash| filter.may_contain(hash)), "{kind:?}");
            let stranger = |n: &u32| filter.may_contain(hash(format!("other{n}").as_bytes()));
            let strangers = (0..100_000u32).filter(stranger).count();
            assert!(strangers <= per_100_000 * 3 / 2, "{strangers} of 100,000 pass {kind:?}");
        }
    }

    #[test]
    fn a_growing_filter_knows_what_was_added() {
        let filter = GrowingFilter::new(20_000);
        let hashes =
            |name: &str| (0..16_000u32).map(|n| hash(format!("{name}{n}").as_bytes())).collect::<Vec<_>>();
        let keys = hashes("key");
        for (count, &key) in keys.iter().enumerate() {
            filter.add(key);
            assert!(filter.may_contain(keys[count / 2]) && filter.may_contain(key));
        }
        assert!(keys.iter().all(|&key| filter.may_contain(key)));
        let strangers = hashes("other").into_iter().filter(|&other| filter.may_contain(other)).count();
        assert!(strangers <= 16_000 * 3 / 100, "{strangers} of 16,000 pass");
    }

    #[test]
    fn sets_of_any_size_get_a_filter() {
        for count in (0..64u64).chain([100, 1000]) {
            let hashes: Vec<u64> = (0..count).map(|n| hash(&n.to_be_bytes())).collect();
            for kind in [FilterKind::Bloom(10), FilterKind::Fuse] {
                let filter = Filter::new(&build(&mut hashes.clone(), kind)).expect("sound");
                assert!(hashes.iter().all(|&hash| filter.may_contain(hash)), "{count} in {kind:?}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_filter_are_refused() {
        assert!(Filter::new(&[]).is_none());
        for kind in [FilterKind::None, FilterKind::Bloom(10), FilterKind::Fuse] {
            let bytes = build(&mut vec![1, 2, 3], kind);
            assert!(Filter::new(&bytes).is_some());
            assert!(Filter::new(&bytes[1..]).is_none(), "{kind:?} cut in front");
        }
        // Two segments, where the probes of a key need three.
        let fuse = |starts: u32| {
            let mut bytes = vec![0; 16 * 2 + starts as usize];
            bytes.extend_from_slice(&16u32.to_le_bytes());
            bytes.extend_from_slice(&starts.to_le_bytes());
            bytes.extend_from_slice(&[FUSE, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend_from_slice(&[0x5b; 8]);
            Filter::new(&bytes)
        };
        assert!(fuse(0).is_none());
        let least = fuse(16).expect("three segments");
        assert!((0..1000u64).any(|n| !least.may_contain(hash(&n.to_le_bytes()))));
    }
}
