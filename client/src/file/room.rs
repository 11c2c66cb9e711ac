//! How many whole files may be in memory at once. Pure.

use crate::limits::{READ_MANY_BYTES_MAX, READ_MANY_FILES_MAX};

/// What is in memory, or on its way there.
#[derive(Debug, Default)]
pub(super) struct Room {
    files: usize,
    bytes: u64,
}

impl Room {
    /// True when a file of this length may come in; into an empty room any file may.
    pub(super) fn fits(&self, len: u64) -> bool {
        let bytes = self.bytes.saturating_add(len);
        self.files == 0 || self.files < READ_MANY_FILES_MAX && bytes <= READ_MANY_BYTES_MAX as u64
    }

    /// A file comes in, whether or not it fits.
    pub(super) fn enter(&mut self, len: u64) {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(len);
    }

    /// A file that came in goes.
    pub(super) fn leave(&mut self, len: u64) {
        self.files = self.files.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of this length that fit.
    fn filled(len: u64) -> (Room, usize) {
        let mut room = Room::default();
        let mut count = 0;
        while room.fits(len) {
            room.enter(len);
            count += 1;
        }
        (room, count)
    }

    #[test]
    fn a_room_is_full_by_files_or_by_bytes() {
        assert_eq!(filled(0).1, READ_MANY_FILES_MAX);
        assert_eq!(filled(1 << 20).1, READ_MANY_BYTES_MAX >> 20);
        let (mut room, count) = filled(3 << 20);
        assert_eq!(count, READ_MANY_BYTES_MAX / (3 << 20));
        assert!(room.fits(1) && !room.fits(3 << 20), "what is left is not lost");
        room.leave(3 << 20);
        assert!(room.fits(3 << 20));
    }

    #[test]
    fn a_file_that_never_fits_comes_in_alone() {
        let mut room = Room::default();
        assert!(room.fits(u64::MAX));
        room.enter(u64::MAX);
        assert!(!room.fits(0) && !room.fits(u64::MAX));
        room.leave(u64::MAX);
        assert!(room.fits(u64::MAX));
    }
}
