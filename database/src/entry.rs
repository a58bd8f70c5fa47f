//! What one entry of a log carries: the time at which it was proposed, and writes, each with the request that it answers.
//!
//! ```text
//! │ 1: u8, version │ time: u64 LE, ms since 1970 │ count: varint │ { request │ write: slice } … │
//! request:  │ 0 │ none
//!           │ 1 │ node: varint │ boot: varint │ number: varint │ below: varint │      of a node (see `sessions`)
//!           │ 2 │ key: 16 │                                                          of a client: hash of its Idempotency-Key
//! ```
//!
//! A standalone database's journal has one write in an entry; a replicated log has those of many clients in one, since each
//! entry costs the same there. Each write gets a sequence number of its own in either.

use lumen_engine::coding::{Decoder, put_slice, put_varint};

use crate::catalog::Catalog;
use crate::write::{Part, Prepared, Write};

const VERSION: u8 = 1;
/// The least bytes of a write with its request.
const WRITE_BYTES_MIN: usize = 3;
/// More than what is before a write mostly takes.
const HEAD_BYTES: usize = 48;

/// Which request a write answers, so that one that comes twice takes effect once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Request {
    /// Nobody asks twice.
    #[default]
    None,
    /// A node asks until it has an answer.
    Node(NodeRequest),
    /// A client named it: the hash of the name.
    Key([u8; 16]),
}

/// A request of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRequest {
    /// The node.
    pub node: u64,
    /// Which life of the node; later ones are larger.
    pub boot: u64,
    /// Counts the node's requests in that life, from 1.
    pub number: u64,
    /// The node has an answer to all requests before this one, and will not ask for it again.
    pub below: u64,
}

/// One write of an entry.
#[derive(Debug)]
pub struct Proposal {
    /// Whose.
    pub request: Request,
    /// What.
    pub prepared: Prepared,
}

/// An entry, read.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its index in its log.
    pub index: u64,
    /// Milliseconds since 1970, by the clock of who proposed it.
    pub time: u64,
    pub proposals: Vec<Proposal>,
}

/// Encodes an entry of these writes, each with its request, proposed at `time` (milliseconds since 1970).
pub fn encode(time: u64, writes: &[(Request, &[u8])]) -> Vec<u8> {
    let bytes: usize = writes.iter().map(|(_, write)| write.len() + HEAD_BYTES).sum();
    let mut out = Vec::with_capacity(HEAD_BYTES + bytes);
    put_head(&mut out, time, writes.len());
    for (request, write) in writes {
        put_request(&mut out, request);
        put_slice(&mut out, write);
    }
    out
}

/// What an entry of one write begins with; the write's own bytes follow.
pub(crate) fn head_of_one(time: u64, proposal: &Proposal) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES);
    put_head(&mut out, time, 1);
    put_request(&mut out, &proposal.request);
    put_varint(&mut out, proposal.prepared.payload.len() as u64);
    out
}

fn put_head(out: &mut Vec<u8>, time: u64, count: usize) {
    out.push(VERSION);
    out.extend_from_slice(&time.to_le_bytes());
    put_varint(out, count as u64);
}

/// Appends a request.
pub fn put_request(out: &mut Vec<u8>, request: &Request) {
    match request {
        Request::None => out.push(0),
        Request::Node(NodeRequest { node, boot, number, below }) => {
            out.push(1);
            [*node, *boot, *number, *below].into_iter().for_each(|part| put_varint(out, part));
        }
        Request::Key(key) => {
            out.push(2);
            out.extend_from_slice(key);
        }
    }
}

/// Reads a request.
pub fn read_request(decoder: &mut Decoder<'_>) -> Option<Request> {
    Some(match decoder.u8()? {
        0 => Request::None,
        1 => Request::Node(NodeRequest {
            node: decoder.varint()?,
            boot: decoder.varint()?,
            number: decoder.varint()?,
            below: decoder.varint()?,
        }),
        2 => Request::Key(decoder.take(16)?.try_into().ok()?),
        _ => return None,
    })
}

impl Entry {
    /// Reads an entry, and prepares its writes again; `None` when it is malformed or of a version that is not known here.
    pub(crate) fn decode(catalog: &Catalog, index: u64, payload: &[u8]) -> Option<Entry> {
        Entry::decode_with(catalog, index, payload, Vec::new())
    }

    /// The same, but for writes that are there as they were prepared, by their place.
    pub(crate) fn decode_with(
        catalog: &Catalog,
        index: u64,
        payload: &[u8],
        kept: Vec<Option<Prepared>>,
    ) -> Option<Entry> {
        let mut kept = kept.into_iter();
        let (time, writes) = read(payload)?;
        let mut proposals = Vec::with_capacity(writes.len());
        for (request, write) in writes {
            let mut prepared = match kept.next().flatten() {
                Some(prepared) => prepared,
                None => Prepared::decode(catalog, write)?,
            };
            if matches!(request, Request::Key(_)) {
                prepared.payload.extend_from_slice(write); // to tell it from another under the same key
            }
            proposals.push(Proposal { request, prepared });
        }
        Some(Entry { index, time, proposals })
    }
}

/// The time of an entry and its writes, as they are encoded; `None` when it is malformed or of a version not known here.
pub(crate) fn read(payload: &[u8]) -> Option<(u64, Vec<(Request, &[u8])>)> {
    let mut decoder = Decoder::new(payload);
    if decoder.u8()? != VERSION {
        return None;
    }
    let time = decoder.u64()?;
    let count = decoder.length()?;
    let mut writes = Vec::with_capacity(count.min(decoder.remaining() / WRITE_BYTES_MIN));
    for _ in 0..count {
        writes.push((read_request(&mut decoder)?, decoder.slice()?));
    }
    decoder.is_empty().then_some((time, writes))
}

/// A log entry in words, for people.
pub fn describe(payload: &[u8]) -> String {
    let Some(entry) = Entry::decode(&Catalog::default(), 0, payload) else {
        return "malformed entry".into();
    };
    let parts: Vec<Part> = entry.proposals.into_iter().flat_map(|one| one.prepared.parts).collect();
    let shown = parts.iter().take(3).map(|part| match &part.write {
        Write::CreateCollection { name, .. } => format!("create {name}"),
        Write::DropCollection { name } => format!("drop {name}"),
        Write::Put { collection, id, source, .. } => format!("put {collection}/{id} {} bytes", source.len()),
        Write::Delete { collection, id, .. } => format!("delete {collection}/{id}"),
        Write::Keys(write) => write.describe(),
        Write::Read(target) => target.describe(),
        Write::Batch(_) | Write::Transaction(_) => "of several parts".into(),
    });
    let more = parts.len().saturating_sub(3);
    let tail = if more > 0 { format!("; {more} more") } else { String::new() };
    format!("{}{tail}", shown.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyLimits;
    use crate::mapping::Mapping;

    #[test]
    fn entries_come_back_and_cut_ones_do_not() {
        let mut catalog = Catalog::default();
        catalog.insert(1, "c", Mapping::default());
        let prepared = |name: &str| {
            Prepared::new(
                &catalog,
                &KeyLimits::NONE,
                Write::CreateCollection { name: name.into(), mapping: Mapping::default() },
            )
            .expect("good")
        };
        let node = Request::Node(NodeRequest { node: 3, boot: 1 << 40, number: 300, below: 299 });
        let requests = [Request::None, node, Request::Key([7; 16])];
        let write = prepared("d");
        let writes = requests.map(|request| (request, &write.payload[..]));
        let bytes = encode(1_700_000_000_000, &writes);
        let back = Entry::decode(&catalog, 7, &bytes).expect("decodes");
        assert_eq!((back.index, back.time), (7, 1_700_000_000_000));
        assert_eq!(back.proposals.iter().map(|proposal| proposal.request).collect::<Vec<_>>(), requests);
        (0..bytes.len())
            .for_each(|len| assert!(Entry::decode(&catalog, 7, &bytes[..len]).is_none(), "{len}"));
        // One write alone is the same in two pieces.
        let one = Proposal { request: node, prepared: prepared("e") };
        let pieces = [&head_of_one(5, &one)[..], &one.prepared.payload].concat();
        assert_eq!(pieces, encode(5, &[(node, &one.prepared.payload)]));
    }
}
