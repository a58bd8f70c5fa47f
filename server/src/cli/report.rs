//! What an import tells: progress while it runs, the list of rejected lines, and how it went.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use serde_json::json;

use super::chunks::LINE_BYTES_MAX;
use super::io_failure;
use super::progress::Progress;
use super::transfer::Transfer;
use crate::error::Failure;

/// Shows how far it is, and lists what was rejected.
pub(crate) struct Report {
    progress: Progress,
    /// Lines that were rejected.
    pub(crate) rejected: u64,
    rejects_path: Option<PathBuf>,
    rejects: Option<File>,
}

impl Report {
    /// A report of nothing yet; `total` is the size of the source, if that is known.
    pub(crate) fn new(total: Option<u64>, rejects_path: Option<PathBuf>) -> Report {
        Report { progress: Progress::new(total), rejected: 0, rejects_path, rejects: None }
    }

    /// Lists a rejected line in the file, which is made when there is a first one.
    pub(crate) fn rejected(&mut self, line: &str) -> Result<(), Failure> {
        self.rejected += 1;
        let Some(path) = &self.rejects_path else { return Ok(()) };
        let failed = |error| io_failure(&path.display().to_string(), &error);
        if self.rejects.is_none() {
            self.rejects = Some(File::create(path).map_err(failed)?);
        }
        match &mut self.rejects {
            Some(file) => writeln!(file, "{line}").map_err(failed),
            None => Ok(()),
        }
    }

    /// Lists a line that is not sent at all.
    pub(crate) fn too_long(&mut self, line: u64) -> Result<(), Failure> {
        let failure = Failure::too_large("the line", LINE_BYTES_MAX as u64);
        self.rejected(&json!({ "line": line, "error": failure.to_json(None) }).to_string())
    }

    /// Shows what is decided by now.
    pub(crate) fn moved(&mut self, transfer: &Transfer) {
        let stored = transfer.stored();
        self.progress.done(transfer.bytes(), stored.created + stored.updated, self.rejected);
    }

    /// Says how it went.
    pub(crate) fn end(&self, transfer: &Transfer, ended: &Result<bool, Failure>) {
        let (how, line) = (self.progress.finish(), transfer.through_line());
        match ended {
            Ok(false) => say!("imported {how}; all of them are searchable now"),
            Ok(true) => say!("stopped: {how}; the lines up to {line} are stored or rejected"),
            Err(_) => say!(
                "broken off: {how}; the lines up to {line} are stored or rejected, of the later ones some may be stored"
            ),
        }
        if let (Some(path), true) = (&self.rejects_path, self.rejected > 0) {
            let lines = if self.rejected == 1 {
                "1 line was".into()
            } else {
                format!("{} lines were", self.rejected)
            };
            say!("{lines} rejected; which and why: {}", path.display());
        }
        if !std::io::stdout().is_terminal() && self.rejects_path.is_some() {
            let stored = transfer.stored();
            let summary = json!({
                "created": stored.created,
                "updated": stored.updated,
                "rejected": self.rejected,
                "through_line": line,
                "seq": stored.seq,
            });
            // Whoever wanted the summary may be gone; the exit code says the rest.
            let _ = writeln!(std::io::stdout(), "{summary}");
        }
    }
}
