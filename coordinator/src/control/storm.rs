//! Nodes that restart again and again are kept out of their groups for a while.
//!
//! Each return costs the group an epoch and a resync; a node that crashes every minute would cost
//! more than it gives. It is let in all the same where a group could not be written without it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol::cluster_map::{ClusterMap, TargetState};
use protocol::ids::{Generation, NodeId, TargetId};
use protocol::time::Nanos;

use crate::limits::{STORM_PAUSE, STORM_WINDOW};

/// What is remembered of restarts; lost without harm.
#[derive(Clone, Debug, Default)]
pub(super) struct Storms {
    /// Times of the last restarts and fences of each node, at most as many as are allowed.
    failures: BTreeMap<NodeId, VecDeque<Nanos>>,
    /// Newest generation of each target that was seen.
    generations: BTreeMap<TargetId, Generation>,
    fenced: BTreeSet<TargetId>,
    held: BTreeMap<NodeId, Nanos>,
}

impl Storms {
    /// Looks at the map; `allowed` restarts within the window are too many, 0 for never.
    pub(super) fn look(&mut self, map: &ClusterMap, allowed: u32, now: Nanos) {
        let mut failed = BTreeSet::new();
        for record in map.targets.values() {
            let before = self.generations.insert(record.id, record.generation);
            if before.is_some_and(|before| before < record.generation) {
                failed.insert(record.node);
                self.fenced.remove(&record.id);
            }
            if record.state == TargetState::Fenced && self.fenced.insert(record.id) {
                failed.insert(record.node);
            }
        }
        self.generations.retain(|target, _| map.targets.contains_key(target));
        self.failures.retain(|node, _| map.nodes.contains_key(node));
        self.held.retain(|_, until| now < *until);
        for node in failed {
            self.fail(node, allowed, now);
        }
    }

    /// Nodes that are kept out now.
    pub(super) fn held(&self) -> BTreeSet<NodeId> {
        self.held.keys().copied().collect()
    }

    fn fail(&mut self, node: NodeId, allowed: u32, now: Nanos) {
        let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
        let failures = self.failures.entry(node).or_default();
        failures.push_back(now);
        while failures.len() > allowed.max(1)
            || failures.front().is_some_and(|at| now.since(*at) > STORM_WINDOW)
        {
            failures.pop_front();
        }
        if allowed > 0 && failures.len() >= allowed {
            failures.clear();
            self.held.insert(node, now.after(STORM_PAUSE));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limits::STORM_RESTARTS;
    use crate::placement::fixture;

    fn restarted(map: &mut ClusterMap) {
        if let Some(record) = map.targets.get_mut(&TargetId(1)) {
            record.generation.0 += 1;
        }
    }

    fn map() -> ClusterMap {
        let mut map = ClusterMap::default();
        map.nodes.insert(NodeId(1), fixture::node(1));
        map.targets.insert(TargetId(1), fixture::target(1, 1));
        map
    }

    #[test]
    fn a_node_that_restarts_too_often_is_held_for_a_while() {
        let (mut map, mut storms, mut now) = (map(), Storms::default(), Nanos(1));
        storms.look(&map, STORM_RESTARTS, now);
        for _ in 1..STORM_RESTARTS {
            restarted(&mut map);
            storms.look(&map, STORM_RESTARTS, now);
            storms.look(&map, STORM_RESTARTS, now);
        }
        assert_eq!(storms.held(), BTreeSet::new());
        map.targets.get_mut(&TargetId(1)).unwrap().state = TargetState::Fenced;
        storms.look(&map, STORM_RESTARTS, now);
        assert_eq!(storms.held(), BTreeSet::from([NodeId(1)]), "a fence counts too");
        now = now.after(STORM_PAUSE);
        storms.look(&map, STORM_RESTARTS, now);
        assert_eq!(storms.held(), BTreeSet::new());
    }

    #[test]
    fn rare_restarts_hold_nobody_and_none_do_when_it_is_switched_off() {
        let (mut map, mut storms, mut now) = (map(), Storms::default(), Nanos(1));
        for _ in 0..20 {
            restarted(&mut map);
            storms.look(&map, STORM_RESTARTS, now);
            assert_eq!(storms.held(), BTreeSet::new());
            now = now.after(STORM_WINDOW / STORM_RESTARTS.max(1) + Duration::from_secs(120));
        }
        for _ in 0..20 {
            restarted(&mut map);
            storms.look(&map, 0, now);
        }
        assert_eq!(storms.held(), BTreeSet::new());
    }
}
