//! How votes, log ids, entries and memberships are written, in the log and on the wire alike: an entry travels as the bytes
//! that the log holds. All integers are little-endian.
//!
//! ```text
//! log id:      │ term: u64 │ node: u64 │ index: u64 │           maybe a log id: │ 0 │ or │ 1 │ log id │
//! vote:        │ term: u64 │ node: u64 │ committed: u8 │
//! entry:       │ log id │ 0 │ blank    │ log id │ 1 │ writes, see lumen::entry │    │ log id │ 2 │ membership │
//! membership:  │ configs: varint │ { voters: varint │ id: varint … } … │
//!              │ nodes: varint │ { id: varint │ member } … │
//! member:      │ 1: u8 │ raft address: slice │ api url: slice │ cluster: 16 │ store: 16 │ joining: u8 │
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use lumen_engine::coding::{Decoder, put_slice, put_varint};
use openraft::EntryPayload;

use crate::types::{Entry, LeaderId, LogId, Member, Membership, Proposed, StoredMembership, Vote};

/// Bytes of a log id.
pub(crate) const LOG_ID_BYTES: usize = 24;
const MEMBER_VERSION: u8 = 1;

pub(crate) fn put_log_id(out: &mut Vec<u8>, id: &LogId) {
    for part in [id.leader_id.term, id.leader_id.node_id, id.index] {
        out.extend_from_slice(&part.to_le_bytes());
    }
}

/// None has the last index there could be, so that every entry has one after it.
pub(crate) fn read_log_id(decoder: &mut Decoder<'_>) -> Option<LogId> {
    let leader_id = LeaderId { term: decoder.u64()?, node_id: decoder.u64()? };
    let index = decoder.u64()?;
    (index < u64::MAX).then_some(LogId { leader_id, index })
}

pub(crate) fn put_maybe(out: &mut Vec<u8>, id: Option<&LogId>) {
    out.push(u8::from(id.is_some()));
    id.into_iter().for_each(|id| put_log_id(out, id));
}

pub(crate) fn read_maybe(decoder: &mut Decoder<'_>) -> Option<Option<LogId>> {
    if decoder.flag()? { read_log_id(decoder).map(Some) } else { Some(None) }
}

pub(crate) fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    out.extend_from_slice(&vote.leader_id.term.to_le_bytes());
    out.extend_from_slice(&vote.leader_id.node_id.to_le_bytes());
    out.push(u8::from(vote.committed));
}

pub(crate) fn read_vote(decoder: &mut Decoder<'_>) -> Option<Vote> {
    let leader_id = LeaderId { term: decoder.u64()?, node_id: decoder.u64()? };
    Some(Vote { leader_id, committed: decoder.flag()? })
}

pub(crate) fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    let configs = membership.get_joint_config();
    put_varint(out, configs.len() as u64);
    for voters in configs {
        put_varint(out, voters.len() as u64);
        voters.iter().for_each(|id| put_varint(out, *id));
    }
    put_varint(out, membership.nodes().count() as u64);
    for (id, member) in membership.nodes() {
        put_varint(out, *id);
        put_member(out, member);
    }
}

pub(crate) fn put_member(out: &mut Vec<u8>, member: &Member) {
    out.push(MEMBER_VERSION);
    put_slice(out, member.raft_addr.as_bytes());
    put_slice(out, member.api_url.as_bytes());
    out.extend_from_slice(&member.cluster);
    out.extend_from_slice(&member.store);
    out.push(u8::from(member.joining));
}

pub(crate) fn read_member(decoder: &mut Decoder<'_>) -> Option<Member> {
    if decoder.u8()? != MEMBER_VERSION {
        return None;
    }
    Some(Member {
        raft_addr: decoder.text()?.into(),
        api_url: decoder.text()?.into(),
        cluster: decoder.take(16)?.try_into().ok()?,
        store: decoder.take(16)?.try_into().ok()?,
        joining: decoder.flag()?,
    })
}

pub(crate) fn read_membership(decoder: &mut Decoder<'_>) -> Option<Membership> {
    let mut configs = Vec::new();
    for _ in 0..decoder.varint()? {
        let mut voters = BTreeSet::new();
        for _ in 0..decoder.varint()? {
            voters.insert(decoder.varint()?);
        }
        configs.push(voters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..decoder.varint()? {
        let id = decoder.varint()?;
        nodes.insert(id, read_member(decoder)?);
    }
    if configs.is_empty() && nodes.is_empty() {
        return Some(Membership::default());
    }
    Membership::new(configs, nodes).ok()
}

/// A membership with the entry that made it.
pub(crate) fn put_stored_membership(out: &mut Vec<u8>, stored: &StoredMembership) {
    put_maybe(out, stored.log_id().as_ref());
    put_membership(out, stored.membership());
}

pub(crate) fn read_stored_membership(decoder: &mut Decoder<'_>) -> Option<StoredMembership> {
    let id = read_maybe(decoder)?;
    Some(StoredMembership::new(id, read_membership(decoder)?))
}

/// What an entry begins with: its writes, if it has any, follow as they are.
pub(crate) fn entry_head(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(LOG_ID_BYTES + 1);
    put_log_id(&mut out, &entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => out.push(0),
        EntryPayload::Normal(_) => out.push(1),
        EntryPayload::Membership(membership) => {
            out.push(2);
            put_membership(&mut out, membership);
        }
    }
    out
}

/// The writes of an entry, empty if it has none.
pub(crate) fn entry_body(entry: &Entry) -> &[u8] {
    match &entry.payload {
        EntryPayload::Normal(proposed) => &proposed.0,
        _ => &[],
    }
}

/// Bytes that an entry takes.
pub(crate) fn entry_len(entry: &Entry) -> usize {
    let membership = match &entry.payload {
        EntryPayload::Membership(membership) => 128 * (1 + membership.nodes().count()),
        _ => 0,
    };
    LOG_ID_BYTES + 1 + entry_body(entry).len() + membership
}

/// Reads an entry, which shares the bytes.
pub(crate) fn read_entry(bytes: &Bytes) -> Option<Entry> {
    let mut decoder = Decoder::new(bytes);
    let log_id = read_log_id(&mut decoder)?;
    let payload = match decoder.u8()? {
        0 => EntryPayload::Blank,
        1 => {
            return Some(Entry {
                log_id,
                payload: EntryPayload::Normal(Proposed::of(bytes.slice(LOG_ID_BYTES + 1..))),
            });
        }
        2 => EntryPayload::Membership(read_membership(&mut decoder)?),
        _ => return None,
    };
    decoder.is_empty().then_some(Entry { log_id, payload })
}
