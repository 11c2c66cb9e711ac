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

mod accused;
mod group;
mod witness;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};

use protocol::cluster_map::{ClusterMap, GroupRecord, Member, NodeState, Role, TargetState};
use protocol::guard::{self, Guard};
use protocol::ids::{GroupId, MapVersion, NodeId, TargetId};
use protocol::message::cluster::EvictRequest;
use protocol::message::command::Command;
use protocol::time::Nanos;

use crate::limits::{EVICT_WINDOW, EVICTS_PER_PRIMARY_MAX, MOVE_PRIMARY_EVERY, RESTART_GRACE};
use crate::placement;
use crate::state::{Ledger, Settings};
use accused::Accused;
use group::Standing;
pub use witness::Witness;
use witness::Witnesses;

/// Something that bears on who serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The node gives no sign of life.
    NodeSuspected(NodeId),
    /// A suspected node gave a sign of life in its registered incarnation.
    NodeReturned(NodeId),
    /// A primary asks to remove a member.
    Evict(EvictRequest),
    /// Somebody cannot reach the primary of a group.
    Unreachable {
        /// The group.
        group: GroupId,
        /// Its primary.
        target: TargetId,
        /// Who says so.
        witness: Witness,
    },
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
    /// Nodes that restart too often to be let in where they are not needed.
    pub held: &'a BTreeSet<NodeId>,
}

/// What is remembered between plans; lost without harm when the coordinator restarts.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    /// Groups without a living serving member, and when the first of them was seen restarted.
    waiting: BTreeMap<GroupId, Nanos>,
    /// Targets evicted on a report, and until when they stay out.
    accused: Accused,
    /// Evictions each primary asked for in its current window: start of the window, count.
    reports: BTreeMap<TargetId, (Nanos, u32)>,
    /// Who accuses whom.
    witnesses: Witnesses,
    /// When a group's primary was moved on accusations.
    moved: BTreeMap<GroupId, Nanos>,
    /// What the last plan that asked for nothing was made from.
    quiet: Option<Quiet>,
}

/// What a plan depends on beside time and what is remembered: the ledger changes only together
/// with the map.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Quiet {
    version: MapVersion,
    live: BTreeSet<NodeId>,
    held: BTreeSet<NodeId>,
}

impl Membership {
    /// Takes note of an event and returns the commands it asks for.
    ///
    /// A suspicion comes with the new epochs of all groups it touches, so that one commit is enough.
    pub fn handle(&mut self, view: View<'_>, now: Nanos, event: &Event) -> Vec<Command> {
        self.quiet = None;
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
            Event::Unreachable { group, target, witness } => {
                self.unreachable(view, now, (*group, *target), *witness).into_iter().collect()
            }
        }
    }

    /// Returns the commands that the map asks for; called after each change of the map and at least
    /// twice a second.
    pub fn plan(&mut self, view: View<'_>, now: Nanos) -> Vec<Command> {
        if view.map.groups.is_empty() {
            return first_groups(view).into_iter().collect();
        }
        if self.is_quiet(view, now) {
            return Vec::new();
        }
        let spoke = |node: &&NodeId| {
            let record = view.map.nodes.get(*node);
            record.is_some_and(|record| record.state == NodeState::Down)
        };
        let back = view.live.iter().filter(spoke);
        let mut commands: Vec<_> =
            back.map(|node| Command::SetNodeState { node: *node, up: true }).collect();
        commands.extend(self.groups(view, now, None));
        self.quiet = commands.is_empty().then(|| Quiet {
            version: view.map.version,
            live: view.live.clone(),
            held: view.held.clone(),
        });
        commands
    }

    /// True when a plan asked for nothing and nothing that it depends on has changed since.
    fn is_quiet(&self, view: View<'_>, now: Nanos) -> bool {
        let same = self.quiet.as_ref().is_some_and(|quiet| {
            quiet.version == view.map.version
                && quiet.live == *view.live
                && quiet.held == *view.held
        });
        same && self.next_deadline().is_none_or(|at| now < at)
    }

    /// When `plan` has something new to say although nothing happened; `None` for never.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let graces = self.waiting.values().map(|since| since.after(RESTART_GRACE));
        graces.chain(self.accused.ends()).min()
    }

    fn groups(&mut self, view: View<'_>, now: Nanos, gone: Option<NodeId>) -> Vec<Command> {
        self.accused.forget(now);
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
        if group::at_rest(view, gone, group) {
            debug_assert_eq!(Standing::of(view, gone, group).without_the_dead(|_| false), None);
            self.waiting.remove(&group.id);
            return None;
        }
        let standing = Standing::of(view, gone, group);
        if standing.one_serves() {
            self.waiting.remove(&group.id);
            let accused = |target| self.is_accused(view, group.id, target, now);
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
        if group.epoch != request.epoch || !entitled {
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
        if request.target == request.reporter {
            // Who finds that it lacks something itself is believed, unless nobody else serves.
            let lead = successor(view, group, member.target)?;
            self.accused.note(group.id, member.target, member.generation, now);
            return Some(group::evict(group, member.target, lead));
        }
        let node = |target| view.map.targets.get(&target).map(|record| record.node);
        let (accuser, accused) = (node(request.reporter)?, node(request.target)?);
        self.witnesses.note(request.target, Witness::Node(accuser), now);
        let guilty = match self.accuser_is_guilty(view, now, group, (accuser, accused), member) {
            true => primary,
            false => member,
        };
        let lead = successor(view, group, guilty.target)?;
        if guilty == primary {
            // Nobody else said anything against those it had removed.
            self.accused.absolve(group.id);
        }
        self.accused.note(group.id, guilty.target, guilty.generation, now);
        Some(group::evict(group, guilty.target, lead))
    }

    /// Decides between a primary and the member it accuses.
    ///
    /// The one that more of those accuse who take no part is guilty, and the member when they are
    /// equal, because its removal disturbs less. But a primary that alone finds members of several
    /// nodes unreachable, so that too few would be left to write, is more likely cut off itself.
    fn accuser_is_guilty(
        &self,
        view: View<'_>,
        now: Nanos,
        group: &GroupRecord,
        (accuser, accused): (NodeId, NodeId),
        member: &Member,
    ) -> bool {
        let Some(primary) = group.primary() else { return false };
        let against_primary = self.witnesses.against(primary.target, Some(accused), now);
        let against_member = self.witnesses.against(member.target, Some(accuser), now);
        if against_primary != against_member {
            return against_primary > against_member;
        }
        let left = group.serving().filter(|other| other.target != member.target).count();
        let alone = self.witnesses.accused_only_by(accuser, now);
        let nodes: BTreeSet<_> = alone
            .iter()
            .filter_map(|target| view.map.targets.get(target))
            .map(|record| record.node)
            .collect();
        member.role != Role::Syncing
            && left < usize::from(group.min_write)
            && nodes.len() > 1
            && group.serving().count() > 1
    }

    /// Gives a group whose primary cannot be reached another one, when enough say so. The old one
    /// stays a member: it answers others.
    fn unreachable(
        &mut self,
        view: View<'_>,
        now: Nanos,
        (group, target): (GroupId, TargetId),
        witness: Witness,
    ) -> Option<Command> {
        let group = view.map.groups.get(&group)?;
        let node = |target| view.map.targets.get(&target).map(|record| record.node);
        let primary = group.primary().filter(|primary| primary.target == target)?;
        if Some(witness) == node(target).map(Witness::Node) {
            return None;
        }
        self.witnesses.note(target, witness, now);
        let member = |of: NodeId| group.members.iter().any(|other| node(other.target) == Some(of));
        let believed = match witness {
            Witness::Node(witness) => member(witness),
            Witness::Client(_) => self.witnesses.clients_agree(target, now),
        };
        self.moved.retain(|_, at| now.since(*at) < MOVE_PRIMARY_EVERY);
        if !believed || group.down || self.moved.contains_key(&group.id) {
            return None;
        }
        let next = successor(view, group, primary.target).filter(|next| *next != target)?;
        self.moved.insert(group.id, now);
        Some(group::lead(group, next))
    }

    /// True while a target stays out of a group because its primary had it removed.
    fn is_accused(&self, view: View<'_>, group: GroupId, target: TargetId, now: Nanos) -> bool {
        let record = view.map.targets.get(&target);
        record.is_some_and(|it| self.accused.stays_out(group, target, it.generation, now))
    }
}

/// Who leads a group from which `without` is removed: the primary, or the best of the others.
fn successor(view: View<'_>, group: &GroupRecord, without: TargetId) -> Option<TargetId> {
    let primary = group.primary().filter(|primary| primary.target != without);
    let serves = |member: &&Member| {
        let node = view.map.targets.get(&member.target).map(|record| record.node);
        let spoke = node.is_some_and(|node| view.live.contains(&node));
        member.target != without && spoke && placement::serves(view.map, member)
    };
    let slow = |target| {
        let record = view.map.targets.get(&target);
        record.is_some_and(|record| record.state == TargetState::Slow)
    };
    let others = group.serving().filter(serves).map(|member| member.target);
    let best = || others.min_by_key(|target| (slow(*target), *target));
    primary.map(|primary| primary.target).or_else(best)
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
