//! Members of one group, their stores, a coordinator and clients, in one seeded event loop.
//!
//! The checkers live here, outside the code under test; each names the invariant it guards.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use node::io::Nanos;
use node::shard::control::{ControlEvent, ShardConfig, ShardReport, Timeouts};
use node::shard::effect::{Effect, PeerMessage, Refusal, ReplyBody, Task, Whole};
use node::shard::event::{Answer, Asked, ConnId, Event, JobId, ReplyTo, Request};
use node::shard::state::ShardState;
use node::shard::step::step;
use node::store::StoreError;
use protocol::cluster_map::Role;
use protocol::ids::{
    ChunkKey, ClusterId, Epoch, Fid, Generation, Handle, NodeId, OpId, RequestId, Seq, SessionId,
    ShardId, TargetId, Version,
};
use protocol::message::Kind;
use protocol::message::chunk::{
    Pending, ReadRequest, ReplicateMode, ReplicateRequest, WriteClass, WriteReply, WriteRequest,
};
use protocol::status::Status;

use super::coordinator::{Coordinator, GROUP};
use super::fake_store::{Bytes, FakeStore};

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

pub(super) struct Client {
    pub key: ChunkKey,
    pub acked: Vec<u8>,
    pub acks: u64,
    pub seq: u64,
    attempt: u64,
    settled_at: u64,
    pub active: bool,
    pub last: Option<Status>,
}

enum Happening {
    Event(TargetId, u32, Box<Event<Bytes>>),
    Stored(TargetId, u32, JobId, Box<Task<Bytes>>),
    Tick(TargetId, u32),
    Report(ShardReport),
    Dead(TargetId, u32),
    Register(TargetId, u32),
    Map(TargetId, u32),
    CoordinatorTick,
    Try(usize, u64),
    ToClient(usize, u64, Result<WriteReply, Status>),
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
    /// True while no report reaches the coordinator.
    pub(super) reports_lost: bool,
    /// Answers to [`Cluster::ask_write`], by its number.
    pub(super) answers: Vec<(u64, Result<(Version, u32), Status>)>,
    /// Frames between these two are lost.
    pub cut: Vec<(TargetId, TargetId)>,
    /// Store tasks of these targets take this long, in milliseconds.
    pub slow: BTreeMap<TargetId, u64>,
    pub shape: Shape,
    pub digest: u64,
    pub reads: u64,
    pub frozen_seen: u64,
    rng: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    seq: u64,
    links: BTreeMap<(TargetId, TargetId), u64>,
    contents: BTreeMap<(ChunkKey, Version), Bytes>,
    frozen: BTreeMap<(TargetId, Epoch), Vec<Pending>>,
}

const MS: u64 = 1_000_000;
const CLIENT: u64 = 1 << 40;
/// The client that scenarios write as.
const SCRIPT: usize = 1 << 20;

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
            reports_lost: false,
            answers: Vec::new(),
            cut: Vec::new(),
            slow: BTreeMap::new(),
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

    pub(super) fn stop_clients(&mut self) {
        self.clients.iter_mut().for_each(|client| client.active = false);
    }

    /// Lets active clients write again.
    pub(super) fn wake_clients(&mut self) {
        for index in 0..self.clients.len() {
            let attempt = self.clients[index].attempt;
            self.later(1, Happening::Try(index, attempt));
        }
    }

    pub(super) fn acks(&self) -> u64 {
        self.clients.iter().map(|client| client.acks).sum()
    }

    /// Every replica holds the same versions and bytes; nothing acknowledged is missing.
    pub(super) fn check_equal(&self) {
        let mut contents = self.stores.values().map(|store| {
            let newest = store.chunks.iter().filter_map(|(key, held)| Some((key, held.last()?)));
            let facts = newest.map(|(key, held)| (*key, held.version, Rc::clone(&held.bytes)));
            facts.collect::<Vec<_>>()
        });
        let first = contents.next().unwrap_or_default();
        for other in contents {
            assert_eq!(first, other, "replicas are equal");
        }
        for client in &self.clients {
            for (target, store) in &self.stores {
                client.check(store.newest(GROUP, client.key).map(|held| &held.bytes), *target);
            }
        }
    }

    /// Every member the record names as serving holds what was acknowledged.
    pub(super) fn check_acknowledged(&self) {
        let record = self.coordinator.record();
        for member in record.serving() {
            for client in &self.clients {
                let store = &self.stores[&member.target];
                client
                    .check(store.newest(GROUP, client.key).map(|held| &held.bytes), member.target);
            }
        }
    }

    /// Lets the cluster do as it likes until every member serves, then compares replicas.
    pub(super) fn heal(&mut self) {
        self.cut.clear();
        self.slow.clear();
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

    /// Writes once, as a scenario's own client; `number` names the answer.
    ///
    /// Operations of one session have its `seq` ascending; the session is the chunk's file unless
    /// the offset says that another session goes on.
    #[expect(clippy::too_many_arguments, reason = "a scenario says each of them")]
    pub(super) fn ask_write(
        &mut self,
        target: TargetId,
        epoch: Epoch,
        key: ChunkKey,
        number: u64,
        seq: u64,
        offset: u32,
        bytes: &[u8],
    ) {
        let session = 1000 + u64::from(offset);
        let op = OpId { session: SessionId(session), seq: Seq(seq) };
        let request = write_request(key, op, offset, bytes.len() as u32);
        self.ask(target, epoch, number, request, bytes);
    }

    /// Writes once, with the request as the scenario made it.
    pub(super) fn ask(
        &mut self,
        target: TargetId,
        epoch: Epoch,
        number: u64,
        request: WriteRequest,
        bytes: &[u8],
    ) {
        let conn = ConnId(CLIENT + SCRIPT as u64);
        let reply = ReplyTo { conn, request: RequestId(number), kind: Kind::Write };
        let asked = Asked { reply, epoch, deadline: None, node: None };
        let payload = Rc::new(bytes.to_vec());
        self.tell(target, 0, Event::Asked(asked, Request::Write(request, payload, true)));
    }

    /// Hands the map to one target at once.
    pub(super) fn hand_map(&mut self, target: TargetId) {
        let delta = self.coordinator.map.to_delta();
        self.tell(target, 0, Event::Control(ControlEvent::Map(delta)));
    }

    /// Sends a member a request that names the primary, from whatever node.
    pub(super) fn forge(
        &mut self,
        from: TargetId,
        to: TargetId,
        epoch: Epoch,
        message: PeerMessage,
        payload: Option<Bytes>,
    ) {
        let event = self.request_event(from, RequestId(1 << 50), epoch, message, payload);
        self.tell(to, 0, event);
    }

    fn boot(&mut self, target: TargetId, generation: u32) {
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

    fn later(&mut self, ms: u64, happening: Happening) {
        let jitter = self.dice(MS);
        self.seq += 1;
        self.queue.insert((self.now + ms * MS + jitter, self.seq), happening);
    }

    pub(super) fn tell(&mut self, target: TargetId, ms: u64, event: Event<Bytes>) {
        let generation = self.procs[&target].generation;
        self.later(ms, Happening::Event(target, generation, Box::new(event)));
    }

    /// Sends over a connection: in order, unless it breaks; sometimes a request arrives twice.
    fn transmit(&mut self, from: TargetId, to: TargetId, event: Event<Bytes>) {
        let is_cut = self.cut.contains(&(from, to)) || self.cut.contains(&(to, from));
        if is_cut {
            return;
        }
        if self.shape.loss && self.dice(400) == 0 {
            self.tell(from, 1, Event::PeerLost { target: to, refused: false });
            self.tell(to, 1, Event::PeerLost { target: from, refused: false });
            self.tell(from, 5, Event::PeerUp { target: to });
            self.tell(to, 5, Event::PeerUp { target: from });
            return;
        }
        if self.shape.loss && self.dice(60) == 0 && matches!(event, Event::Asked(..)) {
            let delay = self.dice(500);
            self.tell(to, delay, event.clone());
        }
        let delay = self.dice(3 * MS);
        let at = self.links.entry((from, to)).or_default();
        *at = (*at + 1).max(self.now + delay);
        let (at, generation) = (*at, self.procs[&to].generation);
        self.seq += 1;
        let happening = Happening::Event(to, generation, Box::new(event));
        self.queue.insert((at, self.seq), happening);
    }

    fn happen(&mut self, happening: Happening) {
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
                if self.coordinator.restart_of_all(self.now / MS) {
                    self.push_maps();
                }
                self.later(100, Happening::CoordinatorTick);
            }
            Happening::Try(client, attempt) => self.client_try(client, attempt),
            Happening::ToClient(client, attempt, result) => {
                self.client_answer(client, attempt, result);
            }
            Happening::Read => self.random_read(),
        }
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

    fn is_up(&self, target: TargetId, generation: u32) -> bool {
        let proc = &self.procs[&target];
        proc.up && proc.generation == generation
    }

    fn step(&mut self, target: TargetId, generation: u32, event: Event<Bytes>) {
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

    fn carry_out(&mut self, target: TargetId, generation: u32, effect: Effect<Bytes>) {
        let kind = std::mem::discriminant(&effect);
        let tag = format!("{kind:?}")
            .bytes()
            .fold(self.now, |sum, byte| sum.rotate_left(5) ^ u64::from(byte));
        self.digest = self.digest.rotate_left(7) ^ tag ^ u64::from(target.0);
        match effect {
            Effect::Store { job, task } => {
                let delay = self.slow.get(&target).copied().unwrap_or(1) + self.dice(8);
                self.later(delay, Happening::Stored(target, generation, job, Box::new(task)));
            }
            Effect::CommitThrough { group, through } => {
                if let Some(store) = self.stores.get_mut(&target) {
                    store.commit_through(group, through);
                }
            }
            Effect::Send { target: to, request, epoch, message, payload } => {
                let event = self.request_event(target, request, epoch, message, payload);
                self.transmit(target, to, event);
            }
            Effect::SendWhole { target: to, request, epoch, whole } => {
                self.send_whole(target, to, request, epoch, &whole);
            }
            Effect::ServeRead { read, .. } => {
                let held = self.stores[&target].read(GROUP, read.key, read.newest).cloned();
                let end = (read.offset + read.len) as usize;
                assert!(held.is_some_and(|held| held.bytes.len() >= end), "a read is covered");
                self.check_read(read.key, end);
                self.tell(target, 1, Event::Served { bytes: read.len });
            }
            Effect::ServeVerify { .. } | Effect::Finish => {}
            Effect::Reply { to, epoch, answer } => self.deliver_reply(target, to, epoch, answer),
            Effect::Working { conn, epoch, notice } => {
                let event = Event::Working { target, epoch, notice };
                self.transmit(target, TargetId(conn.0 as u32), event);
            }
            Effect::Report(report) => {
                if let Some(proc) = self.procs.get_mut(&target) {
                    proc.reports.push(report.clone());
                }
                let delay = 1 + self.dice(10);
                self.later(delay, Happening::Report(report));
            }
        }
    }

    fn request_event(
        &self,
        from: TargetId,
        request: RequestId,
        epoch: Epoch,
        message: PeerMessage,
        payload: Option<Bytes>,
    ) -> Event<Bytes> {
        let node = NodeId(from.0);
        let (kind, request_body) = match message {
            PeerMessage::Committed(notice) => return Event::Committed { node, epoch, notice },
            PeerMessage::Replicate(body) => {
                (Kind::Replicate, Request::Replicate(*body, payload.unwrap_or_default(), true))
            }
            PeerMessage::Adopt(body) => (Kind::Adopt, Request::Adopt(body)),
            PeerMessage::Discard(body) => (Kind::Discard, Request::Discard(body)),
            PeerMessage::Inventory(body) => (Kind::Inventory, Request::Inventory(body)),
            PeerMessage::Quarantine(body) => (Kind::Quarantine, Request::Quarantine(body)),
            PeerMessage::Drop(body) => (Kind::Drop, Request::Drop(body)),
        };
        let reply = ReplyTo { conn: ConnId(u64::from(from.0)), request, kind };
        Event::Asked(Asked { reply, epoch, deadline: None, node: Some(node) }, request_body)
    }

    fn send_whole(
        &mut self,
        from: TargetId,
        to: TargetId,
        request: RequestId,
        epoch: Epoch,
        whole: &Whole,
    ) {
        let Some(held) = self.stores[&from].newest(whole.group, whole.key).cloned() else {
            self.tell(from, 1, Event::WholeFailed { request, error: StoreError::NotFound });
            return;
        };
        let len = held.bytes.len() as u32;
        let body = ReplicateRequest {
            group: whole.group,
            primary: whole.primary,
            key: whole.key,
            mode: ReplicateMode::Whole,
            version: held.version,
            base: Version::ZERO,
            op: OpId::default(),
            class: WriteClass::Growth,
            offset: 0,
            len,
            chunk_len: len,
            expect_len: len,
            trunc_gen: 0,
            cell_log2: 14,
            chunk_log2: 22,
            sums: vec![Default::default()],
            aux: Vec::new(),
            ops: held.ops.iter().map(|(op, ..)| *op).collect(),
            mutated: false,
            committed_through: whole.committed_through,
        };
        let message = PeerMessage::Replicate(Box::new(body));
        let event = self.request_event(from, request, epoch, message, Some(held.bytes));
        self.transmit(from, to, event);
    }

    fn deliver_reply(
        &mut self,
        from: TargetId,
        to: ReplyTo,
        epoch: Epoch,
        answer: Result<ReplyBody, Refusal>,
    ) {
        if to.conn.0 >= CLIENT {
            let client = (to.conn.0 - CLIENT) as usize;
            if to.kind == Kind::Read {
                return;
            }
            if client == SCRIPT {
                let answer = match answer {
                    Ok(ReplyBody::Write(reply)) => Ok((reply.version, reply.chunk_len)),
                    Ok(other) => panic!("a write was answered with {other:?}"),
                    Err(refusal) => Err(refusal.status),
                };
                self.answers.push((to.request.0, answer));
                return;
            }
            let result = match answer {
                Ok(ReplyBody::Write(reply)) => {
                    self.check_durable(from, client, &reply);
                    Ok(reply)
                }
                Ok(other) => panic!("a write was answered with {other:?}"),
                Err(refusal) => Err(refusal.status),
            };
            let delay = self.dice(5);
            if !self.shape.loss || self.dice(12) > 0 {
                self.later(delay, Happening::ToClient(client, to.request.0, result));
            }
            return;
        }
        if matches!(answer, Ok(ReplyBody::Replicate(_))) {
            let adopted = self.stores[&from].adopted(GROUP);
            assert!(epoch >= adopted, "I3: {from} prepared for {epoch} after adopting {adopted}");
        }
        let answer = match answer {
            Ok(ReplyBody::Replicate(reply)) => Answer::Replicate(reply),
            Ok(ReplyBody::Adopt(reply)) => Answer::Adopt(reply),
            Ok(ReplyBody::Inventory(reply)) => Answer::Inventory(reply),
            Ok(_) => Answer::Done,
            Err(refusal) => Answer::Refused(refusal.status),
        };
        let peer = TargetId(to.conn.0 as u32);
        self.transmit(from, peer, Event::Answered { target: from, request: to.request, answer });
    }

    /// I2: a version names one content. Every durable version passes here.
    fn apply(
        &mut self,
        target: TargetId,
        task: &Task<Bytes>,
    ) -> Result<Option<node::store::Durable>, StoreError> {
        let store = self.stores.get_mut(&target).ok_or(StoreError::Fenced)?;
        let result = store.apply(task);
        if let (Ok(_), Task::Write(write) | Task::Install(write, _)) = (&result, task) {
            let held = store.newest(GROUP, write.key).map(|held| Rc::clone(&held.bytes));
            let bytes = held.unwrap_or_default();
            let known = self
                .contents
                .entry((write.key, write.version))
                .or_insert_with(|| Rc::clone(&bytes));
            assert_eq!(*known, bytes, "I2: {} names one content", write.version);
        }
        result
    }

    /// I1: acknowledged means durable on every serving member of the epoch.
    fn check_durable(&self, primary: TargetId, client: usize, reply: &WriteReply) {
        let member = &self.procs[&primary].state.groups[&GROUP];
        let key = self.clients[client].key;
        for entry in member.record.serving() {
            let len = self.stores[&entry.target].len(GROUP, key);
            assert!(
                len >= reply.chunk_len as usize,
                "I1: {} acknowledged but {} has {len} bytes",
                reply.version,
                entry.target
            );
        }
    }

    /// What was read once is on every serving member, so it cannot disappear.
    fn check_read(&mut self, key: ChunkKey, end: usize) {
        self.reads += 1;
        for member in self.coordinator.record().serving() {
            let len = self.stores[&member.target].len(GROUP, key);
            assert!(len >= end, "a read showed {end} bytes, {} has {len}", member.target);
        }
    }

    /// I9: in an epoch that is not writable, pendings of serving members stay as they are.
    fn check_frozen(&mut self, target: TargetId) {
        let Some(member) = self.procs[&target].state.groups.get(&GROUP) else { return };
        let record = &member.record;
        let serves = matches!(member.role, Some(Role::Primary | Role::Backup));
        let adopted = self.stores[&target].adopted(GROUP);
        if !serves || record.writable() || adopted != record.epoch || member.storing > 0 {
            return;
        }
        use node::group::ChunkIndex;
        let epoch = record.epoch;
        let pendings = self.stores[&target].pendings(GROUP);
        self.frozen_seen += u64::from(!pendings.is_empty());
        let first = self.frozen.entry((target, epoch)).or_insert_with(|| pendings.clone());
        if member.is_primary() {
            assert_eq!(*first, pendings, "I9: pendings of {target} are frozen in epoch {epoch}");
            return;
        }
        // A backup may learn of an older commit, but it drops nothing and gets nothing new.
        assert!(pendings.iter().all(|pending| first.contains(pending)), "I9: nothing new");
        for pending in first {
            let newest = self.stores[&target].newest(GROUP, pending.key).map(|held| held.version);
            assert_eq!(newest, Some(pending.version), "I9: {target} dropped a frozen pending");
        }
    }

    fn client_try(&mut self, index: usize, attempt: u64) {
        let client = &mut self.clients[index];
        if !client.active || client.attempt != attempt {
            return;
        }
        client.attempt += 1;
        let attempt = client.attempt;
        let (key, offset, seq) = (client.key, client.acked.len() as u32, client.seq);
        let payload = client.payload();
        let record = self.coordinator.record();
        let (epoch, primary) = (record.epoch, record.primary().map(|primary| primary.target));
        self.later(400, Happening::Try(index, attempt));
        let Some(primary) = primary else { return };
        let op = OpId { session: SessionId(index as u64 + 1), seq: Seq(seq) };
        let mut request = write_request(key, op, offset, payload.len() as u32);
        request.attempt = u8::try_from(attempt).unwrap_or(u8::MAX);
        let conn = ConnId(CLIENT + index as u64);
        let reply = ReplyTo { conn, request: RequestId(attempt), kind: Kind::Write };
        let asked = Asked { reply, epoch, deadline: None, node: None };
        let event = Event::Asked(asked, Request::Write(request, Rc::new(payload), true));
        let delay = self.dice(5);
        self.tell(primary, delay, event);
    }

    fn client_answer(&mut self, index: usize, attempt: u64, result: Result<WriteReply, Status>) {
        let client = &mut self.clients[index];
        client.last = result.as_ref().err().copied();
        match result {
            Ok(reply) => {
                let end = client.acked.len() + client.payload().len();
                if attempt <= client.settled() {
                    return;
                }
                assert_eq!(reply.chunk_len as usize, end, "the operation took effect once");
                client.acked.extend(client.payload());
                client.acks += 1;
                client.seq += 1;
                client.settle();
                let attempt = client.attempt;
                let delay = self.dice(30);
                self.later(delay, Happening::Try(index, attempt));
            }
            Err(status) => {
                let fatal = matches!(status, Status::Invalid | Status::ChunkShort);
                assert!(
                    !fatal || attempt <= client.settled(),
                    "op {} of chunk {} ({} acknowledged): {status:?}",
                    client.seq,
                    client.key,
                    client.acked.len()
                );
                if attempt == client.attempt {
                    let delay = 10 + self.dice(60);
                    self.later(delay, Happening::Try(index, attempt));
                }
            }
        }
    }

    fn random_read(&mut self) {
        self.later(30, Happening::Read);
        let targets = self.shape.targets;
        let target = TargetId(1 + self.dice(u64::from(targets)) as u32);
        let index = self.dice(self.clients.len() as u64) as usize;
        let Some(client) = self.clients.get(index).filter(|client| client.active) else { return };
        let len = (client.acked.len() + 1) as u64;
        let request = ReadRequest {
            group: GROUP,
            key: client.key,
            offset: 0,
            len: 1 + self.dice(len) as u32,
            expect_len: 0,
            trunc_gen: 0,
            handle: Handle(0),
            growth_only: true,
            verify: false,
        };
        let conn = ConnId(CLIENT + index as u64);
        let reply = ReplyTo { conn, request: RequestId(0), kind: Kind::Read };
        let asked = Asked { reply, epoch: Epoch(0), deadline: None, node: None };
        self.tell(target, 0, Event::Asked(asked, Request::Read(request)));
    }
}

impl Client {
    fn new(index: u32) -> Client {
        let key = ChunkKey { fid: Fid(u64::from(index) + 10), index: 0 };
        Client {
            key,
            acked: Vec::new(),
            acks: 0,
            seq: 1,
            attempt: 0,
            settled_at: 0,
            active: true,
            last: None,
        }
    }

    /// Bytes of the current operation: they differ for each operation.
    fn payload(&self) -> Vec<u8> {
        let name = self.seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.key.fid.0;
        name.to_le_bytes()[..1 + (self.seq % 8) as usize].to_vec()
    }

    /// Attempts up to here belong to operations that are done.
    fn settled(&self) -> u64 {
        self.settled_at
    }

    fn settle(&mut self) {
        self.settled_at = self.attempt;
    }

    /// A replica holds everything acknowledged and at most the operation under way beyond it.
    fn check(&self, bytes: Option<&Bytes>, target: TargetId) {
        let bytes = bytes.map_or(&[][..], |bytes| bytes.as_slice());
        let mut longer = self.acked.clone();
        longer.extend(self.payload());
        assert!(
            bytes == self.acked || bytes == longer,
            "{target} chunk {}: {} bytes, {} acknowledged",
            self.key,
            bytes.len(),
            self.acked.len()
        );
    }
}

/// A growth of one cell's length.
pub(super) fn write_request(key: ChunkKey, op: OpId, offset: u32, len: u32) -> WriteRequest {
    let (_, cells) = protocol::layout::cells_touched(14, offset, len);
    WriteRequest {
        group: GROUP,
        key,
        op,
        attempt: 0,
        class: WriteClass::Growth,
        offset,
        len,
        expect_len: offset + len,
        trunc_gen: 0,
        cell_log2: 14,
        chunk_log2: 22,
        handle: Handle(0),
        sums: vec![Default::default(); cells as usize],
        aux: Vec::new(),
    }
}
