//! A simulated cluster: nodes of one shard each over disks that forget what was not flushed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use node::io::PeerIdentity;

use node::shard::{self, ShardConfig, Timeouts};
use node::store::{FormatOptions, Recovered, Store, StoreError};
use protocol::ids::{ClusterId, Generation, GroupId, Lsn, NodeId, ShardId, TargetId};
use protocol::message::chunk::InventoryEntry;
use protocol::message::cluster::{GroupReport, TargetReport};

use super::control::SimControl;
use super::coordinator::{COORDINATOR, SimCoordinator};
use super::disk::SimDisk;
use super::env::{SimClock, SimEnv};
use super::executor::{Executor, ProcessId, Stop};
use super::net::Fabric;
use super::profile::Shape;
use super::rng::SimRng;
use super::watch::Watch;

/// Longest time a cluster may take to become healthy once nothing is broken any more: the time a
/// member stays out that its primary had removed, the grace of a coordinator start, and resync.
pub const HEALING: Duration = Duration::from_secs(90);
/// Pause before a container whose device failed is opened again.
const OPEN_PAUSE: Duration = Duration::from_millis(500);
/// Time between two comparisons of a group's members: often, so that a wrong verdict would show.
const COMPARE: Duration = Duration::from_secs(4);
/// The simulated cluster's identity.
pub const CLUSTER: ClusterId = ClusterId(0x001a_9ef5);

/// The stores of the nodes that run.
pub type Stores = Rc<RefCell<BTreeMap<NodeId, Rc<Store<SimDisk>>>>>;

/// All nodes and the coordinator.
pub struct SimCluster {
    executor: Executor,
    rng: SimRng,
    fabric: Rc<Fabric<SimDisk>>,
    coordinator: SimCoordinator,
    disks: BTreeMap<NodeId, Rc<SimDisk>>,
    stores: Stores,
    controls: BTreeMap<NodeId, Rc<SimControl>>,
    clocks: BTreeMap<NodeId, SimClock>,
    fate: Rc<Fate>,
    watch: Rc<Watch>,
    starts: u32,
}

/// What became of nodes whose container could not be opened.
#[derive(Default)]
pub struct Fate {
    /// True when that may happen.
    pub may_refuse: Cell<bool>,
    /// The nodes, and what the store said.
    pub refused: RefCell<BTreeMap<NodeId, String>>,
}

/// Where a simulated node listens.
pub fn node_address(node: NodeId) -> SocketAddr {
    let host = u8::try_from(node.0).unwrap_or(u8::MAX);
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)), 7000)
}

/// The target of a simulated node.
pub fn target_of(node: NodeId) -> TargetId {
    TargetId(node.0 * 100 + 1)
}

impl SimCluster {
    /// Starts a small cluster and runs it until every group is active.
    pub fn start(seed: u64, nodes: u32) -> SimCluster {
        let cluster = SimCluster::make(seed, &Shape::small(nodes));
        cluster.run_until_healthy();
        cluster
    }

    /// Starts the processes of a cluster.
    pub fn make(seed: u64, shape: &Shape) -> SimCluster {
        SimCluster::with_clocks(seed, shape, |_| None)
    }

    /// Starts the processes of a cluster; `rate_of` says how many parts per million faster than
    /// time a node's clock runs, where that is not to be drawn.
    pub fn with_clocks(
        seed: u64,
        shape: &Shape,
        rate_of: impl Fn(NodeId) -> Option<i32>,
    ) -> SimCluster {
        let rng = SimRng::new(seed);
        let executor = Executor::new(rng.fork());
        let coordinator = SimCoordinator::start(&executor, rng.fork(), shape);
        let fabric = Fabric::new(executor.clone(), rng.fork());
        let stores = Stores::default();
        let watch = Watch::new(&executor, &stores, shape.nodes);
        fabric.show(&watch);
        coordinator.show(&watch);
        let mut cluster = SimCluster {
            fabric,
            executor,
            coordinator,
            disks: BTreeMap::new(),
            stores,
            watch,
            controls: BTreeMap::new(),
            clocks: BTreeMap::new(),
            fate: Rc::default(),
            starts: 0,
            rng,
        };
        for node in (1..=shape.nodes).map(NodeId) {
            let rate = cluster.draw_rate(shape.clock_ppm_max);
            cluster.make_node(node, shape.container_len, rate_of(node).unwrap_or(rate));
        }
        cluster
    }

    fn draw_rate(&self, clock_ppm_max: u64) -> i32 {
        let ppm = i64::try_from(self.rng.below(2 * clock_ppm_max + 1)).unwrap_or(0)
            - i64::try_from(clock_ppm_max).unwrap_or(0);
        i32::try_from(ppm).unwrap_or(0)
    }

    fn make_node(&mut self, node: NodeId, container_len: u64, clock_ppm: i32) {
        let disk = SimDisk::new(&self.executor, self.rng.fork(), container_len);
        self.disks.insert(node, disk);
        let clock = SimClock::new(&self.executor, clock_ppm);
        self.clocks.insert(node, clock);
        self.start_node(node);
    }

    /// A new node, with an empty device, starts.
    pub fn add_node(&mut self, container_len: u64) -> NodeId {
        let last = self.disks.keys().next_back().map_or(0, |node| node.0);
        let node = NodeId(last + 1);
        self.watch.on_new_node();
        self.make_node(node, container_len, 0);
        node
    }

    /// The executor everything runs on.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// The coordinator.
    pub fn coordinator(&self) -> &SimCoordinator {
        &self.coordinator
    }

    /// What is seen from outside.
    pub fn watch(&self) -> &Rc<Watch> {
        &self.watch
    }

    /// The wires.
    pub fn fabric(&self) -> &Rc<Fabric<SimDisk>> {
        &self.fabric
    }

    /// An independent sequence of random numbers.
    pub fn fork_rng(&self) -> SimRng {
        self.rng.fork()
    }

    /// Starts the process of a node on its disk.
    pub fn start_node(&mut self, node: NodeId) {
        self.starts += 1;
        self.watch.on_start(node, u64::from(self.starts));
        let process = process_of(node);
        let disk = Rc::clone(&self.disks[&node]);
        let identity = PeerIdentity::Node(node);
        let net = self.fabric.attach(process, identity, Rc::clone(&disk), Some(node_address(node)));
        let clock = self.clocks[&node].clone();
        let place = (process, clock.clone());
        let env = SimEnv::new(&self.executor, place, disk, net, self.rng.fork());
        let place = (node, process);
        let cuts = self.fabric.cuts();
        let rng = self.rng.fork();
        let control = SimControl::new(&self.executor, place, clock, rng, cuts, &self.coordinator);
        self.controls.insert(node, Rc::clone(&control));
        let (stores, fate) = (Rc::clone(&self.stores), Rc::clone(&self.fate));
        let incarnation = u64::from(self.starts);
        self.executor.spawn(process, async move {
            boot(node, incarnation, env, control, (stores, fate)).await;
        });
    }

    /// What became of nodes whose container could not be opened.
    pub fn fate(&self) -> &Rc<Fate> {
        &self.fate
    }

    /// True when the coordinator refused this start of a node.
    pub fn is_refused(&self, node: NodeId) -> bool {
        self.controls.get(&node).is_some_and(|control| control.refused())
    }

    /// Puts another device in place of a dead node's.
    pub fn replace_disk(&mut self, node: NodeId, disk: Rc<SimDisk>) {
        self.disks.insert(node, disk);
    }

    /// Kills a node: its tasks stop, its connections break, its disk forgets.
    pub fn kill_node(&mut self, node: NodeId) {
        self.watch.on_kill(node);
        self.executor.kill(process_of(node));
        self.fabric.sever(process_of(node));
        self.stores.borrow_mut().remove(&node);
        let survived = self.disks[&node].crash();
        self.disks.insert(node, survived);
        if !self.fabric.cuts().parts(process_of(node), COORDINATOR) {
            self.coordinator.gone(node);
        }
    }

    /// The nodes whose process runs and has opened its store.
    pub fn running(&self) -> Vec<NodeId> {
        self.stores.borrow().keys().copied().collect()
    }

    /// The device of a node.
    pub fn disk(&self, node: NodeId) -> &Rc<SimDisk> {
        &self.disks[&node]
    }

    /// How far the journal of a node's target is durable; `None` while it does not run.
    pub fn durable(&self, node: NodeId) -> Option<Lsn> {
        self.stores.borrow().get(&node).map(|store| store.durable_lsn())
    }

    /// True when the node's target has fenced itself.
    pub fn is_fenced(&self, node: NodeId) -> bool {
        self.stores.borrow().get(&node).is_some_and(|store| store.fenced())
    }

    /// Runs until every group has all its replicas.
    ///
    /// # Panics
    /// When that takes more than 90 seconds of virtual time.
    pub fn run_until_healthy(&self) {
        let stop = self.executor.run_until(HEALING, || self.coordinator.healthy());
        let map = self.coordinator.map();
        let ill: Vec<_> = map.groups.values().filter(|group| !group.healthy()).collect();
        assert_eq!(stop, Stop::Reached, "not healthy in time: {ill:#?} {:#?}", map.targets);
    }

    /// Has everything checked and waits until nothing is damaged any more.
    ///
    /// # Panics
    /// When that takes more than 90 seconds of virtual time.
    pub fn scrub(&self) {
        let pass = self.coordinator.scrub();
        let clean = || self.coordinator.scrubbed(pass) && self.coordinator.healthy();
        let stop = self.executor.run_until(HEALING, clean);
        let health = self.coordinator.health();
        assert_eq!(stop, Stop::Reached, "all damage is found and repaired in time: {health:#?}");
    }

    /// The stores of the nodes that run, kept up to date.
    pub fn stores(&self) -> Stores {
        Rc::clone(&self.stores)
    }

    /// Groups that some target which may write holds files of although the map does not name it.
    pub fn left_over(&self) -> Vec<(NodeId, GroupId)> {
        let map = self.coordinator.map();
        let mut left = Vec::new();
        for (node, store) in self.stores.borrow().iter().filter(|(_, store)| !store.fenced()) {
            let target = target_of(*node);
            let elsewhere = map.groups.values().filter(|group| group.member(target).is_none());
            let holds = elsewhere.filter(|group| !store.files(group.id, 1).is_empty());
            left.extend(holds.map(|group| (*node, group.id)));
        }
        left
    }

    /// What each live node holds of a group.
    pub fn inventories(&self, group: GroupId) -> BTreeMap<NodeId, Vec<InventoryEntry>> {
        let stores = self.stores.borrow();
        let list = |store: &Store<SimDisk>| store.inventory(group, None, usize::MAX).0;
        stores.iter().map(|(node, store)| (*node, list(store))).collect()
    }
}

impl Drop for SimCluster {
    /// The coordinator and the nodes' control cores hold each other, and a store holds the wires
    /// that are watched by who knows all stores: with them goes every device.
    fn drop(&mut self) {
        self.executor.finish();
        self.coordinator.forget();
        let stores = self.stores.take();
        drop(stores);
    }
}

/// The process of a node.
pub fn process_of(node: NodeId) -> ProcessId {
    ProcessId(node.0)
}

async fn boot(
    node: NodeId,
    incarnation: u64,
    env: SimEnv<SimDisk>,
    control: Rc<SimControl>,
    (stores, fate): (Stores, Rc<Fate>),
) {
    use node::io::{Clock, Env};
    let target = target_of(node);
    let first_generation = Generation(1);
    let options = FormatOptions { cluster: CLUSTER, node, target, first_generation };
    if incarnation_is_first(&env).await {
        let formatted = Store::format(env.disk().as_ref(), &options).await;
        assert_eq!(formatted, Ok(()), "node {node} formats its disk");
    }
    let (store, recovered) = loop {
        match Store::open(Rc::clone(env.disk()), &options).await {
            Ok(opened) => break opened,
            // A device that fails once is tried again, as an operator would.
            Err(StoreError::Disk(_)) => env.clock().sleep(OPEN_PAUSE).await,
            Err(error) if fate.may_refuse.get() => {
                fate.refused.borrow_mut().insert(node, error.to_string());
                return;
            }
            Err(error) => panic!("every container can be opened: node {node}: {error}"),
        }
    };
    stores.borrow_mut().insert(node, Rc::clone(&store));
    let config = ShardConfig {
        node,
        shard: ShardId(0),
        target,
        generation: recovered.generation,
        port: node_address(node).port(),
        core: u16::MAX,
        cluster: CLUSTER,
        timeouts: Timeouts { compare: COMPARE, ..Timeouts::default() },
    };
    let targets = vec![report(&config, &store, &recovered)];
    env.spawn(Rc::clone(&control).converse(incarnation, targets));
    shard::run(env, config, store, control).await;
}

/// True when the disk was never formatted: its first superblock is all zeros.
async fn incarnation_is_first(env: &SimEnv<SimDisk>) -> bool {
    use node::io::{Clock, Disk, Env};
    loop {
        match env.disk().read(0, protocol::limits::IO_ALIGN).await {
            Ok(bytes) => return bytes.iter().all(|&byte| byte == 0),
            Err(_) => env.clock().sleep(OPEN_PAUSE).await,
        }
    }
}

fn report(config: &ShardConfig, store: &Store<SimDisk>, recovered: &Recovered) -> TargetReport {
    let group = |(group, info): (GroupId, node::store::GroupInfo)| GroupReport {
        group,
        epoch: info.epoch,
        committed_through: info.committed_through,
    };
    TargetReport {
        target: config.target,
        shard: config.shard,
        device: 0,
        port: config.port,
        generation: recovered.generation,
        recovered_lsn: recovered.lsn,
        intact: recovered.intact,
        capacity: store.capacity(),
        free: store.free(),
        groups: store.groups().into_iter().map(group).collect(),
    }
}
