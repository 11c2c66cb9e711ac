//! The next membership of one group.

use std::collections::BTreeSet;

use protocol::cluster_map::{GroupRecord, Member, Plan, Role, TargetRecord};
use protocol::guard::{self, Guard};
use protocol::ids::{GroupId, NodeId, TargetId};
use protocol::limits::GROUP_MEMBERS_MAX;
use protocol::message::command::Command;

use super::View;
use crate::limits::GROUP_EVICTED_MAX;
use crate::placement;

/// A group and how its members stand.
pub(super) struct Standing<'a> {
    view: View<'a>,
    gone: Option<NodeId>,
    group: &'a GroupRecord,
    /// Serving members that serve in their registered generation.
    alive: Vec<Member>,
    /// Nodes of those of them that the map has up but that have not spoken yet.
    pub(super) silent: BTreeSet<NodeId>,
    /// Those of them that are up in a newer generation.
    pub(super) restarted: usize,
    /// Targets that hold everything acknowledged and are up, members or not, ascending.
    pub(super) present: Vec<&'a TargetRecord>,
}

/// A number that looks random for each group, the same everywhere. Ids themselves will not do:
/// groups are placed in turn, so those that one target led have ids of one pattern.
fn scattered(group: GroupId) -> u16 {
    u16::try_from(group.0.wrapping_mul(0x9E37_79B1) >> u16::BITS).unwrap_or_default()
}

/// True when every member serves, or catches up, where the map has it and nobody who left can come
/// back: most groups at most times, told without a closer look.
pub(super) fn at_rest(view: View<'_>, gone: Option<NodeId>, group: &GroupRecord) -> bool {
    let rests = |member: &Member| {
        let record = view.map.targets.get(&member.target);
        record.is_some_and(|record| {
            record.generation == member.generation
                && placement::up(view.map, member.target)
                && view.live.contains(&record.node)
                && !view.held.contains(&record.node)
                && gone != Some(record.node)
        })
    };
    let away = |(turn, target): (usize, &TargetId)| {
        !placement::up(view.map, *target) && !group.evicted[..turn].contains(target)
    };
    !group.down
        && group.plan.is_none()
        && group.primary().is_some()
        && group.members.iter().all(rests)
        && group.evicted.len() <= GROUP_EVICTED_MAX
        && group.evicted.iter().enumerate().all(away)
}

impl<'a> Standing<'a> {
    /// Looks at a group as if node `gone` were down.
    pub(super) fn of(view: View<'a>, gone: Option<NodeId>, group: &'a GroupRecord) -> Standing<'a> {
        let mut standing = Standing {
            view,
            gone,
            group,
            alive: Vec::new(),
            silent: BTreeSet::new(),
            restarted: 0,
            present: Vec::new(),
        };
        for member in group.serving() {
            let up = standing.back(member);
            let current = up.is_some_and(|record| {
                record.generation == member.generation || !guard::holds(Guard::RegisterEpoch)
            });
            standing.restarted += usize::from(up.is_some() && !current);
            standing.alive.extend(current.then_some(*member));
            standing.silent.extend(standing.silent(member));
        }
        let present = standing.whole().filter(|target| !standing.distrusts(*target));
        standing.present = present.filter_map(|target| standing.returned(target)).collect();
        standing
    }

    pub(super) fn one_serves(&self) -> bool {
        !self.alive.is_empty()
    }

    /// The group without members that do not serve, and with those that are back as syncing.
    pub(super) fn without_the_dead(&self, accused: impl Fn(TargetId) -> bool) -> Option<Command> {
        let silent = |member: &&Member| self.silent(member).is_some();
        let mut members = self.alive.clone();
        members.extend(self.group.serving().filter(silent));
        // A backup that takes over: another one in each group, so that the work is spread.
        if !members.iter().any(|member| member.role == Role::Primary) {
            let turn = usize::from(scattered(self.group.id)) % self.alive.len().max(1);
            let next = self.alive.iter().map(|member| member.target).collect::<BTreeSet<_>>();
            let next = next.into_iter().nth(turn);
            let next = members.iter_mut().filter(|member| Some(member.target) == next);
            next.for_each(|member| member.role = Role::Primary);
        }
        members.sort_by_key(|member| (member.role, member.target));
        let mut evicted = self.group.evicted.clone();
        for member in &self.group.members {
            if members.iter().any(|kept| kept.target == member.target) {
                continue;
            }
            match self.back(member) {
                Some(record) if !self.held(record) => members.push(syncing(record)),
                Some(_) => evicted.push(member.target),
                None if silent(&member) => members.push(*member),
                None => evicted.push(member.target),
            }
        }
        evicted.retain(|target| {
            let back = self.up(*target).filter(|it| !accused(*target) && !self.held(it));
            let Some(record) = back else { return true };
            // With all its replicas the group needs nobody back, and never two on one node.
            let whole = self.alive.len() >= usize::from(self.group.replicas);
            if whole || members.len() >= GROUP_MEMBERS_MAX || self.shares_node(&members, record) {
                return true;
            }
            members.push(syncing(record));
            false
        });
        self.change(members, evicted, false)
    }

    /// The group marked down; its members are the ones to wait for.
    pub(super) fn down(&self) -> Option<Command> {
        self.change(self.group.members.clone(), self.group.evicted.clone(), true)
    }

    /// True when nobody is left to wait for: all serving members are back, or all that hold
    /// everything.
    pub(super) fn all_present(&self) -> bool {
        let present = |target| self.present.iter().any(|record| record.id == target);
        self.group.serving().all(|member| present(member.target)) || self.whole().all(present)
    }

    /// The group after nobody served it: those that are back and hold everything serve.
    pub(super) fn revived(&self) -> Option<Command> {
        let role = |target| match self.group.member(target).map(|member| member.role) {
            Some(Role::Primary) => Role::Primary,
            _ => Role::Backup,
        };
        let serve = |record: &&TargetRecord| Member {
            target: record.id,
            generation: record.generation,
            role: role(record.id),
        };
        let mut members: Vec<_> = self.present.iter().map(serve).collect();
        members.sort_by_key(|member| (member.role, member.target));
        members.truncate(GROUP_MEMBERS_MAX);
        members.first_mut()?.role = Role::Primary;
        let mut evicted = self.group.evicted.clone();
        evicted.extend(self.group.members.iter().map(|member| member.target));
        evicted.retain(|target| !members.iter().any(|member| member.target == *target));
        self.change(members, evicted, false)
    }

    /// Targets that hold everything acknowledged in the group.
    fn whole(&self) -> impl Iterator<Item = TargetId> + use<'a> {
        let whole = self.view.ledger.whole.get(&self.group.id);
        whole.map(Vec::as_slice).unwrap_or_default().iter().copied()
    }

    /// The target, when it is up and its node spoke, also as a member of a newer generation.
    fn returned(&self, target: TargetId) -> Option<&'a TargetRecord> {
        match self.group.member(target) {
            Some(member) => self.back(member),
            None => self.up(target),
        }
    }

    /// True for a target that is never believed, only copied to.
    fn distrusts(&self, target: TargetId) -> bool {
        self.view.ledger.distrusted.contains(&target)
    }

    /// The target, when it is up and its node spoke.
    fn up(&self, target: TargetId) -> Option<&'a TargetRecord> {
        let record = self.mapped_up(target)?;
        let spoke = self.view.live.contains(&record.node) || !guard::holds(Guard::SpokenTo);
        spoke.then_some(record)
    }

    /// The member's target, when it is up and its node spoke; a newer generation is a word of its
    /// node, also when it is not counted as living yet.
    fn back(&self, member: &Member) -> Option<&'a TargetRecord> {
        let newer = |record: &&TargetRecord| record.generation > member.generation;
        self.mapped_up(member.target).filter(newer).or_else(|| self.up(member.target))
    }

    fn mapped_up(&self, target: TargetId) -> Option<&'a TargetRecord> {
        let record = self.view.map.targets.get(&target)?;
        let up = placement::up(self.view.map, target) && Some(record.node) != self.gone;
        up.then_some(record)
    }

    /// The member's node, when the map says that the member serves but the node has not spoken.
    fn silent(&self, member: &Member) -> Option<NodeId> {
        let node = self.view.map.targets.get(&member.target)?.node;
        let silent = placement::serves(self.view.map, member)
            && Some(node) != self.gone
            && !self.view.live.contains(&node);
        silent.then_some(node)
    }

    /// True when the target's node restarts too often to be let in, and the group can do without.
    fn held(&self, record: &TargetRecord) -> bool {
        let enough = self.alive.len() >= usize::from(self.group.min_write);
        enough && self.view.held.contains(&record.node)
    }

    fn shares_node(&self, members: &[Member], record: &TargetRecord) -> bool {
        let records = members.iter().filter_map(|member| self.view.map.targets.get(&member.target));
        records.into_iter().any(|other| other.node == record.node)
    }

    /// The command, unless it would change nothing.
    fn change(
        &self,
        members: Vec<Member>,
        mut evicted: Vec<TargetId>,
        down: bool,
    ) -> Option<Command> {
        let plan = plan_after(self.group, &members, &mut evicted);
        let evicted = newest(evicted);
        let same = down == self.group.down
            && evicted == self.group.evicted
            && members.len() == self.group.members.len()
            && members.iter().all(|member| self.group.members.contains(member));
        (!same).then_some(Command::ChangeGroup {
            group: self.group.id,
            expected_epoch: self.group.epoch,
            members,
            evicted,
            down,
            plan,
        })
    }
}

/// The group without a member that somebody had removed, led by `lead`.
pub(super) fn evict(group: &GroupRecord, target: TargetId, lead: TargetId) -> Command {
    let kept = group.members.iter().filter(|member| member.target != target);
    let members: Vec<_> = kept.map(|member| led_by(lead, member)).collect();
    let mut evicted = group.evicted.iter().copied().chain([target]).collect();
    let plan = plan_after(group, &members, &mut evicted);
    Command::ChangeGroup {
        group: group.id,
        expected_epoch: group.epoch,
        members: sorted(members),
        evicted: newest(evicted),
        down: false,
        plan,
    }
}

/// The group led by another serving member.
pub(super) fn lead(group: &GroupRecord, lead: TargetId) -> Command {
    Command::ChangeGroup {
        group: group.id,
        expected_epoch: group.epoch,
        members: sorted(group.members.iter().map(|member| led_by(lead, member)).collect()),
        evicted: group.evicted.clone(),
        down: false,
        plan: group.plan,
    }
}

fn led_by(lead: TargetId, member: &Member) -> Member {
    let role = match member.role {
        Role::Syncing => Role::Syncing,
        _ if member.target == lead => Role::Primary,
        _ => Role::Backup,
    };
    Member { role, ..*member }
}

fn sorted(mut members: Vec<Member>) -> Vec<Member> {
    members.sort_by_key(|member| (member.role, member.target));
    members
}

/// What is left of the group's plan. A copy that was begun and lost is not waited for: it is not
/// complete and another one can be begun.
fn plan_after(
    group: &GroupRecord,
    members: &[Member],
    evicted: &mut Vec<TargetId>,
) -> Option<Plan> {
    let plan = group.plan?;
    let stays = |target| members.iter().any(|member: &Member| member.target == target);
    if !stays(plan.add) {
        let begun = group.member(plan.add).is_some_and(|member| member.role == Role::Syncing);
        evicted.retain(|target| !begun || *target != plan.add);
        return None;
    }
    let leave = if stays(plan.leave) { plan.leave } else { TargetId(0) };
    Some(Plan { leave, ..plan })
}

fn syncing(record: &TargetRecord) -> Member {
    Member { target: record.id, generation: record.generation, role: Role::Syncing }
}

/// Each target once, and only as many as a group remembers; the oldest go first.
fn newest(mut evicted: Vec<TargetId>) -> Vec<TargetId> {
    let mut seen = BTreeSet::new();
    evicted.retain(|target| seen.insert(*target));
    let surplus = evicted.len().saturating_sub(GROUP_EVICTED_MAX);
    evicted.split_off(surplus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_any_pattern_of_ids_get_every_turn() {
        for (step, turns) in [(1u32, 2u16), (2, 2), (4, 2), (3, 3), (4, 3), (6, 3)] {
            let turn = |id: u32| scattered(GroupId(id * step + 1)) % turns;
            let mut counts = vec![0u32; usize::from(turns)];
            (0..60).for_each(|id| counts[usize::from(turn(id))] += 1);
            let even = 60 / u32::from(turns);
            let fair = even / 2..=even * 2;
            assert!(counts.iter().all(|count| fair.contains(count)), "{step}: {counts:?}");
        }
    }
}
