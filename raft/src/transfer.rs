//! Sending a snapshot: only the files that the receiver lacks, from where it stopped the last time.
//!
//! ```text
//! offer:     │ 5 │ group: u32 │ database: [16] │ manifest: slice │
//!   answer:  │ files: varint │ { name: slice │ length: varint │ has: varint } … │      what is missing, and how much of it is there
//! piece:     │ 6 │ group: u32 │ digest of the manifest: u64 │ name: slice │ offset: varint │ crc32: u32 │ bytes: slice │
//!   answer:  │ 0 │
//! install:   │ 7 │ group: u32 │ vote │ digest: u64 │
//!   answer:  │ vote │
//! ```
//!
//! What has come is kept in `staging` until it is installed or another database offers its files, so that a transfer
//! goes on after a lost connection or a restart of either side, also when the sender has flushed and merged meanwhile: files
//! never change, and no name is used twice. Everything is checked before it replaces anything.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lumen::Database;
use lumen_engine::coding::{Decoder, put_slice, put_varint};
use lumen_engine::vfs::{Mode, Vfs};
use openraft::alias;
use openraft::errors::StreamingError;
use openraft::network::RPCOption;
use openraft::raft::SnapshotResponse;

use crate::codec;
use crate::error::{Error, Result};
use crate::message::head;
use crate::network::Peer;
use crate::snapshot::SnapshotData;
use crate::types::{TypeConfig, Vote};

/// Bytes of a file that travel at once.
pub(crate) const PIECE_BYTES: usize = 256 << 10;
/// Bytes of a file after which what has come of it is synced: so little is on its way to the disk at a time that the syncs of the
/// log, of which writes wait, do not wait for much of it. Without this 99 of 100 writes took up to 217 ms beside a transfer,
/// instead of 4.
const SYNC_EVERY: u64 = 1 << 20;
/// Bytes of snapshots that are sent in a second, at most: a transfer leaves room for entries.
const BYTES_PER_SECOND: f64 = (128 << 20) as f64;

/// The note in the staging folder that says which database the files are of.
const ORIGIN: &str = ".origin";

const OFFER: u8 = 5;
const PIECE: u8 = 6;
const INSTALL: u8 = 7;

/// A request of a transfer, read.
pub(crate) enum Request {
    Offer { origin: [u8; 16], manifest: Bytes },
    Piece { digest: u64, name: String, offset: u64, bytes: Bytes },
    Install { vote: Vote, digest: u64 },
}

/// Reads a request of a transfer of a group; `None` when it is malformed or of another group.
pub(crate) fn read(group: u32, bytes: &Bytes) -> Option<Request> {
    let mut decoder = Decoder::new(bytes);
    let kind = decoder.u8()?;
    if decoder.u32()? != group {
        return None;
    }
    let slice = |decoder: &mut Decoder<'_>| {
        let slice = decoder.slice()?;
        Some(bytes.slice_ref(slice))
    };
    let request = match kind {
        OFFER => {
            Request::Offer { origin: decoder.take(16)?.try_into().ok()?, manifest: slice(&mut decoder)? }
        }
        PIECE => {
            let digest = decoder.u64()?;
            let name = decoder.text()?.to_owned();
            let (offset, crc) = (decoder.varint()?, decoder.u32()?);
            let bytes = slice(&mut decoder)?;
            if crc32fast::hash(&bytes) != crc {
                return None;
            }
            Request::Piece { digest, name, offset, bytes }
        }
        INSTALL => Request::Install { vote: codec::read_vote(&mut decoder)?, digest: decoder.u64()? },
        _ => return None,
    };
    decoder.is_empty().then_some(request)
}

/// The answer to an offer.
pub(crate) fn wanted_answer(wanted: &[Wanted]) -> Bytes {
    let mut out = Vec::new();
    put_varint(&mut out, wanted.len() as u64);
    for file in wanted {
        put_slice(&mut out, file.name.as_bytes());
        put_varint(&mut out, file.len);
        put_varint(&mut out, file.has);
    }
    out.into()
}

fn read_wanted(bytes: &Bytes) -> Option<Vec<Wanted>> {
    let mut decoder = Decoder::new(bytes);
    let mut wanted = Vec::new();
    for _ in 0..decoder.varint()? {
        let name = decoder.text()?.to_owned();
        wanted.push(Wanted { name, len: decoder.varint()?, has: decoder.varint()? });
    }
    decoder.is_empty().then_some(wanted)
}

/// Sends a snapshot that is held here, and has it installed.
pub(crate) async fn send(
    peer: &Peer,
    vote: Vote,
    snapshot: alias::SnapshotOf<TypeConfig, SnapshotData>,
    option: &RPCOption,
) -> std::result::Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
    let group = peer.group();
    let failed = |reason: String| {
        StreamingError::Network(openraft::errors::NetworkError::from_string(format!(
            "sending a snapshot: {reason}"
        )))
    };
    let SnapshotData::Held(held) = snapshot.snapshot else {
        return Err(failed("what was received is not sent on".into()));
    };
    let mut offer = head(OFFER, group);
    offer.extend_from_slice(&held.origin);
    put_slice(&mut offer, &held.manifest);
    let wanted = peer.call(offer.into(), option, read_wanted).await?;
    let digest = digest(&held.manifest);
    let (started, mut sent) = (tokio::time::Instant::now(), 0u64);
    for file in wanted {
        let mut at = file.has;
        while at < file.len {
            let len = (file.len - at).min(PIECE_BYTES as u64) as usize;
            let (from, name) = (held.clone(), file.name.clone());
            let read = peer.blocking(move || {
                let mut bytes = vec![0; len];
                from.read(&name, at, &mut bytes).map(|()| bytes)
            });
            let bytes = read.await.map_err(|error| failed(error.to_string()))?;
            let mut piece = head(PIECE, group);
            piece.extend_from_slice(&digest.to_le_bytes());
            put_slice(&mut piece, file.name.as_bytes());
            put_varint(&mut piece, at);
            piece.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
            put_slice(&mut piece, &bytes);
            peer.call(piece.into(), option, |answer| (answer[..] == [0]).then_some(())).await?;
            at += len as u64;
            sent += len as u64;
            tokio::time::sleep_until(started + Duration::from_secs_f64(sent as f64 / BYTES_PER_SECOND)).await;
        }
    }
    let mut install = head(INSTALL, group);
    codec::put_vote(&mut install, &vote);
    install.extend_from_slice(&digest.to_le_bytes());
    let read = |answer: &Bytes| {
        let mut decoder = Decoder::new(answer);
        let vote = codec::read_vote(&mut decoder)?;
        decoder.is_empty().then_some(vote)
    };
    Ok(SnapshotResponse::new(peer.call(install.into(), option, read).await?))
}

/// A file that is to be sent: its name, its length, and how much of it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub name: String,
    pub len: u64,
    pub has: u64,
}

/// Where the files of a snapshot gather.
#[derive(Clone)]
pub(crate) struct Staging {
    vfs: Arc<dyn Vfs>,
    folder: PathBuf,
}

/// Tells one set of files from another.
pub(crate) fn digest(manifest: &[u8]) -> u64 {
    (manifest.len() as u64) << 32 | u64::from(crc32fast::hash(manifest))
}

impl Staging {
    /// The staging folder of another database's files, under the folder of this one. What was staged of a third one goes: nobody
    /// sends the rest.
    pub(crate) fn open(vfs: Arc<dyn Vfs>, dir: &Path, origin: [u8; 16]) -> Result<Staging> {
        let folder = dir.join("staging");
        vfs.create_dir(&folder).map_err(|error| io_error("create", &folder, &error))?;
        let staging = Staging { vfs, folder };
        if staging.origin() != Some(origin) {
            staging.clear();
            let path = staging.folder.join(ORIGIN);
            let made = staging.vfs.open(&path, Mode::Create).and_then(|file| file.write_at(&origin, 0));
            made.map_err(|error| io_error("write", &path, &error))?;
        }
        Ok(staging)
    }

    /// The database whose files are staged. If a power cut took the note of it, they are nobody's.
    fn origin(&self) -> Option<[u8; 16]> {
        let mut origin = [0; 16];
        let file = self.vfs.open(&self.folder.join(ORIGIN), Mode::Read).ok()?;
        file.read_at(&mut origin, 0).is_ok().then_some(origin)
    }

    /// The names of what is staged.
    fn names(&self) -> Vec<String> {
        let names = self.vfs.list(&self.folder).unwrap_or_default();
        names.into_iter().filter(|name| name != ORIGIN).collect()
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What is missing of a set. What was staged and is not of it goes.
    pub(crate) fn wanted(&self, db: &Database, manifest: &[u8]) -> Result<Vec<Wanted>> {
        let missing = db.missing(manifest)?;
        let names: BTreeSet<&str> = missing.iter().map(|file| &*file.name).collect();
        for name in self.names().iter().filter(|name| !names.contains(&***name)) {
            let path = self.folder.join(name);
            self.vfs.remove(&path).map_err(|error| io_error("remove", &path, &error))?;
        }
        let wanted = missing.into_iter().map(|file| {
            let len = self.len(&file.name);
            // What is longer than it may be is something else.
            let has = if len > file.len { 0 } else { len };
            Wanted { name: file.name, len: file.len, has }
        });
        Ok(wanted.filter(|file| file.has < file.len).collect())
    }

    /// Whether nothing of the set has come yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.names().is_empty()
    }

    fn len(&self, name: &str) -> u64 {
        let file = self.vfs.open(&self.folder.join(name), Mode::Read);
        file.and_then(|file| file.len()).unwrap_or(0)
    }

    /// Takes a piece of a file.
    pub(crate) fn put(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) {
            return Err(Error::Io { reason: format!("{name:?} is no name of a file of a snapshot") });
        }
        let path = self.folder.join(name);
        let file = match self.vfs.open(&path, Mode::Write) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.vfs.open(&path, Mode::Create),
            other => other,
        };
        let file = file.map_err(|error| io_error("open", &path, &error))?;
        let len = file.len().map_err(|error| io_error("measure", &path, &error))?;
        if offset == 0 && len > 0 {
            file.set_len(0).map_err(|error| io_error("cut", &path, &error))?;
        } else if offset > len {
            return Err(Error::Io { reason: format!("{name}: byte {offset} came where byte {len} is next") });
        }
        file.write_at(bytes, offset).map_err(|error| io_error("write", &path, &error))?;
        if (offset + bytes.len() as u64) / SYNC_EVERY > offset / SYNC_EVERY {
            file.sync().map_err(|error| io_error("sync", &path, &error.0))?;
        }
        Ok(())
    }

    /// Removes all of it.
    pub(crate) fn clear(&self) {
        for name in self.vfs.list(&self.folder).unwrap_or_default() {
            let _ = self.vfs.remove(&self.folder.join(name)); // what stays is removed with the next snapshot
        }
    }
}

fn io_error(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::Io { reason: format!("cannot {what} {}: {error}", path.display()) }
}

#[cfg(test)]
mod tests {
    use lumen::{Condition, Mapping, Options, Write};
    use lumen_engine::vfs::memory::Memory;

    use super::*;

    #[test]
    fn what_has_come_serves_for_the_next_set_of_the_same_database() {
        let vfs: Arc<dyn Vfs> = Arc::new(Memory::new());
        let options = || Options { vfs: vfs.clone(), threads: 0, ..Options::default() };
        let from = Database::open("/from", options()).expect("opens");
        let to = Database::open_replica("/to", options()).expect("opens");
        let mapping = Mapping::from_json(br#"{"fields":{"title":{"type":"text"}}}"#).expect("a mapping");
        from.write(Write::CreateCollection { name: "c".into(), mapping }).expect("made");
        let fill = |id: &str| {
            let (collection, source) = ("c".into(), br#"{"title":"some words"}"#.to_vec());
            let put = Write::Put { collection, id: id.into(), source, condition: Condition::Always };
            from.write(put).expect("put");
            from.flush().expect("flushed");
            SnapshotData::pin(&from).expect("pinned")
        };
        let wanted = |data: &SnapshotData| {
            let SnapshotData::Held(held) = data else { panic!("it is held") };
            let staging = Staging::open(vfs.clone(), Path::new("/to"), held.origin).expect("made");
            let wanted = staging.wanted(&to, &held.manifest).expect("told");
            (held.clone(), staging, wanted)
        };
        let first = fill("a");
        let (held, staging, all) = wanted(&first);
        assert!(all.len() >= 2 && all.iter().all(|file| file.has == 0), "{all:?}");
        // One comes whole, of another half, and one that no set has.
        for (file, len) in [(&all[0], all[0].len), (&all[1], all[1].len / 2)] {
            let mut bytes = vec![0; len as usize];
            held.read(&file.name, 0, &mut bytes).expect("readable");
            staging.put(&file.name, 0, &bytes).expect("staged");
        }
        staging.put("9999999999.sst", 0, b"gone").expect("staged");
        let second = fill("b");
        let (held, staging, rest) = wanted(&second);
        assert!(rest.iter().all(|file| file.name != all[0].name), "{rest:?}");
        let half = Wanted { has: all[1].len / 2, ..all[1].clone() };
        assert!(rest.contains(&half) && rest.len() > all.len() - 1, "{rest:?}");
        assert_eq!(staging.names().len(), 2);
        for file in rest {
            let mut bytes = vec![0; (file.len - file.has) as usize];
            held.read(&file.name, file.has, &mut bytes).expect("readable");
            staging.put(&file.name, file.has, &bytes).expect("staged");
        }
        assert_eq!(wanted(&second).2, []);
        to.install(to.prepare_install(&held.manifest, staging.folder()).expect("whole")).expect("installed");
        assert_eq!(to.snapshot().count("c").expect("counted"), 2);

        // Of another database nothing is of use.
        staging.put("0000000001.sst", 0, b"old").expect("staged");
        let other = Staging::open(vfs.clone(), Path::new("/to"), [7; 16]).expect("made");
        assert!(other.is_empty() && staging.is_empty());
    }
}
