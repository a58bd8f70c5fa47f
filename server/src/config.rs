//! What can be set: flags, their environment variables, their defaults.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// Where a server listens unless told otherwise.
pub(crate) const BIND: &str = "127.0.0.1:7700";

/// Settings of one node.
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeConfig {
    /// Folder of the data; made if it is not there
    #[arg(long, env = "LUMEN_DATA_DIR", default_value = "data", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "LUMEN_BIND", default_value = BIND, value_name = "ADDRESS")]
    pub(crate) bind: SocketAddr,
    /// Limits and sizes
    #[command(flatten)]
    pub(crate) limits: Limits,
}

/// Sizes and times a node keeps to.
#[derive(Args, Clone, Debug)]
pub(crate) struct Limits {
    /// Memory for documents that are not in a table yet
    #[arg(long, env = "LUMEN_MEMORY", default_value = "64MiB", value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory: u64,
    /// Memory for blocks read from disk
    #[arg(long, env = "LUMEN_CACHE", default_value = "256MiB", value_name = "SIZE", value_parser = parse_size)]
    pub(crate) cache: u64,
    /// Documents from this size on lie in files for long values; `none`: no document does
    #[arg(long, env = "LUMEN_BLOBS", default_value = "none", value_name = "SIZE", value_parser = parse_blobs)]
    pub(crate) blobs: usize,
    /// Bytes a second read in the background to find damage before somebody else does; 0: none
    #[arg(long, env = "LUMEN_SCRUB", default_value = "4MiB", value_name = "SIZE", value_parser = parse_rate)]
    pub(crate) scrub: u64,
    /// A search, or a pause of a client that is sending, longer than this is answered with 408
    #[arg(long, env = "LUMEN_REQUEST_TIMEOUT", default_value = "10s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) request_timeout: Duration,
    /// Connections served at once; more wait to be accepted
    #[arg(long, env = "LUMEN_CONNECTIONS", default_value_t = 1024, value_name = "N", value_parser = parse_connections)]
    pub(crate) connections: usize,
}

/// Reads `64MiB`, `1.5GB`, `4096`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 =
        number.parse().map_err(|_| format!("{text:?} does not begin with a number, as 64MiB does"))?;
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("{other:?} is no unit of size: use KiB, MiB, GiB, KB, MB or GB")),
    };
    let bytes = number * factor;
    if bytes < 1.0 || bytes > (1u64 << 50) as f64 {
        return Err(format!("{text:?} is out of range"));
    }
    Ok(bytes as u64)
}

#[cfg(test)]
impl Limits {
    /// For a node of little data.
    pub(crate) fn small(request_timeout: Duration) -> Limits {
        let (memory, cache, blobs) = (1 << 20, 1 << 20, usize::MAX);
        Limits { memory, cache, blobs, scrub: 0, request_timeout, connections: 4 }
    }
}

fn parse_blobs(text: &str) -> Result<usize, String> {
    if text == "none" {
        return Ok(usize::MAX);
    }
    parse_size(text).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

fn parse_rate(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { parse_size(text) }
}

/// Reads `10s`, `500ms`, `2m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 =
        number.parse().map_err(|_| format!("{text:?} does not begin with a number, as 10s does"))?;
    let millis = match unit {
        "ms" => number,
        "s" => number.saturating_mul(1000),
        "m" => number.saturating_mul(60_000),
        other => return Err(format!("{other:?} is no unit of time: use ms, s or m")),
    };
    if millis == 0 || millis > 86_400_000 {
        return Err(format!("{text:?} is out of range: 1ms to 24 hours"));
    }
    Ok(Duration::from_millis(millis))
}

fn parse_connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1_000_000) => Ok(n),
        _ => Err(format!("{text:?} is no number from 1 to 1000000")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("1.5 KB"), Ok(1500));
        assert_eq!(parse_size("4096"), Ok(4096));
        for bad in ["", "MiB", "-1", "1XB", "0", "1e99GiB", "99999999999GiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!((parse_rate("0"), parse_rate("4MiB")), (Ok(0), Ok(4 << 20)));
        assert_eq!((parse_blobs("none"), parse_blobs("4KiB")), (Ok(usize::MAX), Ok(4096)));
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["10", "s", "0s", "99999999999999999999s", "1h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
