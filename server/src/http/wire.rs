//! The bytes of one connection, watched: how long either side may be silent, and the refusals that are hyper's own.
//!
//! ```text
//!          first byte               handed over               answered
//! idle ────────────────► head ────────────────► busy ────────────────► idle
//! 75 s                   10 s in all            until its answer is complete
//! ```
//!
//! hyper has one timer for the head, which runs while a connection idles too; so it is off and this one counts. A new
//! connection is as if its head had begun. HTTP/2 has pings for the same purpose: once its first request came, nothing is
//! counted here.
//!
//! hyper refuses what it cannot read (400, 414, 431) with an empty body before any handler is asked. Such an answer is
//! known by its lack of an `x-request-id`, which all of ours have, and is replaced by one with the error's JSON.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::body::{Body, BodyError};
use crate::error::{Failure, Kind};
use crate::http::reply::Reply;
use crate::node::Node;

/// A request's head has to be there within this time from its first byte.
pub(crate) const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// A connection may be idle for this long, and a client may take this long to read on. Longer than the 60 s after which
/// the usual proxies let go of a connection, so that they do and not we.
pub(crate) const IDLE_TIME_MAX: Duration = Duration::from_secs(75);

/// hyper's own refusals are shorter.
const REFUSAL_BYTES_MAX: usize = 256;

/// What the connection's service knows and its bytes do not tell.
#[derive(Default)]
pub(crate) struct Requests {
    /// Requests handed over so far.
    begun: AtomicU64,
    /// Requests whose answer is not complete.
    running: AtomicUsize,
    is_http2: AtomicBool,
}

/// A request that runs until this is dropped.
pub(crate) struct Running(Arc<Requests>);

impl Requests {
    /// A request is handed over.
    pub(crate) fn begin(self: &Arc<Requests>, version: http::Version) -> Running {
        if version == http::Version::HTTP_2 {
            self.is_http2.store(true, Ordering::Relaxed);
        }
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(self.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Running {
    /// The answer, whose request runs until the last of its body is handed to hyper: an import answers while it reads.
    pub(crate) fn until_sent(self, reply: Reply) -> Response<impl HttpBody<Data = Bytes, Error = BodyError>> {
        // The error stays as it is; the closure lives as long as the body, and holds this.
        let held = |body: Body| body.map_err(move |error| (error, &self).0);
        reply.map(held)
    }
}

/// A stream that ends when it was silent for too long.
pub(crate) struct Watched<T> {
    stream: T,
    node: Arc<Node>,
    requests: Arc<Requests>,
    /// Requests that had begun when it was looked last.
    seen: u64,
    /// When the head that is being read began.
    head_since: Option<Instant>,
    /// Since when there is nothing to read; none while there is, or a request runs.
    idle_since: Option<Instant>,
    /// Since when the client reads nothing.
    stuck_since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// What is written in place of a refusal, and how much of it is.
    replacement: Option<(Vec<u8>, usize)>,
}

impl<T> Watched<T> {
    /// Watches a connection that is new.
    pub(crate) fn new(stream: T, node: Arc<Node>, requests: Arc<Requests>) -> Watched<T> {
        let now = Instant::now();
        Watched {
            stream,
            node,
            requests,
            seen: 0,
            head_since: Some(now),
            idle_since: None,
            stuck_since: None,
            timer: Box::pin(sleep_until(now + HEAD_TIME_MAX)),
            replacement: None,
        }
    }

    /// When the client has been silent for too long; none while a handler has a request.
    fn deadline(&mut self) -> Option<Instant> {
        let begun = self.requests.begun.load(Ordering::Relaxed);
        let runs = self.requests.running.load(Ordering::Relaxed) > 0;
        if runs || begun != self.seen {
            self.seen = begun;
            self.head_since = None;
            self.idle_since = None;
        }
        if runs || self.requests.is_http2.load(Ordering::Relaxed) {
            return None;
        }
        Some(match self.head_since {
            Some(since) => since + HEAD_TIME_MAX,
            None => *self.idle_since.get_or_insert_with(Instant::now) + IDLE_TIME_MAX,
        })
    }

    /// Pending until the deadline, then an error.
    fn until(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<io::Error> {
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(context).map(|()| io::ErrorKind::TimedOut.into())
    }

    /// Takes note of a write, and lets none wait for ever.
    fn wrote<R>(&mut self, written: Poll<io::Result<R>>, context: &mut Context<'_>) -> Poll<io::Result<R>> {
        if written.is_ready() || self.requests.is_http2.load(Ordering::Relaxed) {
            self.stuck_since = None;
            return written;
        }
        let since = *self.stuck_since.get_or_insert_with(Instant::now);
        self.until(since + IDLE_TIME_MAX, context).map(Err)
    }

    /// Our answer in place of hyper's refusal, if these bytes are one.
    fn replace(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if bytes.len() > REFUSAL_BYTES_MAX
            || !bytes.starts_with(b"HTTP/1.1 4")
            || !bytes.ends_with(b"\r\n\r\n")
            || memchr::memmem::find(bytes, b"x-request-id").is_some()
        {
            return None;
        }
        let kind = match &bytes[9..12] {
            b"414" => Kind::UriTooLong,
            b"431" => Kind::HeadersTooLarge,
            _ => Kind::BadRequest,
        };
        let why = match kind {
            Kind::UriTooLong => "the request's path and query, percent-encoded, are over 65,534 bytes",
            Kind::HeadersTooLarge => "the request's headers are larger than any that are taken",
            _ => "the request cannot be read as HTTP",
        };
        let request_id = self.node.next_request_id();
        let body =
            serde_json::json!({ "error": Failure::new(kind, why).to_json(Some(&request_id)) }).to_string();
        let status = kind.status();
        let reason = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("");
        self.node.metrics.answered("other", "none", status, Duration::ZERO);
        let text = format!(
            "HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\nx-request-id: {request_id}\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Some(text.into_bytes())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        match (this.deadline(), read) {
            (None, read) => read,
            (Some(_), Poll::Ready(result)) => {
                if buffer.filled().len() > before {
                    this.head_since.get_or_insert_with(Instant::now);
                }
                Poll::Ready(result)
            }
            (Some(deadline), Poll::Pending) => this.until(deadline, context).map(Err),
        }
    }
}

impl<T: AsyncWrite + Unpin> Watched<T> {
    /// Writes a replacement to its end; then the `len` bytes that it stands for count as written.
    fn poll_replacement(&mut self, context: &mut Context<'_>, len: usize) -> Poll<io::Result<usize>> {
        while let Some((text, written)) = &mut self.replacement {
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, &text[*written..]))?;
            *written += count;
            if *written == text.len() {
                self.replacement = None;
            } else if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        Poll::Ready(Ok(len))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.replacement.is_none() {
            this.replacement = this.replace(bytes).map(|text| (text, 0));
        }
        let written = match this.replacement {
            Some(_) => this.poll_replacement(context, bytes.len()),
            None => Pin::new(&mut this.stream).poll_write(context, bytes),
        };
        this.wrote(written, context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A refusal is a head and nothing else.
        if let [head] = slices {
            return self.poll_write(context, head);
        }
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.wrote(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(context))?;
        // hyper reads no more if a read found nothing while the handler ran: the time of idling has to begin here. That it
        // is over is then said by the read.
        if let Some(deadline) = this.deadline() {
            let _ = this.until(deadline, context);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::http::connection;
    use hyper_util::server::graceful::GracefulShutdown;
    use lumen::{Database, Options};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    const REQUEST: &[u8] = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";

    /// The client's end of a connection, and its service. The clock stands still unless everybody waits for it.
    fn connect(buffer_bytes: usize) -> ((tempfile::TempDir, GracefulShutdown), DuplexStream, JoinHandle<()>) {
        let folder = tempfile::tempdir().unwrap();
        let db = Database::open(folder.path(), Options::default()).unwrap();
        let limits = Limits::small(Duration::from_secs(1));
        let (client, stream) = duplex(buffer_bytes);
        let node = Arc::new(Node::new(crate::store::Store::alone(db), limits, None));
        // A shutdown begins when this is dropped.
        let graceful = GracefulShutdown::new();
        let service = tokio::spawn(connection(node, stream, graceful.watcher()));
        ((folder, graceful), client, service)
    }

    async fn ask(client: &mut DuplexStream) {
        client.write_all(REQUEST).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            assert!(client.read_buf(&mut answer).await.unwrap() > 0, "the connection is closed");
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }

    /// Whole seconds until the connection closes without another word.
    async fn closes_after(client: &mut DuplexStream) -> u64 {
        let started = Instant::now();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        started.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_kept_and_half_a_head_is_not() {
        let (_folder, mut client, _) = connect(64 << 10);
        for _ in 0..3 {
            ask(&mut client).await;
            tokio::time::sleep(IDLE_TIME_MAX - Duration::from_secs(1)).await;
        }
        ask(&mut client).await;
        assert_eq!(closes_after(&mut client).await, IDLE_TIME_MAX.as_secs());

        let (_folder, mut client, _) = connect(64 << 10);
        ask(&mut client).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        // However steadily it drips, a head has its ten seconds.
        for byte in &REQUEST[..3] {
            client.write_all(&[*byte]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        assert_eq!(closes_after(&mut client).await, HEAD_TIME_MAX.as_secs() - 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_never_says_anything_is_closed() {
        let (_folder, mut client, _) = connect(64 << 10);
        assert_eq!(closes_after(&mut client).await, HEAD_TIME_MAX.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_come_for_long_while_its_answer_goes_out() {
        let (_folder, mut client, _) = connect(64 << 10);
        let create = r#"{"fields":{"n":{"type":"i64"}}}"#;
        let head = "HTTP/1.1\r\nhost: x\r\n";
        let put = format!("PUT /collections/c {head}content-length: {}\r\n\r\n{create}", create.len());
        client.write_all(put.as_bytes()).await.unwrap();
        let import = format!(
            "POST /collections/c/import?progress=true {head}transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        );
        client.write_all(import.as_bytes()).await.unwrap();
        let line = "{\"id\":\"a\",\"n\":1}\n";
        // Pauses shorter than the request timeout, together much longer than a head may take.
        for _ in 0..4 * HEAD_TIME_MAX.as_secs() {
            client.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(900)).await;
        }
        client.write_all(b"0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains(r#""received":40"#) && answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_its_answer_is_let_go() {
        let (_folder, mut client, service) = connect(64);
        client.write_all(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let started = Instant::now();
        service.await.unwrap();
        assert_eq!(started.elapsed().as_secs(), IDLE_TIME_MAX.as_secs());
    }
}
