//! Whether the certificate is the one of the node that the configuration names.

use std::path::{Path, PathBuf};

use protocol::ids::{ClusterId, NodeId};
use protocol::tls::{Identity, PeerCertificate, TlsError, peer_certificate, uri};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Why the certificate cannot be this node's: one line that names the file.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file holds no certificate.
    #[error("{file}: no certificate in PEM form: {reason}", file = file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificate does not name a member of a cluster.
    #[error("{file}: {error}", file = file.display())]
    Nameless {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        error: TlsError,
    },
    /// The certificate is somebody else's.
    #[error(
        "{file}: certificate is for {certificate}, the configuration is for {configured}: use the \
         certificate of this node or correct cluster and node",
        file = file.display()
    )]
    Mismatch {
        /// The file.
        file: PathBuf,
        /// Whom the certificate names.
        certificate: String,
        /// Whom the configuration names.
        configured: String,
    },
}

/// Compares the certificate with the configuration.
pub(super) fn check(file: &Path, cluster: ClusterId, node: NodeId) -> Result<(), CertificateError> {
    let certificate = CertificateDer::from_pem_file(file).map_err(|error| {
        CertificateError::Unreadable { file: file.to_path_buf(), reason: error.to_string() }
    })?;
    let found = peer_certificate(&[certificate])
        .map_err(|error| CertificateError::Nameless { file: file.to_path_buf(), error })?;
    let expected = PeerCertificate { cluster, identity: Identity::Node(node) };
    if found == expected {
        return Ok(());
    }
    let name = |certificate: &PeerCertificate| uri(certificate.cluster, &certificate.identity);
    Err(CertificateError::Mismatch {
        file: file.to_path_buf(),
        certificate: name(&found),
        configured: name(&expected),
    })
}
