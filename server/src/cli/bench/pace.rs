//! The open loop: operations become due at their own times, whether or not the ones before them are done.
//!
//! Who measures from when an operation was sent lets a server that stalls choose when it is asked ("coordinated omission",
//! after G. Tene): a stall of a second is then one slow operation, not the thousand that were due meanwhile. Here what is
//! due waits in a queue that any free client takes from, and its latency begins when it was due.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::distribution::Random;

/// After the end, what became due just before it may still be sent.
const LAST_SENT: Duration = Duration::from_millis(5);
/// The thread that waits for what is due looks so often whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// When operations come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Arrivals {
    /// At even distances
    Constant,
    /// Each whenever it likes, as independent users do
    Poisson,
}

impl Arrivals {
    /// As it is said on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Arrivals::Constant => "constant",
            Arrivals::Poisson => "poisson",
        }
    }
}

/// The times at which operations are due.
pub(super) struct Schedule {
    arrivals: Arrivals,
    random: Random,
    /// Seconds between two, on average.
    distance: f64,
    begin: Instant,
    /// Seconds after the beginning at which the next one is due.
    at: f64,
}

impl Schedule {
    /// So many a second from `begin` on.
    pub(super) fn new(arrivals: Arrivals, rate: f64, seed: u64, begin: Instant) -> Schedule {
        Schedule { arrivals, random: Random::new(seed, u64::MAX), distance: 1.0 / rate, begin, at: 0.0 }
    }

    fn peek(&self) -> Instant {
        self.begin + Duration::from_secs_f64(self.at)
    }

    fn advance(&mut self) {
        self.at += match self.arrivals {
            Arrivals::Constant => self.distance,
            // The distances of a Poisson process are exponential.
            Arrivals::Poisson => -(1.0 - self.random.unit()).ln() * self.distance,
        };
    }
}

/// When there is no more.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// Nothing is due from then on, and what was not sent a moment later is not sent.
    Time(Instant),
    /// So many are due from then on; all of them are sent.
    Count(Instant, u64),
}

/// What is due and not sent yet.
pub(super) struct Queue {
    due: Mutex<VecDeque<Instant>>,
    /// One for each that is due; closed when nothing is to be sent any more.
    permits: Semaphore,
}

impl Queue {
    /// Nothing is due.
    pub(super) fn new() -> Arc<Queue> {
        Arc::new(Queue { due: Mutex::default(), permits: Semaphore::new(0) })
    }

    /// The time of the next that is due, when it is; none if there is no more.
    pub(super) async fn take(&self) -> Option<Instant> {
        self.permits.acquire().await.ok()?.forget();
        self.due.lock().pop_front()
    }

    /// Nothing is sent any more.
    pub(super) fn close(&self) {
        self.permits.close();
    }

    /// How many are due and not sent.
    pub(super) fn waiting(&self) -> u64 {
        self.due.lock().len() as u64
    }

    fn is_closed(&self) -> bool {
        self.permits.is_closed()
    }

    fn release(&self, due: &mut Vec<Instant>) {
        if !due.is_empty() {
            self.due.lock().extend(due.iter());
            self.permits.add_permits(due.len());
            due.clear();
        }
    }

    /// Nothing becomes due any more: a client that finds the queue empty is done.
    fn finish(&self) {
        self.permits.add_permits(Semaphore::MAX_PERMITS / 2);
    }
}

/// Has operations become due.
pub(super) struct Pacer {
    schedule: Schedule,
    until: Until,
    queue: Arc<Queue>,
    counted: u64,
    batch: Vec<Instant>,
}

impl Pacer {
    /// By this schedule.
    pub(super) fn new(schedule: Schedule, until: Until, queue: &Arc<Queue>) -> Pacer {
        Pacer { schedule, until, queue: queue.clone(), counted: 0, batch: Vec::new() }
    }

    /// Releases what is due by now; when to come again, if at all.
    fn step(&mut self, now: Instant) -> Option<Instant> {
        loop {
            let next = self.schedule.peek();
            let is_over = match self.until {
                Until::Time(end) => next >= end,
                Until::Count(_, count) => self.counted >= count,
            };
            if is_over || next > now || self.queue.is_closed() {
                self.queue.release(&mut self.batch);
                return match self.until {
                    _ if self.queue.is_closed() => None,
                    Until::Time(end) if is_over && now >= end + LAST_SENT => {
                        self.queue.close();
                        None
                    }
                    Until::Time(end) if is_over => Some(end + LAST_SENT),
                    Until::Count(..) if is_over => {
                        self.queue.finish();
                        None
                    }
                    _ => Some(next),
                };
            }
            if matches!(self.until, Until::Count(from, _) if next >= from) {
                self.counted += 1;
            }
            self.batch.push(next);
            self.schedule.advance();
        }
    }

    /// On a thread of its own: the runtime's timers count in whole milliseconds, which is more than many operations take.
    pub(super) fn on_thread(mut self) {
        let run = move || {
            precise_sleep();
            while let Some(next) = self.step(Instant::now()) {
                std::thread::sleep(next.saturating_duration_since(Instant::now()).min(LOOK_EVERY));
            }
        };
        std::thread::spawn(run);
    }

    /// By the runtime's clock, which tests move on.
    pub(super) async fn on_timer(mut self) {
        while let Some(next) = self.step(Instant::now()) {
            tokio::time::sleep_until(next).await;
        }
    }
}

/// Has the system wake this thread when it asked to be, and not up to 50 microseconds later.
fn precise_sleep() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)) {
        tracing::debug!(%error, "what is due may be sent some microseconds later");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_chance() {
        let begin = Instant::now();
        for (arrivals, spread) in [(Arrivals::Constant, 0.0), (Arrivals::Poisson, 1.0)] {
            let mut schedule = Schedule::new(arrivals, 1000.0, 7, begin);
            let mut distances = Vec::new();
            for _ in 0..100_000 {
                let before = schedule.at;
                schedule.advance();
                distances.push((schedule.at - before) * 1000.0);
            }
            let mean = distances.iter().sum::<f64>() / 1e5;
            let variance = distances.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 1e5;
            assert!((mean - 1.0).abs() < 0.02 && (variance - spread).abs() < 0.05, "{mean} {variance}");
        }
    }

    #[tokio::test]
    async fn a_count_is_released_whole_and_then_clients_are_sent_home() {
        let begin = Instant::now();
        let queue = Queue::new();
        let schedule = Schedule::new(Arrivals::Constant, 1000.0, 7, begin);
        let from = begin + Duration::from_millis(10);
        let mut pacer = Pacer::new(schedule, Until::Count(from, 5), &queue);
        assert_eq!(pacer.step(begin), Some(begin + Duration::from_millis(1)));
        assert_eq!(pacer.step(begin + Duration::from_secs(1)), None);
        // Ten of the warm-up, and five.
        assert_eq!(queue.waiting(), 15);
        for _ in 0..15 {
            assert!(queue.take().await.is_some());
        }
        assert_eq!((queue.take().await, queue.take().await), (None, None));
    }
}
