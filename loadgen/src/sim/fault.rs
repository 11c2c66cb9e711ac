//! A seeded schedule of faults: what goes wrong, when, and when it is put right.
//!
//! Every fault that is begun has its end on the schedule; [`Chaos::heal`] brings all ends forward.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use node::io::Nanos;
use protocol::ids::NodeId;

use super::cluster::{SimCluster, process_of};
use super::coordinator::COORDINATOR;
use super::executor::ProcessId;
use super::profile::Profile;
use super::rng::SimRng;

/// Longest time a node stays dead, in milliseconds.
const DEAD_MS_MAX: u64 = 8000;
/// Longest time anything else stays broken, in milliseconds.
const BROKEN_MS_MAX: u64 = 4000;
/// Longest time a slow device adds to an operation, in milliseconds.
const LAG_MS_MAX: u64 = 400;
/// Time for operations that a fault already struck to end, before the repair of fenced targets.
const AFTERMATH: Duration = Duration::from_secs(2);

/// A cluster and everything that is broken in it.
pub struct Chaos {
    /// The cluster.
    pub cluster: SimCluster,
    rng: SimRng,
    clients: Vec<ProcessId>,
    nodes: Vec<NodeId>,
    dead: BTreeSet<NodeId>,
    mends: BTreeMap<(Nanos, u64), Mend>,
    mend_next: u64,
    pause_ms: (u64, u64),
}

/// How a fault ends.
#[derive(Clone, Copy, Debug)]
enum Mend {
    Start(NodeId),
    Thaw(NodeId),
    Join(ProcessId, ProcessId),
    StartCoordinator,
    Disk(NodeId),
    Replace(NodeId),
}

impl Chaos {
    /// Takes charge of a healthy cluster and of the ways to these clients.
    pub fn new(cluster: SimCluster, profile: &Profile, clients: Vec<ProcessId>) -> Chaos {
        Chaos {
            rng: cluster.fork_rng(),
            cluster,
            clients,
            nodes: (1..=profile.shape.nodes).map(NodeId).collect(),
            dead: BTreeSet::new(),
            mends: BTreeMap::new(),
            mend_next: 0,
            pause_ms: profile.fault_pause_ms,
        }
    }

    /// Breaks and mends things for a while.
    pub fn rage(&mut self, time: Duration) {
        let end = self.cluster.executor().now().after(time);
        while self.cluster.executor().now() < end {
            let (low, high) = self.pause_ms;
            let next = self.after_ms(self.rng.between(low, high));
            self.mend_until(next);
            self.strike();
        }
    }

    /// Puts everything right.
    pub fn heal(&mut self) {
        self.tell("heal");
        while let Some((_, mend)) = self.mends.pop_first() {
            self.mend(mend);
        }
        for node in self.nodes.clone() {
            self.cluster.disk(node).mend();
        }
        self.cluster.executor().run_until(AFTERMATH, || false);
        for node in self.nodes.clone() {
            self.replace_fenced(node);
        }
    }

    fn strike(&mut self) {
        let broken = 1 + self.rng.below(BROKEN_MS_MAX);
        match self.rng.below(16) {
            0..=2 => self.kill(1),
            3 => self.kill(2),
            4 => self.kill(self.nodes.len()),
            5..=6 => {
                let node = self.any_node();
                self.tell(format!("freeze {node} for {broken} ms"));
                self.cluster.executor().freeze(process_of(node));
                self.later(broken, Mend::Thaw(node));
            }
            7..=10 => self.cut(broken),
            11 => {
                if self.cluster.coordinator().term().is_some() {
                    self.tell(format!("stop the coordinator for {broken} ms"));
                    self.cluster.coordinator().stop();
                    self.later(broken, Mend::StartCoordinator);
                }
            }
            12..=14 => {
                let (node, lag) = (self.any_node(), self.rng.below(LAG_MS_MAX));
                self.tell(format!("slow the disk of {node} by {lag} ms for {broken} ms"));
                self.cluster.disk(node).slow_down(Duration::from_millis(lag));
                self.later(broken, Mend::Disk(node));
            }
            _ => {
                let running = self.cluster.running();
                let Some(&node) = running.get(self.below(running.len())) else { return };
                self.tell(format!("fail a flush of {node}, replace it after {broken} ms"));
                self.cluster.disk(node).fail_next_flush();
                self.later(broken, Mend::Replace(node));
            }
        }
    }

    fn kill(&mut self, count: usize) {
        for _ in 0..count {
            let living: Vec<NodeId> =
                self.nodes.iter().filter(|node| !self.dead.contains(node)).copied().collect();
            let Some(&node) = living.get(self.below(living.len())) else { return };
            let dead = self.rng.below(DEAD_MS_MAX);
            self.tell(format!("kill {node} for {dead} ms"));
            self.dead.insert(node);
            self.cluster.kill_node(node);
            self.later(dead, Mend::Start(node));
        }
    }

    fn cut(&mut self, broken: u64) {
        let one = process_of(self.any_node());
        let other = match self.rng.below(4) {
            0 => COORDINATOR,
            1 => self.clients[self.below(self.clients.len())],
            _ => process_of(self.any_node()),
        };
        if one == other {
            return;
        }
        let ways = self.rng.below(3);
        self.tell(format!("cut {one:?} and {other:?}, ways {ways}, for {broken} ms"));
        for (way, (from, to)) in [(one, other), (other, one)].into_iter().enumerate() {
            if ways == 2 || ways == way as u64 {
                self.cluster.fabric().cuts().cut(from, to);
                self.later(broken, Mend::Join(from, to));
            }
        }
    }

    fn mend_until(&mut self, end: Nanos) {
        loop {
            let due = self.mends.first_key_value().map(|((at, _), _)| *at);
            let until = due.map_or(end, |at| at.min(end));
            let wait = until.since(self.cluster.executor().now());
            self.cluster.executor().run_until(wait, || false);
            match self.mends.first_entry() {
                Some(entry) if entry.key().0 <= until && due.is_some_and(|at| at <= end) => {
                    let mend = entry.remove();
                    self.mend(mend);
                }
                _ => return,
            }
        }
    }

    fn mend(&mut self, mend: Mend) {
        self.tell(format!("{mend:?}"));
        match mend {
            Mend::Start(node) => {
                if self.dead.remove(&node) {
                    self.cluster.start_node(node);
                }
            }
            Mend::Thaw(node) => self.cluster.executor().thaw(process_of(node)),
            Mend::Join(from, to) => {
                let reset = self.rng.below(2) == 0;
                self.cluster.fabric().cuts().join(from, to);
                self.cluster.fabric().rewire(from, to, reset);
            }
            Mend::StartCoordinator => self.cluster.coordinator().start_again(),
            Mend::Disk(node) => self.cluster.disk(node).mend(),
            Mend::Replace(node) => {
                self.cluster.disk(node).mend();
                self.replace_fenced(node);
            }
        }
    }

    /// Restarts a node whose target has fenced itself, as its operator would.
    fn replace_fenced(&mut self, node: NodeId) {
        if self.cluster.is_fenced(node) {
            self.tell(format!("restart fenced {node}"));
            self.cluster.kill_node(node);
            self.cluster.start_node(node);
        }
    }

    fn later(&mut self, ms: u64, mend: Mend) {
        let at = self.after_ms(ms);
        self.mend_next += 1;
        self.mends.insert((at, self.mend_next), mend);
    }

    fn after_ms(&self, ms: u64) -> Nanos {
        self.cluster.executor().now().after(Duration::from_millis(ms))
    }

    fn any_node(&self) -> NodeId {
        self.nodes[self.below(self.nodes.len())]
    }

    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).unwrap_or(0)
    }

    fn tell(&self, what: impl Into<String>) {
        self.cluster.executor().tell(|| what.into());
    }
}
