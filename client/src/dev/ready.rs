//! Decides when a cluster is ready, and waits until it is.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::cluster_map::{ClusterMap, GroupRecord, NodeState, TargetState};
use protocol::ids::{Generation, NodeId, TargetId};
use tokio::time::{Instant, sleep};

use super::process::{Slot, State};
use super::{DevError, Folder};
use crate::{Client, Config};

/// Longest wait for a cluster or node, in seconds: formatting, recovery and resync of a restart.
const READY_SECONDS: u64 = 60;
/// Pause between two looks at the map.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Incarnations of targets before their nodes were started.
pub(crate) type Generations = BTreeMap<TargetId, Generation>;

/// Asks about a cluster until it is ready, its processes die, or it takes too long.
pub(crate) struct Watch<'a> {
    folder: &'a Folder,
    slots: &'a [Slot],
    until: Instant,
}

impl<'a> Watch<'a> {
    /// Watches the processes in `slots`, which have been started.
    pub(crate) fn new(folder: &'a Folder, slots: &'a [Slot]) -> Watch<'a> {
        Watch { folder, slots, until: Instant::now() + Duration::from_secs(READY_SECONDS) }
    }

    /// Connects to the coordinator as soon as it answers.
    pub(crate) async fn connect(&self) -> Result<Client, DevError> {
        let config = self.folder.client_file();
        let config = Config::load(&config)
            .map_err(|error| DevError::Damaged { path: config, text: error.to_string() })?;
        loop {
            match Client::connect(&config).await {
                Ok(client) => return Ok(client),
                Err(error) => {
                    self.pause(&format!("an answer of the coordinator ({error})")).await?
                }
            }
        }
    }

    /// Waits until `done` accepts the map.
    pub(crate) async fn map(
        &self,
        client: &Client,
        what: &str,
        done: impl Fn(&ClusterMap) -> bool,
    ) -> Result<(), DevError> {
        loop {
            match client.refresh_map().await {
                Ok(map) if done(&map) => return Ok(()),
                Ok(_) => self.pause(what).await?,
                Err(error) => self.pause(&format!("{what} ({error})")).await?,
            }
        }
    }

    async fn pause(&self, what: &str) -> Result<(), DevError> {
        if let Some(dead) = self.slots.iter().find(|slot| slot.state() == State::Dead) {
            return Err(dead.died());
        }
        if Instant::now() >= self.until {
            return Err(DevError::Timeout {
                what: what.to_owned(),
                seconds: READY_SECONDS,
                logs: self.folder.logs(),
            });
        }
        sleep(LOOK_EVERY).await;
        Ok(())
    }
}

/// The incarnations a map knows.
pub(crate) fn generations(map: &ClusterMap) -> Generations {
    map.targets.values().map(|target| (target.id, target.generation)).collect()
}

/// True when the node is up with all its targets, each newer than in `before`.
pub(crate) fn node_registered(
    map: &ClusterMap,
    node: NodeId,
    targets: &[TargetId],
    before: &Generations,
) -> bool {
    let up = map.nodes.get(&node).is_some_and(|node| node.state == NodeState::Up);
    up && targets.iter().all(|id| {
        map.targets.get(id).is_some_and(|target| {
            target.state == TargetState::Up
                && before.get(id).is_none_or(|&before| target.generation > before)
        })
    })
}

/// True when every group acknowledges writes, with the incarnations that run now.
///
/// After a restart of everything the map still shows the memberships of the last incarnations;
/// those are not ready.
pub(crate) fn all_writable(map: &ClusterMap) -> bool {
    let current = |group: &GroupRecord| {
        group.serving().all(|member| {
            map.targets
                .get(&member.target)
                .is_some_and(|target| target.generation == member.generation)
        })
    };
    !map.groups.is_empty()
        && map.groups.values().all(|group| group.active && group.writable() && current(group))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use protocol::cluster_map::{Member, NodeRecord, Role, TargetRecord};
    use protocol::ids::{Epoch, GroupId, ShardId};

    use super::*;

    fn map() -> ClusterMap {
        let mut map = ClusterMap::default();
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let node = NodeRecord { id: NodeId(1), state: NodeState::Up, address, draining: false };
        map.nodes.insert(NodeId(1), node);
        let target = TargetRecord {
            id: TargetId(101),
            node: NodeId(1),
            shard: ShardId(0),
            device: 0,
            port: 7410,
            generation: Generation(2),
            capacity: 1,
            state: TargetState::Up,
        };
        map.targets.insert(target.id, target);
        let member =
            Member { target: TargetId(101), generation: Generation(2), role: Role::Primary };
        let group = GroupRecord {
            id: GroupId(1),
            kind: 0,
            epoch: Epoch(3),
            last_writable_epoch: Epoch(3),
            active: true,
            down: false,
            replicas: 1,
            min_write: 1,
            members: vec![member],
            evicted: vec![],
            mutations: true,
            ..GroupRecord::default()
        };
        map.groups.insert(group.id, group);
        map
    }

    #[test]
    fn a_map_without_groups_is_not_ready() {
        assert!(!all_writable(&ClusterMap::default()));
        assert!(all_writable(&map()));
    }

    #[test]
    fn a_group_of_the_last_incarnation_is_not_ready() {
        let mut map = map();
        map.groups.values_mut().for_each(|group| group.members[0].generation = Generation(1));
        assert!(!all_writable(&map));
    }

    #[test]
    fn an_epoch_that_is_not_active_is_not_ready() {
        let mut map = map();
        map.groups.values_mut().for_each(|group| group.active = false);
        assert!(!all_writable(&map));
    }

    #[test]
    fn a_node_counts_as_registered_with_a_newer_incarnation_only() {
        let map = map();
        let targets = [TargetId(101)];
        let old = Generations::from([(TargetId(101), Generation(1))]);
        assert!(node_registered(&map, NodeId(1), &targets, &old));
        assert!(node_registered(&map, NodeId(1), &targets, &Generations::new()));
        assert!(!node_registered(&map, NodeId(1), &targets, &generations(&map)));
        assert!(!node_registered(&map, NodeId(2), &targets, &old));
    }
}
