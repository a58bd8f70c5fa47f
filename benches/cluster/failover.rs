//! The leader is killed under load through one node that is left: for how long nothing is written, what clients are told,
//! and whether each counter has counted right.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lumen_benches::options::Options;

use crate::client::{Client, VALUES};
use crate::nodes::{Cluster, System};

pub(crate) const OPTIONS: &[(&str, &str)] =
    &[("--trials", "30"), ("--systems", "lumen,lumen-fast,etcd,etcd-fast")];

const CLIENTS: u64 = 8;
/// Before the leader is killed, and after writes go on.
const STEADY: Duration = Duration::from_millis(700);
/// Longer than any election.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all clients of a trial see together.
#[derive(Default)]
struct Seen {
    is_over: Cell<bool>,
    /// The longest time between two answers of writes, of any clients, and when the last was.
    gap: Cell<Duration>,
    last: Cell<Option<Instant>>,
    writes: Cell<u64>,
    errors: Cell<u64>,
}

impl Seen {
    fn written(&self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(Some(now)) {
            self.gap.set(self.gap.get().max(now - last));
        }
        self.writes.set(self.writes.get() + 1);
    }
}

/// Counts up its own counter, each time on the condition that it is as it was left: a write that was done twice, or not
/// at all, is told by the next.
async fn count(mut client: Client, number: u64, seen: Rc<Seen>) -> u64 {
    let (name, mut count, mut version) = (format!("counter-{number}"), 0_u64, String::new());
    while !seen.is_over.get() {
        let body = format!(r#"{{"v":"{}"}}"#, count + 1);
        let condition = match version.as_str() {
            "" => String::new(),
            version => format!("if-match: {version}\r\n"),
        };
        match client.write("PUT", VALUES, &name, &condition, body.as_bytes()).await {
            Ok(now) => {
                (count, version) = (count + 1, now);
                seen.written();
            }
            Err(error) => {
                eprintln!("client {number}: {error}");
                seen.errors.set(seen.errors.get() + 1);
                break;
            }
        }
    }
    count
}

/// Puts, and puts again when it is told of an error, as clients of etcd have to.
async fn put(mut client: Client, number: u64, seen: Rc<Seen>) -> u64 {
    let (name, mut count) = (format!("counter-{number}"), 0_u64);
    while !seen.is_over.get() {
        match client.put(&name, &(count + 1).to_string()).await {
            Ok(()) => {
                count += 1;
                seen.written();
            }
            Err(_) => {
                seen.errors.set(seen.errors.get() + 1);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    count
}

/// One death: the time without writes.
async fn trial(cluster: &mut Cluster, wrong: &mut u64, totals: &mut (u64, u64)) -> Duration {
    let (leader, survivor) = (cluster.leader().await, cluster.follower().await);
    let seen = Rc::new(Seen::default());
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let client = cluster.connect(survivor).await;
        clients.push(match cluster.system.is_lumen() {
            true => tokio::task::spawn_local(count(client, number, seen.clone())),
            false => tokio::task::spawn_local(put(client, number, seen.clone())),
        });
    }
    tokio::time::sleep(STEADY).await;
    let before = seen.writes.get();
    assert!(before > 0, "nothing was written");
    seen.gap.set(Duration::ZERO);
    cluster.kill(leader);
    let killed = Instant::now();
    // The answers that were on their way come first; writes go on when there is a gap behind them.
    while seen.gap.get() < Duration::from_millis(50) {
        assert!(killed.elapsed() < PATIENCE, "no write after the death of the leader");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(STEADY).await;
    while seen.last.get().is_none_or(|last| last.elapsed() > Duration::from_millis(200)) {
        assert!(killed.elapsed() < PATIENCE, "writes do not go on after the death of the leader");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    seen.is_over.set(true);
    for (number, client) in (0..).zip(clients) {
        let counted: u64 = client.await.expect("a client");
        if cluster.system.is_lumen() {
            let mut reader = cluster.connect(survivor).await;
            let document = reader.ask(&format!("/collections/{VALUES}/documents/counter-{number}")).await;
            let there = document.as_ref().and_then(|it| it["source"]["v"].as_str());
            if there != Some(counted.to_string().as_str()) {
                eprintln!("client {number} counted to {counted}, but there is {document:?}");
                *wrong += 1;
            }
        }
    }
    totals.0 += seen.writes.get();
    totals.1 += seen.errors.get();
    cluster.spawn(leader);
    // The next leader's death finds three nodes again.
    tokio::time::sleep(STEADY).await;
    cluster.leader().await;
    tokio::time::sleep(STEADY).await;
    seen.gap.get()
}

pub(crate) async fn run(options: &Options) -> bool {
    let local = tokio::task::LocalSet::new();
    local.run_until(run_locally(options)).await
}

async fn run_locally(options: &Options) -> bool {
    let mut is_good = true;
    println!(
        "| | deaths of the leader | time without writes: p50 | p90 | p99 (the longest) | errors told | counters wrong |"
    );
    println!("|---|---|---|---|---|---|---|");
    for name in options.list("--systems") {
        let folder = options.folder();
        let mut cluster = Cluster::start(System::by_name(&name), folder.path()).await;
        cluster.connect(0).await.prepare().await;
        let (mut gaps, mut wrong, mut totals) = (Vec::new(), 0, (0, 0));
        for nth in 1..=options.number("--trials") {
            let gap = trial(&mut cluster, &mut wrong, &mut totals).await;
            eprintln!("{name}, death {nth}: {gap:.2?} without writes");
            gaps.push(gap);
        }
        gaps.sort_unstable();
        let at = |p: usize| gaps[(gaps.len() * p / 100).min(gaps.len() - 1)].as_secs_f64();
        println!(
            "| {name} | {} | {:.2} s | {:.2} s | {:.2} s | {} in {} writes | {} |",
            gaps.len(),
            at(50),
            at(90),
            at(99),
            totals.1,
            totals.0,
            if cluster.system.is_lumen() { wrong.to_string() } else { "not asked".into() },
        );
        is_good &= wrong == 0 && (totals.1 == 0 || !cluster.system.is_lumen());
    }
    is_good
}
