//! Chooses members of placement groups. Pure and deterministic: ties go to the lowest target id.
//!
//! Members of a group are on different nodes; targets get equally many groups and equally many
//! primaries; as few groups as possible share a pair of nodes, and each node of a pair leads about
//! half of what they share, so that the work of a dead node is spread over all others.

use std::collections::BTreeMap;

use protocol::cluster_map::{ClusterMap, Member, NodeState, Role, TargetRecord, TargetState};
use protocol::ids::{NodeId, TargetId};

/// Chooses the members of `count` new groups, the primary of each first.
///
/// # Shape
/// Each group has `replicas` members, or one of each node when there are fewer nodes; no group when
/// no target serves.
///
/// # Cost
/// `count * replicas * targets` steps.
pub fn place(map: &ClusterMap, replicas: u8, count: u32) -> Vec<Vec<TargetId>> {
    let mut load = Load::of(map);
    if load.targets.is_empty() {
        return Vec::new();
    }
    (0..count).map(|_| load.add_group(usize::from(replicas))).collect()
}

/// True when the target is up on a node that answers.
pub fn up(map: &ClusterMap, target: TargetId) -> bool {
    let Some(record) = map.targets.get(&target) else { return false };
    let node = map.nodes.get(&record.node);
    let serves = matches!(record.state, TargetState::Up | TargetState::Slow);
    serves && node.is_some_and(|node| node.state != NodeState::Down)
}

/// True when the member's target is up in the generation the membership is for.
pub fn serves(map: &ClusterMap, member: &Member) -> bool {
    let record = map.targets.get(&member.target);
    record.is_some_and(|record| record.generation == member.generation) && up(map, member.target)
}

/// How much each target and each pair of nodes has to carry.
struct Load {
    targets: BTreeMap<TargetId, TargetLoad>,
    pairs: BTreeMap<(NodeId, NodeId), u32>,
    /// Groups that the first node leads and the second one backs up.
    led: BTreeMap<(NodeId, NodeId), u32>,
}

struct TargetLoad {
    node: NodeId,
    groups: u32,
    primaries: u32,
}

impl Load {
    fn of(map: &ClusterMap) -> Load {
        let takes = |target: &&TargetRecord| {
            let node = map.nodes.get(&target.node);
            let wanted = node.is_some_and(|node| !node.draining);
            up(map, target.id) && target.state == TargetState::Up && wanted
        };
        let serving = map.targets.values().filter(takes);
        let fresh = |node| TargetLoad { node, groups: 0, primaries: 0 };
        let targets = serving.map(|target| (target.id, fresh(target.node))).collect();
        let mut load = Load { targets, pairs: BTreeMap::new(), led: BTreeMap::new() };
        for group in map.groups.values() {
            let mut members: Vec<_> = group.members.iter().collect();
            members.sort_by_key(|member| member.role != Role::Primary);
            let chosen: Vec<_> = members.iter().map(|member| member.target).collect();
            load.note(&chosen);
        }
        load
    }

    fn add_group(&mut self, replicas: usize) -> Vec<TargetId> {
        let mut chosen: Vec<TargetId> = Vec::new();
        while chosen.len() < replicas {
            let Some(next) = self.best(&chosen) else { break };
            chosen.push(next);
        }
        // The member with the fewest primaries leads, and of these who leads the others least.
        let key = |target: TargetId| {
            let primaries = self.targets.get(&target).map(|load| load.primaries);
            (primaries, self.leads_of(target, &chosen), target)
        };
        if let Some(leader) = chosen.iter().copied().min_by_key(|target| key(*target)) {
            chosen.sort_by_key(|target| (*target != leader, *target));
        }
        self.note(&chosen);
        chosen
    }

    /// How often the target's node leads the nodes of these members.
    fn leads_of(&self, target: TargetId, members: &[TargetId]) -> u32 {
        let node = |target: &TargetId| self.targets.get(target).map(|load| load.node);
        let led = |other: NodeId| node(&target).and_then(|own| self.led.get(&(own, other)));
        members.iter().filter_map(node).filter_map(led).sum()
    }

    /// The target that serves best beside those chosen: fewest groups, then fewest shared pairs.
    fn best(&self, chosen: &[TargetId]) -> Option<TargetId> {
        let nodes: Vec<_> =
            chosen.iter().filter_map(|target| self.targets.get(target)).map(|t| t.node).collect();
        let free = self.targets.iter().filter(|(_, load)| !nodes.contains(&load.node));
        let shared = |node: NodeId| nodes.iter().map(move |other| self.shared(node, *other));
        free.min_by_key(|(target, load)| {
            let pairs = shared(load.node);
            (load.groups, pairs.clone().max(), pairs.sum::<u32>(), **target)
        })
        .map(|(target, _)| *target)
    }

    fn shared(&self, one: NodeId, other: NodeId) -> u32 {
        self.pairs.get(&(one.min(other), one.max(other))).copied().unwrap_or(0)
    }

    fn note(&mut self, chosen: &[TargetId]) {
        let mut nodes: Vec<NodeId> = Vec::new();
        for (place, target) in chosen.iter().enumerate() {
            let Some(load) = self.targets.get_mut(target) else { continue };
            load.groups += 1;
            load.primaries += u32::from(place == 0);
            for &other in &nodes {
                let pair = (load.node.min(other), load.node.max(other));
                *self.pairs.entry(pair).or_default() += 1;
            }
            if let Some(leader) = nodes.first() {
                *self.led.entry((*leader, load.node)).or_default() += 1;
            }
            nodes.push(load.node);
        }
    }
}

/// Records for the tests of the deciders.
#[cfg(test)]
pub(crate) mod fixture {
    use std::net::{IpAddr, Ipv4Addr};

    use protocol::cluster_map::{NodeRecord, TargetRecord};
    use protocol::ids::{Generation, ShardId};

    use super::*;

    /// A node that is up.
    pub(crate) fn node(id: u32) -> NodeRecord {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        NodeRecord { id: NodeId(id), state: NodeState::Up, address, draining: false }
    }

    /// A target of 1000 bytes that is up.
    pub(crate) fn target(id: u32, node: u32) -> TargetRecord {
        TargetRecord {
            id: TargetId(id),
            node: NodeId(node),
            shard: ShardId(0),
            device: 0,
            port: 1,
            generation: Generation(1),
            capacity: 1000,
            state: TargetState::Up,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{IpAddr, Ipv4Addr};

    use protocol::cluster_map::{NodeRecord, TargetRecord};
    use protocol::ids::{Generation, ShardId};

    use super::*;

    fn map(nodes: u32, shards: u32) -> ClusterMap {
        let mut map = ClusterMap::default();
        for node in 1..=nodes {
            let id = NodeId(node);
            let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
            map.nodes.insert(id, NodeRecord { id, state: NodeState::Up, address, draining: false });
            for shard in 0..shards {
                let target = TargetRecord {
                    id: TargetId(node * 100 + shard),
                    node: id,
                    shard: ShardId(0),
                    device: 0,
                    port: 1,
                    generation: Generation(1),
                    capacity: 1,
                    state: TargetState::Up,
                };
                map.targets.insert(target.id, target);
            }
        }
        map
    }

    fn spread(groups: &[Vec<TargetId>], of: impl Fn(&[TargetId]) -> Vec<u32>) -> (u32, u32) {
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for what in groups.iter().flat_map(|group| of(group)) {
            *counts.entry(what).or_default() += 1;
        }
        let counts: Vec<_> = counts.into_values().collect();
        (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0))
    }

    #[test]
    fn targets_primaries_and_pairs_are_balanced() {
        let groups = place(&map(5, 2), 3, 200);
        for group in &groups {
            let nodes: BTreeSet<_> = group.iter().map(|target| target.0 / 100).collect();
            assert_eq!(nodes.len(), 3, "{group:?}");
        }
        assert_eq!(spread(&groups, |group| group.iter().map(|t| t.0).collect()), (60, 60));
        let (least, most) = spread(&groups, |group| vec![group[0].0]);
        assert!(most - least <= 2, "primaries {least} to {most}");
        let (least, most) = spread(&groups, |group| {
            let nodes: Vec<_> = group.iter().map(|target| target.0 / 100).collect();
            let pair = |a: u32, b: u32| a.min(b) * 10 + a.max(b);
            vec![pair(nodes[0], nodes[1]), pair(nodes[0], nodes[2]), pair(nodes[1], nodes[2])]
        });
        assert!(most <= least + least / 4, "pairs {least} to {most}");
    }

    #[test]
    fn what_a_node_shares_is_led_by_all_others_alike() {
        for nodes in [4, 5, 7] {
            let groups = place(&map(nodes, 1), 3, 84);
            for dead in 1..=nodes {
                let led: Vec<Vec<TargetId>> = groups
                    .iter()
                    .filter(|group| group.iter().any(|target| target.0 / 100 == dead))
                    .filter(|group| group[0].0 / 100 != dead)
                    .cloned()
                    .collect();
                let (least, most) = spread(&led, |group| vec![group[0].0]);
                let leaders: BTreeSet<_> = led.iter().map(|group| group[0]).collect();
                assert_eq!(leaders.len(), nodes as usize - 1, "without node {dead} of {nodes}");
                assert!(most <= 3 * least, "{least} to {most} without node {dead} of {nodes}");
            }
        }
    }

    #[test]
    fn fewer_nodes_than_replicas_make_smaller_groups() {
        assert!(place(&map(2, 3), 3, 10).iter().all(|group| group.len() == 2));
        assert!(place(&map(0, 0), 3, 10).is_empty());
    }

    #[test]
    fn targets_that_do_not_serve_get_nothing() {
        let mut map = map(4, 1);
        if let Some(node) = map.nodes.get_mut(&NodeId(2)) {
            node.state = NodeState::Down;
        }
        if let Some(target) = map.targets.get_mut(&TargetId(300)) {
            target.state = TargetState::Fenced;
        }
        let used: BTreeSet<_> = place(&map, 3, 10).into_iter().flatten().collect();
        assert_eq!(used, BTreeSet::from([TargetId(100), TargetId(400)]));
    }
}
