//! Members of one group, their stores, a coordinator and clients, in one seeded event loop.
//!
//! The checkers live here, outside the code under test; each names the invariant it guards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use node::io::Nanos;
use node::shard::control::{ControlEvent, ShardConfig, ShardReport, Timeouts};
use node::shard::effect::{Lane, Task};
use node::shard::event::{Event, JobId};
use node::shard::state::ShardState;
use node::shard::step::step;
use protocol::ids::{
    ChunkKey, ClusterId, Epoch, Generation, MapVersion, NodeId, ShardId, TargetId, Version,
};
use protocol::message::chunk::{Pending, WriteReply};
use protocol::status::Status;

use super::clients::Client;
use super::coordinator::Coordinator;
use super::fake_store::{Bytes, FakeStore};

/// Number of a scenario's write, and the version and length it was answered with.
pub(super) type Heard = (u64, Result<(Version, u32), Status>);

/// What the run is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub targets: u32,
    pub min_write: u8,
    pub clients: u32,
    pub loss: bool,
}

pub(super) struct Proc {
    pub state: ShardState<Bytes>,
    pub generation: u32,
    pub up: bool,
    pub reports: Vec<ShardReport>,
}

pub(super) enum Happening {
    Event(TargetId, u32, Box<Event<Bytes>>),
    Stored(TargetId, u32, JobId, Box<Task<Bytes>>),
    Tick(TargetId, u32),
    Report(ShardReport),
    Dead(TargetId, u32),
    Register(TargetId, u32),
    Map(TargetId, u32),
    CoordinatorTick,
    Try(usize, u64),
    ToClient(usize, u64, u64, Result<WriteReply, Status>),
    Lease(TargetId),
    /// The coordinator gives a target up, alive or not.
    Suspect(TargetId),
    Read,
}

pub(super) struct Cluster {
    pub now: u64,
    pub procs: BTreeMap<TargetId, Proc>,
    pub stores: BTreeMap<TargetId, FakeStore>,
    pub coordinator: Coordinator,
    pub clients: Vec<Client>,
    /// Targets that hear nothing of the map.
    pub(super) deaf: BTreeSet<TargetId>,
    /// Targets whose registration does not reach the coordinator yet.
    pub(super) unregistered: BTreeSet<TargetId>,
    /// True while no report reaches the coordinator.
    pub(super) reports_lost: bool,
    /// Answers to [`Cluster::ask_write`], by its number.
    pub(super) answers: Vec<Heard>,
    /// Answers to [`Cluster::ask_read`], by its number.
    pub(super) shown: Vec<(u64, Result<Vec<u8>, Status>)>,
    /// Frames between these two are lost.
    pub cut: Vec<(TargetId, TargetId)>,
    /// Store tasks of these targets take this long, in milliseconds.
    pub slow: BTreeMap<TargetId, u64>,
    /// What reports of corrupt cells were answered with.
    pub rechecked: Vec<bool>,
    /// Requests for cells that were served or refused.
    pub fetches: u64,
    /// Whole chunks that each target was asked to install.
    pub installs: BTreeMap<(TargetId, ChunkKey), u32>,
    /// Whole chunks that were sent, and over which connection.
    pub wholes: BTreeMap<Lane, u32>,
    pub shape: Shape,
    pub digest: u64,
    pub reads: u64,
    pub frozen_seen: u64,
    pub(super) rng: u64,
    pub(super) queue: BTreeMap<(u64, u64), Happening>,
    pub(super) seq: u64,
    pub(super) links: BTreeMap<(TargetId, TargetId), u64>,
    pub(super) contents: BTreeMap<(ChunkKey, Version), Bytes>,
    pub(super) frozen: BTreeMap<(TargetId, Epoch), Vec<Pending>>,
}

pub(super) const MS: u64 = 1_000_000;
/// How long a lease lasts on the coordinator's clock, in nanoseconds.
pub(super) const LEASE_NS: u64 = 2000 * MS;
pub(super) const CLIENT: u64 = 1 << 40;
/// The client that scenarios write as.
pub(super) const SCRIPT: usize = 1 << 20;

impl Cluster {
    pub(super) fn new(seed: u64, shape: Shape) -> Cluster {
        let targets = (1..=shape.targets).map(TargetId);
        let mut cluster = Cluster {
            now: 0,
            procs: BTreeMap::new(),
            stores: targets.clone().map(|target| (target, FakeStore::default())).collect(),
            coordinator: Coordinator::new(shape.targets, shape.min_write),
            clients: (0..shape.clients).map(Client::new).collect(),
            deaf: BTreeSet::new(),
            unregistered: BTreeSet::new(),
            reports_lost: false,
            answers: Vec::new(),
            shown: Vec::new(),
            cut: Vec::new(),
            slow: BTreeMap::new(),
            installs: BTreeMap::new(),
            wholes: BTreeMap::new(),
            rechecked: Vec::new(),
            fetches: 0,
            shape,
            digest: 0,
            reads: 0,
            frozen_seen: 0,
            rng: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635,
            queue: BTreeMap::new(),
            seq: 0,
            links: BTreeMap::new(),
            contents: BTreeMap::new(),
            frozen: BTreeMap::new(),
        };
        for target in targets {
            cluster.boot(target, 1);
            cluster.later(0, Happening::Map(target, 1));
            cluster.later(0, Happening::Lease(target));
        }
        for client in 0..cluster.clients.len() {
            cluster.later(20, Happening::Try(client, 0));
        }
        cluster.later(100, Happening::CoordinatorTick);
        cluster.later(30, Happening::Read);
        cluster
    }

    /// A random number below `bound`.
    pub(super) fn dice(&mut self, bound: u64) -> u64 {
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    pub(super) fn run_ms(&mut self, ms: u64) {
        let end = self.now + ms * MS;
        while let Some((&(at, seq), _)) = self.queue.first_key_value() {
            if at > end {
                break;
            }
            let Some(happening) = self.queue.remove(&(at, seq)) else { break };
            self.now = at;
            self.happen(happening);
        }
        self.now = end;
    }

    /// Runs until the condition holds; fails when it never does.
    pub(super) fn run_until(&mut self, what: &str, mut holds: impl FnMut(&Cluster) -> bool) {
        for _ in 0..4000 {
            if holds(self) {
                return;
            }
            self.run_ms(10);
        }
        panic!("never came: {what}; record {:?}", self.coordinator.record());
    }

    /// kill -9: what the store has not finished may or may not have reached the device.
    pub(super) fn kill(&mut self, target: TargetId) {
        let Some(proc) = self.procs.get_mut(&target).filter(|proc| proc.up) else { return };
        proc.up = false;
        let generation = proc.generation;
        let waiting: Vec<(u64, u64)> = self
            .queue
            .iter()
            .filter(|(_, what)| matches!(what, Happening::Stored(of, ..) if *of == target))
            .map(|(at, _)| *at)
            .collect();
        for at in waiting {
            if let Some(Happening::Stored(_, _, _, task)) = self.queue.remove(&at)
                && self.dice(2) == 0
                && matches!(*task, Task::Write(_) | Task::Install(..) | Task::Adopt(..))
            {
                let _ = self.apply(target, &task); // Nobody is left to hear of it.
            }
        }
        if let Some(store) = self.stores.get_mut(&target) {
            store.crash();
        }
        self.links.retain(|(from, to), _| *from != target && *to != target);
        let others: Vec<TargetId> = self.procs.keys().copied().filter(|it| *it != target).collect();
        for other in others {
            self.tell(other, 1, Event::PeerLost { target, refused: false });
        }
        let delay = 100 + self.dice(200);
        self.later(delay, Happening::Dead(target, generation));
    }

    pub(super) fn restart(&mut self, target: TargetId) {
        let Some(proc) = self.procs.get(&target).filter(|proc| !proc.up) else { return };
        let generation = proc.generation + 1;
        self.boot(target, generation);
        let delay = self.dice(30);
        self.later(delay, Happening::Register(target, generation));
    }

    pub(super) fn is_healthy(&self) -> bool {
        let record = self.coordinator.record();
        record.healthy() && record.serving().count() == self.shape.targets as usize
    }

    /// Lets the cluster do as it likes until every member serves, then compares replicas.
    pub(super) fn heal(&mut self) {
        self.cut.clear();
        self.slow.clear();
        self.deaf.clear();
        for store in self.stores.values_mut() {
            (store.failing, store.corrupt, store.free) = (None, false, 0);
        }
        self.push_maps();
        self.run_ms(1500); // Who was not heard of is given up now, so that it can return.
        let targets: Vec<TargetId> = self.procs.keys().copied().collect();
        for target in targets {
            self.revive(target);
        }
        self.run_until("all members serve", Cluster::is_healthy);
        self.stop_clients();
        self.run_ms(2000);
        assert!(self.is_healthy(), "stays healthy: {:?}", self.coordinator.record());
        self.check_equal();
        for (target, proc) in &self.procs {
            let core = &proc.state.core;
            assert_eq!(core.budget.clients.bytes(), 0, "{target}: credit came back");
            assert_eq!(core.budget.clients.requests(), 0, "{target}: credit came back");
            assert_eq!(core.budget.peers.bytes(), 0, "{target}: credit came back");
            assert!(core.calls.is_empty() && core.jobs.is_empty(), "{target}: tables are empty");
            assert_eq!(core.copies, 0, "{target}: no copy is left");
            assert!(core.upkeep.fetches.is_empty(), "{target}: nothing is asked for");
        }
    }

    /// Restarts a target that is dead, or that was evicted although it is alive.
    pub(super) fn revive(&mut self, target: TargetId) {
        let is_member = self.coordinator.record().member(target).is_some();
        if self.procs[&target].up && is_member {
            return;
        }
        self.kill(target);
        self.restart(target);
    }

    /// Hands the map to one target at once.
    pub(super) fn hand_map(&mut self, target: TargetId) {
        let delta = self.coordinator.map.to_delta();
        self.tell(target, 0, Event::Control(ControlEvent::Map(delta)));
    }

    pub(super) fn boot(&mut self, target: TargetId, generation: u32) {
        let config = ShardConfig {
            node: NodeId(target.0),
            shard: ShardId(0),
            target,
            generation: Generation(generation),
            port: 7000,
            core: u16::MAX,
            cluster: ClusterId(1),
            timeouts: Timeouts { tick: Duration::from_millis(40), ..Timeouts::default() },
        };
        let known = self.stores[&target].groups.clone().into_iter().collect();
        let state = ShardState::new(config, known);
        self.procs.insert(target, Proc { state, generation, up: true, reports: Vec::new() });
        let delay = self.dice(40);
        self.later(delay, Happening::Tick(target, generation));
    }

    pub(super) fn later(&mut self, ms: u64, happening: Happening) {
        let jitter = self.dice(MS);
        self.seq += 1;
        self.queue.insert((self.now + ms * MS + jitter, self.seq), happening);
    }

    pub(super) fn tell(&mut self, target: TargetId, ms: u64, event: Event<Bytes>) {
        let generation = self.procs[&target].generation;
        self.later(ms, Happening::Event(target, generation, Box::new(event)));
    }

    pub(super) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Event(target, generation, event) => self.step(target, generation, *event),
            Happening::Stored(target, generation, job, task) => {
                let result = self.apply(target, &task);
                self.step(target, generation, Event::Stored { job, result });
            }
            Happening::Tick(target, generation) => {
                if self.is_up(target, generation) {
                    self.step(target, generation, Event::Tick { fenced: false });
                    self.later(40, Happening::Tick(target, generation));
                }
            }
            Happening::Report(report) => {
                if !self.reports_lost && self.coordinator.on_report(&report) {
                    self.push_maps();
                }
            }
            Happening::Dead(target, generation) => {
                let gone = !self.is_up(target, generation);
                if gone && !self.procs[&target].up && self.coordinator.on_dead(target) {
                    self.push_maps();
                }
            }
            Happening::Register(target, generation) if self.unregistered.contains(&target) => {
                self.later(50, Happening::Register(target, generation));
            }
            Happening::Register(target, generation) => {
                if self.is_up(target, generation) {
                    let now_ms = self.now / MS;
                    self.coordinator.on_register(now_ms, target, Generation(generation));
                    self.push_maps();
                }
            }
            Happening::Map(target, _) if self.deaf.contains(&target) => {}
            Happening::Map(target, generation) => {
                let delta = self.coordinator.map.to_delta();
                self.step(target, generation, Event::Control(ControlEvent::Map(delta)));
            }
            Happening::CoordinatorTick => {
                let applied: BTreeMap<TargetId, MapVersion> = self
                    .procs
                    .iter()
                    .map(|(target, proc)| (*target, proc.state.core.map.version))
                    .collect();
                let left = self.coordinator.end_leases(self.now, &applied);
                if self.coordinator.restart_of_all(self.now / MS) || left {
                    self.push_maps();
                }
                self.later(100, Happening::CoordinatorTick);
            }
            Happening::Try(client, attempt) => self.client_try(client, attempt),
            Happening::ToClient(client, seq, attempt, result) => {
                self.client_answer(client, seq, attempt, result);
            }
            Happening::Lease(target) => self.lease(target),
            Happening::Suspect(target) => {
                if self.deaf.contains(&target) && self.coordinator.on_dead(target) {
                    self.push_maps();
                }
            }
            Happening::Read => self.random_read(),
        }
    }

    /// Renews the lease of a target that hears the coordinator.
    pub(super) fn lease(&mut self, target: TargetId) {
        self.later(250, Happening::Lease(target));
        let proc = &self.procs[&target];
        let silent = !proc.up || self.deaf.contains(&target);
        if silent || !self.coordinator.hears(target, Generation(proc.generation)) {
            return;
        }
        self.coordinator.leases.insert(target, self.now + LEASE_NS);
        let expires = Nanos(self.now + LEASE_NS - 50 * MS);
        let delay = self.dice(20);
        self.tell(target, delay, Event::Control(ControlEvent::Lease { expires }));
    }

    /// Sends the map to everyone.
    pub(super) fn push_maps(&mut self) {
        self.check_acknowledged();
        let procs: Vec<(TargetId, u32)> =
            self.procs.iter().map(|(target, proc)| (*target, proc.generation)).collect();
        for (target, generation) in procs {
            let delay = 1 + self.dice(20);
            self.later(delay, Happening::Map(target, generation));
        }
    }

    pub(super) fn is_up(&self, target: TargetId, generation: u32) -> bool {
        let proc = &self.procs[&target];
        proc.up && proc.generation == generation
    }

    pub(super) fn step(&mut self, target: TargetId, generation: u32, event: Event<Bytes>) {
        if !self.is_up(target, generation) {
            if let Event::Asked(asked, _) = &event
                && asked.reply.conn.0 < CLIENT
            {
                let peer = TargetId(asked.reply.conn.0 as u32);
                let refused = !self.procs[&target].up;
                self.tell(peer, 1, Event::PeerLost { target, refused });
            }
            return;
        }
        let Some(proc) = self.procs.get_mut(&target) else { return };
        let mut out = Vec::new();
        step(&mut proc.state, &self.stores[&target], Nanos(self.now), event, &mut out);
        for effect in out {
            self.carry_out(target, generation, effect);
        }
        self.check_frozen(target);
    }
}
