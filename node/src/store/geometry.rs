//! Where the regions of a container lie.

use protocol::limits::IO_ALIGN;

use super::extent::UNIT;
use crate::limits::{CONTAINER_SIZE_MIN, REPLAY_LEN_MIN};

/// Copies of the superblock.
pub(super) const SUPERBLOCK_COPIES: u64 = 4;
/// Distance between two copies, in bytes.
pub(super) const SUPERBLOCK_STRIDE: u64 = 1 << 20;

const JOURNAL_OFFSET: u64 = SUPERBLOCK_COPIES * SUPERBLOCK_STRIDE;
const JOURNAL_SIZE_MIN: u64 = 1 << 20;
const JOURNAL_SIZE_MIN_LARGE: u64 = 64 << 20;
const JOURNAL_SIZE_MAX: u64 = 1 << 30;
const LARGE_CONTAINER: u64 = 4 << 30;
const CHECKPOINT_SIZE_MIN: u64 = 1 << 20;
const CHECKPOINT_SIZE_MAX: u64 = 4 << 30;
/// Journal and checkpoint areas each take this share of the container.
const REGION_SHARE: u64 = 64;

/// Regions of one container, in bytes; the arena runs to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) container: u64,
    pub(super) journal_offset: u64,
    pub(super) journal_size: u64,
    pub(super) checkpoint_offset: u64,
    pub(super) checkpoint_size: u64,
    pub(super) arena_offset: u64,
}

impl Geometry {
    /// The layout of a new container; `None` when it is too small.
    pub(super) fn for_size(capacity: u64) -> Option<Geometry> {
        let container = capacity - capacity % IO_ALIGN as u64;
        if container < CONTAINER_SIZE_MIN {
            return None;
        }
        let share = round_down_mib(container / REGION_SHARE);
        let journal_min =
            if container < LARGE_CONTAINER { JOURNAL_SIZE_MIN } else { JOURNAL_SIZE_MIN_LARGE };
        let journal_size = share.clamp(journal_min, JOURNAL_SIZE_MAX);
        let checkpoint_size = share.clamp(CHECKPOINT_SIZE_MIN, CHECKPOINT_SIZE_MAX);
        let checkpoint_offset = JOURNAL_OFFSET + journal_size;
        Some(Geometry {
            container,
            journal_offset: JOURNAL_OFFSET,
            journal_size,
            checkpoint_offset,
            checkpoint_size,
            arena_offset: checkpoint_offset + 2 * checkpoint_size,
        })
    }

    /// True when every region lies where it may; what a superblock claims is checked with this.
    pub(super) fn is_sound(&self) -> bool {
        let aligned = [
            self.container,
            self.journal_offset,
            self.journal_size,
            self.checkpoint_offset,
            self.checkpoint_size,
            self.arena_offset,
        ];
        aligned.iter().all(|value| value % IO_ALIGN as u64 == 0 && *value <= 1 << 52)
            && self.journal_offset >= JOURNAL_OFFSET
            && self.journal_size >= JOURNAL_SIZE_MIN
            && self.checkpoint_offset >= self.journal_offset + self.journal_size
            && self.checkpoint_size >= CHECKPOINT_SIZE_MIN
            && self.arena_offset >= self.checkpoint_offset + 2 * self.checkpoint_size
            && self.arena_offset < self.container
    }

    /// First byte of checkpoint area 0 or 1.
    pub(super) fn checkpoint_area(&self, which: usize) -> u64 {
        self.checkpoint_offset + if which == 0 { 0 } else { self.checkpoint_size }
    }

    /// First unit of the arena.
    pub(super) fn arena_start(&self) -> u64 {
        self.arena_offset / u64::from(UNIT)
    }

    /// First unit after the arena.
    pub(super) fn arena_end(&self) -> u64 {
        self.container / u64::from(UNIT)
    }

    /// Journal bytes that only deletes, adoptions and checkpoints may use.
    pub(super) fn journal_reserve(&self) -> u64 {
        self.journal_size / 16
    }

    /// Journal bytes after which a checkpoint is due, when the last one had so many bytes.
    ///
    /// A restart replays them one record after the other, which takes four times as long as reading an
    /// image of the same length: half an image's length keeps both within a fraction of a second for
    /// a hundred thousand chunks, and costs three bytes written for each of the journal.
    pub(super) fn checkpoint_due(&self, image: u64) -> u64 {
        let most = (self.journal_size - self.journal_reserve()) / 3;
        most.min(REPLAY_LEN_MIN.max(image / 2))
    }

    /// Longest body of an ordinary batch, in bytes.
    pub(super) fn batch_len_max(&self) -> usize {
        usize::try_from(self.journal_size / 16).unwrap_or(usize::MAX).min(1 << 20)
    }
}

fn round_down_mib(value: u64) -> u64 {
    value & !((1 << 20) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_follow_each_other_at_every_size() {
        for size in
            [CONTAINER_SIZE_MIN, 64 << 20, (4 << 30) - 4096, 4 << 30, 8 << 30, 1 << 40, 64 << 40]
        {
            let geometry = Geometry::for_size(size);
            assert!(geometry.is_some_and(|geometry| geometry.is_sound()), "{size}");
        }
        assert_eq!(Geometry::for_size(CONTAINER_SIZE_MIN - 1), None);
    }

    #[test]
    fn what_a_restart_replays_grows_with_the_index_and_not_with_the_journal() {
        let due = |size, image| Geometry::for_size(size).unwrap().checkpoint_due(image);
        assert_eq!(due(4 << 30, 0), REPLAY_LEN_MIN);
        assert_eq!(due(4 << 30, 12 << 20), 6 << 20);
        assert_eq!(due(4 << 30, 1 << 30), (60 << 20) / 3, "a third of the journal at most");
        assert!(due(64 << 20, 0) < REPLAY_LEN_MIN, "as before where the journal is small");
    }

    #[test]
    fn large_containers_get_the_journal_of_the_design() {
        let journal = |size| Geometry::for_size(size).map(|geometry| geometry.journal_size);
        assert_eq!(journal(8 << 30), Some(128 << 20));
        assert_eq!(journal(4 << 30), Some(64 << 20));
        assert_eq!(journal(8 << 40), Some(1 << 30));
    }
}
