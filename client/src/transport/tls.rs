//! Opens connections: TCP, mutual TLS 1.3, hello.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use protocol::ids::{ClusterId, TargetId};
use protocol::message::{Kind, Message};
use protocol::session::hello;
use protocol::tls::{Identity, server_name};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use crate::limits::CONNECT_TIMEOUT_MS;
use crate::plan::LinkFailure;
use crate::transport::connection::{Connection, request_frame, within};
use crate::transport::{Call, CallError, Notice, Peer, PeerId, tcp};

/// Opens connections with one identity.
#[derive(Clone)]
pub struct Dialer {
    cluster: ClusterId,
    tls: TlsConnector,
    /// Where notices of coordinators go.
    notices: Option<mpsc::Sender<Notice>>,
}

impl Dialer {
    /// Makes a dialer for one cluster from its TLS settings.
    pub fn new(cluster: ClusterId, config: Arc<rustls::ClientConfig>) -> Dialer {
        Dialer { cluster, tls: TlsConnector::from(config), notices: None }
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
        let stream = self.tls.connect(name, socket).await.map_err(|error| tls_error(&error))?;
        let of_coordinator = matches!(peer.id, PeerId::Coordinator(_));
        let notices = self.notices.clone().filter(|_| of_coordinator);
        let connection = Connection::start(stream, self.cluster, notices);
        let call = Call {
            timeout: Duration::from_millis(CONNECT_TIMEOUT_MS),
            ..request_frame(Kind::Hello, hello::offer(self.cluster, target).encode())
        };
        let answer = connection.call(call).await?;
        let reply = hello::accept_body(answer.status, &answer.body)
            .map_err(|error| CallError::Rejected { detail: error.to_string() })?;
        connection.on_hello(&reply);
        Ok(connection)
    }
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
        let dialer = Dialer::new(ClusterId(7), Arc::new(config));
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
