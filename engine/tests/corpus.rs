//! The inputs that fuzzing has found worth keeping (`fuzz/corpus`), on the stable compiler. Those of `block_decode` are run
//! in `src/fuzzing.rs`.

#[path = "../../fuzz/engine/mod.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets use it as well")]
mod engine;

use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use engine::{engine_ops, forge, manifest_replay, table_open_scan, wal_recover};
use lumen_engine::inspect;
use lumen_engine::log::Kind;
use lumen_engine::vfs::memory::Memory;

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

/// The targets write edits by hand: they must be those that the engine reads.
#[test]
fn edits_made_by_hand_are_read_as_they_were_meant() {
    let fields = [
        forge::Field::NextFile(9),
        forge::Field::DurableSeq(5),
        forge::Field::Floor(4),
        forge::Field::Table { level: 3, meta: forge::Meta::sound(7, b"a", b"b") },
        forge::Field::Splits(vec![b"m".to_vec()]),
    ];
    let mut payload = Vec::new();
    fields.iter().for_each(|field| field.encode(&mut payload));
    let vfs = Memory::new();
    forge::append_to_manifest(&vfs, [(Kind::Snapshot, payload)]);
    let (_, bytes) = forge::files(&vfs, "manifest").pop().expect("a manifest");
    let mut text = Vec::new();
    inspect::log_segment("1.manifest", &bytes, &mut text, &|_| String::new()).expect("a vector takes all");
    let text = String::from_utf8_lossy(&text);
    let expected =
        "durable seq 5; floor 4; next file 9; flushes are cut at m; +table 7 L3 2 entries [a .. b]";
    assert!(text.contains(expected), "{text}");
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
