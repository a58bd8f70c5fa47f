//! What a client of the load generator can do, whichever way its operations go.

use bytes::Bytes;

use super::grpc::Grpc;
use super::http::Http;
use super::workload::Op;

/// One client: it does one operation after the other, on a connection of its own that it opens again when it breaks.
///
/// A trait, since the loops are tested with clients that stall and fail on request.
pub(super) trait Client: Send + 'static {
    /// Does it. What is given up half way has to be followed by [`Self::forget`].
    fn run(&mut self, op: &Op) -> impl Future<Output = Result<Answer, Fault>> + Send;

    /// Nothing more is expected of the connection.
    fn forget(&mut self);

    /// How often, since it was last asked, a connection was found closed between two operations.
    fn reopened(&mut self) -> u64 {
        0
    }
}

/// What came back from an operation that went well.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    /// Whether there was something; always so for writes.
    pub(super) is_found: bool,
    /// The version of what was read, and the value.
    pub(super) version: u64,
    /// What was read.
    pub(super) value: Bytes,
    /// The sequence number of what was written.
    pub(super) written: u64,
    /// Keys and values of a scan, if they are wanted.
    pub(super) pairs: Vec<(Bytes, Bytes)>,
}

impl Answer {
    /// Of a write.
    pub(super) fn written(seq: u64) -> Answer {
        Answer { is_found: true, written: seq, ..Answer::default() }
    }
}

/// What went wrong with an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// In a few words, the same for all of the kind: errors are counted by it.
    pub(super) what: String,
    /// Nobody was there: it is no use to ask again at once.
    pub(super) is_unreachable: bool,
}

impl Fault {
    /// The operation failed.
    pub(super) fn new(what: impl Into<String>) -> Fault {
        Fault { what: what.into(), is_unreachable: false }
    }

    /// There is no connection.
    pub(super) fn unreachable(what: impl Into<String>) -> Fault {
        Fault { what: what.into(), is_unreachable: true }
    }
}

/// The clients there are.
pub(super) enum Target {
    /// Over HTTP/1.1.
    Http(Box<Http>),
    /// Over gRPC.
    Grpc(Box<Grpc>),
}

impl Client for Target {
    async fn run(&mut self, op: &Op) -> Result<Answer, Fault> {
        match self {
            Target::Http(client) => client.run(op).await,
            Target::Grpc(client) => client.run(op).await,
        }
    }

    fn forget(&mut self) {
        match self {
            Target::Http(client) => client.forget(),
            Target::Grpc(client) => client.forget(),
        }
    }

    fn reopened(&mut self) -> u64 {
        match self {
            Target::Http(client) => client.reopened(),
            Target::Grpc(client) => client.reopened(),
        }
    }
}
