//! `lumen check` and `lumen inspect`: what can be said of files without a server.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::io_failure;
use crate::error::{Failure, Kind, exit};

/// `lumen check`
#[derive(Args)]
pub(crate) struct Check {
    /// The data folder
    dir: PathBuf,
}

impl Check {
    /// Reads everything; 1 if anything is wrong.
    pub(crate) fn run(self) -> anyhow::Result<u8> {
        let failed = |error| io_failure(&self.dir.display().to_string(), &error);
        let mut entries = std::fs::read_dir(&self.dir).map_err(failed)?;
        if !entries
            .any(|entry| entry.is_ok_and(|entry| entry.path().extension() == Some("manifest".as_ref())))
        {
            let message = format!("{} holds no Lumen database", self.dir.display());
            return Err(Failure::new(Kind::RouteNotFound, message).into());
        }
        let bar = ProgressBar::new(0);
        if !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template(" checking {bar:30} {percent:>3} %  eta {eta}  {msg}")
        {
            bar.set_style(style.progress_chars("━╸─"));
        }
        let report = lumen::check::check(&self.dir, &mut |progress| {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            bar.set_message(progress.what.to_string());
        });
        bar.finish_and_clear();
        let mut report = report.map_err(Failure::from)?;
        let log = match lumen_raft::inspect::check(&self.dir, lumen::Options::default().vfs) {
            Ok(entries) => entries,
            Err(error @ lumen_raft::Error::Corrupt { .. }) => {
                report.problems.push(error.to_string());
                None
            }
            Err(error) => return Err(Failure::from(error).into()),
        };
        let mut out = std::io::stdout().lock();
        for problem in &report.problems {
            writeln!(out, "{problem}")?;
        }
        let read = format!(
            "{} files, {}, {} documents",
            HumanCount(report.files),
            HumanBytes(report.bytes),
            HumanCount(report.documents)
        );
        let log = log.map_or(String::new(), |entries| {
            format!(", {} entries of the replicated log", HumanCount(entries))
        });
        let read = read + &log;
        if report.problems.is_empty() {
            say!("{}: {read}: nothing is wrong", self.dir.display());
            return Ok(0);
        }
        say!("{}: {read}: {} problems", self.dir.display(), report.problems.len());
        Ok(exit::REFUSED)
    }
}

/// `lumen inspect`
#[derive(Args)]
pub(crate) struct Inspect {
    /// The file or data folder
    path: PathBuf,
}

impl Inspect {
    /// Prints it.
    pub(crate) fn run(self) -> anyhow::Result<u8> {
        let metadata = std::fs::metadata(&self.path)
            .map_err(|error| io_failure(&self.path.display().to_string(), &error))?;
        let name = self.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let is_of_raft = metadata.is_file() && name.ends_with(lumen_raft::inspect::ENDING);
        if metadata.is_file() && !is_of_raft && !lumen::inspect::is_known(&self.path) {
            let message = format!(
                "{} is no Lumen file (known: {} {})",
                self.path.display(),
                lumen::inspect::ENDINGS.join(" "),
                lumen_raft::inspect::ENDING
            );
            return Err(Failure::new(Kind::BadRequest, message).into());
        }
        let mut out = BufWriter::new(Noticing { out: std::io::stdout().lock(), broken: false });
        let inspected = if is_of_raft {
            let read = std::fs::read(&self.path);
            read.and_then(|bytes| lumen_raft::inspect::segment(&name, &bytes, &mut out))
                .map_err(|error| io_failure(&self.path.display().to_string(), &error))
        } else {
            lumen::inspect::inspect(&self.path, &mut out).map_err(Failure::from)
        };
        let flushed = out.flush();
        if out.get_ref().broken {
            // Whoever read it has seen enough.
            return Ok(0);
        }
        inspected?;
        flushed?;
        Ok(0)
    }
}

/// Notices a pipe that closes early: the error of an inspection does not tell it from others.
struct Noticing<W> {
    out: W,
    broken: bool,
}

impl<W: Write> Write for Noticing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes);
        self.broken |= written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
