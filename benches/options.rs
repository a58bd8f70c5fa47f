//! What is asked of the bench on the command line.

use std::collections::BTreeMap;
use std::path::Path;

/// What was said after the name of the work, as pairs of names and values.
pub struct Options(BTreeMap<&'static str, String>);

impl Options {
    /// Reads them over the defaults; `None` when there is one that is not known.
    pub fn read(defaults: &[(&'static str, &str)], pairs: &[String]) -> Option<Options> {
        let mut options: BTreeMap<&str, String> =
            defaults.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        options.insert("--dir", std::env::temp_dir().display().to_string());
        for pair in pairs.chunks(2) {
            pair.get(1)?.clone_into(options.get_mut(pair[0].as_str())?);
        }
        Some(Options(options))
    }

    /// A value as it is.
    pub fn text(&self, name: &str) -> &str {
        &self.0[name]
    }

    /// A value that is a list.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.0[name].split(',').map(str::to_owned).collect()
    }

    /// A value that is a number.
    pub fn number(&self, name: &str) -> u64 {
        self.0[name].parse().unwrap_or_else(|_| panic!("{name} is a number, not {}", self.0[name]))
    }

    /// A folder in the one that was named, gone at the end.
    pub fn folder(&self) -> tempfile::TempDir {
        let parent = Path::new(&self.0["--dir"]);
        let made = std::fs::create_dir_all(parent).and_then(|()| tempfile::tempdir_in(parent));
        made.unwrap_or_else(|error| panic!("{}: {error}", parent.display()))
    }
}
