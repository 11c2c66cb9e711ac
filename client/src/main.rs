//! The `lanefs` program; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    protocol::cpu::require();
    client::cli::run(std::env::args_os())
}
