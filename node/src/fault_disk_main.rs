//! The data node over a container that loses what was not flushed; for fault tests only.
//!
//! The same program as `lanefs-node`, built with the feature `fault-disk` under a name of its own,
//! so that it is never taken for the one that ships.

use std::process::ExitCode;

#[path = "main.rs"]
mod program;

fn main() -> ExitCode {
    program::main()
}
