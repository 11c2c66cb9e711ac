//! Making a target, and reading and writing its root.

use protocol::ids::{Generation, Lsn};
use protocol::limits::IO_ALIGN;

use super::Store;
use super::checkpoint::WHOLE;
use super::geometry::{Geometry, SUPERBLOCK_COPIES, SUPERBLOCK_STRIDE};
use super::superblock::{BadSuperblock, Slot, Superblock, choose};
use super::types::{FormatOptions, StoreError};
use crate::io::{Buffer, Disk};
use crate::limits::{CONTAINER_SIZE_MIN, DEVICE_TRANSFER_MAX};

impl<D: Disk> Store<D> {
    /// Writes an empty target to a container.
    ///
    /// # Errors
    /// [`StoreError::Open`] when the container is too small or already holds a target.
    ///
    /// # Durability
    /// On return the target can be opened after any crash; before, it is still blank.
    ///
    /// # Cancel safety
    /// The container stays blank.
    pub async fn format(disk: &D, options: &FormatOptions) -> Result<(), StoreError> {
        let geometry = Geometry::for_size(disk.capacity()).ok_or_else(|| too_small(disk))?;
        if !Self::is_blank(disk).await? {
            return Err(StoreError::Open(format!(
                "container for target {} is not empty; remove it, or give another path",
                options.target
            )));
        }
        // Old batches of an earlier use must never be taken for this target's.
        clear(disk, geometry.journal_offset, geometry.journal_size).await?;
        disk.flush().await?;
        let superblock = Superblock {
            features_incompat: 0,
            features_read_only: 0,
            features_compat: 0,
            sequence: 1,
            cluster: options.cluster,
            node: options.node,
            target: options.target,
            generation: Generation(0),
            geometry,
            clean_lsn: Lsn(0),
            slots: [Slot::default(); 2],
            fence: None,
            damaged: false,
        };
        for pair in [[0, 1], [2, 3]] {
            write_copies(disk, &superblock, pair).await?;
            disk.flush().await?;
        }
        Ok(())
    }

    /// True when the container holds nothing: no target, or one whose format did not end.
    ///
    /// # Cancel safety
    /// The container is only read.
    pub async fn is_blank(disk: &D) -> Result<bool, StoreError> {
        if disk.capacity() < CONTAINER_SIZE_MIN {
            return Err(too_small(disk));
        }
        for copy in 0..SUPERBLOCK_COPIES {
            let bytes = disk.read(copy * SUPERBLOCK_STRIDE, IO_ALIGN).await?;
            let unfinished = Superblock::decode(&bytes)
                .is_ok_and(|superblock| superblock.generation == Generation(0) && copy < 2);
            if !unfinished && bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
        // Two equal copies are a finished format, even before the second pair.
        Ok(matches!(read_superblock(disk).await?, Err(BadSuperblock::Invalid)))
    }

    /// Changes the superblock, durably.
    pub(super) async fn write_superblock(
        &self,
        change: impl FnOnce(&mut Superblock),
    ) -> Result<(), StoreError> {
        let _turn = self.superblock_turn.enter(WHOLE).await;
        let (before, next) = {
            let mut superblock = self.superblock.borrow_mut();
            let before = superblock.clone();
            change(&mut superblock);
            superblock.sequence += 1;
            (before, superblock.clone())
        };
        let written = self.write_pairs(&next).await;
        if written.is_err() {
            // The device may hold either; the next one must be newer than both, and what this one
            // would have given up (an area, a part of the journal) is still needed.
            let sequence = next.sequence;
            *self.superblock.borrow_mut() = Superblock { sequence, ..before };
        }
        written
    }

    async fn write_pairs(&self, superblock: &Superblock) -> Result<(), StoreError> {
        for pair in [[0, 1], [2, 3]] {
            write_copies(&*self.disk, superblock, pair).await?;
            if superblock.fence.is_some() {
                // Only a note for the next open, which the device may well refuse: nobody relies
                // on this flush.
                self.disk.flush().await?;
            } else {
                self.flush().await?;
            }
        }
        Ok(())
    }
}

/// Reads all copies and chooses; the outer error is the device's.
pub(super) async fn read_superblock<D: Disk>(
    disk: &D,
) -> Result<Result<Superblock, BadSuperblock>, StoreError> {
    if disk.capacity() < CONTAINER_SIZE_MIN {
        return Err(too_small(disk));
    }
    let mut copies = Vec::new();
    for copy in 0..SUPERBLOCK_COPIES {
        copies.push(match disk.read(copy * SUPERBLOCK_STRIDE, IO_ALIGN).await {
            Ok(bytes) => Superblock::decode(&bytes),
            // One unreadable copy is what the others are for.
            Err(_) => Err(BadSuperblock::Invalid),
        });
    }
    Ok(choose(&copies))
}

async fn write_copies<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    copies: [u64; 2],
) -> Result<(), StoreError> {
    for copy in copies {
        let mut buffer = disk.allocate(IO_ALIGN);
        buffer.bytes_mut()[..IO_ALIGN].copy_from_slice(&superblock.encode());
        disk.write(copy * SUPERBLOCK_STRIDE, buffer.into(), IO_ALIGN).await?;
    }
    Ok(())
}

/// Makes a range read as zeros; what does so already is left alone.
async fn clear<D: Disk>(disk: &D, offset: u64, size: u64) -> Result<(), StoreError> {
    let mut at = 0;
    while at < size {
        let len = (size - at).min(u64::from(DEVICE_TRANSFER_MAX));
        let len = usize::try_from(len).unwrap_or(IO_ALIGN);
        let bytes = disk.read(offset + at, len).await?;
        if bytes.iter().any(|byte| *byte != 0) {
            let mut zeros = disk.allocate(len);
            zeros.bytes_mut().fill(0);
            disk.write(offset + at, zeros.into(), len).await?;
        }
        at += len as u64;
    }
    Ok(())
}

fn too_small<D: Disk>(disk: &D) -> StoreError {
    StoreError::Open(format!(
        "container of {} bytes is too small; give it at least {CONTAINER_SIZE_MIN}",
        disk.capacity()
    ))
}
