//! What goes into a store and what comes out of it.

use std::rc::Rc;

use protocol::checksum::CellSum;
use protocol::ids::{
    ChunkKey, ClusterId, Epoch, Generation, GroupId, Lsn, NodeId, OpId, TargetId, Version,
};
use protocol::message::chunk::WriteClass;
use protocol::status::Status;

use crate::io::{Disk, DiskError, Payload};

/// What a container is formatted with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatOptions {
    /// Cluster the target belongs to.
    pub cluster: ClusterId,
    /// Node it is attached to.
    pub node: NodeId,
    /// Its number.
    pub target: TargetId,
    /// Generation of a new container's first opening: newer than any of a container that it replaces,
    /// so that the coordinator takes it for what it is and not for an old copy.
    pub first_generation: Generation,
}

/// What recovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Incarnation of this start, already durable.
    pub generation: Generation,
    /// Last valid journal position.
    pub lsn: Lsn,
    /// False when the journal or index could not be trusted.
    pub intact: bool,
    /// Chunks in the index.
    pub chunks: u64,
    /// Versions of the journal's end whose data does not verify.
    pub suspects: u64,
    /// Why the target fenced itself in the generation before, if it did.
    pub previous_fence: Option<String>,
}

/// Why the store refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The device failed; after a failed flush the store is fenced.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The target fenced itself after a device error; only reads are served.
    #[error("target is fenced")]
    Fenced,
    /// No chunk of that key, or not with a committed version.
    #[error("chunk not found")]
    NotFound,
    /// The range lies beyond the chunk's length at its newest committed version.
    #[error("chunk has {len} bytes")]
    Short {
        /// Its committed length.
        len: u32,
    },
    /// The range has a version that is not known to be committed.
    #[error("newest version is pending")]
    Dirty,
    /// A write's base is not the version that is here.
    #[error("write builds on {base}, chunk is at {have}")]
    BaseMismatch {
        /// Version the write builds on.
        base: Version,
        /// Newest version here.
        have: Version,
    },
    /// The write is not of a form this store accepts.
    #[error("write refused: {0}")]
    Refused(&'static str),
    /// The version is one this store does not trust itself: repair, replace or discard it.
    #[error("the version here is suspect")]
    Suspect,
    /// Bytes do not match their checksum.
    #[error("cell {cell} is corrupt")]
    Corrupt {
        /// The cell.
        cell: u32,
    },
    /// The arena has no room.
    #[error("no space left on target")]
    NoSpace,
    /// The journal has no room until a checkpoint ends, or too many writes wait.
    #[error("journal is full, try again")]
    Busy,
    /// The container cannot be opened; the text says what, where and what to do.
    #[error("{0}")]
    Open(String),
}

/// One version to make durable.
pub struct WriteOp<D: Disk> {
    /// Group that holds the chunk.
    pub group: GroupId,
    /// The chunk.
    pub key: ChunkKey,
    /// Version to store it under; higher than any the chunk has here.
    pub version: Version,
    /// Version it builds on; [`Version::ZERO`] for a new chunk.
    pub base: Version,
    /// Operation that caused it.
    pub op: OpId,
    /// Whether it only extends the chunk, changes bytes, or sets the length to `offset`.
    pub class: WriteClass,
    /// First byte inside the chunk, also after its end: what lies between reads as zeros. For a
    /// truncation the length the chunk is given.
    pub offset: u32,
    /// Bytes of payload; 0 for a truncation.
    pub len: u32,
    /// Length the chunk is expected to reach, for reservation.
    pub expect_len: u32,
    /// Truncation generation of the file.
    pub trunc_gen: u32,
    /// Cell size, as a power of two.
    pub cell_log2: u8,
    /// Chunk size, as a power of two.
    pub chunk_log2: u8,
    /// One checksum for each touched cell, over exactly the bytes in the payload for it; the
    /// payload was already verified against them. None for a truncation.
    pub sums: Rc<[CellSum]>,
    /// The payload: its first `len` bytes; zero from there to the alignment.
    pub payload: Rc<D::Buffer>,
}

/// A whole chunk to install at a fixed version, replacing whatever is here.
pub struct InstallOp<D: Disk> {
    /// As a write of the whole chunk; `offset` and `base` are zero.
    pub write: WriteOp<D>,
    /// Newest operation of each recent session.
    pub ops: Vec<OpId>,
    /// True when the chunk was ever changed other than by growth.
    pub mutated: bool,
    /// True when the version is already committed on the sender.
    pub committed: bool,
}

/// What made a write durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Journal position.
    pub lsn: Lsn,
    /// Free bytes of the target after it.
    pub free: u64,
    /// Length of the chunk after it.
    pub chunk_len: u32,
}

/// Which version a read returns and how much it trusts the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadMode {
    /// Also a version that is not known to be committed.
    pub newest: bool,
    /// Check every cell before it is returned.
    pub verify: bool,
    /// Also a suspect version, whose cells are then always checked: a repair takes good cells
    /// wherever they are, nobody else may.
    pub suspect: bool,
}

/// Bytes of a chunk and what is needed to check them.
pub struct ReadOut<D: Disk> {
    /// Version that was read.
    pub version: Version,
    /// Length of the chunk at that version.
    pub chunk_len: u32,
    /// Cell size, as a power of two.
    pub cell_log2: u8,
    /// Cell the payload starts with.
    pub first_cell: u32,
    /// One checksum for each cell of the payload.
    pub sums: Vec<CellSum>,
    /// Whole cells, cut at `chunk_len`.
    pub payload: Payload<D>,
}

/// What the index knows of one chunk, without touching the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkInfo {
    /// Newest version, committed or pending.
    pub version: Version,
    /// Length at that version.
    pub chunk_len: u32,
    /// Newest committed version and its length, if there is one.
    pub committed: Option<(Version, u32)>,
    /// True when a mutation, truncation or non-growth pending was ever recorded.
    pub mutated: bool,
    /// True when the store does not trust its newest version.
    pub suspect: bool,
    /// True when the store does not trust its newest committed version. A suspect pending says
    /// nothing of the committed version below it.
    pub committed_suspect: bool,
    /// Truncation generation.
    pub trunc_gen: u32,
    /// Cell size, as a power of two.
    pub cell_log2: u8,
    /// Chunk size, as a power of two.
    pub chunk_log2: u8,
    /// Newest operation of each recent session, with the version and length it produced.
    pub ops: Vec<(OpId, Version, u32)>,
}

/// What the store durably knows of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupInfo {
    /// Newest adopted epoch.
    pub epoch: Epoch,
    /// Everything at or below is committed.
    pub committed_through: Version,
}

impl StoreError {
    /// The status a request that hit this error is answered with.
    pub fn status(&self) -> Status {
        match self {
            StoreError::Disk(error) => error.status(),
            StoreError::Fenced => Status::Fenced,
            StoreError::NotFound => Status::ChunkNotFound,
            StoreError::Short { .. } => Status::ChunkShort,
            StoreError::Dirty => Status::Dirty,
            StoreError::BaseMismatch { .. } => Status::Conflict,
            StoreError::Refused(_) => Status::Invalid,
            StoreError::Suspect | StoreError::Corrupt { .. } => Status::Corrupt,
            StoreError::NoSpace => Status::NoSpace,
            StoreError::Busy => Status::Busy,
            StoreError::Open(_) => Status::Internal,
        }
    }
}
