//! Space on its way into a version: taken, not yet recorded.

use std::cell::RefCell;

use super::allocator::Allocator;
use super::extent::Extent;
use super::space::Space;

/// How space may be taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Units that must stay free for what comes after this mark.
    pub(super) keep_free: u64,
    /// Room is short: runs that are too short for a cell are used up first, where they will do.
    pub(super) tight: bool,
}

/// Units that one write took. Dropped while the device may still write to them, they are given
/// up until the container is opened again.
pub(super) struct Grant<'a> {
    space: &'a RefCell<Space>,
    terms: Terms,
    /// Newly taken; nobody else refers to them.
    taken: Vec<Extent>,
    /// Part of the chunk's reservation, which the chunk goes on owning.
    reserved: Extent,
    settled: bool,
}

impl<'a> Grant<'a> {
    pub(super) fn new(space: &'a RefCell<Space>, terms: Terms) -> Grant<'a> {
        Grant { space, terms, taken: Vec::new(), reserved: Extent::NONE, settled: false }
    }

    /// Takes one run of `units` units.
    pub(super) fn take(&mut self, units: u32) -> Option<Extent> {
        self.take_with(units, |allocator| Some(vec![allocator.take(units)?]))?.pop()
    }

    /// Takes `units` units for cells of `cell` units, of which the last may be shorter: one run, or
    /// several, each but the last a multiple of a cell.
    pub(super) fn take_cells(&mut self, units: u32, cell: u32) -> Option<Vec<Extent>> {
        let tight = self.terms.tight;
        self.take_with(units, |allocator| {
            let split = match (tight, cell) {
                (false, _) => None,
                (true, 1) => allocator.take_dust(units),
                (true, _) => allocator.take_split(units, cell),
            };
            let whole = |it: &mut Allocator| it.take(units).map(|run| vec![run]);
            split.or_else(|| whole(allocator)).or_else(|| allocator.take_pieces(units, cell))
        })
    }

    /// Takes one unit for a descriptor page.
    pub(super) fn take_page(&mut self) -> Option<Extent> {
        let tight = self.terms.tight;
        let page = |it: &mut Allocator| if tight { it.take(1) } else { it.take_page() };
        self.take_with(1, |allocator| Some(vec![page(allocator)?]))?.pop()
    }

    fn take_with(
        &mut self,
        units: u32,
        take: impl FnOnce(&mut Allocator) -> Option<Vec<Extent>>,
    ) -> Option<Vec<Extent>> {
        let mut space = self.space.borrow_mut();
        let free = space.free_units() + space.waiting_units();
        if free < u64::from(units) + self.terms.keep_free {
            return None;
        }
        let runs = take(space.allocator())?;
        for run in &runs {
            space.grant(*run);
            self.taken.push(*run);
        }
        Some(runs)
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
