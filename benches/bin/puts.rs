//! Single PUTs over HTTP, each durable and searchable before it is answered: requests per second and latencies at 1, 16,
//! 64 and 100 clients. Starts the `lumen` program that lies beside this one, over a folder of its own.
//!
//! `cargo build --release && cargo run --release -p lumen-benches --bin puts [seconds [clients…]]`

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lumen_benches::http::Connection;
use lumen_benches::{Random, prose};

/// Words of a document's text: about 300 bytes.
const WORDS: usize = 45;

/// A server, ended with the program.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(folder: &std::path::Path) -> (Server, SocketAddr) {
    let program = std::env::current_exe().expect("a path").with_file_name("lumen");
    let mut command = Command::new(&program);
    command.arg("standalone").arg("--data-dir").arg(folder).args(["--bind", "127.0.0.1:0"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap_or_else(|error| {
        panic!("{}: {error}; build it with: cargo build --release", program.display())
    });
    let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped"));
    let server = Server(child);
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).expect("text") > 0, "the server did not start");
        if let Some(address) = line.split("http://").nth(1) {
            let end = address.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
            let address = address[..end.unwrap_or(address.len())].parse().expect("an address");
            std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
            return (server, address);
        }
    }
}

/// One request on a connection of its own: the answer's body.
fn ask(address: SocketAddr, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    let length = body.len();
    write!(
        stream,
        "{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned())
}

fn metric(address: SocketAddr, name: &str) -> f64 {
    let text = ask(address, "GET /metrics", "");
    let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name));
    line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok()).unwrap_or(f64::NAN)
}

/// Puts documents until the time is over; answers how long each took.
async fn client(address: SocketAddr, number: u64, end: Instant) -> Vec<Duration> {
    let mut connection = Connection::open(address).await.expect("the server accepts");
    let mut random = Random::new(number + 1);
    // Made before the clock runs: the client shares the processors with the server.
    let bodies: Vec<String> =
        (0..64).map(|n| format!(r#"{{"text":"{}","number":{n}}}"#, prose(&mut random, WORDS))).collect();
    let mut took = Vec::new();
    for count in 0_u64.. {
        let begin = Instant::now();
        if begin >= end {
            break;
        }
        let body = &bodies[(count % 64) as usize];
        let path = format!("/collections/c/documents/{number}-{count}");
        let answer = connection.send("PUT", &path, "", body.as_bytes()).await.expect("an answer");
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(answer.body));
        took.push(begin.elapsed());
    }
    took
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|number| number.parse().expect("a number"));
    let seconds = arguments.next().unwrap_or(5);
    let mut counts: Vec<u64> = arguments.collect();
    if counts.is_empty() {
        counts = vec![1, 16, 64, 100];
    }
    let folder = tempfile::tempdir().expect("a folder");
    println!(
        "single PUTs of {} bytes, durable and searchable when answered",
        prose(&mut Random::new(1), WORDS).len()
    );
    for clients in counts {
        let (_server, address) = start(&folder.path().join(clients.to_string()));
        let mapping = r#"{"fields":{"text":{"type":"text"},"number":{"type":"i64"}}}"#;
        ask(address, "PUT /collections/c", mapping);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let before = metric(address, "lumen_journal_syncs_total");
        let begin = Instant::now();
        let mut took = runtime.block_on(async {
            let end = begin + Duration::from_secs(seconds);
            let tasks: Vec<_> =
                (0..clients).map(|number| tokio::spawn(client(address, number, end))).collect();
            let mut all = Vec::new();
            for task in tasks {
                all.extend(task.await.expect("a client"));
            }
            all
        });
        let spent = begin.elapsed().as_secs_f64();
        let syncs = metric(address, "lumen_journal_syncs_total") - before;
        took.sort_unstable();
        let percentile = |p: usize| took[(took.len() * p / 100).min(took.len() - 1)].as_secs_f64() * 1e3;
        println!(
            "{clients:4} clients  {:7.0} puts/s  p50 {:6.2} ms  p99 {:6.2} ms  {:5.2} puts per fsync",
            took.len() as f64 / spent,
            percentile(50),
            percentile(99),
            took.len() as f64 / syncs,
        );
    }
}
