//! What the tests of the program share: a real `lumen` process in a folder of its own, and a plain HTTP client.
#![allow(dead_code, reason = "each test binary uses its part of this")]

pub(crate) mod cluster;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) fn lumen() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lumen"));
    for name in [
        "LUMEN_DATA_DIR",
        "LUMEN_BIND",
        "LUMEN_URL",
        "LUMEN_LOG",
        "LUMEN_MEMORY",
        "LUMEN_CACHE",
        "LUMEN_BLOBS",
        "LUMEN_SCRUB",
        "LUMEN_KEY_SIZE",
        "LUMEN_VALUE_SIZE",
        "LUMEN_KEEP_LOG",
        "LUMEN_NODE_ID",
        "LUMEN_RAFT_ADDR",
        "LUMEN_RAFT_BIND",
        "LUMEN_PEER_TLS",
        "LUMEN_ADVERTISE_URL",
        "LUMEN_CLUSTER_NAME",
        "LUMEN_JOIN",
        "LUMEN_PROFILE",
        "LUMEN_FORWARDING",
        "CI",
    ] {
        command.env_remove(name);
    }
    // The port of LumenKV's clients is there once, and tests run at the same time.
    command.env("LUMEN_GRPC_BIND", "off");
    command.stdin(Stdio::null());
    command
}

/// A port that nobody listened on a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// A server in a process of its own; killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What else it says on stderr.
    pub(crate) says: mpsc::Receiver<String>,
}

impl Server {
    /// Starts `lumen standalone` over a folder.
    pub(crate) fn start(data_dir: &Path, more: &[&str]) -> Server {
        let mut command = lumen();
        command.arg("standalone").arg("--data-dir").arg(data_dir).args(["--bind", "127.0.0.1:0"]).args(more);
        Server::spawn(command)
    }

    /// Runs a command that serves, and waits until it says where.
    pub(crate) fn spawn(mut command: Command) -> Server {
        let child = command.stderr(Stdio::piped()).spawn().expect("lumen starts");
        let (sender, says) = mpsc::channel();
        let mut server = Server { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), says };
        let stderr = BufReader::new(server.child.stderr.take().expect("stderr is piped"));
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut heard = String::new();
        while server.address.port() == 0 {
            let Ok(line) = server.says.recv_timeout(PATIENCE) else {
                panic!("the server did not start: {heard}")
            };
            if let Some(address) = line.split("http://").nth(1) {
                let is_part = |c: char| c.is_ascii_digit() || c == '.' || c == ':';
                let end = address.find(|c| !is_part(c)).unwrap_or(address.len());
                // A name is where others reach it, not where it listens.
                server.address = address[..end].parse().unwrap_or(server.address);
            }
            heard.push_str(&line);
            heard.push('\n');
        }
        server
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name, as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a power switch would, as far as a process can be: nothing more of it runs.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the server is killed");
        self.child.wait().expect("the server ends");
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().expect("the server ends")
    }

    /// The server's address as a URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The lines of an answer that comes bit by bit, until it ends or breaks off.
    pub(crate) fn lines(&self, path: &str, headers: &[(&str, &str)]) -> io::Result<Lines> {
        lines_of(self.address, path, headers)
    }

    /// One request on a connection of its own.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut text = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        self.raw(&bytes)
    }

    /// Sends bytes as they are, and reads an answer.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout is set");
        // A refused request may be answered, and the connection closed, before all of it is sent.
        let _ = stream.write_all(bytes);
        Answer::read(&mut BufReader::new(stream))
    }

    /// `GET`
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    /// `PUT`
    pub(crate) fn put(&self, path: &str, body: &str) -> Answer {
        self.send("PUT", path, &[], body.as_bytes())
    }

    /// `POST`
    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.send("POST", path, &[], body.as_bytes())
    }

    /// `DELETE`
    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], b"")
    }

    /// What `/metrics` shows, by name and labels as they stand there.
    pub(crate) fn counted(&self) -> BTreeMap<String, f64> {
        let text = self.get("/metrics").text();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let read = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_string(), value.parse().ok()?))
        };
        samples.map(|line| read(line).unwrap_or_else(|| panic!("{line}"))).collect()
    }

    /// Makes a collection of books.
    pub(crate) fn make_books(&self) {
        let mapping = r#"{"fields":{"title":{"type":"text"},"genre":{"type":"keyword"},"year":{"type":"i64"},
            "price":{"type":"f64"},"published":{"type":"date"}}}"#;
        assert_eq!(self.put("/collections/books", mapping).status, 201);
    }

    /// Ids of the hits for a query in the books, sorted, and the total.
    pub(crate) fn find(&self, query: &str) -> (Vec<String>, u64) {
        let answer = self.get(&format!("/collections/books/documents/search?limit=1000&q={query}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body = answer.json();
        let hits = body["hits"].as_array().expect("hits");
        let mut ids: Vec<String> =
            hits.iter().map(|hit| hit["id"].as_str().expect("id").to_string()).collect();
        ids.sort();
        (ids, body["total"].as_u64().expect("total"))
    }
}

/// Sends a signal by name, as `TERM`, to a process this test started.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status().expect("sh runs");
    assert!(status.success());
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An HTTP answer.
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    /// Its headers, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Its body.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads one.
    pub(crate) fn read(stream: &mut impl BufRead) -> Answer {
        Answer::try_read(stream).expect("a whole answer")
    }

    /// Reads one from a server that may be gone.
    pub(crate) fn try_read(stream: &mut impl BufRead) -> io::Result<Answer> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
        let line = read_line(stream)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| bad(&format!("no status line but {line:?}")))?;
        let mut headers = Vec::new();
        while let Some((name, value)) = read_line(stream)?.trim_end().split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(read_line(stream)?.trim_end(), 16);
                let (size, start) = (size.map_err(|_| bad("no size of a chunk"))?, answer.body.len());
                answer.body.resize(start + size, 0);
                stream.read_exact(&mut answer.body[start..])?;
                read_line(stream)?;
                if size == 0 {
                    return Ok(answer);
                }
            }
        }
        let length = answer.header("content-length").map_or(Ok(0), str::parse);
        answer.body.resize(length.map_err(|_| bad("no length"))?, 0);
        stream.read_exact(&mut answer.body)?;
        Ok(answer)
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// The body's lines as JSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// Holds the answer against an expected error.
    pub(crate) fn is_error(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let body = self.json();
        assert_eq!(body["error"]["type"], kind, "{body}");
        assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
        body["error"].clone()
    }
}

/// A line with its end: without one, the server broke off.
fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if line.ends_with('\n') { Ok(line) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// One connection for many requests, to a server that may go away.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Connects.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Connection> {
        Connection::open_within(address, PATIENCE)
    }

    /// Connects to a server that may not answer; nothing takes longer than `patience` then.
    pub(crate) fn open_within(address: SocketAddr, patience: Duration) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Connection(BufReader::new(stream)))
    }

    /// One request and its answer.
    pub(crate) fn send(&mut self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        self.send_with(method, path, "", body)
    }

    /// One request with more headers, each with its line's end, and its answer.
    pub(crate) fn send_with(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> io::Result<Answer> {
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n{body}");
        self.0.get_mut().write_all(request.as_bytes())?;
        Answer::try_read(&mut self.0)
    }
}

/// Numbers that a seed repeats (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// All files of a folder by name, with when they were changed and what is in them.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, (SystemTime, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| {
            let changed = entry.metadata().and_then(|metadata| metadata.modified()).expect("a time");
            let bytes = std::fs::read(entry.path()).expect("a file");
            (entry.file_name().to_string_lossy().into_owned(), (changed, bytes))
        })
        .collect()
}

/// A folder, and a server over it.
pub(crate) fn fresh() -> (TempDir, Server) {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(&folder.path().join("data"), &[]);
    (folder, server)
}

/// Writes a file for a test and gives its path.
pub(crate) fn write(folder: &TempDir, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("a file is written");
    path
}

/// An answer that is read line by line while it comes.
pub(crate) struct Lines(BufReader<TcpStream>);

/// Asks for such an answer. An error of the server is one here.
pub(crate) fn lines_of(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> io::Result<Lines> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // By HTTP/1.0 the body is the rest of the connection, as it is.
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n{headers}\r\n").as_bytes())?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).unwrap_or("").to_owned();
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if status != "200" {
        reader.read_line(&mut line)?;
        return Err(io::Error::other(format!("{status}: {line}")));
    }
    Ok(Lines(reader))
}

impl Iterator for Lines {
    type Item = String;

    /// None when it has ended, also in the middle of a line.
    fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).ok()?;
        (read > 0 && line.ends_with('\n')).then(|| line.trim_end().to_owned())
    }
}
