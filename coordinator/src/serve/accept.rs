//! From a TCP connection to an authenticated peer.
//!
//! Everything before the hello is bounded in number and time. A peer that is not of this cluster
//! costs one WARN line and its own connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::frame::{FrameError, Header, VERSION};
use protocol::limits::REQUESTS_IN_FLIGHT_MAX;
use protocol::log_budget::LogBudget;
use protocol::message::cluster::{HelloReply, HelloRequest};
use protocol::message::{self, Kind, MessageError};
use protocol::status::Status;
use protocol::tls::{Identity, TlsError, peer_certificate};
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
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
    Message(#[from] MessageError),
    #[error("hello: {0}")]
    Refused(Status),
}

/// Accepts connections until the process ends.
pub async fn run(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let open = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let half_open = Arc::new(Semaphore::new(HALF_OPEN_MAX));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed; trying again shortly");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let permits =
            (Arc::clone(&open).try_acquire_owned(), Arc::clone(&half_open).try_acquire_owned());
        let (Ok(open), Ok(half_open)) = permits else {
            refused(peer, &"too many connections");
            continue;
        };
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let patience = shared.about.patience.handshake;
            let admitted = timeout(patience, admit(stream, &acceptor, &shared)).await;
            drop(half_open);
            match admitted.unwrap_or(Err(Rejected::Slow)) {
                Ok((stream, identity)) => serve(stream, identity, peer, &shared).await,
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
) -> Result<(TlsStream<TcpStream>, Identity), Rejected> {
    stream.set_nodelay(true).map_err(Rejected::Tls)?;
    let mut stream = acceptor.accept(stream).await.map_err(Rejected::Tls)?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = peer_certificate(certificates)?;
    if peer.cluster != shared.about.cluster {
        return Err(Rejected::Cluster);
    }
    hello(&mut stream, shared).await?;
    Ok((stream, peer.identity))
}

/// Reads the first frame and answers it.
async fn hello(stream: &mut TlsStream<TcpStream>, shared: &Shared) -> Result<(), Rejected> {
    let patience = shared.about.patience.frame;
    let header = read_header(stream, patience).await?;
    if header.kind != Kind::Hello {
        return Err(Ended::Frame(FrameError::Kind(header.kind.code())).into());
    }
    let body = read_body(stream, &header, patience).await?;
    let request: HelloRequest = message::open(&header, &body)?;
    let refused = check_hello(&header, &request, shared).err();
    let (reply, body) = match refused {
        None => {
            let requests_in_flight = u32::try_from(REQUESTS_IN_FLIGHT_MAX).unwrap_or(u32::MAX);
            let reply = HelloReply { version: VERSION, features: 0, requests_in_flight };
            message::reply_frame(&header, &reply)
        }
        Some(status) => message::error_frame(&header, status, "coordinator"),
    };
    stream.write_all(&reply.encode()).await.map_err(Ended::Io)?;
    stream.write_all(&body).await.map_err(Ended::Io)?;
    stream.flush().await.map_err(Ended::Io)?;
    refused.map_or(Ok(()), |status| Err(Rejected::Refused(status)))
}

fn check_hello(header: &Header, request: &HelloRequest, shared: &Shared) -> Result<(), Status> {
    let cluster = shared.about.cluster;
    if request.cluster != cluster || header.cluster_tag != cluster.tag() {
        return Err(Status::BadCluster);
    }
    if !(request.version_min..=request.version_max).contains(&VERSION) {
        return Err(Status::BadVersion);
    }
    Ok(())
}

/// Serves one peer until its connection ends.
async fn serve(
    stream: TlsStream<TcpStream>,
    identity: Identity,
    peer: SocketAddr,
    shared: &Arc<Shared>,
) {
    let number = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
    let caller = role::caller(&identity, &shared.about.users);
    let (mut reader, writer) = tokio::io::split(stream);
    let (connection, queue) = Connection::new(number, identity, caller);
    tracing::debug!(%peer, number, identity = ?connection.identity, "connection open");
    let mut writing = tokio::spawn(write_all(writer, queue, shared.about.patience.write));
    let ended = loop {
        // A peer that does not take its answers ends the connection, also while it sends nothing.
        let received = tokio::select! {
            received = connection.receive(&mut reader, shared) => received,
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
    node::connection_ended(&connection, shared).await;
}

async fn write_all(
    writer: WriteHalf<TlsStream<TcpStream>>,
    queue: tokio::sync::mpsc::Receiver<super::connection::Outgoing>,
    patience: Duration,
) -> Option<Ended> {
    write(writer, queue, patience).await.err().map(Ended::Io)
}
