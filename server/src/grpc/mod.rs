//! The gRPC face: key-values as LumenKV's clients know them, documents, searches and changes, health and reflection.
//!
//! On the main port, told from HTTP by its content type, and on `--grpc-bind`, by tonic's services without its router: what is
//! limited, counted and caught is so for both faces in one place.

mod changes;
mod documents;
mod health;
mod kv;
mod scan;
mod status;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, LazyLock};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body as GrpcBody;
use tonic::codegen::Service;
use tonic_health::pb::health_server::HealthServer;

pub(crate) use status::http_status;

use crate::node::Node;
use proto::kv::key_value_store_server::KeyValueStoreServer;
use proto::v1::changes_server::ChangesServer;
use proto::v1::documents_server::DocumentsServer;
use proto::v1::search_server::SearchServer;

/// Messages and services, as the protos in `server/proto` say.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub(crate) mod proto {
    /// `kv.proto`
    pub(crate) mod kv {
        tonic::include_proto!("kv");
    }
    /// `lumen/v1/lumen.proto`
    pub(crate) mod v1 {
        tonic::include_proto!("lumen.v1");
    }
}

/// What the protos say, for clients that have none.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/protos.bin"));

/// Bytes of a message beside the value or document in it.
const BESIDE: usize = 1 << 20;

/// Names of all services, as health and reflection know them.
pub(crate) const SERVICES: [&str; 4] =
    ["kv.KeyValueStore", "lumen.v1.Documents", "lumen.v1.Search", "lumen.v1.Changes"];

type Reflection = dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<GrpcBody>> + Send + Sync;

/// The services of a connection.
pub(crate) struct Services {
    kv: KeyValueStoreServer<Face>,
    documents: DocumentsServer<Face>,
    search: SearchServer<Face>,
    changes: ChangesServer<Face>,
    health: HealthServer<Face>,
}

/// What the services are implemented on.
pub(crate) struct Face {
    node: Arc<Node>,
}

impl Services {
    /// Of a node.
    pub(crate) fn new(node: Arc<Node>) -> Services {
        let most = node.limits.value_size.max(crate::http::documents::DOCUMENT_BYTES_MAX) + BESIDE;
        let face = Arc::new(Face { node });
        Services {
            // A batch holds several values.
            kv: KeyValueStoreServer::from_arc(face.clone())
                .max_decoding_message_size(2 * most)
                .max_encoding_message_size(usize::MAX),
            documents: DocumentsServer::from_arc(face.clone())
                .max_decoding_message_size(most)
                .max_encoding_message_size(usize::MAX),
            search: SearchServer::from_arc(face.clone()).max_encoding_message_size(usize::MAX),
            changes: ChangesServer::from_arc(face.clone()).max_encoding_message_size(usize::MAX),
            health: HealthServer::from_arc(face),
        }
    }

    /// Answers one call, whatever happens; and says under which name it is counted.
    pub(crate) async fn respond(&self, request: Request<Incoming>) -> (&'static str, Response<GrpcBody>) {
        let path = request.uri().path();
        let label = label(path);
        let service = path.rsplit_once('/').map_or("", |(service, _)| service.trim_start_matches('/'));
        let call: BoxFuture<'static, Response<GrpcBody>> = match service {
            "kv.KeyValueStore" => answered(self.kv.clone().call(request)),
            "lumen.v1.Documents" => answered(self.documents.clone().call(request)),
            "lumen.v1.Search" => answered(self.search.clone().call(request)),
            "lumen.v1.Changes" => answered(self.changes.clone().call(request)),
            "grpc.health.v1.Health" => answered(self.health.clone().call(request)),
            "grpc.reflection.v1.ServerReflection" => REFLECTION_V1(request),
            "grpc.reflection.v1alpha.ServerReflection" => REFLECTION_V1ALPHA(request),
            other => {
                let message = format!("there is no service {}", crate::error::excerpt(other));
                let hint = "reflection lists what there is, as with: grpcurl -plaintext HOST list";
                return (label, Status::unimplemented(format!("{message}; {hint}")).into_http());
            }
        };
        match AssertUnwindSafe(call).catch_unwind().await {
            Ok(response) => (label, response),
            Err(_) => {
                tracing::error!("a call's handler panicked");
                let message = "this call met a fault of the server; its log says more";
                (label, Status::internal(message).into_http())
            }
        }
    }
}

fn answered(
    call: impl Future<Output = Result<Response<GrpcBody>, std::convert::Infallible>> + Send + 'static,
) -> BoxFuture<'static, Response<GrpcBody>> {
    Box::pin(call.map(|result| result.unwrap_or_else(|never| match never {})))
}

static REFLECTION_V1: LazyLock<Box<Reflection>> = LazyLock::new(|| {
    let server = reflection().build_v1().expect("the descriptors are of our own making");
    Box::new(move |request| answered(server.clone().call(request)))
});

static REFLECTION_V1ALPHA: LazyLock<Box<Reflection>> = LazyLock::new(|| {
    let server = reflection().build_v1alpha().expect("the descriptors are of our own making");
    Box::new(move |request| answered(server.clone().call(request)))
});

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// The call's name for metrics; of names that nobody knows there could be endlessly many.
fn label(path: &str) -> &'static str {
    LABELS.iter().copied().find(|known| *known == path).unwrap_or("none")
}

const LABELS: [&str; 24] = [
    "/kv.KeyValueStore/Put",
    "/kv.KeyValueStore/Get",
    "/kv.KeyValueStore/Delete",
    "/kv.KeyValueStore/Scan",
    "/kv.KeyValueStore/Batch",
    "/kv.KeyValueStore/Txn",
    "/kv.KeyValueStore/Watch",
    "/kv.KeyValueStore/LeaseGrant",
    "/kv.KeyValueStore/LeaseKeepAlive",
    "/kv.KeyValueStore/LeaseRevoke",
    "/kv.KeyValueStore/PutStream",
    "/lumen.v1.Documents/CreateCollection",
    "/lumen.v1.Documents/DropCollection",
    "/lumen.v1.Documents/ListCollections",
    "/lumen.v1.Documents/Put",
    "/lumen.v1.Documents/Get",
    "/lumen.v1.Documents/Delete",
    "/lumen.v1.Documents/PutStream",
    "/lumen.v1.Search/Search",
    "/lumen.v1.Changes/Changes",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn every_method_of_the_protos_is_counted_under_its_name() {
        let protos = prost_types::FileDescriptorSet::decode(DESCRIPTORS).expect("our own");
        let mut services = Vec::new();
        for file in protos.file {
            for service in file.service {
                let name = format!("{}.{}", file.package.as_deref().unwrap_or(""), service.name());
                for method in &service.method {
                    let path = format!("/{name}/{}", method.name());
                    assert_eq!(label(&path), path);
                }
                services.push(name);
            }
        }
        services.sort();
        let mut known = SERVICES.map(str::to_owned);
        known.sort();
        assert_eq!(services, known);
    }
}
