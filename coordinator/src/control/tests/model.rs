//! A cluster in which copying takes time: the real state and decisions, and nodes that are a table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use protocol::cluster_map::{GroupRecord, Role};
use protocol::ids::{ClusterId, Generation, GroupId, Lsn, NodeId, ShardId, TargetId};
use protocol::message::cluster::{GroupResync, TargetHealth, TargetReport};
use protocol::message::command::{Caller, Command, Stamp};
use protocol::time::Nanos;

use super::super::*;
use crate::kv::Memory;
use crate::membership::tests::adopted;
use crate::placement;
use crate::state::{Outcome, State};

const STEP: Duration = Duration::from_millis(250);
/// Bytes of every group.
const GROUP_BYTES: u64 = 1000;
const CAPACITY: u64 = 100 * GROUP_BYTES;

/// The cluster; one target a node.
pub(super) struct Model {
    pub(super) state: State<Memory>,
    pub(super) control: Control,
    pub(super) now: Nanos,
    stamp: u64,
    generations: BTreeMap<u32, u32>,
    pub(super) alive: BTreeSet<u32>,
    /// Bytes that each copy under way has still to get.
    copies: BTreeMap<(GroupId, TargetId), u64>,
    /// Bytes of a copy that are done in one step.
    pub(super) speed: u64,
    /// Fewest serving members that any group has had.
    pub(super) fewest: usize,
    tuning: Tuning,
}

impl Model {
    pub(super) fn new(nodes: u32, replicas: u8) -> Model {
        let state = State::open(Memory::default()).unwrap();
        let tuning =
            Tuning { lease: Duration::from_secs(2), storm_restarts: 0, ..Tuning::default() };
        let mut model = Model {
            control: Control::new(state.map(), tuning, Nanos(1)),
            state,
            now: Nanos(1),
            stamp: 0,
            generations: BTreeMap::new(),
            alive: BTreeSet::new(),
            copies: BTreeMap::new(),
            speed: GROUP_BYTES / 4,
            fewest: usize::from(replicas),
            tuning,
        };
        model.apply(&Command::Initialize {
            cluster: ClusterId(7),
            replicas,
            min_write: replicas.min(2),
            groups_per_target: 6,
            targets_expected: nodes,
            owner: Caller::default(),
        });
        (1..=nodes).for_each(|node| model.start(node));
        model.run(Duration::from_secs(1));
        assert!(model.healthy());
        model
    }

    pub(super) fn apply(&mut self, command: &Command) -> Outcome {
        self.stamp += 1;
        let stamp = Stamp { time_ms: self.stamp, nonce: self.stamp };
        let outcome = self.state.apply(stamp, command);
        assert_eq!(self.state.violations(), Vec::<String>::new(), "after {command:?}");
        for group in self.state.map().groups.values() {
            assert!(group.members.len() <= usize::from(group.replicas) + 2, "{group:?}");
            self.fewest = self.fewest.min(group.serving().count());
        }
        outcome
    }

    pub(super) fn step(&mut self, event: &Event) {
        let settings = self.state.settings().unwrap();
        let (map, ledger) = (self.state.map(), self.state.ledger());
        let commands =
            self.control.step(Seen { map, settings: &settings, ledger }, self.now, event);
        for command in commands {
            let outcome = self.apply(&command);
            assert_eq!(outcome, Outcome::Done, "{command:?} at {:?} for {event:?}", self.now);
        }
    }

    /// A process of the node starts and registers.
    pub(super) fn start(&mut self, node: u32) {
        let generation = *self.generations.entry(node).and_modify(|known| *known += 1).or_insert(1);
        let report = TargetReport {
            target: TargetId(node * 100),
            shard: ShardId(0),
            device: 0,
            port: 1,
            generation: Generation(generation),
            recovered_lsn: Lsn(0),
            intact: true,
            capacity: CAPACITY,
            free: CAPACITY,
            groups: adopted(self.state.map(), TargetId(node * 100)),
        };
        let command = Command::RegisterNode {
            node: NodeId(node),
            incarnation: u64::from(generation),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            targets: vec![report],
        };
        assert_eq!(self.apply(&command), Outcome::Done);
        self.alive.insert(node);
        self.step(&Event::Registered { node: NodeId(node) });
    }

    pub(super) fn kill(&mut self, node: u32) {
        if self.alive.remove(&node) {
            self.step(&Event::ConnectionLost { node: NodeId(node) });
            self.step(&Event::Refused { node: NodeId(node) });
        }
    }

    pub(super) fn drain(&mut self, node: u32, draining: bool) {
        self.apply(&Command::SetNodeDraining { node: NodeId(node), draining });
    }

    pub(super) fn restart_coordinator(&mut self) {
        self.control = Control::new(self.state.map(), self.tuning, self.now);
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            self.now = self.now.after(STEP);
            for node in self.alive.clone() {
                let targets = vec![self.health(node)];
                self.step(&Event::Heartbeat { node: NodeId(node), at: self.now, targets });
            }
            self.step(&Event::Tick);
            self.activate();
            self.copy();
            self.step(&Event::Tick);
        }
    }

    /// Lets time pass until something holds, at most `time`; false when it never did.
    pub(super) fn run_until(&mut self, time: Duration, done: impl Fn(&Model) -> bool) -> bool {
        let end = self.now.after(time);
        while self.now < end && !done(self) {
            self.run(STEP);
        }
        done(self)
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &GroupRecord> {
        self.state.map().groups.values()
    }

    pub(super) fn healthy(&self) -> bool {
        self.groups().all(GroupRecord::healthy)
    }

    /// Healthy, and nothing is going on or waited for.
    pub(super) fn at_rest(&self) -> bool {
        let rest = |group: &GroupRecord| {
            group.plan.is_none()
                && group.mutations
                && group.evicted.is_empty()
                && group.members.len() == usize::from(group.replicas)
        };
        self.healthy() && self.groups().all(rest) && !self.state.ledger().rebalance
    }

    pub(super) fn plans(&self) -> usize {
        self.groups().filter(|group| group.plan.is_some()).count()
    }

    /// Groups that the node's target is a member of, and those that it leads.
    pub(super) fn held(&self, node: u32) -> (usize, usize) {
        let target = TargetId(node * 100);
        let held = self.groups().filter(|group| group.member(target).is_some()).count();
        let leads = |group: &&GroupRecord| group.primary().is_some_and(|it| it.target == target);
        (held, self.groups().filter(leads).count())
    }

    pub(super) fn outlook(&self) -> Outlook {
        let settings = self.state.settings().unwrap();
        let (map, ledger) = (self.state.map(), self.state.ledger());
        self.control.outlook(Seen { map, settings: &settings, ledger })
    }

    fn health(&self, node: u32) -> TargetHealth {
        let target = TargetId(node * 100);
        let leads = |group: GroupId| {
            let record = self.state.map().groups.get(&group);
            record.and_then(|it| it.primary()).is_some_and(|it| it.target == target)
        };
        let copies = self.copies.iter().filter(|((group, _), _)| leads(*group));
        let resyncs = copies.map(|((group, target), left)| GroupResync {
            group: *group,
            target: *target,
            bytes_left: *left,
            bytes_done: 0,
        });
        let held = u64::try_from(self.held(node).0).unwrap();
        TargetHealth {
            target,
            map_version: self.state.map().version,
            free: CAPACITY - held * GROUP_BYTES,
            resyncs: resyncs.collect(),
            ..TargetHealth::default()
        }
    }

    fn activate(&mut self) {
        let map = self.state.map().clone();
        for group in map.groups.values().filter(|group| !group.active && !group.down) {
            let alive = |target: TargetId| self.alive.contains(&(target.0 / 100));
            let answer = group.members.iter().all(|member| alive(member.target));
            if answer && placement::serves(&map, group.primary().unwrap()) {
                let done = Command::Activated { group: group.id, epoch: group.epoch };
                assert_eq!(self.apply(&done), Outcome::Done);
            }
        }
    }

    fn copy(&mut self) {
        let map = self.state.map().clone();
        let mut copies = BTreeMap::new();
        for group in map.groups.values() {
            for member in group.members.iter().filter(|member| member.role == Role::Syncing) {
                let key = (group.id, member.target);
                let planned = group.plan.is_some_and(|plan| plan.add == member.target);
                let all = if planned { GROUP_BYTES } else { GROUP_BYTES / 10 };
                let left = self.copies.get(&key).copied().unwrap_or(all);
                let left = if group.active { left.saturating_sub(self.speed) } else { left };
                if left == 0 {
                    let (group, epoch, target) = (group.id, group.epoch, member.target);
                    // Another copy of the group may have ended in this step; then this one waits.
                    self.apply(&Command::SyncDone { group, epoch, target });
                } else {
                    copies.insert(key, left);
                }
            }
        }
        self.copies = copies;
    }
}
