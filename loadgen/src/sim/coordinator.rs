//! The coordinator of a simulated cluster: production state and decisions over a table
//! in memory, with commands applied at once instead of through a log.

mod files;
mod operate;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use coordinator::control::{Control, Event, Seen, Tuning};
use coordinator::kv::{Memory, Noted, Touched};
use coordinator::limits::{NODE_LEASE, RECOVERY_BYTES_PER_S};
use coordinator::membership::Witness;
use coordinator::serve::words::Words;
use coordinator::state::{Audit, Outcome, State, read};
use node::io::Nanos;
use node::membership::state::lease_end;
use node::shard::{ControlEvent, ShardReport};
use protocol::cluster_map::{ClusterMap, GroupRecord, Member, TargetState};
use protocol::ids::{Epoch, GroupId, Ino, MapVersion, NodeId, SessionId, TargetId};
use protocol::message::cluster::{TargetHealth, TargetOrders, TargetReport};
use protocol::message::command::{Caller, Command, Stamp};
use protocol::message::namespace::{DirEntry, ReadDirRequest};
use protocol::message::operate::UnreachableRequest;

use super::cluster::CLUSTER;
use super::control::SimControl;
use super::executor::{Executor, ProcessId};
use super::profile::Shape;
use super::rng::SimRng;
use super::watch::Watch;

/// The coordinator's process.
pub const COORDINATOR: ProcessId = ProcessId(0);
/// Nodes are killed often here, so frequent restarts keep nobody out.
const TUNING: Tuning =
    Tuning { lease: NODE_LEASE, recovery_bytes_per_s: RECOVERY_BYTES_PER_S, storm_restarts: 0 };
/// Commands after which the state is looked at as a whole, not only where it can have changed.
const LOOK_EVERY: u64 = 64;
/// Time between two looks at timers.
const TICK: Duration = Duration::from_millis(100);

/// One coordinator; clones share it.
#[derive(Clone)]
pub struct SimCoordinator {
    inner: Rc<RefCell<Inner>>,
    executor: Executor,
    newest: Rc<Newest>,
}

/// The newest map, for many readers, and what is known of it.
#[derive(Default)]
struct Newest {
    map: RefCell<Option<Rc<ClusterMap>>>,
    healthy: Cell<Option<(MapVersion, bool)>>,
}

struct Inner {
    state: State<Noted<Memory>>,
    touched: Touched,
    audit: Audit,
    commands: u64,
    control: Control,
    /// Newest report of each target, for the next heartbeat of its node.
    health: BTreeMap<TargetId, TargetHealth>,
    controls: BTreeMap<NodeId, Rc<SimControl>>,
    pushed: BTreeMap<NodeId, MapVersion>,
    /// Serving members that each epoch of each group had.
    epochs: BTreeMap<(GroupId, Epoch), Vec<Member>>,
    /// Groups as they were when they were looked at last, in that version of the map.
    noted: (MapVersion, BTreeMap<GroupId, GroupRecord>),
    starts: u64,
    up: bool,
    stamp_ms: u64,
    rng: SimRng,
    watch: Option<Rc<Watch>>,
    /// Who was told that a file only grew.
    words: Words,
    /// What nodes were told to do about files, and when.
    ordered: files::Ordered,
}

impl SimCoordinator {
    /// Starts an empty cluster that waits for all nodes of its shape.
    pub fn start(executor: &Executor, rng: SimRng, shape: &Shape) -> Self {
        let (table, touched) = Noted::new(Memory::default());
        let state = State::open(table);
        let state = state.unwrap_or_else(|error| panic!("an empty table is readable: {error}"));
        let inner = Inner {
            control: Control::new(state.map(), TUNING, executor.now()),
            state,
            touched,
            audit: Audit::default(),
            commands: 0,
            health: BTreeMap::new(),
            controls: BTreeMap::new(),
            pushed: BTreeMap::new(),
            epochs: BTreeMap::new(),
            noted: (MapVersion(0), BTreeMap::new()),
            starts: 1,
            up: true,
            stamp_ms: 1,
            rng,
            watch: None,
            words: Words::new(executor.now()),
            ordered: files::Ordered::default(),
        };
        let coordinator = SimCoordinator {
            inner: Rc::new(RefCell::new(inner)),
            executor: executor.clone(),
            newest: Rc::default(),
        };
        coordinator.propose(&Command::Initialize {
            cluster: CLUSTER,
            replicas: shape.replicas,
            min_write: shape.min_write,
            groups_per_target: shape.groups_per_target,
            targets_expected: shape.nodes,
            owner: Caller { uid: 0, gid: 0, admin: true },
        });
        let ticking = coordinator.clone();
        executor.spawn(COORDINATOR, async move {
            loop {
                ticking.executor.sleep(TICK).await;
                ticking.tick();
            }
        });
        coordinator
    }

    /// Applies a command and pushes the map when it changed.
    pub fn propose(&self, command: &Command) -> Outcome {
        let (outcome, changed) = {
            let inner = &mut *self.inner.borrow_mut();
            inner.stamp_ms = (inner.stamp_ms + 1).max(self.executor.now().0 / 1_000_000);
            let stamp = Stamp { time_ms: inner.stamp_ms, nonce: inner.rng.draw() };
            let outcome = inner.state.apply(stamp, command);
            if let Err(error) = inner.state.commit(false) {
                panic!("a table in memory cannot fail: {error}");
            }
            let violations = inner.violations();
            assert!(violations.is_empty(), "after {command:?}: {violations:?}");
            (outcome, inner.note_groups())
        };
        self.show_groups(command, &changed);
        self.executor.tell(|| format!("{command:?} {outcome:?}"));
        self.push();
        outcome
    }

    /// Shows every change of a group to a watch from now on.
    pub fn show(&self, watch: &Rc<Watch>) {
        self.inner.borrow_mut().watch = Some(Rc::clone(watch));
    }

    fn show_groups(&self, command: &Command, changed: &[GroupId]) {
        let inner = self.inner.borrow();
        let Some(watch) = &inner.watch else { return };
        match command {
            Command::RegisterNode { targets, .. } if targets.iter().any(|it| !it.intact) => {
                watch.hit("F18 journal or index damaged");
            }
            _ => {}
        }
        let groups = &inner.state.map().groups;
        changed.iter().filter_map(|id| groups.get(id)).for_each(|group| watch.on_group(group));
    }

    /// Looks at the whole state.
    ///
    /// # Panics
    /// When something is wrong with it.
    pub fn check(&self) {
        let violations = self.inner.borrow().state.violations();
        assert!(violations.is_empty(), "in the end: {violations:?}");
    }

    /// Ends the process: every connection breaks, and all that is not in the table is forgotten.
    pub fn stop(&self) {
        let inner = &mut *self.inner.borrow_mut();
        inner.up = false;
        if let Some(watch) = &inner.watch {
            watch.on_coordinator(false);
        }
        inner.controls.clear();
        inner.pushed.clear();
    }

    /// Forgets everybody who knows this coordinator, so that its memory can be given back.
    pub fn forget(&self) {
        let inner = &mut *self.inner.borrow_mut();
        inner.controls.clear();
        inner.watch = None;
    }

    /// Starts a process on the same table.
    pub fn start_again(&self) {
        let now = self.executor.now();
        let inner = &mut *self.inner.borrow_mut();
        inner.control = Control::new(inner.state.map(), TUNING, now);
        inner.health.clear();
        inner.words = Words::new(now);
        inner.ordered.clear();
        inner.starts += 1;
        inner.up = true;
        if let Some(watch) = &inner.watch {
            watch.on_coordinator(true);
        }
    }

    /// Which start of the coordinator is running; `None` while none is.
    pub fn term(&self) -> Option<u64> {
        let inner = self.inner.borrow();
        inner.up.then_some(inner.starts)
    }

    /// A node registers and is told everything from now on; false when it is refused.
    pub fn register(
        &self,
        node: NodeId,
        incarnation: u64,
        targets: Vec<TargetReport>,
        control: &Rc<SimControl>,
    ) -> bool {
        let reported: Vec<TargetId> = targets.iter().map(|target| target.target).collect();
        let durable = self.durable_of(node);
        if !durable.is_empty() {
            // Known to this process only; recovery must not have found less.
            self.propose(&Command::NoteDurable { targets: durable });
        }
        let address = super::cluster::node_address(node).ip();
        let outcome = self.propose(&Command::RegisterNode { node, incarnation, address, targets });
        if outcome != Outcome::Done {
            return false;
        }
        {
            let mut inner = self.inner.borrow_mut();
            for target in &reported {
                inner.health.remove(target);
            }
            inner.controls.insert(node, Rc::clone(control));
            inner.pushed.insert(node, MapVersion(0));
        }
        self.push();
        self.observe(&Event::Registered { node });
        true
    }

    /// A node gives a sign of life and gets its lease.
    pub fn heartbeat(&self, node: NodeId, sent: Nanos) {
        let now = self.executor.now();
        let targets = {
            let inner = self.inner.borrow();
            let map = inner.state.map();
            let of_node = |target| map.targets.get(target).is_some_and(|it| it.node == node);
            let reports = inner.health.iter().filter(|(target, _)| of_node(*target));
            reports.map(|(_, health)| health.clone()).collect()
        };
        self.observe(&Event::Heartbeat { node, at: now, targets });
        let control = self.inner.borrow().controls.get(&node).cloned();
        let Some(control) = control else { return };
        control.deliver(ControlEvent::Lease { expires: lease_end(sent, TUNING.lease_ms()) });
        for order in self.orders_of(node) {
            control.deliver(ControlEvent::Orders(order));
        }
    }

    /// What is wanted of a node's targets.
    fn orders_of(&self, node: NodeId) -> Vec<TargetOrders> {
        let inner = self.inner.borrow();
        let Some(settings) = inner.state.settings() else { return Vec::new() };
        let (map, ledger) = (inner.state.map(), inner.state.ledger());
        let orders = inner.control.orders(Seen { map, settings: &settings, ledger });
        let of_node = |target: &TargetId| map.targets.get(target).is_some_and(|it| it.node == node);
        orders.into_iter().filter(|(target, _)| of_node(target)).map(|(_, it)| it).collect()
    }

    /// The connection of a node broke and its port refuses: its process is gone.
    pub fn gone(&self, node: NodeId) {
        if self.term().is_none() {
            return;
        }
        self.inner.borrow_mut().controls.remove(&node);
        self.observe(&Event::ConnectionLost { node });
        self.observe(&Event::Refused { node });
    }

    /// Somebody says that he cannot reach a primary that others can.
    pub fn unreachable(&self, accusation: &UnreachableRequest, witness: Witness) {
        if self.term().is_some() {
            let UnreachableRequest { group, target } = *accusation;
            self.executor.log(|| format!("{witness:?} does not reach {target} of group {group}"));
            self.observe(&Event::Unreachable { group, target, witness });
        }
    }

    /// A report that was sent to an earlier process is lost with its connection.
    pub fn on_late_report(&self) {
        if let Some(watch) = &self.inner.borrow().watch {
            watch.hit("F19 report to a predecessor");
        }
    }

    /// A shard of a registered node reports something.
    pub fn report(&self, node: NodeId, report: ShardReport) {
        self.executor.log(|| format!("node {node} reports {report:?}"));
        if !self.inner.borrow().controls.contains_key(&node) {
            return;
        }
        match report {
            ShardReport::Evict(request) => self.observe(&Event::Evict(request)),
            ShardReport::Activated(request) => {
                self.propose(&Command::Activated { group: request.group, epoch: request.epoch });
            }
            ShardReport::SyncDone(request) => {
                self.propose(&Command::SyncDone {
                    group: request.group,
                    epoch: request.epoch,
                    target: request.target,
                });
            }
            ShardReport::DropDone(request) => {
                self.propose(&Command::DropDone { groups: request.groups });
            }
            ShardReport::Health(health) => {
                let map = self.map();
                let record = map.targets.get(&health.target);
                if health.fenced && record.is_some_and(|it| it.state != TargetState::Fenced) {
                    self.propose(&Command::FenceTarget { target: health.target });
                }
                self.on_health(health);
            }
            ShardReport::FileReports(request) => {
                self.propose(&Command::FileReports { groups: request.groups });
            }
            ShardReport::Census(_) | ShardReport::Figures(_) | ShardReport::Stopped => {}
        }
        self.observe(&Event::Tick);
    }

    /// Every name of a directory, as a reader gets them.
    pub fn names_of(&self, dir: Ino) -> Vec<DirEntry> {
        let inner = self.inner.borrow();
        let caller = Caller { uid: 0, gid: 0, admin: true };
        let request = ReadDirRequest {
            session: SessionId(0),
            dir,
            after: Vec::new(),
            limit: 1000,
            with_content: false,
        };
        let listed = match inner.state.snapshot() {
            Ok(snapshot) => read::read_dir(&snapshot, &caller, &request),
            Err(error) => panic!("a table in memory cannot fail: {error}"),
        };
        match listed {
            Ok(reply) => reply.entries,
            Err(error) => panic!("a directory can be listed: {dir}: {error:?}"),
        }
    }

    /// The newest map.
    pub fn map(&self) -> Rc<ClusterMap> {
        self.newest.of(self.inner.borrow().state.map())
    }

    /// The serving members of an epoch of a group, also of one that has ended.
    pub fn served(&self, group: GroupId, epoch: Epoch) -> Vec<Member> {
        self.inner.borrow().epochs.get(&(group, epoch)).cloned().unwrap_or_default()
    }

    /// True when every group has all its replicas and has been activated.
    pub fn healthy(&self) -> bool {
        let inner = self.inner.borrow();
        self.newest.healthy(inner.state.map())
    }

    fn tick(&self) {
        if self.term().is_none() {
            return;
        }
        self.observe(&Event::Tick);
        self.order_files();
    }

    /// Applies what an event asks for.
    fn observe(&self, event: &Event) {
        let now = self.executor.now();
        let commands = {
            let inner = &mut *self.inner.borrow_mut();
            let Some(settings) = inner.state.settings() else { return };
            let (map, ledger) = (inner.state.map(), inner.state.ledger());
            inner.control.step(Seen { map, settings: &settings, ledger }, now, event)
        };
        for command in commands {
            self.propose(&command);
        }
    }

    fn push(&self) {
        let inner = &mut *self.inner.borrow_mut();
        let version = inner.state.map().version;
        for (node, control) in &inner.controls {
            let have = inner.pushed.insert(*node, version).unwrap_or(MapVersion(0));
            if have < version {
                control.deliver(ControlEvent::Map(inner.state.delta_since(have)));
            }
        }
    }
}

impl Newest {
    /// The map, copied once for all who ask for this version.
    fn of(&self, map: &ClusterMap) -> Rc<ClusterMap> {
        let mut kept = self.map.borrow_mut();
        match &*kept {
            Some(kept) if kept.version == map.version => Rc::clone(kept),
            _ => Rc::clone(kept.insert(Rc::new(map.clone()))),
        }
    }

    /// True when every group of the map has all its replicas and has been activated.
    fn healthy(&self, map: &ClusterMap) -> bool {
        if let Some((version, healthy)) = self.healthy.get()
            && version == map.version
        {
            return healthy;
        }
        let healthy = !map.groups.is_empty() && map.groups.values().all(GroupRecord::healthy);
        self.healthy.set(Some((map.version, healthy)));
        healthy
    }
}

impl Inner {
    /// What is wrong after a command.
    fn violations(&mut self) -> Vec<String> {
        self.commands += 1;
        let found = self.audit.look(&self.state, self.touched.take());
        if !self.commands.is_multiple_of(LOOK_EVERY) {
            return found;
        }
        let all = self.state.violations();
        assert_eq!(found, all, "what can have changed is all that has changed");
        all
    }

    /// Keeps the serving members of new epochs; the groups that changed.
    fn note_groups(&mut self) -> Vec<GroupId> {
        let map = self.state.map();
        let (version, known) = &mut self.noted;
        if std::mem::replace(version, map.version) == map.version {
            return Vec::new();
        }
        let mut changed = Vec::new();
        for group in map.groups.values() {
            if known.get(&group.id) == Some(group) {
                continue;
            }
            let serving = || group.serving().copied().collect();
            self.epochs.entry((group.id, group.epoch)).or_insert_with(serving);
            known.insert(group.id, group.clone());
            changed.push(group.id);
        }
        changed
    }
}
