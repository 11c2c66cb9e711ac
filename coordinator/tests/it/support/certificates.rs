use std::fs;
use std::path::Path;

use protocol::ids::ClusterId;
use protocol::tls::{self, Identity, TlsFiles};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};

/// The cluster every test is about.
pub(crate) const CLUSTER: ClusterId = ClusterId(0x1a2b_3c4d_5e6f_7081_92a3_b4c5_d6e7_f809);

/// A certificate authority whose files are in one folder.
pub(crate) struct Authority {
    key: KeyPair,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        Authority { key: KeyPair::generate().unwrap() }
    }

    /// Writes authority, certificate and key of an identity into a folder.
    pub(crate) fn issue(
        &self,
        dir: &Path,
        name: &str,
        cluster: ClusterId,
        identity: &Identity,
    ) -> TlsFiles {
        fs::create_dir_all(dir).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let uri = tls::uri(cluster, identity);
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().unwrap()));
        if matches!(identity, Identity::Node(_) | Identity::Coordinator(_)) {
            let host = tls::server_name(cluster, identity).to_str().into_owned();
            params.subject_alt_names.push(SanType::DnsName(host.as_str().try_into().unwrap()));
        }
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate =
            params.signed_by(&key, &Issuer::new(authority_params(), &self.key)).unwrap();
        let own = authority_params().self_signed(&self.key).unwrap();
        let file = |suffix: &str, text: String| {
            let path = dir.join(format!("{name}.{suffix}"));
            fs::write(&path, text).unwrap();
            path
        };
        let key = file("key", key.serialize_pem());
        fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        TlsFiles { ca: file("ca", own.pem()), cert: file("pem", certificate.pem()), key }
    }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}
