//! The memtable's list: crossbeam-skiplist's beside one of our own in an arena, behind the same small trait.
//!
//! `cargo bench -p lumen-benches --bench skiplist`. Ours has one writer at a time and no `unsafe`: nodes lie in pages that never
//! move, links are numbers of nodes. Both keep the first 16 bytes of a key in the node (`engine/src/memtable.rs`).

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Release};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_skiplist::SkipMap;
use lumen_benches::{Random, key, value};

const ROWS: u64 = 100_000;
const VALUE_BYTES: usize = 400;

/// What a memtable asks of a list. Of one key, newer versions come first.
trait List: Default + Sync {
    /// Adds a version; by one at a time.
    fn insert(&self, key: &[u8], seq: u64, value: &[u8]);
    /// The length of the newest value of `key` with a seq of at most `seq`.
    fn get(&self, key: &[u8], seq: u64) -> Option<usize>;
    /// Bytes of all keys and values, met in order.
    fn walk(&self) -> usize {
        self.seek(&[], usize::MAX)
    }
    /// Bytes of the keys and values of at most so many versions from `key` on.
    fn seek(&self, key: &[u8], rows: usize) -> usize;
}

/// A version in a node.
struct Version {
    head: u128,
    seq: u64,
    bytes: Box<[u8]>,
    key_len: u32,
}

fn head(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let len = key.len().min(16);
    bytes[..len].copy_from_slice(&key[..len]);
    u128::from_be_bytes(bytes)
}

impl Version {
    fn new(key: &[u8], seq: u64, value: &[u8]) -> Version {
        let bytes = [key, value].concat().into();
        Version { head: head(key), seq, bytes, key_len: key.len() as u32 }
    }
}

/// A place in the order, held or looked for.
trait Place {
    fn head(&self) -> u128;
    fn rest(&self) -> (&[u8], u64);
}

impl Place for Version {
    fn head(&self) -> u128 {
        self.head
    }

    fn rest(&self) -> (&[u8], u64) {
        (&self.bytes[..self.key_len as usize], self.seq)
    }
}

struct Wanted<'a>(u128, &'a [u8], u64);

impl Place for Wanted<'_> {
    fn head(&self) -> u128 {
        self.0
    }

    fn rest(&self) -> (&[u8], u64) {
        (self.1, self.2)
    }
}

fn order<A: Place + ?Sized, B: Place + ?Sized>(a: &A, b: &B) -> Ordering {
    a.head().cmp(&b.head()).then_with(|| {
        let ((a, newer), (b, older)) = (a.rest(), b.rest());
        a.cmp(b).then(older.cmp(&newer))
    })
}

macro_rules! ordered {
    ($type:ty) => {
        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                order(self, other) == Ordering::Equal
            }
        }
        impl Eq for $type {}
        impl PartialOrd for $type {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
        impl Ord for $type {
            fn cmp(&self, other: &Self) -> Ordering {
                order(self, other)
            }
        }
    };
}

ordered!(Version);
ordered!(dyn Place + '_);

impl<'a> Borrow<dyn Place + 'a> for Version {
    fn borrow(&self) -> &(dyn Place + 'a) {
        self
    }
}

#[derive(Default)]
struct Crossbeam(SkipMap<Version, ()>);

impl List for Crossbeam {
    fn insert(&self, key: &[u8], seq: u64, value: &[u8]) {
        self.0.insert(Version::new(key, seq, value), ());
    }

    fn get(&self, key: &[u8], seq: u64) -> Option<usize> {
        let from: &dyn Place = &Wanted(head(key), key, seq);
        let found = self.0.lower_bound(Bound::Included(from))?;
        let version = found.key();
        (version.rest().0 == key).then(|| version.bytes.len() - key.len())
    }

    fn seek(&self, key: &[u8], rows: usize) -> usize {
        let from: &dyn Place = &Wanted(head(key), key, u64::MAX);
        // Entry by entry, as a cursor holds it; a range would look for its end each time.
        let first = self.0.lower_bound(Bound::Included(from));
        let entries = std::iter::successors(first, |entry| entry.next());
        entries.take(rows).map(|entry| entry.key().bytes.len()).sum()
    }
}

/// Things that never move, by number.
struct Pages<T>(Vec<OnceLock<Box<[T]>>>);

const PAGE: usize = 1 << 12;

impl<T: Default> Pages<T> {
    fn new() -> Pages<T> {
        Pages((0..1 << 12).map(|_| OnceLock::new()).collect())
    }

    fn at(&self, number: u32) -> &T {
        let (page, place) = (number as usize / PAGE, number as usize % PAGE);
        &self.0[page].get_or_init(|| (0..PAGE).map(|_| T::default()).collect())[place]
    }
}

const HEIGHT_MAX: usize = 12;

/// A version, and where the links to what follows it on each level begin.
struct Node {
    version: Version,
    links: u32,
}

/// A skip list whose nodes are named by numbers; 0 is none.
struct Arena {
    nodes: Pages<OnceLock<Node>>,
    links: Pages<AtomicU32>,
    /// How many nodes and links there are, and the state of the dice. The first links are the list's own.
    used: Mutex<(u32, u32, Random)>,
}

impl Default for Arena {
    fn default() -> Arena {
        let used = Mutex::new((1, HEIGHT_MAX as u32, Random::new(11)));
        Arena { nodes: Pages::new(), links: Pages::new(), used }
    }
}

impl Arena {
    fn node(&self, number: u32) -> Option<&Node> {
        if number == 0 { None } else { self.nodes.at(number).get() }
    }

    /// The first node that is not before `wanted`, and for each level the links to which one before it is put.
    fn search(&self, wanted: &dyn Place, mut before: impl FnMut(usize, u32)) -> u32 {
        let (mut links, mut next) = (0, 0);
        for level in (0..HEIGHT_MAX).rev() {
            loop {
                next = self.links.at(links + level as u32).load(Acquire);
                match self.node(next) {
                    Some(node) if order(&node.version, wanted) == Ordering::Less => links = node.links,
                    _ => break,
                }
            }
            before(level, links);
        }
        next
    }
}

impl List for Arena {
    fn insert(&self, key: &[u8], seq: u64, value: &[u8]) {
        let version = Version::new(key, seq, value);
        let mut used = self.used.lock().expect("nobody panics with it");
        let mut before = [0; HEIGHT_MAX];
        self.search(&version, |level, links| before[level] = links);
        // Each level has a quarter of the nodes of the one below.
        let height = (1 + used.2.bits().trailing_zeros() as usize / 2).min(HEIGHT_MAX);
        let (number, links) = (used.0, used.1);
        (used.0, used.1) = (number + 1, links + height as u32);
        for (level, before) in before.iter().enumerate().take(height) {
            let after = self.links.at(before + level as u32).load(Acquire);
            self.links.at(links + level as u32).store(after, Release);
        }
        assert!(self.nodes.at(number).set(Node { version, links }).is_ok(), "each number is given once");
        for (level, before) in before.iter().enumerate().take(height) {
            self.links.at(before + level as u32).store(number, Release);
        }
    }

    fn get(&self, key: &[u8], seq: u64) -> Option<usize> {
        let found = self.search(&Wanted(head(key), key, seq), |_, _| {});
        let version = &self.node(found)?.version;
        (version.rest().0 == key).then(|| version.bytes.len() - key.len())
    }

    fn seek(&self, key: &[u8], rows: usize) -> usize {
        let first = self.node(self.search(&Wanted(head(key), key, u64::MAX), |_, _| {}));
        let nodes = std::iter::successors(first, |node| self.node(self.links.at(node.links).load(Acquire)));
        nodes.take(rows).map(|node| node.version.bytes.len()).sum()
    }
}

fn in_order(n: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&n.to_be_bytes());
    key
}

fn filled<L: List>(key: impl Fn(u64) -> [u8; 16], value: &[u8]) -> L {
    let list = L::default();
    (0..ROWS).for_each(|n| list.insert(&key(n), n + 1, value));
    list
}

fn measure<L: List>(c: &mut Criterion, name: &str) {
    let mut group = c.benchmark_group(format!("{name}, 100,000 rows of 416 B"));
    group.sample_size(20).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    let value = value(&mut Random::new(7), VALUE_BYTES);
    group.throughput(Throughput::Elements(ROWS));
    for (how, key) in [("insert, at random", key as fn(u64) -> [u8; 16]), ("insert, in order", in_order)] {
        group.bench_function(how, |b| {
            b.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    let begin = Instant::now();
                    let list: L = filled(key, &value);
                    spent += begin.elapsed(); // without taking it down
                    drop(list);
                }
                spent
            });
        });
    }
    let list: L = filled(key, &value);
    assert_eq!(list.walk(), ROWS as usize * (16 + VALUE_BYTES));
    group.bench_function("walk", |b| b.iter(|| list.walk()));
    group.throughput(Throughput::Elements(1));
    let mut random = Random::new(3);
    group.bench_function("get, there", |b| {
        b.iter(|| list.get(&key(random.below(ROWS)), u64::MAX).expect("there"));
    });
    group.bench_function("get, missing", |b| {
        b.iter(|| assert!(list.get(&key(ROWS + random.below(ROWS)), u64::MAX).is_none()));
    });
    group.bench_function("seek and 10 rows", |b| {
        b.iter(|| assert!(list.seek(&key(random.below(ROWS)), 10) > 0));
    });
    drop(list);
    group.bench_function("get, there, while another inserts", |b| {
        b.iter_custom(|times| beside_a_writer::<L>(times, &value));
    });
    group.finish();
}

/// The time of so many look-ups in lists that another thread fills meanwhile, one after the other.
fn beside_a_writer<L: List>(times: u64, value: &[u8]) -> Duration {
    let (mut spent, mut left) = (Duration::ZERO, times);
    while left > 0 {
        let list = L::default();
        let (inserted, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..ROWS {
                    list.insert(&key(n), n + 1, value);
                    inserted.store(n + 1, Release);
                    if is_over.load(Acquire) {
                        return;
                    }
                }
                is_over.store(true, Release);
            });
            while inserted.load(Acquire) < ROWS / 4 {
                std::hint::spin_loop();
            }
            let mut random = Random::new(left);
            let begin = Instant::now();
            while left > 0 && !is_over.load(Acquire) {
                let n = random.below(inserted.load(Acquire));
                assert!(list.get(&key(n), u64::MAX).is_some());
                left -= 1;
            }
            spent += begin.elapsed();
            is_over.store(true, Release);
        });
    }
    spent
}

fn lists(c: &mut Criterion) {
    measure::<Crossbeam>(c, "crossbeam-skiplist");
    measure::<Arena>(c, "an arena");
}

criterion_group!(benches, lists);
criterion_main!(benches);
