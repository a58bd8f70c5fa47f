//! `lumen bench`: a load generator for key-values, documents and searches.
//!
//! ```text
//! options.rs   what is said        workload.rs  what is done, by which client
//! session.rs   one command: load, then run by run     distribution.rs, values.rs   to which key, with which bytes
//! driver.rs    the clients' loop   pace.rs      when operations are due in an open loop
//! target.rs    one operation       http.rs over link.rs, grpc.rs
//! record.rs    what was measured   verify.rs    whether what was read is right
//! result.rs    as JSON             table.rs, compare.rs, profile.rs   for people
//! ```
//!
//! Figures go to stdout, how far it is to stderr. What fails is counted by what it says and never left out; the exit code is
//! 1 if anything did.

mod compare;
mod distribution;
mod driver;
mod grpc;
mod host;
mod http;
mod link;
mod options;
mod pace;
mod profile;
mod progress;
mod record;
mod result;
mod session;
mod table;
mod target;
#[cfg(test)]
mod tests;
mod values;
mod verify;
mod workload;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use ::http::Method;
use bytes::Bytes;
use clap::Args;
use serde_json::{Map, Value, json};

use self::distribution::Distribution;
use self::options::{Action, Docs, GRPC, Kv, Run, Search};
use self::result::RunResult;
use self::session::{Connector, Job, Measured, authority, measure};
use self::values::Shape;
use self::workload::{KeySpace, Kind, Mix};
use super::client::{Client, encode};
use super::io_failure;
use super::search::search_path;
use crate::error::{Failure, Kind as FailureKind, exit};
use crate::serve::allow_many_files;

/// Something is worse than it was, and `--fail-if-worse` is said.
const WORSE: u8 = 4;

/// What documents look like.
const MAPPING: &str =
    r#"{"fields":{"text":{"type":"text"},"tag":{"type":"keyword"},"counter":{"type":"i64"}}}"#;

/// `lumen bench`
#[derive(Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    action: Action,
}

impl Bench {
    /// Measures, and says what came of it.
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        // Each client has a connection.
        allow_many_files();
        match self.action {
            Action::Kv(kv) => run_keys(*kv).await,
            Action::Docs(docs) => run_documents(*docs).await,
            Action::Search(search) => run_searches(*search).await,
        }
    }
}

async fn run_keys(kv: Kv) -> anyhow::Result<u8> {
    let old = read_old(&kv.run)?;
    let shape = kv.keys.shape(false)?;
    let grpc = kv.grpc.clone().or_else(|| kv.seed_profile.then(|| GRPC.to_string()));
    let wants_pairs = kv.keys.verify;
    let mut settings = Map::from_iter([("what".to_string(), Value::from("kv"))]);
    let connector = match grpc {
        Some(url) => {
            settings.insert("over".into(), "gRPC".into());
            settings.insert("url".into(), url.as_str().into());
            settings.insert("channels".into(), json!(kv.channels));
            let place = Arc::new(grpc::Place { space: kv.space.clone(), shape, wants_pairs });
            Connector::Grpc { url, channels: kv.channels, place }
        }
        None => {
            settings.insert("over".into(), "HTTP/1.1".into());
            settings.insert("url".into(), kv.server.url.as_str().into());
            let face = http::Face::Keys(format!("/kv/{}", encode(&kv.space)));
            http_connector(&kv.server.url, face, shape, wants_pairs)?
        }
    };
    settings.insert("space".into(), kv.space.as_str().into());
    if kv.seed_profile {
        settings.insert("profile".into(), "LumenKV".into());
        kv.run.describe(&mut settings);
        let measured = profile::measure(&connector, shape, &kv.run).await?;
        return conclude(settings, &measured, &kv.run, old.as_ref(), profile::print);
    }
    kv.keys.describe(&mut settings);
    kv.run.describe(&mut settings);
    let job = job_of(connector, shape, &kv.keys, &kv.run);
    let measured = measure(&job).await?;
    conclude(settings, &measured, &kv.run, old.as_ref(), table::print)
}

async fn run_documents(docs: Docs) -> anyhow::Result<u8> {
    let old = read_old(&docs.run)?;
    let shape = docs.keys.shape(true)?;
    let client = Client::new(&docs.server.url)?;
    let collection = format!("/collections/{}", encode(&docs.collection));
    let face = http::Face::Documents(format!("{collection}/documents/"));
    let connector = http_connector(&docs.server.url, face, shape, false)?;
    let made = client.expect(Method::PUT, &collection, Bytes::from_static(MAPPING.as_bytes())).await?;
    let is_ours = made.status == 201;
    if !is_ours {
        say!("collection {:?} is there; it is used, and stays", docs.collection);
    }
    let job = job_of(connector, shape, &docs.keys, &docs.run);
    let measured = measure(&job).await;
    if is_ours && !docs.keep {
        // What went wrong before is told first.
        let dropped = client.expect(Method::DELETE, &collection, Bytes::new()).await;
        if measured.is_ok() {
            dropped?;
        }
    }
    let mut settings = Map::from_iter([
        ("what".to_string(), Value::from("docs")),
        ("over".to_string(), Value::from("HTTP/1.1")),
        ("url".to_string(), Value::from(docs.server.url.as_str())),
        ("collection".to_string(), Value::from(docs.collection.as_str())),
    ]);
    docs.keys.describe(&mut settings);
    docs.run.describe(&mut settings);
    conclude(settings, &measured?, &docs.run, old.as_ref(), table::print)
}

async fn run_searches(search: Search) -> anyhow::Result<u8> {
    let old = read_old(&search.run)?;
    let mut queries = search.query.clone();
    if let Some(path) = &search.queries {
        let text = read(path)?;
        queries.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string));
    }
    if queries.is_empty() {
        return Err(Failure::new(FailureKind::InvalidParameter, "there is no query to send").into());
    }
    let path = |query: &String| Bytes::from(search_path(&search.collection, query, search.limit, 0));
    let paths: Arc<Vec<Bytes>> = Arc::new(queries.iter().map(path).collect());
    let shape = Shape { key_size: 16, value_size: 0, is_document: true };
    let count = paths.len() as u64;
    let job = Job {
        connector: http_connector(&search.server.url, http::Face::Searches(paths), shape, false)?,
        shape,
        mix: Mix::only(Kind::Search),
        distribution: Distribution::Sequential,
        scan_rows_max: 1,
        keys: Arc::new(KeySpace::new(count)),
        key_count: count,
        has_load: false,
        is_verified: false,
        run: &search.run,
    };
    let mut settings = Map::from_iter([
        ("what".to_string(), Value::from("search")),
        ("over".to_string(), Value::from("HTTP/1.1")),
        ("url".to_string(), Value::from(search.server.url.as_str())),
        ("collection".to_string(), Value::from(search.collection.as_str())),
        ("queries".to_string(), Value::from(count)),
        ("limit".to_string(), Value::from(search.limit)),
    ]);
    search.run.describe(&mut settings);
    conclude(settings, &measure(&job).await?, &search.run, old.as_ref(), table::print)
}

fn job_of<'a>(connector: Connector, shape: Shape, keys: &options::Keys, run: &'a Run) -> Job<'a> {
    Job {
        connector,
        shape,
        mix: keys.mix.clone(),
        distribution: keys.distribution(),
        scan_rows_max: keys.scan_length,
        keys: Arc::new(KeySpace::new(keys.keys)),
        key_count: keys.keys,
        has_load: keys.load,
        is_verified: keys.verify,
        run,
    }
}

fn http_connector(
    url: &str,
    face: http::Face,
    shape: Shape,
    wants_pairs: bool,
) -> Result<Connector, Failure> {
    let authority = authority(url)?;
    Ok(Connector::Http(Arc::new(http::Place { authority, face, shape, wants_pairs })))
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| io_failure(&path.display().to_string(), &error))
}

/// The earlier result: one that cannot be read should not cost a whole run first.
fn read_old(run: &Run) -> Result<Option<Value>, Failure> {
    let Some(path) = &run.compare else { return Ok(None) };
    let old: Value = serde_json::from_str(&read(path)?).unwrap_or_default();
    if !old["runs"].is_array() {
        let message = format!("{} is no --json of lumen bench", path.display());
        return Err(Failure::new(FailureKind::Validation, message));
    }
    Ok(Some(old))
}

/// Prints, writes, compares; the exit code that says how it went.
fn conclude(
    settings: Map<String, Value>,
    measured: &Measured,
    run: &Run,
    old: Option<&Value>,
    print: fn(&mut dyn Write, &Measured) -> std::io::Result<()>,
) -> anyhow::Result<u8> {
    let mut whole = result::json(settings, measured);
    let is_json_on_stdout = run.json.as_deref() == Some(Path::new("-"));
    let mut out: Box<dyn Write> =
        if is_json_on_stdout { Box::new(std::io::stderr()) } else { Box::new(std::io::stdout()) };
    print(&mut out, measured)?;
    let mut is_worse = false;
    if let Some(old) = old {
        let compared = compare::compare(old, &whole, run.worse);
        compare::print(&mut out, &compared, run.worse)?;
        is_worse = compared.is_worse();
        whole["compared"] = compared.json();
    }
    out.flush()?;
    if let Some(path) = &run.json {
        let text = format!("{}\n", serde_json::to_string_pretty(&whole)?);
        match is_json_on_stdout {
            true => std::io::stdout().write_all(text.as_bytes())?,
            false => {
                std::fs::write(path, text).map_err(|error| io_failure(&path.display().to_string(), &error))?
            }
        }
    }
    if let Some(failure) = &measured.failure {
        say!("lumen: no further run: {failure}");
        return Ok(failure.kind.exit_code());
    }
    let errors: u64 = measured.all().map(RunResult::failed).sum();
    let wrong: u64 = measured.all().map(|run| run.driven.records.wrong).sum();
    Ok(match () {
        () if measured.is_interrupted => exit::INTERRUPTED,
        () if wrong > 0 || (errors > 0 && !run.allow_errors) => exit::REFUSED,
        () if is_worse && run.fail_if_worse => WORSE,
        () => 0,
    })
}
