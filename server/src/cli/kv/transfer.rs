//! `lumen kv export` and `lumen kv import`: keys and values as lines of JSON, out at one moment and in by batches.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use http::Method;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use lumen::prefix_end;
use serde_json::{Map, Value, json};
use tonic::transport::Endpoint;

use super::Keys;
use crate::cli::client::encode;
use crate::cli::io_failure;
use crate::error::{Failure, Kind};
use crate::grpc::proto::kv::ScanRequest;
use crate::grpc::proto::kv::key_value_store_client::KeyValueStoreClient;
use crate::http::keys::put_bytes;

/// Lines of a batch, at most, and bytes from which on it takes no more.
const BATCH_LINES: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;
/// A line holds a value of 16 MiB in base64, and more.
const LINE_BYTES_MAX: usize = 64 << 20;
/// A page of an export: larger than the largest value.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template(&format!(" {what} {{spinner}} {{msg}}")) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn rate(count: u64, since: Instant) -> String {
    let per_second = count as f64 / since.elapsed().as_secs_f64().max(0.001);
    format!("{} keys  {}/s", HumanCount(count), HumanCount(per_second as u64))
}

/// All of a file, or of stdin.
pub(super) fn read_all(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = open(path)?.read_to_end(&mut bytes);
    read.map_err(|error| io_failure(&path.display().to_string(), &error))?;
    Ok(bytes)
}

fn open(path: &Path) -> Result<Box<dyn BufRead + Send>, Failure> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = File::open(path).map_err(|error| io_failure(&path.display().to_string(), &error))?;
    Ok(Box::new(BufReader::with_capacity(1 << 20, file)))
}

/// Writes all that begins with a prefix.
pub(super) async fn export(keys: &Keys, prefix: &str, output: Option<&Path>) -> anyhow::Result<u8> {
    let (begun, mut count) = (Instant::now(), 0u64);
    let unreachable = |error: tonic::transport::Error| keys.client.no_answer(&error);
    let channel = Endpoint::from_shared(keys.client.base()).map_err(unreachable)?;
    let channel = channel.connect().await.map_err(unreachable)?;
    let mut store = KeyValueStoreClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let start = prefix.as_bytes().to_vec();
    let end = prefix_end(&start).unwrap_or_default();
    let request = ScanRequest {
        space: keys.space.clone(),
        start: start.into(),
        end: end.into(),
        ..ScanRequest::default()
    };
    let told = |status: tonic::Status| Failure::new(Kind::Unavailable, status.message().to_owned());
    let mut pages = store.scan(request).await.map_err(told)?.into_inner();
    let mut out: Box<dyn Write> = match output {
        None => Box::new(BufWriter::new(std::io::stdout().lock())),
        Some(path) => {
            let file = File::create(path).map_err(|error| io_failure(&path.display().to_string(), &error))?;
            Box::new(BufWriter::with_capacity(1 << 20, file))
        }
    };
    let bar = spinner("exporting");
    while let Some(page) = pages.message().await.map_err(told)? {
        for pair in page.pairs {
            let mut line = Map::new();
            put_bytes(&mut line, "key", &pair.key, false);
            put_bytes(&mut line, "value", &pair.value, false);
            line.insert("version".into(), pair.version.into());
            if pair.expires_at_ms > 0 && pair.lease == 0 {
                line.insert("expires_ms".into(), pair.expires_at_ms.into());
            }
            writeln!(out, "{}", Value::Object(line))?;
            count += 1;
        }
        bar.set_message(rate(count, begun));
    }
    out.flush()?;
    bar.finish_and_clear();
    say!("exported {}", rate(count, begun));
    Ok(0)
}

/// What is to be put, and where its first line is.
#[derive(Default)]
struct Batch {
    ops: Vec<Value>,
    bytes: usize,
    first_line: u64,
}

/// Puts what the lines of a file say; each batch of them is there whole or not at all.
pub(super) async fn import(keys: &Keys, path: &Path) -> anyhow::Result<u8> {
    let mut source = open(path)?;
    let (begun, mut count, mut number) = (Instant::now(), 0u64, 0u64);
    let bar = spinner("importing");
    let mut batch = Batch::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let limited = (&mut source).take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line);
        let read = limited.map_err(|error| io_failure(&path.display().to_string(), &error))?;
        number += 1;
        if line.len() > LINE_BYTES_MAX {
            return Err(Failure::too_large(&format!("line {number}"), LINE_BYTES_MAX as u64).into());
        }
        if !line.trim_ascii().is_empty() {
            if batch.ops.is_empty() {
                batch.first_line = number;
            }
            batch.bytes += line.len();
            batch.ops.extend(operation(&line, number)?);
        }
        let is_last = read == 0;
        if !batch.ops.is_empty() && (is_last || batch.ops.len() == BATCH_LINES || batch.bytes >= BATCH_BYTES)
        {
            count += batch.ops.len() as u64;
            send(keys, std::mem::take(&mut batch)).await?;
            bar.set_message(rate(count, begun));
        }
        if is_last {
            break;
        }
    }
    bar.finish_and_clear();
    say!("imported {}", rate(count, begun));
    Ok(0)
}

async fn send(keys: &Keys, batch: Batch) -> Result<(), Failure> {
    let path = format!("/kv/{}/batch", encode(&keys.space));
    let body = json!({ "ops": batch.ops }).to_string();
    loop {
        let failure = match keys.client.expect(Method::POST, &path, body.clone().into()).await {
            Ok(_) => return Ok(()),
            Err(failure) => failure,
        };
        // All of it is puts: done again, it is the same.
        match failure.retry_after {
            Some(after) if failure.kind == Kind::Overloaded => tokio::time::sleep(after).await,
            _ => {
                let from = batch.first_line;
                let message = format!("the batch from line {from} on is refused: {}", failure.message);
                return Err(Failure { message, ..failure });
            }
        }
    }
}

/// The put that a line asks for; none for what has expired meanwhile.
fn operation(line: &[u8], number: u64) -> Result<Option<Value>, Failure> {
    let bad = |why: String| Failure::new(Kind::BadRequest, format!("line {number}: {why}"));
    let Value::Object(line) = serde_json::from_slice(line).map_err(|error| bad(error.to_string()))? else {
        return Err(bad("is no JSON object".into()));
    };
    let mut put = Map::new();
    for (name, value) in line {
        match name.as_str() {
            "key" | "key_base64" | "value" | "value_base64" | "ttl" => drop(put.insert(name, value)),
            "expires_ms" => {
                let at = value.as_u64().ok_or_else(|| bad("expires_ms is a number".into()))?;
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                let left = at.saturating_sub(now.map_or(0, |now| now.as_millis() as u64));
                if left == 0 {
                    return Ok(None);
                }
                put.insert("ttl".into(), format!("{left}ms").into());
            }
            // What was, and cannot be again.
            "version" | "lease" => {}
            other => return Err(bad(format!("there is no member {other:?} here"))),
        }
    }
    Ok(Some(json!({ "put": put })))
}
