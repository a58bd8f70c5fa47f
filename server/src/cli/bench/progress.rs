//! Shows how far a run is: a bar on a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::driver::{Length, Sofar};

/// Between two lines where there is no bar.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How far it is.
pub(super) struct Progress {
    name: String,
    bar: ProgressBar,
    is_terminal: bool,
    length: Length,
    warm_up: Duration,
    last_line: Instant,
    /// When it was looked at last, and what was done by then.
    last: (Duration, u64),
}

impl Progress {
    /// Nothing is done yet.
    pub(super) fn new(name: &str, length: Length, warm_up: Duration) -> Progress {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::new(match length {
            Length::Time(time) => (warm_up + time).as_millis() as u64,
            Length::Operations(count) => count,
        });
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        bar.set_draw_target(target);
        if let Ok(style) = ProgressStyle::with_template(" {prefix} {bar:30} {percent:>3} %  {msg}") {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_prefix(name.to_string());
        let name = name.to_string();
        let last = (Duration::ZERO, 0);
        Progress { name, bar, is_terminal, length, warm_up, last_line: Instant::now(), last }
    }

    /// So far.
    pub(super) fn moved(&mut self, sofar: &Sofar) {
        self.bar.set_position(match self.length {
            Length::Time(_) => sofar.elapsed.as_millis() as u64,
            Length::Operations(_) => sofar.done,
        });
        let is_line = !self.is_terminal && self.last_line.elapsed() >= LINE_EVERY;
        if !self.is_terminal && !is_line {
            return;
        }
        let (then, done) = std::mem::replace(&mut self.last, (sofar.elapsed, sofar.done));
        let rate = (sofar.done - done) as f64 / (sofar.elapsed.saturating_sub(then)).as_secs_f64().max(1e-3);
        let mut text = match sofar.elapsed < self.warm_up {
            true => "warming up".to_string(),
            false => format!("{} ops  {}/s", HumanCount(sofar.done), HumanCount(rate as u64)),
        };
        if sofar.errors > 0 {
            text.push_str(&format!("  failed {}", HumanCount(sofar.errors)));
        }
        if is_line {
            self.last_line = Instant::now();
            say!("{}  {text}", self.name);
        } else {
            self.bar.set_message(text);
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
