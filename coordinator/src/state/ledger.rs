//! What the coordinator keeps of the cluster beyond the map: whom to trust, and what operators want.
//!
//! Replicated and kept in rows like the map, but of no use to nodes and clients. Invariant: a group's
//! whole targets are those that hold everything that was ever acknowledged in it, wherever they are.

use std::collections::{BTreeMap, BTreeSet};

use protocol::cluster_map::GroupRecord;
use protocol::ids::{GroupId, TargetId};

/// What the coordinator keeps of the cluster beyond the map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Targets whose journal or index could not be trusted when they registered last, or whose
    /// disk went back in time: they are only copied to.
    pub distrusted: BTreeSet<TargetId>,
    /// Those of them whose disk went back in time.
    pub rolled_back: BTreeSet<TargetId>,
    /// Targets that hold everything acknowledged, by group, ascending; they may be out of the group.
    pub whole: BTreeMap<GroupId, Vec<TargetId>>,
    /// True while data is being spread evenly over the targets.
    pub rebalance: bool,
    /// Scrub pass that was asked for last.
    pub scrub_pass: u32,
}

impl Ledger {
    /// True when the target holds everything that was acknowledged in the group.
    pub fn holds_everything(&self, group: GroupId, target: TargetId) -> bool {
        self.whole.get(&group).is_some_and(|whole| whole.contains(&target))
    }

    /// Takes note of a new epoch of a group.
    ///
    /// In an epoch that may be writable, writes can be acknowledged without those who left before.
    /// In any other epoch nothing is acknowledged, so whoever held everything still does.
    pub(super) fn note_epoch(&mut self, group: &GroupRecord) {
        if group.writable()
            && let Some(whole) = self.whole.get_mut(&group.id)
        {
            whole.retain(|target| group.serving().any(|member| member.target == *target));
        }
    }

    /// Takes note that targets hold everything acknowledged in a group.
    pub(super) fn note_complete(
        &mut self,
        group: GroupId,
        targets: impl IntoIterator<Item = TargetId>,
    ) {
        let whole = self.whole.entry(group).or_default();
        whole.extend(targets);
        whole.sort_unstable();
        whole.dedup();
    }

    /// Takes note that a target lost something it had acknowledged; returns the groups concerned.
    pub(super) fn note_loss(&mut self, target: TargetId) -> Vec<GroupId> {
        let concerned = self.whole.iter_mut().filter(|(_, whole)| whole.contains(&target));
        let forget = |(group, whole): (&GroupId, &mut Vec<TargetId>)| {
            whole.retain(|other| *other != target);
            *group
        };
        concerned.map(forget).collect()
    }
}
