//! What each target and node carries, and where a copy may go.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use protocol::cluster_map::{ClusterMap, GroupRecord, PlanReason, Role, TargetRecord, TargetState};
use protocol::ids::{NodeId, TargetId};

use super::{Observations, draining, present};
use crate::limits::{
    COPIES_PER_DESTINATION_MAX, COPIES_PER_NODE_MAX, COPIES_PER_SOURCE_MAX, FILL_HEAL_MAX_PERCENT,
    FILL_MOVE_MAX_PERCENT,
};

/// The load of all targets, as it will be when every plan is done.
pub(super) struct Load {
    pub(super) targets: BTreeMap<TargetId, TargetLoad>,
    pairs: BTreeMap<(NodeId, NodeId), u32>,
    nodes: BTreeMap<NodeId, usize>,
}

/// One target.
#[derive(Clone, Debug)]
pub(super) struct TargetLoad {
    pub(super) node: NodeId,
    /// Groups it is, or will be, a member of.
    pub(super) places: u32,
    /// Groups it leads.
    pub(super) leads: u32,
    /// Copies that it sends, and those that it receives.
    sends: usize,
    receives: usize,
    /// Usable bytes.
    pub(super) capacity: u64,
    /// Free bytes; those of an empty target when it has not reported.
    free: u64,
    /// True when new groups may go there.
    pub(super) takes: bool,
}

impl Load {
    pub(super) fn of(map: &ClusterMap, observed: &Observations<'_>) -> Load {
        let load_of = |record: &TargetRecord| TargetLoad {
            node: record.node,
            places: 0,
            leads: 0,
            sends: 0,
            receives: 0,
            capacity: record.capacity.max(1),
            free: observed.reports.get(&record.id).map_or(record.capacity, |(_, it)| it.free),
            takes: present(map, observed.live, record.id)
                && record.state == TargetState::Up
                && !draining(map, record.id)
                && !observed.sick.contains(&record.id),
        };
        let targets = map.targets.values().map(|record| (record.id, load_of(record)));
        let mut load =
            Load { targets: targets.collect(), pairs: BTreeMap::new(), nodes: BTreeMap::new() };
        for group in map.groups.values() {
            load.note(group);
        }
        load
    }

    /// The target that should hold a copy of the group instead of `leave`, 0 for nobody.
    ///
    /// Different nodes first, then room, then the fewest groups for its free space, then the fewest
    /// groups in common with the nodes of the other members.
    pub(super) fn choose(
        &self,
        group: &GroupRecord,
        leave: TargetId,
        reason: PlanReason,
    ) -> Option<TargetId> {
        let source = group.primary().and_then(|primary| self.targets.get(&primary.target))?;
        if source.sends >= COPIES_PER_SOURCE_MAX || self.node_copies(source.node) {
            return None;
        }
        let members = || group.members.iter().filter_map(|it| self.targets.get(&it.target));
        let taken: BTreeSet<_> = members().map(|member| member.node).collect();
        let leaves = self.targets.get(&leave).map(|member| member.node);
        let stay: Vec<_> = taken.iter().copied().filter(|node| Some(*node) != leaves).collect();
        let fits = self.targets.iter().filter(|(_, it)| {
            it.takes
                && !taken.contains(&it.node)
                && it.receives < COPIES_PER_DESTINATION_MAX
                && !self.node_copies(it.node)
                && it.has_room(reason)
        });
        let key = |id: TargetId, it: &TargetLoad| {
            let pairs = stay.iter().map(|node| self.pair(it.node, *node));
            let weight = it.free.max(1);
            (it.share(1, weight), pairs.clone().max(), pairs.sum::<u32>(), id)
        };
        fits.min_by_key(|(id, it)| key(**id, it)).map(|(id, _)| *id)
    }

    /// Takes note of a copy that begins.
    pub(super) fn begin(&mut self, group: &GroupRecord, target: TargetId, leave: TargetId) {
        if let Some(primary) = group.primary() {
            self.transfer(primary.target, target);
        }
        if let Some(load) = self.targets.get_mut(&target) {
            load.places += 1;
        }
        if let Some(load) = self.targets.get_mut(&leave) {
            load.places = load.places.saturating_sub(1);
        }
    }

    /// Gives a lead from one target to another.
    pub(super) fn pass_lead(&mut self, from: TargetId, to: TargetId) {
        if let Some(load) = self.targets.get_mut(&from) {
            load.leads = load.leads.saturating_sub(1);
        }
        if let Some(load) = self.targets.get_mut(&to) {
            load.leads += 1;
        }
    }

    /// Groups the target leads; the most for a target that is not known.
    pub(super) fn leads(&self, target: TargetId) -> u32 {
        self.targets.get(&target).map_or(u32::MAX, |load| load.leads)
    }

    /// The serving member that should lead when `without` does not.
    pub(super) fn next_lead(&self, group: &GroupRecord, without: TargetId) -> Option<TargetId> {
        let others = group.serving().filter(|member| member.target != without);
        let key = |target: TargetId| {
            let takes = self.targets.get(&target).is_some_and(|load| load.takes);
            (Reverse(takes), self.leads(target), target)
        };
        others.map(|member| member.target).min_by_key(|target| key(*target))
    }

    fn note(&mut self, group: &GroupRecord) {
        let leaves = group.plan.map_or(TargetId(0), |plan| plan.leave);
        let mut nodes: Vec<NodeId> = Vec::new();
        for member in &group.members {
            let Some(load) = self.targets.get_mut(&member.target) else { continue };
            load.leads += u32::from(member.role == Role::Primary);
            if member.target == leaves {
                continue;
            }
            load.places += 1;
            for &other in &nodes {
                let pair = (load.node.min(other), load.node.max(other));
                *self.pairs.entry(pair).or_default() += 1;
            }
            nodes.push(load.node);
        }
        // A returning member needs no place in the queue: it is nearly complete.
        let planned = group.plan.map(|plan| plan.add);
        let copied = super::syncing(group).find(|member| Some(member.target) == planned);
        if let (Some(primary), Some(member)) = (group.primary(), copied) {
            self.transfer(primary.target, member.target);
        }
    }

    fn transfer(&mut self, from: TargetId, to: TargetId) {
        for (target, sends) in [(from, true), (to, false)] {
            let Some(load) = self.targets.get_mut(&target) else { continue };
            load.sends += usize::from(sends);
            load.receives += usize::from(!sends);
            *self.nodes.entry(load.node).or_default() += 1;
        }
    }

    fn node_copies(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|copies| *copies >= COPIES_PER_NODE_MAX)
    }

    fn pair(&self, one: NodeId, other: NodeId) -> u32 {
        self.pairs.get(&(one.min(other), one.max(other))).copied().unwrap_or(0)
    }
}

impl TargetLoad {
    /// Groups for the weight, with `more` groups, as a number to compare.
    pub(super) fn share(&self, more: u32, weight: u64) -> u128 {
        (u128::from(self.places + more) << 64) / u128::from(weight.max(1))
    }

    /// True when copies for this reason may go there.
    pub(super) fn has_room(&self, reason: PlanReason) -> bool {
        let percent = match reason {
            PlanReason::Heal | PlanReason::Slow => FILL_HEAL_MAX_PERCENT,
            PlanReason::Drain | PlanReason::Rebalance => FILL_MOVE_MAX_PERCENT,
        };
        let used = u128::from(self.capacity.saturating_sub(self.free));
        used * 100 < u128::from(self.capacity) * u128::from(percent)
    }
}
