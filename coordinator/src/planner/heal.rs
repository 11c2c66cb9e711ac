//! Copies for replicas that were lost.

use protocol::cluster_map::{GroupRecord, PlanReason};
use protocol::guard::{self, Guard};
use protocol::ids::TargetId;

use super::{Draft, serving};
use crate::limits::HEAL_AFTER;

/// Begins copies, groups with the fewest serving members first.
pub(super) fn heal(draft: &mut Draft<'_>) {
    if draft.observed.watch.guarded() && guard::holds(Guard::MassFailure) {
        return;
    }
    let mut short: Vec<_> = draft.idle().into_iter().filter(|group| is_due(draft, group)).collect();
    short.sort_by_key(|group| {
        (serving(group), group.writable(), draft.sizes.group(group), group.id)
    });
    for group in short {
        draft.add(group, TargetId(0), PlanReason::Heal);
    }
}

/// True when a group has too few members and had its time to get one back.
fn is_due(draft: &Draft<'_>, group: &GroupRecord) -> bool {
    if group.plan.is_some() || group.members.len() >= usize::from(group.replicas) {
        return false;
    }
    let last = serving(group) <= 1;
    let since = draft.observed.watch.short_since(group.id);
    let waited = since.is_some_and(|since| draft.now.since(since) >= HEAL_AFTER);
    last || waited || !guard::holds(Guard::Damping)
}
