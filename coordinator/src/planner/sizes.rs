//! How many bytes a copy of a group has, as far as the targets' reports tell.

use std::collections::BTreeMap;

use protocol::cluster_map::{ClusterMap, GroupRecord};
use protocol::ids::TargetId;

use super::Reports;

/// Bytes that each target holds of one group, on average.
#[derive(Clone, Debug, Default)]
pub struct Sizes {
    targets: BTreeMap<TargetId, u64>,
}

impl Sizes {
    /// Divides what each target holds by the number of groups it serves.
    pub fn of(map: &ClusterMap, reports: &Reports) -> Sizes {
        let mut places: BTreeMap<TargetId, u64> = BTreeMap::new();
        for member in map.groups.values().flat_map(GroupRecord::serving) {
            *places.entry(member.target).or_default() += 1;
        }
        let mean = |(target, places): (&TargetId, &u64)| {
            let record = map.targets.get(target)?;
            let (_, report) = reports.get(target)?;
            Some((*target, record.capacity.saturating_sub(report.free) / places))
        };
        Sizes { targets: places.iter().filter_map(mean).collect() }
    }

    /// About how many bytes a copy of the group has: the largest mean of its serving members.
    pub fn group(&self, group: &GroupRecord) -> u64 {
        let means = group.serving().filter_map(|member| self.targets.get(&member.target));
        means.max().copied().unwrap_or(0)
    }
}
