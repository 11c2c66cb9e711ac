//! The `lanefs` program; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    protocol::cpu::require();
    protocol::allocator::keep_freed_memory(client::limits::FREED_BYTES_KEPT_MAX);
    client::cli::run(std::env::args_os())
}
