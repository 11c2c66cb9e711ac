//! Who gets in, what they may ask, and what happens to those who break the protocol.

use std::io::ErrorKind;

use protocol::frame::Header;
use protocol::ids::{
    ClusterId, CoordinatorId, Epoch, GroupId, MapVersion, NodeId, RequestId, SessionId, TargetId,
};
use protocol::limits::{BODY_LEN_MAX_LIST, REFUSAL_LINES_MAX, REQUESTS_IN_FLIGHT_MAX};
use protocol::message::cluster::{
    ActivatedReply, ActivatedRequest, EvictReply, EvictRequest, HelloRequest, MapFetchReply,
    MapFetchRequest, RegisterReply, SessionOpenReply, SessionOpenRequest, StatusReply,
    StatusRequest,
};
use protocol::message::{self, Kind, Message};
use protocol::status::Status;
use protocol::tls::{Identity, client_config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Authority, CLUSTER, Cluster, Raw, Running, hello_request, request, soon};

fn root() -> Identity {
    Identity::Admin("root".into())
}

/// Checks that the coordinator still serves others.
async fn still_serves(cluster: &Cluster, running: &Running) {
    let admin = cluster.admin(running).await;
    admin.call::<StatusReply>(&StatusRequest).await.unwrap();
}

/// Waits until a plain connection is closed without having been told anything but an alert.
async fn closed(stream: &mut TcpStream) {
    let mut sink = Vec::new();
    match soon("close", stream.read_to_end(&mut sink)).await {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

#[tokio::test]
async fn plain_text_costs_its_connection_and_one_line() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    closed(&mut stream).await;
    running.line("no TLS 1.3 handshake").await;
    still_serves(&cluster, &running).await;
    let warnings = running.lines().iter().filter(|line| line.contains("WARN")).count();
    assert_eq!(warnings, 1, "{:?}", running.lines());
}

#[tokio::test]
async fn a_certificate_of_a_foreign_authority_is_turned_away() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    // The stranger trusts our authority, but ours has not signed it.
    let stranger = Authority::new().issue(&cluster.path().join("x"), "x", CLUSTER, &root());
    let mut files = cluster.tls(&root());
    (files.cert, files.key) = (stranger.cert, stranger.key);
    let connected = Raw::connect(running.address, client_config(&files).unwrap()).await;
    // With TLS 1.3 a client learns of the refusal when it first reads.
    if let Ok(mut raw) = connected {
        let (header, body) = request(1, &hello_request());
        let _ = raw.send(&header, &body).await;
        assert!(soon("close", raw.is_closed()).await);
    }
    running.line("no TLS 1.3 handshake").await;
    still_serves(&cluster, &running).await;
}

#[tokio::test]
async fn a_certificate_that_names_another_cluster_is_turned_away() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let files = cluster.tls_of(ClusterId(99), &root());
    let mut raw = Raw::connect(running.address, client_config(&files).unwrap()).await.unwrap();
    let (header, body) = request(1, &hello_request());
    let _ = raw.send(&header, &body).await;
    assert!(soon("close", raw.is_closed()).await);
    running.line("certificate is of another cluster").await;
    still_serves(&cluster, &running).await;
}

#[tokio::test]
async fn a_hello_that_does_not_fit_is_answered_and_closed() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let other = HelloRequest { cluster: ClusterId(5), ..hello_request() };
    let newer = HelloRequest { version_min: 900, version_max: 901, ..hello_request() };
    for (hello, expected) in [(other, Status::BadCluster), (newer, Status::BadVersion)] {
        let mut raw = cluster.raw(&running, &root()).await;
        let (header, body) = request(1, &hello);
        raw.send(&header, &body).await.unwrap();
        assert_eq!(raw.receive().await.unwrap().0.status, expected);
        assert!(soon("close", raw.is_closed()).await);
    }
}

#[tokio::test]
async fn frames_that_break_the_protocol_cost_the_connection_only() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let (good, body) = request(9, &StatusRequest);
    let mut text = good.encode();
    text[..4].copy_from_slice(b"HELO");
    let mut version = good.encode();
    version[4] = 200;
    let long = u32::try_from(BODY_LEN_MAX_LIST + 1).unwrap();
    let mut damaged = body.clone();
    damaged[0] ^= 1;
    let foreign = Header { cluster_tag: 1, ..good };
    let answer = Header { response: true, ..good };
    let payload = Header { payload_len: 10, ..Header::new(Kind::Write, RequestId(9)) };
    let payload = Header { cluster_tag: CLUSTER.tag(), ..payload };
    let cases: Vec<(&str, Vec<u8>, &[u8])> = vec![
        ("not a lanefs frame", text.to_vec(), &[]),
        ("version 200", version.to_vec(), &[]),
        ("over the limit", Header { body_len: long, ..good }.encode().to_vec(), &[]),
        ("damaged frame body", good.encode().to_vec(), &damaged),
        ("another cluster", foreign.encode().to_vec(), &body),
        ("unknown frame kind", answer.encode().to_vec(), &body),
        ("payload of 10", payload.encode().to_vec(), &[]),
    ];
    for (reason, header, body) in cases {
        let mut raw = cluster.raw(&running, &root()).await;
        raw.hello().await;
        raw.stream.write_all(&header).await.unwrap();
        raw.stream.write_all(body).await.unwrap();
        raw.stream.flush().await.unwrap();
        assert!(soon(reason, raw.is_closed()).await, "{reason}");
        running.line(reason).await;
    }
    still_serves(&cluster, &running).await;
}

#[tokio::test]
async fn a_frame_cut_at_any_place_ends_its_connection() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let (header, body) = request(9, &SessionOpenRequest { client: "cut".into() });
    let mut bytes = header.encode().to_vec();
    bytes.extend(body);
    for len in [1, 63, 64, 65, bytes.len() - 1] {
        let mut raw = cluster.raw(&running, &root()).await;
        raw.hello().await;
        raw.stream.write_all(&bytes[..len]).await.unwrap();
        raw.stream.shutdown().await.unwrap();
        assert!(soon("close", raw.is_closed()).await, "{len}");
    }
    let admin = cluster.admin(&running).await;
    let status: StatusReply = admin.call(&StatusRequest).await.unwrap();
    assert_eq!(status.sessions, 0, "no cut request was carried out");
}

#[tokio::test]
async fn a_body_that_is_no_message_is_answered_and_the_connection_goes_on() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut raw = cluster.raw(&running, &root()).await;
    raw.hello().await;
    for kind in [Kind::Status, Kind::Mutate, Kind::Lookup, Kind::MapFetch] {
        let body = [0xff; 40];
        let header = Header::new(kind, RequestId(5)).seal(&body, 0);
        let header = Header { cluster_tag: CLUSTER.tag(), ..header };
        raw.send(&header, &body).await.unwrap();
        let (reply, _) = raw.receive().await.unwrap();
        assert_eq!((reply.kind, reply.status, reply.request.0), (kind, Status::BadFrame, 5));
    }
}

#[tokio::test]
async fn what_a_peer_may_ask_follows_from_its_certificate() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut first = cluster.node(&running, 1).await;
    first.register().await.unwrap();
    let mut second = cluster.node(&running, 2).await;
    second.register().await.unwrap();
    let bad_role = Some(Status::BadRole);
    let status = |result: Result<RegisterReply, crate::support::CallError>| {
        result.err().and_then(|error| error.status())
    };
    for identity in [root(), Identity::Client("a".into()), Identity::Coordinator(CoordinatorId(1))]
    {
        let peer = cluster.connect(&running, &identity).await;
        assert_eq!(status(peer.call(&first.registration()).await), bad_role, "{identity:?}");
    }
    let mut claims = first.registration();
    claims.node = NodeId(2);
    assert_eq!(status(first.peer.call(&claims).await), bad_role);
    let beat = second.heartbeat_of(1);
    let refused = first.peer.call::<protocol::message::cluster::HeartbeatReply>(&beat).await;
    assert_eq!(refused.unwrap_err().status(), bad_role);
    let (group, epoch) = (GroupId(1), Epoch(1));
    let evict = EvictRequest { group, epoch, target: TargetId(101), reporter: TargetId(102) };
    let refused = first.peer.call::<EvictReply>(&evict).await.unwrap_err();
    assert_eq!(refused.status(), bad_role);
    let activated = ActivatedRequest { group, epoch, target: TargetId(102) };
    let refused = first.peer.call::<ActivatedReply>(&activated).await.unwrap_err();
    assert_eq!(refused.status(), bad_role);
    let coordinator = Identity::Coordinator(CoordinatorId(1));
    let peer = cluster.connect(&running, &coordinator).await;
    let open = SessionOpenRequest { client: "c".into() };
    let refused = peer.call::<SessionOpenReply>(&open).await.unwrap_err();
    assert_eq!(refused.status(), bad_role);
    let fetch = MapFetchRequest { have: MapVersion(0) };
    let map: MapFetchReply = peer.call(&fetch).await.unwrap();
    assert_eq!(map.delta.nodes.len(), 2);
}

#[tokio::test]
async fn a_data_path_request_is_not_for_a_coordinator() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut raw = cluster.raw(&running, &root()).await;
    raw.hello().await;
    let body = [0u8; 16];
    let header = Header::new(Kind::Verify, RequestId(5)).seal(&body, 0);
    raw.send(&Header { cluster_tag: CLUSTER.tag(), ..header }, &body).await.unwrap();
    assert_eq!(raw.receive().await.unwrap().0.status, Status::Unsupported);
}

#[tokio::test]
async fn a_peer_that_does_not_read_holds_up_nobody_and_still_gets_every_answer() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut raw = cluster.raw(&running, &root()).await;
    raw.hello().await;
    let count = 20 * REQUESTS_IN_FLIGHT_MAX as u64;
    let before = running.resident_kib();
    let (mut reader, mut writer) = tokio::io::split(raw.stream);
    let asking = tokio::spawn(async move {
        for id in 1..=count {
            let (header, body) = request(id, &StatusRequest);
            writer.write_all(&header.encode()).await.unwrap();
            writer.write_all(&body).await.unwrap();
        }
        writer.flush().await.unwrap();
        writer
    });
    for _ in 0..5 {
        still_serves(&cluster, &running).await;
    }
    assert!(running.resident_kib() < before + 64 * 1024, "answers do not pile up");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..count {
        let mut bytes = [0u8; 64];
        soon("answer", reader.read_exact(&mut bytes)).await.unwrap();
        let header = Header::decode(&bytes).unwrap();
        let mut body = vec![0u8; header.body_len as usize];
        reader.read_exact(&mut body).await.unwrap();
        assert_eq!(header.status, Status::Ok);
        assert_eq!(message::open::<StatusReply>(&header, &body).unwrap().sessions, 0);
        seen.insert(header.request.0);
    }
    assert_eq!(seen.len() as u64, count, "each request has one answer");
    asking.await.unwrap();
}

#[tokio::test]
async fn silent_connections_are_bounded_in_number_and_time() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut silent = Vec::new();
    for _ in 0..coordinator::limits::HALF_OPEN_MAX {
        silent.push(TcpStream::connect(running.address).await.unwrap());
    }
    let mut one_more = TcpStream::connect(running.address).await.unwrap();
    closed(&mut one_more).await;
    running.line("too many connections").await;
    closed(&mut silent[0]).await;
    running.line("no hello within the time").await;
    drop(silent);
    still_serves(&cluster, &running).await;
}

#[tokio::test]
async fn a_peer_that_says_something_else_first_is_closed() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut raw = cluster.raw(&running, &root()).await;
    let (header, body) = request(1, &StatusRequest);
    raw.send(&header, &body).await.unwrap();
    assert!(soon("close", raw.is_closed()).await);
    assert_eq!(StatusRequest::KIND, Kind::Status);
    let admin = cluster.admin(&running).await;
    assert_eq!(admin.session().await, SessionId(1));
}

#[tokio::test]
async fn a_flood_of_strangers_fills_no_log() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let refusals = || running.lines().iter().filter(|line| line.contains("refused")).count() as u64;
    for _ in 0..REFUSAL_LINES_MAX + 30 {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        closed(&mut stream).await;
    }
    still_serves(&cluster, &running).await;
    // The minute may end in between, once.
    assert!((1..=2 * REFUSAL_LINES_MAX).contains(&refusals()), "{} lines", refusals());
}
