//! Raft's calls to other nodes, over whatever carries bytes: tonic in the program, a simulated network in tests.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, alias};

use crate::error::Error;
use crate::held::held;
use crate::message;
use crate::node::Identity;
use crate::snapshot::SnapshotData;
use crate::types::{Member, TypeConfig, Vote, blocking};

/// Requests without an entry, one after the other, after which a stream of entries begins anew. A few are due: they tell of
/// commits when there is nothing to send. But where the log was let go of what a stream is at, openraft sends nothing but such
/// requests and never looks up, although it has long decided to go on elsewhere (found by the simulation); for a stream that
/// begins it does look.
const EMPTY_IN_A_ROW_MAX: u32 = 16;

/// Which of the connections to a node: a long transfer on one delays nothing on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Votes, heartbeats, forwarded requests.
    Control,
    /// Entries.
    Entries,
    /// Snapshots.
    Snapshots,
}

/// Why a node gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransportError {
    /// It could not be reached, and the request was not sent.
    Unreachable(String),
    /// The request was sent, and no answer came: what it asks for may have been done.
    Broken(String),
    /// It refuses to talk, or what came back makes no sense.
    Refused(String),
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransportError::Unreachable(reason) => write!(f, "cannot be reached: {reason}"),
            TransportError::Broken(reason) => write!(f, "gave no answer: {reason}"),
            TransportError::Refused(reason) => write!(f, "refused: {reason}"),
        }
    }
}

impl std::error::Error for TransportError {}

/// Answers to a stream of requests, in their order.
pub type Answers = BoxStream<'static, Result<Bytes, TransportError>>;

/// Carries requests to other nodes. Every one is bounded in time by its implementation.
pub trait Transport: Send + Sync + 'static {
    /// One request, one answer.
    fn call(
        &self,
        to: u64,
        member: &Member,
        lane: Lane,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;

    /// One request to whoever is at an address.
    fn call_address(
        &self,
        address: &str,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;

    /// Says how this node is to be named to others; called before any other node is.
    fn introduce(&self, who: Arc<dyn Fn() -> Identity + Send + Sync>);

    /// Requests without waiting for the answers in between.
    fn stream(
        &self,
        to: u64,
        member: &Member,
        requests: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'static, Result<Answers, TransportError>>;
}

/// Makes the connections that openraft asks for.
#[derive(Clone)]
pub(crate) struct Network {
    pub transport: Arc<dyn Transport>,
    pub group: u32,
    /// Whether what waits for the disk may have threads of its own.
    pub threaded: bool,
    /// Held by the one transfer of files that goes out at a time: two would take twice the bandwidth, and each twice the time.
    sending: Arc<tokio::sync::Mutex<()>>,
}

/// One connection.
pub(crate) struct Peer {
    network: Network,
    to: u64,
    member: Member,
    lane: Lane,
}

impl Network {
    /// Of a group, over this transport.
    pub(crate) fn new(transport: Arc<dyn Transport>, group: u32, threaded: bool) -> Network {
        Network { transport, group, threaded, sending: Arc::default() }
    }

    fn peer(&self, to: u64, member: &Member, lane: Lane) -> Peer {
        Peer { network: self.clone(), to, member: member.clone(), lane }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, to: u64, member: &Member) -> Peer {
        self.peer(to, member, Lane::Entries)
    }

    async fn new_heartbeat_client(&mut self, to: u64, member: &Member) -> Peer {
        self.peer(to, member, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, to: u64, member: &Member) -> Peer {
        self.peer(to, member, Lane::Snapshots)
    }
}

fn rpc_error(error: TransportError) -> RPCError<TypeConfig> {
    match error {
        // It is tried again after a while.
        TransportError::Unreachable(reason) | TransportError::Broken(reason) => {
            RPCError::Unreachable(Unreachable::from_string(reason))
        }
        TransportError::Refused(reason) => RPCError::Network(NetworkError::from_string(reason)),
    }
}

fn malformed() -> RPCError<TypeConfig> {
    rpc_error(TransportError::Refused("a malformed answer".into()))
}

impl Peer {
    pub(crate) fn group(&self) -> u32 {
        self.network.group
    }

    /// Runs what waits for the disk where that holds up nobody.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        blocking(self.network.threaded, work).await
    }

    pub(crate) async fn call<T>(
        &self,
        request: Bytes,
        option: &RPCOption,
        read: impl FnOnce(&Bytes) -> Option<T>,
    ) -> Result<T, RPCError<TypeConfig>> {
        let call = self.network.transport.call(self.to, &self.member, self.lane, request);
        let answer = tokio::time::timeout(option.soft_ttl(), call).await;
        let late = |_| TransportError::Broken(format!("within {:?}", option.soft_ttl()));
        let answer = answer.map_err(late).and_then(|answer| answer).map_err(rpc_error)?;
        read(&answer).ok_or_else(malformed)
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let result =
            self.call(message::append(self.network.group, &request), &option, message::read_appended);
        Ok(match result.await? {
            Ok(flushed) => AppendEntriesResponse::PartialSuccess(flushed),
            other => AppendEntriesResponse::from(other),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let group = self.network.group;
        let mut empty = 0;
        // The requests go with the answers, whatever the transport still does with them.
        let (holder, input) = held(input);
        let requests = input.take_while(move |request| {
            empty = if request.entries.is_empty() { empty + 1 } else { 0 };
            std::future::ready(empty < EMPTY_IN_A_ROW_MAX)
        });
        let requests = requests.map(move |request| message::append(group, &request)).boxed();
        let opened = self.network.transport.stream(self.to, &self.member, requests);
        Box::pin(async move {
            let late = |_| TransportError::Unreachable(format!("no stream within {:?}", option.soft_ttl()));
            let opened = tokio::time::timeout(option.soft_ttl(), opened).await;
            let answers = opened.map_err(late).and_then(|opened| opened).map_err(rpc_error)?;
            let read = move |answer: Result<Bytes, TransportError>| {
                let _held = &holder;
                message::read_appended(&answer.map_err(rpc_error)?).ok_or_else(malformed)
            };
            Ok(answers.map(read).boxed())
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(message::vote(self.network.group, &request, false), &option, message::read_voted).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(message::vote(self.network.group, &request, true), &option, message::read_voted).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(message::transfer(self.network.group, &request), &option, message::read_transferred).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: alias::SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let alone = self.network.sending.clone();
        let sending = async {
            let _alone = alone.lock().await;
            crate::transfer::send(self, vote, snapshot, &option).await
        };
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => sent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands back what is sent over it.
    struct Echo;

    impl Transport for Echo {
        fn call(
            &self,
            _: u64,
            _: &Member,
            _: Lane,
            _: Bytes,
        ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
            unreachable!("a stream makes no calls")
        }

        fn call_address(&self, _: &str, _: Bytes) -> BoxFuture<'static, Result<Bytes, TransportError>> {
            unreachable!("a stream makes no calls")
        }

        fn introduce(&self, _: Arc<dyn Fn() -> Identity + Send + Sync>) {}

        fn stream(
            &self,
            _: u64,
            _: &Member,
            requests: BoxStream<'static, Bytes>,
        ) -> BoxFuture<'static, Result<Answers, TransportError>> {
            let answer = message::appended(&Ok(None));
            Box::pin(async move { Ok(requests.map(move |_| Ok(answer.clone())).boxed()) })
        }
    }

    #[tokio::test]
    async fn a_stream_that_carries_nothing_begins_anew() {
        let network = Network::new(Arc::new(Echo), 0, false);
        let mut peer = network.peer(2, &Member::default(), Lane::Entries);
        let request = AppendEntriesRequest::<TypeConfig> {
            vote: Vote::new_committed(1, 1),
            prev_log_id: None,
            leader_commit: None,
            entries: Vec::new(),
        };
        let option = RPCOption::new(std::time::Duration::from_secs(10));
        let opened =
            peer.stream_append(futures_util::stream::iter(std::iter::repeat(request)).boxed(), option);
        let answers = opened.await.expect("a stream").count().await;
        assert_eq!(answers as u32, EMPTY_IN_A_ROW_MAX - 1);
    }
}
