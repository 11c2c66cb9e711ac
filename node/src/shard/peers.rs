//! Connections to other members: one of each [`Lane`] to each target, made when first needed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use protocol::ids::{NodeId, RequestId, TargetId};
use protocol::message::chunk::{
    AdoptReply, DiscardReply, DropReply, InventoryReply, QuarantineReply, ReplicateReply,
    WorkingNotice,
};
use protocol::message::heal::{DigestReply, FetchReply};
use protocol::message::{Kind, Message, MessageError};
use protocol::status::Status;

use super::control::Control;
use super::driver::{Driver, LinkOf, Received, Wake};
use super::effect::Lane;
use super::event::{Answer, Event};
use super::heal::HealEvent;
use super::state::Core;
use crate::group::resync;
use crate::io::{Clock, Disk, Env, Incoming, Link, Nanos, Net, NetError, Outgoing};
use crate::limits::COPY_RATE_TIMES;

/// The connections to other targets.
pub(super) struct Peers<E: Env> {
    by_target: RefCell<BTreeMap<(TargetId, Lane), Peer<E>>>,
}

struct Peer<E: Env> {
    link: Option<Rc<LinkOf<E>>>,
    connecting: bool,
    not_before: Nanos,
    pause: Duration,
}

impl<E: Env> Peers<E> {
    /// Takes every open connection.
    pub(super) fn take_all(&self) -> Vec<Rc<LinkOf<E>>> {
        let peers = std::mem::take(&mut *self.by_target.borrow_mut());
        peers.into_values().filter_map(|peer| peer.link).collect()
    }

    fn link(&self, to: (TargetId, Lane)) -> Option<Rc<LinkOf<E>>> {
        self.by_target.borrow().get(&to).and_then(|peer| peer.link.clone())
    }

    fn edit<T>(&self, to: (TargetId, Lane), edit: impl FnOnce(&mut Peer<E>) -> T) -> T {
        edit(self.by_target.borrow_mut().entry(to).or_default())
    }
}

impl<E: Env, C: Control> Driver<E, C> {
    /// True when a connection to the target is open; if not, one is on its way after this.
    pub(super) fn has_peer(self: &Rc<Self>, core: &Core, target: TargetId, lane: Lane) -> bool {
        if self.peers.link((target, lane)).is_some() {
            return true;
        }
        if let Some((node, address)) = core.map.endpoint(target) {
            self.connect_once(node, (target, lane), address);
        }
        false
    }

    /// Sends a frame to a target, or says that it was not sent.
    pub(super) fn send_to_peer(
        &self,
        target: TargetId,
        lane: Lane,
        request: RequestId,
        frame: Outgoing<E::Disk>,
    ) {
        let bytes = u64::from(frame.header.payload_len);
        let sent = match self.peers.link((target, lane)) {
            Some(link) => link.send(frame),
            None => Err(NetError::Closed),
        };
        match sent {
            Ok(()) => {
                self.bytes_out.set(self.bytes_out.get() + bytes);
                self.stats.sent_to_peer(bytes);
            }
            Err(_) => self.notify(Event::Unsent { request }),
        }
    }

    /// Has copies leave a little faster than their budget asks, not a chunk in one burst: what
    /// clients do on the same cores and devices comes in between.
    pub(super) fn pace_copies(&self, core: &Core, target: TargetId, lane: Lane) {
        if lane == Lane::Bulk
            && let Some(link) = self.peers.link((target, lane))
        {
            link.spread(resync::rate(core).saturating_mul(COPY_RATE_TIMES));
        }
    }

    fn connect_once(self: &Rc<Self>, node: NodeId, to: (TargetId, Lane), address: SocketAddr) {
        let now = self.now();
        let due = self.peers.edit(to, |peer| {
            let due = !peer.connecting && now >= peer.not_before;
            peer.connecting |= due;
            due
        });
        if due && !self.stopped.get() {
            let driver = Rc::clone(self);
            self.env.spawn(async move { driver.converse(node, to, address).await });
        }
    }

    /// Connects and reads answers until the connection ends.
    async fn converse(self: Rc<Self>, node: NodeId, to: (TargetId, Lane), address: SocketAddr) {
        let (target, lane) = to;
        let error = match self.env.net().connect(node, target, address).await {
            Ok(link) if self.stopped.get() => {
                link.close();
                NetError::Closed
            }
            Ok(link) => {
                self.peers.edit(to, |peer| {
                    peer.link = Some(Rc::clone(&link));
                    peer.pause = Duration::ZERO;
                });
                if lane == Lane::Urgent {
                    self.notify(Event::PeerUp { target });
                }
                let error = self.read_answers(target, &link).await;
                link.close();
                error
            }
            Err(error) => error,
        };
        tracing::debug!(peer = target.0, %address, %error, "connection to member ended");
        let waits = self.config.timeouts;
        let now = self.now();
        self.peers.edit(to, |peer| {
            peer.link = None;
            peer.connecting = false;
            peer.pause = (peer.pause * 2).clamp(waits.reconnect, waits.silence);
            peer.not_before = now.after(peer.pause);
        });
        let refused = matches!(error, NetError::Refused(_));
        self.notify(Event::PeerLost { target, refused });
    }

    async fn read_answers(&self, target: TargetId, link: &LinkOf<E>) -> NetError {
        loop {
            let event = match link.receive().await {
                Ok(frame) if frame.header.kind == Kind::Fetch && is_good(&frame) => {
                    self.fetched(target, &frame)
                }
                Ok(frame) => answer_event(target, &frame),
                Err(error) => return error,
            };
            match event {
                Ok(Some(event)) => self.wakes.push(Wake::Event(event)).await,
                Ok(None) => tracing::debug!(peer = target.0, "unexpected frame from member"),
                Err(error) => return NetError::Broken(error.to_string()),
            }
        }
    }

    /// Cells that a member sent; the store checks them against what it recorded.
    fn fetched(
        &self,
        target: TargetId,
        frame: &Incoming<E::Disk>,
    ) -> Result<Option<Event<Received<E::Disk>>>, MessageError> {
        let reply = FetchReply::decode(&frame.body)?;
        let len = u32::try_from(reply.payload_range().len()).unwrap_or(u32::MAX);
        match self.payload(frame, len) {
            Ok(payload) => {
                let (request, reply) = (frame.header.request, Box::new(reply));
                Ok(Some(Event::Heal(HealEvent::Fetched(target, request, reply, payload))))
            }
            Err(refusal) => {
                let (request, answer) = (frame.header.request, Answer::Refused(refusal.status));
                Ok(Some(Event::Answered { target, request, answer }))
            }
        }
    }

    /// Waits a moment after a failure of the listener.
    pub(super) async fn pause(&self) {
        self.env.clock().sleep(self.config.timeouts.reconnect).await;
    }
}

fn is_good<D: Disk>(frame: &Incoming<D>) -> bool {
    frame.header.response && frame.header.status == Status::Ok
}

fn answer_event<P, D: Disk>(
    target: TargetId,
    frame: &Incoming<D>,
) -> Result<Option<Event<P>>, MessageError> {
    let header = &frame.header;
    if header.kind == Kind::Working && !header.response {
        let notice = WorkingNotice::decode(&frame.body)?;
        return Ok(Some(Event::Working { target, epoch: header.epoch, notice }));
    }
    if !header.response {
        return Ok(None);
    }
    let answer = if header.status != Status::Ok {
        Answer::Refused(header.status)
    } else {
        match header.kind {
            Kind::Replicate => Answer::Replicate(ReplicateReply::decode(&frame.body)?),
            Kind::Adopt => Answer::Adopt(AdoptReply::decode(&frame.body)?),
            Kind::Inventory => Answer::Inventory(InventoryReply::decode(&frame.body)?),
            Kind::Digest => Answer::Digest(DigestReply::decode(&frame.body)?),
            Kind::Discard => DiscardReply::decode(&frame.body).map(|_| Answer::Done)?,
            Kind::Quarantine => QuarantineReply::decode(&frame.body).map(|_| Answer::Done)?,
            Kind::Drop => DropReply::decode(&frame.body).map(|_| Answer::Done)?,
            _ => return Ok(None),
        }
    };
    Ok(Some(Event::Answered { target, request: header.request, answer }))
}

impl<E: Env> Default for Peers<E> {
    fn default() -> Peers<E> {
        Peers { by_target: RefCell::new(BTreeMap::new()) }
    }
}

impl<E: Env> Default for Peer<E> {
    fn default() -> Peer<E> {
        Peer { link: None, connecting: false, not_before: Nanos(0), pause: Duration::ZERO }
    }
}
