//! When a read that takes long is asked of a second replica as well.
//!
//! Pure. A read is hedged once it has taken longer than most reads of its target do; hedges are
//! paid from a small share of all reads, so they cannot become load when everything is slow.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::ids::TargetId;

use crate::limits::{
    HEDGE_AFTER_MAX_MS, HEDGE_AFTER_MIN_MS, HEDGE_BURST, HEDGE_PERCENT, HEDGE_SAMPLES,
};

/// What this client knows about how long reads take.
#[derive(Clone, Debug)]
pub struct Hedges {
    targets: BTreeMap<TargetId, Samples>,
    /// Hedges that may be sent now, in hundredths.
    credit: u64,
}

/// The newest durations of one target's reads.
#[derive(Clone, Debug, Default)]
struct Samples {
    millis: Vec<u32>,
    next: usize,
    /// The duration that 99 of 100 of them stay below, as of the last time they came around: fewer
    /// are longer than hedges are paid for, so that some are left when a target falls silent.
    p99: Option<u32>,
}

impl Default for Hedges {
    fn default() -> Hedges {
        Hedges { targets: BTreeMap::new(), credit: HEDGE_BURST * 100 }
    }
}

impl Hedges {
    /// Notes a read that is sent for the first time.
    pub fn on_read(&mut self) {
        self.credit = (self.credit + HEDGE_PERCENT).min(HEDGE_BURST * 100);
    }

    /// Notes how long a target took to answer a read, or had been waited for when it was left.
    pub fn on_answer(&mut self, target: TargetId, took: Duration) {
        let millis = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        self.targets.entry(target).or_default().note(millis);
    }

    /// How long a read of a target may take before it is hedged.
    pub fn after(&self, target: TargetId) -> Duration {
        let p99 = self.targets.get(&target).and_then(|samples| samples.p99);
        let millis = p99.map_or(HEDGE_AFTER_MAX_MS, u64::from);
        Duration::from_millis(millis.clamp(HEDGE_AFTER_MIN_MS, HEDGE_AFTER_MAX_MS))
    }

    /// Pays for one hedge; false when too many were sent.
    pub fn take(&mut self) -> bool {
        let paid = self.credit >= 100;
        self.credit -= if paid { 100 } else { 0 };
        paid
    }
}

impl Samples {
    fn note(&mut self, millis: u32) {
        if self.millis.len() < HEDGE_SAMPLES {
            self.millis.push(millis);
        } else {
            self.millis[self.next] = millis;
        }
        self.next = (self.next + 1) % HEDGE_SAMPLES;
        if self.next == 0 {
            let mut sorted = self.millis.clone();
            sorted.sort_unstable();
            self.p99 = sorted.get(sorted.len() * 99 / 100).copied();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: TargetId = TargetId(7);

    #[test]
    fn a_read_is_hedged_after_what_its_target_usually_takes_within_bounds() {
        let mut hedges = Hedges::default();
        let ms = Duration::from_millis;
        assert_eq!(hedges.after(T), ms(HEDGE_AFTER_MAX_MS), "nothing is known yet");
        let fill = |hedges: &mut Hedges, slow: usize, millis| {
            for number in 0..HEDGE_SAMPLES {
                hedges.on_answer(T, ms(if number < slow { millis } else { 1 }));
            }
        };
        fill(&mut hedges, 0, 0);
        assert_eq!(hedges.after(T), ms(HEDGE_AFTER_MIN_MS));
        fill(&mut hedges, HEDGE_SAMPLES / 20, 20);
        assert_eq!(hedges.after(T), ms(20));
        fill(&mut hedges, HEDGE_SAMPLES / 200, 20);
        assert_eq!(hedges.after(T), ms(HEDGE_AFTER_MIN_MS), "rare slow ones do not count");
        fill(&mut hedges, HEDGE_SAMPLES, 5_000);
        assert_eq!(hedges.after(T), ms(HEDGE_AFTER_MAX_MS));
        assert_eq!(hedges.after(TargetId(8)), ms(HEDGE_AFTER_MAX_MS), "each target by itself");
    }

    #[test]
    fn hedges_are_a_small_share_of_the_reads_and_a_burst() {
        let mut hedges = Hedges::default();
        let burst = (0..1_000).filter(|_| hedges.take()).count() as u64;
        assert_eq!(burst, HEDGE_BURST);
        let mut paid = 0;
        for _ in 0..1_000 {
            hedges.on_read();
            paid += u64::from(hedges.take());
        }
        assert_eq!(paid, 1_000 * HEDGE_PERCENT / 100);
        (0..1_000_000).for_each(|_| hedges.on_read());
        assert_eq!((0..1_000).filter(|_| hedges.take()).count() as u64, HEDGE_BURST);
    }
}
