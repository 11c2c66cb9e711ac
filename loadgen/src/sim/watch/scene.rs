//! What the world looked like when something happened: the marks of the rows of the failure table.

use std::collections::{BTreeMap, BTreeSet};

use node::io::Nanos;
use protocol::cluster_map::{GroupRecord, Member, PlanReason, Role};
use protocol::ids::{GroupId, NodeId};

use super::flight::Progress;
use super::{Watch, node_of};
use crate::sim::cluster::process_of;
use crate::sim::coordinator::COORDINATOR;
use crate::sim::cut::Cuts;
use crate::sim::executor::ProcessId;

/// Lease that a heartbeat gives, as the nodes are told it.
const LEASE: std::time::Duration = coordinator::limits::NODE_LEASE;

/// What is known of processes and groups.
#[derive(Default)]
pub(super) struct Scene {
    /// Which start of each process runs.
    starts: BTreeMap<ProcessId, u64>,
    /// When each dead node died, and the roles it had.
    died: BTreeMap<NodeId, (Nanos, BTreeSet<Role>)>,
    /// Newest record of each group.
    groups: BTreeMap<GroupId, GroupRecord>,
    /// Since when a group may mutate without a node that was its primary.
    without: BTreeMap<(GroupId, NodeId), Nanos>,
}

impl Scene {
    /// Which start of a process runs; `None` before the first.
    pub(super) fn start_of(&self, process: ProcessId) -> Option<u64> {
        self.starts.get(&process).copied()
    }

    /// Since when mutations of a group are acknowledged without a node; `None` while they are not.
    pub(super) fn mutated_without(&self, group: GroupId, node: NodeId) -> Option<Nanos> {
        self.without.get(&(group, node)).copied()
    }

    fn roles_of(&self, node: NodeId) -> BTreeSet<Role> {
        let members = self.groups.values().flat_map(|group| &group.members);
        members.filter(|member| node_of_member(member) == node).map(|member| member.role).collect()
    }
}

impl Watch {
    /// A node's process starts.
    pub fn on_start(&self, node: NodeId, start: u64) {
        let died = {
            let mut scene = self.scene.borrow_mut();
            scene.starts.insert(process_of(node), start);
            scene.died.remove(&node)
        };
        let Some((at, roles)) = died else { return };
        if self.executor.now().since(at) < LEASE {
            if roles.contains(&Role::Backup) {
                self.hit("F9 backup back within lease");
            }
            if roles.contains(&Role::Primary) {
                self.hit("F10 primary back quickly");
            }
        }
    }

    /// A node is about to be killed.
    pub fn on_kill(&self, node: NodeId) {
        let roles = self.scene.borrow().roles_of(node);
        self.scene.borrow_mut().died.insert(node, (self.executor.now(), roles));
        let (writes, awaited) = {
            let flights = self.flights.borrow();
            (flights.of_primary(process_of(node)), flights.waits_for(process_of(node)))
        };
        self.flights.borrow_mut().on_death(process_of(node));
        if awaited {
            self.hit("F4 backup does not answer");
        }
        for progress in writes {
            self.hit(match progress {
                Progress::Nowhere => "F5 primary dies, nothing sent",
                Progress::Some => "F6 primary dies, some prepared",
                Progress::All => "F7 primary dies, all prepared",
                Progress::Acknowledged => "F8 primary dies, acknowledged",
            });
        }
    }

    /// Two processes can no longer reach each other, in one way at least.
    pub fn on_cut(&self, one: ProcessId, other: ProcessId, cuts: &Cuts) {
        let (nodes, far) = match (node_of(one), node_of(other)) {
            (Some(one), Some(other)) => (vec![one, other], None),
            (Some(node), None) => (vec![node], Some(other)),
            (None, Some(node)) => (vec![node], Some(one)),
            (None, None) => return,
        };
        let scene = self.scene.borrow();
        let primary_of = |node: NodeId| {
            let of = move |group: &&GroupRecord| group.primary().map(node_of_member) == Some(node);
            scene.groups.values().filter(of)
        };
        match far {
            Some(COORDINATOR) => {}
            Some(client) => {
                let reachable =
                    |member: &Member| !cuts.parts(process_of(node_of_member(member)), client);
                let leads = primary_of(nodes[0]).any(|group| {
                    group.serving().any(|it| it.role == Role::Backup && reachable(it))
                });
                if leads {
                    drop(scene);
                    self.hit("F21 client cut off from primary");
                }
            }
            None => {
                let both_heard =
                    nodes.iter().all(|node| !cuts.parts(process_of(*node), COORDINATOR));
                let paired = nodes.iter().any(|node| {
                    let holds = |member: &Member| nodes.contains(&node_of_member(member));
                    primary_of(*node)
                        .any(|group| group.members.iter().filter(|it| holds(it)).count() == 2)
                });
                if both_heard && paired {
                    drop(scene);
                    self.hit("F22 primary cut off from backup");
                }
            }
        }
    }

    /// The coordinator starts or stops.
    pub fn on_coordinator(&self, up: bool) {
        self.coordinator_up.set(up);
    }

    /// A group's record changed.
    pub fn on_group(&self, record: &GroupRecord) {
        let old = self.scene.borrow_mut().groups.insert(record.id, record.clone());
        self.note_mutations(record);
        self.flights.borrow_mut().on_epoch(record.id, record.epoch);
        let Some(old) = old.filter(|old| old.epoch != record.epoch) else { return };
        let serving = record.serving().count();
        if let Some(band) = band_of(record) {
            self.hit(band);
        }
        if serving == 1 && old.serving().count() > 1 && record.replicas > 1 {
            self.hit("F13 one member left");
        }
        if record.down && !old.down {
            self.hit("F14 last member dies");
        }
        let renewed = |member: &Member| {
            let before = old.members.iter().find(|known| known.target == member.target);
            before.is_some_and(|known| known.generation < member.generation)
        };
        if serving > 1 && record.serving().all(renewed) {
            self.hit("F15 all members restarted");
        }
        for gone in old.serving().filter(|member| record.member(member.target).is_none()) {
            let node = node_of_member(gone);
            if self.stores.borrow().contains_key(&node) {
                self.hit(match gone.role {
                    Role::Primary => "F11 primary replaced alive",
                    _ => "F12 backup replaced alive",
                });
            }
        }
    }

    fn note_mutations(&self, record: &GroupRecord) {
        let now = self.executor.now();
        let mut scene = self.scene.borrow_mut();
        let serves = |node| record.serving().any(|member| node_of_member(member) == node);
        for node in (1..=self.nodes.get()).map(NodeId) {
            let excluded = record.mutations && record.active && !serves(node);
            if excluded {
                scene.without.entry((record.id, node)).or_insert(now);
            } else {
                scene.without.remove(&(record.id, node));
            }
        }
    }
}

/// What makes a group's copy as urgent as it is; `None` while nothing is copied.
fn band_of(record: &GroupRecord) -> Option<&'static str> {
    if !record.members.iter().any(|member| member.role == Role::Syncing) {
        return None;
    }
    let serving = record.serving().count();
    Some(match record.plan.map(|plan| plan.reason) {
        _ if serving <= 1 && record.replicas > 1 => "band last copy",
        _ if serving < usize::from(record.replicas) => "band heal",
        Some(PlanReason::Drain) => "band drain",
        Some(PlanReason::Rebalance) => "band rebalance",
        Some(PlanReason::Slow) => "band slow",
        Some(PlanReason::Heal) | None => "band floor",
    })
}

/// The node of a member; nodes of a simulated cluster have one target each.
fn node_of_member(member: &Member) -> NodeId {
    NodeId(member.target.0 / 100)
}
