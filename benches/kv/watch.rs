//! One who watches a space: reads the lines of `GET /kv/{space}/watch` and looks whether each event comes once and in order.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes that are read at once.
const READ_BYTES: usize = 256 << 10;

/// What came so far.
pub(crate) struct Seen {
    /// The sequence number that it began behind, as soon as it has begun.
    pub(crate) since: Option<u64>,
    /// The number up to which everything has come.
    pub(crate) upto: u64,
    /// Events, each of one write.
    pub(crate) events: u64,
    /// Sequence numbers within those of the events that had none.
    pub(crate) skipped: u64,
    /// Events whose number is not above that of the one before.
    pub(crate) misplaced: u64,
    /// Events of more or less than one key.
    pub(crate) odd: u64,
    /// How long after its write an event came, in milliseconds: as exact as the server's clock in it.
    pub(crate) late_ms: Histogram<u64>,
    /// Why it ended, which it should not.
    pub(crate) end: Option<String>,
}

impl Seen {
    fn new() -> Seen {
        let late_ms = Histogram::new(3).expect("three digits");
        Seen { since: None, upto: 0, events: 0, skipped: 0, misplaced: 0, odd: 0, late_ms, end: None }
    }

    /// Takes in a line.
    fn take(&mut self, line: &str, now_ms: u64) {
        let Some(rest) = line.strip_prefix("{\"seq\":") else {
            self.end.get_or_insert_with(|| line.chars().take(300).collect());
            return;
        };
        let seq: u64 = digits(rest);
        if let Some(since) = self.since {
            if line.contains("\"changes\":") {
                self.misplaced += u64::from(seq <= self.upto.max(since));
                self.skipped += seq.saturating_sub(self.upto + 1);
                self.odd += u64::from(line.matches("\"op\":").count() != 1);
                self.events += 1;
                let time = rest.split_once("\"time_ms\":").map_or(now_ms, |(_, time)| digits(time));
                self.late_ms.saturating_record(now_ms.saturating_sub(time));
            }
        } else {
            self.since = Some(seq);
        }
        self.upto = self.upto.max(seq);
    }
}

/// The number that a text begins with.
fn digits(text: &str) -> u64 {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().unwrap_or(0)
}

/// Watches a space from now on, until this is dropped.
pub(crate) struct Watch {
    pub(crate) seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    pub(crate) fn begin(address: SocketAddr, space: &str) -> Watch {
        let seen = Arc::new(Mutex::new(Seen::new()));
        let (space, told) = (space.to_owned(), seen.clone());
        let task = tokio::spawn(async move {
            let end = match follow(address, &space, &told).await {
                Ok(()) => "the server ended it".to_owned(),
                Err(error) => error.to_string(),
            };
            told.lock().expect("nobody panics").end.get_or_insert(end);
        });
        Watch { seen, task }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(address: SocketAddr, space: &str, seen: &Mutex<Seen>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /kv/{space}/watch?progress=true HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut raw = Vec::with_capacity(READ_BYTES);
    let head = loop {
        if let Some(at) = find(&raw, b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut raw).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    };
    if !raw.starts_with(b"HTTP/1.1 200") {
        return Err(std::io::Error::other(String::from_utf8_lossy(&raw).into_owned()));
    }
    raw.drain(..head);
    let (mut pieces, mut text) = (Pieces::default(), Vec::new());
    loop {
        let is_over = pieces.take(&mut raw, &mut text)?;
        if let Some(end) = text.iter().rposition(|byte| *byte == b'\n') {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
            let lines = std::str::from_utf8(&text[..end]).map_err(std::io::Error::other)?;
            let mut seen = seen.lock().expect("nobody panics");
            lines.lines().for_each(|line| seen.take(line, now));
            drop(seen);
            text.drain(..=end);
        }
        if is_over {
            return Ok(());
        }
        raw.reserve(READ_BYTES);
        if stream.read_buf(&mut raw).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Where it is in a body that comes in pieces (RFC 9112, 7.1).
#[derive(Default)]
struct Pieces {
    /// Bytes of the piece that are to come.
    left: usize,
    /// Whether it has begun, so that a line's end comes behind it.
    is_within: bool,
}

impl Pieces {
    /// Moves what is there of pieces from `raw` to `text`; whether the last has come.
    fn take(&mut self, raw: &mut Vec<u8>, text: &mut Vec<u8>) -> std::io::Result<bool> {
        let mut at = 0;
        let is_over = loop {
            if self.left > 0 {
                let taken = self.left.min(raw.len() - at);
                text.extend_from_slice(&raw[at..at + taken]);
                at += taken;
                self.left -= taken;
                if self.left > 0 {
                    break false;
                }
            }
            let before = if self.is_within { 2 } else { 0 };
            let Some(end) = raw.get(at + before..).and_then(|rest| find(rest, b"\r\n")) else { break false };
            let size = std::str::from_utf8(&raw[at + before..at + before + end]).ok();
            let size = size.and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
            self.left = size.ok_or_else(|| std::io::Error::other("a piece without a length"))?;
            self.is_within = true;
            at += before + end + 2;
            if self.left == 0 {
                break true;
            }
        };
        raw.drain(..at);
        Ok(is_over)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_in_pieces_is_put_together_wherever_it_is_cut() {
        let whole = b"5\r\nab\ncd\r\n1\r\n\n\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n";
        for cut in 0..whole.len() {
            let (mut pieces, mut text, mut raw) = (Pieces::default(), Vec::new(), whole[..cut].to_vec());
            let early = pieces.take(&mut raw, &mut text).expect("reads");
            raw.extend_from_slice(&whole[cut..]);
            assert!(early || pieces.take(&mut raw, &mut text).expect("reads"), "{cut}");
            assert_eq!(text, b"ab\ncd\n0123456789abcdef", "{cut}");
        }
    }

    #[test]
    fn what_comes_twice_or_too_early_is_seen() {
        let mut seen = Seen::new();
        let event =
            |seq: u64| format!(r#"{{"seq":{seq},"time_ms":90,"changes":[{{"key":"a","op":"put"}}]}}"#);
        seen.take(r#"{"seq":4}"#, 100);
        for seq in [5, 6, 6, 8] {
            seen.take(&event(seq), 100);
        }
        seen.take(r#"{"seq":9}"#, 100);
        assert_eq!((seen.since, seen.upto, seen.events), (Some(4), 9, 4));
        assert_eq!((seen.misplaced, seen.skipped, seen.odd, seen.late_ms.max()), (1, 1, 0, 10));
        seen.take(r#"{"error":{"type":"compacted"}}"#, 100);
        assert!(seen.end.is_some());
    }
}
