//! What is asked of a write before anything is done, and of a version before it is recorded.
//!
//! Pure.

use protocol::layout::cells_touched;
use protocol::limits::{CELL_LOG2_ALLOWED, CHUNK_LOG2_MAX, CHUNK_LOG2_MIN};
use protocol::message::chunk::WriteClass;

use super::extent::UNIT;
use super::record::{INSTALL_HEAD_LEN, RECORD_HEADER_LEN, RECORD_LEN_MAX};
use super::state::ChunkState;
use super::types::{StoreError, WriteOp};
use crate::io::{Buffer, Disk};

/// A chunk in more pieces than one record can name has no place: the arena is too fragmented.
pub(super) fn check_record_len(state: &ChunkState) -> Result<(), StoreError> {
    let len = RECORD_HEADER_LEN + INSTALL_HEAD_LEN + state.encoded_len();
    if len > RECORD_LEN_MAX {
        return Err(StoreError::NoSpace);
    }
    // What recovery would not read back would take the records beside it along.
    if state.is_sound() { Ok(()) } else { Err(StoreError::Refused("version is not sound")) }
}

/// True when the chunk was ever changed other than by growth, this write included.
pub(super) fn changes_bytes<D: Disk>(op: &WriteOp<D>, base: Option<&ChunkState>) -> bool {
    let changes = match op.class {
        WriteClass::Growth => false,
        WriteClass::Mutation => true,
        WriteClass::Truncate => op.offset != base.map_or(0, |base| base.len),
    };
    changes || base.is_some_and(|base| base.mutated)
}

/// Checks everything about a write that does not depend on the chunk.
pub(super) fn check_shape<D: Disk>(op: &WriteOp<D>) -> Result<(), StoreError> {
    if !CELL_LOG2_ALLOWED.contains(&op.cell_log2)
        || !(CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX).contains(&op.chunk_log2)
    {
        return Err(StoreError::Refused("cell or chunk size"));
    }
    if u64::from(op.offset) + u64::from(op.len) > 1 << op.chunk_log2 {
        return Err(StoreError::Refused("range must be within the chunk"));
    }
    let (_, cells) = cells_touched(op.cell_log2, op.offset, op.len);
    if op.sums.len() != cells as usize {
        return Err(StoreError::Refused("one checksum for each touched cell"));
    }
    let padded = (op.len as usize).next_multiple_of(UNIT as usize);
    if op.payload.bytes().len() < padded {
        return Err(StoreError::Refused("payload is shorter than its length"));
    }
    Ok(())
}

/// A truncation carries no bytes, every other write carries some.
pub(super) fn check_class<D: Disk>(op: &WriteOp<D>) -> Result<(), StoreError> {
    match (op.class, op.len) {
        (WriteClass::Truncate, 0) => Ok(()),
        (WriteClass::Truncate, _) => Err(StoreError::Refused("a truncation carries no bytes")),
        (_, 0) => Err(StoreError::Refused("a write carries bytes")),
        _ => Ok(()),
    }
}

/// Growth starts at the chunk's length, or at the start of its partial last cell when the sender
/// has merged that cell already.
pub(super) fn check_growth<D: Disk>(op: &WriteOp<D>, len: u32) -> Result<(), StoreError> {
    let merged = len >> op.cell_log2 << op.cell_log2;
    let grows = op.offset == len || op.offset == merged && op.offset + op.len > len;
    if op.class != WriteClass::Growth || grows {
        Ok(())
    } else {
        Err(StoreError::Refused("growth starts at the chunk's length"))
    }
}
