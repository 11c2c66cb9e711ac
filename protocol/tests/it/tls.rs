//! Handshakes between certificates of this cluster, of another, of nobody.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use protocol::ids::{ClusterId, CoordinatorId, NodeId};
use protocol::tls::{
    Identity, PeerCertificate, TlsError, TlsFiles, client_config, peer_certificate, server_config,
    server_name, uri,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, CipherSuite, ClientConnection, ProtocolVersion, ServerConnection};
use tempfile::TempDir;

const CLUSTER: ClusterId = ClusterId(0xc0ffee);
const NODE: Identity = Identity::Node(NodeId(1));
const COORDINATOR: Identity = Identity::Coordinator(CoordinatorId(1));

/// An authority and the folder its members keep their files in.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { folder, issuer }
    }

    fn member(&self, identity: &Identity) -> TlsFiles {
        self.member_with(identity, |_| {})
    }

    fn member_with(&self, identity: &Identity, edit: fn(&mut CertificateParams)) -> TlsFiles {
        let name = server_name(CLUSTER, identity).to_str().into_owned();
        let mut params = CertificateParams::new(vec![name.clone()]).unwrap();
        let uri = uri(CLUSTER, identity).try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        edit(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |kind: &str| self.folder.path().join(format!("{name}.{kind}"));
        fs::write(file("pem"), certificate.pem()).unwrap();
        write_key(&file("key"), &key.serialize_pem(), 0o600);
        TlsFiles { ca: self.folder.path().join("ca.pem"), cert: file("pem"), key: file("key") }
    }
}

fn write_key(path: &Path, pem: &str, mode: u32) {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(mode).open(path).unwrap();
    file.write_all(pem.as_bytes()).unwrap();
}

fn client(files: &TlsFiles, name: ServerName<'static>) -> ClientConnection {
    ClientConnection::new(client_config(files).unwrap(), name).unwrap()
}

fn server(files: &TlsFiles) -> ServerConnection {
    ServerConnection::new(server_config(files).unwrap()).unwrap()
}

/// Carries the handshake to its end; the first error of either side, or both ends.
fn shake(
    mut client: ClientConnection,
    mut server: ServerConnection,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn error(
    result: Result<(ClientConnection, ServerConnection), rustls::Error>,
) -> Option<rustls::Error> {
    result.err()
}

#[test]
fn two_members_of_one_cluster_know_each_other() {
    let authority = Authority::new();
    let (node, alice) = (authority.member(&NODE), Identity::Client("alice".into()));
    let pair = shake(client(&authority.member(&alice), server_name(CLUSTER, &NODE)), server(&node));
    let (client, server) = pair.unwrap();
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let suite = server.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
    let seen = peer_certificate(server.peer_certificates().unwrap()).unwrap();
    assert_eq!(seen, PeerCertificate { cluster: CLUSTER, identity: alice });
    let seen = peer_certificate(client.peer_certificates().unwrap()).unwrap();
    assert_eq!(seen, PeerCertificate { cluster: CLUSTER, identity: NODE });
}

#[test]
fn a_foreign_authority_is_refused_by_both_sides() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let stranger = theirs.member(&COORDINATOR);
    let refused = |client, server| {
        let error = error(shake(client, server)).unwrap();
        let unknown = CertificateError::UnknownIssuer;
        assert!(
            matches!(&error, rustls::Error::InvalidCertificate(reason) if *reason == unknown)
                || matches!(
                    error,
                    rustls::Error::InvalidCertificate(CertificateError::BadSignature)
                ),
            "{error:?}"
        );
    };
    // The server's certificate is foreign, then the client's.
    refused(client(&ours.member(&NODE), server_name(CLUSTER, &COORDINATOR)), server(&stranger));
    let half = TlsFiles { ca: ours.folder.path().join("ca.pem"), ..stranger };
    refused(client(&half, server_name(CLUSTER, &NODE)), server(&ours.member(&NODE)));
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let authority = Authority::new();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.issuer.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = server_name(CLUSTER, &NODE);
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let error = error(shake(client, server(&authority.member(&NODE))));
    assert_eq!(error, Some(rustls::Error::NoCertificatesPresented));
}

#[test]
fn another_node_than_the_one_asked_for_is_refused() {
    let authority = Authority::new();
    let name = server_name(CLUSTER, &Identity::Node(NodeId(2)));
    let error = error(shake(
        client(&authority.member(&COORDINATOR), name),
        server(&authority.member(&NODE)),
    ));
    let Some(rustls::Error::InvalidCertificate(reason)) = error else { panic!("{error:?}") };
    assert!(matches!(reason, CertificateError::NotValidForNameContext { .. }), "{reason:?}");
}

#[test]
fn expired_certificates_are_refused_on_both_sides() {
    let authority = Authority::new();
    let expire: fn(&mut CertificateParams) = |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    };
    let old = authority.member_with(&NODE, expire);
    let fresh = authority.member(&COORDINATOR);
    for (client, server) in [
        (client(&fresh, server_name(CLUSTER, &NODE)), server(&old)),
        (client(&old, server_name(CLUSTER, &COORDINATOR)), server(&fresh)),
    ] {
        let error = error(shake(client, server));
        let Some(rustls::Error::InvalidCertificate(reason)) = error else { panic!("{error:?}") };
        assert!(matches!(reason, CertificateError::ExpiredContext { .. }), "{reason:?}");
    }
}

#[test]
fn certificates_that_name_no_member_are_told_apart() {
    let reason = |uris: &[&str]| {
        let mut params = CertificateParams::default();
        let names = uris.iter().map(|&uri| SanType::URI(uri.try_into().unwrap()));
        params.subject_alt_names = names.collect();
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
        peer_certificate(&[der]).unwrap_err().to_string()
    };
    let node = uri(CLUSTER, &NODE);
    assert!(reason(&[]).contains("no alternative name"));
    assert!(reason(&["https://example.org/node/1"]).contains("no lanefs:// name"));
    assert!(reason(&["lanefs://zz/node/1"]).contains("malformed name"));
    assert!(reason(&[&node, &uri(CLUSTER, &COORDINATOR)]).contains("more than one"));
    assert!(peer_certificate(&[]).unwrap_err().to_string().contains("none was presented"));
    let junk = [b"junk".to_vec().into()];
    assert!(peer_certificate(&junk).unwrap_err().to_string().contains("not an X.509"));
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let authority = Authority::new();
    let files = authority.member(&NODE);
    for mode in [0o640, 0o604, 0o660, 0o601] {
        fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
        let error = server_config(&files).unwrap_err();
        assert!(matches!(error, TlsError::KeyMode { mode: found, .. } if found == mode));
        assert!(error.to_string().starts_with(files.key.to_str().unwrap()), "{error}");
    }
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o400)).unwrap();
    assert!(server_config(&files).is_ok() && client_config(&files).is_ok());
}

#[test]
fn unusable_files_are_named_in_one_line() {
    let authority = Authority::new();
    let good = authority.member(&NODE);
    let other = authority.folder.path().join("other");
    let fails = |files: &TlsFiles, file: &Path, text: &str| {
        for error in [server_config(files).unwrap_err(), client_config(files).unwrap_err()] {
            let line = error.to_string();
            assert!(line.starts_with(file.to_str().unwrap()), "{line}");
            assert!(line.contains(text) && !line.contains('\n'), "{line}");
        }
    };
    fails(&TlsFiles { ca: other.clone(), ..good.clone() }, &other, "cannot read");
    write_key(&other, "no PEM here", 0o600);
    fails(&TlsFiles { ca: other.clone(), ..good.clone() }, &other, "no certificate");
    fails(&TlsFiles { cert: other.clone(), ..good.clone() }, &other, "no certificate");
    fails(&TlsFiles { key: other.clone(), ..good.clone() }, &other, "no private key");
    write_key(&other, &"x".repeat(300 << 10), 0o600);
    fails(&TlsFiles { key: other.clone(), ..good.clone() }, &other, "longer than");
    // A sound key, but of another certificate.
    write_key(&other, &KeyPair::generate().unwrap().serialize_pem(), 0o600);
    fails(&TlsFiles { key: other, ..good.clone() }, &good.cert, "");
}
