//! Moves everything off nodes that are being emptied and off targets that are too slow.

use protocol::cluster_map::{GroupRecord, PlanReason};
use protocol::ids::TargetId;

use super::{Draft, draining, serving};

pub(super) fn drain(draft: &mut Draft<'_>) {
    for reason in [PlanReason::Slow, PlanReason::Drain] {
        for group in draft.idle() {
            if group.plan.is_some() || group.members.len() != usize::from(group.replicas) {
                continue;
            }
            if serving(group) < usize::from(group.replicas) {
                continue;
            }
            if let Some(leave) = leaving(draft, group, reason) {
                draft.add(group, leave, reason);
            }
        }
    }
}

/// The member to move away for this reason.
fn leaving(draft: &Draft<'_>, group: &GroupRecord, reason: PlanReason) -> Option<TargetId> {
    let moves = |target: &TargetId| match reason {
        PlanReason::Slow => draft.observed.sick.contains(target),
        _ => draining(draft.map, *target),
    };
    group.serving().map(|member| member.target).find(moves)
}
