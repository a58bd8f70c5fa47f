//! Checks a data folder offline: every checksum, every cross-reference, the indexes against the store.
//!
//! Nothing in the folder changes: the database is opened to read only, with the journal replayed in memory.

use std::path::Path;

use crate::database::{Database, Options};
use crate::error::{Error, Result};

/// How far a check is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Bytes read.
    pub done: u64,
    /// Bytes to read, as far as known.
    pub total: u64,
    /// What is being read.
    pub what: &'a str,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Files read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Documents compared with their index.
    pub documents: u64,
    /// What is wrong, each with file, offset and reason. Empty: all is well.
    pub problems: Vec<String>,
}

/// Checks the database in `path`. Damage is reported, other errors are returned.
pub fn check(path: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Report> {
    check_with(path, Options::default(), progress)
}

/// [`check`] with other options.
pub fn check_with(path: &Path, options: Options, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Report> {
    let mut report = Report::default();
    let listed = options.vfs.list(path);
    let names =
        listed.map_err(|error| Error::Io { reason: format!("cannot list {}: {error}", path.display()) })?;
    if !names.iter().any(|name| name.ends_with(".manifest")) {
        let reason = format!("{} holds no Lumen database", path.display());
        return Err(Error::Io { reason });
    }
    let database = match Database::open(path, Options { read_only: true, ..options }) {
        Ok(database) => database,
        Err(error @ Error::Corrupt { .. }) => {
            report.problems.push(error.to_string());
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    let stats = database.engine().stats();
    let total = stats.levels.iter().map(|level| level.bytes).sum::<u64>() + stats.attachment_bytes;
    let problems = database.engine().verify(&mut |what, bytes| {
        progress(Progress { done: report.bytes, total, what });
        report.files += 1;
        report.bytes += bytes;
        true
    })?;
    report.problems.extend(problems.iter().map(ToString::to_string));
    // Isolated damage is no secret of the files that are left.
    report.problems.extend(database.engine().quarantines().iter().map(ToString::to_string));
    let snapshot = database.snapshot();
    for name in snapshot.collections() {
        let documents = snapshot.count(&name)?;
        progress(Progress { done: report.bytes, total, what: &name });
        match snapshot.compare(&name, &mut || true) {
            Ok(problem) => report.problems.extend(problem),
            Err(error) => report.problems.push(error.to_string()),
        }
        report.documents += documents;
    }
    progress(Progress { done: total, total, what: "done" });
    Ok(report)
}
