//! The replication rules of one member of one placement group, as pure transitions.
//!
//! Owns what a member decides: which epoch it has adopted, what it may acknowledge, what it sends
//! to the others, what they may ask of it. Knows nothing of sockets, files or clocks; payloads are
//! a type parameter it passes on unread, and facts about chunks come from [`ChunkIndex`].
//!
//! Invariants (each is checked from outside by `tests/it/group`):
//! - a version is acknowledged only when it is durable on every member of the epoch;
//! - only the primary of an epoch made for its own incarnation assigns versions in it;
//! - after a member has begun to adopt an epoch it answers nothing of an older one;
//! - in an epoch that is not writable, pendings of serving members stay as they are;
//! - a mark ("everything at or below is committed") leaves the primary only after every member
//!   has dropped the pendings that the primary does not have.
//!
//! **Partial cells.** A growth whose offset is not cell-aligned goes to the members as the client
//! sent it: the same bytes with the sums of the same pieces. Each member's store merges the piece
//! with its own verified old cell, so every member computes the new cell's sum from equal bytes.
//! A member that cannot verify its old cell says so and is sent the whole chunk.
//!
//! Start at [`member::Member`], then `fence` (how an epoch is adopted), `write` and `replicate`
//! (the normal case), `follow` (the receiving side), `activate`, `resync`, `take`, `read`, `dead`,
//! `files`, `forget`, `compare`.

pub mod activate;
pub mod calls;
pub mod census;
pub mod compare;
pub mod dead;
pub mod fence;
pub mod files;
pub mod follow;
pub mod forget;
mod judge;
pub mod member;
pub mod pace;
pub mod read;
pub mod repair;
pub mod replicate;
pub mod resync;
pub mod scrub;
pub mod take;
pub mod write;

use protocol::ids::{ChunkKey, Fid, GroupId, Version};
use protocol::message::chunk::{InventoryEntry, Pending};

use crate::io::Disk;
use crate::limits::RESYNC_PAGE;
use crate::store::{ChunkInfo, Damage, DamagedPart, GroupDigest, Store};

/// Facts about the chunks of this target, looked up in memory.
pub trait ChunkIndex {
    /// What is known of one chunk.
    fn info(&self, group: GroupId, key: ChunkKey) -> Option<ChunkInfo>;
    /// Durable versions that are not known to be committed, ascending by key.
    fn pendings(&self, group: GroupId) -> Vec<Pending>;
    /// Versions that are here and not trusted, ascending by key and version.
    fn suspects(&self, _group: GroupId) -> Vec<(ChunkKey, Version)> {
        Vec::new()
    }
    /// One page of chunks after a key, ascending; true when another page follows.
    fn inventory(
        &self,
        group: GroupId,
        after: Option<ChunkKey>,
        limit: usize,
    ) -> (Vec<InventoryEntry>, bool);
    /// What a group amounts to here.
    fn digest(&self, group: GroupId) -> GroupDigest;
    /// Files of a group with chunks that are served here, ascending, up to a number of them; those
    /// with chunks that are set aside are left out.
    fn files(&self, group: GroupId, limit: usize) -> Vec<Fid>;
    /// Free bytes of the target.
    fn free(&self) -> u64;
    /// Bytes the target can hold.
    fn capacity(&self) -> u64;
    /// What of a group is known to be damaged or not trusted, ascending by key and version.
    fn damaged(&self, group: GroupId) -> Vec<Damage>;
    /// Bytes of a group's chunks, by which the work of a resync is estimated.
    fn bytes(&self, group: GroupId) -> u64 {
        let (mut bytes, mut after) = (0, None);
        loop {
            let (entries, more) = self.inventory(group, after, RESYNC_PAGE);
            bytes += entries.iter().map(|entry| u64::from(entry.chunk_len)).sum::<u64>();
            after = entries.last().map(|entry| entry.key);
            if !more || after.is_none() {
                return bytes;
            }
        }
    }
}

impl<D: Disk> ChunkIndex for Store<D> {
    fn info(&self, group: GroupId, key: ChunkKey) -> Option<ChunkInfo> {
        Store::info(self, group, key)
    }

    fn pendings(&self, group: GroupId) -> Vec<Pending> {
        Store::pendings(self, group)
    }

    fn suspects(&self, group: GroupId) -> Vec<(ChunkKey, Version)> {
        Store::suspects(self, group)
    }

    fn inventory(
        &self,
        group: GroupId,
        after: Option<ChunkKey>,
        limit: usize,
    ) -> (Vec<InventoryEntry>, bool) {
        Store::inventory(self, group, after, limit)
    }

    fn digest(&self, group: GroupId) -> GroupDigest {
        Store::digest(self, group)
    }

    fn files(&self, group: GroupId, limit: usize) -> Vec<Fid> {
        Store::files(self, group, limit)
    }

    fn free(&self) -> u64 {
        Store::free(self)
    }

    fn capacity(&self) -> u64 {
        Store::capacity(self)
    }

    fn damaged(&self, group: GroupId) -> Vec<Damage> {
        let mut damages = Store::damaged(self, group);
        for (key, version) in Store::suspects(self, group) {
            // All of its bytes together clear a version of suspicion.
            damages.retain(|damage| (damage.key, damage.version) != (key, version));
            damages.push(Damage { group, key, version, part: DamagedPart::Whole });
        }
        damages.sort_by_key(|damage| (damage.key, damage.version));
        damages
    }
}
