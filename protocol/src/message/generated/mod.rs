//! The flatbuffers form of the messages, written by `protocol/schema/generate.sh`.
//!
//! Nothing outside `message::codec` names anything in here.

#[rustfmt::skip]
#[allow(
    warnings,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::undocumented_unsafe_blocks,
    reason = "the generator's output is committed exactly as it was written"
)]
mod wire_generated;

pub(super) use wire_generated::*;
