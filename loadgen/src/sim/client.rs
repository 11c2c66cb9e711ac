//! A client of the simulated cluster: the plans of the client library over simulated links.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use client::limits::WRITE_MAP_LOOK_MS;
use client::plan::{
    Attempt, Conditions, Failure, LinkFailure, Next, Outcome, ReadOp, ReadTask, Refusal, Step,
    WriteOp, WriteTask,
};
use node::io::{
    Buffer, Disk, Incoming, Link, Nanos, Net, NetError, Outgoing, Payload, PeerIdentity,
};
use protocol::checksum::cell_sums;
use protocol::cluster_map::{ClusterMap, Member, Role};
use protocol::ids::{
    ChunkKey, Epoch, GroupId, Handle, NodeId, OpId, RequestId, SessionId, TargetId,
};
use protocol::message::chunk::{ReadReply, WriteClass, WriteReply};
use protocol::message::{Context, Message, open, open_error, request_frame};
use protocol::status::Status;

use super::cluster::{CLUSTER, SimCluster};
use super::coordinator::{COORDINATOR, SimCoordinator};
use super::cut::Cuts;
use super::disk::SimDisk;
use super::errands::Errands;
use super::executor::{Executor, ProcessId};
use super::net::{SimLink, SimNet};
use super::rng::SimRng;

/// Longest an operation may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pause after asking a coordinator that does not run.
const COORDINATOR_PAUSE: Duration = Duration::from_millis(100);
/// Time between two looks at an attempt that has no answer yet.
const LOOK_EVERY: Duration = Duration::from_millis(WRITE_MAP_LOOK_MS);
/// One request in this many is sent twice.
const GHOSTS: u64 = 50;
/// Longest time between the two, in microseconds.
const GHOST_US_MAX: u64 = 3_000_000;
/// Time after which the connection of the second one ends.
const GHOST_STAYS: Duration = Duration::from_secs(1);
/// Cell and chunk size of everything the client writes, as powers of two.
const CELL_LOG2: u8 = 14;
const CHUNK_LOG2: u8 = 22;

/// A client process; operations may run at the same time.
pub struct SimClient {
    executor: Executor,
    rng: SimRng,
    net: Rc<SimNet<SimDisk>>,
    disk: Rc<SimDisk>,
    coordinator: SimCoordinator,
    cuts: Rc<Cuts>,
    session: SessionId,
    map: RefCell<Rc<ClusterMap>>,
    conditions: Rc<RefCell<Conditions>>,
    errands: Errands,
}

/// The process of the client that has a session.
pub fn process_of_client(session: SessionId) -> ProcessId {
    ProcessId(1000 + u32::try_from(session.0).unwrap_or(u32::MAX / 2))
}

impl SimClient {
    /// Connects a client to a cluster.
    pub fn new(cluster: &SimCluster, session: SessionId) -> Rc<SimClient> {
        let rng = cluster.fork_rng();
        let disk = SimDisk::new(cluster.executor(), rng.fork(), 1 << 20);
        let identity = PeerIdentity::Client(format!("client-{session}"));
        let process = process_of_client(session);
        let net = cluster.fabric().attach(process, identity, Rc::clone(&disk), None);
        let (executor, coordinator) = (cluster.executor().clone(), cluster.coordinator().clone());
        let conditions = Rc::<RefCell<Conditions>>::default();
        let errands = Errands {
            executor: executor.clone(),
            net: Rc::clone(&net),
            coordinator: coordinator.clone(),
            session,
            conditions: Rc::clone(&conditions),
        };
        let map = RefCell::default();
        Rc::new(SimClient {
            executor,
            rng,
            net,
            disk,
            coordinator,
            cuts: Rc::clone(cluster.fabric().cuts()),
            session,
            map,
            conditions,
            errands,
        })
    }

    /// Writes the bytes at the end of a chunk that has `offset` bytes; also says in which epoch the
    /// answer was given.
    pub async fn append(
        &self,
        group: GroupId,
        key: ChunkKey,
        seq: u64,
        offset: u32,
        bytes: &[u8],
    ) -> Result<(WriteReply, Epoch), Failure> {
        self.write((group, key), WriteClass::Growth, seq, offset, bytes).await
    }

    /// Writes bytes of a chunk; also says in which epoch the answer was given.
    pub async fn write(
        &self,
        (group, key): (GroupId, ChunkKey),
        class: WriteClass,
        seq: u64,
        offset: u32,
        bytes: &[u8],
    ) -> Result<(WriteReply, Epoch), Failure> {
        self.write_cut((group, key), class, seq, 0, offset, bytes).await
    }

    /// Writes bytes of a chunk of a file that may be cut, as somebody who knows of the cuts up to
    /// `trunc_gen`.
    pub async fn write_cut(
        &self,
        (group, key): (GroupId, ChunkKey),
        class: WriteClass,
        seq: u64,
        trunc_gen: u32,
        offset: u32,
        bytes: &[u8],
    ) -> Result<(WriteReply, Epoch), Failure> {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let within = (offset as usize) & ((1 << CELL_LOG2) - 1);
        let task = WriteTask {
            group,
            key,
            op: OpId { session: self.session, seq: protocol::ids::Seq(seq) },
            class,
            offset,
            len,
            expect_len: offset + len,
            trunc_gen,
            cell_log2: CELL_LOG2,
            chunk_log2: CHUNK_LOG2,
            handle: Handle(0),
            sums: piece_sums(key, offset, within, bytes),
        };
        let mut op = WriteOp::new(task, self.executor.now().after(DEADLINE), self.rng.draw());
        loop {
            let next = {
                let (map, mut conditions) = (self.map.borrow(), self.conditions.borrow_mut());
                op.next(self.executor.now(), &map, &mut conditions)
            };
            self.errands.start(op.take_errands());
            let attempt = match next {
                Next::Send(attempt) => attempt,
                Next::RefreshMap => {
                    self.refresh_map().await;
                    continue;
                }
                Next::WaitUntil(at) => {
                    self.executor.until(at).await;
                    continue;
                }
                Next::Fail(failure) => return Err(failure),
            };
            let stands = |now| {
                let stands = op.stands(now, &self.map.borrow(), &mut self.conditions.borrow_mut());
                self.errands.start(op.take_errands());
                stands
            };
            let answer = self.while_it_stands(self.ask(&attempt, bytes), stands, true).await;
            let decoded = answer.and_then(decode::<WriteReply>);
            let step = {
                let outcome = match &decoded {
                    Ok((reply, _)) => Outcome::Answered(reply),
                    Err(Miss::Refused(refusal)) => Outcome::Refused(refusal.clone()),
                    Err(Miss::Link(failure)) => Outcome::Link(*failure),
                };
                op.on_outcome(self.executor.now(), outcome, &mut self.conditions.borrow_mut())
            };
            match step {
                Step::Done(reply) => return Ok((reply, attempt.epoch)),
                Step::TryNow => {}
                Step::WaitUntil(at) => self.executor.until(at).await,
                Step::RefreshMap => self.refresh_map().await,
                Step::Fail(failure) => return Err(failure),
            }
        }
    }

    /// Reads and checks bytes of a chunk that only ever grew.
    pub async fn read(
        &self,
        group: GroupId,
        key: ChunkKey,
        offset: u32,
        len: u32,
        chunk_len: u32,
    ) -> Result<Vec<u8>, Failure> {
        self.read_as((group, key), true, offset, len, chunk_len).await
    }

    /// Reads and checks bytes of a chunk, as one that only ever grew or as any other.
    pub async fn read_as(
        &self,
        (group, key): (GroupId, ChunkKey),
        growth_only: bool,
        offset: u32,
        len: u32,
        chunk_len: u32,
    ) -> Result<Vec<u8>, Failure> {
        let task = ReadTask {
            group,
            key,
            offset,
            len,
            chunk_len,
            trunc_gen: 0,
            handle: Handle(0),
            growth_only,
            // Whoever says that the bytes exist says how new a map must be to deny it.
            stamp: self.coordinator.map().version,
        };
        self.read_task(task).await
    }

    /// Reads and checks bytes of one chunk.
    pub async fn read_task(&self, task: ReadTask) -> Result<Vec<u8>, Failure> {
        let mut op =
            ReadOp::new(task, self.executor.now().after(DEADLINE), self.session.0, self.rng.draw());
        loop {
            let next = {
                let (map, mut conditions) = (self.map.borrow(), self.conditions.borrow_mut());
                op.next(self.executor.now(), &map, &mut conditions)
            };
            self.errands.start(op.take_errands());
            let attempt = match next {
                Next::Send(attempt) => attempt,
                Next::RefreshMap => {
                    self.refresh_map().await;
                    continue;
                }
                Next::WaitUntil(at) => {
                    self.executor.until(at).await;
                    continue;
                }
                Next::Fail(failure) => return Err(failure),
            };
            let stands = |now| {
                let stands = op.stands(now, &self.map.borrow(), &mut self.conditions.borrow_mut());
                self.errands.start(op.take_errands());
                stands
            };
            let answer = self.while_it_stands(self.ask(&attempt, &[]), stands, false).await;
            let decoded = answer.and_then(decode::<ReadReply>);
            let checked = match &decoded {
                Ok((reply, payload)) => Ok((op.check(reply, payload), reply, payload)),
                Err(miss) => Err(miss),
            };
            let step = {
                let outcome = match &checked {
                    Ok((checked, _, _)) => Outcome::Answered(checked.clone()),
                    Err(Miss::Refused(refusal)) => Outcome::Refused(refusal.clone()),
                    Err(Miss::Link(failure)) => Outcome::Link(*failure),
                };
                op.on_outcome(self.executor.now(), outcome, &mut self.conditions.borrow_mut())
            };
            self.errands.start(op.take_errands());
            match (step, checked) {
                (Step::Done(done), checked) => {
                    let payload = checked.map_or(&[][..], |(_, _, payload)| payload);
                    let mut bytes = done.patched.as_deref().unwrap_or(payload)[done.range].to_vec();
                    bytes.resize(bytes.len() + done.zeros, 0);
                    return Ok(bytes);
                }
                (Step::TryNow, _) => {}
                (Step::WaitUntil(at), _) => self.executor.until(at).await,
                (Step::RefreshMap, _) => self.refresh_map().await,
                (Step::Fail(failure), _) => return Err(failure),
            }
        }
    }

    /// Asks one replica once, member of its group or not; `None` when it has no good bytes to offer.
    pub async fn read_replica(&self, task: ReadTask, target: TargetId) -> Option<Vec<u8>> {
        // A map in which the replica serves alone.
        let mut map = ClusterMap::clone(&self.map.borrow());
        let generation = map.targets.get(&target)?.generation;
        let group = map.groups.get_mut(&task.group)?;
        group.members = vec![Member { target, generation, role: Role::Primary }];
        let give_up_at = self.executor.now().after(DEADLINE);
        let mut op = ReadOp::new(task, give_up_at, self.session.0, self.rng.draw());
        let mut conditions = Conditions::default();
        let Next::Send(attempt) = op.next(self.executor.now(), &map, &mut conditions) else {
            return None;
        };
        let answer = self.ask(&attempt, &[]).await.and_then(decode::<ReadReply>);
        let (reply, payload) = answer.ok()?;
        let outcome = Outcome::Answered(op.check(&reply, &payload));
        match op.on_outcome(self.executor.now(), outcome, &mut conditions) {
            Step::Done(done) if done.zeros == 0 => Some(payload[done.range].to_vec()),
            _ => None,
        }
    }

    /// Every target that the client knows.
    pub fn targets(&self) -> Vec<TargetId> {
        self.map.borrow().targets.keys().copied().collect()
    }

    /// True while the client and a coordinator can reach each other.
    pub fn reaches_coordinator(&self) -> bool {
        let process = process_of_client(self.session);
        self.coordinator.term().is_some() && !self.cuts.parts(process, COORDINATOR)
    }

    /// The client's session with the nodes.
    pub fn session(&self) -> SessionId {
        self.session
    }

    async fn refresh_map(&self) {
        self.executor.sleep(Duration::from_micros(self.rng.between(50, 500))).await;
        match self.coordinator.term().filter(|_| self.reaches_coordinator()) {
            Some(_) => *self.map.borrow_mut() = self.coordinator.map(),
            None => self.executor.sleep(COORDINATOR_PAUSE).await,
        }
    }

    /// Waits for an answer until it comes or the plan no longer wants it; looks at the newest map
    /// too where that decides.
    async fn while_it_stands(
        &self,
        asking: impl Future<Output = Result<Incoming<SimDisk>, Miss>>,
        mut stands: impl FnMut(Nanos) -> bool,
        with_map: bool,
    ) -> Result<Incoming<SimDisk>, Miss> {
        let left = async {
            loop {
                self.executor.sleep(LOOK_EVERY).await;
                if with_map && self.coordinator.term().is_some() {
                    *self.map.borrow_mut() = self.coordinator.map();
                }
                if !stands(self.executor.now()) {
                    return Err(Miss::Link(LinkFailure::TimedOut));
                }
            }
        };
        super::first(asking, left).await
    }

    /// Sends one attempt on a connection of its own and waits for the answer.
    async fn ask<R: Message>(
        &self,
        attempt: &Attempt<R>,
        payload: &[u8],
    ) -> Result<Incoming<SimDisk>, Miss> {
        let give_up_at = attempt.give_up_at;
        let connected = async {
            let linked = self.net.connect(attempt.node, attempt.target, attempt.address).await;
            linked.map_err(|error| match error {
                NetError::Refused(_) => Miss::Link(LinkFailure::Refused),
                _ => Miss::Link(LinkFailure::Broken),
            })
        };
        let link = super::first(connected, self.late(give_up_at)).await?;
        let left = give_up_at.since(self.executor.now()).as_millis();
        let context = Context {
            epoch: attempt.epoch,
            map_version: self.map.borrow().version,
            cluster_tag: CLUSTER.tag(),
        };
        let deadline_ms = u32::try_from(left).unwrap_or(u32::MAX);
        let sealed = request_frame(RequestId(1), &attempt.request, context, deadline_ms);
        let (header, body) = sealed.map_err(|_| Miss::Link(LinkFailure::Broken))?;
        let frame = Outgoing { header, body: body.clone(), payload: self.payload(payload) };
        link.send(frame).map_err(|_| Miss::Link(LinkFailure::Broken))?;
        if self.rng.below(GHOSTS) == 0 {
            let frame = Outgoing { header, body, payload: self.payload(payload) };
            let place = (attempt.node, attempt.target, attempt.address);
            self.send_ghost(place, frame);
        }
        let answer = super::first(self.answer(&link), self.late(give_up_at)).await;
        link.close();
        answer
    }

    /// Sends a frame once more, later and on another connection, as a network that kept a copy
    /// might; nobody waits for the answer.
    fn send_ghost(
        &self,
        (node, target, address): (NodeId, TargetId, SocketAddr),
        frame: Outgoing<SimDisk>,
    ) {
        let (net, executor) = (Rc::clone(&self.net), self.executor.clone());
        let wait = Duration::from_micros(self.rng.below(GHOST_US_MAX));
        self.executor.spawn(process_of_client(self.session), async move {
            executor.sleep(wait).await;
            // Whoever does not answer any more gets no ghost.
            let Ok(link) = net.connect(node, target, address).await else { return };
            if link.send(frame).is_ok() {
                executor.sleep(GHOST_STAYS).await;
            }
            link.close();
        });
    }

    async fn answer(&self, link: &SimLink<SimDisk>) -> Result<Incoming<SimDisk>, Miss> {
        link.receive().await.map_err(|_| Miss::Link(LinkFailure::Broken))
    }

    /// Ends when an attempt's time has run out.
    async fn late<T>(&self, give_up_at: Nanos) -> Result<T, Miss> {
        self.executor.until(give_up_at).await;
        Err(Miss::Link(LinkFailure::TimedOut))
    }

    fn payload(&self, bytes: &[u8]) -> Payload<SimDisk> {
        if bytes.is_empty() {
            return Payload::empty();
        }
        let mut buffer = self.disk.allocate(bytes.len());
        buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        Payload::from_buffer(Rc::new(buffer), bytes.len())
    }
}

/// Why an attempt has no answer to offer.
enum Miss {
    Refused(Refusal),
    Link(LinkFailure),
}

fn decode<M: Message>(frame: Incoming<SimDisk>) -> Result<(M, Vec<u8>), Miss> {
    let header = frame.header;
    if header.status != Status::Ok {
        let reply = open_error(&header, &frame.body).unwrap_or_default();
        return Err(Miss::Refused(Refusal {
            status: header.status,
            text: reply.text,
            port: reply.port,
            retry_after_ms: reply.retry_after_ms,
        }));
    }
    let message = open::<M>(&header, &frame.body).map_err(|_| Miss::Link(LinkFailure::Broken))?;
    let len = header.payload_len as usize;
    let payload = frame.payload.map_or(Vec::new(), |buffer| buffer.bytes()[..len].to_vec());
    Ok((message, payload))
}

/// Sums of the pieces of cells that the bytes cover, the first of which may begin inside a cell.
fn piece_sums(
    key: ChunkKey,
    offset: u32,
    within: usize,
    bytes: &[u8],
) -> Vec<protocol::checksum::CellSum> {
    let first_cell = offset >> CELL_LOG2;
    let rest = if within == 0 { 0 } else { bytes.len().min((1 << CELL_LOG2) - within) };
    let mut sums = Vec::new();
    if rest > 0 {
        sums.push(protocol::checksum::cell_sum(key, first_cell, &bytes[..rest]));
    }
    let next_cell = first_cell + u32::from(rest > 0);
    sums.extend(cell_sums(key, next_cell, CELL_LOG2, &bytes[rest..]));
    sums
}
