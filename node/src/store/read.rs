//! Reading committed bytes, and checking them.

use std::ops::Range;
use std::rc::Rc;

use protocol::checksum::{CellSum, cell_sum, first_bad_cell};
use protocol::ids::{ChunkKey, GroupId};
use protocol::layout::cells_touched;
use protocol::message::chunk::VerifyReply;

use super::Store;
use super::cells::{CellList, Run, Stride, runs_of};
use super::damage::{Damage, DamagedPart, is_damage};
use super::entry::{Entry, Name};
use super::state::{Cell, ChunkState};
use super::suspect::check_trusted;
use super::types::{ReadMode, ReadOut, StoreError};
use super::wait::join_all;
use crate::io::{Disk, Payload, Piece};
use crate::limits::CHECKED_TRANSFER_MAX;

/// Keeps what the index refers to now from being overwritten, while it exists.
pub(super) struct Pin<'a, D: Disk> {
    store: &'a Store<D>,
    reader: u64,
}

impl<D: Disk> Drop for Pin<'_, D> {
    fn drop(&mut self) {
        let durable = self.store.durable_lsn();
        let mut space = self.store.space.borrow_mut();
        space.end_read(self.reader);
        space.settle(durable);
    }
}

impl<D: Disk> Store<D> {
    /// Reads the whole cells that cover `offset..offset + len`, cut at the chunk's length.
    ///
    /// # Errors
    /// - [`StoreError::NotFound`]: no such chunk, or it is quarantined.
    /// - [`StoreError::Dirty`]: only a pending version covers the range. Ask the primary.
    /// - [`StoreError::Short`]: the committed chunk ends before the range does.
    /// - [`StoreError::Corrupt`]: a descriptor, or with [`ReadMode::verify`] a cell, does not
    ///   match its checksum. Read elsewhere.
    /// - [`StoreError::Suspect`]: the version that would be read is not trusted. Read elsewhere.
    ///
    /// # Cancel safety
    /// The store is unchanged.
    ///
    /// # Cost
    /// One device read for each contiguous run, none for holes, one more when the descriptor is
    /// not cached; no copy.
    pub async fn read(
        &self,
        group: GroupId,
        key: ChunkKey,
        offset: u32,
        len: u32,
        mode: ReadMode,
    ) -> Result<ReadOut<D>, StoreError> {
        self.read_by((group, key), (offset, len), mode, Stride::LONG).await
    }

    /// Reads the newest durable version of a chunk for another member and checks every cell: in
    /// short transfers, one after the other.
    ///
    /// # Errors
    /// As [`Store::read`].
    ///
    /// # Cancel safety
    /// The store is unchanged.
    pub async fn read_for_copy(
        &self,
        group: GroupId,
        key: ChunkKey,
        len: u32,
    ) -> Result<ReadOut<D>, StoreError> {
        let mode = ReadMode { newest: true, verify: true, suspect: false };
        self.read_by((group, key), (0, len), mode, Stride::SHORT).await
    }

    async fn read_by(
        &self,
        (group, key): Name,
        (offset, len): (u32, u32),
        mode: ReadMode,
        stride: Stride,
    ) -> Result<ReadOut<D>, StoreError> {
        let end = offset.checked_add(len).ok_or(StoreError::Refused("range overflows"))?;
        let state = self.readable(group, key, end, mode)?;
        let (first, count) = cells_touched(state.cell_log2, offset, len);
        let cells = first..first + count;
        self.check_undamaged((group, key), &state, cells.clone())?;
        let check = mode.verify || state.suspect;
        match self.read_cells((group, key), &state, cells.clone(), (check, stride)).await {
            Err(error) if is_damage(&error) => {
                self.confirm((group, key), &state, cells.clone(), error).await?;
                self.read_cells((group, key), &state, cells, (check, stride)).await
            }
            other => other,
        }
    }

    async fn read_cells(
        &self,
        name: Name,
        state: &ChunkState,
        range: Range<u32>,
        (check, stride): (bool, Stride),
    ) -> Result<ReadOut<D>, StoreError> {
        let _pin = self.pin();
        let first = range.start;
        let cells = self.load_cells(name, state, range).await?;
        let sums: Vec<_> = cells.iter().map(|cell| cell.sum).collect();
        let stride = if check { stride.at_most(CHECKED_TRANSFER_MAX) } else { stride };
        let runs = runs_of(state, first, &cells, stride.longest);
        let expected = Expected { key: name.1, cell_log2: state.cell_log2, first, sums: &sums };
        let payload = self.read_payload(&runs, stride.at_once, check.then_some(expected)).await?;
        Ok(ReadOut {
            version: state.version,
            chunk_len: state.len,
            cell_log2: state.cell_log2,
            first_cell: first,
            sums,
            payload,
        })
    }

    /// Reads the newest durable version from the device, suspect or not, and checks every cell.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] and [`StoreError::Corrupt`] as [`Store::read`]; a cell that the
    /// device cannot read counts as bad. What is bad twice is noted as damage.
    ///
    /// # Cancel safety
    /// The store is unchanged.
    pub async fn verify(&self, group: GroupId, key: ChunkKey) -> Result<VerifyReply, StoreError> {
        let mode = ReadMode { newest: true, verify: true, suspect: true };
        let state = self.readable(group, key, 0, mode)?;
        let (cells, bad_cells) = self.check_state((group, key), &state).await?;
        let bad_cells = match self.recheck_state((group, key), &state, &bad_cells).await? {
            Some(Damage { part: DamagedPart::Cells(bad_cells), .. }) => bad_cells,
            Some(_) => return Err(StoreError::Corrupt { cell: 0 }),
            None => Vec::new(),
        };
        Ok(VerifyReply {
            version: state.version,
            chunk_len: state.len,
            cell_log2: state.cell_log2,
            sums: cells.iter().map(|cell| cell.sum).collect(),
            bad_cells,
        })
    }

    /// Checks every cell of one version; also what those cells are.
    pub(super) async fn check_state(
        &self,
        name: Name,
        state: &ChunkState,
    ) -> Result<(CellList, Vec<u32>), StoreError> {
        let _pin = self.pin();
        let cells = self.load_cells(name, state, 0..state.cell_count()).await?;
        let mut bad = Vec::new();
        for run in runs_of(state, 0, &cells, Stride::LONG.longest) {
            self.check_run(name.1, state, run, &cells, &mut bad).await;
        }
        Ok((cells, bad))
    }

    async fn check_run(
        &self,
        key: ChunkKey,
        state: &ChunkState,
        run: Run,
        cells: &[Cell],
        bad: &mut Vec<u32>,
    ) {
        let whole = self.read_runs(&[run], 1).await;
        let mut at = 0;
        for number in run.first..run.first + run.cells {
            let (cell, len) = (cells[number as usize], state.cell_len(number));
            let good = match whole.as_deref() {
                Ok([Some(bytes)]) => {
                    cell_sum(key, number, &bytes[at..at + len as usize]) == cell.sum
                }
                Ok(_) => true,
                // One bad sector fails the whole transfer: ask for the cells one by one.
                Err(_) => self.read_cell(key, number, cell, len).await.is_ok(),
            };
            if !good {
                bad.push(number);
            }
            at += len as usize;
        }
    }

    /// Reads runs of cells, several at a time. What is expected of them is checked run by run, while the
    /// bytes of one are in the cache and others are still under way.
    async fn read_payload(
        &self,
        runs: &[Run],
        at_once: usize,
        expected: Option<Expected<'_>>,
    ) -> Result<Payload<D>, StoreError> {
        let mut payload = Payload::empty();
        if let [run] = runs {
            payload.push(piece(*run, self.read_expected(*run, expected).await?));
            return Ok(payload);
        }
        for group in runs.chunks(at_once) {
            let reads = group.iter().map(|run| self.read_expected(*run, expected)).collect();
            for (run, read) in group.iter().zip(join_all(reads).await) {
                payload.push(piece(*run, read?));
            }
        }
        Ok(payload)
    }

    async fn read_expected(
        &self,
        run: Run,
        expected: Option<Expected<'_>>,
    ) -> Result<Option<D::Read>, StoreError> {
        let read = self.read_run(run).await?;
        if let (Some(bytes), Some(expected)) = (&read, expected) {
            expected.check(run, &bytes[..run.len as usize])?;
        }
        Ok(read)
    }

    /// The version that a read up to `end` may see.
    fn readable(
        &self,
        group: GroupId,
        key: ChunkKey,
        end: u32,
        mode: ReadMode,
    ) -> Result<Rc<ChunkState>, StoreError> {
        let index = self.index.borrow();
        let entry = index.served(group, key).ok_or(StoreError::NotFound)?;
        let trusted = |state: &Rc<ChunkState>| {
            if !mode.suspect {
                check_trusted(state)?;
            }
            Ok(Rc::clone(state))
        };
        if mode.newest {
            let state = self.newest_durable(entry).ok_or(StoreError::NotFound)?;
            let short = StoreError::Short { len: state.len };
            return trusted(state)
                .and_then(|state| (end <= state.len).then_some(state).ok_or(short));
        }
        let pending = entry.pendings.iter().any(|state| state.len >= end);
        match &entry.committed {
            Some(state) if end <= state.len => trusted(state),
            _ if pending => Err(StoreError::Dirty),
            Some(state) => Err(StoreError::Short { len: state.len }),
            None if entry.pendings.is_empty() => Err(StoreError::NotFound),
            None => Err(StoreError::Short { len: 0 }),
        }
    }

    /// The newest version whose batch is durable.
    pub(super) fn newest_durable<'a>(&self, entry: &'a Entry) -> Option<&'a Rc<ChunkState>> {
        let durable = self.durable_lsn();
        let pending = entry.pendings.iter().rev().find(|state| state.lsn <= durable);
        pending.or(entry.committed.as_ref())
    }

    pub(super) fn pin(&self) -> Pin<'_, D> {
        Pin { store: self, reader: self.space.borrow_mut().begin_read() }
    }
}

fn piece<D: Disk>(run: Run, read: Option<D::Read>) -> Piece<D> {
    let len = run.len as usize;
    read.map_or(Piece::Zeros { len }, |read| Piece::Read { read, start: 0, len })
}

/// The sums that bytes must have.
#[derive(Clone, Copy)]
struct Expected<'a> {
    key: ChunkKey,
    cell_log2: u8,
    /// The cell that the first sum is of.
    first: u32,
    sums: &'a [CellSum],
}

impl Expected<'_> {
    fn check(&self, run: Run, bytes: &[u8]) -> Result<(), StoreError> {
        let sums = &self.sums[(run.first - self.first) as usize..];
        match first_bad_cell(self.key, run.first, self.cell_log2, bytes, sums) {
            Some(cell) => Err(StoreError::Corrupt { cell }),
            None => Ok(()),
        }
    }
}
