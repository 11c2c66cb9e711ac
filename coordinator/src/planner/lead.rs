//! Who leads: slow targets do not, and the others lead about as many groups each.

use protocol::cluster_map::{GroupRecord, TargetState};
use protocol::ids::TargetId;

use super::{Action, Draft};
use crate::limits::{CALM_BEFORE_LEADS, LEADS_AWAY_MAX, LEADS_EVENED_MAX};

pub(super) fn lead(draft: &mut Draft<'_>) {
    let mut moved = 0;
    for group in draft.idle() {
        let Some(primary) = group.primary().map(|member| member.target) else { continue };
        if moved < LEADS_AWAY_MAX && is_slow(draft, primary) {
            let next = draft.load.next_lead(group, primary);
            if let Some(next) = next.filter(|next| !is_slow(draft, *next)) {
                pass(draft, group, primary, next);
                moved += 1;
            }
        }
    }
    let calm = draft.observed.watch.calm_for(draft.now);
    if calm.is_some_and(|calm| calm >= CALM_BEFORE_LEADS) {
        even(draft);
    }
}

/// Evens the leads a little; each move makes them more even, so this comes to rest.
fn even(draft: &mut Draft<'_>) {
    let mut moved = 0;
    for group in draft.idle().into_iter().filter(|group| group.healthy()) {
        let Some(primary) = group.primary().map(|member| member.target) else { continue };
        let Some(next) = draft.load.next_lead(group, primary) else { continue };
        let takes = draft.load.targets.get(&next).is_some_and(|load| load.takes);
        let gain = draft.load.leads(primary) >= draft.load.leads(next).saturating_add(2);
        if moved < LEADS_EVENED_MAX && takes && gain {
            pass(draft, group, primary, next);
            moved += 1;
        }
    }
}

fn pass(draft: &mut Draft<'_>, group: &GroupRecord, from: TargetId, to: TargetId) {
    draft.load.pass_lead(from, to);
    draft.act(group.id, Action::Lead { group: group.id, target: to });
}

fn is_slow(draft: &Draft<'_>, target: TargetId) -> bool {
    let record = draft.map.targets.get(&target);
    record.is_some_and(|record| record.state == TargetState::Slow)
}
