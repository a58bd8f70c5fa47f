//! One connection of HTTP/1.1, driven by whoever waits for its answers.
//!
//! hyper's connection is usually a task of its own; then each exchange wakes two tasks, on two threads at worst, which is
//! time that would be measured as the server's. Here the task that asks polls the connection itself.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::target::Fault;
use crate::body::Body;

/// A connection that is open, or was.
pub(super) struct Link {
    sender: SendRequest<Body>,
    connection: Connection<TokioIo<TcpStream>, Body>,
    is_closed: bool,
}

/// An answer.
pub(super) struct Reply {
    /// Its status.
    pub(super) status: u16,
    /// Its headers.
    pub(super) headers: HeaderMap,
    /// Its whole body.
    pub(super) body: Bytes,
}

impl Link {
    /// Connects to `host:port`.
    pub(super) async fn open(authority: &str) -> Result<Link, Fault> {
        let failed = |error: std::io::Error| Fault::unreachable(format!("no connection: {}", error.kind()));
        let stream = TcpStream::connect(authority).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        Ok(Link { sender, connection, is_closed: false })
    }

    fn drive(&mut self, context: &mut Context<'_>) {
        // A connection that has ended must not be polled again.
        if !self.is_closed && Pin::new(&mut self.connection).poll(context).is_ready() {
            self.is_closed = true;
        }
    }

    /// Waits until the last exchange is over; whether there can be another one.
    pub(super) async fn is_ready(&mut self) -> bool {
        poll_fn(|context| {
            self.drive(context);
            match self.sender.poll_ready(context) {
                _ if self.is_closed => Poll::Ready(false),
                Poll::Ready(ready) => Poll::Ready(ready.is_ok()),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Sends a request and reads the whole answer.
    pub(super) async fn exchange(&mut self, request: Request<Body>) -> Result<Reply, Fault> {
        let mut response = pin!(self.sender.send_request(request));
        let response = poll_fn(|context| {
            self.drive(context);
            match response.as_mut().poll(context) {
                Poll::Pending if self.is_closed => Poll::Ready(Err(Fault::new("connection closed"))),
                other => other.map_err(broken),
            }
        })
        .await?;
        let (parts, body) = response.into_parts();
        let body = self.read(body).await?;
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    async fn read(&mut self, mut body: Incoming) -> Result<Bytes, Fault> {
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while !body.is_end_stream() {
            let frame = poll_fn(|context| {
                // The first poll asks for more, the connection brings it, the second takes it.
                match Pin::new(&mut body).poll_frame(context) {
                    Poll::Pending => self.drive(context),
                    ready => return ready,
                }
                Pin::new(&mut body).poll_frame(context)
            });
            match frame.await {
                None => break,
                Some(Err(error)) => return Err(broken(error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if first.is_empty() => first = data,
                    Ok(data) => {
                        if rest.is_empty() {
                            rest.extend_from_slice(&first);
                        }
                        rest.extend_from_slice(&data);
                    }
                    Err(_) => {}
                },
            }
        }
        Ok(if rest.is_empty() { first } else { rest.freeze() })
    }
}

/// An error of hyper's by its kind: texts with addresses and numbers would be counted apart.
fn broken(error: hyper::Error) -> Fault {
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<std::io::Error>());
    Fault::new(match source {
        Some(source) => format!("connection broken: {}", source.kind()),
        None if error.is_incomplete_message() || error.is_closed() || error.is_canceled() => {
            "connection closed".into()
        }
        None => format!("connection broken: {error}"),
    })
}
