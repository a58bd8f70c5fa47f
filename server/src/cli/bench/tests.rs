//! The gRPC client against a server of the generated trait over a sorted map, and what connections do that break.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use futures_util::{Stream, stream};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::codegen::Service as _;
use tonic::{Request, Response, Status, Streaming};

use super::distribution::Distribution;
use super::driver::{Drive, Length, drive};
use super::grpc::{self, Grpc};
use super::http::{self, Http};
use super::options::Run;
use super::profile;
use super::session::Connector;
use super::target::{Client as _, Target};
use super::values::Shape;
use super::verify::Verifier;
use super::workload::{KeySpace, Kind, Mix, Op, Plan};
use crate::grpc::proto::kv;
use crate::grpc::proto::kv::key_value_store_server::{KeyValueStore, KeyValueStoreServer};

const SHAPE: Shape = Shape { key_size: 8, value_size: 64, is_document: false };

/// Key-values in memory; forgets some of what it is told if it is to.
#[derive(Default)]
struct Store {
    pairs: Mutex<BTreeMap<Bytes, (Bytes, u64)>>,
    seq: AtomicU64,
    forgets: bool,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

fn absent<T>() -> Answer<T> {
    Err(Status::unimplemented("not here"))
}

#[tonic::async_trait]
impl KeyValueStore for Store {
    type ScanStream = Answers<kv::ScanResponse>;
    type WatchStream = Answers<kv::WatchResponse>;
    type LeaseKeepAliveStream = Answers<kv::Lease>;

    async fn put(&self, request: Request<kv::PutRequest>) -> Answer<kv::PutResponse> {
        let put = request.into_inner();
        let seq = self.seq.fetch_add(1, Ordering::SeqCst) + 1;
        if !(self.forgets && seq.is_multiple_of(5)) {
            self.pairs.lock().insert(put.key.into(), (put.value, seq));
        }
        Ok(Response::new(kv::PutResponse { success: true, seq, previous: None }))
    }

    async fn get(&self, request: Request<kv::GetRequest>) -> Answer<kv::GetResponse> {
        let pairs = self.pairs.lock();
        let found = pairs.get(request.into_inner().key.as_bytes());
        let (value, version) = found.cloned().unwrap_or_default();
        Ok(Response::new(kv::GetResponse { value, version, found: found.is_some(), ..Default::default() }))
    }

    async fn delete(&self, request: Request<kv::DeleteRequest>) -> Answer<kv::DeleteResponse> {
        let seq = self.seq.fetch_add(1, Ordering::SeqCst) + 1;
        let success = self.pairs.lock().remove(request.into_inner().key.as_bytes()).is_some();
        Ok(Response::new(kv::DeleteResponse { success, seq, deleted: u64::from(success) }))
    }

    async fn scan(&self, request: Request<kv::ScanRequest>) -> Answer<Self::ScanStream> {
        let scan = request.into_inner();
        let pairs = self.pairs.lock();
        let pair = |(key, (value, version)): (&Bytes, &(Bytes, u64))| kv::Pair {
            key: key.clone(),
            value: value.clone(),
            version: *version,
            ..Default::default()
        };
        let pairs: Vec<_> = pairs.range(scan.start..).take(scan.limit as usize).map(pair).collect();
        // In pages of three.
        let pages =
            pairs.chunks(3).map(|page| Ok(kv::ScanResponse { pairs: page.to_vec(), ..Default::default() }));
        Ok(Response::new(Box::pin(stream::iter(pages.collect::<Vec<_>>()))))
    }

    async fn batch(&self, _: Request<kv::BatchRequest>) -> Answer<kv::BatchResponse> {
        absent()
    }

    async fn txn(&self, _: Request<kv::TxnRequest>) -> Answer<kv::TxnResponse> {
        absent()
    }

    async fn watch(&self, _: Request<kv::WatchRequest>) -> Answer<Self::WatchStream> {
        absent()
    }

    async fn lease_grant(&self, _: Request<kv::LeaseGrantRequest>) -> Answer<kv::Lease> {
        absent()
    }

    async fn lease_keep_alive(&self, _: Request<Streaming<kv::Lease>>) -> Answer<Self::LeaseKeepAliveStream> {
        absent()
    }

    async fn lease_revoke(&self, _: Request<kv::Lease>) -> Answer<kv::Empty> {
        absent()
    }

    async fn put_stream(&self, _: Request<Streaming<kv::PutRequest>>) -> Answer<kv::BatchResponse> {
        absent()
    }
}

async fn serve(store: Store) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = KeyValueStoreServer::new(store);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = server.clone();
            let service = service_fn(move |request: ::http::Request<Incoming>| server.clone().call(request));
            let builder = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

fn drive_of(mix: &str, operations: u64, verifier: Option<Arc<Verifier>>, run: u64) -> Drive {
    let plan = Plan {
        mix: Mix::parse(mix).expect("a mix"),
        distribution: if run == 0 { Distribution::Sequential } else { Distribution::Zipfian },
        scan_rows_max: 10,
        seed: 1,
        run,
    };
    Drive {
        length: Length::Operations(operations),
        warm_up: Duration::ZERO,
        pace: None,
        timeout: Duration::from_secs(20),
        plan: Arc::new(plan),
        keys: Arc::new(KeySpace::new(100)),
        verifier,
    }
}

/// All kinds of operations by four clients over two channels; errors, wrong answers, and what was done of each kind.
async fn all_kinds(store: Store) -> (u64, u64, [u64; 5]) {
    let url = format!("http://{}", serve(store).await);
    let place = Arc::new(grpc::Place { space: "bench".into(), shape: SHAPE, wants_pairs: true });
    let verifier = Arc::new(Verifier::new(SHAPE, 100, false));
    let channels =
        [grpc::connect(&url).await.expect("connects"), grpc::connect(&url).await.expect("connects")];
    let (mut errors, mut wrong, mut done) = (0, 0, [0; 5]);
    let mixed = "put=20,get=20,scan=20,rmw=20,insert=20";
    for (run, mix, operations) in [(0, "put=1", 100), (1, mixed, 1000)] {
        let client = |n: usize| Target::Grpc(Box::new(Grpc::new(&place, channels[n % 2].clone())));
        let clients = (0..4).map(client).collect();
        let how = drive_of(mix, operations, Some(verifier.clone()), run);
        let driven = drive(clients, how, std::future::pending(), |_| {}).await;
        errors += driven.records.error_count();
        wrong += driven.records.wrong;
        let kinds = [Kind::Put, Kind::Get, Kind::Scan, Kind::Rmw, Kind::Insert];
        done = kinds.map(|kind| driven.records.kind(kind).map_or(0, |of| of.histogram.len()));
    }
    (errors, wrong, done)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_goes_over_grpc_and_a_store_that_is_right_is_found_right() {
    let (errors, wrong, done) = all_kinds(Store::default()).await;
    assert_eq!((errors, wrong), (0, 0));
    assert_eq!(done.iter().sum::<u64>(), 1000);
    assert!(done.iter().all(|kind| (120..280).contains(kind)), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_forgets_what_it_acknowledged_is_found_out() {
    let (errors, wrong, _) = all_kinds(Store { forgets: true, ..Store::default() }).await;
    assert_eq!(errors, 0);
    assert!(wrong > 10, "{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_over_grpc_say_whether_there_was_one() {
    let url = format!("http://{}", serve(Store::default()).await);
    let place = Arc::new(grpc::Place { space: String::new(), shape: SHAPE, wants_pairs: false });
    let mut client = Grpc::new(&place, grpc::connect(&url).await.expect("connects"));
    let op = |kind| Op { kind, key: 1, counter: 1, rows: 1 };
    assert!(client.run(&op(Kind::Put)).await.expect("puts").is_found);
    assert!(client.run(&op(Kind::Delete)).await.expect("deletes").is_found);
    assert!(!client.run(&op(Kind::Delete)).await.expect("deletes").is_found);
    assert!(!client.run(&op(Kind::Get)).await.expect("gets").is_found);
    client.run(&op(Kind::Search)).await.expect_err("no search");
    assert!(grpc::connect("http://127.0.0.1:1").await.is_err());
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    run: Run,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_profile_of_lumenkv_gets_what_it_put_and_prints_what_is_quoted_beside() {
    let url = format!("http://{}", serve(Store::default()).await);
    let place = Arc::new(grpc::Place { space: "bench".into(), shape: SHAPE, wants_pairs: false });
    let connector = Connector::Grpc { url, channels: Some(2), place };
    let run = Line::parse_from(["bench", "--operations", "300"]).run;
    let measured = profile::measure(&connector, SHAPE, &run).await.expect("measures");
    let phases: Vec<_> = measured.runs.iter().map(|run| (&run.name[..], run.clients)).collect();
    let (puts, gets) = ("puts in order", "gets in order");
    assert_eq!(phases, [(puts, 1), (gets, 1), (puts, 100), (gets, 100)]);
    for run in &measured.runs {
        let all = run.driven.records.all();
        assert_eq!((all.histogram.len(), all.missing, run.failed()), (300, 0, 0));
    }
    let mut text = Vec::new();
    profile::print(&mut text, &measured).expect("prints");
    let text = String::from_utf8(text).expect("text");
    assert!(text.contains("average") && text.contains("16,399 ops/s, p99 520 µs"), "{text}");
}

/// Answers every request with 200 and the same body; the third on each connection breaks it off, half way if it is to.
async fn break_off(listener: TcpListener, half_way: bool) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            for answered in 0.. {
                if stream.read(&mut buffer).await.unwrap_or(0) == 0 || (answered == 2 && !half_way) {
                    return;
                }
                let answer: &[u8] = b"HTTP/1.1 200 OK\r\nEtag: \"7\"\r\nContent-Length: 10\r\n\r\n0123456789";
                let end = if answered == 2 { answer.len() - 5 } else { answer.len() };
                if stream.write_all(&answer[..end]).await.is_err() || answered == 2 {
                    return;
                }
            }
        });
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_an_error_and_the_client_connects_again() {
    for half_way in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let authority = listener.local_addr().expect("an address").to_string();
        let server = tokio::spawn(break_off(listener, half_way));
        let face = http::Face::Keys("/kv/s".into());
        let place = Arc::new(http::Place { authority, face, shape: SHAPE, wants_pairs: false });
        let clients = vec![Http::new(&place).expect("a client")];
        let how = drive_of("get=1", 30, None, 1);
        let driven = drive(clients, how.clone(), std::future::pending(), |_| {}).await;
        let records = &driven.records;
        assert_eq!((records.done, records.error_count()), (20, 10), "{:?}", records.errors);
        // Nobody listens any more.
        server.abort();
        let _ = server.await;
        let clients = vec![Http::new(&place).expect("a client")];
        let how = Drive { length: Length::Operations(3), ..how };
        let driven = drive(clients, how, std::future::pending(), |_| {}).await;
        let errors = &driven.records.errors;
        assert_eq!(errors.get("get: no connection: connection refused"), Some(&3), "{errors:?}");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_no_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let authority = listener.local_addr().expect("an address").to_string();
    let face = http::Face::Keys("/kv/s".into());
    let place = Arc::new(http::Place { authority, face, shape: SHAPE, wants_pairs: false });
    let mut client = Http::new(&place).expect("a client");
    client.connect().await.expect("connects");
    drop(listener.accept().await.expect("accepts"));
    // Until the end of the connection has arrived.
    tokio::time::sleep(Duration::from_millis(50)).await;
    tokio::spawn(break_off(listener, false));
    let got = client.run(&Op { kind: Kind::Get, key: 1, counter: 1, rows: 1 }).await.expect("gets");
    assert_eq!((&got.value[..], got.version, client.reopened()), (&b"0123456789"[..], 7, 1));
}
