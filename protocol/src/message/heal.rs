//! What keeps replicas good: fetching cells from another member, comparing digests, reports of
//! damage, and the coordinator's orders about single files.
//!
//! The group's epoch travels in the frame header, so it is not repeated in the bodies.

use crate::checksum::CellSum;
use crate::ids::{ChunkKey, Fid, GroupId, OpId, TargetId, Version};
use crate::layout::cells_covered;

/// Asks another member for cells of a chunk, to repair the asker's own copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// Group that holds the chunk.
    pub group: GroupId,
    /// Member that asks.
    pub member: TargetId,
    /// The chunk.
    pub key: ChunkKey,
    /// Version whose cells are wanted; [`Version::ZERO`] for the newest committed one.
    pub version: Version,
    /// First cell wanted.
    pub first_cell: u32,
    /// Cells wanted; 0 for all from `first_cell` on.
    pub cells: u32,
}

/// Cells of a chunk, verified by the sender, with what is needed to install the chunk.
///
/// The payload covers whole cells from `first_cell`, cut at `chunk_len`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchReply {
    /// Version that was read.
    pub version: Version,
    /// True when that version is committed on the sender.
    pub committed: bool,
    /// Length of the chunk at that version, in bytes.
    pub chunk_len: u32,
    /// Truncation generation.
    pub trunc_gen: u32,
    /// Cell size, as a power of two.
    pub cell_log2: u8,
    /// Chunk size, as a power of two.
    pub chunk_log2: u8,
    /// True when the chunk was ever changed other than by growth.
    pub mutated: bool,
    /// Cell the payload starts with.
    pub first_cell: u32,
    /// One checksum for each cell of the payload.
    pub sums: Vec<CellSum>,
    /// Encryption nonce and tag, 28 bytes a cell, or empty.
    pub aux: Vec<u8>,
    /// Newest operation of each recent session.
    pub ops: Vec<OpId>,
}

/// Asks a member what it holds of a group, in one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestRequest {
    /// The group.
    pub group: GroupId,
}

/// What a member holds of a group: equal on all members when nothing is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestReply {
    /// Chunks with a committed version.
    pub chunks: u64,
    /// Sum of their lengths, in bytes.
    pub bytes: u64,
    /// Hash over their keys, versions, lengths and content hashes, whatever their order.
    pub hash: u128,
    /// Everything at or below is committed here.
    pub committed_through: Version,
    /// Versions that are not known to be committed.
    pub pendings: u32,
}

/// A reader found bytes that do not match their checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportCorruptRequest {
    /// The group.
    pub group: GroupId,
    /// The chunk.
    pub key: ChunkKey,
    /// Version that was read.
    pub version: Version,
    /// The cells, ascending.
    pub cells: Vec<u32>,
}

/// The member has read the cells again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportCorruptReply {
    /// True when the device indeed holds other bytes; they are being repaired.
    pub confirmed: bool,
}

/// Cuts a file's chunks at a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trim {
    /// The file's content.
    pub fid: Fid,
    /// Length the file was truncated to, in bytes.
    pub len: u64,
    /// Truncation generation that the cut belongs to.
    pub trunc_gen: u32,
    /// Chunk size, as a power of two.
    pub chunk_log2: u8,
}

/// Asks how long a file's chunks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// The file's content.
    pub fid: Fid,
    /// First chunk that matters.
    pub first_chunk: u32,
}

/// What one group has to do for single files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOrders {
    /// The group.
    pub group: GroupId,
    /// Files to cut.
    pub trims: Vec<Trim>,
    /// Files to measure.
    pub measures: Vec<Measure>,
}

/// Tells the node of a group's primary what to do for single files; repeated until it is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOrdersNotice {
    /// One entry for each group.
    pub groups: Vec<GroupOrders>,
}

/// Length of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLen {
    /// Position of the chunk in the file.
    pub index: u32,
    /// Its committed length, in bytes.
    pub len: u32,
}

/// Chunks of one file in one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The file's content.
    pub fid: Fid,
    /// Chunks with a committed version, ascending by index.
    pub chunks: Vec<ChunkLen>,
}

/// What one group has done for single files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReports {
    /// The group.
    pub group: GroupId,
    /// Files that were cut, with the truncation generation of the cut; durable on every member.
    pub trimmed: Vec<(Fid, u32)>,
    /// Files that were measured.
    pub measured: Vec<Measured>,
}

/// A primary's node reports what was done for single files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReportsRequest {
    /// One entry for each group.
    pub groups: Vec<GroupReports>,
}

/// Noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReportsReply;

/// A node asks which files of its quarantined chunks are dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CensusRequest {
    /// Group and files with quarantined chunks in it.
    pub groups: Vec<(GroupId, Vec<Fid>)>,
}

/// The dead ones among the files asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CensusReply {
    /// Group and dead files.
    pub dead: Vec<(GroupId, Vec<Fid>)>,
}

impl FetchReply {
    /// The bytes of the chunk that the payload holds, half-open.
    pub fn payload_range(&self) -> std::ops::Range<usize> {
        cells_covered(self.cell_log2, self.first_cell, self.sums.len(), self.chunk_len)
    }
}
