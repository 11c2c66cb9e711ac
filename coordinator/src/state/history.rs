//! Which parts of the map changed in which version, for deltas.
//!
//! In memory only: after a restart a receiver is sent the whole map once.

use std::collections::{BTreeSet, VecDeque};

use protocol::cluster_map::{ClusterMap, MapDelta};
use protocol::ids::{GroupId, MapVersion, NodeId, TargetId};

use crate::limits::{MAP_HISTORY_IDS_MAX, MAP_HISTORY_MAX};

/// A part of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Changed {
    Node(NodeId),
    Target(TargetId),
    Group(GroupId),
    /// What operators want.
    Orders,
}

/// Changes from one version to the newest.
#[derive(Debug)]
pub(super) struct History {
    /// Version that the oldest remembered change starts from.
    from: MapVersion,
    versions: VecDeque<(MapVersion, BTreeSet<Changed>)>,
    ids: usize,
}

impl History {
    pub(super) fn starting_at(from: MapVersion) -> History {
        History { from, versions: VecDeque::new(), ids: 0 }
    }

    /// Remembers what changed with `version`, and forgets the oldest beyond the bounds.
    pub(super) fn note(&mut self, version: MapVersion, changed: BTreeSet<Changed>) {
        self.ids += changed.len();
        self.versions.push_back((version, changed));
        while self.versions.len() > MAP_HISTORY_MAX || self.ids > MAP_HISTORY_IDS_MAX {
            let Some((version, changed)) = self.versions.pop_front() else { break };
            self.ids -= changed.len();
            self.from = version;
        }
    }

    /// Everything that changed since `have`.
    pub(super) fn delta(&self, map: &ClusterMap, have: MapVersion) -> MapDelta {
        if have < self.from || have > map.version || have == MapVersion(0) {
            return map.to_delta();
        }
        let newer = self.versions.iter().filter(|(version, _)| *version > have);
        let changed: BTreeSet<_> = newer.flat_map(|(_, changed)| changed).collect();
        let mut delta =
            MapDelta { cluster: map.cluster, from: have, to: map.version, ..MapDelta::default() };
        for part in changed {
            match part {
                Changed::Node(id) => match map.nodes.get(id) {
                    Some(node) => delta.nodes.push(node.clone()),
                    None => delta.removed_nodes.push(*id),
                },
                Changed::Target(id) => match map.targets.get(id) {
                    Some(target) => delta.targets.push(target.clone()),
                    None => delta.removed_targets.push(*id),
                },
                Changed::Orders => {}
                Changed::Group(id) => delta.groups.extend(map.groups.get(id).cloned()),
            }
        }
        delta
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_too_far_behind_gets_the_whole_map() {
        let mut history = History::starting_at(MapVersion(5));
        let newest = 5 + MAP_HISTORY_MAX as u64 + 3;
        for version in 6..=newest {
            history.note(MapVersion(version), BTreeSet::from([Changed::Group(GroupId(1))]));
        }
        let map = ClusterMap { version: MapVersion(newest), ..ClusterMap::default() };
        assert_eq!(history.versions.len(), MAP_HISTORY_MAX);
        assert!(history.delta(&map, MapVersion(7)).full);
        assert!(!history.delta(&map, MapVersion(8)).full);
        assert!(history.delta(&map, MapVersion(newest + 1)).full);
        assert!(history.delta(&map, MapVersion(0)).full);
    }

    #[test]
    fn what_is_gone_from_the_map_is_named() {
        let mut history = History::starting_at(MapVersion(5));
        let parts = [Changed::Node(NodeId(3)), Changed::Target(TargetId(30)), Changed::Orders];
        history.note(MapVersion(6), BTreeSet::from(parts));
        let map = ClusterMap { version: MapVersion(6), ..ClusterMap::default() };
        let delta = history.delta(&map, MapVersion(5));
        assert_eq!(
            (delta.removed_nodes, delta.removed_targets),
            (vec![NodeId(3)], vec![TargetId(30)])
        );
    }

    #[test]
    fn a_change_of_very_many_parts_is_not_remembered() {
        let mut history = History::starting_at(MapVersion(1));
        let parts = (0..=MAP_HISTORY_IDS_MAX).filter_map(|id| u32::try_from(id).ok());
        let parts = parts.map(|id| Changed::Group(GroupId(id))).collect();
        history.note(MapVersion(2), parts);
        assert_eq!((history.ids, history.from), (0, MapVersion(2)));
    }
}
