//! Turns observations of nodes into membership commands. Pure: map, events and time in, commands
//! out; nothing here waits or sends.
//!
//! The commands are proposals made on one version of the map: each names the epoch it was made for,
//! so one that is late is refused and simply made again from the newer map. The rules:
//!
//! - A member whose target does not serve leaves the group as long as another serving member is
//!   alive; the last one stays and the group is marked down.
//! - A node that the map has up but that has not spoken since this coordinator started is neither:
//!   it keeps its place, and nobody relies on it, until it speaks or is suspected.
//! - A target that serves again, in a newer generation or after its node was only silent, returns
//!   as syncing while some serving member is alive.
//! - When no serving member is alive, any target that holds everything acknowledged may serve: all
//!   such targets are waited for, for [`RESTART_GRACE`]; then those present serve in their registered
//!   generations. These are the serving members of the newest epoch that may have been writable,
//!   and whoever served since: in an epoch with fewer than `min_write` of them nothing was
//!   acknowledged and no pending version was rolled forward, so who left then lacks nothing.
//!
//! Start at [`Membership::plan`].

mod group;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use protocol::cluster_map::{ClusterMap, GroupRecord, NodeState};
use protocol::guard::{self, Guard};
use protocol::ids::{GroupId, NodeId, TargetId};
use protocol::message::cluster::EvictRequest;
use protocol::message::command::Command;
use protocol::time::Nanos;

use crate::limits::{EVICT_WINDOW, EVICTS_PER_PRIMARY_MAX, READMIT_AFTER, RESTART_GRACE};
use crate::placement;
use crate::state::{Ledger, Settings};
use group::Standing;

/// Something that bears on who serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The node gives no sign of life.
    NodeSuspected(NodeId),
    /// A suspected node gave a sign of life in its registered incarnation.
    NodeReturned(NodeId),
    /// A primary asks to remove a member.
    Evict(EvictRequest),
}

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The newest map.
    pub map: &'a ClusterMap,
    /// What the cluster was made with.
    pub settings: &'a Settings,
    /// Who holds everything, and who is never believed, only copied to.
    pub ledger: &'a Ledger,
    /// Nodes that gave a sign of life to this process and are not suspected:
    /// [`Detector::live`](crate::detector::Detector::live).
    pub live: &'a BTreeSet<NodeId>,
}

/// What is remembered between plans; lost without harm when the coordinator restarts.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    /// Groups without a living serving member, and when the first of them was seen restarted.
    waiting: BTreeMap<GroupId, Nanos>,
    /// Targets evicted on a report: the generation that was evicted, and until when it stays out.
    accused: BTreeMap<(GroupId, TargetId), (protocol::ids::Generation, Nanos)>,
    /// Evictions each primary asked for in its current window: start of the window, count.
    reports: BTreeMap<TargetId, (Nanos, u32)>,
}

impl Membership {
    /// Takes note of an event and returns the commands it asks for.
    ///
    /// A suspicion comes with the new epochs of all groups it touches, so that one commit is enough.
    pub fn handle(&mut self, view: View<'_>, now: Nanos, event: &Event) -> Vec<Command> {
        match event {
            Event::NodeSuspected(node) => {
                if !view.map.nodes.contains_key(node) {
                    return Vec::new();
                }
                let mut commands = vec![Command::SetNodeState { node: *node, up: false }];
                commands.extend(self.groups(view, now, Some(*node)));
                commands
            }
            Event::NodeReturned(node) => {
                let known = view.map.nodes.contains_key(node);
                let back = known.then_some(Command::SetNodeState { node: *node, up: true });
                back.into_iter().collect()
            }
            Event::Evict(request) => self.evict(view, now, request).into_iter().collect(),
        }
    }

    /// Returns the commands that the map asks for; called after each change of the map and at least
    /// twice a second.
    pub fn plan(&mut self, view: View<'_>, now: Nanos) -> Vec<Command> {
        if view.map.groups.is_empty() {
            return first_groups(view).into_iter().collect();
        }
        let spoke = |node: &&NodeId| {
            let record = view.map.nodes.get(*node);
            record.is_some_and(|record| record.state == NodeState::Down)
        };
        let back = view.live.iter().filter(spoke);
        let mut commands: Vec<_> =
            back.map(|node| Command::SetNodeState { node: *node, up: true }).collect();
        commands.extend(self.groups(view, now, None));
        commands
    }

    /// When `plan` has something new to say although nothing happened; `None` for never.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let graces = self.waiting.values().map(|since| since.after(RESTART_GRACE));
        graces.chain(self.accused.values().map(|(_, until)| *until)).min()
    }

    fn groups(&mut self, view: View<'_>, now: Nanos, gone: Option<NodeId>) -> Vec<Command> {
        self.accused.retain(|_, (_, until)| now < *until);
        self.waiting.retain(|group, _| view.map.groups.contains_key(group));
        let mut given_up = BTreeSet::new();
        let mut changes = Vec::new();
        for group in view.map.groups.values() {
            changes.extend(self.group(view, now, gone, group, &mut given_up));
        }
        let downs = given_up.into_iter().map(|node| Command::SetNodeState { node, up: false });
        downs.chain(changes).collect()
    }

    /// The next membership of one group, when it has to change.
    ///
    /// Adds the nodes to `given_up` that had their time to speak and that the change goes on
    /// without.
    fn group(
        &mut self,
        view: View<'_>,
        now: Nanos,
        gone: Option<NodeId>,
        group: &GroupRecord,
        given_up: &mut BTreeSet<NodeId>,
    ) -> Option<Command> {
        let standing = Standing::of(view, gone, group);
        if standing.one_serves() {
            self.waiting.remove(&group.id);
            let accused = |target| self.is_accused(view, group.id, target);
            return standing.without_the_dead(accused);
        }
        let nobody = standing.restarted == 0 && standing.silent.is_empty();
        if standing.present.is_empty() {
            self.waiting.remove(&group.id);
            return if standing.silent.is_empty() { standing.down() } else { None };
        }
        let since = *self.waiting.entry(group.id).or_insert(now);
        if !standing.all_present() && now.since(since) < RESTART_GRACE {
            return if nobody { standing.down() } else { None };
        }
        given_up.extend(&standing.silent);
        standing.revived()
    }

    /// Believes the primary, within limits.
    fn evict(&mut self, view: View<'_>, now: Nanos, request: &EvictRequest) -> Option<Command> {
        let group = view.map.groups.get(&request.group)?;
        let primary = group.primary()?;
        let entitled = primary.target == request.reporter && placement::serves(view.map, primary);
        let member = group.member(request.target)?;
        if group.epoch != request.epoch || !entitled || request.target == request.reporter {
            return None;
        }
        let (start, count) = self.reports.entry(request.reporter).or_insert((now, 0));
        if now.since(*start) >= EVICT_WINDOW {
            (*start, *count) = (now, 0);
        }
        if guard::holds(Guard::EvictionRate) && *count >= EVICTS_PER_PRIMARY_MAX {
            return None;
        }
        *count += 1;
        let until = now.after(READMIT_AFTER);
        self.accused.insert((group.id, request.target), (member.generation, until));
        Some(group::evict(group, request.target))
    }

    /// True while a target stays out of a group because its primary had it removed.
    fn is_accused(&self, view: View<'_>, group: GroupId, target: TargetId) -> bool {
        let generation = view.map.targets.get(&target).map(|record| record.generation);
        let accused = self.accused.get(&(group, target));
        accused.is_some_and(|(evicted, _)| Some(*evicted) == generation)
    }
}

/// Makes the first groups once all expected targets serve.
fn first_groups(view: View<'_>) -> Option<Command> {
    let up = view.map.targets.keys().filter(|target| placement::up(view.map, **target));
    let targets = u32::try_from(up.clone().count()).ok()?;
    if targets == 0 || targets < view.settings.targets_expected {
        return None;
    }
    let records = up.filter_map(|target| view.map.targets.get(target));
    let nodes: BTreeSet<_> = records.map(|record| record.node).collect();
    let members = u32::try_from(nodes.len()).ok()?.min(u32::from(view.settings.replicas)).max(1);
    let places = targets.saturating_mul(u32::from(view.settings.groups_per_target));
    Some(Command::CreateGroups { count: places.div_ceil(members).max(1) })
}
