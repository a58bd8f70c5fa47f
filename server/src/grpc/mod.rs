//! The gRPC face: key-values as LumenKV's clients know them, documents, searches and changes, health and reflection.

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
