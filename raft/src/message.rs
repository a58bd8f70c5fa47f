//! What nodes say to one another, as bytes; whoever carries them needs to know none of it. The first byte of a request says
//! what it is; an answer belongs to its request. Integers, log ids, votes and entries are as in `codec`.
//!
//! ```text
//! append:    │ 1 │ group: u32 │ vote │ maybe prev │ maybe committed │ count: varint │ { entry: slice } … │
//!   answer:  │ 0 │ maybe last flushed │   │ 1 │ conflicting log id │   │ 2 │ higher vote │
//! vote:      │ 2 │ group: u32 │ vote │ maybe last │ transfer: u8 │       pre-vote: 3, the same
//!   answer:  │ vote │ granted: u8 │ maybe last │
//! transfer:  │ 4 │ group: u32 │ leader's vote │ to: u64 │ maybe last │
//!   answer:  │ 0 │ taken    │ 1 │ vote, expected │ actual │    │ 2 │ maybe log id, expected │ maybe actual │
//! write:     │ 8 │ group: u32 │ request, see lumen::entry │ write: slice │
//!   answer:  │ 0 │ seq: varint │ outcome: slice │    or an error
//! read:      │ 9 │ group: u32 │                                     at which entry may a read be served?
//!   answer:  │ 0 │ log id │    or an error
//! error:     │ 1 │ kind: u8 │ number: varint │ reason: slice │      kinds: 1 not the leader (number: one more than who is),
//!                                                                  2 no leader, 3 busy (ms to wait), 4 unknown, 5 stopped, 6 other
//! ```

use std::time::Duration;

use bytes::Bytes;
use lumen::{Ack, Outcome};
use lumen_engine::coding::{Decoder, put_slice, put_varint};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::codec;
use crate::error::{Error, Result};
use crate::types::{Entry, LogId, TypeConfig};

const APPEND: u8 = 1;
const VOTE: u8 = 2;
const PRE_VOTE: u8 = 3;
const TRANSFER: u8 = 4;
const WRITE: u8 = 8;
const READ: u8 = 9;

/// The least bytes of an entry behind its length.
const ENTRY_BYTES_MIN: usize = codec::LOG_ID_BYTES + 2;

/// A request, read.
pub(crate) enum Request {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    Transfer(TransferLeaderRequest<TypeConfig>),
    Write { request: lumen::Request, write: Bytes },
    Read,
}

fn head(kind: u8, group: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.push(kind);
    out.extend_from_slice(&group.to_le_bytes());
    out
}

pub(crate) fn append(group: u32, request: &AppendEntriesRequest<TypeConfig>) -> Bytes {
    let mut out = head(APPEND, group);
    out.reserve(request.entries.iter().map(|entry| codec::entry_len(entry) + 5).sum());
    codec::put_vote(&mut out, &request.vote);
    codec::put_maybe(&mut out, request.prev_log_id.as_ref());
    codec::put_maybe(&mut out, request.leader_commit.as_ref());
    put_varint(&mut out, request.entries.len() as u64);
    for entry in &request.entries {
        let (head, body) = (codec::entry_head(entry), codec::entry_body(entry));
        put_varint(&mut out, (head.len() + body.len()) as u64);
        out.extend_from_slice(&head);
        out.extend_from_slice(body);
    }
    out.into()
}

pub(crate) fn vote(group: u32, request: &VoteRequest<TypeConfig>, pre: bool) -> Bytes {
    let mut out = head(if pre { PRE_VOTE } else { VOTE }, group);
    codec::put_vote(&mut out, &request.vote);
    codec::put_maybe(&mut out, request.last_log_id.as_ref());
    out.push(u8::from(request.leadership_transfer));
    out.into()
}

pub(crate) fn transfer(group: u32, request: &TransferLeaderRequest<TypeConfig>) -> Bytes {
    let mut out = head(TRANSFER, group);
    codec::put_vote(&mut out, request.from_leader());
    out.extend_from_slice(&request.to_node_id().to_le_bytes());
    codec::put_maybe(&mut out, request.last_log_id());
    out.into()
}

/// Reads a request of a group; `None` when it is malformed, or of another group.
pub(crate) fn read(group: u32, bytes: &Bytes) -> Option<Request> {
    let mut decoder = Decoder::new(bytes);
    let kind = decoder.u8()?;
    if decoder.u32()? != group {
        return None;
    }
    let request = match kind {
        APPEND => Request::Append(read_append(bytes, &mut decoder)?),
        VOTE => Request::Vote(read_vote(&mut decoder)?),
        PRE_VOTE => Request::PreVote(read_vote(&mut decoder)?),
        TRANSFER => {
            let (from, to) = (codec::read_vote(&mut decoder)?, decoder.u64()?);
            Request::Transfer(TransferLeaderRequest::new(from, to, codec::read_maybe(&mut decoder)?))
        }
        WRITE => {
            let request = lumen::entry::read_request(&mut decoder)?;
            Request::Write { request, write: bytes.slice_ref(decoder.slice()?) }
        }
        READ => Request::Read,
        _ => return None,
    };
    decoder.is_empty().then_some(request)
}

pub(crate) fn write(group: u32, request: &lumen::Request, write: &[u8]) -> Bytes {
    let mut out = head(WRITE, group);
    lumen::entry::put_request(&mut out, request);
    put_slice(&mut out, write);
    out.into()
}

pub(crate) fn read_index(group: u32) -> Bytes {
    head(READ, group).into()
}

pub(crate) fn written(result: &Result<Ack>) -> Bytes {
    let mut out = Vec::with_capacity(32);
    match result {
        Ok(ack) => {
            out.push(0);
            put_varint(&mut out, ack.seq);
            put_slice(&mut out, &ack.outcome.encode());
        }
        Err(error) => put_error(&mut out, error),
    }
    out.into()
}

pub(crate) fn read_written(bytes: &Bytes) -> Option<Result<Ack>> {
    whole(bytes, |decoder| {
        Some(match decoder.u8()? {
            0 => Ok(Ack { seq: decoder.varint()?, outcome: Outcome::decode(decoder.slice()?)? }),
            1 => Err(read_error(decoder)?),
            _ => return None,
        })
    })
}

pub(crate) fn indexed(result: &Result<LogId>) -> Bytes {
    let mut out = Vec::with_capacity(32);
    match result {
        Ok(id) => {
            out.push(0);
            codec::put_log_id(&mut out, id);
        }
        Err(error) => put_error(&mut out, error),
    }
    out.into()
}

pub(crate) fn read_indexed(bytes: &Bytes) -> Option<Result<LogId>> {
    whole(bytes, |decoder| {
        Some(match decoder.u8()? {
            0 => Ok(codec::read_log_id(decoder)?),
            1 => Err(read_error(decoder)?),
            _ => return None,
        })
    })
}

fn put_error(out: &mut Vec<u8>, error: &Error) {
    let (kind, number, reason) = match error {
        Error::NotLeader { leader } => (1, leader.map_or(0, |id| id + 1), String::new()),
        Error::NoLeader { reason } => (2, 0, reason.clone()),
        Error::Busy { retry_after } => (3, retry_after.as_millis() as u64, String::new()),
        Error::Unknown { reason } => (4, 0, reason.clone()),
        Error::Stopped { reason } => (5, 0, reason.clone()),
        other => (6, 0, other.to_string()),
    };
    out.extend([1, kind]);
    put_varint(out, number);
    put_slice(out, reason.as_bytes());
}

fn read_error(decoder: &mut Decoder<'_>) -> Option<Error> {
    let (kind, number) = (decoder.u8()?, decoder.varint()?);
    let reason = std::str::from_utf8(decoder.slice()?).ok()?.to_owned();
    Some(match kind {
        1 => Error::NotLeader { leader: number.checked_sub(1) },
        2 => Error::NoLeader { reason },
        3 => Error::Busy { retry_after: Duration::from_millis(number) },
        4 => Error::Unknown { reason },
        5 => Error::Stopped { reason },
        6 => Error::Io { reason },
        _ => return None,
    })
}

fn read_append(bytes: &Bytes, decoder: &mut Decoder<'_>) -> Option<AppendEntriesRequest<TypeConfig>> {
    let vote = codec::read_vote(decoder)?;
    let (prev_log_id, leader_commit) = (codec::read_maybe(decoder)?, codec::read_maybe(decoder)?);
    let count = decoder.length()?;
    let mut entries: Vec<Entry> = Vec::with_capacity(count.min(decoder.remaining() / ENTRY_BYTES_MIN));
    for _ in 0..count {
        let len = decoder.length()?;
        let from = decoder.position();
        decoder.take(len)?;
        entries.push(codec::read_entry(&bytes.slice(from..from + len))?);
    }
    Some(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

fn read_vote(decoder: &mut Decoder<'_>) -> Option<VoteRequest<TypeConfig>> {
    let mut request = VoteRequest::new(codec::read_vote(decoder)?, codec::read_maybe(decoder)?);
    request.leadership_transfer = flag(decoder)?;
    Some(request)
}

fn flag(decoder: &mut Decoder<'_>) -> Option<bool> {
    match decoder.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// Reads all of an answer, or nothing.
fn whole<T>(bytes: &Bytes, read: impl FnOnce(&mut Decoder<'_>) -> Option<T>) -> Option<T> {
    let mut decoder = Decoder::new(bytes);
    let answer = read(&mut decoder)?;
    decoder.is_empty().then_some(answer)
}

pub(crate) fn appended(result: &StreamAppendResult<TypeConfig>) -> Bytes {
    let mut out = Vec::with_capacity(32);
    match result {
        Ok(flushed) => {
            out.push(0);
            codec::put_maybe(&mut out, flushed.as_ref());
        }
        Err(StreamAppendError::Conflict(id)) => {
            out.push(1);
            codec::put_log_id(&mut out, id);
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            out.push(2);
            codec::put_vote(&mut out, vote);
        }
    }
    out.into()
}

pub(crate) fn read_appended(bytes: &Bytes) -> Option<StreamAppendResult<TypeConfig>> {
    whole(bytes, |decoder| {
        Some(match decoder.u8()? {
            0 => Ok(codec::read_maybe(decoder)?),
            1 => Err(StreamAppendError::Conflict(codec::read_log_id(decoder)?)),
            2 => Err(StreamAppendError::HigherVote(codec::read_vote(decoder)?)),
            _ => return None,
        })
    })
}

pub(crate) fn voted(response: &VoteResponse<TypeConfig>) -> Bytes {
    let mut out = Vec::with_capacity(48);
    codec::put_vote(&mut out, &response.vote);
    out.push(u8::from(response.vote_granted));
    codec::put_maybe(&mut out, response.last_log_id.as_ref());
    out.into()
}

pub(crate) fn read_voted(bytes: &Bytes) -> Option<VoteResponse<TypeConfig>> {
    whole(bytes, |decoder| {
        let (vote, granted) = (codec::read_vote(decoder)?, flag(decoder)?);
        Some(VoteResponse::new(vote, codec::read_maybe(decoder)?, granted))
    })
}

pub(crate) fn transferred(response: &TransferLeaderResponse<TypeConfig>) -> Bytes {
    let mut out = Vec::with_capacity(48);
    match response {
        Ok(()) => out.push(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.push(1);
            codec::put_vote(&mut out, expected);
            codec::put_vote(&mut out, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.push(2);
            codec::put_maybe(&mut out, expected.as_ref());
            codec::put_maybe(&mut out, actual.as_ref());
        }
    }
    out.into()
}

pub(crate) fn read_transferred(bytes: &Bytes) -> Option<TransferLeaderResponse<TypeConfig>> {
    whole(bytes, |decoder| {
        Some(match decoder.u8()? {
            0 => Ok(()),
            1 => Err(TransferLeaderError::VoteChanged {
                expected: codec::read_vote(decoder)?,
                actual: codec::read_vote(decoder)?,
            }),
            2 => Err(TransferLeaderError::LogNotFlushed {
                expected: codec::read_maybe(decoder)?,
                actual: codec::read_maybe(decoder)?,
            }),
            _ => return None,
        })
    })
}
