//! A network of frames between simulated processes: ordered links, seeded latency, sudden death.
//!
//! Headers are encoded and decoded and payloads are copied into the receiver's own memory, as a
//! real network would; only TLS is left out, so the identity of a peer is told, not proven. Over a
//! cut way nothing arrives, neither frames nor the end of a connection, until it is joined again.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use node::io::{
    Buffer, Disk, Incoming, Link, Nanos, Net, NetError, Outgoing, Payload, PeerIdentity,
};
use protocol::frame::Header;
use protocol::ids::{NodeId, TargetId};
use protocol::message::Kind;

use super::cut::Cuts;
use super::executor::{Executor, ProcessId};
use super::rng::SimRng;
use super::watch::{Seen, Watch};

/// Shortest and longest time a frame takes, in microseconds.
const LATENCY_US: (u64, u64) = (20, 400);
/// Longest wait for a connection, and time between two attempts at it.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
const CONNECT_RETRY: Duration = Duration::from_millis(50);
/// Frames a link holds before `send` answers [`NetError::Full`].
const LINK_FRAMES_MAX: usize = 1024;

/// Connections after which the closed ones among them are forgotten.
const LINKS_KEPT_MIN: usize = 64;

/// The wires between all processes.
pub struct Fabric<D: Disk> {
    executor: Executor,
    rng: SimRng,
    cuts: Rc<Cuts>,
    listeners: RefCell<BTreeMap<SocketAddr, Listener<D>>>,
    links: RefCell<Vec<Weak<SimLink<D>>>>,
    watch: RefCell<Option<Rc<Watch>>>,
    connections: Cell<u64>,
    /// Connections that were open when the closed ones were last forgotten.
    links_kept: Cell<usize>,
}

struct Listener<D: Disk> {
    process: ProcessId,
    identity: PeerIdentity,
    disk: Rc<D>,
    waiting: Rc<Backlog<D>>,
}

struct Backlog<D: Disk> {
    links: RefCell<VecDeque<Rc<SimLink<D>>>>,
    waker: RefCell<Option<Waker>>,
}

/// The network as one process sees it.
pub struct SimNet<D: Disk> {
    fabric: Rc<Fabric<D>>,
    process: ProcessId,
    identity: PeerIdentity,
    disk: Rc<D>,
    backlog: Rc<Backlog<D>>,
}

/// One end of a connection.
pub struct SimLink<D: Disk> {
    executor: Executor,
    rng: SimRng,
    cuts: Rc<Cuts>,
    watch: Option<Rc<Watch>>,
    /// The same at both ends.
    connection: u64,
    process: ProcessId,
    far_process: ProcessId,
    peer: PeerIdentity,
    disk: Rc<D>,
    other: RefCell<Weak<SimLink<D>>>,
    inbox: RefCell<VecDeque<(Nanos, Flight<D>)>>,
    last_arrival: Cell<Nanos>,
    open: Cell<bool>,
    /// True once this end was closed by its own process.
    closed_here: Cell<bool>,
    /// True once the other end forgot the connection without a word.
    forgotten: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A frame between two processes; its payload lies in the receiver's own memory already.
struct Flight<D: Disk> {
    header: [u8; protocol::limits::HEADER_LEN],
    body: Vec<u8>,
    payload: Option<Rc<D::Buffer>>,
}

impl<D: Disk> Fabric<D> {
    /// Wires without anyone at the ends.
    pub fn new(executor: Executor, rng: SimRng) -> Rc<Fabric<D>> {
        Rc::new(Fabric {
            executor,
            rng,
            cuts: Rc::default(),
            listeners: RefCell::new(BTreeMap::new()),
            links: RefCell::new(Vec::new()),
            watch: RefCell::default(),
            connections: Cell::new(0),
            links_kept: Cell::new(LINKS_KEPT_MIN),
        })
    }

    /// Gives a process its network; with an address, others can connect to it there.
    pub fn attach(
        self: &Rc<Self>,
        process: ProcessId,
        identity: PeerIdentity,
        disk: Rc<D>,
        address: Option<SocketAddr>,
    ) -> Rc<SimNet<D>> {
        let backlog =
            Rc::new(Backlog { links: RefCell::new(VecDeque::new()), waker: RefCell::new(None) });
        if let Some(address) = address {
            let listener = Listener {
                process,
                identity: identity.clone(),
                disk: Rc::clone(&disk),
                waiting: Rc::clone(&backlog),
            };
            self.listeners.borrow_mut().insert(address, listener);
        }
        Rc::new(SimNet { fabric: Rc::clone(self), process, identity, disk, backlog })
    }

    /// Closes every listener and connection of a process, as its death would.
    pub fn sever(&self, process: ProcessId) {
        self.listeners.borrow_mut().retain(|_, listener| listener.process != process);
        let links: Vec<Rc<SimLink<D>>> =
            self.links.borrow().iter().filter_map(Weak::upgrade).collect();
        for link in links.iter().filter(|link| link.process == process) {
            link.close();
        }
        self.links.borrow_mut().retain(|link| link.strong_count() > 0);
    }

    /// Shows every frame to a watch from now on.
    pub fn show(&self, watch: &Rc<Watch>) {
        *self.watch.borrow_mut() = Some(Rc::clone(watch));
    }

    /// Which ways are cut; after a change of it comes [`Fabric::rewire`].
    pub fn cuts(&self) -> &Rc<Cuts> {
        &self.cuts
    }

    /// Lets every connection between two processes notice a change of the cuts; with `reset`, they
    /// are broken and what was on its way is lost.
    pub fn rewire(&self, one: ProcessId, other: ProcessId, reset: bool) {
        for link in self.links_between(one, other) {
            if reset {
                link.inbox.borrow_mut().clear();
                link.open.set(false);
            }
            link.wake();
        }
    }

    /// Breaks every connection between two processes at the end of `one` only: the other end
    /// keeps sending into nothing, and hears nothing, until [`Fabric::notice`].
    pub fn half_open(&self, one: ProcessId, other: ProcessId) {
        let links = self.links_between(one, other);
        for link in links.iter().filter(|link| link.process == other) {
            link.forgotten.set(true);
            link.inbox.borrow_mut().clear();
        }
        for link in links.iter().filter(|link| link.process == one) {
            link.inbox.borrow_mut().clear();
            link.shut();
        }
    }

    /// Lets a process notice which connections the other one has forgotten.
    pub fn notice(&self, one: ProcessId, other: ProcessId) {
        for link in self.links_between(one, other) {
            if link.forgotten.replace(false) {
                link.shut();
            }
        }
    }

    fn links_between(&self, one: ProcessId, other: ProcessId) -> Vec<Rc<SimLink<D>>> {
        let joins = |link: &Rc<SimLink<D>>| {
            let ends = (link.process, link.far_process);
            ends == (one, other) || ends == (other, one)
        };
        self.links.borrow().iter().filter_map(Weak::upgrade).filter(joins).collect()
    }

    fn pair(
        self: &Rc<Self>,
        from: (ProcessId, &PeerIdentity, &Rc<D>),
        to: (ProcessId, &PeerIdentity, &Rc<D>),
    ) -> (Rc<SimLink<D>>, Rc<SimLink<D>>) {
        self.connections.set(self.connections.get() + 1);
        let near = Rc::new(self.end(from.0, to, from.2));
        let far = Rc::new(self.end(to.0, from, to.2));
        *near.other.borrow_mut() = Rc::downgrade(&far);
        *far.other.borrow_mut() = Rc::downgrade(&near);
        let mut links = self.links.borrow_mut();
        if links.len() >= 2 * self.links_kept.get() {
            links.retain(|link| link.strong_count() > 0);
            self.links_kept.set(links.len().max(LINKS_KEPT_MIN));
        }
        links.extend([Rc::downgrade(&near), Rc::downgrade(&far)]);
        (near, far)
    }

    fn end(
        &self,
        process: ProcessId,
        far: (ProcessId, &PeerIdentity, &Rc<D>),
        disk: &Rc<D>,
    ) -> SimLink<D> {
        SimLink {
            executor: self.executor.clone(),
            rng: self.rng.clone(),
            cuts: Rc::clone(&self.cuts),
            watch: self.watch.borrow().clone(),
            connection: self.connections.get(),
            process,
            far_process: far.0,
            peer: far.1.clone(),
            disk: Rc::clone(disk),
            other: RefCell::new(Weak::new()),
            inbox: RefCell::new(VecDeque::new()),
            last_arrival: Cell::new(Nanos(0)),
            open: Cell::new(true),
            closed_here: Cell::new(false),
            forgotten: Cell::new(false),
            waker: RefCell::new(None),
        }
    }
}

impl<D: Disk> SimLink<D> {
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// True while nothing arrives here because the way is cut.
    fn deaf(&self) -> bool {
        self.cuts.severs(self.far_process, self.process)
    }

    /// Waits until `ready`, or until this end is closed here.
    async fn changed(&self, ready: impl Fn() -> bool) {
        std::future::poll_fn(|context| {
            if ready() || self.closed_here.get() {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn shut(&self) {
        self.open.set(false);
        self.wake();
    }

    /// The other end ended, if that can be heard here: with some luck after what it sent last.
    fn end_heard(&self) {
        if self.rng.below(2) == 0 {
            let now = self.executor.now();
            let mut inbox = self.inbox.borrow_mut();
            let cut_short = inbox.iter().filter(|(at, _)| *at > now).filter_map(|(_, flight)| {
                Header::decode(&flight.header)
                    .ok()
                    .filter(|it| it.kind == Kind::Write && !it.response)
            });
            if let (true, Some(watch)) = (cut_short.count() > 0, &self.watch) {
                watch.hit("F1 write never arrives whole");
            }
            inbox.retain(|(at, _)| *at <= now);
        }
        if !self.forgotten.get() {
            self.shut();
        }
    }

    fn arrive(&self, flight: Flight<D>) {
        let (low, high) = LATENCY_US;
        let slow = self.cuts.slowness(self.far_process, self.process).as_micros();
        let slow = u64::try_from(slow).unwrap_or(u64::MAX);
        // Half of the frames take far less than the longest time, as on a busy switch.
        let own = if self.rng.below(2) == 0 { high / 4 } else { high };
        let flown = Duration::from_micros(self.rng.between(low, own) + self.rng.below(slow));
        // Frames of one link never overtake each other.
        let at = self.executor.now().after(flown).max(self.last_arrival.get());
        self.last_arrival.set(at);
        self.inbox.borrow_mut().push_back((at, flight));
        self.wake();
    }

    fn open_flight(flight: Flight<D>) -> Result<Incoming<D>, NetError> {
        let header = Header::decode(&flight.header)?;
        header.check_body(&flight.body)?;
        Ok(Incoming { header, body: flight.body, payload: flight.payload })
    }

    /// Copies a payload into memory of this end's device.
    fn take_over(&self, payload: &Payload<D>) -> Option<Rc<D::Buffer>> {
        if payload.is_empty() {
            return None;
        }
        let mut buffer = self.disk.allocate(payload.len());
        let mut rest = buffer.bytes_mut();
        for run in payload.chunks() {
            let (to, after) = rest.split_at_mut(run.len());
            to.copy_from_slice(run);
            rest = after;
        }
        rest.fill(0);
        Some(Rc::new(buffer))
    }
}

impl<D: Disk> Drop for SimLink<D> {
    /// An end that nobody holds any more, because its process died, is a broken connection.
    fn drop(&mut self) {
        if let Some(other) = self.other.borrow().upgrade() {
            other.end_heard();
        }
    }
}

impl<D: Disk> Link<D> for SimLink<D> {
    fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    fn send(&self, frame: Outgoing<D>) -> Result<(), NetError> {
        let other = self.other.borrow().upgrade();
        if self.forgotten.get() && !self.closed_here.get() {
            return Ok(());
        }
        if !self.deaf() && !self.open.get() || self.closed_here.get() {
            return Err(NetError::Closed);
        }
        let Some(other) = other.filter(|other| other.open.get()) else {
            let unnoticed = self.deaf() || self.cuts.severs(self.process, self.far_process);
            return if unnoticed { Ok(()) } else { Err(NetError::Closed) };
        };
        if other.inbox.borrow().len() >= LINK_FRAMES_MAX {
            return Err(NetError::Full);
        }
        if let Some(watch) = &self.watch {
            watch.on_frame(&Seen {
                from: self.process,
                to: self.far_process,
                connection: self.connection,
                header: &frame.header,
                body: &frame.body,
            });
        }
        let payload = other.take_over(&frame.payload);
        other.arrive(Flight { header: frame.header.encode(), body: frame.body, payload });
        Ok(())
    }

    async fn receive(&self) -> Result<Incoming<D>, NetError> {
        loop {
            if self.closed_here.get() {
                return Err(NetError::Closed);
            }
            let due = self.inbox.borrow().front().map(|(at, _)| *at);
            match due {
                _ if self.deaf() => self.changed(|| !self.deaf()).await,
                Some(at) if at <= self.executor.now() => {
                    let flight = self.inbox.borrow_mut().pop_front();
                    if let Some((_, flight)) = flight {
                        return Self::open_flight(flight);
                    }
                }
                Some(at) => self.executor.until(at).await,
                None if !self.open.get() => return Err(NetError::Closed),
                None => {
                    let news = || !self.open.get() || !self.inbox.borrow().is_empty();
                    self.changed(|| self.deaf() || news()).await;
                }
            }
        }
    }

    fn close(&self) {
        self.closed_here.set(true);
        self.shut();
        let other = self.other.borrow().upgrade();
        if let Some(other) = other {
            other.end_heard();
        }
    }
}

impl<D: Disk> SimNet<D> {
    /// Waits while the way to the listener, or back, is cut.
    async fn reach(&self, address: SocketAddr) -> Result<(), NetError> {
        let fabric = &self.fabric;
        let give_up = fabric.executor.now().after(CONNECT_TIME_MAX);
        let parted = || {
            let listeners = fabric.listeners.borrow();
            let listener = listeners.get(&address);
            listener.is_some_and(|listener| fabric.cuts.parts(self.process, listener.process))
        };
        while parted() {
            if fabric.executor.now() >= give_up {
                return Err(NetError::Broken(format!("{address} does not answer")));
            }
            fabric.executor.sleep(CONNECT_RETRY).await;
        }
        Ok(())
    }
}

impl<D: Disk> Net<D> for SimNet<D> {
    type Link = SimLink<D>;

    async fn connect(
        &self,
        node: NodeId,
        _target: TargetId,
        address: SocketAddr,
    ) -> Result<Rc<SimLink<D>>, NetError> {
        let (low, high) = LATENCY_US;
        let flown = Duration::from_micros(self.fabric.rng.between(low, high));
        self.fabric.executor.sleep(flown).await;
        self.reach(address).await?;
        let (near, far, backlog) = {
            let listeners = self.fabric.listeners.borrow();
            let Some(listener) = listeners.get(&address) else {
                return Err(NetError::Refused(address));
            };
            if listener.identity != PeerIdentity::Node(node) {
                return Err(NetError::Untrusted(format!("{address} is not node {node}")));
            }
            let (near, far) = self.fabric.pair(
                (self.process, &self.identity, &self.disk),
                (listener.process, &listener.identity, &listener.disk),
            );
            (near, far, Rc::clone(&listener.waiting))
        };
        backlog.links.borrow_mut().push_back(far);
        if let Some(waker) = backlog.waker.borrow_mut().take() {
            waker.wake();
        }
        Ok(near)
    }

    async fn accept(&self) -> Result<Rc<SimLink<D>>, NetError> {
        std::future::poll_fn(|context| match self.backlog.links.borrow_mut().pop_front() {
            Some(link) => Poll::Ready(Ok(link)),
            None => {
                *self.backlog.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}
