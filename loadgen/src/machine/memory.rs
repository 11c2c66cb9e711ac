//! What one core does with bytes in memory: copies, checksums, sealing.

use std::hint::black_box;
use std::time::Duration;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};

use crate::cluster::now;

/// What a core's own caches hold.
pub(super) const RESIDENT: usize = 1 << 20;
/// More than any cache holds.
pub(super) const BEYOND_CACHES: usize = 256 << 20;
/// What TLS seals at once.
const RECORD: usize = 16 << 10;
/// What is copied or hashed between two looks at the clock.
const TURN: usize = 16 << 20;

/// Copies between two buffers of `len` bytes; gigabytes a second.
pub(super) fn copy(len: usize, time: Duration) -> f64 {
    let from = vec![1u8; len];
    let mut to = vec![2u8; len];
    rate(len.max(TURN), time, || {
        for _ in 0..TURN.div_ceil(len) {
            to.copy_from_slice(black_box(&from));
            black_box(&mut to);
        }
    })
}

/// xxh3-64 of pieces of `piece` bytes within `len` bytes; gigabytes a second.
pub(super) fn hash(len: usize, piece: usize, time: Duration) -> f64 {
    let bytes = vec![3u8; len];
    rate(len.max(TURN), time, || {
        for _ in 0..TURN.div_ceil(len) {
            for piece in bytes.chunks(piece) {
                black_box(xxhash_rust::xxh3::xxh3_64(black_box(piece)));
            }
        }
    })
}

/// AES-GCM as TLS 1.3 uses it: records of 16 KiB sealed in place; gigabytes a second.
///
/// `key_len` is 16 or 32 bytes. NaN when the library refuses, which it has no reason to.
pub(super) fn seal(key_len: usize, time: Duration) -> f64 {
    let algorithm: &'static Algorithm = if key_len == 16 { &AES_128_GCM } else { &AES_256_GCM };
    let Ok(key) = UnboundKey::new(algorithm, &[7u8; 32][..key_len]).map(LessSafeKey::new) else {
        return f64::NAN;
    };
    let mut record = vec![5u8; RECORD];
    let mut sealed = true;
    let mut number = 0u64;
    let rate = rate(TURN, time, || {
        for _ in 0..TURN / RECORD {
            let mut nonce = [0u8; 12];
            nonce[4..].copy_from_slice(&number.to_le_bytes());
            number += 1;
            let nonce = Nonce::assume_unique_for_key(nonce);
            sealed &= key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut record).is_ok();
        }
    });
    if sealed { rate } else { f64::NAN }
}

/// Repeats work on `bytes` bytes for so long; gigabytes a second.
fn rate(bytes: usize, time: Duration, mut work: impl FnMut()) -> f64 {
    let begun = now();
    let mut turns = 0u32;
    while turns == 0 || begun.elapsed() < time {
        work();
        turns += 1;
    }
    f64::from(turns) * bytes as f64 / begun.elapsed().as_secs_f64() / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_primitive_has_a_rate() {
        let time = Duration::from_millis(5);
        let rates =
            [copy(RESIDENT, time), hash(RESIDENT, 16 << 10, time), seal(16, time), seal(32, time)];
        assert!(rates.iter().all(|rate| *rate > 0.01), "{rates:?}");
    }
}
