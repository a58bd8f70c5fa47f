//! Writes that are synced by two nodes of three when they are answered, and reads at followers, in a closed loop of so many
//! clients: operations per second and latencies. The clusters are all there all the time, and each is measured in its turn.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use lumen_benches::options::Options;
use lumen_benches::{Random, processor_time, prose};

use crate::client::{Client, DOCUMENTS, Newest};
use crate::nodes::{Cluster, System};

pub(crate) const OPTIONS: &[(&str, &str)] = &[
    ("--seconds", "3"),
    ("--rounds", "7"),
    ("--systems", "lumen,etcd"),
    ("--clients", "1,16,64,256"),
    ("--works", "values,followers,documents,linearizable,session"),
];

/// Keys that are there before reads.
const READ_KEYS: u64 = 20_000;
/// Before each measurement the same is done for so long, uncounted.
const WARM_UP: Duration = Duration::from_secs(1);

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Puts values of 256 bytes, at the leader.
    Values,
    /// The same at the followers.
    ValuesAtFollowers,
    /// Puts values or documents of a kilobyte, at the leader.
    Documents,
    /// Gets values of 256 bytes, at the followers.
    Linearizable,
    Session,
}

impl Work {
    fn by_name(name: &str) -> Work {
        match name {
            "values" => Work::Values,
            "followers" => Work::ValuesAtFollowers,
            "documents" => Work::Documents,
            "linearizable" => Work::Linearizable,
            "session" => Work::Session,
            other => panic!("no such work: {other}"),
        }
    }

    fn name(self, system: System) -> &'static str {
        match self {
            Work::Values => "put 256 B, at the leader",
            Work::ValuesAtFollowers => "put 256 B, at followers",
            Work::Documents if system.is_lumen() => "put 1 KiB documents",
            Work::Documents => "put 1 KiB values",
            Work::Linearizable => "get 256 B, at followers, linearizable",
            Work::Session if system.is_lumen() => "get 256 B, at followers, session",
            Work::Session => "get 256 B, at followers, serializable",
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
struct Figures {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Processor time of all nodes for one operation, which says more than a rate where others use the machine.
    cpu_us: f64,
    /// Processors that the clients took.
    clients_cpu: f64,
}

/// The name of a key: in no order, as most keys.
fn key(n: u64) -> String {
    format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// One client until the time is over.
async fn client(mut client: Client, number: u64, work: Work, begin: Instant, end: Instant) -> Histogram<u64> {
    let mut random = Random::new(number * 2 + 1);
    let mut took = Histogram::new(3).expect("three digits");
    // Made before the clock runs.
    let values: Vec<String> = (0..64).map(|_| hex(&mut random, 256)).collect();
    let documents: Vec<String> = (0..64).map(|n| document(&mut random, n)).collect();
    for count in 0_u64.. {
        let now = Instant::now();
        if now >= end {
            break;
        }
        let at = (count % 64) as usize;
        // Each key is put once; those of one measurement are of no other.
        let fresh = || key(((work as u64 + 1) << 56) | (number << 40) | count);
        let done = match work {
            Work::Values | Work::ValuesAtFollowers => client.put(&fresh(), &values[at]).await,
            Work::Documents => match &client {
                Client::Lumen(..) => {
                    let body = documents[at].as_bytes();
                    client.write("PUT", DOCUMENTS, &fresh(), "", body).await.map(drop)
                }
                Client::Etcd(_) => client.put(&fresh(), &documents[at]).await,
            },
            Work::Linearizable => client.get(&key(random.below(READ_KEYS)), Newest::Linearizable).await,
            Work::Session => client.get(&key(random.below(READ_KEYS)), Newest::Session).await,
        };
        done.unwrap_or_else(|error| panic!("{work:?}: {error}"));
        if now >= begin {
            took.record(now.elapsed().as_micros() as u64).expect("below an hour");
        }
    }
    took
}

/// Text without any order, as long as is said.
pub(crate) fn hex(random: &mut Random, len: usize) -> String {
    let mut text = String::with_capacity(len + 16);
    while text.len() < len {
        let _ = write!(text, "{:016x}", random.bits());
    }
    text.truncate(len);
    text
}

/// A document of a kilobyte, of which each word is found.
pub(crate) fn document(random: &mut Random, number: u64) -> String {
    let mut words = prose(random, 200);
    words.truncate(990);
    format!(r#"{{"text":"{words}","number":{number}}}"#)
}

async fn measure(cluster: &Cluster, work: Work, clients: u64, seconds: u64, keys: &mut u64) -> Figures {
    let leader = cluster.leader().await;
    let followers: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    let mut open = Vec::new();
    for n in 0..clients {
        let at = match work {
            Work::Values | Work::Documents => leader,
            _ => followers[n as usize % followers.len()],
        };
        let mut one = cluster.connect(at).await;
        // A session is one of somebody who was told something.
        if work == Work::Session {
            one.put(&key(0), &"0".repeat(256)).await.expect("a put");
        }
        open.push(one);
    }
    let first = *keys;
    *keys += clients;
    let begin = Instant::now() + WARM_UP;
    let end = begin + Duration::from_secs(seconds);
    let tasks: Vec<_> = open
        .into_iter()
        .zip(first..)
        .map(|(one, number)| tokio::spawn(client(one, number, work, begin, end)))
        .collect();
    tokio::time::sleep_until(begin.into()).await;
    let before = (cluster.cpu(), processor_time("self"));
    let mut all = Histogram::<u64>::new(3).expect("three digits");
    for task in tasks {
        all.add(task.await.expect("a client")).expect("the same kind");
    }
    let spent = begin.elapsed().as_secs_f64();
    let nodes_cpu = cluster.cpu() - before.0;
    Figures {
        per_second: all.len() as f64 / spent,
        p50_ms: all.value_at_quantile(0.5) as f64 / 1e3,
        p99_ms: all.value_at_quantile(0.99) as f64 / 1e3,
        cpu_us: nodes_cpu.as_secs_f64() * 1e6 / all.len() as f64,
        clients_cpu: (processor_time("self") - before.1).as_secs_f64() / spent,
    }
}

async fn fill(cluster: &Cluster) {
    let mut tasks = Vec::new();
    for n in 0..64 {
        let mut one = cluster.connect(cluster.leader().await).await;
        tasks.push(tokio::spawn(async move {
            let value = hex(&mut Random::new(n + 1), 256);
            for number in (n..READ_KEYS).step_by(64) {
                one.put(&key(number), &value).await.expect("a put");
            }
        }));
    }
    for task in tasks {
        task.await.expect("a client");
    }
}

pub(crate) async fn run(options: &Options) -> bool {
    let counts: Vec<u64> =
        options.list("--clients").iter().map(|count| count.parse().expect("a number of clients")).collect();
    let systems: Vec<System> = options.list("--systems").iter().map(|name| System::by_name(name)).collect();
    let (seconds, rounds) = (options.number("--seconds"), options.number("--rounds"));
    let mut plan = Vec::new();
    for work in options.list("--works").iter().map(|name| Work::by_name(name)) {
        plan.extend(counts.iter().map(|clients| (work, *clients)));
    }
    let folder = options.folder();
    let mut clusters = Vec::new();
    for (nth, system) in systems.iter().enumerate() {
        let cluster = Cluster::start(*system, &folder.path().join(nth.to_string())).await;
        cluster.connect(0).await.prepare().await;
        fill(&cluster).await;
        clusters.push(cluster);
    }
    let mut keys = 1;
    println!("{}", heading(&systems));
    for (work, clients) in plan {
        let mut found = vec![Vec::new(); systems.len()];
        // By turns: what else the machine does meets all of them.
        for round in 1..=rounds {
            for (cluster, found) in clusters.iter().zip(&mut found) {
                let figures = measure(cluster, work, clients, seconds, &mut keys).await;
                let (system, name) = (cluster.system, work.name(cluster.system));
                eprintln!("{name}, {clients} clients, {round} of {rounds}, {system:?}: {figures:.2?}");
                found.push(figures);
            }
        }
        println!("{}", row(work.name(systems[0]), clients, &found));
    }
    true
}

fn heading(systems: &[System]) -> String {
    let mut line = "| what | clients |".to_owned();
    for system in systems {
        let of_nodes = "processor time of the nodes, µs an op; of the clients, %";
        let _ = write!(line, " {system:?}: ops/s | p50 · p99, ms | {of_nodes} |");
    }
    let _ = write!(line, " ratio |\n|---|---|{}---|", "---|---|---|".repeat(systems.len()));
    line
}

/// The middle of each system's rounds; the ratio is the middle one of those of the rounds.
fn row(name: &str, clients: u64, found: &[Vec<Figures>]) -> String {
    let mut line = format!("| {name} | {clients} |");
    for rounds in found {
        let it = median(rounds);
        let _ = write!(line, " {:.0} | {:.2} · {:.1} |", it.per_second, it.p50_ms, it.p99_ms);
        let _ = write!(line, " {:.0}; {:.0} |", it.cpu_us, it.clients_cpu * 100.0);
    }
    let (ours, last) = (&found[0], &found[found.len() - 1]);
    let mut ratios: Vec<f64> = ours.iter().zip(last).map(|(a, b)| a.per_second / b.per_second).collect();
    ratios.sort_by(f64::total_cmp);
    let _ = write!(line, " {:.2} |", ratios[ratios.len() / 2]);
    line
}

/// The round whose rate is the middle one.
fn median(rounds: &[Figures]) -> Figures {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    sorted[sorted.len() / 2]
}
