//! Any Lumen file, or a whole data folder, as text.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::entry;
use crate::error::{Error, Result};
use crate::indexing;

fn io_error(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |error| Error::Io { reason: format!("cannot read {}: {error}", path.display()) }
}

/// How the names of files end that can be read.
pub const ENDINGS: [&str; 8] =
    [".manifest", ".log", ".wal", ".sst", ".sst.damaged", ".blob", ".att", "-spare"];

/// Whether a file is one of ours, by its name.
pub fn is_known(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| ENDINGS.iter().any(|ending| name.as_encoded_bytes().ends_with(ending.as_bytes())))
}

/// Writes what a file or folder holds. Damage is shown where it is met, not returned.
pub fn inspect(path: &Path, out: &mut dyn Write) -> Result<()> {
    if path.is_dir() {
        return folder(path, out);
    }
    let bytes = fs::read(path).map_err(io_error(path))?;
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let written = match path.extension().and_then(|extension| extension.to_str()) {
        Some("sst" | "damaged") => lumen_engine::inspect::table(&name, &bytes, out),
        Some("blob") => lumen_engine::inspect::blobs(&name, &bytes, out),
        Some("log" | "wal" | "manifest") => {
            lumen_engine::inspect::log_segment(&name, &bytes, out, &|payload| entry::describe(payload))
        }
        Some("att") => return attachment(&name, bytes, out),
        Some(ending) if ending.ends_with("-spare") => {
            writeln!(out, "{name}: a log segment in waiting; what it holds is of the past")
        }
        _ => writeln!(out, "{name}: no Lumen file (known: {})", ENDINGS.join(" ")),
    };
    written.map_err(|error| Error::Io { reason: format!("cannot write: {error}") })
}

/// A segment, or the deletes of a collection.
fn attachment(name: &str, bytes: Vec<u8>, out: &mut dyn Write) -> Result<()> {
    let failed = |error: std::io::Error| Error::Io { reason: format!("cannot write: {error}") };
    if let Ok(deletes) = indexing::read_deletes(name, &bytes) {
        for (segment, bitmap) in deletes {
            writeln!(out, "deletes of segment {segment}: {} bytes", bitmap.len()).map_err(failed)?;
        }
        return Ok(());
    }
    match lumen_index::inspect(name, std::sync::Arc::new(bytes), out) {
        Ok(()) => Ok(()),
        Err(error) => writeln!(out, "DAMAGE: {error}").map_err(failed),
    }
}

fn folder(path: &Path, out: &mut dyn Write) -> Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(io_error(path))? {
        let entry = entry.map_err(io_error(path))?;
        let len = entry.metadata().map_err(io_error(path))?.len();
        files.push((entry.file_name().to_string_lossy().into_owned(), len));
    }
    files.sort();
    for (name, len) in &files {
        let what = match name.rsplit_once('.').map(|(_, ending)| ending) {
            Some("manifest") => "what is live",
            Some("log") => "journal",
            Some("wal") => "write-ahead log",
            Some("sst") => "table of documents",
            Some("blob") => "long values",
            Some("damaged") => "a table of which a part could not be read",
            Some("att") => "index segment or deletes",
            Some(ending) if ending.ends_with("-spare") => "a log segment in waiting",
            _ if name == "raft" => "the replicated log of a node of a cluster",
            _ if name == "staging" => "files of another node that are coming",
            _ if name == "LOCK" => "held by the process that has the folder open",
            _ => "not ours",
        };
        writeln!(out, "{name:<28} {len:>14} bytes  {what}")
            .map_err(|e| Error::Io { reason: e.to_string() })?;
    }
    for (name, _) in files.iter().filter(|(name, _)| name.ends_with(".manifest")) {
        inspect(&path.join(name), out)?;
    }
    Ok(())
}
