//! What clients do to the servers, and what came of it: by `lumen bench kv`, by redis-benchmark, and by a loop of our own for
//! etcd, whose own tool Debian does not have. All are closed loops: a client asks again when it has its answer.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use lumen_benches::Random;
use lumen_benches::etcd::Etcd;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::servers::lumen;

/// Each measurement goes for so long before it counts.
const WARM_UP: Duration = Duration::from_secs(1);
/// Clients that fill etcd.
const FILLERS: u64 = 64;
/// Commands of Redis that are sent at once when it is filled.
const PIPELINE: u64 = 1000;
/// The value's texts, of which each put takes one.
const VALUES: u64 = 64;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Put,
    Get,
}

impl Op {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Op::Put => "put",
            Op::Get => "get",
        }
    }
}

/// Over what `lumen bench` asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Face {
    Http,
    Grpc,
}

/// One measurement: what, by how many, on how many keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) op: Op,
    pub(crate) clients: u64,
    pub(crate) seconds: u64,
    pub(crate) keys: u64,
    pub(crate) value_size: u64,
    pub(crate) seed: u64,
}

/// What came of it; latencies in microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) per_second: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

/// What one measured thing says when it cannot be measured.
pub(crate) type Fault = String;

/// What `lumen bench kv` is told beside where and over what, and the JSON that it writes.
pub(crate) async fn lumen_bench(scratch: &Path, arguments: &[String]) -> Result<Value, Fault> {
    let json = tempfile::NamedTempFile::new_in(scratch).map_err(text)?;
    let mut command = Command::new(lumen());
    command.args(["bench", "kv", "--json"]).arg(json.path()).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = command.spawn().map_err(text)?.wait_with_output().await.map_err(text)?;
    let whole: Value =
        fs::read(json.path()).ok().and_then(|it| serde_json::from_slice(&it).ok()).unwrap_or_default();
    if output.status.success() {
        return Ok(whole);
    }
    let runs = whole["runs"].as_array().into_iter().flatten().chain([&whole["load"]]);
    let errors: Vec<String> =
        runs.map(|run| &run["errors"]).filter(|errors| !errors.is_null()).map(Value::to_string).collect();
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    Err(format!("lumen bench ended with {}: {last} {}", output.status, errors.join(" ")))
}

/// Where, over what.
pub(crate) fn target(face: Face, address: SocketAddr) -> [String; 2] {
    let url = format!("http://{address}");
    match face {
        Face::Http => ["--url".into(), url],
        Face::Grpc => ["--grpc".into(), url],
    }
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split_whitespace().map(str::to_owned)
}

/// Figures of one of its runs.
pub(crate) fn figures(run: &Value) -> Option<Figures> {
    let all = &run["all"];
    let number = |name: &str| all[name].as_f64();
    let per_second = number("operations_per_s")?;
    Some(Figures { per_second, p50: number("p50_us")?, p99: number("p99_us")?, p999: number("p999_us")? })
}

/// Lumen, or what answers as Lumen does.
pub(crate) async fn with_lumen_bench(
    scratch: &Path,
    face: Face,
    address: SocketAddr,
    load: Load,
) -> Result<Figures, Fault> {
    let Load { op, clients, seconds, keys, value_size, seed } = load;
    let mut arguments: Vec<String> = target(face, address).into();
    arguments.extend(words(&format!(
        "--mix {}=100 --clients {clients} --duration {seconds}s --warm-up {}s",
        op.name(),
        WARM_UP.as_secs()
    )));
    arguments.extend(words(&format!("--keys {keys} --value-size {value_size} --seed {seed}")));
    let whole = lumen_bench(scratch, &arguments).await?;
    let run = &whole["runs"][0];
    match run["all"]["missing"].as_u64() {
        Some(0) => figures(run).ok_or_else(|| "no operation ended in time".to_owned()),
        missing => Err(format!("{missing:?} keys were not there")),
    }
}

/// Puts all keys that `lumen bench` asks for.
pub(crate) async fn fill_lumen(
    scratch: &Path,
    address: SocketAddr,
    keys: u64,
    value_size: u64,
) -> Result<(), Fault> {
    let mut arguments: Vec<String> = target(Face::Http, address).into();
    arguments.extend(words("--load --mix get=100 --operations 1 --clients 1 --warm-up 0s"));
    arguments.extend(words(&format!("--keys {keys} --value-size {value_size}")));
    lumen_bench(scratch, &arguments).await.map(drop)
}

/// Redis, by its own tool, which counts operations and not seconds: a short run tells how many the seconds will take.
pub(crate) async fn with_redis_benchmark(address: SocketAddr, load: Load) -> Result<Figures, Fault> {
    let mut count = 1000.max(load.clients * 20);
    for seconds in [WARM_UP.as_secs_f64() / 2.0, load.seconds as f64] {
        let rate = redis_benchmark(address, load, count).await?.per_second;
        count = 1000.max((rate * seconds) as u64);
    }
    redis_benchmark(address, load, count).await
}

async fn redis_benchmark(address: SocketAddr, load: Load, count: u64) -> Result<Figures, Fault> {
    let Load { op, clients, keys, value_size, .. } = load;
    let test = if op == Op::Put { "set" } else { "get" };
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-t", test]);
    command.args(words(&format!("-c {clients} -n {count} -r {keys} -d {value_size} --precision 3")));
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| format!("redis-benchmark: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    read_redis_benchmark(&said).ok_or_else(|| {
        let last = said.lines().last().unwrap_or_default();
        format!(
            "redis-benchmark ended with {}: {last} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// Reads the text that it prints: its CSV has no p99.9.
fn read_redis_benchmark(said: &str) -> Option<Figures> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    // `99.902% <= 1.234 milliseconds (cumulative count 4996)`, of both lists that it has; the first is the finer one.
    let first = said.split("Cumulative distribution").next()?;
    let quantiles: Vec<(f64, f64)> = first
        .lines()
        .filter_map(|line| {
            let (percent, rest) = line.split_once("% <= ")?;
            Some((number(percent)?, number(rest.split(' ').next()?)? * 1e3))
        })
        .collect();
    let at = |percent: f64| quantiles.iter().find(|(upto, _)| *upto >= percent).map(|(_, us)| *us);
    let summary = said.split("throughput summary: ").nth(1)?;
    let per_second = number(summary.split(' ').next()?)?;
    // Below its list of names: avg, min, p50, p95, p99, max.
    let latencies = said.split("latency summary (msec):").nth(1)?;
    let row: Vec<f64> = latencies.lines().nth(2)?.split_whitespace().filter_map(number).collect();
    let [_, _, p50, _, p99, _] = row[..] else { return None };
    Some(Figures { per_second, p50: p50 * 1e3, p99: p99 * 1e3, p999: at(99.9)? })
}

/// Puts all keys that redis-benchmark asks for.
pub(crate) async fn fill_redis(address: SocketAddr, keys: u64, value_size: u64) -> Result<(), Fault> {
    let mut stream = TcpStream::connect(address).await.map_err(text)?;
    let value = "x".repeat(value_size as usize);
    for first in (0..keys).step_by(PIPELINE as usize) {
        let mut commands = String::new();
        let last = keys.min(first + PIPELINE);
        for key in first..last {
            commands += &format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:{key:012}\r\n${value_size}\r\n{value}\r\n");
        }
        stream.write_all(commands.as_bytes()).await.map_err(text)?;
        let mut answers = vec![0; "+OK\r\n".len() * (last - first) as usize];
        stream.read_exact(&mut answers).await.map_err(text)?;
        if !answers.chunks(5).all(|answer| answer == b"+OK\r\n") {
            return Err(format!("Redis refuses: {}", String::from_utf8_lossy(&answers[..64])));
        }
    }
    Ok(())
}

/// Keys as `lumen bench` has them: 16 bytes.
fn etcd_key(n: u64) -> String {
    format!("k{n:015}")
}

/// etcd, a connection for each client.
pub(crate) async fn with_etcd(address: SocketAddr, load: Load) -> Result<Figures, Fault> {
    let mut open = Vec::new();
    for _ in 0..load.clients {
        open.push(Etcd::open(address).await?);
    }
    let values: Arc<Vec<Vec<u8>>> = Arc::new(
        (0..VALUES)
            .map(|n| lumen_benches::value(&mut Random::new(n + 1), load.value_size as usize))
            .collect(),
    );
    let begin = Instant::now() + WARM_UP;
    let end = begin + Duration::from_secs(load.seconds);
    let clients: Vec<_> = (1..)
        .zip(open)
        .map(|(number, client)| tokio::spawn(ask_etcd(client, load, number, values.clone(), begin, end)))
        .collect();
    let mut took = Histogram::<u64>::new(3).expect("three digits");
    let mut in_time = 0;
    for client in clients {
        let (its, its_in_time) = client.await.map_err(text)??;
        took.add(&its).expect("the same kind");
        in_time += its_in_time;
    }
    let quantile = |quantile| took.value_at_quantile(quantile) as f64 / 1e3;
    let per_second = in_time as f64 / load.seconds as f64;
    Ok(Figures { per_second, p50: quantile(0.5), p99: quantile(0.99), p999: quantile(0.999) })
}

/// One client until the time is over: how long what it asked after the warm-up took, in nanoseconds, and how many ended in time.
async fn ask_etcd(
    mut client: Etcd,
    load: Load,
    number: u64,
    values: Arc<Vec<Vec<u8>>>,
    begin: Instant,
    end: Instant,
) -> Result<(Histogram<u64>, u64), Fault> {
    let mut random = Random::new((load.seed << 32) + number);
    let mut took = Histogram::<u64>::new(3).expect("three digits");
    let mut in_time = 0;
    let mut now = Instant::now();
    while now < end {
        let key = etcd_key(random.below(load.keys));
        match load.op {
            Op::Put => client.put(&key, &values[random.below(VALUES) as usize]).await?,
            Op::Get => client.get(&key, false).await?,
        }
        let after = Instant::now();
        if now >= begin {
            took.record((after - now).as_nanos() as u64).expect("below centuries");
            in_time += u64::from(after < end);
        }
        now = after;
    }
    Ok((took, in_time))
}

/// Puts all keys that etcd is asked for.
pub(crate) async fn fill_etcd(address: SocketAddr, keys: u64, value_size: u64) -> Result<(), Fault> {
    let mut fillers = Vec::new();
    for filler in 0..FILLERS {
        let mut client = Etcd::open(address).await?;
        fillers.push(tokio::spawn(async move {
            let value = lumen_benches::value(&mut Random::new(filler + 1), value_size as usize);
            for key in (filler..keys).step_by(FILLERS as usize) {
                client.put(&etcd_key(key), &value).await?;
            }
            Ok::<(), Fault>(())
        }));
    }
    for filler in fillers {
        filler.await.map_err(text)??;
    }
    Ok(())
}

fn text(error: impl std::fmt::Display) -> Fault {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_benchmark_prints_is_read() {
        let said = "====== SET ======\n  5000 requests completed in 1.54 seconds\n\n\
            Latency by percentile distribution:\n0.000% <= 0.239 milliseconds (cumulative count 1)\n\
            99.805% <= 19.647 milliseconds (cumulative count 4991)\n\
            99.902% <= 19.903 milliseconds (cumulative count 4996)\n\
            100.000% <= 19.999 milliseconds (cumulative count 5000)\n\n\
            Cumulative distribution of latencies:\n0.000% <= 0.103 milliseconds (cumulative count 0)\n\n\
            Summary:\n  throughput summary: 3246.75 requests per second\n  latency summary (msec):\n\
            \x20         avg       min       p50       p95       p99       max\n\
            \x20       4.893     0.232     4.119    11.039    12.647    19.999\n";
        let read = read_redis_benchmark(said).expect("reads");
        let found = (read.per_second, read.p50, read.p99, read.p999);
        assert_eq!(found, (3246.75, 4119.0, 12_647.0, 19_903.0));
        assert!(read_redis_benchmark("Could not connect to Redis").is_none());
    }
}
