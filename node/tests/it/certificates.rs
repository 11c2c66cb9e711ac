//! A certificate authority for one test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use node::config::ClearNetworks;
use node::io::glommio::net::TlsConfigs;
use protocol::ids::ClusterId;
use protocol::tls::{Identity, TlsFiles, client_config, server_config, server_name, uri};
use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

/// Signs certificates and writes them into a folder that goes with it.
pub struct Authority {
    cluster: ClusterId,
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    pub fn new(cluster: ClusterId) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { cluster, issuer, folder: tempfile::tempdir().unwrap() }
    }

    /// Where the files of everything it signed are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Signs a certificate of this authority's cluster.
    pub fn files(&self, identity: &Identity) -> TlsFiles {
        self.files_in(self.cluster, identity)
    }

    /// Signs a certificate that says it is of any cluster.
    pub fn files_in(&self, cluster: ClusterId, identity: &Identity) -> TlsFiles {
        let mut params = CertificateParams::default();
        let name = server_name(cluster, identity).to_str().into_owned();
        params.subject_alt_names = vec![
            SanType::URI(Ia5String::try_from(uri(cluster, identity)).unwrap()),
            SanType::DnsName(Ia5String::try_from(name).unwrap()),
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let stem = uri(cluster, identity).replace(['/', ':'], "-");
        let path = |suffix: &str| self.folder.path().join(format!("{stem}.{suffix}"));
        let files = TlsFiles { ca: path("ca.pem"), cert: path("cert.pem"), key: path("key.pem") };
        fs::write(&files.ca, self.issuer.pem()).unwrap();
        fs::write(&files.cert, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
        files
    }

    /// Signs a certificate and makes both settings from it.
    pub fn configs(&self, identity: &Identity) -> TlsConfigs {
        configs(&self.files(identity))
    }
}

pub fn configs(files: &TlsFiles) -> TlsConfigs {
    let clear = ClearNetworks::default();
    TlsConfigs {
        server: server_config(files).unwrap(),
        client: client_config(files).unwrap(),
        clear,
    }
}

/// Longest that any test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);
