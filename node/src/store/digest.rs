//! What a group amounts to here: its space, and a digest that replicas compare.

use protocol::ids::{GroupId, Version};

use super::Store;
use super::extent::UNIT;
use crate::io::Disk;

/// The committed content of one group in a few bytes.
///
/// Replicas that agree on `committed_through` and have no pendings hold the same chunks, at the
/// same versions, with the same bytes, exactly when the rest is equal too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupDigest {
    /// Committed chunks; those in quarantine are left out.
    pub chunks: u64,
    /// Sum of their lengths, in bytes.
    pub bytes: u64,
    /// Sum over those chunks of a hash of key, version, length and content: no order matters.
    pub hash: u128,
    /// Everything at or below is committed.
    pub committed_through: Version,
    /// Versions that are not known to be committed.
    pub pendings: u64,
}

impl<D: Disk> Store<D> {
    /// Digest of a group's committed chunks.
    ///
    /// # Cost
    /// None: it is kept up to date with every record.
    pub fn digest(&self, group: GroupId) -> GroupDigest {
        let index = self.index.borrow();
        let tally = index.tally(group);
        GroupDigest {
            chunks: tally.committed,
            bytes: tally.bytes,
            hash: tally.hash,
            committed_through: index.group(group).committed_through,
            pendings: tally.pendings,
        }
    }

    /// Bytes of the arena that a group's chunks refer to, reservations and quarantine included.
    ///
    /// # Cost
    /// None: it is kept up to date with every record.
    pub fn allocated(&self, group: GroupId) -> u64 {
        self.index.borrow().tally(group).units * u64::from(UNIT)
    }
}
