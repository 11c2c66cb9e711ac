//! Checkpoints: the whole index, written to area A or B in turn while the store goes on working.
//!
//! An image is pieces of [`CHECKPOINT_PIECE_LEN`] bytes with whole items in each. The superblock
//! points to it only after it is durable; the journal is kept back to the older of the two.

use futures_lite::future::zip;
use protocol::checksum::sum128;
use protocol::ids::{GroupId, Lsn, Version};

use super::Store;
use super::bytes::{Reader, Writer};
use super::entry::{Entry, Name};
use super::geometry::Geometry;
use super::index::Index;
use super::superblock::Slot;
use super::types::{GroupInfo, StoreError};
use super::wait::join_all;
use crate::io::Disk;
use crate::limits::{CHECKPOINT_SLICE_ENTRIES, DEVICE_READS_MAX};

/// Length of a piece, in bytes.
pub(super) const CHECKPOINT_PIECE_LEN: usize = 256 << 10;
/// Fields in front of the items of a piece, in order, with their sizes in bytes.
#[cfg(test)]
pub(super) const PIECE_FIELDS: &[(&str, usize)] =
    &[("magic", 8), ("lsn", 8), ("number", 4), ("items", 4), ("reserved", 8)];
/// A group among the items, after its tag.
#[cfg(test)]
pub(super) const GROUP_FIELDS: &[(&str, usize)] =
    &[("group", 4), ("epoch", 4), ("committed_through", 8)];

const PIECE_MAGIC: u64 = u64::from_le_bytes(*b"laneckpt");
const PIECE_HEAD_LEN: usize = 32;
const TAG_GROUP: u8 = 1;
const TAG_ENTRY: u8 = 2;

/// Where an image is being written, and its hash so far.
struct Image {
    which: usize,
    lsn: Lsn,
    pieces: u32,
    hash: u128,
    items: Writer,
    count: u32,
}

impl<D: Disk> Store<D> {
    pub(super) async fn checkpoint_when_due(&self) {
        loop {
            let go = self
                .work
                .until(|| {
                    let due = !self.fenced() && self.journal.borrow().checkpoint_is_due();
                    (due || self.has_ended()).then_some(!self.has_ended())
                })
                .await;
            if !go {
                return;
            }
            if let Err(error) = self.checkpoint().await {
                tracing::error!(target_id = self.identity.target.0, %error, "checkpoint failed");
                if let StoreError::Disk(error) = &error {
                    // Its area cannot be exchanged: in the end the journal would be full.
                    self.survives(error).await;
                }
            }
            if self.fenced() {
                self.record_fence().await;
            }
        }
    }

    /// Writes a checkpoint of this instant and points the superblock to it.
    ///
    /// The store does so by itself when the journal fills; asking for one shortens the next open.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] and [`StoreError::Disk`]; the journal is kept.
    ///
    /// # Durability
    /// On return the journal before the previous checkpoint is not needed any more.
    ///
    /// # Cancel safety
    /// The older checkpoint stays; the superblock still points to it.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        let _turn = self.checkpoint_turn.enter(WHOLE).await;
        let (mut image, groups) = self.begin_image();
        let result = self.finish_image(&mut image, groups).await;
        if result.is_err() {
            self.index.borrow_mut().snapshot = None;
            self.journal.borrow_mut().abandon_checkpoint();
        }
        self.work.ring();
        result
    }

    fn begin_image(&self) -> (Image, Vec<(GroupId, GroupInfo)>) {
        let lsn = self.journal.borrow_mut().begin_checkpoint();
        self.work.ring();
        self.index.borrow_mut().begin_snapshot();
        let which = 1 - self.superblock.borrow().newest_slot();
        let items = Writer::new();
        let index = self.index.borrow();
        let groups = index.groups().iter().map(|(group, info)| (*group, info.clone()));
        (Image { which, lsn, pieces: 0, hash: 0, items, count: 0 }, groups.collect())
    }

    async fn finish_image(
        &self,
        image: &mut Image,
        groups: Vec<(GroupId, GroupInfo)>,
    ) -> Result<(), StoreError> {
        for (group, info) in groups {
            let mut item = Writer::new();
            item.u8(TAG_GROUP).u32(group.0).u32(info.epoch.0).version(info.committed_through);
            self.add_item(image, item).await?;
        }
        while self.index.borrow().snapshot.is_some() {
            let slice = self.index.borrow_mut().snapshot_slice(CHECKPOINT_SLICE_ENTRIES);
            for (name, entry) in slice {
                let mut item = Writer::new();
                entry.encode(name, item.u8(TAG_ENTRY));
                self.add_item(image, item).await?;
            }
        }
        self.write_piece(image).await?;
        self.publish_image(image).await
    }

    async fn add_item(&self, image: &mut Image, item: Writer) -> Result<(), StoreError> {
        if PIECE_HEAD_LEN + image.items.len() + item.len() > CHECKPOINT_PIECE_LEN {
            self.write_piece(image).await?;
        }
        image.items.raw(item.bytes());
        image.count += 1;
        Ok(())
    }

    async fn write_piece(&self, image: &mut Image) -> Result<(), StoreError> {
        let at = u64::from(image.pieces) * CHECKPOINT_PIECE_LEN as u64;
        if at + CHECKPOINT_PIECE_LEN as u64 > self.geometry.checkpoint_size {
            return Err(StoreError::NoSpace);
        }
        let items = std::mem::take(&mut image.items).finish();
        let mut piece = Writer::new();
        piece.u64(PIECE_MAGIC).u64(image.lsn.0).u32(image.pieces).u32(image.count).u64(0);
        piece.raw(&items).pad_to(CHECKPOINT_PIECE_LEN);
        let area = self.geometry.checkpoint_area(image.which);
        self.write_bytes(area + at, piece.bytes(), CHECKPOINT_PIECE_LEN).await?;
        image.hash = fold_hash(image.hash, piece.bytes());
        (image.pieces, image.count) = (image.pieces + 1, 0);
        Ok(())
    }

    async fn publish_image(&self, image: &Image) -> Result<(), StoreError> {
        let point = self
            .work
            .until(|| match self.journal.borrow().checkpoint_point() {
                Some(point) => Some(Ok(point)),
                None => self.fenced().then_some(Err(StoreError::Fenced)),
            })
            .await?;
        self.flush().await?;
        let slot = Slot {
            lsn: image.lsn,
            length: u64::from(image.pieces) * CHECKPOINT_PIECE_LEN as u64,
            hash: image.hash,
            position: point.position,
            chain_hash: point.chain_hash,
        };
        let which = image.which;
        self.write_superblock(|superblock| superblock.slots[which] = slot).await?;
        let older = self.superblock.borrow().slots[1 - which].position;
        self.journal.borrow_mut().end_checkpoint(slot.position, slot.length, older);
        Ok(())
    }

    /// True when a checkpoint has room for more chunks, with a margin for those that grow.
    pub(super) fn index_has_room(&self) -> bool {
        let limit = self.geometry.checkpoint_size / 4 * 3;
        self.index.borrow().image_len() < limit
    }
}

/// Reads an image into an empty index; `None` when any byte of it is not as it was written.
pub(super) async fn load<D: Disk>(
    disk: &D,
    geometry: &Geometry,
    which: usize,
    slot: &Slot,
) -> Option<Index> {
    let (mut index, mut entries) = (Index::default(), Vec::new());
    let pieces = slot.length / CHECKPOINT_PIECE_LEN as u64;
    if slot.length > geometry.checkpoint_size
        || !slot.length.is_multiple_of(CHECKPOINT_PIECE_LEN as u64)
    {
        return None;
    }
    let read = |number: u64| {
        let at = geometry.checkpoint_area(which) + number * CHECKPOINT_PIECE_LEN as u64;
        disk.read(at, CHECKPOINT_PIECE_LEN)
    };
    let several = |first: u64| {
        let end = pieces.min(first + DEVICE_READS_MAX as u64);
        join_all((first..end).map(read).collect())
    };
    let (mut hash, mut number) = (0, 0);
    let mut ready = several(0).await;
    while number < pieces {
        // The device reads the next pieces while these are taken in.
        let after = number + ready.len() as u64;
        let taking = async {
            for piece in ready {
                let piece = piece.ok()?;
                hash = fold_hash(hash, &piece);
                load_piece(&mut index, &mut entries, &piece, slot.lsn, number)?;
                number += 1;
            }
            Some(())
        };
        let (next, taken) = zip(several(after), taking).await;
        taken?;
        ready = next;
    }
    let ascending = entries.is_sorted_by(|(a, _): &(Name, Entry), (b, _)| a < b);
    index.restore(entries);
    (ascending && hash == slot.hash).then_some(index)
}

fn load_piece(
    index: &mut Index,
    entries: &mut Vec<(Name, Entry)>,
    piece: &[u8],
    lsn: Lsn,
    number: u64,
) -> Option<()> {
    let mut from = Reader::new(piece);
    let head = (from.u64()?, from.u64()?, u64::from(from.u32()?));
    let (items, _) = (from.u32()?, from.u64()?);
    if head != (PIECE_MAGIC, lsn.0, number) {
        return None;
    }
    for _ in 0..items {
        match from.u8()? {
            TAG_GROUP => {
                let (group, epoch) = (from.group()?, protocol::ids::Epoch(from.u32()?));
                let committed_through: Version = from.version()?;
                index.restore_group(group, GroupInfo { epoch, committed_through });
            }
            TAG_ENTRY => entries.push(Entry::decode(&mut from)?),
            _ => return None,
        }
    }
    Some(())
}

/// The image's hash after one more piece.
fn fold_hash(hash: u128, piece: &[u8]) -> u128 {
    let mut both = Writer::new();
    both.u128(hash).u128(sum128(piece));
    sum128(both.bytes())
}

/// The one turn there is for work on the whole store.
pub(super) const WHOLE: Name =
    (GroupId(0), protocol::ids::ChunkKey { fid: protocol::ids::Fid(0), index: 0 });
