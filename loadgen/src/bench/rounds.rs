//! Sides that are measured one after the other, round by round.

use std::collections::BTreeMap;

use crate::cluster::StepError;
use crate::fio;

/// What one side did in one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Answers per second.
    pub(super) per_s: f64,
    /// Answers for one second of the server's CPU; NaN where no server is measured.
    pub(super) eff: f64,
}

/// One thing that can be measured again and again.
pub(super) struct Side<'a> {
    pub(super) name: &'static str,
    /// Measures once; the number is that of the round.
    pub(super) measure: Box<dyn FnMut(u64) -> Result<Seen, StepError> + 'a>,
}

/// What every side did in every round.
#[derive(Debug, Default)]
pub(super) struct Rounds(BTreeMap<&'static str, Vec<Seen>>);

impl<'a> Side<'a> {
    pub(super) fn new(
        name: &'static str,
        measure: impl FnMut(u64) -> Result<Seen, StepError> + 'a,
    ) -> Side<'a> {
        Side { name, measure: Box::new(measure) }
    }
}

impl Rounds {
    /// Measures every side once in each round. Who is first turns, and so does the direction.
    ///
    /// # Errors
    /// The first error of a side, with its name.
    pub(super) fn run(count: u32, mut sides: Vec<Side<'_>>) -> Result<Rounds, StepError> {
        let mut rounds = Rounds::default();
        for round in 0..u64::from(count) {
            for at in order(round, sides.len()) {
                let side = &mut sides[at];
                let seen = (side.measure)(round).map_err(|error| {
                    StepError::Different(format!("{}, round {round}: {error}", side.name))
                })?;
                rounds.0.entry(side.name).or_default().push(seen);
            }
        }
        Ok(rounds)
    }

    /// Answers per second of two sides, round by round.
    pub(super) fn per_s(&self, ours: &str, other: &str) -> Vec<(f64, f64)> {
        self.pairs(ours, other, |seen| seen.per_s)
    }

    /// Work for a CPU-second of two sides, round by round; each answer counts so much.
    pub(super) fn eff(&self, ours: &str, other: &str, each: f64) -> Vec<(f64, f64)> {
        self.pairs(ours, other, |seen| seen.eff * each)
    }

    fn pairs(&self, ours: &str, other: &str, of: impl Fn(&Seen) -> f64) -> Vec<(f64, f64)> {
        let side = |name: &str| self.0.get(name).map_or(&[][..], |seen| &seen[..]);
        side(ours).iter().zip(side(other)).map(|(a, b)| (of(a), of(b))).collect()
    }
}

impl Seen {
    /// What fio did.
    pub(super) fn of_fio(measured: fio::Measured) -> Seen {
        Seen { per_s: measured.per_s, eff: f64::NAN }
    }
}

/// The order of a round: each side is first once in as many rounds, and every other round goes
/// backwards, so that none always runs in the wake of the same one.
fn order(round: u64, count: usize) -> Vec<usize> {
    let first = usize::try_from(round / 2).unwrap_or(0) % count.max(1);
    let turned = (0..count).map(|at| (first + at) % count);
    if round.is_multiple_of(2) { turned.collect() } else { turned.rev().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_side_has_its_turn_in_every_round_and_the_order_turns() {
        assert_eq!(order(0, 3), [0, 1, 2]);
        assert_eq!(order(1, 3), [2, 1, 0]);
        assert_eq!(order(2, 3), [1, 2, 0]);
        assert_eq!(order(3, 3), [0, 2, 1]);
        assert!(order(7, 0).is_empty());
    }

    #[test]
    fn pairs_are_of_the_same_round() {
        let side = |name, factor: f64| {
            Side::new(name, move |round| {
                let value = factor * f64::from(u32::try_from(round).unwrap() + 1);
                Ok(Seen { per_s: value, eff: value })
            })
        };
        let rounds = Rounds::run(3, vec![side("a", 1.0), side("b", 10.0)]).unwrap();
        assert_eq!(rounds.per_s("a", "b"), [(1.0, 10.0), (2.0, 20.0), (3.0, 30.0)]);
        assert_eq!(rounds.eff("b", "a", 2.0), [(20.0, 2.0), (40.0, 4.0), (60.0, 6.0)]);
        assert!(rounds.per_s("a", "c").is_empty());
        let broken = Side::new("c", |_| Err(StepError::Different("gone".to_owned())));
        let error = Rounds::run(1, vec![broken]).unwrap_err().to_string();
        assert_eq!(error, "c, round 0: gone");
    }
}
