//! Leases, departures and the order of events, through the real state.

mod heal;
mod model;

use std::net::{IpAddr, Ipv4Addr};

use protocol::cluster_map::{GroupRecord, TargetRecord, TargetState};
use protocol::ids::{ClusterId, MapVersion, ShardId};
use protocol::message::cluster::TargetReport;
use protocol::message::command::{Caller, Stamp};

use super::*;

use crate::kv::Memory;
use crate::limits::READMIT_MIN;
use crate::membership::tests::adopted;
use crate::state::{Outcome, State};

const LEASE: Duration = Duration::from_secs(2);
const BEAT: Duration = Duration::from_millis(250);

fn tuning() -> Tuning {
    Tuning { lease: LEASE, ..Tuning::default() }
}

/// A cluster of one target a node: the state, the decisions and a clock.
struct Cluster {
    state: State<Memory>,
    control: Control,
    now: Nanos,
    stamp: u64,
    generations: BTreeMap<u32, u32>,
    /// Map version that each living node's target has applied.
    applied: BTreeMap<u32, MapVersion>,
    /// What every target reports as durable.
    durable: Lsn,
    /// Every command so far.
    said: Vec<Command>,
}

impl Cluster {
    /// Nodes `1..=nodes`, all groups active.
    fn new(nodes: u32) -> Cluster {
        let state = State::open(Memory::default()).unwrap();
        let mut cluster = Cluster {
            control: Control::new(state.map(), tuning(), Nanos(1)),
            state,
            now: Nanos(1),
            stamp: 0,
            generations: BTreeMap::new(),
            applied: BTreeMap::new(),
            durable: Lsn(0),
            said: Vec::new(),
        };
        cluster.apply(&Command::Initialize {
            cluster: ClusterId(7),
            replicas: 3,
            min_write: 2,
            groups_per_target: 4,
            targets_expected: nodes,
            owner: Caller::default(),
        });
        (1..=nodes).for_each(|node| cluster.start(node));
        cluster.run(BEAT * 2);
        assert!(cluster.groups().iter().all(GroupRecord::healthy));
        cluster
    }

    fn apply(&mut self, command: &Command) {
        self.stamp += 1;
        let stamp = Stamp { time_ms: self.stamp, nonce: self.stamp };
        let outcome = self.state.apply(stamp, command);
        assert_eq!(outcome, Outcome::Done, "{command:?}");
        assert_eq!(self.state.violations(), Vec::<String>::new(), "after {command:?}");
    }

    fn step(&mut self, event: &Event) {
        let settings = self.state.settings().unwrap();
        let (map, ledger) = (self.state.map(), self.state.ledger());
        let commands =
            self.control.step(Seen { map, settings: &settings, ledger }, self.now, event);
        for command in commands {
            self.apply(&command);
            self.said.push(command);
        }
        self.activate();
    }

    fn activate(&mut self) {
        for group in self.groups() {
            let (id, epoch) = (group.id, group.epoch);
            if !group.active && !group.down {
                self.apply(&Command::Activated { group: id, epoch });
            }
        }
    }

    /// A process of the node starts and registers.
    fn start(&mut self, node: u32) {
        let generation = *self.generations.entry(node).and_modify(|known| *known += 1).or_insert(1);
        let report = TargetReport {
            target: TargetId(node * 100),
            shard: ShardId(0),
            device: 0,
            port: 1,
            generation: Generation(generation),
            recovered_lsn: Lsn(0),
            intact: true,
            capacity: 1,
            free: 1,
            groups: adopted(self.state.map(), TargetId(node * 100)),
        };
        self.apply(&Command::RegisterNode {
            node: NodeId(node),
            incarnation: u64::from(generation),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            targets: vec![report],
        });
        self.applied.insert(node, self.state.map().version);
        self.step(&Event::Registered { node: NodeId(node) });
    }

    fn beat(&mut self, node: u32) {
        let map_version = self.applied[&node];
        let (target, durable_lsn) = (TargetId(node * 100), self.durable);
        let health = TargetHealth { target, map_version, durable_lsn, ..TargetHealth::default() };
        let targets = vec![health];
        self.step(&Event::Heartbeat { node: NodeId(node), at: self.now, targets });
    }

    /// Lets time pass: every node in `applied` sends heartbeats and applies the newest map.
    fn run(&mut self, time: Duration) {
        self.run_with(time, true);
    }

    fn run_with(&mut self, time: Duration, maps_arrive: bool) {
        let end = self.now.after(time);
        while self.now < end {
            self.now = self.now.after(BEAT);
            for node in self.applied.keys().copied().collect::<Vec<_>>() {
                if maps_arrive {
                    self.applied.insert(node, self.state.map().version);
                }
                self.beat(node);
            }
            self.step(&Event::Tick);
        }
    }

    fn kill(&mut self, node: u32) {
        self.applied.remove(&node);
        self.step(&Event::ConnectionLost { node: NodeId(node) });
        self.step(&Event::Refused { node: NodeId(node) });
        assert!(self.control.suspects(NodeId(node)));
    }

    fn groups(&self) -> Vec<GroupRecord> {
        self.state.map().groups.values().cloned().collect()
    }

    fn mutations(&self) -> bool {
        self.groups().iter().all(|group| group.mutations)
    }
}

#[test]
fn mutations_wait_for_the_end_of_a_dead_members_lease() {
    let mut cluster = Cluster::new(3);
    cluster.kill(1);
    assert!(cluster.groups().iter().all(|group| group.active && !group.mutations));
    cluster.run(LEASE);
    assert!(!cluster.mutations(), "the clocks may differ");
    cluster.run(BEAT);
    assert!(cluster.mutations());
    assert!(cluster.groups().iter().all(|group| group.departed.is_empty()));
}

#[test]
fn mutations_wait_for_a_living_member_to_know_that_it_is_out() {
    let mut cluster = Cluster::new(3);
    let target = cluster.groups()[0].serving().nth(1).unwrap().target;
    let evict = |cluster: &mut Cluster| {
        let group = cluster.groups().remove(0);
        let reporter = group.primary().unwrap().target;
        let request = EvictRequest { group: group.id, epoch: group.epoch, target, reporter };
        cluster.step(&Event::Evict(request));
    };
    // The third time in a row it stays out for longer than several leases.
    for pause in [READMIT_MIN, READMIT_MIN * 2] {
        evict(&mut cluster);
        cluster.run(pause + BEAT);
        assert!(cluster.mutations());
    }
    assert!(READMIT_MIN * 4 > LEASE * 3);
    evict(&mut cluster);
    assert!(!cluster.mutations());
    cluster.run_with(LEASE * 3, false);
    assert!(!cluster.mutations(), "its lease is renewed and it has not heard of the change");
    cluster.run(BEAT);
    assert!(cluster.mutations());
}

#[test]
fn mutations_go_on_when_a_dead_member_is_back_in_a_newer_generation() {
    let mut cluster = Cluster::new(3);
    cluster.kill(1);
    cluster.start(1);
    cluster.run(BEAT);
    assert!(cluster.mutations());
}

#[test]
fn a_new_coordinator_process_waits_for_every_lease_anew() {
    let mut cluster = Cluster::new(3);
    cluster.kill(1);
    cluster.run(LEASE / 2);
    cluster.control = Control::new(cluster.state.map(), tuning(), cluster.now);
    cluster.run(LEASE);
    assert!(!cluster.mutations(), "the process before may have granted more than this one does");
    cluster.run(NODE_LEASE);
    assert!(cluster.mutations());
}

#[test]
fn durable_positions_are_noted_when_they_changed() {
    let mut cluster = Cluster::new(3);
    let notes = |cluster: &mut Cluster| {
        cluster.said.clear();
        cluster.run(DURABLE_NOTE_EVERY);
        let notes = cluster.said.iter().filter_map(|command| match command {
            Command::NoteDurable { targets } => Some(targets.len()),
            _ => None,
        });
        notes.collect::<Vec<_>>()
    };
    assert_eq!(notes(&mut cluster), [3]);
    assert_eq!(notes(&mut cluster), []);
    cluster.durable = Lsn(9);
    assert_eq!(notes(&mut cluster), [3]);
}

#[test]
fn a_note_of_durable_positions_is_bounded_and_the_rest_follows() {
    let mut map = ClusterMap::default();
    let mut control = Control::new(&map, tuning(), Nanos(0));
    let count = u32::try_from(DURABLE_NOTES_MAX).unwrap() + 1;
    for id in (1..=count).map(TargetId) {
        let target = TargetRecord { id, ..target() };
        map.targets.insert(id, target);
        control.reports.insert(id, (Nanos(0), TargetHealth::default()));
    }
    let mut sizes = Vec::new();
    let mut now = Nanos(0);
    for _ in 0..3 {
        now = now.after(DURABLE_NOTE_EVERY);
        if let Some(Command::NoteDurable { targets }) = control.note_durable(&map, now) {
            sizes.push(targets.len());
        }
    }
    assert_eq!(sizes, [DURABLE_NOTES_MAX, 1]);
}

fn target() -> TargetRecord {
    TargetRecord {
        id: TargetId(1),
        node: NodeId(1),
        shard: ShardId(0),
        device: 0,
        port: 1,
        generation: Generation(1),
        capacity: 1,
        state: TargetState::Up,
    }
}
