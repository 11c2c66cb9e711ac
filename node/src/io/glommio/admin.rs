//! The admin port of a node: figures over HTTP and mutual TLS, one request a connection.
//!
//! Runs on the control executor, so no shard waits for it. What a peer can hold is bounded: so many
//! connections, one head, one answer, and a time for each half. Requests and answers are
//! [`protocol::metrics::http`].

use std::cell::Cell;
use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use glommio::net::{TcpListener, TcpStream};
use protocol::guard::{self, Guard};
use protocol::ids::ClusterId;
use protocol::limits::{METRICS_CONNECTIONS_MAX, METRICS_TIME_MAX_MS};
use protocol::log_budget::LogBudget;
use protocol::metrics::http::{self, Head, Refusal};
use protocol::tls::peer_certificate;
use rustls::{ServerConfig, ServerConnection};

use super::clock::BootClock;
use crate::io::Clock;
use crate::limits::SWEEP_PERIOD_MS;

/// Ciphertext taken from a socket at a time, and plaintext sealed at a time.
const SLICE: usize = 16 << 10;

/// A port that tells figures to members of the cluster.
pub struct AdminPort {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    cluster: ClusterId,
    open: Rc<Cell<usize>>,
}

/// A place among the open connections; given back when dropped.
struct Place(Rc<Cell<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl AdminPort {
    /// Binds the port on the executor this is called on.
    ///
    /// # Errors
    /// When it cannot be bound. One that another process listens on is not noticed here, because
    /// the runtime shares ports: see [`crate::boot`].
    pub fn listen(
        address: SocketAddr,
        tls: Arc<ServerConfig>,
        cluster: ClusterId,
    ) -> io::Result<AdminPort> {
        let listener = TcpListener::bind(address).map_err(io::Error::from)?;
        Ok(AdminPort { listener, tls, cluster, open: Rc::default() })
    }

    /// Where it listens, with the port the system chose when it was asked for any.
    ///
    /// # Errors
    /// As the system words them.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr().map_err(io::Error::from)
    }

    /// Answers requests with what `figures` returns, for ever.
    ///
    /// # Cancel safety
    /// Nobody is accepted any more; answers under way still leave.
    pub async fn serve(&self, figures: Rc<dyn Fn() -> String>) {
        loop {
            let stream = match self.listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "connection to the admin port not accepted");
                    glommio::timer::sleep(Duration::from_millis(SWEEP_PERIOD_MS)).await;
                    continue;
                }
            };
            let Some(place) = self.place() else { continue };
            let (tls, cluster, figures) =
                (Arc::clone(&self.tls), self.cluster, Rc::clone(&figures));
            glommio::spawn_local(async move {
                if let Err(error) = answer(stream, tls, cluster, &*figures).await {
                    note(&error);
                }
                drop(place);
            })
            .detach();
        }
    }

    fn place(&self) -> Option<Place> {
        let open = self.open.get();
        (open < METRICS_CONNECTIONS_MAX).then(|| {
            self.open.set(open + 1);
            Place(Rc::clone(&self.open))
        })
    }
}

/// One for all connections: what a stranger can make a process write is bounded.
fn note(error: &io::Error) {
    static LINES: LogBudget = LogBudget::new();
    if let Some(suppressed) = LINES.admit(BootClock.now()) {
        tracing::warn!(%error, suppressed, "connection to the admin port ended");
    }
}

async fn answer(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    cluster: ClusterId,
    figures: &dyn Fn() -> String,
) -> io::Result<()> {
    let tls = ServerConnection::new(tls).map_err(io::Error::other)?;
    let mut peer = Peer { stream, tls, slice: vec![0; SLICE].into_boxed_slice() };
    let asked = match in_time(peer.request(cluster)).await {
        Err(late) if late.kind() == ErrorKind::TimedOut && !peer.tls.is_handshaking() => {
            Err(Refusal::Slow)
        }
        asked => asked?,
    };
    let bytes = match asked {
        Ok(()) => http::figures(&figures()),
        Err(refusal) => http::refused(refusal),
    };
    in_time(async {
        peer.send(&bytes).await?;
        peer.end().await
    })
    .await
}

/// Gives work the time that one half of a connection has.
async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = async {
        glommio::timer::sleep(Duration::from_millis(METRICS_TIME_MAX_MS)).await;
        Err(io::Error::new(ErrorKind::TimedOut, "the peer is too slow"))
    };
    future::or(work, late).await
}

/// One connection.
struct Peer {
    stream: TcpStream,
    tls: ServerConnection,
    slice: Box<[u8]>,
}

impl Peer {
    /// Does the handshake, looks at the certificate, and reads the head of the one request.
    async fn request(&mut self, cluster: ClusterId) -> io::Result<Result<(), Refusal>> {
        while self.tls.is_handshaking() {
            self.receive().await?;
        }
        let certificates = self.tls.peer_certificates().unwrap_or_default();
        let certificate = peer_certificate(certificates).map_err(io::Error::other)?;
        if certificate.cluster != cluster && guard::holds(Guard::CertificateCluster) {
            return Err(io::Error::other("certificate is of another cluster"));
        }
        let mut head = Head::default();
        let mut plain = [0; 1024];
        loop {
            match self.tls.reader().read(&mut plain) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    if let Some(asked) = head.push(&plain[..len]) {
                        return Ok(asked);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.receive().await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Receives once, and sends what TLS itself has to say.
    async fn receive(&mut self) -> io::Result<()> {
        let len = self.stream.read(&mut self.slice).await?;
        if len == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut ciphertext = &self.slice[..len];
        while !ciphertext.is_empty() {
            self.tls.read_tls(&mut ciphertext)?;
            if let Err(error) = self.tls.process_new_packets() {
                // The alert is a courtesy: whether it left changes nothing here.
                let _ = self.flush().await;
                return Err(io::Error::other(error));
            }
        }
        self.flush().await
    }

    /// Seals and sends, a slice at a time.
    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        for slice in bytes.chunks(SLICE) {
            self.tls.writer().write_all(slice)?;
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            let mut sealed = Vec::new();
            self.tls.write_tls(&mut sealed)?;
            self.stream.write_all(&sealed).await?;
        }
        Ok(())
    }

    /// Ends the stream and waits until the peer has: closing before that could take back what the
    /// peer has not read.
    async fn end(&mut self) -> io::Result<()> {
        self.tls.send_close_notify();
        self.flush().await?;
        self.stream.shutdown(Shutdown::Write).await.map_err(io::Error::from)?;
        while self.stream.read(&mut self.slice).await.is_ok_and(|len| len > 0) {}
        Ok(())
    }
}
