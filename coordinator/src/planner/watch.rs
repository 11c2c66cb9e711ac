//! Since when what is missing: the planner's only memory, lost without harm.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::cluster_map::{ClusterMap, GroupRecord};
use protocol::ids::{GroupId, NodeId, TargetId};
use protocol::time::Nanos;

use super::draining;
use crate::limits::{MASS_FAILURE_PERCENT, MASS_FAILURE_WINDOW};
use crate::placement;

/// What is missing, and since when.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Targets with a place in a group that do not serve.
    lost: BTreeMap<TargetId, Nanos>,
    /// Groups with fewer members than replicas.
    short: BTreeMap<GroupId, Nanos>,
    /// Targets that were lost together, too many to be a few broken machines.
    burst: BTreeSet<TargetId>,
    /// Since when every group is healthy.
    calm: Option<Nanos>,
}

impl Watch {
    /// Looks at the newest map.
    pub fn update(&mut self, map: &ClusterMap, now: Nanos) {
        let lost = lost(map);
        self.lost.retain(|target, _| lost.contains(target));
        for target in lost {
            self.lost.entry(target).or_insert(now);
        }
        let is_short = |group: &GroupRecord| group.members.len() < usize::from(group.replicas);
        let short = |id: &GroupId| map.groups.get(id).is_some_and(is_short);
        self.short.retain(|id, _| short(id));
        for group in map.groups.values().filter(|group| is_short(group)) {
            self.short.entry(group.id).or_insert(now);
        }
        self.note_burst(map, now);
        let whole = map.groups.values().all(|group| group.healthy() && group.plan.is_none());
        self.calm = if whole && self.lost.is_empty() { self.calm.or(Some(now)) } else { None };
    }

    /// True while so much was lost at once that no copies are begun.
    pub fn guarded(&self) -> bool {
        !self.burst.is_empty()
    }

    /// How long every group has been healthy; `None` while one is not.
    pub fn calm_for(&self, now: Nanos) -> Option<Duration> {
        self.calm.map(|since| now.since(since))
    }

    /// Since when a group has had fewer members than it should.
    pub fn short_since(&self, group: GroupId) -> Option<Nanos> {
        self.short.get(&group).copied()
    }

    fn note_burst(&mut self, map: &ClusterMap, now: Nanos) {
        let few = few(map);
        self.burst.retain(|target| self.lost.contains_key(target));
        if self.burst.len() <= few {
            self.burst.clear();
        }
        let recent = self.lost.iter().filter(|(_, at)| now.since(**at) <= MASS_FAILURE_WINDOW);
        let recent: BTreeSet<_> = recent.map(|(target, _)| *target).collect();
        if recent.len() > few {
            self.burst.extend(recent);
        }
    }
}

/// Targets that do not serve although they have a place, nodes that are being emptied apart: an
/// operator who empties a node knows that it is away.
fn lost(map: &ClusterMap) -> BTreeSet<TargetId> {
    let places = |group: &GroupRecord| {
        let members = group.members.iter().map(|member| member.target);
        members.chain(group.evicted.iter().copied()).collect::<Vec<_>>()
    };
    let placed: BTreeSet<_> = map.groups.values().flat_map(places).collect();
    placed.into_iter().filter(|it| !placement::up(map, *it) && !draining(map, *it)).collect()
}

/// How many targets may be lost at once: those of the largest node, or a part of all.
fn few(map: &ClusterMap) -> usize {
    let mut nodes: BTreeMap<NodeId, usize> = BTreeMap::new();
    for target in map.targets.values() {
        *nodes.entry(target.node).or_default() += 1;
    }
    let largest = nodes.values().copied().max().unwrap_or(0);
    largest.max(map.targets.len() * MASS_FAILURE_PERCENT / 100)
}
