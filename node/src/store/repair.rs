//! Putting good bytes in the place of damaged ones, without changing what the chunk is.
//!
//! A repair writes a version again: to fresh units, never in place, under the same version, with
//! the same operations and content. It takes nothing on trust: the bytes must have the sums that
//! exactly this version stored.

use std::ops::Range;
use std::rc::Rc;

use protocol::checksum::{CellSum, cell_sums};
use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, GroupId, Version};
use protocol::message::chunk::WriteClass;

use super::Store;
use super::build::Purpose;
use super::check::check_record_len;
use super::draft::Built;
use super::entry::Name;
use super::extent::{Extent, units_for};
use super::record::Record;
use super::state::{Cells, ChunkState, content_share};
use super::types::{Durable, StoreError, WriteOp};
use crate::io::{Buffer, Disk};
use crate::limits::BAD_RUNS_MAX;

/// Good bytes for consecutive cells of one version.
pub struct RepairOp<D: Disk> {
    /// Group that holds the chunk.
    pub group: GroupId,
    /// The chunk.
    pub key: ChunkKey,
    /// The damaged version; committed or pending.
    pub version: Version,
    /// Cell the bytes start with.
    pub first_cell: u32,
    /// Bytes of payload: whole cells, the chunk's last one cut at its length.
    pub len: u32,
    /// The payload: its first `len` bytes; zero from there to the alignment.
    pub payload: Rc<D::Buffer>,
}

/// Where the bytes go and what is known of their place.
struct Place {
    state: Rc<ChunkState>,
    cells: Range<u32>,
    sums: Vec<CellSum>,
    /// Units that turned out bad.
    bad: Vec<Extent>,
    /// The descriptor is gone: everything is written anew.
    anew: bool,
}

impl<D: Disk> Store<D> {
    /// Writes cells of a version again, to fresh units; version, operations and content stay.
    ///
    /// A version whose descriptor is damaged ([`DamagedPart::Whole`](super::DamagedPart::Whole))
    /// is repaired by all of its bytes at once.
    ///
    /// # Errors
    /// - [`StoreError::NotFound`]: the version is not here any more. Nothing is to be repaired.
    /// - [`StoreError::Refused`]: the bytes are not those of this version, or not whole cells.
    ///   Nothing was changed; try another source.
    /// - [`StoreError::Corrupt`]: the descriptor is damaged; send the whole chunk.
    /// - [`StoreError::NoSpace`], [`StoreError::Busy`]: no room now. Nothing was changed.
    /// - [`StoreError::Disk`], [`StoreError::Fenced`]: the repair may or may not be durable.
    ///
    /// # Durability
    /// On success data, descriptor and record are on the medium. The old units of cells that are
    /// known to be damaged are not used again while the target stays open, up to [`BAD_RUNS_MAX`]
    /// runs; those of other cells are free.
    ///
    /// # Cancel safety
    /// The version is whole either way; the repair may or may not become durable.
    ///
    /// # Cost
    /// As a write of these cells.
    pub async fn repair(&self, op: RepairOp<D>) -> Result<Durable, StoreError> {
        let _slot = self.admit()?;
        let name = (op.group, op.key);
        let turn = self.gates.enter(name).await;
        self.check_room(op.group)?;
        let _pin = self.pin();
        let place = self.place_of_repair(name, &op).await?;
        let write = write_of(&op, &place);
        let base = (!place.anew).then_some(&*place.state);
        let (built, grant) = self.build(&write, base, Purpose::Repair).await?;
        let current = self.index.borrow().state_at(name, op.version);
        if !current.is_some_and(|state| Rc::ptr_eq(&state, &place.state)) {
            // Discarded or replaced meanwhile.
            grant.give_back();
            return Err(StoreError::NotFound);
        }
        let state = repaired(&place, built);
        if let Err(error) = check_record_len(&state) {
            grant.give_back();
            return Err(error);
        }
        self.avoid(&place.bad);
        let chunk_len = state.len;
        let record = Record::Repair { group: op.group, key: op.key, state };
        let done = self.stage_version(record, grant)?;
        drop(turn);
        let durable = self.finish(done, chunk_len).await?;
        self.end_repair(name, op.version, &place);
        Ok(durable)
    }

    /// Finds the version, and checks that the bytes are its bytes.
    async fn place_of_repair(&self, name: Name, op: &RepairOp<D>) -> Result<Place, StoreError> {
        let state = self.index.borrow().state_at(name, op.version).ok_or(StoreError::NotFound)?;
        let cells = cells_of(op, &state)?;
        let bytes = op.payload.bytes().get(..op.len as usize);
        let bytes = bytes.ok_or(StoreError::Refused("payload is shorter than its length"))?;
        let sums = cell_sums(op.key, op.first_cell, state.cell_log2, bytes);
        let broken = self.upkeep.damages.borrow().is_whole(name, &state);
        let listed = if broken {
            Err(StoreError::Corrupt { cell: cells.start })
        } else {
            self.load_cells(name, &state, cells.clone()).await
        };
        let whole = cells == (0..state.cell_count());
        let (good, bad, anew) = match listed {
            Ok(listed) => {
                let good = listed.iter().map(|cell| cell.sum).eq(sums.iter().copied());
                // A version may be repaired whole because its record is in doubt: that says nothing
                // of the medium.
                let damaged = self.upkeep.damages.borrow().bad(name, &state, cells.clone());
                let bad = (cells.start..).zip(&listed).filter(|(cell, _)| damaged.contains(cell));
                let bad = bad.map(|(number, cell)| state.cell_extent(number, cell.place));
                (good, bad.filter(|run| !run.is_none()).collect(), false)
            }
            // The index still says what all sums together are.
            Err(StoreError::Corrupt { .. }) if whole => {
                (content_of(&sums) == state.content, page_units(&state), true)
            }
            Err(error) => return Err(error),
        };
        if !good && guard::holds(Guard::RepairSums) {
            return Err(StoreError::Refused("bytes are not those of this version"));
        }
        Ok(Place { state, cells, sums, bad, anew })
    }

    /// Takes back a repair that the journal holds and the medium may not; false when there is none.
    ///
    /// What the version was before is at least as good: only its bad cells are bad.
    pub(super) fn undo_repair(&self, name: Name, version: Version) -> bool {
        let before = self.upkeep.before_repairs.borrow();
        let mut before = before.iter().filter(|(have, _)| *have == name);
        let Some((_, state)) = before.find(|(_, state)| state.version == version) else {
            return false;
        };
        self.index.borrow_mut().put_back(name, Rc::clone(state));
        true
    }

    /// Keeps bad units from being used again, up to a bound: beyond it they are freed, and found bad
    /// again.
    fn avoid(&self, bad: &[Extent]) {
        let mut space = self.space.borrow_mut();
        for run in bad {
            if space.lost().len() < BAD_RUNS_MAX {
                space.lose(*run);
            }
        }
    }

    /// Forgets the damage; the version counts as recorded by the newest durable batch from here on.
    fn end_repair(&self, name: Name, version: Version, place: &Place) {
        let lsn = self.durable_lsn();
        self.index.borrow_mut().renumber(name, version, place.state.lsn, lsn);
        let mut damages = self.upkeep.damages.borrow_mut();
        if place.anew {
            damages.forget(name, version);
        } else {
            damages.repaired(name, version, place.cells.clone(), lsn);
        }
    }
}

/// The cells that the bytes are, when they are whole cells of this version.
fn cells_of<D: Disk>(op: &RepairOp<D>, state: &ChunkState) -> Result<Range<u32>, StoreError> {
    let start = u64::from(op.first_cell) << state.cell_log2;
    let end = start + u64::from(op.len);
    let whole = end == u64::from(state.len) || end.is_multiple_of(1 << state.cell_log2);
    if op.len == 0 || end > u64::from(state.len) || !whole {
        return Err(StoreError::Refused("a repair is of whole cells within the chunk"));
    }
    let cells = op.len.div_ceil(1 << state.cell_log2);
    Ok(op.first_cell..op.first_cell + cells)
}

/// The repair as a write of the same bytes.
fn write_of<D: Disk>(op: &RepairOp<D>, place: &Place) -> WriteOp<D> {
    let state = &place.state;
    WriteOp {
        group: op.group,
        key: op.key,
        version: state.version,
        base: state.version,
        op: state.op,
        class: WriteClass::Mutation,
        offset: op.first_cell << state.cell_log2,
        len: op.len,
        expect_len: state.len,
        trunc_gen: state.trunc_gen,
        cell_log2: state.cell_log2,
        chunk_log2: state.chunk_log2,
        sums: place.sums.clone().into(),
        payload: Rc::clone(&op.payload),
    }
}

/// The same version with its cells where they lie now.
fn repaired(place: &Place, built: Built) -> ChunkState {
    let state = &*place.state;
    ChunkState {
        // All of its bytes were checked and written anew: nothing is left to doubt.
        suspect: state.suspect && place.cells != (0..state.cell_count()),
        cells: built.cells,
        owned: built.owned.into_runs().into_boxed_slice(),
        reserve: built.reserve,
        ..state.clone()
    }
}

fn content_of(sums: &[CellSum]) -> u64 {
    (0..).zip(sums).fold(0, |content, (cell, sum)| content.wrapping_add(content_share(cell, *sum)))
}

fn page_units(state: &ChunkState) -> Vec<Extent> {
    match &state.cells {
        Cells::Inline(_) => Vec::new(),
        Cells::Pages(pages) => {
            pages.iter().map(|page| Extent { start: page.place, units: units_for(1) }).collect()
        }
    }
}
