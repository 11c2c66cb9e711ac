//! Writing a version: check, place, write data and descriptor, record, flush.
//!
//! Order matters: the record is queued only after data and descriptor writes have completed, so
//! the flush of its batch covers them; the writer is told only after that flush has returned.

use std::cell::Cell as Counter;
use std::rc::Rc;

use protocol::ids::{GroupId, OpId};
use protocol::layout::cells_touched;
use protocol::limits::{CELL_LOG2_ALLOWED, CHUNK_LOG2_MAX, CHUNK_LOG2_MIN, PENDINGS_PER_GROUP_MAX};
use protocol::message::chunk::WriteClass;

use super::Store;
use super::draft::Built;
use super::extent::UNIT;
use super::grant::Grant;
use super::journal::{Done, Room};
use super::record::Record;
use super::state::{ChunkState, OpEntry, remember_op};
use super::suspect::check_trusted;
use super::types::{Durable, InstallOp, StoreError, WriteOp};
use crate::io::{Buffer, Disk};
use crate::limits::{PENDING_CHAIN_MAX, STORE_WRITES_MAX};

/// One write under way, counted.
struct Slot<'a>(&'a Counter<usize>);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl<D: Disk> Store<D> {
    /// Makes one version durable; it is pending until [`Store::commit_through`] covers it.
    ///
    /// Several writes of one chunk may be under way: they are prepared in the order they came,
    /// each on top of the one before, and share flushes.
    ///
    /// # Errors
    /// - [`StoreError::BaseMismatch`]: another version is here. Nothing was changed.
    /// - [`StoreError::Refused`]: the write is malformed. Nothing was changed.
    /// - [`StoreError::Suspect`]: the version it builds on is not trusted. Nothing was changed.
    /// - [`StoreError::NoSpace`], [`StoreError::Busy`]: no room now. Nothing was changed.
    /// - [`StoreError::Corrupt`]: a partly overwritten cell does not verify. Nothing was changed.
    /// - [`StoreError::Disk`], [`StoreError::Fenced`]: the version may or may not be durable.
    ///
    /// # Durability
    /// On success data, descriptor and record are on the medium.
    ///
    /// # Cancel safety
    /// The version may or may not become durable; its space may stay unused until the next open.
    ///
    /// # Cost
    /// Payload that starts on a cell and goes to one run is written from where it lies.
    pub async fn write(&self, op: WriteOp<D>) -> Result<Durable, StoreError> {
        check_shape(&op)?;
        self.check_fullness()?;
        let _slot = self.admit()?;
        let turn = self.gates.enter((op.group, op.key)).await;
        let base = self.base_of(&op)?;
        let mutated = base.as_ref().is_some_and(|base| base.mutated);
        let mutated = mutated || op.class == WriteClass::Mutation;
        let (built, grant) = self.build(&op, base.as_deref()).await?;
        let ops = base.as_ref().map_or(&[][..], |base| &base.ops);
        let entry = OpEntry { op: op.op, version: op.version, len: built.new_len };
        let ops = remember_op(ops, entry);
        let state = self.state_of(&op, built, base.as_deref(), mutated, ops);
        if let Err(error) = self.base_of(&op) {
            grant.give_back();
            return Err(error);
        }
        let chunk_len = state.len;
        let done =
            self.stage_version(Record::Put { group: op.group, key: op.key, state }, grant)?;
        drop(turn);
        self.finish(done, chunk_len).await
    }

    /// Makes a whole chunk durable at a fixed version, replacing whatever is here.
    ///
    /// An older committed version stays readable until this one is committed.
    ///
    /// # Errors
    /// As [`Store::write`], except that no base is asked for.
    ///
    /// # Durability
    /// As [`Store::write`].
    ///
    /// # Cancel safety
    /// As [`Store::write`].
    pub async fn install(&self, op: InstallOp<D>) -> Result<Durable, StoreError> {
        let InstallOp { write, ops, mutated, committed } = op;
        if write.offset != 0 {
            return Err(StoreError::Refused("a whole chunk starts at 0"));
        }
        if write.len > 0 {
            check_shape(&write)?;
        }
        self.check_fullness()?;
        let _slot = self.admit()?;
        let turn = self.gates.enter((write.group, write.key)).await;
        self.check_room(write.group)?;
        let (built, grant) = self.build(&write, None).await?;
        let entry = |op: OpId| OpEntry { op, version: write.version, len: write.len };
        let table = ops
            .iter()
            .fold(Box::default(), |table: Box<[OpEntry]>, op| remember_op(&table, entry(*op)));
        let table = remember_op(&table, entry(write.op));
        let state = self.state_of(&write, built, None, mutated, table);
        let (group, key, chunk_len) = (write.group, write.key, state.len);
        let done = self.stage_version(Record::Install { group, key, committed, state }, grant)?;
        drop(turn);
        self.finish(done, chunk_len).await
    }

    fn admit(&self) -> Result<Slot<'_>, StoreError> {
        self.check_writable()?;
        if self.writes_in_flight.get() >= STORE_WRITES_MAX {
            return Err(StoreError::Busy);
        }
        self.writes_in_flight.set(self.writes_in_flight.get() + 1);
        Ok(Slot(&self.writes_in_flight))
    }

    fn check_room(&self, group: GroupId) -> Result<(), StoreError> {
        self.check_writable()?;
        let record = super::record::RECORD_LEN_MAX;
        if !self.journal.borrow_mut().admit(record, Room::Ordinary) {
            self.work.ring();
            return Err(StoreError::Busy);
        }
        if self.index.borrow().pending_names(group).count() >= PENDINGS_PER_GROUP_MAX {
            return Err(StoreError::Busy);
        }
        if self.index_has_room() { Ok(()) } else { Err(StoreError::NoSpace) }
    }

    /// The version a write builds on, after checking that it may.
    fn base_of(&self, op: &WriteOp<D>) -> Result<Option<Rc<ChunkState>>, StoreError> {
        self.check_room(op.group)?;
        let index = self.index.borrow();
        let entry = index.served(op.group, op.key);
        let newest = entry.and_then(|entry| entry.newest());
        let have = newest.map_or(protocol::ids::Version::ZERO, |state| state.version);
        if op.base != have || op.version <= have {
            return Err(StoreError::BaseMismatch { base: op.base, have });
        }
        if let Some(newest) = newest {
            check_trusted(newest)?;
        }
        if entry.is_some_and(|entry| entry.pendings.len() >= PENDING_CHAIN_MAX) {
            return Err(StoreError::Busy);
        }
        let sizes = (op.cell_log2, op.chunk_log2);
        if newest.is_some_and(|base| (base.cell_log2, base.chunk_log2) != sizes) {
            return Err(StoreError::Refused("cell or chunk size differs from the chunk's"));
        }
        check_growth(op, newest.map_or(0, |base| base.len))?;
        Ok(newest.cloned())
    }

    fn state_of(
        &self,
        op: &WriteOp<D>,
        built: Built,
        base: Option<&ChunkState>,
        mutated: bool,
        ops: Box<[OpEntry]>,
    ) -> ChunkState {
        ChunkState {
            version: op.version,
            len: built.new_len,
            op: op.op,
            trunc_gen: op.trunc_gen.max(base.map_or(0, |base| base.trunc_gen)),
            cell_log2: op.cell_log2,
            chunk_log2: op.chunk_log2,
            mutated,
            suspect: false,
            content: built.content,
            ops,
            cells: built.cells,
            owned: built.owned.into_runs().into_boxed_slice(),
            reserve: built.reserve,
            lsn: protocol::ids::Lsn(0),
        }
    }

    fn stage_version(&self, record: Record, grant: Grant<'_>) -> Result<Done, StoreError> {
        match self.stage(record, Room::Ordinary) {
            Ok((_, done)) => {
                grant.keep();
                Ok(done)
            }
            Err(error) => {
                grant.give_back();
                Err(error)
            }
        }
    }

    async fn finish(&self, done: Done, chunk_len: u32) -> Result<Durable, StoreError> {
        done.wait().await?;
        Ok(Durable { lsn: self.durable_lsn(), free: self.free(), chunk_len })
    }

    /// Takes space with `take`; when there is none, once more after waiting space was freed.
    pub(super) async fn take_space<T>(
        &self,
        mut take: impl FnMut() -> Option<T>,
    ) -> Result<T, StoreError> {
        if let Some(taken) = take() {
            return Ok(taken);
        }
        let durable = self.durable_lsn();
        let waits = self.space.borrow().waiting_units() > 0;
        if waits && self.journal.borrow_mut().hurry() {
            self.work.ring();
            self.work.until(|| (self.fenced() || self.durable_lsn() > durable).then_some(())).await;
        }
        take().ok_or(StoreError::NoSpace)
    }

    /// Counts payload bytes that were copied in memory.
    pub(super) fn count_copied(&self, bytes: usize) {
        self.bytes_copied.set(self.bytes_copied.get() + bytes as u64);
    }
}

/// Checks everything about a write that does not depend on the chunk.
fn check_shape<D: Disk>(op: &WriteOp<D>) -> Result<(), StoreError> {
    if !CELL_LOG2_ALLOWED.contains(&op.cell_log2)
        || !(CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX).contains(&op.chunk_log2)
    {
        return Err(StoreError::Refused("cell or chunk size"));
    }
    let end = u64::from(op.offset) + u64::from(op.len);
    if op.len == 0 || end > 1 << op.chunk_log2 {
        return Err(StoreError::Refused("range must be within the chunk"));
    }
    let padded = (op.len as usize).next_multiple_of(UNIT as usize);
    if op.payload.bytes().len() < padded {
        return Err(StoreError::Refused("payload is shorter than its length"));
    }
    let (_, cells) = cells_touched(op.cell_log2, op.offset, op.len);
    if op.sums.len() == cells as usize {
        Ok(())
    } else {
        Err(StoreError::Refused("one checksum for each touched cell"))
    }
}

/// Growth starts at the chunk's length, or at the start of its partial last cell when the sender
/// has merged that cell already.
fn check_growth<D: Disk>(op: &WriteOp<D>, len: u32) -> Result<(), StoreError> {
    let merged = len >> op.cell_log2 << op.cell_log2;
    let grows = op.offset == len || op.offset == merged && op.offset + op.len > len;
    if op.class == WriteClass::Mutation || grows {
        Ok(())
    } else {
        Err(StoreError::Refused("growth starts at the chunk's length"))
    }
}
