//! What `--version` prints.

use crate::{checksum, cpu};

/// Describes a program: its release, its compiled checksum path and its processor level.
///
/// ```
/// let line = protocol::version::line("lanefs-node");
/// assert!(line.starts_with("lanefs-node 0."));
/// assert!(line.contains("xxh3/"));
/// ```
pub fn line(program: &str) -> String {
    format!("{program} {} ({}, {})", release(), checksum::compiled_path(), cpu::LEVEL)
}

/// The release of every lanefs program, such as `0.1.0`.
pub const fn release() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
