//! Reading the journal's ring from one position onwards, many batches with one transfer.

use protocol::limits::IO_ALIGN;

use super::geometry::Geometry;
use crate::io::Disk;
use crate::limits::DEVICE_TRANSFER_MAX;

/// Bytes of the ring that were read already, and where they are.
///
/// Nothing may be written to the ring while it is read.
pub(super) struct RingReader<'a, D: Disk> {
    disk: &'a D,
    geometry: &'a Geometry,
    from: u64,
    bytes: Vec<u8>,
    unreadable: bool,
}

impl<'a, D: Disk> RingReader<'a, D> {
    pub(super) fn new(disk: &'a D, geometry: &'a Geometry) -> Self {
        RingReader { disk, geometry, from: 0, bytes: Vec::new(), unreadable: false }
    }

    /// True when the device could not read something that was asked for.
    pub(super) fn unreadable(&self) -> bool {
        self.unreadable
    }

    /// `len` bytes from a position, which is a multiple of the I/O alignment, around the ring's end;
    /// `None` when the device cannot read them.
    pub(super) async fn bytes(&mut self, position: u64, len: usize) -> Option<&[u8]> {
        if self.held(position, len).is_none() {
            self.fetch(position, len).await?;
        }
        self.held(position, len)
    }

    fn held(&self, position: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(position.checked_sub(self.from)?).ok()?;
        self.bytes.get(start..start.checked_add(len)?)
    }

    /// Reads what is asked for and, with the same transfers, what will be asked for next.
    async fn fetch(&mut self, position: u64, len: usize) -> Option<()> {
        self.from = position;
        self.bytes.clear();
        while self.bytes.len() < len {
            let at = (position + self.bytes.len() as u64) % self.geometry.journal_size;
            let before_end = self.geometry.journal_size - at;
            let wanted = (len - self.bytes.len()).next_multiple_of(IO_ALIGN) as u64;
            let most = before_end.min(u64::from(DEVICE_TRANSFER_MAX));
            let (most, wanted) = (most, wanted.min(most));
            let (most, wanted) = (usize::try_from(most).ok()?, usize::try_from(wanted).ok()?);
            let offset = self.geometry.journal_offset + at;
            let read = match self.disk.read(offset, most).await {
                // What nobody asked for may be what the device cannot read.
                Err(_) if wanted < most => self.disk.read(offset, wanted).await,
                read => read,
            };
            self.unreadable |= read.is_err();
            self.bytes.extend_from_slice(&read.ok()?);
        }
        Some(())
    }
}
