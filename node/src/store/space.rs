//! Units that are free, and units that will be once it is safe.
//!
//! What a change of the index frees may be used again only after the journal batch that says so
//! is durable, and after every read that began before it has ended.

use std::collections::{BTreeSet, VecDeque};

use protocol::guard::{self, Guard};
use protocol::ids::Lsn;

use super::allocator::{Allocator, Overlap};
use super::extent::{Extent, ExtentSet};

/// The arena's space.
pub(super) struct Space {
    allocator: Allocator,
    waiting: VecDeque<Waiting>,
    waiting_units: u64,
    /// Units that an abandoned or failed device write may still change; unused until reopened.
    lost: ExtentSet,
    /// Units that writes under way have taken.
    granted: ExtentSet,
    readers: BTreeSet<u64>,
    next_reader: u64,
}

struct Waiting {
    run: Extent,
    durable: Lsn,
    readers_before: u64,
}

impl Space {
    pub(super) fn new(allocator: Allocator) -> Space {
        Space {
            allocator,
            waiting: VecDeque::new(),
            waiting_units: 0,
            lost: ExtentSet::default(),
            granted: ExtentSet::default(),
            readers: BTreeSet::new(),
            next_reader: 0,
        }
    }

    pub(super) fn allocator(&mut self) -> &mut Allocator {
        &mut self.allocator
    }

    pub(super) fn free_units(&self) -> u64 {
        self.allocator.free()
    }

    /// Units that will be free soon.
    pub(super) fn waiting_units(&self) -> u64 {
        self.waiting_units
    }

    /// True when a device write of unknown outcome may still change these units.
    pub(super) fn is_lost(&self, run: Extent) -> bool {
        self.lost.touches(run)
    }

    /// Units that are given up.
    pub(super) fn lost_units(&self) -> u64 {
        self.lost.units()
    }

    /// Gives up units until the container is opened again.
    pub(super) fn lose(&mut self, run: Extent) {
        self.lost.insert(run);
    }

    /// Gives back units that were never recorded; nothing refers to them.
    pub(super) fn give_back(&mut self, run: Extent) {
        let mut runs = ExtentSet::of(&[run]);
        runs.remove_all(self.lost.runs());
        for &run in runs.runs() {
            if let Err(Overlap(run)) = self.allocator.release(run) {
                // Using these units for two chunks would destroy data; not using them does not.
                tracing::error!(start = run.start, units = run.units, "units released twice");
                self.lost.insert(run);
            }
        }
    }

    /// Frees units once batch `durable` is durable and today's reads have ended.
    pub(super) fn free_later(&mut self, runs: Vec<Extent>, durable: Lsn) {
        for run in runs {
            self.waiting_units += u64::from(run.units);
            self.waiting.push_back(Waiting { run, durable, readers_before: self.next_reader });
        }
    }

    /// Frees what waited for this.
    pub(super) fn settle(&mut self, durable: Lsn) {
        let oldest = self.readers.first().copied().unwrap_or(u64::MAX);
        while let Some(first) = self.waiting.front() {
            let unsaved = guard::holds(Guard::FreeAfterDurable) && first.durable > durable;
            let pinned = guard::holds(Guard::ReadPin) && first.readers_before > oldest;
            if unsaved || pinned {
                break;
            }
            let run = first.run;
            self.waiting.pop_front();
            self.waiting_units -= u64::from(run.units);
            self.give_back(run);
        }
    }

    /// Notes that a read begins.
    pub(super) fn begin_read(&mut self) -> u64 {
        let reader = self.next_reader;
        self.next_reader += 1;
        self.readers.insert(reader);
        reader
    }

    /// Notes that a read ended.
    pub(super) fn end_read(&mut self, reader: u64) {
        self.readers.remove(&reader);
    }

    /// Notes that a write under way has taken units; the index does not know of them yet.
    pub(super) fn grant(&mut self, run: Extent) {
        self.granted.insert(run);
    }

    /// Notes that the index knows of them now, or that they were given back or up.
    pub(super) fn end_grant(&mut self, run: Extent) {
        self.granted.remove(run);
    }

    /// Units that writes under way have taken.
    pub(super) fn granted(&self) -> &[Extent] {
        self.granted.runs()
    }

    /// Units that are given up; some version may still refer to them.
    pub(super) fn lost(&self) -> &[Extent] {
        self.lost.runs()
    }

    /// Units that are free or wait to be: nobody may refer to them.
    pub(super) fn unused(&self) -> ExtentSet {
        let mut set = self.allocator.runs();
        for waiting in &self.waiting {
            set.insert(waiting.run);
        }
        // What waits and was given up meanwhile will not be free.
        set.remove_all(self.lost.runs());
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64) -> Extent {
        Extent { start, units: 4 }
    }

    #[test]
    fn freed_units_wait_for_the_batch_and_for_readers() {
        let mut space = Space::new(Allocator::new(100, 108));
        let taken = space.allocator().take(8);
        assert_eq!(taken, Some(Extent { start: 100, units: 8 }));
        let reader = space.begin_read();
        space.free_later(vec![run(100)], Lsn(5));
        let late = space.begin_read();
        space.settle(Lsn(4));
        assert_eq!((space.free_units(), space.waiting_units()), (0, 4));
        space.settle(Lsn(5));
        assert_eq!(space.free_units(), 0, "a reader may still look at them");
        space.end_read(reader);
        space.settle(Lsn(5));
        assert_eq!((space.free_units(), space.waiting_units()), (4, 0));
        space.end_read(late);
    }

    #[test]
    fn freed_units_wait_for_their_batch() {
        let mut space = Space::new(Allocator::new(100, 104));
        let _ = space.allocator().take(4);
        space.free_later(vec![run(100)], Lsn(5));
        space.settle(Lsn(4));
        assert_eq!(space.free_units(), 0, "a crash would bring the old version back");
        space.settle(Lsn(5));
        assert_eq!(space.free_units(), 4);
    }

    #[test]
    fn lost_units_never_come_back() {
        let mut space = Space::new(Allocator::new(100, 108));
        let _ = space.allocator().take(8);
        space.lose(Extent { start: 102, units: 2 });
        assert!(space.is_lost(run(100)) && !space.is_lost(run(104)));
        space.give_back(Extent { start: 100, units: 8 });
        assert_eq!(space.free_units(), 6);
    }
}
