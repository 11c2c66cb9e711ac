//! What operators do while things break: empty nodes, add some, have data spread and checked.

use protocol::ids::NodeId;
use protocol::message::command::Command;

use super::Chaos;
use super::mend::Mend;
use crate::sim::cluster::HEALING;
use crate::sim::executor::Stop;

/// Nodes that may join a run.
const ADDED_MAX: u32 = 2;

impl Chaos {
    /// Has a node emptied for a while.
    pub(super) fn drain(&mut self, time: u64) {
        let node = self.any_node();
        if self.cluster.coordinator().term().is_none() || self.retiring == Some(node) {
            return;
        }
        self.tell(format!("empty {node} for {time} ms"));
        self.cluster.coordinator().propose(&Command::SetNodeDraining { node, draining: true });
        self.later(time, Mend::Undrain(node));
    }

    pub(super) fn undrain(&self, node: NodeId) {
        if self.retiring != Some(node) && self.nodes.contains(&node) {
            let coordinator = self.cluster.coordinator();
            coordinator.propose(&Command::SetNodeDraining { node, draining: false });
        }
    }

    /// Has a node emptied, to remove it.
    pub(super) fn retire(&mut self) {
        let enough = self.nodes.len() > self.replicas;
        if self.retiring.is_some() || !enough || self.cluster.coordinator().term().is_none() {
            return;
        }
        let node = self.any_node();
        self.tell(format!("empty {node} to remove it"));
        self.cluster.coordinator().propose(&Command::SetNodeDraining { node, draining: true });
        self.retiring = Some(node);
    }

    /// Removes the node that was to be emptied once it is.
    pub(super) fn retire_if_empty(&mut self) {
        let coordinator = self.cluster.coordinator();
        let Some(node) = self.retiring else { return };
        if coordinator.term().is_none() || !coordinator.is_empty(node) || !coordinator.remove(node)
        {
            return;
        }
        self.tell(format!("{node} is empty and removed"));
        self.cluster.watch().hit("node emptied and removed");
        if !self.dead.remove(&node) {
            self.cluster.kill_node(node);
        }
        self.nodes.retain(|other| *other != node);
        self.retiring = None;
    }

    /// Has a new node join.
    pub(super) fn add_node(&mut self) {
        if self.added >= ADDED_MAX {
            return;
        }
        self.added += 1;
        let node = self.cluster.add_node(self.container_len);
        self.tell(format!("{node} joins"));
        self.cluster.watch().hit("node added");
        self.nodes.push(node);
        self.atlas.on_new(node);
    }

    /// Has data spread evenly.
    pub(super) fn rebalance(&self) {
        if self.cluster.coordinator().term().is_some() {
            self.tell("spread the data");
            self.cluster.coordinator().propose(&Command::SetRebalance { on: true });
        }
    }

    /// Has every target check what it holds.
    pub(super) fn scrub(&self) {
        if self.cluster.coordinator().term().is_some() {
            self.tell("check everything");
            self.cluster.coordinator().scrub();
        }
    }

    /// Waits until the node that was to be emptied is, and removes it.
    ///
    /// # Panics
    /// When that takes longer than a cluster may take to heal.
    pub fn finish_moves(&mut self) {
        let Some(node) = self.retiring else { return };
        let coordinator = self.cluster.coordinator().clone();
        let ended = || coordinator.is_empty(node) && coordinator.healthy();
        let stop = self.cluster.executor().run_until(HEALING, ended);
        let map = coordinator.map();
        let ill: Vec<_> = map.groups.values().filter(|group| group.plan.is_some()).collect();
        assert_eq!(stop, Stop::Reached, "a node is emptied in time: {node}: {ill:#?}");
        self.retire_if_empty();
    }
}
