//! The two clocks and the random bits of the process: the only place that asks for them.

use std::fs::File;
use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

use protocol::time::Nanos;

use rustix::time::{ClockId, clock_gettime};

/// Reads the clock that leases and suspicion are counted with; it goes on during suspend.
pub fn boottime() -> Nanos {
    let now = clock_gettime(ClockId::Boottime);
    let secs = u64::try_from(now.tv_sec).unwrap_or(0);
    Nanos(
        secs.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0)),
    )
}

/// Reads the wall clock, in milliseconds since 1970; it only ever dates things.
#[expect(clippy::disallowed_methods, reason = "the one place that dates commands")]
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Random bits from the system, fetched many at a time.
#[derive(Debug)]
pub struct Nonces {
    source: File,
    block: Vec<u8>,
}

impl Nonces {
    /// Opens the system's generator.
    ///
    /// # Errors
    /// When `/dev/urandom` cannot be opened.
    pub fn open() -> std::io::Result<Nonces> {
        Ok(Nonces { source: File::open("/dev/urandom")?, block: Vec::new() })
    }

    /// Takes the next 64 random bits.
    ///
    /// # Errors
    /// When the system's generator cannot be read.
    pub fn draw(&mut self) -> std::io::Result<u64> {
        loop {
            if let Some((rest, last)) = self.block.split_last_chunk::<8>() {
                let (nonce, keep) = (u64::from_le_bytes(*last), rest.len());
                self.block.truncate(keep);
                return Ok(nonce);
            }
            self.block.resize(NONCE_BLOCK_LEN, 0);
            self.source.read_exact(&mut self.block)?;
        }
    }
}

const NONCE_BLOCK_LEN: usize = 4096;
