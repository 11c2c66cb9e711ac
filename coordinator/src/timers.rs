//! The control loop: feeds signs of life and time to the pure decisions and proposes what they ask
//! for.
//!
//! One task owns [`Control`], so it needs no lock. It runs when a node says something, when the map
//! changes, and ten times a second. Nothing expires anywhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol::cluster_map::ClusterMap;
use protocol::ids::{Fid, GroupId, MapVersion, NodeId};
use protocol::message::command::Command;
use protocol::message::heal::GroupOrders;
use protocol::status::Status;
use protocol::time::Nanos;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::clock;
use crate::control::{self, Control, Seen};
use crate::file_orders;
use crate::limits::{
    CONTROL_QUEUE_MAX, DROP_NOTICE_FILES_MAX, DROP_REPEAT_MS, DROP_SCAN_MAX, FILE_ORDERS_SCAN_MAX,
    PLAN_EVERY, PROBE_MS, PROBES_MAX, SESSION_EXPIRIES_MAX, TICK_MS,
};
use crate::serve::{Holder, NodeOrder, Shared};
use crate::state::Outcome;

/// Something the control loop must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something bears on the cluster's membership.
    Sign(control::Event),
    /// A node dropped the files it was told about.
    Dropped {
        /// The node.
        node: NodeId,
    },
}

/// The queue of what the control loop must know; whoever says something waits while it is full.
pub fn channel() -> (mpsc::Sender<Event>, mpsc::Receiver<Event>) {
    mpsc::channel(CONTROL_QUEUE_MAX)
}

/// Runs until every sender of events is gone.
pub async fn run(shared: Arc<Shared>, mut events: mpsc::Receiver<Event>) {
    let mut timers = Timers::new(shared);
    let mut changes = timers.shared.proposer.map_changes();
    let mut ticks = interval(Duration::from_millis(TICK_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut waiting = Vec::new();
    loop {
        // What waits is taken in before time is looked at: a heartbeat that was answered has
        // renewed a lease, and no lease may be taken to have ended without it.
        let woken = tokio::select! {
            biased;
            count = events.recv_many(&mut waiting, CONTROL_QUEUE_MAX) => match count {
                0 => return,
                _ => Woken::Said,
            },
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                Woken::Changed
            }
            _ = ticks.tick() => Woken::Ticked,
        };
        let now = clock::boottime();
        // No more than stands there now: who goes on talking must not keep time from being looked at.
        for _ in 0..events.len() {
            waiting.extend(events.try_recv());
        }
        for event in waiting.drain(..) {
            timers.on_event(event).await;
        }
        // However much is said, time is looked at.
        let tick = Duration::from_millis(TICK_MS);
        let woken = if now.since(timers.ticked) >= tick { Woken::Ticked } else { woken };
        // Heartbeats come often and change nothing by themselves.
        if woken != Woken::Said {
            timers.decide(now, &control::Event::Tick).await;
            timers.publish();
        }
        if woken == Woken::Ticked {
            timers.on_tick(now).await;
        }
    }
}

/// What the loop woke for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Woken {
    Said,
    Changed,
    Ticked,
}

struct Timers {
    shared: Arc<Shared>,
    control: Control,
    /// Nodes whose connection broke and that gave no sign of life since.
    lost: BTreeSet<NodeId>,
    probes: Arc<Semaphore>,
    /// When each node was last told of dead files that it has not confirmed.
    dropping: BTreeMap<NodeId, Nanos>,
    /// What each node was last told to do for single files, and when.
    ordered: BTreeMap<NodeId, (Nanos, Vec<GroupOrders>)>,
    ticks: u64,
    ticked: Nanos,
    /// Map version and time of what was published last.
    published: (MapVersion, Nanos),
    /// Where the next look at dead files continues.
    dead_from: Option<(GroupId, Fid)>,
}

impl Timers {
    fn new(shared: Arc<Shared>) -> Timers {
        let view = shared.proposer.view();
        let control = Control::new(&view.map, shared.about.tuning, clock::boottime());
        Timers {
            shared,
            control,
            lost: BTreeSet::new(),
            probes: Arc::new(Semaphore::new(PROBES_MAX)),
            dropping: BTreeMap::new(),
            ordered: BTreeMap::new(),
            ticks: 0,
            ticked: clock::boottime(),
            published: (MapVersion(0), Nanos(0)),
            dead_from: None,
        }
    }

    async fn on_event(&mut self, event: Event) {
        let sign = match event {
            Event::Sign(sign) => sign,
            Event::Dropped { node } => {
                self.dropping.remove(&node);
                self.drop_dead_files().await;
                return;
            }
        };
        match &sign {
            control::Event::Registered { node } => {
                self.lost.remove(node);
                self.dropping.remove(node);
                self.ordered.remove(node);
            }
            control::Event::Heartbeat { node, .. } => {
                self.lost.remove(node);
            }
            control::Event::ConnectionLost { node } => {
                self.lost.insert(*node);
                self.probe(*node);
            }
            // A node that is back already was refused for a reason that is gone.
            control::Event::Refused { node } if !self.lost.contains(node) => return,
            _ => {}
        }
        self.decide(clock::boottime(), &sign).await;
    }

    async fn on_tick(&mut self, now: Nanos) {
        self.ticked = now;
        self.ticks += 1;
        for node in self.lost.clone() {
            self.probe(node);
        }
        self.order_files().await;
        if self.ticks.is_multiple_of(1000 / TICK_MS) {
            self.shared.health.sample(clock::boottime());
            self.end_sessions(now).await;
            self.drop_dead_files().await;
        }
    }

    /// Proposes what an event asks for on the newest state.
    async fn decide(&mut self, now: Nanos, event: &control::Event) {
        let view = self.shared.proposer.view();
        let seen = Seen { map: &view.map, settings: &view.settings, ledger: &view.ledger };
        let commands = self.control.step(seen, now, event);
        self.propose_all(commands).await;
        self.lost.retain(|node| !self.control.suspects(*node));
    }

    /// Shows the newest orders, and twice a second what a person should know.
    fn publish(&mut self) {
        let (view, now) = (self.shared.proposer.view(), clock::boottime());
        let (version, at) = self.published;
        if version == view.map.version && now.since(at) < PLAN_EVERY {
            return;
        }
        self.published = (view.map.version, now);
        let seen = Seen { map: &view.map, settings: &view.settings, ledger: &view.ledger };
        self.shared.board.publish(self.control.outlook(seen), self.control.orders(seen));
    }

    /// Hands in all commands, so that they share a flush, and waits for their outcomes. One that is
    /// refused or finds the queue full is not repeated here: the next look makes it again.
    async fn propose_all(&self, commands: Vec<Command>) {
        let submitted: Vec<_> = commands
            .into_iter()
            .map(|command| (summary(&command), self.shared.proposer.submit(command)))
            .collect();
        for (what, answer) in submitted {
            note(&what, answer).await;
        }
    }

    /// Tries to connect to a shard of the node: a refusal proves that its process is gone.
    fn probe(&self, node: NodeId) {
        let Some(address) = shard_of(&self.shared.proposer.view().map, node) else { return };
        let Ok(permit) = Arc::clone(&self.probes).try_acquire_owned() else { return };
        let control = self.shared.control.clone();
        tokio::spawn(async move {
            let patience = Duration::from_millis(PROBE_MS);
            let connected = timeout(patience, TcpStream::connect(address)).await;
            let refused = matches!(&connected,
                Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused);
            drop(permit);
            if refused {
                // An error means that the process is stopping.
                let _ = control.send(Event::Sign(control::Event::Refused { node })).await;
            }
        });
    }

    async fn end_sessions(&self, now: Nanos) {
        let expired = self.shared.sessions.expired(now, SESSION_EXPIRIES_MAX);
        for session in &expired {
            tracing::info!(%session, "session was not renewed and ends");
        }
        let end = |session| Command::EndSession { session };
        self.propose_all(expired.into_iter().map(end).collect()).await;
    }

    /// Tells the nodes of primaries which files to cut or to measure, a bounded batch to each.
    async fn order_files(&mut self) {
        let view = self.shared.proposer.view();
        if view.counters.file_orders == 0 {
            self.ordered.clear();
            return;
        }
        let scan = self.shared.proposer.inspect(|state| state.file_orders(FILE_ORDERS_SCAN_MAX));
        let orders = match scan.await {
            Ok(Ok(orders)) => orders,
            Ok(Err(error)) => {
                tracing::error!(%error, "reading the orders about files failed");
                return;
            }
            // Busy or stopping; the next tick tries again.
            Err(_) => return,
        };
        let now = clock::boottime();
        let words = &self.shared.words;
        let free = |fid, session| words.run_out(fid, Holder { connection: 0, session }) <= now;
        let repeat = Duration::from_millis(DROP_REPEAT_MS);
        for (node, groups) in file_orders::by_node(&view.map, &orders, free) {
            let told = self.ordered.get(&node);
            let waits = told.is_some_and(|(at, told)| now.since(*at) < repeat && *told == groups);
            if !waits && self.shared.links.order(node, NodeOrder::FileOrders(groups.clone())) {
                self.ordered.insert(node, (now, groups));
            }
        }
    }

    /// Tells the nodes of primaries which files are dead, a bounded batch to each.
    async fn drop_dead_files(&mut self) {
        let view = self.shared.proposer.view();
        if view.counters.dead_files == 0 {
            return;
        }
        let from = self.dead_from;
        let dead = match self
            .shared
            .proposer
            .inspect(move |state| state.dead_files_from(from, DROP_SCAN_MAX))
            .await
        {
            Ok(Ok(dead)) => {
                self.dead_from = dead.next;
                dead.groups
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "reading the list of dead files failed");
                return;
            }
            // Busy or stopping; the next second tries again.
            Err(_) => return,
        };
        let now = clock::boottime();
        let repeat = Duration::from_millis(DROP_REPEAT_MS);
        for (node, groups) in drop_orders(&view.map, dead) {
            let waits = self.dropping.get(&node).is_some_and(|&at| now.since(at) < repeat);
            if !waits && self.shared.links.order(node, NodeOrder::DropFiles(groups)) {
                self.dropping.insert(node, now);
            }
        }
    }
}

/// What of a command a log line shows, when there is something to show.
fn summary(command: &Command) -> Option<String> {
    match command {
        Command::ChangeGroup { group, expected_epoch, members, down, .. } => {
            let members: Vec<_> =
                members.iter().map(|member| (member.target.0, member.role)).collect();
            Some(format!("group {group} after epoch {expected_epoch}: {members:?}, down {down}"))
        }
        Command::CreateGroups { count } => Some(format!("{count} placement groups made")),
        Command::SetTargetSlow { target, slow } => Some(format!("target {target} slow {slow}")),
        Command::SetRebalance { on } => Some(format!("spreading data evenly {on}")),
        Command::SetNodeState { node, up } => Some(format!("node {node} up {up}")),
        _ => None,
    }
}

async fn note(what: &Option<String>, answer: Result<oneshot::Receiver<Outcome>, Status>) {
    let outcome = match answer {
        Ok(answer) => answer.await.unwrap_or(Outcome::Refused(Status::Unknown)),
        Err(status) => Outcome::Refused(status),
    };
    match (what, outcome) {
        // Made for a map that has changed meanwhile.
        (_, Outcome::Refused(Status::Conflict | Status::SessionEnded)) => {}
        (what, Outcome::Refused(status)) => {
            tracing::warn!(?what, %status, "proposal of the control loop was refused");
        }
        (Some(what), _) => tracing::info!(change = %what, "membership changed"),
        (None, _) => {}
    }
}

/// A port of the node to probe.
fn shard_of(map: &ClusterMap, node: NodeId) -> Option<SocketAddr> {
    let target = map.targets.values().find(|target| target.node == node)?;
    map.endpoint(target.id).map(|(_, address)| address)
}

type DeadFiles = Vec<(GroupId, Vec<Fid>)>;

/// Sorts dead files by the node that can drop them now; the others wait.
fn drop_orders(map: &ClusterMap, dead: DeadFiles) -> BTreeMap<NodeId, DeadFiles> {
    let mut orders: BTreeMap<NodeId, (usize, DeadFiles)> = BTreeMap::new();
    for (id, mut files) in dead {
        let group = map.groups.get(&id).filter(|group| group.active && group.writable());
        let primary = group.and_then(|group| group.primary());
        let Some(target) = primary.and_then(|member| map.targets.get(&member.target)) else {
            continue;
        };
        let (count, groups) = orders.entry(target.node).or_default();
        files.truncate(DROP_NOTICE_FILES_MAX - *count);
        if !files.is_empty() {
            *count += files.len();
            groups.push((id, files));
        }
    }
    orders.into_iter().map(|(node, (_, groups))| (node, groups)).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use protocol::cluster_map::{
        GroupRecord, Member, NodeRecord, NodeState, Role, TargetRecord, TargetState,
    };
    use protocol::ids::{Epoch, Generation, Lsn, ShardId, TargetId};
    use protocol::message::cluster::TargetReport;
    use tempfile::TempDir;
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::Instant;

    use super::*;
    use crate::limits::SESSION_EXPIRY_MS;
    use crate::serve::fixture;

    struct Loop {
        timers: Timers,
        events: mpsc::Receiver<Event>,
        _dir: TempDir,
    }

    /// The control loop's parts over a state that knows no node.
    fn control_loop() -> Loop {
        let dir = tempfile::tempdir().unwrap();
        let (control, events) = channel();
        let (shared, _running) = fixture::shared(dir.path(), control);
        Loop { timers: Timers::new(shared), events, _dir: dir }
    }

    impl Loop {
        async fn register(&self, node: u32, port: u16) {
            let report = TargetReport {
                target: TargetId(100 + node),
                shard: ShardId(0),
                device: 0,
                port,
                generation: Generation(1),
                recovered_lsn: Lsn(0),
                intact: true,
                capacity: 1 << 30,
                free: 1 << 30,
                groups: Vec::new(),
            };
            let (address, targets) = (IpAddr::V4(Ipv4Addr::LOCALHOST), vec![report]);
            let node = NodeId(node);
            let command = Command::RegisterNode { node, incarnation: 1, address, targets };
            assert_eq!(self.timers.shared.proposer.propose(command).await, Ok(Outcome::Done));
        }

        async fn refused(&mut self) -> NodeId {
            match self.events.recv().await {
                Some(Event::Sign(control::Event::Refused { node })) => node,
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn sessions_that_nobody_renewed_end_so_many_at_a_time() {
        let Loop { timers, .. } = control_loop();
        let open = || Command::OpenSession { caller: fixture::ADMIN, client: "late".into() };
        let answers: Vec<_> = (0..SESSION_EXPIRIES_MAX + 3)
            .map(|_| timers.shared.proposer.submit(open()).unwrap())
            .collect();
        for answer in answers {
            assert!(matches!(answer.await, Ok(Outcome::Session(_))));
        }
        let late = clock::boottime().after(Duration::from_millis(SESSION_EXPIRY_MS + 1));
        let left = || timers.shared.proposer.view().counters.sessions;
        timers.end_sessions(late).await;
        assert_eq!(left(), 3);
        timers.end_sessions(late).await;
        assert_eq!(left(), 0);
    }

    #[tokio::test]
    async fn nodes_are_probed_so_many_at_a_time_and_the_next_ones_later() {
        let mut control = control_loop();
        let last = u32::try_from(PROBES_MAX).unwrap() + 1;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        for node in 1..=last {
            control.register(node, port).await;
        }
        // No probe moves on before the test waits for something.
        (1..=last).for_each(|node| control.timers.probe(NodeId(node)));
        assert_eq!(control.timers.probes.available_permits(), 0);
        let mut refused = BTreeSet::new();
        for _ in 1..last {
            refused.insert(control.refused().await);
        }
        assert_eq!(refused, (1..last).map(NodeId).collect());
        assert_eq!(control.timers.probes.available_permits(), PROBES_MAX);
        assert!(control.events.is_empty());
        control.timers.probe(NodeId(last));
        assert_eq!(control.refused().await, NodeId(last));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_nobody_answers_ends_in_time_and_proves_nothing() {
        let control = control_loop();
        // A port whose one place for connections to be accepted is taken, so the next one waits.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let silent = socket.listen(0).unwrap();
        let address = silent.local_addr().unwrap();
        let _first = TcpStream::connect(address).await.unwrap();
        control.register(1, address.port()).await;
        let begun = Instant::now();
        control.timers.probe(NodeId(1));
        assert_eq!(control.timers.probes.available_permits(), PROBES_MAX - 1);
        let all = u32::try_from(PROBES_MAX).unwrap();
        let _ended = control.timers.probes.acquire_many(all).await.unwrap();
        let took = begun.elapsed().as_millis();
        assert!((PROBE_MS.into()..2 * u128::from(PROBE_MS)).contains(&took), "{took} ms");
        assert!(control.events.is_empty());
    }

    fn map(targets: u32) -> ClusterMap {
        let mut map = ClusterMap::default();
        for id in 1..=targets {
            let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let node =
                NodeRecord { id: NodeId(id), state: NodeState::Up, address, draining: false };
            map.nodes.insert(node.id, node);
            let target = TargetRecord {
                id: TargetId(100 + id),
                node: NodeId(id),
                shard: ShardId(0),
                device: 0,
                port: 7400,
                generation: Generation(1),
                capacity: 1,
                state: TargetState::Up,
            };
            map.targets.insert(target.id, target);
        }
        map
    }

    fn group(id: u32, primary: u32, active: bool) -> GroupRecord {
        let member = |target, role| Member { target, generation: Generation(1), role };
        GroupRecord {
            id: GroupId(id),
            kind: 0,
            epoch: Epoch(1),
            last_writable_epoch: Epoch(1),
            active,
            down: false,
            replicas: 2,
            min_write: 1,
            members: vec![member(TargetId(primary), Role::Primary)],
            evicted: vec![],
            mutations: true,
            ..GroupRecord::default()
        }
    }

    #[test]
    fn dead_files_go_to_the_node_of_an_active_primary_in_bounded_batches() {
        let mut map = map(2);
        for record in [group(1, 101, true), group(2, 101, true), group(3, 102, false)] {
            map.groups.insert(record.id, record);
        }
        let files = |count: usize| (0..count as u64).map(Fid).collect::<Vec<_>>();
        let dead = vec![
            (GroupId(1), files(DROP_NOTICE_FILES_MAX - 1)),
            (GroupId(2), files(5)),
            (GroupId(3), files(5)),
            (GroupId(9), files(5)),
        ];
        let orders = drop_orders(&map, dead);
        assert_eq!(orders.keys().copied().collect::<Vec<_>>(), [NodeId(1)]);
        let sizes: Vec<_> =
            orders[&NodeId(1)].iter().map(|(group, files)| (group.0, files.len())).collect();
        assert_eq!(sizes, [(1, DROP_NOTICE_FILES_MAX - 1), (2, 1)]);
    }

    #[test]
    fn a_node_is_probed_at_a_port_of_its_own() {
        assert_eq!(shard_of(&map(2), NodeId(2)), "127.0.0.1:7400".parse().ok());
        assert_eq!(shard_of(&map(2), NodeId(3)), None);
    }
}
