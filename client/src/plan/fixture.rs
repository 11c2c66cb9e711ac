//! A map of one group on three targets, for the tests of the plans.

use std::net::{IpAddr, Ipv4Addr};

use protocol::cluster_map::{
    ClusterMap, GroupRecord, Member, NodeRecord, NodeState, Role, TargetRecord, TargetState,
};
use protocol::ids::{
    ChunkKey, Epoch, Fid, Generation, GroupId, MapVersion, NodeId, ShardId, TargetId,
};
use protocol::time::Nanos;

pub(super) const GROUP: GroupId = GroupId(9);
pub(super) const KEY: ChunkKey = ChunkKey { fid: Fid(77), index: 3 };
pub(super) const PRIMARY: TargetId = TargetId(1);
pub(super) const DEADLINE: Nanos = Nanos::from_ms(30_000);

/// Targets 1 (primary), 2 and 3 (backups), version 10, epoch 5.
pub(super) fn map() -> ClusterMap {
    map_of(10, 5, &[(1, Role::Primary), (2, Role::Backup), (3, Role::Backup)])
}

pub(super) fn map_of(version: u64, epoch: u32, members: &[(u32, Role)]) -> ClusterMap {
    let mut map = ClusterMap { version: MapVersion(version), ..ClusterMap::default() };
    for id in 1..=4u16 {
        let (node, target) = (NodeId(u32::from(id)), TargetId(u32::from(id)));
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        map.nodes
            .insert(node, NodeRecord { id: node, state: NodeState::Up, address, draining: false });
        map.targets.insert(
            target,
            TargetRecord {
                id: target,
                node,
                shard: ShardId(0),
                device: 0,
                port: 7000 + id,
                generation: Generation(1),
                capacity: 1 << 30,
                state: TargetState::Up,
            },
        );
    }
    let members = members.iter().map(|&(id, role)| Member {
        target: TargetId(id),
        generation: Generation(1),
        role,
    });
    map.groups.insert(
        GROUP,
        GroupRecord {
            id: GROUP,
            kind: 0,
            epoch: Epoch(epoch),
            last_writable_epoch: Epoch(epoch),
            active: true,
            down: false,
            replicas: 3,
            min_write: 2,
            members: members.collect(),
            evicted: Vec::new(),
            mutations: true,
            ..GroupRecord::default()
        },
    );
    map
}
