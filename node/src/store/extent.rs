//! Runs of 4 KiB units on the container, and sets of them.

/// Bytes of one unit of space.
pub(super) const UNIT: u32 = 4096;

/// Runs from which on two lists are gone through together, and not searched one by one.
const MERGE_MIN: usize = 4;

/// A contiguous run of units; unit 0 is the first of the container and is never data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Extent {
    /// First unit.
    pub(super) start: u64,
    /// Number of units.
    pub(super) units: u32,
}

impl Extent {
    /// No space.
    pub(super) const NONE: Extent = Extent { start: 0, units: 0 };

    /// Longest run that its encoding can name.
    pub(super) const UNITS_MAX: u32 = (1 << 24) - 1;

    /// First unit after the run.
    pub(super) fn end(self) -> u64 {
        self.start + u64::from(self.units)
    }

    pub(super) fn is_none(self) -> bool {
        self.units == 0
    }

    /// The first `units` units and what remains.
    pub(super) fn split(self, units: u32) -> (Extent, Extent) {
        let first = units.min(self.units);
        let front = Extent { start: self.start, units: first };
        let rest = Extent { start: self.start + u64::from(first), units: self.units - first };
        (front, if rest.units == 0 { Extent::NONE } else { rest })
    }

    /// The first `units` units; no space when there are none.
    pub(super) fn first(self, units: u32) -> Extent {
        let first = self.split(units).0;
        if first.is_none() { Extent::NONE } else { first }
    }

    /// What remains without the first `units` units.
    pub(super) fn without(self, units: u32) -> Extent {
        self.split(units).1
    }

    /// Everything between two units: what is beyond what the encoding can name is kept as another run.
    fn joined(start: u64, end: u64) -> impl Iterator<Item = Extent> {
        let units = u32::try_from(end - start).unwrap_or(u32::MAX).min(Extent::UNITS_MAX);
        let first = Extent { start, units };
        std::iter::once(first).chain(Extent::between(first.end(), end))
    }

    fn between(start: u64, end: u64) -> Option<Extent> {
        let units = u32::try_from(end.checked_sub(start)?).ok()?;
        (units > 0).then_some(Extent { start, units })
    }
}

/// Units that hold `bytes` bytes.
pub(super) fn units_for(bytes: u32) -> u32 {
    bytes.div_ceil(UNIT)
}

/// A set of units: runs ascending, none touching the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ExtentSet {
    runs: Vec<Extent>,
}

impl ExtentSet {
    pub(super) fn of(runs: &[Extent]) -> ExtentSet {
        ExtentSet::union(runs.to_vec())
    }

    /// The set of everything in the runs, which may overlap and come in any order.
    ///
    /// Lists that are ascending already, one after the other, cost a comparison for each run.
    pub(super) fn union(mut runs: Vec<Extent>) -> ExtentSet {
        runs.sort();
        let mut kept: Vec<Extent> = Vec::with_capacity(runs.len());
        for run in runs.into_iter().filter(|run| !run.is_none()) {
            let last = kept.pop_if(|last| last.end() >= run.start).unwrap_or(run);
            kept.extend(Extent::joined(last.start, last.end().max(run.end())));
        }
        ExtentSet { runs: kept }
    }

    pub(super) fn runs(&self) -> &[Extent] {
        &self.runs
    }

    /// Adds a run, merging what it overlaps or touches.
    pub(super) fn insert(&mut self, run: Extent) {
        if run.is_none() {
            return;
        }
        let from = self.runs.partition_point(|have| have.end() < run.start);
        let to = self.runs.partition_point(|have| have.start <= run.end());
        let touched = &self.runs[from..to];
        let start = touched.first().map_or(run.start, |first| first.start.min(run.start));
        let end = touched.last().map_or(run.end(), |last| last.end().max(run.end()));
        self.runs.splice(from..to, Extent::joined(start, end));
    }

    /// Removes a run, whatever part of it is there.
    pub(super) fn remove(&mut self, run: Extent) {
        if run.is_none() {
            return;
        }
        let from = self.runs.partition_point(|have| have.end() <= run.start);
        let to = self.runs.partition_point(|have| have.start < run.end());
        let touched = &self.runs[from..to];
        let front = touched.first().and_then(|first| Extent::between(first.start, run.start));
        let back = touched.last().and_then(|last| Extent::between(run.end(), last.end()));
        self.runs.splice(from..to, front.into_iter().chain(back));
    }

    /// Removes every run of another set.
    pub(super) fn remove_all(&mut self, other: &[Extent]) {
        if other.len() < self.runs.len().min(MERGE_MIN) || !other.is_sorted() {
            other.iter().for_each(|&run| self.remove(run));
            return;
        }
        let mut other = other.iter().filter(|run| !run.is_none()).peekable();
        let mut kept = Vec::new();
        for have in &self.runs {
            let mut start = have.start;
            while let Some(run) = other.peek().filter(|run| run.start < have.end()) {
                kept.extend(Extent::between(start, run.start));
                start = start.max(run.end());
                if run.end() > have.end() {
                    // It may reach into the next.
                    break;
                }
                other.next();
            }
            kept.extend(Extent::between(start, have.end()));
        }
        self.runs = kept;
    }

    /// True when some unit of the run is in the set.
    pub(super) fn touches(&self, run: Extent) -> bool {
        let at = self.runs.partition_point(|have| have.end() <= run.start);
        self.runs.get(at).is_some_and(|have| !run.is_none() && have.start < run.end())
    }

    /// True when every unit of the run is in the set.
    pub(super) fn covers(&self, run: Extent) -> bool {
        let at = self.runs.partition_point(|have| have.end() <= run.start);
        let mut reached = run.start;
        for have in &self.runs[at..] {
            if have.start > reached || reached >= run.end() {
                break;
            }
            reached = have.end();
        }
        run.is_none() || reached >= run.end()
    }

    pub(super) fn units(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.units)).sum()
    }

    pub(super) fn into_runs(self) -> Vec<Extent> {
        self.runs
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_set_behaves_like_a_set_of_units() {
        let mut set = ExtentSet::default();
        let mut model = BTreeSet::new();
        let mut seed = 7u64;
        for _ in 0..4000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let run = Extent { start: (seed >> 33) % 200, units: ((seed >> 50) % 12) as u32 };
            let units = run.start..run.end();
            assert_eq!(set.covers(run), units.clone().all(|unit| model.contains(&unit)));
            assert_eq!(set.touches(run), units.clone().any(|unit| model.contains(&unit)));
            if seed & (1 << 20) == 0 {
                set.insert(run);
                model.extend(units);
            } else {
                set.remove(run);
                model.retain(|unit| !units.contains(unit));
            }
            let listed: Vec<u64> = set.runs().iter().flat_map(|run| run.start..run.end()).collect();
            assert_eq!(listed, model.iter().copied().collect::<Vec<_>>());
            assert!(set.runs().windows(2).all(|pair| pair[0].end() < pair[1].start));
        }
    }

    fn units_of(runs: &[Extent]) -> BTreeSet<u64> {
        runs.iter().flat_map(|run| run.start..run.end()).collect()
    }

    #[test]
    fn lists_are_put_together_and_taken_apart_like_sets_of_units() {
        let mut seed = 11u64;
        for turn in 0..2000 {
            let mut list = |longest: u64| -> Vec<Extent> {
                let mut one = || {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    Extent { start: (seed >> 33) % 300, units: ((seed >> 50) % 9) as u32 }
                };
                let len = one().start % longest;
                (0..len).map(|_| one()).collect()
            };
            let (left, mut right) = (list(30), list(30));
            if turn % 2 == 0 {
                right = ExtentSet::of(&right).into_runs();
            }
            let mut set = ExtentSet::of(&left);
            assert!(set.runs().windows(2).all(|pair| pair[0].end() < pair[1].start));
            assert_eq!(units_of(set.runs()), units_of(&left));
            set.remove_all(&right);
            let expected: BTreeSet<u64> =
                units_of(&left).difference(&units_of(&right)).copied().collect();
            assert_eq!(units_of(set.runs()), expected, "{left:?} without {right:?}");
        }
    }
}
