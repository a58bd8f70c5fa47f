//! Slowing writers down before they have to stop.
//!
//! A store that takes writes as fast as they come until it is full of work, and then none until some is done, lets a few
//! writes wait for seconds. So from [`BEGINS`] on writers share a rate that falls as the pressure rises: twice what the store
//! takes for good where it begins, nothing at the stop, and just that half way between, where it settles. What the store
//! takes for good is the mean of what it took while writers were held up, over some twenty seconds.
//!
//! A token bucket over bytes that were written, whoever wrote them. With the tree as the integrator that it is (pressure rises
//! by what is written and falls by what is compacted) the loop is damped; see the test, which is that tree.

use std::time::{Duration, Instant};

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The pressure from which on writers are slowed down; at 1.0 they stop.
pub(crate) const BEGINS: f64 = 0.6;

/// How long what was written is counted before a rate is made of it.
const STRETCH: Duration = Duration::from_millis(100);
/// A first stretch longer than this says how little was asked, not how much the store takes; it is begun anew.
const FIRST_STRETCH_MAX: Duration = Duration::from_secs(1);
/// Over how many seconds the mean goes.
const MEMORY: f64 = 20.0;
/// For how many seconds of the rate bytes that nobody wrote may be written later.
const CREDIT: f64 = 0.01;
/// Bytes a second that are never too many: a store that took nothing for long gets on.
const RATE_MIN: f64 = 1_048_576.0;

/// What keeps writers at the pace of compactions.
pub(crate) struct Throttle {
    state: Mutex<State>,
    /// Whether writers are slowed down, without the lock.
    engaged: AtomicBool,
}

struct State {
    /// Bytes a second that the store takes for good; `None` in the first stretch.
    sustained: Option<f64>,
    since: Instant,
    /// Bytes written when the stretch began.
    seen: u64,
    /// Whether writers were held up in this stretch: else they have no more to write, which says nothing of the store.
    held: bool,
    /// So many bytes might have been written at `at`.
    allowed: f64,
    at: Instant,
}

impl Throttle {
    pub(crate) fn new(now: Instant) -> Throttle {
        let state = State { sustained: None, since: now, seen: 0, held: false, allowed: 0.0, at: now };
        Throttle { state: Mutex::new(state), engaged: AtomicBool::new(false) }
    }

    /// Says that there is no need for it at present.
    #[inline]
    pub(crate) fn let_go(&self) {
        if self.engaged.load(Relaxed) {
            self.engaged.store(false, Relaxed);
        }
    }

    /// Says that writers were stopped, not only slowed down.
    pub(crate) fn stopped(&self) {
        self.state.lock().held = true;
    }

    /// How long a writer should wait before it asks again, at a pressure of at least [`BEGINS`] and below 1.0; `written` are
    /// the bytes that all have written so far.
    pub(crate) fn delay(&self, pressure: f64, written: u64, now: Instant) -> Duration {
        let mut state = self.state.lock();
        if !self.engaged.swap(true, Relaxed) {
            *state = State {
                sustained: None,
                since: now,
                seen: written,
                held: false,
                allowed: written as f64,
                at: now,
            };
        }
        state.measure(written, now);
        let Some(sustained) = state.sustained else { return Duration::ZERO };
        let rate = (sustained * 2.0 * (1.0 - pressure) / (1.0 - BEGINS)).max(1.0);
        let earned = state.allowed + rate * now.saturating_duration_since(state.at).as_secs_f64();
        state.allowed = earned.min(written as f64 + rate * CREDIT);
        state.at = now;
        let over = written as f64 - state.allowed;
        if over <= 0.0 {
            return Duration::ZERO;
        }
        state.held = true;
        Duration::from_secs_f64((over / rate).min(1.0))
    }
}

impl State {
    fn measure(&mut self, written: u64, now: Instant) {
        let stretch = now.saturating_duration_since(self.since);
        if stretch < STRETCH {
            return;
        }
        if self.sustained.is_none() && stretch > FIRST_STRETCH_MAX {
            (self.since, self.seen) = (now, written);
            return;
        }
        let seconds = stretch.as_secs_f64();
        let measured = written.saturating_sub(self.seen) as f64 / seconds;
        let sustained = match self.sustained {
            None => {
                (self.allowed, self.at) = (written as f64, now);
                measured
            }
            Some(sustained) if self.held || measured > sustained => {
                sustained + (measured - sustained) * (seconds / MEMORY).min(1.0)
            }
            Some(sustained) => sustained,
        };
        self.sustained = Some(sustained.max(RATE_MIN));
        (self.since, self.seen, self.held) = (now, written, false);
    }
}

#[cfg(all(test, not(lumen_shuttle)))]
mod tests {
    use super::*;

    /// A tree that compacts `drain` bytes a second, in jobs of so many seconds, and is full at `room` bytes; a client that
    /// writes at `burst` bytes a second when it may. Answers, for each second, the bytes written and the longest wait.
    fn run(drain: f64, job: f64, room: f64, burst: f64, seconds: usize) -> Vec<(f64, f64)> {
        const WRITE: f64 = 10_000.0;
        let start = Instant::now();
        let throttle = Throttle::new(start);
        let (mut clock, mut written, mut debt, mut since_job) = (0.0, 0.0, 0.0, 0.0);
        let mut result = vec![(0.0f64, 0.0f64); seconds];
        let mut asked = 0.0;
        while clock < seconds as f64 {
            let pressure = debt / room;
            let wait = match pressure {
                full if full >= 1.0 => {
                    throttle.stopped();
                    0.01
                }
                light if light < BEGINS => {
                    throttle.let_go();
                    0.0
                }
                _ => throttle
                    .delay(pressure, written as u64, start + Duration::from_secs_f64(clock))
                    .as_secs_f64()
                    .min(0.01),
            };
            let step = if wait > 0.0 { wait } else { WRITE / burst };
            clock += step;
            since_job += step;
            if since_job >= job {
                debt = f64::max(debt - drain * since_job, 0.0);
                since_job = 0.0;
            }
            if wait == 0.0 {
                (written, debt) = (written + WRITE, debt + WRITE);
                let second = &mut result[(clock as usize).min(seconds - 1)];
                (second.0, second.1) = (second.0 + WRITE, second.1.max(clock - asked));
                asked = clock;
            }
        }
        result
    }

    #[test]
    fn writers_settle_at_what_the_tree_takes_and_nobody_waits_for_long() {
        const MB: f64 = 1e6;
        for (drain, job) in [(50.0, 0.1), (50.0, 2.0), (20.0, 1.0)] {
            let seconds = run(drain * MB, job, 1_200.0 * MB, 200.0 * MB, 300);
            let late = &seconds[100..];
            let mean = late.iter().map(|(bytes, _)| bytes).sum::<f64>() / late.len() as f64;
            assert!((mean / (drain * MB) - 1.0).abs() < 0.05, "{mean} a second of {drain} MB");
            let least = late.iter().map(|(bytes, _)| *bytes).fold(f64::MAX, f64::min);
            assert!(least > mean * 0.5, "{least} in the slowest second, {mean} in the mean");
            let longest = seconds.iter().map(|(_, wait)| *wait).fold(0.0, f64::max);
            assert!(longest < 0.1, "a write waited {longest} s");
        }
    }

    #[test]
    fn a_rest_before_a_burst_does_not_slow_it_down() {
        let start = Instant::now();
        let throttle = Throttle::new(start);
        assert_eq!(throttle.delay(0.7, 1_000, start), Duration::ZERO);
        let after = |ms| start + Duration::from_secs(10) + Duration::from_millis(ms);
        for ms in 0..1_000 {
            let written = 2_000 + ms * 50_000;
            assert_eq!(
                throttle.delay(0.7, written, after(ms)),
                Duration::ZERO,
                "50 MB a second after {ms} ms"
            );
        }
    }

    #[test]
    fn who_writes_less_than_the_tree_takes_is_not_slowed_down() {
        let seconds = run(50e6, 1.0, 1_200e6, 40e6, 60);
        assert!(seconds[1..].iter().all(|(bytes, wait)| *bytes > 39e6 && *wait < 0.001));
    }
}
