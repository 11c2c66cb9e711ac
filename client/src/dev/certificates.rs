//! The cluster's own certificate authority and the certificates it signs.
//!
//! Knows the names of `protocol::tls` and nothing of sockets. The authority's certificate is a
//! function of cluster id and key, so signing later needs only the key file.

use std::path::Path;

use protocol::ids::ClusterId;
use protocol::tls::{self, Identity};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::DevError;
use super::folder::write_file;
use crate::cli::calendar::Date;

/// How long the authority is valid, in years.
const AUTHORITY_YEARS: i32 = 10;
/// How long the other certificates are valid, in years.
const LEAF_YEARS: i32 = 2;

/// The authority of one cluster.
#[derive(Debug)]
pub struct Authority {
    cluster: ClusterId,
    key: KeyPair,
}

/// A certificate and its key, both as PEM text.
#[derive(Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl Authority {
    /// Makes an authority with a new key.
    ///
    /// # Errors
    /// [`DevError::Certificate`] when the key cannot be made.
    pub fn generate(cluster: ClusterId) -> Result<Authority, DevError> {
        Ok(Authority { cluster, key: KeyPair::generate()? })
    }

    /// The authority whose private key is this PEM text.
    ///
    /// # Errors
    /// [`DevError::Certificate`] when it is not a key.
    pub fn from_key(cluster: ClusterId, key: &str) -> Result<Authority, DevError> {
        Ok(Authority { cluster, key: KeyPair::from_pem(key)? })
    }

    /// The authority's own certificate and key.
    ///
    /// # Errors
    /// [`DevError::Certificate`] when it cannot be signed.
    pub fn own(&self, today: Date) -> Result<Issued, DevError> {
        let mut params = self.params();
        set_validity(&mut params, today, AUTHORITY_YEARS);
        let certificate = params.self_signed(&self.key)?;
        Ok(Issued { certificate: certificate.pem(), key: self.key.serialize_pem() })
    }

    /// Signs a certificate for one identity of the cluster.
    ///
    /// # Errors
    /// [`DevError::Certificate`] when the identity cannot be written as a name.
    pub fn issue(&self, identity: &Identity, today: Date) -> Result<Issued, DevError> {
        let key = KeyPair::generate()?;
        let uri = tls::uri(self.cluster, identity);
        let mut params = CertificateParams::default();
        set_validity(&mut params, today, LEAF_YEARS);
        params.distinguished_name = name(&uri);
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        if matches!(identity, Identity::Node(_) | Identity::Coordinator(_)) {
            let host = tls::server_name(self.cluster, identity).to_str().into_owned();
            params.subject_alt_names.push(SanType::DnsName(host.as_str().try_into()?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every process is a server to some and a client to others.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::new(self.params(), &self.key);
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&format!("lanefs {}", self.cluster));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }
}

/// Writes a file that everyone may read.
///
/// # Errors
/// [`DevError::File`].
pub fn write_public(path: &Path, pem: &str) -> Result<(), DevError> {
    write_file(path, 0o644, pem.as_bytes())
}

/// Writes a private key, readable by its owner only.
///
/// # Errors
/// [`DevError::File`].
pub fn write_private(path: &Path, pem: &str) -> Result<(), DevError> {
    write_file(path, 0o600, pem.as_bytes())
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // A common name holds at most 64 characters; what counts are the subject alternative names.
    name.push(DnType::CommonName, common.chars().take(64).collect::<String>());
    name
}

fn set_validity(params: &mut CertificateParams, today: Date, years: i32) {
    // A day of grace, for machines whose clocks or time zones differ.
    let from = today.days_later(-1);
    params.not_before = rcgen::date_time_ymd(from.year, from.month, from.day);
    // The 28th exists in every month of every year.
    params.not_after = rcgen::date_time_ymd(today.year + years, today.month, today.day.min(28));
}
