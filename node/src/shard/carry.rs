//! Carries out the orders of a step: frames, store tasks, reports.

use std::rc::Rc;

use protocol::frame::Header;
use protocol::ids::{ChunkKey, Epoch, GroupId, OpId, RequestId, TargetId, Version};
use protocol::message::chunk::{
    CommittedNotice, DiscardReply, DropReply, QuarantineReply, ReadReply, ReplicateMode,
    ReplicateRequest, WriteClass,
};
use protocol::message::cluster::ErrorReply;
use protocol::message::{Kind, Message};
use protocol::status::Status;

use super::control::Control;
use super::driver::{Driver, Received};
use super::effect::{
    Effect, Installed, Lane, PeerMessage, ReadTask, Refusal, RepairTask, ReplyBody, Task, Whole,
    WriteTask,
};
use super::event::{ConnId, Event, JobId, ReplyTo};
use super::inbound::is_intact;
use super::state::Core;
use crate::io::{Clock, Disk, Env, Link, Outgoing, Payload};
use crate::store::{
    ChunkInfo, Durable, InstallOp, ReadMode, ReadOut, RepairOp, StoreError, WriteOp,
};

impl<E: Env, C: Control> Driver<E, C> {
    /// Carries out one order; what takes time goes on as a task of its own.
    pub(super) fn carry_out(self: &Rc<Self>, core: &Core, order: Effect<Received<E::Disk>>) {
        match order {
            Effect::Store { job, task } => {
                let driver = Rc::clone(self);
                self.env.spawn(async move { driver.run_task(job, task).await });
            }
            Effect::CommitThrough { group, through } => self.store.commit_through(group, through),
            Effect::Send { target, request, epoch, message, payload } => {
                if self.has_peer(core, target, Lane::Urgent) {
                    let payload = payload.map_or_else(Payload::empty, |payload| {
                        Payload::from_buffer(payload.buffer, payload.len)
                    });
                    let (kind, body) = encode(&message);
                    let frame = self.frame(Header::new(kind, request), epoch, body, payload);
                    self.send_to_peer(target, Lane::Urgent, request, frame);
                } else {
                    self.notify(Event::Unsent { request });
                }
            }
            Effect::SendWhole { target, request, epoch, whole, lane } => {
                if self.has_peer(core, target, lane) {
                    self.pace_copies(core, target, lane);
                    let driver = Rc::clone(self);
                    self.env.spawn(async move {
                        driver.send_whole((target, lane), request, epoch, whole).await;
                    });
                } else {
                    self.notify(Event::Unsent { request });
                }
            }
            Effect::ServeRead { to, epoch, read } => {
                let driver = Rc::clone(self);
                self.env.spawn(async move { driver.serve_read(to, epoch, read).await });
            }
            Effect::ServeVerify { to, group, key } => {
                let driver = Rc::clone(self);
                self.env.spawn(async move { driver.serve_verify(to, group, key).await });
            }
            Effect::Reply { to, epoch, answer } => match answer {
                Ok(body) => self.answer(to, epoch, encode_reply(&body), Payload::empty()),
                Err(refusal) => self.refuse(to, epoch, &refusal),
            },
            Effect::Working { conn, epoch, notice } => {
                let header = Header::new(Kind::Working, RequestId(0));
                let frame = self.frame(header, epoch, notice.encode(), Payload::empty());
                self.send_on(conn, frame);
            }
            Effect::VerdictKnown => self.forget_verdict(),
            Effect::Report(report) => self.report(report),
            Effect::Heal(order) => self.heal(order),
            Effect::Alert(alert) => self.alert(&alert),
            Effect::Finish => {}
        }
    }

    fn forget_verdict(self: &Rc<Self>) {
        let driver = Rc::clone(self);
        self.env.spawn(async move {
            if let Err(error) = driver.store.verdict_is_known().await {
                let target_id = driver.config.target.0;
                tracing::warn!(target_id, %error, "the next start will call the target damaged");
            }
        });
    }

    /// Answers a request with `Ok`.
    pub(super) fn answer(
        &self,
        to: ReplyTo,
        epoch: Epoch,
        body: Vec<u8>,
        payload: Payload<E::Disk>,
    ) {
        let header = Header::new(to.kind, to.request).reply(Status::Ok);
        let frame = self.frame(header, epoch, body, payload);
        self.bytes_out.set(self.bytes_out.get() + u64::from(frame.header.payload_len));
        self.stats.answered(to, true, || self.now());
        self.send_on(to.conn, frame);
    }

    /// Answers a request with the reason why not.
    pub(super) fn refuse(&self, to: ReplyTo, epoch: Epoch, refusal: &Refusal) {
        let mut error = ErrorReply::new(refusal.status, &refusal.detail);
        error.port = refusal.port;
        error.retry_after_ms = refusal.retry_after_ms;
        let header = Header::new(to.kind, to.request).reply(refusal.status);
        let frame = self.frame(header, epoch, error.encode(), Payload::empty());
        self.stats.answered(to, false, || self.now());
        self.send_on(to.conn, frame);
    }

    fn frame(
        &self,
        header: Header,
        epoch: Epoch,
        body: Vec<u8>,
        payload: Payload<E::Disk>,
    ) -> Outgoing<E::Disk> {
        let mut header = header;
        header.epoch = epoch;
        header.map_version = self.map_version.get();
        header.cluster_tag = self.config.cluster.tag();
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        Outgoing { header: header.seal(&body, len), body, payload }
    }

    /// Sends on an inbound connection; a peer that does not take its answers loses it.
    fn send_on(&self, conn: ConnId, frame: Outgoing<E::Disk>) {
        let link = self.links.borrow().get(&conn).cloned();
        if let Some(link) = link
            && let Err(error) = link.send(frame)
        {
            tracing::debug!(conn = conn.0, %error, "answer not sent, closing");
            link.close();
        }
    }

    async fn run_task(&self, job: JobId, task: Task<Received<E::Disk>>) {
        let done = |_| None::<Durable>;
        let result = match task {
            Task::Write(task) => {
                let (group, key) = (task.group, task.key);
                let result = self.store.write(write_op(self.env.disk(), task)).await;
                if let Err(error) = &result {
                    self.found_corrupt(group, key, error); // A cell it would be merged with.
                }
                result.map(Some)
            }
            Task::Install(task, installed) if !installed.checked && !is_intact(&task) => {
                Err(StoreError::Refused("the bytes of a member do not match their sums"))
            }
            Task::Install(task, installed) => {
                self.store.install(install_op(self.env.disk(), task, installed)).await.map(Some)
            }
            Task::Adopt(group, epoch) => self.store.adopt(group, epoch).await.map(|_| None),
            Task::Discard(group, items) => self.store.discard(group, &items).await.map(done),
            Task::Quarantine(group, keys) => {
                let now_s = self.env.clock().unix_seconds();
                self.store.quarantine(group, &keys, now_s).await.map(done)
            }
            Task::Drop(group, fids) => self.store.drop_fids(group, &fids).await.map(done),
            Task::Repair(task) => self.store.repair(repair_op(task)).await.map(Some),
        };
        // A full journal or target is an answer, not an incident: the asker is told, `df` shows it.
        if let Err(error) = &result
            && !matches!(error, StoreError::Busy | StoreError::NoSpace)
        {
            tracing::warn!(target_id = self.config.target.0, %error, "store task failed");
        }
        self.notify(Event::Stored { job, result });
    }

    async fn send_whole(
        &self,
        (target, lane): (TargetId, Lane),
        request: RequestId,
        epoch: Epoch,
        whole: Whole,
    ) {
        match self.read_whole(&whole).await {
            Ok((info, out)) => {
                let (message, payload) = whole_message(&whole, &info, out);
                let header = Header::new(Kind::Replicate, request);
                let frame = self.frame(header, epoch, message.encode(), payload);
                self.send_to_peer(target, lane, request, frame);
            }
            Err(error) => {
                if error != StoreError::NotFound && error != StoreError::Busy {
                    let (group, key) = (whole.group.0, whole.key);
                    tracing::warn!(group, %key, %error, "chunk cannot be read for a member");
                }
                self.notify(Event::WholeFailed { request, error });
            }
        }
    }

    /// Reads the newest version of a chunk together with the facts of exactly that version.
    async fn read_whole(&self, whole: &Whole) -> Result<(ChunkInfo, ReadOut<E::Disk>), StoreError> {
        let info = self.store.info(whole.group, whole.key).ok_or(StoreError::NotFound)?;
        let out = self.store.read_for_copy(whole.group, whole.key, info.chunk_len).await?;
        if out.version != info.version {
            return Err(StoreError::Busy); // Written meanwhile: its operations would not match.
        }
        Ok((info, out))
    }

    async fn serve_read(&self, to: ReplyTo, epoch: Epoch, read: ReadTask) {
        let mode = ReadMode { newest: read.newest, verify: read.verify, suspect: false };
        match self.store.read(read.group, read.key, read.offset, read.len, mode).await {
            Ok(out) if self.changed_since(&read, out.version) => {
                self.refuse(to, epoch, &Status::Busy.into());
            }
            Ok(out) => {
                let reply = ReadReply {
                    version: out.version,
                    chunk_len: out.chunk_len,
                    cell_log2: out.cell_log2,
                    first_cell: out.first_cell,
                    sums: out.sums,
                    aux: Vec::new(),
                };
                self.answer(to, epoch, reply.encode(), out.payload);
            }
            Err(error) => {
                self.refuse(to, epoch, &Refusal::new(error.status(), error.to_string()));
            }
        }
        self.notify(Event::Served { bytes: read.len });
    }

    /// True when another version was read than was looked up, and its bytes may differ.
    fn changed_since(&self, read: &ReadTask, version: Version) -> bool {
        let changed = read.exact.is_some_and(|exact| exact != version);
        changed && self.store.info(read.group, read.key).is_none_or(|info| info.mutated)
    }

    async fn serve_verify(&self, to: ReplyTo, group: GroupId, key: ChunkKey) {
        match self.store.verify(group, key).await {
            Ok(reply) => {
                self.answer(to, Epoch(0), reply.encode(), Payload::empty());
                if !reply.bad_cells.is_empty() {
                    self.found_corrupt_cells(group, key, reply.bad_cells);
                }
            }
            Err(error) => {
                self.refuse(to, Epoch(0), &Refusal::new(error.status(), error.to_string()));
            }
        }
        self.notify(Event::Served { bytes: 0 });
    }
}

fn whole_message<D: Disk>(
    whole: &Whole,
    info: &ChunkInfo,
    out: ReadOut<D>,
) -> (ReplicateRequest, Payload<D>) {
    let caused = info.ops.iter().find(|(_, version, _)| *version == out.version);
    let message = ReplicateRequest {
        group: whole.group,
        primary: whole.primary,
        key: whole.key,
        mode: ReplicateMode::Whole,
        version: out.version,
        base: Version::ZERO,
        op: caused.map_or_else(OpId::default, |(op, ..)| *op),
        class: WriteClass::Growth,
        offset: 0,
        len: out.chunk_len,
        chunk_len: out.chunk_len,
        expect_len: out.chunk_len,
        trunc_gen: info.trunc_gen,
        cell_log2: info.cell_log2,
        chunk_log2: info.chunk_log2,
        sums: out.sums,
        aux: Vec::new(),
        ops: info.ops.iter().map(|(op, ..)| *op).collect(),
        mutated: info.mutated,
        committed_through: whole.committed_through,
    };
    (message, out.payload)
}

fn write_op<D: Disk>(disk: &D, task: WriteTask<Received<D>>) -> WriteOp<D> {
    WriteOp {
        group: task.group,
        key: task.key,
        version: task.version,
        base: task.base,
        op: task.op,
        class: task.class,
        offset: task.offset,
        len: task.len,
        expect_len: task.expect_len,
        trunc_gen: task.trunc_gen,
        cell_log2: task.cell_log2,
        chunk_log2: task.chunk_log2,
        sums: task.sums,
        payload: task.payload.map_or_else(|| Rc::new(disk.allocate(0)), |it| it.buffer),
    }
}

fn install_op<D: Disk>(
    disk: &D,
    task: WriteTask<Received<D>>,
    installed: Installed,
) -> InstallOp<D> {
    let Installed { ops, mutated, committed, .. } = installed;
    InstallOp { write: write_op(disk, task), ops, mutated, committed }
}

fn repair_op<D: Disk>(task: RepairTask<Received<D>>) -> RepairOp<D> {
    RepairOp {
        group: task.group,
        key: task.key,
        version: task.version,
        first_cell: task.first_cell,
        len: task.len,
        payload: task.payload.buffer,
    }
}

fn encode(message: &PeerMessage) -> (Kind, Vec<u8>) {
    match message {
        PeerMessage::Replicate(message) => (Kind::Replicate, message.encode()),
        PeerMessage::Adopt(message) => (Kind::Adopt, message.encode()),
        PeerMessage::Discard(message) => (Kind::Discard, message.encode()),
        PeerMessage::Inventory(message) => (Kind::Inventory, message.encode()),
        PeerMessage::Digest(message) => (Kind::Digest, message.encode()),
        PeerMessage::Quarantine(message) => (Kind::Quarantine, message.encode()),
        PeerMessage::Drop(message) => (Kind::Drop, message.encode()),
        PeerMessage::Fetch(message) => (Kind::Fetch, message.encode()),
        PeerMessage::Committed(message) => (CommittedNotice::KIND, message.encode()),
    }
}

fn encode_reply(body: &ReplyBody) -> Vec<u8> {
    match body {
        ReplyBody::Write(reply) => reply.encode(),
        ReplyBody::Replicate(reply) => reply.encode(),
        ReplyBody::Adopt(reply) => reply.encode(),
        ReplyBody::Inventory(reply) => reply.encode(),
        ReplyBody::Digest(reply) => reply.encode(),
        ReplyBody::Discard => DiscardReply.encode(),
        ReplyBody::Quarantine => QuarantineReply.encode(),
        ReplyBody::Drop => DropReply.encode(),
    }
}
