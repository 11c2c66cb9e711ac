//! The real transition of a shard, remembered: equal shard, store and event, equal orders.
//!
//! Time stands still, so a wait is over at once or never: what a timer would do happens when the
//! search says so. Replies are resolved here, bodies of whole chunks too.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use node::io::Nanos;
use node::shard::control::{ControlEvent, ShardConfig, ShardReport, Timeouts};
use node::shard::effect::{Effect, PeerMessage, ReplyBody, Whole};
use node::shard::event::{Answer, Asked, ConnId, Event, JobId, ReplyTo, Request};
use node::shard::heal::{FetchTask, HealEvent, HealOrder};
use node::shard::state::ShardState;
use node::shard::step::step;
use node::store::{Durable, StoreError};
use protocol::ids::{
    ClusterId, Epoch, Generation, Handle, NodeId, OpId, RequestId, Seq, SessionId, ShardId,
    TargetId, Version,
};
use protocol::message::Kind;
use protocol::message::chunk::{
    ReadRequest, ReplicateMode, ReplicateRequest, WriteClass, WriteReply, WriteRequest,
};
use protocol::message::heal::FetchReply;
use protocol::status::Status;

use super::coordinator::place;
use super::store::{Bytes, GROUP, KEY, Store};
use super::world::{Part, Parts, Shown};

/// The one moment of a search.
const NOW: Nanos = Nanos(1 << 60);
/// Connections of clients have numbers from here on.
const CLIENT: u64 = 1 << 40;
/// Connections of one target have numbers below this, times its place.
const CONNECTIONS: u64 = 1 << 8;

/// A request of a target, as it lies on a connection.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    epoch: Epoch,
    request: RequestId,
    message: PeerMessage,
    payload: Option<Bytes>,
}

/// An event, small enough to be compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Happening {
    /// A request of another target, on its connection of this number.
    Request { from: u8, connection: u8, sent: Part },
    /// An answer of another target.
    Answer { from: u8, answer: Part },
    /// A connection broke.
    Lost { from: u8, refused: bool },
    /// A connection was made.
    Up { from: u8 },
    /// A task of the store ended.
    Stored { job: u64, result: Result<Option<(u64, u32)>, Status> },
    /// The coordinator's map arrived.
    Map { office: Part },
    /// Timers are looked at.
    Tick,
    /// A client asks for an operation.
    Write { operation: u8, offset: u8, epoch: Epoch, again: bool },
    /// Somebody reads so many bytes of what only grew.
    Read { len: u8 },
}

/// What a shard orders, as far as the search carries it out.
#[derive(Clone, Debug)]
pub(super) enum Order {
    Task { job: u64, task: Part },
    CommitThrough(Version),
    Send { to: TargetId, sent: Part },
    Answer { to: u8, connection: u8, answer: Part, prepared: Option<Epoch> },
    ToClient { operation: u8, result: Result<WriteReply, Status> },
    Report(ShardReport),
    Read { newest: bool },
}

/// A shard after an event.
#[derive(Debug)]
pub(super) struct Stepped {
    pub(super) shard: Part,
    pub(super) orders: Vec<Order>,
}

/// What an answer says.
#[derive(Clone, Debug)]
enum Said {
    Plainly(Answer),
    /// All of a version.
    Cells(Box<FetchReply>, Bytes),
}

/// The transitions that were made so far.
pub(super) struct Shards {
    known: HashMap<(Part, Part, Happening), Result<Rc<Stepped>, String>>,
    pub(super) sent: Shown<Sent>,
    answers: Shown<(RequestId, Said)>,
}

impl Shards {
    pub(super) fn new() -> Shards {
        Shards { known: HashMap::new(), sent: Shown::new(), answers: Shown::new() }
    }

    /// Makes one transition, or finds it.
    ///
    /// # Errors
    /// What an assertion of the shard said.
    pub(super) fn step(
        &mut self,
        parts: &mut Parts,
        (shard, store): (Part, Part),
        happening: Happening,
    ) -> Result<Rc<Stepped>, String> {
        let name = (shard, store, happening);
        if let Some(known) = self.known.get(&name) {
            return known.clone();
        }
        let made = self.make(parts, shard, store, &name.2);
        self.known.insert(name, made.clone());
        made
    }

    /// A shard that has just started over a store.
    pub(super) fn boot(parts: &mut Parts, target: TargetId, generation: u8, store: Part) -> Part {
        let known = parts.stores.part(store).known();
        let config = config(target, Generation(u32::from(generation)));
        parts.shards.number(Some(ShardState::new(config, known)))
    }

    fn make(
        &mut self,
        parts: &mut Parts,
        shard: Part,
        store: Part,
        happening: &Happening,
    ) -> Result<Rc<Stepped>, String> {
        let Some(mut state) = parts.shards.part(shard).clone() else {
            return Err("an event for a shard that does not run".to_owned());
        };
        let event = self.event(parts, happening);
        let held = parts.stores.part(store).clone();
        let mut out = Vec::new();
        let run = AssertUnwindSafe(|| step(&mut state, &held, NOW, event, &mut out));
        catch_unwind(run).map_err(|cause| told(cause.as_ref()))?;
        let mut orders = Vec::new();
        for effect in out {
            self.note(parts, &mut state, &held, effect, &mut orders);
        }
        state.core.counters = Default::default();
        Ok(Rc::new(Stepped { shard: parts.shards.number(Some(state)), orders }))
    }

    fn event(&self, parts: &Parts, happening: &Happening) -> Event<Bytes> {
        match happening {
            Happening::Request { from, connection, sent } => {
                let node = NodeId(u32::from(*from) + 1);
                let conn = ConnId(u64::from(*from) * CONNECTIONS + u64::from(*connection));
                request_event(node, conn, self.sent.part(*sent).clone())
            }
            Happening::Answer { from, answer } => {
                let (request, said) = self.answers.part(*answer).clone();
                let target = target(*from);
                match said {
                    Said::Plainly(answer) => Event::Answered { target, request, answer },
                    Said::Cells(reply, bytes) => {
                        Event::Heal(HealEvent::Fetched(target, request, reply, bytes))
                    }
                }
            }
            Happening::Lost { from, refused } => {
                Event::PeerLost { target: target(*from), refused: *refused }
            }
            Happening::Up { from } => Event::PeerUp { target: target(*from) },
            Happening::Stored { job, result } => {
                let durable = |(free, chunk_len): (u64, u32)| Durable {
                    lsn: protocol::ids::Lsn(1),
                    free,
                    chunk_len,
                };
                let result = match result {
                    Ok(done) => Ok(done.map(durable)),
                    Err(_) => Err(StoreError::Refused("the base is another")),
                };
                Event::Stored { job: JobId(*job), result }
            }
            Happening::Map { office } => {
                let map = &parts.offices.part(*office).coordinator.map;
                Event::Control(ControlEvent::Map(map.to_delta()))
            }
            Happening::Tick => Event::Tick { fenced: false },
            Happening::Write { operation, offset, epoch, again } => {
                write_event(*operation, *offset, *epoch, *again)
            }
            Happening::Read { len } => read_event(*len),
        }
    }

    /// Resolves one effect into orders.
    fn note(
        &mut self,
        parts: &mut Parts,
        state: &mut ShardState<Bytes>,
        held: &Store,
        effect: Effect<Bytes>,
        orders: &mut Vec<Order>,
    ) {
        match effect {
            Effect::Store { job, task } => {
                orders.push(Order::Task { job: job.0, task: parts.task.number(task) });
            }
            Effect::CommitThrough { through, .. } => orders.push(Order::CommitThrough(through)),
            Effect::Send { target: to, request, epoch, message, payload } => {
                let sent = self.sent.number(Sent { epoch, request, message, payload });
                orders.push(Order::Send { to, sent });
            }
            Effect::SendWhole { target: to, request, epoch, whole, .. } => {
                let Some(body) = whole_of(held, &whole) else {
                    let error = StoreError::NotFound;
                    let mut out = Vec::new();
                    step(state, held, NOW, Event::WholeFailed { request, error }, &mut out);
                    for effect in out {
                        self.note(parts, state, held, effect, orders);
                    }
                    return;
                };
                let payload = Some(held.bytes().to_vec());
                let message = PeerMessage::Replicate(Box::new(body));
                let sent = self.sent.number(Sent { epoch, request, message, payload });
                orders.push(Order::Send { to, sent });
            }
            Effect::Reply { to, epoch, answer } => {
                if let Some(order) = self.reply(to, epoch, answer) {
                    orders.push(order);
                }
            }
            Effect::Report(report) => orders.push(Order::Report(report)),
            Effect::ServeRead { read, .. } => {
                orders.push(Order::Read { newest: read.newest });
                state.core.budget.clients.give(read.len);
            }
            Effect::Heal(HealOrder::ServeFetch(to, _, fetch)) => {
                let said = cells_of(held, &fetch);
                orders.push(self.answer(to, said, None));
                state.core.budget.peers.give(fetch.len);
            }
            // Signs of work matter to clocks only; nothing else is ordered in these scopes.
            _ => {}
        }
    }

    fn reply(
        &mut self,
        to: ReplyTo,
        epoch: Epoch,
        answer: Result<ReplyBody, node::shard::effect::Refusal>,
    ) -> Option<Order> {
        let byte = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
        if to.conn.0 >= CLIENT {
            let result = match answer {
                Ok(ReplyBody::Write(reply)) => Ok(reply),
                Ok(_) => return None,
                Err(_) if to.kind == Kind::Read => return None,
                Err(refusal) => Err(refusal.status),
            };
            return Some(Order::ToClient { operation: byte(to.conn.0 - CLIENT), result });
        }
        let prepared = matches!(answer, Ok(ReplyBody::Replicate(_))).then_some(epoch);
        let answer = match answer {
            Ok(ReplyBody::Replicate(reply)) => Answer::Replicate(reply),
            Ok(ReplyBody::Adopt(reply)) => Answer::Adopt(reply),
            Ok(ReplyBody::Inventory(reply)) => Answer::Inventory(reply),
            Ok(ReplyBody::Digest(reply)) => Answer::Digest(reply),
            Ok(_) => Answer::Done,
            Err(refusal) => Answer::Refused(refusal.status),
        };
        Some(self.answer(to, Said::Plainly(answer), prepared))
    }

    fn answer(&mut self, to: ReplyTo, said: Said, prepared: Option<Epoch>) -> Order {
        let byte = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
        let answer = self.answers.number((to.request, said));
        let (owner, connection) = (to.conn.0 / CONNECTIONS, to.conn.0 % CONNECTIONS);
        Order::Answer { to: byte(owner), connection: byte(connection), answer, prepared }
    }
}

/// The message on a connection, for a trace.
impl std::fmt::Display for Sent {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match &self.message {
            PeerMessage::Replicate(body) => {
                return write!(out, "{:?} {} of epoch {}", body.mode, body.version, self.epoch);
            }
            PeerMessage::Adopt(_) => "adopt",
            PeerMessage::Discard(_) => "discard",
            PeerMessage::Inventory(_) => "inventory",
            PeerMessage::Quarantine(_) => "quarantine",
            PeerMessage::Fetch(_) => "fetch",
            PeerMessage::Committed(notice) => {
                return write!(out, "committed {} of epoch {}", notice.through, self.epoch);
            }
            _ => "other",
        };
        write!(out, "{name} of epoch {}", self.epoch)
    }
}

/// The byte that an operation writes.
pub(super) fn byte_of(operation: u8) -> u8 {
    b'a' + operation
}

fn target(index: u8) -> TargetId {
    TargetId(u32::from(index) + 1)
}

fn config(target: TargetId, generation: Generation) -> ShardConfig {
    let never = Duration::from_secs(1 << 20);
    let timeouts = Timeouts {
        tick: never,
        resend: never,
        retry: Duration::ZERO,
        silence: never,
        replicate: never,
        working: never,
        report: Duration::ZERO,
        ..Timeouts::default()
    };
    ShardConfig {
        node: NodeId(target.0),
        shard: ShardId(0),
        target,
        generation,
        port: 7000,
        core: u16::MAX,
        cluster: ClusterId(1),
        timeouts,
    }
}

fn request_event(node: NodeId, conn: ConnId, sent: Sent) -> Event<Bytes> {
    let Sent { epoch, request, message, payload } = sent;
    let (kind, body) = match message {
        PeerMessage::Committed(notice) => return Event::Committed { node, epoch, notice },
        PeerMessage::Replicate(body) => {
            (Kind::Replicate, Request::Replicate(*body, payload.unwrap_or_default(), true))
        }
        PeerMessage::Adopt(body) => (Kind::Adopt, Request::Adopt(body)),
        PeerMessage::Discard(body) => (Kind::Discard, Request::Discard(body)),
        PeerMessage::Inventory(body) => (Kind::Inventory, Request::Inventory(body)),
        PeerMessage::Digest(body) => (Kind::Digest, Request::Digest(body)),
        PeerMessage::Quarantine(body) => (Kind::Quarantine, Request::Quarantine(body)),
        PeerMessage::Drop(body) => (Kind::Drop, Request::Drop(body)),
        PeerMessage::Fetch(body) => (Kind::Fetch, Request::Fetch(body)),
    };
    let reply = ReplyTo { conn, request, kind };
    Event::Asked(Asked { reply, epoch, deadline: None, node: Some(node) }, body)
}

fn write_event(operation: u8, offset: u8, epoch: Epoch, again: bool) -> Event<Bytes> {
    let session = SessionId(u64::from(operation) + 1);
    let request = WriteRequest {
        group: GROUP,
        key: KEY,
        op: OpId { session, seq: Seq(1) },
        attempt: u8::from(again),
        class: WriteClass::Growth,
        offset: u32::from(offset),
        len: 1,
        expect_len: u32::from(offset) + 1,
        trunc_gen: 0,
        cell_log2: 14,
        chunk_log2: 22,
        handle: Handle(0),
        sums: vec![Default::default()],
        aux: Vec::new(),
    };
    let conn = ConnId(CLIENT + u64::from(operation));
    let reply = ReplyTo { conn, request: RequestId(1), kind: Kind::Write };
    let asked = Asked { reply, epoch, deadline: None, node: None };
    Event::Asked(asked, Request::Write(request, vec![byte_of(operation)], true))
}

fn read_event(len: u8) -> Event<Bytes> {
    let request = ReadRequest {
        group: GROUP,
        key: KEY,
        offset: 0,
        len: u32::from(len),
        expect_len: 0,
        trunc_gen: 0,
        handle: Handle(0),
        growth_only: true,
        verify: false,
    };
    let reply = ReplyTo { conn: ConnId(CLIENT), request: RequestId(1), kind: Kind::Read };
    let asked = Asked { reply, epoch: Epoch(0), deadline: None, node: None };
    Event::Asked(asked, Request::Read(request))
}

#[expect(clippy::cast_possible_truncation, reason = "a search writes a few bytes")]
fn whole_of(held: &Store, whole: &Whole) -> Option<ReplicateRequest> {
    let newest = held.newest()?;
    let len = newest.bytes.len() as u32;
    Some(ReplicateRequest {
        group: whole.group,
        primary: whole.primary,
        key: whole.key,
        mode: ReplicateMode::Whole,
        version: newest.version,
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
        ops: newest.ops.iter().map(|(op, ..)| *op).collect(),
        mutated: false,
        committed_through: whole.committed_through,
    })
}

/// All of the version that is asked for.
#[expect(clippy::cast_possible_truncation, reason = "a search writes a few bytes")]
fn cells_of(held: &Store, fetch: &FetchTask) -> Said {
    let Some(version) = held.held.iter().find(|held| held.version == fetch.version) else {
        return Said::Plainly(Answer::Refused(Status::ChunkNotFound));
    };
    let reply = FetchReply {
        version: version.version,
        committed: fetch.committed,
        chunk_len: version.bytes.len() as u32,
        trunc_gen: 0,
        cell_log2: 14,
        chunk_log2: 22,
        mutated: false,
        first_cell: 0,
        sums: vec![Default::default()],
        aux: Vec::new(),
        ops: version.ops.iter().map(|(op, ..)| *op).collect(),
    };
    Said::Cells(Box::new(reply), version.bytes.clone())
}

/// What a panic said.
pub(super) fn told(cause: &(dyn std::any::Any + Send)) -> String {
    let text = cause.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("an assertion").to_owned()
}

/// Place of the target that a part of the map names.
pub(super) fn index_of(target: TargetId) -> u8 {
    u8::try_from(place(target)).unwrap_or(u8::MAX)
}
