//! Certificates between nodes: each shows one that the cluster's own authority has signed, both ways, over TLS 1.3.
//!
//! ```text
//! authority/ca.pem, ca.key     the authority; its key stays with whoever adds nodes
//! authority/HOST/              what goes to a machine, and what --peer-tls is given
//!     ca.pem                   whose certificates are trusted
//!     node.pem, node.key       the node's own, for the names at which others reach it
//! ```
//!
//! Whoever has a certificate of this authority is a node; which node it is, it says in its messages (see [`super`]). They do
//! not run out: to shut somebody out, make another authority.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tonic::transport::{Certificate as TrustedCertificate, ClientTlsConfig, Identity};

const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const NODE: &str = "node.pem";
const NODE_KEY: &str = "node.key";

/// What a node shows, and whom it believes.
#[derive(Clone)]
pub(crate) struct PeerTls {
    /// To call other nodes.
    pub(crate) client: ClientTlsConfig,
    /// To be called by them.
    pub(crate) acceptor: TlsAcceptor,
}

impl PeerTls {
    /// Reads the three files of a folder.
    pub(crate) fn read(folder: &Path) -> Result<PeerTls> {
        let text = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).with_context(|| format!("--peer-tls: {}", path.display()))
        };
        let (ca, node, key) = (text(CA)?, text(NODE)?, text(NODE_KEY)?);
        let unusable = |name: &str| format!("--peer-tls: {} cannot be used", folder.join(name).display());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&ca) {
            roots.add(certificate.with_context(|| unusable(CA))?).with_context(|| unusable(CA))?;
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build();
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&node).collect();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier.with_context(|| unusable(CA))?)
            .with_single_cert(
                chain.with_context(|| unusable(NODE))?,
                PrivateKeyDer::from_pem_slice(&key).with_context(|| unusable(NODE_KEY))?,
            )
            .with_context(|| unusable(NODE))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let client = ClientTlsConfig::new()
            .ca_certificate(TrustedCertificate::from_pem(&ca))
            .identity(Identity::from_pem(&node, &key));
        Ok(PeerTls { client, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}

/// Makes certificates for hosts in a folder, and the authority that signs them if there is none; answers the folders that
/// go to the hosts. What is there is never written over.
pub(crate) fn make(authority: &Path, hosts: &[String]) -> Result<Vec<PathBuf>> {
    let folders: Vec<PathBuf> = hosts.iter().map(|host| authority.join(host)).collect();
    for (host, folder) in hosts.iter().zip(&folders) {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
        if host.is_empty() || host.starts_with('.') || !host.chars().all(is_plain) {
            bail!("{host:?} is no name or address of a machine");
        }
        if folder.exists() {
            bail!("{} is there already; remove it to make another", folder.display());
        }
    }
    let (ca, ca_key) = (authority.join(CA), authority.join(CA_KEY));
    let params = authority_params();
    if !ca_key.exists() {
        make_folder(authority)?;
        let key = KeyPair::generate()?;
        write(&ca_key, &key.serialize_pem(), 0o600)?;
        write(&ca, &params.self_signed(&key)?.pem(), 0o644)?;
    }
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
    let key = KeyPair::from_pem(&read(&ca_key)?).with_context(|| ca_key.display().to_string())?;
    let (issuer, ca) = (Issuer::new(params, key), read(&ca)?);
    for (host, folder) in hosts.iter().zip(&folders) {
        let (certificate, key) = make_for(host, &issuer)?;
        make_folder(folder)?;
        write(&folder.join(CA), &ca, 0o644)?;
        write(&folder.join(NODE), &certificate.pem(), 0o644)?;
        write(&folder.join(NODE_KEY), &key.serialize_pem(), 0o600)?;
    }
    Ok(folders)
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Lumen cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn make_for(host: &str, issuer: &Issuer<'_, KeyPair>) -> Result<(Certificate, KeyPair)> {
    let mut params = CertificateParams::new([host.to_string()])?;
    params.distinguished_name.push(DnType::CommonName, host);
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, issuer)?, key))
}

fn make_folder(folder: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| folder.display().to_string())
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    opened.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| path.display().to_string())
}
