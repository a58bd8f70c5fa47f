//! WAL recovery: writes a log, damages its files, reopens. Whatever the damage, recovery answers with a prefix of what was
//! written or with an error; it never panics, never invents, never reorders.
#![no_main]

use std::collections::BTreeMap;
use std::ops::Bound;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use lumen_engine::vfs::memory::{Crash, Memory};
use lumen_engine::{Batch, Durability, Engine};

#[derive(Debug, Arbitrary)]
struct Input {
    writes: Vec<(u8, u8)>,
    close: bool,
    flush_at: Option<u8>,
    flips: Vec<(u8, u16, u8)>,
    cut: Option<(u8, u16)>,
    /// Copies of a part of a file over another part: stale or misdirected sectors.
    copies: Vec<(u8, u16, u16, u8)>,
    replaced: Option<(u8, Vec<u8>)>,
}

fn contents(engine: &Engine) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut rows = BTreeMap::new();
    let done = engine.scan(Bound::Unbounded, Bound::Unbounded, |key, value| {
        rows.insert(key.to_vec(), value.to_vec());
        true
    });
    done.is_ok().then_some(rows)
}

fuzz_target!(|input: Input| {
    let vfs = Memory::new();
    let engine = Engine::open("/db", lumen_fuzz::engine_options(&vfs)).expect("a fresh store opens");
    let mut states = vec![BTreeMap::new()];
    for (step, (key, len)) in input.writes.iter().take(40).enumerate() {
        let mut batch = Batch::new();
        let value = vec![step as u8; usize::from(*len)];
        batch.put(&[*key], &value);
        engine.write(&batch, Durability::Sync).expect("nothing fails yet");
        let mut state = states[step].clone();
        state.insert(vec![*key], value);
        states.push(state);
        if input.flush_at == Some(step as u8) {
            engine.flush().expect("nothing fails yet");
        }
    }
    if input.close {
        engine.close().expect("nothing fails yet");
    }
    drop(engine);
    vfs.crash(Crash::DropPending, 1);
    let files: Vec<_> = vfs.files().into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
    let untouched =
        input.flips.is_empty() && input.cut.is_none() && input.copies.is_empty() && input.replaced.is_none();
    let pick = |choice: u8| &files[usize::from(choice) % files.len()].0;
    for (file, at, mask) in input.flips.iter().take(8) {
        vfs.damage(pick(*file), |bytes| {
            let at = usize::from(*at) % bytes.len();
            bytes[at] ^= mask;
        });
    }
    for (file, from, to, len) in input.copies.iter().take(4) {
        vfs.damage(pick(*file), |bytes| {
            let len = usize::from(*len).min(bytes.len());
            let (from, to) =
                (usize::from(*from) % (bytes.len() - len + 1), usize::from(*to) % (bytes.len() - len + 1));
            bytes.copy_within(from..from + len, to);
        });
    }
    if let Some((file, bytes)) = &input.replaced {
        vfs.damage(pick(*file), |old| *old = bytes.clone());
    }
    if let Some((file, at)) = input.cut {
        vfs.damage(pick(file), |bytes| bytes.truncate(usize::from(at) % (bytes.len() + 1)));
    }
    let Ok(engine) = Engine::open("/db", lumen_fuzz::engine_options(&vfs)) else {
        assert!(!untouched, "an undamaged store does not open");
        return;
    };
    let Some(rows) = contents(&engine) else { return };
    assert!(states.contains(&rows), "recovery answers with something that never was");
    assert!(!untouched || rows == states[states.len() - 1], "an undamaged store lost something");
});
