//! What can be set: flags, their environment variables, their defaults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
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
    /// Address to listen on for gRPC beside --bind, which takes it too; `off`: none. Unless said: 127.0.0.1:50051 for a
    /// standalone node, if that is free, and none in a cluster
    #[arg(long, env = "LUMEN_GRPC_BIND", value_name = "ADDRESS", value_parser = parse_grpc_bind)]
    pub(crate) grpc_bind: Option<GrpcBind>,
    /// Limits and sizes
    #[command(flatten)]
    pub(crate) limits: Limits,
}

/// Where to listen for gRPC beside the main port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrpcBind {
    /// Nowhere.
    Off,
    /// There.
    At(SocketAddr),
}

/// Where LumenKV's clients look for a server.
pub(crate) const GRPC_BIND: &str = "127.0.0.1:50051";

fn parse_grpc_bind(text: &str) -> Result<GrpcBind, String> {
    match text {
        "off" => Ok(GrpcBind::Off),
        text => text
            .parse()
            .map(GrpcBind::At)
            .map_err(|_| format!("{text:?} is neither an address like {GRPC_BIND} nor off")),
    }
}

/// What a node of a cluster is set up with beside.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterConfig {
    /// Number of this node, which no other node of the cluster ever had; one that joins without is given one
    #[arg(long, env = "LUMEN_NODE_ID", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) id: Option<u64>,
    /// Address at which the other nodes reach this one, as host:port
    #[arg(long, env = "LUMEN_RAFT_ADDR", default_value = RAFT_ADDR, value_name = "ADDRESS", value_parser = parse_address)]
    pub(crate) raft_addr: String,
    /// Address to listen on for other nodes, if it is another one than --raft-addr
    #[arg(long, env = "LUMEN_RAFT_BIND", value_name = "ADDRESS")]
    pub(crate) raft_bind: Option<SocketAddr>,
    /// Folder of ca.pem, node.pem and node.key, as `lumen cluster certificates` makes them: nodes talk over TLS, and to no others
    #[arg(long, env = "LUMEN_PEER_TLS", value_name = "DIR")]
    pub(crate) peer_tls: Option<PathBuf>,
    /// URL at which clients reach this node, if it is another one than --bind
    #[arg(long, env = "LUMEN_ADVERTISE_URL", value_name = "URL", value_parser = parse_url)]
    pub(crate) advertise_url: Option<String>,
    /// Name of the cluster: nodes of different ones do not talk
    #[arg(long, env = "LUMEN_CLUSTER_NAME", default_value = "lumen", value_name = "NAME")]
    pub(crate) cluster_name: String,
    /// Form a new cluster of this node, unless it is in one
    #[arg(long, conflicts_with = "join")]
    pub(crate) init: bool,
    /// Join the cluster of the node at this address, unless this one is in a cluster; several are tried in turn
    #[arg(long, env = "LUMEN_JOIN", value_name = "ADDRESS", value_delimiter = ',', value_parser = parse_address)]
    pub(crate) join: Vec<String>,
    /// Address of another node, for POST /cluster/init and /cluster/learners
    #[arg(long = "peer", value_name = "ID=ADDRESS", value_parser = parse_peer)]
    pub(crate) peers: Vec<(u64, String)>,
    /// File of such addresses, one ID=ADDRESS a line
    #[arg(long, value_name = "FILE")]
    pub(crate) peers_file: Option<PathBuf>,
    /// How soon a leader that is gone is replaced: in 1.5 to 2 seconds, or, for nodes in one room, in about half a second
    #[arg(long, env = "LUMEN_PROFILE", default_value = "default", value_name = "NAME")]
    pub(crate) profile: Profile,
    /// What a node that does not lead does with a write
    #[arg(long, env = "LUMEN_FORWARDING", default_value = "forward", value_name = "HOW")]
    pub(crate) forwarding: Forwarding,
    /// Entries this node may be behind and still be ready
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub(crate) ready_lag: u64,
}

/// Where a node listens for others unless told otherwise.
pub(crate) const RAFT_ADDR: &str = "127.0.0.1:7701";

/// How soon leaders are missed.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// For any network.
    Default,
    /// For nodes in one room.
    LanFast,
}

/// What becomes of a write at a node that does not lead.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwarding {
    /// It is handed to the leader, and answered here.
    Forward,
    /// It is answered with 307 and the leader's URL.
    Redirect,
}

impl ClusterConfig {
    /// The addresses of other nodes, by number.
    pub(crate) fn known(&self) -> anyhow::Result<BTreeMap<u64, String>> {
        let mut known: BTreeMap<u64, String> = self.peers.iter().cloned().collect();
        if let Some(file) = &self.peers_file {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            let lines = text.lines().map(str::trim).enumerate();
            for (at, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
                let peer = parse_peer(line);
                let (id, address) =
                    peer.map_err(|reason| anyhow::anyhow!("{}, line {}: {reason}", file.display(), at + 1))?;
                known.insert(id, address);
            }
        }
        Ok(known)
    }
}

/// Reads `host:port`.
fn parse_address(text: &str) -> Result<String, String> {
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && is_port(port) && !text.contains('/') => {
            Ok(text.to_string())
        }
        _ => Err(format!("{text:?} is no address like host:7701")),
    }
}

/// Reads `2=host:7701`.
fn parse_peer(text: &str) -> Result<(u64, String), String> {
    let (id, address) = text.split_once('=').ok_or_else(|| format!("{text:?} is not like 2=host:7701"))?;
    let id = id.trim().parse().ok().filter(|id| *id > 0);
    Ok((id.ok_or_else(|| format!("{text:?} does not begin with a number"))?, parse_address(address.trim())?))
}

/// Reads `http://host:7700`.
fn parse_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match rest.map(|rest| rest.trim_end_matches('/')) {
        Some(rest) if !rest.is_empty() && !rest.contains(['/', '?', '#']) => {
            Ok(text.trim_end_matches('/').to_string())
        }
        _ => Err(format!("{text:?} is no URL like http://host:7700")),
    }
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
    /// Bytes of a key, at most
    #[arg(long, env = "LUMEN_KEY_SIZE", default_value = "8KiB", value_name = "SIZE", value_parser = parse_key_size)]
    pub(crate) key_size: usize,
    /// Bytes of a value of a key, at most
    #[arg(long, env = "LUMEN_VALUE_SIZE", default_value = "16MiB", value_name = "SIZE", value_parser = parse_value_size)]
    pub(crate) value_size: usize,
    /// A search, or a pause of a client that is sending, longer than this is answered with 408
    #[arg(long, env = "LUMEN_REQUEST_TIMEOUT", default_value = "10s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) request_timeout: Duration,
    /// Bytes of the log that are kept for those who follow changes, and in a cluster for nodes that were away
    #[arg(long, env = "LUMEN_KEEP_LOG", default_value = "256MiB", value_name = "SIZE", value_parser = parse_rate)]
    pub(crate) keep_log: u64,
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

impl Limits {
    /// The value of `--blobs`, as it is read.
    pub(crate) fn blobs_text(&self) -> String {
        if self.blobs == usize::MAX { "none".into() } else { self.blobs.to_string() }
    }
}

#[cfg(test)]
impl Limits {
    /// For a node of little data.
    pub(crate) fn small(request_timeout: Duration) -> Limits {
        Limits {
            memory: 1 << 20,
            cache: 1 << 20,
            blobs: usize::MAX,
            scrub: 0,
            key_size: 8 << 10,
            value_size: 16 << 20,
            keep_log: 1 << 20,
            request_timeout,
            connections: 4,
        }
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

/// What the engine and a log entry take, with room for what is beside them.
fn parse_key_size(text: &str) -> Result<usize, String> {
    bounded(text, 32 << 10)
}

fn parse_value_size(text: &str) -> Result<usize, String> {
    bounded(text, 32 << 20)
}

fn bounded(text: &str, most: u64) -> Result<usize, String> {
    match parse_size(text)? {
        size if size <= most => Ok(size as usize),
        _ => Err(format!("{text:?} is out of range: at most {most} bytes")),
    }
}

/// Reads `10s`, `500ms`, `2m`, `24h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    match parse_span(text)? {
        millis @ 1..=86_400_000 => Ok(Duration::from_millis(millis)),
        _ => Err(format!("{text:?} is out of range: 1ms to 24 hours")),
    }
}

/// Reads the same and days, `90d`, of any length, in milliseconds.
pub(crate) fn parse_span(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 =
        number.parse().map_err(|_| format!("{text:?} does not begin with a number, as 10s does"))?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        other => return Err(format!("{other:?} is no unit of time: use ms, s, m, h or d")),
    };
    Ok(number.saturating_mul(factor))
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
    fn addresses_have_ports() {
        assert_eq!(parse_peer("2=host:7701"), Ok((2, "host:7701".into())));
        assert_eq!(parse_url("http://host:7700/"), Ok("http://host:7700".into()));
        assert_eq!(parse_address("[::1]:7701"), Ok("[::1]:7701".into()));
        assert_eq!(parse_grpc_bind("off"), Ok(GrpcBind::Off));
        let at = GrpcBind::At(GRPC_BIND.parse().unwrap());
        assert_eq!(parse_grpc_bind(GRPC_BIND), Ok(at));
        assert!(parse_grpc_bind("50051").is_err());
        for bad in ["host", ":7701", "host:port", "http://host:7701", "2=host"] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
        for bad in ["host:7700", "http://", "http://host/path"] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
        for bad in ["0=host:1", "x=host:1", "host:1"] {
            assert!(parse_peer(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["10", "s", "0s", "99999999999999999999s", "25h", "1w"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
