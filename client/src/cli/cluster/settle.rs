//! Waits for replicas that are being brought up to date, so that `verify` judges the outcome.

use std::time::Duration;

use protocol::cluster_map::{ClusterMap, GroupRecord, NodeState, Role, TargetState};
use protocol::ids::TargetId;
use tokio::time::Instant;

use crate::{Client, Error};

/// Time between two looks at the map.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A wait without any progress ends after this; what is still behind is then listed as missing.
const PATIENCE: Duration = Duration::from_secs(10);
/// People are told what the command waits for after this.
const SAY_AFTER: Duration = Duration::from_secs(2);

/// Waits until no living target is behind in any group, as long as their number falls.
///
/// Dead targets are not waited for.
pub(super) async fn settle(client: &Client) -> Result<(), Error> {
    let begun = Instant::now();
    let mut last = (usize::MAX, Instant::now());
    let mut said = false;
    loop {
        let behind = replicas_behind(&*client.refresh_map().await?);
        if behind < last.0 {
            last = (behind, Instant::now());
        }
        if behind == 0 || last.1.elapsed() >= PATIENCE {
            return Ok(());
        }
        if !said && begun.elapsed() >= SAY_AFTER {
            said = true;
            eprintln!("lanefs: verify: waiting for {behind} group members that are catching up");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Members of groups that are alive and do not hold everything yet.
fn replicas_behind(map: &ClusterMap) -> usize {
    let behind = |group: &GroupRecord| {
        let syncing = group.members.iter().filter(|member| member.role == Role::Syncing);
        let targets = syncing.map(|member| member.target).chain(group.evicted.iter().copied());
        targets.filter(|target| is_alive(map, *target)).count()
    };
    map.groups.values().map(behind).sum()
}

fn is_alive(map: &ClusterMap, target: TargetId) -> bool {
    let Some(record) = map.targets.get(&target) else { return false };
    let node = map.nodes.get(&record.node);
    record.state == TargetState::Up && node.is_some_and(|node| node.state != NodeState::Down)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use protocol::cluster_map::{Member, NodeRecord, TargetRecord};
    use protocol::ids::{Epoch, Generation, GroupId, NodeId, ShardId};

    use super::*;

    fn map(dead: Option<u32>) -> ClusterMap {
        let mut map = ClusterMap::default();
        for number in 1..=3 {
            let (id, node) = (TargetId(number), NodeId(number));
            let state = if dead == Some(number) { NodeState::Down } else { NodeState::Up };
            let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
            map.nodes.insert(node, NodeRecord { id: node, state, address, draining: false });
            let record = TargetRecord {
                id,
                node,
                shard: ShardId(0),
                device: 0,
                port: 1,
                generation: Generation(1),
                capacity: 1,
                state: TargetState::Up,
            };
            map.targets.insert(id, record);
        }
        map
    }

    fn group(roles: &[(u32, Role)], evicted: &[u32]) -> GroupRecord {
        let member = |&(target, role): &(u32, Role)| Member {
            target: TargetId(target),
            generation: Generation(1),
            role,
        };
        GroupRecord {
            id: GroupId(1),
            kind: 0,
            epoch: Epoch(1),
            last_writable_epoch: Epoch(1),
            active: true,
            down: false,
            replicas: 3,
            min_write: 2,
            members: roles.iter().map(member).collect(),
            evicted: evicted.iter().map(|&target| TargetId(target)).collect(),
            mutations: true,
            ..GroupRecord::default()
        }
    }

    #[test]
    fn only_living_members_that_lack_something_are_behind() {
        let whole = group(&[(1, Role::Primary), (2, Role::Backup), (3, Role::Backup)], &[]);
        let syncing = group(&[(1, Role::Primary), (2, Role::Backup), (3, Role::Syncing)], &[]);
        let evicted = group(&[(1, Role::Primary), (2, Role::Backup)], &[3]);
        for (group, dead, expected) in [
            (whole, None, 0),
            (syncing.clone(), None, 1),
            (evicted.clone(), None, 1),
            (syncing, Some(3), 0),
            (evicted, Some(3), 0),
        ] {
            let mut map = map(dead);
            map.groups.insert(GroupId(1), group);
            assert_eq!(replicas_behind(&map), expected);
        }
    }
}
