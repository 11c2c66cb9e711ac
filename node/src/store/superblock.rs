//! The root of a target: who it is, where its regions lie, which checkpoints there are.
//!
//! Four copies, written two at a time with a flush between; the newest one of which two equal
//! valid copies exist counts. So a torn pair leaves the other pair, and one misread copy cannot
//! bring an old state back.

use protocol::checksum::sum64;
use protocol::ids::{ClusterId, Generation, Lsn, NodeId, TargetId};
use protocol::limits::IO_ALIGN;

use super::bytes::{Reader, Writer};
use super::geometry::Geometry;

/// Fields, in order, with their sizes in bytes; a checkpoint slot is one field here.
#[cfg(test)]
pub(super) const SUPERBLOCK_FIELDS: &[(&str, usize)] = &[
    ("magic", 8),
    ("layout_version", 4),
    ("copy_size", 4),
    ("features_compat", 8),
    ("features_read_only", 8),
    ("features_incompat", 8),
    ("sequence", 8),
    ("cluster", 16),
    ("node", 4),
    ("target", 4),
    ("generation", 4),
    ("flags", 4),
    ("container_size", 8),
    ("journal_offset", 8),
    ("journal_size", 8),
    ("checkpoint_offset", 8),
    ("checkpoint_size", 8),
    ("arena_offset", 8),
    ("clean_lsn", 8),
    ("checkpoint_a", 56),
    ("checkpoint_b", 56),
    ("fence_reason", 128),
    ("sum", 8),
];
/// Fields of a checkpoint slot.
#[cfg(test)]
pub(super) const SLOT_FIELDS: &[(&str, usize)] =
    &[("lsn", 8), ("length", 8), ("hash", 16), ("position", 8), ("chain_hash", 16)];

/// First bytes of every superblock.
pub(super) const SUPERBLOCK_MAGIC: u64 = u64::from_le_bytes(*b"lanefsTG");
/// Layout this release writes, the only one it reads.
pub(super) const LAYOUT_VERSION: u32 = 2;
const COPY_SIZE: u32 = 4096;
const FENCE_REASON_LEN: usize = 128;
/// Flag: the generation ended by a device error.
const FENCED: u32 = 1;
/// Flag: recovery found damage, and the coordinator may not know it.
const DAMAGED: u32 = 2;

/// A complete checkpoint and where the journal goes on after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    /// Every record at or before it is in the image.
    pub(super) lsn: Lsn,
    /// Bytes of the image; 0 for the empty index of a new target.
    pub(super) length: u64,
    pub(super) hash: u128,
    /// Journal position of the batch after `lsn`.
    pub(super) position: u64,
    /// Hash that batch names as its predecessor.
    pub(super) chain_hash: u128,
}

/// One superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) features_incompat: u64,
    pub(super) features_read_only: u64,
    pub(super) features_compat: u64,
    pub(super) sequence: u64,
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    pub(super) target: TargetId,
    pub(super) generation: Generation,
    pub(super) geometry: Geometry,
    /// Last batch of a clean shutdown; 0 while open.
    pub(super) clean_lsn: Lsn,
    pub(super) slots: [Slot; 2],
    /// Why the target fenced itself in this generation, if it did.
    pub(super) fence: Option<String>,
    /// True from when recovery finds damage until the coordinator is known to have heard of it.
    pub(super) damaged: bool,
}

/// Why bytes are not a superblock this release can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadSuperblock {
    /// Not a superblock at all.
    Invalid,
    /// One of a layout that this release does not know.
    Layout(u32),
}

impl Superblock {
    /// The 4 KiB of one copy.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        let geometry = &self.geometry;
        out.u64(SUPERBLOCK_MAGIC).u32(LAYOUT_VERSION).u32(COPY_SIZE);
        out.u64(self.features_compat).u64(self.features_read_only).u64(self.features_incompat);
        out.u64(self.sequence).u128(self.cluster.0);
        out.u32(self.node.0).u32(self.target.0).u32(self.generation.0);
        out.u32(self.flags());
        out.u64(geometry.container).u64(geometry.journal_offset).u64(geometry.journal_size);
        out.u64(geometry.checkpoint_offset).u64(geometry.checkpoint_size);
        out.u64(geometry.arena_offset).u64(self.clean_lsn.0);
        for slot in &self.slots {
            out.u64(slot.lsn.0).u64(slot.length).u128(slot.hash);
            out.u64(slot.position).u128(slot.chain_hash);
        }
        let reason = self.fence.as_deref().unwrap_or_default().as_bytes();
        let end = out.len() + FENCE_REASON_LEN;
        out.raw(&reason[..reason.len().min(FENCE_REASON_LEN)]).pad_to(end);
        let sum = sum64(out.bytes());
        out.u64(sum).pad_to(IO_ALIGN);
        out.finish()
    }

    /// Reads one copy.
    pub(super) fn decode(bytes: &[u8]) -> Result<Superblock, BadSuperblock> {
        let mut from = Reader::new(bytes);
        let start = from.u64().zip(from.u32()).zip(from.u32());
        let Some(((SUPERBLOCK_MAGIC, layout), _)) = start else {
            return Err(BadSuperblock::Invalid);
        };
        if layout != LAYOUT_VERSION {
            return Err(BadSuperblock::Layout(layout));
        }
        Self::decode_fields(&mut from)
            .filter(|(_, sum)| bytes.get(..SUM_AT).map(sum64) == Some(*sum))
            .map(|(superblock, _)| superblock)
            .filter(|superblock| superblock.geometry.is_sound())
            .ok_or(BadSuperblock::Invalid)
    }

    fn decode_fields(from: &mut Reader<'_>) -> Option<(Superblock, u64)> {
        let (features_compat, features_read_only) = (from.u64()?, from.u64()?);
        let (features_incompat, sequence) = (from.u64()?, from.u64()?);
        let (cluster, node) = (ClusterId(from.u128()?), NodeId(from.u32()?));
        let (target, generation) = (TargetId(from.u32()?), Generation(from.u32()?));
        let flags = from.u32()?;
        let geometry = Geometry {
            container: from.u64()?,
            journal_offset: from.u64()?,
            journal_size: from.u64()?,
            checkpoint_offset: from.u64()?,
            checkpoint_size: from.u64()?,
            arena_offset: from.u64()?,
        };
        let clean_lsn = Lsn(from.u64()?);
        let slots = [decode_slot(from)?, decode_slot(from)?];
        let reason = from.take(FENCE_REASON_LEN)?;
        let reason = String::from_utf8_lossy(reason).trim_end_matches('\0').to_owned();
        let superblock = Superblock {
            features_incompat,
            features_read_only,
            features_compat,
            sequence,
            cluster,
            node,
            target,
            generation,
            geometry,
            clean_lsn,
            slots,
            fence: (flags & FENCED != 0).then_some(reason),
            damaged: flags & DAMAGED != 0,
        };
        Some((superblock, from.u64()?))
    }

    fn flags(&self) -> u32 {
        let flag = |set: bool, flag| if set { flag } else { 0 };
        flag(self.fence.is_some(), FENCED) | flag(self.damaged, DAMAGED)
    }

    /// The slot with the newer checkpoint: 0 or 1.
    pub(super) fn newest_slot(&self) -> usize {
        usize::from(self.slots[1].lsn > self.slots[0].lsn)
    }
}

/// Chooses among the copies: the newest of which two equal ones are valid.
///
/// # Errors
/// [`BadSuperblock::Layout`] when a copy is of a layout this release does not know.
pub(super) fn choose(
    copies: &[Result<Superblock, BadSuperblock>],
) -> Result<Superblock, BadSuperblock> {
    let valid: Vec<&Superblock> = copies.iter().filter_map(|copy| copy.as_ref().ok()).collect();
    let twice = |wanted: &&&Superblock| valid.iter().filter(|copy| *copy == *wanted).count() >= 2;
    let newest = valid.iter().filter(twice).max_by_key(|copy| copy.sequence);
    if let Some(newest) = newest {
        return Ok((*newest).clone());
    }
    let layout = copies.iter().find_map(|copy| match copy {
        Err(BadSuperblock::Layout(layout)) => Some(*layout),
        _ => None,
    });
    Err(layout.map_or(BadSuperblock::Invalid, BadSuperblock::Layout))
}

fn decode_slot(from: &mut Reader<'_>) -> Option<Slot> {
    Some(Slot {
        lsn: Lsn(from.u64()?),
        length: from.u64()?,
        hash: from.u128()?,
        position: from.u64()?,
        chain_hash: from.u128()?,
    })
}

/// Offset of the sum: the length of all fields before it.
const SUM_AT: usize = 376;
