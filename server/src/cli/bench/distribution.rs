//! Which key an operation is for: uniform, Zipfian, the latest, or one after the other.
//!
//! Zipfian numbers are drawn as in J. Gray et al., "Quickly Generating Billion-Record Synthetic Databases" (SIGMOD 1994),
//! and scrambled as YCSB does it: a rank among ten billion is hashed (FNV-1a, 64 bits) onto the keys that there are, so
//! that the popular ones lie apart, and the same ones stay popular while keys are added.

use std::sync::atomic::{AtomicU64, Ordering};

use clap::ValueEnum;

/// How skewed it is: YCSB's constant.
const THETA: f64 = 0.99;
/// Ranks that a scrambled Zipfian number is drawn from, as in YCSB, whatever the number of keys.
const SCRAMBLED_RANKS: u64 = 10_000_000_000;
/// The zeta function is summed up to here and integrated from here on.
const ZETA_SUMMED: u64 = 1024;

/// Numbers that a seed repeats (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// The stream of a seed; `lane` tells streams of one seed apart.
    pub(super) fn new(seed: u64, lane: u64) -> Random {
        Random(mix(seed ^ mix(lane.wrapping_add(0x5851_f42d_4c95_7f2d))))
    }

    /// Any number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`, which is not 0. The bias is that of 64 bits: none that a run could show.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// A number from 0 to below 1.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The finish of SplitMix64: each bit of the result hangs on each bit given.
pub(super) fn mix(number: u64) -> u64 {
    let mut z = number;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How keys are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Distribution {
    /// A few keys get most of it, wherever they lie
    Zipfian,
    /// All the same
    Uniform,
    /// Zipfian, the newest key first
    Latest,
    /// One after the other, and again from the first
    Sequential,
}

impl Distribution {
    /// As it is said on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Distribution::Zipfian => "zipfian",
            Distribution::Uniform => "uniform",
            Distribution::Latest => "latest",
            Distribution::Sequential => "sequential",
        }
    }
}

/// Draws keys for one client.
#[derive(Clone, Debug)]
pub(super) struct Chooser {
    distribution: Distribution,
    zipfian: Zipfian,
}

impl Chooser {
    /// Draws by `distribution`.
    pub(super) fn new(distribution: Distribution) -> Chooser {
        let ranks = if distribution == Distribution::Latest { 1 } else { SCRAMBLED_RANKS };
        Chooser { distribution, zipfian: Zipfian::new(ranks) }
    }

    /// A key below `count`, which is not 0; `turn` is what clients that go through the keys in order share.
    pub(super) fn choose(&mut self, random: &mut Random, count: u64, turn: &AtomicU64) -> u64 {
        match self.distribution {
            Distribution::Uniform => random.below(count),
            Distribution::Sequential => turn.fetch_add(1, Ordering::Relaxed) % count,
            Distribution::Zipfian => fnv(self.zipfian.rank(random)) % count,
            Distribution::Latest => {
                if self.zipfian.ranks != count {
                    self.zipfian = Zipfian::new(count);
                }
                count - 1 - self.zipfian.rank(random)
            }
        }
    }
}

/// Ranks from 0, the most frequent one, to below a number of them.
#[derive(Clone, Debug)]
struct Zipfian {
    ranks: u64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    fn new(ranks: u64) -> Zipfian {
        let zeta_ranks = zeta(ranks);
        let eta = (1.0 - (2.0 / ranks as f64).powf(1.0 - THETA)) / (1.0 - zeta(2) / zeta_ranks);
        Zipfian { ranks, zeta: zeta_ranks, eta }
    }

    fn rank(&self, random: &mut Random) -> u64 {
        let unit = random.unit();
        let scaled = unit * self.zeta;
        if scaled < 1.0 || self.ranks == 1 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(THETA) || self.ranks == 2 {
            return 1;
        }
        let share = (self.eta * unit - self.eta + 1.0).powf(1.0 / (1.0 - THETA));
        ((self.ranks as f64 * share) as u64).min(self.ranks - 1)
    }
}

/// The sum of `1 / i^THETA` for i from 1 to `n`. Its tail is an integral with two terms of Euler and Maclaurin's, which is
/// exact to 12 digits here, so that a set of keys that grows costs nothing.
fn zeta(n: u64) -> f64 {
    let head = n.min(ZETA_SUMMED);
    let sum: f64 = (1..=head).map(|i| (i as f64).powf(-THETA)).sum();
    if n == head {
        return sum;
    }
    let (from, to) = (head as f64, n as f64);
    let integral = (to.powf(1.0 - THETA) - from.powf(1.0 - THETA)) / (1.0 - THETA);
    let ends = (to.powf(-THETA) - from.powf(-THETA)) / 2.0;
    let slopes = -THETA * (to.powf(-THETA - 1.0) - from.powf(-THETA - 1.0)) / 12.0;
    sum + integral + ends + slopes
}

/// The FNV-1a hash of a number's bytes.
fn fnv(number: u64) -> u64 {
    let byte = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    number.to_le_bytes().iter().fold(0xcbf2_9ce4_8422_2325, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u64 = 200_000;

    fn draw(distribution: Distribution, count: u64, seed: u64) -> Vec<u64> {
        let (mut random, mut chooser, turn) =
            (Random::new(seed, 0), Chooser::new(distribution), AtomicU64::new(0));
        let mut drawn = vec![0; count as usize];
        for _ in 0..DRAWS {
            drawn[chooser.choose(&mut random, count, &turn) as usize] += 1;
        }
        drawn
    }

    fn share(times: u64) -> f64 {
        times as f64 / DRAWS as f64
    }

    #[test]
    fn zeta_is_what_ycsb_computed_by_summing() {
        assert!((zeta(SCRAMBLED_RANKS) - 26.469_028_201_783_02).abs() < 1e-8, "{}", zeta(SCRAMBLED_RANKS));
        let summed: f64 = (1..=100_000_u32).map(|i| f64::from(i).powf(-THETA)).sum();
        assert!((zeta(100_000) - summed).abs() < 1e-9);
    }

    #[test]
    fn zipfian_has_the_popular_key_of_the_formula_and_it_is_not_the_first() {
        let drawn = draw(Distribution::Zipfian, 10_000, 1);
        let mut sorted = drawn.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        // 1 / zeta of ten billion is 3.78 %; the second has 2^-0.99 of it. What else is hashed onto them is little.
        assert!((0.036..0.041).contains(&share(sorted[0])), "{}", share(sorted[0]));
        assert!((0.017..0.022).contains(&share(sorted[1])), "{}", share(sorted[1]));
        assert!(drawn[0] < sorted[0] / 10);
        assert_eq!(drawn, draw(Distribution::Zipfian, 10_000, 1));
        assert_ne!(drawn, draw(Distribution::Zipfian, 10_000, 2));
    }

    #[test]
    fn latest_has_the_newest_key_first_also_when_keys_are_added() {
        let drawn = draw(Distribution::Latest, 1000, 1);
        let expected = 1.0 / zeta(1000);
        assert!((share(drawn[999]) - expected).abs() < 0.01, "{} {expected}", share(drawn[999]));
        assert!(drawn[999] > drawn[998] && drawn[998] > drawn[900] && drawn[900] > drawn[0]);
        let (mut random, mut chooser, turn) =
            (Random::new(1, 0), Chooser::new(Distribution::Latest), AtomicU64::new(0));
        for count in 1..2000 {
            assert!(chooser.choose(&mut random, count, &turn) < count);
        }
    }

    #[test]
    fn uniform_is_even_and_sequential_is_in_order() {
        let drawn = draw(Distribution::Uniform, 100, 1);
        assert!(drawn.iter().all(|times| (1700..2300).contains(times)), "{drawn:?}");
        let drawn = draw(Distribution::Sequential, 100, 1);
        assert!(drawn.iter().all(|times| *times == DRAWS / 100));
        let (mut random, mut chooser, turn) =
            (Random::new(1, 0), Chooser::new(Distribution::Sequential), AtomicU64::new(0));
        let keys: Vec<u64> = (0..5).map(|_| chooser.choose(&mut random, 3, &turn)).collect();
        assert_eq!(keys, [0, 1, 2, 0, 1]);
    }
}
