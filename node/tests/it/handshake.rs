//! Before a peer is trusted: what closes a connection, and what it costs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;

use node::io::NoDisk;
use node::io::glommio::net::GlommioNet;
use node::io::{Net, NetError};
use node::limits::{CONNECT_TIME_MAX_MS, HALF_OPEN_MAX, HANDSHAKE_BYTES_MAX};
use protocol::frame::VERSION;
use protocol::ids::{ClusterId, NodeId, TargetId};
use protocol::status::Status;
use rustls::{ClientConfig, RootCertStore};

use crate::certificates::{Authority, PATIENCE, configs};
use crate::fixture::{CLUSTER, RawPeer, SERVER, Server, client, run};

/// Reads until the server closes; false when it does not.
fn closed(mut stream: impl Read) -> bool {
    let mut sink = [0; 1024];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !matches!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
}

fn dial(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn handshake_closes_plain_text_and_serves_others() {
    let authority = Authority::new(CLUSTER);
    let server = Server::start(authority.configs(&SERVER));
    let mut plain = dial(&server);
    plain.write_all(b"GET / HTTP/1.1\r\nHost: lanefs\r\n\r\n").unwrap();
    assert!(closed(plain));
    RawPeer::introduced(authority.configs(&client()).client, server.address);
    let counters = server.stop();
    assert_eq!((counters.refused_untrusted, counters.accepted), (1, 1));
}

#[test]
fn handshake_closes_a_foreign_certificate() {
    let authority = Authority::new(CLUSTER);
    let server = Server::start(authority.configs(&SERVER));
    let foreign = Authority::new(CLUSTER);
    // The peer trusts the server's authority, so only the server can refuse.
    let files =
        protocol::tls::TlsFiles { ca: authority.files(&SERVER).ca, ..foreign.files(&client()) };
    let mut peer = RawPeer::connect(configs(&files).client, server.address);
    let _ = peer.stream.write_all(b"anything");
    assert!(closed(&mut peer.stream));
    assert_eq!(server.stop().refused_untrusted, 1);
}

#[test]
fn handshake_closes_a_peer_without_certificate() {
    let authority = Authority::new(CLUSTER);
    let server = Server::start(authority.configs(&SERVER));
    let mut roots = RootCertStore::empty();
    let ca = std::fs::read(authority.files(&SERVER).ca).unwrap();
    let ca =
        <rustls::pki_types::CertificateDer as rustls::pki_types::pem::PemObject>::from_pem_slice(
            &ca,
        );
    roots.add(ca.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut peer = RawPeer::connect(Arc::new(config), server.address);
    let _ = peer.stream.write_all(b"anything");
    assert!(closed(&mut peer.stream));
    assert_eq!(server.stop().refused_untrusted, 1);
}

#[test]
fn handshake_closes_a_certificate_of_another_cluster() {
    let authority = Authority::new(CLUSTER);
    let server = Server::start(authority.configs(&SERVER));
    let other = configs(&authority.files_in(ClusterId(0xbad), &client()));
    let mut peer = RawPeer::connect(other.client, server.address);
    let _ = peer.stream.write_all(b"anything");
    assert!(closed(&mut peer.stream));
    assert_eq!(server.stop().refused_untrusted, 1);
}

#[test]
fn handshake_refuses_another_version_and_another_cluster_with_a_reason() {
    let authority = Authority::new(CLUSTER);
    let server = Server::start(authority.configs(&SERVER));
    let config = authority.configs(&client()).client;
    let mut version = RawPeer::connect(Arc::clone(&config), server.address);
    assert_eq!(version.hello(CLUSTER, VERSION + 1), Status::BadVersion);
    assert!(closed(&mut version.stream));
    let mut cluster = RawPeer::connect(config, server.address);
    assert_eq!(cluster.hello(ClusterId(1), VERSION), Status::BadCluster);
    assert!(closed(&mut cluster.stream));
    assert_eq!(server.stop().refused_untrusted, 2);
}

#[test]
fn handshake_is_bounded_in_bytes() {
    let authority = Authority::new(CLUSTER);
    let server = Server::start(authority.configs(&SERVER));
    let mut peer = dial(&server);
    // One client hello that says it is 60,000 bytes long, in records of 4 KiB.
    let mut record = vec![0x16, 3, 1, 0x10, 0];
    record.extend([1, 0, 0xea, 0x60]);
    record.resize(5 + 4096, 0);
    let mut sent = 0;
    while sent <= HANDSHAKE_BYTES_MAX && peer.write_all(&record).is_ok() {
        sent += record.len();
        record[5..9].fill(0);
    }
    assert!(closed(peer));
    assert_eq!(server.stop().refused_untrusted, 1);
}

#[test]
fn handshake_bounds_how_many_and_how_long() {
    let authority = Authority::new(CLUSTER);
    let server = Server::start(authority.configs(&SERVER));
    let idle: Vec<TcpStream> = (0..HALF_OPEN_MAX).map(|_| dial(&server)).collect();
    assert!(closed(dial(&server)), "one too many is closed at once");
    let waiting: Vec<_> = idle.into_iter().map(|stream| thread::spawn(|| closed(stream))).collect();
    assert!(waiting.into_iter().all(|waiting| waiting.join().unwrap()), "and the rest in time");
    RawPeer::introduced(authority.configs(&client()).client, server.address);
    let counters = server.stop();
    assert_eq!(counters.refused_half_open, 1);
    assert_eq!(counters.refused_unfinished, HALF_OPEN_MAX as u64);
}

#[test]
fn connect_insists_on_the_node_that_is_meant() {
    let authority = Authority::new(CLUSTER);
    let server = Server::start(authority.configs(&SERVER));
    let (tls, address) = (authority.configs(&client()), server.address);
    let error = run(move || async move {
        let net = GlommioNet::new(CLUSTER, tls, std::rc::Rc::new(NoDisk));
        net.connect(NodeId(9), TargetId(901), address).await.err()
    });
    assert!(matches!(error, Some(NetError::Untrusted(_))), "{error:?}");
    server.stop();
}

#[test]
fn connect_tells_a_refused_connection_from_others() {
    let authority = Authority::new(CLUSTER);
    let tls = authority.configs(&client());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = run(move || async move {
        let net = GlommioNet::new(CLUSTER, tls, std::rc::Rc::new(NoDisk));
        net.connect(NodeId(1), TargetId(101), free).await.err()
    });
    assert_eq!(error, Some(NetError::Refused(free)));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the system counts the wait in real time")]
fn connect_gives_up_an_address_that_does_not_answer() {
    let authority = Authority::new(CLUSTER);
    let tls = authority.configs(&client());
    // A port whose one place for connections to be accepted is taken, so the next one waits.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&silent, 0).unwrap();
    let address = silent.local_addr().unwrap();
    let _first = TcpStream::connect(address).unwrap();
    let begun = std::time::Instant::now();
    let error = run(move || async move {
        let net = GlommioNet::new(CLUSTER, tls, std::rc::Rc::new(NoDisk));
        net.connect(NodeId(1), TargetId(101), address).await.err()
    });
    assert!(matches!(error, Some(NetError::Broken(_))), "{error:?}");
    let took = begun.elapsed().as_millis();
    assert!((CONNECT_TIME_MAX_MS.into()..3 * u128::from(CONNECT_TIME_MAX_MS)).contains(&took));
}
