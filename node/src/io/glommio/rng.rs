//! Randomness of one shard: for jitter and names, not for keys.

use std::cell::Cell;
use std::io;

use crate::io::Rng;

/// SplitMix64 over a seed from the system.
#[derive(Debug)]
pub struct ShardRng {
    state: Cell<u64>,
}

impl ShardRng {
    /// Seeds the generator from the system.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn seeded() -> io::Result<ShardRng> {
        Ok(ShardRng { state: Cell::new(system_random()?) })
    }
}

/// 64 random bits from the system.
///
/// # Errors
/// When the system gives none.
pub fn system_random() -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    // SAFETY: the pointer and length name exactly the array above, which lives through the call.
    let len = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(len) == Ok(bytes.len()) {
        Ok(u64::from_le_bytes(bytes))
    } else {
        Err(io::Error::last_os_error())
    }
}

impl Rng for ShardRng {
    fn next(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
