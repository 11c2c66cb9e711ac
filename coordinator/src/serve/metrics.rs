//! The admin port of a coordinator: figures over HTTP and mutual TLS, one request a connection.
//!
//! What a peer can hold is bounded: so many connections, one head, one answer, and a time for each
//! half. Requests and answers are [`protocol::metrics::http`].

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::guard::{self, Guard};
use protocol::ids::ClusterId;
use protocol::limits::{METRICS_CONNECTIONS_MAX, METRICS_TIME_MAX_MS};
use protocol::log_budget::LogBudget;
use protocol::metrics::expose;
use protocol::metrics::http::{self, Head, Refusal};
use protocol::tls::peer_certificate;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Shared;
use crate::clock;
use crate::metrics::{LogCounts, METRICS, Source};

/// How long accepting pauses after the system refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The time of each half of a connection.
const PATIENCE: Duration = Duration::from_millis(METRICS_TIME_MAX_MS);

/// Answers requests until the process ends.
pub async fn run(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    log: Arc<LogCounts>,
) {
    let places = Arc::new(Semaphore::new(METRICS_CONNECTIONS_MAX));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "connection to the admin port not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (acceptor, shared, log) = (acceptor.clone(), Arc::clone(&shared), Arc::clone(&log));
        tokio::spawn(async move {
            let figures = || expose(METRICS, &source(&shared, &log));
            let ended = serve(stream, &acceptor, shared.about.cluster, figures).await;
            // One for all connections: what a stranger can make a process write is bounded.
            static LINES: LogBudget = LogBudget::new();
            if let Err(error) = ended
                && let Some(suppressed) = LINES.admit(clock::boottime())
            {
                tracing::warn!(%peer, %error, suppressed, "connection to the admin port ended");
            }
            drop(place);
        });
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    cluster: ClusterId,
    figures: impl FnOnce() -> String,
) -> io::Result<()> {
    let stream = timeout(PATIENCE, admit(stream, acceptor, cluster)).await??;
    exchange(stream, figures, PATIENCE).await
}

/// Does the handshake and looks at the certificate: any of this cluster may ask.
async fn admit(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    cluster: ClusterId,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = acceptor.accept(stream).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = peer_certificate(certificates).map_err(io::Error::other)?;
    if guard::holds(Guard::CertificateCluster) && peer.cluster != cluster {
        return Err(io::Error::other("certificate is of another cluster"));
    }
    Ok(stream)
}

/// One request, one answer, each within its time.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    figures: impl FnOnce() -> String,
    patience: Duration,
) -> io::Result<()> {
    let asked = timeout(patience, request(&mut stream)).await;
    let bytes = match asked.unwrap_or(Ok(Err(Refusal::Slow)))? {
        Ok(()) => http::figures(&figures()),
        Err(refusal) => http::refused(refusal),
    };
    timeout(patience, answer(&mut stream, &bytes)).await?
}

async fn request<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Result<(), Refusal>> {
    let (mut head, mut piece) = (Head::default(), [0; 1024]);
    loop {
        match stream.read(&mut piece).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            len => {
                if let Some(asked) = head.push(&piece[..len]) {
                    return Ok(asked);
                }
            }
        }
    }
}

/// Sends the answer and waits until the peer has ended: closing before that could take back what
/// it has not read.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await.is_ok_and(|len| len > 0) {}
    Ok(())
}

/// What metrics are read from, as everybody sees it now.
fn source(shared: &Shared, log: &LogCounts) -> Source {
    let view = shared.proposer.view();
    Source {
        coordinator: shared.about.coordinator,
        map: Arc::clone(&view.map),
        counters: view.counters,
        applied: view.applied,
        outlook: shared.board.outlook(),
        recovery_bytes_per_s: shared.health.recovery(clock::boottime()).bytes_per_s,
        log: log.figures(),
        requests: shared.requests.counts(),
        connections: shared.listeners.count(),
        connections_made: shared.connections.load(Ordering::Relaxed),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_head_that_does_not_end_is_told_so_in_time() {
        let (mut ours, theirs) = duplex(4096);
        ours.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
        let served = tokio::spawn(exchange(theirs, || unreachable!(), SHORT));
        let mut said = String::new();
        ours.read_to_string(&mut said).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
        drop(ours);
        served.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (mut ours, theirs) = duplex(64);
        let served = tokio::spawn(exchange(theirs, || "x".repeat(1 << 20), SHORT));
        ours.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
        let error = served.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
