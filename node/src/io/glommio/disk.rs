//! A container on a local device: direct I/O from and to the executor's registered buffers.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use glommio::io::{DmaBuffer, DmaFile, OpenOptions, ReadResult};
use protocol::guard::{self, Guard};
use protocol::limits::IO_ALIGN;

use crate::io::{Buffer, Disk, DiskError};

/// A file or block device, opened for direct I/O by the executor that opened it.
pub struct GlommioDisk {
    file: Rc<DmaFile>,
    capacity: u64,
}

impl GlommioDisk {
    /// Opens an existing container of `capacity` bytes.
    ///
    /// # Errors
    /// [`DiskError::Io`], also when the file system has no direct I/O.
    pub async fn open(path: &Path, capacity: u64) -> Result<GlommioDisk, DiskError> {
        settle_first_page(path).map_err(|error| failed("open", 0, IO_ALIGN, &error))?;
        let opened = OpenOptions::new().read(true).write(true).dma_open(path).await;
        let file = opened.map_err(|error| failed("open", 0, 0, &error))?;
        Ok(GlommioDisk { file: Rc::new(file), capacity })
    }

    /// Closes the container; transfers that others wait for end first.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub async fn close(&self) -> Result<(), DiskError> {
        let closed = Rc::clone(&self.file).close_rc().await;
        closed.map(|_| ()).map_err(|error| failed("close", 0, 0, &error))
    }
}

impl Buffer for DmaBuffer {
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.as_bytes_mut()
    }
}

impl Disk for GlommioDisk {
    type Buffer = DmaBuffer;
    type Read = ReadResult;

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn allocate(&self, len: usize) -> DmaBuffer {
        self.file.alloc_dma_buffer(len.max(1).next_multiple_of(IO_ALIGN))
    }

    async fn read(&self, offset: u64, len: usize) -> Result<ReadResult, DiskError> {
        let read = self.file.read_at_aligned(offset, len).await;
        let read = read.map_err(|error| failed("read", offset, len, &error))?;
        whole("read", offset, len, read.len()).map(|()| read)
    }

    async fn write(&self, offset: u64, buffer: Rc<DmaBuffer>, len: usize) -> Result<(), DiskError> {
        let written = if len == buffer.len() {
            self.file.write_rc_at(buffer, offset).await
        } else {
            // The runtime writes whole buffers only. Payloads fill theirs, so this is the journal's
            // last partial record at most.
            let mut part = self.file.alloc_dma_buffer(len);
            part.as_bytes_mut().copy_from_slice(&buffer.as_bytes()[..len]);
            self.file.write_at(part, offset).await
        };
        let written = written.map_err(|error| failed("write", offset, len, &error))?;
        whole("write", offset, len, written)
    }

    async fn flush(&self) -> Result<(), DiskError> {
        self.file.fdatasync().await.map_err(|error| failed("flush", 0, 0, &error))
    }
}

/// Makes sure that the first page is on the device before the runtime looks at it.
///
/// The runtime reads the start of the first file it opens on a device to learn whether the device
/// can be polled, and keeps the answer. A page that was never written is answered by the file
/// system, not the device, so the answer would be wrong and every later transfer would fail.
fn settle_first_page(path: &Path) -> std::io::Result<()> {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut page = [0; IO_ALIGN];
    file.read_exact_at(&mut page, 0)?;
    if page.iter().all(|byte| *byte == 0) {
        file.write_all_at(&page, 0)?;
        file.sync_data()?;
    }
    Ok(())
}

fn whole(operation: &'static str, offset: u64, len: usize, done: usize) -> Result<(), DiskError> {
    if done == len || !guard::holds(Guard::ShortTransfer) {
        return Ok(());
    }
    let reason = format!("only {done} bytes were transferred");
    Err(DiskError::Io { operation, offset, len, reason })
}

fn failed(
    operation: &'static str,
    offset: u64,
    len: usize,
    error: &dyn std::fmt::Display,
) -> DiskError {
    let reason = error.to_string().replace('\n', " ");
    DiskError::Io { operation, offset, len, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_of_fewer_bytes_has_failed() {
        assert_eq!(whole("write", 0, 8, 8), Ok(()));
        assert!(whole("write", 0, 8, 7).is_err() && whole("read", 0, 8, 0).is_err());
    }
}
