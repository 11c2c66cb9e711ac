//! Frames over a trusted connection.

use std::io::Write;
use std::rc::Rc;

use node::io::glommio::NoDisk;
use node::io::{Buffer, Disk, Link, NetError, Outgoing, Payload};
use node::limits::{FRAME_TIME_GRACE_MS, SEND_QUEUE_MAX};
use protocol::checksum::sum64;
use protocol::frame::Header;
use protocol::ids::RequestId;
use protocol::limits::{HEADER_LEN, REQUESTS_IN_FLIGHT_MAX};
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
    let server = Server::start(authority.configs(&SERVER));
    let (tls, address) = (authority.configs(&client()), server.address);
    run(move || async move {
        let (_net, link) = connect(tls, address).await;
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
