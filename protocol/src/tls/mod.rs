//! TLS settings: who may talk to whom, and with which ciphers.
//!
//! Owns the two rustls configurations of the system and what a certificate says about its owner.
//! The one place of this crate that reads files: the certificate authority, the own certificate and
//! its key. TLS 1.3 only, a certificate of this cluster's authority on both sides, and the
//! cryptographic provider is passed along explicitly, so no process-wide default is ever installed.
//! Start at [`TlsFiles`].

mod identity;

pub use identity::{Identity, PeerCertificate, peer_certificate, server_name, uri};

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{ClientConfig, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::limits::TLS_FILE_LEN_MAX;

/// Where a process finds its certificates, all in PEM form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate of the cluster's authority.
    pub ca: PathBuf,
    /// Own certificate, then any intermediate ones.
    pub cert: PathBuf,
    /// Key of the own certificate; only its owner may have access to the file.
    pub key: PathBuf,
}

/// Why TLS cannot be set up, or why a peer's certificate says nothing usable.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: cannot read: {error}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file is far longer than any certificate or key.
    #[error("{}: longer than {TLS_FILE_LEN_MAX} bytes, not a certificate or key", .file.display())]
    TooLong {
        /// The file.
        file: PathBuf,
    },
    /// Others than the owner may read the key.
    #[error("{}: mode {mode:04o} lets others read the key; run chmod 600 on it", .file.display())]
    KeyMode {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds no certificate.
    #[error("{}: no certificate in PEM form", .file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// The file holds no private key.
    #[error("{}: no private key in PEM form", .file.display())]
    NoKey {
        /// The file.
        file: PathBuf,
    },
    /// The file's contents are not usable.
    #[error("{}: {reason}", .file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The library refused the settings themselves.
    #[error("TLS settings: {0}")]
    Settings(String),
    /// The peer's certificate does not name a member of a cluster.
    #[error("peer certificate: {0}")]
    Peer(String),
}

/// Makes the settings of a listening port.
///
/// A peer without a certificate of the same authority does not get past the handshake.
///
/// # Errors
/// [`TlsError`], one line that names the file.
///
/// # Cost
/// Reads three files; call it once and share the result.
pub fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let roots = Arc::new(roots(&files.ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| unusable(&files.ca, error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(VERSIONS)
        .map_err(|error| TlsError::Settings(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.cert)?, key(&files.key)?)
        .map_err(|error| unusable(&files.cert, error))?;
    config.ignore_client_order = true;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// Makes the settings of outgoing connections; verify the peer with [`server_name`].
///
/// # Errors
/// [`TlsError`], one line that names the file.
///
/// # Cost
/// Reads three files; call it once and share the result.
pub fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let roots = Arc::new(roots(&files.ca)?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| unusable(&files.ca, error))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(VERSIONS)
        .map_err(|error| TlsError::Settings(error.to_string()))?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(certificates(&files.cert)?, key(&files.key)?)
        .map_err(|error| unusable(&files.cert, error))?;
    Ok(Arc::new(config))
}

const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13];

/// Draws random numbers once, so that the first handshake of the process need not wait until the
/// library has collected entropy, which takes a processor 50 ms and more. Blocks for that long.
///
/// # Errors
/// [`TlsError::Settings`] when there are none.
pub fn collect_entropy() -> Result<(), TlsError> {
    let random = aws_lc_rs::default_provider().secure_random;
    random.fill(&mut [0; 32]).map_err(|_| TlsError::Settings("no random numbers".to_owned()))
}

/// AES-128-GCM first: it is the fastest on every processor the binaries run on.
fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() })
}

fn roots(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| unusable(file, error))?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let (_, pem) = load(file)?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(file, error))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { file: file.to_owned() });
    }
    Ok(chain)
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let (mode, pem) = load(file)?;
    if mode & 0o077 != 0 {
        return Err(TlsError::KeyMode { file: file.to_owned(), mode });
    }
    // The parser's own errors may quote the file, so none of them is repeated.
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::NoKey { file: file.to_owned() })
}

/// Permission bits and contents of one opened file, so that both are of the same file.
fn load(file: &Path) -> Result<(u32, Vec<u8>), TlsError> {
    let failed = |error| TlsError::Read { file: file.to_owned(), error };
    let handle = File::open(file).map_err(failed)?;
    let mode = handle.metadata().map_err(failed)?.mode() & 0o7777;
    let mut bytes = Vec::new();
    handle.take(TLS_FILE_LEN_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > TLS_FILE_LEN_MAX {
        return Err(TlsError::TooLong { file: file.to_owned() });
    }
    Ok((mode, bytes))
}

fn unusable(file: &Path, error: impl ToString) -> TlsError {
    TlsError::Unusable { file: file.to_owned(), reason: error.to_string() }
}
