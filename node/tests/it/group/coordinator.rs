//! A coordinator in miniature: one group, the membership rules, no log.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use node::shard::control::ShardReport;
use protocol::cluster_map::{
    ClusterMap, GroupRecord, Member, NodeRecord, NodeState, Plan, PlanReason, Role, TargetRecord,
    TargetState,
};
use protocol::ids::{ClusterId, Epoch, Generation, GroupId, MapVersion, NodeId, ShardId, TargetId};

pub(super) const GROUP: GroupId = GroupId(7);

/// The membership rules over one group of all targets.
pub(super) struct Coordinator {
    pub map: ClusterMap,
    alive: BTreeMap<TargetId, Option<Generation>>,
    down_since_ms: Option<u64>,
    /// Until when a target may believe in its lease, in nanoseconds.
    pub leases: BTreeMap<TargetId, u64>,
    /// Targets that left since mutations were allowed, and the map that says so.
    left: BTreeMap<TargetId, MapVersion>,
}

impl Coordinator {
    /// A group of the targets `1..=count`, all registered with generation 1, epoch 1.
    pub(super) fn new(count: u32, min_write: u8) -> Coordinator {
        let mut map =
            ClusterMap { cluster: ClusterId(1), version: MapVersion(1), ..ClusterMap::default() };
        for id in 1..=count {
            let target = target_record(id);
            map.nodes.insert(NodeId(id), node_record(id));
            map.targets.insert(TargetId(id), target);
        }
        let members = (1..=count).map(|id| Member {
            target: TargetId(id),
            generation: Generation(1),
            role: if id == 1 { Role::Primary } else { Role::Backup },
        });
        let record = GroupRecord {
            id: GROUP,
            kind: 0,
            epoch: Epoch(1),
            last_writable_epoch: Epoch(0),
            active: false,
            down: false,
            replicas: count as u8,
            min_write,
            members: members.collect(),
            evicted: Vec::new(),
            mutations: true,
            ..GroupRecord::default()
        };
        map.groups.insert(GROUP, record);
        let alive = (1..=count).map(|id| (TargetId(id), Some(Generation(1)))).collect();
        let (leases, left) = (BTreeMap::new(), BTreeMap::new());
        Coordinator { map, alive, down_since_ms: None, leases, left }
    }

    pub(super) fn record(&self) -> &GroupRecord {
        &self.map.groups[&GROUP]
    }

    /// Takes in a report; true when the map changed.
    pub(super) fn on_report(&mut self, report: &ShardReport) -> bool {
        let record = self.record().clone();
        match report {
            ShardReport::Evict(evict) if evict.epoch == record.epoch => self.remove(evict.target),
            ShardReport::Activated(done) if done.epoch == record.epoch && !record.active => self
                .edit(|record| {
                    record.active = true;
                    if record.writable() {
                        record.last_writable_epoch = record.epoch;
                    }
                }),
            ShardReport::SyncDone(done) if done.epoch == record.epoch && record.active => {
                let syncing = |member: &Member| member.role == Role::Syncing;
                if record.member(done.target).is_none_or(|member| !syncing(member)) {
                    return false;
                }
                self.new_epoch(|record| set_role(record, done.target, Role::Backup))
            }
            _ => false,
        }
    }

    /// A target's process is known to be dead; true when the map changed.
    pub(super) fn on_dead(&mut self, target: TargetId) -> bool {
        self.alive.insert(target, None);
        self.remove(target)
    }

    /// A target presents a new incarnation; true when the map changed.
    pub(super) fn on_register(
        &mut self,
        now_ms: u64,
        target: TargetId,
        generation: Generation,
    ) -> bool {
        self.alive.insert(target, Some(generation));
        if let Some(record) = self.map.targets.get_mut(&target) {
            record.generation = generation;
        }
        let record = self.record().clone();
        let others_serve =
            record.serving().any(|member| member.target != target && self.is_intact(member));
        if !others_serve {
            self.down_since_ms.get_or_insert(now_ms);
            return self.restart_of_all(now_ms);
        }
        if record.member(target).is_some_and(|member| member.role != Role::Syncing) {
            self.remove(target);
        }
        self.left.remove(&target); // The process that held the lease is dead.
        self.new_epoch(|record| {
            record.members.retain(|member| member.target != target);
            record.evicted.retain(|evicted| *evicted != target);
            record.members.push(Member { target, generation, role: Role::Syncing });
        })
    }

    /// After a restart of all serving members: an epoch of those that came back.
    pub(super) fn restart_of_all(&mut self, now_ms: u64) -> bool {
        let Some(since) = self.down_since_ms else { return false };
        let serving: Vec<Member> = self.record().serving().copied().collect();
        let present =
            |member: &&Member| self.alive.get(&member.target).is_some_and(Option::is_some);
        let back: Vec<TargetId> =
            serving.iter().filter(present).map(|member| member.target).collect();
        if back.is_empty() || (back.len() < serving.len() && now_ms < since + 5000) {
            return false;
        }
        self.down_since_ms = None;
        let primary = if back.contains(&serving[0].target) { serving[0].target } else { back[0] };
        let alive = self.alive.clone();
        let old = self.record().members.clone();
        self.new_epoch(|record| {
            record.down = false;
            record.mutations = false;
            record.members = back
                .iter()
                .filter_map(|&target| {
                    let generation = alive[&target]?;
                    let role = if target == primary { Role::Primary } else { Role::Backup };
                    Some(Member { target, generation, role })
                })
                .collect();
            for member in &old {
                let gone = record.member(member.target).is_none();
                if gone && !record.evicted.contains(&member.target) {
                    record.evicted.push(member.target);
                }
            }
        });
        let evicted = self.record().evicted.clone();
        for member in &old {
            if self.record().member(member.target).is_none() {
                self.left.insert(member.target, self.map.version);
            } else {
                self.left.remove(&member.target);
            }
        }
        for target in evicted {
            if let Some(Some(generation)) = self.alive.get(&target).copied() {
                self.on_register(now_ms, target, generation);
            }
        }
        true
    }

    /// Allows mutations again once nobody who left can believe in a lease; true when it did.
    pub(super) fn end_leases(
        &mut self,
        now: u64,
        applied: &BTreeMap<TargetId, MapVersion>,
    ) -> bool {
        let leases = &self.leases;
        self.left.retain(|target, since| {
            let over = leases.get(target).is_none_or(|end| *end <= now);
            !over && applied.get(target).is_none_or(|applied| applied < since)
        });
        if !self.left.is_empty() || self.record().mutations {
            return false;
        }
        self.edit(|record| {
            record.mutations = true;
            record.departed.clear();
        })
    }

    /// Everything lost power: nobody counts as alive before it has registered again.
    pub(super) fn power_cut(&mut self) {
        self.alive.values_mut().for_each(|alive| *alive = None);
    }

    /// Hears a target; true for the incarnation that registered last. One that was given up but
    /// could not be removed is alive again.
    pub(super) fn hears(&mut self, target: TargetId, generation: Generation) -> bool {
        let member = self.record().member(target).copied();
        if member.is_some_and(|member| member.generation == generation) {
            self.alive.entry(target).and_modify(|alive| *alive = alive.or(Some(generation)));
        }
        self.alive.get(&target) == Some(&Some(generation))
    }

    /// The group is to have no more replicas than it has, and waits for nothing of a target.
    pub(super) fn go_on_without(&mut self, target: TargetId) -> bool {
        self.new_epoch(|record| {
            record.replicas = record.serving().count() as u8;
            record.evicted.retain(|other| *other != target);
        })
    }

    /// The group may be written only with this many serving members.
    pub(super) fn needs(&mut self, min_write: u8) -> bool {
        self.edit(|record| record.min_write = min_write)
    }

    /// Makes a target's copy the step of a plan that is under way.
    pub(super) fn plan_copy(&mut self, target: TargetId, reason: PlanReason) -> bool {
        let (add, leave) = (target, TargetId(0));
        self.edit(|record| {
            record.plan = Some(Plan { reason, add, leave, since_ms: 1 });
        })
    }

    fn is_intact(&self, member: &Member) -> bool {
        self.alive.get(&member.target) == Some(&Some(member.generation))
    }

    fn remove(&mut self, target: TargetId) -> bool {
        let record = self.record().clone();
        let Some(member) = record.member(target).copied() else { return false };
        let heir = record
            .serving()
            .find(|other| other.target != target && self.is_intact(other))
            .map(|other| other.target);
        if member.role != Role::Syncing && heir.is_none() {
            return false; // The last serving member is never removed.
        }
        self.new_epoch(|record| {
            record.members.retain(|member| member.target != target);
            record.evicted.push(target);
            record.departed.push(target);
            record.mutations = false;
            if let (Role::Primary, Some(heir)) = (member.role, heir) {
                set_role(record, heir, Role::Primary);
            }
        });
        self.left.insert(target, self.map.version);
        true
    }

    fn new_epoch(&mut self, change: impl FnOnce(&mut GroupRecord)) -> bool {
        self.edit(|record| {
            change(record);
            record.epoch = Epoch(record.epoch.0 + 1);
            record.active = false;
            assert!(record.serving().next().is_some(), "the serving set is never empty");
        })
    }

    fn edit(&mut self, change: impl FnOnce(&mut GroupRecord)) -> bool {
        self.map.version = MapVersion(self.map.version.0 + 1);
        if let Some(record) = self.map.groups.get_mut(&GROUP) {
            change(record);
        }
        true
    }
}

fn set_role(record: &mut GroupRecord, target: TargetId, role: Role) {
    for member in record.members.iter_mut().filter(|member| member.target == target) {
        member.role = role;
    }
}

fn node_record(id: u32) -> NodeRecord {
    NodeRecord {
        id: NodeId(id),
        state: NodeState::Up,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        draining: false,
    }
}

fn target_record(id: u32) -> TargetRecord {
    TargetRecord {
        id: TargetId(id),
        node: NodeId(id),
        shard: ShardId(0),
        device: 0,
        port: 7000 + id as u16,
        generation: Generation(1),
        capacity: 1 << 30,
        state: TargetState::Up,
    }
}
