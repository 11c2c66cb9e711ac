//! What one shard does: figures that only grow, and what is in flight now.
//!
//! Rates and percentiles are made by whoever asks, from two answers; so every watcher has an
//! interval of its own and the shard keeps none.

use std::time::Duration;

use crate::metrics::Durations;
use crate::time::Nanos;

/// What one shard has done since its process started, and what it has in flight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardActivity {
    /// When this was looked at, on the shard's own clock.
    pub clock: Nanos,
    /// Processor time of the shard's thread, in nanoseconds.
    pub cpu_ns: u64,
    /// Reads that were asked for.
    pub reads: u64,
    /// Writes and truncations that were asked for.
    pub writes: u64,
    /// Versions and whole chunks that primaries sent.
    pub replications: u64,
    /// Requests of any other kind.
    pub others: u64,
    /// Payload bytes sent to other members, copies and versions alike.
    pub peer_bytes_out: u64,
    /// Events that wait for the shard's loop.
    pub events_waiting: u32,
    /// Requests of clients and primaries that were admitted and not answered.
    pub requests_in_flight: u32,
    /// Reads, writes and flushes that the device has not answered.
    pub transfers_in_flight: u32,
    /// Times that the executor ran none of its tasks for long.
    pub stalls: u64,
    /// How long those times were together, in nanoseconds.
    pub stalled_ns: u64,
    /// Pieces of memory that the shard's thread took from the allocator.
    pub allocations: u64,
    /// From the last byte of a read request to its answer in the send queue.
    pub read_times: Durations,
    /// From the last byte of a write request to its answer in the send queue.
    pub write_times: Durations,
}

impl ShardActivity {
    /// Time between an earlier look at the same shard and this one.
    pub fn time_since(&self, earlier: &ShardActivity) -> Duration {
        self.clock.since(earlier.clock)
    }

    /// The share of that time in which the shard's executor had a processor, 0 to 1.
    pub fn busy_since(&self, earlier: &ShardActivity) -> f64 {
        let passed = self.time_since(earlier).as_secs_f64();
        let used = Duration::from_nanos(self.cpu_ns.saturating_sub(earlier.cpu_ns)).as_secs_f64();
        if passed > 0.0 { (used / passed).min(1.0) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busy_share_is_processor_time_over_time() {
        let at = |ms, cpu_ns| ShardActivity {
            clock: Nanos::from_ms(ms),
            cpu_ns,
            ..ShardActivity::default()
        };
        let busy = |now: ShardActivity| now.busy_since(&at(1000, 500_000_000));
        assert_eq!(busy(at(3000, 1_000_000_000)), 0.25);
        assert_eq!(busy(at(3000, 9_000_000_000)), 1.0, "the clocks do not tick together");
        assert_eq!(busy(at(3000, 0)), 0.0, "a new process");
        assert_eq!(busy(at(1000, 500_000_000)), 0.0, "no time has passed");
    }
}
