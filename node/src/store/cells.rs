//! Sums and places of cells, from the index or through the page cache, and their bytes.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::rc::Rc;

use protocol::checksum::cell_sum;
use protocol::guard::{self, Guard};
use protocol::ids::ChunkKey;
use protocol::limits::IO_ALIGN;
use smallvec::SmallVec;

use super::Store;
use super::descriptor::decode_page;
use super::entry::Name;
use super::extent::{UNIT, units_for};
use super::state::{CELLS_PER_PAGE, Cell, Cells, ChunkState, PageRef};
use super::types::StoreError;
use super::wait::join_all;
use crate::io::{Disk, DiskError};
use crate::limits::{COPY_TRANSFER_MAX, DEVICE_READS_MAX, DEVICE_TRANSFER_MAX, PAGE_CACHE_MAX};

/// Place and hash: a unit that was used again never answers for what it held before.
type PageName = (u64, u64);
/// Each read looks for its pages, so they are found by the hash that they carry already.
type Pages = HashMap<PageName, Cached, BuildHasherDefault<OwnHash>>;

/// Takes what is added up for its hash: hashes of pages are spread evenly.
#[derive(Default)]
struct OwnHash(u64);

impl Hasher for OwnHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = self.0.rotate_left(5).wrapping_add(value);
    }
}

/// When a page was used last, and its cells.
struct Cached {
    used: u64,
    cells: Rc<[Cell]>,
}

/// Descriptor pages that were read or written lately; one of the half that was not used for longest
/// goes first.
#[derive(Default)]
pub(super) struct PageCache {
    pages: Pages,
    by_use: BTreeMap<u64, PageName>,
    clock: u64,
}

/// Consecutive cells that lie one after the other on the device, or are holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u32,
    pub(super) cells: u32,
    /// First unit; 0 for holes.
    pub(super) place: u64,
    /// Bytes of the cells.
    pub(super) len: u32,
}

/// Most reads are one run.
pub(super) type Runs = SmallVec<[Run; 4]>;
/// Small reads are of few cells.
pub(super) type CellList = SmallVec<[Cell; 4]>;

impl PageCache {
    pub(super) fn insert(&mut self, page: PageRef, cells: Rc<[Cell]>) {
        let name = (page.place, page.hash);
        self.clock += 1;
        let cached = Cached { used: self.clock, cells };
        if let Some(before) = self.pages.insert(name, cached) {
            self.by_use.remove(&before.used);
        }
        self.by_use.insert(self.clock, name);
        while self.pages.len() > PAGE_CACHE_MAX {
            let Some((_, oldest)) = self.by_use.pop_first() else { return };
            self.pages.remove(&oldest);
        }
    }

    fn find(&mut self, page: PageRef) -> Option<Rc<[Cell]>> {
        let cached = self.pages.get(&(page.place, page.hash))?;
        let cells = Rc::clone(&cached.cells);
        // Only a page that could be among the next to go is put in order again: each read looks here.
        if self.clock - cached.used >= (PAGE_CACHE_MAX / 2) as u64 {
            self.insert(page, Rc::clone(&cells));
        }
        Some(cells)
    }
}

/// How much of the device one request takes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stride {
    /// Longest transfer, in bytes; one cell at least.
    pub(super) longest: u32,
    /// Transfers in flight.
    pub(super) at_once: usize,
}

impl Stride {
    /// For whoever waits for the bytes.
    pub(super) const LONG: Stride =
        Stride { longest: DEVICE_TRANSFER_MAX, at_once: DEVICE_READS_MAX };
    /// For copies, which nobody waits for.
    pub(super) const SHORT: Stride = Stride { longest: COPY_TRANSFER_MAX, at_once: 1 };

    /// The same in transfers that are no longer than so many bytes.
    pub(super) fn at_most(self, longest: u32) -> Stride {
        Stride { longest: self.longest.min(longest), ..self }
    }
}

impl<D: Disk> Store<D> {
    /// Sums and places of a range of cells.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when a descriptor page is not the one that was written; the version
    /// is suspect from then on.
    pub(super) async fn load_cells(
        &self,
        name: Name,
        state: &ChunkState,
        range: Range<u32>,
    ) -> Result<CellList, StoreError> {
        match &state.cells {
            Cells::Inline(cells) => {
                let range = range.start as usize..range.end as usize;
                cells.get(range).map(CellList::from_slice).ok_or(StoreError::NotFound)
            }
            Cells::Pages(pages) => {
                let mut cells = CellList::with_capacity(range.len());
                let first = range.start / CELLS_PER_PAGE;
                for number in first..range.end.div_ceil(CELLS_PER_PAGE) {
                    let start = number * CELLS_PER_PAGE;
                    let corrupt = StoreError::Corrupt { cell: start };
                    let page = pages.get(number as usize).ok_or(corrupt.clone())?;
                    let Some(all) = self.load_page(name.1, number, *page).await? else {
                        self.distrust(name, state);
                        return Err(corrupt);
                    };
                    let from = range.start.saturating_sub(start) as usize;
                    let to = (range.end - start).min(CELLS_PER_PAGE) as usize;
                    cells.extend_from_slice(all.get(from..to).ok_or(corrupt)?);
                }
                Ok(cells)
            }
        }
    }

    /// One page; `None` when the device holds something else there, also when asked again.
    async fn load_page(
        &self,
        key: ChunkKey,
        number: u32,
        page: PageRef,
    ) -> Result<Option<Rc<[Cell]>>, StoreError> {
        if let Some(cells) = self.cache.borrow_mut().find(page) {
            return Ok(Some(cells));
        }
        for _ in 0..2 {
            let bytes = self.device_read(page.place * u64::from(UNIT), IO_ALIGN).await?;
            if let Some(cells) = decode_page(&bytes, key, number, page.hash) {
                let cells: Rc<[Cell]> = cells.into();
                self.cache.borrow_mut().insert(page, Rc::clone(&cells));
                return Ok(Some(cells));
            }
        }
        Ok(None)
    }

    /// Reads runs of cells, several at a time; holes are `None`.
    pub(super) async fn read_runs(
        &self,
        runs: &[Run],
        at_once: usize,
    ) -> Result<Vec<Option<D::Read>>, StoreError> {
        let mut reads = Vec::with_capacity(runs.len());
        for group in runs.chunks(at_once) {
            let group = group.iter().map(|run| self.read_run(*run)).collect();
            for read in join_all(group).await {
                reads.push(read?);
            }
        }
        Ok(reads)
    }

    /// One run; `None` for holes.
    pub(super) async fn read_run(&self, run: Run) -> Result<Option<D::Read>, DiskError> {
        if run.place == 0 {
            return Ok(None);
        }
        let offset = run.place * u64::from(UNIT);
        let len = units_for(run.len) as usize * IO_ALIGN;
        self.device_read(offset, len).await.map(Some)
    }

    /// Reads one cell's committed bytes and checks them, asking the device twice before it believes
    /// in damage; `None` for a hole.
    pub(super) async fn read_cell(
        &self,
        key: ChunkKey,
        number: u32,
        cell: Cell,
        len: u32,
    ) -> Result<Option<D::Read>, StoreError> {
        let run = Run { first: number, cells: 1, place: cell.place, len };
        for _ in 0..2 {
            let Some(bytes) = self.read_run(run).await? else { return Ok(None) };
            let good = cell_sum(key, number, &bytes[..len as usize]) == cell.sum;
            if good || !guard::holds(Guard::MergeVerify) {
                return Ok(Some(bytes));
            }
        }
        Err(StoreError::Corrupt { cell: number })
    }
}

/// Joins cells that follow each other on the device, up to the longest transfer.
pub(super) fn runs_of(state: &ChunkState, first: u32, cells: &[Cell], longest: u32) -> Runs {
    let mut runs = Runs::new();
    for (number, cell) in (first..).zip(cells) {
        let len = state.cell_len(number);
        if let Some(run) = runs.last_mut() {
            let holes = run.place == 0 && cell.place == 0;
            let next = run.place != 0 && cell.place == run.place + u64::from(units_for(run.len));
            if (holes || next) && run.len + len <= longest {
                run.cells += 1;
                run.len += len;
                continue;
            }
        }
        runs.push(Run { first: number, cells: 1, place: cell.place, len });
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_a_bounded_number_of_pages_and_those_used_last() {
        let mut cache = PageCache::default();
        let page = |place: usize| PageRef { place: place as u64, hash: 7 };
        for place in 0..PAGE_CACHE_MAX {
            cache.insert(page(place), Rc::default());
        }
        assert!(cache.find(page(0)).is_some(), "and now used last");
        cache.insert(page(PAGE_CACHE_MAX), Rc::default());
        assert_eq!((cache.pages.len(), cache.by_use.len()), (PAGE_CACHE_MAX, PAGE_CACHE_MAX));
        assert!(cache.find(page(1)).is_none(), "the one not used for longest is gone");
        assert!(cache.find(page(0)).is_some() && cache.find(page(PAGE_CACHE_MAX)).is_some());
    }
}
