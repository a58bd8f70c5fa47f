//! Shows how far an import is: a bar on a terminal, a line every few seconds elsewhere.

use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// Between two lines where there is no bar.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How far it is.
pub(crate) struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    started: Instant,
    last_line: Instant,
    total: Option<u64>,
    documents: u64,
    rejected: u64,
    bytes: u64,
}

impl Progress {
    /// From nothing to `total` bytes, if that is known.
    pub(crate) fn new(total: Option<u64>) -> Progress {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        bar.set_draw_target(target);
        let template = match total {
            Some(_) => " importing {bar:30} {percent:>3} %  {bytes_per_sec}  eta {eta}  {msg}",
            None => " importing {spinner} {bytes}  {bytes_per_sec}  {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        let started = Instant::now();
        Progress { bar, is_terminal, started, last_line: started, total, documents: 0, rejected: 0, bytes: 0 }
    }

    /// Up to `bytes` of the file is done.
    pub(crate) fn done(&mut self, bytes: u64, documents: u64, rejected: u64) {
        (self.bytes, self.documents, self.rejected) = (bytes, documents, rejected);
        self.bar.set_position(bytes);
        self.bar.set_message(self.counts());
        if !self.is_terminal && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let percent = match self.total {
                Some(total) if total > 0 => format!("{} %  ", bytes * 100 / total),
                _ => String::new(),
            };
            say!("importing  {percent}{}  {}", HumanBytes(bytes), self.counts());
        }
    }

    fn counts(&self) -> String {
        let rate = self.documents as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        let documents = HumanCount(self.documents);
        let rate = HumanCount(rate as u64);
        match self.rejected {
            0 => format!("{documents} documents  {rate}/s"),
            rejected => format!("{documents} documents  {rate}/s  rejected {}", HumanCount(rejected)),
        }
    }

    /// Takes the bar away and says what was done in how long.
    pub(crate) fn finish(&self) -> String {
        self.bar.finish_and_clear();
        let took = self.started.elapsed().as_secs_f64();
        let speed = self.bytes as f64 / 1e6 / took.max(0.001);
        format!("{} in {took:.2} s, {speed:.1} MB/s", self.counts())
    }
}
