//! Answering what other nodes ask.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use openraft::errors::Fatal;
use tokio::time::Instant;

use crate::codec;
use crate::error::{Error, Result};
use crate::membership::Change;
use crate::message::{self, Request};
use crate::metrics::Meters;
use crate::network::{Answers, TransportError};
use crate::node::{Identity, Node, stopped};
use crate::read::read_index;
use crate::snapshot::{Home, Received, SnapshotData};
use crate::transfer::{self, Staging};
use crate::types::{GROUP, TypeConfig};

/// How long a change of members may take that another node asks for: the next one waits for it.
const CHANGE_PATIENCE: Duration = Duration::from_secs(30);

/// How long who joins waits for an answer.
const JOIN_PATIENCE: Duration = Duration::from_secs(5);

/// A snapshot that is being received.
pub(crate) struct Receiving {
    digest: u64,
    manifest: Bytes,
    staging: Staging,
    /// When the last of it came.
    heard: Instant,
}

impl Receiving {
    /// Makes ready for what another node offers.
    fn begin(origin: [u8; 16], manifest: Bytes, home: &Home, meters: &Meters) -> Result<Receiving> {
        let staging = Staging::open(home.vfs.clone(), &home.dir, origin)?;
        meters.resumed.add(u64::from(!staging.is_empty()));
        Ok(Receiving { digest: transfer::digest(&manifest), manifest, staging, heard: Instant::now() })
    }

    /// Counts a piece.
    fn received(&mut self, len: usize, meters: &Meters) {
        let took = std::mem::replace(&mut self.heard, Instant::now()).elapsed();
        meters.received_bytes.add(len as u64);
        meters.receiving_nanos.add(took.as_nanos() as u64);
    }
}

impl Node {
    /// What tells this node from all others.
    pub fn identity(&self) -> Identity {
        let inner = &self.inner;
        Identity { id: inner.id, store: inner.db.id(), cluster: self.cluster() }
    }

    /// Whether a node may talk to this one: it must be of the same cluster, if both are of one, and the very one that the
    /// cluster knows under its number. The error says why not.
    pub fn admits(&self, from: &Identity) -> std::result::Result<(), String> {
        let known = self.inner.leader.member(from.id);
        match (self.cluster(), from.cluster) {
            // To follow would be to lose what it holds.
            (None, Some(_)) if self.inner.log.has_base() => Err(format!(
                "node {} holds data of its own: it can form a cluster, and the others join it",
                self.inner.id
            )),
            (Some(ours), Some(theirs)) if ours != theirs => {
                Err(format!("node {} is of another cluster than node {}", from.id, self.inner.id))
            }
            _ if known.is_some_and(|known| known.store != [0; 16] && known.store != from.store) => {
                Err(format!(
                    "node {} is known with another data folder; remove it from the cluster, and have it join anew",
                    from.id
                ))
            }
            _ => Ok(()),
        }
    }

    /// Answers a request of another node.
    pub async fn answer(&self, bytes: Bytes) -> std::result::Result<Bytes, TransportError> {
        let refused = |reason: String| TransportError::Refused(reason);
        if let Some(request) = transfer::read(GROUP, &bytes) {
            return self.receive(request).await.map_err(|error| refused(error.to_string()));
        }
        let request = message::read(GROUP, &bytes).ok_or_else(|| refused("a malformed request".into()))?;
        let raft = &self.inner.raft;
        let fatal = |error: String| TransportError::Unreachable(error);
        Ok(match request {
            Request::Append(request) => {
                let (prev, last) = (request.prev_log_id, request.entries.last().map(|entry| entry.log_id));
                let response =
                    raft.append_entries(request).await.map_err(|error| fatal(error.to_string()))?;
                message::appended(&response.into_stream_result(prev, last.or(prev)))
            }
            Request::Vote(request) => {
                self.guard()?;
                message::voted(&raft.vote(request).await.map_err(|error| fatal(error.to_string()))?)
            }
            Request::PreVote(request) => {
                self.guard()?;
                message::voted(&raft.pre_vote(request).await.map_err(|error| fatal(error.to_string()))?)
            }
            Request::Transfer(request) => {
                let elections = &self.inner.meters.elections;
                let is_for_me = *request.to_node_id() == self.inner.id;
                elections.hand(is_for_me.then_some(request.from_leader().leader_id.term));
                let taken = raft.handle_transfer_leader(request).await;
                if !matches!(taken, Ok(Ok(()))) {
                    elections.hand(None);
                }
                message::transferred(&taken.map_err(|error| fatal(error.to_string()))?)
            }
            Request::Writes(writes) => {
                let writes = writes.into_iter().map(|(request, write)| self.write_here(request, write, None));
                message::written(&join_all(writes).await)
            }
            Request::Read => message::indexed(&read_index(&self.inner.leader).await),
            Request::Confirm(vote) => {
                message::confirmed(self.confirms(vote).await.map_err(|error| fatal(error.to_string()))?)
            }
            // Who joins knows no leader: whoever it asks sends it on.
            Request::Change(change @ Change::Join { .. }) => {
                message::changed(&self.change(change, JOIN_PATIENCE).await)
            }
            Request::Change(change) => {
                let changed = tokio::time::timeout(CHANGE_PATIENCE, self.change_here(change)).await;
                let late = |_| Err(Error::Unknown { reason: "it takes too long".into() });
                message::changed(&changed.unwrap_or_else(late))
            }
        })
    }

    /// Answers a stream of entries from a leader, in order.
    pub fn answer_stream(&self, requests: BoxStream<'static, Bytes>) -> Answers {
        let appends = requests.map(|bytes| match message::read(GROUP, &bytes) {
            Some(Request::Append(request)) => Some(request),
            _ => None,
        });
        // What cannot be read ends the stream: the leader begins a new one.
        let appends = appends.take_while(|request| std::future::ready(request.is_some()));
        let appends = appends.filter_map(std::future::ready);
        let answers = self.inner.raft.stream_append(appends);
        let encode = |answer: std::result::Result<_, Fatal<TypeConfig>>| {
            answer
                .map(|result| message::appended(&result))
                .map_err(|fatal| TransportError::Unreachable(fatal.to_string()))
        };
        answers.map(encode).boxed()
    }

    /// Whether it may vote: not for a while after its start, since it may have promised a lease in its former life.
    fn guard(&self) -> std::result::Result<(), TransportError> {
        if Instant::now() < self.inner.guarded_until {
            return Err(TransportError::Refused("it started a moment ago and votes for nobody yet".into()));
        }
        Ok(())
    }

    /// Takes what belongs to a snapshot.
    async fn receive(&self, request: transfer::Request) -> Result<Bytes> {
        let inner = &self.inner;
        let mut receiving = inner.receiving.clone().lock_owned().await;
        match request {
            transfer::Request::Offer { origin, manifest } => {
                let (db, home) = (inner.db.clone(), inner.home.clone());
                let meters = inner.meters.clone();
                let offered = self.blocking(move || {
                    let offered = Receiving::begin(origin, manifest, &home, &meters)?;
                    let wanted = offered.staging.wanted(&db, &offered.manifest)?;
                    Ok((offered, wanted))
                });
                let (offered, wanted) = offered.await?;
                *receiving = Some(offered);
                Ok(transfer::wanted_answer(&wanted))
            }
            transfer::Request::Piece { digest, name, offset, bytes } => {
                let offered = receiving.as_mut().filter(|offered| offered.digest == digest);
                let offered = offered.ok_or_else(not_offered)?;
                let (staging, len) = (offered.staging.clone(), bytes.len());
                self.blocking(move || staging.put(&name, offset, &bytes)).await?;
                offered.received(len, &inner.meters);
                Ok(Bytes::from_static(&[0]))
            }
            transfer::Request::Install { vote, digest } => {
                let offered = receiving.take_if(|offered| offered.digest == digest);
                let Receiving { manifest, staging, .. } = offered.ok_or_else(not_offered)?;
                // Before the core is asked, to which a snapshot that cannot be installed is the end.
                let db = inner.db.clone();
                let received = self.blocking(move || Received::check(&db, &manifest, staging)).await?;
                let place = received.place().clone();
                let meta = openraft::alias::SnapshotMetaOf::<TypeConfig> {
                    last_log_id: place.applied,
                    last_membership: place.membership,
                };
                let snapshot = openraft::alias::SnapshotOf::<TypeConfig, SnapshotData> {
                    meta,
                    snapshot: SnapshotData::Ready(Box::new(received)),
                };
                // One at a time: the lock is held until it is installed.
                let response = inner.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
                let mut out = Vec::new();
                codec::put_vote(&mut out, &response.vote);
                Ok(out.into())
            }
        }
    }
}

fn not_offered() -> Error {
    Error::Io { reason: "a piece of a snapshot that was not offered".into() }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use lumen_engine::vfs::memory::Memory;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_transfer_that_is_offered_again_goes_on_and_another_one_begins() {
        let (home, meters) = (
            Home { vfs: Arc::new(Memory::new()), dir: PathBuf::from("/node"), threaded: false },
            Meters::default(),
        );
        let begin = |origin: u8, manifest: &'static [u8]| {
            let manifest = Bytes::from_static(manifest);
            let receiving = Receiving::begin([origin; 16], manifest, &home, &meters).expect("begins");
            (receiving, meters.resumed.read())
        };
        let (mut first, resumed) = begin(1, b"some files");
        assert_eq!(resumed, 0);
        assert_eq!(begin(1, b"some files").1, 0, "nothing of it had come");
        first.staging.put("1.sst", 0, b"piece").expect("taken");
        tokio::time::advance(Duration::from_millis(30)).await;
        first.received(5, &meters);
        tokio::time::advance(Duration::from_millis(10)).await;
        first.received(5, &meters);
        assert_eq!(meters.received_bytes.read(), 10);
        assert_eq!(meters.receiving_nanos.read(), 40_000_000);
        assert_eq!(begin(1, b"some files").1, 1);
        assert_eq!(begin(1, b"more files").1, 2, "some of them may have come");
        assert_eq!(begin(2, b"other files").1, 2, "what had come is of no use to it");
    }
}
