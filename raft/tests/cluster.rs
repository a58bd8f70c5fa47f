//! Three nodes in one process, over a network that can be cut: writes anywhere, fail-over, catching up by log and by files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use lumen::{Condition, Mapping, Outcome, SearchRequest, Write};
use lumen_engine::vfs::memory::Memory;
use lumen_raft::network::{Answers, Lane, Transport, TransportError};
use lumen_raft::{Error, Member, Node, NodeOptions, Timing};
use parking_lot::Mutex;

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Wires {
    nodes: BTreeMap<u64, Node>,
    /// From, to.
    cut: BTreeSet<(u64, u64)>,
}

/// A network in this process.
#[derive(Clone, Default)]
struct Net {
    wires: Arc<Mutex<Wires>>,
}

/// One node's end of it.
struct End {
    from: u64,
    net: Net,
}

impl Net {
    fn reach(&self, from: u64, to: u64) -> Result<Node, TransportError> {
        let wires = self.wires.lock();
        match wires.nodes.get(&to) {
            Some(node) if !wires.cut.contains(&(from, to)) => Ok(node.clone()),
            _ => Err(TransportError::Unreachable(format!("no way from {from} to {to}"))),
        }
    }

    fn cut_off(&self, node: u64, others: &[u64]) {
        let mut wires = self.wires.lock();
        for other in others {
            wires.cut.extend([(node, *other), (*other, node)]);
        }
    }

    fn heal(&self) {
        self.wires.lock().cut.clear();
    }
}

impl Transport for End {
    fn call(
        &self,
        to: u64,
        _: &Member,
        _: Lane,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (net, from) = (self.net.clone(), self.from);
        Box::pin(async move {
            let answer = net.reach(from, to)?.answer(request).await;
            net.reach(to, from)?; // the answer needs a way back
            answer
        })
    }

    fn stream(
        &self,
        to: u64,
        _: &Member,
        requests: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'static, Result<Answers, TransportError>> {
        let (net, from) = (self.net.clone(), self.from);
        Box::pin(async move {
            let node = net.reach(from, to)?;
            let there = net.clone();
            let requests =
                requests.take_while(move |_| std::future::ready(there.reach(from, to).is_ok())).boxed();
            let answers = node.answer_stream(requests);
            Ok(answers.take_while(move |_| std::future::ready(net.reach(to, from).is_ok())).boxed())
        })
    }
}

struct Cluster {
    net: Net,
    disks: BTreeMap<u64, Memory>,
    boots: u64,
}

impl Cluster {
    async fn form(ids: &[u64]) -> Cluster {
        let mut cluster = Cluster { net: Net::default(), disks: BTreeMap::new(), boots: 0 };
        for id in ids {
            cluster.start(*id).await;
        }
        let members = ids.iter().map(|id| (*id, member(*id))).collect();
        cluster.node(ids[0]).initialize(members).await.expect("forms");
        cluster
    }

    async fn start(&mut self, id: u64) {
        self.boots += 1;
        let disk = self.disks.entry(id).or_default().clone();
        let database = lumen::Options {
            vfs: Arc::new(disk),
            segment_bytes: 64 << 10,
            memory_bytes: 256 << 10,
            ..lumen::Options::default()
        };
        let options = NodeOptions {
            id,
            dir: PathBuf::from("/node"),
            database,
            timing: Timing::LAN_FAST,
            tail_bytes: 64 << 10,
            boot: self.boots,
        };
        let end = End { from: id, net: self.net.clone() };
        let node = Node::open(options, Arc::new(end)).await.expect("opens");
        self.net.wires.lock().nodes.insert(id, node);
    }

    async fn stop(&mut self, id: u64) {
        let node = self.net.wires.lock().nodes.remove(&id).expect("runs");
        node.close().await.expect("closes");
    }

    fn node(&self, id: u64) -> Node {
        self.net.wires.lock().nodes[&id].clone()
    }

    async fn leader(&self) -> u64 {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let nodes: Vec<Node> = self.net.wires.lock().nodes.values().cloned().collect();
            let leads = |node: &Node| {
                Some(node.status()).filter(|status| status.state == "leader").map(|status| status.id)
            };
            if let Some(leader) = nodes.iter().find_map(leads) {
                return leader;
            }
            assert!(tokio::time::Instant::now() < until, "nobody leads");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn member(id: u64) -> Member {
    Member { raft_addr: format!("node{id}:1"), api_url: format!("http://node{id}:2") }
}

async fn create(node: &Node) {
    let mapping = Mapping::from_json(br#"{"fields":{"title":{"type":"text"}}}"#).expect("good");
    let write = Write::CreateCollection { name: "books".into(), mapping };
    let prepared = node.prepare(write).expect("good");
    let ack = node.write(prepared, None, PATIENCE).await.expect("written");
    assert!(matches!(ack.outcome, Outcome::CollectionCreated { .. }), "{ack:?}");
    node.read_barrier(PATIENCE).await.expect("there");
}

async fn put(node: &Node, id: &str, title: &str) -> Result<lumen::Ack, Error> {
    let source = format!(r#"{{"title":"{title}"}}"#).into_bytes();
    let write =
        Write::Put { collection: "books".into(), id: id.into(), source, condition: Condition::Always };
    node.read_barrier(PATIENCE).await?; // the collection must be known here
    node.write(node.prepare(write)?, None, PATIENCE).await
}

async fn found(node: &Node, query: &str) -> u64 {
    node.read_barrier(PATIENCE).await.expect("a leader answers");
    let request = SearchRequest { collection: "books", query, offset: 0, limit: 0, cancelled: None };
    node.snapshot().search(&request).expect("searches").total
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_at_one_node_is_found_at_all() {
    let cluster = Cluster::form(&[1, 2, 3]).await;
    cluster.leader().await;
    create(&cluster.node(2)).await;
    for n in 0..30u64 {
        let ack =
            put(&cluster.node(1 + n % 3), &format!("b{n}"), &format!("word{n} common")).await.expect("put");
        assert_eq!(ack.outcome, Outcome::Created);
        for id in [1, 2, 3] {
            assert_eq!(found(&cluster.node(id), &format!("word{n}")).await, 1, "at node {id}");
        }
    }
    for id in [1, 2, 3] {
        assert_eq!(found(&cluster.node(id), "common").await, 30);
    }
    let again = cluster.node(1).initialize(BTreeMap::from([(1, member(1))])).await;
    assert!(matches!(again, Err(Error::AlreadyInitialized)), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_is_replaced_and_nothing_is_lost() {
    let cluster = Cluster::form(&[1, 2, 3]).await;
    let first = cluster.leader().await;
    create(&cluster.node(first)).await;
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != first).collect();
    put(&cluster.node(first), "a", "before").await.expect("put");
    cluster.net.cut_off(first, &others);
    // Through a node that is left: it takes as long as an election does, and no error is seen.
    put(&cluster.node(others[0]), "b", "meanwhile").await.expect("put");
    assert_eq!(found(&cluster.node(others[1]), "before meanwhile").await, 2);
    // Who is alone neither writes nor reads as if it were the newest.
    let write = Write::Delete { collection: "books".into(), id: "a".into(), condition: Condition::Always };
    let alone = cluster.node(first);
    let prepared = alone.prepare(write).expect("good");
    let refused = alone.write(prepared, None, Duration::from_secs(3)).await;
    assert!(matches!(refused, Err(Error::NoLeader { .. } | Error::Unknown { .. })), "{refused:?}");
    assert!(alone.read_barrier(Duration::from_millis(500)).await.is_err());
    cluster.net.heal();
    assert_eq!(found(&cluster.node(first), "meanwhile").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_are_stopped_and_started_and_know_everything() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    cluster.leader().await;
    create(&cluster.node(1)).await;
    for n in 0..20 {
        put(&cluster.node(1), &format!("b{n}"), "kept").await.expect("put");
    }
    for id in [1, 2, 3] {
        cluster.stop(id).await;
    }
    for id in [1, 2, 3] {
        cluster.start(id).await;
    }
    for id in [1, 2, 3] {
        assert_eq!(found(&cluster.node(id), "kept").await, 20);
        assert_eq!(cluster.node(id).status().voters, [1, 2, 3]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_gets_files_and_then_the_rest_by_log() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    create(&cluster.node(leader)).await;
    let long = "word ".repeat(200);
    for n in 0..200 {
        put(&cluster.node(leader), &format!("b{n}"), &long).await.expect("put");
        if n == 100 {
            cluster.node(leader).purge(0).await.expect("purges");
        }
    }
    cluster.node(leader).purge(0).await.expect("purges");
    let until = tokio::time::Instant::now() + PATIENCE;
    while cluster.node(leader).status().purged_index <= Some(100) {
        assert!(tokio::time::Instant::now() < until, "the log keeps everything");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.start(4).await;
    cluster.node(leader).add_learner(4, member(4)).await.expect("follows");
    assert_eq!(found(&cluster.node(4), "word").await, 200);
    put(&cluster.node(4), "after", "afterwards").await.expect("put");
    assert_eq!(found(&cluster.node(4), "afterwards").await, 1);
    cluster.node(leader).set_voters(BTreeSet::from([1, 2, 3, 4]), true).await.expect("votes");
    // It comes back with what it got.
    cluster.stop(4).await;
    cluster.start(4).await;
    assert_eq!(found(&cluster.node(4), "word").await, 200);
}
