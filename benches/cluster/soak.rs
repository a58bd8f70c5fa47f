//! More work than three nodes on this machine can do, for half an hour: nothing dies, and memory, files, threads and disk
//! stay what they were.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lumen_benches::options::Options;
use lumen_benches::{Random, word};

use crate::client::{Client, DOCUMENTS, Newest};
use crate::nodes::{Cluster, System, Takes};
use crate::throughput::document;

pub(crate) const OPTIONS: &[(&str, &str)] = &[("--seconds", "1800"), ("--clients", "96")];

/// Documents that are written again and again, and deleted.
const KEYS: u64 = 100_000;
/// How much more than in the middle third a node may have of anything at any time in the last.
const MORE: f64 = 1.15;
/// What no log may say.
const COMPLAINTS: &[&str] = &["panicked", "ERROR", "corrupt", "damaged"];

#[derive(Default)]
struct Seen {
    done: Cell<u64>,
    /// What clients were told instead of an answer, by its first word, and how often.
    refused: RefCell<BTreeMap<String, u64>>,
    is_over: Cell<bool>,
}

/// Writes, deletes, gets and searches at a node, as fast as it is answered.
async fn work(mut client: Client, number: u64, seen: Rc<Seen>) {
    let mut random = Random::new(number + 1);
    while !seen.is_over.get() {
        let id = format!("d{}", random.below(KEYS));
        let done = match random.below(10) {
            0..=5 => {
                let body = document(&mut random, number);
                client.write("PUT", DOCUMENTS, &id, "", body.as_bytes()).await.map(drop)
            }
            6 => client.write("DELETE", DOCUMENTS, &id, "", b"").await.map(drop),
            7..=8 => match client.get(&format!("read{}", random.below(100)), Newest::Linearizable).await {
                Err(error) if error.starts_with("404") => Ok(()),
                other => other,
            },
            _ => {
                let query = word(random.zipf(5_000));
                let path = format!("/collections/{DOCUMENTS}/documents/search?q={query}");
                client.ask(&path).await.map(drop).ok_or_else(|| "a search had no answer".into())
            }
        };
        match done {
            Ok(()) => seen.done.set(seen.done.get() + 1),
            Err(error) => {
                let kind = error.chars().take(80).collect();
                *seen.refused.borrow_mut().entry(kind).or_default() += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One look at all nodes.
struct Look {
    at: Duration,
    takes: Vec<Takes>,
    disk: Vec<u64>,
}

pub(crate) async fn run(options: &Options) -> bool {
    let local = tokio::task::LocalSet::new();
    local.run_until(run_locally(options)).await
}

async fn run_locally(options: &Options) -> bool {
    let folder = options.folder();
    let cluster = Cluster::start(System::Lumen, folder.path()).await;
    cluster.connect(0).await.prepare().await;
    let (seen, begun) = (Rc::new(Seen::default()), Instant::now());
    for number in 0..options.number("--clients") {
        let client = cluster.connect(number as usize % 3).await;
        tokio::task::spawn_local(work(client, number, seen.clone()));
    }
    let (whole, mut looks) = (Duration::from_secs(options.number("--seconds")), Vec::new());
    let (mut before, mut shown) = (0, 0);
    println!(
        "| minute | operations/s | memory, MiB | files | threads | disk, MiB |\n|---|---|---|---|---|---|"
    );
    while begun.elapsed() < whole {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let takes: Option<Vec<Takes>> = (0..3).map(|index| cluster.takes(index)).collect();
        let Some(takes) = takes else {
            println!("a node is gone");
            return false;
        };
        let disk: Vec<u64> = (0..3).map(|index| cluster.disk(index)).collect();
        let at = begun.elapsed();
        if at.as_secs() / 60 > shown {
            shown = at.as_secs() / 60;
            let all =
                |of: &dyn Fn(&Takes) -> u64| takes.iter().map(|it| of(it).to_string()).collect::<Vec<_>>();
            println!(
                "| {shown} | {:.0} | {} | {} | {} | {} |",
                (seen.done.get() - before) as f64 / 60.0,
                all(&|it| it.resident >> 20).join(" · "),
                all(&|it| it.files).join(" · "),
                all(&|it| it.threads).join(" · "),
                disk.iter().map(|bytes| (bytes >> 20).to_string()).collect::<Vec<_>>().join(" · "),
            );
            before = seen.done.get();
        }
        looks.push(Look { at, takes, disk });
    }
    seen.is_over.set(true);
    let mut is_good = true;
    for (error, times) in seen.refused.borrow().iter() {
        println!("{times} times: {error}");
    }
    for (name, of) in [
        ("memory", &(|look: &Look, node: usize| look.takes[node].resident) as &dyn Fn(&Look, usize) -> u64),
        ("files", &|look, node| look.takes[node].files),
        ("threads", &|look, node| look.takes[node].threads),
        ("disk", &|look, node| look.disk[node]),
    ] {
        for node in 0..3 {
            let most = |from: u32, to: u32| {
                let part =
                    looks.iter().filter(|look| look.at >= whole * from / 3 && look.at < whole * to / 3);
                part.map(|look| of(look, node)).max().unwrap_or(0)
            };
            let (middle, last) = (most(1, 2), most(2, 3));
            let is_flat = last as f64 <= middle as f64 * MORE;
            is_good &= is_flat;
            let word = if is_flat { "flat" } else { "NOT flat" };
            println!(
                "node {}: {name} {word}: at most {middle} in the middle third, {last} in the last",
                node + 1
            );
        }
    }
    for line in cluster.complaints(COMPLAINTS) {
        println!("a node says: {line}");
        is_good = false;
    }
    println!("{} operations in {:.0?}", seen.done.get(), begun.elapsed());
    is_good
}
