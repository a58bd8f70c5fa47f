//! Documents against a mapping: JSON or not, a document is taken or refused with a reason.
#![no_main]

use std::cell::OnceCell;

use libfuzzer_sys::fuzz_target;
use lumen::{Condition, Database, Mapping, Write};
use lumen_engine::vfs::memory::Memory;

thread_local! {
    static DATABASE: OnceCell<Database> = const { OnceCell::new() };
}

fuzz_target!(|source: &[u8]| {
    DATABASE.with(|database| {
        let database = database.get_or_init(|| {
            let database =
                Database::open("/db", lumen_fuzz::database_options(&Memory::new())).expect("opens");
            let mapping = Mapping::from_json(lumen_fuzz::MAPPING).expect("good");
            database.write(Write::CreateCollection { name: "c".into(), mapping }).expect("written");
            database
        });
        let (collection, id) = ("c".into(), "1".into());
        let put = Write::Put { collection, id, source: source.to_vec(), condition: Condition::Always };
        if database.prepare(put).is_ok() {
            assert!(std::str::from_utf8(source).is_ok(), "a document that is no text was taken");
        }
        // A mapping that is taken says the same after a round.
        if let Ok(mapping) = Mapping::from_json(source) {
            assert_eq!(Mapping::from_json(mapping.to_json().as_bytes()), Ok(mapping));
        }
    });
});
