//! How fast each target may send copies, and what it should check.

use std::collections::BTreeMap;

use protocol::cluster_map::{ClusterMap, GroupRecord, PlanReason};
use protocol::ids::TargetId;
use protocol::message::cluster::TargetOrders;

use super::{serving, syncing};
use crate::limits::{
    BAND_DRAIN_PERCENT, BAND_FLOOR_PERCENT, BAND_HEAL_PERCENT, BAND_LAST_PERCENT,
    BAND_REBALANCE_PERCENT,
};
use crate::state::Ledger;

/// What is wanted of every target.
///
/// # Units
/// `recovery_bytes_per_s` is what one target may send when nothing else matters. It gets the part of
/// it that its most urgent copy asks for; one that copies nothing gets what the next copy may need
/// until the next heartbeat.
pub fn orders(
    map: &ClusterMap,
    ledger: &Ledger,
    recovery_bytes_per_s: u64,
) -> BTreeMap<TargetId, TargetOrders> {
    let mut bands: BTreeMap<TargetId, u64> = BTreeMap::new();
    for group in map.groups.values().filter(|group| syncing(group).next().is_some()) {
        if let Some(primary) = group.primary() {
            let most = bands.entry(primary.target).or_insert(BAND_FLOOR_PERCENT);
            *most = band(group).max(*most);
        }
    }
    let order = |target: TargetId| TargetOrders {
        target,
        resync_bytes_per_s: share(recovery_bytes_per_s, bands.get(&target).copied()),
        scrub_bytes_per_s: 0,
        scrub_pass: ledger.scrub_pass,
    };
    map.targets.keys().map(|target| (*target, order(*target))).collect()
}

/// The part of its rate that a group's copy asks for, in percent.
fn band(group: &GroupRecord) -> u64 {
    match (serving(group), group.plan.map(|plan| plan.reason)) {
        (..=1, _) if group.replicas > 1 => BAND_LAST_PERCENT,
        (serving, _) if serving < usize::from(group.replicas) => BAND_HEAL_PERCENT,
        (_, Some(PlanReason::Rebalance)) => BAND_REBALANCE_PERCENT,
        (_, Some(PlanReason::Drain | PlanReason::Slow | PlanReason::Heal)) => BAND_DRAIN_PERCENT,
        (_, None) => BAND_FLOOR_PERCENT,
    }
}

fn share(bytes_per_s: u64, percent: Option<u64>) -> u64 {
    let percent = u128::from(percent.unwrap_or(BAND_HEAL_PERCENT));
    u64::try_from(u128::from(bytes_per_s) * percent / 100).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use protocol::cluster_map::{Member, Plan, Role};
    use protocol::ids::{Generation, GroupId};

    use super::*;

    #[test]
    fn the_most_urgent_copy_of_a_target_decides_its_rate() {
        let member = |target: u32, role| Member {
            target: TargetId(target),
            generation: Generation(1),
            role,
        };
        let group = |serving: u32, reason: Option<PlanReason>| {
            let mut members = vec![member(1, Role::Primary), member(9, Role::Syncing)];
            members.extend((2..=serving).map(|target| member(target, Role::Backup)));
            let plan = reason.map(|reason| Plan {
                reason,
                add: TargetId(9),
                leave: TargetId(0),
                since_ms: 1,
            });
            GroupRecord { replicas: 3, members, plan, ..GroupRecord::default() }
        };
        let heal = Some(PlanReason::Heal);
        assert_eq!(band(&group(1, heal)), BAND_LAST_PERCENT);
        assert_eq!(band(&group(2, heal)), BAND_HEAL_PERCENT);
        assert_eq!(band(&group(2, None)), BAND_HEAL_PERCENT);
        assert_eq!(band(&group(3, Some(PlanReason::Drain))), BAND_DRAIN_PERCENT);
        assert_eq!(band(&group(3, Some(PlanReason::Rebalance))), BAND_REBALANCE_PERCENT);
        assert_eq!(band(&group(3, None)), BAND_FLOOR_PERCENT);
        let mut map = ClusterMap::default();
        for id in 1..=3 {
            map.targets.insert(TargetId(id), crate::placement::fixture::target(id, id));
        }
        for (id, group) in
            [group(3, Some(PlanReason::Rebalance)), group(2, heal)].into_iter().enumerate()
        {
            let id = GroupId(u32::try_from(id).unwrap());
            map.groups.insert(id, GroupRecord { id, ..group });
        }
        let ledger = Ledger { scrub_pass: 4, ..Ledger::default() };
        let orders = orders(&map, &ledger, 1000);
        assert_eq!(orders[&TargetId(1)].resync_bytes_per_s, 400);
        assert_eq!(orders[&TargetId(1)].scrub_pass, 4);
        assert_eq!(orders.len(), 3);
    }
}
