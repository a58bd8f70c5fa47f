//! The house rules, as a test: who may depend on whom, and how a file begins and imports.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// The arrows that ARCHITECTURE.md draws: a crate, and the crates of this workspace it may use. `benches` is free.
const ARROWS: [(&str, &[&str]); 5] = [
    ("engine", &[]),
    ("index", &[]),
    ("database", &["lumen-engine", "lumen-index"]),
    ("raft", &["lumen-database", "lumen-engine"]),
    ("server", &["lumen-raft", "lumen-database"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above").to_path_buf()
}

fn manifest(path: &Path) -> Table {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All dependencies of a manifest, those for tests, builds and single targets too.
fn dependencies(manifest: &Table) -> Vec<(String, Value)> {
    let mut tables = vec![manifest.clone()];
    if let Some(Value::Table(workspace)) = manifest.get("workspace") {
        tables.push(workspace.clone());
    }
    if let Some(Value::Table(targets)) = manifest.get("target") {
        tables.extend(targets.values().filter_map(Value::as_table).cloned());
    }
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    tables
        .iter()
        .flat_map(|table| kinds.iter().filter_map(|kind| table.get(*kind)?.as_table()))
        .flat_map(|table| table.iter().map(|(name, value)| (name.clone(), value.clone())))
        .collect()
}

/// The package that a dependency means, whatever it is called here.
fn package<'a>(name: &'a str, value: &'a Value) -> &'a str {
    value.get("package").and_then(Value::as_str).unwrap_or(name)
}

#[test]
fn crates_depend_only_along_the_drawn_arrows() {
    for (folder, allowed) in ARROWS {
        for (name, value) in dependencies(&manifest(&root().join(folder).join("Cargo.toml"))) {
            let package = package(&name, &value);
            let path = value.get("path").and_then(Value::as_str);
            assert!(path.is_none(), "{folder}: {name} names a path; use the workspace's dependency");
            let is_ours = package == "lumen" || package.starts_with("lumen-");
            assert!(!is_ours || allowed.contains(&package), "{folder} may not depend on {package}");
        }
    }
}

#[test]
fn synchronous_crates_stay_synchronous_and_the_wire_stays_in_the_server() {
    for (folder, refused) in [
        ("engine", &["tokio", "serde_json", "hyper", "openraft"][..]),
        ("index", &["tokio", "serde_json", "hyper", "openraft"]),
        ("database", &["tokio", "hyper", "openraft"]),
        ("raft", &["hyper", "tonic"]),
    ] {
        // A crate's own tests may use more: they do not ship.
        let mut shipped = manifest(&root().join(folder).join("Cargo.toml"));
        shipped.remove("dev-dependencies");
        for (name, value) in dependencies(&shipped) {
            let package = package(&name, &value);
            assert!(!refused.contains(&package), "{folder} may not know {package}");
        }
    }
}

#[test]
fn every_dependency_comes_from_the_registry() {
    let workspace = manifest(&root().join("Cargo.toml"));
    let members = workspace["workspace"]["members"].as_array().expect("members").clone();
    let manifests = members
        .iter()
        .filter_map(Value::as_str)
        .map(|member| manifest(&root().join(member).join("Cargo.toml")))
        .chain([workspace]);
    for manifest in manifests {
        for (name, value) in dependencies(&manifest) {
            assert!(value.get("git").is_none(), "{name} comes from a git repository");
        }
    }
}

/// Every Rust file of the workspace and of the folders beside it.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry")) {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if entry.file_type().expect("a type").is_dir() {
                if !name.starts_with('.') && name != "target" {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 10, "the sources are where they should be");
    found
}

#[test]
fn every_file_says_what_it_is() {
    for path in sources() {
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        let says = text.lines().take(3).any(|line| line.starts_with("//!"));
        assert!(says, "{}: no //! in its first three lines", path.display());
    }
}

#[test]
fn nothing_is_imported_through_the_crate_root() {
    for path in sources() {
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_start();
            let line = line.strip_prefix("pub ").or_else(|| line.strip_prefix("pub(crate) ")).unwrap_or(line);
            let Some(imported) = line.strip_prefix("use crate::") else { continue };
            let through_root = imported.starts_with(|c: char| c == '{' || c.is_ascii_uppercase());
            assert!(!through_root, "{}:{number}: import from the module that defines it", path.display());
        }
    }
}
