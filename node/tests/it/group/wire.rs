//! Carries orders between members: connections that keep order, break and repeat.

use node::shard::effect::{Effect, PeerMessage, Refusal, ReplyBody, Whole};
use node::shard::event::{Answer, Asked, ConnId, Event, ReplyTo, Request};
use node::store::StoreError;
use protocol::ids::{Epoch, NodeId, OpId, RequestId, TargetId, Version};
use protocol::message::Kind;
use protocol::message::chunk::{ReplicateMode, ReplicateRequest, WriteClass};

use super::cluster::{CLIENT, Cluster, Happening, MS, SCRIPT};
use super::coordinator::GROUP;
use super::fake_store::Bytes;

impl Cluster {
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

    /// Sends over a connection: in order, unless it breaks; sometimes a request arrives twice.
    pub(super) fn transmit(&mut self, from: TargetId, to: TargetId, event: Event<Bytes>) {
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

    pub(super) fn carry_out(&mut self, target: TargetId, generation: u32, effect: Effect<Bytes>) {
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
            Effect::SendWhole { target: to, request, epoch, whole, lane } => {
                *self.wholes.entry(lane).or_default() += 1;
                self.send_whole(target, to, request, epoch, &whole);
            }
            Effect::ServeRead { to, read, .. } => self.serve_read(target, to, &read),
            Effect::Heal(order) => self.heal_order(target, order),
            Effect::ServeVerify { .. }
            | Effect::VerdictKnown
            | Effect::Alert(_)
            | Effect::Finish => {}
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

    pub(super) fn request_event(
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
            PeerMessage::Digest(body) => (Kind::Digest, Request::Digest(body)),
            PeerMessage::Quarantine(body) => (Kind::Quarantine, Request::Quarantine(body)),
            PeerMessage::Drop(body) => (Kind::Drop, Request::Drop(body)),
            PeerMessage::Fetch(body) => (Kind::Fetch, Request::Fetch(body)),
        };
        let reply = ReplyTo { conn: ConnId(u64::from(from.0)), request, kind };
        Event::Asked(Asked { reply, epoch, deadline: None, node: Some(node) }, request_body)
    }

    pub(super) fn send_whole(
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
        let name = (whole.group, whole.key, held.version);
        if let Some(error) = self.stores.get_mut(&from).and_then(|store| store.notice(name)) {
            self.tell(from, 1, Event::WholeFailed { request, error });
            return;
        }
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
            trunc_gen: held.trunc_gen,
            cell_log2: 14,
            chunk_log2: 22,
            sums: vec![Default::default()],
            aux: Vec::new(),
            ops: held.ops.iter().map(|(op, ..)| *op).collect(),
            mutated: held.mutated,
            committed_through: whole.committed_through,
        };
        let message = PeerMessage::Replicate(Box::new(body));
        let event = self.request_event(from, request, epoch, message, Some(held.bytes));
        self.transmit(from, to, event);
    }

    pub(super) fn deliver_reply(
        &mut self,
        from: TargetId,
        to: ReplyTo,
        epoch: Epoch,
        answer: Result<ReplyBody, Refusal>,
    ) {
        if to.conn.0 >= CLIENT {
            let client = (to.conn.0 - CLIENT) as usize;
            if to.kind == Kind::Read {
                if let (SCRIPT, Err(refusal)) = (client, &answer) {
                    self.shown.push((to.request.0, Err(refusal.status)));
                }
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
            let seq = to.request.0 >> 20;
            let attempt = to.request.0 & 0xf_ffff;
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
                self.later(delay, Happening::ToClient(client, seq, attempt, result));
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
            Ok(ReplyBody::Digest(reply)) => Answer::Digest(reply),
            Ok(_) => Answer::Done,
            Err(refusal) => Answer::Refused(refusal.status),
        };
        let peer = TargetId(to.conn.0 as u32);
        self.transmit(from, peer, Event::Answered { target: from, request: to.request, answer });
    }
}
