//! A network that delays, loses, doubles and cuts, as connections in order do: of a stream, what comes through comes in order.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use tokio::time::sleep;

use super::Random;
use crate::message;
use crate::network::{Answers, Lane, Transport, TransportError};
use crate::node::{Identity, Node};
use crate::transfer;
use crate::types::{GROUP, Member, Vote, spawn};

/// How long a request whose answer does not come is waited for.
const PATIENCE: Duration = Duration::from_millis(800);
/// How often it is seen whether the other end of a stream is still there, as HTTP/2 pings do.
const PING_EVERY: Duration = Duration::from_secs(1);

/// What the network does to what it carries.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weather {
    /// Milliseconds on the way, at most.
    pub delay_ms: u64,
    /// So many of a thousand requests or answers are lost.
    pub lost: u64,
    /// So many of a thousand requests come twice.
    pub doubled: u64,
}

pub(super) struct Wires {
    /// Those that run.
    pub nodes: BTreeMap<u64, Node>,
    /// Which life of each node it is: what an earlier one sends goes nowhere.
    pub lives: BTreeMap<u64, u64>,
    /// From, to.
    pub cut: BTreeSet<(u64, u64)>,
    pub weather: Weather,
    /// Milliseconds that all answers of a node take longer, as if its disk were slow.
    pub slow: BTreeMap<u64, u64>,
    /// The highest vote that each node has given in each of its lives: (voter, life).
    pub votes: BTreeMap<(u64, u64), Vote>,
    pub found: Option<String>,
    /// Whether to print what happens.
    pub tells: bool,
    pub counts: BTreeMap<&'static str, u64>,
    random: Random,
    trace: DefaultHasher,
}

/// Clones are the same network.
#[derive(Clone)]
pub(super) struct Net {
    wires: Arc<Mutex<Wires>>,
}

impl Net {
    pub(super) fn new(seed: u64, tells: bool) -> Net {
        let wires = Wires {
            nodes: BTreeMap::new(),
            lives: BTreeMap::new(),
            cut: BTreeSet::new(),
            weather: Weather { delay_ms: 3, lost: 0, doubled: 0 },
            slow: BTreeMap::new(),
            votes: BTreeMap::new(),
            found: None,
            tells,
            counts: BTreeMap::new(),
            random: Random::new(seed),
            trace: DefaultHasher::new(),
        };
        Net { wires: Arc::new(Mutex::new(wires)) }
    }

    pub(super) fn with<T>(&self, what: impl FnOnce(&mut Wires) -> T) -> T {
        what(&mut self.wires.lock())
    }

    pub(super) fn node(&self, id: u64) -> Option<Node> {
        self.with(|wires| wires.nodes.get(&id).cloned())
    }

    pub(super) fn running(&self) -> Vec<u64> {
        self.with(|wires| wires.nodes.keys().copied().collect())
    }

    /// Remembers that something happened.
    pub(super) fn note(&self, what: &'static str, detail: impl Hash) {
        self.with(|wires| {
            *wires.counts.entry(what).or_default() += 1;
            (what, detail, super::clock()).hash(&mut wires.trace);
            if wires.tells {
                println!(
                    "{:>7} ms: {what}, {:016x}",
                    super::clock() - 1_700_000_000_000,
                    wires.trace.finish()
                );
            }
        });
    }

    /// Remembers the first thing that must not be.
    pub(super) fn found(&self, what: String) {
        self.with(|wires| {
            wires.found.get_or_insert(what);
        });
    }

    /// Everything that was noted, as a number.
    pub(super) fn trace(&self) -> u64 {
        self.with(|wires| wires.trace.finish())
    }

    /// The end of a node in its present life.
    pub(super) fn end(&self, from: u64) -> End {
        let life = self.with(|wires| wires.lives.get(&from).copied().unwrap_or(0));
        End { from, life, net: self.clone() }
    }

    /// A moment on the way.
    async fn travel(&self, slow: Option<u64>) {
        let ms = self.with(|wires| {
            let more = slow.and_then(|node| wires.slow.get(&node)).copied().unwrap_or(0);
            let most = wires.weather.delay_ms;
            wires.random.below(most * 1000 + 1) + more * 1000
        });
        sleep(Duration::from_micros(ms)).await;
    }
}

/// One node's end of the network.
#[derive(Clone)]
pub(super) struct End {
    from: u64,
    life: u64,
    net: Net,
}

impl End {
    /// The node at the other end, if there is a way to it, and the number of its life.
    fn reach(&self, to: u64) -> Result<(Node, u64), TransportError> {
        self.net.with(|wires| {
            let lives = wires.lives.get(&self.from).copied().unwrap_or(0) == self.life;
            match wires.nodes.get(&to) {
                Some(node) if lives && !wires.cut.contains(&(self.from, to)) => {
                    Ok((node.clone(), wires.lives.get(&to).copied().unwrap_or(0)))
                }
                _ => Err(TransportError::Unreachable(format!("no way from {} to {to}", self.from))),
            }
        })
    }

    /// Whether an answer finds its way back from that life of the node.
    fn comes_back(&self, to: u64, life: u64) -> bool {
        self.net.with(|wires| {
            let is_same = |node: u64, life: u64| wires.lives.get(&node).copied().unwrap_or(0) == life;
            is_same(self.from, self.life) && is_same(to, life) && !wires.cut.contains(&(to, self.from))
        })
    }

    fn is_lost(&self) -> bool {
        self.net.with(|wires| {
            let lost = wires.weather.lost;
            wires.random.happens(lost)
        })
    }

    async fn carry(self, to: u64, request: Bytes) -> Result<Bytes, TransportError> {
        self.net.travel(None).await;
        let (node, life) = self.reach(to)?;
        let broken = || TransportError::Broken("no answer".into());
        if self.is_lost() {
            self.net.note("request lost", (self.from, to));
            sleep(PATIENCE).await;
            return Err(broken());
        }
        self.net.note("request", (self.from, to, &request[..]));
        let comes_twice = self.net.with(|wires| {
            let doubled = wires.weather.doubled;
            wires.random.happens(doubled)
        });
        let answered = tokio::time::timeout(PATIENCE, node.answer(request.clone())).await;
        let answer = answered.map_err(|_| broken())?;
        drop(node);
        // A connection carries a request once. Who sends it on a second one has no answer from the first: were a write refused
        // and what was sent again taken, it would be told that nothing was written.
        let is_refused = |answer: &Bytes| {
            message::read_written(answer).is_some_and(|acks| acks.iter().any(std::result::Result::is_err))
        };
        if comes_twice && !answer.as_ref().is_ok_and(is_refused) {
            self.net.note("request doubled", (self.from, to));
            let (end, again) = (self.clone(), request.clone());
            spawn(async move {
                end.net.travel(Some(to)).await;
                if let Ok((node, _)) = end.reach(to) {
                    let _ = node.answer(again).await; // nobody waits for it
                }
            });
        }
        if let Ok(answer) = &answer {
            self.look_at_vote(to, life, &request, answer);
        }
        self.net.travel(Some(to)).await;
        if !self.comes_back(to, life) || self.is_lost() {
            self.net.note("answer lost", (self.from, to));
            sleep(PATIENCE).await;
            return Err(broken());
        }
        let is_install = matches!(transfer::read(GROUP, &request), Some(transfer::Request::Install { .. }));
        if answer.is_ok() && is_install {
            if self.net.with(|wires| wires.tells) {
                println!("{:>7} ms: node {to} has a snapshot", super::clock() - 1_700_000_000_000);
            }
            self.net.note("snapshot installed", to);
        }
        answer
    }

    /// What a node has voted for is not forgotten in its next life. (Votes are for a term and a node, and a higher one of the
    /// same term is given as well.)
    fn look_at_vote(&self, voter: u64, life: u64, request: &Bytes, answer: &Bytes) {
        let Some(message::Request::Vote(asked)) = message::read(GROUP, request) else { return };
        if !message::read_voted(answer).is_some_and(|voted| voted.vote_granted) {
            return;
        }
        let before = self.net.with(|wires| {
            let given = wires.votes.entry((voter, life)).or_insert(asked.vote);
            if *given < asked.vote {
                *given = asked.vote;
            }
            wires
                .votes
                .range((voter, 0)..(voter, life))
                .map(|(_, vote)| *vote)
                .find(|vote| *vote > asked.vote)
        });
        if let Some(before) = before {
            self.net.found(format!(
                "node {voter} voted for {before} in a former life, and now for {}",
                asked.vote
            ));
        }
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
        Box::pin(self.clone().carry(to, request))
    }

    fn call_address(
        &self,
        address: &str,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let to = address.strip_prefix("node").and_then(|rest| rest.strip_suffix(":1")?.parse().ok());
        Box::pin(self.clone().carry(to.expect("an address of this network"), request))
    }

    fn introduce(&self, _: Arc<dyn Fn() -> Identity + Send + Sync>) {}

    fn stream(
        &self,
        to: u64,
        _: &Member,
        requests: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'static, Result<Answers, TransportError>> {
        let end = self.clone();
        Box::pin(async move {
            end.net.travel(None).await;
            let (node, life) = end.reach(to)?;
            let (there, pinged, back) = (end.clone(), end.clone(), end);
            // What is lost ends the connection: the rest would come after a gap.
            let requests = requests.then(move |request| {
                let end = there.clone();
                async move {
                    end.net.travel(None).await;
                    let comes = end.reach(to).is_ok_and(|(_, now)| now == life) && !end.is_lost();
                    comes.then(|| {
                        end.net.note("entries", (end.from, to, &request[..]));
                        request
                    })
                }
            });
            let requests = requests.take_while(|request| std::future::ready(request.is_some()));
            let answers = node.answer_stream(requests.filter_map(std::future::ready).boxed());
            drop(node);
            let answers = answers.then(move |answer| {
                let end = back.clone();
                async move {
                    end.net.travel(Some(to)).await;
                    (end.comes_back(to, life) && !end.is_lost()).then_some(answer)
                }
            });
            let answers = answers.take_while(|answer| std::future::ready(answer.is_some()));
            // Who does not answer pings any more is given up, although nothing is under way.
            let given_up = Box::pin(async move {
                while pinged.reach(to).is_ok_and(|(_, now)| now == life) {
                    sleep(PING_EVERY).await;
                }
            });
            Ok(answers.filter_map(std::future::ready).take_until(given_up).boxed())
        })
    }
}
