//! How much a shard has in flight, and where it stops.
//!
//! Clients and peers draw on separate pools. A peer's request ends with this shard's own store and
//! waits for nobody else; a client's write waits for peers. One pool for both would let two shards
//! wait for each other's memory for ever.

use crate::limits::{
    SHARD_CLIENT_BYTES_MAX, SHARD_CLIENT_REQUESTS_MAX, SHARD_PEER_BYTES_MAX,
    SHARD_PEER_REQUESTS_MAX,
};

/// Both pools of a shard.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Reads and writes of clients.
    pub clients: Pool,
    /// Versions and whole chunks that primaries sent.
    pub peers: Pool,
}

/// Bytes and requests in flight of one kind.
#[derive(Clone, Debug)]
pub struct Pool {
    bytes: u64,
    requests: usize,
    bytes_max: u64,
    requests_max: usize,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget {
            clients: Pool::new(SHARD_CLIENT_BYTES_MAX, SHARD_CLIENT_REQUESTS_MAX),
            peers: Pool::new(SHARD_PEER_BYTES_MAX, SHARD_PEER_REQUESTS_MAX),
        }
    }
}

impl Pool {
    /// An unused pool.
    pub fn new(bytes_max: u64, requests_max: usize) -> Pool {
        Pool { bytes: 0, requests: 0, bytes_max, requests_max }
    }

    /// Takes room for one request; false when there is none.
    #[must_use]
    pub fn take(&mut self, bytes: u32) -> bool {
        let fits = self.bytes + u64::from(bytes) <= self.bytes_max;
        if !fits || self.requests >= self.requests_max {
            return false;
        }
        self.bytes += u64::from(bytes);
        self.requests += 1;
        true
    }

    /// Gives back what one request took.
    pub fn give(&mut self, bytes: u32) {
        assert!(self.requests > 0 && self.bytes >= u64::from(bytes), "budget given back twice");
        self.bytes -= u64::from(bytes);
        self.requests -= 1;
    }

    /// Bytes in flight.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Requests in flight.
    pub fn requests(&self) -> usize {
        self.requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_ends_at_either_bound_and_returns_to_empty() {
        let mut pool = Pool::new(10, 2);
        assert!(pool.take(10));
        assert!(!pool.take(1), "bytes are used up");
        assert!(pool.take(0));
        assert!(!pool.take(0), "requests are used up");
        pool.give(10);
        pool.give(0);
        assert_eq!((pool.bytes(), pool.requests()), (0, 0));
    }

    #[test]
    fn the_pools_of_a_shard_are_the_published_bounds() {
        let mut budget = Budget::default();
        let chunk = 4 << 20;
        let taken = (0..1000).take_while(|_| budget.clients.take(chunk)).count();
        assert_eq!(taken as u64, SHARD_CLIENT_BYTES_MAX / u64::from(chunk));
        let taken = (0..1000).take_while(|_| budget.peers.take(chunk)).count();
        assert_eq!(taken as u64, SHARD_PEER_BYTES_MAX / u64::from(chunk), "a pool of their own");
        let mut budget = Budget::default();
        let taken = (0..100_000).take_while(|_| budget.clients.take(1)).count();
        assert_eq!(taken, SHARD_CLIENT_REQUESTS_MAX);
        let taken = (0..100_000).take_while(|_| budget.peers.take(1)).count();
        assert_eq!(taken, SHARD_PEER_REQUESTS_MAX);
    }
}
