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

    pub(super) fn client_try(&mut self, index: usize, attempt: u64) {
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

    pub(super) fn client_answer(
        &mut self,
        index: usize,
        attempt: u64,
        result: Result<WriteReply, Status>,
    ) {
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

    pub(super) fn random_read(&mut self) {
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

pub(super) struct Client {
    pub key: ChunkKey,
    pub acked: Vec<u8>,
    pub acks: u64,
    pub seq: u64,
    pub(super) attempt: u64,
    settled_at: u64,
    pub active: bool,
    pub last: Option<Status>,
}

impl Client {
    pub(super) fn new(index: u32) -> Client {
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
    pub(super) fn payload(&self) -> Vec<u8> {
        let name = self.seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.key.fid.0;
        name.to_le_bytes()[..1 + (self.seq % 8) as usize].to_vec()
    }

    /// Attempts up to here belong to operations that are done.
    pub(super) fn settled(&self) -> u64 {
        self.settled_at
    }

    pub(super) fn settle(&mut self) {
        self.settled_at = self.attempt;
    }

    /// A replica holds everything acknowledged and at most the operation under way beyond it.
    pub(super) fn check(&self, bytes: Option<&Bytes>, target: TargetId) {
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
