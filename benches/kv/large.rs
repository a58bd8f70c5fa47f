//! Ten million keys of a kilobyte in a gigabyte of memory: loaded, then put, scanned and watched at the same time, in a control
//! group that ends the server if it needs more.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lumen_benches::http::Connection;
use lumen_benches::options::Options;
use serde_json::Value;

use crate::cgroup::Group;
use crate::load::{Face, Fault, figures, lumen_bench, target};
use crate::report;
use crate::servers::{Process, free_address, is_ok, lumen};
use crate::watch::Watch;

pub(crate) const OPTIONS: &[(&str, &str)] = &[
    ("--keys", "10000000"),
    ("--value-size", "1024"),
    ("--memory-mib", "1024"),
    ("--seconds", "60"),
    ("--put-clients", "16"),
    ("--put-rate", "0"),
    ("--scan-clients", "4"),
    ("--scan-length", "100"),
    ("--server", ""),
    ("--out", ""),
];
/// To see whether it works.
pub(crate) const QUICK: &[(&str, &str)] = &[
    ("--keys", "100000"),
    ("--value-size", "1024"),
    ("--memory-mib", "1024"),
    ("--seconds", "5"),
    ("--put-clients", "16"),
    ("--put-rate", "0"),
    ("--scan-clients", "4"),
    ("--scan-length", "100"),
    ("--server", ""),
    ("--out", ""),
];

/// The space that `lumen bench` uses.
const SPACE: &str = "bench";
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// What a watcher lacks when the last put is answered it gets in this time.
const CATCH_UP_TIME_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Room on the disk for each byte of keys and values: merging rewrites what is there before it lets go of it.
const ROOM: f64 = 2.5;

/// The server in its group; the group goes after the process.
struct Server {
    process: Process,
    address: SocketAddr,
    group: Option<Arc<Group>>,
    /// Bytes that were its own, at most, at any look.
    own_bytes_max: Arc<AtomicU64>,
}

impl Server {
    async fn start(folder: &Path, limit_bytes: u64, more: &str) -> Result<Server, Fault> {
        let group = match Group::new(limit_bytes) {
            Ok(group) => Some(Arc::new(group)),
            // A limit of addresses would refuse what is reserved and never used, and say nothing of memory.
            Err(fault) => {
                eprintln!("WITHOUT A LIMIT OF MEMORY: {fault}");
                None
            }
        };
        let address = free_address(&[]);
        let program = lumen();
        let mut command = match &group {
            Some(group) => group.command(program.as_os_str()),
            None => Command::new(&program),
        };
        command.args(["standalone", "--grpc-bind", "off", "--bind", &address.to_string(), "--data-dir"]);
        command.arg(folder.join("data")).args(more.split_whitespace());
        let process = Process::start(command, folder.join("lumen.log"));
        let mut server = Server { process, address, group, own_bytes_max: Arc::default() };
        let late = Instant::now() + START_TIME_MAX;
        while is_ok(address, "/readyz").await.is_none() {
            if server.process.ended().is_some() || Instant::now() > late {
                return Err(format!("the server does not start: {}", server.process.last_words()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(server)
    }

    fn look(&self) {
        if let Some(group) = &self.group {
            self.own_bytes_max.fetch_max(group.own_bytes(), Ordering::Relaxed);
        }
    }

    /// What comes of something, unless the server ends before.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return result,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            self.look();
            if let Some(status) = self.process.ended() {
                let kills = self.group.as_ref().map_or(0, |group| group.kills());
                let words = self.process.last_words();
                return Err(format!(
                    "the server has ended with {status}, killed for memory {kills} times: {words}"
                ));
            }
        }
    }
}

/// What is told.
#[derive(Default)]
struct Told {
    rows: Vec<(String, Value)>,
    checks: Vec<(String, bool)>,
}

pub(crate) async fn run(options: &Options) -> bool {
    let folder = options.folder();
    let (where_it_lies, is_in_memory) = report::file_system(folder.path());
    eprintln!("data in {}: {where_it_lies}", folder.path().display());
    let needed = options.number("--keys") as f64 * (options.number("--value-size") + 64) as f64 * ROOM;
    let free = free_bytes(folder.path());
    if is_in_memory || free < needed {
        eprintln!(
            "it takes {:.1} GB on a disk, of which {:.1} are free: --dir, --keys",
            needed / 1e9,
            free / 1e9
        );
        return false;
    }
    let limit = options.number("--memory-mib") << 20;
    let mut server = match Server::start(folder.path(), limit, options.text("--server")).await {
        Ok(server) => server,
        Err(fault) => {
            eprintln!("{fault}");
            return false;
        }
    };
    let group =
        server.group.as_ref().map_or_else(|| "no limit could be set".to_owned(), |group| group.name());
    eprintln!("the server has {} MiB: {group}", limit >> 20);
    let mut told = Told::default();
    if let Err(fault) = measure(&mut server, options, folder.path(), &mut told).await {
        told.checks.push((fault.replace('\n', " · "), false));
    }
    server.look();
    if let Some(group) = &server.group {
        told.checks.push((format!("killed for lack of memory: {} times", group.kills()), group.kills() == 0));
    } else {
        told.checks.push(("memory had no limit".to_owned(), false));
    }
    let text = text(options, &server, &told, &report::facts(folder.path(), &where_it_lies));
    println!("{text}");
    if let Some(out) = Some(options.text("--out")).filter(|out| !out.is_empty()) {
        fs::write(out, &text).unwrap_or_else(|error| panic!("{out}: {error}"));
    }
    told.checks.iter().all(|(_, is_good)| *is_good)
}

async fn measure(
    server: &mut Server,
    options: &Options,
    scratch: &Path,
    told: &mut Told,
) -> Result<(), Fault> {
    let address = server.address;
    let (keys, value_size) = (options.number("--keys"), options.number("--value-size"));
    let arguments = |more: String| -> Vec<String> {
        let shape = format!("--keys {keys} --value-size {value_size} --warm-up 0s {more}");
        target(Face::Http, address).into_iter().chain(shape.split_whitespace().map(str::to_owned)).collect()
    };
    eprintln!("loading {keys} keys of {value_size} bytes");
    let load = arguments("--load --mix get=100 --operations 1 --clients 1".into());
    let loaded = server.meanwhile(lumen_bench(scratch, &load)).await?;
    told.rows.push(("load, 64 clients".into(), loaded["load"].clone()));

    let watch = Watch::begin(address, SPACE);
    let begun = async {
        while watch.seen.lock().is_ok_and(|seen| seen.since.is_none()) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    };
    server.meanwhile(within(START_TIME_MAX, "the watch to begin", begun)).await?;

    let seconds = options.number("--seconds");
    eprintln!("puts, scans and a watch for {seconds} s");
    let (puts, scans) = (options.number("--put-clients"), options.number("--scan-clients"));
    let rate = match options.number("--put-rate") {
        0 => String::new(),
        rate => format!("--rate {rate}"),
    };
    let put = arguments(format!("--mix put=100 --clients {puts} --duration {seconds}s --seed 2 {rate}"));
    let length = options.number("--scan-length");
    let scan = arguments(format!(
        "--mix scan=100 --scan-length {length} --clients {scans} --duration {seconds}s --seed 3"
    ));
    let both = async {
        let (put, scan) = tokio::join!(lumen_bench(scratch, &put), lumen_bench(scratch, &scan));
        Ok((put?, scan?))
    };
    let (put, scan) = server.meanwhile(both).await?;
    let (put, scan) = (&put["runs"][0], &scan["runs"][0]);
    told.rows.push((format!("puts, {puts} clients"), put.clone()));
    told.rows.push((format!("scans of up to {length} rows, {scans} clients"), scan.clone()));

    let last = seq(address).await?;
    let begin = Instant::now();
    let caught_up = async {
        while watch.seen.lock().is_ok_and(|seen| seen.upto < last && seen.end.is_none()) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    };
    let caught_up = server.meanwhile(within(CATCH_UP_TIME_MAX, "the watch to catch up", caught_up)).await;
    let seen = watch.seen.lock().expect("nobody panics");
    let done = put["all"]["operations"].as_u64().unwrap_or(0);
    // What failed may be done all the same.
    let failed = put["error_count"].as_u64().unwrap_or(0) + put["given_up"].as_u64().unwrap_or(0);
    let mut check = |what: String, is_good: bool| told.checks.push((what, is_good));
    check(
        format!(
            "the watch had {} events of {done} puts that were acknowledged and {failed} that failed",
            seen.events
        ),
        (done..=done + failed).contains(&seen.events),
    );
    check(
        format!(
            "out of order or twice: {}; of more or less than one key: {}; sequence numbers {} to {}, {} of them without an event",
            seen.misplaced,
            seen.odd,
            seen.since.unwrap_or(0),
            seen.upto,
            seen.skipped
        ),
        seen.misplaced == 0 && seen.odd == 0,
    );
    check(
        format!(
            "events came p50 {} ms, p99 {} ms, at most {} ms after their writes, the last {:.1?} after the last put was answered{}",
            seen.late_ms.value_at_quantile(0.5),
            seen.late_ms.value_at_quantile(0.99),
            seen.late_ms.max(),
            begin.elapsed(),
            seen.end.as_ref().map(|end| format!("; it ended: {end}")).unwrap_or_default()
        ),
        caught_up.is_ok() && seen.end.is_none(),
    );
    Ok(())
}

/// What comes of something, or that it took too long.
async fn within<T>(
    time: Duration,
    what: &str,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    tokio::time::timeout(time, work)
        .await
        .unwrap_or_else(|_| Err(format!("{time:?} were not enough for {what}")))
}

/// The server's newest sequence number.
async fn seq(address: SocketAddr) -> Result<u64, Fault> {
    let mut connection = Connection::open(address).await.map_err(|error| error.to_string())?;
    let path = format!("/kv/{SPACE}/keys/none");
    let answer = connection.send("GET", &path, "", b"").await.map_err(|error| error.to_string())?;
    let seq = answer.header("lumen-seq").and_then(|seq| seq.parse().ok());
    seq.ok_or_else(|| format!("an answer without a sequence number: {}", answer.head))
}

fn free_bytes(folder: &Path) -> f64 {
    let output = Command::new("df").args(["--output=avail", "--block-size=1"]).arg(folder).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    said.lines().nth(1).and_then(|line| line.trim().parse().ok()).unwrap_or(f64::MAX)
}

fn text(options: &Options, server: &Server, told: &Told, facts: &[(String, String)]) -> String {
    let (keys, value_size) = (options.number("--keys"), options.number("--value-size"));
    let mut out = format!(
        "# {keys} keys of {value_size} bytes in {} MiB of memory\n\n| | operations | operations/s | p50, ms | p99, ms | p99.9, ms | errors |\n|---|---|---|---|---|---|---|\n",
        options.number("--memory-mib")
    );
    for (what, run) in &told.rows {
        let errors = &run["error_count"];
        let _ = match figures(run) {
            Some(it) => writeln!(
                out,
                "| {what} | {} | {:.0} | {:.2} | {:.2} | {:.2} | {errors} |",
                run["all"]["operations"],
                it.per_second,
                it.p50 / 1e3,
                it.p99 / 1e3,
                it.p999 / 1e3
            ),
            None => writeln!(out, "| {what} | none | | | | | {errors} |"),
        };
    }
    out.push('\n');
    if let Some(group) = &server.group {
        let own = server.own_bytes_max.load(Ordering::Relaxed);
        let _ = writeln!(
            out,
            "- memory: {} MiB at most with the pages of files that the system keeps, {} MiB of it the server's own ({})",
            group.peak_bytes() >> 20,
            own >> 20,
            group.name().split(',').next().unwrap_or_default()
        );
    }
    for (what, is_good) in &told.checks {
        let _ = writeln!(out, "- {}: {what}", if *is_good { "good" } else { "**NOT GOOD**" });
    }
    out.push_str("\n| | |\n|---|---|\n");
    for (name, value) in facts.iter().filter(|(name, _)| !name.contains("Redis") && !name.contains("etcd")) {
        let _ = writeln!(out, "| {name} | {value} |");
    }
    out
}
