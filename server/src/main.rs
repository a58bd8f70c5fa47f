//! The `lumen` program.

fn main() {}
