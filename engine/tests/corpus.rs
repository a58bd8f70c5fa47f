//! The inputs that fuzzing has found worth keeping (`fuzz/corpus`), on the stable compiler. Those of `block_decode` are run
//! in `src/fuzzing.rs`.

#[path = "../../fuzz/engine/mod.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets use it as well")]
mod engine;

use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use engine::{engine_ops, manifest_replay, table_open_scan, wal_recover};

/// Calls `run` with every input of a target.
fn replay<T>(target: &str, run: impl Fn(&[u8]) -> T) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&folder).expect("a corpus") {
        let path = entry.expect("an entry").path();
        println!("{}", path.display()); // shown when it fails
        run(&std::fs::read(&path).expect("an input"));
        inputs += 1;
    }
    assert!(inputs > 0, "no input in {}", folder.display());
}

/// Makes an input of bytes, as libfuzzer-sys does.
fn structured<T: for<'a> Arbitrary<'a>>(run: fn(&T)) -> impl Fn(&[u8]) {
    move |bytes| {
        if let Ok(input) = T::arbitrary_take_rest(Unstructured::new(bytes)) {
            run(&input);
        }
    }
}

#[test]
fn wal_recover() {
    replay("wal_recover", wal_recover::run);
}

#[test]
fn table_open_scan() {
    replay("table_open_scan", structured(table_open_scan::run));
}

#[test]
fn manifest_replay() {
    replay("manifest_replay", structured(manifest_replay::run));
}

#[test]
fn engine_ops() {
    replay("engine_ops", structured(engine_ops::run));
}

#[test]
fn logs_as_the_engine_leaves_them_are_read_whether_sealed_anew_or_not() {
    let mut opened = 0;
    for seed in 0..500 {
        let mut bytes = wal_recover::sample(seed);
        opened += u32::from(wal_recover::run(&bytes));
        wal_recover::seal(&mut bytes);
        opened += u32::from(wal_recover::run(&bytes));
    }
    assert!(
        opened > 500,
        "few are damaged by leaving out what went before and after: {opened} of 1000 opened"
    );
}
