//! The network of one executor: its own port, its own connections.
//!
//! Limits before authentication are kept here: how many connections may be between accept and the
//! end of the handshake, and how long they may stay there.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;
use std::{fmt, io};

use futures_lite::future;
use glommio::net::{TcpListener, TcpStream};
use protocol::frame::Header;
use protocol::guard::{self, Guard};
use protocol::ids::{ClusterId, NodeId, TargetId};
use protocol::log_budget::LogBudget;
use protocol::session::hello::{self, FEATURE_CLEAR};
use protocol::tls::{Identity, peer_certificate, server_name};
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::clock::BootClock;
use super::link::{Core, GlommioLink};
use super::tls::{Wire, socket};
use crate::config::ClearNetworks;
use crate::io::{Clock, Disk, Link, Net, NetError, Outgoing, Payload, PeerIdentity};
use crate::limits::{
    CONNECT_TIME_MAX_MS, CONNECTIONS_MAX, HALF_OPEN_MAX, HANDSHAKE_TIME_MAX_MS, RECEIVE_SLICE,
    SOCKET_SEND_BUFFER, SWEEP_PERIOD_MS,
};

/// Target of the lines that an audit asks for.
const AUDIT: &str = "audit";

/// Ciphertext on its way from a socket to the TLS state, shared by all connections of an executor.
pub(super) type Scratch = Rc<RefCell<Box<[u8]>>>;

/// What both sides of every handshake present and demand.
#[derive(Clone, Debug)]
pub struct TlsConfigs {
    /// For connections made by peers.
    pub server: Arc<ServerConfig>,
    /// For connections made from here.
    pub client: Arc<ClientConfig>,
    /// Where payload may go unencrypted.
    pub clear: ClearNetworks,
}

/// What has happened on the port since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Connections that finished handshake and hello.
    pub accepted: u64,
    /// Connections closed because too many were in handshake.
    pub refused_half_open: u64,
    /// Connections closed because too many were open.
    pub refused_full: u64,
    /// Connections that did not speak TLS or had no certificate of this cluster.
    pub refused_untrusted: u64,
    /// Connections that took too long for handshake and hello, or ended in it.
    pub refused_unfinished: u64,
}

/// The network of one executor.
pub struct GlommioNet<D: Disk> {
    inner: Rc<Inner<D>>,
}

struct Inner<D: Disk> {
    cluster: ClusterId,
    tls: TlsConfigs,
    disk: Rc<D>,
    scratch: Scratch,
    counters: Cell<NetCounters>,
    half_open: Cell<usize>,
    accepted: RefCell<VecDeque<Accepted<D>>>,
    acceptor: Cell<Option<Waker>>,
    connections: RefCell<Vec<Weak<Core<D>>>>,
    stopped: Cell<bool>,
    listener: Cell<Option<Waker>>,
}

/// A connection nobody has taken yet, and the place it holds until then.
struct Accepted<D: Disk> {
    link: Rc<GlommioLink<D>>,
    place: HalfOpen<D>,
}

/// A place among the connections that are not taken yet; given back when dropped.
struct HalfOpen<D: Disk>(Rc<Inner<D>>);

impl<D: Disk> Drop for HalfOpen<D> {
    fn drop(&mut self) {
        self.0.half_open.set(self.0.half_open.get() - 1);
    }
}

impl<D: Disk> GlommioNet<D> {
    /// Makes the network of the executor this is called on; it has no port yet.
    pub fn new(cluster: ClusterId, tls: TlsConfigs, disk: Rc<D>) -> GlommioNet<D> {
        let inner = Rc::new(Inner {
            cluster,
            tls,
            disk,
            scratch: Rc::new(RefCell::new(vec![0; RECEIVE_SLICE].into_boxed_slice())),
            counters: Cell::default(),
            half_open: Cell::new(0),
            accepted: RefCell::default(),
            acceptor: Cell::default(),
            connections: RefCell::default(),
            stopped: Cell::new(false),
            listener: Cell::default(),
        });
        glommio::spawn_local(sweep(Rc::downgrade(&inner))).detach();
        GlommioNet { inner }
    }

    /// Binds the port and starts to accept. Returns the address, with the port the system chose
    /// when `address` has port 0.
    ///
    /// # Errors
    /// When the port cannot be bound. A port another process listens on is not noticed here,
    /// because the runtime shares ports: see [`crate::boot`].
    pub fn listen(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).map_err(io::Error::from)?;
        let bound = listener.local_addr().map_err(io::Error::from)?;
        glommio::spawn_local(accept_all(Rc::clone(&self.inner), listener)).detach();
        Ok(bound)
    }

    /// What has happened on the port.
    pub fn counters(&self) -> NetCounters {
        self.inner.counters.get()
    }

    /// Open connections, in both directions.
    pub fn connections(&self) -> usize {
        self.inner.connections.borrow().len()
    }

    /// Stops accepting; connections stay.
    pub fn stop(&self) {
        self.inner.stopped.set(true);
        if let Some(waker) = self.inner.listener.take() {
            waker.wake();
        }
        // Nobody comes any more, so who waits for the next connection need not wait any longer.
        self.inner.acceptor.take();
        self.inner.accepted.borrow_mut().clear();
    }

    /// Connects to any process of the cluster and checks that it is the one that is meant.
    ///
    /// # Errors
    /// [`NetError::Refused`] when nobody listens there, [`NetError::Untrusted`] when somebody else
    /// does.
    ///
    /// # Cancel safety
    /// The connection is closed.
    pub async fn connect_to(
        &self,
        identity: &Identity,
        target: TargetId,
        address: SocketAddr,
    ) -> Result<Rc<GlommioLink<D>>, NetError> {
        let limit = Duration::from_millis(CONNECT_TIME_MAX_MS);
        let stream = TcpStream::connect_timeout(address, limit)
            .await
            .map_err(|error| unreachable_peer(error.into(), address))?;
        let work = self.inner.introduce(stream, identity, target, address);
        let late = async {
            glommio::timer::sleep(Duration::from_millis(HANDSHAKE_TIME_MAX_MS)).await;
            Err(NetError::Broken(format!("{address} does not finish the handshake")))
        };
        future::or(work, late).await
    }
}

impl<D: Disk> Drop for GlommioNet<D> {
    fn drop(&mut self) {
        self.stop();
        let connections = self.inner.connections.take();
        for core in connections.iter().filter_map(Weak::upgrade) {
            core.cut();
        }
    }
}

impl<D: Disk> Net<D> for GlommioNet<D> {
    type Link = GlommioLink<D>;

    async fn connect(
        &self,
        node: NodeId,
        target: TargetId,
        address: SocketAddr,
    ) -> Result<Rc<GlommioLink<D>>, NetError> {
        self.connect_to(&Identity::Node(node), target, address).await
    }

    async fn accept(&self) -> Result<Rc<GlommioLink<D>>, NetError> {
        poll_fn(|context| match self.inner.accepted.borrow_mut().pop_front() {
            Some(Accepted { link, place }) => {
                drop(place);
                Poll::Ready(Ok(link))
            }
            None => {
                self.inner.acceptor.set(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

impl<D: Disk> Inner<D> {
    fn core(&self, stream: TcpStream, tls: rustls::Connection, address: SocketAddr) -> Rc<Core<D>> {
        let wire = (Wire::new(stream, tls), address);
        let (disk, scratch) = (Rc::clone(&self.disk), Rc::clone(&self.scratch));
        let core = Core::new(wire, self.cluster, disk, scratch);
        self.connections.borrow_mut().push(Rc::downgrade(&core));
        core
    }

    fn count(&self, count: impl FnOnce(&mut NetCounters)) {
        let mut counters = self.counters.get();
        count(&mut counters);
        self.counters.set(counters);
    }

    fn peer(&self, core: &Core<D>) -> Result<Identity, NetError> {
        let certificate = core
            .certificates(peer_certificate)
            .map_err(|error| NetError::Untrusted(error.to_string()))?;
        if certificate.cluster == self.cluster || !guard::holds(Guard::CertificateCluster) {
            Ok(certificate.identity)
        } else {
            Err(NetError::Untrusted(format!("certificate of cluster {}", certificate.cluster)))
        }
    }

    /// Features of a connection with this address that are wanted here.
    fn features(&self, address: SocketAddr) -> u64 {
        if self.tls.clear.contains(address.ip()) { FEATURE_CLEAR } else { 0 }
    }

    /// The client's half of a connection: handshake, identity, hello.
    async fn introduce(
        &self,
        stream: TcpStream,
        identity: &Identity,
        target: TargetId,
        address: SocketAddr,
    ) -> Result<Rc<GlommioLink<D>>, NetError> {
        tune(&stream).map_err(|error| NetError::Broken(error.to_string()))?;
        let name = server_name(self.cluster, identity);
        let tls = ClientConnection::new(Arc::clone(&self.tls.client), name)
            .map_err(|error| NetError::Untrusted(error.to_string()))?;
        let core = self.core(stream, tls.into(), address);
        core.handshake().await?;
        let peer = self.peer(&core)?;
        if peer != *identity {
            return Err(NetError::Untrusted(format!("{address} is {peer:?}, not {identity:?}")));
        }
        let link = core.into_link(identify(peer));
        let wanted = self.features(address);
        link.send(bare(hello::request(self.cluster, target, wanted)))?;
        let reply = link.receive().await?;
        let agreed = hello::accept(&reply.header, &reply.body)
            .map_err(|error| NetError::Untrusted(error.to_string()))?;
        if agreed.features & wanted & FEATURE_CLEAR != 0 {
            link.leave_tls()?;
            audit_clear(&link, address);
        }
        Ok(link)
    }

    /// The server's half of a connection: handshake, identity, hello.
    async fn welcome(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<Rc<GlommioLink<D>>, NetError> {
        tune(&stream).map_err(|error| NetError::Broken(error.to_string()))?;
        let tls = ServerConnection::new(Arc::clone(&self.tls.server))
            .map_err(|error| NetError::Untrusted(error.to_string()))?;
        let core = self.core(stream, tls.into(), address);
        core.handshake().await?;
        let peer = identify(self.peer(&core)?);
        let link = core.into_link(peer);
        let first = link.receive().await?;
        let verdict =
            hello::check(self.cluster, self.features(address), &first.header, &first.body);
        if let Some(answer) = hello::answer(&first.header, &verdict) {
            link.send(bare(answer))?;
        }
        match verdict {
            Ok(agreed) => {
                if agreed.features & FEATURE_CLEAR != 0 {
                    link.leave_tls_when_sent();
                    audit_clear(&link, address);
                }
                Ok(link)
            }
            Err(error) => {
                link.close();
                Err(NetError::Untrusted(error.to_string()))
            }
        }
    }
}

/// Accepts until the network is stopped.
async fn accept_all<D: Disk>(inner: Rc<Inner<D>>, listener: TcpListener) {
    while let Some(accepted) = future::or(accept_one(&listener), stopped(&inner)).await {
        match accepted {
            Ok((stream, address)) => take_in(&inner, stream, address),
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                // The usual cause is the limit of open files, and only time gives some back.
                glommio::timer::sleep(Duration::from_millis(SWEEP_PERIOD_MS)).await;
            }
        }
    }
}

async fn accept_one(listener: &TcpListener) -> Option<io::Result<(TcpStream, SocketAddr)>> {
    let accepted = listener.accept().await.and_then(|stream| {
        let address = stream.peer_addr()?;
        Ok((stream, address))
    });
    Some(accepted.map_err(io::Error::from))
}

async fn stopped<D: Disk, T>(inner: &Inner<D>) -> Option<T> {
    poll_fn(|context| {
        if inner.stopped.get() {
            return Poll::Ready(None);
        }
        inner.listener.set(Some(context.waker().clone()));
        Poll::Pending
    })
    .await
}

/// Counts a connection that there is no room for; false when there is, beside so many others.
fn is_too_many(counters: &mut NetCounters, half_open: usize, open: usize) -> bool {
    let (in_handshake, full) = (half_open >= HALF_OPEN_MAX, open >= CONNECTIONS_MAX);
    if in_handshake {
        counters.refused_half_open += 1;
    } else if full {
        counters.refused_full += 1;
    }
    in_handshake || full
}

/// Starts the handshake of one connection, unless there are too many.
fn take_in<D: Disk>(inner: &Rc<Inner<D>>, stream: TcpStream, address: SocketAddr) {
    let (half_open, open) = (inner.half_open.get(), inner.connections.borrow().len());
    let mut counters = inner.counters.get();
    let refused = is_too_many(&mut counters, half_open, open);
    inner.counters.set(counters);
    if refused {
        return;
    }
    inner.half_open.set(inner.half_open.get() + 1);
    let place = HalfOpen(Rc::clone(inner));
    glommio::spawn_local(async move {
        let inner = Rc::clone(&place.0);
        let late = async {
            glommio::timer::sleep(Duration::from_millis(HANDSHAKE_TIME_MAX_MS)).await;
            Err(NetError::Broken("handshake takes too long".to_owned()))
        };
        match future::or(inner.welcome(stream, address), late).await {
            Ok(link) => inner.hand_over(link, place),
            Err(error) => inner.turn_away(address, &error),
        }
    })
    .detach();
}

impl<D: Disk> Inner<D> {
    fn hand_over(&self, link: Rc<GlommioLink<D>>, place: HalfOpen<D>) {
        if self.stopped.get() {
            return;
        }
        self.count(|counters| counters.accepted += 1);
        self.accepted.borrow_mut().push_back(Accepted { link, place });
        if let Some(waker) = self.acceptor.take() {
            waker.wake();
        }
    }

    fn turn_away(&self, address: SocketAddr, error: &NetError) {
        if matches!(error, NetError::Untrusted(_) | NetError::Frame(_)) {
            self.count(|counters| counters.refused_untrusted += 1);
        } else {
            self.count(|counters| counters.refused_unfinished += 1);
        }
        // One for all executors: what a stranger can make a process write is bounded.
        static LINES: LogBudget = LogBudget::new();
        if let Some(suppressed) = LINES.admit(BootClock.now()) {
            tracing::warn!(peer = %address, reason = %error, suppressed, "connection refused");
        }
    }
}

/// Looks at every connection's deadlines, until the network is gone.
async fn sweep<D: Disk>(inner: Weak<Inner<D>>) {
    loop {
        glommio::timer::sleep(Duration::from_millis(SWEEP_PERIOD_MS)).await;
        let Some(inner) = inner.upgrade() else { return };
        let lives = |core: &Weak<Core<D>>| core.upgrade().is_some_and(|core| core.sweep());
        inner.connections.borrow_mut().retain(lives);
    }
}

/// A frame without payload.
fn bare<D: Disk>((header, body): (Header, Vec<u8>)) -> Outgoing<D> {
    Outgoing { header, body, payload: Payload::empty() }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true).map_err(io::Error::from)?;
    set_socket_send_buffer_size(socket(stream), SOCKET_SEND_BUFFER).map_err(Into::into)
}

fn unreachable_peer(error: io::Error, address: SocketAddr) -> NetError {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        NetError::Refused(address)
    } else {
        NetError::Broken(format!("{address}: {error}"))
    }
}

/// Leaves a line for whoever audits which connections carried payload that was not encrypted.
fn audit_clear<D: Disk>(link: &GlommioLink<D>, address: SocketAddr) {
    let peer = link.peer();
    tracing::info!(target: AUDIT, ?peer, %address, "payload of this connection is not encrypted");
}

fn identify(identity: Identity) -> PeerIdentity {
    match identity {
        Identity::Node(node) => PeerIdentity::Node(node),
        Identity::Coordinator(coordinator) => PeerIdentity::Coordinator(coordinator.0),
        Identity::Client(name) => PeerIdentity::Client(name),
        Identity::Admin(name) => PeerIdentity::Admin(name),
    }
}

impl<D: Disk> fmt::Debug for GlommioNet<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GlommioNet").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_bounded_in_handshake_and_open_and_counted_apart() {
        let refused = |half_open, open| {
            let mut counters = NetCounters::default();
            let refused = is_too_many(&mut counters, half_open, open);
            (refused, counters.refused_half_open, counters.refused_full)
        };
        assert_eq!(refused(HALF_OPEN_MAX - 1, CONNECTIONS_MAX - 1), (false, 0, 0));
        assert_eq!(refused(HALF_OPEN_MAX, 0), (true, 1, 0));
        assert_eq!(refused(0, CONNECTIONS_MAX), (true, 0, 1));
    }
}
