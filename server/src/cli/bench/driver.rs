//! The loop of the clients: closed, where each sends its next operation when it has the answer, or open (`pace.rs`).

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, Sleep};

use super::pace::{Arrivals, Pacer, Queue, Schedule, Until};
use super::record::{Ended, Recorder, Records, Window};
use super::target::{Answer, Client, Fault};
use super::verify::Verifier;
use super::workload::{KeySpace, Kind, Op, Plan, Stream};

/// Between two looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After a server that was not there is asked again by the same client.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(50);
/// What is under way when a run is interrupted is waited for so long.
const INTERRUPTED_TIME_MAX: Duration = Duration::from_secs(1);

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// So long.
    Time(Duration),
    /// So many operations.
    Operations(u64),
}

/// How a run is driven.
#[derive(Clone)]
pub(super) struct Drive {
    /// How long.
    pub(super) length: Length,
    /// How long before that.
    pub(super) warm_up: Duration,
    /// Operations a second, all clients together, and how they come; a closed loop without.
    pub(super) pace: Option<(f64, Arrivals)>,
    /// An operation that takes longer has failed.
    pub(super) timeout: Duration,
    /// What is asked of whom, and held against what.
    pub(super) plan: Arc<Plan>,
    /// The keys.
    pub(super) keys: Arc<KeySpace>,
    /// Looks at answers.
    pub(super) verifier: Option<Arc<Verifier>>,
}

/// What came of a run.
pub(super) struct Driven {
    /// What was measured.
    pub(super) records: Records,
    /// In which time.
    pub(super) elapsed: Duration,
    /// Operations that were due and not sent.
    pub(super) unsent: u64,
    /// Operations under way that were given up.
    pub(super) given_up: u64,
    /// Whether it was ended before its time.
    pub(super) is_interrupted: bool,
}

/// How far a run is.
pub(super) struct Sofar {
    /// Operations that ended well and count.
    pub(super) done: u64,
    /// Errors and wrong answers.
    pub(super) errors: u64,
    /// Time since it began, the warm-up included.
    pub(super) elapsed: Duration,
}

/// What the clients of a run share.
struct Shared {
    drive: Drive,
    window: Window,
    recorder: Recorder,
    queue: Option<Arc<Queue>>,
    /// Operations that were sent and count, if they are counted.
    sent: AtomicU64,
    is_stopped: AtomicBool,
}

impl Shared {
    /// Whether a client of a closed loop sends no more.
    fn is_over(&self, now: Instant) -> bool {
        if self.is_stopped.load(Ordering::Relaxed) || self.window.end.is_some_and(|end| now >= end) {
            return true;
        }
        match self.drive.length {
            Length::Operations(count) if now >= self.window.start => {
                self.sent.fetch_add(1, Ordering::Relaxed) >= count
            }
            _ => false,
        }
    }

    /// From when the next operation of a client counts; none if there is no more.
    async fn next(&self, now: Instant) -> Option<Instant> {
        match &self.queue {
            None => (!self.is_over(now)).then_some(now),
            Some(queue) => queue.take().await,
        }
    }
}

/// Runs until it is over or `interrupt` comes, and tells `look` now and then how far it is.
pub(super) async fn drive<C: Client>(
    clients: Vec<C>,
    drive: Drive,
    interrupt: impl Future<Output = ()>,
    mut look: impl FnMut(Sofar),
) -> Driven {
    let begin = Instant::now();
    let start = begin + drive.warm_up;
    let end = match drive.length {
        Length::Time(time) => Some(start + time),
        Length::Operations(_) => None,
    };
    let window = Window { start, end };
    let queue = drive.pace.map(|(rate, arrivals)| {
        let until = match drive.length {
            Length::Time(time) => Until::Time(start + time),
            Length::Operations(count) => Until::Count(start, count),
        };
        let schedule = Schedule::new(arrivals, rate, drive.plan.seed ^ drive.plan.run, begin);
        let queue = Queue::new();
        let pacer = Pacer::new(schedule, until, &queue);
        match cfg!(test) {
            true => drop(tokio::spawn(pacer.on_timer())),
            false => pacer.on_thread(),
        }
        queue
    });
    // More shards than threads: two threads then seldom want the same one.
    let shards = 4 * std::thread::available_parallelism().map_or(1, usize::from);
    let recorder = Recorder::new(shards.min(clients.len()), window);
    let (sent, is_stopped) = (AtomicU64::new(0), AtomicBool::new(false));
    let shared = Arc::new(Shared { drive, window, recorder, queue, sent, is_stopped });

    let mut tasks = JoinSet::new();
    for (number, client) in clients.into_iter().enumerate() {
        tasks.spawn(work(client, number, shared.clone()));
    }
    let mut ticker = tokio::time::interval(LOOK_EVERY);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut interrupt = pin!(interrupt);
    let (mut is_interrupted, mut patience, mut given_up) = (false, None, 0);
    loop {
        tokio::select! {
            joined = tasks.join_next() => match joined {
                None => break,
                Some(Ok(())) => {}
                Some(Err(error)) if error.is_cancelled() => given_up += 1,
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            },
            _ = ticker.tick() => {
                let (done, errors) = shared.recorder.counts();
                look(Sofar { done, errors, elapsed: begin.elapsed() });
            }
            () = &mut interrupt, if !is_interrupted => {
                is_interrupted = true;
                patience = Some(Instant::now() + INTERRUPTED_TIME_MAX);
                shared.is_stopped.store(true, Ordering::Relaxed);
                shared.queue.iter().for_each(|queue| queue.close());
            }
            () = maybe(patience) => {
                // They are joined above.
                tasks.abort_all();
                patience = None;
            }
        }
    }
    let records = shared.recorder.records();
    let over = match shared.window.end {
        Some(end) if !is_interrupted => end,
        _ => records.last.unwrap_or_else(Instant::now),
    };
    Driven {
        elapsed: over.saturating_duration_since(start),
        unsent: shared.queue.as_ref().map_or(0, |queue| queue.waiting()),
        given_up,
        is_interrupted,
        records,
    }
}

async fn maybe(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// One client, from its first operation to its last.
async fn work<C: Client>(mut client: C, number: usize, shared: Arc<Shared>) {
    let drive = &shared.drive;
    let mut stream = Stream::new(&drive.plan, &drive.keys, number);
    // One timer for all operations: moving a timer on costs next to nothing, making one does.
    let mut timer = pin!(tokio::time::sleep(drive.timeout));
    let mut now = Instant::now();
    while let Some(from) = shared.next(now).await {
        let mut sent = now;
        if shared.queue.is_some() {
            sent = Instant::now();
            shared.recorder.sent(number, from, sent);
        }
        let op = stream.next();
        let before = drive.verifier.as_ref().map_or(0, |verifier| verifier.before(&op));
        timer.as_mut().reset(sent + drive.timeout);
        let result = run(&mut client, &op, timer.as_mut()).await;
        now = Instant::now();
        if op.kind == Kind::Insert {
            drive.keys.inserted(op.key);
        }
        shared.recorder.reopened(number, client.reopened());
        match result {
            Ok(answer) => {
                let is_right =
                    drive.verifier.as_ref().is_none_or(|verifier| verifier.is_right(&op, before, &answer));
                let how = match answer.is_found {
                    _ if !is_right => Ended::Wrong,
                    true => Ended::Found,
                    false => Ended::Missing,
                };
                shared.recorder.ended(number, op.kind, from, now, how);
            }
            Err(fault) => {
                client.forget();
                shared.recorder.failed(number, op.kind, &fault.what);
                if fault.is_unreachable {
                    tokio::time::sleep(UNREACHABLE_PAUSE).await;
                    now = Instant::now();
                }
            }
        }
    }
}

async fn run<C: Client>(client: &mut C, op: &Op, timer: Pin<&mut Sleep>) -> Result<Answer, Fault> {
    tokio::select! {
        biased;
        result = client.run(op) => result,
        () = timer => Err(Fault::new("no answer in time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::distribution::Distribution;
    use crate::cli::bench::workload::Mix;

    /// Takes a millisecond for everything, but for a second in which it does nothing, and fails when it is told to.
    struct Slow {
        stall: Option<(Instant, Instant)>,
        fails: bool,
    }

    impl Client for Slow {
        async fn run(&mut self, _: &Op) -> Result<Answer, Fault> {
            let now = Instant::now();
            let stalls = self.stall.filter(|(from, to)| (*from..*to).contains(&now));
            let until = stalls.map_or(now, |(_, to)| to) + Duration::from_millis(1);
            tokio::time::sleep_until(until).await;
            if self.fails { Err(Fault::new("told to")) } else { Ok(Answer::written(1)) }
        }

        fn forget(&mut self) {}
    }

    fn drive_of(length: Length, pace: Option<f64>) -> Drive {
        let (mix, distribution) = (Mix::only(Kind::Put), Distribution::Uniform);
        Drive {
            length,
            warm_up: Duration::from_secs(1),
            pace: pace.map(|rate| (rate, Arrivals::Constant)),
            timeout: Duration::from_secs(30),
            plan: Arc::new(Plan { mix, distribution, scan_rows_max: 1, seed: 1, run: 1 }),
            keys: Arc::new(KeySpace::new(10)),
            verifier: None,
        }
    }

    const TIME: Length = Length::Time(Duration::from_secs(10));

    async fn driven(clients: usize, stalls: bool, drive_as: Drive) -> Driven {
        let begin = Instant::now();
        let stall = stalls.then(|| (begin + Duration::from_secs(5), begin + Duration::from_secs(6)));
        let clients = (0..clients).map(|_| Slow { stall, fails: false }).collect();
        drive(clients, drive_as, std::future::pending(), |_| {}).await
    }

    fn slow_ones(driven: &Driven) -> u64 {
        let histogram = &driven.records.kind(Kind::Put).expect("puts").histogram;
        histogram.len() - histogram.count_between(0, 100_000_000)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_in_the_latency_of_all_that_was_due_in_it() {
        let driven = driven(4, true, drive_of(TIME, Some(1000.0))).await;
        // A thousand were due in the second, nine of ten of them more than 100 ms before its end.
        assert!((850..1400).contains(&slow_ones(&driven)), "{}", slow_ones(&driven));
        let puts = driven.records.kind(Kind::Put).expect("puts");
        assert!((9_990..=10_000).contains(&puts.histogram.len()), "{}", puts.histogram.len());
        assert!(puts.quantile_us(0.5) < 5_000.0 && puts.quantile_us(1.0) > 950_000.0);
        assert_eq!((driven.unsent, driven.elapsed), (0, Duration::from_secs(10)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_loop_sees_the_same_stall_once_a_client() {
        let driven = driven(4, true, drive_of(TIME, None)).await;
        assert_eq!(slow_ones(&driven), 4);
        let done = driven.records.done;
        assert!((17_000..=36_500).contains(&done), "{done}");
        assert_eq!(driven.records.per_second.len(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_due_and_cannot_be_sent_is_told() {
        // One client does at most a thousand a second.
        let driven = driven(1, false, drive_of(TIME, Some(3000.0))).await;
        let sum = driven.unsent + driven.records.done;
        // All of the ten seconds; the 3,000 of the warm-up were sent, late.
        assert!((29_999..=30_001).contains(&sum), "{sum}");
        assert!(driven.unsent > 19_000, "{}", driven.unsent);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_operations_are_so_many() {
        for pace in [None, Some(500.0)] {
            let driven = driven(3, false, drive_of(Length::Operations(1000), pace)).await;
            assert_eq!((driven.records.done, driven.unsent), (1000, 0));
            assert!(driven.elapsed >= Duration::from_millis(300), "{:?}", driven.elapsed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_interrupted_run_keeps_what_it_has_and_gives_up_what_hangs() {
        let far = Instant::now() + Duration::from_secs(100_000);
        let clients = vec![
            Slow { stall: None, fails: false },
            Slow { stall: Some((Instant::now(), far)), fails: false },
        ];
        let mut drive_as = drive_of(TIME, None);
        drive_as.timeout = Duration::from_secs(50_000);
        let interrupt = tokio::time::sleep(Duration::from_secs(3));
        let mut looks = 0;
        let driven = drive(clients, drive_as, interrupt, |_| looks += 1).await;
        assert!(driven.is_interrupted && looks > 5);
        assert_eq!(driven.given_up, 1);
        assert!((900..=2_001).contains(&driven.records.done), "{}", driven.records.done);
        assert!((1990..2010).contains(&(driven.elapsed.as_millis() as u64)), "{:?}", driven.elapsed);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_or_takes_too_long_is_counted_by_what_it_says() {
        let far = Instant::now() + Duration::from_secs(100_000);
        let clients = vec![
            Slow { stall: None, fails: true },
            Slow { stall: Some((Instant::now(), far)), fails: false },
        ];
        let mut drive_as = drive_of(Length::Time(Duration::from_secs(2)), None);
        drive_as.timeout = Duration::from_secs(1);
        let driven = drive(clients, drive_as, std::future::pending(), |_| {}).await;
        let errors = &driven.records.errors;
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors["put: told to"] > 1000 && errors["put: no answer in time"] >= 3, "{errors:?}");
        assert_eq!((driven.records.done, driven.given_up), (0, 0));
    }
}
