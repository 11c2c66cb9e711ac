//! When changes of existing bytes may be acknowledged again after a member left its group.
//!
//! A member that was removed may answer reads under its lease without knowing that it is out. So the
//! group's primary acknowledges no mutation until every one of them certainly does not: its shard
//! applied a map that has it out, or the lease of its node has run out.

use std::collections::BTreeMap;

use protocol::cluster_map::{ClusterMap, GroupRecord};
use protocol::guard::{self, Guard};
use protocol::ids::{Epoch, GroupId, MapVersion, TargetId};
use protocol::message::command::Command;
use protocol::time::Nanos;

use crate::detector::Detector;
use crate::planner::Reports;

/// The groups whose mutations wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Departures {
    /// The epoch a group was seen in, and the newest map version at that time: whoever applied that
    /// version or a later one knows who is out in that epoch.
    seen: BTreeMap<GroupId, (Epoch, MapVersion)>,
}

impl Departures {
    /// Returns a command for each group of which nobody who left can answer reads any more.
    pub(super) fn settled(
        &mut self,
        map: &ClusterMap,
        detector: &Detector,
        reports: &Reports,
        now: Nanos,
    ) -> Vec<Command> {
        self.seen.retain(|group, _| map.groups.get(group).is_some_and(|group| !group.mutations));
        let mut commands = Vec::new();
        for group in map.groups.values().filter(|group| !group.mutations) {
            let seen = self.seen.entry(group.id).or_insert((group.epoch, map.version));
            if seen.0 != group.epoch {
                *seen = (group.epoch, map.version);
            }
            let since = seen.1;
            let silent = |target: &TargetId| {
                let knows = reports.get(target).is_some_and(|(_, it)| it.map_version >= since);
                knows || lease_over(map, detector, *target, now)
            };
            if Self::all_silent(group, silent) {
                commands.push(Command::AllowMutations { group: group.id, epoch: group.epoch });
            }
        }
        commands
    }

    fn all_silent(group: &GroupRecord, silent: impl Fn(&TargetId) -> bool) -> bool {
        !guard::holds(Guard::LeaseWait) || group.departed.iter().all(silent)
    }
}

/// True when the target's node has no lease any more that this coordinator or one before granted.
fn lease_over(map: &ClusterMap, detector: &Detector, target: TargetId, now: Nanos) -> bool {
    let node = map.targets.get(&target).map(|record| record.node);
    node.and_then(|node| detector.lease_end(node)).is_some_and(|end| now > end)
}
