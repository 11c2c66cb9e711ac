//! One target's bytes on its container: journal, extents, descriptors, checkpoints, recovery.
//!
//! Owns what is on the device. Knows nothing of groups' membership, peers or clients: it stores
//! versions of chunks, says which are pending, and never acknowledges before the flush returned.
//!
//! Invariants: the index changes in the same step that queues the record, so memory and a replay
//! of the journal agree; committed bytes are never changed in place; what a change frees is used
//! again only after the batch with that change is durable. The bytes are in `docs/disk-format.md`.
//!
//! Start reading at [`Store`], then `write`, `commit`, `recovery`.

mod allocator;
mod audit;
mod bad;
mod batch;
mod build;
mod bytes;
mod cells;
mod change;
mod check;
mod checkpoint;
mod commit;
mod damage;
mod damage_list;
mod descriptor;
mod digest;
mod draft;
mod entry;
mod examine;
mod extent;
mod fence;
mod format;
mod geometry;
mod grant;
mod index;
mod journal;
mod meter;
mod plan;
mod quarantine;
mod query;
mod read;
mod record;
mod recovery;
mod repair;
mod replay;
mod reserve;
mod ring;
mod scrub;
mod snapshot;
mod space;
mod state;
mod superblock;
mod suspect;
mod tally;
mod types;
mod upkeep;
mod verdict;
mod wait;
mod watermark;
mod write;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use protocol::ids::Generation;

pub use audit::SpaceCheck;
pub use damage::{Damage, DamagedPart};
pub use digest::GroupDigest;
pub use meter::DeviceTimes;
pub use quarantine::{QuarantineSize, Quarantined};
pub use repair::RepairOp;
pub use scrub::{ScrubCursor, ScrubStep};
pub use types::{
    ChunkInfo, Durable, FormatOptions, GroupInfo, InstallOp, ReadMode, ReadOut, Recovered,
    StoreError, WriteOp,
};
pub use watermark::Fullness;

use crate::io::Disk;

/// One target, open.
///
/// Every method may be called by any task of its core; [`Store::run`] must be running for those
/// that wait for durability.
pub struct Store<D: Disk> {
    disk: Rc<D>,
    identity: FormatOptions,
    generation: Generation,
    geometry: geometry::Geometry,
    superblock: RefCell<superblock::Superblock>,
    index: RefCell<index::Index>,
    space: RefCell<space::Space>,
    journal: RefCell<journal::Journal>,
    cache: RefCell<cells::PageCache>,
    /// One writer of a chunk prepares at a time.
    gates: wait::Gates,
    checkpoint_turn: wait::Gates,
    superblock_turn: wait::Gates,
    flush_turn: wait::Gates,
    /// Rings whenever something changed that a task of the store may wait for.
    work: wait::Bell,
    phase: Cell<fence::Phase>,
    fence_reason: RefCell<Option<String>>,
    upkeep: upkeep::Upkeep,
    meter: meter::Meter,
    writes_in_flight: Cell<usize>,
    flushes: Cell<u64>,
    bytes_copied: Cell<u64>,
}

#[cfg(test)]
mod document_tests;
