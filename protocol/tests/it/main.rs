//! Tests of the protocol through its public interface.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod abuse;
mod documents;
mod frames;
mod messages;
mod pair;
mod ranges;
mod samples;
mod tls;
