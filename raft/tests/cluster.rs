//! Three nodes in one process, over a network that can be cut: writes anywhere, fail-over, catching up by log and by files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use lumen::{Condition, KeyOutcome, KeyWrite, Mapping, Outcome, SearchRequest, Until, Write};
use lumen_engine::vfs::memory::Memory;
use lumen_raft::network::{Answers, Lane, Transport, TransportError};
use lumen_raft::{Change, Consistency, Error, Identity, Member, Node, NodeOptions, Timing};
use parking_lot::Mutex;

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Wires {
    nodes: BTreeMap<u64, Node>,
    /// From, to.
    cut: BTreeSet<(u64, u64)>,
    /// Answers to entries that wait: from, to. They get through afterwards, whatever was cut meanwhile.
    held: BTreeSet<(u64, u64)>,
    late: BTreeSet<(u64, u64)>,
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

    /// Answers of a node to another wait, as in the socket of one that is stopped.
    fn hold(&self, from: u64, to: u64) {
        let mut wires = self.wires.lock();
        wires.held.insert((from, to));
        wires.late.insert((from, to));
    }

    fn let_through(&self, from: u64, to: u64) {
        self.wires.lock().held.remove(&(from, to));
    }

    async fn answers_come(&self, from: u64, to: u64) -> bool {
        while self.wires.lock().held.contains(&(from, to)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.wires.lock().late.contains(&(from, to)) || self.reach(from, to).is_ok()
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
            // The answer needs a way back.
            net.reach(to, from).map_err(|error| TransportError::Broken(error.to_string()))?;
            answer
        })
    }

    fn call_address(
        &self,
        address: &str,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let to = address.strip_prefix("node").and_then(|rest| rest.strip_suffix(":1")?.parse().ok());
        self.call(to.expect("an address of this network"), &Member::default(), Lane::Control, request)
    }

    fn introduce(&self, _: Arc<dyn Fn() -> Identity + Send + Sync>) {}

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
            let answers = answers.then(move |answer| {
                let net = net.clone();
                async move { net.answers_come(to, from).await.then_some(answer) }
            });
            let answers = answers.take_while(|answer| std::future::ready(answer.is_some()));
            Ok(answers.filter_map(std::future::ready).boxed())
        })
    }
}

#[derive(Default)]
struct Cluster {
    net: Net,
    disks: BTreeMap<u64, Memory>,
}

impl Cluster {
    async fn form(ids: &[u64]) -> Cluster {
        let mut cluster = Cluster::default();
        for id in ids {
            cluster.start(*id).await;
        }
        let members = ids.iter().map(|id| (*id, member(*id))).collect();
        cluster.node(ids[0]).initialize(members).await.expect("forms");
        cluster
    }

    async fn start(&mut self, id: u64) {
        let disk = self.disks.entry(id).or_default().clone();
        let database = lumen::Options {
            vfs: Arc::new(disk),
            segment_bytes: 64 << 10,
            memory_bytes: 256 << 10,
            ..lumen::Options::default()
        };
        let options = NodeOptions {
            id: Some(id),
            first_id: None,
            member: member(id),
            join: Vec::new(),
            dir: PathBuf::from("/node"),
            database,
            timing: Timing::LAN_FAST,
            tail_bytes: 64 << 10,
            keep_log_bytes: 128 << 10,
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
    let (raft_addr, api_url) = (format!("node{id}:1"), format!("http://node{id}:2"));
    Member { raft_addr, api_url, ..Member::default() }
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
    node.read_barrier(PATIENCE).await?; // the collection must be known here
    put_here(node, id, title).await
}

/// The same of one that knows the collection, without asking the others.
async fn put_here(node: &Node, id: &str, title: &str) -> Result<lumen::Ack, Error> {
    let source = format!(r#"{{"title":"{title}"}}"#).into_bytes();
    let write =
        Write::Put { collection: "books".into(), id: id.into(), source, condition: Condition::Always };
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
    let metrics = alone.metrics();
    let given_up: u64 = metrics.proposals.iter().filter(|(what, _)| *what != "applied").map(|(_, n)| n).sum();
    assert!(given_up > 0, "{metrics:?}");
    assert!(metrics.quorum_ack_age.is_none_or(|age| age > Duration::from_secs(1)), "{metrics:?}");
    cluster.net.heal();
    assert_eq!(found(&cluster.node(first), "meanwhile").await, 1);
}

#[tokio::test(flavor = "multi_thread")]

async fn what_expires_goes_on_all_nodes_whoever_leads() {
    let cluster = Cluster::form(&[1, 2, 3]).await;
    let first = cluster.leader().await;
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != first).collect();
    let change = async |id: u64, write: KeyWrite| {
        let node = cluster.node(id);
        let prepared = node.prepare(Write::Keys(write)).expect("good");
        node.write(prepared, None, PATIENCE).await.expect("written").outcome
    };
    let put = |key: &str, until: Until| KeyWrite::Put {
        space: "s".into(),
        key: key.into(),
        value: b"v".to_vec(),
        condition: Condition::Always,
        until,
        returns: false,
    };
    let granted = change(others[0], KeyWrite::Grant { lease: 7, ttl: 1000 }).await;
    assert_eq!(granted, Outcome::Keys(KeyOutcome::Lease { lease: 7, ttl: 1000 }));
    for (key, until) in [("ever", Until::Deleted), ("short", Until::Ttl(1000)), ("leased", Until::Lease(7))] {
        let outcome = change(others[1], put(key, until)).await;
        assert_eq!(outcome, Outcome::Keys(KeyOutcome::Put { existed: false, previous: None }));
    }
    // The next leader knows what is due, and nobody writes but it.
    cluster.net.cut_off(first, &others);
    let until = tokio::time::Instant::now() + PATIENCE;
    for id in others {
        let node = cluster.node(id);
        let there = |key: &str| node.snapshot().get_key("s", key.as_bytes()).expect("read").is_some();
        while there("short") || there("leased") || node.snapshot().lease(7).expect("read").is_some() {
            assert!(tokio::time::Instant::now() < until, "at node {id} it stays");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(there("ever"));
    }
    cluster.net.heal();
    cluster.node(first).read_barrier(PATIENCE).await.expect("it hears of it");
    assert_eq!(cluster.node(first).snapshot().get_key("s", b"leased").expect("read"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_replaced_takes_no_old_acknowledgement_for_a_new_one() {
    let cluster = Cluster::form(&[1, 2, 3]).await;
    let old = cluster.leader().await;
    create(&cluster.node(old)).await;
    put(&cluster.node(old), "a", "before").await.expect("put");
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != old).collect();
    // Entries reach the others, and their acknowledgements wait where the leader will find them.
    others.iter().for_each(|other| cluster.net.hold(*other, old));
    let leader = cluster.node(old);
    let last = leader.status().last_log_index;
    let writer = leader.clone();
    let write = tokio::spawn(async move { put_here(&writer, "b", "meanwhile").await });
    let until = tokio::time::Instant::now() + PATIENCE;
    while others.iter().any(|id| cluster.node(*id).status().last_log_index <= last) {
        assert!(tokio::time::Instant::now() < until, "the entry does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // It is replaced, and does not hear of it.
    cluster.net.cut_off(old, &others);
    put(&cluster.node(others[0]), "c", "newer").await.expect("put");
    let reader = leader.clone();
    let read =
        tokio::spawn(async move { reader.read(Consistency::Linearizable, Duration::from_secs(2)).await });
    tokio::time::sleep(Duration::from_millis(40)).await;
    // The first acknowledgement commits the entry, of which the other node is told; the second is from before that.
    cluster.net.let_through(others[0], old);
    tokio::time::sleep(Duration::from_millis(40)).await;
    cluster.net.let_through(others[1], old);
    let read = read.await.expect("no panic");
    assert!(matches!(read, Err(Error::NoLeader { .. })), "read at {:?}", read.map(|snapshot| snapshot.seq()));
    // What it had been told to write was committed all the same.
    write.await.expect("no panic").expect("written");
    cluster.net.heal();
    assert_eq!(found(&cluster.node(old), "newer").await, 1);
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

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_again_votes_for_nobody_at_first_unless_it_votes_alone() {
    for members in [BTreeMap::from([(1, member(1))]), [1, 2].map(|id| (id, member(id))).into()] {
        let mut cluster = Cluster::default();
        cluster.start(1).await;
        assert!(!cluster.node(1).metrics().is_guarded, "it has never voted");
        let count = members.len();
        cluster.node(1).initialize(members).await.expect("forms");
        cluster.stop(1).await;
        cluster.start(1).await;
        assert_eq!(cluster.node(1).metrics().is_guarded, count > 1, "{count} vote");
        tokio::time::advance(Duration::from_millis(Timing::LAN_FAST.election_ms_max)).await;
        assert!(!cluster.node(1).metrics().is_guarded);
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
    let change = Change::Learner { id: 4, member: member(4) };
    cluster.node(leader).change(change, PATIENCE).await.expect("follows");
    assert_eq!(found(&cluster.node(4), "word").await, 200);
    put(&cluster.node(4), "after", "afterwards").await.expect("put");
    assert_eq!(found(&cluster.node(4), "afterwards").await, 1);
    let change = Change::Voters { voters: BTreeSet::from([1, 2, 3, 4]), retain: true };
    cluster.node(leader).change(change, PATIENCE).await.expect("votes");
    // It comes back with what it got.
    cluster.stop(4).await;
    cluster.start(4).await;
    assert_eq!(found(&cluster.node(4), "word").await, 200);
}

/// Waits until something is so.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let late = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < late, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_write_at_whichever_node_it_comes() {
    let cluster = Cluster::form(&[1, 2, 3]).await;
    cluster.leader().await;
    create(&cluster.node(1)).await;
    put(&cluster.node(1), "a", "first").await.expect("put");
    let keyed = async |node: u64, title: &str| {
        let source = format!(r#"{{"title":"{title}"}}"#).into_bytes();
        let write =
            Write::Put { collection: "books".into(), id: "a".into(), source, condition: Condition::Always };
        let node = cluster.node(node);
        node.read_barrier(PATIENCE).await.expect("a leader answers");
        node.write(node.prepare(write).expect("good"), Some([7; 16]), PATIENCE).await.expect("answered")
    };
    let first = keyed(1, "second").await;
    assert_eq!(first.outcome, Outcome::Updated);
    put(&cluster.node(2), "a", "third").await.expect("put");
    for node in [2, 3, 1] {
        assert_eq!(keyed(node, "second").await, first);
        assert_eq!(found(&cluster.node(node), "third").await, 1);
    }
    assert_eq!(keyed(3, "other").await.outcome, Outcome::Rejected(lumen::Rejection::KeyReused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_gets_what_is_as_new_as_it_asks_for() {
    let cluster = Cluster::form(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    create(&cluster.node(leader)).await;
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    let (near, far) = (cluster.node(others[0]), cluster.node(others[1]));
    let ack = put(&near, "a", "seen").await.expect("put");
    // With the token of the write, every node shows it.
    for id in [1, 2, 3] {
        let snapshot = cluster.node(id).read(Consistency::Session(ack.seq), PATIENCE).await.expect("there");
        assert!(snapshot.seq() >= ack.seq);
        assert!(snapshot.get("books", "a").expect("readable").is_some());
    }
    let bounded = Consistency::Bounded(Duration::from_millis(300));
    far.read(bounded, PATIENCE).await.expect("near enough");
    // Cut off, it has what it has.
    cluster.net.cut_off(others[1], &[leader, others[0]]);
    let ack = put(&near, "b", "unseen").await.expect("put");
    let short = Duration::from_millis(400);
    let behind = far.read(Consistency::Session(ack.seq), short).await;
    assert!(matches!(behind, Err(Error::Behind { wanted, has }) if wanted == ack.seq && has < wanted));
    let lonely = far.read(Consistency::Linearizable, short).await;
    assert!(matches!(lonely, Err(Error::NoLeader { .. })));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(matches!(far.read(bounded, short).await, Err(Error::NoLeader { .. })));
    let old = far.read(Consistency::Eventual, short).await.expect("always");
    assert!(old.get("books", "a").expect("readable").is_some());
    assert!(old.get("books", "b").expect("readable").is_none());
    cluster.net.heal();
    assert_eq!(found(&far, "unseen").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_join_by_themselves_vote_when_they_have_caught_up_and_leave() {
    let mut cluster = Cluster::form(&[1]).await;
    create(&cluster.node(1)).await;
    put(&cluster.node(1), "a", "kept").await.expect("put");
    // They get their numbers first, and start with them; two at once get two.
    let join = |id: u64| Change::Join { id: None, member: Member { store: [id as u8; 16], ..member(id) } };
    let node = cluster.node(1);
    let numbers = tokio::join!(node.change(join(2), PATIENCE), node.change(join(3), PATIENCE));
    let numbers = [numbers.0.expect("joins"), numbers.1.expect("joins")];
    assert_eq!(BTreeSet::from(numbers), BTreeSet::from([2, 3]));
    assert_eq!(node.change(join(2), PATIENCE).await.expect("joins"), numbers[0], "asked again");
    for id in [2, 3] {
        cluster.start(id).await;
        let votes = || cluster.node(1).status().voters.contains(&id).then_some(());
        until("it votes", votes).await;
        assert_eq!(found(&cluster.node(id), "kept").await, 1);
    }
    // One that is reached elsewhere now says so, and stays what it is.
    let known = cluster.node(1).status().members[&2].clone();
    let moved = Member { raft_addr: "elsewhere:1".into(), ..known.clone() };
    cluster.node(3).change(Change::Learner { id: 2, member: moved.clone() }, PATIENCE).await.expect("moves");
    until("it is noted", || (cluster.node(1).status().members[&2] == moved).then_some(())).await;
    assert_eq!(cluster.node(1).status().voters, [1, 2, 3]);
    assert!(cluster.node(1).status().members.values().all(|member| !member.joining));
    // With one away, the other two are needed.
    cluster.stop(2).await;
    let leader = cluster.leader().await;
    let is_missed = || (!cluster.node(leader).status().live.contains(&2)).then_some(());
    until("it is missed", is_missed).await;
    let refused = cluster.node(leader).change(Change::Remove { id: 4 - leader }, PATIENCE).await;
    let is_told = |error: &Error| error.to_string().contains("do not answer");
    assert!(refused.as_ref().is_err_and(is_told), "{refused:?}");
    cluster.start(2).await;
    // A request for the leader may come to anybody.
    let follower = [1, 2, 3].into_iter().find(|id| Some(*id) != cluster.node(1).status().leader);
    let follower = cluster.node(follower.expect("two others"));
    let answers = || {
        let leader = cluster.node(1).status().leader?;
        (cluster.node(leader).status().live.len() == 3).then_some(())
    };
    until("all answer", answers).await;
    follower.change(Change::Transfer { to: None }, PATIENCE).await.expect("handed over");
    until("all answer", answers).await;
    cluster.node(2).change(Change::Transfer { to: Some(3) }, PATIENCE).await.expect("handed over");
    let leads = || (cluster.node(3).status().leader == Some(3)).then_some(());
    until("it leads", leads).await;
    let elections = cluster.node(3).metrics().elections;
    assert!(elections.iter().any(|(why, count)| *why == "transfer" && *count > 0), "{elections:?}");
    cluster.node(1).change(Change::Remove { id: 3 }, PATIENCE).await.expect("leaves");
    let gone = || Some(cluster.node(1).status()).filter(|status| status.voters == [1, 2]).map(|_| ());
    until("it leaves", gone).await;
    assert_eq!(cluster.node(1).status().members.len(), 2);
    let joins = Member { store: [9; 16], ..member(9) };
    let change = Change::Learner { id: 3, member: joins.clone() };
    let refused = cluster.node(1).change(change, PATIENCE).await;
    let is_told = |error: &Error| error.to_string().contains("not used again");
    assert!(refused.as_ref().is_err_and(is_told), "{refused:?}");
    assert_eq!(
        cluster.node(1).change(Change::Join { id: None, member: joins }, PATIENCE).await.expect("joins"),
        4
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_alone_becomes_a_cluster_with_all_it_holds() {
    let mut cluster = Cluster::default();
    let disk = cluster.disks.entry(1).or_default().clone();
    let options = lumen::Options { vfs: Arc::new(disk), ..lumen::Options::default() };
    let alone = lumen::Database::open("/node", options).expect("opens");
    let mapping = Mapping::from_json(br#"{"fields":{"title":{"type":"text"}}}"#).expect("good");
    alone.write(Write::CreateCollection { name: "books".into(), mapping }).expect("created");
    for n in 0..50 {
        let (id, source) = (format!("old{n}"), br#"{"title":"before"}"#.to_vec());
        alone
            .write(Write::Put { collection: "books".into(), id, source, condition: Condition::Always })
            .expect("put");
    }
    drop(alone);
    cluster.start(1).await;
    let node = cluster.node(1);
    let refused = node.initialize([1, 2].map(|id| (id, member(id))).into()).await;
    assert!(matches!(refused, Err(Error::Membership { .. })), "others would lack what it holds: {refused:?}");
    node.initialize([(1, member(1))].into()).await.expect("forms");
    assert_eq!(found(&node, "before").await, 50);
    put(&node, "new", "after").await.expect("put");
    for id in [2, 3] {
        cluster.start(id).await;
        let change = Change::Learner { id, member: member(id) };
        node.change(change, PATIENCE).await.expect("follows");
        assert_eq!(found(&cluster.node(id), "before").await, 50, "at node {id}");
        assert_eq!(found(&cluster.node(id), "after").await, 1);
    }
    let change = Change::Voters { voters: BTreeSet::from([1, 2, 3]), retain: false };
    node.change(change, PATIENCE).await.expect("vote");
    cluster.stop(1).await;
    assert_eq!(found(&cluster.node(2), "before after").await, 51);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_lets_go_by_itself_and_who_was_away_catches_up_all_the_same() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    create(&cluster.node(leader)).await;
    let away = [1, 2, 3].into_iter().find(|id| *id != leader).expect("two others");
    cluster.stop(away).await;
    let long = "word ".repeat(800);
    let node = cluster.node(leader);
    // More than what is kept for somebody who answers: memory is flushed many times over.
    for n in 0..600 {
        // Who writes faster than memory is flushed is told to come again.
        while let Err(error) = put(&node, &format!("b{n}"), &long).await {
            assert!(matches!(error, Error::Busy { .. }), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    until("the log lets go", || node.status().purged_index.filter(|purged| *purged > 100)).await;
    cluster.start(away).await;
    assert_eq!(found(&cluster.node(away), "word").await, 600);
}
