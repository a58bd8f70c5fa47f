//! Reading all records when the log is opened.

use bytes::Bytes;
use lumen_engine::coding::Decoder;

use super::entries::Entries;
use super::{BASE, BOOT, ENTRY, NODE, PURGE, TRUNCATE, VOTE};
use crate::codec;
use crate::types::{LogId, Vote};

/// What the records say, one after the other.
#[derive(Default)]
pub(super) struct Replay {
    /// The vote that was saved last.
    pub vote: Option<Vote>,
    /// One more than the last index known to be committed.
    pub committed: u64,
    pub purged: Option<LogId>,
    pub boot: u64,
    pub base: u64,
    pub node: Option<u64>,
    pub last: Option<LogId>,
    pub entries: Entries,
}

impl Replay {
    /// Takes a record of `group`; `tail_max` bytes of entries stay in memory. Errors: what is wrong with it.
    pub(super) fn record(
        &mut self,
        number: u64,
        group: u32,
        payload: &[u8],
        tail_max: usize,
    ) -> Result<(), String> {
        let mut decoder = Decoder::new(payload);
        let mut head = || Some((decoder.u8()?, decoder.u32()?));
        let (kind, of) = head().ok_or("a record without a head")?;
        if of != group {
            return Err(format!("a record of group {of}"));
        }
        match kind {
            ENTRY => return self.entry(number, payload, decoder, tail_max),
            VOTE => self.vote = Some(codec::read_vote(&mut decoder).ok_or("a malformed vote")?),
            TRUNCATE => {
                self.last = codec::read_maybe(&mut decoder).ok_or("a malformed truncation")?;
                self.entries.truncate(self.last.map_or(0, |last| last.index + 1));
            }
            PURGE => {
                let upto = codec::read_log_id(&mut decoder).ok_or("a malformed purge")?;
                self.purged = self.purged.max(Some(upto));
                self.entries.purge(upto.index);
                self.last = self.last.filter(|last| last.index > upto.index).or(Some(upto));
            }
            BOOT => self.boot = decoder.u64().ok_or("a malformed boot")?,
            NODE => self.node = Some(decoder.u64().ok_or("a malformed number of a node")?),
            BASE => self.base = decoder.u64().ok_or("a malformed base")?,
            other => return Err(format!("a record of unknown kind {other}")),
        }
        decoder.is_empty().then_some(()).ok_or_else(|| "bytes after the end of a record".into())
    }

    fn entry(
        &mut self,
        number: u64,
        payload: &[u8],
        mut decoder: Decoder<'_>,
        tail_max: usize,
    ) -> Result<(), String> {
        let committed = decoder.u64().ok_or("an entry without a head")?;
        let entry = codec::read_entry(&Bytes::copy_from_slice(&payload[decoder.position()..]));
        let entry = entry.ok_or("a malformed entry")?;
        let index = entry.log_id.index;
        // Before the first entry some may be missing: those of a segment that went, by a purge that is noted further on. Who
        // opens the log asks at the end whether it is.
        let follows =
            |last: &LogId| index == last.index + 1 || (self.entries.is_empty() && index > last.index);
        if let Some(last) = self.last.filter(|last| !follows(last)) {
            return Err(format!("entry {index} follows entry {}", last.index));
        }
        self.committed = self.committed.max(committed);
        self.last = Some(entry.log_id);
        self.entries.push(entry, number);
        self.entries.trim(tail_max, Some(index));
        Ok(())
    }
}
