//! A seeded schedule of faults: what goes wrong, when, and when it is put right.
//!
//! Every fault that is begun has its end on the schedule; [`Chaos::heal`] brings all ends forward.
//! Which faults may strike where is the atlas's business.

pub mod atlas;
mod mend;
mod operate;
mod strike;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use node::io::Nanos;
use protocol::ids::NodeId;

use super::cluster::SimCluster;
use super::executor::ProcessId;
use super::profile::{Mode, Profile, Trouble};
use super::rng::SimRng;
use atlas::Atlas;
use mend::Mend;
use strike::Strike;

/// Time for operations that a fault already struck to end, before the repair of fenced targets.
const AFTERMATH: Duration = Duration::from_secs(2);
/// Restarts of a node that the coordinator refuses, before it is given up.
const RESTARTS_MAX: u32 = 12;

/// A cluster and everything that is broken in it.
pub struct Chaos {
    /// The cluster.
    pub cluster: SimCluster,
    /// What was damaged where.
    pub atlas: Atlas,
    rng: SimRng,
    clients: Vec<ProcessId>,
    nodes: Vec<NodeId>,
    dead: BTreeSet<NodeId>,
    mends: BTreeMap<(Nanos, u64), Mend>,
    mend_next: u64,
    pause_ms: (u64, u64),
    trouble: Trouble,
    replicas: usize,
    container_len: u64,
    /// The node that is being emptied for good.
    retiring: Option<NodeId>,
    added: u32,
}

impl Chaos {
    /// Takes charge of a healthy cluster and of the ways to these clients.
    pub fn new(
        cluster: SimCluster,
        profile: &Profile,
        mode: Mode,
        clients: Vec<ProcessId>,
    ) -> Chaos {
        let rng = cluster.fork_rng();
        let nodes: Vec<NodeId> = (1..=profile.shape.nodes).map(NodeId).collect();
        let atlas = Atlas::new(mode, &nodes, profile.shape.min_write, &rng);
        cluster.fate().may_refuse.set(mode == Mode::Unrestricted);
        Chaos {
            rng,
            atlas,
            cluster,
            clients,
            nodes,
            dead: BTreeSet::new(),
            mends: BTreeMap::new(),
            mend_next: 0,
            pause_ms: profile.fault_pause_ms,
            trouble: profile.trouble,
            replicas: usize::from(profile.shape.replicas),
            container_len: profile.shape.container_len,
            retiring: None,
            added: 0,
        }
    }

    /// Breaks and mends things for a while.
    pub fn rage(&mut self, time: Duration) {
        let end = self.cluster.executor().now().after(time);
        while self.cluster.executor().now() < end {
            let (low, high) = self.pause_ms;
            let next = self.after_ms(self.rng.between(low, high));
            self.mend_until(next.min(end));
            self.step_a_little();
            self.retire_if_empty();
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
        for _ in 0..RESTARTS_MAX {
            self.cluster.executor().run_until(AFTERMATH, || false);
            let ill: Vec<NodeId> =
                self.nodes.iter().filter(|node| self.needs_restart(**node)).copied().collect();
            if ill.is_empty() {
                return;
            }
            for node in ill {
                self.restart_if_ill(node);
            }
        }
    }

    /// Stops between any two steps of the cluster, not only when everything waits for time.
    fn step_a_little(&self) {
        let mut left = self.rng.below(60);
        self.cluster.executor().run_until(Duration::from_millis(20), || {
            left = left.saturating_sub(1);
            left == 0
        });
    }

    fn strike(&mut self) {
        let strike = Strike::draw(self.trouble, &self.rng);
        self.carry_out(strike);
    }

    fn later(&mut self, ms: u64, mend: Mend) {
        let at = self.after_ms(ms);
        self.mend_next += 1;
        self.mends.insert((at, self.mend_next), mend);
    }

    fn after_ms(&self, ms: u64) -> Nanos {
        self.cluster.executor().now().after(Duration::from_millis(ms))
    }

    fn living(&self) -> Vec<NodeId> {
        self.nodes.iter().filter(|node| !self.dead.contains(node)).copied().collect()
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
