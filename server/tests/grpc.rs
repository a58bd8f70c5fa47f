//! gRPC over real processes: where it listens, and counters by conditional puts under 64 clients, exact through kills of the leader.

mod support;

/// The messages of `kv.proto`.
#[allow(clippy::all, unreachable_pub, dead_code)]
mod proto {
    tonic::include_proto!("kv");
}

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::key_value_store_client::KeyValueStoreClient;
use proto::{GetRequest, PutRequest};
use support::cluster::Cluster;
use support::lumen;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const CLIENTS: usize = 64;
const COUNTERS: usize = 8;
/// How often each client counts.
const TIMES: u64 = 12;

/// One client's part of its counter is a number of its own: so it knows afterwards whether a put of which it was told nothing
/// took effect.
struct Client {
    number: usize,
    nodes: Vec<KeyValueStoreClient<Channel>>,
    /// Puts whose outcome nobody told.
    unknown: Arc<AtomicU64>,
}

impl Client {
    fn key(&self) -> String {
        format!("counter{}", self.number % COUNTERS)
    }

    fn place(&self) -> usize {
        self.number / COUNTERS
    }

    async fn read(&mut self, attempt: usize) -> Option<(u64, Vec<u64>)> {
        let node = attempt % self.nodes.len();
        let get = GetRequest { key: self.key(), ..GetRequest::default() };
        let asked = self.nodes[node].get(get);
        let found = tokio::time::timeout(Duration::from_secs(10), asked).await.ok()?.ok()?.into_inner();
        let text = String::from_utf8(found.value.to_vec()).expect("text");
        let mut parts: Vec<u64> = text.split(' ').filter_map(|part| part.parse().ok()).collect();
        parts.resize(CLIENTS / COUNTERS, 0);
        Some((found.version, parts))
    }

    async fn count_up(&mut self) {
        let mut attempt = self.number;
        for nth in 1..=TIMES {
            loop {
                attempt += 1;
                let Some((version, mut parts)) = self.read(attempt).await else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                if parts[self.place()] == nth {
                    break; // it took effect, though nobody said so
                }
                assert_eq!(parts[self.place()], nth - 1, "client {}", self.number);
                parts[self.place()] = nth;
                let value = parts.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
                let put = PutRequest {
                    key: self.key(),
                    value: value.into(),
                    if_version: Some(version),
                    ..PutRequest::default()
                };
                let node = attempt % self.nodes.len();
                let put = tokio::time::timeout(Duration::from_secs(10), self.nodes[node].put(put)).await;
                match put {
                    Ok(Ok(_)) => break,
                    // Somebody was quicker.
                    Ok(Err(status)) if status.code() == Code::Aborted => {}
                    Ok(Err(status)) => {
                        let code = status.code();
                        assert!(
                            [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::ResourceExhausted]
                                .contains(&code),
                            "{status}"
                        );
                        self.unknown.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(_) => drop(self.unknown.fetch_add(1, Ordering::Relaxed)),
                }
            }
        }
    }
}

#[test]
fn conditional_puts_count_exactly_whichever_nodes_die() {
    let mut cluster = Cluster::of_three(&[]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let urls: Vec<String> = cluster.nodes.values().map(|node| node.url()).collect();
    let unknown = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (urls, unknown) = (urls.clone(), unknown.clone());
            runtime.spawn(async move {
                let connect = |url: String| {
                    let endpoint = Endpoint::from_shared(url).expect("a URL");
                    let endpoint = endpoint.connect_timeout(Duration::from_secs(1));
                    KeyValueStoreClient::new(endpoint.connect_lazy())
                };
                let nodes = urls.into_iter().map(connect).collect();
                Client { number, nodes, unknown }.count_up().await;
            })
        })
        .collect();
    let mut deaths = 0;
    while deaths < 3 || !clients.iter().all(tokio::task::JoinHandle::is_finished) {
        if deaths == 3 {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        std::thread::sleep(Duration::from_millis(700));
        let leader = cluster.leader();
        cluster.nodes.remove(&leader).expect("it runs").kill();
        cluster.start(leader, &[]);
        deaths += 1;
    }
    let total = runtime.block_on(async {
        for client in clients {
            client.await.expect("a client that counted");
        }
        let mut total = 0;
        for number in 0..COUNTERS {
            let url = cluster.nodes[&cluster.leader()].url();
            let endpoint = Endpoint::from_shared(url).expect("a URL");
            let nodes = vec![KeyValueStoreClient::new(endpoint.connect_lazy())];
            let mut reader = Client { number, nodes, unknown: unknown.clone() };
            let (_, parts) = reader.read(0).await.expect("readable");
            total += parts.iter().sum::<u64>();
        }
        total
    });
    assert_eq!(total, CLIENTS as u64 * TIMES);
    println!("{total} counted, {} puts of unknown outcome", unknown.load(Ordering::Relaxed));
}

/// The lines of a server's stderr up to that which says that it serves.
fn says_at_its_start(command: &mut Command) -> (Child, Vec<String>) {
    let mut child = command.stderr(Stdio::piped()).spawn().expect("lumen starts");
    let lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let mut said = Vec::new();
    for line in lines {
        let is_last = line.contains("\"serving\"");
        said.push(line);
        if is_last {
            break;
        }
    }
    (child, said)
}

#[test]
fn the_port_of_lumenkvs_clients_is_taken_if_it_is_free_and_no_reason_to_end_if_not() {
    // Somebody has it: this test, or whoever has had it before.
    let _taken = TcpListener::bind("127.0.0.1:50051");
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = lumen();
    command.env_remove("LUMEN_GRPC_BIND").args(["standalone", "--bind", "127.0.0.1:0", "--data-dir"]);
    command.arg(folder.path().join("one"));
    let (mut child, said) = says_at_its_start(&mut command);
    assert!(said.iter().any(|line| line.contains("serves http://127.0.0.1:")), "{said:?}");
    assert!(said.iter().any(|line| line.contains("gRPC is at the main port alone")), "{said:?}");
    child.kill().expect("killed");
    child.wait().expect("it ends");
    // One that was asked for has to be had.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let mut command = lumen();
    command.args(["standalone", "--bind", "127.0.0.1:0", "--grpc-bind", &address, "--data-dir"]);
    let output = command.arg(folder.path().join("two")).output().expect("lumen runs");
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&address));
    drop(taken);
    let mut command = lumen();
    command.args(["standalone", "--bind", "127.0.0.1:0", "--grpc-bind", &address, "--data-dir"]);
    let (mut child, said) = says_at_its_start(command.arg(folder.path().join("two")));
    assert!(said.iter().any(|line| line.contains(&format!("gRPC: {address}"))), "{said:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let found = runtime.block_on(async {
        let mut store = KeyValueStoreClient::new(
            Endpoint::from_shared(format!("http://{address}")).expect("a URL").connect_lazy(),
        );
        let put = PutRequest { key: "k".into(), value: b"v"[..].into(), ..PutRequest::default() };
        store.put(put).await.expect("put");
        store.get(GetRequest { key: "k".into(), ..GetRequest::default() }).await.expect("got").into_inner()
    });
    assert!(found.found && &found.value[..] == b"v");
    child.kill().expect("killed");
    child.wait().expect("it ends");
}
