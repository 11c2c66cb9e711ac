//! Ends what was begun: the last step of a move, copies that are not needed any more, members too
//! many.

use protocol::cluster_map::{GroupRecord, Plan, PlanReason};
use protocol::guard::{self, Guard};
use protocol::ids::TargetId;

use super::{Action, Draft, serving, syncing};

pub(super) fn finish(draft: &mut Draft<'_>) {
    for group in draft.idle() {
        let wanted = usize::from(group.replicas);
        let action = match group.plan {
            Some(plan) => planned(draft, group, plan, wanted),
            None => unplanned(draft, group, wanted),
        };
        if let Some(action) = action {
            draft.act(group.id, action);
        }
    }
}

fn planned(draft: &Draft<'_>, group: &GroupRecord, plan: Plan, wanted: usize) -> Option<Action> {
    let leaves = group.member(plan.leave).is_some();
    let complete = group.serving().any(|member| member.target == plan.add);
    let spare = serving(group) > wanted || !guard::holds(Guard::AddBeforeRemove);
    if leaves && spare && (complete || !guard::holds(Guard::AddBeforeRemove)) {
        return Some(remove(draft, group, plan.leave));
    }
    if complete || group.member(plan.add).is_none() {
        // The move cannot be ended as it was meant; another one may be planned.
        return Some(Action::Settle { group: group.id });
    }
    if !leaves && serving(group) >= wanted {
        return Some(remove(draft, group, plan.add));
    }
    let undrained = plan.reason == PlanReason::Drain && !draft.unwanted(plan.leave);
    let healed = plan.reason == PlanReason::Slow && !draft.unwanted(plan.leave);
    if leaves && (undrained || healed) {
        return Some(remove(draft, group, plan.add));
    }
    if lacks_room(draft, group, plan) {
        return Some(remove(draft, group, plan.add));
    }
    overtaken(draft, group, plan, wanted).map(|target| remove(draft, group, target))
}

fn unplanned(draft: &Draft<'_>, group: &GroupRecord, wanted: usize) -> Option<Action> {
    if serving(group) < wanted {
        // Who lacks a little is not sent away for nothing: it may be too full of this very group to
        // be chosen again.
        let replaced = |target: &TargetId| {
            let other = draft.load.choose(group, *target, PlanReason::Heal);
            draft.unwanted(*target) && (other.is_some() || !guard::holds(Guard::SyncingReplaced))
        };
        let syncing = syncing(group).map(|member| member.target).find(replaced);
        return syncing.map(|target| remove(draft, group, target));
    }
    if let Some(member) = syncing(group).next() {
        return Some(remove(draft, group, member.target));
    }
    if serving(group) > wanted {
        let most = |target: TargetId| {
            let load = draft.load.targets.get(&target);
            (draft.unwanted(target), load.map(|load| load.share(0, load.capacity)), target)
        };
        let members = group.serving().map(|member| member.target);
        return members.max_by_key(|target| most(*target)).map(|it| remove(draft, group, it));
    }
    (!group.evicted.is_empty()).then_some(Action::Settle { group: group.id })
}

/// True when the target that joins became too full for copies and another one can take them.
fn lacks_room(draft: &Draft<'_>, group: &GroupRecord, plan: Plan) -> bool {
    let full =
        draft.load.targets.get(&plan.add).is_some_and(|load| !load.has_room(PlanReason::Heal));
    full && draft.load.choose(group, plan.leave, plan.reason).is_some()
}

/// Of a planned copy and a member that returned: the one that has more left to copy.
///
/// The returned one is kept unless the other is ahead of it, because it usually lacks little.
fn overtaken(
    draft: &Draft<'_>,
    group: &GroupRecord,
    plan: Plan,
    wanted: usize,
) -> Option<TargetId> {
    let leaving = usize::from(group.member(plan.leave).is_some());
    if group.members.len() <= wanted + leaving {
        return None;
    }
    let returned = syncing(group).find(|member| member.target != plan.add)?.target;
    match (left(draft, group, plan.add), left(draft, group, returned)) {
        (Some(planned), Some(back)) if planned < back => Some(returned),
        (None, _) | (Some(_), Some(_)) => Some(plan.add),
        // Nobody knows yet how much the returned one lacks.
        (Some(_), None) => None,
    }
}

/// Bytes that the group's primary has still to copy to a member; `None` before it began.
fn left(draft: &Draft<'_>, group: &GroupRecord, target: TargetId) -> Option<u64> {
    let primary = group.primary()?.target;
    let (_, report) = draft.observed.reports.get(&primary)?;
    let copy = report.resyncs.iter().find(|copy| copy.group == group.id && copy.target == target);
    copy.map(|copy| copy.bytes_left)
}

fn remove(draft: &Draft<'_>, group: &GroupRecord, target: TargetId) -> Action {
    let leads = group.primary().is_some_and(|primary| primary.target == target);
    let next = if leads { draft.load.next_lead(group, target) } else { None };
    Action::Remove { group: group.id, target, lead: next.unwrap_or_default() }
}
