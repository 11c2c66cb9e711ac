//! Four tests for every message, driven by one table: round trip, truncation at every byte, size,
//! golden bytes.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use protocol::limits::ERROR_TEXT_MAX;
use protocol::message::cluster::ErrorReply;
use protocol::message::{Body, MessageError, check_body, decode_command, encode_command};
use protocol::status::Status;

use crate::samples;

/// Set to write the vectors instead of comparing with them, after a deliberate change of format.
const BLESS: &str = "LANEFS_BLESS";

#[test]
fn the_samples_cover_every_message() {
    let have: BTreeSet<_> = samples::all().iter().map(|case| (case.kind, case.response)).collect();
    let want: BTreeSet<_> = Body::ALL.iter().map(|body| (body.kind, body.response)).collect();
    assert_eq!(have, want);
}

#[test]
fn round_trip() {
    for case in samples::all() {
        assert!((case.same)(&case.body), "{}", case.name);
        assert_eq!(check_body(case.kind, case.response, &case.body), Ok(()), "{}", case.name);
    }
    for (name, command) in samples::commands() {
        let bytes = encode_command(&samples::STAMP, &command);
        assert_eq!(decode_command(&bytes), Ok((samples::STAMP, command)), "{name}");
    }
}

#[test]
fn truncation_at_every_byte_never_panics_and_never_becomes_another_message() {
    for case in samples::all() {
        for cut in 0..case.body.len() {
            let part = &case.body[..cut];
            // The structure may survive the loss of padding at its end; then nothing has changed.
            let result = check_body(case.kind, case.response, part);
            assert!(result.is_err() || (case.same)(part), "{} cut at {cut}", case.name);
            assert!(case.header.check_body(part).is_err(), "{} cut at {cut}", case.name);
        }
    }
    for (name, command) in samples::commands() {
        let bytes = encode_command(&samples::STAMP, &command);
        for cut in 0..bytes.len() {
            let part = decode_command(&bytes[..cut]);
            let same = Ok((samples::STAMP, command.clone()));
            assert!(part.is_err() || part == same, "{name} cut at {cut}");
        }
    }
}

#[test]
fn the_header_says_the_encoded_size() {
    for case in samples::all() {
        assert_eq!(case.header.body_len as usize, case.body.len(), "{}", case.name);
        assert_eq!(case.header.check_body(&case.body), Ok(()), "{}", case.name);
        assert!(case.body.len() <= case.kind.body_len_max(), "{}", case.name);
        let carries = case.kind.has_payload(case.response);
        assert!(carries || case.header.payload_len == 0, "{}", case.name);
    }
}

#[test]
fn golden_bytes() {
    for case in samples::all() {
        compare(&case.name, &case.body);
    }
    for (name, command) in samples::commands() {
        compare(&format!("command-{name}"), &encode_command(&samples::STAMP, &command));
    }
    compare("ErrorReply", &error_reply().encode());
}

#[test]
fn vectors_of_messages_that_are_gone_are_not_kept() {
    let mut known: BTreeSet<String> = samples::all().into_iter().map(|case| case.name).collect();
    known.extend(samples::commands().iter().map(|(name, _)| format!("command-{name}")));
    known.insert("ErrorReply".into());
    for file in fs::read_dir(vector("")).expect("the vectors").map(Result::unwrap) {
        let name = file.file_name().into_string().unwrap();
        assert!(known.contains(name.trim_end_matches(".bin")), "{name} belongs to no message");
    }
}

#[test]
fn error_replies_round_trip_and_their_text_is_bounded() {
    let reply = error_reply();
    let bytes = reply.encode();
    assert_eq!(ErrorReply::decode(&bytes), Ok(reply));
    for cut in 0..bytes.len() {
        let _ = ErrorReply::decode(&bytes[..cut]);
    }
    let hostile = "line\nfeed \u{1b}[31m ".to_owned() + &"ü".repeat(ERROR_TEXT_MAX);
    let reply = ErrorReply::new(Status::Invalid, hostile);
    assert!(reply.text.len() <= ERROR_TEXT_MAX);
    assert!(!reply.text.contains(char::is_control), "{}", reply.text);
    assert_eq!(ErrorReply::decode(&reply.encode()), Ok(reply));
    let long = ErrorReply { text: "x".repeat(ERROR_TEXT_MAX + 1), ..ErrorReply::default() };
    let error = MessageError::Field { message: "ErrorReply", field: "text" };
    assert_eq!(ErrorReply::decode(&long.encode()), Err(error));
}

fn error_reply() -> ErrorReply {
    ErrorReply { text: "another shard owns this target".into(), port: 7412, retry_after_ms: 250 }
}

fn compare(name: &str, bytes: &[u8]) {
    let file = vector(&format!("{name}.bin"));
    if std::env::var_os(BLESS).is_some() {
        fs::write(&file, bytes).expect("writable");
        return;
    }
    let golden = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    assert!(golden == bytes, "{name}: the bytes changed; old peers and logs hold the old ones");
}

fn vector(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors")).join(name)
}
