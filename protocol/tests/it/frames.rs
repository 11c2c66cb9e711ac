//! The frame header: what is refused, and what it is called.

use protocol::checksum::sum64;
use protocol::frame::{FrameError, Header, RESPONSE_BIT, VERSION};
use protocol::ids::{Epoch, MapVersion, RequestId};
use protocol::limits::{BODY_LEN_MAX, BODY_LEN_MAX_LIST, HEADER_LEN, PAYLOAD_LEN_MAX};
use protocol::message::Kind;
use protocol::status::Status;

fn header(kind: Kind) -> Header {
    Header {
        epoch: Epoch(3),
        deadline_ms: 500,
        map_version: MapVersion(9),
        credit: 2,
        cluster_tag: 0xabcd,
        ..Header::new(kind, RequestId(77))
    }
}

/// Header bytes with some of them changed and the sum made good again.
fn forged(header: &Header, at: usize, bytes: &[u8]) -> [u8; HEADER_LEN] {
    let mut out = header.encode();
    out[at..at + bytes.len()].copy_from_slice(bytes);
    let sum = sum64(&out[..56]);
    out[56..].copy_from_slice(&sum.to_le_bytes());
    out
}

#[test]
fn every_kind_and_status_round_trips() {
    for &kind in Kind::ALL {
        for &status in Status::ALL {
            let header = Header { response: true, status, ..header(kind) }.seal(b"body", 0);
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
    }
}

#[test]
fn plain_text_is_a_wrong_magic_whatever_else_is_wrong() {
    let mut text = [b' '; HEADER_LEN];
    text[..14].copy_from_slice(b"GET / HTTP/1.1");
    let error = Header::decode(&text).unwrap_err();
    assert_eq!(error, FrameError::Magic(u32::from_le_bytes(*b"GET ")));
    assert_eq!(error.to_string(), "not a lanefs frame (magic 0x20544547)");
}

#[test]
fn another_version_is_named_although_its_header_may_sum_otherwise() {
    let mut bytes = header(Kind::Read).encode();
    bytes[4..6].copy_from_slice(&(VERSION + 1).to_le_bytes());
    assert_eq!(Header::decode(&bytes), Err(FrameError::Version(VERSION + 1)));
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let good = header(Kind::Write).seal(b"body", 4096).encode();
    for bit in 0..HEADER_LEN * 8 {
        let mut bytes = good;
        bytes[bit / 8] ^= 1 << (bit % 8);
        let expected = match bit / 8 {
            0..4 => matches!(Header::decode(&bytes), Err(FrameError::Magic(_))),
            4..6 => matches!(Header::decode(&bytes), Err(FrameError::Version(_))),
            _ => Header::decode(&bytes) == Err(FrameError::HeaderSum),
        };
        assert!(expected, "bit {bit}");
    }
}

#[test]
fn unknown_kinds_and_statuses_are_refused() {
    let read = header(Kind::Read);
    for code in [0u16, 0x0fff, 0x7fff, 0x8000, 0x8fff] {
        let bytes = forged(&read, 6, &code.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(FrameError::Kind(code)));
    }
    let bytes = forged(&read, 40, &0x9999u16.to_le_bytes());
    assert_eq!(Header::decode(&bytes), Err(FrameError::Status(0x9999)));
}

#[test]
fn bodies_are_bounded_by_their_kind() {
    let with = |kind, len: usize| {
        let len = u32::try_from(len).unwrap();
        (Header::decode(&forged(&header(kind), 8, &len.to_le_bytes())), len)
    };
    for &kind in Kind::ALL {
        let max = if kind.has_long_body() { BODY_LEN_MAX_LIST } else { BODY_LEN_MAX };
        assert!(with(kind, max).0.is_ok(), "{kind:?}");
        let (result, len) = with(kind, max + 1);
        assert_eq!(result, Err(FrameError::BodyLen(len)), "{kind:?}");
    }
    assert_eq!(with(Kind::Mutate, u32::MAX as usize).0, Err(FrameError::BodyLen(u32::MAX)));
}

#[test]
fn payload_is_allowed_only_where_the_kind_has_one() {
    let with = |kind: Kind, response: bool, len: usize| {
        let len = u32::try_from(len).unwrap();
        let header = Header { response, ..header(kind) };
        (Header::decode(&forged(&header, 12, &len.to_le_bytes())), len)
    };
    for &kind in Kind::ALL {
        for response in [false, true] {
            let max = if kind.has_payload(response) { PAYLOAD_LEN_MAX } else { 0 };
            assert!(with(kind, response, max).0.is_ok(), "{kind:?}");
            let (result, len) = with(kind, response, max + 1);
            assert_eq!(result, Err(FrameError::PayloadLen(len)), "{kind:?}");
        }
    }
}

#[test]
fn a_body_of_another_length_or_sum_is_refused() {
    let header = header(Kind::Lookup).seal(b"some body", 0);
    assert_eq!(header.check_body(b"some body"), Ok(()));
    for other in [b"some bodx".as_slice(), b"some bod", b"some body ", b""] {
        assert_eq!(header.check_body(other), Err(FrameError::BodySum));
    }
}

#[test]
fn answers_carry_what_the_asker_needs_to_match_them() {
    let request = header(Kind::Read);
    let reply = request.reply(Status::Busy);
    assert_eq!((reply.request, reply.kind, reply.epoch), (RequestId(77), Kind::Read, Epoch(3)));
    assert_eq!((reply.status, reply.cluster_tag), (Status::Busy, 0xabcd));
    assert_eq!((reply.response, reply.deadline_ms, reply.credit), (true, 0, 0));
    let code = u16::from_le_bytes([reply.encode()[6], reply.encode()[7]]);
    assert_eq!(code, Kind::Read.code() | RESPONSE_BIT);
}

#[test]
fn every_error_has_a_status_to_answer_with() {
    assert_eq!(FrameError::Version(9).status(), Status::BadVersion);
    assert_eq!(FrameError::Kind(9).status(), Status::Unsupported);
    assert_eq!(FrameError::Cluster(9).status(), Status::BadCluster);
    for error in [FrameError::Magic(0), FrameError::HeaderSum, FrameError::BodySum] {
        assert_eq!(error.status(), Status::BadFrame);
    }
}
