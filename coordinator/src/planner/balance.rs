//! Spreads groups evenly over the targets, by their capacity.

use protocol::cluster_map::{GroupRecord, PlanReason};
use protocol::ids::TargetId;

use super::load::TargetLoad;
use super::{Action, Draft, serving};
use crate::limits::BALANCED_PERCENT;

/// Moves groups from the fullest targets to the emptiest until the difference is small; then the
/// order to spread data ends.
pub(super) fn balance(draft: &mut Draft<'_>) {
    if !draft.observed.ledger.rebalance {
        return;
    }
    let moving = draft.map.groups.values().any(|group| group.plan.is_some());
    let hurt = draft.map.groups.values().any(|group| !group.healthy());
    let mut wanted = false;
    if uneven(draft) {
        for source in fullest_first(draft) {
            wanted |= empty_a_little(draft, source);
        }
    }
    if !wanted && !moving && !hurt {
        draft.actions.push(Action::Rebalance(false));
    }
}

/// True when the fullest target has more than its fair share by a noticeable part.
fn uneven(draft: &Draft<'_>) -> bool {
    let taking = || draft.load.targets.values().filter(|load| load.takes);
    let places: u128 = taking().map(|load| u128::from(load.places)).sum();
    let capacity: u128 = taking().map(|load| u128::from(load.capacity)).sum();
    let mean = (places << 64) / capacity.max(1);
    let most = taking().map(|load| load.share(0, load.capacity)).max().unwrap_or(0);
    most.saturating_sub(mean) * 100 > mean * u128::from(BALANCED_PERCENT)
}

fn fullest_first(draft: &Draft<'_>) -> Vec<TargetId> {
    let mut targets: Vec<_> = draft.load.targets.iter().filter(|(_, load)| load.takes).collect();
    targets.sort_by_key(|(id, load)| (std::cmp::Reverse(load.share(0, load.capacity)), **id));
    targets.into_iter().map(|(id, _)| *id).collect()
}

/// Moves groups off one target as long as that makes the load more even and copies may begin; true
/// when there is, or was, something to move.
fn empty_a_little(draft: &mut Draft<'_>, source: TargetId) -> bool {
    let mut wanted = false;
    let groups = draft.idle();
    for group in groups.into_iter().filter(|group| movable(group, source)) {
        let Some(load) = draft.load.targets.get(&source) else { return wanted };
        let here = load.share(0, load.capacity);
        let others = draft.load.targets.iter().filter(|(_, other)| other.takes);
        let better = |load: &TargetLoad| load.share(1, load.capacity) < here;
        let mut free = others.filter(|(target, other)| {
            better(other)
                && group.member(**target).is_none()
                && !shares_node(draft, group, **target)
        });
        if free.next().is_none() {
            continue;
        }
        wanted = true;
        let Some(target) = draft.load.choose(group, source, PlanReason::Rebalance) else {
            continue;
        };
        let Some(chosen) = draft.load.targets.get(&target) else { continue };
        if chosen.share(1, chosen.capacity) < here {
            draft.load.begin(group, target, source);
            let (id, reason) = (group.id, PlanReason::Rebalance);
            draft.act(id, Action::Add { group: id, target, leave: source, reason });
        }
    }
    wanted
}

fn movable(group: &GroupRecord, source: TargetId) -> bool {
    let whole = serving(group) == usize::from(group.replicas) && group.plan.is_none();
    let serves = group.serving().any(|member| member.target == source);
    whole && serves && group.members.len() == usize::from(group.replicas)
}

/// True when the target's node already holds a member of the group.
fn shares_node(draft: &Draft<'_>, group: &GroupRecord, target: TargetId) -> bool {
    let node = draft.load.targets.get(&target).map(|load| load.node);
    let mut nodes = group.members.iter().filter_map(|it| draft.load.targets.get(&it.target));
    nodes.any(|load| Some(load.node) == node)
}
