//! Frames over a trusted connection.

use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;

use node::io::NoDisk;
use node::io::glommio::net::TlsConfigs;
use node::io::{Buffer, Disk, Link, NetError, Outgoing, Payload};
use node::limits::{FRAME_TIME_GRACE_MS, SEND_QUEUE_MAX};
use protocol::checksum::sum64;
use protocol::frame::{Header, VERSION};
use protocol::ids::RequestId;
use protocol::limits::{
    BODY_LEN_MAX, BODY_LEN_MAX_LIST, HEADER_LEN, PAYLOAD_LEN_MAX, REQUESTS_IN_FLIGHT_MAX,
};
use protocol::message::Kind;
use protocol::message::cluster::ErrorReply;
use protocol::status::Status;

use crate::certificates::Authority;
use crate::fixture::{CLUSTER, RawPeer, SERVER, Server, client, connect, request, run};

const LEN: usize = 4 << 20;

fn payload(seed: u8) -> (Payload<NoDisk>, u64) {
    let mut buffer = NoDisk.allocate(LEN);
    for (at, byte) in buffer.bytes_mut().iter_mut().enumerate() {
        *byte = (at as u64).wrapping_mul(0x9e37_79b9).to_le_bytes()[3] ^ seed;
    }
    let sum = sum64(buffer.bytes());
    (Payload::from_buffer(Rc::new(buffer), LEN), sum)
}

#[test]
fn link_carries_whole_chunks_both_ways_unchanged() {
    let authority = Authority::new(CLUSTER);
    carries_whole_chunks(authority.configs(&SERVER), authority.configs(&client()), false);
}

/// Sends eight chunks and gets them back, over TLS or after both sides have left it.
pub(crate) fn carries_whole_chunks(server: TlsConfigs, tls: TlsConfigs, clear: bool) {
    let server = Server::start(server);
    let address = server.address;
    run(move || async move {
        let (_net, link) = connect(tls, address).await;
        assert_eq!(link.is_clear(), clear);
        let mut sums = Vec::new();
        for seed in 0..8u8 {
            let (payload, sum) = payload(seed);
            let body = vec![seed; 100];
            let id = RequestId(u64::from(seed) + 10);
            let header = Header::new(Kind::Write, id).seal(&body, u32::try_from(LEN).unwrap());
            link.send(Outgoing { header, body, payload }).unwrap();
            sums.push(sum);
        }
        for (seed, sum) in (0..8u8).zip(sums) {
            let frame = link.receive().await.unwrap();
            assert_eq!(frame.header.request, RequestId(u64::from(seed) + 10));
            assert_eq!(frame.body, vec![seed; 100]);
            assert_eq!(sum64(&frame.payload.unwrap().bytes()[..LEN]), sum);
        }
    });
    server.stop();
}

#[test]
fn link_closes_under_load_on_either_side() {
    let authority = Authority::new(CLUSTER);
    for server_closes in [true, false] {
        let serve = move |link: Rc<node::io::glommio::link::GlommioLink<NoDisk>>| async move {
            let mut received = 0;
            while link.receive().await.is_ok() {
                received += 1;
                if server_closes && received == 3 {
                    link.close();
                }
            }
        };
        let server = Server::with(authority.configs(&SERVER), serve);
        let (tls, address) = (authority.configs(&client()), server.address);
        let end = run(move || async move {
            let (_net, link) = connect(tls, address).await;
            let sender = Rc::clone(&link);
            glommio::spawn_local(async move {
                let (payload, _) = payload(0);
                let header = Header::new(Kind::Replicate, RequestId(0))
                    .seal(b"", u32::try_from(LEN).unwrap());
                loop {
                    let payload = payload.clone();
                    match sender.send(Outgoing { header, body: Vec::new(), payload }) {
                        Err(NetError::Full) => {
                            if !server_closes {
                                sender.close();
                                return;
                            }
                            glommio::executor().yield_task_queue_now().await;
                        }
                        Err(_) => return,
                        Ok(()) => {}
                    }
                    node::io::glommio::take_turn().await;
                }
            })
            .detach();
            link.receive().await.err()
        });
        assert!(end.is_some(), "receive ends when the connection does");
        server.stop();
    }
}

#[test]
fn link_close_wakes_a_waiting_receive() {
    let authority = Authority::new(CLUSTER);
    let server = Server::start(authority.configs(&SERVER));
    let (tls, address) = (authority.configs(&client()), server.address);
    let (end, after) = run(move || async move {
        let (_net, link) = connect(tls, address).await;
        let waiting = Rc::clone(&link);
        let receive = glommio::spawn_local(async move { waiting.receive().await.err() });
        node::io::glommio::take_turn().await;
        link.close();
        (receive.await, link.send(request(Kind::Verify, 9, b"")).err())
    });
    assert_eq!((end, after), (Some(NetError::Closed), Some(NetError::Closed)));
    server.stop();
}

#[test]
fn link_answers_busy_beyond_the_requests_in_flight() {
    let authority = Authority::new(CLUSTER);
    // This server takes requests and never answers.
    let serve = |link: Rc<node::io::glommio::link::GlommioLink<NoDisk>>| async move {
        while link.receive().await.is_ok() {}
    };
    let server = Server::with(authority.configs(&SERVER), serve);
    let (tls, address) = (authority.configs(&client()), server.address);
    let busy = run(move || async move {
        let (_net, link) = connect(tls, address).await;
        // The hello was answered, so it is not in flight.
        for id in 0..=REQUESTS_IN_FLIGHT_MAX as u64 {
            link.send(request(Kind::Verify, 10 + id, b"")).unwrap();
        }
        let frame = link.receive().await.unwrap();
        (frame.header.request.0, frame.header.status)
    });
    assert_eq!(busy, (10 + REQUESTS_IN_FLIGHT_MAX as u64, Status::Busy));
    server.stop();
}

#[test]
fn link_send_queue_is_bounded() {
    let authority = Authority::new(CLUSTER);
    let server = Server::start(authority.configs(&SERVER));
    let (tls, address) = (authority.configs(&client()), server.address);
    let sent = run(move || async move {
        let (_net, link) = connect(tls, address).await;
        // Nothing leaves while this task does not wait.
        (0..10_000).take_while(|id| link.send(request(Kind::Verify, 10 + id, b"")).is_ok()).count()
    });
    assert_eq!(sent, SEND_QUEUE_MAX);
    server.stop();
}

#[test]
fn link_answers_a_bad_frame_and_closes() {
    let authority = Authority::new(CLUSTER);
    let server = Server::start(authority.configs(&SERVER));
    let mut peer = RawPeer::introduced(authority.configs(&client()).client, server.address);
    let mut header = Header::new(Kind::Verify, RequestId(7)).seal(b"body", 0);
    header.cluster_tag = CLUSTER.tag();
    peer.stream.write_all(&[&header.encode()[..], b"bodY"].concat()).unwrap();
    let (answer, body) = peer.receive().expect("an answer");
    assert_eq!((answer.request, answer.status), (RequestId(7), Status::BadFrame));
    assert!(ErrorReply::decode(&body).unwrap().text.contains("damaged frame body"));
    assert!(peer.receive().is_none(), "and then the end");
    RawPeer::introduced(authority.configs(&client()).client, server.address);
    server.stop();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the server counts the grace in real time")]
fn link_gives_up_a_frame_that_trickles() {
    let authority = Authority::new(CLUSTER);
    let server = Server::start(authority.configs(&SERVER));
    let mut peer = RawPeer::introduced(authority.configs(&client()).client, server.address);
    let begun = std::time::Instant::now();
    let header = Header::new(Kind::Verify, RequestId(7)).seal(b"body", 0).encode();
    peer.stream.write_all(&header[..HEADER_LEN / 2]).unwrap();
    assert!(peer.receive().is_none(), "the connection ends");
    assert!(begun.elapsed().as_millis() >= u128::from(FRAME_TIME_GRACE_MS));
    server.stop();
}

/// A request whose header says what the arguments say, with a right checksum, and then its body.
fn claiming(kind: Kind, version: u16, body_len: usize, payload_len: usize) -> Vec<u8> {
    const SUM_AT: usize = HEADER_LEN - 8;
    let header = Header {
        cluster_tag: CLUSTER.tag(),
        body_len: u32::try_from(body_len).unwrap(),
        payload_len: u32::try_from(payload_len).unwrap(),
        body_sum: sum64(b"body"),
        ..Header::new(kind, RequestId(7))
    };
    let mut bytes = header.encode();
    bytes[4..6].copy_from_slice(&version.to_le_bytes());
    let sum = sum64(&bytes[..SUM_AT]).to_le_bytes();
    bytes[SUM_AT..].copy_from_slice(&sum);
    [&bytes[..], b"body"].concat()
}

/// What is wrong, its bytes, whether the peer ends the stream after them, and a part of the text
/// it is answered with; nothing answers what names no request.
fn malformed() -> Vec<(&'static str, Vec<u8>, bool, Option<&'static str>)> {
    let good = claiming(Kind::Verify, VERSION, 4, 0);
    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let body = claiming(Kind::Write, VERSION, BODY_LEN_MAX + 1, 0);
    let list = claiming(Kind::Verify, VERSION, BODY_LEN_MAX_LIST + 1, 0);
    let payload = claiming(Kind::Write, VERSION, 4, PAYLOAD_LEN_MAX + 1);
    let unfinished = claiming(Kind::Write, VERSION, 4, 4096);
    vec![
        ("plain text", b"GET / HTTP/1.1\r\n".repeat(8), false, None),
        ("another magic", changed(0), false, None),
        ("another version", claiming(Kind::Verify, VERSION + 1, 4, 0), false, None),
        ("a damaged header", changed(20), false, None),
        ("a long body", body, false, Some("frame body of")),
        ("a long list", list, false, Some("frame body of")),
        ("a long payload", payload, false, Some("frame payload of")),
        (
            "no place for payload",
            claiming(Kind::Verify, VERSION, 4, 1),
            false,
            Some("frame payload"),
        ),
        ("a damaged body", changed(HEADER_LEN), false, Some("damaged frame body")),
        ("half a header", good[..HEADER_LEN / 2].to_vec(), true, None),
        ("half a body", good[..HEADER_LEN + 2].to_vec(), true, None),
        ("half a payload", [&unfinished[..], &[7; 2048]].concat(), true, None),
    ]
}

#[test]
fn link_survives_every_malformed_frame() {
    let authority = Authority::new(CLUSTER);
    let server = Server::start(authority.configs(&SERVER));
    let config = authority.configs(&client()).client;
    let mut other = RawPeer::introduced(Arc::clone(&config), server.address);
    for (id, (what, bytes, ends, text)) in (100..).zip(malformed()) {
        let mut peer = RawPeer::introduced(Arc::clone(&config), server.address);
        peer.stream.write_all(&bytes).unwrap();
        if ends {
            peer.stream.conn.send_close_notify();
        }
        peer.stream.flush().unwrap();
        if let Some(text) = text {
            let (answer, body) = peer.receive().unwrap_or_else(|| panic!("{what}: no answer"));
            assert_eq!((answer.request, answer.status), (RequestId(7), Status::BadFrame), "{what}");
            let said = ErrorReply::decode(&body).unwrap().text;
            assert!(said.contains(text), "{what}: {said}");
        }
        assert_eq!(peer.rest(), Some(0), "{what}: the server closes and says nothing more");
        other.send(Header::new(Kind::Verify, RequestId(id)), what.as_bytes());
        let (answer, body) = other.receive().unwrap_or_else(|| panic!("{what}: others go on"));
        assert_eq!((answer.request, &body[..]), (RequestId(id), what.as_bytes()));
    }
    RawPeer::introduced(config, server.address);
    server.stop();
}
