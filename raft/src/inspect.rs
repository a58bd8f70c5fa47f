//! The replicated log of a node that does not run: as text, and checked.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lumen_engine::coding::Decoder;
use lumen_engine::vfs::Vfs;
use lumen_engine::vfs::overlay::Overlay;
use openraft::EntryPayload;

use crate::codec;
use crate::error::Result;
use crate::log::{self, LogSetup, LogStore};
use crate::types::LogId;

/// How the names of the log's files end.
pub const ENDING: &str = ".raft";
/// The folder they are in, in the data folder.
pub const FOLDER: &str = "raft";

/// Writes a segment of the log as text; damage is shown where it is met.
pub fn segment(name: &str, bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
    lumen_engine::inspect::log_segment(name, bytes, out, &|payload| {
        describe(payload).unwrap_or_else(|| "malformed record".into())
    })
}

fn describe(payload: &[u8]) -> Option<String> {
    let id =
        |id: LogId| format!("{} of term {} by node {}", id.index, id.leader_id.term, id.leader_id.node_id);
    let mut decoder = Decoder::new(payload);
    let (kind, group) = (decoder.u8()?, decoder.u32()?);
    let text = match kind {
        log::ENTRY => {
            let committed = decoder.u64()?;
            let entry = codec::read_entry(&Bytes::copy_from_slice(&payload[decoder.position()..]))?;
            let what = match &entry.payload {
                EntryPayload::Blank => "blank".into(),
                EntryPayload::Normal(proposed) => lumen::entry::describe(&proposed.0),
                EntryPayload::Membership(membership) => format!("members {membership}"),
            };
            return Some(format!("group {group}, {committed} committed, entry {}: {what}", id(entry.log_id)));
        }
        log::VOTE => {
            let vote = codec::read_vote(&mut decoder)?;
            let is_leader = if vote.committed { ", which leads" } else { "" };
            format!("vote for node {} in term {}{is_leader}", vote.leader_id.node_id, vote.leader_id.term)
        }
        log::TRUNCATE => match codec::read_maybe(&mut decoder)? {
            Some(last) => format!("void after entry {}", id(last)),
            None => "all entries are void".into(),
        },
        log::PURGE => format!("gone up to entry {}", id(codec::read_log_id(&mut decoder)?)),
        log::BOOT => format!("life {} begins", decoder.u64()?),
        log::BASE => format!("begins after {} writes", decoder.u64()?),
        log::NODE => format!("of node {}", decoder.u64()?),
        _ => return None,
    };
    decoder.is_empty().then(|| format!("group {group}, {text}"))
}

/// Reads the log of the node whose data is in a folder, changing nothing, and answers how many entries it has; `None` when
/// there is no log.
///
/// Errors: [`Error::Corrupt`](crate::Error::Corrupt) for damage.
pub fn check(dir: &Path, vfs: Arc<dyn Vfs>) -> Result<Option<u64>> {
    let folder = dir.join(FOLDER);
    if vfs.list(&folder).map_or(true, |names| names.is_empty()) {
        return Ok(None);
    }
    let setup = LogSetup {
        vfs: Arc::new(Overlay::new(vfs)),
        segment_bytes: 1 << 20,
        tail_bytes: 0,
        uuid: None,
        threaded: false,
        random: || 0,
        clock: || 0,
        base: 0,
        meters: Arc::default(),
    };
    let log = LogStore::open(&folder, setup)?;
    let (first, end) = log.entries();
    log.walk(first, end, &mut |_| Ok(()))?;
    Ok(Some(end - first))
}
