//! What an operator orders, and what targets say about it.

use coordinator::state::Outcome;
use protocol::cluster_map::TargetState;
use protocol::ids::{Generation, Lsn, NodeId, TargetId};
use protocol::message::cluster::TargetHealth;
use protocol::message::command::Command;

use super::SimCoordinator;
use crate::sim::cluster::target_of;

impl SimCoordinator {
    /// Orders every target to check everything it holds; the number of the pass.
    pub fn scrub(&self) -> u32 {
        self.propose(&Command::StartScrub);
        self.inner.borrow().state.ledger().scrub_pass
    }

    /// True when every target has checked what it holds and nothing of it is damaged any more.
    pub fn scrubbed(&self, pass: u32) -> bool {
        let inner = self.inner.borrow();
        let is_clean = |target: &TargetId| {
            let health = inner.health.get(target);
            health.is_some_and(|health| health.scrub_pass >= pass && health.cells_bad == 0)
        };
        inner.state.map().targets.keys().all(is_clean)
    }

    /// What each target said last, for the message of a failure.
    pub fn health(&self) -> Vec<TargetHealth> {
        self.inner.borrow().health.values().cloned().collect()
    }

    /// True when no group names a target of the node.
    pub fn is_empty(&self, node: NodeId) -> bool {
        let inner = self.inner.borrow();
        let map = inner.state.map();
        let of_node = |target: TargetId| map.targets.get(&target).map(|it| it.node) == Some(node);
        map.groups.values().all(|group| {
            let members = group.members.iter().map(|member| member.target);
            !members.chain(group.evicted.iter().copied()).any(of_node)
        })
    }

    /// Forgets a node that is empty; false when the state says that it is not.
    pub fn remove(&self, node: NodeId) -> bool {
        let done = self.propose(&Command::RemoveNode { node }) == Outcome::Done;
        if done {
            let inner = &mut *self.inner.borrow_mut();
            inner.controls.remove(&node);
            inner.health.retain(|target, _| inner.state.map().targets.contains_key(target));
        }
        done
    }

    /// How far the journal of a node's target was durable, as far as a restart does not forget it.
    pub fn noted(&self, node: NodeId) -> Option<Lsn> {
        self.inner.borrow().state.noted_durable(target_of(node)).map(|(_, lsn)| lsn)
    }

    /// What the targets of a node said last that they have made durable.
    pub(super) fn durable_of(&self, node: NodeId) -> Vec<(TargetId, Generation, Lsn)> {
        let inner = self.inner.borrow();
        let targets = inner.state.map().targets.values().filter(|target| target.node == node);
        let durable = targets.filter_map(|target| {
            let health = inner.health.get(&target.id)?;
            Some((target.id, target.generation, health.durable_lsn))
        });
        durable.collect()
    }

    pub(super) fn on_health(&self, health: TargetHealth) {
        let inner = &mut *self.inner.borrow_mut();
        let state = inner.state.map().targets.get(&health.target).map(|it| it.state);
        let before = inner.health.get(&health.target);
        let had = before.map_or((0, 0, 0), counts);
        let has = counts(&health);
        if let Some(watch) = inner.watch.as_ref().filter(|_| state == Some(TargetState::Up)) {
            if has.0 > had.0 {
                watch.hit("F17 damaged cells");
            }
            if has.1 > had.1 {
                watch.hit("repaired cells");
            }
            if has.2 > had.2 {
                watch.hit("chunks set aside");
            }
        }
        inner.health.insert(health.target, health);
    }
}

fn counts(health: &TargetHealth) -> (u64, u64, u64) {
    (health.cells_damaged, health.cells_repaired, health.quarantined_chunks)
}
