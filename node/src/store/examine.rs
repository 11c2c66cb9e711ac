//! Reading a version from the device past every cache, and checking every byte of it.
//!
//! Damage is believed only after a second read: a transfer that went wrong once is no reason to
//! give up a place of the medium.

use std::ops::Range;

use protocol::checksum::cell_sum;
use protocol::guard::{self, Guard};
use protocol::ids::ChunkKey;
use protocol::limits::IO_ALIGN;

use super::Store;
use super::cells::{Run, Stride, runs_of};
use super::descriptor::decode_page;
use super::extent::{ExtentSet, UNIT, units_for};
use super::state::{CELLS_PER_PAGE, Cell, Cells, ChunkState, PageRef};
use super::types::StoreError;
use crate::io::{Disk, DiskError};

/// What part of a version looks like on the device.
#[derive(Debug, Default)]
pub(super) struct Examined {
    /// Bytes that were read.
    pub(super) bytes: u64,
    /// Cells that do not verify, ascending.
    pub(super) bad: Vec<u32>,
    /// The descriptor page of these cells is not the one that was written, or names units that
    /// the version does not own.
    pub(super) whole: bool,
}

impl<D: Disk> Store<D> {
    /// Reads cells of one version and checks them.
    ///
    /// # Shape
    /// `cells` lie in one descriptor page: [`page_end`] says where it ends.
    ///
    /// # Errors
    /// [`StoreError::Disk`] when the container is closed; what the device cannot read is damage.
    pub(super) async fn examine(
        &self,
        key: ChunkKey,
        state: &ChunkState,
        cells: Range<u32>,
    ) -> Result<Examined, StoreError> {
        let _pin = self.pin();
        let mut examined = Examined::default();
        let Some(list) = self.cells_on_device(key, state, &cells, &mut examined).await? else {
            examined.whole = true;
            return Ok(examined);
        };
        let owned = ExtentSet::of(&state.owned);
        let mut places = (cells.start..).zip(&list);
        if !places.all(|(number, cell)| owned.covers(state.cell_extent(number, cell.place))) {
            examined.whole = true;
            return Ok(examined);
        }
        for run in runs_of(state, cells.start, &list, Stride::LONG.longest) {
            let first = (run.first - cells.start) as usize;
            let list = &list[first..first + run.cells as usize];
            self.examine_run(key, state, run, list, &mut examined).await?;
        }
        Ok(examined)
    }

    async fn cells_on_device(
        &self,
        key: ChunkKey,
        state: &ChunkState,
        cells: &Range<u32>,
        examined: &mut Examined,
    ) -> Result<Option<Vec<Cell>>, StoreError> {
        match &state.cells {
            Cells::Inline(list) => {
                let range = cells.start as usize..cells.end as usize;
                Ok(list.get(range).map(<[Cell]>::to_vec))
            }
            Cells::Pages(pages) => {
                let number = cells.start / CELLS_PER_PAGE;
                let Some(page) = pages.get(number as usize) else { return Ok(None) };
                let list = self.page_on_device(key, number, *page, examined).await?;
                let start = number * CELLS_PER_PAGE;
                let range = (cells.start - start) as usize..(cells.end - start) as usize;
                Ok(list.and_then(|list| list.get(range).map(<[Cell]>::to_vec)))
            }
        }
    }

    async fn page_on_device(
        &self,
        key: ChunkKey,
        number: u32,
        page: PageRef,
        examined: &mut Examined,
    ) -> Result<Option<Box<[Cell]>>, StoreError> {
        for _ in 0..reads() {
            examined.bytes += IO_ALIGN as u64;
            let read = self.device_read(page.place * u64::from(UNIT), IO_ALIGN).await;
            if let Some(bytes) = unless_closed(read)?
                && let Some(cells) = decode_page(&bytes, key, number, page.hash)
            {
                return Ok(Some(cells));
            }
        }
        Ok(None)
    }

    async fn examine_run(
        &self,
        key: ChunkKey,
        state: &ChunkState,
        run: Run,
        cells: &[Cell],
        examined: &mut Examined,
    ) -> Result<(), StoreError> {
        if run.place == 0 {
            return Ok(());
        }
        let len = units_for(run.len) as usize * IO_ALIGN;
        examined.bytes += len as u64;
        let read = unless_closed(self.device_read(run.place * u64::from(UNIT), len).await)?;
        let mut at = 0;
        for (number, cell) in (run.first..).zip(cells) {
            let len = state.cell_len(number) as usize;
            let bytes = read.as_ref().and_then(|read| read.get(at..at + len));
            let good = bytes.is_some_and(|bytes| cell_sum(key, number, bytes) == cell.sum);
            if !good && !self.good_after_all(key, state, number, *cell, examined).await? {
                examined.bad.push(number);
            }
            at += len;
        }
        Ok(())
    }

    /// Reads one cell again, by itself: one bad sector fails a whole transfer.
    async fn good_after_all(
        &self,
        key: ChunkKey,
        state: &ChunkState,
        number: u32,
        cell: Cell,
        examined: &mut Examined,
    ) -> Result<bool, StoreError> {
        if !guard::holds(Guard::DamageReread) {
            return Ok(false);
        }
        let len = state.cell_len(number);
        examined.bytes += u64::from(units_for(len)) * u64::from(UNIT);
        match self.read_cell(key, number, cell, len).await {
            Ok(_) => Ok(true),
            Err(StoreError::Disk(DiskError::Closed)) => Err(DiskError::Closed.into()),
            Err(_) => Ok(false),
        }
    }
}

/// First cell after the descriptor page that describes `cell`, or after the last one.
pub(super) fn page_end(state: &ChunkState, cell: u32) -> u32 {
    ((cell / CELLS_PER_PAGE + 1) * CELLS_PER_PAGE).min(state.cell_count())
}

/// What was read; `None` for what the device cannot read.
fn unless_closed<T>(read: Result<T, DiskError>) -> Result<Option<T>, StoreError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(DiskError::Closed) => Err(DiskError::Closed.into()),
        Err(DiskError::Io { .. }) => Ok(None),
    }
}

/// How often something is read before it counts as damaged.
fn reads() -> usize {
    if guard::holds(Guard::DamageReread) { 2 } else { 1 }
}
