//! The `lanefs` program; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    protocol::cpu::require();
    keep_freed_memory();
    client::cli::run(std::env::args_os())
}

/// Tells the allocator to keep the megabyte buffers of a transfer instead of giving each back to
/// the kernel: a third of the system time of a large read was page faults on fresh memory.
fn keep_freed_memory() {
    const MMAP_THRESHOLD: i32 = 32 << 20;
    const TRIM_THRESHOLD: i32 = 256 << 20;
    // SAFETY: `mallopt` only changes parameters of the allocator; no other thread runs yet.
    let set = unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD)
            & libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD)
    };
    debug_assert_eq!(set, 1, "both are parameters that glibc knows");
}
