//! A plain client of etcd: the few calls of its API that are measured or asked for here.

use std::net::SocketAddr;

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// The part of etcd's `rpc.proto` (3.4) that is spoken here; numbers of fields are etcd's.
mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Put {
        #[prost(bytes = "vec", tag = "1")]
        pub key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Range {
        #[prost(bytes = "vec", tag = "1")]
        pub key: Vec<u8>,
        #[prost(bool, tag = "7")]
        pub serializable: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Header {
        #[prost(uint64, tag = "2")]
        pub member: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct KeyValue {
        #[prost(bytes = "vec", tag = "5")]
        pub value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Found {
        #[prost(message, repeated, tag = "2")]
        pub pairs: Vec<KeyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Empty {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Status {
        #[prost(message, optional, tag = "1")]
        pub header: Option<Header>,
        #[prost(uint64, tag = "4")]
        pub leader: u64,
    }
}

/// One client, on a connection of its own. Its errors are what it was told instead of an answer.
pub struct Etcd(Grpc<Channel>);

impl Etcd {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Result<Etcd, String> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(text)?;
        Ok(Etcd(Grpc::new(endpoint.tcp_nodelay(true).connect().await.map_err(text)?)))
    }

    /// Puts a value.
    pub async fn put(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        let message = proto::Put { key: key.into(), value: value.into() };
        let _: proto::Empty = self.call("/etcdserverpb.KV/Put", message).await?;
        Ok(())
    }

    /// Gets a value, which has to be there; `serializable` is etcd's word for whatever the node has.
    pub async fn get(&mut self, key: &str, serializable: bool) -> Result<(), String> {
        let message = proto::Range { key: key.into(), serializable };
        let found: proto::Found = self.call("/etcdserverpb.KV/Range", message).await?;
        if found.pairs.is_empty() { Err(format!("no {key}")) } else { Ok(()) }
    }

    /// The node's number, and the number of whom it takes for the leader, if of anybody.
    pub async fn leader(&mut self) -> Result<Option<(u64, u64)>, String> {
        let status: proto::Status = self.call("/etcdserverpb.Maintenance/Status", proto::Empty {}).await?;
        let member = status.header.map(|header| header.member);
        Ok(member.map(|member| (member, status.leader)).filter(|(_, leader)| *leader != 0))
    }

    async fn call<M, R>(&mut self, path: &'static str, message: M) -> Result<R, String>
    where
        M: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await.map_err(text)?;
        let path = PathAndQuery::from_static(path);
        let answer = self.0.unary(tonic::Request::new(message), path, ProstCodec::<M, R>::default()).await;
        Ok(answer.map_err(|status| status.message().to_owned())?.into_inner())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
