//! Free space of the arena: which runs of units nobody owns.
//!
//! Best fit with coalescing; data grows from the low end, single descriptor pages from the high
//! end, so that pages do not cut data runs apart. Pure: it is rebuilt from the index at open.

use std::collections::{BTreeMap, BTreeSet};

use super::extent::{Extent, ExtentSet};

/// Free runs by start and by length.
#[derive(Debug, Default)]
pub(super) struct Allocator {
    by_start: BTreeMap<u64, u32>,
    by_units: BTreeSet<(u32, u64)>,
    free: u64,
}

/// A run was claimed or released twice: the index contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overlap(pub(super) Extent);

impl Allocator {
    /// Everything between the two units is free.
    pub(super) fn new(start: u64, end: u64) -> Allocator {
        let mut allocator = Allocator::default();
        let mut at = start;
        while at < end {
            let units = u32::try_from(end - at).unwrap_or(u32::MAX).min(Extent::UNITS_MAX);
            allocator.put(Extent { start: at, units });
            at += u64::from(units);
        }
        allocator
    }

    /// Everything between two units is free but these runs; `None` unless they are ascending and
    /// lie apart.
    pub(super) fn without(start: u64, end: u64, used: &[Extent]) -> Option<Allocator> {
        let mut free = Vec::new();
        let mut at = start;
        for run in used.iter().chain([&Extent { start: end, units: 0 }]) {
            if run.start < at || run.end() > end {
                return None;
            }
            while at < run.start {
                let units = u32::try_from(run.start - at).unwrap_or(u32::MAX);
                let units = units.min(Extent::UNITS_MAX);
                free.push(Extent { start: at, units });
                at += u64::from(units);
            }
            at = run.end();
        }
        Some(Allocator {
            by_start: free.iter().map(|run| (run.start, run.units)).collect(),
            by_units: free.iter().map(|run| (run.units, run.start)).collect(),
            free: free.iter().map(|run| u64::from(run.units)).sum(),
        })
    }

    /// Free units.
    pub(super) fn free(&self) -> u64 {
        self.free
    }

    /// Longest free run, in units.
    pub(super) fn largest(&self) -> u32 {
        self.by_units.last().map_or(0, |&(units, _)| units)
    }

    /// Takes the shortest run that is long enough, lowest first; `None` when there is none.
    pub(super) fn take(&mut self, units: u32) -> Option<Extent> {
        let &(have, start) = self.by_units.range((units.max(1), 0)..).next()?;
        let run = Extent { start, units: have };
        self.pull(run);
        let (taken, rest) = run.split(units);
        self.put(rest);
        Some(taken)
    }

    /// Takes one unit from the highest free run.
    pub(super) fn take_page(&mut self) -> Option<Extent> {
        let (&start, &units) = self.by_start.last_key_value()?;
        self.pull(Extent { start, units });
        let (rest, page) = Extent { start, units }.split(units - 1);
        if page.is_none() {
            return None;
        }
        self.put(rest);
        Some(page)
    }

    /// Takes `units` units as one run of whole granules and, for what is shorter than a granule, a
    /// free run that no granule fits; `None`, and nothing taken, when there are no such two.
    ///
    /// For when space is short: what is too short for anything else is used up.
    pub(super) fn take_split(&mut self, units: u32, granule: u32) -> Option<Vec<Extent>> {
        let end = units % granule;
        let short = self.by_units.range((end.max(1), 0)..).next().is_some_and(|it| it.0 < granule);
        if end == 0 || end == units || !short || self.largest() < units - end {
            return None;
        }
        let pieces = [self.take(end), self.take(units - end)];
        Some(pieces.into_iter().rev().flatten().collect())
    }

    /// Takes `units` units, as many of them as there are in runs that are too short for [`STEP`];
    /// `None`, and nothing taken, when there are no such runs or too few units.
    pub(super) fn take_dust(&mut self, units: u32) -> Option<Vec<Extent>> {
        let mut pieces = Vec::new();
        let mut left = units;
        while left > 0
            && let Some(&(have, _)) = self.by_units.first()
            && have < STEP
        {
            pieces.extend(self.take(have.min(left)));
            left -= have.min(left);
        }
        let rest = match left {
            0 => Some(Vec::new()),
            _ if pieces.is_empty() => None,
            _ => self.take(left).map(|run| vec![run]).or_else(|| self.take_pieces(left, 1)),
        };
        if rest.is_none() {
            pieces.drain(..).for_each(|piece| self.insert(piece));
        }
        pieces.extend(rest?);
        Some(pieces)
    }

    /// Takes `units` units as several runs, each but the last a multiple of `granule`.
    ///
    /// Longest runs first, so that there are few; `None`, and nothing taken, when space is short.
    pub(super) fn take_pieces(&mut self, units: u32, granule: u32) -> Option<Vec<Extent>> {
        let mut pieces = Vec::new();
        let mut left = units;
        while left > 0 {
            let want = left.min(self.largest());
            let want = if want < left { want - want % granule } else { want };
            match (want > 0).then(|| self.take(want)).flatten() {
                Some(piece) => {
                    left -= piece.units;
                    pieces.push(piece);
                }
                None => {
                    for piece in pieces {
                        self.insert(piece);
                    }
                    return None;
                }
            }
        }
        Some(pieces)
    }

    /// Takes exactly this run.
    pub(super) fn claim(&mut self, run: Extent) -> Result<(), Overlap> {
        if run.is_none() {
            return Ok(());
        }
        let (&start, &units) = self.by_start.range(..=run.start).next_back().ok_or(Overlap(run))?;
        let have = Extent { start, units };
        if have.end() < run.end() {
            return Err(Overlap(run));
        }
        self.pull(have);
        let (before, rest) = have.split(u32::try_from(run.start - start).unwrap_or(u32::MAX));
        self.put(before);
        self.put(rest.split(run.units).1);
        Ok(())
    }

    /// Gives a run back.
    pub(super) fn release(&mut self, run: Extent) -> Result<(), Overlap> {
        let before = self.by_start.range(..run.end()).next_back();
        if before.is_some_and(|(&start, &units)| start + u64::from(units) > run.start) {
            return Err(Overlap(run));
        }
        self.insert(run);
        Ok(())
    }

    /// All free runs, ascending.
    pub(super) fn runs(&self) -> ExtentSet {
        let mut set = ExtentSet::default();
        for (&start, &units) in &self.by_start {
            set.insert(Extent { start, units });
        }
        set
    }

    fn insert(&mut self, run: Extent) {
        if run.is_none() {
            return;
        }
        let mut run = run;
        if let Some((&start, &units)) = self.by_start.range(..run.start).next_back() {
            let before = Extent { start, units };
            if before.end() == run.start && u64::from(units) + u64::from(run.units) < MERGE_MAX {
                self.pull(before);
                run = Extent { start, units: units + run.units };
            }
        }
        if let Some(&units) = self.by_start.get(&run.end())
            && u64::from(units) + u64::from(run.units) < MERGE_MAX
        {
            self.pull(Extent { start: run.end(), units });
            run.units += units;
        }
        self.put(run);
    }

    fn put(&mut self, run: Extent) {
        if !run.is_none() {
            self.by_start.insert(run.start, run.units);
            self.by_units.insert((run.units, run.start));
            self.free += u64::from(run.units);
        }
    }

    fn pull(&mut self, run: Extent) {
        self.by_start.remove(&run.start);
        self.by_units.remove(&(run.units, run.start));
        self.free -= u64::from(run.units);
    }
}

/// Units of the steps in which most space is taken.
const STEP: u32 = 4;

/// Runs are not merged beyond what an extent can name.
const MERGE_MAX: u64 = Extent::UNITS_MAX as u64;

#[cfg(test)]
mod tests;
