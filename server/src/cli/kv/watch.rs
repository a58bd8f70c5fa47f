//! `lumen kv watch`: what happens to keys, told once each, also when the connection breaks off and another begins.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::Keys;
use crate::cli::client::{encode, failure_from};
use crate::cli::printable;
use crate::error::{Failure, exit};

/// Before it connects again.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn watch(
    keys: &Keys,
    prefix: &str,
    since: Option<u64>,
    until_now: bool,
) -> anyhow::Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        ended = follow(keys, prefix, since, until_now) => ended,
        _ = interrupt.recv() => Ok(if until_now { exit::INTERRUPTED } else { 0 }),
    }
}

async fn follow(keys: &Keys, prefix: &str, mut since: Option<u64>, until_now: bool) -> anyhow::Result<u8> {
    let mut is_first = true;
    loop {
        let from = since.map_or(String::new(), |since| format!("&since={since}"));
        let (space, prefix, follows) = (encode(&keys.space), encode(prefix), !until_now);
        let path = format!("/kv/{space}/watch?prefix={prefix}&follow={follows}{from}");
        match keys.client.follow(&path).await {
            Ok(body) => {
                let whole = tell(body, &mut since).await?;
                if until_now && whole {
                    return Ok(0);
                }
                say!("the connection broke off; connecting again");
            }
            Err(failure) if is_first || failure.kind.exit_code() != exit::UNAVAILABLE => {
                return Err(failure.into());
            }
            Err(failure) => say!("{failure}; trying again"),
        }
        is_first = false;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Prints what comes; false when it breaks off.
async fn tell(mut body: Incoming, since: &mut Option<u64>) -> anyhow::Result<bool> {
    let is_terminal = std::io::stdout().is_terminal();
    let mut text = Vec::new();
    loop {
        let data = match body.frame().await {
            Some(Ok(frame)) => frame.into_data().unwrap_or_else(|_| Bytes::new()),
            Some(Err(_)) => return Ok(false),
            None => return Ok(text.is_empty()),
        };
        text.extend_from_slice(&data);
        let Some(end) = memchr::memrchr(b'\n', &text) else { continue };
        let rest = text.split_off(end + 1);
        let mut out = std::io::stdout().lock();
        for line in std::mem::replace(&mut text, rest).split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let event: Value = serde_json::from_slice(line)?;
            if let Some(error) = event.get("error") {
                return Err(Failure::into(failure_from(error)));
            }
            for change in event["changes"].as_array().into_iter().flatten() {
                match is_terminal {
                    true => writeln!(out, "{}", in_words(change))?,
                    false => {
                        let mut change = change.clone();
                        change["seq"] = event["seq"].clone();
                        writeln!(out, "{change}")?;
                    }
                }
            }
            *since = event["seq"].as_u64().or(*since);
        }
        out.flush()?;
    }
}

fn in_words(change: &Value) -> String {
    let text = |name: &str| {
        let base64 = || Some(format!("base64:{}", change[format!("{name}_base64")].as_str()?));
        change[name].as_str().map(printable).or_else(base64)
    };
    match change["op"].as_str().unwrap_or_default() {
        "put" => {
            format!("put\t{}\t{}", text("key").unwrap_or_default(), text("value").unwrap_or_default())
        }
        "delete_range" => {
            let end = text("end").unwrap_or_else(|| "the end".into());
            format!("delete\tfrom {} to before {end}", text("start").unwrap_or_default())
        }
        op => format!("{op}\t{}", text("key").unwrap_or_default()),
    }
}
