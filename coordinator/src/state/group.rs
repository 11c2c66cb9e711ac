//! Placement groups: how they are made and how their membership may change.
//!
//! Every change of a membership is a new epoch. The checks here hold whatever proposed the change:
//! the serving set never becomes empty, nobody serves under an older generation, and nobody serves
//! who did not serve before, except by [`Command::SyncDone`] or, when nobody serves any more, because
//! it holds everything that was acknowledged.
//!
//! [`Command::SyncDone`]: protocol::message::command::Command::SyncDone

use std::collections::BTreeSet;

use protocol::cluster_map::{GroupRecord, Member, Plan, Role};
use protocol::guard::{self, Guard};
use protocol::ids::{Epoch, GroupId, TargetId};
use protocol::limits::GROUP_MEMBERS_MAX;
use protocol::message::command::Stamp;
use protocol::status::Status;

use super::history::Changed;
use super::{Outcome, State, Step};
use crate::kv::Kv;
use crate::limits::{GROUP_EVICTED_MAX, GROUPS_MAX};
use crate::placement;

/// A new membership.
pub(super) struct Change<'a> {
    pub(super) members: &'a [Member],
    pub(super) evicted: &'a [TargetId],
    pub(super) down: bool,
    pub(super) plan: Option<Plan>,
}

impl<K: Kv> State<K> {
    /// Makes groups over the targets that serve.
    pub(super) fn create_groups(&mut self, count: u32) -> Step<Outcome> {
        let settings = self.settings.ok_or(Status::NotReady)?;
        let room = GROUPS_MAX.saturating_sub(self.map.groups.len());
        if usize::try_from(count).map_or(true, |count| count > room) {
            return Err(Status::LimitReached.into());
        }
        let made = placement::place(&self.map, settings.replicas, count);
        if made.is_empty() && count > 0 {
            return Err(Status::NotReady.into());
        }
        for targets in made {
            let id = GroupId(self.tally.next_group);
            self.tally.next_group += 1;
            let members = targets.iter().enumerate().filter_map(|(place, target)| {
                let generation = self.map.targets.get(target)?.generation;
                let role = if place == 0 { Role::Primary } else { Role::Backup };
                Some(Member { target: *target, generation, role })
            });
            let record = GroupRecord {
                id,
                kind: 0,
                epoch: Epoch(1),
                last_writable_epoch: Epoch(0),
                active: false,
                down: false,
                replicas: settings.replicas,
                min_write: settings.min_write,
                members: members.collect(),
                mutations: true,
                ..GroupRecord::default()
            };
            self.ledger.note_complete(id, record.members.iter().map(|member| member.target));
            self.map.groups.insert(id, record);
            self.changed.insert(Changed::Group(id));
        }
        Ok(Outcome::Done)
    }

    /// Changes a membership in a new epoch.
    pub(super) fn change_group(
        &mut self,
        stamp: Stamp,
        id: GroupId,
        expected_epoch: Epoch,
        change: &Change<'_>,
    ) -> Step<Outcome> {
        let group = self.map.groups.get(&id).ok_or(Status::NotFound)?;
        if guard::holds(Guard::ExpectedEpoch) && group.epoch != expected_epoch {
            return Err(Status::Conflict.into());
        }
        self.check_members(change)?;
        self.check_succession(group, change)?;
        let begun = |plan: Plan| match plan.since_ms {
            0 => Plan { since_ms: stamp.time_ms, ..plan },
            _ => plan,
        };
        self.next_epoch(id, |group| {
            note_departures(group, change.members);
            group.members = change.members.to_vec();
            group.evicted = change.evicted.to_vec();
            group.down = change.down;
            group.plan = change.plan.map(begun);
        })
    }

    /// Notes that the primary of an epoch has finished activation.
    pub(super) fn activated(&mut self, id: GroupId, epoch: Epoch) -> Step<Outcome> {
        let group = self.map.groups.get_mut(&id).ok_or(Status::NotFound)?;
        if group.epoch != epoch || group.down {
            return Err(Status::Conflict.into());
        }
        if !group.active {
            group.active = true;
            if group.writable() {
                group.last_writable_epoch = epoch;
            }
            self.changed.insert(Changed::Group(id));
        }
        Ok(Outcome::Done)
    }

    /// Promotes a syncing member that became complete in `epoch`, in a new epoch.
    pub(super) fn sync_done(
        &mut self,
        id: GroupId,
        epoch: Epoch,
        target: TargetId,
    ) -> Step<Outcome> {
        let group = self.map.groups.get(&id).ok_or(Status::NotFound)?;
        let member = group.member(target).filter(|member| member.role == Role::Syncing);
        let serves = member.is_some_and(|member| self.serves(member));
        let complete = group.epoch == epoch || !guard::holds(Guard::PromoteComplete);
        if !complete || group.down || !serves {
            return Err(Status::Conflict.into());
        }
        self.ledger.note_complete(id, [target]);
        self.next_epoch(id, |group| {
            let promoted = group.members.iter_mut().filter(|member| member.target == target);
            promoted.for_each(|member| member.role = Role::Backup);
            let done = |plan: &Plan| plan.add == target && plan.leave == TargetId(0);
            group.plan = group.plan.filter(|plan| !done(plan));
            // With all its replicas the group waits for nobody who left.
            if group.serving().count() >= usize::from(group.replicas) {
                group.evicted.clear();
            }
        })?;
        if !self.lacks(target) && self.ledger.rolled_back.remove(&target) {
            self.changed.insert(Changed::Target(target));
        }
        Ok(Outcome::Done)
    }

    /// True when the member's target serves in the generation the membership is for.
    pub(super) fn serves(&self, member: &Member) -> bool {
        placement::serves(&self.map, member)
    }

    fn next_epoch(&mut self, id: GroupId, change: impl FnOnce(&mut GroupRecord)) -> Step<Outcome> {
        let group = self.map.groups.get_mut(&id).ok_or(Status::NotFound)?;
        let next = group.epoch.0.checked_add(1).ok_or(Status::LimitReached)?;
        change(group);
        group.epoch = Epoch(next);
        group.active = false;
        self.ledger.note_epoch(group);
        self.changed.insert(Changed::Group(id));
        Ok(Outcome::Done)
    }

    /// Notes that no member that left the group can answer reads any more.
    pub(super) fn allow_mutations(&mut self, id: GroupId, epoch: Epoch) -> Step<Outcome> {
        let group = self.map.groups.get_mut(&id).ok_or(Status::NotFound)?;
        if group.epoch != epoch {
            return Err(Status::Conflict.into());
        }
        if !group.mutations {
            group.mutations = true;
            group.departed.clear();
            self.changed.insert(Changed::Group(id));
        }
        Ok(Outcome::Done)
    }

    /// Checks a membership by itself.
    fn check_members(&self, change: &Change<'_>) -> Step<()> {
        let members = change.members;
        let named: BTreeSet<_> = members.iter().map(|member| member.target).collect();
        let evicted: BTreeSet<_> = change.evicted.iter().copied().collect();
        let twice = named.len() != members.len()
            || evicted.len() != change.evicted.len()
            || !named.is_disjoint(&evicted);
        let unknown = named.union(&evicted).any(|target| !self.map.targets.contains_key(target));
        let primaries = members.iter().filter(|member| member.role == Role::Primary).count();
        let leaderless = guard::holds(Guard::LastServing) && primaries != 1;
        if twice || unknown || leaderless {
            return Err(Status::Invalid.into());
        }
        if members.len() > GROUP_MEMBERS_MAX || evicted.len() > GROUP_EVICTED_MAX {
            return Err(Status::LimitReached.into());
        }
        Ok(())
    }

    /// Checks a membership against the one it follows.
    fn check_succession(&self, group: &GroupRecord, change: &Change<'_>) -> Step<()> {
        if change.down {
            // Down keeps the members: they are the ones to wait for.
            let kept = change.members == group.members;
            return if kept { Ok(()) } else { Err(Status::Conflict.into()) };
        }
        let current = |member: &&Member| {
            let target = self.map.targets.get(&member.target);
            target.is_some_and(|target| target.generation == member.generation)
        };
        if !change.members.iter().all(|member| current(&member)) {
            return Err(Status::Conflict.into());
        }
        // While one of them serves, those who do not lack what it acknowledged meanwhile.
        let one_serves = group.serving().any(|member| self.serves(member));
        let revives = |target| {
            !one_serves
                && self.ledger.holds_everything(group.id, target)
                && !self.ledger.distrusted.contains(&target)
        };
        let serving = change.members.iter().filter(|member| member.role != Role::Syncing);
        for member in serving {
            let before = group.serving().find(|old| old.target == member.target);
            let restarted = before.is_some_and(|old| old.generation != member.generation);
            let newcomer = guard::holds(Guard::PrimaryServed) && before.is_none();
            if (newcomer || restarted) && !revives(member.target) {
                return Err(Status::Conflict.into());
            }
        }
        Ok(())
    }
}

/// Remembers who left: until such a member certainly answers no read any more, changes of existing
/// bytes must not be acknowledged.
///
/// A member that is back in a newer generation did not leave: its process of before is dead.
fn note_departures(group: &mut GroupRecord, members: &[Member]) {
    let stays = |target: TargetId| members.iter().any(|member| member.target == target);
    let left = group.members.iter().map(|member| member.target);
    group.departed.extend(left);
    group.departed.sort_unstable();
    group.departed.dedup();
    group.departed.retain(|target| !stays(*target));
    group.mutations = group.departed.is_empty();
}
