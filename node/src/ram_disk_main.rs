//! The data node over a container in memory; for measurements only.
//!
//! The same program as `lanefs-node`, built with the feature `ram-disk` under a name of its own, so
//! that it is never taken for the one that ships.

use std::process::ExitCode;

#[path = "main.rs"]
mod program;

fn main() -> ExitCode {
    program::main()
}
