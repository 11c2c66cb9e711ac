//! The verdict of recovery that a target is not intact, kept until the coordinator has it.
//!
//! The first opening after damage repairs what the next one would find: its checkpoint replaces the
//! damaged records. A process that ends before it has registered would take the verdict with it, and
//! the next would be believed. So the verdict becomes durable together with the generation.

use protocol::guard::{self, Guard};

use super::Store;
use super::superblock::Superblock;
use super::types::StoreError;
use crate::io::Disk;

impl<D: Disk> Store<D> {
    /// Takes note that the coordinator durably knows what the recovery of this generation found.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] and [`StoreError::Disk`]; the next opening then says once more that the
    /// target is not intact, which costs a resync and loses nothing.
    ///
    /// # Durability
    /// On success the next opening judges by what it finds itself.
    ///
    /// # Cancel safety
    /// The verdict is kept or not; both are safe.
    pub async fn verdict_is_known(&self) -> Result<(), StoreError> {
        if !self.superblock.borrow().damaged {
            return Ok(());
        }
        if self.fenced() {
            return Err(StoreError::Fenced);
        }
        self.write_superblock(|superblock| superblock.damaged = false).await
    }
}

/// True when an earlier opening found damage that the coordinator may not have heard of.
pub(super) fn remembered(superblock: &Superblock) -> bool {
    superblock.damaged && guard::holds(Guard::VerdictKept)
}
