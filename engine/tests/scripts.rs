//! Runs every file of `scripts/`: what the engine does, as scripts that a newcomer can read.
//!
//! A script is a list of blocks parted by empty lines. A block holds comments (`#`), commands, then `---` and what the
//! commands print; a block that prints nothing has no `---`. `UPDATE=1 cargo test -p lumen-engine --test scripts`
//! writes what is printed into the files: read the diff before you commit it. The commands are listed in `world/mod.rs`.
//!
//! Everything runs on the file system in memory, without threads and with fixed randomness, so that a script always
//! prints the same. Nothing is printed as raw bytes: files are shown through `lumen_engine::inspect`.

mod world;

use std::fmt::Write;
use std::path::Path;

use world::World;

/// Runs a script and answers it with the output that came.
fn run(script: &str) -> String {
    let mut world = World::new();
    let mut blocks = Vec::new();
    for block in script.split("\n\n").map(|block| block.trim_matches('\n')).filter(|block| !block.is_empty())
    {
        let input: Vec<&str> = block.lines().take_while(|line| *line != "---").collect();
        let mut printed = String::new();
        for line in input.iter().map(|line| line.trim()).filter(|line| !line.starts_with('#')) {
            if let Err(error) = world.command(line, &mut printed) {
                writeln!(printed, "error: {error}").expect("a string takes all");
            }
        }
        let parting = if printed.is_empty() { "" } else { "\n---\n" };
        blocks.push(format!("{}{parting}{}", input.join("\n"), printed.trim_end()));
    }
    blocks.join("\n\n") + "\n"
}

#[test]
fn every_script_prints_what_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = String::new();
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder of scripts") {
        let path = entry.expect("an entry").path();
        count += 1;
        let script = std::fs::read_to_string(&path).expect("a script is text");
        let printed = run(&script);
        if printed == script {
            continue;
        }
        if update {
            std::fs::write(&path, printed).expect("writable");
            continue;
        }
        let name = path.file_name().expect("a name").to_string_lossy();
        for (number, (expected, found)) in script.lines().zip(printed.lines()).enumerate() {
            if expected != found {
                writeln!(wrong, "{name}, line {}\n  expected: {expected}\n  found:    {found}", number + 1)
                    .expect("a string takes all");
                break;
            }
        }
        let (expected, found) = (script.lines().count(), printed.lines().count());
        writeln!(wrong, "{name}: {expected} lines expected, {found} found").expect("a string takes all");
    }
    assert!(count >= 13, "only {count} scripts were found");
    assert!(wrong.is_empty(), "\n{wrong}UPDATE=1 writes what was found; read the diff");
}
