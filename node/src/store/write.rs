//! Writing a version: check, place, write data and descriptor, record, flush.
//!
//! Order matters: the record is queued only after data and descriptor writes have completed, so
//! the flush of its batch covers them; the writer is told only after that flush has returned.

use std::cell::Cell as Counter;
use std::rc::Rc;

use protocol::ids::{GroupId, OpId};
use protocol::limits::PENDINGS_PER_GROUP_MAX;
use protocol::message::chunk::WriteClass;

use super::Store;
use super::build::Purpose;
use super::check::{changes_bytes, check_class, check_growth, check_record_len, check_shape};
use super::draft::Built;
use super::grant::Grant;
use super::journal::{Done, Room};
use super::record::{RECORD_LEN_MAX, Record};
use super::state::{ChunkState, OpEntry, remember_op};
use super::suspect::check_trusted;
use super::types::{Durable, InstallOp, StoreError, WriteOp};
use crate::io::Disk;
use crate::limits::{PENDING_CHAIN_MAX, STORE_WRITES_MAX};

/// One write under way, counted.
pub(super) struct Slot<'a>(&'a Counter<usize>);

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
        check_class(&op)?;
        if op.class != WriteClass::Truncate {
            self.check_fullness()?;
        }
        let _slot = self.admit()?;
        let turn = self.gates.enter((op.group, op.key)).await;
        let base = self.base_of(&op)?;
        let mutated = changes_bytes(&op, base.as_deref());
        let (built, grant) = self.build(&op, base.as_deref(), Purpose::New).await?;
        let ops = base.as_ref().map_or(&[][..], |base| &base.ops);
        let entry = OpEntry { op: op.op, version: op.version, len: built.new_len };
        let ops = remember_op(ops, entry);
        let state = self.state_of(&op, built, base.as_deref(), mutated, ops);
        if let Err(error) = self.check_still(&op, base.as_ref(), &state) {
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
    /// An older committed version stays readable until this one is committed, and the newest older
    /// pending can still be fallen back to.
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
        if write.class == WriteClass::Truncate {
            return Err(StoreError::Refused("a whole chunk is no truncation"));
        }
        check_shape(&write)?;
        let _slot = self.admit()?;
        let turn = self.gates.enter((write.group, write.key)).await;
        self.check_room(write.group)?;
        self.check_index_room()?;
        let (built, grant) = self.build(&write, None, Purpose::Copy).await?;
        let entry = |op: OpId| OpEntry { op, version: write.version, len: write.len };
        let table = ops
            .iter()
            .fold(Box::default(), |table: Box<[OpEntry]>, op| remember_op(&table, entry(*op)));
        let table = remember_op(&table, entry(write.op));
        let state = self.state_of(&write, built, None, mutated, table);
        if let Err(error) = check_record_len(&state) {
            grant.give_back();
            return Err(error);
        }
        let (group, key, chunk_len) = (write.group, write.key, state.len);
        let done = self.stage_version(Record::Install { group, key, committed, state }, grant)?;
        drop(turn);
        self.finish(done, chunk_len).await
    }

    pub(super) fn admit(&self) -> Result<Slot<'_>, StoreError> {
        self.check_writable()?;
        if self.writes_in_flight.get() >= STORE_WRITES_MAX {
            return Err(StoreError::Busy);
        }
        self.writes_in_flight.set(self.writes_in_flight.get() + 1);
        Ok(Slot(&self.writes_in_flight))
    }

    pub(super) fn check_room(&self, group: GroupId) -> Result<(), StoreError> {
        self.check_writable()?;
        if !self.journal.borrow_mut().admit(RECORD_LEN_MAX, Room::Ordinary) {
            self.work.ring();
            return Err(StoreError::Busy);
        }
        if self.index.borrow().pending_names(group).count() >= PENDINGS_PER_GROUP_MAX {
            return Err(StoreError::Busy);
        }
        Ok(())
    }

    fn check_index_room(&self) -> Result<(), StoreError> {
        if self.index_has_room() { Ok(()) } else { Err(StoreError::NoSpace) }
    }

    /// Checks, with no step between this and the record, that what was built fits what is here.
    fn check_still(
        &self,
        op: &WriteOp<D>,
        base: Option<&Rc<ChunkState>>,
        state: &ChunkState,
    ) -> Result<(), StoreError> {
        let now = self.base_of(op)?;
        let same = match (base, &now) {
            (Some(base), Some(now)) => Rc::ptr_eq(base, now),
            (base, now) => base.is_none() && now.is_none(),
        };
        if !same {
            return Err(StoreError::Busy); // Repaired or found bad meanwhile.
        }
        check_record_len(state)
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
        // Cutting what is here needs no more room in a checkpoint than there is.
        if newest.is_none() || op.class != WriteClass::Truncate {
            self.check_index_room()?;
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

    pub(super) fn stage_version(
        &self,
        record: Record,
        grant: Grant<'_>,
    ) -> Result<Done, StoreError> {
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

    pub(super) async fn finish(&self, done: Done, chunk_len: u32) -> Result<Durable, StoreError> {
        done.wait().await?;
        Ok(Durable { lsn: self.durable_lsn(), free: self.free(), chunk_len })
    }

    /// Takes space with `take`; when there is none, once more after what is kept for growth was given
    /// back and waiting space was freed.
    pub(super) async fn take_space<T>(
        &self,
        mut take: impl FnMut() -> Option<T>,
    ) -> Result<T, StoreError> {
        if let Some(taken) = take() {
            return Ok(taken);
        }
        self.give_up_reserves();
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
