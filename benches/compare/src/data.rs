//! Keys, values and chances: the same for every store, from fixed seeds.

/// Random numbers (splitmix64, Steele et al. 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From 0 to `limit`, excluded.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A key of 16 digits, in the order of its number.
pub(crate) fn key_of(n: u64) -> [u8; 16] {
    let mut key = [0; 16];
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = b"0123456789abcdef"[(n >> (60 - 4 * at)) as usize & 15];
    }
    key
}

/// The n-th key in an order that is none; no two are equal.
pub(crate) fn key(n: u64) -> [u8; 16] {
    key_of(mix(n))
}

/// Values that halve when packed, as db_bench's do.
pub(crate) struct Values {
    pool: Vec<u8>,
    bytes: usize,
    at: usize,
}

impl Values {
    pub(crate) fn new(bytes: usize) -> Values {
        let mut random = Random::new(7);
        let mut pool = Vec::new();
        while pool.len() < (1 << 20) + bytes {
            let half: Vec<u8> = (0..bytes.min(100) / 2).map(|_| random.next() as u8).collect();
            pool.extend_from_slice(&half);
            pool.extend_from_slice(&half);
        }
        Values { pool, bytes, at: 0 }
    }

    pub(crate) fn next(&mut self) -> &[u8] {
        if self.at + self.bytes > self.pool.len() {
            self.at = 0;
        }
        self.at += self.bytes;
        &self.pool[self.at - self.bytes..self.at]
    }
}

/// Zipfian ranks with theta 0.99, by the method of Gray et al. 1994, as YCSB draws them.
pub(crate) struct Zipf {
    items: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    const THETA: f64 = 0.99;

    pub(crate) fn new(items: u64) -> Zipf {
        let zeta: f64 = (1..=items).map(|n| (n as f64).powf(-Zipf::THETA)).sum();
        let zeta2 = 1.0 + 2f64.powf(-Zipf::THETA);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - Zipf::THETA)) / (1.0 - zeta2 / zeta);
        Zipf { items: items as f64, zeta, alpha: 1.0 / (1.0 - Zipf::THETA), eta }
    }

    /// From 0, the most frequent, to the number of items, excluded.
    pub(crate) fn rank(&self, random: &mut Random) -> u64 {
        let u = random.unit();
        let uz = u * self.zeta;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + 0.5f64.powf(Zipf::THETA) {
            return 1;
        }
        ((self.items * (self.eta * u - self.eta + 1.0).powf(self.alpha)) as u64).min(self.items as u64 - 1)
    }
}
