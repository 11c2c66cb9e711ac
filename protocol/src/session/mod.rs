//! What the two ends of a connection do alike, without I/O: bytes into frames, and the hello.
//!
//! Knows no socket and no clock. Invariant: a frame that leaves [`FrameReader`] has a checked header
//! of the right cluster and a body that matches its checksum. Start at [`FrameReader`], then
//! [`hello`].

mod mac;
mod reader;

pub mod hello;

#[cfg(test)]
mod tests;

pub use mac::{EXPORTER_LABEL, FrameMac, FrameMacs, TAG_LEN};
pub use reader::{BadFrame, FrameReader, Received};
