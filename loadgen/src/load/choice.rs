//! Which file, which place: seeded choices of a load. Pure.

use crate::dice::Dice;

/// Chooses numbers below `count`, the low ones more often the larger the skew.
///
/// The method of Gray et al., "Quickly generating billion-record synthetic databases" (1994), which
/// the usual key-value benchmarks share.
#[derive(Clone, Debug)]
pub(super) struct Zipf {
    count: f64,
    skew: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    /// `skew` is 0 (each alike) to below 1.
    pub(super) fn new(count: u32, skew: f64) -> Zipf {
        let zeta = |up_to: u32| (1..=up_to).map(|n| f64::from(n).powf(-skew)).sum::<f64>();
        let (of_all, of_two) = (zeta(count), zeta(count.min(2)));
        let items = f64::from(count);
        let eta = (1.0 - (2.0 / items).powf(1.0 - skew)) / (1.0 - of_two / of_all);
        Zipf { count: items, skew, zeta: of_all, eta }
    }

    /// The next number; rank 0 is the one chosen most often.
    pub(super) fn choose(&self, dice: &mut Dice) -> usize {
        let part = unit(dice.draw());
        let scaled = part * self.zeta;
        let rank = if self.skew == 0.0 {
            part * self.count
        } else if scaled < 1.0 {
            0.0
        } else if scaled < 1.0 + 0.5f64.powf(self.skew) {
            1.0
        } else {
            self.count * (self.eta * part - self.eta + 1.0).powf(1.0 / (1.0 - self.skew))
        };
        floor(rank.min(self.count - 1.0))
    }
}

/// Every number below `count` once, in an order that another pass shuffles anew.
///
/// A permutation by rounds of a keyed mix over the next power of four, so that no list is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shuffle {
    count: u64,
    half_bits: u32,
    key: u64,
}

impl Shuffle {
    pub(super) fn new(count: u64, key: u64) -> Shuffle {
        let bits = u64::BITS - count.max(2).saturating_sub(1).leading_zeros();
        Shuffle { count, half_bits: bits.div_ceil(2), key }
    }

    /// Where the number `at` below `count` comes to lie.
    pub(super) fn of(&self, at: u64) -> u64 {
        let mut place = at;
        // Whoever falls outside is led on: at most three of four places are outside.
        loop {
            place = self.mixed(place);
            if place < self.count {
                return place;
            }
        }
    }

    fn mixed(&self, place: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (place >> self.half_bits, place & mask);
        for round in 0..4u64 {
            let mix = Dice::new(self.key ^ right ^ (round << 56)).draw() & mask;
            (left, right) = (right, left ^ mix);
        }
        (left << self.half_bits) | right
    }
}

/// A number of 0 to below 1 from random bits.
fn unit(bits: u64) -> f64 {
    // The 53 bits that a double holds.
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most the number of files"
)]
fn floor(rank: f64) -> usize {
    rank.max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(skew: f64) -> Vec<u32> {
        let zipf = Zipf::new(100, skew);
        let mut dice = Dice::new(7);
        let mut counts = vec![0; 100];
        for _ in 0..100_000 {
            counts[zipf.choose(&mut dice)] += 1;
        }
        counts
    }

    #[test]
    fn without_skew_each_is_chosen_alike() {
        let counts = counts(0.0);
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }

    #[test]
    fn with_skew_a_rank_is_chosen_in_proportion_to_its_power() {
        let counts = counts(0.99);
        let zeta: f64 = (1..=100).map(|n| f64::from(n).powf(-0.99)).sum();
        // The first two ranks are exact, the others approximate by at most a third.
        for (rank, tolerance) in [(0usize, 0.03), (1, 0.05), (9, 0.35), (49, 0.35)] {
            let expected = 100_000.0 * (rank as f64 + 1.0).powf(-0.99) / zeta;
            let off = (f64::from(counts[rank]) - expected).abs() / expected;
            assert!(off < tolerance, "rank {rank}: {} of {expected}", counts[rank]);
        }
    }

    #[test]
    fn one_file_is_always_the_one() {
        for skew in [0.0, 0.5, 0.99] {
            let mut dice = Dice::new(1);
            let zipf = Zipf::new(1, skew);
            assert!((0..1_000).all(|_| zipf.choose(&mut dice) == 0));
        }
    }

    #[test]
    fn a_pass_takes_everything_once_and_the_next_in_another_order() {
        for count in [1, 2, 3, 64, 1_000, 4_097] {
            let order =
                |key| (0..count).map(|at| Shuffle::new(count, key).of(at)).collect::<Vec<_>>();
            let (first, second) = (order(1), order(2));
            let mut sorted = first.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            assert!(count < 64 || first != second);
        }
    }
}
