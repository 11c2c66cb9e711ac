//! Two sessions talk over byte queues that cut the bytes anywhere.

use super::*;
use crate::checksum::cell_sums;
use crate::frame::{CREDIT_UNIT, FrameError};
use crate::ids::{ChunkKey, Fid, GroupId, Handle, MapVersion, OpId, Seq, SessionId};
use crate::limits::{BODY_LEN_MAX_LIST, CREDIT_MAX};
use crate::message::chunk::{WorkingNotice, WriteClass, WriteRequest};
use crate::message::cluster::{MapFetchRequest, SessionRenewReply, SessionRenewRequest};
use crate::message::{notice_frame, open_error};
use crate::testing::{Closed, Pair, Side};

const CLUSTER: ClusterId = ClusterId(0xfeed);
const RENEW: SessionRenewRequest = SessionRenewRequest { session: SessionId(4) };

fn opened(seed: u64) -> Pair {
    let mut pair = Pair::new(CLUSTER, CLUSTER, seed);
    pair.settle();
    assert!(matches!(pair.server.seen.pop_front().unwrap().event, Event::Greeted { .. }));
    assert!(matches!(pair.client.seen.pop_front().unwrap().event, Event::Opened(_)));
    assert!(pair.client.session.is_open() && pair.server.session.is_open());
    pair
}

/// A pair whose server gets `first` in place of a hello, and the error it closed with.
fn refused(first: &[u8]) -> (Pair, Closed) {
    let mut pair = Pair::new(CLUSTER, CLUSTER, 1);
    pair.lose_all();
    pair.send_bytes(Side::Client, first);
    pair.settle();
    let closed = pair.server.closed.clone().unwrap();
    (pair, closed)
}

fn bytes(frame: &(Header, Vec<u8>)) -> Vec<u8> {
    [frame.0.encode().as_slice(), &frame.1].concat()
}

fn context() -> Context {
    Context { cluster_tag: CLUSTER.tag(), ..Context::default() }
}

fn write(payload: &[u8]) -> WriteRequest {
    let key = ChunkKey { fid: Fid(3), index: 1 };
    let len = u32::try_from(payload.len()).unwrap();
    WriteRequest {
        group: GroupId(1),
        key,
        op: OpId { session: SessionId(1), seq: Seq(1) },
        attempt: 0,
        class: WriteClass::Growth,
        offset: 0,
        len,
        expect_len: len,
        trunc_gen: 0,
        cell_log2: 12,
        chunk_log2: 22,
        handle: Handle(0),
        sums: cell_sums(key, 0, 12, payload),
        aux: vec![],
    }
}

#[test]
fn requests_and_answers_cross_however_the_bytes_are_cut() {
    let payload: Vec<u8> = (0..100_000u32).map(|at| at.to_le_bytes()[0]).collect();
    let message = write(&payload);
    for seed in 0..40 {
        let mut pair = opened(seed);
        pair.request(&message, &payload, 0, 1).unwrap();
        pair.request(&RENEW, &[], 0, 2).unwrap();
        pair.settle();
        let first = pair.server.seen.pop_front().unwrap();
        assert_eq!(open::<WriteRequest>(&first.header, &first.body), Ok(message.clone()));
        assert_eq!(first.payload, payload);
        let second = pair.server.seen.pop_front().unwrap();
        assert_eq!(pair.server.session.serving(), 2);

        // Answers may come in any order.
        pair.send(Side::Server, &reply_frame(&second.header, &SessionRenewReply), &[]);
        pair.send(Side::Server, &error_frame(&first.header, Status::Busy, ""), &[]);
        pair.server.session.answered(first.header.request);
        pair.server.session.answered(second.header.request);
        pair.settle();
        let events: Vec<_> = pair.client.seen.iter().map(|seen| seen.event.clone()).collect();
        assert_eq!(events, [Event::Response(2), Event::Response(1)], "seed {seed}");
        assert!(pair.client.session.outstanding().is_empty());
        assert_eq!(pair.server.session.serving(), 0);
        assert_eq!(pair.client.end(), Ok(()));
    }
}

#[test]
fn anything_before_a_hello_is_refused() {
    let frame = request_frame(RequestId(9), &RENEW, context(), 0).unwrap();
    let (mut pair, closed) = refused(&bytes(&frame));
    assert_eq!(closed, Closed::Session(SessionError::NoHello(Kind::SessionRenew)));
    // The client expects the answer to its hello, so it refuses this in turn, by the same rule.
    let expected = SessionError::NoHello(Kind::SessionRenew);
    assert_eq!(pair.client.closed.take(), Some(Closed::Session(expected)));
}

#[test]
fn plain_text_is_named_as_what_it_is() {
    let text = [b"GET / HTTP/1.1\r\nHost: node-1\r\n".as_slice(), &[b' '; 64]].concat();
    let (_, closed) = refused(&text);
    let magic = u32::from_le_bytes(*b"GET ");
    assert_eq!(closed, Closed::Frame(FrameError::Magic(magic)));
}

#[test]
fn a_peer_of_another_cluster_is_refused() {
    let (_, frame) = Session::<u32>::connect(ClusterId(1), TargetId(0));
    let (_, closed) = refused(&bytes(&frame));
    assert_eq!(closed, Closed::Frame(FrameError::Cluster(1)));

    // The same tag does not help: the hello carries the whole id.
    let twin = ClusterId(CLUSTER.0 << 64);
    assert_eq!(twin.tag(), CLUSTER.tag());
    let (_, frame) = Session::<u32>::connect(twin, TargetId(0));
    let (pair, closed) = refused(&bytes(&frame));
    assert_eq!(closed, Closed::Session(SessionError::Cluster(twin)));
    let Some(Closed::Session(SessionError::Message(MessageError::Refused { status, .. }))) =
        pair.client.closed
    else {
        panic!("the client is told why: {:?}", pair.client.closed);
    };
    assert_eq!(status, Status::BadCluster);
}

#[test]
fn versions_are_negotiated_or_the_hello_is_refused() {
    let hello = |version_min, version_max| {
        let (features, cluster, target) = (!0, CLUSTER, TargetId(0));
        let hello = HelloRequest { version_min, version_max, features, cluster, target };
        request_frame(RequestId(0), &hello, context(), 0).unwrap()
    };
    let mut session = Session::<u32>::accept(CLUSTER);
    let (header, body) = hello(VERSION, VERSION + 7);
    let Ok(Event::Greeted { reply, .. }) = session.on_frame(&header, &body) else {
        panic!("not greeted")
    };
    let reply: HelloReply = open(&reply.0, &reply.1).unwrap();
    assert_eq!((reply.version, reply.features), (VERSION, FEATURES));

    let mut session = Session::<u32>::accept(CLUSTER);
    let (header, body) = hello(VERSION + 1, VERSION + 7);
    let error = session.on_frame(&header, &body).unwrap_err();
    assert_eq!(error, SessionError::Version { min: VERSION + 1, max: VERSION + 7 });
    let (header, body) = error.reply(&header).unwrap();
    assert_eq!(header.status, Status::BadVersion);
    assert!(open_error(&header, &body).unwrap().text.contains("versions 2 to 8"));
    assert_eq!(session.on_frame(&header, &body), Err(SessionError::Closed));
}

#[test]
fn no_more_requests_are_in_flight_than_allowed() {
    let mut pair = opened(3);
    for number in 0..REQUESTS_IN_FLIGHT_MAX {
        pair.request(&RENEW, &[], 0, u32::try_from(number).unwrap()).unwrap();
    }
    let full = RequestError::Full(Full { limit: REQUESTS_IN_FLIGHT_MAX });
    assert_eq!(pair.request(&RENEW, &[], 0, 0), Err(full));

    // A peer that does not keep to it is cut off.
    let frame = request_frame(RequestId(999), &RENEW, context(), 0).unwrap();
    pair.send(Side::Client, &frame, &[]);
    pair.settle();
    let error = SessionError::TooMany(RequestId(999));
    assert_eq!(pair.server.closed, Some(Closed::Session(error)));
    assert_eq!(pair.client.session.end().len(), REQUESTS_IN_FLIGHT_MAX);
}

#[test]
fn a_request_id_is_not_used_twice_at_once() {
    let mut pair = opened(4);
    let frame = request_frame(RequestId(5), &RENEW, context(), 0).unwrap();
    pair.send(Side::Client, &frame, &[]);
    pair.send(Side::Client, &frame, &[]);
    pair.settle();
    let error = SessionError::TooMany(RequestId(5));
    assert_eq!(pair.server.closed, Some(Closed::Session(error)));
}

#[test]
fn an_expired_request_keeps_its_place_until_its_answer_comes() {
    let mut pair = opened(5);
    let early = pair.request(&RENEW, &[], 0, 1).unwrap();
    let later = pair.request(&RENEW, &[], 500, 2).unwrap();
    assert_eq!(pair.client.session.outstanding().next_deadline_ms(), Some(1000));
    assert_eq!(pair.client.session.expire(999), []);
    assert_eq!(pair.client.session.expire(1000), [(early.request, 1)]);
    assert_eq!(pair.client.session.expire(1001), []);
    assert_eq!(pair.client.session.outstanding().len(), 2);

    pair.send(Side::Server, &reply_frame(&early, &SessionRenewReply), &[]);
    pair.send(Side::Server, &reply_frame(&later, &SessionRenewReply), &[]);
    pair.settle();
    let events: Vec<_> = pair.client.seen.iter().map(|seen| seen.event.clone()).collect();
    assert_eq!(events, [Event::Late, Event::Response(2)]);
    assert!(pair.client.session.outstanding().is_empty());
}

#[test]
fn answers_to_nothing_and_wrong_directions_close_the_connection() {
    let closed_by = |frame: &(Header, Vec<u8>)| {
        let mut pair = opened(6);
        pair.request(&RENEW, &[], 0, 1).unwrap();
        pair.send(Side::Server, frame, &[]);
        pair.settle();
        pair.client.closed.unwrap()
    };
    let answer = |kind, request| {
        let header = Header { cluster_tag: CLUSTER.tag(), ..Header::new(kind, RequestId(request)) };
        error_frame(&header, Status::Busy, "")
    };
    for (kind, request) in [(Kind::SessionRenew, 2), (Kind::SessionRenew, 0), (Kind::Read, 1)] {
        let error = SessionError::Unmatched { kind, request: RequestId(request) };
        assert_eq!(closed_by(&answer(kind, request)), Closed::Session(error));
    }
    let error = SessionError::Direction(Kind::Working);
    assert_eq!(closed_by(&answer(Kind::Working, 0)), Closed::Session(error));

    let notice = WorkingNotice { group: GroupId(1), outstanding: 0 };
    let mut numbered = notice_frame(&notice, context()).unwrap();
    numbered.0.request = RequestId(1);
    let error = SessionError::Direction(Kind::Working);
    assert_eq!(closed_by(&numbered), Closed::Session(error));

    let (_, hello) = Session::<u32>::connect(CLUSTER, TargetId(0));
    assert_eq!(closed_by(&hello), Closed::Session(SessionError::SecondHello));
}

#[test]
fn notices_pass_and_requests_wait_for_the_hello() {
    let (mut session, _) = Session::<u32>::connect(CLUSTER, TargetId(0));
    let context = Context::default();
    assert_eq!(session.request(&RENEW, context, 0, 1, 1), Err(RequestError::NotOpen));

    let mut pair = opened(7);
    let notice = WorkingNotice { group: GroupId(1), outstanding: 3 };
    let frame = notice_frame(&notice, self::context()).unwrap();
    pair.send(Side::Client, &frame, &[]);
    pair.settle();
    let seen = pair.server.seen.pop_front().unwrap();
    assert_eq!(seen.event, Event::Notice);
    assert_eq!(open(&seen.header, &seen.body), Ok(notice));
}

#[test]
fn a_connection_that_ends_inside_a_frame_is_told_apart() {
    let frame = request_frame(RequestId(1), &MapFetchRequest { have: MapVersion(1) }, context(), 0);
    let whole = bytes(&frame.unwrap());
    for cut in 0..=whole.len() {
        let mut reader = FrameReader::new(CLUSTER);
        for &byte in &whole[..cut] {
            reader.space()[0] = byte;
            reader.filled(1).unwrap();
        }
        let between = cut == 0 || cut == whole.len();
        let expected = if between { Ok(()) } else { Err(FrameError::Truncated) };
        assert_eq!(reader.end(), expected, "cut at {cut}");
    }
}

#[test]
fn damage_in_a_body_is_found() {
    let frame = request_frame(RequestId(1), &RENEW, context(), 0).unwrap();
    let mut reader = FrameReader::new(CLUSTER);
    reader.space().copy_from_slice(&frame.0.encode());
    assert_eq!(reader.filled(64), Ok(None));
    reader.space().copy_from_slice(&frame.1);
    let at = frame.1.len() - 1;
    reader.space()[at] ^= 1;
    assert_eq!(reader.filled(frame.1.len()), Err(FrameError::BodySum));
}

#[test]
fn an_announced_body_costs_memory_only_as_it_arrives() {
    let body = vec![7; BODY_LEN_MAX_LIST];
    let header = Header { cluster_tag: CLUSTER.tag(), ..Header::new(Kind::Mutate, RequestId(1)) };
    let header = header.seal(&body, 0);
    let mut reader = FrameReader::new(CLUSTER);
    reader.space().copy_from_slice(&header.encode());
    assert_eq!(reader.filled(64), Ok(None));
    let mut sent = 0;
    loop {
        let len = reader.space().len();
        assert!(len <= 64 << 10);
        reader.space().fill(7);
        sent += len;
        if let Some(frame) = reader.filled(len).unwrap() {
            assert_eq!((frame.body, sent), (body, BODY_LEN_MAX_LIST));
            break;
        }
    }
}

#[test]
fn payload_is_sent_only_within_the_grants() {
    let granted = |credit| Header { credit, ..Header::new(Kind::Read, RequestId(1)) };
    let mut credit = Credit::NONE;
    assert!(credit.take(0));
    assert!(!credit.take(1));
    credit.grant(&granted(1));
    credit.grant(&granted(1));
    assert!(!credit.take(2 * CREDIT_UNIT + 1));
    assert!(credit.take(2 * CREDIT_UNIT));
    assert!(!credit.take(1));
    // Grants add up to the bound and no further.
    for _ in 0..(CREDIT_MAX / u64::from(CREDIT_UNIT)) {
        credit.grant(&granted(u16::MAX));
    }
    assert_eq!(credit.left(), Some(CREDIT_MAX));
    assert!({ Credit::UNLIMITED }.take(u32::MAX));
}
