//! One authenticated connection: reads frames, starts their work, writes what is ready.
//!
//! Reading stops while a limit is reached, so a peer that asks too much or does not take its
//! answers is slowed down by its own connection and by nothing else.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use protocol::frame::{FrameError, Header};
use protocol::limits::{BODY_LEN_MAX, HEADER_LEN, REQUESTS_IN_FLIGHT_MAX};
use protocol::message::Kind;
use protocol::message::command::Caller;
use protocol::session::{BadFrame, FrameReader};
use protocol::tls::Identity;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use crate::limits::{FRAME_RATE_MIN, LONG_PER_CONNECTION_MAX, WRITE_GATHER_MAX, WRITE_QUEUE_MAX};

/// Who is at the other end, and how to write to it.
pub(super) struct Connection {
    /// Number of the connection, for log lines.
    pub(super) number: u64,
    /// From the certificate.
    pub(super) identity: Identity,
    /// The user it acts as.
    pub(super) caller: Caller,
    /// Frames on their way out.
    pub(super) outgoing: mpsc::Sender<Outgoing>,
    in_flight: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

/// A frame on its way out, and what is free again once it was written.
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    _permits: Permits,
}

/// What a request holds until its answer was written.
#[derive(Default)]
pub(super) struct Permits {
    _in_flight: Option<OwnedSemaphorePermit>,
    _long: Option<OwnedSemaphorePermit>,
}

/// A whole request frame.
pub(super) struct Incoming {
    /// Its header.
    pub(super) header: Header,
    /// Its body, which matches its checksum.
    pub(super) body: Vec<u8>,
    /// Held until it is answered.
    pub(super) permits: Permits,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// The peer closed it between two frames.
    #[error("closed by the peer")]
    Closed,
    /// What came is not a frame.
    #[error(transparent)]
    Bad(#[from] BadFrame),
    /// The frame is not one that belongs here.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The rest of a frame did not come in time.
    #[error("the rest of a frame did not arrive in time")]
    Slow,
    /// The transport failed.
    #[error("transport: {0}")]
    Io(io::Error),
}

impl Connection {
    /// Makes the connection and the queue its writer empties.
    pub(super) fn new(
        number: u64,
        identity: Identity,
        caller: Caller,
    ) -> (Arc<Connection>, mpsc::Receiver<Outgoing>) {
        let (outgoing, queue) = mpsc::channel(WRITE_QUEUE_MAX);
        let in_flight = Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT_MAX));
        let long = Arc::new(Semaphore::new(LONG_PER_CONNECTION_MAX));
        let connection = Connection { number, identity, caller, outgoing, in_flight, long };
        (Arc::new(connection), queue)
    }

    /// Puts a frame into the writer's queue; waits while it is full.
    ///
    /// # Cancel safety
    /// Nothing was queued.
    pub(super) async fn send(&self, header: &Header, body: &[u8], permits: Permits) {
        let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(body);
        // An error means that the connection has ended: there is nobody to tell.
        let _ = self.outgoing.send(Outgoing { bytes, _permits: permits }).await;
    }

    /// Puts a frame into the writer's queue; false when it is full or the connection has ended.
    pub(super) fn send_at_once(&self, header: &Header, body: &[u8]) -> bool {
        let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(body);
        let outgoing = Outgoing { bytes, _permits: Permits::default() };
        self.outgoing.try_send(outgoing).is_ok()
    }

    /// Reads the next request; waits while too many are in flight.
    pub(super) async fn receive<R: AsyncRead + Unpin>(
        &self,
        reader: &mut R,
        frames: &mut FrameReader,
        patience: Duration,
    ) -> Result<Incoming, Ended> {
        let in_flight = acquire(&self.in_flight).await;
        let header = read_header(reader, frames, patience).await?;
        if header.response {
            return Err(FrameError::Kind(header.kind.code()).into());
        }
        let long = if is_long(&header) { acquire(&self.long).await } else { None };
        let body = read_body(reader, frames, &header, patience).await?;
        let permits = Permits { _in_flight: in_flight, _long: long };
        Ok(Incoming { header, body, permits })
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

/// Reads as far as the end of a header; waits without limit for its first byte, and not long for
/// the rest. The header is then [`FrameReader::header`].
pub(super) async fn read_header<R: AsyncRead + Unpin>(
    reader: &mut R,
    frames: &mut FrameReader,
    patience: Duration,
) -> Result<Header, Ended> {
    let first = match reader.read(frames.space()).await {
        Ok(0) => return Err(Ended::Closed),
        Ok(first) => first,
        // A process that ends says no goodbye; between two frames nothing is lost with it.
        Err(error) if is_hang_up(&error) => return Err(Ended::Closed),
        Err(error) => return Err(Ended::Io(error)),
    };
    frames.filled(first)?;
    let rest = async {
        loop {
            if let Some(header) = frames.header() {
                return Ok(*header);
            }
            read_some(reader, frames).await?;
        }
    };
    timeout(patience, rest).await.unwrap_or(Err(Ended::Slow))
}

/// Reads the body of the frame whose header was read; requests to a coordinator have no payload.
pub(super) async fn read_body<R: AsyncRead + Unpin>(
    reader: &mut R,
    frames: &mut FrameReader,
    header: &Header,
    patience: Duration,
) -> Result<Vec<u8>, Ended> {
    if header.payload_len != 0 {
        return Err(FrameError::PayloadLen(header.payload_len).into());
    }
    let transfer = Duration::from_millis(1000 * u64::from(header.body_len) / FRAME_RATE_MIN);
    let rest = async {
        loop {
            if let Some(frame) = frames.take()? {
                return Ok(frame.body);
            }
            read_some(reader, frames).await?;
        }
    };
    timeout(patience + transfer, rest).await.unwrap_or(Err(Ended::Slow))
}

async fn read_some<R: AsyncRead + Unpin>(
    reader: &mut R,
    frames: &mut FrameReader,
) -> Result<(), Ended> {
    match reader.read(frames.space()).await.map_err(Ended::Io)? {
        0 => Err(FrameError::Truncated.into()),
        len => Ok(frames.filled(len)?),
    }
}

/// Writes frames until the queue ends; several that wait go out together.
///
/// # Errors
/// What the transport says, or `TimedOut` when the peer takes nothing.
pub(super) async fn write<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut queue: mpsc::Receiver<Outgoing>,
    patience: Duration,
) -> io::Result<()> {
    while let Some(first) = queue.recv().await {
        let mut gathered = first;
        let mut written = Vec::new();
        while gathered.bytes.len() < WRITE_GATHER_MAX {
            let Ok(next) = queue.try_recv() else { break };
            gathered.bytes.extend_from_slice(&next.bytes);
            written.push(next);
        }
        let mut at = 0;
        while at < gathered.bytes.len() {
            let step = timeout(patience, writer.write(&gathered.bytes[at..])).await??;
            if step == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += step;
        }
        timeout(patience, writer.flush()).await??;
    }
    timeout(patience, writer.shutdown()).await?
}

/// True when the request or its answer may take much memory.
fn is_long(header: &Header) -> bool {
    let long_answer =
        matches!(header.kind, Kind::Lookup | Kind::ReadDir | Kind::MapFetch | Kind::Status);
    long_answer || header.body_len as usize > BODY_LEN_MAX
}

async fn acquire(semaphore: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    // The semaphores are never closed, so there is always a permit in the end.
    Arc::clone(semaphore).acquire_owned().await.ok()
}

#[cfg(test)]
mod tests {
    use protocol::ids::RequestId;
    use tokio::io::duplex;

    use super::*;
    use crate::serve::role::NOBODY;

    const SHORT: Duration = Duration::from_millis(50);

    fn connection() -> (Arc<Connection>, mpsc::Receiver<Outgoing>) {
        let caller = Caller { uid: NOBODY, gid: NOBODY, admin: false };
        Connection::new(1, Identity::Client("slow".into()), caller)
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_ends_the_writer() {
        let (ours, theirs) = duplex(100);
        let (connection, queue) = connection();
        let header = Header::new(Kind::Status, RequestId(1));
        connection.send(&header, &[0; 1000], Permits::default()).await;
        let error = write(ours, queue, SHORT).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(theirs);
    }

    #[tokio::test]
    async fn the_rest_of_a_frame_must_come_in_time_but_its_first_byte_need_not() {
        let (mut ours, mut theirs) = duplex(4096);
        let mut frames = FrameReader::new(0);
        let waiting = timeout(2 * SHORT, read_header(&mut theirs, &mut frames, SHORT)).await;
        assert!(waiting.is_err(), "an idle connection is no slow one");
        let header = Header::new(Kind::Status, RequestId(1)).seal(&[7; 100], 0);
        ours.write_all(&header.encode()[..10]).await.unwrap();
        let slow = read_header(&mut theirs, &mut frames, SHORT).await;
        assert!(matches!(slow, Err(Ended::Slow)));
        ours.write_all(&header.encode()[10..]).await.unwrap();
        let read = read_header(&mut theirs, &mut frames, SHORT).await.unwrap();
        assert_eq!(read, header);
        ours.write_all(&[7; 99]).await.unwrap();
        let slow = read_body(&mut theirs, &mut frames, &header, SHORT).await;
        assert!(matches!(slow, Err(Ended::Slow)));
    }

    #[tokio::test]
    async fn requests_in_flight_are_bounded_and_free_again_when_answered() {
        let (connection, mut queue) = connection();
        let mut held = Vec::new();
        for _ in 0..REQUESTS_IN_FLIGHT_MAX {
            held.push(acquire(&connection.in_flight).await);
        }
        assert!(timeout(SHORT, acquire(&connection.in_flight)).await.is_err());
        let permits = Permits { _in_flight: held.pop().flatten(), _long: None };
        connection.send(&Header::new(Kind::Status, RequestId(1)), &[], permits).await;
        assert!(timeout(SHORT, acquire(&connection.in_flight)).await.is_err(), "not yet written");
        drop(queue.recv().await);
        assert!(acquire(&connection.in_flight).await.is_some());
    }

    #[tokio::test]
    async fn answers_wait_for_a_writer_that_is_behind() {
        let (connection, mut queue) = connection();
        let header = Header::new(Kind::Status, RequestId(1));
        for _ in 0..WRITE_QUEUE_MAX {
            connection.send(&header, &[], Permits::default()).await;
        }
        let mut next = Box::pin(connection.send(&header, &[], Permits::default()));
        assert!(timeout(SHORT, &mut next).await.is_err());
        queue.recv().await.unwrap();
        next.await;
        assert_eq!(queue.len(), WRITE_QUEUE_MAX);
    }

    #[tokio::test]
    async fn long_requests_have_a_bound_of_their_own() {
        let (connection, _queue) = connection();
        let mut held = Vec::new();
        for _ in 0..LONG_PER_CONNECTION_MAX {
            held.push(acquire(&connection.long).await);
        }
        assert!(timeout(SHORT, acquire(&connection.long)).await.is_err());
        let of = |kind, len| is_long(&Header { body_len: len, ..Header::new(kind, RequestId(1)) });
        assert!(of(Kind::ReadDir, 10) && of(Kind::Mutate, (64 << 10) + 1));
        assert!(!of(Kind::Mutate, 64 << 10) && !of(Kind::Heartbeat, 100));
    }
}
