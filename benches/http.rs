//! A plain HTTP/1.1 client for load: it takes little of the processors, which it shares with the servers it measures.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes of an answer, at most.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// One connection, kept open from request to request.
pub struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

/// An answer, as long as the connection is not used again.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The status.
    pub status: u16,
    /// Status line and headers.
    pub head: &'a str,
    /// The body.
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// A header's value, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, answer: Vec::with_capacity(4096) })
    }

    /// Sends a request with headers, each with its line end, and waits for the answer.
    ///
    /// Errors: those of the connection, which is of no more use after one, and answers that are no HTTP.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> io::Result<Answer<'_>> {
        let length = body.len();
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n")
                .into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request).await?;
        self.answer.clear();
        let (head, whole) = loop {
            if let Some(ends) = ends(&self.answer) {
                break ends;
            }
            if self.answer.len() > ANSWER_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer does not end"));
            }
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let not_http = || io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP");
        let text = std::str::from_utf8(&self.answer[..head]).map_err(|_| not_http())?;
        let status = text.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(not_http)?;
        Ok(Answer { status, head: text, body: &self.answer[head..whole] })
    }
}

/// Where the head of an answer ends, and where its body, if all of it is there.
fn ends(answer: &[u8]) -> Option<(usize, usize)> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&answer[..head]).ok()?;
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let whole = head + length.map_or(Some(0), |length| length.parse::<usize>().ok())?;
    (answer.len() >= whole).then_some((head, whole))
}
