//! Batches as log records carry them: what decodes encodes to the same bytes and takes effect; the rest is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lumen_engine::vfs::memory::Memory;
use lumen_engine::{Batch, Durability, Engine};

fuzz_target!(|bytes: &[u8]| {
    let Some(batch) = Batch::decode(bytes) else { return };
    let mut again = Vec::new();
    batch.encode(&mut again);
    assert_eq!(Batch::decode(&again).as_ref(), Some(&batch));
    let Ok(operations) = batch.effective() else { return };
    assert!(operations.len() <= batch.len());
    // What the memtable says of it, the table and the replayed log say as well.
    let read = |engine: &Engine| {
        let mut rows = Vec::new();
        let unbounded = std::ops::Bound::Unbounded;
        let scanned = engine.scan(unbounded, unbounded, |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            true
        });
        scanned.expect("undamaged");
        rows
    };
    let vfs = Memory::new();
    let engine = Engine::open("/db", lumen_fuzz::engine_options(&vfs)).expect("a fresh store opens");
    let mut before = Batch::new();
    (0..32u8).for_each(|n| before.put(&[n * 8], b"before"));
    engine.write(&before, Durability::Sync).expect("written");
    engine.write(&batch, Durability::Sync).expect("written");
    let rows = read(&engine);
    drop(engine);
    let engine = Engine::open("/db", lumen_fuzz::engine_options(&vfs)).expect("it opens again");
    assert_eq!(read(&engine), rows, "after a replay");
    engine.settle().expect("settled");
    assert_eq!(read(&engine), rows, "from the table");
});
