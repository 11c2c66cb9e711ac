//! Clients that append to a chunk of their own, readers, and writes that a scenario asks for.

use std::rc::Rc;

use node::shard::event::{Asked, ConnId, Event, ReplyTo, Request};
use protocol::ids::{ChunkKey, Epoch, Fid, Handle, OpId, RequestId, Seq, SessionId, TargetId};
use protocol::message::Kind;
use protocol::message::chunk::{ReadRequest, WriteClass, WriteReply, WriteRequest};
use protocol::status::Status;

use super::cluster::{CLIENT, Cluster, Happening, SCRIPT};
use super::coordinator::GROUP;
use super::fake_store::Bytes;

impl Cluster {
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

    /// Writes once in place, as an operation of the chunk's own session.
    pub(super) fn ask_change(
        &mut self,
        target: TargetId,
        key: ChunkKey,
        number: u64,
        (class, offset, bytes): (WriteClass, u32, &[u8]),
    ) {
        let op = OpId { session: SessionId(77), seq: Seq(number) };
        let mut request = write_request(key, op, offset, bytes.len() as u32);
        request.class = class;
        let epoch = self.coordinator.record().epoch;
        self.ask(target, epoch, number, request, bytes);
    }

    /// Reads from the start of a chunk, with the epoch that the target itself knows.
    pub(super) fn ask_read(
        &mut self,
        target: TargetId,
        key: ChunkKey,
        number: u64,
        len: u32,
        growth_only: bool,
    ) {
        let request = ReadRequest {
            group: GROUP,
            key,
            offset: 0,
            len,
            expect_len: len,
            trunc_gen: 0,
            handle: Handle(0),
            growth_only,
            verify: false,
        };
        let conn = ConnId(CLIENT + SCRIPT as u64);
        let reply = ReplyTo { conn, request: RequestId(number), kind: Kind::Read };
        let epoch = self.procs[&target].state.groups[&GROUP].record.epoch;
        let asked = Asked { reply, epoch, deadline: None, node: None };
        self.tell(target, 0, Event::Asked(asked, Request::Read(request)));
    }

    pub(super) fn client_try(&mut self, index: usize, attempt: u64) {
        let client = &mut self.clients[index];
        if !client.active || client.attempt != attempt {
            return;
        }
        client.attempt += 1;
        let attempt = client.attempt;
        let mut dice = self.rng;
        client.fill(&mut dice);
        let (key, ops, retry) = (client.key, client.ops.clone(), client.sent > 0);
        client.sent = ops.len();
        self.dice(1 + dice % 7);
        let record = self.coordinator.record();
        let (epoch, primary) = (record.epoch, record.primary().map(|primary| primary.target));
        self.later(400, Happening::Try(index, attempt));
        let Some(primary) = primary else { return };
        let delay = self.dice(5);
        for op in ops {
            let id = OpId { session: SessionId(index as u64 + 1), seq: Seq(op.seq) };
            let mut request = write_request(key, id, op.offset, op.bytes.len() as u32);
            request.class = op.class;
            request.trunc_gen = op.trunc_gen;
            request.attempt = u8::from(retry);
            let conn = ConnId(CLIENT + index as u64);
            let number = RequestId(op.seq << 20 | attempt);
            let reply = ReplyTo { conn, request: number, kind: Kind::Write };
            let asked = Asked { reply, epoch, deadline: None, node: None };
            let event = Event::Asked(asked, Request::Write(request, Rc::new(op.bytes), true));
            self.tell(primary, delay, event);
        }
    }

    pub(super) fn client_answer(
        &mut self,
        index: usize,
        seq: u64,
        attempt: u64,
        result: Result<WriteReply, Status>,
    ) {
        let client = &mut self.clients[index];
        client.last = result.as_ref().err().copied();
        let Some(at) = client.ops.iter().position(|op| op.seq == seq) else { return };
        match result {
            Ok(reply) => {
                let after = client.ops[at].after.len();
                assert_eq!(reply.chunk_len as usize, after, "the operation took effect once");
                client.settle(at);
                if client.ops.is_empty() {
                    let attempt = client.attempt;
                    let delay = self.dice(30);
                    self.later(delay, Happening::Try(index, attempt));
                }
            }
            Err(status) => {
                // Behind one that was refused, growth finds the chunk too short.
                let alone = client.kind != Kinds::Pipelining;
                let fatal = status == Status::Invalid || (status == Status::ChunkShort && alone);
                assert!(
                    !fatal,
                    "op {seq} of chunk {} ({} acknowledged): {status:?}",
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

    /// Reads as a client that knows the file to have only grown, or as one that needs a lease and
    /// believes in the map that the target has.
    pub(super) fn random_read(&mut self) {
        self.later(if self.clients.len() > 3 { 5 } else { 15 }, Happening::Read);
        let targets = self.shape.targets;
        let target = TargetId(1 + self.dice(u64::from(targets)) as u32);
        let index = self.dice(self.clients.len() as u64) as usize;
        let leased = self.dice(2) == 0;
        let Some(client) = self.clients.get(index).filter(|client| client.active) else { return };
        let growth_only = client.kind != Kinds::Changing && !leased;
        let (key, trunc_gen) = (client.key, client.trunc_gen);
        let len = 1 + client.acked.len() as u32;
        let request = ReadRequest {
            group: GROUP,
            key,
            offset: 0,
            len: 1 + self.dice(u64::from(len)) as u32,
            expect_len: 0,
            trunc_gen,
            handle: Handle(0),
            growth_only,
            verify: false,
        };
        let epoch = self.procs[&target].state.groups.get(&GROUP).map(|member| member.record.epoch);
        let conn = ConnId(CLIENT + index as u64);
        let request_id = RequestId(if growth_only { 0 } else { LEASED });
        let reply = ReplyTo { conn, request: request_id, kind: Kind::Read };
        let epoch = epoch.unwrap_or_default();
        let asked = Asked { reply, epoch, deadline: None, node: None };
        self.tell(target, 0, Event::Asked(asked, Request::Read(request)));
    }
}

/// Request id of reads that have to show what was acknowledged last.
pub(super) const LEASED: u64 = 1;

/// How a client writes its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kinds {
    /// Appends, one operation at a time.
    Appending,
    /// Appends, several operations at a time.
    Pipelining,
    /// Overwrites, leaves holes, truncates and appends, one operation at a time.
    Changing,
}

/// One operation, the same in every attempt.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub seq: u64,
    pub class: WriteClass,
    pub offset: u32,
    pub bytes: Vec<u8>,
    pub trunc_gen: u32,
    /// The chunk after it.
    pub after: Vec<u8>,
}

pub(super) struct Client {
    pub key: ChunkKey,
    pub kind: Kinds,
    pub acked: Vec<u8>,
    pub acks: u64,
    pub active: bool,
    pub last: Option<Status>,
    pub trunc_gen: u32,
    /// Operations without an answer, in order.
    pub ops: Vec<Op>,
    pub(super) attempt: u64,
    /// How many of them were sent before.
    sent: usize,
    seq: u64,
    /// Every state a reader may still be shown, oldest first; the last acknowledged one and later.
    shown: Vec<Vec<u8>>,
}

impl Client {
    pub(super) fn new(index: u32) -> Client {
        let key = ChunkKey { fid: Fid(u64::from(index) + 10), index: 0 };
        let kind = [Kinds::Appending, Kinds::Changing, Kinds::Pipelining][index as usize % 3];
        Client {
            key,
            kind,
            acked: Vec::new(),
            acks: 0,
            active: true,
            last: None,
            trunc_gen: 0,
            ops: Vec::new(),
            attempt: 0,
            sent: 0,
            seq: 1,
            shown: vec![Vec::new()],
        }
    }

    /// Thinks of operations until the window is full.
    fn fill(&mut self, dice: &mut u64) {
        let window = if self.kind == Kinds::Pipelining { 4 } else { 1 };
        if !self.ops.is_empty() {
            return; // The window moves when all of it is answered.
        }
        while self.ops.len() < window {
            let op = self.next_op(dice);
            self.shown.push(op.after.clone());
            self.ops.push(op);
        }
        self.sent = 0;
    }

    fn next_op(&mut self, dice: &mut u64) -> Op {
        let have = self.ops.last().map_or(&self.acked, |op| &op.after).clone();
        let seq = self.seq;
        self.seq += 1;
        // Bytes differ for each operation.
        let name = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.key.fid.0;
        let bytes = name.to_le_bytes()[..1 + (seq % 8) as usize].to_vec();
        *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seq | 1);
        let at = (*dice >> 40) as usize % (have.len() + 4);
        let grows = self.kind != Kinds::Changing || (*dice >> 33).is_multiple_of(4);
        let (class, offset, bytes) = match grows {
            true => (WriteClass::Growth, have.len(), bytes),
            false if (*dice >> 35) % 4 == 1 => {
                self.trunc_gen += 1;
                (WriteClass::Truncate, at.min(have.len()), Vec::new())
            }
            false => (WriteClass::Mutation, at, bytes),
        };
        let mut after = have;
        match class {
            WriteClass::Truncate => after.truncate(offset),
            _ => {
                let end = offset + bytes.len();
                after.resize(after.len().max(end), 0);
                after[offset..end].copy_from_slice(&bytes);
            }
        }
        let (offset, trunc_gen) = (offset as u32, self.trunc_gen);
        Op { seq, class, offset, bytes, trunc_gen, after }
    }

    /// The operation at this place was acknowledged, so those it builds on were done too.
    fn settle(&mut self, at: usize) {
        self.acked = self.ops[at].after.clone();
        self.acks += at as u64 + 1;
        self.ops.drain(..=at);
        let keep = self.ops.len() + 1;
        let old = self.shown.len().saturating_sub(keep);
        self.shown.drain(..old);
    }

    /// A leased read shows the state acknowledged last or a later one, and never goes back.
    pub(super) fn observe(&mut self, bytes: &[u8], target: TargetId) {
        let at = self.shown.iter().position(|state| state.starts_with(bytes));
        let Some(at) = at else {
            panic!("{target} shows an old or unknown state of chunk {}: {bytes:?}", self.key);
        };
        self.shown.drain(..at);
    }

    /// True when the bytes are of some state that is or may be.
    pub(super) fn may_show(&self, bytes: &[u8]) -> bool {
        self.acked.starts_with(bytes) || self.ops.iter().any(|op| op.after.starts_with(bytes))
    }

    /// A replica holds everything acknowledged and at most the operations under way beyond it.
    pub(super) fn check(&self, bytes: Option<&Bytes>, target: TargetId) {
        let bytes = bytes.map_or(&[][..], |bytes| bytes.as_slice());
        let whole = bytes == self.acked || self.ops.iter().any(|op| bytes == op.after);
        assert!(
            whole,
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
