//! What readers see: one committed state, the same for its whole life.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use protocol::cluster_map::{ClusterMap, MapDelta, NodeRecord, TargetRecord};
use protocol::ids::{MapVersion, NodeId, TargetId};

use crate::limits::MAP_DELTAS_MAX;
use crate::state::{Counters, Ledger, Settings};

/// One committed state.
pub struct View<S> {
    /// Its rows, for lookups and listings.
    pub snapshot: S,
    /// Its map.
    pub map: Arc<ClusterMap>,
    /// The last changes of the map.
    pub deltas: Arc<MapDeltas>,
    /// What is kept of the cluster beyond the map.
    pub ledger: Arc<Ledger>,
    /// Figures for the status of the cluster.
    pub counters: Counters,
    /// What the cluster was made with.
    pub settings: Settings,
    /// Commands applied.
    pub applied: u64,
}

/// The last changes of the map, oldest first; each starts where the one before it ends.
#[derive(Clone, Debug, Default)]
pub struct MapDeltas {
    newest: MapVersion,
    steps: VecDeque<Arc<MapDelta>>,
}

impl MapDeltas {
    /// Starts at a version, with no change remembered.
    pub fn at(newest: MapVersion) -> MapDeltas {
        MapDeltas { newest, steps: VecDeque::new() }
    }

    /// Remembers one more change; a whole map forgets those before it.
    pub fn push(&mut self, delta: MapDelta) {
        if delta.full || delta.from != self.newest {
            self.steps.clear();
        }
        self.newest = delta.to;
        if !delta.full {
            self.steps.push_back(Arc::new(delta));
        }
        while self.steps.len() > MAP_DELTAS_MAX {
            self.steps.pop_front();
        }
    }

    /// The changes since `have` as one; `None` when they are no longer remembered.
    pub fn since(&self, have: MapVersion) -> Option<MapDelta> {
        if have == self.newest {
            return Some(MapDelta { from: have, to: have, ..MapDelta::default() });
        }
        let start = self.steps.iter().position(|step| step.from == have)?;
        let steps = || self.steps.iter().skip(start);
        let first = steps().next()?;
        // Later records of the same thing replace earlier ones.
        let mut nodes: BTreeMap<NodeId, Option<&NodeRecord>> = BTreeMap::new();
        let mut targets: BTreeMap<TargetId, Option<&TargetRecord>> = BTreeMap::new();
        for step in steps() {
            nodes.extend(step.removed_nodes.iter().map(|node| (*node, None)));
            nodes.extend(step.nodes.iter().map(|node| (node.id, Some(node))));
            targets.extend(step.removed_targets.iter().map(|target| (*target, None)));
            targets.extend(step.targets.iter().map(|target| (target.id, Some(target))));
        }
        let groups: BTreeMap<_, _> =
            steps().flat_map(|step| &step.groups).map(|group| (group.id, group)).collect();
        Some(MapDelta {
            cluster: first.cluster,
            from: have,
            to: self.newest,
            removed_nodes: gone(&nodes),
            removed_targets: gone(&targets),
            nodes: nodes.into_values().flatten().cloned().collect(),
            targets: targets.into_values().flatten().cloned().collect(),
            groups: groups.into_values().cloned().collect(),
            revocations: steps().flat_map(|step| step.revocations.clone()).collect(),
            ..MapDelta::default()
        })
    }
}

/// The keys of what is no longer there.
fn gone<K: Copy, V>(records: &BTreeMap<K, Option<V>>) -> Vec<K> {
    let gone = records.iter().filter(|(_, record)| record.is_none());
    gone.map(|(key, _)| *key).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use protocol::cluster_map::NodeState;

    use super::*;

    fn step(from: u64, node: u32, state: NodeState) -> MapDelta {
        let record = NodeRecord {
            id: NodeId(node),
            state,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            draining: false,
        };
        let (from, to) = (MapVersion(from), MapVersion(from + 1));
        MapDelta { from, to, nodes: vec![record], ..MapDelta::default() }
    }

    #[test]
    fn changes_are_merged_and_lead_to_the_newest_map() {
        let mut deltas = MapDeltas::at(MapVersion(5));
        let mut newest = ClusterMap { version: MapVersion(5), ..ClusterMap::default() };
        let behind = newest.clone();
        for (at, node, state) in
            [(5, 1, NodeState::Up), (6, 2, NodeState::Up), (7, 1, NodeState::Down)]
        {
            newest.apply(&step(at, node, state)).unwrap();
            deltas.push(step(at, node, state));
        }
        let mut map = behind;
        let merged = deltas.since(MapVersion(5)).unwrap();
        assert_eq!(merged.nodes.len(), 2);
        map.apply(&merged).unwrap();
        assert_eq!(map, newest);
        assert_eq!(deltas.since(MapVersion(8)).unwrap().nodes, []);
        assert_eq!(deltas.since(MapVersion(7)).unwrap().nodes.len(), 1);
        assert_eq!(deltas.since(MapVersion(4)), None);
        assert_eq!(deltas.since(MapVersion(9)), None);
    }

    #[test]
    fn only_the_last_changes_are_remembered() {
        let mut deltas = MapDeltas::at(MapVersion(0));
        let count = MAP_DELTAS_MAX as u64 + 10;
        for at in 0..count {
            deltas.push(step(at, 1, NodeState::Up));
        }
        assert_eq!(deltas.since(MapVersion(9)), None);
        assert!(deltas.since(MapVersion(10)).is_some());
        deltas.push(MapDelta { full: true, to: MapVersion(count + 1), ..MapDelta::default() });
        assert_eq!(deltas.since(MapVersion(count)), None);
    }
}
