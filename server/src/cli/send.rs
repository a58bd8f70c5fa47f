//! One request of an import: sends while it reads what the server has decided.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::ResponseFuture;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::timeout;

use super::chunks::Chunk;
use super::client::{ANSWER_TIME_MAX, Client};
use super::io_failure;
use super::report::Report;
use super::transfer::{Heard, Transfer};
use crate::error::Failure;

/// Pieces on the way to the socket.
const PIECES_MAX: usize = 2;

/// When a pipe gives nothing for this long the request ends, and what comes later goes with the next: the server takes
/// long pauses for a client that is gone.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What a source gives: chunks, an error, the end.
pub(crate) type Source = Receiver<std::io::Result<Chunk>>;

/// How a request ended.
#[derive(Default)]
pub(crate) struct Ended {
    /// Why it stopped, as the server says it: worth another try, maybe.
    pub(crate) stopped: Option<Failure>,
    /// The source has no more.
    pub(crate) source_ended: bool,
    /// Ctrl-C was pressed; what was under way is decided.
    pub(crate) interrupted: bool,
}

/// Sends what the transfer holds and what the source gives, until the source ends or pauses, or the server stops.
///
/// An error is final: the server is gone, the file cannot be read, the list of rejects cannot be written.
pub(crate) async fn request(
    client: &Client,
    path: &str,
    transfer: &mut Transfer,
    source: &mut Source,
    interrupt: &mut Signal,
    report: &mut Report,
) -> Result<Ended, Failure> {
    transfer.begin();
    let (sender, response) = client.stream(path, PIECES_MAX)?;
    let mut sender = Some(sender);
    let mut answer = Answer { response: Some(response), body: None, status: 0, text: Vec::new() };
    let mut ended = Ended::default();
    loop {
        tokio::select! {
            biased;
            _ = interrupt.recv() => {
                // The second time nobody waits for what is under way.
                if ended.interrupted {
                    return Ok(ended);
                }
                ended.interrupted = true;
                sender = None;
            }
            line = timeout(ANSWER_TIME_MAX, answer.line(client)) => {
                let line = line.map_err(|_| client.silent())??;
                match transfer.hear(&line, answer.status) {
                    Heard::Progress => report.moved(transfer),
                    Heard::Rejected(line) => report.rejected(&line)?,
                    Heard::End(stopped) => {
                        report.moved(transfer);
                        return Ok(Ended { stopped, ..ended });
                    }
                }
            }
            room = room(sender.clone()), if sender.is_some() && transfer.has_unsent() => match room {
                Some(room) => drop(room.send(transfer.next_piece())),
                // The connection is over; the answer says why.
                None => sender = None,
            },
            next = timeout(PAUSE_MAX, source.recv()), if sender.is_some() && !transfer.has_unsent() => match next {
                Err(_) => sender = None,
                Ok(None) => {
                    ended.source_ended = true;
                    sender = None;
                }
                Ok(Some(chunk)) => take(chunk, transfer, report)?,
            },
        }
    }
}

/// Room for a piece; none once nobody takes any.
async fn room(sender: Option<mpsc::Sender<Bytes>>) -> Option<mpsc::OwnedPermit<Bytes>> {
    sender?.reserve_owned().await.ok()
}

/// Takes what the source gives.
pub(crate) fn take(
    chunk: std::io::Result<Chunk>,
    transfer: &mut Transfer,
    report: &mut Report,
) -> Result<(), Failure> {
    let chunk = chunk.map_err(|error| io_failure("reading", &error))?;
    if chunk.too_long {
        report.too_long(chunk.first_line)?;
    }
    transfer.push(chunk);
    Ok(())
}

/// An answer that comes line by line.
struct Answer {
    response: Option<ResponseFuture>,
    body: Option<Incoming>,
    status: u16,
    text: Vec<u8>,
}

impl Answer {
    /// The next line; its last may lack its end. May be dropped while it waits and called again.
    async fn line(&mut self, client: &Client) -> Result<Vec<u8>, Failure> {
        loop {
            if let Some(newline) = memchr::memchr(b'\n', &self.text) {
                let rest = self.text.split_off(newline + 1);
                return Ok(std::mem::replace(&mut self.text, rest));
            }
            if let Some(response) = &mut self.response {
                let response = response.await;
                self.response = None;
                let response = response.map_err(|error| client.no_answer(&error))?;
                self.status = response.status().as_u16();
                self.body = Some(response.into_body());
            }
            let frame = match &mut self.body {
                Some(body) => body.frame().await,
                None => None,
            };
            match frame {
                Some(Ok(frame)) => self.text.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(client.no_answer(&error)),
                None if !self.text.is_empty() => return Ok(std::mem::take(&mut self.text)),
                None => return Err(client.broke_off()),
            }
        }
    }
}
