//! Which copies to make and which members to exchange, so that every group has its replicas and the
//! load is even. Pure: map and observations in, actions out; ties go to the lowest group id.
//!
//! An action is one step of one group: add a syncing member, remove a member, change the primary.
//! The next step follows from the map that results, so nothing has to be remembered and a plan
//! survives the coordinator: what was begun is in the group's record. The rules:
//!
//! - a group has at most one plan, and no step is taken while its epoch is not active;
//! - a member is removed only when as many others serve as the group should have;
//! - a lost replica is copied anew after [`HEAL_AFTER`](crate::limits::HEAL_AFTER), at once when one serving member is left,
//!   and not at all while so much was lost at once that something else must be wrong;
//! - copies under way are limited for each source, destination and node.
//!
//! Start at [`plan`].

mod balance;
mod budget;
mod drain;
mod finish;
mod heal;
mod lead;
mod load;
mod outlook;
mod sizes;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use protocol::cluster_map::{ClusterMap, GroupRecord, Member, Plan, PlanReason, Role};
use protocol::ids::{GroupId, NodeId, TargetId};
use protocol::message::cluster::TargetHealth;
use protocol::message::command::Command;
use protocol::time::Nanos;

use crate::placement;
use crate::state::Ledger;
pub use budget::orders;
use load::Load;
pub use outlook::{Outlook, drain_status, eta_s, outlook};
pub use sizes::Sizes;
pub use watch::Watch;

/// Newest report of each target and when it came.
pub type Reports = BTreeMap<TargetId, (Nanos, TargetHealth)>;

/// What the planner knows beside the map.
#[derive(Clone, Copy, Debug)]
pub struct Observations<'a> {
    /// Newest report of each target and when it came.
    pub reports: &'a Reports,
    /// Nodes that gave a sign of life and are not suspected.
    pub live: &'a BTreeSet<NodeId>,
    /// What operators want.
    pub ledger: &'a Ledger,
    /// Since when what is missing.
    pub watch: &'a Watch,
    /// Targets to move everything off, because they are slow.
    pub sick: &'a BTreeSet<TargetId>,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Adds a syncing member.
    Add {
        /// The group.
        group: GroupId,
        /// Who joins.
        target: TargetId,
        /// Who leaves once the new one is complete; 0 for nobody.
        leave: TargetId,
        /// Why.
        reason: PlanReason,
    },
    /// Removes a member, for good, and ends the plan.
    Remove {
        /// The group.
        group: GroupId,
        /// Who leaves.
        target: TargetId,
        /// Who leads when the primary leaves.
        lead: TargetId,
    },
    /// Ends the plan and forgets who left.
    Settle {
        /// The group.
        group: GroupId,
    },
    /// Makes another serving member the primary.
    Lead {
        /// The group.
        group: GroupId,
        /// The member.
        target: TargetId,
    },
    /// Begins or ends spreading the data.
    Rebalance(bool),
}

/// Everything that should be done now, the most urgent first.
///
/// # Cost
/// A few steps for each group, and as many as there are targets for each group that gets a plan.
pub fn plan(map: &ClusterMap, observed: &Observations<'_>, now: Nanos) -> Vec<Action> {
    let mut draft = Draft {
        map,
        observed,
        now,
        load: Load::of(map, observed),
        sizes: Sizes::of(map, observed.reports),
        busy: BTreeSet::new(),
        actions: Vec::new(),
    };
    let unsteady = map.groups.values().filter(|group| !steady(map, group));
    draft.busy.extend(unsteady.map(|group| group.id));
    finish::finish(&mut draft);
    heal::heal(&mut draft);
    drain::drain(&mut draft);
    balance::balance(&mut draft);
    lead::lead(&mut draft);
    draft.actions
}

/// What was decided so far.
struct Draft<'a> {
    map: &'a ClusterMap,
    observed: &'a Observations<'a>,
    now: Nanos,
    load: Load,
    sizes: Sizes,
    /// Groups that get no further step now.
    busy: BTreeSet<GroupId>,
    actions: Vec<Action>,
}

impl<'a> Draft<'a> {
    /// Groups that may get a step.
    fn idle(&self) -> Vec<&'a GroupRecord> {
        self.map.groups.values().filter(|group| !self.busy.contains(&group.id)).collect()
    }

    /// Decides a step of a group.
    fn act(&mut self, group: GroupId, action: Action) {
        self.busy.insert(group);
        self.actions.push(action);
    }

    /// Adds the best target there is, when a copy may begin now; true when it did.
    fn add(&mut self, group: &GroupRecord, leave: TargetId, reason: PlanReason) -> bool {
        let Some(target) = self.load.choose(group, leave, reason) else { return false };
        self.load.begin(group, target, leave);
        self.act(group.id, Action::Add { group: group.id, target, leave, reason });
        true
    }

    /// True when the member's target is to lose everything it holds.
    fn unwanted(&self, target: TargetId) -> bool {
        draining(self.map, target) || self.observed.sick.contains(&target)
    }
}

/// True when a group may get a step: its epoch is active, and nobody in it is known to be away or
/// back in a newer generation, which membership answers first.
fn steady(map: &ClusterMap, group: &GroupRecord) -> bool {
    let current = |member: &Member| {
        let record = map.targets.get(&member.target);
        record.is_some_and(|record| record.generation == member.generation)
    };
    group.active && !group.down && group.members.iter().all(current)
}

/// True when the target's node is being emptied.
fn draining(map: &ClusterMap, target: TargetId) -> bool {
    let node = map.targets.get(&target).map(|record| record.node);
    node.and_then(|node| map.nodes.get(&node)).is_some_and(|node| node.draining)
}

/// Serving members of a group, as a number.
fn serving(group: &GroupRecord) -> usize {
    group.serving().count()
}

/// Members that are being brought up to date.
fn syncing(group: &GroupRecord) -> impl Iterator<Item = &Member> {
    group.members.iter().filter(|member| member.role == Role::Syncing)
}

impl Action {
    /// The command that carries the step out on the map it was decided on.
    pub fn command(&self, map: &ClusterMap) -> Option<Command> {
        let id = match self {
            Action::Rebalance(on) => return Some(Command::SetRebalance { on: *on }),
            Action::Add { group, .. }
            | Action::Remove { group, .. }
            | Action::Settle { group }
            | Action::Lead { group, .. } => group,
        };
        let group = map.groups.get(id)?;
        let mut members = group.members.clone();
        let mut evicted = group.evicted.clone();
        let mut plan = None;
        match *self {
            Action::Add { target, leave, reason, .. } => {
                let generation = map.targets.get(&target)?.generation;
                members.push(Member { target, generation, role: Role::Syncing });
                // Who was a member returns: should it leave again before it is complete, it is still
                // one to let in again, however full it is by then.
                let returns = evicted.contains(&target) && leave == TargetId(0);
                evicted.retain(|other| *other != target);
                let planned = Plan { reason, add: target, leave, since_ms: 0 };
                plan = (!returns).then_some(planned);
            }
            Action::Remove { target, lead, .. } => {
                members.retain(|member| member.target != target);
                make_primary(&mut members, lead);
            }
            Action::Settle { .. } => {}
            Action::Lead { target, .. } => {
                make_primary(&mut members, target);
                plan = group.plan;
            }
            Action::Rebalance(_) => return None,
        }
        let serving = members.iter().filter(|member| member.role != Role::Syncing).count();
        if serving >= usize::from(group.replicas) {
            // With all its replicas the group waits for nobody who left.
            evicted.clear();
        }
        Some(Command::ChangeGroup {
            group: *id,
            expected_epoch: group.epoch,
            members,
            evicted,
            down: false,
            plan,
        })
    }
}

/// Gives the serving member `lead` the lead; nothing changes when it is no serving member.
fn make_primary(members: &mut [Member], lead: TargetId) {
    let serves = |member: &Member| member.target == lead && member.role != Role::Syncing;
    if !members.iter().any(serves) {
        return;
    }
    for member in members.iter_mut() {
        if member.target == lead {
            member.role = Role::Primary;
        } else if member.role == Role::Primary {
            member.role = Role::Backup;
        }
    }
    members.sort_by_key(|member| (member.role, member.target));
}

/// True when the target is up on a node that has spoken.
fn present(map: &ClusterMap, live: &BTreeSet<NodeId>, target: TargetId) -> bool {
    let node = map.targets.get(&target).map(|record| record.node);
    placement::up(map, target) && node.is_some_and(|node| live.contains(&node))
}
