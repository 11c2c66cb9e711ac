//! Frames cut anywhere, and hellos of peers that do not fit.

use super::hello::{FEATURES, HelloError};
use super::*;
use crate::frame::{FrameError, Header, VERSION};
use crate::ids::{ClusterId, MapVersion, RequestId, SessionId, TargetId};
use crate::limits::{BODY_LEN_MAX_LIST, REQUESTS_IN_FLIGHT_MAX};
use crate::message::cluster::{
    HelloReply, HelloRequest, MapFetchRequest, SessionRenewReply, SessionRenewRequest,
};
use crate::message::{Context, Kind, open, open_error, reply_frame, request_frame};
use crate::status::Status;

const CLUSTER: ClusterId = ClusterId(0xfeed);
const RENEW: SessionRenewRequest = SessionRenewRequest { session: SessionId(4) };

type Frame = (Header, Vec<u8>);

fn context() -> Context {
    Context { cluster_tag: CLUSTER.tag(), ..Context::default() }
}

fn bytes(frame: &Frame, payload: &[u8]) -> Vec<u8> {
    [frame.0.encode().as_slice(), &frame.1, payload].concat()
}

/// Reads all bytes in pieces of at most `step`; each frame with its payload.
fn read(bytes: &[u8], step: usize) -> Result<Vec<(Received, Vec<u8>)>, BadFrame> {
    read_with(FrameReader::new(CLUSTER.tag()), bytes, step)
}

fn read_with(
    mut reader: FrameReader,
    mut bytes: &[u8],
    step: usize,
) -> Result<Vec<(Received, Vec<u8>)>, BadFrame> {
    let mut seen: Vec<(Received, Vec<u8>)> = Vec::new();
    while !bytes.is_empty() {
        let due = reader.payload_left();
        let room = if due > 0 { due } else { reader.space().len() };
        let (piece, rest) = bytes.split_at(step.min(room).min(bytes.len()));
        bytes = rest;
        if due > 0 {
            seen.last_mut().unwrap().1.extend_from_slice(piece);
            reader.payload_taken(piece.len());
            continue;
        }
        reader.space()[..piece.len()].copy_from_slice(piece);
        reader.filled(piece.len())?;
        seen.extend(reader.take()?.map(|frame| (frame, Vec::new())));
    }
    assert!(!reader.inside_frame());
    Ok(seen)
}

#[test]
fn frames_come_out_however_the_bytes_are_cut() {
    let payload: Vec<u8> = (0..70_000u32).map(|at| at.to_le_bytes()[0]).collect();
    let header = Header { cluster_tag: CLUSTER.tag(), ..Header::new(Kind::Write, RequestId(3)) };
    let len = u32::try_from(payload.len()).unwrap();
    let write = (header.seal(b"body", len), b"body".to_vec());
    let renew = request_frame(RequestId(4), &RENEW, context(), 0).unwrap();
    let empty = (header.seal(b"", 0), Vec::new());
    let all = [bytes(&write, &payload), bytes(&renew, &[]), bytes(&empty, &[])].concat();
    for step in [1, 7, 63, 64, 65, 4096, all.len()] {
        let seen = read(&all, step).unwrap();
        let frames: Vec<Frame> =
            seen.iter().map(|(frame, _)| (frame.header, frame.body.clone())).collect();
        assert_eq!(frames, [write.clone(), renew.clone(), empty.clone()], "step {step}");
        assert_eq!(seen[0].1, payload);
    }
}

#[test]
fn a_connection_that_ends_inside_a_frame_is_told_apart() {
    let frame = request_frame(RequestId(1), &MapFetchRequest { have: MapVersion(1) }, context(), 0);
    let whole = bytes(&frame.unwrap(), &[]);
    for cut in 0..=whole.len() {
        let mut reader = FrameReader::new(CLUSTER.tag());
        for &byte in &whole[..cut] {
            reader.space()[0] = byte;
            reader.filled(1).unwrap();
            reader.take().unwrap();
        }
        assert_eq!(reader.inside_frame(), cut != 0 && cut != whole.len(), "cut at {cut}");
    }
}

#[test]
fn what_is_coming_is_known_before_the_body_is_there() {
    let frame = request_frame(RequestId(1), &RENEW, context(), 0).unwrap();
    let mut reader = FrameReader::new(CLUSTER.tag());
    assert_eq!(reader.header(), None);
    reader.space().copy_from_slice(&frame.0.encode());
    reader.filled(64).unwrap();
    assert_eq!(reader.header(), Some(&frame.0));
    assert_eq!(reader.take(), Ok(None));
}

#[test]
fn damage_in_a_body_is_found_and_answered() {
    let frame = request_frame(RequestId(1), &RENEW, context(), 0).unwrap();
    let mut damaged = bytes(&frame, &[]);
    let at = damaged.len() - 1;
    damaged[at] ^= 1;
    let bad = read(&damaged, 4096).unwrap_err();
    assert_eq!(bad.error, FrameError::BodySum);
    let (header, body) = bad.reply().unwrap();
    assert_eq!((header.status, header.request), (Status::BadFrame, RequestId(1)));
    assert_eq!(open_error(&header, &body).unwrap().text, "malformed frame: damaged frame body");
}

#[test]
fn plain_text_is_named_as_what_it_is() {
    let text = [b"GET / HTTP/1.1\r\nHost: node-1\r\n".as_slice(), &[b' '; 64]].concat();
    let magic = u32::from_le_bytes(*b"GET ");
    let bad = read(&text, 64).unwrap_err();
    assert_eq!(bad, BadFrame { error: FrameError::Magic(magic), answer: None });
}

#[test]
fn an_announced_body_costs_memory_only_as_it_arrives() {
    let body = vec![7; BODY_LEN_MAX_LIST];
    let header = Header { cluster_tag: CLUSTER.tag(), ..Header::new(Kind::Mutate, RequestId(1)) };
    let header = header.seal(&body, 0);
    let mut reader = FrameReader::new(CLUSTER.tag());
    reader.space().copy_from_slice(&header.encode());
    reader.filled(64).unwrap();
    let mut sent = 0;
    loop {
        let len = reader.space().len();
        assert!(len <= 64 << 10);
        reader.space().fill(7);
        sent += len;
        reader.filled(len).unwrap();
        if let Some(frame) = reader.take().unwrap() {
            assert_eq!((frame.body, sent), (body, BODY_LEN_MAX_LIST));
            break;
        }
    }
}

/// What the accepting side makes of a first frame, and its answer.
fn greet(frame: &Frame) -> (Result<HelloReply, HelloError>, Option<Frame>) {
    let verdict = hello::check(CLUSTER, FEATURES, &frame.0, &frame.1);
    let answer = hello::answer(&frame.0, &verdict);
    (verdict, answer)
}

#[test]
fn two_ends_of_one_release_agree() {
    let (verdict, answer) = greet(&hello::request(CLUSTER, TargetId(5), FEATURES));
    let (header, body) = answer.unwrap();
    let reply = hello::accept(&header, &body).unwrap();
    assert_eq!((reply.version, reply.features), (VERSION, FEATURES));
    assert_eq!(reply.requests_in_flight as usize, REQUESTS_IN_FLIGHT_MAX);
    assert_eq!(verdict, Ok(reply));
}

#[test]
fn anything_before_a_hello_is_refused() {
    let renew = request_frame(RequestId(9), &RENEW, context(), 0).unwrap();
    let (verdict, answer) = greet(&renew);
    assert_eq!(verdict, Err(HelloError::NotHello(Kind::SessionRenew)));
    let (header, body) = answer.unwrap();
    assert_eq!(header.status, Status::BadFrame);
    // The other end expects the answer to a hello, so it refuses this in turn, by the same rule.
    let expected = HelloError::NotHello(Kind::SessionRenew);
    assert_eq!(hello::accept(&header, &body), Err(expected));

    let (verdict, answer) = greet(&reply_frame(&renew.0, &SessionRenewReply));
    assert!(verdict.is_err() && answer.is_none(), "an answer is not answered");
}

#[test]
fn a_peer_of_another_cluster_is_refused() {
    let frame = hello::request(ClusterId(1), TargetId(0), 0);
    let bad = read(&bytes(&frame, &[]), 64).unwrap_err();
    assert_eq!(bad.error, FrameError::Cluster(1));
    assert_eq!(bad.reply().unwrap().0.status, Status::BadCluster);

    // The same tag does not help: the hello carries the whole id.
    let twin = ClusterId(CLUSTER.0 << 64);
    assert_eq!(twin.tag(), CLUSTER.tag());
    let (verdict, answer) = greet(&hello::request(twin, TargetId(0), 0));
    assert_eq!(verdict, Err(HelloError::Cluster(twin)));
    let (header, body) = answer.unwrap();
    let Err(HelloError::Refused { status, text }) = hello::accept(&header, &body) else {
        panic!("the other end is told why")
    };
    assert_eq!(status, Status::BadCluster);
    assert!(text.contains("belongs to cluster"), "{text}");
}

#[test]
fn versions_are_negotiated_or_the_hello_is_refused() {
    let offer = |version_min, version_max| {
        let hello = HelloRequest {
            version_min,
            version_max,
            features: !0,
            ..hello::offer(CLUSTER, TargetId(0), FEATURES)
        };
        request_frame(RequestId(1), &hello, context(), 0).unwrap()
    };
    let (_, answer) = greet(&offer(VERSION, VERSION + 7));
    let (header, body) = answer.unwrap();
    let reply: HelloReply = open(&header, &body).unwrap();
    assert_eq!((reply.version, reply.features), (VERSION, FEATURES));

    let (verdict, answer) = greet(&offer(VERSION + 1, VERSION + 7));
    assert_eq!(verdict, Err(HelloError::Version { min: VERSION + 1, max: VERSION + 7 }));
    let (header, body) = answer.unwrap();
    assert_eq!(header.status, Status::BadVersion);
    assert!(open_error(&header, &body).unwrap().text.contains("versions 2 to 8"));

    let newer = HelloReply { version: VERSION + 1, ..reply };
    let (header, body) = reply_frame(&offer(1, 1).0, &newer);
    let expected = HelloError::Version { min: VERSION + 1, max: VERSION + 1 };
    assert_eq!(hello::accept(&header, &body), Err(expected));
}

#[test]
fn only_a_feature_that_both_sides_want_is_agreed_on() {
    let agreed = |wanted, allowed| {
        let frame = hello::request(CLUSTER, TargetId(5), wanted);
        let verdict = hello::check(CLUSTER, allowed, &frame.0, &frame.1);
        let (header, body) = hello::answer(&frame.0, &verdict).unwrap();
        hello::accept(&header, &body).unwrap().features
    };
    assert_eq!(agreed(FEATURES, FEATURES), FEATURES);
    assert_eq!(agreed(0, FEATURES), 0, "the server does not press it on a client");
    assert_eq!(agreed(FEATURES, 0), 0, "nor the client on a server");
}

/// A frame as it goes over a connection that has left TLS.
fn tagged(mac: &mut FrameMac, frame: &Frame, payload: &[u8]) -> Vec<u8> {
    let header = frame.0.encode();
    let tag = mac.tag(&header, &frame.1);
    [&header[..], &frame.1, &tag, payload].concat()
}

fn macs() -> FrameMacs {
    FrameMacs::derive(|_, context| Ok::<_, ()>([context[0]; 16])).unwrap()
}

/// Reads all bytes in pieces of at most `step`, each frame with its tag.
fn read_tagged(bytes: &[u8], step: usize) -> Result<Vec<Frame>, BadFrame> {
    let mut reader = FrameReader::new(CLUSTER.tag());
    reader.authenticate(macs().of_client);
    let seen = read_with(reader, bytes, step)?;
    Ok(seen.into_iter().map(|(frame, _)| (frame.header, frame.body)).collect())
}

#[test]
fn outside_of_tls_frames_come_out_with_their_tags_checked() {
    let header = Header { cluster_tag: CLUSTER.tag(), ..Header::new(Kind::Write, RequestId(3)) };
    let payload = [9; 5000];
    let frames =
        [(header.seal(b"body", 5000), b"body".to_vec()), (header.seal(b"", 0), Vec::new())];
    let mut mac = macs().of_client;
    let (first, second) =
        (tagged(&mut mac, &frames[0], &payload), tagged(&mut mac, &frames[1], &[]));
    for step in [1, 15, 16, 63, 4096, 10_000] {
        let seen = read_tagged(&[&first[..], &second].concat(), step);
        assert_eq!(seen.as_deref(), Ok(&frames[..]), "step {step}");
    }
    let refused = |bytes: &[u8]| read_tagged(bytes, 4096).unwrap_err();
    let bad = refused(&second);
    assert_eq!((bad.error, bad.answer), (FrameError::Tag, None), "the first frame was left out");
    assert_eq!(refused(&[&first[..], &first].concat()).error, FrameError::Tag, "sent twice");
    let untagged = bytes(&frames[1], &[]);
    let after = [&untagged[..], &[0; 16]].concat();
    assert_eq!(refused(&after).error, FrameError::Tag, "a frame that somebody made himself");
    let mut changed = first.clone();
    changed[65] ^= 1;
    assert!(matches!(refused(&changed).error, FrameError::Tag), "another body");
}
