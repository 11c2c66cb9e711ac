//! Opens connections: TCP, mutual TLS 1.3, hello; then TLS goes on, or both sides leave it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use protocol::ids::{ClusterId, TargetId};
use protocol::message::cluster::HelloReply;
use protocol::session::hello::{self, FEATURE_CLEAR, HelloError};
use protocol::session::{EXPORTER_LABEL, FrameMacs, FrameReader};
use protocol::tls::{Identity, server_name};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::DataTransport;
use crate::limits::CONNECT_TIMEOUT_MS;
use crate::plan::LinkFailure;
use crate::transport::connection::{Connection, Frame, read_frame, within};
use crate::transport::tcp::{self, Socket};
use crate::transport::{CallError, Notice, Peer, PeerId};

/// Opens connections with one identity.
#[derive(Clone)]
pub struct Dialer {
    cluster: ClusterId,
    tls: TlsConnector,
    data_transport: DataTransport,
    /// Where notices of coordinators go.
    notices: Option<mpsc::Sender<Notice>>,
}

impl Dialer {
    /// Makes a dialer for one cluster from its TLS settings.
    pub fn new(
        cluster: ClusterId,
        config: Arc<rustls::ClientConfig>,
        data_transport: DataTransport,
    ) -> Dialer {
        Dialer { cluster, tls: TlsConnector::from(config), data_transport, notices: None }
    }

    /// Sends what coordinators say without being asked to `notices`.
    pub(super) fn with_notices(mut self, notices: mpsc::Sender<Notice>) -> Dialer {
        self.notices = Some(notices);
        self
    }

    /// Opens a connection to a peer.
    ///
    /// # Errors
    /// [`CallError::Link`] when it cannot be reached, [`CallError::Rejected`] when it is reached
    /// and one of the two sides does not accept the other.
    pub(super) async fn dial(&self, peer: &Peer) -> Result<Connection, CallError> {
        within(Duration::from_millis(CONNECT_TIMEOUT_MS), self.open(peer)).await
    }

    async fn open(&self, peer: &Peer) -> Result<Connection, CallError> {
        let socket = tcp::connect(&peer.address).await.map_err(|error| connect_error(&error))?;
        let (identity, target) = match peer.id {
            PeerId::Coordinator(id) => (Identity::Coordinator(id), TargetId(0)),
            PeerId::Target { node, target } => (Identity::Node(node), target),
        };
        let name = server_name(self.cluster, &identity);
        let mut stream = self.tls.connect(name, socket).await.map_err(|error| tls_error(&error))?;
        let of_coordinator = matches!(peer.id, PeerId::Coordinator(_));
        let wants_clear = !of_coordinator && self.data_transport == DataTransport::Clear;
        let wanted = if wants_clear { FEATURE_CLEAR } else { 0 };
        let agreed = greet(&mut stream, self.cluster, target, wanted).await?;
        let notices = self.notices.clone().filter(|_| of_coordinator);
        let connection = if agreed.features & wanted & FEATURE_CLEAR == 0 {
            Connection::start(stream, self.cluster, None, notices)
        } else {
            let (socket, macs) = leave_tls(stream)?;
            Connection::start(socket, self.cluster, Some(macs), notices)
        };
        connection.on_hello(&agreed);
        Ok(connection)
    }
}

/// Says hello and reads what the server answers, no byte further.
async fn greet(
    stream: &mut TlsStream<Socket>,
    cluster: ClusterId,
    target: TargetId,
    wanted: u64,
) -> Result<HelloReply, CallError> {
    let (header, body) = hello::request(cluster, target, wanted);
    let failed = |error: io::Error| tls_error(&error);
    stream.write_all(&[&header.encode()[..], &body].concat()).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let rejected = |error: HelloError| CallError::Rejected { detail: error.to_string() };
    match read_frame(stream, &mut FrameReader::new(cluster.tag())).await? {
        Frame::Answer(_, answer) => {
            hello::accept_body(answer.status, &answer.body).map_err(rejected)
        }
        Frame::Notice(notice) => Err(rejected(HelloError::NotHello(notice.kind))),
    }
}

/// Ends the encryption of a connection; what both sides know from it makes the tags of frames.
fn leave_tls(stream: TlsStream<Socket>) -> Result<(Socket, FrameMacs), CallError> {
    let (socket, session) = stream.into_inner();
    let export = |key, context| session.export_keying_material(key, EXPORTER_LABEL, Some(context));
    let macs = FrameMacs::derive(export)
        .map_err(|error| CallError::Rejected { detail: format!("TLS: {error}") })?;
    Ok((socket.without_tls(), macs))
}

fn connect_error(error: &io::Error) -> CallError {
    let failure = match error.kind() {
        io::ErrorKind::ConnectionRefused => LinkFailure::Refused,
        io::ErrorKind::TimedOut => LinkFailure::TimedOut,
        _ => LinkFailure::Broken,
    };
    CallError::link(failure, error.to_string())
}

/// TLS says `InvalidData` when the two sides do not accept each other; anything else is the link.
pub(super) fn tls_error(error: &io::Error) -> CallError {
    if error.kind() == io::ErrorKind::InvalidData {
        let detail = format!("TLS: {error}; are both sides of the same cluster?");
        return CallError::Rejected { detail };
    }
    CallError::link(LinkFailure::Broken, error.to_string())
}

#[cfg(test)]
mod tests {
    use protocol::ids::CoordinatorId;
    use rustls::crypto::aws_lc_rs::default_provider;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_is_given_up_in_time() {
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let dialer = Dialer::new(ClusterId(7), Arc::new(config), DataTransport::Tls);
        // The kernel accepts; nobody answers the handshake.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let begun = Instant::now();
        let peer = Peer { id: PeerId::Coordinator(CoordinatorId(1)), address };
        let error = dialer.dial(&peer).await.err().unwrap();
        assert_eq!(error.failure(), LinkFailure::TimedOut);
        let took = begun.elapsed().as_millis();
        assert!((CONNECT_TIMEOUT_MS.into()..2 * u128::from(CONNECT_TIMEOUT_MS)).contains(&took));
    }
}
