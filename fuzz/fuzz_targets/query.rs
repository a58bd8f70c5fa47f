//! Query text: whatever it is, it is read or refused at a place inside it, and what was read is answered.
#![no_main]

use std::cell::OnceCell;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use lumen_index::{Schema, View, parse};

thread_local! {
    static VIEW: OnceCell<(Arc<Schema>, Arc<View>)> = const { OnceCell::new() };
}

fuzz_target!(|text: &str| {
    VIEW.with(|view| {
        let (schema, view) = view.get_or_init(|| {
            let schema = lumen_fuzz::schema();
            let view = lumen_fuzz::index(&schema, 60).view();
            (schema, view)
        });
        match parse(text, schema) {
            Ok(query) => lumen_fuzz::ask(view, &query),
            Err(error) => assert!(error.position <= text.len() && error.column > 0),
        }
    });
});
