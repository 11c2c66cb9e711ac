//! When a peer is too slow to keep.
//!
//! A frame that has begun must arrive at [`FRAME_RATE_MIN`] after a grace; bytes that wait to be
//! sent must move within [`SEND_STALL_MAX_MS`]. A quiet connection with nothing begun may stay.

use std::time::Duration;

use crate::io::Nanos;
use crate::limits::{CLOSE_LINGER_MS, FRAME_RATE_MIN, FRAME_TIME_GRACE_MS, SEND_STALL_MAX_MS};

/// Progress of one connection in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    frame: Option<FrameBegun>,
    send_since: Option<Nanos>,
    closed_at: Option<Nanos>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FrameBegun {
    at: Nanos,
    bytes: u64,
}

/// Why a connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooSlow {
    /// A frame arrives below the slowest rate.
    #[error("peer sends a frame slower than {FRAME_RATE_MIN} bytes/s")]
    Sends,
    /// The peer takes nothing.
    #[error("peer has taken nothing for {SEND_STALL_MAX_MS} ms")]
    Takes,
    /// The connection is closed and what was queued did not leave in time.
    #[error("closed")]
    Lingers,
}

impl Pace {
    /// Notes that bytes arrived and whether the last frame is still incomplete.
    pub fn received(&mut self, now: Nanos, bytes: usize, frames: usize, inside_frame: bool) {
        self.frame = match (self.frame, inside_frame) {
            (_, false) => None,
            (Some(begun), true) if frames == 0 => {
                Some(FrameBegun { at: begun.at, bytes: begun.bytes + bytes as u64 })
            }
            _ => Some(FrameBegun { at: now, bytes: bytes as u64 }),
        };
    }

    /// Notes that the peer took bytes, and whether more wait.
    pub fn sent(&mut self, now: Nanos, more: bool) {
        self.send_since = more.then_some(now);
    }

    /// Notes that bytes wait to be sent; those that wait already keep their time.
    pub fn waiting(&mut self, now: Nanos) {
        self.send_since.get_or_insert(now);
    }

    /// Notes that the connection was closed here.
    pub fn closed(&mut self, now: Nanos) {
        self.closed_at.get_or_insert(now);
    }

    /// Says whether the connection must be given up.
    pub fn verdict(&self, now: Nanos) -> Option<TooSlow> {
        let late = |since: Option<Nanos>, limit_ms| {
            since.is_some_and(|since| now.since(since) > Duration::from_millis(limit_ms))
        };
        if late(self.closed_at, CLOSE_LINGER_MS) {
            return Some(TooSlow::Lingers);
        }
        if late(self.send_since, SEND_STALL_MAX_MS) {
            return Some(TooSlow::Takes);
        }
        self.frame.filter(|frame| frame.too_slow(now)).map(|_| TooSlow::Sends)
    }
}

impl FrameBegun {
    fn too_slow(&self, now: Nanos) -> bool {
        let grace = Duration::from_millis(FRAME_TIME_GRACE_MS);
        let beyond = now.since(self.at).saturating_sub(grace);
        let expected = beyond.as_millis() * u128::from(FRAME_RATE_MIN) / 1000;
        !beyond.is_zero() && u128::from(self.bytes) < expected.max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Pace, TooSlow};
    use crate::io::Nanos;
    use crate::limits::{CLOSE_LINGER_MS, FRAME_RATE_MIN, FRAME_TIME_GRACE_MS, SEND_STALL_MAX_MS};

    fn at(ms: u64) -> Nanos {
        Nanos(0).after(Duration::from_millis(ms))
    }

    #[test]
    fn pace_keeps_a_quiet_connection() {
        let mut pace = Pace::default();
        pace.received(at(0), 500, 2, false);
        pace.waiting(at(0));
        pace.sent(at(1), false);
        assert_eq!(pace.verdict(at(1_000_000)), None);
    }

    #[test]
    fn pace_gives_up_a_frame_that_trickles() {
        let (grace, second) = (FRAME_TIME_GRACE_MS, usize::try_from(FRAME_RATE_MIN).unwrap());
        let mut pace = Pace::default();
        pace.received(at(0), 1, 0, true);
        assert_eq!(pace.verdict(at(grace)), None, "grace");
        assert_eq!(pace.verdict(at(grace + 2)), Some(TooSlow::Sends));
        pace.received(at(grace + 2), second - 1, 0, true);
        assert_eq!(pace.verdict(at(grace + 1000)), None, "a second of the slowest rate");
        assert_eq!(pace.verdict(at(grace + 1001)), Some(TooSlow::Sends));
        pace.received(at(grace + 1001), 10, 1, true);
        assert_eq!(pace.verdict(at(2 * grace + 1001)), None, "the next frame has its own time");
    }

    #[test]
    fn pace_gives_up_a_peer_that_takes_nothing() {
        let most = SEND_STALL_MAX_MS;
        let mut pace = Pace::default();
        pace.waiting(at(0));
        pace.waiting(at(most - 1));
        assert_eq!(pace.verdict(at(most)), None);
        assert_eq!(pace.verdict(at(most + 1)), Some(TooSlow::Takes));
        pace.sent(at(most + 1), true);
        assert_eq!(pace.verdict(at(2 * most)), None);
    }

    #[test]
    fn pace_ends_a_closed_connection() {
        let most = CLOSE_LINGER_MS;
        let mut pace = Pace::default();
        pace.closed(at(10));
        pace.closed(at(most));
        assert_eq!(pace.verdict(at(10 + most)), None);
        assert_eq!(pace.verdict(at(11 + most)), Some(TooSlow::Lingers));
    }
}
