//! A node that has nothing joins a cluster that has gigabytes, while writes come at a steady rate: what it costs them; and
//! the same again with the leader, which sends the files, killed in the middle.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use lumen_benches::Random;
use lumen_benches::options::Options;

use crate::client::{Client, DOCUMENTS};
use crate::nodes::{Cluster, System};
use crate::throughput::{document, hex};

pub(crate) const OPTIONS: &[(&str, &str)] =
    &[("--bytes", "2000000000"), ("--rate", "500"), ("--seconds", "30")];

/// Bytes of a document that fills the cluster, nearly all of which are no words and do not become smaller by much.
const FILL_BYTES: u64 = 16 << 10;
/// Connections among which the writes of the steady rate are divided.
const WRITERS: u64 = 16;
const FILLERS: u64 = 8;

/// What the writers saw since it was last taken.
struct Seen {
    took: RefCell<Histogram<u64>>,
    gap: Cell<Duration>,
    last: Cell<Instant>,
    errors: Cell<u64>,
    is_over: Cell<bool>,
}

impl Seen {
    fn new() -> Seen {
        Seen {
            took: RefCell::new(Histogram::new(3).expect("three digits")),
            gap: Cell::default(),
            last: Cell::new(Instant::now()),
            errors: Cell::default(),
            is_over: Cell::default(),
        }
    }

    fn take(&self, what: &str) -> f64 {
        let mut took = self.took.borrow_mut();
        let ms = |p: f64| took.value_at_quantile(p) as f64 / 1e3;
        let (p50, p99, longest) = (ms(0.5), ms(0.99), took.max() as f64 / 1e3);
        println!(
            "| {what} | {} | {p50:.1} | {p99:.1} | {longest:.0} | {:.2} s | {} |",
            took.len(),
            self.gap.get().as_secs_f64(),
            self.errors.get()
        );
        took.reset();
        self.gap.set(Duration::ZERO);
        p99
    }
}

/// Writes at its share of the rate, whether or not the write before is answered: the time of each counts from when it was
/// due.
async fn write(mut client: Client, number: u64, rate: u64, seen: Rc<Seen>) {
    let mut random = Random::new(number + 1);
    let between = Duration::from_secs_f64(WRITERS as f64 / rate as f64);
    let mut due = Instant::now() + between.mul_f64(number as f64 / WRITERS as f64);
    for count in 0_u64.. {
        tokio::time::sleep_until(due.into()).await;
        if seen.is_over.get() {
            return;
        }
        let body = document(&mut random, count);
        match client.write("PUT", DOCUMENTS, &format!("w{number}-{count}"), "", body.as_bytes()).await {
            Ok(_) => {
                let now = Instant::now();
                seen.took.borrow_mut().record((now - due).as_micros() as u64).expect("below an hour");
                seen.gap.set(seen.gap.get().max(now - seen.last.replace(now)));
            }
            Err(error) => {
                eprintln!("writer {number}: {error}");
                seen.errors.set(seen.errors.get() + 1);
                return;
            }
        }
        due += between;
    }
}

/// Fills the cluster; progress on stderr.
async fn fill(cluster: &Cluster, bytes: u64) {
    let leader = cluster.leader().await;
    let (begun, documents) = (Instant::now(), bytes / FILL_BYTES);
    let done = Rc::new(Cell::new(0_u64));
    let mut tasks = Vec::new();
    for number in 0..FILLERS {
        let (mut client, done) = (cluster.connect(leader).await, done.clone());
        tasks.push(tokio::task::spawn_local(async move {
            let mut random = Random::new(number + 100);
            for n in (number..documents).step_by(FILLERS as usize) {
                let rest = hex(&mut random, FILL_BYTES as usize - 1024);
                let words = document(&mut random, n);
                let body = format!(r#"{},"rest":"{rest}"}}"#, words.trim_end_matches('}'));
                client.write("PUT", DOCUMENTS, &format!("f{n}"), "", body.as_bytes()).await.expect("a put");
                done.set(done.get() + 1);
            }
        }));
    }
    while done.get() < documents {
        tokio::time::sleep(Duration::from_secs(5)).await;
        eprintln!("{} of {documents} documents, {:.0?}", done.get(), begun.elapsed());
        assert!(tasks.iter().any(|task| !task.is_finished()) || done.get() == documents, "a client failed");
    }
}

pub(crate) async fn run(options: &Options) -> bool {
    let local = tokio::task::LocalSet::new();
    local.run_until(run_locally(options)).await
}

async fn run_locally(options: &Options) -> bool {
    let folder = options.folder();
    let mut cluster = Cluster::start(System::Lumen, folder.path()).await;
    cluster.connect(0).await.prepare().await;
    fill(&cluster, options.number("--bytes")).await;
    let leader = cluster.leader().await;
    let idle = Duration::from_secs(options.number("--seconds"));
    tokio::time::sleep(idle).await;
    println!("the leader has {:.2} GB in its folder", cluster.disk(leader) as f64 / 1e9);
    println!("| while | writes | p50, ms | p99, ms | longest, ms | longest time without any | errors |");
    println!("|---|---|---|---|---|---|---|");

    // Writers are at a node that stays, whoever leads.
    let (seen, survivor) = (Rc::new(Seen::new()), cluster.follower().await);
    for number in 0..WRITERS {
        let client = cluster.connect(survivor).await;
        tokio::task::spawn_local(write(client, number, options.number("--rate"), seen.clone()));
    }
    tokio::time::sleep(idle / 3).await;
    seen.take("it warms up");
    tokio::time::sleep(idle).await;
    let p99_alone = seen.take("three nodes are there");

    let begun = Instant::now();
    let fourth = cluster.add();
    cluster.wait_for_voters(survivor, 4).await;
    let p99_joining = seen.take(&format!("a fourth joins, in {:.1} s", begun.elapsed().as_secs_f64()));
    println!("the fourth has {:.2} GB in its folder", cluster.disk(fourth) as f64 / 1e9);
    tokio::time::sleep(idle / 3).await;
    seen.take("four nodes are there");

    let begun = Instant::now();
    let fifth = cluster.add();
    let half = cluster.disk(fourth) / 2;
    while cluster.disk(fifth) < half {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let killed = cluster.leader().await;
    cluster.kill(killed);
    let at = begun.elapsed();
    cluster.wait_for_voters(survivor, 5).await;
    let took = begun.elapsed();
    let what = format!("a fifth joins, in {took:.1?}; the leader killed after {at:.1?}");
    let gap = seen.gap.get();
    seen.take(&what);
    seen.is_over.set(true);
    println!("write p99 while a node joins: {:.2} x that of before", p99_joining / p99_alone);
    p99_joining <= 2.0 * p99_alone && gap <= Duration::from_secs(2) && seen.errors.get() == 0
}
