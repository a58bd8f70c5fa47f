//! One life: nodes are started, cut off, slowed down, killed with what their disks then keep, changed about, and asked things
//! meanwhile; in the end all is healed, and they must agree and go on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lumen_engine::vfs::memory::{Crash, Memory};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::checks::Checks;
use super::clients;
use super::network::{Net, Weather};
use super::{Random, Report};
use crate::membership::Change;
use crate::node::{Node, NodeOptions, Timing};
use crate::types::{Member, spawn};

/// What a run of many seeds must have met, so that it shows something.
pub(super) const MUST_HAPPEN: [&str; 25] = [
    "answer lost",
    "change of members",
    "crash",
    "crash of all",
    "cut off",
    "cut one way",
    "entries",
    "flush and purge",
    "keys written",
    "leader",
    "node joins",
    "node leaves",
    "orderly stop",
    "read linearizable",
    "read of an age",
    "read with token",
    "rejected",
    "request doubled",
    "request lost",
    "searched",
    "slow node",
    "snapshot installed",
    "transfer",
    "unknown outcome",
    "written",
];

/// Steps of what happens, and milliseconds between two at most.
const STEPS: u64 = 60;
const STEP_MS: u64 = 400;
/// How long the nodes may take to agree when nothing is wrong any more.
const HEALING: Duration = Duration::from_secs(90);

pub(super) struct World {
    pub net: Net,
    pub checks: Checks,
    disks: BTreeMap<u64, Memory>,
    random: Random,
    tells: bool,
}

fn member(id: u64) -> Member {
    let (raft_addr, api_url) = (format!("node{id}:1"), format!("http://node{id}:2"));
    Member { raft_addr, api_url, ..Member::default() }
}

/// Lives through a seed; the error is what was found.
pub(super) async fn live(seed: u64, tells: bool) -> Result<Report, String> {
    let net = Net::new(seed ^ 0x0e7, tells);
    let mut world = World {
        checks: Checks::new(net.clone()),
        net: net.clone(),
        disks: BTreeMap::new(),
        random: Random::new(seed),
        tells,
    };
    let ids: Vec<u64> = (1..=3 + 2 * world.random.below(2)).collect();
    for id in &ids {
        world.start(*id).await;
    }
    world.look()?;
    let members = ids.iter().map(|id| (*id, member(*id))).collect();
    net.node(ids[0]).expect("it runs").initialize(members).await.map_err(|error| error.to_string())?;
    let clients: Vec<AbortHandle> = (0..4)
        .map(|client| spawn(clients::work(client, seed, net.clone(), world.checks.answers())).abort_handle())
        .collect();
    for _ in 0..STEPS {
        let pause = Duration::from_millis(1 + world.random.below(STEP_MS));
        world.pass(pause).await?;
        world.happen().await;
        world.look()?;
    }
    world.heal().await;
    world.pass(Duration::from_secs(3)).await?;
    clients.iter().for_each(AbortHandle::abort);
    world.agree().await?;
    let mut counts = net.with(|wires| wires.counts.clone());
    counts.extend([
        ("committed entries", world.checks.committed()),
        ("changes told", world.checks.told()),
        ("operations judged", world.checks.answers().lock().count()),
        ("simulated ms", super::clock() - super::BEGINNING),
    ]);
    Ok(Report { trace: net.trace(), counts })
}

impl Drop for World {
    fn drop(&mut self) {
        // Nodes hold the network and it holds them: whoever does not let go keeps all of it for ever.
        drop(self.net.with(|wires| std::mem::take(&mut wires.nodes)));
    }
}

impl World {
    fn say(&self, what: impl FnOnce() -> String) {
        if self.tells {
            println!("{:>7} ms: {}", super::clock() - super::BEGINNING, what());
        }
    }

    /// Lets time pass, looking often.
    async fn pass(&mut self, pause: Duration) -> Result<(), String> {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            sleep((until - Instant::now()).min(Duration::from_millis(20))).await;
            self.look()?;
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), String> {
        self.checks.look();
        match super::panicked().or_else(|| self.net.with(|wires| wires.found.take())) {
            Some(found) => {
                for id in self.net.running() {
                    self.say(|| format!("node {id}: {:?}", self.net.node(id).map(|node| node.status())));
                    self.show_log(id);
                }
                Err(found)
            }
            None => Ok(()),
        }
    }

    async fn start(&mut self, id: u64) {
        let disk = self.disks.entry(id).or_default().clone();
        let database = lumen::Options {
            vfs: Arc::new(disk),
            segment_bytes: 16 << 10,
            memory_bytes: 12 << 10,
            cache_bytes: 64 << 10,
            threads: 0,
            random: super::random,
            clock: super::clock_of(id),
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
            tail_bytes: 4 << 10,
            keep_log_bytes: 16 << 10,
        };
        match Node::open(options, Arc::new(self.net.end(id))).await {
            Ok(node) => {
                self.say(|| format!("node {id} starts"));
                self.net.note("start", id);
                self.net.with(|wires| wires.nodes.insert(id, node));
            }
            Err(error) => {
                self.show_log(id);
                self.net.found(format!("node {id} does not open: {error}"));
            }
        }
    }

    /// Tells what is in a node's log.
    fn show_log(&self, id: u64) {
        for (path, bytes) in self.disks[&id].files() {
            let name = path.to_string_lossy().into_owned();
            let mut text = Vec::new();
            if self.tells && name.ends_with(crate::inspect::ENDING) {
                crate::inspect::segment(&name, &bytes, &mut text).expect("memory takes all");
                println!("{}", String::from_utf8_lossy(&text));
            }
        }
    }

    /// Kills a node; its disk keeps what `model` says.
    fn crash(&mut self, id: u64, model: Crash) {
        let node = self.net.with(|wires| {
            *wires.lives.entry(id).or_default() += 1;
            wires.nodes.remove(&id)
        });
        let Some(node) = node else { return };
        self.say(|| format!("node {id} crashes: {model:?}"));
        self.net.note("crash", id);
        let seed = self.random.bits();
        self.disks[&id].crash(model, seed);
        // What the dead node still does reaches a disk that nobody reads any more.
        let disk = self.disks[&id].fork();
        self.disks.insert(id, disk);
        self.checks.forget(id);
        node.inner.kill();
        let raft = node.inner.raft.clone();
        drop(node);
        spawn(async move {
            let _ = raft.shutdown().await; // its disk is dead already
        });
    }

    /// Stops a node as a server does that is asked to end; then the power goes off.
    async fn stop(&mut self, id: u64) {
        let node = self.net.with(|wires| {
            *wires.lives.entry(id).or_default() += 1;
            wires.nodes.remove(&id)
        });
        let Some(node) = node else { return };
        self.say(|| format!("node {id} stops"));
        self.net.note("orderly stop", id);
        if let Err(error) = node.close().await {
            self.net.found(format!("node {id} does not close: {error}"));
        }
        let seed = self.random.bits();
        self.disks[&id].crash(Crash::DropPending, seed);
        self.checks.forget(id);
    }

    /// Something happens, or nothing.
    async fn happen(&mut self) {
        let running = self.net.running();
        let Some(id) = self.random.one_of(&running) else { return self.restart().await };
        let model = Crash::ALL[self.random.below(Crash::ALL.len() as u64) as usize];
        match self.random.below(100) {
            0..=13 => self.crash(id, model),
            14..=17 => {
                self.net.note("crash of all", ());
                running.iter().for_each(|id| self.crash(*id, model));
            }
            18..=34 => self.restart().await,
            35..=37 => self.stop(id).await,
            38..=44 => {
                self.say(|| format!("node {id} is cut off"));
                self.net.note("cut off", id);
                self.net.with(|wires| {
                    running
                        .iter()
                        .filter(|to| **to != id)
                        .for_each(|to| wires.cut.extend([(id, *to), (*to, id)]));
                });
            }
            45..=49 => {
                let Some(to) = self.random.one_of(&running).filter(|to| *to != id) else { return };
                self.say(|| format!("nothing comes from {id} to {to}"));
                self.net.note("cut one way", (id, to));
                self.net.with(|wires| wires.cut.insert((id, to)));
            }
            50..=62 => {
                self.say(|| "the network is whole again".into());
                self.net.with(|wires| wires.cut.clear());
            }
            63..=69 => {
                let weather = Weather {
                    delay_ms: 1 + self.random.below(40),
                    lost: self.random.below(60),
                    doubled: self.random.below(60),
                };
                self.say(|| format!("{weather:?}"));
                self.net.with(|wires| wires.weather = weather);
            }
            70..=74 => {
                let ms = self.random.below(2) * self.random.below(150);
                self.say(|| format!("node {id} answers {ms} ms later"));
                self.net.note("slow node", (id, ms));
                self.net.with(|wires| wires.slow.insert(id, ms));
            }
            75..=86 => self.let_go(id),
            87..=91 => {
                let to = self.random.one_of(&running);
                self.change(id, "transfer", Change::Transfer { to });
            }
            _ => self.change_members(id).await,
        }
    }

    async fn restart(&mut self) {
        let running = self.net.running();
        let down: Vec<u64> = self.disks.keys().copied().filter(|id| !running.contains(id)).collect();
        if let Some(id) = self.random.one_of(&down) {
            self.start(id).await;
        }
    }

    /// Has a node flush and let its log go.
    fn let_go(&mut self, id: u64) {
        let (Some(node), keep) = (self.net.node(id), self.random.below(20)) else { return };
        self.say(|| format!("node {id} flushes, and keeps {keep} entries"));
        self.net.note("flush and purge", id);
        spawn(async move {
            let _ = node.purge(keep).await; // one that is killed meanwhile does not
        });
    }

    fn change(&mut self, at: u64, what: &'static str, change: Change) {
        let Some(node) = self.net.node(at) else { return };
        self.say(|| format!("{change:?}, asked of node {at}"));
        self.net.note(what, at);
        spawn(async move {
            let _ = node.change(change, Duration::from_secs(5)).await; // it may be refused, and often is
        });
    }

    async fn change_members(&mut self, at: u64) {
        self.net.note("change of members", at);
        let known: Vec<u64> = self.disks.keys().copied().collect();
        match self.random.below(4) {
            // A new one, of a number that nobody had.
            0 if known.len() < 6 => {
                let id = self.disks.keys().last().map_or(1, |last| last + 1);
                self.start(id).await;
                self.change(at, "node joins", Change::Learner { id, member: member(id) });
            }
            1 if known.len() > 3 => {
                let Some(id) = self.random.one_of(&known) else { return };
                self.change(at, "node leaves", Change::Remove { id });
            }
            _ => {
                let mut voters: BTreeSet<u64> = known.iter().copied().collect();
                while voters.len() > 3 && self.random.happens(500) {
                    let Some(id) = self.random.one_of(&known) else { break };
                    voters.remove(&id);
                }
                self.change(at, "voters", Change::Voters { voters, retain: true });
            }
        }
    }

    /// Everything is well again.
    async fn heal(&mut self) {
        self.say(|| "all is healed".into());
        self.net.with(|wires| {
            wires.cut.clear();
            wires.slow.clear();
            wires.weather = Weather { delay_ms: 3, lost: 0, doubled: 0 };
        });
        let running = self.net.running();
        let down: Vec<u64> = self.disks.keys().copied().filter(|id| !running.contains(id)).collect();
        for id in down {
            self.start(id).await;
        }
    }

    /// Waits until all voters hold the same, and nothing that was acknowledged is missing.
    async fn agree(&mut self) -> Result<(), String> {
        let until = Instant::now() + HEALING;
        loop {
            self.pass(Duration::from_millis(200)).await?;
            let statuses: Vec<_> =
                self.net.running().iter().filter_map(|id| Some(self.net.node(*id)?.status())).collect();
            let leader =
                statuses.iter().find(|status| status.state == "leader" && status.leader == Some(status.id));
            if let Some(leader) = leader {
                let node = self.net.node(leader.id).expect("it runs");
                let newest =
                    tokio::time::timeout(Duration::from_secs(2), node.read_barrier(Duration::from_secs(1)));
                if matches!(newest.await, Ok(Ok(()))) {
                    let applied = node.status().applied_index;
                    let has_all = |id: &u64| {
                        let of = self.net.node(*id).map(|node| node.status());
                        of.is_some_and(|status| status.applied_index == applied)
                    };
                    if leader.voters.iter().all(has_all) && applied == node.status().last_log_index {
                        self.look()?;
                        return self.checks.holds_everything(&node);
                    }
                }
            }
            if Instant::now() > until {
                return Err(format!("they do not agree although nothing is wrong any more: {statuses:#?}"));
            }
        }
    }
}
