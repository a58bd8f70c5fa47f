//! What is done: kinds of operations, how they are mixed, and the stream of them that each client works through.
//!
//! The mixes `a` to `f` are YCSB's core workloads (Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", SoCC
//! 2010). A client's stream hangs on the seed, the run and the client's number alone; what clients share is the turn of
//! sequential keys, and how far keys were added.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::distribution::{Chooser, Distribution, Random};

/// Counters of a client's values within one run: bits.
const COUNTER_BITS: u32 = 32;
/// Clients of one run: bits.
const CLIENT_BITS: u32 = 20;

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Writes one of the keys.
    Put,
    /// Reads one of the keys.
    Get,
    /// Deletes one of the keys.
    Delete,
    /// Reads a few keys in order.
    Scan,
    /// Reads a key, then writes it.
    Rmw,
    /// Writes the next key that was not there.
    Insert,
    /// Searches.
    Search,
}

/// All kinds, in the order of their numbers.
pub(super) const KINDS: [Kind; 7] =
    [Kind::Put, Kind::Get, Kind::Delete, Kind::Scan, Kind::Rmw, Kind::Insert, Kind::Search];

impl Kind {
    /// As it is said on the command line and in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Put => "put",
            Kind::Get => "get",
            Kind::Delete => "delete",
            Kind::Scan => "scan",
            Kind::Rmw => "rmw",
            Kind::Insert => "insert",
            Kind::Search => "search",
        }
    }
}

/// How much of each kind there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mix {
    weights: Vec<(Kind, u64)>,
    total: u64,
    /// What a mix of YCSB's says of keys.
    pub(super) distribution: Option<Distribution>,
}

impl Mix {
    /// Only one kind.
    pub(super) fn only(kind: Kind) -> Mix {
        Mix { weights: vec![(kind, 1)], total: 1, distribution: None }
    }

    /// Reads `a` to `f`, or `put=50,get=50`.
    pub(super) fn parse(text: &str) -> Result<Mix, String> {
        use Distribution::{Latest, Zipfian};
        let ycsb =
            |text, distribution| Mix::parse(text).map(|mix| Mix { distribution: Some(distribution), ..mix });
        match text {
            "a" => return ycsb("get=50,put=50", Zipfian),
            "b" => return ycsb("get=95,put=5", Zipfian),
            "c" => return ycsb("get=100", Zipfian),
            "d" => return ycsb("get=95,insert=5", Latest),
            "e" => return ycsb("scan=95,insert=5", Zipfian),
            "f" => return ycsb("get=50,rmw=50", Zipfian),
            _ => {}
        }
        let mut weights = Vec::new();
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').ok_or_else(|| {
                format!("{part:?} is neither one of a, b, c, d, e and f nor like put=50,get=50")
            })?;
            let kind = KINDS.into_iter().find(|kind| kind.name() == name.trim() && *kind != Kind::Search);
            let kind =
                kind.ok_or_else(|| format!("{name:?} is none of put, get, delete, scan, rmw and insert"))?;
            let weight = weight.trim().parse::<u32>();
            let weight = weight.map_err(|_| format!("{part:?} does not end with a whole number"))?;
            if weights.iter().any(|(other, _)| *other == kind) {
                return Err(format!("{name:?} is said twice"));
            }
            weights.push((kind, u64::from(weight)));
        }
        let total = weights.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return Err("the mix has nothing in it".into());
        }
        Ok(Mix { weights, total, distribution: None })
    }

    /// Whether there is any of this kind.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.weights.iter().any(|(other, weight)| *other == kind && *weight > 0)
    }

    /// As it can be parsed again.
    pub(super) fn text(&self) -> String {
        let parts: Vec<String> =
            self.weights.iter().map(|(kind, weight)| format!("{}={weight}", kind.name())).collect();
        parts.join(",")
    }

    fn choose(&self, random: &mut Random) -> Kind {
        let mut at = if self.weights.len() == 1 { 0 } else { random.below(self.total) };
        for (kind, weight) in &self.weights {
            if at < *weight {
                return *kind;
            }
            at -= weight;
        }
        self.weights[0].0
    }
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Op {
    /// What is done.
    pub(super) kind: Kind,
    /// To which key; the number of the query of a search.
    pub(super) key: u64,
    /// What tells the value from others of the key.
    pub(super) counter: u64,
    /// Rows of a scan.
    pub(super) rows: u32,
}

/// The keys that there are: some from the beginning, and more as they are inserted.
#[derive(Debug)]
pub(super) struct KeySpace {
    /// Keys below it are there, as far as anybody was told.
    known: AtomicU64,
    next: AtomicU64,
    /// Inserted, while one before it is under way.
    early: Mutex<BTreeSet<u64>>,
    turn: AtomicU64,
}

impl KeySpace {
    /// Keys from 0 to below `count`.
    pub(super) fn new(count: u64) -> KeySpace {
        KeySpace {
            known: AtomicU64::new(count),
            next: AtomicU64::new(count),
            early: Mutex::default(),
            turn: AtomicU64::new(0),
        }
    }

    /// An insert has come to its end, well or not: the key may be read from now on.
    pub(super) fn inserted(&self, key: u64) {
        let mut early = self.early.lock();
        early.insert(key);
        while early.remove(&self.known.load(Ordering::Relaxed)) {
            self.known.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The next sequential key is the first.
    pub(super) fn rewind(&self) {
        self.turn.store(0, Ordering::Relaxed);
    }
}

/// What all clients of a run have in common.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// What is done.
    pub(super) mix: Mix,
    /// To which keys.
    pub(super) distribution: Distribution,
    /// Rows of a scan, at most.
    pub(super) scan_rows_max: u32,
    /// What everything random begins with.
    pub(super) seed: u64,
    /// Which run of the command this is.
    pub(super) run: u64,
}

/// The operations of one client, without end.
pub(super) struct Stream {
    plan: Arc<Plan>,
    keys: Arc<KeySpace>,
    random: Random,
    chooser: Chooser,
    counter: u64,
}

impl Stream {
    /// The operations of this client.
    pub(super) fn new(plan: &Arc<Plan>, keys: &Arc<KeySpace>, client: usize) -> Stream {
        let lane = (plan.run << CLIENT_BITS) | client as u64;
        Stream {
            random: Random::new(plan.seed, lane),
            chooser: Chooser::new(plan.distribution),
            counter: lane << COUNTER_BITS,
            plan: plan.clone(),
            keys: keys.clone(),
        }
    }

    /// The next operation.
    pub(super) fn next(&mut self) -> Op {
        let kind = self.plan.mix.choose(&mut self.random);
        let key = match kind {
            Kind::Insert => self.keys.next.fetch_add(1, Ordering::Relaxed),
            _ => {
                let known = self.keys.known.load(Ordering::Relaxed);
                self.chooser.choose(&mut self.random, known, &self.keys.turn)
            }
        };
        let rows = match kind {
            Kind::Scan => 1 + self.random.below(u64::from(self.plan.scan_rows_max)) as u32,
            _ => 0,
        };
        self.counter += 1;
        Op { kind, key, counter: self.counter, rows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(mix: &str) -> Arc<Plan> {
        let mix = Mix::parse(mix).expect("a mix");
        let distribution = mix.distribution.unwrap_or(Distribution::Uniform);
        Arc::new(Plan { mix, distribution, scan_rows_max: 100, seed: 7, run: 1 })
    }

    #[test]
    fn mixes_are_read_and_what_is_none_is_refused() {
        let mix = Mix::parse("put=1,get=0,scan=3").unwrap();
        assert!(mix.has(Kind::Put) && !mix.has(Kind::Get) && mix.has(Kind::Scan));
        assert_eq!(Mix::parse(&mix.text()).unwrap(), mix);
        assert_eq!(Mix::parse("d").unwrap().distribution, Some(Distribution::Latest));
        for bad in ["", "g", "put", "put=", "put=x", "put=0", "put=1,put=2", "search=1", "put=-1"] {
            assert!(Mix::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_stream_is_the_same_for_a_seed_and_has_the_mix_that_was_asked_for() {
        let keys = Arc::new(KeySpace::new(1000));
        let (mut one, mut two) = (Stream::new(&plan("e"), &keys, 3), Stream::new(&plan("f"), &keys, 3));
        let ops: Vec<Op> = (0..10_000).map(|_| one.next()).collect();
        let scans: Vec<&Op> = ops.iter().filter(|op| op.kind == Kind::Scan).collect();
        assert!((9_300..9_700).contains(&scans.len()), "{}", scans.len());
        assert!(scans.iter().all(|op| (1..=100).contains(&op.rows) && op.key < 1000));
        let mut again = Stream::new(&plan("e"), &Arc::new(KeySpace::new(1000)), 3);
        assert!(ops.iter().all(|op| *op == again.next()));
        assert_ne!(two.next().counter >> COUNTER_BITS, 0);
        assert_eq!(Stream::new(&plan("f"), &keys, 3).next(), Stream::new(&plan("f"), &keys, 3).next());
    }

    #[test]
    fn inserted_keys_are_read_once_all_before_them_are_there() {
        let keys = KeySpace::new(10);
        keys.inserted(11);
        assert_eq!(keys.known.load(Ordering::Relaxed), 10);
        keys.inserted(10);
        assert_eq!(keys.known.load(Ordering::Relaxed), 12);
    }
}
