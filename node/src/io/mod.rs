//! The seams: disk, net, clock and randomness, each with a glommio and an in-memory implementation.
//!
//! The store, the groups and the shard are generic over [`Env`], so the code that ships is the code
//! the simulator runs. glommio is named only under `io/glommio/`. Everything here is
//! single-threaded: an `Env` belongs to one shard and never leaves its core.

pub mod buffer;
pub mod glommio;
pub mod memory;

mod no_disk;

use std::future::Future;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use protocol::frame::{FrameError, Header};
use protocol::ids::{NodeId, TargetId};
use protocol::status::Status;

pub use buffer::{Payload, Piece};
pub use no_disk::{NoDisk, PlainBuffer};
pub use protocol::time::Nanos;

/// Memory the device reads from and writes to: its start and capacity are aligned to
/// [`protocol::limits::IO_ALIGN`]. Its contents are unspecified until written.
pub trait Buffer: 'static {
    /// All bytes, up to the capacity.
    fn bytes(&self) -> &[u8];
    /// All bytes, writable: only the one owner fills it, before it is shared.
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// Why the device did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The device or file system reported an error; a short transfer counts as one.
    #[error("device {operation} of {len} bytes at {offset} failed: {reason}")]
    Io {
        /// `read`, `write` or `flush`.
        operation: &'static str,
        /// First byte.
        offset: u64,
        /// Bytes asked for.
        len: usize,
        /// As the system words it.
        reason: String,
    },
    /// The container was closed or the simulated machine lost power.
    #[error("device is closed")]
    Closed,
}

/// One container: a preallocated file or a block device.
///
/// # Durability
/// A write is durable when a [`Disk::flush`] that was started after the write completed has
/// returned. Before that it may survive a crash whole, in part or not at all, in any order.
///
/// # Shape
/// Offsets and lengths are multiples of [`protocol::limits::IO_ALIGN`] and lie within
/// [`Disk::capacity`].
pub trait Disk: 'static {
    /// Memory this device transfers from and to.
    type Buffer: Buffer;
    /// Bytes that a read returned; cheap to clone and to keep.
    type Read: Deref<Target = [u8]> + Clone + 'static;

    /// Size of the container, in bytes.
    fn capacity(&self) -> u64;

    /// Takes a buffer of at least `len` bytes, rounded up to the alignment.
    fn allocate(&self, len: usize) -> Self::Buffer;

    /// Reads exactly `len` bytes.
    ///
    /// # Cancel safety
    /// The buffer stays with the device until the transfer ends.
    async fn read(&self, offset: u64, len: usize) -> Result<Self::Read, DiskError>;

    /// Writes the first `len` bytes of the buffer, without copying them.
    ///
    /// # Cancel safety
    /// The buffer stays with the device until the transfer ends; whether it happened is unknown.
    async fn write(
        &self,
        offset: u64,
        buffer: Rc<Self::Buffer>,
        len: usize,
    ) -> Result<(), DiskError>;

    /// Makes every completed write durable.
    async fn flush(&self) -> Result<(), DiskError>;
}

/// Who is at the other end of a connection, as its certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerIdentity {
    /// A data node.
    Node(NodeId),
    /// A coordinator.
    Coordinator(u32),
    /// A client, by name.
    Client(String),
    /// An administrator, by name.
    Admin(String),
}

/// A frame on its way out. The payload, if any, is sent from where it lies.
pub struct Outgoing<D: Disk> {
    /// Sealed over `body`; [`Header::payload_len`] is the payload's length.
    pub header: Header,
    /// Encoded message.
    pub body: Vec<u8>,
    /// Raw bytes after the body.
    pub payload: Payload<D>,
}

/// A frame that arrived: header and body are checked, the payload is not.
pub struct Incoming<D: Disk> {
    /// The fixed part.
    pub header: Header,
    /// Encoded message.
    pub body: Vec<u8>,
    /// The payload, received straight into memory the device can write from; bytes after
    /// `header.payload_len` up to the alignment are zero.
    pub payload: Option<Rc<D::Buffer>>,
}

/// Why a connection gave no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// The peer refused the connection: it is certainly not running.
    #[error("connection to {0} refused")]
    Refused(SocketAddr),
    /// The connection could not be made or broke.
    #[error("connection failed: {0}")]
    Broken(String),
    /// The peer closed the connection between two frames.
    #[error("connection closed by peer")]
    Closed,
    /// The peer sent something that is not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer's certificate is not one of this cluster, or not the one meant.
    #[error("peer not trusted: {0}")]
    Untrusted(String),
    /// The bounded send queue is full.
    #[error("send queue full")]
    Full,
}

/// One authenticated connection, whose unit is the frame.
pub trait Link<D: Disk>: 'static {
    /// Who is at the other end.
    fn peer(&self) -> &PeerIdentity;

    /// True when payload goes over it unencrypted.
    fn is_clear(&self) -> bool {
        false
    }

    /// Queues a frame; it leaves in order.
    ///
    /// # Errors
    /// [`NetError::Full`] when the bounded queue is full, [`NetError::Closed`] after
    /// [`Link::close`]. Never waits.
    fn send(&self, frame: Outgoing<D>) -> Result<(), NetError>;

    /// Spreads what is sent from now on over time: bytes per second at most, 0 for no limit. Where
    /// time is not real it changes nothing.
    fn spread(&self, _bytes_per_s: u64) {}

    /// Waits for the next frame. One task calls it at a time.
    async fn receive(&self) -> Result<Incoming<D>, NetError>;

    /// Ends the connection; a waiting `receive` returns [`NetError::Closed`].
    fn close(&self);
}

/// The network of one shard.
pub trait Net<D: Disk>: 'static {
    /// Connections it makes.
    type Link: Link<D>;

    /// Connects to the shard that owns `target` on `node` and checks that it is that node.
    async fn connect(
        &self,
        node: NodeId,
        target: TargetId,
        address: SocketAddr,
    ) -> Result<Rc<Self::Link>, NetError>;

    /// Waits for the next inbound connection that finished its handshake.
    async fn accept(&self) -> Result<Rc<Self::Link>, NetError>;
}

/// Time, as a shard sees it.
pub trait Clock: 'static {
    /// Now.
    fn now(&self) -> Nanos;
    /// Seconds since 1970 as the machine believes; for what outlives a process, never for order.
    fn unix_seconds(&self) -> u64;
    /// Processor time that the calling thread has used; zero where time is not real.
    fn cpu_time(&self) -> Duration {
        Duration::ZERO
    }
    /// Waits.
    async fn sleep(&self, duration: Duration);
}

/// Random numbers, as a shard sees them.
pub trait Rng: 'static {
    /// 64 random bits.
    fn next(&self) -> u64;
}

/// Everything a shard needs from outside, bundled, and a way to start tasks on its core.
pub trait Env: Clone + 'static {
    /// Its container.
    type Disk: Disk;
    /// Its network.
    type Net: Net<Self::Disk>;
    /// Its clock.
    type Clock: Clock;
    /// Its randomness.
    type Rng: Rng;

    /// The shard's container.
    fn disk(&self) -> &Rc<Self::Disk>;
    /// The shard's network.
    fn net(&self) -> &Rc<Self::Net>;
    /// The shard's clock.
    fn clock(&self) -> &Self::Clock;
    /// The shard's randomness.
    fn rng(&self) -> &Self::Rng;
    /// Starts a task on this core; it runs until it ends.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
}

impl DiskError {
    /// The status a request that hit this error is answered with.
    pub fn status(&self) -> Status {
        Status::DeviceError
    }
}
