//! `lumen demo`: a server, the sample documents, and three searches, in one command.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use http::Method;

use super::client::Client;
use super::import::{Loaded, Source, load};
use super::search::{fields, parse, search_path};
use super::standalone::{Signals, start_logging, until_stopped};
use crate::config::{BIND, GrpcBind, Limits, NodeConfig};
use crate::error::exit;
use crate::serve::{self, BindFailed, Running};

/// Public-domain text; sample/README.md says whence.
const DOCUMENTS: &[u8] = include_bytes!("../../sample/devils-dictionary.ndjson");

/// Its mapping.
const MAPPING: &[u8] = include_bytes!("../../sample/devils-dictionary.mapping.json");

const COLLECTION: &str = "devils-dictionary";

/// A question in words, and in the query language.
const SEARCHES: [(&str, &str); 3] = [
    ("what Bierce says of politics", "politics"),
    ("love or marriage, with the word in the definition", "definition:love OR definition:marriage"),
    ("short entries about death, without verse", "death AND words:[1 TO 40] AND has_verse:false"),
];

/// `lumen demo`
#[derive(Args)]
pub(crate) struct Demo {
    /// Keep the documents here; otherwise they are in a temporary folder that goes at the end
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address to listen on; if it is taken, a free port is
    #[arg(long, env = "LUMEN_BIND", default_value = BIND, value_name = "ADDRESS")]
    bind: SocketAddr,
    /// Stop after the searches; CI=true in the environment means the same
    #[arg(long)]
    exit: bool,
    #[command(flatten)]
    limits: Limits,
}

impl Demo {
    /// Shows it.
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        start_logging("warn");
        let mut signals = Signals::new()?;
        let temporary = match self.data_dir {
            None => Some(tempfile::Builder::new().prefix("lumen-demo-").tempdir()?),
            Some(_) => None,
        };
        let data_dir = match (&self.data_dir, &temporary) {
            (Some(given), _) => given.clone(),
            (None, Some(temporary)) => temporary.path().join("data"),
            (None, None) => PathBuf::from("data"),
        };
        let exits = self.exit || std::env::var("CI").is_ok_and(|ci| ci == "true");
        let config =
            NodeConfig { data_dir, bind: self.bind, grpc_bind: Some(GrpcBind::Off), limits: self.limits };
        let running = start(config).await?;
        let url = format!("http://{}", running.address);
        let show = async {
            let code = import(&url).await?;
            if code == 0 { search(&url).await } else { Ok(code) }
        };
        let code = tokio::select! {
            code = show => code,
            () = signals.next() => Ok(exit::INTERRUPTED),
        };
        if exits || !matches!(code, Ok(0)) {
            running.stop().await?;
            return code;
        }
        say!("\nLumen goes on serving {url}; stop it with Ctrl-C.");
        say!("  try:  lumen search {COLLECTION} --url {url} 'your own words'");
        if temporary.is_some() {
            say!("  the documents are in a temporary folder and go when it stops; --data-dir DIR keeps them");
        }
        until_stopped(running, signals).await
    }
}

async fn start(mut config: NodeConfig) -> anyhow::Result<Running> {
    match serve::start(&config).await {
        Err(error) if is_taken(&error) => {
            let wanted = config.bind;
            config.bind.set_port(0);
            let running = serve::start(&config).await?;
            say!("{wanted} is taken, so this listens on {}", running.address);
            Ok(running)
        }
        other => other,
    }
}

fn is_taken(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<BindFailed>()
        .is_some_and(|failed| failed.error.kind() == std::io::ErrorKind::AddrInUse)
}

async fn import(url: &str) -> anyhow::Result<u8> {
    let client = Client::new(url)?;
    say!("The Devil's Dictionary by Ambrose Bierce (1911, public domain) → {url}/collections/{COLLECTION}");
    let path = format!("/collections/{COLLECTION}");
    client.expect(Method::PUT, &path, Bytes::from_static(MAPPING)).await?;
    let source = Source::memory(DOCUMENTS);
    let Loaded { code, .. } = load(&client, COLLECTION, "id", source, None).await?;
    Ok(code)
}

async fn search(url: &str) -> anyhow::Result<u8> {
    let client = Client::new(url)?;
    for (question, query) in SEARCHES {
        let path = search_path(COLLECTION, query, 3, 0);
        let answer = client.expect(Method::GET, &path, Bytes::new()).await?;
        let results = parse(&answer.body)?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n# {question}\ncurl '{url}{path}'")?;
        for hit in &results.hits {
            writeln!(out, "  {:>6.3}  {}", hit.score, super::printable(&hit.id))?;
            for field in fields(hit.source.get(), query) {
                if field.starts_with("definition:") || field.starts_with("verse:") {
                    writeln!(out, "          {field}")?;
                }
            }
        }
        writeln!(out, "  {} of {} documents, {} ms", results.hits.len(), results.total, results.took_ms)?;
    }
    Ok(0)
}
