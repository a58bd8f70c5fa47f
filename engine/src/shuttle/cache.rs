//! The block cache: one load for all who want a block, failing loads, eviction, and the budget that pinned bytes take from.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{below, explore};
use crate::error::{Error, Result};
use crate::key::{Entry, Op};
use crate::sync::{step, thread};
use crate::table::block::{Block, BlockBuilder, BlockCursor};
use crate::table::cache::{BlockCache, Cached};

const THREADS: usize = 4;
const LOOKUPS: usize = 4;
const BLOCKS: usize = 3;

/// The block at an offset: one entry, whose seq is the offset.
fn block(offset: u64) -> Cached {
    let mut builder = BlockBuilder::data();
    builder.add(Entry { key: b"key", seq: offset, op: Op::Put, value: &[7; 100] });
    Cached::Data(Arc::new(Block::new(builder.finish()).expect("a sound block")))
}

fn offset_of(cached: &Cached) -> u64 {
    let Cached::Data(block) = cached else { panic!("a data block was put in") };
    let mut cursor = BlockCursor::new(block.clone());
    cursor.seek_first().expect("sound");
    cursor.entry().expect("one entry").seq
}

/// Loads under way, by block.
#[derive(Default)]
struct Loads {
    running: [AtomicUsize; BLOCKS],
    done: AtomicUsize,
}

/// A load that takes its time, and fails now and then.
fn load(loads: &Loads, offset: u64, fails: bool) -> Result<Cached> {
    let running = &loads.running[offset as usize];
    assert_eq!(running.fetch_add(1, Ordering::Relaxed), 0, "one loads, the others wait");
    step();
    running.fetch_sub(1, Ordering::Relaxed);
    if fails && below(3) == 0 {
        return Err(Error::corrupt("a table", offset, "a block that cannot be read"));
    }
    loads.done.fetch_add(1, Ordering::Relaxed);
    Ok(block(offset))
}

/// Threads look up the same few blocks; answers how many loads succeeded.
fn look_up(cache: &Arc<BlockCache>, fails: bool) -> usize {
    let loads = Arc::new(Loads::default());
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (cache, loads) = (cache.clone(), loads.clone());
            thread::spawn(move || {
                for _ in 0..LOOKUPS {
                    let offset = below(BLOCKS) as u64;
                    match cache.get_or_load(1, offset, || load(&loads, offset, fails)) {
                        Ok(cached) => assert_eq!(offset_of(&cached), offset, "the block that was asked for"),
                        Err(Error::Corrupt { offset: failed, .. }) => {
                            assert_eq!(failed, offset, "its own failure")
                        }
                        Err(error) => panic!("{error}"),
                    }
                    if let Some(cached) = cache.peek(1, offset, true) {
                        assert_eq!(offset_of(&cached), offset);
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    loads.done.load(Ordering::Relaxed)
}

#[test]
fn a_block_is_loaded_once_for_all_who_want_it() {
    explore(|| {
        let cache = Arc::new(BlockCache::new(1 << 20, 4096));
        assert!(look_up(&cache, false) <= BLOCKS, "what is cached is not loaded again");
    });
}

#[test]
fn a_load_that_fails_lets_another_one_try() {
    explore(|| {
        let cache = Arc::new(BlockCache::new(1 << 20, 4096));
        assert!(look_up(&cache, true) <= BLOCKS, "a load that succeeded is not repeated");
        for offset in 0..BLOCKS as u64 {
            let cached = cache.get_or_load(1, offset, || Ok(block(offset))).expect("no failure stays behind");
            assert_eq!(offset_of(&cached), offset);
        }
    });
}

#[test]
fn blocks_are_right_while_others_evict_them() {
    explore(|| {
        let one = block(0).size() as u64 + 64;
        let cache = Arc::new(BlockCache::new(2 * one, 4096));
        let pinning = {
            let cache = cache.clone();
            thread::spawn(move || {
                for _ in 0..LOOKUPS {
                    cache.pin(one as i64);
                    cache.pin(-(one as i64));
                }
            })
        };
        look_up(&cache, true);
        pinning.join().expect("no panic");
        assert!(cache.bytes() <= 2 * one, "{} bytes, of at most {}", cache.bytes(), 2 * one);
    });
}

#[test]
fn what_is_pinned_and_the_rest_fill_the_budget() {
    explore(|| {
        let budget = 1 << 20;
        let cache = Arc::new(BlockCache::new(budget, 4096));
        let threads: Vec<_> = (1..=THREADS as i64)
            .map(|number| {
                let cache = cache.clone();
                thread::spawn(move || {
                    cache.pin(number * 1000);
                    cache.pin(number * 100);
                    cache.pin(-number * 1000);
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert_eq!(cache.pinned(), 1000);
        let slack = 64; // the budget is divided evenly among the parts of the cache
        assert!(cache.capacity().abs_diff(budget - 1000) <= slack, "{} bytes are left", cache.capacity());
    });
}
