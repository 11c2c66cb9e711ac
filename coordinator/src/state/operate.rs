//! What operators want, and what targets reported as durable.

use std::collections::BTreeMap;

use protocol::cluster_map::{GroupRecord, TargetState};
use protocol::guard::{self, Guard};
use protocol::ids::{Generation, Lsn, NodeId, TargetId};
use protocol::message::cluster::TargetReport;
use protocol::status::Status;

use super::history::Changed;
use super::{Outcome, State, Step};
use crate::kv::Kv;

impl<K: Kv> State<K> {
    /// Notes that a node is to be emptied, or no longer; then it may be empty, and gets its share.
    pub(super) fn set_draining(&mut self, node: NodeId, draining: bool) -> Step<Outcome> {
        let record = self.map.nodes.get_mut(&node).ok_or(Status::NotFound)?;
        if record.draining != draining {
            record.draining = draining;
            self.changed.insert(Changed::Node(node));
            if !draining {
                self.spread();
            }
        }
        Ok(Outcome::Done)
    }

    /// Forgets a node and its targets.
    ///
    /// Refused while a target is a member of a group, while a group waits for one to come back, and
    /// while one may still answer reads under its lease.
    pub(super) fn remove_node(&mut self, node: NodeId) -> Step<Outcome> {
        if !self.map.nodes.contains_key(&node) {
            return Err(Status::NotFound.into());
        }
        let of_node = self.map.targets.values().filter(|target| target.node == node);
        let targets: Vec<_> = of_node.map(|target| target.id).collect();
        for group in self.map.groups.values() {
            let needed = |target: &TargetId| {
                group.member(*target).is_some()
                    || (!group.mutations && group.departed.contains(target))
                    || (group.down && self.ledger.holds_everything(group.id, *target))
            };
            if targets.iter().any(needed) {
                return Err(Status::Conflict.into());
            }
        }
        for target in targets {
            self.forget_target(target);
        }
        self.map.nodes.remove(&node);
        self.nodes.remove(&node);
        self.changed.insert(Changed::Node(node));
        Ok(Outcome::Done)
    }

    /// Notes that a target is slower than its peers, or no longer.
    pub(super) fn set_slow(&mut self, target: TargetId, slow: bool) -> Step<Outcome> {
        let record = self.map.targets.get_mut(&target).ok_or(Status::NotFound)?;
        let state = match (record.state, slow) {
            (TargetState::Up, true) => TargetState::Slow,
            (TargetState::Slow, false) => TargetState::Up,
            (other, _) => other,
        };
        if record.state != state {
            record.state = state;
            self.changed.insert(Changed::Target(target));
        }
        Ok(Outcome::Done)
    }

    /// Begins another scrub pass.
    pub(super) fn start_scrub(&mut self) -> Step<Outcome> {
        self.ledger.scrub_pass =
            self.ledger.scrub_pass.checked_add(1).ok_or(Status::LimitReached)?;
        self.changed.insert(Changed::Orders);
        Ok(Outcome::Done)
    }

    /// Begins or ends spreading data evenly.
    pub(super) fn set_rebalance(&mut self, on: bool) -> Step<Outcome> {
        if self.ledger.rebalance != on {
            self.ledger.rebalance = on;
            self.changed.insert(Changed::Orders);
        }
        Ok(Outcome::Done)
    }

    /// Keeps what targets reported as durable, to notice a disk that goes back in time.
    pub(super) fn note_durable(&mut self, notes: &[(TargetId, Generation, Lsn)]) -> Step<Outcome> {
        for (target, generation, lsn) in notes {
            let current = self.map.targets.get(target).map(|record| record.generation);
            if current == Some(*generation) {
                self.keep_durable(*target, *generation, *lsn);
            }
        }
        Ok(Outcome::Done)
    }

    /// Compares what a target's recovery found with what it had reported as durable.
    pub(super) fn went_back(&mut self, report: &TargetReport) -> bool {
        let kept = self.durables.get(&report.target).copied();
        let back = kept.is_some_and(|(generation, lsn)| {
            report.generation > generation && report.recovered_lsn < lsn
        });
        // From now on this is what it has.
        if kept.is_none_or(|(generation, _)| generation < report.generation) {
            self.keep_durable(report.target, report.generation, report.recovered_lsn);
        }
        back
    }

    /// True when a target holds everything of a group and its recovery found an older epoch than the
    /// one that every such target made durable before the first write of it was acknowledged.
    ///
    /// This needs no note of positions: it finds what went back while nobody could take one.
    pub(super) fn forgot_an_epoch(&self, report: &TargetReport) -> bool {
        let found: BTreeMap<_, _> = report.groups.iter().map(|it| (it.group, it.epoch)).collect();
        let forgot = |group: &GroupRecord| {
            found.get(&group.id).copied().unwrap_or_default() < group.last_writable_epoch
                && self.ledger.holds_everything(group.id, report.target)
        };
        guard::holds(Guard::ForgottenEpoch) && self.map.groups.values().any(forgot)
    }

    /// Starts to give an empty target its share of the groups there are.
    pub(super) fn spread(&mut self) {
        if !self.map.groups.is_empty() && !self.ledger.rebalance {
            self.ledger.rebalance = true;
            self.changed.insert(Changed::Orders);
        }
    }

    fn keep_durable(&mut self, target: TargetId, generation: Generation, lsn: Lsn) {
        let before = self.durables.insert(target, (generation, lsn));
        if before != Some((generation, lsn)) {
            self.store_durable(target, generation, lsn);
        }
    }

    fn forget_target(&mut self, target: TargetId) {
        self.map.targets.remove(&target);
        self.changed.insert(Changed::Target(target));
        self.ledger.distrusted.remove(&target);
        self.ledger.rolled_back.remove(&target);
        self.durables.remove(&target);
        for group in self.ledger.note_loss(target) {
            self.changed.insert(Changed::Group(group));
        }
        for group in self.map.groups.values_mut() {
            if group.evicted.contains(&target) {
                group.evicted.retain(|other| *other != target);
                self.changed.insert(Changed::Group(group.id));
            }
        }
    }
}
