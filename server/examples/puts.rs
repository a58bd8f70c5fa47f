//! How many single documents a second the server stores, each synced and searchable when it is answered.
//!
//! ```text
//! cargo build --release -p lumen-server --bin lumen --example puts
//! target/release/examples/puts [--seconds 5] [--connections 1,16,64,100] [--binary target/release/lumen] [--dir /tmp]
//! ```
//!
//! Starts the program over a folder of its own and sends `PUT /collections/c/documents/{id}`, a new id each, about 300 bytes
//! of prose, over connections that are kept alive. All connections are driven by one thread with hand-written HTTP/1.1:
//! client and server share the machine, and what the client takes the server has not.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// Public-domain prose; documents are pieces of it.
const PROSE: &str = include_str!("../sample/devils-dictionary.ndjson");

/// Bytes of prose in a document, from and to.
const BODY_BYTES: (usize, usize) = (180, 320);

#[derive(Parser)]
struct Arguments {
    /// Seconds for each number of connections
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Numbers of connections
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,100")]
    connections: Vec<usize>,
    /// The program; otherwise the one beside this
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where the folder of the data is made
    #[arg(long, default_value = "/tmp")]
    dir: PathBuf,
    /// A server that runs already, instead of one of our own
    #[arg(long)]
    address: Option<SocketAddr>,
}

/// The server; killed at the end.
struct Server {
    child: Option<Child>,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Server {
    fn start(binary: &PathBuf, folder: &std::path::Path) -> Result<Server> {
        let mut command = Command::new(binary);
        command
            .args(["standalone", "--bind", "127.0.0.1:0", "--data-dir"])
            .arg(folder)
            .stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let mut server = Server { child: Some(child), address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let mut lines = BufReader::new(stderr).lines();
        let greeting = lines.next().context("the server says nothing")??;
        let url = greeting.split("http://").nth(1).with_context(|| format!("no address in {greeting:?}"))?;
        server.address = url.split(' ').next().unwrap_or(url).parse()?;
        // Whatever it says later is read, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(server)
    }

    /// A request on a connection of its own; the answer's body.
    fn send(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let mut stream = std::net::TcpStream::connect(self.address)?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 2"), "{answer}");
        Ok(answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_string()))
    }

    /// The counters of the journal.
    fn counters(&self) -> Result<BTreeMap<String, f64>> {
        let text = self.send("GET", "/metrics", "")?;
        let counters = text.lines().filter_map(|line| line.split_once(' '));
        Ok(counters.filter_map(|(name, value)| Some((name.to_string(), value.parse().ok()?))).collect())
    }
}

/// The prose without what JSON would have to escape.
fn prose() -> String {
    let text: String = PROSE.chars().filter(|c| c.is_alphabetic() || matches!(c, ' ' | ',' | '.')).collect();
    text.chars().map(|c| if c.is_ascii() { c } else { 'e' }).collect()
}

fn request(prose: &str, prefix: &str, nth: u64, random: &mut u64, out: &mut Vec<u8>) {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let drawn = (*random >> 20) as usize;
    let len = BODY_BYTES.0 + drawn % (BODY_BYTES.1 - BODY_BYTES.0);
    let start = (drawn / 1024) % (prose.len() - len);
    let body = format!(
        "{{\"body\":\"{}\",\"kind\":\"k{}\",\"year\":{}}}",
        &prose[start..start + len],
        drawn % 50,
        1900 + drawn % 120
    );
    out.clear();
    // Writing to a vector does not fail.
    let _ = write!(
        out,
        "PUT /collections/c/documents/{prefix}-{nth} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
}

/// Sends one request after the other until the time is over; the times they took, in microseconds.
async fn client(address: SocketAddr, prose: Rc<String>, prefix: String, end: Instant) -> Result<Vec<u32>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut random = prefix.bytes().fold(1u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let (mut out, mut answer) = (Vec::new(), vec![0; 4096]);
    let mut times = Vec::new();
    while Instant::now() < end {
        request(&prose, &prefix, times.len() as u64, &mut random, &mut out);
        let started = Instant::now();
        let mut sent = 0;
        while sent < out.len() {
            match stream.try_write(&out[sent..]) {
                Ok(bytes) => sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await?,
                Err(error) => return Err(error.into()),
            }
        }
        let mut filled = 0;
        loop {
            stream.readable().await?;
            match stream.try_read(&mut answer[filled..]) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            if is_whole(&answer[..filled]) {
                break;
            }
        }
        if !answer.starts_with(b"HTTP/1.1 201") {
            bail!("{}", String::from_utf8_lossy(&answer[..filled]));
        }
        times.push(started.elapsed().as_micros() as u32);
    }
    Ok(times)
}

/// Whether an answer is there to its end.
fn is_whole(answer: &[u8]) -> bool {
    const LENGTH: &[u8] = b"content-length: ";
    let Some(head) = memchr::memmem::find(answer, b"\r\n\r\n") else { return false };
    let Some(at) = memchr::memmem::find(&answer[..head], LENGTH) else { return true };
    let digits = answer[at + LENGTH.len()..head].iter().take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
    answer.len() >= head + 4 + length
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let beside = std::env::current_exe()?.with_file_name("../lumen");
    let binary = arguments.binary.unwrap_or(beside);
    let folder = tempfile::tempdir_in(&arguments.dir)?;
    let server = match arguments.address {
        Some(address) => Server { child: None, address },
        None => Server::start(&binary, &folder.path().join("data"))?,
    };
    let mapping = r#"{"fields":{"body":{"type":"text"},"kind":{"type":"keyword"},"year":{"type":"i64"}}}"#;
    server.send("PUT", "/collections/c", mapping)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let prose = Rc::new(prose());
    println!("connections  requests/s   p50 ms   p99 ms   max ms  syncs/request  entries/sync");
    for connections in arguments.connections {
        let before = server.counters()?;
        let started = Instant::now();
        let end = started + Duration::from_secs(arguments.seconds);
        let local = LocalSet::new();
        let running: Vec<_> = (0..connections)
            .map(|nth| {
                let prefix = format!("{connections}-{nth}");
                local.spawn_local(client(server.address, prose.clone(), prefix, end))
            })
            .collect();
        let mut times = Vec::new();
        runtime.block_on(local.run_until(async {
            for client in running {
                times.extend(client.await??);
            }
            anyhow::Ok(())
        }))?;
        let took = started.elapsed().as_secs_f64();
        let after = server.counters()?;
        times.sort_unstable();
        let at = |share: f64| f64::from(times[((times.len() - 1) as f64 * share) as usize]) / 1000.0;
        let grown = |name: &str| {
            after.get(name).copied().unwrap_or(f64::NAN) - before.get(name).copied().unwrap_or(0.0)
        };
        let (syncs, entries) = (grown("lumen_journal_syncs_total"), grown("lumen_journal_entries_total"));
        println!(
            "{connections:>11}  {:>10.0}  {:>7.3}  {:>7.3}  {:>7.1}  {:>13.3}  {:>12.1}",
            times.len() as f64 / took,
            at(0.5),
            at(0.99),
            at(1.0),
            syncs / times.len() as f64,
            entries / syncs
        );
    }
    Ok(())
}
