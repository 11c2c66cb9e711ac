//! A coordinator that does, at any moment, whatever the rules of membership allow it to do.
//!
//! It has no clock and no plan: the search decides when a death is noticed, a living member is
//! suspected, a report arrives or a restarted target registers. Invariants I4 and I5 are asserted
//! here, where memberships are made.

use std::net::{IpAddr, Ipv4Addr};

use node::shard::control::ShardReport;
use protocol::cluster_map::{
    ClusterMap, GroupRecord, Member, NodeRecord, NodeState, Role, TargetRecord, TargetState,
};
use protocol::ids::{ClusterId, Epoch, Generation, MapVersion, NodeId, ShardId, TargetId};

use super::store::GROUP;
use super::world::TARGETS;

/// The membership of the one group, and which incarnations it believes to live.
#[derive(Clone, Debug)]
pub(super) struct Coordinator {
    pub(super) map: ClusterMap,
    /// Newest incarnation of each target that is not known to be dead.
    alive: [Option<Generation>; TARGETS],
}

impl Coordinator {
    /// A group of all targets in their first incarnation, in epoch 1.
    pub(super) fn new(min_write: u8) -> Coordinator {
        let mut map =
            ClusterMap { cluster: ClusterId(1), version: MapVersion(1), ..ClusterMap::default() };
        let targets = (1..).take(TARGETS).map(TargetId);
        for id in targets.clone() {
            map.nodes.insert(NodeId(id.0), node_record(id));
            map.targets.insert(id, target_record(id));
        }
        let role = |id: TargetId| if id.0 == 1 { Role::Primary } else { Role::Backup };
        let member = |id| Member { target: id, generation: Generation(1), role: role(id) };
        let record = GroupRecord {
            id: GROUP,
            kind: 0,
            epoch: Epoch(1),
            last_writable_epoch: Epoch(0),
            active: false,
            down: false,
            replicas: 3,
            min_write,
            members: targets.map(member).collect(),
            evicted: Vec::new(),
            mutations: true,
            departed: Vec::new(),
            plan: None,
        };
        map.groups.insert(GROUP, record);
        Coordinator { map, alive: [Some(Generation(1)); TARGETS] }
    }

    pub(super) fn record(&self) -> &GroupRecord {
        &self.map.groups[&GROUP]
    }

    /// Takes in a report; true when the map changed.
    pub(super) fn on_report(&mut self, report: &ShardReport) -> bool {
        let record = self.record();
        match report {
            ShardReport::Evict(evict) if evict.epoch == record.epoch => self.remove(evict.target),
            ShardReport::Activated(done) if done.epoch == record.epoch && !record.active => {
                self.edit(|record| {
                    record.active = true;
                    if record.writable() {
                        record.last_writable_epoch = record.epoch;
                    }
                });
                true
            }
            ShardReport::SyncDone(done) if done.epoch == record.epoch && record.active => {
                let member = record.member(done.target);
                let syncing = member
                    .is_some_and(|member| member.role == Role::Syncing && self.is_intact(member));
                if syncing {
                    let complete = Some(done.target);
                    self.new_epoch(complete, |record| {
                        set_role(record, done.target, Role::Backup);
                    });
                }
                syncing
            }
            _ => false,
        }
    }

    /// True when the coordinator still takes this incarnation for a living one.
    pub(super) fn believes_in(&self, target: TargetId) -> bool {
        self.alive[place(target)].is_some()
    }

    /// True when this incarnation has not registered yet.
    pub(super) fn lacks(&self, target: TargetId, generation: Generation) -> bool {
        self.map.targets.get(&target).is_some_and(|record| record.generation < generation)
    }

    /// Notices that a target's process is dead; true when the map changed.
    pub(super) fn on_dead(&mut self, target: TargetId) -> bool {
        self.alive[place(target)] = None;
        self.remove(target)
    }

    /// Removes a member that lives, as after a suspicion; true when the map changed.
    pub(super) fn suspect(&mut self, target: TargetId) -> bool {
        self.remove(target)
    }

    /// Takes in a new incarnation.
    pub(super) fn on_register(&mut self, target: TargetId, generation: Generation) {
        self.alive[place(target)] = Some(generation);
        if let Some(record) = self.map.targets.get_mut(&target) {
            record.generation = generation;
        }
        self.map.version.0 += 1;
        self.admit(target, generation);
    }

    /// Adds a living incarnation that is no member, as one that lacks everything.
    fn admit(&mut self, target: TargetId, generation: Generation) {
        let others_serve =
            self.record().serving().any(|member| member.target != target && self.is_intact(member));
        if !others_serve {
            return; // It may be one of those to wait for.
        }
        self.remove(target);
        self.new_epoch(None, |record| {
            record.members.retain(|member| member.target != target);
            record.evicted.retain(|evicted| *evicted != target);
            record.members.push(Member { target, generation, role: Role::Syncing });
        });
    }

    /// A living target that was removed and may come back as syncing.
    pub(super) fn returning(&self) -> Option<(TargetId, Generation)> {
        let back = |target: &&TargetId| self.alive[place(**target)].is_some();
        let target = *self.record().evicted.iter().find(back)?;
        self.alive[place(target)].map(|generation| (target, generation))
    }

    /// Brings back what [`Coordinator::returning`] names.
    pub(super) fn readmit(&mut self) {
        if let Some((target, generation)) = self.returning() {
            self.admit(target, generation);
        }
    }

    /// Serving members of which the group could be made again, after all of them restarted.
    fn restarted(&self) -> Vec<TargetId> {
        let record = self.record();
        if record.serving().any(|member| self.is_intact(member)) {
            return Vec::new();
        }
        let back = record.serving().filter(|member| self.alive[place(member.target)].is_some());
        back.map(|member| member.target).collect()
    }

    /// True when no serving member is left and at least one of them restarted.
    pub(super) fn may_restart(&self) -> bool {
        !self.restarted().is_empty()
    }

    /// Makes an epoch of the serving members that came back.
    pub(super) fn restart(&mut self) {
        let back = self.restarted();
        let Some(&primary) = back.first() else { return };
        let alive = self.alive;
        self.new_epoch(None, |record| {
            let old = std::mem::take(&mut record.members);
            let members = back.iter().filter_map(|&target| {
                let generation = alive[place(target)]?;
                let role = if target == primary { Role::Primary } else { Role::Backup };
                Some(Member { target, generation, role })
            });
            record.members = members.collect();
            for member in old {
                let gone = record.member(member.target).is_none();
                if gone && !record.evicted.contains(&member.target) {
                    record.evicted.push(member.target);
                }
            }
        });
    }

    fn is_intact(&self, member: &Member) -> bool {
        self.alive[place(member.target)] == Some(member.generation)
    }

    fn remove(&mut self, target: TargetId) -> bool {
        let record = self.record();
        let Some(member) = record.member(target).copied() else { return false };
        let fit = |other: &&Member| other.target != target && self.is_intact(other);
        let heir = record.serving().find(fit).map(|other| other.target);
        if member.role != Role::Syncing && heir.is_none() {
            return false; // The last serving member is never removed.
        }
        self.new_epoch(None, |record| {
            record.members.retain(|member| member.target != target);
            record.evicted.push(target);
            if let (Role::Primary, Some(heir)) = (member.role, heir) {
                set_role(record, heir, Role::Primary);
            }
        });
        true
    }

    fn new_epoch(&mut self, complete: Option<TargetId>, change: impl FnOnce(&mut GroupRecord)) {
        let before: Vec<TargetId> = self.record().serving().map(|member| member.target).collect();
        self.edit(|record| {
            change(record);
            record.epoch = Epoch(record.epoch.0 + 1);
            record.active = false;
        });
        let mut serving = self.record().serving().peekable();
        assert!(serving.peek().is_some(), "I5: the serving set is never empty");
        let served = |member: &Member| {
            before.contains(&member.target)
                || (complete == Some(member.target) && member.role == Role::Backup)
        };
        assert!(serving.all(served), "I4: nobody serves who was not complete");
    }

    fn edit(&mut self, change: impl FnOnce(&mut GroupRecord)) {
        self.map.version.0 += 1;
        if let Some(record) = self.map.groups.get_mut(&GROUP) {
            change(record);
        }
    }
}

/// Place of a target in arrays of all targets.
pub(super) fn place(target: TargetId) -> usize {
    target.0 as usize - 1
}

fn set_role(record: &mut GroupRecord, target: TargetId, role: Role) {
    for member in record.members.iter_mut().filter(|member| member.target == target) {
        member.role = role;
    }
}

fn node_record(id: TargetId) -> NodeRecord {
    NodeRecord {
        id: NodeId(id.0),
        state: NodeState::Up,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        draining: false,
    }
}

fn target_record(id: TargetId) -> TargetRecord {
    TargetRecord {
        id,
        node: NodeId(id.0),
        shard: ShardId(0),
        device: 0,
        port: 7000,
        generation: Generation(1),
        capacity: 1 << 30,
        state: TargetState::Up,
    }
}
