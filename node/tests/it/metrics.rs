//! The admin port: who is told figures, what is refused, and what a peer can hold; and that
//! `docs/metrics.md` says what the code does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use node::io::glommio::admin::AdminPort;
use node::io::glommio::executor::Executor;
use node::io::glommio::mesh::{Port, Wakeup, pair};
use node::metrics::METRICS;
use protocol::ids::{ClusterId, CoordinatorId, NodeId};
use protocol::limits::{METRICS_CONNECTIONS_MAX, METRICS_HEAD_LEN_MAX, METRICS_TIME_MAX_MS};
use protocol::metrics::table::rows;
use protocol::tls::{Identity, TlsFiles};
use rustls::{ClientConfig, RootCertStore};

use crate::certificates::{Authority, PATIENCE, configs};
use crate::fixture::{CLUSTER, RawPeer, SERVER, client, start};

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");
const ASK: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n";

/// An admin port whose figures are as long as a test wants.
struct Admin {
    address: SocketAddr,
    executor: Executor<()>,
    stop: Port<(), ()>,
}

impl Admin {
    fn start(authority: &Authority, len: usize) -> Admin {
        let (stop, stopped) = pair((&Wakeup::default(), 1), (&Wakeup::default(), 1));
        let (tell, told) = mpsc::channel();
        let tls = authority.configs(&SERVER).server;
        let executor = start(move || async move {
            let port = AdminPort::listen("127.0.0.1:0".parse().unwrap(), tls, CLUSTER).unwrap();
            tell.send(port.address().unwrap()).unwrap();
            let serve = port.serve(Rc::new(move || "x".repeat(len)));
            futures_lite::future::or(serve, stopped.receive()).await;
        });
        Admin { address: told.recv_timeout(PATIENCE).unwrap(), executor, stop }
    }

    fn stop(self) {
        self.stop.send(()).unwrap();
        self.executor.join().unwrap();
    }
}

/// What comes until the server closes; `None` when it breaks the connection.
fn rest(stream: &mut impl Read) -> Option<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text).ok().map(|_| text)
}

fn asked(config: Arc<ClientConfig>, address: SocketAddr, request: &[u8]) -> Option<String> {
    let mut peer = RawPeer::connect(config, address);
    peer.stream.write_all(request).ok()?;
    rest(&mut peer.stream)
}

#[test]
fn figures_are_told_to_every_member_of_the_cluster() {
    let authority = Authority::new(CLUSTER);
    let admin = Admin::start(&authority, 300_000);
    let members = [
        client(),
        Identity::Admin("root".to_owned()),
        Identity::Node(NodeId(2)),
        Identity::Coordinator(CoordinatorId(1)),
    ];
    for member in members {
        let text = asked(authority.configs(&member).client, admin.address, ASK).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{member:?}: {head}");
        assert_eq!(body.len(), 300_000, "{member:?}");
    }
    let config = authority.configs(&client()).client;
    for (request, status) in [
        (&b"GET /other HTTP/1.1\r\n\r\n"[..], "404"),
        (b"PUT /metrics HTTP/1.1\r\n\r\n", "405"),
        (b"nonsense\r\n\r\n", "400"),
    ] {
        let text = asked(Arc::clone(&config), admin.address, request).unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
    }
    admin.stop();
}

#[test]
fn strangers_are_told_nothing() {
    let authority = Authority::new(CLUSTER);
    let admin = Admin::start(&authority, 1);
    let told = |config: Arc<ClientConfig>| {
        let text = asked(config, admin.address, ASK).unwrap_or_default();
        assert_eq!(text, "");
    };
    told(configs(&authority.files_in(ClusterId(0xbad), &client())).client);
    let foreign = Authority::new(CLUSTER);
    let ca = authority.files(&SERVER).ca;
    told(configs(&TlsFiles { ca: ca.clone(), ..foreign.files(&client()) }).client);
    let pem = std::fs::read(ca).unwrap();
    let ca =
        <rustls::pki_types::CertificateDer as rustls::pki_types::pem::PemObject>::from_pem_slice(
            &pem,
        );
    let mut roots = RootCertStore::empty();
    roots.add(ca.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let bare = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    told(Arc::new(bare));
    let mut plain = TcpStream::connect(admin.address).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(ASK).unwrap();
    let mut alert = Vec::new();
    let _ = plain.read_to_end(&mut alert);
    assert!(alert.len() < 64, "{alert:?}");
    admin.stop();
}

#[test]
fn a_head_is_bounded_in_length() {
    let authority = Authority::new(CLUSTER);
    let admin = Admin::start(&authority, 1);
    let config = authority.configs(&client()).client;
    let head = |len: usize| {
        let (start, end) = ("GET /metrics HTTP/1.1\r\nx: ", "\r\n\r\n");
        format!("{start}{}{end}", "a".repeat(len - start.len() - end.len()))
    };
    for (len, status) in [(METRICS_HEAD_LEN_MAX, "200"), (METRICS_HEAD_LEN_MAX + 1, "431")] {
        let text = asked(Arc::clone(&config), admin.address, head(len).as_bytes()).unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{len}: {text}");
    }
    // Far more than is ever read does not keep the peer from hearing why.
    let text = asked(config, admin.address, &vec![b'a'; 4 * METRICS_HEAD_LEN_MAX]).unwrap();
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
    admin.stop();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the port counts the wait in real time")]
fn connections_are_bounded_in_number_and_each_half_in_time() {
    let authority = Authority::new(CLUSTER);
    // More than the sockets of both sides hold, so it leaves only when it is read.
    let admin = Admin::start(&authority, 64 << 20);
    let config = authority.configs(&client()).client;
    let begun = std::time::Instant::now();
    let mut silent: Vec<TcpStream> =
        (2..METRICS_CONNECTIONS_MAX).map(|_| TcpStream::connect(admin.address).unwrap()).collect();
    let mut halting = RawPeer::connect(Arc::clone(&config), admin.address);
    halting.stream.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    let mut slow = RawPeer::connect(config, admin.address);
    slow.stream.write_all(ASK).unwrap();
    slow.stream.read_exact(&mut [0; 9]).unwrap();
    let mut one_more = TcpStream::connect(admin.address).unwrap();
    one_more.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(one_more.read(&mut [0; 9]).unwrap_or(0), 0, "one too many is closed");
    assert!(begun.elapsed() < Duration::from_millis(METRICS_TIME_MAX_MS), "and at once");

    let text = rest(&mut halting.stream).unwrap();
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    for stream in &mut silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.read(&mut [0; 9]).unwrap_or(0), 0, "it never began a handshake");
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(METRICS_TIME_MAX_MS), "{took:?}");
    // The figures were ready long ago; who does not take them in time loses them.
    std::thread::sleep(Duration::from_millis(2 * METRICS_TIME_MAX_MS).saturating_sub(took));
    let mut taken = Vec::new();
    let ended = slow.stream.read_to_end(&mut taken);
    assert!(ended.is_err() && taken.len() < 64 << 20, "{ended:?} after {} bytes", taken.len());
    admin.stop();
}

/// The cells of the rows between `<!-- name -->` and `<!-- end -->`.
fn documented(name: &str) -> Vec<Vec<String>> {
    let start = format!("<!-- {name} -->\n");
    let (_, rest) = DOCUMENT.split_once(&start).expect("the section is in the document");
    let (inside, _) = rest.split_once("<!-- end -->").expect("the section ends");
    let row = |line: &str| {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    inside.lines().skip(2).map(row).collect()
}

#[test]
fn the_metrics_are_those_of_the_document() {
    let rows: Vec<Vec<String>> = rows(METRICS).into_iter().map(Vec::from).collect();
    let wanted: String =
        rows.iter().map(|row| format!("| `{}` | {} |\n", row[0], row[1..].join(" | "))).collect();
    assert!(documented("node") == rows, "docs/metrics.md should have:\n{wanted}");
}

#[test]
fn names_are_by_the_rules() {
    for metric in METRICS {
        let definition = metric.definition;
        assert!(definition.name.starts_with("lanefs_node"), "{definition:?}");
        let unit_last = definition.unit.is_empty()
            || definition.name.ends_with(&format!("_{}", definition.unit));
        assert!(unit_last && definition.help.ends_with('.'), "{definition:?}");
        assert!(!definition.name.ends_with("_total"), "{definition:?}");
    }
    let mut names: Vec<_> = METRICS.iter().map(|metric| metric.definition.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), METRICS.len(), "a name is used twice");
}
