//! Space on its way into a version: taken, not yet recorded.

use std::cell::RefCell;

use super::extent::Extent;
use super::space::Space;

/// Units that one write took. Dropped while the device may still write to them, they are given
/// up until the container is opened again.
pub(super) struct Grant<'a> {
    space: &'a RefCell<Space>,
    /// Newly taken; nobody else refers to them.
    taken: Vec<Extent>,
    /// Part of the chunk's reservation, which the chunk goes on owning.
    reserved: Extent,
    settled: bool,
}

impl<'a> Grant<'a> {
    pub(super) fn new(space: &'a RefCell<Space>) -> Grant<'a> {
        Grant { space, taken: Vec::new(), reserved: Extent::NONE, settled: false }
    }

    /// Takes one run of `units` units.
    pub(super) fn take(&mut self, units: u32) -> Option<Extent> {
        let run = self.space.borrow_mut().allocator().take(units)?;
        self.note(run);
        Some(run)
    }

    /// Takes several runs, each but the last a multiple of `granule` units.
    pub(super) fn take_pieces(&mut self, units: u32, granule: u32) -> Option<Vec<Extent>> {
        let runs = self.space.borrow_mut().allocator().take_pieces(units, granule)?;
        runs.iter().for_each(|run| self.note(*run));
        Some(runs)
    }

    /// Takes one unit for a descriptor page.
    pub(super) fn take_page(&mut self) -> Option<Extent> {
        let page = self.space.borrow_mut().allocator().take_page()?;
        self.note(page);
        Some(page)
    }

    /// Notes that part of the chunk's reservation is being written.
    pub(super) fn use_reserved(&mut self, run: Extent) {
        self.reserved = run;
    }

    /// The units are recorded in the index now.
    pub(super) fn keep(mut self) {
        self.settled = true;
        let mut space = self.space.borrow_mut();
        self.taken.iter().for_each(|run| space.end_grant(*run));
    }

    /// Nothing is being written and nothing was recorded: the units are free again.
    pub(super) fn give_back(mut self) {
        self.settled = true;
        for run in self.taken.drain(..) {
            let mut space = self.space.borrow_mut();
            space.end_grant(run);
            space.give_back(run);
        }
    }

    fn note(&mut self, run: Extent) {
        self.space.borrow_mut().grant(run);
        self.taken.push(run);
    }
}

impl Drop for Grant<'_> {
    fn drop(&mut self) {
        if !self.settled {
            let mut space = self.space.borrow_mut();
            self.taken.iter().for_each(|run| space.end_grant(*run));
            self.taken.iter().chain([&self.reserved]).for_each(|run| space.lose(*run));
        }
    }
}
