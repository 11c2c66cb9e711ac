//! Connections that others made: from frames to events.
//!
//! The edge decides what needs no state: is the message well-formed, may this certificate send it,
//! do the payload's bytes match their checksums.

use std::rc::Rc;

use protocol::checksum::{CellSum, first_bad_cell};
use protocol::frame::Header;
use protocol::ids::{ChunkKey, NodeId};
use protocol::message::chunk::{
    AdoptRequest, CommittedNotice, DiscardRequest, DropRequest, InventoryRequest,
    QuarantineRequest, ReadRequest, ReplicateRequest, VerifyRequest, WriteRequest,
};
use protocol::message::heal::{DigestRequest, FetchRequest, ReportCorruptRequest};
use protocol::message::{Kind, Message, MessageError};
use protocol::status::Status;

use super::control::Control;
use super::driver::{Driver, LinkOf, Received, Wake};
use super::effect::{Refusal, WriteTask};
use super::event::{Asked, ConnId, Event, ReplyTo, Request};
use crate::io::{Buffer, Disk, Env, Incoming, Link, Net, PeerIdentity};

impl<E: Env, C: Control> Driver<E, C> {
    /// Takes connections until the shard stops.
    pub(super) async fn accept(self: Rc<Self>) {
        while !self.stopped.get() {
            match self.env.net().accept().await {
                Ok(link) => {
                    let conn = ConnId(self.next_conn.get());
                    self.next_conn.set(conn.0 + 1);
                    self.links.borrow_mut().insert(conn, Rc::clone(&link));
                    let driver = Rc::clone(&self);
                    self.env.spawn(async move { driver.attend(conn, link).await });
                }
                Err(error) => {
                    tracing::warn!(target_id = self.config.target.0, %error, "accept failed");
                    self.pause().await;
                }
            }
        }
    }

    /// Reads one connection until it ends.
    async fn attend(self: Rc<Self>, conn: ConnId, link: Rc<LinkOf<E>>) {
        let node = match link.peer() {
            PeerIdentity::Node(node) => Some(*node),
            _ => None,
        };
        while !self.stopped.get() {
            let frame = match link.receive().await {
                Ok(frame) => frame,
                Err(error) => {
                    tracing::debug!(conn = conn.0, %error, "connection ended");
                    break;
                }
            };
            self.bytes_in.set(self.bytes_in.get() + u64::from(frame.header.payload_len));
            let (header, to) = (frame.header, reply_to(conn, &frame.header));
            if !header.response && header.request.0 != 0 {
                self.stats.asked(to, self.now());
            }
            match self.wake_for(to, node, frame) {
                Ok(Some(wake)) => self.wakes.push(wake).await,
                Ok(None) => {}
                Err(refusal) => self.refuse(to, header.epoch, &refusal),
            }
        }
        link.close();
        self.links.borrow_mut().remove(&conn);
        self.stats.ended(conn);
    }

    fn wake_for(
        &self,
        to: ReplyTo,
        node: Option<NodeId>,
        frame: Incoming<E::Disk>,
    ) -> Result<Option<Wake<E::Disk>>, Refusal> {
        let header = frame.header;
        if header.response {
            return Ok(None);
        }
        if is_for_nodes(header.kind) && node.is_none() {
            return Err(Refusal::new(Status::BadRole, "only nodes may ask this"));
        }
        match (header.kind, node) {
            (Kind::ShardStats, _) => return Ok(Some(Wake::Stats(to))),
            (Kind::Committed, Some(node)) => {
                let notice = CommittedNotice::decode(&frame.body).map_err(malformed)?;
                return Ok(Some(Wake::Event(Event::Committed {
                    node,
                    epoch: header.epoch,
                    notice,
                })));
            }
            _ => {}
        }
        let wait = std::time::Duration::from_millis(u64::from(header.deadline_ms));
        let deadline = (header.deadline_ms > 0).then(|| self.now().after(wait));
        let asked = Asked { reply: to, epoch: header.epoch, deadline, node };
        let request = self.request(frame)?;
        Ok(Some(Wake::Event(Event::Asked(asked, request))))
    }

    fn request(&self, frame: Incoming<E::Disk>) -> Result<Request<Received<E::Disk>>, Refusal> {
        let body = &frame.body[..];
        let request = match frame.header.kind {
            Kind::Read => Request::Read(ReadRequest::decode(body).map_err(malformed)?),
            Kind::Write => {
                let request = WriteRequest::decode(body).map_err(malformed)?;
                let payload = self.payload(&frame, request.len)?;
                let (at, sums) = (Place::of_write(&request), &request.sums);
                let intact = at.verifies(&payload.buffer.bytes()[..payload.len], sums);
                Request::Write(request, payload, intact)
            }
            Kind::Replicate => {
                let request = ReplicateRequest::decode(body).map_err(malformed)?;
                let payload = self.payload(&frame, request.len)?;
                let (at, sums) = (Place::of_replicate(&request), &request.sums);
                let intact = at.verifies(&payload.buffer.bytes()[..payload.len], sums);
                Request::Replicate(request, payload, intact)
            }
            Kind::Adopt => Request::Adopt(AdoptRequest::decode(body).map_err(malformed)?),
            Kind::Discard => Request::Discard(DiscardRequest::decode(body).map_err(malformed)?),
            Kind::Inventory => {
                Request::Inventory(InventoryRequest::decode(body).map_err(malformed)?)
            }
            Kind::Digest => Request::Digest(DigestRequest::decode(body).map_err(malformed)?),
            Kind::Quarantine => {
                Request::Quarantine(QuarantineRequest::decode(body).map_err(malformed)?)
            }
            Kind::Drop => Request::Drop(DropRequest::decode(body).map_err(malformed)?),
            Kind::Fetch => Request::Fetch(FetchRequest::decode(body).map_err(malformed)?),
            Kind::ReportCorrupt => {
                Request::ReportCorrupt(ReportCorruptRequest::decode(body).map_err(malformed)?)
            }
            Kind::Verify => Request::Verify(VerifyRequest::decode(body).map_err(malformed)?),
            kind => {
                let detail = format!("a data node does not serve {kind:?}");
                return Err(Refusal::new(Status::Unsupported, detail));
            }
        };
        Ok(request)
    }

    pub(super) fn payload(
        &self,
        frame: &Incoming<E::Disk>,
        len: u32,
    ) -> Result<Received<E::Disk>, Refusal> {
        if frame.header.payload_len != len {
            return Err(Refusal::new(Status::Invalid, "payload and body disagree on the length"));
        }
        let buffer = match &frame.payload {
            Some(buffer) => Rc::clone(buffer),
            None => Rc::new(self.env.disk().allocate(0)),
        };
        let len = len as usize;
        if buffer.bytes().len() < len {
            return Err(Refusal::new(Status::BadFrame, "payload is missing"));
        }
        Ok(Received { buffer, len })
    }
}

/// Where a payload's bytes lie in their chunk.
struct Place {
    key: ChunkKey,
    cell_log2: u8,
    offset: u32,
}

/// True when the bytes of a write match its sums.
pub(super) fn is_intact<D: Disk>(task: &WriteTask<Received<D>>) -> bool {
    let at = Place { key: task.key, cell_log2: task.cell_log2, offset: task.offset };
    let payload = task.payload.as_ref();
    let bytes = payload.map_or(&[][..], |payload| &payload.buffer.bytes()[..payload.len]);
    at.verifies(bytes, &task.sums)
}

impl Place {
    fn of_write(request: &WriteRequest) -> Place {
        Place { key: request.key, cell_log2: request.cell_log2, offset: request.offset }
    }

    fn of_replicate(request: &ReplicateRequest) -> Place {
        Place { key: request.key, cell_log2: request.cell_log2, offset: request.offset }
    }

    /// Compares each touched cell's piece with its checksum: the first may start inside its cell.
    fn verifies(&self, bytes: &[u8], sums: &[CellSum]) -> bool {
        if !protocol::limits::CELL_LOG2_ALLOWED.contains(&self.cell_log2) {
            return false;
        }
        let cell = self.offset >> self.cell_log2;
        let into = self.offset & ((1 << self.cell_log2) - 1);
        let head = if into == 0 { 0 } else { (1usize << self.cell_log2) - into as usize };
        let (head, rest) = bytes.split_at(head.min(bytes.len()));
        let (own, others) = sums.split_at(usize::from(!head.is_empty()).min(sums.len()));
        let next = cell + u32::from(!head.is_empty());
        let cells = rest.len().div_ceil(1 << self.cell_log2);
        others.len() == cells
            && first_bad_cell(self.key, cell, self.cell_log2, head, own).is_none()
            && first_bad_cell(self.key, next, self.cell_log2, rest, others).is_none()
    }
}

fn reply_to(conn: ConnId, header: &Header) -> ReplyTo {
    ReplyTo { conn, request: header.request, kind: header.kind }
}

fn is_for_nodes(kind: Kind) -> bool {
    use Kind::{
        Adopt, Committed, Digest, Discard, Drop, Fetch, Inventory, Quarantine, Replicate, Working,
    };
    matches!(
        kind,
        Fetch
            | Replicate
            | Adopt
            | Digest
            | Discard
            | Inventory
            | Quarantine
            | Drop
            | Committed
            | Working
    )
}

fn malformed(error: MessageError) -> Refusal {
    Refusal::new(Status::BadFrame, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::checksum::cell_sum;
    use protocol::ids::Fid;

    #[test]
    fn pieces_of_cells_verify_against_the_sums_of_exactly_those_pieces() {
        let key = ChunkKey { fid: Fid(3), index: 1 };
        let bytes: Vec<u8> = (0..6000u32).map(|at| (at % 251) as u8).collect();
        let at = |offset| Place { key, cell_log2: 12, offset };
        let sums = [
            cell_sum(key, 0, &bytes[..96]),
            cell_sum(key, 1, &bytes[96..4192]),
            cell_sum(key, 2, &bytes[4192..]),
        ];
        assert!(at(4000).verifies(&bytes, &sums));
        assert!(!at(4001).verifies(&bytes, &sums), "another place");
        assert!(!at(4000).verifies(&bytes, &sums[..2]), "a sum is missing");
        assert!(!at(4000).verifies(&bytes[..5999], &sums), "a byte is missing");
        assert!(at(8192).verifies(&bytes[..10], &[cell_sum(key, 2, &bytes[..10])]));
        assert!(!at(8192).verifies(&bytes[..10], &[]), "no sums at all");
    }
}
