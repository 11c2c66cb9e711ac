//! What a certificate says about its owner.
//!
//! Role and number of a peer come only from here, never from a message. The name stands in the
//! certificate twice: as a URI, which says who the owner is, and for servers as a DNS name, which
//! the TLS library compares during the handshake.

use rustls_pki_types::{CertificateDer, ServerName};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;
use crate::ids::{ClusterId, CoordinatorId, NodeId};
use crate::limits::PRINCIPAL_LEN_MAX;

/// Who the owner of a certificate is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// A data node.
    Node(NodeId),
    /// A coordinator.
    Coordinator(CoordinatorId),
    /// A user.
    Client(String),
    /// A user who may administer the cluster.
    Admin(String),
}

/// What the handshake has proved about the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Who it is.
    pub identity: Identity,
}

/// Reads who the peer is from the certificates of a completed handshake, its own first.
///
/// # Errors
/// [`TlsError::Peer`] when there is none, or not exactly one well-formed `lanefs://` URI in it.
/// The signature is not checked here: the handshake did.
pub fn peer_certificate(chain: &[CertificateDer<'_>]) -> Result<PeerCertificate, TlsError> {
    let own = chain.first().ok_or_else(|| peer("none was presented"))?;
    let (_, certificate) =
        X509Certificate::from_der(own).map_err(|_| peer("not an X.509 certificate"))?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| peer("its alternative names are malformed"))?
        .ok_or_else(|| peer("it has no alternative name"))?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => parse(uri).ok_or_else(|| peer(&format!("malformed name {uri:?}"))),
        (None, _) => Err(peer("it has no lanefs:// name")),
        (Some(_), Some(_)) => Err(peer("it has more than one lanefs:// name")),
    }
}

/// The URI that the certificate of a member carries.
///
/// ```
/// use protocol::ids::{ClusterId, NodeId};
/// use protocol::tls::{Identity, uri};
///
/// let name = uri(ClusterId(0xab), &Identity::Node(NodeId(3)));
/// assert_eq!(name, "lanefs://000000000000000000000000000000ab/node/3");
/// ```
pub fn uri(cluster: ClusterId, identity: &Identity) -> String {
    match identity {
        Identity::Node(id) => format!("{SCHEME}{cluster}/node/{id}"),
        Identity::Coordinator(id) => format!("{SCHEME}{cluster}/coordinator/{id}"),
        Identity::Client(name) => format!("{SCHEME}{cluster}/client/{name}"),
        Identity::Admin(name) => format!("{SCHEME}{cluster}/admin/{name}"),
    }
}

/// The DNS name that the certificate of a server carries and that a client must insist on.
///
/// Clients and administrators do not serve: for them it is a name that no certificate has.
#[expect(clippy::expect_used, reason = "made of digits, hexadecimal digits and fixed labels")]
pub fn server_name(cluster: ClusterId, identity: &Identity) -> ServerName<'static> {
    let name = match identity {
        Identity::Node(id) => format!("node-{id}.{cluster}.lanefs"),
        Identity::Coordinator(id) => format!("coordinator-{id}.{cluster}.lanefs"),
        Identity::Client(_) | Identity::Admin(_) => "serves-nothing.invalid".to_owned(),
    };
    ServerName::try_from(name).expect("a valid DNS name")
}

fn parse(uri: &str) -> Option<PeerCertificate> {
    let mut parts = uri.strip_prefix(SCHEME)?.split('/');
    let (cluster, role, name) = (parts.next()?, parts.next()?, parts.next()?);
    let identity = match role {
        "node" => Identity::Node(NodeId(number(name)?)),
        "coordinator" => Identity::Coordinator(CoordinatorId(number(name)?)),
        "client" => Identity::Client(principal(name)?),
        "admin" => Identity::Admin(principal(name)?),
        _ => return None,
    };
    let cluster = ClusterId::parse(cluster)?;
    let parsed = PeerCertificate { cluster, identity };
    // Only the spelling that `uri` writes: no sign, leading zero, upper case or further part.
    (self::uri(cluster, &parsed.identity) == uri).then_some(parsed)
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&number| number > 0)
}

fn principal(text: &str) -> Option<String> {
    let sound = (1..=PRINCIPAL_LEN_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte));
    sound.then(|| text.to_owned())
}

fn peer(reason: &str) -> TlsError {
    TlsError::Peer(reason.to_owned())
}

const SCHEME: &str = "lanefs://";

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(0x1234_5678_9abc_def0_0000_0000_0000_00ff);

    #[test]
    fn names_round_trip() {
        for identity in [
            Identity::Node(NodeId(17)),
            Identity::Coordinator(CoordinatorId(1)),
            Identity::Client("alice".into()),
            Identity::Admin("root@ops-1.example".into()),
        ] {
            let parsed = parse(&uri(CLUSTER, &identity));
            assert_eq!(parsed, Some(PeerCertificate { cluster: CLUSTER, identity }));
        }
    }

    #[test]
    fn malformed_names_are_refused() {
        let cluster = CLUSTER.to_string();
        let upper = cluster.to_uppercase();
        let long = "a".repeat(PRINCIPAL_LEN_MAX + 1);
        for bad in [
            String::new(),
            "lanefs://".into(),
            format!("lanefs:/{cluster}/node/1"),
            format!("http://{cluster}/node/1"),
            format!("lanefs://{cluster}"),
            format!("lanefs://{cluster}/node"),
            format!("lanefs://{cluster}/node/"),
            format!("lanefs://{cluster}/node/0"),
            format!("lanefs://{cluster}/node/01"),
            format!("lanefs://{cluster}/node/+1"),
            format!("lanefs://{cluster}/node/-1"),
            format!("lanefs://{cluster}/node/4294967296"),
            format!("lanefs://{cluster}/node/1/"),
            format!("lanefs://{cluster}/node/1/2"),
            format!("lanefs://{cluster}/coordinator/x"),
            format!("lanefs://{cluster}/mount/1"),
            format!("lanefs://{cluster}/client/"),
            format!("lanefs://{cluster}/client/a b"),
            format!("lanefs://{cluster}/client/a\0"),
            format!("lanefs://{cluster}/admin/{long}"),
            format!("lanefs://{upper}/node/1"),
            format!("lanefs://+{}/node/1", &cluster[1..]),
            format!("lanefs://{}/node/1", &cluster[1..]),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn servers_have_names_of_their_own() {
        let name = |identity| server_name(CLUSTER, &identity).to_str().into_owned();
        assert_eq!(name(Identity::Node(NodeId(2))), format!("node-2.{CLUSTER}.lanefs"));
        let coordinator = Identity::Coordinator(CoordinatorId(9));
        assert_eq!(name(coordinator), format!("coordinator-9.{CLUSTER}.lanefs"));
        assert_eq!(name(Identity::Client("node-2".into())), "serves-nothing.invalid");
    }
}
