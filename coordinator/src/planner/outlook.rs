//! What operators are told about the state of the cluster's data.

use protocol::cluster_map::{ClusterMap, GroupRecord, TargetState};
use protocol::ids::{NodeId, TargetId};
use protocol::limits::ALARMS_MAX;
use protocol::message::cluster::{Alarm, DrainStatus};

use super::sizes::Sizes;
use super::{Observations, Reports, serving};
use crate::limits::FILL_HEAL_MAX_PERCENT;

/// What is endangered, what is going on, and what a person should look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Groups with one serving member that should have more.
    pub endangered: u32,
    /// True while a mass failure keeps copies from being begun.
    pub guarded: bool,
    /// Bytes to copy until every group has its replicas, those of copies not begun among them.
    pub bytes_left: u64,
    /// True when some group lacks a replica and no copy of it is under way.
    pub waiting: bool,
    /// Nodes that are being emptied; their times are not filled in.
    pub drains: Vec<DrainStatus>,
    /// What a person should look at.
    pub alarms: Vec<Alarm>,
}

/// Sums up the map and the reports.
pub fn outlook(map: &ClusterMap, observed: &Observations<'_>) -> Outlook {
    let sizes = Sizes::of(map, observed.reports);
    let mut outlook = Outlook { guarded: observed.watch.guarded(), ..Outlook::default() };
    for group in map.groups.values() {
        let wanted = usize::from(group.replicas);
        outlook.endangered += u32::from(serving(group) <= 1 && wanted > 1);
        let missing = wanted.saturating_sub(group.members.len());
        outlook.waiting |= missing > 0 || group.down;
        let missing = u64::try_from(missing).unwrap_or(u64::MAX);
        outlook.bytes_left += sizes.group(group).saturating_mul(missing);
    }
    outlook.bytes_left +=
        observed.reports.values().map(|(_, it)| it.resync_bytes_left).sum::<u64>();
    let drained = map.nodes.values().filter(|node| node.draining);
    outlook.drains = drained.map(|node| drain(map, &sizes, node.id)).collect();
    outlook.alarms = alarms(map, observed);
    outlook
}

/// What is left to move off a node; the time is not filled in.
pub fn drain_status(map: &ClusterMap, reports: &Reports, node: NodeId) -> DrainStatus {
    drain(map, &Sizes::of(map, reports), node)
}

/// Seconds that bytes take at a measured rate; `None` when nothing moves although something should.
pub fn eta_s(bytes_left: u64, bytes_per_s: u64) -> Option<u64> {
    match (bytes_left, bytes_per_s) {
        (0, _) => Some(0),
        (_, 0) => None,
        (left, rate) => Some(left.div_ceil(rate)),
    }
}

fn drain(map: &ClusterMap, sizes: &Sizes, node: NodeId) -> DrainStatus {
    let on_node = |target: TargetId| map.targets.get(&target).is_some_and(|it| it.node == node);
    let held = |group: &&GroupRecord| group.members.iter().any(|member| on_node(member.target));
    let groups: Vec<_> = map.groups.values().filter(held).collect();
    DrainStatus {
        node,
        groups_left: u32::try_from(groups.len()).unwrap_or(u32::MAX),
        bytes_left: groups.iter().map(|group| sizes.group(group)).sum(),
        eta_s: None,
    }
}

fn alarms(map: &ClusterMap, observed: &Observations<'_>) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    if observed.watch.guarded() {
        alarms.push(alarm(
            TargetId(0),
            "mass_failure",
            "many targets were lost at once and no copies are begun: bring the nodes back, or drain \
             the nodes that will not return",
        ));
    }
    lost_groups(map, observed, &mut alarms);
    for record in map.targets.values() {
        if observed.ledger.rolled_back.contains(&record.id) {
            alarms.push(alarm(
                record.id,
                "disk_rolled_back",
                "the disk lost what it had called durable and everything is copied to it anew: \
                 check it, its cache settings, and whether a snapshot was restored",
            ));
        } else if observed.ledger.distrusted.contains(&record.id) {
            alarms.push(alarm(
                record.id,
                "journal_damaged",
                "the journal or index was damaged and what is there is checked against the other \
                 replicas: check the device",
            ));
        }
        match record.state {
            TargetState::Fenced => alarms.push(alarm(
                record.id,
                "target_fenced",
                "the target stopped itself after a device error: check the device, then restart \
                 its node",
            )),
            TargetState::Slow => alarms.push(alarm(
                record.id,
                "target_slow",
                "the device is much slower than its peers and is avoided: check it",
            )),
            TargetState::Up | TargetState::Down => {}
        }
        reported(map, observed, record.id, &mut alarms);
    }
    alarms.truncate(ALARMS_MAX);
    alarms
}

/// Groups that nobody who holds everything can revive.
fn lost_groups(map: &ClusterMap, observed: &Observations<'_>, alarms: &mut Vec<Alarm>) {
    let holders = |group: &&GroupRecord| observed.ledger.whole.get(&group.id).map_or(0, Vec::len);
    let lost = map.groups.values().filter(|group| group.down && holders(group) == 0).count();
    if lost > 0 {
        let text = format!(
            "{lost} groups are down and no target is known to hold all of their data: every \
             replica's disk was damaged or went back in time"
        );
        alarms.push(alarm(TargetId(0), "groups_lost", &text));
    }
}

fn reported(
    map: &ClusterMap,
    observed: &Observations<'_>,
    target: TargetId,
    alarms: &mut Vec<Alarm>,
) {
    let Some((_, report)) = observed.reports.get(&target) else { return };
    let capacity = map.targets.get(&target).map_or(0, |record| record.capacity);
    let used = u128::from(capacity.saturating_sub(report.free));
    if capacity > 0 && used * 100 >= u128::from(capacity) * u128::from(FILL_HEAL_MAX_PERCENT) {
        alarms.push(alarm(
            target,
            "target_full",
            "the target is nearly full and gets no copies: remove files or add nodes",
        ));
    }
    if report.cells_bad > 0 {
        let text = format!(
            "{} cells are damaged and not repaired yet: see whether another replica has them",
            report.cells_bad
        );
        alarms.push(alarm(target, "cells_damaged", &text));
    }
}

fn alarm(target: TargetId, name: &str, text: &str) -> Alarm {
    Alarm { target, name: name.to_owned(), text: text.to_owned() }
}
