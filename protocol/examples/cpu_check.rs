//! Does what every lanefs program does first, and nothing else.
//!
//! Run it under an emulator of an older processor to see the refusal:
//! `qemu-x86_64 -cpu Nehalem target/debug/examples/cpu_check`.

fn main() {
    protocol::cpu::require();
}
