//! Which node is told now to cut or measure which files. Pure.

use std::collections::BTreeMap;

use protocol::cluster_map::ClusterMap;
use protocol::ids::{Fid, GroupId, NodeId, SessionId};
use protocol::message::heal::GroupOrders;

use crate::limits::FILE_ORDERS_NOTICE_MAX;
use crate::state::FileOrder;

/// Sorts orders by the node that can carry them out now, a bounded batch to each; the others wait.
///
/// A file is cut only when `free` says that nobody but the session that ordered it relies on the
/// file having only grown.
pub fn by_node(
    map: &ClusterMap,
    orders: &[(GroupId, FileOrder)],
    free: impl Fn(Fid, SessionId) -> bool,
) -> BTreeMap<NodeId, Vec<GroupOrders>> {
    let mut nodes: BTreeMap<NodeId, (usize, BTreeMap<GroupId, GroupOrders>)> = BTreeMap::new();
    for (id, order) in orders {
        let group = map.groups.get(id).filter(|group| group.active && group.writable());
        let primary = group.and_then(|group| group.primary());
        let Some(target) = primary.and_then(|member| map.targets.get(&member.target)) else {
            continue;
        };
        let (count, groups) = nodes.entry(target.node).or_default();
        if *count >= FILE_ORDERS_NOTICE_MAX {
            continue;
        }
        let entry = groups.entry(*id).or_insert_with(|| GroupOrders {
            group: *id,
            trims: Vec::new(),
            measures: Vec::new(),
        });
        match order {
            FileOrder::Trim(trim, session) if free(trim.fid, *session) => entry.trims.push(*trim),
            FileOrder::Trim(..) => continue,
            FileOrder::Measure(measure) => entry.measures.push(*measure),
        }
        *count += 1;
    }
    let told = |(count, groups): (usize, BTreeMap<GroupId, GroupOrders>)| {
        let groups = groups.into_values();
        let groups = groups.filter(|one| !one.trims.is_empty() || !one.measures.is_empty());
        (count > 0).then(|| groups.collect())
    };
    nodes.into_iter().filter_map(|(node, orders)| Some((node, told(orders)?))).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use protocol::cluster_map::{
        GroupRecord, Member, NodeRecord, NodeState, Role, TargetRecord, TargetState,
    };
    use protocol::ids::{Generation, ShardId, TargetId};
    use protocol::message::heal::{Measure, Trim};

    use super::*;

    fn map() -> ClusterMap {
        let mut map = ClusterMap::default();
        let (node, target) = (NodeId(1), TargetId(101));
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let record = NodeRecord { id: node, state: NodeState::Up, address, draining: false };
        map.nodes.insert(node, record);
        let record = TargetRecord {
            id: target,
            node,
            shard: ShardId(0),
            device: 0,
            port: 7400,
            generation: Generation(1),
            capacity: 1,
            state: TargetState::Up,
        };
        map.targets.insert(target, record);
        for (id, active) in [(1, true), (2, false)] {
            let member = Member { target, generation: Generation(1), role: Role::Primary };
            let group = GroupRecord {
                id: GroupId(id),
                active,
                replicas: 1,
                min_write: 1,
                members: vec![member],
                ..GroupRecord::default()
            };
            map.groups.insert(group.id, group);
        }
        map
    }

    fn trim(fid: u64) -> FileOrder {
        let trim = Trim { fid: Fid(fid), len: 1, trunc_gen: 1, chunk_log2: 22 };
        FileOrder::Trim(trim, SessionId(9))
    }

    #[test]
    fn only_active_groups_are_told_and_no_file_is_cut_that_is_relied_on() {
        let measure = FileOrder::Measure(Measure { fid: Fid(3), first_chunk: 0 });
        let orders = [
            (GroupId(1), trim(1)),
            (GroupId(1), trim(2)),
            (GroupId(1), measure),
            (GroupId(2), trim(4)),
        ];
        let nodes = by_node(&map(), &orders, |fid, session| {
            assert_eq!(session, SessionId(9));
            fid != Fid(2)
        });
        let told = &nodes[&NodeId(1)];
        assert_eq!((nodes.len(), told.len()), (1, 1));
        assert_eq!(told[0].trims.iter().map(|trim| trim.fid).collect::<Vec<_>>(), [Fid(1)]);
        assert_eq!(told[0].measures.len(), 1);
        assert!(by_node(&map(), &orders[1..2], |_, _| false).is_empty());
    }

    #[test]
    fn a_notice_is_bounded() {
        let most = u64::try_from(FILE_ORDERS_NOTICE_MAX).unwrap();
        let orders: Vec<_> = (0..=most).map(|fid| (GroupId(1), trim(fid))).collect();
        let nodes = by_node(&map(), &orders, |_, _| true);
        assert_eq!(nodes[&NodeId(1)][0].trims.len(), FILE_ORDERS_NOTICE_MAX);
    }
}
