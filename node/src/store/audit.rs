//! Comparing the allocator with the index: units that leaked, units that are used twice.
//!
//! Goes through the arena in windows, and for each window through the index in slices; what changes
//! behind the slice is followed, so the answer at the end of a window is exact for that instant.
//! Memory is two bitmaps of a window, whatever the size of the target.

use super::Store;
use super::entry::Name;
use super::extent::{Extent, UNIT};
use super::space::Space;
use crate::io::Disk;
use crate::limits::AUDIT_WINDOW_UNITS;

/// What the check of one window of the arena showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceCheck {
    /// Bytes that nobody refers to and that are not free.
    pub leaked: u64,
    /// Bytes that two chunks refer to, or one chunk although they are free.
    pub doubly_used: u64,
    /// True when this was the last window: the whole arena was checked.
    pub last: bool,
}

/// The check of one window, under way.
pub(super) struct Audit {
    owned: Window,
    /// Units that a second chunk refers to.
    twice: u64,
    /// Everything up to here is in `owned`.
    passed: Option<Name>,
}

/// A bit for each unit of part of the arena.
struct Window {
    start: u64,
    end: u64,
    bits: Vec<u64>,
}

impl Window {
    fn new(start: u64, end: u64) -> Window {
        let words = usize::try_from((end - start).div_ceil(64)).unwrap_or(0);
        Window { start, end, bits: vec![0; words] }
    }

    /// Changes a run's bits within the window; returns how many were set before.
    fn put(&mut self, run: Extent, value: bool) -> u64 {
        let (mut at, end) = (run.start.max(self.start), run.end().min(self.end));
        let mut before = 0;
        while at < end {
            let (word, bit) = ((at - self.start) / 64, (at - self.start) % 64);
            let count = (64 - bit).min(end - at);
            let mask = (u64::MAX >> (64 - count)) << bit;
            if let Some(bits) = usize::try_from(word).ok().and_then(|word| self.bits.get_mut(word))
            {
                before += u64::from((*bits & mask).count_ones());
                *bits = if value { *bits | mask } else { *bits & !mask };
            }
            at += count;
        }
        before
    }

    fn both(&self, other: &Window) -> u64 {
        let pairs = self.bits.iter().zip(&other.bits);
        pairs.map(|(mine, theirs)| u64::from((mine & theirs).count_ones())).sum()
    }

    fn either(&self, other: &Window) -> u64 {
        let pairs = self.bits.iter().zip(&other.bits);
        pairs.map(|(mine, theirs)| u64::from((mine | theirs).count_ones())).sum()
    }
}

impl Audit {
    fn new(start: u64, end: u64) -> Audit {
        Audit { owned: Window::new(start, end), twice: 0, passed: None }
    }

    /// Takes in an entry that the slice has come to.
    pub(super) fn pass(&mut self, name: Name, owned: &[Extent]) {
        self.passed = Some(name);
        self.add(owned);
    }

    /// Follows a change of an entry.
    pub(super) fn change(&mut self, name: Name, before: &[Extent], after: &[Extent]) {
        if self.passed.is_some_and(|passed| name <= passed) {
            for run in before {
                self.owned.put(*run, false);
            }
            self.add(after);
        }
    }

    fn add(&mut self, runs: &[Extent]) {
        for run in runs {
            self.twice += self.owned.put(*run, true);
        }
    }

    /// Compares with what the allocator says, now that every entry was passed.
    fn end(&self, space: &Space, last: bool) -> SpaceCheck {
        let Window { start, end, .. } = self.owned;
        let (mut unused, mut known) = (Window::new(start, end), Window::new(start, end));
        for run in space.unused().runs() {
            unused.put(*run, true);
            known.put(*run, true);
        }
        // Bad units may still belong to the version that suffered; granted ones to nobody yet.
        for run in space.lost().iter().chain(space.granted()) {
            known.put(*run, true);
        }
        let leaked = (end - start) - self.owned.either(&known);
        let doubly_used = self.twice + self.owned.both(&unused);
        let unit = u64::from(UNIT);
        SpaceCheck { leaked: leaked * unit, doubly_used: doubly_used * unit, last }
    }
}

impl<D: Disk> Store<D> {
    /// Checks the arena a little further: looks at up to `entries_max` entries of the index, and
    /// answers at the end of a window. The next call goes on; after the last window it starts
    /// again.
    ///
    /// # Cost
    /// No device is touched. Each window of [`AUDIT_WINDOW_UNITS`] looks at every entry once.
    pub fn check_space(&self, entries_max: usize) -> Option<SpaceCheck> {
        let mut index = self.index.borrow_mut();
        let from = self.upkeep.audited.get().max(self.geometry.arena_start());
        let to = self.geometry.arena_end().min(from + AUDIT_WINDOW_UNITS);
        let mut audit = index.audit.take().unwrap_or_else(|| Audit::new(from, to));
        let mut looked = 0;
        for (name, entry) in index.entries_after(audit.passed).take(entries_max) {
            audit.pass(*name, entry.owned().runs());
            looked += 1;
        }
        if looked == entries_max {
            index.audit = Some(audit);
            return None;
        }
        let last = to == self.geometry.arena_end();
        self.upkeep.audited.set(if last { 0 } else { to });
        Some(audit.end(&self.space.borrow(), last))
    }

    /// True when every unit of the arena is either referred to by the index or free to be used,
    /// now or soon: nothing leaked, nothing used twice. For tests; it looks at everything at once.
    pub fn space_equals_index(&self) -> bool {
        self.index.borrow_mut().audit = None;
        self.upkeep.audited.set(0);
        let mut sound = true;
        while let Some(check) = self.check_space(usize::MAX) {
            sound &= (check.leaked, check.doubly_used) == (0, 0);
            if check.last {
                break;
            }
        }
        sound
    }
}

#[cfg(test)]
mod tests {
    use protocol::ids::{ChunkKey, Fid, GroupId};

    use super::super::allocator::Allocator;
    use super::*;

    fn run(start: u64, units: u32) -> Extent {
        Extent { start, units }
    }

    fn name(fid: u64) -> Name {
        (GroupId(1), ChunkKey { fid: Fid(fid), index: 0 })
    }

    #[test]
    fn a_window_counts_like_a_set_of_units() {
        let mut window = Window::new(100, 300);
        let mut model = std::collections::BTreeSet::new();
        let mut seed = 3u64;
        for _ in 0..2000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let run = run(60 + (seed >> 33) % 260, ((seed >> 50) % 150) as u32);
            let units = (run.start..run.end()).filter(|unit| (100..300).contains(unit));
            let before = units.clone().filter(|unit| model.contains(unit)).count() as u64;
            let value = seed & (1 << 20) == 0;
            assert_eq!(window.put(run, value), before);
            for unit in units {
                if value {
                    model.insert(unit)
                } else {
                    model.remove(&unit)
                };
            }
            let set: u32 = window.bits.iter().map(|bits| bits.count_ones()).sum();
            assert_eq!(set as usize, model.len());
        }
    }

    #[test]
    fn leaks_and_double_use_are_told_apart() {
        let mut space = Space::new(Allocator::new(100, 200));
        let taken = space.allocator().take(20);
        assert_eq!(taken, Some(run(100, 20)));
        let mut audit = Audit::new(100, 200);
        audit.pass(name(1), &[run(100, 10)]);
        audit.pass(name(2), &[run(110, 10)]);
        assert_eq!(audit.end(&space, true), SpaceCheck { last: true, ..SpaceCheck::default() });
        // Behind the slice: followed. Before it: it will come.
        audit.change(name(1), &[run(100, 10)], &[run(100, 8)]);
        audit.change(name(3), &[], &[run(100, 1)]);
        let check = audit.end(&space, true);
        assert_eq!((check.leaked, check.doubly_used), (2 * 4096, 0));
        space.grant(run(108, 2));
        assert_eq!(audit.end(&space, true).leaked, 0, "a write is under way there");
        audit.pass(name(4), &[run(119, 3)]);
        assert_eq!(audit.end(&space, true).doubly_used, 3 * 4096, "one of another, two free");
    }
}
