//! Pauses between attempts, and how many retries a process may add to the load.
//!
//! Pure: seeds and time are arguments. Fail-over (a broken connection, a newer epoch, another
//! replica) is not a retry and never asks the budget; see [`crate::plan`].

use std::time::Duration;

use protocol::time::Nanos;

use crate::limits::{
    BACKOFF_MAX_MS, BACKOFF_MIN_MS, BUDGET_FLOOR, BUDGET_PERCENT, BUDGET_WINDOW_MS,
};

/// A small deterministic generator: the same seed gives the same pauses.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// Starts a sequence.
    pub fn new(seed: u64) -> Jitter {
        Jitter(seed)
    }

    /// A number in `0..=bound`.
    pub fn up_to(&mut self, bound: u64) -> u64 {
        let value = self.next();
        match bound.checked_add(1) {
            Some(count) => value % count,
            None => value,
        }
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

/// Spreads the bits of a number; equal numbers stay equal.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Exponential pauses with full jitter: each is anywhere between nothing and its ceiling.
#[derive(Clone, Debug)]
pub struct Backoff {
    jitter: Jitter,
    ceiling_ms: u64,
    ceiling_max_ms: u64,
}

impl Backoff {
    /// Ceilings from [`BACKOFF_MIN_MS`] to `ceiling_max_ms`.
    pub fn new(seed: u64, ceiling_max_ms: u64) -> Backoff {
        let ceiling_max_ms = ceiling_max_ms.clamp(BACKOFF_MIN_MS, BACKOFF_MAX_MS);
        Backoff { jitter: Jitter::new(seed), ceiling_ms: BACKOFF_MIN_MS, ceiling_max_ms }
    }

    /// Draws the next pause, at least `least_ms` long, and doubles the ceiling.
    pub fn pause(&mut self, least_ms: u64) -> Duration {
        let drawn = self.jitter.up_to(self.ceiling_ms * 1_000_000);
        self.ceiling_ms = (self.ceiling_ms * 2).min(self.ceiling_max_ms);
        Duration::from_millis(least_ms.min(BACKOFF_MAX_MS)) + Duration::from_nanos(drawn)
    }
}

const BUCKETS: usize = 10;
const BUCKET_MS: u64 = BUDGET_WINDOW_MS / BUCKETS as u64;

/// Retries of one process as a share of its requests over a sliding window.
#[derive(Clone, Debug, Default)]
pub struct RetryBudget {
    buckets: [Bucket; BUCKETS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Number of the time slot the counts belong to.
    slot: u64,
    requests: u64,
    retries: u64,
}

impl RetryBudget {
    /// Counts a request that is not a retry.
    pub fn on_request(&mut self, now: Nanos) {
        self.bucket(now).requests += 1;
    }

    /// Takes one retry from the budget; false when the window's share is used up.
    pub fn try_spend(&mut self, now: Nanos) -> bool {
        let slot = now.as_ms() / BUCKET_MS;
        let live = self.buckets.iter().filter(|bucket| bucket.slot + BUCKETS as u64 > slot);
        let (requests, retries) =
            live.fold((0, 0), |(a, b), bucket| (a + bucket.requests, b + bucket.retries));
        if retries >= BUDGET_FLOOR + requests * BUDGET_PERCENT / 100 {
            return false;
        }
        self.bucket(now).retries += 1;
        true
    }

    fn bucket(&mut self, now: Nanos) -> &mut Bucket {
        let slot = now.as_ms() / BUCKET_MS;
        let position = usize::try_from(slot % BUCKETS as u64).unwrap_or(0);
        let bucket = &mut self.buckets[position];
        if bucket.slot != slot {
            *bucket = Bucket { slot, ..Bucket::default() };
        }
        bucket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_below_a_ceiling_that_doubles_to_its_maximum() {
        let mut ceiling_ms = BACKOFF_MIN_MS;
        let mut backoff = Backoff::new(7, BACKOFF_MAX_MS);
        for _ in 0..12 {
            let pause = backoff.pause(0);
            assert!(pause <= Duration::from_millis(ceiling_ms), "{pause:?} above {ceiling_ms} ms");
            ceiling_ms = (ceiling_ms * 2).min(BACKOFF_MAX_MS);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_pauses_and_another_does_not() {
        let draw = |seed| {
            let mut backoff = Backoff::new(seed, BACKOFF_MAX_MS);
            (0..6).map(|_| backoff.pause(0)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn a_server_may_ask_for_a_longer_pause_but_not_for_any() {
        let mut backoff = Backoff::new(1, BACKOFF_MAX_MS);
        assert!(backoff.pause(300) >= Duration::from_millis(300));
        assert!(backoff.pause(u64::MAX) <= Duration::from_millis(2 * BACKOFF_MAX_MS));
    }

    #[test]
    fn the_budget_is_a_tenth_of_the_requests_and_a_floor() {
        let mut budget = RetryBudget::default();
        let now = Nanos::from_ms(50_000);
        (0..200).for_each(|_| budget.on_request(now));
        let spent = (0..100).filter(|_| budget.try_spend(now)).count();
        assert_eq!(spent as u64, BUDGET_FLOOR + 20);
    }

    #[test]
    fn the_budget_comes_back_when_the_window_has_passed() {
        let mut budget = RetryBudget::default();
        let start = Nanos::from_ms(50_000);
        while budget.try_spend(start) {}
        let soon = start.after(Duration::from_millis(BUDGET_WINDOW_MS - 2 * BUCKET_MS));
        assert!(!budget.try_spend(soon));
        assert!(budget.try_spend(start.after(Duration::from_millis(BUDGET_WINDOW_MS + BUCKET_MS))));
    }
}
