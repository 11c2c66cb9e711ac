//! From a TCP connection to an authenticated peer.
//!
//! Everything before the hello is bounded in number and time. A peer that is not of this cluster
//! costs one WARN line and its own connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::frame::{FrameError, Header};
use protocol::guard::{self, Guard};
use protocol::log_budget::LogBudget;
use protocol::message::Kind;
use protocol::session::FrameReader;
use protocol::session::hello::{self, HelloError};
use protocol::tls::{Identity, TlsError, peer_certificate};
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::{Connection, Ended, read_body, read_header, write};
use super::{Shared, dispatch, node, role};
use crate::clock;
use crate::limits::{CONNECTIONS_MAX, HALF_OPEN_MAX};

/// How long accepting pauses after the system refused a connection, for example for want of file
/// descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a peer was not let in.
#[derive(Debug, thiserror::Error)]
enum Rejected {
    #[error("no TLS 1.3 handshake with a certificate of this cluster: {0}")]
    Tls(std::io::Error),
    #[error("no hello within the time for it")]
    Slow,
    #[error("certificate: {0}")]
    Certificate(#[from] TlsError),
    #[error("certificate is of another cluster")]
    Cluster,
    #[error("hello: {0}")]
    Frame(#[from] Ended),
    #[error("hello: {0}")]
    Hello(HelloError),
}

/// Places for connections: all that are open, and those that have not said hello.
struct Places {
    open: Arc<Semaphore>,
    half_open: Arc<Semaphore>,
}

impl Places {
    fn new() -> Places {
        let (open, half_open) = (Semaphore::new(CONNECTIONS_MAX), Semaphore::new(HALF_OPEN_MAX));
        Places { open: Arc::new(open), half_open: Arc::new(half_open) }
    }

    /// Takes a place of each kind for a new connection; none when one kind is used up.
    fn take(&self) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let open = Arc::clone(&self.open).try_acquire_owned().ok()?;
        let half_open = Arc::clone(&self.half_open).try_acquire_owned().ok()?;
        Some((open, half_open))
    }
}

/// Accepts connections until the process ends.
pub async fn run(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let places = Places::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed; trying again shortly");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some((open, half_open)) = places.take() else {
            refused(peer, &"too many connections");
            continue;
        };
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let patience = shared.about.patience.handshake;
            let admitted = timeout(patience, admit(stream, &acceptor, &shared)).await;
            drop(half_open);
            match admitted.unwrap_or(Err(Rejected::Slow)) {
                Ok((stream, frames, identity)) => {
                    serve((stream, frames), identity, peer, &shared).await;
                }
                Err(reason) => refused(peer, &reason),
            }
            drop(open);
        });
    }
}

/// Says why a peer was not let in, unless too many lines have said such things lately.
fn refused(peer: SocketAddr, reason: &dyn std::fmt::Display) {
    static LINES: LogBudget = LogBudget::new();
    if let Some(suppressed) = LINES.admit(clock::boottime()) {
        tracing::warn!(%peer, %reason, suppressed, "connection refused");
    }
}

async fn admit(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    shared: &Shared,
) -> Result<(TlsStream<TcpStream>, FrameReader, Identity), Rejected> {
    stream.set_nodelay(true).map_err(Rejected::Tls)?;
    let mut stream = acceptor.accept(stream).await.map_err(Rejected::Tls)?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = peer_certificate(certificates)?;
    if guard::holds(Guard::CertificateCluster) && peer.cluster != shared.about.cluster {
        return Err(Rejected::Cluster);
    }
    let mut frames = FrameReader::new(shared.about.cluster.tag());
    greet(&mut stream, &mut frames, shared).await?;
    Ok((stream, frames, peer.identity))
}

/// Reads the first frame and answers it.
async fn greet(
    stream: &mut TlsStream<TcpStream>,
    frames: &mut FrameReader,
    shared: &Shared,
) -> Result<(), Rejected> {
    let patience = shared.about.patience.frame;
    let (answer, rejected) = match first_frame(stream, frames, patience).await {
        Ok((header, body)) => {
            let verdict = hello::check(shared.about.cluster, 0, &header, &body);
            (hello::answer(&header, &verdict), verdict.err().map(Rejected::Hello))
        }
        Err(Ended::Bad(bad)) => (bad.reply(), Some(Ended::Bad(bad).into())),
        Err(ended) => return Err(ended.into()),
    };
    if let Some((header, body)) = answer {
        stream.write_all(&header.encode()).await.map_err(Ended::Io)?;
        stream.write_all(&body).await.map_err(Ended::Io)?;
        stream.flush().await.map_err(Ended::Io)?;
    }
    rejected.map_or(Ok(()), Err)
}

/// Reads a hello, and of anything else no more than the header.
async fn first_frame(
    stream: &mut TlsStream<TcpStream>,
    frames: &mut FrameReader,
    patience: Duration,
) -> Result<(Header, Vec<u8>), Ended> {
    let header = read_header(stream, frames, patience).await?;
    if header.kind != Kind::Hello {
        return Err(FrameError::Kind(header.kind.code()).into());
    }
    let body = read_body(stream, frames, &header, patience).await?;
    Ok((header, body))
}

/// Serves one peer until its connection ends.
async fn serve(
    (stream, mut frames): (TlsStream<TcpStream>, FrameReader),
    identity: Identity,
    peer: SocketAddr,
    shared: &Arc<Shared>,
) {
    let number = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
    let caller = role::caller(&identity, &shared.about.users);
    let (mut reader, writer) = tokio::io::split(stream);
    let (connection, queue) = Connection::new(number, identity, caller);
    tracing::debug!(%peer, number, identity = ?connection.identity, "connection open");
    shared.listeners.add(&connection);
    let mut writing = tokio::spawn(write_all(writer, queue, shared.about.patience.write));
    let patience = shared.about.patience.frame;
    let ended = loop {
        // A peer that does not take its answers ends the connection, also while it sends nothing.
        let received = tokio::select! {
            received = connection.receive(&mut reader, &mut frames, patience) => received,
            stuck = &mut writing => break stuck.unwrap_or(Some(Ended::Closed)),
        };
        match received {
            Ok(incoming) => dispatch::start(incoming, &connection, shared),
            Err(reason) => break Some(reason),
        }
    };
    match ended {
        None | Some(Ended::Closed) => tracing::debug!(%peer, number, "connection closed"),
        Some(reason) => tracing::warn!(%peer, number, %reason, "connection closed"),
    }
    writing.abort();
    shared.listeners.remove(number);
    node::connection_ended(&connection, shared).await;
}

async fn write_all(
    writer: WriteHalf<TlsStream<TcpStream>>,
    queue: tokio::sync::mpsc::Receiver<super::connection::Outgoing>,
    patience: Duration,
) -> Option<Ended> {
    write(writer, queue, patience).await.err().map(Ended::Io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_bounded_before_and_after_their_hello() {
        let places = Places::new();
        let silent: Vec<_> = (0..HALF_OPEN_MAX).map(|_| places.take().unwrap()).collect();
        assert!(places.take().is_none());
        drop(silent);
        let mut admitted: Vec<_> = (0..CONNECTIONS_MAX).map(|_| places.take().unwrap().0).collect();
        assert!(places.take().is_none());
        admitted.pop();
        let (last, _) = places.take().unwrap();
        assert!(places.take().is_none());
        drop(last);
    }
}
