//! Bodies that nobody honest sends: flipped bits, random bytes, and structures built to cost much.

use flatbuffers::FlatBufferBuilder;
use proptest::prelude::*;
use protocol::limits::{
    BODY_LEN_MAX, BODY_LEN_MAX_LIST, VERIFIER_APPARENT_MAX, VERIFIER_DEPTH_MAX, VERIFIER_TABLES_MAX,
};
use protocol::message::cluster::{HeartbeatRequest, StatusReply};
use protocol::message::{Kind, Message, MessageError, check_body, decode_command, encode_command};

use crate::samples;

#[test]
fn flipped_bits_never_panic() {
    for case in samples::all() {
        let mut body = case.body.clone();
        for bit in 0..body.len() * 8 {
            body[bit / 8] ^= 1 << (bit % 8);
            let _ = check_body(case.kind, case.response, &body);
            assert!(case.header.check_body(&body).is_err(), "{} bit {bit}", case.name);
            body[bit / 8] ^= 1 << (bit % 8);
        }
    }
    for (_, command) in samples::commands() {
        let mut bytes = encode_command(&samples::STAMP, &command);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = decode_command(&bytes);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        for case in samples::all() {
            let _ = check_body(case.kind, case.response, &bytes);
        }
        let _ = decode_command(&bytes);
    }

    #[test]
    fn random_bytes_inside_a_message_never_panic(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        patch in prop::collection::vec(any::<u8>(), 1..16),
    ) {
        let cases = samples::all();
        let case = which.get(&cases);
        let mut body = case.body.clone();
        let start = at.index(body.len());
        body.iter_mut().skip(start).zip(&patch).for_each(|(byte, &value)| *byte = value);
        let _ = check_body(case.kind, case.response, &body);
    }
}

#[test]
fn a_body_of_another_message_is_refused_by_its_identifier() {
    for case in samples::all() {
        let mut body = case.body.clone();
        body[4] ^= 0x20;
        let result = check_body(case.kind, case.response, &body);
        assert!(matches!(result, Err(MessageError::Malformed { .. })), "{}", case.name);
    }
}

/// A body whose root is one vector of tables: the same table every time, with `bulk` bytes of text.
fn repeated_table(identifier: &str, slot: u16, count: usize, bulk: usize) -> Vec<u8> {
    let mut out = FlatBufferBuilder::new();
    let blob = out.create_string(&"x".repeat(bulk));
    let start = out.start_table();
    // Field 1: the address of a `CoordinatorStatus`; a `TargetHealth` reads it as a number.
    out.push_slot_always(6, blob);
    let table = out.end_table(start);
    let tables = out.create_vector(&vec![table; count]);
    let start = out.start_table();
    out.push_slot_always(slot, tables);
    let root = out.end_table(start);
    out.finish(root, Some(identifier));
    out.finished_data().to_vec()
}

#[test]
fn too_many_tables_are_refused_before_they_are_read() {
    // Targets of a heartbeat, which is a list: its own limit on the field speaks first below the
    // verifier's, and the verifier's above it.
    let few = repeated_table("q202", 12, 200, 1);
    assert!(HeartbeatRequest::decode(&few).is_ok());
    let field = repeated_table("q202", 12, 300, 1);
    let error = MessageError::Field { message: "HeartbeatRequest", field: "targets" };
    assert_eq!(HeartbeatRequest::decode(&field), Err(error));
    let many = repeated_table("q202", 12, 70_000, 1);
    assert!(many.len() <= BODY_LEN_MAX_LIST);
    let error = MessageError::Malformed { message: "HeartbeatRequest" };
    assert_eq!(HeartbeatRequest::decode(&many), Err(error));
}

#[test]
fn a_shared_part_counts_each_time_it_is_reached() {
    // The coordinators of a status: one text of 8 KiB, reached a thousand times.
    // A few of them pass the verifier, and then the text is too long for its field.
    let few = repeated_table("r20a", 6, 10, 8192);
    let error = MessageError::Field { message: "StatusReply", field: "address" };
    assert_eq!(StatusReply::decode(&few), Err(error));
    let body = repeated_table("r20a", 6, 1000, 8192);
    assert!(body.len() <= BODY_LEN_MAX);
    let error = MessageError::Malformed { message: "StatusReply" };
    assert_eq!(StatusReply::decode(&body), Err(error));
}

#[test]
fn limits_are_those_of_the_document() {
    assert_eq!((VERIFIER_DEPTH_MAX, VERIFIER_TABLES_MAX), (16, 4096));
    assert_eq!(VERIFIER_APPARENT_MAX, 1 << 20);
    assert_eq!(Kind::Hello.body_len_max(), BODY_LEN_MAX);
    assert_eq!(Kind::Mutate.body_len_max(), BODY_LEN_MAX_LIST);
}
