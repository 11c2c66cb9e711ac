//! The data path: reads, writes, replication and what keeps replicas equal.
//!
//! The group's epoch travels in the frame header, so it is not repeated in the bodies.

use crate::checksum::CellSum;
use crate::ids::{
    ChunkKey, Fid, Generation, GroupId, Handle, Lsn, OpId, ShardId, TargetId, Version,
};
use crate::layout::cells_covered;
use crate::message::activity::ShardActivity;

/// Whether a write only extends a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WriteClass {
    /// Starts exactly at the chunk's length; no existing byte is touched.
    #[default]
    Growth,
    /// Changes bytes, or starts after the chunk's end and leaves a hole.
    Mutation,
    /// Sets the chunk's length to `offset`; carries no bytes.
    Truncate,
}

/// Asks a serving member for bytes of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// Group that holds the chunk.
    pub group: GroupId,
    /// The chunk.
    pub key: ChunkKey,
    /// First byte inside the chunk.
    pub offset: u32,
    /// Bytes wanted, 1 to [`crate::limits::READ_LEN_MAX`].
    pub len: u32,
    /// Length the reader knows the chunk to have (from the file's size); 0 when unknown: then a
    /// primary whose chunk ends inside the range answers with what there is.
    pub expect_len: u32,
    /// Truncation generation of the file the reader opened.
    pub trunc_gen: u32,
    /// Capability on this connection.
    pub handle: Handle,
    /// True when the file is growth-only, so any replica that has the bytes may serve them.
    pub growth_only: bool,
    /// True when the member should verify the cells before it sends them.
    pub verify: bool,
}

/// Bytes of a chunk as they lie on the device, with their checksums.
///
/// The payload covers whole cells: from the start of `first_cell` to the end of the last cell the
/// request touches, cut at `chunk_len`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadReply {
    /// Committed version that was read.
    pub version: Version,
    /// Length of the chunk at that version, in bytes.
    pub chunk_len: u32,
    /// Cell size, as a power of two.
    pub cell_log2: u8,
    /// Cell the payload starts with.
    pub first_cell: u32,
    /// One checksum for each cell of the payload.
    pub sums: Vec<CellSum>,
    /// Encryption nonce and tag, 28 bytes a cell, or empty.
    pub aux: Vec<u8>,
}

/// Asks the primary to write the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRequest {
    /// Group that holds the chunk.
    pub group: GroupId,
    /// The chunk.
    pub key: ChunkKey,
    /// Identity of the operation; a retry carries the same.
    pub op: OpId,
    /// 0 in the first attempt, then counted up.
    pub attempt: u8,
    /// Whether it only extends the chunk.
    pub class: WriteClass,
    /// First byte inside the chunk; the new length for a truncation.
    pub offset: u32,
    /// Bytes written; the payload's length, at least 1; 0 for a truncation.
    pub len: u32,
    /// Length the chunk is expected to reach, for reservation; at least `offset + len`.
    pub expect_len: u32,
    /// Truncation generation of the file the writer opened.
    pub trunc_gen: u32,
    /// Cell size, as a power of two.
    pub cell_log2: u8,
    /// Chunk size, as a power of two.
    pub chunk_log2: u8,
    /// Capability on this connection.
    pub handle: Handle,
    /// One checksum for each touched cell, over exactly the bytes sent for it.
    pub sums: Vec<CellSum>,
    /// Encryption nonce and tag, 28 bytes a cell, or empty.
    pub aux: Vec<u8>,
}

/// The write is durable on every member of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteReply {
    /// Version it was given.
    pub version: Version,
    /// Length of the chunk after it.
    pub chunk_len: u32,
    /// Least free space among the members' targets, in bytes.
    pub free: u64,
}

/// What a `Replicate` frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplicateMode {
    /// One write, on top of `base`.
    Write,
    /// The whole chunk at `version`, for a member that lacks it or holds another version.
    Whole,
}

/// Asks a member to make a version durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicateRequest {
    /// Group that holds the chunk.
    pub group: GroupId,
    /// The primary that sends it, as named by the epoch in the header.
    pub primary: TargetId,
    /// The chunk.
    pub key: ChunkKey,
    /// One write or a whole chunk.
    pub mode: ReplicateMode,
    /// Version to store it under.
    pub version: Version,
    /// Version it builds on; [`Version::ZERO`] for a new or whole chunk.
    pub base: Version,
    /// Operation that caused it.
    pub op: OpId,
    /// Whether it only extends the chunk.
    pub class: WriteClass,
    /// First byte inside the chunk; 0 for a whole chunk.
    pub offset: u32,
    /// Payload length, in bytes; may be 0 for a whole chunk of length 0.
    pub len: u32,
    /// Length of the chunk at `version`.
    pub chunk_len: u32,
    /// Length the chunk is expected to reach.
    pub expect_len: u32,
    /// Truncation generation of the file.
    pub trunc_gen: u32,
    /// Cell size, as a power of two.
    pub cell_log2: u8,
    /// Chunk size, as a power of two.
    pub chunk_log2: u8,
    /// One checksum for each whole cell of the payload.
    pub sums: Vec<CellSum>,
    /// Encryption nonce and tag, 28 bytes a cell, or empty.
    pub aux: Vec<u8>,
    /// Newest operation of each recent session, for a whole chunk; else empty.
    pub ops: Vec<OpId>,
    /// True when the chunk was ever changed other than by growth.
    pub mutated: bool,
    /// Everything at or below is committed on the primary.
    pub committed_through: Version,
}

/// The version is durable on this member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicateReply {
    /// Journal position that made it durable.
    pub lsn: Lsn,
    /// Free space of this member's target, in bytes.
    pub free: u64,
}

/// Tells members that versions are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedNotice {
    /// The group.
    pub group: GroupId,
    /// Everything at or below is committed or superseded.
    pub through: Version,
}

/// Tells the primary that a flush or write is outstanding and the member is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkingNotice {
    /// The group.
    pub group: GroupId,
    /// Requests of the sender that are outstanding.
    pub outstanding: u32,
}

/// Asks a member to adopt the epoch in the header, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptRequest {
    /// The group.
    pub group: GroupId,
    /// Primary of the epoch.
    pub primary: TargetId,
    /// Incarnation of that primary.
    pub generation: Generation,
}

/// A version that is durable here and not known to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The chunk.
    pub key: ChunkKey,
    /// Its pending version.
    pub version: Version,
    /// Length of the chunk at that version.
    pub chunk_len: u32,
    /// Operation that caused it; the default for a version that the member has and does not trust.
    pub op: OpId,
    /// Hash of the chunk's descriptor at that version.
    pub hash: u64,
}

/// The epoch is durable on this member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptReply {
    /// Pendings of the group, ascending by key.
    pub pendings: Vec<Pending>,
    /// Everything at or below is committed here.
    pub committed_through: Version,
}

/// Asks a member to drop pendings that the primary does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscardRequest {
    /// The group.
    pub group: GroupId,
    /// Chunk and pending version.
    pub items: Vec<(ChunkKey, Version)>,
}

/// Done; nothing else to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscardReply;

/// Asks for one page of what a member holds of a group, ascending by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InventoryRequest {
    /// The group.
    pub group: GroupId,
    /// Continue after this chunk; `None` from the start.
    pub after: Option<ChunkKey>,
    /// Most entries wanted, 1 to [`crate::limits::INVENTORY_PAGE_MAX`].
    pub limit: u32,
}

/// One chunk of an inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InventoryEntry {
    /// The chunk.
    pub key: ChunkKey,
    /// Newest durable version, committed or pending.
    pub version: Version,
    /// Length at that version.
    pub chunk_len: u32,
    /// Hash of the descriptor at that version: equal hashes mean equal bytes.
    pub hash: u64,
    /// True when the member does not trust its own copy.
    pub suspect: bool,
}

/// One page of an inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InventoryReply {
    /// Ascending by key.
    pub entries: Vec<InventoryEntry>,
    /// True when another page follows.
    pub more: bool,
}

/// Asks a syncing member to set chunks aside that the primary does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineRequest {
    /// The group.
    pub group: GroupId,
    /// The chunks.
    pub keys: Vec<ChunkKey>,
}

/// The chunks are set aside, durably: kept, not served, not listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineReply;

/// Asks a member to delete every chunk of dead files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropRequest {
    /// The group.
    pub group: GroupId,
    /// The dead files.
    pub fids: Vec<Fid>,
}

/// The deletion is durable on this member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropReply;

/// Asks a member to read a whole chunk from the device and check every cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyRequest {
    /// The group.
    pub group: GroupId,
    /// The chunk.
    pub key: ChunkKey,
}

/// What the device holds of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReply {
    /// Newest durable version.
    pub version: Version,
    /// Length at that version.
    pub chunk_len: u32,
    /// Cell size, as a power of two.
    pub cell_log2: u8,
    /// Stored checksums, one a cell.
    pub sums: Vec<CellSum>,
    /// Cells whose bytes do not match, ascending.
    pub bad_cells: Vec<u32>,
}

/// Asks a shard for its counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatsRequest;

/// What one shard owns and has done since its process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardStatsReply {
    /// Position in the node.
    pub shard: ShardId,
    /// CPU it is pinned to; `u16::MAX` when it is not pinned.
    pub core: u16,
    /// Target it owns.
    pub target: TargetId,
    /// Incarnation of the target.
    pub generation: Generation,
    /// Its own port.
    pub port: u16,
    /// Usable bytes of the target.
    pub capacity: u64,
    /// Bytes allocated on the target.
    pub used: u64,
    /// Chunks on the target.
    pub chunks: u64,
    /// Data requests served.
    pub requests: u64,
    /// Payload bytes received.
    pub bytes_in: u64,
    /// Payload bytes sent.
    pub bytes_out: u64,
    /// Data requests that crossed to another shard.
    pub hops: u64,
    /// Requests answered with another shard's port.
    pub misroutes: u64,
    /// Flushes issued to the device.
    pub flushes: u64,
    /// Payload bytes copied in user space outside TLS.
    pub bytes_copied: u64,
    /// Connections open.
    pub connections: u32,
    /// Checksum path the binary was compiled with.
    pub checksum_path: String,
    /// What it does, for rates; all zero from a release that did not count it.
    pub activity: ShardActivity,
    /// Those of the connections whose payload is not encrypted.
    pub clear_connections: u32,
}

/// Presents a capability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindTokenRequest {
    /// Encoded capability.
    pub token: Vec<u8>,
}

/// The capability is bound to this connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindTokenReply {
    /// Its short name in later requests.
    pub handle: Handle,
}

impl ReadReply {
    /// The bytes of the chunk that the payload holds, half-open.
    pub fn payload_range(&self) -> std::ops::Range<usize> {
        cells_covered(self.cell_log2, self.first_cell, self.sums.len(), self.chunk_len)
    }
}
