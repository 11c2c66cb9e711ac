//! A version being put together: its cells, pages and units, before anything is recorded.
//!
//! Pure. It starts as the base and ends as what the index will hold.

use std::ops::{Range, RangeInclusive};

use protocol::checksum::CellSum;
use protocol::guard::{self, Guard};
use protocol::ids::ChunkKey;

use super::descriptor::{encode_page, page_hash};
use super::extent::{Extent, ExtentSet, units_for};
use super::plan::{Plan, Touched};
use super::state::{
    CELLS_PER_PAGE, Cell, Cells, ChunkState, INLINE_CELLS_MAX, PageRef, cell_count, content_share,
};

/// Cells of a chunk from the start of a descriptor page on, as the base has them.
pub(super) struct Window {
    pub(super) first: u32,
    pub(super) cells: Vec<Cell>,
}

/// A touched cell and where its new bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) touched: Touched,
    /// As the base has it; `None` when the base ends before.
    pub(super) old: Option<Cell>,
    /// First unit; 0 for a hole.
    pub(super) place: u64,
}

/// What [`Draft::finish`] hands to the index.
pub(super) struct Built {
    pub(super) new_len: u32,
    pub(super) content: u64,
    pub(super) cells: Cells,
    pub(super) owned: ExtentSet,
    pub(super) reserve: Extent,
}

/// A version being put together.
pub(super) struct Draft {
    key: ChunkKey,
    cell_log2: u8,
    new_len: u32,
    content: u64,
    window: Window,
    owned: ExtentSet,
    reserve: Extent,
    pages: Vec<PageRef>,
    rewritten: Option<RangeInclusive<u32>>,
}

impl Window {
    pub(super) fn old(&self, cell: u32) -> Option<Cell> {
        self.cells.get(cell.checked_sub(self.first)? as usize).copied()
    }
}

/// The cells a plan needs to know as the base has them.
///
/// Every page that is rewritten is known whole, and everything that goes.
pub(super) fn window_of(plan: &Plan, base_cells: u32, cell_log2: u8) -> Range<u32> {
    let Some(changed) = plan.first_changed() else { return 0..0 };
    let paged = is_paged(plan, cell_log2);
    let first = if paged { changed / CELLS_PER_PAGE * CELLS_PER_PAGE } else { 0 };
    let last = plan.touched.last().map_or(changed, |touched| touched.cell);
    let page_end = (last / CELLS_PER_PAGE + 1) * CELLS_PER_PAGE;
    let end = if plan.dropped.is_empty() { page_end.min(base_cells) } else { base_cells };
    first..end.max(first)
}

/// The descriptor pages a plan rewrites; `None` when it rewrites none.
pub(super) fn pages_rewritten(plan: &Plan, cell_log2: u8) -> Option<RangeInclusive<u32>> {
    let first = plan.first_changed().filter(|_| is_paged(plan, cell_log2))?;
    let last_cell = cell_count(plan.new_len, cell_log2) - 1;
    let last = plan.touched.last().map_or(last_cell, |touched| touched.cell);
    let pages = first / CELLS_PER_PAGE..=last / CELLS_PER_PAGE;
    // A cut at the end of a page leaves that page as it is.
    (!pages.is_empty()).then_some(pages)
}

fn is_paged(plan: &Plan, cell_log2: u8) -> bool {
    cell_count(plan.new_len, cell_log2) > INLINE_CELLS_MAX
}

/// Gives each touched cell that will have bytes its place in the runs.
pub(super) fn assign(
    plan: &Plan,
    window: &Window,
    stored: impl Fn(&Touched) -> bool,
    runs: &[Extent],
) -> Vec<Placed> {
    let mut runs = runs.iter().copied();
    let mut run = Extent::NONE;
    let mut place = |touched: &Touched| {
        if run.is_none() {
            run = runs.next().unwrap_or(Extent::NONE);
        }
        let (mine, rest) = run.split(units_for(touched.len));
        run = rest;
        mine.start
    };
    plan.touched
        .iter()
        .map(|touched| Placed {
            touched: *touched,
            old: window.old(touched.cell),
            place: match window.old(touched.cell) {
                Some(old) if !guard::holds(Guard::PartialCellCopy) && old.place != 0 => old.place,
                _ if stored(touched) => place(touched),
                _ => 0,
            },
        })
        .collect()
}

/// True when the cell has bytes after the write: a hole stays one when nothing is written to it.
pub(super) fn has_bytes(touched: &Touched, window: &Window, payload: &Range<u32>) -> bool {
    payload.contains(&touched.cell) || window.old(touched.cell).is_some_and(|old| old.place != 0)
}

impl Draft {
    /// Starts as the base, without what the plan replaces, with the new units.
    pub(super) fn new(
        key: ChunkKey,
        cell_log2: u8,
        base: Option<&ChunkState>,
        plan: &Plan,
        window: Window,
    ) -> Draft {
        let mut draft = Draft {
            key,
            cell_log2,
            new_len: plan.new_len,
            content: base.map_or(0, |base| base.content),
            window,
            owned: ExtentSet::of(base.map_or(&[], |base| &base.owned)),
            reserve: Extent::NONE,
            pages: Vec::new(),
            rewritten: pages_rewritten(plan, cell_log2),
        };
        if let Some(base) = base {
            draft.owned.remove(base.reserve);
            draft.forget_pages(base);
            draft.drop_cells(base, plan.dropped.clone());
        }
        draft
    }

    /// Takes over the base's pages that stay as they are.
    fn forget_pages(&mut self, base: &ChunkState) {
        let Cells::Pages(pages) = &base.cells else { return };
        let cells = cell_count(self.new_len, self.cell_log2);
        let kept = if cells > INLINE_CELLS_MAX { cells.div_ceil(CELLS_PER_PAGE) } else { 0 };
        for (number, page) in (0..).zip(pages) {
            let rewritten = self.rewritten.as_ref().is_some_and(|range| range.contains(&number));
            if rewritten || number >= kept {
                self.owned.remove(Extent { start: page.place, units: 1 });
            }
        }
        self.pages = pages.iter().take(kept as usize).copied().collect();
    }

    fn drop_cells(&mut self, base: &ChunkState, dropped: Range<u32>) {
        for number in dropped.clone() {
            let Some(old) = self.window.old(number) else { continue };
            self.content = self.content.wrapping_sub(content_share(number, old.sum));
            self.owned.remove(base.cell_extent(number, old.place));
        }
        if !dropped.is_empty() {
            self.window.cells.truncate((dropped.start - self.window.first) as usize);
        }
    }

    /// Adds the new units and what remains reserved.
    pub(super) fn own(&mut self, runs: &[Extent], pages: &[Extent], reserve: Extent) {
        for &run in runs.iter().chain(pages).chain([&reserve]) {
            self.owned.insert(run);
        }
        self.reserve = reserve;
    }

    /// Replaces one touched cell.
    pub(super) fn set(&mut self, base: Option<&ChunkState>, placed: &Placed, sum: CellSum) {
        let number = placed.touched.cell;
        if let Some((old, base)) = placed.old.zip(base) {
            self.content = self.content.wrapping_sub(content_share(number, old.sum));
            self.owned.remove(base.cell_extent(number, old.place));
        }
        self.content = self.content.wrapping_add(content_share(number, sum));
        let cell = Cell { sum, place: placed.place };
        let at = (number - self.window.first) as usize;
        match self.window.cells.get_mut(at) {
            Some(slot) => *slot = cell,
            None => self.window.cells.push(cell),
        }
    }

    /// Bytes of the descriptor pages that go to the given units.
    pub(super) fn encode_pages(&mut self, places: &[Extent]) -> Vec<(u64, Vec<u8>, Box<[Cell]>)> {
        let mut encoded = Vec::new();
        let numbers = self.rewritten.clone().into_iter().flatten();
        for (number, place) in numbers.zip(places) {
            let at = (number * CELLS_PER_PAGE - self.window.first) as usize;
            let end = (at + CELLS_PER_PAGE as usize).min(self.window.cells.len());
            let cells = &self.window.cells[at.min(end)..end];
            let bytes = encode_page(self.key, number, self.cell_log2, cells);
            let page = PageRef { place: place.start, hash: page_hash(&bytes) };
            match self.pages.get_mut(number as usize) {
                Some(slot) => *slot = page,
                None => self.pages.push(page),
            }
            encoded.push((page.hash, bytes, cells.into()));
        }
        encoded
    }

    /// The version as the index will hold it.
    pub(super) fn finish(self) -> Built {
        let cells = if cell_count(self.new_len, self.cell_log2) > INLINE_CELLS_MAX {
            Cells::Pages(self.pages.into_boxed_slice())
        } else {
            Cells::Inline(self.window.cells.into_boxed_slice())
        };
        Built {
            new_len: self.new_len,
            content: self.content,
            cells,
            owned: self.owned,
            reserve: self.reserve,
        }
    }
}
