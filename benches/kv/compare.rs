//! Rounds by turns: all servers are there all the time, and each is measured in its turn, one after the other, when all of them
//! rest. What else the machine does meets all of them, and a ratio is of two measurements that are seconds apart.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use lumen_benches::options::Options;

use crate::disk;
use crate::load::{self, Face, Fault, Figures, Load, Op};
use crate::report::{self, Measured};
use crate::servers::{Kind, Server, rest};

pub(crate) const OPTIONS: &[(&str, &str)] = &[
    ("--seconds", "5"),
    ("--rounds", "5"),
    ("--clients", "1,16,100"),
    ("--systems", ALL),
    ("--keys", "100000"),
    ("--value-size", "128"),
    ("--out", ""),
];
/// To see whether it works.
pub(crate) const QUICK: &[(&str, &str)] = &[
    ("--seconds", "2"),
    ("--rounds", "1"),
    ("--clients", "1,16,100"),
    ("--systems", ALL),
    ("--keys", "10000"),
    ("--value-size", "128"),
    ("--out", ""),
];
const ALL: &str = "lumen-http,lumen-grpc,lumen3-http,lumen3-grpc,redis,redis-nosync,etcd,echo-http,echo-grpc";

/// Bytes and times of the disk's turn: what a put of a value is in a log, about.
const PIECE_BYTES: usize = 200;
const PIECES: usize = 2000;
/// Processes that want a processor before anything begins, on average of a minute.
const BUSY: f64 = 0.5;

/// Something that has a line in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct System {
    /// On the command line.
    pub(crate) name: &'static str,
    /// In the tables.
    pub(crate) label: &'static str,
    pub(crate) kind: Kind,
    /// Over what it is asked; of others than Lumen, with which echo it is compared.
    pub(crate) face: Face,
}

pub(crate) const SYSTEMS: [System; 9] = [
    system("lumen-http", "Lumen, HTTP", Kind::Lumen, Face::Http),
    system("lumen-grpc", "Lumen, gRPC", Kind::Lumen, Face::Grpc),
    system("lumen3-http", "Lumen, three nodes, HTTP", Kind::Lumen3, Face::Http),
    system("lumen3-grpc", "Lumen, three nodes, gRPC", Kind::Lumen3, Face::Grpc),
    system("redis", "Redis, appendfsync always", Kind::RedisAlways, Face::Http),
    system("redis-nosync", "Redis, appendfsync no", Kind::RedisNo, Face::Http),
    system("etcd", "etcd, one node, gRPC", Kind::Etcd, Face::Grpc),
    system("echo-http", "echo, HTTP", Kind::Echo, Face::Http),
    system("echo-grpc", "echo, gRPC", Kind::Echo, Face::Grpc),
];

const fn system(name: &'static str, label: &'static str, kind: Kind, face: Face) -> System {
    System { name, label, kind, face }
}

fn by_name(name: &str) -> System {
    SYSTEMS
        .into_iter()
        .find(|system| system.name == name)
        .unwrap_or_else(|| panic!("there is {ALL}, but no {name}"))
}

/// What comes of a measurement, by whichever client the system has.
async fn measure(system: System, address: SocketAddr, scratch: &Path, load: Load) -> Result<Figures, Fault> {
    match system.kind {
        Kind::Lumen | Kind::Lumen3 | Kind::Echo => {
            load::with_lumen_bench(scratch, system.face, address, load).await
        }
        Kind::RedisAlways | Kind::RedisNo => load::with_redis_benchmark(address, load).await,
        Kind::Etcd => load::with_etcd(address, load).await,
    }
}

/// Has all keys there, so that each get finds one and each put replaces one.
async fn fill(server: &Server, scratch: &Path, keys: u64, value_size: u64) -> Result<(), Fault> {
    let address = server.place().await?;
    match server.kind {
        Kind::Lumen | Kind::Lumen3 => load::fill_lumen(scratch, address, keys, value_size).await,
        Kind::RedisAlways | Kind::RedisNo => load::fill_redis(address, keys, value_size).await,
        Kind::Etcd => load::fill_etcd(address, keys, value_size).await,
        Kind::Echo => Ok(()),
    }
}

pub(crate) async fn run(options: &Options) -> bool {
    let folder = options.folder();
    let scratch = folder.path();
    let (seconds, rounds) = (options.number("--seconds"), options.number("--rounds"));
    let (keys, value_size) = (options.number("--keys"), options.number("--value-size"));
    let clients: Vec<u64> =
        options.list("--clients").iter().map(|count| count.parse().expect("a number of clients")).collect();
    let systems: Vec<System> = options.list("--systems").iter().map(|name| by_name(name)).collect();
    let load_before = report::load_average();
    if load_before.split(' ').next().and_then(|load| load.parse().ok()).is_some_and(|load: f64| load > BUSY) {
        eprintln!("THE MACHINE IS NOT QUIET (load {load_before}): what is measured now says little");
    }
    let (where_it_lies, is_in_memory) = report::file_system(scratch);
    eprintln!("data in {}: {where_it_lies}", scratch.display());
    if is_in_memory {
        eprintln!("that is memory, and a sync of it costs nothing: --dir has to name a folder on a disk");
        return false;
    }

    let mut measured = Measured::default();
    let mut servers: Vec<Server> = Vec::new();
    for system in &systems {
        if servers.iter().any(|server| server.kind == system.kind) {
            continue;
        }
        eprintln!("starting and filling {:?}", system.kind);
        let started = match Server::start(system.kind, scratch, value_size).await {
            Ok(server) => fill(&server, scratch, keys, value_size).await.map(|()| server),
            Err(fault) => Err(fault),
        };
        match started {
            Ok(server) => servers.push(server),
            Err(fault) => measured.fault(format!("{:?}: {fault}", system.kind)),
        }
    }
    for round in 1..=rounds {
        for op in [Op::Put, Op::Get] {
            for &clients in &clients {
                for &system in &systems {
                    if report::wants_sync(system, op, clients) {
                        rest(&servers).await;
                        let syncs = disk::measure(scratch, PIECE_BYTES, PIECES).expect("the disk takes it");
                        eprintln!("round {round} of {rounds}: the disk: {syncs:.0?}");
                        measured.syncs.insert((system.name, round), syncs);
                    }
                    let load = Load { op, clients, seconds, keys, value_size, seed: round };
                    let result = turn(system, &mut servers, scratch, load).await;
                    let what = format!("{}, {}s, {clients} clients", system.label, op.name());
                    match result {
                        Ok(figures) => {
                            eprintln!("round {round} of {rounds}: {what}: {figures:.0?}");
                            measured.add(system, op, clients, round, figures);
                        }
                        Err(fault) => measured.fault(format!("round {round}: {what}: {fault}")),
                    }
                }
            }
        }
    }
    let mut facts = report::facts(scratch, &where_it_lies);
    facts.push(("load of the machine before".to_owned(), load_before));
    drop(servers);
    let settings = format!(
        "{rounds} rounds by turns of {seconds} s each, {keys} keys of 16 bytes, values of {value_size} bytes"
    );
    let text = report::text(&measured, &systems, &clients, &settings, &facts);
    println!("{text}");
    if let Some(out) = Some(options.text("--out")).filter(|out| !out.is_empty()) {
        fs::write(out, &text).unwrap_or_else(|error| panic!("{out}: {error}"));
    }
    measured.faults.is_empty()
}

/// One measurement, when all have come to rest.
async fn turn(system: System, servers: &mut [Server], scratch: &Path, load: Load) -> Result<Figures, Fault> {
    rest(servers).await;
    let found = servers.iter_mut().find(|server| server.kind == system.kind);
    let server = found.ok_or_else(|| "it is not there".to_owned())?;
    let address = server.place().await?;
    // Nothing of what is measured takes that long; a client that hangs is a fault, and the next one's turn.
    let patience = Duration::from_secs(load.seconds * 3 + 60);
    let result = tokio::time::timeout(patience, measure(system, address, scratch, load)).await;
    match (server.fault(), result) {
        (Some(fault), _) => Err(fault),
        (None, Ok(result)) => result,
        (None, Err(_)) => Err(format!("no end after {patience:?}")),
    }
}
