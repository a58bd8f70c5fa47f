//! Raft's messages in and out: gRPC on the address that nodes have for one another.
//!
//! ```text
//! /lumen.Peer/Hello    who are you?                        empty in, the answering node's identity in the headers
//! /lumen.Peer/Call     one request, one answer             bytes in, bytes out, as lumen-raft makes and reads them
//! /lumen.Peer/Append   entries of the log, in order        a stream of bytes in, a stream of bytes out
//! ```
//!
//! Every request says in its headers who sends it, to whom, and of which cluster; one that is not for this node, or of
//! another cluster, is refused with the reason in words.

pub(crate) mod client;
pub(crate) mod server;
pub(crate) mod tls;

use bytes::{Buf, BufMut, Bytes};
use lumen_raft::Identity;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

/// The version of what nodes say to one another; nodes of different ones do not talk.
pub(crate) const PROTOCOL: u64 = 1;
/// Bytes of a message, at most: a batch of documents in one entry, and some room.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

const HELLO: &str = "/lumen.Peer/Hello";
const CALL: &str = "/lumen.Peer/Call";
const APPEND: &str = "/lumen.Peer/Append";

/// Bytes as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(bytes.copy_to_bytes(bytes.remaining())))
    }
}

/// What every message says of its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The cluster's name.
    pub(crate) name: String,
    /// Who sends it.
    pub(crate) from: Identity,
    /// Where clients reach the sender.
    pub(crate) url: String,
    /// The sender's version of the program.
    pub(crate) version: String,
}

impl Hello {
    fn put(&self, to: Option<u64>, headers: &mut MetadataMap) {
        let mut set = |key: &'static str, value: String| {
            if let Ok(value) = value.parse() {
                headers.insert(key, value);
            }
        };
        set("lumen-protocol", PROTOCOL.to_string());
        set("lumen-version", self.version.clone());
        set("lumen-name", hex(self.name.as_bytes()));
        set("lumen-url", hex(self.url.as_bytes()));
        set("lumen-from", self.from.id.to_string());
        set("lumen-store", hex(&self.from.store));
        if let Some(cluster) = &self.from.cluster {
            set("lumen-cluster", hex(cluster));
        }
        if let Some(to) = to {
            set("lumen-to", to.to_string());
        }
    }

    /// Reads it, and to whom the message is; the error says what is missing.
    fn read(headers: &MetadataMap) -> Result<(Hello, Option<u64>), Status> {
        let text = |key: &str| headers.get(key).and_then(|value| value.to_str().ok());
        let bad = |key: &str| Status::invalid_argument(format!("the header {key} is missing or malformed"));
        let protocol = text("lumen-protocol").ok_or_else(|| bad("lumen-protocol"))?;
        if protocol != PROTOCOL.to_string() {
            let reason = format!("nodes talk version {PROTOCOL} here, not {protocol}");
            return Err(Status::failed_precondition(reason));
        }
        let number = |key: &str| text(key).and_then(|value| value.parse().ok()).ok_or_else(|| bad(key));
        let id = |key: &str| text(key).and_then(unhex).and_then(|bytes| bytes.try_into().ok());
        let words = |key: &str| text(key).and_then(unhex).and_then(|bytes| String::from_utf8(bytes).ok());
        let hello = Hello {
            name: words("lumen-name").ok_or_else(|| bad("lumen-name"))?,
            url: words("lumen-url").unwrap_or_default(),
            from: Identity {
                id: number("lumen-from")?,
                store: id("lumen-store").ok_or_else(|| bad("lumen-store"))?,
                cluster: id("lumen-cluster"),
            },
            version: text("lumen-version").unwrap_or_default().to_string(),
        };
        let to = text("lumen-to").map(|_| number("lumen-to")).transpose()?;
        Ok((hello, to))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// Whether a failed call never reached the other node.
fn was_not_sent(status: &Status) -> bool {
    use std::error::Error as _;
    if status.code() != Code::Unavailable {
        return false;
    }
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
            return matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable);
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_comes_back_and_other_versions_do_not_talk() {
        let hello = Hello {
            name: "bücher".into(),
            url: "http://[::1]:7700".into(),
            from: Identity { id: 1 << 60, store: [0xab; 16], cluster: Some([7; 16]) },
            version: "1.2.3".into(),
        };
        let mut headers = MetadataMap::new();
        hello.put(Some(3), &mut headers);
        assert_eq!(Hello::read(&headers).unwrap(), (hello, Some(3)));
        headers.insert("lumen-store", "abc".parse().unwrap());
        assert_eq!(Hello::read(&headers).unwrap_err().code(), Code::InvalidArgument);
        headers.insert("lumen-protocol", "2".parse().unwrap());
        let refused = Hello::read(&headers).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("version 1 here, not 2"));
    }
}
